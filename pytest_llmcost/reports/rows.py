"""A run as rows: every test, shared fixture and call outside tests, the most expensive first.

The terminal and the comment show the same rows. Cases of a parametrised test are one row, but for
those that say something of their own: over budget, not checked, nearly over, or of unknown cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import State, Verdict
from pytest_llmcost.call import Call
from pytest_llmcost.ledger.ledger import Ledger, TestRow
from pytest_llmcost.ledger.totals import most_expensive, shared_fixtures
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.wording import last_attempts

OUTSIDE = "fixtures and calls outside tests"
"""The group of what stands in no test file."""


@dataclass(frozen=True)
class Row:
    """A test, a fixture, or several cases shown by their most expensive one."""

    group: str
    """The test's file."""
    name: str
    calls: tuple[Call, ...]
    """Those shown: of several cases, the most expensive one's."""
    spent: Amounts
    total: Amounts
    """Of all its cases and attempts."""
    verdict: Verdict | None = None
    is_expected: bool = False
    """Whether the test is marked as `xfail`, and failed."""

    @property
    def usd(self) -> Decimal | None:
        """What it costs as far as it is known; None also if no call was seen and one had to be."""
        is_unseen = not self.calls and self.verdict is not None and self.verdict.actual is None
        return None if is_unseen else self.spent.usd

    @property
    def mark(self) -> str:
        """`over`, `unknown`, `near`, or nothing."""
        verdict = self.verdict
        if verdict is None or self.is_expected:
            return ""
        if verdict.state == "within" and not verdict.is_near:
            return ""
        return _MARKS[verdict.state]


_MARKS: Mapping[State, str] = {"exceeded": "over", "unverified": "unknown", "within": "near"}


def rows_of(ledger: Ledger) -> list[Row]:
    """Return a row for everything that cost something or has a broken budget.

    Files with broken budgets come first, then the most expensive; so do the rows in each.
    """
    last = {(test.nodeid, test.attempt) for test in last_attempts(ledger.tests)}
    cases: dict[str, list[TestRow]] = {}
    rows: list[Row] = []
    for test in ledger.tests:
        row = _row(test, (test.nodeid, test.attempt) in last)
        if row.mark or (test.calls and row.usd is None):
            rows.append(row)
        elif test.calls:
            cases.setdefault(test.nodeid.partition("[")[0], []).append(test)
    rows += [_fold(tests, last) for tests in cases.values()]
    for group in shared_fixtures(ledger.fixtures):
        fixture = most_expensive(group)
        often = f", most expensive of {len(group)}" if len(group) > 1 else ""
        where = f" of {fixture.node or fixture.baseid}" if fixture.node or fixture.baseid else ""
        param = f"[{fixture.param}]" if fixture.param is not None else ""
        name = f"{fixture.name}{param} ({fixture.scope} fixture{where}{often})"
        if fixture.calls:
            rows.append(_plain(OUTSIDE, name, fixture.calls))
    if ledger.outside_tests:
        rows.append(_plain(OUTSIDE, "outside tests", ledger.outside_tests))
    return list(_sorted(rows))


def _row(test: TestRow, is_last: bool) -> Row:
    """The row of one attempt; what an earlier one exceeded does not count."""
    group, _, name = test.nodeid.partition("::")
    if not is_last:
        name += f" (attempt {test.attempt})"
    spent = Amounts.of(test.calls)
    verdict = test.verdict if is_last else None
    return Row(
        group=clean(group),
        name=clean(name or group),
        calls=test.calls,
        spent=spent,
        total=spent,
        verdict=verdict,
        is_expected=test.outcome == "xfailed",
    )


def _plain(group: str, name: str, calls: Sequence[Call]) -> Row:
    spent = Amounts.of(calls)
    return Row(group, clean(name), tuple(calls), spent, spent)


def _fold(tests: Sequence[TestRow], last: set[tuple[str, int]]) -> Row:
    """Show several cases and attempts of a test by the most expensive one."""
    rows = [_row(test, (test.nodeid, test.attempt) in last) for test in tests]
    shown = max(rows, key=_usd)
    if len(rows) == 1:
        return shown
    what = "cases" if len({test.nodeid for test in tests}) > 1 else "attempts"
    base = tests[0].nodeid.partition("::")[2]
    base = base.partition("[")[0] if what == "cases" else base
    return Row(
        shown.group,
        clean(f"{base} ({len(rows)} {what}, most expensive)"),
        shown.calls,
        shown.spent,
        Amounts.of(call for test in tests for call in test.calls),
        shown.verdict or next((row.verdict for row in rows if row.verdict), None),
    )


def _usd(row: Row) -> Decimal:
    return row.usd or Decimal(0)


_URGENCY = {"over": 0, "unknown": 1}


def _sorted(rows: Iterable[Row]) -> Iterator[Row]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)

    def order(row: Row) -> tuple[int, Decimal, bool, str]:
        return _URGENCY.get(row.mark, 2), -_usd(row), row.usd is not None, row.name

    def group_order(group: str) -> tuple[bool, int, Decimal, str]:
        members = groups[group]
        urgency = min(_URGENCY.get(row.mark, 2) for row in members)
        return group == OUTSIDE, urgency, -sum(map(_usd, members), Decimal(0)), group

    for group in sorted(groups, key=group_order):
        yield from sorted(groups[group], key=order)


def shown(rows: Sequence[Row], most: int) -> tuple[list[Row], list[Row]]:
    """Split rows into those to show, at most so many, and the rest; 0 shows all.

    Those whose budget is broken are shown in any case.
    """
    if not most or len(rows) <= most:
        return list(rows), []
    ranked = sorted(range(len(rows)), key=lambda each: -_usd(rows[each]))
    urgent = [each for each in ranked if rows[each].mark in _URGENCY]
    rest = [each for each in ranked if rows[each].mark not in _URGENCY]
    kept = {*urgent, *rest[: max(0, most - len(urgent))]}
    return (
        [row for number, row in enumerate(rows) if number in kept],
        [row for number, row in enumerate(rows) if number not in kept],
    )

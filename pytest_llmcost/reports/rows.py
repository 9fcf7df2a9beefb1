"""A run as rows: every test, shared fixture and call outside tests, the most expensive first.

The terminal and the comment show the same rows. Cases of a parametrised test are one row, but for
those that say something of their own: over budget, not checked, nearly over, or of unknown cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import State, Verdict
from pytest_llmcost.call import Call
from pytest_llmcost.ledger.ledger import (
    Ledger,
    ModelTotals,
    PartChange,
    TestRow,
    fixture_name,
    function_of,
)
from pytest_llmcost.ledger.totals import (
    largest_prompt,
    most_expensive,
    parts_of,
    shared_fixtures,
    spenders_of,
)
from pytest_llmcost.money import format_share
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.numbers import REFUSED, UNKNOWN, growth, percent, token_cell, usd_cell
from pytest_llmcost.reports.run_wording import last_attempts
from pytest_llmcost.reports.wording import figure_of

OUTSIDE = "fixtures and calls outside tests"
"""The group of what stands in no test file."""
_MARKS: Mapping[State, str] = {"exceeded": "over", "unverified": "unknown", "within": "near"}
_SIGNS = {"at least ": "≥", "at most ": "≤", "": ""}
_URGENCY = {"over": 0, "unknown": 1}


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
    owner: str = ""
    """As `spenders_of` names it, of a row of one owner alone."""

    @property
    def usd(self) -> Decimal | None:
        """What it costs as far as it is known; None also if no call was seen and one had to be."""
        is_unseen = not self.calls and self.verdict is not None and self.verdict.actual is None
        return None if is_unseen else self.spent.usd

    @property
    def is_refused(self) -> bool:
        """Whether nothing of it was sent, so that it has no cost."""
        return bool(self.calls) and all(call.evidence == REFUSED for call in self.calls)

    @property
    def mark(self) -> str:
        """`over`, `unknown`, `near`, or nothing."""
        verdict = self.verdict
        if verdict is None or self.is_expected:
            return ""
        return "" if verdict.state == "within" and not verdict.is_near else _MARKS[verdict.state]

    @property
    def used(self) -> str:
        """Which share of its budget it has used."""
        return share_of(self.verdict) if self.verdict else ""


def share_of(verdict: Verdict) -> str:
    """Write which share of a budget is used, with a sign if that is a bound."""
    if verdict.state == "unverified":
        return UNKNOWN
    amount, bound = figure_of(verdict)
    share = format_share(amount, verdict.limit)
    return share if share.startswith("<") else f"{_SIGNS[bound]}{share}"


def token_cells(usage: Usage, *, is_least: bool) -> list[str]:
    """Write input, written to cache, read from it, and output."""
    written = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    numbers = (usage.prompt_tokens, written, usage.cache_read_tokens, usage.output_tokens)
    return [token_cell(number, is_least=is_least) for number in numbers]


class Category(NamedTuple):
    """What some calls used of one kind of token, or of what else is billed, and what that costs."""

    key: str
    name: str
    tokens: int | None
    """None of what has no tokens."""
    usd: Decimal | None
    """None if it is unknown, as in a ledger of a version that did not itemise."""

    def cells(self, whole: Decimal | None, *, is_least: bool) -> list[str]:
        """Write its tokens, its cost, and its share of the whole cost."""
        # What is unknown is never shown as zero.
        usd = None if is_least and not self.usd else self.usd
        return [
            "" if self.tokens is None else token_cell(self.tokens, is_least=is_least),
            usd_cell(usd, is_least=is_least),
            percent(usd, whole) if usd is not None and whole else "",
        ]


_CATEGORIES: Mapping[str, str] = {
    "input": "input, not cached",
    "cache_write_5m": "written to cache for 5 minutes",
    "cache_write_1h": "written to cache for 1 hour",
    "cache_read": "read from cache",
    "output": "output",
    "web_search": "web searches",
    "declared": "stated by tests",
    "unknown": "calls without a price",
}


def categories_of(totals: ModelTotals) -> list[Category]:
    """Return each token category that was used or paid for; the prices add up to the total."""
    is_known = totals.usd == 0 or bool(totals.by_category.items())
    found = [
        Category(
            key,
            name,
            getattr(totals.usage, f"{key}_tokens", None),
            getattr(totals.by_category, f"{key}_usd") if is_known else None,
        )
        for key, name in _CATEGORIES.items()
    ]
    return [each for each in found if each.tokens or each.usd]


def rows_of(ledger: Ledger) -> list[Row]:
    """Return a row for everything that cost something or has a broken budget.

    Files with broken budgets come first, then the most expensive; so do the rows in each.
    """
    last = {(test.nodeid, test.attempt) for test in last_attempts(ledger.tests)}
    cases: dict[str, list[tuple[TestRow, Row]]] = {}
    rows: list[Row] = []
    for test in ledger.tests:
        row = row_of(test, (test.nodeid, test.attempt) in last)
        if row.mark or (test.calls and row.usd is None):
            rows.append(row)
        elif test.calls:
            cases.setdefault(function_of(test.nodeid), []).append((test, row))
    rows = [*rows, *map(_fold, cases.values()), *shared_rows(ledger)]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    order = {
        group: (
            group == OUTSIDE,
            min(_urgency(row) for row in members),
            -sum(map(_usd, members), Decimal(0)),
            group,
        )
        for group, members in groups.items()
    }
    return sorted(
        rows,
        key=lambda row: (
            order[row.group],
            _urgency(row),
            -_usd(row),
            row.usd is not None,
            row.name,
        ),
    )


def shared_rows(ledger: Ledger) -> Iterator[Row]:
    """Yield a row for each shared fixture with calls, and one for the calls outside tests."""
    spenders = []
    for group in shared_fixtures(ledger.fixtures):
        fixture = most_expensive(group)
        often = f", most expensive of {len(group)}" if len(group) > 1 else ""
        where = f" of {fixture.node or fixture.baseid}" if fixture.node or fixture.baseid else ""
        param = f"[{fixture.param}]" if fixture.param is not None else ""
        name = f"{fixture.name}{param} ({fixture.scope} fixture{where}{often})"
        spenders.append((name, fixture_name(fixture), fixture.calls))
    for name, owner, calls in (
        *spenders,
        ("outside tests", "outside tests", ledger.outside_tests),
    ):
        if calls:
            spent = Amounts.of(calls)
            yield Row(OUTSIDE, clean(name), calls, spent, spent, owner=owner)


def row_of(test: TestRow, is_last: bool) -> Row:
    """The row of one attempt; what an earlier one exceeded does not count."""
    group, _, name = test.nodeid.partition("::")
    if not is_last:
        name += f" (attempt {test.attempt})"
    spent = Amounts.of(test.calls)
    return Row(
        group=clean(group),
        name=clean(name or group),
        calls=test.calls,
        spent=spent,
        total=spent,
        verdict=test.verdict if is_last else None,
        is_expected=test.outcome == "xfailed",
        owner=test.nodeid if is_last else "",
    )


def parts_by_owner(ledger: Ledger) -> dict[str, list[PartChange]]:
    """Return the parts of each owner's largest prompt as far as they are counted, largest first."""
    found: dict[str, list[PartChange]] = {}
    if ledger.comparison:
        for each in ledger.comparison.parts:
            found.setdefault(each.name, []).append(each)
        return found
    tokens = parts_of(ledger)
    for spender in spenders_of(ledger):  # of several attempts the last one
        parts = largest_prompt(spender.calls, tokens)
        found[spender.name] = [
            PartChange(name=spender.name, part=part, before=None, after=size)
            for part, size in sorted(parts.items(), key=lambda each: (-each[1], each[0]))
        ]
    return found


def part_growth(each: PartChange) -> str:
    """Say by how much a part grew, or that it is new."""
    return growth(each.before, each.after) or ("new" if each.before == 0 else "")


def _fold(cases: Sequence[tuple[TestRow, Row]]) -> Row:
    """Show several cases and attempts of a test by the most expensive one."""
    rows = [row for _, row in cases]
    shown = max(rows, key=_usd)
    if len(rows) == 1:
        return shown
    nodeids = {test.nodeid for test, _ in cases}
    base = cases[0][0].nodeid.partition("::")[2]
    base, what = (base.partition("[")[0], "cases") if len(nodeids) > 1 else (base, "attempts")
    return Row(
        shown.group,
        clean(f"{base} ({len(rows)} {what}, most expensive)"),
        shown.calls,
        shown.spent,
        sum((row.total for row in rows), Amounts()),
        shown.verdict or next((row.verdict for row in rows if row.verdict), None),
    )


def _usd(row: Row) -> Decimal:
    return row.usd or Decimal(0)


def _urgency(row: Row) -> int:
    return _URGENCY.get(row.mark, 2)


def shown(rows: Sequence[Row], most: int) -> tuple[list[Row], list[Row]]:
    """Split rows into those to show, at most so many, and the rest; 0 shows all.

    Those whose budget is broken are shown in any case.
    """
    ranked = sorted(
        range(len(rows)), key=lambda at: (rows[at].mark not in _URGENCY, -_usd(rows[at]))
    )
    most = max(most or len(rows), sum(row.mark in _URGENCY for row in rows))
    kept = set(ranked[:most])
    return (
        [row for at, row in enumerate(rows) if at in kept],
        [row for at, row in enumerate(rows) if at not in kept],
    )

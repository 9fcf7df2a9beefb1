"""A run as rows: every test, shared fixture and call outside tests, the most expensive first.

The terminal and the comment show the same rows. Cases of a parametrised test are one row, but for
those that say something of their own: over budget, not checked, nearly over, or of unknown cost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.call import Call
from pytest_llmcost.ledger.ledger import (
    Ledger,
    ModelTotals,
    fixture_name,
    function_of,
    own_verdicts,
)
from pytest_llmcost.ledger.totals import most_expensive, shared_fixtures
from pytest_llmcost.money import format_share
from pytest_llmcost.prices.bill import ByCategory
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reports.plain_text import REFUSED, UNKNOWN, clean, percent, token_cell, usd_cell
from pytest_llmcost.reports.run_wording import NotCounted, last_attempts
from pytest_llmcost.reports.wording import BROKEN, figure_of, state_of, urgency, worst_of

OUTSIDE = "fixtures and calls outside tests"
"""The group of what stands in no test file."""
_SIGNS = {"at least ": "≥", "at most ": "≤", "": ""}


@dataclass(frozen=True)
class Row:
    """One attempt of a test, a shared fixture, or several cases by their most expensive one."""

    group: str
    """The test's file."""
    name: str
    calls: tuple[Call, ...]
    owner: str
    """As `spenders_of` names it."""
    verdicts: Sequence[Verdict] = ()
    """All of its own; none if a later attempt decides."""
    verdict: Verdict | None = None
    """The one to show: the worst, or the decisive one."""
    outcome: str = ""
    is_last: bool = True
    """Whether no later attempt of the test decides."""
    folded: tuple[Call, ...] = ()
    """The calls of the other cases and attempts that it stands for."""

    @cached_property
    def spent(self) -> Amounts:
        """What its calls come to."""
        return Amounts.of(self.calls)

    @cached_property
    def usd(self) -> Decimal | None:
        """What it costs as far as it is known; None also if no call was seen and one had to be."""
        is_unseen = not self.calls and self.verdict is not None and self.verdict.actual is None
        return None if is_unseen else self.spent.usd

    @property
    def known_usd(self) -> Decimal:
        """The same, nothing where it is unknown."""
        return self.usd or Decimal(0)

    @property
    def is_refused(self) -> bool:
        """Whether nothing of it was sent, so that it has no cost."""
        return bool(self.calls) and all(call.evidence == REFUSED for call in self.calls)

    @cached_property
    def mark(self) -> str:
        """`exceeded`, `unverified`, `near`, or nothing; none if it failed as `xfail` expects."""
        state = state_of(self.verdict) if self.verdict and self.outcome != "xfailed" else "within"
        return "" if state == "within" else state

    @property
    def token_cells(self) -> list[str]:
        """Write its tokens as far as they are known."""
        return token_cells(self.spent.usage, is_least=self.spent["input_tokens"].best is None)

    def cost_cell(self, *, per: int = 1) -> str:
        """Write what it costs, per so many runs."""
        if self.is_refused:
            return REFUSED
        return usd_cell(self.usd, is_least=self.spent.is_least, per=per)


def share_of(verdict: Verdict | None) -> str:
    """Write which share of a budget is used, with a sign if that is a bound."""
    if verdict is None:
        return ""
    if verdict.state == "unverified":
        return UNKNOWN
    amount, bound = figure_of(verdict)
    share = format_share(amount, verdict.limit)
    return share if share.startswith("<") else f"{_SIGNS[bound]}{share}"


TOKEN_HEADS = ("input", "cache written", "cache read", "output")


def token_cells(usage: Usage, *, is_least: bool) -> list[str]:
    """Write what stands under these heads, as far as it is known."""
    cached = (usage.written_tokens, usage.cache_read_tokens)
    numbers = (usage.prompt_tokens, *cached, usage.output_tokens)
    return [token_cell(number, is_least=is_least) for number in numbers]


def by_cost(totals: Mapping[str, ModelTotals]) -> list[tuple[str, ModelTotals]]:
    """Sort models or tags with what each has, the most expensive first."""
    return sorted(totals.items(), key=lambda each: (-(each[1].usd or 0), each[0]))


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


_CATEGORY_NAMES = {
    "input": "input, not cached",
    "cache_write_5m": "written to cache for 5 minutes",
    "cache_write_1h": "written to cache for 1 hour",
    "cache_read": "read from cache",
    "web_search": "web searches",
    "declared": "stated by tests",
    "unknown": "calls without a price",
}


def categories_of(totals: ModelTotals) -> list[Category]:
    """Return each token category that was used or paid for; the prices add up to the total."""
    is_known = totals.usd == 0 or bool(totals.by_category.items())
    found = []
    for category in ByCategory.__struct_fields__:
        key = category.removesuffix("_usd")
        tokens = getattr(totals.usage, f"{key}_tokens", None)
        usd = getattr(totals.by_category, category) if is_known else None
        if tokens or usd:
            name = _CATEGORY_NAMES.get(key) or key.replace("_", " ")
            found.append(Category(key, name, tokens, usd))
    return found


def rows_of(ledger: Ledger) -> list[Row]:
    """Return a row for everything that cost something or has a broken budget.

    Files with broken budgets come first, then the most expensive; so do the rows in each.
    """
    rows: list[Row] = []
    cases: dict[str, list[Row]] = {}
    for row in attempts_of(ledger):
        # What says something of its own is never folded into another case.
        if row.mark or (row.calls and row.usd is None):
            rows.append(row)
        elif row.calls:
            cases.setdefault(function_of(row.owner), []).append(row)
    rows = [*rows, *map(_fold, cases.values()), *shared_rows(ledger)]
    spent: defaultdict[str, Decimal] = defaultdict(Decimal)
    worst = dict[str, int]()
    for row in rows:
        spent[row.group] += row.known_usd
        worst[row.group] = min(urgency(row.mark), worst.get(row.group, urgency("")))

    def order(row: Row) -> tuple[Any, ...]:
        file = row.group == OUTSIDE, worst[row.group], -spent[row.group], row.group
        return *file, urgency(row.mark), -row.known_usd, row.usd is not None, row.name

    return sorted(rows, key=order)


def attempts_of(ledger: Ledger) -> list[Row]:
    """Return a row for each attempt of each test; what an earlier one exceeded does not count."""
    last = {(test.nodeid, test.attempt) for test in last_attempts(ledger.tests)}
    found = []
    for test in ledger.tests:
        is_last = (test.nodeid, test.attempt) in last
        group, _, name = test.nodeid.partition("::")
        name = (name or group) if is_last else f"{name} (attempt {test.attempt})"
        group, name, owner, outcome = clean(group), clean(name), test.nodeid, test.outcome
        verdicts = own_verdicts(test) if is_last else ()
        # A block may be over its budget in a test that keeps its own, or has none.
        verdict = worst_of(verdicts) or (test.verdict if is_last else None)
        found.append(Row(group, name, test.calls, owner, verdicts, verdict, outcome, is_last))
    return found


def shared_rows(ledger: Ledger) -> list[Row]:
    """Return a row for each shared fixture with calls, and one for the calls outside tests."""
    rows = []
    for group in shared_fixtures(ledger.fixtures):
        fixture = most_expensive(group)
        often = f", most expensive of {len(group)}" if len(group) > 1 else ""
        where = f" of {fixture.node or fixture.baseid}" if fixture.node or fixture.baseid else ""
        param = f"[{fixture.param}]" if fixture.param is not None else ""
        name = f"{fixture.name}{param} ({fixture.scope} fixture{where}{often})"
        rows.append(Row(OUTSIDE, clean(name), fixture.calls, fixture_name(fixture)))
    rows.append(Row(OUTSIDE, "outside tests", ledger.outside_tests, "outside tests"))
    return [row for row in rows if row.calls]


def _fold(rows: Sequence[Row]) -> Row:
    """Show cases of a test by the most expensive one, and its attempts by the last: it decides."""
    shown = max([row for row in rows if row.is_last] or rows, key=attrgetter("known_usd"))
    if len(rows) == 1:
        return shown
    name, cases = rows[0].owner.partition("::")[2], len({row.owner for row in rows})
    if cases > 1:
        name = f"{name.partition('[')[0]} ({cases} cases, most expensive)"
    else:
        which = "last" if shown.is_last else "most expensive"
        name = f"{name} ({len(rows)} attempts, {which})"
    others = (row.calls for row in rows if row is not shown)
    return replace(shown, name=clean(name), folded=tuple(chain.from_iterable(others)))


def shown(rows: Sequence[Row], most: int, cause: NotCounted) -> tuple[list[Row], list[Row]]:
    """Split rows into those to show, at most so many, and the rest; 0 shows all.

    Those whose budget is broken come first; all of them, but for a cause that several tests share.
    """
    ranks = [
        (row.mark not in BROKEN, cause.explains(row.owner, row.mark), -row.known_usd)
        for row in rows
    ]
    ranked = sorted(range(len(rows)), key=ranks.__getitem__)
    most = max(most or len(rows), sum(not any(each[:2]) for each in ranks))
    return [rows[at] for at in sorted(ranked[:most])], [rows[at] for at in sorted(ranked[most:])]

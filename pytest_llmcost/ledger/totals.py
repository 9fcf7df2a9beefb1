"""Totals and verdicts over many tests: what a run cost, and whether its ceilings hold.

Data flow: rows of a Report -> `sum_totals`, and with Budgets -> `decide` -> Verdicts. A fixture
that several workers or shards set up counts once, at its dearest, but for the live spend.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from operator import attrgetter
from typing import Literal, TypeVar

import msgspec

from pytest_llmcost.budgets.budget import Budget, Kind, Spend, Tally, Verdict, check
from pytest_llmcost.budgets.increase import Difference
from pytest_llmcost.budgets.path_globs import fixture_matches, matches
from pytest_llmcost.call import Call
from pytest_llmcost.ledger.ledger import (
    FixtureRow,
    Ledger,
    ModelTotals,
    TestRow,
    Totals,
    fixture_name,
)
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.caveats import encode_caveat
from pytest_llmcost.prices.usage import Usage

_AnyRow = TypeVar("_AnyRow", TestRow, FixtureRow)
_AnySpend = TypeVar("_AnySpend", Spend, Difference)


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """Every call of a run with its owner, sorted."""

    tests: Sequence[TestRow] = ()
    fixtures: Sequence[FixtureRow] = ()
    outside: Sequence[Call] = ()


_PHASES = (None, "setup", "call", "teardown")


def sort_rows(
    tests: Iterable[TestRow], fixtures: Iterable[FixtureRow], outside: Iterable[Call]
) -> Rows:
    """Put rows, and the calls in them, into an order that no thread or worker can change."""
    return Rows(
        tests=sorted(map(_with_sorted_calls, tests), key=attrgetter("nodeid", "attempt")),
        fixtures=sorted(map(_with_sorted_calls, fixtures), key=_fixture_order),
        outside=sort_calls(outside),
    )


def _with_sorted_calls(row: _AnyRow) -> _AnyRow:
    if len(row.calls) < 2:
        return row
    return msgspec.structs.replace(row, calls=sort_calls(row.calls))


def _fixture_order(row: FixtureRow) -> tuple[str, ...]:
    return *(text or "" for text in fixture_key(row)), row.worker or "", repr(row.calls)


def sort_calls(calls: Iterable[Call]) -> tuple[Call, ...]:
    """Sort calls by phase, then by payload, then by all the rest."""
    return tuple(sorted(calls, key=_call_order))


def _call_order(call: Call) -> tuple[int, str, bytes]:
    try:
        rest = msgspec.json.encode(call, enc_hook=encode_caveat)
    except UnicodeEncodeError:  # a model's name with half a character in it
        rest = repr(call).encode("utf-8", "backslashreplace")
    return _PHASES.index(call.phase), call.fingerprint or "", rest


def sum_usd(calls: Iterable[Call]) -> Decimal:
    """Add up the list prices; of a call without one, what it costs at least."""
    total = Decimal(0)
    for call in calls:
        total = EXACT.add(total, call.usd_low if call.usd is None else call.usd)
    return total


fixture_key = attrgetter("name", "scope", "baseid", "node", "param")
"""What makes set-ups in several processes the same fixture's."""


def shared_fixtures(fixtures: Iterable[FixtureRow]) -> list[list[FixtureRow]]:
    """Group the rows of each fixture, one for each worker or shard that set it up."""
    groups: dict[tuple[str | None, ...], list[FixtureRow]] = {}
    for row in fixtures:
        groups.setdefault(fixture_key(row), []).append(row)
    return list(groups.values())


def most_expensive(rows: Sequence[FixtureRow]) -> FixtureRow:
    """Return the one that stands for all set-ups of a fixture: the dearest, of equals the first."""
    return max(rows, key=lambda row: (sum_usd(row.calls), _unpriced(row.calls)))


def _unpriced(calls: Iterable[Call]) -> int:
    return sum(call.usd is None for call in calls)


def counted_calls(rows: Rows) -> Iterator[Call]:
    """Yield the calls that count: of a fixture that several workers set up, one set-up's."""
    for test in rows.tests:
        yield from test.calls
    for group in shared_fixtures(rows.fixtures):
        yield from most_expensive(group).calls
    yield from rows.outside


def _all_calls(rows: Rows) -> Iterator[Call]:
    for test in rows.tests:
        yield from test.calls
    for fixture in rows.fixtures:
        yield from fixture.calls
    yield from rows.outside


def spend_in(rows: Rows, kind: Kind = "usd", pattern: str | None = None) -> Spend:
    """Sum one quantity over a run, or over the place that a glob names."""
    tally = Tally(kind)
    for test in rows.tests:
        if pattern is None or matches(pattern, test.nodeid):
            tally.add_all(test.calls)
    for group in shared_fixtures(rows.fixtures):
        if pattern is None or fixture_matches(pattern, group[0]):
            tally.add_most_expensive(Tally(kind).add_all(row.calls) for row in group)
    if pattern is None:
        tally.add_all(rows.outside)
    return tally.spend()


_LOST = {
    "worker-crashed": "a pytest-xdist worker crashed, and the calls that it had not reported yet "
    "are unknown; see why it crashed, then run again",
    "interrupted": "the run was interrupted, and the calls under way then are unknown; run again",
}


def open_above(spend: _AnySpend, lost_calls: Iterable[str]) -> _AnySpend:
    """Take the upper bound off a sum over a run that has lost calls, and say why."""
    why: set[str] = {_LOST.get(each, f"calls were lost ({each})") for each in lost_calls}
    if not why:
        return spend
    reasons = tuple(sorted({*spend.reasons, *why}))
    return msgspec.structs.replace(spend, actual=None, high=None, reasons=reasons)


def decide(
    budgets: Iterable[Budget], rows: Rows, *, lost_calls: Iterable[str] = ()
) -> tuple[Verdict, ...]:
    """Judge the ceilings over several tests: the suite's first, then those of places."""
    lost_calls = tuple(lost_calls)
    verdicts = [
        check(each, open_above(spend_in(rows, each.kind, each.pattern), lost_calls))
        for each in budgets
    ]
    return tuple(sorted(verdicts, key=_verdict_key))


def _verdict_key(verdict: Verdict) -> tuple[bool, str, str, Decimal, str]:
    place = verdict.pattern or ""
    return verdict.scope != "suite", place, verdict.kind, verdict.limit, verdict.origin


class _Sum:
    """A running sum of money, tokens and calls."""

    __slots__ = ("calls", "live_usd", "tokens", "usd")

    def __init__(self) -> None:
        self.calls = 0
        self.usd = self.live_usd = Decimal(0)
        self.tokens = [0] * len(_CATEGORIES)

    def add_usage(self, usage: Usage) -> None:
        for place, number in enumerate(_quantities(usage)):
            if number:
                self.tokens[place] += number

    @property
    def usage(self) -> Usage:
        return Usage(**dict(zip(_CATEGORIES, self.tokens, strict=True)))


_CATEGORIES = Usage.__struct_fields__
_quantities = attrgetter(*_CATEGORIES)


def sum_totals(rows: Rows) -> Totals:
    """Add up a run: money, tokens and calls, in all and by model."""
    whole = _Sum()
    models: defaultdict[str, _Sum] = defaultdict(_Sum)
    for call in counted_calls(rows):
        shares = list(_shares(call))
        whole.calls += 1
        for model, usd, usage in shares:
            for each in (whole, models[model]):
                each.usd = EXACT.add(each.usd, usd)
                each.add_usage(usage)
        for model in {model for model, _, _ in shares}:
            models[model].calls += 1
    for call in filter(is_live, _all_calls(rows)):
        for model, usd, _ in _shares(call):
            for each in (whole, models[model]):
                each.live_usd = EXACT.add(each.live_usd, usd)
    return Totals(
        usd=whole.usd,
        live_usd=whole.live_usd,
        calls=whole.calls,
        unpriced_calls=_count_unpriced(rows),
        usage=whole.usage,
        by_model={name: _model_totals(models[name]) for name in sorted(models)},
    )


def is_live(call: Call) -> bool:
    """Whether a call went over the network in its run, or may have."""
    return call.live is not False


def _shares(call: Call) -> Iterator[tuple[str, Decimal, Usage]]:
    """Split a call into its models' shares of money and billed tokens, one for each leg."""
    rest = call.usd_low if call.usd is None else call.usd
    for sampling in call.sampling_calls:
        usd = Decimal(0) if call.usd is None or sampling.usd is None else sampling.usd
        rest = EXACT.subtract(rest, usd)
        unbilled = sampling.refusal is not None and sampling.usd == 0
        yield sampling.model, usd, Usage() if unbilled else sampling.usage
    if rest or not call.sampling_calls:
        yield call.model, rest, Usage()


def _count_unpriced(rows: Rows) -> int:
    """Count the calls without a price; of a shared fixture, the most in any set-up."""
    known = sum(_unpriced(test.calls) for test in rows.tests) + _unpriced(rows.outside)
    groups = shared_fixtures(rows.fixtures)
    return known + sum(max(_unpriced(row.calls) for row in group) for group in groups)


def _model_totals(share: _Sum) -> ModelTotals:
    return ModelTotals(usd=share.usd, live_usd=share.live_usd, calls=share.calls, usage=share.usage)


Spender = tuple[Literal["test", "fixture", "outside"], str, int, Sequence[Call]]


def spenders_of(ledger: Ledger) -> Iterator[Spender]:
    """Yield whoever has calls; of a fixture that several workers set up, the dearest set-up."""
    for test in ledger.tests:
        if test.calls:
            yield "test", test.nodeid, test.attempt, test.calls
    for group in shared_fixtures(ledger.fixtures):
        fixture = most_expensive(group)
        yield "fixture", fixture_name(fixture), 1, fixture.calls
    if ledger.outside_tests:
        yield "outside", "outside tests", 1, ledger.outside_tests

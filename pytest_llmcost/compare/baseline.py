"""Baseline: a run against an earlier one, prices apart from prompts.

Data flow: two Reports and today's RateCard -> `compare` -> Comparison with its verdicts; a
complete Report -> `write_baseline`.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import NamedTuple, TypeVar, cast, get_args

from msgspec.structs import replace

from pytest_llmcost.budgets.budget import Verdict, spend_of
from pytest_llmcost.budgets.increase import Difference, IncreaseLimit, check_increase
from pytest_llmcost.call import Call
from pytest_llmcost.call import reprice as reprice_call
from pytest_llmcost.compare.pairing import (
    Key,
    Pair,
    Spender,
    change_in,
    difference_of,
    pair_up,
    spenders_of,
    token_differences,
)
from pytest_llmcost.errors import LedgerError
from pytest_llmcost.ledger.ledger import Change, Comparison, FixtureRow, Ledger, TestRow
from pytest_llmcost.ledger.ledger_file import write_ledger
from pytest_llmcost.ledger.totals import fixture_key, open_above, sort_rows, sum_totals, sum_usd
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.bill import CacheState
from pytest_llmcost.prices.rate_card import RateCard


def write_baseline(ledger: Ledger, path: str | os.PathLike[str]) -> None:
    """Write a run as the baseline of later ones, without its own comparison.

    Raises:
        LedgerError: the run is a partial one, or the file cannot be written.
    """
    if not ledger.complete:
        raise LedgerError(
            f"{path}: is left as it was, for this run is not complete "
            f"({', '.join(ledger.incomplete)}); only a whole run can be a baseline"
        )
    write_ledger(replace(ledger, comparison=None), path)


def keep_rows(ledger: Ledger, old: Ledger, not_passed: Iterable[str], card: RateCard) -> Ledger:
    """Return a run in which tests that did not pass have the rows of an older one, if it has any.

    `not_passed` are node ids, also of modules and classes that were skipped whole. A shared
    fixture that was not set up stays if one of these tests may use it: nobody else asked for it.
    The old rows are priced anew, like the run's own.
    """
    nodes = tuple(not_passed)
    old = reprice(old, card, like=ledger)
    tests = [test for test in old.tests if any(_is_in(test.nodeid, node) for node in nodes)]
    known = set(map(fixture_key, ledger.fixtures))
    fixtures = [
        row
        for row in old.fixtures
        if fixture_key(row) not in known
        and any(
            _is_in(node, row.node or row.baseid) or _is_in(row.node or row.baseid, node)
            for node in nodes
        )
    ]
    kept = {test.nodeid for test in tests}
    tests += [test for test in ledger.tests if test.nodeid not in kept]
    payloads = {**old.payloads, **ledger.payloads}
    rows = sort_rows(tests, [*ledger.fixtures, *fixtures], ledger.outside_tests)
    return replace(
        ledger,
        totals=sum_totals(rows),
        payloads={key: payloads[key] for key in sorted(payloads)},
        tests=tuple(rows.tests),
        fixtures=tuple(rows.fixtures),
    )


def _is_in(nodeid: str, node: str) -> bool:
    """Whether a test is one, or is in a folder, file or class; the empty name is the whole run."""
    return not node or nodeid == node or nodeid.startswith((f"{node}/", f"{node}::"))


def compare(
    base: Ledger,
    head: Ledger,
    card: RateCard,
    *,
    limits: Iterable[IncreaseLimit] = (),
    test_limits: Iterable[IncreaseLimit] = (),
) -> Comparison:
    """Compare a run with an earlier one, both at the prices of the run's date.

    Of reruns the last attempt counts, of a fixture that several workers set up the dearest
    set-up. Of a partial run only the tests and fixtures that ran are compared. `limits` hold
    for the run, in which a new test is an increase; `test_limits` for each test that both runs
    have.

    Raises:
        LedgerError: the run does not say on which date it was priced.
    """
    limits, test_limits = tuple(limits), tuple(test_limits)
    sides = _sides(base, head, card)
    pairs = pair_up(sides.base, sides.head)
    payloads = (base.payloads, head.payloads)
    found = [(pair, change) for pair in pairs if (change := change_in(pair, payloads))]
    changes = [replace(change, verdicts=_judge_test(pair, test_limits)) for pair, change in found]
    difference = difference_of(pairs)
    base_usd = sum_usd(_calls(sides.base))
    base_usd_then = sum_usd(_calls(sides.then))
    return Comparison(
        base_price_date=base.price_date,
        base_rate_card=base.rate_card.version,
        partial=not head.complete,
        base_usd_then=base_usd_then,
        base_usd=base_usd,
        head_usd=sum_usd(_calls(sides.head)),
        price_change_usd=EXACT.subtract(base_usd, base_usd_then),
        change_usd=difference.actual,
        low_usd=difference.low,
        high_usd=difference.high,
        tokens=token_differences(pairs),
        unchanged=len(pairs) - len(changes),
        changes=tuple(sorted(changes, key=_weight)),
        verdicts=_judge(limits, _calls(sides.base), open_above(difference, head.lost_calls)),
        notes=tuple(_notes(base, head, card)),
    )


class _Sides(NamedTuple):
    """Who spent what: in the baseline at its own prices and at today's, and now."""

    then: Mapping[Key, Spender]
    base: Mapping[Key, Spender]
    head: Mapping[Key, Spender]


def _sides(base: Ledger, head: Ledger, card: RateCard) -> _Sides:
    """Price both sides alike; of a partial run leave out of the baseline what did not run."""
    same_card = head.rate_card.sha256 == card.sha256
    now = spenders_of(head if same_card else reprice(head, card, like=head))
    then, before = spenders_of(base), spenders_of(reprice(base, card, like=head))
    if head.complete:
        return _Sides(then, before, now)
    ran = {key for key, spender in now.items() if spender.kind != "outside"}
    return _Sides(_only(then, ran), _only(before, ran), _only(now, ran))


def _only(spenders: Mapping[Key, Spender], keys: Container[Key]) -> dict[Key, Spender]:
    return {key: spenders[key] for key in spenders if key in keys}


def _calls(spenders: Mapping[Key, Spender]) -> Iterator[Call]:
    for spender in spenders.values():
        yield from spender.calls


def _judge(
    limits: Iterable[IncreaseLimit], base: Iterable[Call], difference: Difference
) -> tuple[Verdict, ...]:
    spend = spend_of(base, "usd")
    return tuple(check_increase(limit, spend, difference) for limit in limits)


def _judge_test(pair: Pair, limits: Iterable[IncreaseLimit]) -> tuple[Verdict, ...]:
    """Judge what a test adds; a new one has nothing to add to, and counts for the run alone."""
    if pair.base is None or pair.head is None or pair.head.kind != "test":
        return ()
    return _judge(limits, pair.base.calls, difference_of([pair]))


def _weight(change: Change) -> tuple[bool, Decimal, str, str]:
    return change.usd is not None, -(change.usd or Decimal(0)), change.kind, change.name


def _notes(base: Ledger, head: Ledger, card: RateCard) -> Iterator[str]:
    if not base.complete:
        yield (
            f"the baseline is a partial run ({', '.join(base.incomplete)}); what it left out "
            "counts as new"
        )
    if not head.complete:
        yield f"a partial run ({', '.join(head.incomplete)}); only what ran is compared"
    if head.rate_card.sha256 != card.sha256:
        yield (
            f"the run was priced with the rate card {head.rate_card.version}; both sides are "
            f"compared at the prices of {card.version}"
        )


def reprice(ledger: Ledger, card: RateCard, *, like: Ledger) -> Ledger:
    """Price all calls of a report anew, on the date and the cache basis of another one."""
    on, cache_state = _price_date(like), _cache_state(like)

    def price_all(calls: Sequence[Call]) -> tuple[Call, ...]:
        return tuple(reprice_call(call, card, on=on, cache_state=cache_state) for call in calls)

    def price_row(row: _Row) -> _Row:
        calls = price_all(row.calls)
        return replace(row, calls=calls, usd=sum_usd(calls))

    return replace(
        ledger,
        tests=tuple(map(price_row, ledger.tests)),
        fixtures=tuple(map(price_row, ledger.fixtures)),
        outside_tests=price_all(ledger.outside_tests),
    )


_Row = TypeVar("_Row", TestRow, FixtureRow)


def _price_date(ledger: Ledger) -> date:
    try:
        return date.fromisoformat(ledger.price_date)
    except ValueError:
        raise LedgerError(
            f"the ledger's price_date is {ledger.price_date!r}, no date such as 2026-11-22"
        ) from None


def _cache_state(ledger: Ledger) -> CacheState:
    for cache_state in get_args(CacheState):
        if cache_state == ledger.cache_state:
            return cast(CacheState, cache_state)
    raise LedgerError(
        f"the ledger's cache_state is {ledger.cache_state!r}, none of "
        f"{', '.join(get_args(CacheState))}"
    )

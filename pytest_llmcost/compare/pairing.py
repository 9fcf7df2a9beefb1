"""Differences: what one test, fixture or the rest spends now, against what it spent before.

Data flow: two Reports -> Spenders by key -> pairs -> `compare_spenders` -> Change. Calls that
are the same in both cancel out, whatever is unknown of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from operator import attrgetter
from typing import Literal

import msgspec
from msgspec.structs import replace

from pytest_llmcost.budgets.budget import spend_of
from pytest_llmcost.budgets.increase import Difference, subtract
from pytest_llmcost.call import Call
from pytest_llmcost.counting.payload import changed_parts
from pytest_llmcost.ledger.ledger import Change, Ledger, PayloadFacts, TestRow, fixture_name
from pytest_llmcost.ledger.totals import fixture_key, most_expensive, shared_fixtures, sum_usd
from pytest_llmcost.prices.usage import Usage

_MOST_PAIRINGS = 10_000
"""Above this, calls are paired as they come instead of each with its likest."""

Key = tuple[str | None, ...]
Payloads = Mapping[str, PayloadFacts]


class Spender(msgspec.Struct, frozen=True, kw_only=True):
    """A test's last attempt, a shared fixture's dearest set-up, or the calls outside tests."""

    kind: Literal["test", "fixture", "outside"]
    name: str
    path: str = ""
    line: int | None = None
    calls: tuple[Call, ...]


def spenders_of(ledger: Ledger) -> dict[Key, Spender]:
    """Return who spent what in a run, by what stays the same from run to run."""
    spenders: dict[Key, Spender] = {}
    for test in sorted(ledger.tests, key=attrgetter("attempt")):
        spenders["test", test.nodeid] = _test_spender(test)
    for rows in shared_fixtures(ledger.fixtures):
        row = most_expensive(rows)
        key = ("fixture", *fixture_key(row))
        spenders[key] = Spender(kind="fixture", name=fixture_name(row), calls=row.calls)
    if ledger.outside_tests:
        spenders["outside",] = Spender(
            kind="outside", name="outside tests", calls=ledger.outside_tests
        )
    return spenders


def _test_spender(test: TestRow) -> Spender:
    return Spender(kind="test", name=test.nodeid, path=test.path, line=test.line, calls=test.calls)


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A spender before and now, and the calls of each that the other does not have."""

    base: Spender | None
    head: Spender | None
    before: tuple[Call, ...]
    after: tuple[Call, ...]


def pair_up(base: Mapping[Key, Spender], head: Mapping[Key, Spender]) -> list[Pair]:
    """Bring together what was and what is, by key, in an order of its own."""
    keys = sorted({**base, **head}, key=str)
    return [_pair(base.get(key), head.get(key)) for key in keys]


def _pair(base: Spender | None, head: Spender | None) -> Pair:
    before, after = _without_common(base.calls if base else (), head.calls if head else ())
    return Pair(base=base, head=head, before=before, after=after)


def difference_of(pairs: Iterable[Pair]) -> Difference:
    """Return what all pairs together cost more than before."""
    pairs = tuple(pairs)
    after = spend_of((call for pair in pairs for call in pair.after), "usd")
    before = spend_of((call for pair in pairs for call in pair.before), "usd")
    return subtract(after, before)


def token_differences(pairs: Iterable[Pair]) -> dict[str, int]:
    """Return how many tokens more all pairs together have, by category, without the zeros."""
    sums = dict.fromkeys(Usage.__struct_fields__, 0)
    for pair in pairs:
        for sign, calls in ((1, pair.after), (-1, pair.before)):
            for name, number in _tokens(calls):
                sums[name] += sign * number
    return {name: number for name, number in sums.items() if number}


def _tokens(calls: Iterable[Call]) -> Iterator[tuple[str, int]]:
    usage = sum((call.billed_usage for call in calls), Usage())
    for name in Usage.__struct_fields__:
        yield name, getattr(usage, name)


def change_in(pair: Pair, payloads: tuple[Payloads, Payloads]) -> Change | None:
    """Return what has changed and which parts of the payloads have; None when nothing has."""
    difference, tokens = difference_of([pair]), token_differences([pair])
    base, head = pair.base, pair.head
    someone = head or base
    calls = len(pair.after) - len(pair.before)
    if someone is None or not (difference.actual != 0 or tokens or calls):
        return None
    return Change(
        kind=someone.kind,
        name=someone.name,
        path=someone.path,
        line=someone.line,
        status="changed" if base and head else "new" if head else "removed",
        base_usd=sum_usd(base.calls) if base else Decimal(0),
        head_usd=sum_usd(head.calls) if head else Decimal(0),
        usd=difference.actual,
        tokens=tokens,
        calls=calls,
        parts=tuple(dict.fromkeys(_changed_parts(pair.before, pair.after, payloads))),
    )


def _without_common(
    base: Sequence[Call], head: Sequence[Call]
) -> tuple[tuple[Call, ...], tuple[Call, ...]]:
    """Leave out what both have: a replayed call is the same one, so it adds nothing."""
    common = Counter(filter(None, map(_identity, base)))
    common &= Counter(filter(None, map(_identity, head)))
    return tuple(_without(base, common.copy())), tuple(_without(head, common))


def _without(calls: Iterable[Call], common: Counter[Call]) -> Iterator[Call]:
    for call in calls:
        identity = _identity(call)
        if identity is not None and common[identity]:
            common[identity] -= 1
        else:
            yield call


def _identity(call: Call) -> Call | None:
    """What makes a call the same in two runs; None for one that may not be, made anew each time."""
    if call.live is not False or call.fingerprint is None:
        return None
    return replace(call, phase=None, at=None, stream=False, attempts=1, max_tokens=None)


def _changed_parts(
    before: Sequence[Call], after: Sequence[Call], payloads: tuple[Payloads, Payloads]
) -> Iterator[str]:
    """Yield what differs between each payload and the likest of the ones before it."""
    old, new = list(_known(before, payloads[0])), list(_known(after, payloads[1]))
    as_they_come = len(old) * len(new) > _MOST_PAIRINGS
    for payload in new:
        if not old:
            return
        likest = old[0] if as_they_come else max(old, key=lambda each: _alike(each, payload))
        old.remove(likest)
        yield from changed_parts(likest.parts, payload.parts)


def _known(calls: Iterable[Call], payloads: Payloads) -> Iterator[PayloadFacts]:
    return filter(None, (payloads.get(call.fingerprint or "") for call in calls))


def _alike(left: PayloadFacts, right: PayloadFacts) -> int:
    """How many parts two payloads have in common; a model of the same name is one of them."""
    same = sum(right.parts.get(name) == digest for name, digest in left.parts.items())
    return same + (left.model == right.model)

"""Calls before and after a change, paired, so that what is the same in both cancels out.

Two runs are paired by owner, and then by call. A single run is paired with itself, call by
call, under a change such as another model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
from msgspec.structs import replace

from pytest_llmcost.call import Call
from pytest_llmcost.counting.payload import changed_parts
from pytest_llmcost.ledger.ledger import PayloadFacts
from pytest_llmcost.ledger.totals import Spender

_MOST_PAIRINGS = 10_000
"""Above this, payloads are paired in their order instead of each with the most similar one."""

Spenders = Mapping[tuple[str | None, ...], Spender]
Payloads = Mapping[str, PayloadFacts]


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """What one owner's calls were before a change and are after it."""

    base: Spender | None = None
    head: Spender | None = None
    before: tuple[Call, ...] = ()
    """Without the calls that are the same in both runs."""
    after: tuple[Call, ...] = ()
    obstacles: tuple[str, ...] = ()
    """Of each call that cannot be compared, the reason; it is on neither side."""


def under_change(calls: Iterable[Call], change: Callable[[Call], Call | str]) -> Pair:
    """Pair calls with themselves under a change, which returns a call or why it is unknown."""
    before, after, obstacles = [], [], []
    for call in calls:
        changed = change(call)
        if isinstance(changed, str):
            obstacles.append(changed)
        else:
            before.append(call)
            after.append(changed)
    return Pair(before=tuple(before), after=tuple(after), obstacles=tuple(obstacles))


def pair_up(base: Spenders, head: Spenders) -> list[Pair]:
    """Pair the owners of two runs, whatever the order of either."""
    pairs = []
    for key in sorted({**base, **head}, key=str):
        old, new = base.get(key), head.get(key)
        sides = [
            [(_identity(call), call) for call in (spender.calls if spender else ())]
            for spender in (old, new)
        ]
        before, after = (Counter(same for same, _ in side if same) for side in sides)
        common = before & after
        pairs.append(
            Pair(
                base=old,
                head=new,
                before=tuple(_without(sides[0], common.copy())),
                after=tuple(_without(sides[1], common)),
            )
        )
    return pairs


def _identity(call: Call) -> Call | None:
    """Return what a replayed call is in two runs; None for one that may be made anew each time."""
    if call.live is not False or call.fingerprint is None:
        return None
    facts = {"phase": None, "tags": (), "at": None, "max_tokens": None, "broken_prefix": None}
    return replace(call, stream=False, attempts=1, **facts)


def _without(side: Iterable[tuple[Call | None, Call]], common: Counter[Call]) -> Iterator[Call]:
    for identity, call in side:
        if identity is not None and common[identity]:
            common[identity] -= 1
        else:
            yield call


def differing_parts(pair: Pair, base: Payloads, head: Payloads) -> tuple[str, ...]:
    """Return what differs between each new payload and the most similar one before it."""
    old = list(filter(None, (base.get(call.fingerprint or "") for call in pair.before)))
    new = list(filter(None, (head.get(call.fingerprint or "") for call in pair.after)))
    in_order = len(old) * len(new) > _MOST_PAIRINGS
    parts: dict[str, None] = {}
    for payload in new[: len(old)]:

        def alike(other: PayloadFacts, to: PayloadFacts = payload) -> int:
            same = sum(to.parts.get(name) == digest for name, digest in other.parts.items())
            return same + (other.model == to.model)

        similar = old[0] if in_order else max(old, key=alike)
        old.remove(similar)
        parts.update(dict.fromkeys(changed_parts(similar.parts, payload.parts)))
    return tuple(parts)

"""Calls before and after a change, paired, so that what is the same in both cancels out.

Two runs are paired by owner, and then by call; what differs in their payloads is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date
from decimal import Decimal

import msgspec
from msgspec.structs import replace

from pytest_llmcost.call import Call
from pytest_llmcost.counting.payload import changed_parts
from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.ledger.ledger import ChangedPrefix, Ledger, PayloadFacts
from pytest_llmcost.ledger.totals import Spender
from pytest_llmcost.prices.bill import in_cache_state
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.prices.usage import Usage

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
    facts = dict.fromkeys(("phase", "at", "max_tokens", "before", "broken_prefix"))
    return replace(call, tags=(), stream=False, attempts=1, **facts)


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
        similar = old[0] if in_order else _most_similar(payload, old)
        old.remove(similar)
        parts.update(dict.fromkeys(changed_parts(similar.parts, payload.parts)))
    return tuple(parts)


def _most_similar(payload: PayloadFacts, others: Iterable[PayloadFacts]) -> PayloadFacts:
    def alike(other: PayloadFacts) -> int:
        return len(other.parts.items() & payload.parts.items()) + (other.model == payload.model)

    return max(others, key=alike)


def changed_prefixes(
    before: Spenders, now: Spenders, base: Ledger, head: Ledger, card: RateCard
) -> tuple[ChangedPrefix, ...]:
    """Return the cached prefixes of a run that its baseline has not, the most expensive first.

    A prefix that several tests share is one. Of several turns the longest counts,
    because it holds the others. What a new test caches is new, and what an old one caches for the
    first time, or behind what it cached before, is too.
    """
    on = date.fromisoformat(head.price_date)
    known = {each for facts in base.payloads.values() for each in facts.prefixes.values()}
    found: dict[frozenset[str], ChangedPrefix] = {}
    for key, spender in now.items():
        old = [facts for _, facts in _facts_of(before.get(key), base)]
        longest: dict[str, tuple[int, frozenset[str], ChangedPrefix]] = {}
        for call, facts in _facts_of(spender, head):
            new = {place: each for place, each in facts.prefixes.items() if each not in known}
            like = [each for each in old if each.model == facts.model]
            if not new or not like:
                continue
            similar = _most_similar(facts, like)
            if {*similar.prefixes.values()} <= {*facts.prefixes.values()}:
                continue  # it has only got longer
            usage, usd = _written(call, facts), None
            if usage is not None:
                sampling = call.sampling_calls[0]
                sampling = replace(sampling, usage=usage, usage_low=None, usage_high=None)
                with suppress(UnknownModelError):
                    usd = card.price_sampling(sampling, call.context, on=on).usd
            differing = changed_parts(similar.parts, facts.parts)
            if not any(place.startswith("messages") for place in new):
                differing = [each for each in differing if each.startswith(("system", "tools"))]
            change = ChangedPrefix(
                name=spender.name,
                parts=tuple(differing) or ("the order of keys",),
                tokens=None if usage is None else usage.cached_tokens,
                usd=usd,
                is_most=len(new) < len(facts.prefixes),
            )
            size = (change.tokens or 0, frozenset(new.values()), change)
            longest[facts.model] = max(longest.get(facts.model, size), size, key=lambda it: it[0])
        for _, digests, change in longest.values():
            first = found.get(digests, change)
            found[digests] = replace(first, owners=first.owners + (digests in found))
    return tuple(sorted(found.values(), key=lambda each: (-(each.usd or Decimal(0)), each.name)))


def _facts_of(spender: Spender | None, ledger: Ledger) -> Iterator[tuple[Call, PayloadFacts]]:
    for call in spender.calls if spender else ():
        facts = ledger.payloads.get(call.fingerprint or "")
        if facts is not None and facts.prefixes:
            yield call, facts


def _written(call: Call, facts: PayloadFacts) -> Usage | None:
    """Return what a call with a cold cache writes; None where that is unknown."""
    if len(call.sampling_calls) == 1:
        cold = in_cache_state(call.sampling_calls[0], "cold")
        if cold.cached_tokens:
            return replace(cold, input_tokens=0, output_tokens=0, web_search_requests=0)
    if facts.cached and call.sampling_calls:
        short, long = facts.cached.get("5m", 0), facts.cached.get("1h", 0)
        return Usage(cache_write_5m_tokens=short, cache_write_1h_tokens=long)
    return None

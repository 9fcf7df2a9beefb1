"""Cached prefixes that changed since the baseline, and what writing each of them again costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal

from msgspec.structs import replace

from pytest_llmcost.call import Call
from pytest_llmcost.compare.pairing import Spenders
from pytest_llmcost.counting.payload import changed_parts
from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.ledger.ledger import ChangedPrefix, Ledger, PayloadFacts
from pytest_llmcost.ledger.totals import Spender
from pytest_llmcost.prices.bill import in_cache_state
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.prices.usage import Usage


def changed_prefixes(
    before: Spenders, now: Spenders, base: Ledger, head: Ledger, card: RateCard
) -> tuple[ChangedPrefix, ...]:
    """Return the cached prefixes of a run that its baseline has not, the most expensive first.

    A prefix that several tests share is one. Of several turns the longest counts,
    because it holds the others. What a new test caches is new, and what an old one caches for the
    first time, or behind what it cached before, is too.
    """
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
            similar = max(like, key=lambda each: len(each.parts.items() & facts.parts.items()))
            if {*similar.prefixes.values()} <= {*facts.prefixes.values()}:
                continue  # it has only got longer
            usage = _written(call, facts)
            change = ChangedPrefix(
                name=spender.name,
                parts=_parts(similar, facts, new),
                tokens=None if usage is None else usage.cached_tokens,
                usd=None if usage is None else _price(call, usage, card, head),
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


def _parts(old: PayloadFacts, now: PayloadFacts, new: Mapping[str, str]) -> tuple[str, ...]:
    """Return the parts of a changed prefix that differ."""
    has_messages = any(place.startswith("messages") for place in new)
    changes = (
        change
        for change in changed_parts(old.parts, now.parts)
        if has_messages or change.partition(".")[0].partition(" ")[0] in ("system", "tools")
    )
    return tuple(changes) or ("the order of keys",)


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


def _price(call: Call, usage: Usage, card: RateCard, head: Ledger) -> Decimal | None:
    sampling = replace(call.sampling_calls[0], usage=usage, usage_low=None, usage_high=None)
    try:
        on = date.fromisoformat(head.price_date)
        return card.price_sampling(sampling, call.context, on=on).usd
    except UnknownModelError:
        return None

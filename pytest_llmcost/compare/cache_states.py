"""Columns: what a call costs at most, with a cold cache, and with a warm one.

Data flow: a Call, what is known of its payload, RateCard -> `reprice` -> US dollars, or None
where nobody knows. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import Literal, NamedTuple

from msgspec.structs import replace

from pytest_llmcost.call import Call, PricedSamplingCall
from pytest_llmcost.call import reprice as reprice_call
from pytest_llmcost.ledger.ledger import PayloadFacts
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.bill import CacheState
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.prices.usage import Usage

Column = Literal["worst", "cold", "warm"]

_OF_THE_REPLY = frozenset(
    {"truncated-stream", "unbounded-output", "cut-reply", "other-tokenizer", "input-only"}
)
"""Doubts about how long the reply is, which `max_tokens` settles."""


def reprice(
    call: Call, column: Column, payloads: Mapping[str, PayloadFacts], card: RateCard, *, on: date
) -> Decimal | None:
    """Return what a call costs in one of the columns; None where that is unknown.

    `cold`: everything that is cached is written. `warm`: all of it is read. `worst`: cold, and a
    reply of `max_tokens`.
    """
    payload = payloads.get(call.fingerprint or "")
    split = _split(call, payload)
    if split is None:
        return None
    if column == "worst":
        return _worst(split, card, on)
    return _price(split, column, card, on).usd


class Sum(NamedTuple):
    """A column over several calls."""

    usd: Decimal
    """Of those that are known."""
    unknown_calls: int


def sum_column(calls: Iterable[Call], price: Callable[[Call], Decimal | None]) -> Sum:
    """Add up what is known; the rest is counted, never taken for $0."""
    total, unknown = Decimal(0), 0
    for call in calls:
        usd = price(call)
        if usd is None:
            unknown += 1
        else:
            total = EXACT.add(total, usd)
    return Sum(total, unknown)


def _split(call: Call, payload: PayloadFacts | None) -> Call | None:
    """Return a call with its prompt told apart by what is cached; None where nobody counted it.

    What was billed says so itself. Of what was only counted, the payload's breakpoints tell.
    """
    if call.evidence != "counted" or payload is None or not payload.breakpoints:
        return call
    if not payload.cached or len(call.sampling_calls) != 1:
        return None
    (sampling,) = call.sampling_calls
    short, long = payload.cached.get("5m", 0), payload.cached.get("1h", 0)
    usage = Usage(
        input_tokens=sampling.usage.prompt_tokens - short - long,
        cache_write_5m_tokens=short,
        cache_write_1h_tokens=long,
        output_tokens=sampling.usage.output_tokens,
    )
    return replace(
        call, usage=usage, sampling_calls=(replace(sampling, usage=usage, may_cache=None),)
    )


def _price(call: Call, cache_state: CacheState, card: RateCard, on: date) -> Call:
    return reprice_call(call, card, on=on, cache_state=cache_state)


def _worst(call: Call, card: RateCard, on: date) -> Decimal | None:
    if call.max_tokens is None or len(call.sampling_calls) != 1:
        return None
    (sampling,) = call.sampling_calls
    if sampling.kind != "message" or sampling.sums_calls:
        return None
    longest = _longest(sampling, call.max_tokens)
    settled = tuple(each for each in call.caveats if each.name not in _OF_THE_REPLY)
    call = replace(call, usage=longest.usage, sampling_calls=(longest,), caveats=settled)
    return _price(call, "cold", card, on).usd_high


def _longest(sampling: PricedSamplingCall, max_tokens: int) -> PricedSamplingCall:
    """The same leg with the longest reply; one that was refused might not be the next time."""
    output = max(sampling.usage.output_tokens, max_tokens)
    usage = replace(sampling.usage, output_tokens=output)
    return replace(sampling, usage=usage, refusal=None, most_output_tokens=None)

"""The same calls with a cold cache, with a warm one, and at their worst."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Literal

from msgspec.structs import replace

from pytest_llmcost.call import Call, reprice
from pytest_llmcost.ledger.ledger import PayloadFacts
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.prices.usage import Usage

Column = Literal["worst", "cold", "warm"]

NO_PRICE = "no price"
NOT_SPLIT = "cache breakpoints that are not counted apart"
NO_BOUND = "no max_tokens"
SEVERAL_CALLS = "server tools"


def in_column(
    call: Call, column: Column, payloads: Mapping[str, PayloadFacts], card: RateCard, *, on: date
) -> Call | str:
    """Return a call as it would be in one of the columns, or the reason why that is unknown.

    `cold`: everything that is cached is written. `warm`: all of it is read. `worst`: cold, with
    a reply of `max_tokens`.
    """
    split = _split(call, payloads.get(call.fingerprint or ""))
    if isinstance(split, str):
        return split
    if column != "worst":
        priced = reprice(split, card, on=on, cache_state=column)
        return NO_PRICE if priced.usd is None else priced
    if split.max_tokens is None:
        return NO_BOUND
    if len(split.sampling_calls) != 1:
        return SEVERAL_CALLS
    (sampling,) = split.sampling_calls
    if sampling.kind != "message" or sampling.sums_calls:
        return SEVERAL_CALLS
    usage = replace(
        sampling.usage, output_tokens=max(sampling.usage.output_tokens, split.max_tokens)
    )
    # What was refused this time may be answered the next time.
    longest = replace(sampling, usage=usage, refusal=None, most_output_tokens=None)
    # `max_tokens` settles every doubt about the length of the reply.
    settled = tuple(each for each in split.caveats if not each.rule.of_the_reply)
    worst = reprice(
        replace(split, usage=usage, sampling_calls=(longest,), caveats=settled),
        card,
        on=on,
        cache_state="cold",
    )
    high = worst.usd_high
    return NO_PRICE if high is None else replace(worst, usd=high, usd_low=high)


def _split(call: Call, payload: PayloadFacts | None) -> Call | str:
    """Return a call with the cached part of its prompt apart.

    The bill of a reply states that itself. For a count, the payload's breakpoints do.
    """
    if call.evidence != "counted" or payload is None or not payload.breakpoints:
        return call
    if not payload.cached or len(call.sampling_calls) != 1:
        return NOT_SPLIT
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

"""The same calls with a cold cache, with a warm one, and at their worst."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Literal

from msgspec.structs import replace

from pytest_llmcost.call import Call, reprice
from pytest_llmcost.ledger.ledger import PayloadFacts
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.prices.usage import Usage

Column = Literal["worst", "cold", "warm"]

NO_PRICE = "no price"
NOT_SPLIT = "cache breakpoints that are not counted apart"
NO_BOUND = "no max_tokens"
SEVERAL_CALLS = "server tools"
_CAVEATS = {
    NOT_SPLIT: "uncounted: cached prefixes",
    NO_BOUND: "unbounded-output: no max_tokens, or server tools",
    SEVERAL_CALLS: "unbounded-output: several sampling calls",
}
"""What makes the worst case of a call unknown, unless the call has no price at all."""


def in_column(
    call: Call, column: Column, payloads: Mapping[str, PayloadFacts], card: RateCard, *, on: date
) -> Call | str:
    """Return a call as it would be in one of the columns, or the reason why that is unknown.

    `cold`: everything that is cached is written. `warm`: all of it is read. `worst`: cold, with
    a reply of `max_tokens`.
    """
    sampling, *more = call.sampling_calls or (None,)
    payload = payloads.get(call.fingerprint or "")
    # The bill of a reply says itself what is cached. For a count, the payload's breakpoints do.
    if call.evidence == "counted" and payload is not None and payload.breakpoints:
        if not payload.cached or sampling is None or more:
            return NOT_SPLIT
        short, long = payload.cached.get("5m", 0), payload.cached.get("1h", 0)
        usage = Usage(
            input_tokens=sampling.usage.prompt_tokens - short - long,
            cache_write_5m_tokens=short,
            cache_write_1h_tokens=long,
            output_tokens=sampling.usage.output_tokens,
        )
        sampling = replace(sampling, usage=usage, may_cache=None)
        call = replace(call, usage=usage, sampling_calls=(sampling,))
    if column != "worst":
        priced = reprice(call, card, on=on, cache_state=column)
        return NO_PRICE if priced.usd is None else priced
    if call.max_tokens is None:
        return NO_BOUND
    if sampling is None or more or sampling.kind != "message" or sampling.sums_calls:
        return SEVERAL_CALLS
    most = max(sampling.usage.output_tokens, call.max_tokens)
    usage = replace(sampling.usage, output_tokens=most)
    # What was refused this time may be answered the next time.
    longest = replace(sampling, usage=usage, refusal=None, most_output_tokens=None)
    # `max_tokens` settles every doubt about the length of the reply.
    settled = tuple(each for each in call.caveats if each.rule.tokens != {"output_tokens"})
    call = replace(call, usage=usage, sampling_calls=(longest,), caveats=settled)
    worst = reprice(call, card, on=on, cache_state="cold")
    high = worst.usd_high
    return NO_PRICE if high is None else replace(worst, usd=high, usd_low=high)


def at_worst(call: Call, payloads: Mapping[str, PayloadFacts], card: RateCard, *, on: date) -> Call:
    """Return a call at its worst; one of unknown worst case costs at least what it costs now."""
    worst = in_column(call, "worst", payloads, card, on=on)
    if not isinstance(worst, str):
        return worst
    why = () if call.usd is None or worst == NO_PRICE else (_CAVEATS[worst],)
    return replace(call, usd=None, usd_high=None, caveats=sorted_caveats([*call.caveats, *why]))

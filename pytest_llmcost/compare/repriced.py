"""The calls of a run as they would be with another cache, or at their worst."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Literal

from msgspec.structs import replace

from pytest_llmcost.call import Call, reprice
from pytest_llmcost.ledger.ledger import PayloadFacts
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.prices.usage import WRITTEN, Usage

Column = Literal["worst", "cold", "warm"]


def in_column(
    call: Call, column: Column, payloads: Mapping[str, PayloadFacts], card: RateCard, *, on: date
) -> Call | str:
    """Return a call as it would be in one of the columns, or the caveat for which that is unknown.

    `cold`: everything that is cached is written. `warm`: all of it is read. `worst`: cold, with
    a reply of `max_tokens`. The caveat is empty if it only has no price.
    """
    sampling, *more = call.sampling_calls or (None,)
    payload = payloads.get(call.fingerprint or "")
    # The bill of a reply says itself what is cached. For a count, the payload's breakpoints do.
    if call.evidence == "counted" and payload is not None and payload.breakpoints:
        if not payload.cached or sampling is None or more:
            return "uncounted: cached prefixes"
        written = {name: payload.cached.get(life, 0) for life, name in WRITTEN.items()}
        usage = Usage(
            input_tokens=sampling.usage.prompt_tokens - sum(written.values()),
            output_tokens=sampling.usage.output_tokens,
            **written,
        )
        sampling = replace(sampling, usage=usage, may_cache=None)
        call = replace(call, usage=usage, sampling_calls=(sampling,))
    if column != "worst":
        priced = reprice(call, card, on=on, cache_state=column)
        return "" if priced.usd is None else priced
    if call.max_tokens is None:
        return "unbounded-output: no max_tokens, or several sampling calls are possible"
    if sampling is None or more or sampling.kind != "message" or sampling.sums_calls:
        return "unbounded-output: several sampling calls"
    most = max(sampling.usage.output_tokens, call.max_tokens)
    usage = replace(sampling.usage, output_tokens=most)
    # What was refused this time may be answered the next time.
    longest = replace(sampling, usage=usage, refusal=None, most_output_tokens=None)
    # `max_tokens` settles every doubt about the length of the reply.
    settled = tuple(each for each in call.caveats if each.rule.tokens != {"output_tokens"})
    call = replace(call, usage=usage, sampling_calls=(longest,), caveats=settled)
    worst = reprice(call, card, on=on, cache_state="cold")
    high = worst.usd_high
    return "" if high is None else replace(worst, usd=high, usd_low=high)


def at_worst(call: Call, payloads: Mapping[str, PayloadFacts], card: RateCard, *, on: date) -> Call:
    """Return a call at its worst; one of unknown worst case costs at least what it costs now."""
    worst = in_column(call, "worst", payloads, card, on=on)
    if not isinstance(worst, str):
        return worst
    caveats = [*call.caveats] if call.usd is None or not worst else [*call.caveats, worst]
    return replace(call, usd=None, usd_high=None, caveats=sorted_caveats(caveats))

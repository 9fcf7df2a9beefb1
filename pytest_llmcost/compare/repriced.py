"""The calls of a run as they would be: with another cache, at their worst, on another model.

On another model they are priced by counts of the same prompts for it; the reply stays as it was
recorded or stated, because the other model's reply is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import date
from typing import Literal

from msgspec.structs import replace

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.call import Call, reprice
from pytest_llmcost.ledger.ledger import (
    Ledger,
    OtherModel,
    OtherModelRow,
    PayloadFacts,
    make_other_model,
)
from pytest_llmcost.ledger.totals import spenders_of
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.prices.usage import FEES, PROMPT, WRITTEN, Usage

Column = Literal["worst", "cold", "warm"]

SEVERAL_PASSES = "several sampling calls in one, whose prompts cannot be counted"
NO_PAYLOAD = "its payload was not seen"
NO_PRICE_NOW = "its price now is unknown"


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
        return "unbounded-output: no max_tokens, or server tools"
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


def on_other_model(ledger: Ledger, model: str, card: RateCard, *, on: date) -> OtherModel:
    """Price a run's calls on another model, where their prompts have been counted for it.

    `model` is an exact id; card and date are the run's own.
    """
    missing: set[str] = set()
    notes: set[str] = set()

    def moved(call: Call) -> Call | str:
        """Return the call as it would be on the model, or why that is unknown."""
        if (obstacle := obstacle_of(call)) is not None:
            return obstacle
        payload = ledger.payloads.get(call.fingerprint or "")
        if payload is None:
            return NO_PAYLOAD
        if payload.model == model:
            return call
        if model in payload.rejected:
            return f"{model} rejects {payload.rejected[model]}"
        tokens = payload.counts.get(model)
        if tokens is None:
            missing.add(call.fingerprint or "")
            return f"its prompt is not counted for {model}"
        if model in payload.left_out and call.evidence != "counted":
            return f"its prompt is counted without {payload.left_out[model]}"
        (sampling,) = call.sampling_calls
        usage = scale_prompt(sampling.usage, tokens)
        least = card.models[model].min_cacheable_tokens or 0
        is_short = 0 < usage.cached_tokens < least
        if is_short:
            usage = Usage(input_tokens=usage.prompt_tokens, output_tokens=usage.output_tokens)
        terms, most = call.context, sampling.most_read_tokens
        if "inference_geo" in payload.dropped.get(model, ""):
            terms = replace(terms, inference_geo=None)
        most = most and most * tokens // max(1, sampling.usage.prompt_tokens)
        sampling = replace(sampling, model=model, usage=usage, most_read_tokens=most)
        then = reprice(
            replace(call, model=model, usage=usage, sampling_calls=(sampling,), context=terms),
            card,
            on=on,
            cache_state=ledger.cache_state,
        )
        new = set(then.caveats) - set(call.caveats)
        if then.usd is None:
            return "; ".join(sorted(new)) or f"no price on {model}"
        notes.update(new)
        if is_short:
            notes.add(
                f"{model} caches no prefix shorter than {least:,} tokens: shorter ones are "
                "priced uncached there"
            )
        found = card.find(call.model)
        if found and card.about(found.model).tokenizer != card.about(model).tokenizer:
            notes.add(
                f"{model} has another tokenizer than {found.model}: the same reply would be "
                "another number of tokens, too, which is not in these figures"
            )
        return then

    rows = []
    spenders = [each for each in spenders_of(ledger) if each.calls]
    for spender in spenders:
        pairs = [(call, moved(call)) for call in spender.calls]
        unknown = [why for _, why in pairs if isinstance(why, str)]
        now = Amounts.of(call for call, then in pairs if not isinstance(then, str))
        then = Amounts.of(then for _, then in pairs if not isinstance(then, str))
        is_known = now.calls > 0
        rows.append(
            OtherModelRow(
                kind=spender.kind,
                name=spender.name,
                attempt=spender.attempt,
                unknown_calls=len(unknown),
                reasons=tuple(sorted(set(unknown))),
                calls=now.calls,
                input_tokens=now.usage.prompt_tokens if is_known else None,
                input_tokens_then=then.usage.prompt_tokens if is_known else None,
                usd=now.usd if is_known else None,
                usd_then=then.usd if is_known else None,
            )
        )
    used = {call.fingerprint for spender in spenders for call in spender.calls}
    payloads = [payload for key, payload in ledger.payloads.items() if key in used]
    return make_other_model(
        model,
        rows,
        missing=len(missing),
        rejected=Counter(each.rejected[model] for each in payloads if model in each.rejected),
        dropped=Counter(each.dropped[model] for each in payloads if model in each.dropped),
        notes=notes,
    )


def obstacle_of(call: Call) -> str | None:
    """Return why a count of its prompt cannot move a call to another model; None if it can."""
    if call.fingerprint is None:
        return NO_PAYLOAD
    if call.usd is None or not call.sampling_calls:
        return NO_PRICE_NOW
    (sampling, *more) = call.sampling_calls
    is_plain = sampling.kind == "message" and not sampling.sums_calls
    has_fees = any(sampling.usage.only(FEES).values())
    return SEVERAL_PASSES if more or not is_plain or has_fees else None


def scale_prompt(usage: Usage, prompt_tokens: int) -> Usage:
    """Spread another prompt length over the kinds of input in the same proportion.

    The kinds add up to the new length exactly: what rounding leaves goes to those that lost most.

    Example:
        >>> scaled = scale_prompt(Usage(input_tokens=1, cache_read_tokens=2), 100)
        >>> scaled.input_tokens, scaled.cache_read_tokens
        (33, 67)
    """
    whole = usage.prompt_tokens
    if not whole:
        return replace(usage, input_tokens=prompt_tokens)
    shares = {kind: number * prompt_tokens for kind, number in usage.only(PROMPT).items()}
    scaled = {kind: share // whole for kind, share in shares.items()}
    left = prompt_tokens - sum(scaled.values())
    for kind in sorted(PROMPT, key=lambda kind: -(shares[kind] % whole))[:left]:
        scaled[kind] += 1
    return replace(usage, **scaled)

"""The calls of a run on another model, priced by counts of the same prompts for it.

The reply stays as it was recorded or stated, because the other model's reply is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec.structs import asdict, replace

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.call import Call
from pytest_llmcost.compare.baseline import pricing, spenders_by
from pytest_llmcost.ledger.ledger import Figures, Ledger, OtherModel, OtherModelRow
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.prices.usage import FEES, PROMPT, Usage

SEVERAL_PASSES = "several sampling calls in one, whose prompts cannot be counted"
NO_PAYLOAD = "its payload was not seen"
NO_PRICE_NOW = "its price now is unknown"


def with_other_models(ledger: Ledger, models: Iterable[str], card: RateCard) -> Ledger:
    """Add what a run's calls cost on other models, by their exact ids."""
    others = (_on_other_model(ledger, model, card) for model in sorted(set(models)))
    return replace(ledger, other_models=tuple(others))


def _on_other_model(ledger: Ledger, model: str, card: RateCard) -> OtherModel:
    """Price the calls of which the prompts have been counted for the model."""
    price, least = pricing(ledger, card), card.about(model).min_cacheable_tokens or 0
    spenders, repriced = spenders_by(card, ledger)
    missing: set[str] = set()
    notes = set(repriced)

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
        is_short = 0 < usage.cached_tokens < least
        if is_short:
            usage = Usage(input_tokens=usage.prompt_tokens, output_tokens=usage.output_tokens)
        terms, most = call.context, sampling.most_read_tokens
        if "inference_geo" in payload.dropped.get(model, ""):
            terms = replace(terms, inference_geo=None)
        most = most and most * tokens // max(1, sampling.usage.prompt_tokens)
        sampling = replace(sampling, model=model, usage=usage, most_read_tokens=most)
        then = price(
            replace(call, model=model, usage=usage, sampling_calls=(sampling,), context=terms)
        )
        new = set(then.caveats) - set(call.caveats)
        if then.usd is None:
            return "; ".join(sorted(new))
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
    for spender in (each for each in spenders if each.calls):
        pairs = [(call, moved(call)) for call in spender.calls]
        unknown = [why for _, why in pairs if isinstance(why, str)]
        known = [(call, then) for call, then in pairs if not isinstance(then, str)]
        now, then = Amounts.of(call for call, _ in known), Amounts.of(then for _, then in known)
        is_known = now.calls > 0
        rows.append(
            OtherModelRow(
                kind=spender.kind,
                name=spender.name,
                attempt=spender.attempt,
                unknown_calls=len(unknown),
                unbounded_calls=sum(any(each.usd_high is None for each in pair) for pair in known),
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
    rejected = Counter(each.rejected[model] for each in payloads if model in each.rejected)
    dropped = Counter(each.dropped[model] for each in payloads if model in each.dropped)
    return OtherModel(
        **asdict(sum(rows, Figures())),
        model=model,
        rows=tuple(rows),
        missing=len(missing),
        rejected=dict(sorted(rejected.items())),
        dropped=dict(sorted(dropped.items())),
        notes=tuple(sorted(notes)),
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

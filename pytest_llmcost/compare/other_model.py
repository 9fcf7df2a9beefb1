"""The calls of a run on another model, by counts of the same prompts for it.

The reply stays as it was recorded or stated, because the other model's reply is unknown.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from typing import cast

from msgspec.structs import replace

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.call import Call, reprice
from pytest_llmcost.ledger.ledger import Ledger, OtherModel, OtherModelRow, make_other_model
from pytest_llmcost.ledger.totals import spenders_of
from pytest_llmcost.prices.bill import CacheState
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.prices.usage import Usage

SEVERAL_PASSES = "several sampling calls in one, whose prompts cannot be counted"
NO_PAYLOAD = "its payload was not seen"
NO_PRICE_NOW = "its price now is unknown"

_KINDS = ("input_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "cache_read_tokens")


def on_other_model(ledger: Ledger, model: str, card: RateCard, *, on: date) -> OtherModel:
    """Price a run's calls on another model, where their prompts have been counted for it.

    `model` is an exact id; card and date are the run's own.
    """
    spenders = [each for each in spenders_of(ledger) if each.calls]
    move = _Move(ledger, model, card, on)
    rows = []
    for spender in spenders:
        moved = [(call, move(call)) for call in spender.calls]
        unknown = [why for _, why in moved if isinstance(why, str)]
        now = Amounts.of(call for call, then in moved if not isinstance(then, str))
        then = Amounts.of(then for _, then in moved if not isinstance(then, str))
        is_known = len(unknown) < len(moved)
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
        missing=len(move.missing),
        rejected=Counter(each.rejected[model] for each in payloads if model in each.rejected),
        dropped=Counter(each.dropped[model] for each in payloads if model in each.dropped),
        notes=move.notes,
    )


def obstacle_of(call: Call) -> str | None:
    """Return why a count of its prompt cannot move a call to another model; None if it can."""
    if call.fingerprint is None:
        return NO_PAYLOAD
    if call.usd is None or not call.sampling_calls:
        return NO_PRICE_NOW
    (sampling, *more) = call.sampling_calls
    is_plain = sampling.kind == "message" and not sampling.sums_calls
    return SEVERAL_PASSES if more or not is_plain or sampling.usage.web_search_requests else None


@dataclass
class _Move:
    """Moves calls to another model; collects what is missing for that, and what to note."""

    ledger: Ledger
    model: str
    card: RateCard
    on: date
    missing: set[str] = field(default_factory=set)
    notes: set[str] = field(default_factory=set)

    def __call__(self, call: Call) -> Call | str:
        """Return the call as it would be on the model, or why that is unknown."""
        if (obstacle := obstacle_of(call)) is not None:
            return obstacle
        payload = self.ledger.payloads.get(call.fingerprint or "")
        if payload is None:
            return NO_PAYLOAD
        if payload.model == self.model:
            return call
        if self.model in payload.rejected:
            return f"{self.model} rejects {payload.rejected[self.model]}"
        tokens = payload.counts.get(self.model)
        if tokens is None:
            self.missing.add(call.fingerprint or "")
            return f"its prompt is not counted for {self.model}"
        if self.model in payload.left_out and call.evidence != "counted":
            return f"its prompt is counted without {payload.left_out[self.model]}"
        (sampling,) = call.sampling_calls
        usage = scale_prompt(sampling.usage, tokens)
        least = self.card.models[self.model].min_cacheable_tokens or 0
        is_short = 0 < usage.cached_tokens < least
        if is_short:
            usage = Usage(input_tokens=usage.prompt_tokens, output_tokens=usage.output_tokens)
        terms = call.context
        if "inference_geo" in payload.dropped.get(self.model, ""):
            terms = replace(terms, inference_geo=None)
        most = sampling.most_read_tokens
        moved = replace(
            sampling,
            model=self.model,
            usage=usage,
            most_read_tokens=most and most * tokens // max(1, sampling.usage.prompt_tokens),
        )
        then = reprice(
            replace(call, model=self.model, usage=usage, sampling_calls=(moved,), context=terms),
            self.card,
            on=self.on,
            cache_state=cast("CacheState", self.ledger.cache_state),
        )
        new = set(then.caveats) - set(call.caveats)
        if then.usd is None:
            return "; ".join(sorted(new)) or f"no price on {self.model}"
        self.notes.update(new)
        if is_short:
            self.notes.add(
                f"{self.model} caches no prefix shorter than {least:,} tokens: shorter ones are "
                "priced uncached there"
            )
        found = self.card.find(call.model)
        if found and self.card.tokenizer(found.model) != self.card.tokenizer(self.model):
            self.notes.add(
                f"{self.model} has another tokenizer than {found.model}: the same reply would be "
                "another number of tokens, too, which is not in these figures"
            )
        return then


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
    shares = {kind: getattr(usage, kind) * prompt_tokens for kind in _KINDS}
    scaled = {kind: share // whole for kind, share in shares.items()}
    left = prompt_tokens - sum(scaled.values())
    for kind in sorted(_KINDS, key=lambda kind: -(shares[kind] % whole))[:left]:
        scaled[kind] += 1
    return replace(usage, **scaled)

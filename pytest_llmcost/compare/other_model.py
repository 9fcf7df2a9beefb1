"""What if: the calls of a run on another model, by counts of the same prompts for it.

Data flow: Report with the counts in its payloads, RateCard -> `switch_model` -> Switch. Pure.
The reply stays as it was recorded or stated: nobody can know what the other model would say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Literal, NamedTuple, cast

from msgspec.structs import replace

from pytest_llmcost.call import Call, reprice
from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.ledger.ledger import (
    Ledger,
    OtherModel,
    OtherModelRow,
    PayloadFacts,
    make_other_model,
)
from pytest_llmcost.ledger.totals import spenders_of
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.bill import CacheState
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.prices.usage import Usage

SEVERAL_PASSES = "several sampling calls in one, whose prompts cannot be counted"
NO_PAYLOAD = "its payload was not seen"
NO_PRICE_NOW = "its price now is unknown"

_KINDS = ("input_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "cache_read_tokens")


def on_other_model(ledger: Ledger, model: str, card: RateCard, *, on: date) -> OtherModel:
    """Price a run's calls on another model, where their prompts have been counted for it.

    Args:
        ledger: A run.
        model: The exact id of the other model.
        card: The run's prices.
        on: The run's price date.
    """
    asked = _Asked(ledger.payloads, model, card, on, cast("CacheState", ledger.cache_state))
    rows = [_row(asked, *each) for each in spenders_of(ledger)]
    used = _known(
        ledger, (call.fingerprint for _, _, _, calls in spenders_of(ledger) for call in calls)
    )
    return make_other_model(
        model,
        rows,
        missing=len(asked.missing),
        rejected=_tally(payload.rejected.get(model) for payload in used),
        dropped=_tally(payload.dropped.get(model) for payload in used),
        notes=asked.notes,
    )


def obstacle_of(call: Call) -> str | None:
    """Say why a call cannot be moved to another model by a count of its prompt, if it cannot."""
    if call.fingerprint is None:
        return NO_PAYLOAD
    if call.usd is None or not call.sampling_calls:
        return NO_PRICE_NOW
    (sampling, *more) = call.sampling_calls
    if (
        more
        or sampling.kind != "message"
        or sampling.sums_calls
        or sampling.usage.web_search_requests
    ):
        return SEVERAL_PASSES
    return None


def _known(ledger: Ledger, fingerprints: Iterable[str | None]) -> list[PayloadFacts]:
    found = {fingerprint for fingerprint in fingerprints if fingerprint in ledger.payloads}
    return [ledger.payloads[fingerprint] for fingerprint in found if fingerprint is not None]


def _tally(texts: Iterable[str | None]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for text in texts:
        if text is not None:
            numbers[text] = numbers.get(text, 0) + 1
    return numbers


class _Asked:
    """What is asked of every call, and what is found out on the way."""

    def __init__(
        self,
        payloads: Mapping[str, PayloadFacts],
        model: str,
        card: RateCard,
        on: date,
        cache_state: CacheState,
    ) -> None:
        self.payloads, self.model, self.card, self.on, self.cache_state = (
            payloads,
            model,
            card,
            on,
            cache_state,
        )
        self.least = _least_cacheable(card, model, on)
        self.missing: set[str] = set()
        self.notes: set[str] = set()


def _least_cacheable(card: RateCard, model: str, on: date) -> int:
    try:
        return card.min_cacheable_tokens(model, on) or 0
    except UnknownModelError:  # no price on that day: each call will say so
        return 0


class _Pair(NamedTuple):
    """A call now and then."""

    now: Call
    then: Call


def _row(
    asked: _Asked,
    kind: Literal["test", "fixture", "outside"],
    name: str,
    attempt: int,
    calls: Sequence[Call],
) -> OtherModelRow:
    moved = [_move(asked, call) for call in calls]
    pairs = [each for each in moved if isinstance(each, _Pair)]
    reasons = sorted({each for each in moved if isinstance(each, str)})
    if not pairs:
        return OtherModelRow(
            kind=kind,
            name=name,
            attempt=attempt,
            unknown_calls=len(calls),
            reasons=tuple(reasons),
        )
    return OtherModelRow(
        kind=kind,
        name=name,
        attempt=attempt,
        calls=len(pairs),
        unknown_calls=len(calls) - len(pairs),
        input_tokens=sum(pair.now.billed_usage.prompt_tokens for pair in pairs),
        input_tokens_then=sum(pair.then.billed_usage.prompt_tokens for pair in pairs),
        usd=_sum_usd(pair.now for pair in pairs),
        usd_then=_sum_usd(pair.then for pair in pairs),
        reasons=tuple(reasons),
    )


def _sum_usd(calls: Iterable[Call]) -> Decimal:
    total = Decimal(0)
    for call in calls:
        total = EXACT.add(total, call.usd or Decimal(0))  # priced, or it would be no pair
    return total


def _move(asked: _Asked, call: Call) -> _Pair | str:
    """Return a call as it is and as it would be, or why the latter is unknown."""
    obstacle = obstacle_of(call)
    if obstacle is not None:
        return obstacle
    fingerprint = call.fingerprint or ""
    payload = asked.payloads.get(fingerprint)
    if payload is None:
        return NO_PAYLOAD
    if payload.model == asked.model:
        return _Pair(call, call)
    if asked.model in payload.rejected:
        return f"{asked.model} rejects {payload.rejected[asked.model]}"
    tokens = payload.counts.get(asked.model)
    if tokens is None:
        asked.missing.add(fingerprint)
        return f"its prompt is not counted for {asked.model}"
    if asked.model in payload.left_out and call.evidence != "counted":
        return f"its prompt is counted without {payload.left_out[asked.model]}"
    return _priced(asked, call, payload, tokens)


def _priced(asked: _Asked, call: Call, payload: PayloadFacts, tokens: int) -> _Pair | str:
    (sampling,) = call.sampling_calls
    usage = scale_prompt(sampling.usage, tokens)
    if 0 < usage.cached_tokens < asked.least:
        usage = _uncached(usage)
        asked.notes.add(
            f"{asked.model} caches no prefix shorter than {asked.least:,} tokens: shorter ones "
            "are priced uncached there"
        )
    moved = replace(sampling, model=asked.model, usage=usage, band_tokens=None)
    context = call.context
    if "inference_geo" in payload.dropped.get(asked.model, ""):
        context = replace(context, inference_geo=None)
    then = reprice(
        replace(call, model=asked.model, usage=usage, sampling_calls=(moved,), context=context),
        asked.card,
        on=asked.on,
        cache_state=asked.cache_state,
    )
    new = set(then.caveats) - set(call.caveats)
    if then.usd is None:
        return "; ".join(sorted(new)) or f"no price on {asked.model}"
    asked.notes.update(new)
    _note_tokenizer(asked, call)
    return _Pair(call, then)


def _note_tokenizer(asked: _Asked, call: Call) -> None:
    found = asked.card.find(call.model)
    before = asked.card.tokenizer(found.model) if found else None
    if found and before != asked.card.tokenizer(asked.model):
        asked.notes.add(
            f"{asked.model} has another tokenizer than {found.model}: the same reply would be "
            "another number of tokens, too, which is not in these figures"
        )


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
    by_loss = sorted(_KINDS, key=lambda kind: (-(shares[kind] % whole), _KINDS.index(kind)))
    for kind in by_loss[:left]:
        scaled[kind] += 1
    return replace(usage, **scaled)


def _uncached(usage: Usage) -> Usage:
    return replace(
        usage,
        input_tokens=usage.prompt_tokens,
        cache_write_5m_tokens=0,
        cache_write_1h_tokens=0,
        cache_read_tokens=0,
    )

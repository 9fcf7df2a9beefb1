"""Call: one billable request with its price, and the only way to make one.

A response says what was used (`Answer`); on a date, with a rate card, that becomes a `Call`. There
is no call without a price list, so calls without a price cannot be added up by mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.bill import CacheState, SamplingCost, in_cache_state, total
from pytest_llmcost.prices.caveats import Caveat, sorted_caveats
from pytest_llmcost.prices.model_names import mask_account
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.prices.usage import Platform, SamplingCall, Terms, Usage
from pytest_llmcost.responses.message import Answer

Evidence = Literal["billed", "counted", "recounted", "stale", "declared", "mocked"]
Phase = Literal["setup", "call", "teardown"]

_ZERO = Decimal(0)
_BOUNDED_BY = {
    "truncated-stream": "most_output_tokens",
    "usage-disagrees": "usage_high",
    "changed-cache": "usage_low",
}
"""Caveats whose bound a sampling call states, in this field, so that the bill has it already."""
_UNKNOWN_ENDPOINT: Mapping[str, Platform] = {
    "bedrock": "bedrock-unknown",
    "vertex": "vertex-unknown",
}


class PricedSamplingCall(SamplingCall, frozen=True, kw_only=True, gc=False):
    """A sampling call with its list price in US dollars; None if it cannot be priced."""

    usd: Decimal | None = None


class Before(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a call used and cost as recorded, before its prompt changed."""

    input_tokens: int
    """The whole prompt, caches included."""
    usd: Decimal | None = None
    """At the prices of the run that found the change; None where it is unknown."""


class Call(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One billable request: its usage, where the numbers come from, its price and its bounds."""

    model: str
    """The serving model as the response names it, resolved to its exact id where known."""
    fingerprint: str | None = None
    evidence: Evidence
    phase: Phase | None = None
    live: bool | None = False
    """Whether it went over the network in this run; None is unknown and counts as live."""
    at: str | None = None
    """When it was made, UTC; of live calls only."""
    stream: bool = False
    attempts: int = 1
    """How often the client sent it before an answer came."""
    lost_attempts: int | None = None
    """How many of them got no answer and may have been billed; None for none."""
    usage: Usage = Usage()
    """What the response's top level states, in our categories."""
    sampling_calls: tuple[PricedSamplingCall, ...] = ()
    max_tokens: int | None = None
    """The most that its reply may be; None if the request is unknown or does not limit it."""
    context: Terms = Terms()
    usd: Decimal | None = None
    """List price on the price date; None if it is unknown, never zero."""
    usd_low: Decimal = Decimal(0)
    usd_high: Decimal | None = None
    """None if nothing bounds it."""
    declared_usd: Decimal | None = None
    """A price the test stated itself; it is the call's price, and its sampling calls have none."""
    before: Before | None = None
    """Only where the prompt changed since it was recorded, and the recording says so."""
    caveats: tuple[Caveat, ...] = ()
    """Sorted; each the name of a rule, with a detail after a colon if there is one."""

    @property
    def billed_usage(self) -> Usage:
        """The tokens that are charged: all sampling calls together, without unbilled refusals."""
        return sum((each.usage for each in self.sampling_calls if is_billed(each)), Usage())

    @property
    def lost_usage(self) -> Usage | None:
        """The most that each of its lost attempts used, or None if nothing bounds them."""
        # They had the same prompt, at worst none of it cached yet, and replies of `max_tokens`.
        if not self.lost_attempts or self.max_tokens is None or len(self.sampling_calls) != 1:
            return None
        uncached = in_cache_state(self.sampling_calls[0], "cold")
        return replace(uncached, output_tokens=self.max_tokens)

    def has_caveat(self, *names: str) -> bool:
        """Return whether one of its caveats has one of these names."""
        return any(caveat.name in names for caveat in self.caveats)


def is_billed(sampling: PricedSamplingCall) -> bool:
    """Return whether a sampling call is charged; some refusals before any output are not."""
    return sampling.refusal is None or sampling.usd != 0


def price(
    answer: Answer,
    card: RateCard,
    *,
    on: date,
    cache_state: CacheState = "as-billed",
    evidence: Evidence = "billed",
    **facts: Any,
) -> Call:
    """Price what a response said, or what a count predicts.

    Args:
        answer: What was used.
        card: The rates.
        on: The price date, UTC.
        cache_state: How cache reads and writes count.
        evidence: Where the numbers come from.
        facts: Other fields of `Call`: fingerprint, live, at, attempts, lost_attempts, max_tokens,
            phase.
    """
    caveats = answer.caveats
    # Code that ran beside certain server tools is free: which ones, the rate card says.
    if answer.code_beside is not None and not card.is_code_execution_free(answer.code_beside):
        caveats = sorted_caveats([*caveats, "code-execution-hours"])
    terms = answer.terms
    if terms.platform is None and answer.asked_model is not None:
        # The response may name the model plainly where the request spelled it as a cloud does.
        asked = card.find(answer.asked_model)
        terms = replace(terms, platform=asked.platform if asked else None)
    before = None
    if answer.before is not None:
        old = price(answer.before, card, on=on, cache_state=cache_state)
        before = Before(input_tokens=old.billed_usage.prompt_tokens, usd=old.usd)
    read = Call(
        model=answer.model,
        evidence=evidence,
        usage=answer.usage,
        sampling_calls=tuple(_priced(each, None) for each in answer.sampling_calls),
        context=terms,
        stream=answer.stream,
        declared_usd=answer.declared_usd,
        caveats=caveats,
        before=before,
        **facts,
    )
    return reprice(read, card, on=on, cache_state=cache_state)


def reprice(call: Call, card: RateCard, *, on: date, cache_state: CacheState = "as-billed") -> Call:
    """Return the same request on another card, date or cache state; only its price changes.

    Without a price for one of its models the call's price is unknown, never zero, and what the
    other sampling calls cost is its low bound.
    """
    # What a card found is for the new card to find again; it was never the answer's own.
    own = [each for each in call.caveats if not each.rule.by_card]
    terms = call.context
    if call.has_caveat("unknown-endpoint"):
        # A card without a regional multiplier prices the plain cloud; another may have one.
        terms = replace(terms, platform=_UNKNOWN_ENDPOINT.get(terms.platform or "", terms.platform))
    names = dict.fromkeys([call.model, *(each.model for each in call.sampling_calls)])
    known = {name: card.find(name) for name in names}
    if terms.platform is None:  # a model's spelling may name the cloud if nothing else does
        clouds = (found.platform for found in known.values() if found)
        terms = replace(terms, platform=next(filter(None, clouds), None))
    resolved = known[call.model]
    # What is priced gets into files; an ARN names an AWS account.
    call = replace(
        call,
        model=resolved.model if resolved else mask_account(call.model),
        context=terms,
        sampling_calls=tuple(
            replace(each, model=mask_account(each.model), usd=None) for each in call.sampling_calls
        ),
        caveats=tuple(own),
    )
    if not call.sampling_calls or call.declared_usd is not None:
        return _bounded(call, call.declared_usd, call.declared_usd or _ZERO, call.declared_usd, own)
    costs: list[SamplingCost | None] = []
    found: set[str] = set()
    for sampling in call.sampling_calls:
        try:
            costs.append(card.price_sampling(sampling, terms, on=on, cache_state=cache_state))
        except UnknownModelError as error:
            costs.append(None)
            found.add(f"unknown-model: {error}")
    cost = total([each for each in costs if each is not None])
    usd, high = (cost.usd, cost.high) if None not in costs else (None, None)
    bounded = {
        name
        for name, field in _BOUNDED_BY.items()
        if any(getattr(each, field) is not None for each in call.sampling_calls)
    }
    lost = call.lost_usage
    if lost is not None and high is not None:
        bounded.add("lost-answer")
        uncertain = dict.fromkeys(("refusal", "usage_low", "usage_high", "most_output_tokens"))
        attempt = replace(call.sampling_calls[0], usage=lost, **uncertain)
        most = card.price_sampling(attempt, terms, on=on).high
        high = None if most is None else EXACT.fma(most, call.lost_attempts or 0, high)
    priced = replace(
        call,
        sampling_calls=tuple(map(_priced, call.sampling_calls, costs)),
        caveats=sorted_caveats([*own, *cost.caveats, *found]),
    )
    return _bounded(priced, usd, cost.low, high, [each for each in own if each.name not in bounded])


def _priced(sampling: SamplingCall, cost: SamplingCost | None) -> PricedSamplingCall:
    fields = {name: getattr(sampling, name) for name in SamplingCall.__struct_fields__}
    if cost is not None:
        fields |= {"model": cost.sampling.model, "usd": cost.usd}
    return PricedSamplingCall(**fields)


def _bounded(
    call: Call, usd: Decimal | None, low: Decimal, high: Decimal | None, caveats: Iterable[Caveat]
) -> Call:
    """Return a call with its price, the bounds open as the answer's caveats say."""
    for each in caveats:
        low = _ZERO if each.may_be_lower else low
        high = None if each.may_be_higher else high
    return replace(call, usd=usd, usd_low=low, usd_high=high)

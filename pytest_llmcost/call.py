"""Call: one billable request with its price, and the only way to make one.

A response says what was used (`Answer`); on a date, with a rate card, that becomes a `Call`. A call
without a rate card does not exist, so nothing can add up calls that nobody has priced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
_UNKNOWN_ENDPOINT: Mapping[str, Platform] = {
    "bedrock": "bedrock-unknown",
    "vertex": "vertex-unknown",
}


class PricedSamplingCall(SamplingCall, frozen=True, kw_only=True, gc=False):
    """A sampling call with its list price in US dollars; None where it cannot be priced."""

    usd: Decimal | None = None


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
    """When it was made, UTC, live calls only."""
    stream: bool = False
    attempts: int = 1
    """How often the client sent it before an answer came."""
    lost_attempts: int | None = None
    """How many of them got no answer, and may be billed all the same; None for none."""
    usage: Usage = Usage()
    """What the response's top level states, in our categories."""
    sampling_calls: tuple[PricedSamplingCall, ...] = ()
    max_tokens: int | None = None
    """The most that its reply may be; None where the request is unknown or does not bound it."""
    context: Terms = Terms()
    usd: Decimal | None = None
    """List price on the price date; None where it is unknown, never zero for that."""
    usd_low: Decimal = Decimal(0)
    usd_high: Decimal | None = None
    """None where nothing bounds it."""
    declared_usd: Decimal | None = None
    """A price the test stated itself; it is the call's price, and its sampling calls have none."""
    caveats: tuple[Caveat, ...] = ()
    """Sorted; each the name of a rule, with a detail behind a colon where there is one."""

    @property
    def billed_usage(self) -> Usage:
        """The tokens that are charged: all sampling calls together, without unbilled refusals."""
        return sum((each.usage for each in self.sampling_calls if is_billed(each)), Usage())

    @property
    def lost_usage(self) -> Usage | None:
        """The most that each of its lost attempts used; None where nothing bounds them."""
        return _lost_usage(self.lost_attempts, self.max_tokens, self.sampling_calls)

    def has_caveat(self, *names: str) -> bool:
        """Whether one of its caveats has one of these names."""
        return any(caveat.name in names for caveat in self.caveats)


def _lost_usage(
    lost_attempts: int | None, max_tokens: int | None, sampling_calls: Sequence[SamplingCall]
) -> Usage | None:
    # They had the same prompt, at worst none of it cached yet, and replies of `max_tokens`.
    if not lost_attempts or max_tokens is None or len(sampling_calls) != 1:
        return None
    return replace(in_cache_state(sampling_calls[0], "cold"), output_tokens=max_tokens)


def is_billed(sampling: PricedSamplingCall) -> bool:
    """Whether a sampling call is charged; some refusals before any output are not."""
    return sampling.refusal is None or sampling.usd != 0


def price(
    answer: Answer,
    card: RateCard,
    *,
    on: date,
    cache_state: CacheState = "as-billed",
    evidence: Evidence = "billed",
    lost_attempts: int | None = None,
    max_tokens: int | None = None,
    **facts: Any,
) -> Call:
    """Price what a response said, or what a count predicts.

    Args:
        answer: What was used.
        card: The rates.
        on: The price date, UTC.
        cache_state: How cache reads and writes count.
        evidence: Where the numbers come from.
        lost_attempts: How many attempts got no answer before this one did.
        max_tokens: The most that its reply may be.
        facts: Other fields of `Call`: fingerprint, live, at, attempts, phase.
    """
    own: set[str] = {*answer.caveats}
    # Code that ran beside certain server tools is free: which ones, the rate card says.
    if answer.code_beside is not None and not card.is_code_execution_free(answer.code_beside):
        own.add("code-execution-hours")
    # The response may name the model plainly where the request spelled it as a cloud does.
    spellings = (answer.asked_model, answer.model, *(each.model for each in answer.sampling_calls))
    fields = _price(
        card,
        on,
        cache_state,
        model=answer.model,
        spellings=[name for name in spellings if name],
        sampling_calls=answer.sampling_calls,
        terms=answer.terms,
        caveats=sorted_caveats(own),
        declared_usd=answer.declared_usd,
        lost_attempts=lost_attempts,
        max_tokens=max_tokens,
    )
    return Call(
        evidence=evidence,
        lost_attempts=lost_attempts,
        max_tokens=max_tokens,
        usage=answer.usage,
        stream=answer.stream,
        declared_usd=answer.declared_usd,
        **fields,
        **facts,
    )


def reprice(call: Call, card: RateCard, *, on: date, cache_state: CacheState = "as-billed") -> Call:
    """Return the same request on another card, date or cache state; only its price changes."""
    # What a card found is for the new card to find again; it was never the answer's own.
    own = tuple(each for each in call.caveats if not each.rule.by_card)
    terms = call.context
    if call.has_caveat("unknown-endpoint"):
        # A card without a regional multiplier prices the plain cloud; another may have one.
        terms = replace(terms, platform=_UNKNOWN_ENDPOINT.get(terms.platform or "", terms.platform))
    fields = _price(
        card,
        on,
        cache_state,
        model=call.model,
        spellings=[call.model, *(each.model for each in call.sampling_calls)],
        sampling_calls=call.sampling_calls,
        terms=terms,
        caveats=own,
        declared_usd=call.declared_usd,
        lost_attempts=call.lost_attempts,
        max_tokens=call.max_tokens,
    )
    return replace(call, **fields)


def _price(
    card: RateCard,
    on: date,
    cache_state: CacheState,
    *,
    model: str,
    spellings: Iterable[str],
    sampling_calls: tuple[SamplingCall, ...],
    terms: Terms,
    caveats: tuple[Caveat, ...],
    declared_usd: Decimal | None,
    lost_attempts: int | None,
    max_tokens: int | None,
) -> dict[str, Any]:
    """Return the fields of a call that depend on the card.

    Without a price for one of its models the call's price is unknown, never zero, and what the
    other sampling calls cost is its low bound.
    """
    # What is priced gets into files; an ARN names an AWS account.
    model = mask_account(model)
    sampling_calls = tuple(replace(each, model=mask_account(each.model)) for each in sampling_calls)
    if terms.platform is None:
        clouds = (known.platform for name in spellings if (known := card.find(name)))
        terms = replace(terms, platform=next(filter(None, clouds), None))
    if not sampling_calls or declared_usd is not None:
        low, high = _open_bounds(caveats, declared_usd or _ZERO, declared_usd)
        kept = tuple(_priced(each, None) for each in sampling_calls)
        return {
            "model": model,
            "context": terms,
            "sampling_calls": kept,
            "usd": declared_usd,
            "usd_low": low,
            "usd_high": high,
            "caveats": caveats,
        }
    costs: list[SamplingCost | None] = []
    unknown: set[str] = set()
    for sampling in sampling_calls:
        try:
            costs.append(card.price_sampling(sampling, terms, on=on, cache_state=cache_state))
        except UnknownModelError as error:
            costs.append(None)
            unknown.add(f"unknown-model: {error}")
    cost = total([each for each in costs if each is not None])
    high = None if unknown else cost.high
    bounded: set[str] = set()
    if any(each.most_output_tokens is not None for each in sampling_calls):
        bounded.add("truncated-stream")  # by its `max_tokens`, which the card has used
    if any(each.usage_low is not None for each in sampling_calls):
        bounded.add("changed-cache")  # by a read in place of the write
    lost = _lost_usage(lost_attempts, max_tokens, sampling_calls)
    if lost is not None and high is not None:
        bounded.add("lost-answer")
        attempt = replace(sampling_calls[0], usage=lost, refusal=None, most_output_tokens=None)
        most = card.price_sampling(attempt, terms, on=on).high
        high = None if most is None else EXACT.fma(most, lost_attempts or 0, high)
    low, high = _open_bounds([each for each in caveats if each.name not in bounded], cost.low, high)
    found = card.find(model)
    return {
        "model": found.model if found else model,
        "context": terms,
        "sampling_calls": tuple(map(_priced, sampling_calls, costs)),
        "usd": None if unknown else cost.usd,
        "usd_low": low,
        "usd_high": high,
        "caveats": sorted_caveats([*caveats, *cost.caveats, *unknown]),
    }


def _priced(sampling: SamplingCall, cost: SamplingCost | None) -> PricedSamplingCall:
    fields = {name: getattr(sampling, name) for name in SamplingCall.__struct_fields__}
    if cost is not None:
        fields |= {"model": cost.sampling.model, "usd": cost.usd}
    return PricedSamplingCall(**fields)


def _open_bounds(
    caveats: Iterable[Caveat], low: Decimal, high: Decimal | None
) -> tuple[Decimal, Decimal | None]:
    """Open the bounds as the caveats say that did not come from the card."""
    if any(each.may_be_lower for each in caveats):
        low = _ZERO
    return low, None if any(each.may_be_higher for each in caveats) else high

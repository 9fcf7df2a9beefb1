"""Call: one billable request, whatever told us of it.

Data flow: a count, a response or a statement -> Call (unpriced) -> `price_call` -> Call with
its price and bounds -> the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Literal

import msgspec

from pytest_llmcost.aws_arn import mask_account
from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.bill import CacheState, SamplingCost, in_cache_state, total
from pytest_llmcost.prices.caveats import (
    caveat_name,
    may_be_higher,
    may_be_lower,
    without_card_caveats,
)
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.prices.usage import Platform, SamplingCall, Terms, Usage

Evidence = Literal["billed", "counted", "recounted", "stale", "declared"]
Phase = Literal["setup", "call", "teardown"]

_ZERO = Decimal(0)
_UNKNOWN_ENDPOINT: Mapping[str, Platform] = {
    "bedrock": "bedrock-unknown",
    "vertex": "vertex-unknown",
}


class PricedSamplingCall(SamplingCall, frozen=True, kw_only=True, gc=False):
    """A leg with its list price in US dollars; nothing where it cannot be priced."""

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
    """A price the test stated itself; it is the call's price, and its legs have none."""
    caveats: tuple[str, ...] = ()
    """Sorted; each the name of a `Caveat`, with a detail behind a colon where there is one."""

    @property
    def lost_usage(self) -> Usage | None:
        """The most that each of its lost attempts used; None where nothing bounds them.

        They had the same prompt, at worst none of it cached yet, and replies of `max_tokens`.
        """
        if not self.lost_attempts or self.max_tokens is None or len(self.sampling_calls) != 1:
            return None
        return msgspec.structs.replace(
            in_cache_state(self.sampling_calls[0], "cold"), output_tokens=self.max_tokens
        )

    @property
    def billed_usage(self) -> Usage:
        """The tokens one pays for: all legs together, unbilled refusals left out."""
        return sum(
            (sampling.usage for sampling in self.sampling_calls if _is_billed(sampling)), Usage()
        )


def _is_billed(sampling: PricedSamplingCall) -> bool:
    return sampling.refusal is None or sampling.usd != 0


def price_call(
    call: Call, card: RateCard, *, on: date, cache_state: CacheState = "as-billed"
) -> Call:
    """Return a call with its list price, bounds and the card's caveats; may be priced again.

    Without a price for one of its models the call's price is unknown, never zero, and what the
    other legs cost is its low bound. Never raises for an unknown model.
    """
    call = _without_accounts(call)
    kept = without_card_caveats(call.caveats)
    if not call.sampling_calls or call.declared_usd is not None:
        low, high = _bounds(kept, call.declared_usd or _ZERO, call.declared_usd)
        return msgspec.structs.replace(
            call, usd=call.declared_usd, usd_low=low, usd_high=high, caveats=kept
        )
    context = _context_of(call, card)
    priced = [
        _price_sampling(sampling, card, context, on, cache_state)
        for sampling in call.sampling_calls
    ]
    unknown = {
        f"unknown-model: {sampling}"
        for sampling in priced
        if isinstance(sampling, UnknownModelError)
    }
    cost = total([sampling for sampling in priced if isinstance(sampling, SamplingCost)])
    bounded = set()
    if any(sampling.most_output_tokens is not None for sampling in call.sampling_calls):
        bounded.add("truncated-stream")
    highest = None if unknown else cost.high
    if call.lost_usage is not None and highest is not None:
        bounded.add("lost-answer")
        lost = msgspec.structs.replace(
            call.sampling_calls[0], usage=call.lost_usage, refusal=None, most_output_tokens=None
        )
        each = card.price_sampling(lost, context, on=on).high
        attempts = call.lost_attempts or 0
        highest = None if each is None else EXACT.fma(each, attempts, highest)
    exact = tuple(each for each in kept if caveat_name(each) not in bounded)
    low, high = _bounds(exact, cost.low, highest)
    found = card.find(call.model)
    return msgspec.structs.replace(
        call,
        model=found.model if found else call.model,
        context=context,
        sampling_calls=tuple(map(_priced, call.sampling_calls, priced)),
        usd=None if unknown else cost.usd,
        usd_low=low,
        usd_high=high,
        caveats=tuple(sorted({*kept, *cost.caveats, *unknown})),
    )


def _without_accounts(call: Call) -> Call:
    """Mask the AWS account in the names of models: what is priced gets into files."""
    if not any(
        "arn" in name.lower()
        for name in (call.model, *(sampling.model for sampling in call.sampling_calls))
    ):
        return call
    return msgspec.structs.replace(
        call,
        model=mask_account(call.model),
        sampling_calls=tuple(
            msgspec.structs.replace(sampling, model=mask_account(sampling.model))
            for sampling in call.sampling_calls
        ),
    )


def _price_sampling(
    sampling: SamplingCall, card: RateCard, context: Terms, on: date, cache_state: CacheState
) -> SamplingCost | UnknownModelError:
    try:
        return card.price_sampling(sampling, context, on=on, cache_state=cache_state)
    except UnknownModelError as error:
        return error


def _priced(
    sampling: PricedSamplingCall, cost: SamplingCost | UnknownModelError
) -> PricedSamplingCall:
    if isinstance(cost, UnknownModelError):
        return msgspec.structs.replace(sampling, usd=None)
    return msgspec.structs.replace(sampling, model=cost.sampling.model, usd=cost.usd)


def _bounds(
    caveats: tuple[str, ...], low: Decimal, high: Decimal | None
) -> tuple[Decimal, Decimal | None]:
    """Open the bounds as the caveats say that did not come from the card."""
    if any(map(may_be_lower, caveats)):
        low = _ZERO
    return low, None if any(map(may_be_higher, caveats)) else high


def _context_of(call: Call, card: RateCard) -> Terms:
    """Return what the price depends on, with what the model's spelling tells of the endpoint."""
    platform = call.context.platform
    if platform is None:
        found = [
            card.find(name)
            for name in (call.model, *(sampling.model for sampling in call.sampling_calls))
        ]
        platform = next((each.platform for each in found if each and each.platform), None)
    elif any(caveat_name(each) == "unknown-endpoint" for each in call.caveats):
        platform = _UNKNOWN_ENDPOINT.get(platform, platform)
    if platform == call.context.platform:
        return call.context
    return msgspec.structs.replace(call.context, platform=platform)

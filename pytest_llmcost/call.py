"""Call: one billable request with its price, and the only way to make one.

A response says what was used (`Answer`); on a date, with a rate card, that becomes a `Call`. There
is no call without a price list, so calls without a price cannot be added up by mistake.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any, Literal

import msgspec
from msgspec.structs import asdict, replace

from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.json_values import written
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.bill import ByCategory, CacheState, in_cache_state, price_sampling, total
from pytest_llmcost.prices.caveats import Caveat, sorted_caveats
from pytest_llmcost.prices.model_names import mask_account
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.prices.usage import LONGEST, SamplingCall, Terms, Usage
from pytest_llmcost.responses.message import Answer

Evidence = Literal["billed", "counted", "recounted", "stale", "declared", "mocked", "refused"]
Phase = Literal["setup", "call", "teardown"]

_ZERO = Decimal(0)


class PricedSamplingCall(SamplingCall, frozen=True, kw_only=True, gc=False):
    """A sampling call with its list price in US dollars; None if it cannot be priced."""

    by_category: ByCategory = ByCategory()
    """What its price is made of; empty if it has none, and in older ledgers."""
    usd: Decimal | None = written(None)


class Before(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a call used and cost as recorded, before its prompt changed."""

    input_tokens: int
    """The whole prompt, caches included."""
    usd: Decimal | None = None
    """At the prices of the run that found the change; None where it is unknown."""


class BrokenPrefix(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where the cached prefix of a call differs from that of an earlier call like it.

    It names a place in the prompt, and holds no text of it.
    """

    part: str
    """The block, or the setting, that differs first."""
    character: int | None = None
    """The first one that differs, from 1; None if what differs is no text."""
    usd: Decimal | None = None
    """What writing the rest of the prefix again costs more than reading it; None if unknown."""

    @property
    def path(self) -> str:
        """Where it differs, for example `system.1 at character 13`."""
        return self.part if self.character is None else f"{self.part} at character {self.character}"


class Call(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One billable request: its usage, where the numbers come from, its price and its bounds."""

    model: str
    """The serving model as the response names it, resolved to its exact id where known."""
    fingerprint: str | None = written(None)
    evidence: Evidence
    phase: Phase | None = written(None)
    tags: tuple[str, ...] = ()
    """What it is for, as the test says with `llmcost.tag(...)`; sorted."""
    live: bool | None = written(False)
    """Whether it went over the network in this run; None is unknown and counts as live."""
    at: str | None = None
    """When it was made, UTC; of live calls only."""
    stream: bool = written(False)
    attempts: int = written(1)
    """How often the client sent it before an answer came."""
    lost_attempts: int | None = None
    """How many of them got no answer and may have been billed; None for none."""
    usage: Usage = written(Usage())
    """What the response's top level states, in our categories."""
    sampling_calls: tuple[PricedSamplingCall, ...] = written(())
    max_tokens: int | None = None
    """The most that its reply may be; None if the request is unknown or does not limit it."""
    context: Terms = written(Terms())
    usd: Decimal | None = written(None)
    """List price on the price date; None if it is unknown, never zero."""
    usd_low: Decimal = written(_ZERO)
    usd_high: Decimal | None = written(None)
    """None if nothing bounds it."""
    declared_usd: Decimal | None = written(None)
    """A price the test stated itself; it is the call's price, and its sampling calls have none."""
    before: Before | None = written(None)
    """Only where the prompt changed since it was recorded, and the recording says so."""
    broken_prefix: BrokenPrefix | None = None
    """Only where an earlier call of the same owner cached a prefix that this one breaks."""
    caveats: tuple[Caveat, ...] = written(())
    """Sorted; each the name of a rule, with a detail after a colon if there is one."""

    @property
    def billed_usage(self) -> Usage:
        """The tokens that are charged: all sampling calls together, without unbilled refusals."""
        billed = (each for each in self.sampling_calls if each.refusal is None or each.usd != 0)
        return sum((each.usage for each in billed), Usage())

    @property
    def lost_usage(self) -> Usage | None:
        """The most that each of its lost attempts used, or None if nothing bounds them."""
        # They had the same prompt, at worst none of it cached yet, and replies of `max_tokens`.
        if not self.lost_attempts or self.max_tokens is None or len(self.sampling_calls) != 1:
            return None
        uncached = in_cache_state(self.sampling_calls[0], "cold", lifetime=LONGEST)
        return replace(uncached, output_tokens=self.max_tokens)

    @property
    def bounded(self) -> set[str]:
        """The names of the caveats whose bounds it states itself, in sampling calls or attempts."""
        bounded = {
            caveat.name
            for caveat in self.caveats
            if (field := caveat.rule.bounded_by)
            and any(getattr(each, field) is not None for each in self.sampling_calls)
        }
        return bounded if self.lost_usage is None else {*bounded, "lost-answer"}

    @property
    def is_uncounted(self) -> bool:
        """Whether it stands for a count that failed."""
        is_count = self.evidence == "counted"  # no reply that only lacks the count of its prompt
        return is_count and not self.sampling_calls and self.has_caveat("count-failed", "uncounted")

    def has_caveat(self, *names: str) -> bool:
        """Return whether one of its caveats has one of these names."""
        return any(caveat.name in names for caveat in self.caveats)


def price(
    answer: Answer,
    card: RateCard,
    *,
    on: date,
    cache_state: CacheState = "as-billed",
    evidence: Evidence = "billed",
    **facts: Any,
) -> Call:
    """Price what a response said, or what a count predicts, on a day (UTC).

    `facts` are other fields of `Call`: fingerprint, live, at, attempts, lost_attempts, max_tokens,
    phase.
    """
    caveats = answer.caveats
    # Code that ran beside certain server tools is free: which ones, the rate card says.
    if answer.code_beside is not None and not card.is_code_execution_free(answer.code_beside):
        caveats = sorted_caveats([*caveats, "code-execution-hours"])
    terms, asked_model = answer.terms, answer.asked_model
    if terms.platform is None and asked_model is not None and asked_model != answer.model:
        # The response may name the model plainly where the request spelled it as a cloud does.
        asked = card.find(asked_model)
        terms = replace(terms, platform=asked.platform if asked else None)
    before = None
    if answer.before is not None:
        old = price(answer.before, card, on=on, cache_state=cache_state)
        before = Before(input_tokens=old.billed_usage.prompt_tokens, usd=old.usd)
    read = Call(
        model=answer.model,
        evidence=evidence,
        usage=answer.usage,
        sampling_calls=tuple(PricedSamplingCall(**asdict(each)) for each in answer.sampling_calls),
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
    own = tuple(each for each in call.caveats if not each.rule.by_card)
    terms = call.context
    if terms.platform in ("bedrock", "vertex") and call.has_caveat("unknown-endpoint"):
        # A card without a regional multiplier prices the plain cloud; another may have one.
        terms = replace(terms, platform=f"{terms.platform}-unknown")
    names = dict.fromkeys([call.model, *(each.model for each in call.sampling_calls)])
    known = {name: card.find(name) for name in names}
    if terms.platform is None:  # a model's spelling may name the cloud if nothing else does
        clouds = (found.platform for found in known.values() if found)
        terms = replace(terms, platform=next(filter(None, clouds), None))
    resolved = known[call.model]

    usd = high = call.declared_usd
    low = usd or _ZERO
    sampling_calls = []
    bounded: set[str] = set()
    found_by_card: set[str] = set()
    if call.sampling_calls and call.declared_usd is None:
        costs = []
        for sampling in call.sampling_calls:
            try:
                cost = price_sampling(card, sampling, terms, on=on, cache_state=cache_state)
            except UnknownModelError as error:
                found_by_card.add(f"unknown-model: {error}")
                sampling_calls.append(_unpriced(sampling))
            else:
                costs.append(cost)
                exact, parts = cost.sampling.model, cost.by_category
                sampling = replace(sampling, model=exact, usd=cost.usd, by_category=parts)
                sampling_calls.append(sampling)
        whole = costs[0] if len(costs) == 1 else total(costs)  # nearly always
        low = whole.low
        if len(costs) == len(sampling_calls):
            usd, high = whole.usd, whole.high
        found_by_card.update(whole.caveats)
        bounded = call.bounded
        lost = call.lost_usage
        if lost is not None and high is not None:
            uncertain = dict.fromkeys(("refusal", "usage_low", "most_output_tokens"))
            attempt = replace(call.sampling_calls[0], usage=lost, **uncertain)
            most = price_sampling(card, attempt, terms, on=on).high
            high = None if most is None else EXACT.fma(most, call.lost_attempts or 0, high)
    else:
        sampling_calls += map(_unpriced, call.sampling_calls)
    for caveat in own:
        if caveat.name not in bounded:
            low = _ZERO if caveat.may_be_lower else low
            high = None if caveat.may_be_higher else high
    return replace(
        call,
        model=resolved.model if resolved else mask_account(call.model),
        context=terms,
        sampling_calls=tuple(sampling_calls),
        caveats=sorted_caveats([*own, *found_by_card]) if found_by_card else own,
        usd=usd,
        usd_low=low,
        usd_high=high,
    )


def _unpriced(sampling: PricedSamplingCall) -> PricedSamplingCall:
    # An ARN names an AWS account, and this gets into files; a card's own ids have none.
    return replace(sampling, model=mask_account(sampling.model), usd=None, by_category=ByCategory())

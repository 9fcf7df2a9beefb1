"""Tariff: what one kind of request costs on one day, worked out once and used for every leg.

Data flow: a card's settings, a model's Rates and a Context -> `tariff_of` -> Tariff -> the bill.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from functools import reduce
from itertools import chain
from typing import Literal, NamedTuple

import msgspec

from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.dated_rates import Rates
from pytest_llmcost.prices.price_file import CardFile, ModelEntry
from pytest_llmcost.prices.usage import SamplingCall, SamplingKind, Terms, Usage

_ONE = Decimal(1)


class Tariff(msgspec.Struct, frozen=True, kw_only=True):
    """What one kind of request costs on one day: rates by length, factors and fees."""

    bands: tuple[Rates, ...]
    """The lowest first."""
    alternative: tuple[Rates, ...] | None = None
    """The rates it may have been, where the speed is unknown."""
    factor: Decimal
    """Batch, geography and endpoint together; on tokens alone, fees stay."""
    factor_low: Decimal
    factor_high: Decimal | None
    """What the factor may be at most; None where nothing bounds it."""
    search_usd: Decimal
    """One web search."""
    caveats: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """The exact id of the model."""
        return self.bands[0].model


class _Factor(NamedTuple):
    """One of the factors on a bill, as it is and as it may be."""

    usual: Decimal = _ONE
    low: Decimal = _ONE
    high: Decimal | None = _ONE
    caveat: str | None = None


def tariff_of(
    settings: CardFile,
    bands: tuple[Rates, ...],
    context: Terms,
    on: date,
    *,
    alternative: tuple[Rates, ...] | None = None,
) -> Tariff:
    """Work out what requests of one kind cost on a day.

    Source: https://platform.claude.com/docs/en/about-claude/pricing, read 2026-10-08: batch,
    geography and endpoint stack, and fees are added after them.
    """
    entry = settings.models[bands[0].model]
    factors = (
        _tier(settings, context),
        _geography(settings, entry, context),
        _endpoint(settings, entry, context),
    )
    caveats = [factor.caveat for factor in factors if factor.caveat]
    caveats += _model_caveats(bands[0], entry, on)
    if alternative:
        caveats.append(f"advisor-fast: {bands[0].model}")
    highs = [factor.high for factor in factors if factor.high is not None]
    return Tariff(
        bands=bands,
        alternative=alternative,
        factor=_product(factor.usual for factor in factors),
        factor_low=_product(factor.low for factor in factors),
        factor_high=_product(highs) if len(highs) == len(factors) else None,
        search_usd=EXACT.scaleb(settings.web_search_usd_per_1000 or Decimal(0), -3),
        caveats=tuple(caveats),
    )


def _product(factors: Iterable[Decimal]) -> Decimal:
    return reduce(EXACT.multiply, factors, _ONE)


def _known(factor: Decimal | None) -> _Factor:
    return _Factor() if factor is None else _Factor(factor, factor, factor)


def _tier(settings: CardFile, context: Terms) -> _Factor:
    """Batches are cheaper; priority tokens have no list price and count as standard ones."""
    tier = context.service_tier
    if tier == "batch":
        return _known(settings.batch_factor)
    if tier == "priority":
        return _Factor(caveat="priority-tier")
    if tier in (None, "standard"):
        return _Factor()
    return _Factor(low=Decimal(0), high=None, caveat=f"unknown-tier: {tier}")


def _geography(settings: CardFile, entry: ModelEntry, context: Terms) -> _Factor:
    """Foundry's US data zone costs what Anthropic's US geography does."""
    geography = "us" if context.platform == "foundry-us" else context.inference_geo or ""
    # `asked-us`: only the request names it. At list price everywhere, it makes no difference.
    named = geography.removeprefix("asked-")
    if not named or named in settings.geographies_at_list:
        return _Factor()
    if geography in entry.geography:
        return _known(entry.geography[geography])
    known = (each.geography.values() for each in settings.models.values())
    most_expensive = max(chain([_ONE], *known))
    return _Factor(high=most_expensive, caveat=f"unknown-geography: {geography}")


def _endpoint(settings: CardFile, entry: ModelEntry, context: Terms) -> _Factor:
    """A model without a regional factor costs the same at every endpoint but GovCloud's."""
    cloud, _, endpoint = (context.platform or "").partition("-")
    if endpoint == "gov":
        return _known(settings.bedrock_gov_factor)
    if entry.regional is None or endpoint not in ("regional", "unknown"):
        return _Factor()
    if endpoint == "regional":
        return _known(entry.regional)
    return _Factor(high=max(entry.regional, _ONE), caveat=f"unknown-endpoint: {cloud}")


def _model_caveats(rates: Rates, entry: ModelEntry, on: date) -> Iterator[str]:
    if entry.retires_on is not None and entry.retires_on <= on:
        yield f"retired-model: {rates.model} on {entry.retires_on}"
    if rates.ended_on is not None:
        yield f"ended-fast-mode: {rates.model} on {rates.ended_on}"


CacheState = Literal["as-billed", "cold", "warm"]
"""As billed; with every cache read as the write it would be; with every write as a read."""

_ZERO = Decimal(0)
_NOTHING = Usage()
_MILLION = 6  # rates are per million: so many places
_RATE_OF = {
    "input_tokens": "input",
    "cache_write_5m_tokens": "cache_write_5m",
    "cache_write_1h_tokens": "cache_write_1h",
    "cache_read_tokens": "cache_read",
    "output_tokens": "output",
}


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a bill."""

    kind: SamplingKind
    model: str
    category: str
    """A field of `Usage`."""
    quantity: int
    usd_per_million: Decimal
    """After all factors, so that quantity times rate is the amount."""
    usd: Decimal


class SamplingCost(msgspec.Struct, frozen=True, kw_only=True):
    """What one leg costs, with its bounds."""

    sampling: SamplingCall
    """With its model's exact id; its usage is what was measured."""
    billed: Usage
    """What is charged: the usage on the chosen cache basis; nothing for an unbilled refusal."""
    rates: Rates
    factor: Decimal
    search_usd: Decimal
    usd: Decimal
    low: Decimal
    high: Decimal | None
    caveats: tuple[str, ...] = ()

    @property
    def charges(self) -> Iterator[Charge]:
        """One for each category that has a quantity; their amounts add up to `usd`."""
        for category, name in _RATE_OF.items():
            rate = EXACT.multiply(getattr(self.rates, name), self.factor)
            yield from self._charge(category, rate)
        yield from self._charge("web_search_requests", EXACT.scaleb(self.search_usd, _MILLION))

    def _charge(self, category: str, rate: Decimal) -> Iterator[Charge]:
        quantity = getattr(self.billed, category)
        if quantity:
            yield Charge(
                kind=self.sampling.kind,
                model=self.sampling.model,
                category=category,
                quantity=quantity,
                usd_per_million=rate,
                usd=EXACT.scaleb(EXACT.multiply(rate, quantity), -_MILLION),
            )


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """An itemised bill: what a request costs at list price, and between which bounds."""

    sampling_calls: tuple[SamplingCost, ...]
    usd: Decimal
    low: Decimal
    high: Decimal | None
    """None where nothing bounds it."""
    caveats: tuple[str, ...] = ()
    """Sorted; those that the rate card found."""

    @property
    def charges(self) -> tuple[Charge, ...]:
        """Every line of the bill; their amounts add up to `usd`."""
        return tuple(charge for sampling in self.sampling_calls for charge in sampling.charges)


def bill_sampling(
    sampling: SamplingCall,
    tariff: Tariff,
    *,
    cache_state: CacheState = "as-billed",
    refusal_billed: bool | None = True,
) -> SamplingCost:
    """Price one leg.

    Args:
        sampling: with its model's exact id.
        tariff: of that model for this kind of request on the price date.
        cache_state: how cache reads and writes count.
        refusal_billed: whether a refusal before any output is charged; None is unknown, which
            counts as free, with the full price as the high bound.
    """
    usage = in_cache_state(sampling, cache_state)
    billed = usage if refusal_billed else _NOTHING
    rates = _band(tariff.bands, sampling)
    usd = _amount(billed, rates, tariff.factor, tariff.search_usd)
    low: Decimal = usd
    high: Decimal | None = usd
    if _is_doubtful(sampling, tariff, refusal_billed):
        low = _lowest(sampling, tariff, billed)
        high = _ZERO if refusal_billed is False else _highest(sampling, tariff, usage)
    return SamplingCost(
        sampling=sampling,
        billed=billed,
        rates=rates,
        factor=tariff.factor,
        search_usd=tariff.search_usd,
        usd=usd,
        low=low,
        high=high,
        caveats=tariff.caveats + _sampling_caveats(sampling, rates, refusal_billed),
    )


def _sampling_caveats(
    sampling: SamplingCall, rates: Rates, refusal_billed: bool | None
) -> tuple[str, ...]:
    caveats = []
    if refusal_billed is None:
        caveats.append(f"unknown-refusal: {sampling.refusal}")
    if _is_untold(sampling) and refusal_billed is not False:
        caveats.append(f"fallback-without-entry: {sampling.model}")
    if sampling.may_cache is not None and sampling.usage.input_tokens:
        caveats.append("cache-unpriced")
    if sampling.sums_calls and rates.above:
        caveats.append(f"band-on-total: {sampling.model} above {rates.above:,} prompt tokens")
    return tuple(caveats)


def in_cache_state(sampling: SamplingCall, cache_state: CacheState) -> Usage:
    """Return a leg's usage with a cold cache, a warm one, or as it was billed.

    A response does not say how long the entries live that it reads. They count as 1-hour ones
    where the request asks for nothing else, or where the same leg writes nothing else; as
    5-minute ones, the default, in every other case.
    """
    usage = sampling.usage
    if cache_state == "cold":
        written = "cache_write_1h_tokens" if _reads_1h(sampling) else "cache_write_5m_tokens"
        tokens = getattr(usage, written) + usage.cache_read_tokens
        return msgspec.structs.replace(usage, cache_read_tokens=0, **{written: tokens})
    if cache_state == "warm":
        return msgspec.structs.replace(
            usage,
            cache_write_5m_tokens=0,
            cache_write_1h_tokens=0,
            cache_read_tokens=usage.cached_tokens,
        )
    return usage


def _reads_1h(sampling: SamplingCall) -> bool:
    if sampling.read_lifetime is not None:
        return sampling.read_lifetime == "1h"
    return sampling.usage.cache_write_1h_tokens > 0 and not sampling.usage.cache_write_5m_tokens


def total(sampling_calls: Sequence[SamplingCost]) -> Cost:
    """Add up the legs of one request."""
    if len(sampling_calls) == 1:
        (sampling,) = sampling_calls
        return Cost(
            sampling_calls=(sampling,),
            usd=sampling.usd,
            low=sampling.low,
            high=sampling.high,
            caveats=_sorted(sampling_calls),
        )
    highs = [sampling.high for sampling in sampling_calls if sampling.high is not None]
    return Cost(
        sampling_calls=tuple(sampling_calls),
        usd=_sum(sampling.usd for sampling in sampling_calls),
        low=_sum(sampling.low for sampling in sampling_calls),
        high=_sum(highs) if len(highs) == len(sampling_calls) else None,
        caveats=_sorted(sampling_calls),
    )


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    return reduce(EXACT.add, amounts, _ZERO)


def _sorted(sampling_calls: Sequence[SamplingCost]) -> tuple[str, ...]:
    return tuple(sorted({caveat for sampling in sampling_calls for caveat in sampling.caveats}))


def _band(bands: tuple[Rates, ...], sampling: SamplingCall) -> Rates:
    """Choose the length band: exactly the threshold is still the lower one."""
    if len(bands) == 1:
        return bands[0]
    length = sampling.usage.prompt_tokens if sampling.band_tokens is None else sampling.band_tokens
    return [rates for rates in bands if not rates.above or length > rates.above][-1]


def _amount(usage: Usage, rates: Rates, factor: Decimal, search_usd: Decimal) -> Decimal:
    amount = EXACT.multiply(rates.input, usage.input_tokens)
    amount = EXACT.fma(rates.output, usage.output_tokens, amount)
    if usage.cached_tokens:
        amount = EXACT.fma(rates.cache_write_5m, usage.cache_write_5m_tokens, amount)
        amount = EXACT.fma(rates.cache_write_1h, usage.cache_write_1h_tokens, amount)
        amount = EXACT.fma(rates.cache_read, usage.cache_read_tokens, amount)
    amount = EXACT.scaleb(EXACT.multiply(amount, factor), -_MILLION)
    return EXACT.fma(search_usd, usage.web_search_requests, amount)


def _is_doubtful(sampling: SamplingCall, tariff: Tariff, refusal_billed: bool | None) -> bool:
    return (
        sampling.sums_calls
        or sampling.may_cache is not None
        or sampling.most_output_tokens is not None
        or refusal_billed is None
        or tariff.alternative is not None
        or _is_untold(sampling)
        or not tariff.factor_low == tariff.factor == tariff.factor_high
    )


def _is_untold(sampling: SamplingCall) -> bool:
    """Tell whether the response names this attempt, or refusal, but not what it used."""
    return (sampling.kind == "declined" or sampling.refusal is not None) and not sampling.usage


def _lowest(sampling: SamplingCall, tariff: Tariff, usage: Usage) -> Decimal:
    rates = tariff.bands[0] if sampling.sums_calls else _band(tariff.bands, sampling)
    if sampling.may_cache is not None and rates.cache_read < rates.input:
        usage = _cached_as(usage, "cache_read_tokens")
    return _amount(usage, rates, tariff.factor_low, tariff.search_usd)


def _cached_as(usage: Usage, category: str) -> Usage:
    """Take all plain input for cached instead."""
    tokens = getattr(usage, category) + usage.input_tokens
    return msgspec.structs.replace(usage, **{"input_tokens": 0, category: tokens})


def _highest(sampling: SamplingCall, tariff: Tariff, usage: Usage) -> Decimal | None:
    if tariff.factor_high is None or _is_untold(sampling):
        return None
    if sampling.most_output_tokens is not None:
        most = max(usage.output_tokens, sampling.most_output_tokens)
        usage = msgspec.structs.replace(usage, output_tokens=most)
    rates = _band(tariff.alternative or tariff.bands, sampling)
    if sampling.may_cache is not None:
        usage = _cached_as(usage, f"cache_write_{sampling.may_cache}_tokens")
    return _amount(usage, rates, tariff.factor_high, tariff.search_usd)

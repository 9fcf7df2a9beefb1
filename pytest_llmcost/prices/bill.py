"""The bill: usage and rates to exact amounts, each with a low and a high bound.

Knows no rules of dates or names: the rate card says which rates and multipliers hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from functools import partial, reduce
from itertools import chain
from typing import Literal

import msgspec
from msgspec.structs import astuple, replace

from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.rate_card import PriceList, RateCard, Rates
from pytest_llmcost.prices.usage import (
    LONGEST,
    WRITTEN,
    Lifetime,
    SamplingCall,
    SamplingKind,
    Terms,
    Usage,
    longest_lived,
)

CacheState = Literal["as-billed", "cold", "warm"]
"""As billed; with every cache read as the write it would be; with every write as a read."""

_ZERO = Decimal(0)
USD_OF = {name: f"{name.rpartition('_')[0]}_usd" for name in Usage.__struct_fields__}
"""What the amount of each field of `Usage` is called in `ByCategory`."""


class ByCategory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """List prices by what they are for; the amounts add up to the whole. Adds with `+`."""

    input_usd: Decimal = _ZERO
    """Uncached input alone."""
    cache_write_5m_usd: Decimal = _ZERO
    cache_write_1h_usd: Decimal = _ZERO
    cache_read_usd: Decimal = _ZERO
    output_usd: Decimal = _ZERO
    web_search_usd: Decimal = _ZERO
    declared_usd: Decimal = _ZERO
    """Of calls whose price the test stated."""
    unknown_usd: Decimal = _ZERO
    """What else is known of calls without a price, and what an older ledger did not itemise."""

    @staticmethod
    def sum(amounts: Iterable[tuple[str, Decimal]]) -> ByCategory:
        """Add up amounts, each with its category."""
        sums: dict[str, Decimal] = {}
        for name, usd in amounts:
            sums[name] = EXACT.add(sums.get(name, _ZERO), usd)
        # A zero that is the default is left out of files, so there must be no other one.
        return ByCategory(**{name: usd for name, usd in sums.items() if usd})

    def items(self) -> list[tuple[str, Decimal]]:
        """Return the categories that cost something, each with its amount."""
        return [pair for pair in zip(self.__struct_fields__, astuple(self), strict=True) if pair[1]]

    def __add__(self, other: ByCategory) -> ByCategory:
        return ByCategory.sum(chain(self.items(), other.items()))

    def __sub__(self, other: ByCategory) -> ByCategory:
        less = ((name, usd.copy_negate()) for name, usd in other.items())
        return ByCategory.sum(chain(self.items(), less))


class Charge(msgspec.Struct, frozen=True):
    """One line of a bill."""

    kind: SamplingKind
    model: str
    category: str
    """A field of `Usage`."""
    quantity: int
    usd_per_million: Decimal
    """After all multipliers, so that quantity times rate is the amount."""
    usd: Decimal


class SamplingCost(msgspec.Struct, frozen=True, kw_only=True):
    """What one sampling call costs, with its bounds."""

    sampling: SamplingCall
    """With its model's exact id; its usage is what was measured."""
    billed: Usage
    """What is charged: the usage in the chosen cache state; nothing for an unbilled refusal."""
    rates: Rates
    usd: Decimal
    low: Decimal
    high: Decimal | None
    charges: tuple[Charge, ...]
    """One for each category that has a quantity; their amounts add up to `usd`."""
    by_category: ByCategory
    caveats: tuple[str, ...] = ()


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """An itemised bill: what a request costs at list price, and between which bounds."""

    sampling_calls: tuple[SamplingCost, ...]
    usd: Decimal
    low: Decimal
    high: Decimal | None
    """None if nothing bounds it."""
    caveats: tuple[str, ...] = ()
    """Sorted; those that the rate card found."""

    @property
    def charges(self) -> tuple[Charge, ...]:
        """Every line of the bill; their amounts add up to `usd`."""
        return tuple(charge for sampling in self.sampling_calls for charge in sampling.charges)


def price_request(
    card: RateCard,
    sampling_calls: Iterable[SamplingCall],
    terms: Terms,
    *,
    on: date,
    cache_state: CacheState = "as-billed",
) -> Cost:
    """Price one request: its sampling calls, at list price on a day.

    Raises:
        UnknownModelError: when a model has no price; nothing is ever taken for $0.
    """
    of_one = partial(price_sampling, card, terms=terms, on=on, cache_state=cache_state)
    return total([*map(of_one, sampling_calls)])


def price_sampling(
    card: RateCard,
    sampling: SamplingCall,
    terms: Terms,
    *,
    on: date,
    cache_state: CacheState = "as-billed",
) -> SamplingCost:
    """Price one sampling call of a request, as `price_request` does."""
    prices = card.price_list(sampling.model, sampling.speed or terms.speed, terms, on)
    sampling = replace(sampling, model=prices.bands[0].model)
    refusal_billed: bool | None = True
    if sampling.refusal is not None:
        # What may be free counts as free, with the full price as the high bound.
        refusal_billed = card.is_refusal_billed(sampling.refusal, on)
    usage = in_cache_state(sampling, cache_state)
    is_life_unknown = usage != in_cache_state(sampling, cache_state, lifetime=LONGEST)
    billed = usage if refusal_billed else Usage()
    rates = band_of(prices.bands, sampling.usage)
    charge = partial(_charge, sampling, prices)
    charges = charge(billed, rates, prices.multiplier)
    usd = _sum(charges)

    least = in_cache_state(sampling, cache_state, sampling.usage_low)
    # The documentation does not say whether a server tool's loop has one length band for each of
    # its sampling calls or one for their sum; the sum, which costs more, is the price.
    low_rates = prices.bands[0] if sampling.sums_calls else band_of(prices.bands, least)
    if sampling.may_cache is not None and low_rates.usd["cache_read"] < low_rates.usd["input"]:
        least = _cached_as(least, "cache_read_tokens")
    low = _sum(charge(least, low_rates, prices.multiplier_low))

    # The response names this attempt, or refusal, but not what it used.
    is_silent = (sampling.kind == "declined" or sampling.refusal is not None) and not sampling.usage
    high: Decimal | None = None
    if refusal_billed is False:
        high = usd
    elif prices.multiplier_high is not None and not is_silent:
        most = usage
        if is_life_unknown or sampling.most_output_tokens is not None:
            most = in_cache_state(sampling, cache_state, sampling.most_usage, LONGEST)
        high_rates = band_of(prices.alternative or prices.bands, most)
        if sampling.may_cache is not None:
            most = _cached_as(most, WRITTEN[sampling.may_cache])
        high = max(usd, _sum(charge(most, high_rates, prices.multiplier_high)))

    caveats = [*prices.caveats]
    if refusal_billed is None:
        caveats.append(f"unknown-refusal: {sampling.refusal}")
    if is_life_unknown:
        caveats.append("unknown-lifetime")
    if is_silent:
        caveats.append(f"fallback-without-entry: {sampling.model}")
    if sampling.may_cache is not None and sampling.usage.input_tokens:
        caveats.append("cache-unpriced")
    if sampling.sums_calls and rates.above:
        caveats.append(f"band-on-total: {sampling.model} above {rates.above:,} prompt tokens")
    return SamplingCost(
        sampling=sampling,
        billed=billed,
        rates=rates,
        usd=usd,
        low=min(low, usd),
        high=high,
        charges=charges,
        by_category=ByCategory.sum((USD_OF[each.category], each.usd) for each in charges),
        # What is free costs nothing at any rate.
        caveats=() if refusal_billed is False else tuple(caveats),
    )


def _charge(
    sampling: SamplingCall, prices: PriceList, usage: Usage, rates: Rates, multiplier: Decimal
) -> tuple[Charge, ...]:
    charges = []
    for category in USD_OF:
        if quantity := getattr(usage, category):
            rate = prices.fees.get(category)
            if rate is None:
                rate = EXACT.multiply(rates.usd[category.removesuffix("_tokens")], multiplier)
            usd = EXACT.scaleb(EXACT.multiply(rate, quantity), -6)  # rates are per million
            charges.append(Charge(sampling.kind, sampling.model, category, quantity, rate, usd))
    return tuple(charges)


def _sum(charges: Iterable[Charge]) -> Decimal:
    return reduce(EXACT.add, (each.usd for each in charges), _ZERO)


def _cached_as(usage: Usage, category: str) -> Usage:
    """Take all plain input for cached instead."""
    tokens = getattr(usage, category) + usage.input_tokens
    return replace(usage, **{"input_tokens": 0, category: tokens})


def in_cache_state(
    sampling: SamplingCall,
    cache_state: CacheState,
    usage: Usage | None = None,
    lifetime: Lifetime = "5m",
) -> Usage:
    """Return a sampling call's usage, or its bound, with a cold or a warm cache or as billed.

    A response does not say how long the entries live that it reads: as long as the request asks for
    all of them. `lifetime` is assumed if that is unknown.
    """
    usage = sampling.usage if usage is None else usage
    if cache_state == "as-billed":
        return usage
    # The entries at the front are read first, and those that live longer must precede the others,
    # so nothing that is read has a shorter life than what is written behind it.
    # Source: https://platform.claude.com/docs/en/build-with-claude/prompt-caching (2026-08-22)
    known = LONGEST if getattr(usage, WRITTEN[LONGEST]) else lifetime
    written = WRITTEN[sampling.read_lifetime or known]
    tokens = getattr(usage, written) + usage.cache_read_tokens
    cold = replace(usage, cache_read_tokens=0, **{written: tokens})
    if cache_state == "cold":
        return cold
    most, read = sampling.most_read_tokens, usage.cached_tokens
    read = read if most is None else min(most, read)
    hits = longest_lived(cold.only(WRITTEN.values()), read)
    left = {name: getattr(cold, name) - tokens for name, tokens in hits.items()}
    return replace(cold, cache_read_tokens=read, **left)


def band_of(bands: Sequence[Rates], usage: Usage) -> Rates:
    """Choose the length band of a whole prompt, caches included; it holds for the reply, too.

    A prompt of exactly the threshold is still in the lower band.
    Source: https://platform.claude.com/docs/en/about-claude/pricing, read 2026-10-08.
    """
    if len(bands) == 1:  # nearly always
        return bands[0]
    return [rates for rates in bands if not rates.above or usage.prompt_tokens > rates.above][-1]


def total(sampling_calls: Sequence[SamplingCost]) -> Cost:
    """Add up the sampling calls of one request; one without a high bound leaves the sum without."""
    highs = [each.high for each in sampling_calls if each.high is not None]
    return Cost(
        sampling_calls=tuple(sampling_calls),
        usd=reduce(EXACT.add, (each.usd for each in sampling_calls), _ZERO),
        low=reduce(EXACT.add, (each.low for each in sampling_calls), _ZERO),
        high=reduce(EXACT.add, highs, _ZERO) if len(highs) == len(sampling_calls) else None,
        caveats=tuple(sorted({caveat for each in sampling_calls for caveat in each.caveats})),
    )

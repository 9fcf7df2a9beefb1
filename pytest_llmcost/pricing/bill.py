"""Bill: usage and rates in, an itemised Cost out, in exact decimals.

Data flow: Leg, Tariff (what one kind of request costs on one day) -> `bill_leg` -> LegCost ->
`total` -> Cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import reduce
from typing import Literal

import msgspec

from pytest_llmcost.pricing.money import EXACT
from pytest_llmcost.pricing.rates import Rates
from pytest_llmcost.pricing.tariff import Tariff
from pytest_llmcost.pricing.usage import Leg, LegKind, Usage

Basis = Literal["as-billed", "cold", "warm"]
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

    kind: LegKind
    model: str
    category: str
    """A field of `Usage`."""
    quantity: int
    usd_per_million: Decimal
    """After all factors, so that quantity times rate is the amount."""
    usd: Decimal


class LegCost(msgspec.Struct, frozen=True, kw_only=True):
    """What one leg costs, with its bounds."""

    leg: Leg
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
                kind=self.leg.kind,
                model=self.leg.model,
                category=category,
                quantity=quantity,
                usd_per_million=rate,
                usd=EXACT.scaleb(EXACT.multiply(rate, quantity), -_MILLION),
            )


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """An itemised bill: what a request costs at list price, and between which bounds."""

    legs: tuple[LegCost, ...]
    usd: Decimal
    low: Decimal
    high: Decimal | None
    """None where nothing bounds it."""
    caveats: tuple[str, ...] = ()
    """Sorted; those that the rate card found."""

    @property
    def charges(self) -> tuple[Charge, ...]:
        """Every line of the bill; their amounts add up to `usd`."""
        return tuple(charge for leg in self.legs for charge in leg.charges)


def bill_leg(
    leg: Leg, tariff: Tariff, *, basis: Basis = "as-billed", refusal_billed: bool | None = True
) -> LegCost:
    """Price one leg.

    Args:
        leg: with its model's exact id.
        tariff: of that model for this kind of request on the price date.
        basis: how cache reads and writes count.
        refusal_billed: whether a refusal before any output is charged; None is unknown, which
            counts as free, with the full price as the high bound.
    """
    usage = on_basis(leg, basis)
    billed = usage if refusal_billed else _NOTHING
    rates = _band(tariff.bands, leg)
    usd = _amount(billed, rates, tariff.factor, tariff.search_usd)
    low: Decimal = usd
    high: Decimal | None = usd
    if _is_doubtful(leg, tariff, refusal_billed):
        low = _lowest(leg, tariff, billed)
        high = _ZERO if refusal_billed is False else _highest(leg, tariff, usage)
    return LegCost(
        leg=leg,
        billed=billed,
        rates=rates,
        factor=tariff.factor,
        search_usd=tariff.search_usd,
        usd=usd,
        low=low,
        high=high,
        caveats=tariff.caveats + _leg_caveats(leg, rates, refusal_billed),
    )


def _leg_caveats(leg: Leg, rates: Rates, refusal_billed: bool | None) -> tuple[str, ...]:
    caveats = []
    if refusal_billed is None:
        caveats.append(f"unknown-refusal: {leg.refusal}")
    if _is_untold(leg) and refusal_billed is not False:
        caveats.append(f"fallback-without-entry: {leg.model}")
    if leg.may_cache is not None and leg.usage.input_tokens:
        caveats.append("cache-unpriced")
    if leg.sums_calls and rates.above:
        caveats.append(f"band-on-total: {leg.model} above {rates.above:,} prompt tokens")
    return tuple(caveats)


def on_basis(leg: Leg, basis: Basis) -> Usage:
    """Return a leg's usage with a cold cache, a warm one, or as it was billed.

    A response does not say how long the entries live that it reads. They count as 1-hour ones
    where the request asks for nothing else, or where the same leg writes nothing else; as
    5-minute ones, the default, in every other case.
    """
    usage = leg.usage
    if basis == "cold":
        written = "cache_write_1h_tokens" if _reads_1h(leg) else "cache_write_5m_tokens"
        tokens = getattr(usage, written) + usage.cache_read_tokens
        return msgspec.structs.replace(usage, cache_read_tokens=0, **{written: tokens})
    if basis == "warm":
        return msgspec.structs.replace(
            usage,
            cache_write_5m_tokens=0,
            cache_write_1h_tokens=0,
            cache_read_tokens=usage.cached_tokens,
        )
    return usage


def _reads_1h(leg: Leg) -> bool:
    if leg.read_lifetime is not None:
        return leg.read_lifetime == "1h"
    return leg.usage.cache_write_1h_tokens > 0 and not leg.usage.cache_write_5m_tokens


def total(legs: Sequence[LegCost]) -> Cost:
    """Add up the legs of one request."""
    if len(legs) == 1:
        (leg,) = legs
        return Cost(legs=(leg,), usd=leg.usd, low=leg.low, high=leg.high, caveats=_sorted(legs))
    highs = [leg.high for leg in legs if leg.high is not None]
    return Cost(
        legs=tuple(legs),
        usd=_sum(leg.usd for leg in legs),
        low=_sum(leg.low for leg in legs),
        high=_sum(highs) if len(highs) == len(legs) else None,
        caveats=_sorted(legs),
    )


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    return reduce(EXACT.add, amounts, _ZERO)


def _sorted(legs: Sequence[LegCost]) -> tuple[str, ...]:
    return tuple(sorted({caveat for leg in legs for caveat in leg.caveats}))


def _band(bands: tuple[Rates, ...], leg: Leg) -> Rates:
    """Choose the length band: exactly the threshold is still the lower one."""
    if len(bands) == 1:
        return bands[0]
    length = leg.usage.prompt_tokens if leg.band_tokens is None else leg.band_tokens
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


def _is_doubtful(leg: Leg, tariff: Tariff, refusal_billed: bool | None) -> bool:
    return (
        leg.sums_calls
        or leg.may_cache is not None
        or leg.most_output_tokens is not None
        or refusal_billed is None
        or tariff.dearer is not None
        or _is_untold(leg)
        or not tariff.factor_low == tariff.factor == tariff.factor_high
    )


def _is_untold(leg: Leg) -> bool:
    """Tell whether the response names this attempt, or refusal, but not what it used."""
    return (leg.kind == "declined" or leg.refusal is not None) and not leg.usage


def _lowest(leg: Leg, tariff: Tariff, usage: Usage) -> Decimal:
    rates = tariff.bands[0] if leg.sums_calls else _band(tariff.bands, leg)
    if leg.may_cache is not None and rates.cache_read < rates.input:
        usage = _cached_as(usage, "cache_read_tokens")
    return _amount(usage, rates, tariff.factor_low, tariff.search_usd)


def _cached_as(usage: Usage, category: str) -> Usage:
    """Take all plain input for cached instead."""
    tokens = getattr(usage, category) + usage.input_tokens
    return msgspec.structs.replace(usage, **{"input_tokens": 0, category: tokens})


def _highest(leg: Leg, tariff: Tariff, usage: Usage) -> Decimal | None:
    if tariff.factor_high is None or _is_untold(leg):
        return None
    if leg.most_output_tokens is not None:
        most = max(usage.output_tokens, leg.most_output_tokens)
        usage = msgspec.structs.replace(usage, output_tokens=most)
    rates = _band(tariff.dearer or tariff.bands, leg)
    if leg.may_cache is not None:
        usage = _cached_as(usage, f"cache_write_{leg.may_cache}_tokens")
    return _amount(usage, rates, tariff.factor_high, tariff.search_usd)

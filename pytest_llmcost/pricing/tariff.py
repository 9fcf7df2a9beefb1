"""Tariff: what one kind of request costs on one day, worked out once and used for every leg.

Data flow: a card's settings, a model's Rates and a Context -> `tariff_of` -> Tariff -> the bill.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from decimal import Decimal
from functools import reduce
from itertools import chain
from typing import NamedTuple

import msgspec

from pytest_llmcost.pricing.cardfile import CardFile, ModelEntry
from pytest_llmcost.pricing.money import EXACT
from pytest_llmcost.pricing.rates import Rates
from pytest_llmcost.pricing.usage import Context

_ONE = Decimal(1)


class Tariff(msgspec.Struct, frozen=True, kw_only=True):
    """What one kind of request costs on one day: rates by length, factors and fees."""

    bands: tuple[Rates, ...]
    """The lowest first."""
    dearer: tuple[Rates, ...] | None = None
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
    context: Context,
    on: date,
    *,
    dearer: tuple[Rates, ...] | None = None,
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
    if dearer:
        caveats.append(f"advisor-fast: {bands[0].model}")
    highs = [factor.high for factor in factors if factor.high is not None]
    return Tariff(
        bands=bands,
        dearer=dearer,
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


def _tier(settings: CardFile, context: Context) -> _Factor:
    """Batches are cheaper; priority tokens have no list price and count as standard ones."""
    tier = context.service_tier
    if tier == "batch":
        return _known(settings.batch_factor)
    if tier == "priority":
        return _Factor(caveat="priority-tier")
    if tier in (None, "standard"):
        return _Factor()
    return _Factor(low=Decimal(0), high=None, caveat=f"unknown-tier: {tier}")


def _geography(settings: CardFile, entry: ModelEntry, context: Context) -> _Factor:
    """Foundry's US data zone costs what Anthropic's US geography does."""
    geography = "us" if context.platform == "foundry-us" else context.inference_geo
    if not geography or geography in settings.geographies_at_list:
        return _Factor()
    if geography in entry.geography:
        return _known(entry.geography[geography])
    known = (each.geography.values() for each in settings.models.values())
    dearest = max(chain([_ONE], *known))
    return _Factor(high=dearest, caveat=f"unknown-geography: {geography}")


def _endpoint(settings: CardFile, entry: ModelEntry, context: Context) -> _Factor:
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

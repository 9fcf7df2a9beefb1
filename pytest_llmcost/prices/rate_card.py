"""The rate card: dated prices of every model. Knows no responses, and never today's date."""

from __future__ import annotations

import hashlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from decimal import Decimal
from functools import cache, partial, reduce
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from pytest_llmcost.errors import RateCardError, UnknownModelError
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.model_names import Resolved, find_model, likely_model, mask_account
from pytest_llmcost.prices.price_file import (
    STANDARD,
    CardFile,
    Layers,
    ModelEntry,
    check_row,
    end_of,
    merged,
    parse_card_file,
    rates_on,
    read_card_file,
)
from pytest_llmcost.prices.usage import FEES, UNSEEN, Terms

_SHIPPED = "anthropic.toml"
_VERSION = re.compile(r"-(\d{1,2})-(\d{1,2})(?!\d)")
_DATED_TOOL = re.compile(r"(?P<name>[a-z_]+)_(?P<date>\d{8})")
_ZERO, _ONE = Decimal(0), Decimal(1)
LISTED_TIERS = (None, "standard", "batch")
"""Service tiers with a list price; None if a response or a report does not name its tier."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's tokens cost on a day, at one speed and in one length band.

    Units: US dollars per million tokens, before the multipliers of batch, geography and endpoint.
    """

    model: str
    speed: str = STANDARD
    above: int = 0
    """These rates hold for prompts longer than this."""
    from_on: date
    """The first day of the row they come from."""
    usd: Mapping[str, Decimal]
    """By the keys of a price file: `input`, `output`, ..."""
    ended_on: date | None = None
    """The day on which this speed ended; its last rates stay."""
    checked_on: date | None = None
    sources: tuple[str, ...] = ()


class PriceList(msgspec.Struct, frozen=True, kw_only=True):
    """What requests of one model, speed and terms cost on one day."""

    bands: tuple[Rates, ...]
    """One for each length band, the lowest first."""
    alternative: tuple[Rates, ...] | None = None
    """The rates that may hold instead, if the speed is unknown."""
    multiplier: Decimal
    """Batch, geography and endpoint together."""
    multiplier_low: Decimal
    multiplier_high: Decimal | None
    """None if nothing bounds it."""
    fees: Mapping[str, Decimal]
    """Of a million uses of each server tool; no multiplier changes them."""
    caveats: tuple[str, ...] = ()


def _price_list_of(card: CardFile, bands: tuple[Rates, ...], terms: Terms, on: date) -> PriceList:
    """Work out what requests on some terms cost on a day."""
    model = bands[0].model
    entry = card.models[model]
    caveats: list[str] = []
    # What the price of tokens is multiplied by, None for 1; and what may come on top of that.
    multipliers: list[Decimal | None] = []
    surcharges: list[Decimal] = []

    # A batch costs half, caches included.
    # Source: https://platform.claude.com/docs/en/build-with-claude/batch-processing (2026-08-22)
    tier = terms.service_tier
    # Anthropic's own Priority Tier draws on capacity that was paid for ahead: such tokens have no
    # list price of their own and count as standard ones. Bedrock's tier of that name costs a
    # premium. Sources: https://platform.claude.com/docs/en/api/service-tiers and
    # https://docs.aws.amazon.com/bedrock/latest/userguide/service-tiers-inference.html (2026-11-27)
    is_prepaid = tier == "priority" and terms.platform is None
    is_odd_tier = tier not in LISTED_TIERS and not is_prepaid
    if tier == "batch":
        multipliers.append(card.batch_multiplier)
    elif is_prepaid:
        caveats.append("priority-tier")
    elif is_odd_tier:
        caveats.append(f"unknown-tier: {tier}")

    # Inference in the US costs a tenth more, from the 4.6 generation on; so does Foundry's US data
    # zone. Source: https://platform.claude.com/docs/en/manage-claude/data-residency (2026-08-22)
    geography = terms.inference_geo or ""
    # `asked-us`: only the request names it. At list price everywhere, it makes no difference.
    named = geography.removeprefix("asked-")
    if named and named not in card.geographies_at_list:
        if geography in entry.geography:
            multipliers.append(entry.geography[geography])
        else:
            # No published multiplier of this place or model: at most the highest one of the card.
            published = (each.geography.values() for each in card.models.values())
            surcharges.append(max(chain([_ONE], *published)))
            only = "" if geography == named else ", which only the request names"
            caveats.append(f"unknown-geography: {named}{only}")

    # Regional endpoints of Bedrock and Google Cloud cost a tenth more, from 4.5 on.
    # Source: https://platform.claude.com/docs/en/about-claude/pricing (2026-10-08)
    # AWS GovCloud costs 1.2 for every model, in place of that tenth. Source: litellm 1.110.2, which
    # cites the AWS price feed (BerriAI/litellm#39764)
    cloud, _, endpoint = (terms.platform or "").partition("-")
    regional = entry.regional or _ONE
    if endpoint == "gov":
        multipliers.append(card.bedrock_gov_multiplier)
    elif endpoint == "regional":
        multipliers.append(regional)
    elif endpoint == "unknown" and regional != 1:
        surcharges.append(max(regional, _ONE))
        caveats.append(f"unknown-endpoint: {cloud}")

    if entry.retires_on is not None and entry.retires_on <= on:
        caveats.append(f"retired-model: {model} on {entry.retires_on}")
    if bands[0].ended_on is not None:
        caveats.append(f"ended-fast-mode: {model} on {bands[0].ended_on}")
    # The three stack on every kind of token. Fees, as of searches, are added after them: no batch
    # halves them. Source: https://platform.claude.com/docs/en/about-claude/pricing (2026-10-08)
    multiplier = reduce(EXACT.multiply, filter(None, multipliers), _ONE)
    per_1000 = {name: f"{name.removesuffix('_requests')}_usd_per_1000" for name in FEES}
    return PriceList(
        bands=bands,
        multiplier=multiplier,
        multiplier_low=_ZERO if is_odd_tier else multiplier,
        multiplier_high=None if is_odd_tier else reduce(EXACT.multiply, surcharges, multiplier),
        fees={name: EXACT.scaleb(getattr(card, key) or _ZERO, 3) for name, key in per_1000.items()},
        caveats=tuple(caveats),
    )


class RateCard:
    """Dated prices of all models: `shipped_card()`, or that with a user's own laid over it.

    A card never changes; what it has worked out once it answers from memory.
    """

    def __init__(self, files: Sequence[CardFile], *, version: str, sha256: str) -> None:
        """Lay each file over those before it; the first is the shipped one."""
        self.version = version
        """The shipped card's version, then the name of each price file laid over it."""
        self.sha256 = sha256
        """Of the shipped file and each price file, in order."""
        self._files = tuple(files)
        self._settings = reduce(merged, files)
        assert self._settings.checked_on is not None  # the shipped card says it; a test holds it
        self.checked_on = self._settings.checked_on
        """When the shipped prices were last compared with their sources."""
        self.models = self._settings.models
        """What the card says of each model, by exact id; rows of a price file behind the others."""
        self.sources = tuple(self._settings.sources.values())
        """Where the prices come from."""
        self._spellings = dict(_spellings(self._settings))
        self.find: Callable[[str], Resolved | None] = cache(partial(find_model, self._spellings))
        """Returns the model that a name stands for, as `resolve` does, or None if it is unknown."""
        self._rates_on = cache(self._find_rates)
        self.price_list: Callable[[str, str | None, Terms, date], PriceList]
        self.price_list = cache(self._find_price_list)
        """Returns what requests of a model cost, at a speed, on some other terms and a day."""
        # A search through all names, and several calls of a run may misspell alike.
        self.likely: Callable[[str], str | None] = cache(partial(likely_model, self._spellings))
        """Returns the exact id that an unknown name may misspell, or None."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the files, for what is worked out again from them cannot be."""
        made = partial(type(self), version=self.version, sha256=self.sha256)
        return made, (self._files,)

    def source_url(self, name: str) -> str:
        """Return the address of what a row names as its source, or the name if it has none."""
        return self._settings.sources.get(name, name)

    def with_overrides(self, path: str | Path) -> RateCard:
        """Return this card with a user's price file laid over it; its rows come first.

        Raises:
            RateCardError: naming file, model and key of what is wrong.
        """
        path = Path(path)
        change, data = read_card_file(path)
        models: dict[str, ModelEntry] = {}  # by exact id
        tables: dict[str, str] = {}  # exact id -> as the file names it
        for table, entry in change.models.items():
            # Names of a card get into ledgers and messages, so they have no account id.
            name = mask_account(table)
            aliased = (each for each, known in self.models.items() if name in known.aliases)
            model = next(aliased, name)
            try:
                if model in models:  # of two tables one would be lost
                    raise ValueError(
                        f'is the same model as "{tables[model]}"; put both into one table'
                    )
                below = self._layers(model)
                if all(row.multiplier for layer in (*below, entry.rates) for row in layer):
                    known = self.find(name)
                    hint = f'; for {known.model} write [models."{known.model}"]' if known else ""
                    raise ValueError(f"a new model needs rates, got none{hint}")
                for row in entry.rates:
                    check_row(row, below, entry.rates)
            except ValueError as error:
                raise RateCardError(f'price file {path}: model "{name}": {error}') from None
            aliases = tuple(map(mask_account, entry.aliases))
            models[model], tables[model] = replace(entry, aliases=aliases), name
        card = RateCard(
            (*self._files, replace(change, models=models)),
            version=f"{self.version}+{path.name}",
            sha256=hashlib.sha256(self.sha256.encode() + data).hexdigest(),
        )
        for model, entry in models.items():
            for alias in entry.aliases:
                # It would re-price a name's calls to move it silently to another model.
                for owner in filter(None, (self.find(alias), card.find(alias))):
                    if owner.model != model:
                        raise RateCardError(
                            f'price file {path}: model "{tables[model]}": aliases: {alias!r} '
                            f"already names {owner.model}; remove it here"
                        )
        return card

    def resolve(self, name: str) -> Resolved:
        """Return the model that a name stands for: an exact id, an alias or a cloud's spelling.

        Raises:
            UnknownModelError: saying how to add it, and which id it may misspell.
        """
        found = self.find(name)
        if found is not None:
            return found
        likely = self.likely(name)
        # A foreign name in a message: no account id, nothing invisible, nothing endless.
        shown = repr(mask_account(name)[:200])[1:-1]
        remedy = "See the models with llmcost rates, or add"
        if likely:
            remedy = f"Did you mean {likely}? If not, add"
        raise UnknownModelError(
            f"no price for model '{shown}' in rate card {self.version}. {remedy} its rates to a "
            f'TOML file ([models."{shown}"] rates = [...]) and pass that with --llmcost-prices'
        )

    def rates(self, model: str, *, on: date, speed: str | None = None) -> Rates:
        """Return what a model's tokens cost on a day, in its lowest length band.

        Raises:
            UnknownModelError: unknown, not yet priced on that day, or never at that speed.
        """
        return self.bands(model, on=on, speed=speed)[0]

    def bands(self, model: str, *, on: date, speed: str | None = None) -> tuple[Rates, ...]:
        """Return a model's rates on a day at one speed, one for each length band, lowest first.

        Raises:
            UnknownModelError: as `rates` does.
        """
        return self._rates_on(self.resolve(model).model, on, speed or STANDARD)

    def speeds(self, model: str) -> tuple[str, ...]:
        """Return the speeds that a model has or had rates for, the standard one first."""
        rows = self.about(model).rates
        speeds = {row.speed or STANDARD for row in rows if row.multiplier is None}
        return tuple(sorted(speeds, key=lambda speed: (speed != STANDARD, speed)))

    def about(self, name: str) -> ModelEntry:
        """Return what the card says of a model, by whatever name; nothing of an unknown one."""
        found = self.find(name)
        return self.models[found.model] if found else ModelEntry()

    def _layers(self, model: str) -> Layers:
        return [file.models[model].rates for file in self._files if model in file.models]

    def _find_rates(self, model: str, on: date, speed: str) -> tuple[Rates, ...]:
        stated = (row for row in self.models[model].rates if row.multiplier is None)
        rows = [row for row in stated if (row.speed or STANDARD) == speed]
        layers, bands = self._layers(model), []
        for above in sorted({row.above or 0 for row in rows}):
            if found := rates_on(layers, on, speed, above):
                row, usd = found
                bands.append(
                    Rates(
                        model=model,
                        speed=speed,
                        above=above,
                        from_on=row.from_on,
                        ended_on=end_of(layers, speed, on),
                        checked_on=row.checked_on,
                        sources=row.sources,
                        usd=usd,
                    )
                )
        if not bands or bands[0].above:
            at_speed = "" if speed == STANDARD else f" at speed {speed!r}"
            why = "its last rates ended before that day"
            if not rows:
                why = "the rate card has no rates at that speed"
            elif (first := min(row.from_on for row in rows)) > on:
                why = f"its first rates are from {first}"
            raise UnknownModelError(f"no price for {model}{at_speed} on {on}: {why}")
        return tuple(bands)

    def is_refusal_billed(self, category: str, on: date) -> bool | None:
        """Return whether a refusal before any output is charged; None if that is unknown.

        It depends on the refusal's category, and on the day.
        Source: https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback
        """
        rules = [rule for rule in self._settings.refusals if rule.from_on <= on]
        rule = max(rules, key=lambda rule: rule.from_on, default=None)
        if rule is None or category in rule.billed:
            return True
        is_open = rule.free or category == UNSEEN
        return None if is_open and category not in rule.free else False

    def _find_price_list(self, name: str, speed: str | None, terms: Terms, on: date) -> PriceList:
        # What only the request names may not have been given. A model that inherits a speed from a
        # request to another one may never have had it, which is no doubt.
        how, _, asked = (speed or STANDARD).partition("-")
        is_known = how not in ("asked", "inherited")
        bands = self.bands(name, on=on, speed=speed if is_known else STANDARD)
        prices = _price_list_of(self._settings, bands, terms, on)
        other = None
        if not is_known:
            with suppress(UnknownModelError):
                other = self.bands(name, on=on, speed=asked)
        if is_known or (how == "inherited" and other is None):
            return prices
        # The standard rates are the price, the others the high bound.
        high = prices.multiplier_high if other else None
        caveats = (*prices.caveats, f"unknown-speed: {bands[0].model}")
        return replace(prices, alternative=other, multiplier_high=high, caveats=caveats)

    def is_code_execution_free(self, tools: Iterable[str]) -> bool:
        """Return whether one of a request's tools, by type, makes its container time free.

        A tool does if the card names it, from the version there on.
        Source: https://platform.claude.com/docs/en/about-claude/pricing, read 2026-10-08.
        """
        since = self._settings.code_execution_free_beside
        dated = filter(None, map(_DATED_TOOL.fullmatch, tools))
        return any(each["name"] in since and each["date"] >= since[each["name"]] for each in dated)


def _spellings(card: CardFile) -> Iterator[tuple[str, Resolved]]:
    """Yield what each name stands for; a later one of the same name wins.

    Source: public configurations of tools for Google Cloud (`name@default`) and of gateways
    (`anthropic/name`, OpenRouter's with a point: `anthropic/claude-sonnet-5.5`), read 2026-11-25.
    """
    for model, entry in card.models.items():
        at_google = Resolved(model, "vertex-unknown")
        yield f"{(entry.vertex or model).partition('@')[0]}@default", at_google
        if entry.vertex is not None:
            yield entry.vertex, at_google
        if entry.bedrock is not None:
            # Without a prefix it is the region's own endpoint.
            yield entry.bedrock, Resolved(model, "bedrock-regional")
            for prefix, platform in card.bedrock_prefixes.items():
                yield f"{prefix}.{entry.bedrock}", Resolved(model, platform)
        for name in (model, *entry.aliases):
            if name.startswith("claude-"):  # a user's own models are none of Anthropic's
                yield f"anthropic/{name}", Resolved(model)
                yield "anthropic/" + _VERSION.sub(r"-\1.\2", name), Resolved(model)
    for model, entry in card.models.items():
        yield from ((alias, Resolved(model)) for alias in entry.aliases)
    for model in card.models:  # an id is never an alias of something else
        yield model, Resolved(model)


@cache
def shipped_card() -> RateCard:
    """Return the prices that come with the package."""
    # As Python reads its modules: a test may have replaced what opens files.
    data = pkgutil.get_data(__package__, _SHIPPED)
    assert data is not None
    card = parse_card_file(data, f"price file {_SHIPPED}")
    assert card.version is not None  # a test holds it
    return RateCard([card], version=card.version, sha256=hashlib.sha256(data).hexdigest())

"""RateCard: dated prices of every model, with all that a bill depends on.

Data flow: `anthropic.toml` and a user's price files -> RateCard; legs, a context and a date ->
`RateCard.price` -> Cost. Nothing here knows today's date.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import cache
from itertools import pairwise
from pathlib import Path

import msgspec

from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.prices.bill import (
    CacheState,
    Cost,
    SamplingCost,
    Tariff,
    bill_sampling,
    tariff_of,
    total,
)
from pytest_llmcost.prices.dated_rates import STANDARD, Rates, rates_on, speeds_of
from pytest_llmcost.prices.model_names import Names, Resolved, show_name
from pytest_llmcost.prices.price_file import ModelEntry, read_card_file
from pytest_llmcost.prices.price_overlay import Contents, lay_over
from pytest_llmcost.prices.usage import SamplingCall, SamplingKind, Terms

_SHIPPED = Path(__file__).with_name("anthropic.toml")


class NextBand(msgspec.Struct, frozen=True, kw_only=True):
    """The next length band above a prompt: one token more than `above` moves the whole request."""

    above: int
    rates: Rates
    beyond: Rates


class RateCard:
    """Dated prices of all models: `shipped_card()`, or that with a user's own laid over it.

    A card never changes; what it has worked out once it answers from memory.
    """

    def __init__(self, contents: Contents, *, version: str, sha256: str) -> None:
        self.version = version
        """The shipped card's version, then the name of each price file laid over it."""
        self.sha256 = sha256
        """Of the shipped file and each price file, in order."""
        self._settings, self._layers = contents
        self._names = Names(self._settings)
        self._rates: dict[tuple[str, date, str], tuple[Rates, ...]] = {}
        self._nearest: dict[str, tuple[str, ...]] = {}
        self._tariffs: dict[tuple[str, SamplingKind, Terms, date], Tariff] = {}

    @property
    def checked_on(self) -> date:
        """When the shipped prices were last compared with their sources."""
        assert self._settings.checked_on is not None  # the shipped card says it; a test holds it
        return self._settings.checked_on

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the prices come from."""
        return tuple(self._settings.sources.values())

    def source_url(self, name: str) -> str:
        """Return the address of what a row names as its source; the name where it has none."""
        return self._settings.sources.get(name, name)

    @property
    def models(self) -> Mapping[str, ModelEntry]:
        """What the card says of each model, by exact id; rows of a price file behind the others."""
        return self._settings.models

    def is_code_execution_free(self, tools: Iterable[str]) -> bool:
        """Whether one of a request's tools, by type, makes its container time free.

        Source: https://platform.claude.com/docs/en/about-claude/pricing, read 2026-10-08
        """
        known = self._settings.code_execution
        if known is None:
            return False
        return any(_is_as_new(tool, free) for tool in tools for free in known.free_beside)

    def with_overrides(self, path: str | Path) -> RateCard:
        """Return this card with a user's price file laid over it; its rows come first.

        Raises:
            RateCardError: naming file, model, key and value of what is wrong.
        """
        path = Path(path)
        change, data = read_card_file(path)
        contents = lay_over(Contents(self._settings, self._layers), change, origin=str(path))
        return RateCard(
            contents,
            version=f"{self.version}+{path.name}",
            sha256=hashlib.sha256(self.sha256.encode() + data).hexdigest(),
        )

    def resolve(self, name: str) -> Resolved:
        """Return the model that a name stands for: an exact id, an alias or a cloud's spelling.

        Raises:
            UnknownModelError: naming the nearest known ids and how to add this one.
        """
        found = self._names.find(name)
        if found is None:
            raise self._unknown_model(name)
        return found

    def find(self, name: str) -> Resolved | None:
        """Return the model that a name stands for, as `resolve` does; nothing for an unknown."""
        return self._names.find(name)

    def _unknown_model(self, name: str) -> UnknownModelError:
        if name not in self._nearest:  # a search through all names, once for each unknown one
            self._nearest[name] = self._names.nearest(name)
        nearest = self._nearest[name]
        shown = show_name(name)
        return UnknownModelError(
            f"no price for model '{shown}' in rate card {self.version}; nearest known: "
            f"{', '.join(nearest)}. Add it to a TOML file, as a name of one of them "
            f'([models."{nearest[0]}"] aliases = ["{shown}"]) or with rates of its own '
            f'([models."{shown}"] rates = [...]), and give that with --llmcost-prices',
            model=name,
            nearest=nearest,
        )

    def rates(
        self, model: str, *, on: date, speed: str | None = None, prompt_tokens: int = 0
    ) -> Rates:
        """Return what a model's tokens cost on a day, for a prompt of that length.

        Raises:
            UnknownModelError: unknown, not yet priced on that day, or never at that speed.
        """
        bands = self.bands(model, on=on, speed=speed)
        return [rates for rates in bands if not rates.above or prompt_tokens > rates.above][-1]

    def bands(self, model: str, *, on: date, speed: str | None = None) -> tuple[Rates, ...]:
        """Return a model's rates on a day at one speed, one for each length band."""
        key = (self.resolve(model).model, on, speed or STANDARD)
        if key not in self._rates:
            self._rates[key] = rates_on(key[0], self._layers[key[0]], on, key[2])
        return self._rates[key]

    def speeds(self, model: str) -> tuple[str, ...]:
        """Return the speeds that a model has or had rates for, the standard one first."""
        return speeds_of(self._layers[self.resolve(model).model])

    def next_band(
        self, model: str, *, on: date, prompt_tokens: int, speed: str | None = None
    ) -> NextBand | None:
        """Return the next length band above a prompt; nothing where there is none."""
        bands = self.bands(model, on=on, speed=speed)
        for rates, beyond in pairwise(bands):
            if prompt_tokens <= beyond.above:
                return NextBand(above=beyond.above, rates=rates, beyond=beyond)
        return None

    def min_cacheable_tokens(self, model: str, on: date) -> int | None:
        """Return how long a prompt's prefix must be to be cached; None where unknown."""
        self.bands(model, on=on)
        return self.models[self.resolve(model).model].min_cacheable_tokens

    def tokenizer(self, model: str) -> str | None:
        """Return the name of a model's tokenizer; models of one name count text alike."""
        return self.models[self.resolve(model).model].tokenizer

    def price(
        self,
        sampling_calls: Sequence[SamplingCall],
        context: Terms,
        *,
        on: date,
        cache_state: CacheState = "as-billed",
    ) -> Cost:
        """Price one request: its legs, at list price on a day.

        Raises:
            UnknownModelError: when a leg's model has no price; nothing is ever taken for $0.
        """
        return total(
            [
                self.price_sampling(sampling, context, on=on, cache_state=cache_state)
                for sampling in sampling_calls
            ]
        )

    def price_sampling(
        self,
        sampling: SamplingCall,
        context: Terms,
        *,
        on: date,
        cache_state: CacheState = "as-billed",
    ) -> SamplingCost:
        """Price one leg of a request, as `price` does."""
        tariff = self._tariff(sampling, context, on)
        if tariff.model != sampling.model:
            sampling = msgspec.structs.replace(sampling, model=tariff.model)
        billed = True if sampling.refusal is None else self.is_refusal_billed(sampling.refusal, on)
        return bill_sampling(sampling, tariff, cache_state=cache_state, refusal_billed=billed)

    def is_refusal_billed(self, category: str, on: date) -> bool | None:
        """Tell whether a refusal before any output is charged; None where that is unknown.

        Source: https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback
        """
        rules = [rule for rule in self._settings.refusals if rule.from_on <= on]
        if not rules:
            return True
        rule = max(rules, key=lambda rule: rule.from_on)
        if category in rule.billed:
            return True
        return None if rule.free and category not in rule.free else False

    def _tariff(self, sampling: SamplingCall, context: Terms, on: date) -> Tariff:
        key = (sampling.model, sampling.kind, context, on)
        tariff = self._tariffs.get(key)
        if tariff is None:
            tariff = self._tariffs[key] = self._work_out_tariff(sampling, context, on)
        return tariff

    def _work_out_tariff(self, sampling: SamplingCall, context: Terms, on: date) -> Tariff:
        model = self.resolve(sampling.model).model
        speed = context.speed or STANDARD
        if sampling.kind == "message" or speed == STANDARD:
            bands = self.bands(model, on=on, speed=speed)
            return tariff_of(self._settings, bands, context, on)
        standard, same = self.bands(model, on=on), self._bands_at(model, on, speed)
        if sampling.kind == "advisor":  # nothing states at which speed it ran
            return tariff_of(self._settings, standard, context, on, alternative=same)
        # What declined or compacted may be another model than the one that answered at this speed.
        return tariff_of(self._settings, same or standard, context, on)

    def _bands_at(self, model: str, on: date, speed: str) -> tuple[Rates, ...] | None:
        """Return a model's rates at a speed; nothing where it has none."""
        try:
            return self.bands(model, on=on, speed=speed)
        except UnknownModelError:
            return None


_DATED_TOOL = re.compile(r"(?P<name>[a-z_]+)_(?P<date>\d{8})")


def _is_as_new(kind: str, known: str) -> bool:
    """Whether a tool has the same name as another and is not older."""
    tool, other = _DATED_TOOL.fullmatch(kind), _DATED_TOOL.fullmatch(known)
    return (
        tool is not None
        and other is not None
        and tool["name"] == other["name"]
        and tool["date"] >= other["date"]
    )


@cache
def shipped_card() -> RateCard:
    """Return the prices that come with the package."""
    card, data = read_card_file(_SHIPPED)
    assert card.version is not None  # a test holds it
    layers = {model: (entry.rates,) for model, entry in card.models.items()}
    sha256 = hashlib.sha256(data).hexdigest()
    return RateCard(Contents(card, layers), version=card.version, sha256=sha256)

"""Override: a user's price file laid over a card, checked against what it changes.

Data flow: Contents of a card, a user's CardFile -> `lay_over` -> Contents with one more layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import msgspec

from pytest_llmcost.errors import RateCardError
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.dated_rates import STANDARD, Layers, row_on
from pytest_llmcost.prices.model_names import Names
from pytest_llmcost.prices.price_file import RATE_KEYS, CardFile, ModelEntry, RateRow

_NO_MODEL = ModelEntry()
_TOO_CHEAP = 1_000
"""No discount divides a rate by so much; a wrong unit does."""


class Contents(NamedTuple):
    """What a card holds: its settings, and each model's rows by the file they come from."""

    settings: CardFile
    layers: Mapping[str, Layers]


def lay_over(base: Contents, change: CardFile, *, origin: str) -> Contents:
    """Lay a price file over a card; what it leaves out stays as it was.

    Raises:
        RateCardError: when a row of a new model lacks a rate or one of a known model is absurdly
            cheap, or an alias already names another model.
    """
    _check_aliases(base.settings, change, origin)
    _check_named_once(base.settings, change, origin)
    named = {_own_id(base.settings, name): entry for name, entry in change.models.items()}
    models = dict(base.settings.models)
    layers = dict(base.layers)
    for model, entry in named.items():
        models[model] = _merged(models.get(model, _NO_MODEL), entry)
        below = layers.get(model, ())
        where = f'{origin}: model "{model}"'
        layers[model] = (*below, tuple(_complete(row, below, where) for row in entry.rates))
        if all(row.factor is not None for rows in layers[model] for row in rows):
            raise RateCardError(f"price file {where}: a new model needs rates, got none")
    settings = base.settings
    # How old the shipped prices are is for nobody else to say.
    kept = {"version": settings.version, "checked_on": settings.checked_on}
    return Contents(_merged(settings, change, models=models, **kept), layers)


def _check_aliases(settings: CardFile, change: CardFile, origin: str) -> None:
    """A name never moves silently from one model to another: that would re-price its calls."""
    ids = {*settings.models, *change.models}
    names = Names(settings)
    owners: dict[str, str] = {}
    for name, entry in change.models.items():
        where = f'price file {origin}: model "{name}": aliases'
        model = _own_id(settings, name)
        for alias in entry.aliases:
            known = names.find(alias)
            if not alias.strip():
                raise RateCardError(f"{where}: {alias!r} is no name")
            if alias in ids:
                raise RateCardError(f"{where}: {alias!r} is a model of its own")
            if known is not None and known.model != model:
                raise RateCardError(f"{where}: {alias!r} already names {known.model}")
            if owners.setdefault(alias, model) != model:
                raise RateCardError(f"{where}: {alias!r} already names {owners[alias]}")


def _check_named_once(settings: CardFile, change: CardFile, origin: str) -> None:
    """A model's id and one of its aliases are one model; of two tables one would be lost."""
    seen: dict[str, str] = {}
    for name in change.models:
        model = _own_id(settings, name)
        if model in seen:
            raise RateCardError(
                f'price file {origin}: model "{name}": is the same model as "{seen[model]}"; '
                "put both into one table"
            )
        seen[model] = name


def _own_id(settings: CardFile, name: str) -> str:
    """Return the id of a model that a file names by one of its aliases."""
    owners = (model for model, entry in settings.models.items() if name in entry.aliases)
    return name if name in settings.models else next(owners, name)


_S = TypeVar("_S", CardFile, ModelEntry)


def _merged(base: _S, change: _S, **fixed: object) -> _S:
    """Return `base` with what `change` states: tables and lists grow, single values give way."""
    fields = {}
    for name in base.__struct_fields__:
        old, new = getattr(base, name), getattr(change, name)
        if isinstance(old, Mapping):
            fields[name] = {**old, **new}
        elif isinstance(old, tuple):
            fields[name] = old + new
        else:
            fields[name] = old if new is None else new
    return msgspec.structs.replace(base, **(fields | fixed))


def _complete(row: RateRow, below: Layers, where: str) -> RateRow:
    """Fill in what a row leaves out from the row that it replaces on its first day."""
    _check_cheapness(row, below, where)
    missing = [key for key in RATE_KEYS if getattr(row, key) is None]
    if row.factor is not None or not missing:
        return row
    found = row_on(below, row.from_on, row.speed or STANDARD, row.above or 0)
    if found is None:
        raise RateCardError(
            f"price file {where}: rates row from {row.from_on}: {', '.join(missing)}: missing, "
            "and there is no earlier row of that speed and length to take them from"
        )
    replaced, factor = found
    rest = {key: EXACT.multiply(getattr(replaced, key), factor) for key in missing}
    return msgspec.structs.replace(row, **rest)


def _check_cheapness(row: RateRow, below: Layers, where: str) -> None:
    """Rates for one token, or for a thousand, instead of a million are the likeliest mistake."""
    known = [each for rows in below for each in rows if each.factor is None]
    for key in RATE_KEYS:
        rate = getattr(row, key)
        # A gateway may well have its caches for nothing.
        if not known or rate is None or (rate == 0 and key.startswith("cache_")):
            continue
        least = min(getattr(each, key) for each in known)
        if rate * _TOO_CHEAP <= least:
            raise RateCardError(
                f"price file {where}: rates row from {row.from_on}: {key}: {rate:f} is less than a "
                f"thousandth of the {least:f} known so far; rates are US dollars per million tokens"
            )

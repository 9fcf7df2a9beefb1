"""Override: a user's price file laid over a card, checked against what it changes.

Data flow: Contents of a card, a user's CardFile -> `lay_over` -> Contents with one more layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

import msgspec

from pytest_llmcost.errors import RateCardError
from pytest_llmcost.pricing.cardfile import RATE_KEYS, CardFile, ModelEntry, RateRow
from pytest_llmcost.pricing.money import EXACT
from pytest_llmcost.pricing.rates import STANDARD, Layers, row_on

_NO_MODEL = ModelEntry()


class Contents(NamedTuple):
    """What a card holds: its settings, and each model's rows by the file they come from."""

    settings: CardFile
    layers: Mapping[str, Layers]


def lay_over(base: Contents, change: CardFile, *, origin: str) -> Contents:
    """Lay a price file over a card; what it leaves out stays as it was.

    Raises:
        RateCardError: when a row of a new model lacks a rate, or an alias is a model's own id.
    """
    _check_aliases(base.settings, change, origin)
    named = {_own_id(base.settings, name): entry for name, entry in change.models.items()}
    taken = {alias for entry in named.values() for alias in entry.aliases}
    models = {
        model: _without_aliases(entry, taken) for model, entry in base.settings.models.items()
    }
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
    ids = {*settings.models, *change.models}
    for name, entry in change.models.items():
        for alias in entry.aliases:
            if alias in ids:
                raise RateCardError(
                    f'price file {origin}: model "{name}": aliases: {alias!r} is a model of its own'
                )


def _own_id(settings: CardFile, name: str) -> str:
    """Return the id of a model that a file names by one of its aliases."""
    owners = (model for model, entry in settings.models.items() if name in entry.aliases)
    return name if name in settings.models else next(owners, name)


def _without_aliases(entry: ModelEntry, taken: Iterable[str]) -> ModelEntry:
    aliases = tuple(alias for alias in entry.aliases if alias not in taken)
    return msgspec.structs.replace(entry, aliases=aliases)


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

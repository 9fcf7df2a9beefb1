"""A user's price file laid over a card: what it changes is checked, completed and merged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TypeVar

from msgspec.structs import replace

from pytest_llmcost.errors import RateCardError
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.model_names import Resolved
from pytest_llmcost.prices.price_file import (
    RATE_KEYS,
    STANDARD,
    Amount,
    CardFile,
    Layers,
    ModelEntry,
    RateRow,
    row_on,
)

_TOO_CHEAP = 1_000
"""No discount divides a rate by so much; a wrong unit does."""
_LEAST_RATE = Decimal("0.0001")
"""No model is so cheap for a million tokens: such an amount is the price of a single token."""


def check_change(
    card: CardFile,
    layers: Mapping[str, Layers],
    change: CardFile,
    find: Callable[[str], Resolved | None],
    *,
    origin: str,
) -> CardFile:
    """Return a price file with exact ids and complete rows, ready to be laid over a card.

    Args:
        card: What the card says so far.
        layers: Each model's rows so far.
        change: The price file.
        find: Return the model of the card that a name stands for.
        origin: Names the price file in errors.

    Raises:
        RateCardError: when a row of a new model lacks a rate, one is absurdly cheap, a model has
            two tables, or an alias already names another model.
    """
    models: dict[str, ModelEntry] = {}
    tables: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name, entry in change.models.items():
        where = f'price file {origin}: model "{name}"'
        model = _exact_id(card, name)
        if model in models:  # of two tables one would be lost
            raise RateCardError(
                f'{where}: is the same model as "{tables[model]}"; put both into one table'
            )
        tables[model] = name
        for alias in entry.aliases:
            known = find(alias)
            owner = owners.setdefault(alias, known.model if known else model)
            if not alias.strip():
                raise RateCardError(f"{where}: aliases: {alias!r} is no name")
            if alias in card.models or alias in change.models:
                raise RateCardError(f"{where}: aliases: {alias!r} is a model of its own")
            # A name never moves silently from one model to another: it would re-price its calls.
            if owner != model:
                raise RateCardError(f"{where}: aliases: {alias!r} already names {owner}")
        below = layers.get(model, ())
        rows = tuple(_complete(row, below, where) for row in entry.rates)
        if all(row.multiplier is not None for layer in (*below, rows) for row in layer):
            raise RateCardError(f"{where}: a new model needs rates, got none")
        models[model] = replace(entry, rates=rows)
    return replace(change, models=models)


def _exact_id(card: CardFile, name: str) -> str:
    """Return the id of a model that a file names by its id or by one of its aliases."""
    owners = (model for model, entry in card.models.items() if name in entry.aliases)
    return name if name in card.models else next(owners, name)


def _complete(row: RateRow, below: Layers, where: str) -> RateRow:
    """Fill in what a row leaves out from the row that it replaces on its first day."""
    where = f"{where}: rates row from {row.from_on}"
    known = [each for rows in below for each in rows if each.multiplier is None]
    for key in RATE_KEYS:
        _check_cheapness(key, getattr(row, key), [getattr(each, key) for each in known], where)
    missing = [key for key in RATE_KEYS if getattr(row, key) is None]
    if row.multiplier is not None or not missing:
        return row
    found = row_on(below, row.from_on, row.speed or STANDARD, row.above or 0)
    if found is None:
        raise RateCardError(
            f"{where}: {', '.join(missing)}: missing, and there is no earlier row of that speed "
            "and length to take them from"
        )
    replaced, multiplier = found
    rest = {key: Amount(EXACT.multiply(getattr(replaced, key), multiplier)) for key in missing}
    return replace(row, **rest)


def _check_cheapness(key: str, rate: Decimal | None, known: list[Decimal], where: str) -> None:
    """Rates for one token, or for a thousand, instead of a million are the likeliest mistake."""
    if rate is None or (rate == 0 and (not known or key.startswith("cache_"))):
        return  # a local model may be free, and so may a gateway's cache
    least = min(known) / _TOO_CHEAP if known else _LEAST_RATE
    if rate <= least:
        compared = f"a thousandth of the {min(known):f} known so far" if known else f"${least}"
        raise RateCardError(
            f"{where}: {key}: {rate:f} is not more than {compared}; rates are US dollars per "
            "million tokens"
        )


_T = TypeVar("_T", CardFile, ModelEntry)


def merged(base: _T, change: _T) -> _T:
    """Return `base` with what `change` states: tables and lists grow, single values give way."""
    fields: dict[str, object] = {}
    for name in base.__struct_fields__:
        old, new = getattr(base, name), getattr(change, name)
        if name in ("version", "checked_on"):
            fields[name] = old  # how old the shipped prices are is not for a user's file to say
        elif name == "models":
            entries = {model: merged(old.get(model, ModelEntry()), new[model]) for model in new}
            fields[name] = {**old, **entries}
        elif isinstance(old, Mapping):
            fields[name] = {**old, **new}
        elif isinstance(old, tuple):
            fields[name] = old + new
        else:
            fields[name] = old if new is None else new
    return replace(base, **fields)

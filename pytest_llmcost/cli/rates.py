"""What models cost on a day, and how your own price file changes that."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal

from pytest_llmcost.cli.console import (
    Console,
    add_date_option,
    add_prices_option,
    read_card,
    read_date,
)
from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.money import plain_usd
from pytest_llmcost.prices.bill import Rates
from pytest_llmcost.prices.price_file import RATE_KEYS
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.reports.tables import render_table

_HEADS = ("model", "", "input", "5m write", "1h write", "read", "output")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "model", nargs="?", help="one model by any of its names, or a part of the names of several"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--diff", metavar="FILE", help="show what a price file of yours changes")
    add_date_option(parser)
    add_prices_option(parser)


def run(arguments: Namespace, console: Console) -> int:
    """Print the rates, or what a price file changes; an unknown model is an error."""
    card, on = read_card(arguments.prices), read_date(arguments.on)
    if arguments.diff:
        console.print(_render_changes(card, card.with_overrides(arguments.diff), arguments, on))
        return 0
    models = _models(card, arguments.model)
    if arguments.format == "json":
        rates = [each for model in models for each in _rates_of(card, model, on)]
        console.print(json.dumps([_as_json(each, on) for each in rates], indent=2))
    elif arguments.model and len(models) == 1:
        console.print(_render_model(card, models[0], on))
    else:
        console.print(_render_all(card, models, on))
    return 0


def _models(card: RateCard, name: str | None) -> list[str]:
    """Return the models that a name means: one by a name of its own, else all that contain it."""
    if name is None:
        return [*card.models]
    if card.find(name) is None and (found := [each for each in card.models if name in each]):
        return found
    return [card.resolve(name).model]


def _as_json(rates: Rates, on: date) -> dict[str, object]:
    """Return rates with the names of a price file; dollars per million tokens as text."""
    return {
        "model": rates.model,
        "on": on.isoformat(),
        "speed": rates.speed,
        "above": rates.above,
        **{key: _amount(rates, key) for key in RATE_KEYS},
    }


def _render_all(card: RateCard, models: Sequence[str], on: date) -> str:
    rows = [_row(rates, on, card) for model in models for rates in _rates_of(card, model, on)]
    return f"{render_table(_HEADS, rows, names=2)}\n\n{_footer(card, on)}"


def _footer(card: RateCard, on: date) -> str:
    return (
        f"US dollars per million tokens on {on}, rate card {card.version}, "
        f"checked on {card.checked_on}"
    )


def _rates_of(card: RateCard, model: str, on: date) -> Iterator[Rates]:
    """Every speed and length of a model that has a price on the day."""
    for speed in card.speeds(model):
        try:
            yield from card.bands(model, on=on, speed=speed)
        except UnknownModelError:  # not launched yet, or not yet at that speed
            continue


def _row(rates: Rates, on: date, card: RateCard) -> list[str]:
    condition = _condition(rates, on)
    retires_on = card.models[rates.model].retires_on
    if retires_on and retires_on <= on:
        condition = f"{condition} retired {retires_on}".strip()
    return [rates.model, condition, *(_amount(rates, key) for key in RATE_KEYS)]


def _condition(rates: Rates, on: date) -> str:
    """When these rates apply; nothing for the ordinary ones."""
    parts = [] if rates.speed == "standard" else [rates.speed]
    if rates.above:
        parts.append(f"above {rates.above:,}")
    if rates.ended_on and rates.ended_on <= on:
        parts.append(f"ended {rates.ended_on}")
    return " ".join(parts)


def _amount(rates: Rates, key: str) -> str:
    amount: Decimal = getattr(rates, key)
    return plain_usd(amount)


def _render_model(card: RateCard, model: str, on: date) -> str:
    card.rates(model, on=on)  # no price at all on that day is an error that says why
    rates = [*_rates_of(card, model, on)]
    rows = [_row(each, on, card) for each in rates]
    lines = [render_table(_HEADS, rows, names=2), "", *_facts(card, model, rates[0]), ""]
    return "\n".join([*lines, _footer(card, on)])


def _facts(card: RateCard, model: str, rates: Rates) -> Iterator[str]:
    entry = card.models[model]
    yield f"these rates since {rates.from_on}, checked on {rates.checked_on or 'no known day'}"
    if entry.aliases:
        yield f"also called {', '.join(entry.aliases)}"
    for place, factor in sorted(entry.geography.items()):
        yield f"times {plain_usd(factor)} where inference_geo is {place!r}"
    if entry.regional is not None:
        yield f"times {plain_usd(entry.regional)} at a cloud's regional endpoint"
    if entry.min_cacheable_tokens is not None:
        yield f"prompts are cached from {entry.min_cacheable_tokens:,} tokens on"
    if entry.retires_on:
        yield f"retires on {entry.retires_on}; the last rates stay"
    for source in rates.sources:
        yield f"source: {card.source_url(source)}"


def _render_changes(card: RateCard, changed: RateCard, arguments: Namespace, on: date) -> str:
    models = [changed.resolve(arguments.model).model] if arguments.model else [*changed.models]
    rows = [row for model in models for row in _changes(card, changed, model, on)]
    if not rows:
        return f"{arguments.diff} changes no rate on {on}"
    heads = ("model", "", "rate", "shipped", "yours", "change")
    return f"{render_table(heads, rows, names=3)}\n\n{_footer(changed, on)}"


def _changes(card: RateCard, changed: RateCard, model: str, on: date) -> Iterator[list[str]]:
    known = _rates_of(card, model, on) if model in card.models else ()
    before = {(each.speed, each.above): each for each in known}
    for rates in _rates_of(changed, model, on):
        shipped = before.get((rates.speed, rates.above))
        for key in RATE_KEYS:
            old = getattr(shipped, key) if shipped else None
            new = getattr(rates, key)
            if old != new:
                yield [model, _condition(rates, on), key, *_change(old, new)]


def _change(old: Decimal | None, new: Decimal) -> tuple[str, str, str]:
    if old is None:
        return "-", plain_usd(new), "new"
    by = f"{(new - old) / old:+.1%}" if old else ""
    return plain_usd(old), plain_usd(new), by

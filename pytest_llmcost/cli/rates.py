"""What models cost on a day, and how your own price file changes that."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from datetime import date

from pytest_llmcost.cli import console
from pytest_llmcost.errors import SettingsError, UnknownModelError
from pytest_llmcost.money import plain_usd
from pytest_llmcost.prices.price_file import RATE_KEYS
from pytest_llmcost.prices.rate_card import RateCard, Rates

_HEADS = {"cache_write_5m": "5m write", "cache_write_1h": "1h write", "cache_read": "read"}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "model", nargs="?", help="one model by any of its names, or a part of the names of several"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--diff", metavar="FILE", help="show what a price file of yours changes")
    console.add_prices(parser, with_date=True)


def run(arguments: Namespace) -> int:
    """Print the rates, or what a price file changes.

    An unknown model is an error, and so is a day on which no rate is known.
    """
    shipped, on, name = console.read_card(arguments), arguments.on, arguments.model
    card = shipped.with_overrides(arguments.diff) if arguments.diff else shipped
    models = [each for each in card.models if not name or name in each]
    if name and (card.find(name) or not models):
        models = [card.resolve(name).model]
    facts: list[str] = []
    if arguments.diff:
        if arguments.format == "json":
            raise SettingsError(
                "--diff is for text only; for the rates of a price file as JSON use --prices FILE"
            )
        heads = ["model", "", "rate", "shipped:", "yours:", "change:"]
        rows = [row for model in models for row in _changes(shipped, card, model, on)]
        for model in models:
            known = shipped.models[model].aliases if model in shipped.models else ()
            if new := [each for each in card.models[model].aliases if each not in known]:
                facts.append(f"{model} is also called {', '.join(new)}")
        if not rows:
            console.write_lines([f"{arguments.diff} changes no rate on {on}", *facts])
            return 0
    else:
        if name and card.find(name):
            card.rates(models[0], on=on)  # no price at all on that day is an error that says why
        rates = [each for model in models for each in _rates_of(card, model, on)]
        if not rates:
            first, model = min((min(r.from_on for r in card.models[m].rates), m) for m in models)
            raise SettingsError(
                f"no rate is known on {on}; the first one is of {model}, from {first}"
            )
        if arguments.format == "json":  # with the names of a price file
            day = on.isoformat()
            objects = [
                {"model": each.model, "on": day, "speed": each.speed, "above": each.above}
                | dict(zip(RATE_KEYS, _dollars(each), strict=True))
                for each in rates
            ]
            console.write_json(objects)
            return 0
        heads = ["model", "", *(f"{_HEADS.get(key, key)}:" for key in RATE_KEYS)]
        rows = [[each.model, _condition(card, each, on), *_dollars(each)] for each in rates]
        facts += _facts(card, models[0], rates[0]) if name and len(models) == 1 else []
    units = f"US dollars per million tokens on {on}"
    footer = f"{units}, rate card {card.version}, checked on {card.checked_on}"
    console.write(console.draw_table(heads, rows))
    console.write_lines([*(["", *facts] if facts else []), "", footer])
    return 0


def _dollars(rates: Rates) -> list[str]:
    return [plain_usd(rates.usd[key]) for key in RATE_KEYS]


def _rates_of(card: RateCard, model: str, on: date) -> Iterator[Rates]:
    """Every speed and length of a model that has a price on the day."""
    for speed in card.speeds(model):
        try:
            yield from card.bands(model, on=on, speed=speed)
        except UnknownModelError:  # not launched yet, or not yet at that speed
            continue


def _condition(card: RateCard, rates: Rates, on: date) -> str:
    """When these rates apply; nothing for the ordinary ones."""
    parts = [] if rates.speed == "standard" else [rates.speed]
    parts += [f"above {rates.above:,}"] if rates.above else []
    ends = {"ended": rates.ended_on, "retired": card.models[rates.model].retires_on}
    parts += [f"{what} {when}" for what, when in ends.items() if when and when <= on]
    return " ".join(parts)


def _facts(card: RateCard, model: str, rates: Rates) -> Iterator[str]:
    entry = card.models[model]
    yield f"these rates since {rates.from_on}, checked on {rates.checked_on or 'no known day'}"
    if entry.aliases:
        yield f"also called {', '.join(entry.aliases)}"
    for region, factor in sorted(entry.geography.items()):
        yield f"times {plain_usd(factor)} where inference_geo is {region!r}"
    if entry.regional is not None:
        yield f"times {plain_usd(entry.regional)} at a cloud's regional endpoint"
    if entry.min_cacheable_tokens is not None:
        yield f"prompts are cached from {entry.min_cacheable_tokens:,} tokens on"
    if entry.retires_on:
        yield f"retires on {entry.retires_on}; the last rates stay"
    for source in rates.sources:
        yield f"source: {card.source_url(source)}"


def _changes(card: RateCard, changed: RateCard, model: str, on: date) -> Iterator[list[str]]:
    before = {(each.speed, each.above): each for each in _rates_of(card, model, on)}
    for rates in _rates_of(changed, model, on):
        shipped = before.get((rates.speed, rates.above))
        for key in RATE_KEYS:
            new, old = rates.usd[key], shipped.usd[key] if shipped else None
            if old != new:
                how = ["-", plain_usd(new), "new"]
                if old is not None:
                    how = [
                        plain_usd(old),
                        plain_usd(new),
                        f"{(new - old) / old:+.1%}" if old else "",
                    ]
                yield [model, _condition(changed, rates, on), key, *how]

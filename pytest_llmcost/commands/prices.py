"""The options `--prices` and `--on`, and what they lead to, the same for every command."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterable
from datetime import date, datetime, timezone

from pytest_llmcost.pricing.ratecard import RateCard, shipped_card
from pytest_llmcost.settings import parse_date


def add_prices_option(parser: ArgumentParser) -> None:
    """Declare `--prices`, which may be given more than once."""
    parser.add_argument(
        "--prices",
        "--llmcost-prices",  # as pytest spells it, and messages with it
        action="append",
        default=[],
        metavar="FILE",
        help="a TOML file of your own prices, laid over the shipped ones",
    )


def read_card(paths: Iterable[str]) -> RateCard:
    """Return the shipped prices with the files laid over them, the last one on top."""
    card = shipped_card()
    for path in paths:
        card = card.with_overrides(path)
    return card


def add_date_option(parser: ArgumentParser) -> None:
    """Declare `--on`."""
    parser.add_argument("--on", metavar="DATE", help="prices of that day (default: today, UTC)")


def read_date(text: str | None) -> date:
    """Return the day that the user gave, else today in UTC."""
    return parse_date(text) if text else datetime.now(timezone.utc).date()

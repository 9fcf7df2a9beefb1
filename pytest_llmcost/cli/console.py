"""Console: where a command's output, notes and problems go."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from pathlib import Path
from typing import TextIO

from pytest_llmcost.ledger.ledger import Ledger
from pytest_llmcost.ledger.ledger_file import write_file, write_ledger
from pytest_llmcost.prices.rate_card import RateCard, shipped_card
from pytest_llmcost.reports.markdown import render_markdown
from pytest_llmcost.settings import parse_date, parse_report_path


@dataclass(frozen=True)
class Console:
    """The standard streams, or those of a test."""

    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)

    def print(self, text: str) -> None:
        """Write a result."""
        self.out.write(text + "\n")

    def note(self, text: str) -> None:
        """Write what is no result: progress, a problem."""
        self.err.write(f"llmcost: {text}\n")
        self.err.flush()


def add_output_option(parser: ArgumentParser, what: str) -> None:
    """Declare `--output`, which may be given more than once."""
    parser.add_argument(
        "-o",
        "--output",
        action="append",
        default=[],
        metavar="FILE",
        help=f"where to write {what}, or with the suffix .md a pull-request comment; repeatable",
    )


def read_output_paths(arguments: Namespace) -> list[Path]:
    """Return the paths, each with a suffix that names a format."""
    return [parse_report_path(text) for text in arguments.output]


def write_output(ledger: Ledger, path: Path) -> None:
    """Write a report in the format that the path's suffix names."""
    if path.suffix == ".json":
        write_ledger(ledger, path)
    else:
        write_file(path, [render_markdown(ledger).encode()])


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

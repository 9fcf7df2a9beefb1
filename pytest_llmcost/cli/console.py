"""Console: where a command's output goes, and the options that several commands have."""

from __future__ import annotations

import json
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import reduce
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from pytest_llmcost.errors import SettingsError
from pytest_llmcost.prices.rate_card import RateCard, shipped_card
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.tables import Screen, TableRow, as_text, text_table
from pytest_llmcost.settings import OPTIONS, parse_date, parse_path, parse_report_path


@dataclass(frozen=True)
class Console:
    """The standard streams, or those of a test."""

    out: TextIO
    err: TextIO

    @property
    def screen(self) -> Screen:
        """How many columns a line of the terminal has, and whether it can show all characters."""
        is_unicode = self._encoding.lower().startswith("utf")
        return Screen(shutil.get_terminal_size().columns, is_unicode)

    @property
    def _encoding(self) -> str:
        # A pipe on Windows has a code page, and a stream in memory no encoding at all.
        return getattr(self.out, "encoding", None) or "utf-8"

    def print_json(self, value: object) -> None:
        """Write a result for a program."""
        self.print(json.dumps(value, indent=2))

    def print(self, text: str) -> None:
        """Write a result; what the stream cannot show, in ASCII."""
        shown = self.screen.text(text).encode(self._encoding, "backslashreplace")
        self.out.write(shown.decode(self._encoding) + "\n")

    def print_lines(self, lines: Iterable[str]) -> None:
        """Write a result of lines that may quote a foreign file."""
        self.print("\n".join(clean(line, 10_000) for line in lines))

    def print_document(self, text: str) -> None:
        """Write what goes into a file or to another program: UTF-8, whatever the locale is."""
        if isinstance(self.out, TextIOWrapper):
            self.out.reconfigure(encoding="utf-8")
        self.print(text)

    def note(self, text: str) -> None:
        """Write what is no result: progress, or a problem, which may quote a foreign file."""
        for line in f"llmcost: {text}".split("\n"):
            self.err.write(f"{clean(line, 2_000)}\n")
        self.err.flush()

    def problem(self, text: str) -> None:
        """Write a problem that names foreign things, on one line."""
        self.note(clean(text, 2_000))


def draw_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], screen: Screen | None = None
) -> str:
    """Write rows as a table, whatever they quote; a head that ends in a colon is over numbers."""
    table = [TableRow([*map(clean, row)]) for row in rows]
    return as_text(text_table(heads, table, screen or Screen()))


def parse_history(text: str) -> Path:
    """Read the path of a history; to read a device may never end."""
    path = parse_path(text)
    if path.is_char_device():
        raise SettingsError(f"{text!r} is a device; give the file of pytest --llmcost-history")
    return path


def add_setting(parser: ArgumentParser, name: str, help: str, **how: Any) -> None:
    """Declare an option that pytest has as well: as it is spelled there, and without the prefix."""
    option = next(each for each in OPTIONS if each.name == name)
    how = {"type": option.parse, "metavar": option.metavar, "default": option.default, **how}
    parser.add_argument(f"--{name.replace('_', '-')}", str(option.flag), help=help, **how)


def add_output(parser: ArgumentParser, what: str) -> None:
    """Declare `--output`, which may be given more than once."""
    parser.add_argument(
        "-o",
        "--output",
        type=parse_report_path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"where to write {what}, or with the suffix .md a pull-request comment, with .html a "
        "page; repeatable",
    )


def add_prices(parser: ArgumentParser, *, with_date: bool = False) -> None:
    """Declare `--prices`, which may be given more than once, and `--on` if it is asked for."""
    if with_date:
        today = datetime.now(timezone.utc).date()
        when = "prices of that day (default: today, UTC)"
        parser.add_argument("--on", type=parse_date, default=today, metavar="DATE", help=when)
    what = "a TOML file of your own prices, laid over the shipped ones"
    add_setting(parser, "prices", what, action="append", default=[])


def read_card(arguments: Namespace) -> RateCard:
    """Return the shipped prices with the files of `--prices` laid over them, the last on top."""
    return reduce(RateCard.with_overrides, arguments.prices, shipped_card())

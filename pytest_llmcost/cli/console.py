"""Where a command's output goes, and the options that several commands have."""

from __future__ import annotations

import json
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import reduce
from io import TextIOWrapper
from typing import Any

from pytest_llmcost.prices.rate_card import RateCard, shipped_card
from pytest_llmcost.reports.plain_text import Screen, TableRow, as_text, clean, text_table
from pytest_llmcost.settings import FORMATS, OPTIONS, parse_date, parse_report_path


def screen() -> Screen:
    """How many columns a line of the terminal has, and whether it can show all characters."""
    return Screen(shutil.get_terminal_size().columns, _encoding().lower().startswith("utf"))


def _encoding() -> str:
    # A pipe on Windows has a code page, and a stream in memory no encoding at all.
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def write(text: str) -> None:
    """Write a result; what the stream cannot show, in ASCII."""
    encoding = _encoding()
    shown = screen().text(text).encode(encoding, "backslashreplace")
    sys.stdout.write(shown.decode(encoding) + "\n")


def write_json(value: object) -> None:
    """Write a result for a program."""
    write(json.dumps(value, indent=2))


def write_lines(lines: Iterable[str]) -> None:
    """Write a result of lines that may quote a foreign file."""
    write("\n".join(clean(line, 10_000) for line in lines))


def write_document(text: str) -> None:
    """Write what goes into a file or to another program: the same bytes on every system."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    write(text)


def note(text: str, *more: str) -> None:
    """Write what is no result, progress or a problem; each line may quote a foreign file."""
    with suppress(OSError):  # nobody can read it; the result and the exit status stay as they are
        for line in (f"llmcost: {text}", *more):
            sys.stderr.write(f"{clean(line, 2_000)}\n")
        sys.stderr.flush()


def draw_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], screen: Screen | None = None
) -> str:
    """Write rows as a table, whatever they quote; a head that ends in a colon is over numbers."""
    table = [TableRow([*map(clean, row)]) for row in rows]
    return as_text(text_table(heads, table, screen or Screen()))


def add_settings(parser: ArgumentParser, *names: str, **how: Any) -> None:
    """Declare options that pytest has as well, as they are spelled there and without the prefix."""
    for option in (each for each in OPTIONS if each.name in names):
        usual: dict[str, Any] = {
            "type": option.parse,
            "metavar": option.metavar,
            "default": option.default or None,
            "help": option.help.replace("%", "%%"),
        }
        if option.repeatable:
            usual |= {"action": "append", "default": []}
        flags = (f"--{option.name.replace('_', '-')}", str(option.flag))
        parser.add_argument(*flags, **{**usual, **how})


def add_output(parser: ArgumentParser, what: str) -> None:
    """Declare `--output`, which may be given more than once."""
    parser.add_argument(
        "-o",
        "--output",
        type=parse_report_path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"where to write {what}, by its suffix: {FORMATS}; repeatable",
    )


def add_prices(parser: ArgumentParser, *, with_date: bool = False) -> None:
    """Declare `--prices`, which may be given more than once, and `--on` if it is asked for."""
    if with_date:
        today = datetime.now(timezone.utc).date()
        when = "prices of that day (default: today, UTC)"
        parser.add_argument("--on", type=parse_date, default=today, metavar="DATE", help=when)
    add_settings(parser, "prices", action="append", default=[])


def read_card(arguments: Namespace) -> RateCard:
    """Return the shipped prices with the files of `--prices` laid over them, the last on top."""
    return reduce(RateCard.with_overrides, arguments.prices, shipped_card())

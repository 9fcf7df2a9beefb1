"""Draw the reports of a run again, from its ledger."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace

from pytest_llmcost.cli.console import Console, write_output
from pytest_llmcost.ledger.ledger import Ledger
from pytest_llmcost.ledger.ledger_file import read_ledger
from pytest_llmcost.reports.terminal import View, render_summary
from pytest_llmcost.settings import parse_report_path

_TERMINAL = "-"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("ledger", help="a JSON ledger written with --llmcost-report")
    add(
        "-o",
        "--output",
        action="append",
        metavar="FILE",
        help="where to write: .md is a pull-request comment, .json the ledger, and - the summary "
        "as text on the terminal (default: -); repeatable",
    )
    add(
        "--rows",
        "--llmcost-rows",  # as pytest spells it, and the summary with it
        type=int,
        default=View.rows,
        metavar="N",
        help="how many rows the summary has at most, 0 for all (default: %(default)s)",
    )


def run(arguments: Namespace, console: Console) -> int:
    """Read the ledger, and write every report that was asked for."""
    outputs = arguments.output or [_TERMINAL]
    paths = [None if text == _TERMINAL else parse_report_path(text) for text in outputs]
    ledger = read_ledger(arguments.ledger)
    for path in paths:
        if path is not None:
            write_output(ledger, path)
        elif text := _summary(ledger, arguments, console):
            console.print(text)
        else:
            console.note(f"{arguments.ledger} has no Claude calls and no budgets to show")
    return 0


def _summary(ledger: Ledger, arguments: Namespace, console: Console) -> str:
    encoding = getattr(console.out, "encoding", None) or "utf-8"
    view = View(
        width=shutil.get_terminal_size().columns,
        rows=max(0, arguments.rows),
        unicode=encoding.lower().replace("-", "").startswith("utf"),
    )
    return "\n".join(line.text for line in render_summary(ledger, view))

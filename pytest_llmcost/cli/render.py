"""Draw the reports of a run again, from its ledger."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from pytest_llmcost.cli import console
from pytest_llmcost.errors import SettingsError
from pytest_llmcost.ledger.ledger import read_ledger
from pytest_llmcost.ledger.run_history import read_history
from pytest_llmcost.reports.plain_text import as_text
from pytest_llmcost.reports.report_file import write_report
from pytest_llmcost.reports.terminal import View, render_summary
from pytest_llmcost.settings import FORMATS, parse_report_path


def _parse_output(text: str) -> Path | None:
    return None if text == "-" else parse_report_path(text)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("ledger", help="a JSON ledger written with --llmcost-report")
    add(
        "-o",
        "--output",
        type=_parse_output,
        action="append",
        metavar="FILE",
        help=f"where to write, by its suffix: {FORMATS}; - is the summary as text on the terminal "
        "(default: -); repeatable",
    )
    what = "the file of pytest --llmcost-history, drawn as a line on the page"
    console.add_settings(parser, "history", help=what)
    console.add_settings(parser, "rows")


def run(arguments: Namespace) -> int:
    """Write every report that was asked for; return 1 if the history has a line that is no run."""
    ledger = read_ledger(arguments.ledger)
    outputs = arguments.output or [None]
    if arguments.history and not any(path and path.suffix == ".html" for path in outputs):
        raise SettingsError("--history is drawn on the page alone; add -o cost.html")
    runs, problem = read_history(arguments.history) if arguments.history else ([], None)
    if problem is not None:
        console.note(problem)
    screen = console.screen()
    view = View(screen.width, screen.unicode, arguments.rows)
    for path in outputs:
        if path is not None:
            write_report(ledger, path, runs)
        elif text := as_text(render_summary(ledger, view)):
            console.write(text)
        else:
            console.note(f"{arguments.ledger} has no Claude calls and no budgets to show")
    return 0 if problem is None else 1

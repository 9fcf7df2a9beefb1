"""Show the last runs of a history, and compare the last one with the average of those before.

The history is the file of `pytest --llmcost-history`; the first line that is no run is named.
"""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from decimal import Decimal

from pytest_llmcost.cli import console
from pytest_llmcost.ledger.run_history import read_history
from pytest_llmcost.reports.comparisons import COMPARED_WITH, compare_runs, run_cells
from pytest_llmcost.settings import parse_path, parse_scale


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("file", type=parse_path, help="the file of pytest --llmcost-history")
    many = f"how many runs to show, and to compare the last one with (default: {COMPARED_WITH})"
    add("-n", dest="number", type=parse_scale, default=COMPARED_WITH, metavar="N", help=many)


def run(arguments: Namespace) -> int:
    """Print the chart and the comparison; return 1 if the file has lines that are no run."""
    runs, problem = read_history(arguments.file)
    if problem is not None:
        console.note(problem)
    if not runs:
        option = f"--llmcost-history={shlex.quote(str(arguments.file))}"
        console.note(f"{arguments.file}: has no run yet; add one: pytest {option}")
        return 0
    shown, block = runs[-arguments.number :], "█" if console.screen().unicode else "#"
    highest = max(run.usd or Decimal(0) for run in shown)
    rows = []
    for run in shown:
        bar = block * max(1, round(run.usd * 24 / highest)) if run.usd else ""
        *cells, partial = run_cells(run)
        rows.append([*cells, f"{bar}{partial and f' {partial}'}"])
    table = console.draw_table(["run", "commit", "calls:", "cost:", ""], rows, console.screen())
    console.write(f"{table}\n")
    console.write_lines(compare_runs(runs[-1], runs[:-1], arguments.number))
    return 0 if problem is None else 1

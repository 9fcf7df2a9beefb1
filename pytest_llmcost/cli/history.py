"""Show the last runs of a history, and compare the last one with the average of those before.

The history is the file of `pytest --llmcost-history`; the first line that is no run is named.
"""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

from pytest_llmcost.cli.console import Console
from pytest_llmcost.ledger.run_history import Run, average, read_history
from pytest_llmcost.money import EXACT
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.numbers import dollars, format_count, grown_by, signed, usd_cell
from pytest_llmcost.reports.tables import TableRow, as_text, text_table
from pytest_llmcost.settings import parse_scale

_BAR = 24
_MOST_CHANGES = 3
_SHORT_COMMIT = 8


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("file", type=Path, help="the file of pytest --llmcost-history")
    add(
        "-n",
        dest="number",
        type=parse_scale,
        default=10,
        metavar="N",
        help="how many runs to show, and to compare the last one with (default: 10)",
    )


def run(arguments: Namespace, console: Console) -> int:
    """Print the chart and the comparison; return 1 if the file has lines that are no run."""
    runs, problem = read_history(arguments.file)
    if problem is not None:
        console.problem(problem)
    if not runs:
        console.note(f"{arguments.file}: has no run yet")
        return 0
    is_unicode = (getattr(console.out, "encoding", None) or "utf-8").lower().startswith("utf")
    rows = _rows(runs[-arguments.number :], "█" if is_unicode else "#")
    width = shutil.get_terminal_size().columns
    console.print(as_text(text_table(["run", "commit", "calls:", "cost:", ""], [*rows], width)))
    console.print("")
    for line in _compared(runs[-1], runs[:-1], arguments.number):
        console.print(clean(line, 1_000))
    return 0 if problem is None else 1


def _rows(runs: Sequence[Run], block: str) -> Iterator[TableRow]:
    highest = max((run.usd or Decimal(0) for run in runs), default=Decimal(0))
    for run in runs:
        bar = ""
        if run.usd and highest:
            length = EXACT.divide(EXACT.multiply(run.usd, _BAR), highest)
            bar = block * max(1, round(length))
        partial = f" partial ({', '.join(run.incomplete)})" if run.incomplete else ""
        cost = usd_cell(run.usd, is_least=run.is_least)
        cells = (
            clean(run.at.replace("T", " ").removesuffix("Z")),
            clean((run.commit or "")[:_SHORT_COMMIT]),
            f"{run.calls:,}",
            cost,
            clean(f"{bar}{partial}"),
        )
        yield TableRow(cells)


def _compared(last: Run, before: Sequence[Run], number: int) -> Iterator[str]:
    """Say how the last run differs from the average of whole runs before it, and where."""
    if last.incomplete:
        yield "the last run is a partial one, so it is not compared"
        return
    whole = [run for run in before if not run.incomplete][-number:]
    if not whole:
        yield "no earlier run of the whole suite to compare the last one with"
        return
    mean = average(whole)
    than = f"the average of the {format_count(len(whole), 'run')} before"
    if last.usd is None or mean.usd is None or last.is_least or mean.is_least:
        yield f"the last run cannot be compared with {than}: the cost of some calls is unknown"
        return
    change = EXACT.subtract(last.usd, mean.usd)
    share = grown_by(mean.usd, last.usd)
    yield f"{signed(change)}{share} against {than}: {dollars(mean.usd)} → {dollars(last.usd)}"
    for kind in ("model", "tag", "path"):
        now, then = getattr(last, f"by_{kind}"), getattr(mean, f"by_{kind}")
        changes = []
        for name in sorted({*now, *then}):
            usd, old = now.get(name, Decimal(0)), then.get(name, Decimal(0))
            if usd is not None and old is not None and usd != old:
                changes.append((EXACT.subtract(usd, old), name or "outside test files"))
        changes.sort(key=lambda each: -abs(each[0]))
        if changes:
            shown = [f"{name} {signed(usd)}" for usd, name in changes[:_MOST_CHANGES]]
            more = len(changes) - len(shown)
            yield f"  by {kind}: {', '.join(shown)}{f' and {more} more' if more else ''}"

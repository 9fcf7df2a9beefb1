"""The cost of a suite from run to run, as a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pytest_llmcost.ledger.ledger import Ledger
from pytest_llmcost.ledger.run_history import Run
from pytest_llmcost.reports.trend import COMPARED_WITH, compare_runs, run_cells

_MOST_RUNS = 60
"""As many as can be told apart on a phone."""
WIDTH, HEIGHT = 1000, 100


class Point(NamedTuple):
    """One run."""

    x: float
    y: float | None
    """None if its cost is unknown."""
    cells: Sequence[str]
    is_partial: bool
    is_this: bool
    """Whether it is the run that the page shows."""


class History(NamedTuple):
    """The last runs, the newest one last."""

    points: Sequence[Point]
    path: str
    """The line through the runs of the whole suite, interrupted where the cost is unknown."""
    most: str
    """What the top of the drawing stands for."""
    summary: str
    compared: Sequence[str]
    """How the newest run differs from those before."""


def history_of(runs: Sequence[Run], ledger: Ledger) -> History | None:
    """Draw the last runs; nothing if there are fewer than two with a known cost."""
    shown = runs[-_MOST_RUNS:]
    known = [(run.usd, run) for run in shown if run.usd is not None]
    if len(known) < 2:
        return None
    most, highest = max(known, key=lambda each: each[0])
    # Two runs may end within one second; the page shows the later one.
    ended = [number for number, run in enumerate(shown) if run.at == ledger.run.finished_at]
    points = [
        Point(
            number / (len(shown) - 1) * WIDTH,
            None if run.usd is None else HEIGHT - float(run.usd) / (float(most) or 1) * HEIGHT,
            run_cells(run),
            bool(run.incomplete),
            number in ended[-1:],
        )
        for number, run in enumerate(shown)
    ]
    path, joint = "", "M"
    for point in points:
        if point.y is None:
            joint = "M"
        elif not point.is_partial:
            path, joint = f"{path}{joint}{point.x:.1f} {point.y:.1f}", "L"
    which = f"The last {len(shown)} of {len(runs):,} runs" if len(runs) > len(shown) else "All runs"
    (first, *_), (last, *_) = points[0].cells, points[-1].cells
    top = run_cells(highest)[3]
    return History(
        points,
        path,
        top,
        f"{which}, from {first} ({points[0].cells[3]}) to {last} ({points[-1].cells[3]}); "
        f"the most expensive one cost {top}.",
        list(compare_runs(runs[-1], runs[:-1], COMPARED_WITH)),
    )

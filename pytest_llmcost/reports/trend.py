"""Runs of a history in words, as `llmcost history` and the page show them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from pytest_llmcost.ledger.run_history import Run, average
from pytest_llmcost.reports.numbers import (
    dollars,
    first_of,
    format_count,
    grown_by,
    signed,
    usd_cell,
)

COMPARED_WITH = 10
"""With the average of how many runs the last one is compared."""
_MOST_CHANGES = 3
_SHORT_COMMIT = 8


def run_cells(run: Run) -> tuple[str, str, str, str, str]:
    """Write when a run ended, its commit, its calls, its cost, and whether it is a partial one."""
    return (
        run.at.replace("T", " ").removesuffix("Z"),
        (run.commit or "")[:_SHORT_COMMIT],
        f"{run.calls:,}",
        usd_cell(run.usd, is_least=run.is_least),
        f"partial ({', '.join(run.incomplete)})" if run.incomplete else "",
    )


def compare_runs(last: Run, before: Sequence[Run], number: int) -> Iterator[str]:
    """Say how the last run differs from the average of whole runs before it, and where."""
    if last.incomplete:
        yield "the last run is a partial one, so it is not compared"
        return
    if last.usd is None or last.is_least:
        yield "the last run is not compared: the cost of some calls is unknown"
        return
    known = [run for run in before if run.usd is not None and not run.is_least]
    whole = [run for run in known if not run.incomplete][-number:]
    if not whole:
        yield "no earlier run of the whole suite with a known cost to compare the last one with"
        return
    mean = average(whole)
    assert mean.usd is not None
    than = f"the average of the {format_count(len(whole), 'run')} before"
    change = f"{signed(last.usd - mean.usd)}{grown_by(mean.usd, last.usd)}"
    yield f"{change} against {than}: {dollars(mean.usd)} → {dollars(last.usd)}"
    for kind in ("model", "tag", "path"):
        now, then = getattr(last, f"by_{kind}"), getattr(mean, f"by_{kind}")
        changes = []
        for name in sorted({*now, *then}):
            usd, old = now.get(name, Decimal(0)), then.get(name, Decimal(0))
            if usd is not None and old is not None and usd != old:
                changes.append((usd - old, name or "outside test files"))
        changes.sort(key=lambda each: -abs(each[0]))
        if changes:
            shown = [f"{name} {signed(usd)}" for usd, name in changes]
            yield f"  by {kind}: {first_of(shown, _MOST_CHANGES)}"

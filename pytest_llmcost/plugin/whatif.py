"""What if, at the end of a run: its calls on other models, at their worst, cold and warm.

Data flow: Report, `--llmcost-model` -> `with_what_if` -> Report with `what_if` and its notes;
`--llmcost-columns` -> `with_columns` -> View. What is not counted yet is told with the command.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Literal, cast

from msgspec.structs import replace

from pytest_llmcost.budgeting.columns import Column, reprice
from pytest_llmcost.budgeting.report import Payload, Report, calls_of
from pytest_llmcost.budgeting.switch import Switch
from pytest_llmcost.budgeting.whatif import switch_model
from pytest_llmcost.metering.call import Call
from pytest_llmcost.plugin.run import Run
from pytest_llmcost.reporting.columns import extra_cells, extra_notes
from pytest_llmcost.reporting.terminal import View

_RECORDING = "--llmcost-record-mode"


def with_what_if(run: Run, report: Report) -> Report:
    """Add the run's calls on each model that was asked for."""
    others = run.books.other_models
    models = sorted(others.models) if others is not None else ()
    switches = tuple(
        switch_model(report, model, run.books.card, on=run.price_date) for model in models
    )
    missing = [switch for switch in switches if switch.missing]
    notes = [_missing(run, missing)] if missing else []
    return replace(report, what_if=switches, notes=(*report.notes, *notes))


def _missing(run: Run, switches: Sequence[Switch]) -> str:
    listed = ", ".join(f"{switch.missing:,} for {switch.model}" for switch in switches)
    command = record_command(run, _given_again(run, "model"))
    return f"prompts not counted yet: {listed}; count them all, free: {command}"


def with_columns(run: Run, report: Report, view: View) -> View:
    """Add the columns that were asked for to the summary's table."""
    columns = list(dict.fromkeys(cast("tuple[Column, ...]", run.settings.columns)))
    if not columns:
        return view

    def price(call: Call, column: Column) -> Decimal | None:
        card, on = run.books.card, run.price_date
        return reprice(call, column, report.payloads, card, on=on)

    notes = extra_notes(report, columns, price, per=view.per)
    if any(
        _lacks_cuts(report.payloads.get(call.fingerprint or ""), call) for call in calls_of(report)
    ):
        command = record_command(run, _given_again(run, "columns"))
        notes.append(f"cache breakpoints not counted yet; count them all, free: {command}")
    cells = extra_cells(report, columns, price, per=view.per)
    return dataclasses.replace(view, extra=cells, extra_notes=notes)


def _lacks_cuts(payload: Payload | None, call: Call) -> bool:
    if call.evidence != "counted" or payload is None:
        return False  # what was billed says itself what was cached
    return payload.breakpoints > 0 and not payload.cached


def _given_again(run: Run, name: Literal["model", "columns"]) -> list[str]:
    """Options for the command line that stand in the environment or the ini file."""
    flag = f"--llmcost-{name}"
    if run.settings.origin(name) == flag:
        return []
    return [f"{flag}={value}" for value in getattr(run.settings, name)]


def record_command(run: Run, options: Sequence[str]) -> str:
    """The command that repeats this run with permission to count, and with these options."""
    words = ["pytest", *_without_mode(run.config.invocation_params.args), *options]
    return f"{shlex.join(words)} {_RECORDING}=new_episodes"


def _without_mode(args: Sequence[object]) -> Iterator[str]:
    """The arguments but for those that say how to record."""
    words = iter(map(str, args))
    for word in words:
        if word == _RECORDING:
            next(words, None)
        elif word != "--disable-recording" and not word.startswith(f"{_RECORDING}="):
            yield word

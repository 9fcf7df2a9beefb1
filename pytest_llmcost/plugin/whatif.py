"""What if, at the end of a run: its calls on other models, and how to count what is missing.

Data flow: Report, `--llmcost-model` -> `with_what_if` -> Report with `what_if` and its notes.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from pytest_llmcost.budgeting.report import Report
from pytest_llmcost.budgeting.switch import Switch
from pytest_llmcost.budgeting.whatif import switch_model
from pytest_llmcost.plugin.run import Run

_MODEL = "--llmcost-model"
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
    given = run.settings.origin("model") == _MODEL
    options = () if given else tuple(f"{_MODEL}={name}" for name in run.settings.model)
    return (
        f"prompts not counted yet: {listed}; count them all, free: {record_command(run, options)}"
    )


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

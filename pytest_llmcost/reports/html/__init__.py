"""A run as one HTML file that needs no network: verdicts, where the money goes, and every call.

The page is made by a template, `page.html`, and what may be long by `page.js` when it is looked
at. Every figure is written here, in the forms of `wording` and `numbers`: the script sorts,
searches and draws, and never adds up.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pytest_llmcost.ledger.ledger import Comparison, Ledger
from pytest_llmcost.ledger.run_history import Run
from pytest_llmcost.reports import comparisons, numbers, rows, run_wording, wording
from pytest_llmcost.reports.escape import MOST_WITH_COMMAND, clean
from pytest_llmcost.reports.html.script_data import page_data, verdict_share
from pytest_llmcost.reports.run_wording import marks_by_state
from pytest_llmcost.reports.trend import COMPARED_WITH, compare_runs, run_cells

if TYPE_CHECKING:
    from jinja2 import Template

_MOST_MARKS = 10
_MOST_CHANGES = 100
"""What stands in the page itself is short; the table has every test."""
_MOST_RUNS = 60
"""As many as can be told apart on a phone."""
_WIDTH, _HEIGHT = 1000, 100


def render_html(ledger: Ledger, history: Sequence[Run] = ()) -> str:
    """Render a run as a page that is complete in itself, with the runs before it as a line."""
    from markupsafe import Markup

    marks = marks_by_state(ledger)
    # The page shows the first ones of each state.
    for each in marks.values():
        each.sort(key=lambda mark: (bool(mark.name), -(verdict_share(mark.verdict) or 0)))
    style, script = _read("page.css"), _read("page.js")
    # The page's policy names our own style and script by their hash: under it no other one runs.
    hashes = (
        Markup(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'")
        for text in (style, script)
    )
    page = _template().render(
        ledger=ledger,
        wording=wording,
        run_wording=run_wording,
        numbers=numbers,
        rows=rows,
        comparisons=comparisons,
        # Not escaped: they are files of ours, which no ledger has a part in.
        style=Markup(style),
        script=Markup(script),
        hashes=list(hashes),
        data=page_data(ledger),
        history=_history(history, ledger),
        marks=marks,
        most_marks=_MOST_MARKS,
        most_changes=_MOST_CHANGES,
        changes=_changes(ledger.comparison),
        verdict_share=verdict_share,
    )
    return page.encode("utf-8", "backslashreplace").decode()


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    def shown(value: Any) -> Any:
        # What is invisible in foreign text, for example a mark that turns the reading order.
        return clean(value, MOST_WITH_COMMAND) if type(value) is str else value

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Escapes `<`, `>`, `&` and quotes, so that no name can end the script element.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.from_string(_read("page.html"))


def _changes(comparison: Comparison | None) -> dict[str, Any]:
    """Return the changes that the page shows, each with where its bar begins and how wide it is.

    Both are in percent. `zero` is where no change is: in the middle if something became cheaper.
    """
    changes = comparison.changes if comparison else ()
    known = [each.usd for each in changes if each.usd is not None]
    zero = 50 if any(usd < 0 for usd in known) else 0
    largest = max(map(abs, known), default=Decimal(0))

    def size(number: int) -> tuple[bool, Decimal]:
        usd = changes[number].usd
        return usd is not None, -abs(usd or Decimal(0))

    shown = []
    for number in sorted(sorted(range(len(changes)), key=size)[:_MOST_CHANGES]):
        usd = changes[number].usd or Decimal(0)
        width = float(abs(usd) / largest) * (100 - zero) if usd else 0.0
        shown.append((changes[number], zero - width if usd < 0 else zero, width))
    return {"shown": shown, "left_out": len(changes) - len(shown), "zero": zero}


def _history(runs: Sequence[Run], ledger: Ledger) -> dict[str, Any] | None:
    """Draw the last runs, the newest one last; nothing if fewer than two have a known cost."""
    shown = runs[-_MOST_RUNS:]
    known = [(run.usd, run) for run in shown if run.usd is not None]
    if len(known) < 2:
        return None
    most, highest = max(known, key=lambda each: each[0])
    # Two runs may end within one second; the page shows the later one.
    ended = [number for number, run in enumerate(shown) if run.at == ledger.run.finished_at]
    points: list[dict[str, Any]] = []
    # The line goes through the runs of the whole suite, and stops where the cost is unknown.
    path, joint = "", "M"
    for number, run in enumerate(shown):
        x = number / (len(shown) - 1) * _WIDTH
        y = None if run.usd is None else _HEIGHT - float(run.usd) / (float(most) or 1) * _HEIGHT
        partial, is_this = bool(run.incomplete), number in ended[-1:]
        points.append(
            {"x": x, "y": y, "cells": run_cells(run), "is_partial": partial, "is_this": is_this}
        )
        if y is None:
            joint = "M"
        elif not partial:
            path, joint = f"{path}{joint}{x:.1f} {y:.1f}", "L"
    which = f"The last {len(shown)} of {len(runs):,} runs" if len(runs) > len(shown) else "All runs"
    first, _, _, first_usd, _ = run_cells(shown[0])
    last, _, _, last_usd, _ = run_cells(shown[-1])
    top = run_cells(highest)[3]
    return {
        "points": points,
        "path": path,
        "most": top,
        "summary": f"{which}, from {first} ({first_usd}) to {last} ({last_usd}); "
        f"the most expensive one cost {top}.",
        "compared": list(compare_runs(runs[-1], runs[:-1], COMPARED_WITH)),
    }

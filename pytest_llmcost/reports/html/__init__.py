"""A run as one HTML file that needs no network: verdicts, where the money goes, and every call.

The page is made by a template, `page.html`, and what may be long by `page.js` when it is looked
at. Every figure is written here, in the forms of `wording` and `numbers`: the script sorts,
searches and draws, and never adds up.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from decimal import Decimal
from hashlib import sha256
from importlib.resources import files
from typing import Any, NamedTuple

from pytest_llmcost.ledger.ledger import Comparison, Ledger
from pytest_llmcost.ledger.run_history import Run
from pytest_llmcost.reports import comparisons, numbers, rows, run_wording, wording
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.html.script_data import page_data, verdict_share
from pytest_llmcost.reports.run_wording import marks_by_state
from pytest_llmcost.reports.trend import COMPARED_WITH, compare_runs, run_cells

_LONGEST = 2_000
"""A sentence may hold a command, which is of no use when it is cut."""
_MOST_MARKS = 10
_MOST_CHANGES = 100
"""What stands in the page itself is short; the table has every test."""
_MOST_RUNS = 60
"""As many as can be told apart on a phone."""
_WIDTH, _HEIGHT = 1000, 100


def render_html(ledger: Ledger, history: Sequence[Run] = ()) -> str:
    """Render a run as a page that is complete in itself, with the runs before it as a line."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Escapes `<`, `>`, `&` and quotes, so that no name can end the script element.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    data = page_data(ledger)
    marks = marks_by_state(ledger)
    # The page shows the first ones of each state.
    for each in marks.values():
        each.sort(key=lambda mark: (not mark.is_of_run, -(verdict_share(mark.verdict) or 0)))
    style, script = _text("page.css"), _text("page.js")
    page = environment.from_string(_text("page.html")).render(
        ledger=ledger,
        wording=wording,
        run_wording=run_wording,
        numbers=numbers,
        rows=rows,
        comparisons=comparisons,
        style=_trusted(style),
        script=_trusted(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=data,
        history=_history(history, ledger),
        has_parts=any(row.parts for row in data["rows"]),
        marks=marks,
        most_marks=_MOST_MARKS,
        most_changes=_MOST_CHANGES,
        changes=_changes(ledger.comparison),
        verdict_share=verdict_share,
    )
    return page.encode("utf-8", "backslashreplace").decode()


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _trusted(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)  # our own files, which no ledger has a part in


def _hash(text: str) -> Any:
    """Name a style or a script in the page's policy, under which no other one runs."""
    return _trusted(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'")


def _shown(value: Any) -> Any:
    """Show what is invisible in foreign text, for example a mark that turns the reading order."""
    return clean(value, _LONGEST) if type(value) is str else value


class Changes(NamedTuple):
    """The changes of a comparison that the page shows, with what their bars need."""

    shown: Sequence[Any]
    left_out: int
    scale: Decimal
    """What the longest bar stands for."""
    zero: int
    """Where the bars begin, in percent: in the middle if something became cheaper."""

    def bar(self, usd: Decimal | None) -> tuple[float, float]:
        """Return where a bar begins and how wide it is, in percent."""
        if usd is None or not self.scale:
            return 0.0, 0.0
        width = float(abs(usd) / self.scale) * (100 - self.zero)
        return (self.zero if usd > 0 else self.zero - width), width


def _changes(comparison: Comparison | None) -> Changes | None:
    if comparison is None:
        return None
    changes = comparison.changes

    def size(number: int) -> tuple[bool, Decimal]:
        usd = changes[number].usd
        return usd is not None, -abs(usd or Decimal(0))

    kept = sorted(sorted(range(len(changes)), key=size)[:_MOST_CHANGES])
    known = [each.usd for each in changes if each.usd is not None]
    return Changes(
        [changes[number] for number in kept],
        len(changes) - len(kept),
        max(map(abs, known), default=Decimal(0)),
        50 if any(each < 0 for each in known) else 0,
    )


# From run to run


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


def _history(runs: Sequence[Run], ledger: Ledger) -> History | None:
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
            number / (len(shown) - 1) * _WIDTH,
            None if run.usd is None else _HEIGHT - float(run.usd) / (float(most) or 1) * _HEIGHT,
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

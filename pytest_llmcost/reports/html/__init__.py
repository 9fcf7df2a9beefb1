"""A run as one HTML file that needs no network: verdicts, where the money goes, and every call.

The page is made by a template, `page.html`, and what may be long by `page.js` when it is looked
at. Every figure is written here, in the forms of `wording` and `plain_text`: the script sorts,
searches and draws, and never adds up. The numbers beside the figures give only order and widths.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.call import Call
from pytest_llmcost.ledger.ledger import Comparison, Ledger
from pytest_llmcost.ledger.run_history import Run
from pytest_llmcost.ledger.totals import is_live
from pytest_llmcost.prices.bill import USD_OF
from pytest_llmcost.prices.usage import PROMPT
from pytest_llmcost.reports import comparisons, plain_text, rows, run_wording, wording
from pytest_llmcost.reports.plain_text import MOST_WITH_COMMAND, REFUSED, clean, percent, usd_cell
from pytest_llmcost.reports.rows import OUTSIDE, Row

if TYPE_CHECKING:
    from jinja2 import Template

_MOST_CHANGES = 100
"""What stands in the page itself is short; the table has every test."""
_MOST_RUNS = 60
"""As many as can be distinguished on a phone."""
_WIDTH, _HEIGHT = 1000, 100
_MOST_INNER = 50_000
"""Calls, and as many parts, in all rows together: so that the file opens fast."""
_TOKENS = {f"tokens-{head.replace(' ', '-')}": head.capitalize() for head in rows.TOKEN_HEADS}
"""Each column of tokens with its title. A narrow page hides them, and those of the cache first."""
_CALL_FIELDS = ("model", "cost", *_TOKENS, "note")

_Way: TypeAlias = tuple[Sequence[str], int, Row]
"""The way to a row from where one is (folders, the file, the test), its number, and the row."""


def render_html(ledger: Ledger, history: Sequence[Run] = ()) -> str:
    """Render a run as a page that is complete in itself, with the runs before it as a line."""
    from markupsafe import Markup

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
        plain_text=plain_text,
        rows=rows,
        comparisons=comparisons,
        # Not escaped: they are files of ours, which no ledger has a part in.
        style=Markup(style),
        script=Markup(script),
        hashes=list(hashes),
        data=_page_data(ledger),
        history=_history(history, ledger),
        most_changes=_MOST_CHANGES,
        changes=_changes(ledger.comparison),
        verdict_share=_verdict_share,
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
    added = [each.usd or Decimal(0) for each in changes]
    zero, largest = 50 if any(usd < 0 for usd in added) else 0, max(map(abs, added), default=0)
    sizes = [(each.usd is not None, -abs(usd)) for each, usd in zip(changes, added, strict=True)]
    shown = []
    for at in sorted(sorted(range(len(changes)), key=sizes.__getitem__)[:_MOST_CHANGES]):
        width = float(abs(added[at]) / largest) * (100 - zero) if added[at] else 0.0
        shown.append((changes[at], zero - width if added[at] < 0 else zero, width))
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
        cells, is_this = comparisons.run_cells(run), number in ended[-1:]
        points.append({"x": x, "y": y, "run": run, "cells": cells, "is_this": is_this})
        if y is None:
            joint = "M"
        elif not run.incomplete:
            path, joint = f"{path}{joint}{x:.1f} {y:.1f}", "L"
    which = f"The last {len(shown)} of {len(runs):,} runs" if len(runs) > len(shown) else "All runs"
    (first, _, _, first_usd, _), (last, _, _, last_usd, _) = (points[at]["cells"] for at in (0, -1))
    top = comparisons.run_cells(highest)[3]
    return {
        "points": points,
        "path": path,
        "most": top,
        "summary": f"{which}, from {first} ({first_usd}) to {last} ({last_usd}); "
        f"the most expensive one cost {top}.",
        "compared": [*comparisons.compare_runs(runs[-1], runs[:-1])],
    }


# What the script draws: a row for each test with its calls, and the tree of their costs


def _page_data(ledger: Ledger) -> dict[str, Any]:
    """Return what the script reads, as lists and texts alone."""
    # Every test with calls or a budget, cases and attempts apart, then what is shared.
    found = [row for row in rows.attempts_of(ledger) if row.calls or row.verdicts]
    found += rows.shared_rows(ledger)
    page = _Page(ledger, len(found))
    drawn = [*map(page.row, found)]

    ways: list[_Way] = []
    for number, row in enumerate(found):
        if row.usd is None or row.usd > 0:
            *folders, file = row.group.split("/")
            function, bracket, _ = row.name.partition("[")
            way = [*(f"{each}/" for each in folders), file, *([function] if bracket else [])]
            ways.append(([OUTSIDE] if row.group == OUTSIDE else way, number, row))
    whole = sum((row.known_usd for _, _, row in ways), Decimal(0))
    name, usd, _, *rest = _node("all tests", ways, whole)
    return {
        "rowFields": list(drawn[0]) if drawn else [],
        "callFields": _CALL_FIELDS,
        "tokens": list(_TOKENS.items()),
        "signs": wording.SIGNS,
        "rows": [list(each.values()) for each in drawn],
        "hasParts": any(each["parts"] for each in drawn),
        "tree": [name, usd, run_wording.describe_total(ledger), *rest],
        "texts": list(page.texts),
    }


class _Page:
    """Writes rows; a text that many of them have in common stands once, and they hold its number.

    What is a number of a text is marked as `text` in the comments below.
    """

    def __init__(self, ledger: Ledger, rows_in_all: int) -> None:
        self.texts: dict[str, int] = {}
        self._parts_by_owner = comparisons.parts_by_owner(ledger)
        self._most = max(1, _MOST_INNER // max(1, rows_in_all))

    def text(self, text: str) -> int:
        """Return the number of a text."""
        return self.texts.setdefault(clean(text, 1_000), len(self.texts))

    def row(self, row: Row) -> dict[str, Any]:
        """Write a row with its calls and the parts of its largest prompt."""
        calls = sorted(row.calls, key=lambda call: -call.usd_low)[: self._most]
        said, is_in_vain = [], wording.counts_in_vain(row.calls)
        for each in row.verdicts:
            texts = [wording.sentence(each)]
            for reason in each.reasons if each.state == "unverified" else ():
                texts.append(str(wording.without_vain(reason, is_in_vain=is_in_vain)))
            said.append([wording.state_of(each), *(clean(text, 1_000) for text in texts)])
        return {
            "group": self.text(row.group),  # text: the file
            "name": row.name,
            "mark": row.mark,
            "outcome": self.text("" if row.outcome == "passed" else row.outcome),  # text
            "usd": None if row.usd is None else float(row.usd),
            "cost": row.cost_cell(),
            "calls": len(row.calls),
            **dict(zip(_TOKENS, row.token_cells, strict=True)),
            "budget": self.text(wording.limit_of(row.verdict)),  # text
            "share": _verdict_share(row.verdict),  # how much of its budget is used, 1 for all of it
            "used": rows.share_of(row.verdict),
            "verdicts": said,
            "found": [*map(self.call, calls)],  # fewer than there are if too many for a page
            **self.parts(row),
        }

    def call(self, call: Call) -> list[Any]:
        """Write a call, in the order of `_CALL_FIELDS`; model and note are texts."""
        alone = Row("", "", (call,), "")
        # The note says where its figures are from, and what they leave open.
        notes: list[str] = [] if call.evidence in ("billed", REFUSED) else [call.evidence]
        notes += ["spent live"] if is_live(call) else []
        if changed := wording.changed_parts(call):
            notes.append(f"changed: {changed}")
        notes += [each.rule.meaning or str(each) for each in call.caveats]
        figures = (alone.cost_cell(), *alone.token_cells)
        return [self.text(call.model), *figures, self.text(" · ".join(notes))]

    def parts(self, row: Row) -> dict[str, Any]:
        """Write the parts of a row's largest prompt, and what it costs besides its prompts.

        Each is its name (text), its width as a share of the row's cost, and its figure (text). A
        part's width is its share of the prompt's tokens, of what the row's prompts cost.
        """
        parts = self._parts_by_owner.get(row.owner, []) if row.is_last else []
        names, size = [each.part for each in parts], sum(each.after for each in parts)
        costs, whole = dict(row.spent.by_category.items()), row.spent.priced_usd
        prompt = sum(costs.get(USD_OF[name], Decimal(0)) for name in PROMPT)
        width = float(prompt) / float(whole) / size if whole and size else 0.0
        written, answer = [], None
        for each in parts[: self._most]:
            figure = comparisons.describe_part(each.before, each.after)
            name = self.text(wording.show_part(each.part, names))
            written.append((name, round(width * each.after, 4), self.text(figure)))
        output = costs.get("output_usd")
        if parts and output and prompt:
            share = round(float(output) / float(whole), 4)
            cost = usd_cell(output, is_least=row.spent.is_least)
            answer = (self.text("output"), share, self.text(cost))
        more = len(parts) - len(written)  # too many for a page
        return {"parts": written, "more_parts": more, "answer": answer}


def _verdict_share(verdict: Verdict | None) -> float | None:
    """Return how much of a budget is used, for the length of a bar; None without a bar."""
    if verdict is None or verdict.state == "unverified" or not verdict.limit:
        return None
    used, _ = wording.figure_of(verdict)
    return round(float(max(used, Decimal(0)) / verdict.limit), 4)


def _node(name: str, ways: Sequence[_Way], whole: Decimal) -> list[Any]:
    """Return what is on these ways: name, cost in dollars, cost, share, and what is in it.

    What is in it are nodes and numbers of rows. Deeper levels need longer ways alone.
    """
    usd = sum((row.known_usd for _, _, row in ways), Decimal(0))
    is_least = any(row.spent.is_least for _, _, row in ways)
    while True:
        leaves = [(float(row.known_usd), number) for way, number, row in ways if not way]
        inner: dict[str, list[_Way]] = {}
        for way, number, row in ways:
            if way:
                inner.setdefault(way[0], []).append((way[1:], number, row))
        if leaves or len(inner) != 1:
            break
        ((below, ways),) = inner.items()  # a folder with one folder in it
        name = f"{name}{below}" if name.endswith("/") else name
    nodes = [_node(below, each, whole) for below, each in inner.items()]
    children: list[tuple[float, Any]] = [*((node[1], node) for node in nodes), *leaves]
    return [
        clean(name),
        float(usd),
        usd_cell(usd, is_least=is_least),
        percent(usd, whole) if whole else "",
        [each for usd, each in sorted(children, key=lambda pair: -pair[0]) if usd],
    ]

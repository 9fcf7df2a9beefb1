"""What the page's script draws: a row for each test with its calls, and the tree of their costs.

Figures are text, written as everywhere else; the numbers beside them give only order and widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.call import Call
from pytest_llmcost.ledger.ledger import Ledger, own_verdicts
from pytest_llmcost.ledger.totals import is_live
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.numbers import REFUSED, percent, usd_cell
from pytest_llmcost.reports.rows import (
    OUTSIDE,
    Row,
    attempts_of,
    part_growth,
    parts_by_owner,
    shared_rows,
    token_cells,
    token_numbers,
)
from pytest_llmcost.reports.run_wording import describe_total
from pytest_llmcost.reports.wording import (
    changed_parts,
    figure_of,
    sentence,
    show_part,
    state_of,
)

_MOST_CALLS = _MOST_PARTS = 50_000
"""In all rows together: what the file may have without becoming slow to open."""
_MARKS = {"exceeded": "over", "unverified": "unknown"}
_TOKENS = ("input", "written", "read", "output")
_CALL_FIELDS = ("model", "cost", *_TOKENS, "note")
_PROMPT = ("input_usd", "cache_write_5m_usd", "cache_write_1h_usd", "cache_read_usd")


def page_data(ledger: Ledger) -> dict[str, Any]:
    """Return what the script reads, as lists and texts alone."""
    # Every test with calls or a budget, cases and attempts apart, then what is shared.
    rows: list[tuple[Row, Sequence[Verdict]]] = []
    for row, test in zip(attempts_of(ledger), ledger.tests, strict=True):
        verdicts = own_verdicts(test) if row.is_last else ()
        if row.calls or verdicts:
            rows.append((row, verdicts))
    rows += [(row, ()) for row in shared_rows(ledger)]
    page = _Page(ledger, len(rows))
    drawn = [page.row(*each) for each in rows]

    ways: list[tuple[Sequence[str], int, Row]] = []
    for number, (row, _) in enumerate(rows):
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
        "rows": [list(each.values()) for each in drawn],
        "hasParts": any(each["parts"] for each in drawn),
        "tree": [name, usd, describe_total(ledger), *rest],
        "texts": list(page.texts),
    }


class _Page:
    """Writes rows; a text that many of them have in common stands once, and they hold its number.

    What is a number of a text is marked as `text` in the comments below.
    """

    def __init__(self, ledger: Ledger, rows: int) -> None:
        self.texts: dict[str, int] = {}
        self._parts_by_owner = parts_by_owner(ledger)
        self._most_calls = max(1, _MOST_CALLS // max(1, rows))
        self._most_parts = max(1, _MOST_PARTS // max(1, rows))

    def text(self, text: str) -> int:
        """Return the number of a text."""
        return self.texts.setdefault(clean(text, 1_000), len(self.texts))

    def row(self, row: Row, verdicts: Sequence[Verdict]) -> dict[str, Any]:
        """Write a row with its calls and the parts of its largest prompt."""
        calls = sorted(row.calls, key=lambda call: -call.usd_low)[: self._most_calls]
        said = []
        for each in verdicts:
            reasons = each.reasons if each.state == "unverified" else ()
            texts = (clean(text, 1_000) for text in (sentence(each), *reasons))
            said.append([state_of(each), *texts])
        return {
            "group": self.text(row.group),  # text: the file
            "name": row.name,
            "mark": _MARKS.get(row.mark, row.mark),
            "outcome": self.text("" if row.outcome == "passed" else row.outcome),  # text
            "usd": None if row.usd is None else float(row.usd),
            "cost": row.cost_cell(),
            "calls": len(row.calls),
            **dict(zip(_TOKENS, _tokens(row.spent), strict=True)),
            "budget": self.text(row.limit),  # text
            "share": verdict_share(row.verdict),  # how much of its budget is used, 1 for all of it
            "used": row.used,
            "verdicts": said,
            # Fewer than there are if that is too many for a page. One call is all that its row
            # has spent.
            "found": [
                self.call(call, row.spent if len(row.calls) == 1 else Amounts.of([call]))
                for call in calls
            ],
            **self.parts(row),
        }

    def call(self, call: Call, spent: Amounts) -> list[Any]:
        """Write a call, in the order of `_CALL_FIELDS`; model and note are texts."""
        is_refused = call.evidence == REFUSED
        # The note says where its figures are from, and what they leave open.
        notes: list[str] = [] if is_refused or call.evidence == "billed" else [call.evidence]
        notes += ["spent live"] if is_live(call) else []
        changed = changed_parts(call)
        notes += [f"changed: {changed}"] if changed else []
        notes += [each.rule.meaning or str(each) for each in call.caveats]
        cost = REFUSED if is_refused else usd_cell(spent.usd, is_least=spent.is_least)
        return [self.text(call.model), cost, *_tokens(spent), self.text(" · ".join(notes))]

    def parts(self, row: Row) -> dict[str, Any]:
        """Write the parts of a row's largest prompt, and what it costs besides its prompts.

        Each is its name (text), its width as a share of the row's cost, and its figure (text). A
        part's width is its share of the prompt's tokens, of what the row's prompts cost.
        """
        parts = self._parts_by_owner.get(row.owner, []) if row.is_last else []
        names, size = [each.part for each in parts], sum(each.after for each in parts)
        costs, whole = dict(row.spent.by_category.items()), row.spent.priced_usd
        prompt = sum(costs.get(name, Decimal(0)) for name in _PROMPT)
        width = float(prompt) / float(whole) / size if whole and size else 0.0
        written, answer = [], None
        for each in parts[: self._most_parts]:
            grown = part_growth(each)
            if not each.after:
                figure = f"removed, {each.before or 0:,} tokens before"
            elif each.before and each.before != each.after:
                figure = f"{each.before:,} → {each.after:,} tokens ({grown})"
            else:
                how = {"=": " (unchanged)", "new": " (new)"}.get(grown, "")
                figure = f"{each.after:,} tokens{how}"
            name = self.text(show_part(each.part, names))
            written.append((name, round(width * each.after, 4), self.text(figure)))
        output = costs.get("output_usd")
        if parts and output and prompt:
            share = round(float(output) / float(whole), 4)
            cost = usd_cell(output, is_least=row.spent.is_least)
            answer = (self.text("output"), share, self.text(cost))
        more = len(parts) - len(written)  # too many for a page
        return {"parts": written, "more_parts": more, "answer": answer}


def _tokens(spent: Amounts) -> Sequence[str | int]:
    """Write the tokens; a number that is exact stays one, which is shorter."""
    is_exact = spent["input_tokens"].best is not None
    return token_numbers(spent.usage) if is_exact else token_cells(spent.usage, is_least=True)


def verdict_share(verdict: Verdict | None) -> float | None:
    """Return how much of a budget is used, for the length of a bar; None without a bar."""
    if verdict is None or verdict.state == "unverified" or not verdict.limit:
        return None
    used, _ = figure_of(verdict)
    return round(float(max(used, Decimal(0)) / verdict.limit), 4)


_Ways = Sequence[tuple[Sequence[str], int, Row]]
"""Rows with their numbers, and the way to each from where one is: folders, the file, the test."""


def _node(name: str, ways: _Ways, whole: Decimal) -> list[Any]:
    """Return what is on these ways: name, cost in dollars, cost, share, and what is in it.

    What is in it are nodes and numbers of rows. Deeper levels need longer ways alone.
    """
    usd = sum((row.known_usd for _, _, row in ways), Decimal(0))
    is_least = any(row.spent.is_least for _, _, row in ways)
    while True:
        leaves = [(float(row.known_usd), number) for way, number, row in ways if not way]
        inner: dict[str, list[tuple[Sequence[str], int, Row]]] = {}
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

"""What the page's script draws: a row for each test with its calls, and the tree of their costs.

Figures are text, written as everywhere else; the numbers beside them give only order and widths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.call import Call
from pytest_llmcost.ledger.ledger import Ledger, PartChange, own_verdicts
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
_PROMPT = ("input_usd", "cache_write_5m_usd", "cache_write_1h_usd", "cache_read_usd")


def page_data(ledger: Ledger) -> dict[str, Any]:
    """Return what the script reads, as lists and texts alone."""
    # Every test with calls or a budget, cases and attempts apart, then what is shared.
    rows: list[tuple[Row, Sequence[Verdict]]] = []
    for row, test in zip(attempts_of(ledger), ledger.tests, strict=True):
        verdicts = tuple(own_verdicts(test)) if row.is_last else ()
        if row.calls or verdicts:
            rows.append((row, verdicts))
    rows += [(row, ()) for row in shared_rows(ledger)]
    page = _Page(rows=len(rows), parts=parts_by_owner(ledger))
    return {
        "rowFields": PageRow._fields,
        "callFields": PageCall._fields,
        "rows": [page.row(*each) for each in rows],
        "tree": _tree([row for row, _ in rows], ledger),
        "texts": list(page.texts),
    }


class PageRow(NamedTuple):
    """One attempt of a test, a shared fixture, or the calls outside tests."""

    group: int
    """The number of a text: the file."""
    name: str
    mark: str
    outcome: int
    """The number of a text."""
    usd: float | None
    cost: str
    calls: int
    input: str | int
    written: str | int
    read: str | int
    output: str | int
    budget: int
    """The number of a text."""
    share: float | None
    """How much of its budget is used, 1 for all of it."""
    used: str
    verdicts: Sequence[Sequence[str]]
    """For each budget its state and sentence, then the reasons why it could not be checked."""
    found: Sequence[PageCall]
    """Its calls; fewer than `calls` if there are too many for a page."""
    parts: Sequence[PagePart] = ()
    """Those of its largest prompt, as far as they are counted, the largest first."""
    more_parts: int = 0
    """How many are left out, because there are too many for a page."""
    answer: PagePart | None = None
    """What it costs besides its prompts, if these are drawn."""


class PagePart(NamedTuple):
    """A part of a prompt."""

    name: int
    """The number of a text."""
    width: float
    """As a share of the row's cost: of what the prompts cost, as much as of the prompt's tokens."""
    figure: int
    """The number of a text: its tokens now, and in the baseline."""


class PageCall(NamedTuple):
    """One call of a row."""

    model: int
    """The number of a text."""
    cost: str
    input: str | int
    written: str | int
    read: str | int
    output: str | int
    note: int
    """The number of a text: where its figures are from, and what they leave open."""


class _Page:
    """The rows of a page, with the texts that many of them have in common, each with a number."""

    def __init__(self, *, rows: int, parts: Mapping[str, Sequence[PartChange]]) -> None:
        self.texts: dict[str, int] = {}
        self._parts_by_owner = parts
        self._most_calls = max(1, _MOST_CALLS // max(1, rows))
        self._most_parts = max(1, _MOST_PARTS // max(1, rows))

    def _text(self, text: str) -> int:
        return self.texts.setdefault(clean(text, 1_000), len(self.texts))

    def row(self, row: Row, verdicts: Sequence[Verdict]) -> PageRow:
        """Write a row with its calls and the parts of its largest prompt."""
        calls = sorted(row.calls, key=lambda call: -call.usd_low)[: self._most_calls]
        return PageRow(
            group=self._text(row.group),
            name=row.name,
            mark=_MARKS.get(row.mark, row.mark),
            outcome=self._text("" if row.outcome == "passed" else row.outcome),
            usd=None if row.usd is None else float(row.usd),
            cost=row.cost_cell(),
            calls=len(row.calls),
            **_tokens(row.spent),
            budget=self._text(row.limit),
            share=verdict_share(row.verdict),
            used=row.used,
            verdicts=[_said(each) for each in verdicts],
            # One call is all that its row has spent.
            found=[
                self._call(call, row.spent if len(row.calls) == 1 else Amounts.of([call]))
                for call in calls
            ],
            **self._parts(row),
        )

    def _call(self, call: Call, spent: Amounts) -> PageCall:
        is_refused = call.evidence == REFUSED
        notes: list[str] = [] if is_refused or call.evidence == "billed" else [call.evidence]
        notes += ["spent live"] if is_live(call) else []
        changed = changed_parts(call)
        notes += [f"changed: {changed}"] if changed else []
        notes += [each.rule.meaning or str(each) for each in call.caveats]
        return PageCall(
            model=self._text(call.model),
            cost=REFUSED if is_refused else usd_cell(spent.usd, is_least=spent.is_least),
            **_tokens(spent),
            note=self._text(" · ".join(notes)),
        )

    def _parts(self, row: Row) -> dict[str, Any]:
        """Return the parts of a row's largest prompt, and what it costs besides its prompts."""
        parts = self._parts_by_owner.get(row.owner) if row.is_last else None
        if not parts:
            return {}
        whole, size = row.spent.priced_usd, sum(each.after for each in parts)
        costs = dict(row.spent.by_category.items())
        prompt = sum(costs.get(name, Decimal(0)) for name in _PROMPT)
        output = costs.get("output_usd", Decimal(0))
        width = float(prompt) / float(whole) / size if whole and size else 0.0
        names = [each.part for each in parts]
        found = {
            "parts": [
                PagePart(
                    self._text(show_part(each.part, names)),
                    round(width * each.after, 4),
                    self._text(_sized(each)),
                )
                for each in parts[: self._most_parts]
            ],
            "more_parts": max(0, len(parts) - self._most_parts),
        }
        if output and prompt:
            share = round(float(output) / float(whole), 4)
            cost = usd_cell(output, is_least=row.spent.is_least)
            found["answer"] = PagePart(self._text("output"), share, self._text(cost))
        return found


def _said(verdict: Verdict) -> list[str]:
    reasons = verdict.reasons if verdict.state == "unverified" else ()
    return [state_of(verdict), *(clean(text, 1_000) for text in (sentence(verdict), *reasons))]


def _sized(each: PartChange) -> str:
    """Say how many tokens a part has now, and how that differs from the baseline."""
    if not each.after:
        return f"removed, {each.before or 0:,} tokens before"
    grown = part_growth(each)
    if each.before and each.before != each.after:
        return f"{each.before:,} → {each.after:,} tokens ({grown})"
    how = {"=": " (unchanged)", "new": " (new)"}.get(grown, "")
    return f"{each.after:,} tokens{how}"


def _tokens(spent: Amounts) -> dict[str, Any]:
    """Write the tokens; a number that is exact stays one, which is shorter."""
    is_exact = spent["input_tokens"].best is not None
    numbers = token_numbers(spent.usage) if is_exact else token_cells(spent.usage, is_least=True)
    return dict(zip(_TOKENS, numbers, strict=True))


def verdict_share(verdict: Verdict | None) -> float | None:
    """Return how much of a budget is used, for the length of a bar; None without a bar."""
    if verdict is None or verdict.state == "unverified" or not verdict.limit:
        return None
    used, _ = figure_of(verdict)
    return round(float(max(used, Decimal(0)) / verdict.limit), 4)


# The tree


def _tree(rows: Sequence[Row], ledger: Ledger) -> list[Any]:
    """Return the whole run as a node: name, cost in dollars, cost, share, and what is in it.

    What is in it are nodes and numbers of rows. Deeper levels need longer ways alone.
    """
    shown = [number for number, row in enumerate(rows) if row.usd is None or row.usd > 0]
    whole = sum((rows[number].known_usd for number in shown), Decimal(0))
    ways = [(_way(rows[number]), number) for number in shown]
    name, usd, _, share, children = _node("all tests", ways, whole, rows)
    return [name, usd, describe_total(ledger), share, children]


def _way(row: Row) -> list[str]:
    if row.group == OUTSIDE:
        return [OUTSIDE]
    *folders, file = row.group.split("/")
    way = [*(f"{each}/" for each in folders), file]
    test, bracket, _ = row.name.partition("[")
    return [*way, test] if bracket else way


def _node(
    name: str, ways: Sequence[tuple[Sequence[str], int]], whole: Decimal, rows: Sequence[Row]
) -> list[Any]:
    """Return a folder, a file, or a test with several cases, with the rows on these ways."""
    members = [rows[number] for _, number in ways]
    usd = sum((row.known_usd for row in members), Decimal(0))
    while True:
        leaves = [number for way, number in ways if not way]
        inner: dict[str, list[tuple[Sequence[str], int]]] = {}
        for way, number in ways:
            if way:
                inner.setdefault(way[0], []).append((way[1:], number))
        if leaves or len(inner) != 1:
            break
        ((below, ways),) = inner.items()  # a folder with one folder in it
        name = f"{name}{below}" if name.endswith("/") else name
    nodes = [_node(below, each, whole, rows) for below, each in inner.items()]
    children: list[tuple[float, Any]] = [(node[1], node) for node in nodes]
    children += [(float(rows[number].known_usd), number) for number in leaves]
    return [
        clean(name),
        float(usd),
        usd_cell(usd, is_least=any(row.spent.is_least for row in members)),
        percent(usd, whole) if whole else "",
        [each for usd, each in sorted(children, key=lambda pair: -pair[0]) if usd],
    ]

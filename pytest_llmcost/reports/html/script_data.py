"""What the page's script draws: a row for each test with its calls, and the tree of their costs.

Figures are text, written as everywhere else; the numbers beside them give only order and widths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.call import Call
from pytest_llmcost.ledger.ledger import Ledger, PartChange, own_verdicts
from pytest_llmcost.ledger.totals import is_live
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.numbers import REFUSED, percent, token_cell, usd_cell
from pytest_llmcost.reports.rows import (
    OUTSIDE,
    Row,
    part_growth,
    parts_by_owner,
    row_of,
    shared_rows,
)
from pytest_llmcost.reports.run_wording import describe_total, last_attempts
from pytest_llmcost.reports.wording import changed_parts, limit_of, sentence, show_part, used_of

_MOST_CALLS = _MOST_PARTS = 50_000
"""In all rows together: what the file may have without becoming slow to open."""


def page_data(ledger: Ledger) -> dict[str, Any]:
    """Return what the script reads, as lists and texts alone."""
    rows = list(_rows(ledger))
    texts = _Texts()
    most = max(1, _MOST_CALLS // max(1, len(rows)))
    most_parts = max(1, _MOST_PARTS // max(1, len(rows)))
    parts = parts_by_owner(ledger)
    return {
        "rowFields": PageRow._fields,
        "callFields": PageCall._fields,
        "rows": [
            _page_row(row, outcome, verdicts, texts, most)._replace(
                **_parts(row, parts.get(row.owner, []), texts, most_parts)
            )
            for row, outcome, verdicts in rows
        ],
        "tree": _tree([row for row, *_ in rows], ledger),
        "texts": list(texts.found),
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


class _Texts:
    """Texts that many rows have in common, each with a number."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self.found.setdefault(clean(text, 1_000), len(self.found))


def _rows(ledger: Ledger) -> Iterator[tuple[Row, str, Sequence[Verdict]]]:
    """Yield every test with calls or a budget, cases and attempts apart, then what is shared."""
    last = {(test.nodeid, test.attempt) for test in last_attempts(ledger.tests)}
    for test in ledger.tests:
        is_last = (test.nodeid, test.attempt) in last
        verdicts = tuple(own_verdicts(test)) if is_last else ()
        if test.calls or verdicts:
            yield row_of(test, is_last), test.outcome, verdicts
    for row in shared_rows(ledger):
        yield row, "", ()


def _page_row(
    row: Row, outcome: str, verdicts: Sequence[Verdict], texts: _Texts, most: int
) -> PageRow:
    verdict, usd = row.verdict, row.usd
    calls = sorted(row.calls, key=lambda call: -call.usd_low)[:most]
    return PageRow(
        group=texts.number(row.group),
        name=row.name,
        mark=row.mark,
        outcome=texts.number("" if outcome == "passed" else outcome),
        usd=None if usd is None else float(usd),
        cost=REFUSED if row.is_refused else usd_cell(usd, is_least=row.spent.is_least),
        calls=row.spent.calls,
        **_tokens(row.spent),
        budget=texts.number(limit_of(verdict) if verdict else ""),
        share=verdict_share(verdict),
        used=row.used,
        verdicts=[
            [
                "near" if each.is_near else each.state,
                clean(sentence(each), 1_000),
                *(clean(reason, 1_000) for reason in each.reasons if each.state == "unverified"),
            ]
            for each in verdicts
        ],
        found=[_page_call(call, texts) for call in calls],
    )


def _page_call(call: Call, texts: _Texts) -> PageCall:
    spent = Amounts.of((call,))
    is_refused = call.evidence == REFUSED
    notes: list[str] = [] if is_refused or call.evidence == "billed" else [call.evidence]
    notes += ["spent live"] if is_live(call) else []
    changed = changed_parts(call)
    notes += [f"changed: {changed}"] if changed else []
    notes += [each.rule.meaning or str(each) for each in call.caveats]
    return PageCall(
        model=texts.number(call.model),
        cost=REFUSED if is_refused else usd_cell(spent.usd, is_least=spent.is_least),
        **_tokens(spent),
        note=texts.number(" · ".join(notes)),
    )


def _parts(row: Row, parts: Sequence[PartChange], texts: _Texts, most: int) -> dict[str, Any]:
    """Return the parts of a row's largest prompt, and what it costs besides its prompts."""
    if not parts:
        return {}
    whole, size = row.spent.priced_usd, sum(each.after for each in parts)
    costs = dict(row.spent.by_category.items())
    prompt = sum((usd for name, usd in costs.items() if name in _PROMPT), Decimal(0))
    output = costs.get("output_usd", Decimal(0))
    width = float(prompt) / float(whole) / size if whole and size else 0.0
    names = [each.part for each in parts]
    shown = usd_cell(output, is_least=row.spent.is_least)
    return {
        "parts": [
            PagePart(
                texts.number(show_part(each.part, names)),
                round(width * each.after, 4),
                texts.number(_sized(each)),
            )
            for each in parts[:most]
        ],
        "more_parts": max(0, len(parts) - most),
        "answer": PagePart(
            texts.number("output"),
            round(float(output) / float(whole), 4),
            texts.number(shown),
        )
        if output and prompt
        else None,
    }


_PROMPT = ("input_usd", "cache_write_5m_usd", "cache_write_1h_usd", "cache_read_usd")


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
    is_partial = spent["input_tokens"].best is None

    def cell(number: int) -> str | int:
        return token_cell(number, is_least=True) if is_partial else number

    return {
        "input": cell(spent.usage.prompt_tokens),
        "written": cell(_written(spent.usage)),
        "read": cell(spent.usage.cache_read_tokens),
        "output": cell(spent.usage.output_tokens),
    }


def _written(usage: Usage) -> int:
    return usage.cache_write_5m_tokens + usage.cache_write_1h_tokens


def verdict_share(verdict: Verdict | None) -> float | None:
    """Return how much of a budget is used, for the length of a bar; None without a bar."""
    used = None if verdict is None else used_of(verdict)
    if verdict is None or used is None or not verdict.limit:
        return None
    return round(float(max(used, Decimal(0)) / verdict.limit), 4)


# The tree


class _Node:
    """A folder, a file, or a test with several cases."""

    def __init__(self) -> None:
        self.inner: dict[str, _Node] = {}
        self.rows: list[int] = []
        self.usd = Decimal(0)
        self.is_least = False

    def add(self, way: Sequence[str], number: int, row: Row) -> None:
        node = self
        for name in ("", *way):
            node = node.inner.setdefault(name, _Node()) if name else node
            node.usd = EXACT.add(node.usd, row.usd or Decimal(0))
            node.is_least = node.is_least or row.spent.is_least
        node.rows.append(number)


def _tree(rows: Sequence[Row], ledger: Ledger) -> list[Any]:
    """Return the whole run as a node: name, cost in dollars, cost, share, and what is in it.

    What is in it are nodes and numbers of rows. Deeper levels need longer ways alone.
    """
    root = _Node()
    for number, row in enumerate(rows):
        if row.usd is None or row.usd > 0:
            root.add(_way(row), number, row)
    name, usd, _, share, children = _packed(root, "all tests", root.usd, rows)
    return [name, usd, describe_total(ledger), share, children]


def _way(row: Row) -> list[str]:
    if row.group == OUTSIDE:
        return [OUTSIDE]
    *folders, file = row.group.split("/")
    way = [*(f"{each}/" for each in folders), file]
    test, bracket, _ = row.name.partition("[")
    return [*way, test] if bracket else way


def _packed(node: _Node, name: str, whole: Decimal, rows: Sequence[Row]) -> list[Any]:
    while len(node.inner) == 1 and not node.rows:  # a folder with one folder in it
        ((below, node),) = node.inner.items()
        name = f"{name}{below}" if name.endswith("/") else name
    inner = [_packed(each, below, whole, rows) for below, each in node.inner.items()]
    leaves = [number for number in node.rows if rows[number].usd]
    children: list[tuple[float, Any]] = [(each[1], each) for each in inner if each[1]]
    children += [(float(rows[number].usd or 0), number) for number in leaves]
    return [
        clean(name),
        float(node.usd),
        usd_cell(node.usd, is_least=node.is_least),
        percent(node.usd, whole) if whole else "",
        [each for _, each in sorted(children, key=lambda pair: -pair[0])],
    ]

"""The summary at the end of a run, as lines of styled text that pytest's writer prints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.call import Call
from pytest_llmcost.compare.cache_states import Column
from pytest_llmcost.compare.pairing import under_change
from pytest_llmcost.ledger.ledger import Ledger, unpriced_models
from pytest_llmcost.ledger.totals import amounts_of, counted_calls
from pytest_llmcost.money import format_share
from pytest_llmcost.reports.comparisons import render_comparison, render_other_model
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.rows import Row, rows_of, shown
from pytest_llmcost.reports.tables import (
    GroupedRow,
    Line,
    format_count,
    render_groups,
    token_cell,
    usd_cell,
    wrap,
)
from pytest_llmcost.reports.wording import (
    describe_partial,
    describe_total,
    dollars,
    is_least,
    is_not_counted,
    limit_of,
    marks_of,
    marks_of_run,
    not_counted,
    sentence,
    short_sentence,
    split_reason,
)

_LONGEST = 2_000
"""A reason may hold a command, which is of no use when it is cut."""
_MARKS = {"over": "✗", "unknown": "?", "near": "!"}
_COLOURS = {"over": "red", "unknown": "yellow", "near": "yellow"}
_NAME_WIDTH = 44
"""A table gets further columns if a name of this width still has room beside them."""
_ASCII = str.maketrans({"✗": "x", "✓": "ok", "≥": ">=", "…": "...", "·": "-", "→": "->", "±": "+-"})

Pricing = Callable[[Call], Call | str]
"""Returns a call as it would be in another state, or why that is unknown."""


@dataclass(frozen=True)
class View:
    """How the summary is to look."""

    width: int = 80
    rows: int = 10
    per: int = 1
    unicode: bool = True
    root: str = ""
    """The way to pytest's root folder, for commands that are to be pasted."""
    columns: Mapping[Column, Pricing] = field(default_factory=dict)
    """Further columns: `worst`, `cold`, `warm`, and how each prices a call."""
    notes: Sequence[str] = ()
    """What is missing in these columns."""

    def text(self, line: str) -> str:
        """Write a line so that the terminal can show it."""
        return line if self.unicode else line.translate(_ASCII)


def render_summary(ledger: Ledger, view: View) -> list[Line]:
    """Render the whole section; empty when nothing was counted and no budget is broken."""
    rows = rows_of(ledger)
    if not rows and _is_quiet(ledger):
        return []
    lines = [*_not_counted(ledger, view), *(_table(rows, view) if rows else [])]
    for other in ledger.other_models:
        found = render_other_model(other, width=view.width, rows=view.rows, per=view.per)
        lines += [Line(""), *found]
    lines += [Line(""), *_total(ledger, view), *_columns(ledger, view)]
    if ledger.comparison is not None:
        lines += render_comparison(ledger.comparison, view.width)
    lines += [*render_verdicts(ledger, view.width), *_remarks(ledger, view), *_notes(ledger, view)]
    return [Line(view.text(clean(line.text, _LONGEST)), line.markup) for line in _spaced(lines)]


def _spaced(lines: Iterable[Line]) -> Iterator[Line]:
    """Leave out blank lines at the beginning."""
    is_first = True
    for line in lines:
        if line.text or not is_first:
            is_first = False
            yield line


def render_short(ledger: Ledger) -> str:
    """Say it all in one line, for `-q`; empty when nothing was seen."""
    totals = ledger.totals
    if not totals.calls and _is_quiet(ledger):
        return ""
    total = describe_total(ledger)
    suite = next(
        (each for each in ledger.verdicts if each.scope == "suite" and each.kind == "usd"), None
    )
    if suite is not None and suite.state != "unverified":
        total = short_sentence(suite)
    states = [mark.verdict.state for mark in marks_of(ledger)]
    parts = [f"{states.count('exceeded')} over"] if "exceeded" in states else []
    parts += [f"{states.count('unverified')} not checked"] if "unverified" in states else []
    parts += [f"{dollars(totals.live_usd)} spent live"] if totals.live_usd else []
    return ", ".join([f"llmcost: {total}", *parts])


def _is_quiet(ledger: Ledger) -> bool:
    """Whether nothing but the calls themselves would be worth a line."""
    kept = all(verdict.state == "within" for verdict in ledger.verdicts)
    return kept and ledger.comparison is None and not ledger.notes


def _not_counted(ledger: Ledger, view: View) -> Iterator[Line]:
    cause = not_counted(ledger)
    if cause is None:
        return
    first, changed, command = cause.lines(view.root)
    yield from (Line(text, {"yellow": True, "bold": True}) for text in wrap(first, view.width))
    for text in filter(None, (changed, command)):
        yield from map(Line, wrap(text, view.width, indent=2))
    yield Line("")


# The table

_OPTIONAL = ("input", "output", "calls", "cache written", "cache read")
"""What a wider terminal shows, the most telling column first."""


def _table(rows: Sequence[Row], view: View) -> Iterator[Line]:
    kept, hidden = shown(rows, view.rows)
    cells = [{head: view.text(cell) for head, cell in _cells(row, view).items()} for row in kept]
    heads = [head for head in cells[0] if any(_says_something(head, line[head]) for line in cells)]
    heads = _fitting(heads, cells, view.width)
    table = [
        GroupedRow(
            row.group,
            f"{view.text(_MARKS.get(row.mark, ' '))} {row.name}",
            [line[head] for head in heads],
            {_COLOURS[row.mark]: True} if row.mark else {},
        )
        for row, line in zip(kept, cells, strict=True)
    ]
    yield from render_groups(heads, table, view.width)
    if hidden:
        rest = sum((row.total for row in hidden), Amounts())
        yield Line(f"… {len(hidden):,} more, {_scaled(rest, view)} (--llmcost-rows=0 shows all)")


def _says_something(head: str, cell: str) -> bool:
    return cell not in (("", "0", "?") if head.startswith("cache") else ("", "0"))


def _fitting(heads: Sequence[str], cells: Sequence[Mapping[str, str]], width: int) -> list[str]:
    """Leave out optional columns, the least telling first, until a name has room."""
    kept = list(heads)

    def taken() -> int:
        return sum(2 + max(len(each), *(len(line[each]) for line in cells)) for each in kept)

    for head in reversed(_OPTIONAL):
        if head in kept and taken() + _NAME_WIDTH > width:
            kept.remove(head)
    if "used" in kept and taken() > width:
        kept.remove("used")  # the mark is left
    return kept


def _cells(row: Row, view: View) -> dict[str, str]:
    spent, usage = row.spent, row.spent.usage
    per = f"/{view.per:,}" if view.per != 1 else ""
    is_partial = spent["input_tokens"].best is None
    written = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    budget, used = _budget(row)
    cells = {
        "calls": f"{spent.calls:,}",
        "input": token_cell(usage.prompt_tokens, is_least=is_partial),
        "cache written": token_cell(written, is_least=is_partial),
        "cache read": token_cell(usage.cache_read_tokens, is_least=is_partial),
        "output": token_cell(usage.output_tokens, is_least=is_partial),
        f"cost{per}": usd_cell(row.usd, is_least=is_least(spent), per=view.per),
    }
    for name, price in view.columns.items():
        usd, unknown = _priced(row.calls, price)
        cells[name] = usd_cell(usd, is_least=bool(unknown), per=view.per)
    return {**cells, "budget": budget, "used": used}


def _budget(row: Row) -> tuple[str, str]:
    verdict = row.verdict
    if verdict is None:
        return "", ""
    limit = re.sub(" tokens?", "", limit_of(verdict))
    if verdict.state == "unverified":
        return limit, "?"
    used = verdict.high if verdict.state == "within" and verdict.high is not None else verdict.low
    share = format_share(used, verdict.limit)
    return limit, share if len(share) <= len("9999%") else ">9999%"


def _priced(calls: Iterable[Call], price: Pricing) -> tuple[Decimal | None, int]:
    """Return what calls cost in another state, and of how many of them that is unknown."""
    pair = under_change(calls, price)
    amounts = Amounts.of(pair.after)
    unknown = len(pair.obstacles) + amounts.unpriced
    return (amounts.usd if pair.after or not unknown else None), unknown


# Below it


def _scaled(amounts: Amounts, view: View) -> str:
    usd = None if amounts.usd is None else amounts.usd * view.per
    return dollars(usd, is_least=is_least(amounts))


def _total(ledger: Ledger, view: View) -> Iterator[Line]:
    """Say what the run costs at list price, and how much of it each model."""
    totals = ledger.totals
    per = f" per {view.per:,} runs" if view.per != 1 else ""
    total, calls = _scaled(amounts_of(ledger), view), format_count(totals.calls, "call")
    text = f"{total}{per} at list price, {calls}"
    if totals.unpriced_calls:
        text += f" ({totals.unpriced_calls:,} of unknown cost)"
    if ledger.cache_state != "as-billed":
        text += f", cache priced {ledger.cache_state}"
    if len(totals.by_model) > 1:
        text += f": {', '.join(_models(ledger, view))}"
    yield from (Line(each, {"bold": True}) for each in wrap(text, view.width))


def _models(ledger: Ledger, view: View) -> Iterator[str]:
    unpriced = unpriced_models(ledger)
    models = ledger.totals.by_model
    for name in sorted(models, key=lambda each: (-(models[each].usd or 0), each)):
        usd = models[name].usd
        yield f"{clean(name)} {usd_cell(usd, is_least=name in unpriced, per=view.per)}"


_MEANINGS = {
    "worst": "cold cache and replies of max_tokens",
    "cold": "all that is cached is written",
    "warm": "all that is cached is read",
}
_NO_CUTS = "no price, or cache breakpoints that are not counted"
_UNKNOWN = {
    "worst": "no max_tokens, server tools, or cache breakpoints that are not counted",
    "cold": _NO_CUTS,
    "warm": _NO_CUTS,
}


def _columns(ledger: Ledger, view: View) -> Iterator[Line]:
    """Say what each further column means, what the run costs in it, and what it leaves out."""
    calls = list(counted_calls(ledger))
    per = f" per {view.per:,} runs" if view.per != 1 else ""
    for name, price in view.columns.items():
        usd, unknown = _priced(calls, price)
        total = dollars(None if usd is None else usd * view.per, is_least=bool(unknown))
        text = f"{name} {total}{per}: {_MEANINGS[name]}"
        if unknown:
            text += f"; {format_count(unknown, 'call')} unknown ({_UNKNOWN[name]})"
        yield from map(Line, wrap(text, view.width))
    for note in view.notes:
        yield from map(Line, wrap(note, view.width))


def render_verdicts(ledger: Ledger, width: int) -> Iterator[Line]:
    """Say what became of the budgets over several tests, and of increases."""
    is_named_above = not_counted(ledger) is not None
    for mark in marks_of_run(ledger):
        verdict = mark.verdict
        name = {"exceeded": "over", "unverified": "unknown"}.get(verdict.state)
        name = name or ("near" if verdict.is_near else "")
        markup = {_COLOURS[name]: True, "bold": True} if name else {"green": True}
        about = f"{clean(mark.name)}: " if mark.name else ""
        text = f"{_MARKS.get(name, '✓')} {about}{sentence(verdict)}"
        yield from (Line(each, markup) for each in wrap(text, width))
        if verdict.state == "unverified" and not (is_named_above and is_not_counted(verdict)):
            for text in filter(None, chain.from_iterable(map(split_reason, verdict.reasons))):
                yield from map(Line, wrap(text, width, indent=2))


def _remarks(ledger: Ledger, view: View) -> Iterator[Line]:
    states = [mark.verdict.state for mark in marks_of(ledger) if not mark.is_of_run]
    number = states.count("unverified")
    unchecked = [f"{format_count(number, 'budget')} could not be checked"] if number else []
    live = f"{dollars(ledger.totals.live_usd)} spent live"
    prices = f"prices of {ledger.price_date}"
    _, *own = ledger.rate_card.version.split("+")  # a user's price files follow the shipped card
    if own:
        prices += f" with {' and '.join(own)}"
    text = " · ".join([*unchecked, live, prices])
    yield from map(Line, wrap(text, view.width))


def _notes(ledger: Ledger, view: View) -> Iterator[Line]:
    notes = []
    number = sum("input-only" in call.caveats for call in counted_calls(ledger))
    if number:
        are = "is" if number == 1 else "are"
        text = "priced without output; pass output_tokens= to llmcost.count(...)"
        notes.append(f"{format_count(number, 'call')} {are} {text}")
    for note in filter(None, [*notes, describe_partial(ledger)]):
        yield from map(Line, wrap(note, view.width))
    for note in ledger.notes:
        yield from (
            Line(text, {"yellow": True}) for text in wrap(clean(note, _LONGEST), view.width)
        )

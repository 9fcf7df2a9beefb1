"""The summary at the end of a run, as lines of styled text that pytest's writer prints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import dropwhile
from operator import attrgetter

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.call import Call
from pytest_llmcost.compare.repriced import Column
from pytest_llmcost.ledger.ledger import Ledger
from pytest_llmcost.ledger.totals import counted_calls, live_spenders, parts_of
from pytest_llmcost.reports import comparisons, run_wording, wording
from pytest_llmcost.reports.plain_text import (
    MOST_WITH_COMMAND,
    UNKNOWN,
    Line,
    Screen,
    TableRow,
    clean,
    dollars,
    format_count,
    text_table,
    usd_cell,
    width_of,
    wrap,
)
from pytest_llmcost.reports.rows import TOKEN_HEADS, Row, by_cost, rows_of, share_of, shown

_COLOURS = {"exceeded": "red", "unverified": "yellow", "near": "yellow", "within": "green"}
_MOST_LIVE = 5
_LONGEST_TAG = 40
_NAME_WIDTH = 44
"""A table gets further columns if a name of this width still has room beside them."""
_OPTIONAL = (*dict.fromkeys(("input", "output", "calls", *TOKEN_HEADS)),)
"""What a wider terminal shows, the most telling column first."""

_NO_CUTS = "no price, or cache breakpoints that are not counted"
_COLUMNS: Mapping[Column, tuple[str, str]] = {
    "worst": (
        "cold cache and replies of max_tokens",
        "no max_tokens, several sampling calls are possible, or cache breakpoints that are not "
        "counted",
    ),
    "cold": ("all that is cached is written", _NO_CUTS),
    "warm": ("all that is cached is read", _NO_CUTS),
}
"""What a further column means, and why a call may be unknown in it."""

Pricing = Callable[[Call], Call | str]
"""Returns a call as it would be in another state, or why that is unknown."""


@dataclass(frozen=True)
class View(Screen):
    """How the summary is to look."""

    width: int = 80
    rows: int = 10
    per: int = 1
    root: str = ""
    """The way to pytest's root folder, for commands that are to be pasted."""
    columns: Mapping[Column, Pricing] = field(default_factory=dict)
    """Further columns: `worst`, `cold`, `warm`, and how each prices a call."""
    notes: Sequence[str] = ()
    """What is missing in these columns."""


def render_summary(ledger: Ledger, view: View) -> list[Line]:
    """Render the whole section; empty when nothing was counted and no budget is broken."""
    rows = rows_of(ledger)
    if not rows and _is_quiet(ledger):
        return []
    lines: list[Line] = []
    if (cause := run_wording.not_counted(ledger, view.root)).tests:
        first, *rest = cause.lines
        lines += wrap(first, view, markup={"yellow": True, "bold": True})
        for text in rest:
            lines += wrap(text, view, indent=2)
        lines.append(Line(""))
    lines += _table(rows, view, ledger) if rows else ()
    for other in ledger.other_models:
        table = comparisons.render_other_model(other, view, rows=view.rows, per=view.per)
        lines += [Line(""), *table]
    lines += [Line(""), *_totals(ledger, view)]
    lines += comparisons.render_comparison(ledger.comparison, view) if ledger.comparison else ()
    lines += [*render_verdicts(ledger, view), *_notes(ledger, view)]
    return [
        Line(view.text(clean(line.text, MOST_WITH_COMMAND)), line.markup)
        for line in dropwhile(lambda line: not line.text, lines)
    ]


def render_short(ledger: Ledger) -> str:
    """Say it all in one line, for `-q`; empty when nothing was seen."""
    totals = ledger.totals
    if not totals.calls and _is_quiet(ledger):
        return ""
    total = run_wording.describe_bounds(ledger) or UNKNOWN
    budget = run_wording.suite_budget(ledger)
    if budget and budget.state != "unverified":  # its sentence has the total, too
        total = wording.short_sentence(budget)
    parts = []
    if ledger.comparison is not None:
        change, _ = comparisons.describe_difference(ledger.comparison)
        parts.append(f"{change} against the baseline")
    parts += filter(None, [run_wording.describe_broken(ledger)[1]])
    if totals.live_usd:
        parts.append(f"{run_wording.describe_bounds(ledger, live=True) or UNKNOWN} spent live")
    return ", ".join([f"llmcost: {total}", *parts])


def _is_quiet(ledger: Ledger) -> bool:
    """Whether nothing but the calls themselves would be worth a line."""
    kept = all(verdict.state == "within" for verdict in ledger.verdicts)
    return kept and ledger.comparison is None and not ledger.notes


def _table(rows: Sequence[Row], view: View, ledger: Ledger) -> Iterator[Line]:
    """Show the rows that cost most, in the columns that have something to say and room."""
    kept, hidden = shown(rows, view.rows, run_wording.not_counted(ledger))
    parts = parts_of(ledger)
    tokens = zip(*(row.token_cells for row in kept), strict=True)
    cost = f"cost/{view.per:,}" if view.per != 1 else "cost"
    columns: dict[str, Sequence[str]] = {
        "calls": [f"{len(row.calls):,}" for row in kept],
        **dict(zip(TOKEN_HEADS, tokens, strict=True)),
        cost: [row.cost_cell(per=view.per) for row in kept],
    }
    for name, price in view.columns.items():
        known = [_priced(row.calls, price) if row.calls else (row.usd, False, 0) for row in kept]
        columns[name] = [usd_cell(usd, is_least=least, per=view.per) for usd, least, _ in known]
    columns["budget"] = [re.sub(" tokens?", "", wording.limit_of(row.verdict)) for row in kept]
    used = (share_of(row.verdict) for row in kept)
    columns["used"] = [each if len(each) <= len("≥9,999%") else ">9,999%" for each in used]
    for head, cells in [*columns.items()]:
        columns[head] = [view.text(cell) for cell in cells]
        # A column that says nothing of any row; that a cache is unknown, the input says already.
        if {*cells} <= ({"", "0", "?"} if head.startswith("cache") else {"", "0"}):
            del columns[head]

    def taken() -> int:
        return sum(2 + max(map(width_of, (head, *cells))) for head, cells in columns.items())

    for head in reversed(_OPTIONAL):
        if taken() + _NAME_WIDTH > view.width:
            columns.pop(head, None)
    if taken() > view.width:
        columns.pop("used", None)  # the mark is left
    table = []
    for row, *cells in zip(kept, *columns.values(), strict=True):
        title = f"{wording.SIGNS.get(row.mark, ' ')} {row.name}"
        markup = {_COLOURS[row.mark]: True} if row.mark else {}
        why_unmarked = "fails as expected (xfail)" if row.outcome == "xfailed" else ""
        notes = filter(None, (why_unmarked, wording.describe_parts(row.calls, parts)))
        table.append(TableRow([title, *cells], row.group, markup, "; ".join(notes)))
    yield from text_table(["", *(f"{head}:" for head in columns)], table, view)
    if hidden:
        rest = Amounts.of(call for row in hidden for call in (*row.calls, *row.folded))
        usd = dollars(rest.usd, is_least=rest.is_least, per=view.per)
        yield Line(f"… {len(hidden):,} more, {usd} (--llmcost-rows=0 shows all)")


def _priced(calls: Iterable[Call], price: Pricing) -> tuple[Decimal | None, bool, int]:
    """Return what calls cost in another state, whether at least, and of how many it is unknown."""
    changed = [price(call) for call in calls]
    known = [each for each in changed if not isinstance(each, str)]
    amounts = Amounts.of(known)
    unknown = len(changed) - len(known) + amounts.unpriced
    usd = amounts.usd if known or not unknown else None
    return usd, bool(unknown) or amounts.is_least, unknown


def _totals(ledger: Ledger, view: View) -> Iterator[Line]:
    """Say what the run costs: at list price, by model and by tag, then in each further column."""
    totals, per = ledger.totals, view.per
    runs = f" per {per:,} runs" if per != 1 else ""
    total = dollars(totals.usd, is_least=totals.is_least, per=per)
    text = f"{total}{runs} at list price, {format_count(totals.calls, 'call')}"
    if totals.unpriced_calls:
        text += f" ({totals.unpriced_calls:,} of unknown cost)"
    if ledger.cache_state != "as-billed":
        text += f", cache priced {ledger.cache_state}"
    if len(totals.by_model) > 1:
        parts = [
            f"{wording.show_model(name)} {usd_cell(each.usd, is_least=each.is_least, per=per)}"
            for name, each in by_cost(totals.by_model)
        ]
        text += f": {', '.join(parts)}"
    yield from wrap(text, view, markup={"bold": True})
    tags = [
        f"{clean(name, _LONGEST_TAG)} {dollars(each.usd, is_least=each.is_least, per=per)}"
        for name, each in totals.by_tag.items()
    ]
    if tags:
        yield from wrap(f"by tag: {', '.join(tags)}", view)
    calls = list(counted_calls(ledger))
    for name, price in view.columns.items():
        meaning, why_unknown = _COLUMNS[name]
        usd, is_least, unknown = _priced(calls, price)
        total = dollars(usd, is_least=is_least or bool(ledger.lost_calls), per=per)
        text = f"{name} {total}{runs}: {meaning}"
        if unknown:
            text += f"; {format_count(unknown, 'call')} unknown ({why_unknown})"
        yield from wrap(text, view)
    for note in view.notes:
        yield from wrap(note, view)


def render_verdicts(ledger: Ledger, screen: Screen) -> Iterator[Line]:
    """Say what became of the budgets over several tests, and of increases."""
    for each in filter(attrgetter("is_of_run"), run_wording.findings(ledger)):
        markup = {_COLOURS[each.state]: True, "bold": each.state != "within"}
        about = f"{clean(each.name)}: " if each.name else ""
        text = f"{wording.SIGNS[each.state]} {about}{each.text}"
        yield from wrap(text, screen, markup=markup)
        for text in each.more:
            yield from wrap(text, screen, indent=2)


def _notes(ledger: Ledger, view: View) -> Iterator[Line]:
    """Say what the run spent, of which day the prices are, and what else a reader should know."""
    _, broken = run_wording.describe_broken(ledger)
    live = f"{run_wording.describe_live(ledger)} spent live"
    parts = (broken, live, run_wording.describe_prices(ledger))
    yield from wrap(" · ".join(filter(None, parts)), view)
    if spent := live_spenders(ledger):
        yield Line("went live:")
        for name, amounts in spent[:_MOST_LIVE]:
            usd = dollars(amounts.usd, is_least=amounts.is_least)
            yield from wrap(f"{usd:>9}  {clean(name)}", view, indent=2)
        if rest := [amounts for _, amounts in spent[_MOST_LIVE:]]:
            amounts = sum(rest, Amounts())
            usd = dollars(amounts.usd, is_least=amounts.is_least)
            yield Line(f"  … {len(rest):,} more, {usd}")
    if number := sum("input-only" in call.caveats for call in counted_calls(ledger)):
        calls = f"{format_count(number, 'call')} {'is' if number == 1 else 'are'}"
        remedy = "pass output_tokens= to llmcost.count(...)"
        yield from wrap(f"{calls} priced without output; {remedy}", view)
    if ledger.comparison is None:  # otherwise it says so
        yield from wrap(run_wording.describe_partial(ledger), view)
    for text in run_wording.notes_of(ledger):
        yield from wrap(clean(text, MOST_WITH_COMMAND), view, markup={"yellow": True})

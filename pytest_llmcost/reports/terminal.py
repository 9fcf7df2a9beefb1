"""The summary at the end of a run, as lines of styled text; pytest's writer prints them.

Data flow: Report -> `fold` into rows -> `render_summary` -> Lines. Pure: sees only the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from math import ceil

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.call import Call
from pytest_llmcost.compare.cache_states import Column
from pytest_llmcost.compare.pairing import under_change
from pytest_llmcost.ledger.ledger import Ledger, TestRow, calls_of, unpriced_models
from pytest_llmcost.ledger.totals import counted_calls, most_expensive, shared_fixtures
from pytest_llmcost.money import format_share, format_usd
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reports.comparisons import render_other_model, render_trend
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.tables import Line, align, column_partly_usd, column_usd, narrowed
from pytest_llmcost.reports.wording import Mark, format_limit, marks_of_run, render_headline

_BAR_CELLS = 5
_LONGEST = 2_000
"""A reason may hold a command, which is of no use when it is cut."""
_DISPENSABLE = ("", "cached", "calls", "ceiling", "output")
"""What goes first where further columns need the room; a row's colour tells of its ceiling."""
_STATE_COLOURS = {"exceeded": "red", "unverified": "yellow", "within": "green"}


@dataclass(frozen=True)
class Row:
    """One line of the table: a test, a fixture, or several cases folded into one."""

    name: str
    calls: int
    usage: Usage
    usd: Decimal
    unpriced: int
    verdict: Verdict | None = None
    input_only: bool = False
    cases: int = 1
    made: tuple[Call, ...] = ()
    """The calls themselves."""

    @property
    def is_lower_bound(self) -> bool:
        """Whether nothing bounds what it may cost."""
        return any(call.usd_high is None for call in self.made)

    @property
    def is_partly_unknown(self) -> bool:
        """Whether the tokens of one of its calls are not known at all."""
        return any(call.usd is None and not call.sampling_calls for call in self.made)


@dataclass(frozen=True)
class View:
    """How the summary is to look."""

    width: int = 80
    rows: int = 10
    per: int = 1
    unicode: bool = True
    extra: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Further columns: title -> row name -> cell."""
    extra_notes: Sequence[str] = ()
    """What these columns say, and what they leave out."""


def fold(ledger: Ledger) -> list[Row]:
    """Make the table's rows, dearest first; cases of a parametrised test and reruns as one."""
    groups: dict[str, list[TestRow]] = {}
    for test in ledger.tests:
        if _is_news(test):
            groups.setdefault(test.nodeid.partition("[")[0], []).append(test)
    rows = [_fold_tests(base, tests) for base, tests in groups.items()]
    fixtures: dict[str, list[Call]] = {}
    for set_ups in shared_fixtures(ledger.fixtures):
        fixture = most_expensive(set_ups)
        often = f", dearest of {len(set_ups)}" if len(set_ups) > 1 else ""
        name = f"fixture {fixture.name} ({fixture.scope}{often})"
        fixtures.setdefault(name, []).extend(fixture.calls)
    if ledger.outside_tests:
        fixtures["outside tests"] = list(ledger.outside_tests)
    rows += [_row(name, calls) for name, calls in fixtures.items() if calls]
    return sorted(rows, key=lambda row: (-row.usd, -row.unpriced, -row.calls, row.name))


def _is_news(test: TestRow) -> bool:
    """Whether a row says anything: one of a thousand idle tests under a common ceiling does not."""
    return bool(test.calls) or (test.verdict is not None and test.verdict.state != "within")


def _fold_tests(base: str, tests: Sequence[TestRow]) -> Row:
    cases = {test.nodeid for test in tests}
    attempts = max(test.attempt for test in tests)
    name = next(iter(cases)) if len(cases) == 1 else f"{base}[{len(cases)} cases]"
    if attempts > 1:
        name += f" ({attempts} attempts)"
    verdicts = [test.verdict for test in tests if test.verdict is not None]
    calls = [call for test in tests for call in test.calls]
    return replace(_row(name, calls, max(verdicts, key=_badness, default=None)), cases=len(cases))


def _badness(verdict: Verdict) -> tuple[int, Decimal]:
    rank = ("within", "unverified", "exceeded").index(verdict.state)
    return (rank, verdict.low / verdict.limit if verdict.limit else verdict.low)


def _row(name: str, calls: Iterable[Call], verdict: Verdict | None = None) -> Row:
    calls = list(calls)
    return Row(
        name=clean(name),
        calls=len(calls),
        usage=sum((call.billed_usage for call in calls), Usage()),
        usd=sum((call.usd_low if call.usd is None else call.usd for call in calls), Decimal(0)),
        unpriced=sum(call.usd is None for call in calls),
        verdict=verdict,
        input_only=any("input-only" in call.caveats for call in calls),
        made=tuple(calls),
    )


def render_summary(ledger: Ledger, view: View) -> list[Line]:
    """Render the whole section; empty when nothing was counted and no ceiling is broken."""
    rows = fold(ledger)
    if not rows and _is_quiet(ledger):
        return []
    lines = _table(rows, view) if rows else []
    if len(ledger.totals.by_model) > 1:
        lines += [Line(""), *_models(ledger, view)]
    for other in ledger.other_models:
        found = render_other_model(other, width=view.width, rows=view.rows, per=view.per)
        lines += [Line(""), *found]
    tail = [*_totals(ledger, view), *_verdicts(ledger), *_notes(ledger, rows)]
    tail[1:1] = map(Line, view.extra_notes)
    return [*lines, Line(""), *(Line(clean(line.text, _LONGEST), line.markup) for line in tail)]


def render_short(ledger: Ledger) -> list[str]:
    """Say it all, for `-q`: the totals, then each ceiling; nothing when nothing was seen."""
    totals = ledger.totals
    if not totals.calls and _is_quiet(ledger):
        return []
    unpriced = f", {totals.unpriced_calls} without a price" if totals.unpriced_calls else ""
    text = (
        f"llmcost: {_at_least(ledger)}{format_usd(totals.usd)} for {_count(totals.calls, 'call')}"
        f"{unpriced}, live spend {format_usd(totals.live_usd)}"
    )
    return [clean(line, _LONGEST) for line in (text, *map(_say, marks_of_run(ledger)))]


def _is_quiet(ledger: Ledger) -> bool:
    """Whether nothing but the calls themselves would be worth a line."""
    kept = all(verdict.state == "within" for verdict in ledger.verdicts)
    return kept and ledger.comparison is None and not ledger.notes


def _table(rows: Sequence[Row], view: View) -> list[Line]:
    shown = rows[: view.rows] if view.rows else rows
    heads = ["calls", "input", "cached", "output", f"USD{_per(view)}", "ceiling", ""]
    cells = [_cells(row, view) for row in shown]
    for place, (title, column) in enumerate(view.extra.items(), start=5):
        heads.insert(place, f"{title}{_per(view)}")
        for row, line in zip(shown, cells, strict=True):
            line.insert(place, column.get(row.name, ""))
    if view.extra:
        heads, cells = narrowed(heads, cells, view.width, _DISPENSABLE)
    lines = list(align("test", heads, [row.name for row in shown], cells, view.width))
    painted = [Line(lines[0], {"bold": True})]
    painted += [Line(text, _paint(row)) for row, text in zip(shown, lines[1:], strict=True)]
    hidden = rows[len(shown) :]
    if hidden:
        usd = sum((row.usd for row in hidden), Decimal(0))
        unknown = sum(row.unpriced for row in hidden)
        price = format_usd(usd * view.per if usd or not unknown else None)
        price += "+?" if usd and unknown else ""
        more = f"... {len(hidden)} more, {price} (--llmcost-rows=0 shows all)"
        painted.append(Line(more))
    return painted


def _per(view: View) -> str:
    return f"/{view.per:,}" if view.per != 1 else ""


def _cells(row: Row, view: View) -> list[str]:
    usage = row.usage
    output = _tokens(usage.output_tokens, row)
    if row.input_only and not usage.output_tokens:
        output = "input only"
    ceiling, share = _ceiling(row, view)
    return [
        f"{row.calls:,}",
        _tokens(usage.prompt_tokens, row),
        f"{usage.cached_tokens:,}",
        output,
        _price(row, view),
        ceiling,
        share,
    ]


def _tokens(number: int, row: Row) -> str:
    """Write what is known of a number of tokens; what is not is never shown as zero."""
    if not row.is_partly_unknown:
        return f"{number:,}"
    return f"{number:,}+?" if number else "?"


def _price(row: Row, view: View) -> str:
    verdict = row.verdict
    against = verdict.limit if verdict and verdict.kind == "usd" and view.per == 1 else None
    text = column_usd(row.usd * view.per, against=against)
    if not row.unpriced:
        return f"{text}+" if row.is_lower_bound else text
    return f"{text}+?" if row.usd else "?"


def _ceiling(row: Row, view: View) -> tuple[str, str]:
    verdict = row.verdict
    if verdict is None:
        return "", ""
    limit = (f"{row.cases}x" if row.cases > 1 else "") + format_limit(verdict)
    if verdict.state == "unverified":
        return limit, "unverified"
    used = verdict.high if verdict.state == "within" and verdict.high is not None else verdict.low
    share = format_share(used, verdict.limit)
    shown = share if len(share) <= len("999%") else ">999%"
    near = " !" if verdict.is_near else ""
    return limit, f"{shown:>4} {_bar(used, verdict.limit, view)}{near}"


def _bar(used: Decimal, limit: Decimal, view: View) -> str:
    share = min(used / limit, Decimal(1)) if limit else Decimal(bool(used))
    full = ceil(share * _BAR_CELLS)
    solid, empty = ("█", "░") if view.unicode else ("#", ".")
    return solid * full + empty * (_BAR_CELLS - full)


def _paint(row: Row) -> dict[str, bool]:
    verdict = row.verdict
    if verdict is None:
        return {"yellow": True} if row.unpriced else {}
    if verdict.state == "within":
        return {"yellow": True} if verdict.is_near else {}
    return {_STATE_COLOURS[verdict.state]: True}


def _models(ledger: Ledger, view: View) -> list[Line]:
    ranked = sorted(ledger.totals.by_model.items(), key=lambda each: (-(each[1].usd or 0), each[0]))
    unpriced = unpriced_models(ledger)
    cells = [
        [
            f"{total.calls:,}",
            f"{total.usage.prompt_tokens:,}",
            f"{total.usage.cached_tokens:,}",
            f"{total.usage.output_tokens:,}",
            column_partly_usd(total.usd, name in unpriced, view.per),
        ]
        for name, total in ranked
    ]
    heads = ["calls", "input", "cached", "output", f"USD{_per(view)}"]
    texts = list(align("model", heads, [name for name, _ in ranked], cells, view.width))
    return [Line(texts[0], {"bold": True}), *(Line(text) for text in texts[1:])]


def _totals(ledger: Ledger, view: View) -> list[Line]:
    totals = ledger.totals
    per = f" per {view.per:,}" if view.per != 1 else ""
    total = None if totals.usd is None else totals.usd * view.per
    text = (
        f"total {_at_least(ledger)}{format_usd(total)}{per} at list price, "
        f"{_count(totals.calls, 'call')}; live spend {format_usd(totals.live_usd)}"
    )
    lines = [Line(text, {"bold": True})]
    if totals.unpriced_calls:
        text = (
            f"{_count(totals.unpriced_calls, 'call')} without a price: the total is a lower bound"
        )
        lines.append(Line(text, {"yellow": True}))
    cache_state = (
        "" if ledger.cache_state == "as-billed" else f", cache priced {ledger.cache_state}"
    )
    version = ledger.rate_card.version
    lines.append(Line(f"prices of {ledger.price_date}, rate card {version}{cache_state}"))
    return lines


def _at_least(ledger: Ledger) -> str:
    if ledger.totals.usd is None:
        return ""
    return "at least " if any(call.usd_high is None for call in calls_of(ledger)) else ""


def _verdicts(ledger: Ledger) -> Iterator[Line]:
    if ledger.comparison is not None:
        yield from render_trend(ledger.comparison)
    for mark in marks_of_run(ledger):
        verdict = mark.verdict
        colour = "yellow" if verdict.is_near else _STATE_COLOURS[verdict.state]
        yield Line(_say(mark), {colour: True, "bold": verdict.state != "within"})
        if verdict.state == "unverified":
            yield from (Line(f"  {reason}", {"yellow": True}) for reason in verdict.reasons)


def _say(mark: Mark) -> str:
    verdict = mark.verdict
    name = "" if mark.name == verdict.label else mark.name
    about = " ".join(filter(None, (mark.words, name)))
    near = f", over {verdict.warn_at:.0%} of it" if verdict.is_near else ""
    return f"{about} {verdict.state}: {render_headline(verdict)}{near} ({verdict.origin})"


def _notes(ledger: Ledger, rows: Sequence[Row]) -> Iterator[Line]:
    if any(row.input_only for row in rows):
        yield Line("input only: no output is priced there; pass output_tokens= to count(...)")
    if ledger.incomplete:
        why = ", ".join(ledger.incomplete)
        yield Line(f"not the whole suite ({why}): totals and ceilings are of what ran")
    yield from (Line(note, {"yellow": True}) for note in ledger.notes)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


Price = Callable[[Call, Column], Call | str]

_MEANINGS: Mapping[Column, str] = {
    "worst": "cold cache and replies of max_tokens",
    "cold": "all that is cached is written",
    "warm": "all that is cached is read",
}
_UNKNOWN: Mapping[Column, str] = {
    "worst": "no max_tokens, server tools, or cache breakpoints that are not counted apart",
    "cold": "no price, or cache breakpoints that are not counted apart",
    "warm": "no price, or cache breakpoints that are not counted apart",
}


def extra_cells(
    ledger: Ledger, columns: Sequence[Column], price: Price, *, per: int = 1
) -> dict[str, dict[str, str]]:
    """Make the cells of further columns: title -> row of the summary's table -> cell."""
    rows = fold(ledger)
    return {
        column: {
            row.name: column_partly_usd(usd or None, unknown, per)
            for row in rows
            if row.made
            for usd, unknown in [_in_column(row.made, price, column)]
        }
        for column in columns
    }


def _in_column(calls: Iterable[Call], price: Price, column: Column) -> tuple[Decimal | None, int]:
    """Return what calls cost in a column, and how many of them are not in that."""
    pair = under_change(calls, lambda call: price(call, column))
    usd = Amounts.of(pair.after).usd if pair.after or not pair.obstacles else None
    return usd, len(pair.obstacles)


def extra_notes(
    ledger: Ledger, columns: Sequence[Column], price: Price, *, per: int = 1
) -> list[str]:
    """Say what each column means, what the run comes to in it, and what it leaves out."""
    calls = list(counted_calls(ledger))
    return [_note(column, *_in_column(calls, price, column), per) for column in columns]


def _note(column: Column, usd: Decimal | None, unknown: int, per: int) -> str:
    least = "at least " if unknown and usd is not None else ""
    scale = f" per {per:,}" if per != 1 else ""
    shown = "?" if usd is None else format_usd(usd * per)
    text = f"{column} {least}{shown}{scale}: {_MEANINGS[column]}"
    if unknown:
        calls = "1 call" if unknown == 1 else f"{unknown:,} calls"
        text += f"; {calls} unknown ({_UNKNOWN[column]})"
    return text

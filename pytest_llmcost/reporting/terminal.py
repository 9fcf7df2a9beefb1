"""The summary at the end of a run, as lines of styled text; pytest's writer prints them.

Data flow: Report -> `fold` into rows -> `render_summary` -> Lines. Pure: sees only the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from math import ceil

from pytest_llmcost.budgeting.budget import Verdict
from pytest_llmcost.budgeting.ledger import Report, TestRow
from pytest_llmcost.budgeting.report import calls_of, unpriced_models
from pytest_llmcost.budgeting.totals import dearest, shared_fixtures
from pytest_llmcost.metering.call import Call
from pytest_llmcost.pricing.money import format_share, format_usd
from pytest_llmcost.pricing.usage import Usage
from pytest_llmcost.reporting.escape import clean
from pytest_llmcost.reporting.failure import format_limit, render_headline
from pytest_llmcost.reporting.line import Line
from pytest_llmcost.reporting.marks import Mark, marks_of_run
from pytest_llmcost.reporting.table import align, column_partly_usd, column_usd, narrowed
from pytest_llmcost.reporting.trend import render_trend
from pytest_llmcost.reporting.whatif import render_switch

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
        return any(call.usd is None and not call.legs for call in self.made)


@dataclass(frozen=True)
class View:
    """How the summary is to look."""

    width: int = 80
    rows: int = 10
    per: int = 1
    warn_at: Decimal | None = None
    unicode: bool = True
    extra: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Further columns: title -> row name -> cell."""
    extra_notes: Sequence[str] = ()
    """What these columns say, and what they leave out."""


def fold(report: Report) -> list[Row]:
    """Make the table's rows, dearest first; cases of a parametrised test and reruns as one."""
    groups: dict[str, list[TestRow]] = {}
    for test in report.tests:
        if _is_news(test):
            groups.setdefault(test.nodeid.partition("[")[0], []).append(test)
    rows = [_fold_tests(base, tests) for base, tests in groups.items()]
    fixtures: dict[str, list[Call]] = {}
    for set_ups in shared_fixtures(report.fixtures):
        fixture = dearest(set_ups)
        often = f", dearest of {len(set_ups)}" if len(set_ups) > 1 else ""
        name = f"fixture {fixture.name} ({fixture.scope}{often})"
        fixtures.setdefault(name, []).extend(fixture.calls)
    if report.outside_tests:
        fixtures["outside tests"] = list(report.outside_tests)
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


def render_summary(report: Report, view: View) -> list[Line]:
    """Render the whole section; empty when nothing was counted and no ceiling is broken."""
    rows = fold(report)
    if not rows and _is_quiet(report):
        return []
    lines = _table(rows, view) if rows else []
    if len(report.totals.by_model) > 1:
        lines += [Line(""), *_models(report, view)]
    for switch in report.what_if:
        found = render_switch(switch, width=view.width, rows=view.rows, per=view.per)
        lines += [Line(""), *found]
    tail = [*_totals(report, view), *_verdicts(report), *_notes(report, rows)]
    tail[1:1] = map(Line, view.extra_notes)
    return [*lines, Line(""), *(Line(clean(line.text, _LONGEST), line.markup) for line in tail)]


def render_short(report: Report) -> list[str]:
    """Say it all, for `-q`: the totals, then each ceiling; nothing when nothing was seen."""
    totals = report.totals
    if not totals.calls and _is_quiet(report):
        return []
    unpriced = f", {totals.unpriced_calls} without a price" if totals.unpriced_calls else ""
    text = (
        f"llmcost: {_at_least(report)}{format_usd(totals.usd)} for {_count(totals.calls, 'call')}"
        f"{unpriced}, live spend {format_usd(totals.live_usd)}"
    )
    return [clean(line, _LONGEST) for line in (text, *map(_say, marks_of_run(report)))]


def _is_quiet(report: Report) -> bool:
    """Whether nothing but the calls themselves would be worth a line."""
    kept = all(verdict.state == "within" for verdict in report.verdicts)
    return kept and report.comparison is None and not report.notes


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
    painted += [Line(text, _paint(row, view)) for row, text in zip(shown, lines[1:], strict=True)]
    hidden = rows[len(shown) :]
    if hidden:
        usd = sum((row.usd for row in hidden), Decimal(0))
        more = f"... {len(hidden)} more, {format_usd(usd * view.per)} (--llmcost-rows=0 shows all)"
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
    near = " !" if _is_near(row, view) else ""
    return limit, f"{shown:>4} {_bar(used, verdict.limit, view)}{near}"


def _is_near(row: Row, view: View) -> bool:
    """Whether a ceiling holds, but is reached to the share from which one wants a warning."""
    verdict = row.verdict
    if verdict is None or verdict.state != "within" or view.warn_at is None:
        return False
    return bool(verdict.low) and verdict.low >= view.warn_at * verdict.limit


def _bar(used: Decimal, limit: Decimal, view: View) -> str:
    share = min(used / limit, Decimal(1)) if limit else Decimal(bool(used))
    full = ceil(share * _BAR_CELLS)
    solid, empty = ("█", "░") if view.unicode else ("#", ".")
    return solid * full + empty * (_BAR_CELLS - full)


def _paint(row: Row, view: View) -> dict[str, bool]:
    verdict = row.verdict
    if verdict is None:
        return {"yellow": True} if row.unpriced else {}
    if verdict.state == "within":
        return {"yellow": True} if _is_near(row, view) else {}
    return {_STATE_COLOURS[verdict.state]: True}


def _models(report: Report, view: View) -> list[Line]:
    ranked = sorted(report.totals.by_model.items(), key=lambda each: (-each[1].usd, each[0]))
    unpriced = unpriced_models(report)
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


def _totals(report: Report, view: View) -> list[Line]:
    totals = report.totals
    per = f" per {view.per:,}" if view.per != 1 else ""
    text = (
        f"total {_at_least(report)}{format_usd(totals.usd * view.per)}{per} at list price, "
        f"{_count(totals.calls, 'call')}; live spend {format_usd(totals.live_usd)}"
    )
    lines = [Line(text, {"bold": True})]
    if totals.unpriced_calls:
        text = (
            f"{_count(totals.unpriced_calls, 'call')} without a price: the total is a lower bound"
        )
        lines.append(Line(text, {"yellow": True}))
    basis = "" if report.cache_basis == "as-billed" else f", cache priced {report.cache_basis}"
    version = report.rate_card.version
    lines.append(Line(f"prices of {report.price_date}, rate card {version}{basis}"))
    return lines


def _at_least(report: Report) -> str:
    return "at least " if any(call.usd_high is None for call in calls_of(report)) else ""


def _verdicts(report: Report) -> Iterator[Line]:
    if report.comparison is not None:
        yield from render_trend(report.comparison)
    for mark in marks_of_run(report):
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


def _notes(report: Report, rows: Sequence[Row]) -> Iterator[Line]:
    if any(row.input_only for row in rows):
        yield Line("input only: no output is priced there; pass output_tokens= to count(...)")
    if report.incomplete:
        why = ", ".join(report.incomplete)
        yield Line(f"not the whole suite ({why}): totals and ceilings are of what ran")
    yield from (Line(note, {"yellow": True}) for note in report.notes)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"

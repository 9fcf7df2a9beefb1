"""Markdown: a run as a pull-request comment or job summary; verdict first, details folded.

Data flow: Report -> `render_markdown` -> text that fits in as many bytes as asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from pytest_llmcost.budgeting.budget import State, Verdict
from pytest_llmcost.budgeting.report import FixtureRow, Report, fixture_name, unpriced_models
from pytest_llmcost.budgeting.totals import dearest, shared_fixtures, sum_usd
from pytest_llmcost.metering.call import Call
from pytest_llmcost.pricing.money import format_share, format_usd
from pytest_llmcost.pricing.usage import Usage
from pytest_llmcost.reporting.changes import (
    render_changes,
    render_row,
    render_table,
)
from pytest_llmcost.reporting.escape import code, prose
from pytest_llmcost.reporting.failure import format_limit, render_headline
from pytest_llmcost.reporting.marks import Mark, marks_of
from pytest_llmcost.reporting.whatif import render_section

MARKER = "<!-- pytest-llmcost -->"
"""The first line, by which a workflow finds the comment that it is to update."""

COMMENT_BYTES = 65_000
"""A comment on GitHub may have 65,536 characters."""

_SIGNS: dict[State, str] = {"exceeded": "❌", "unverified": "⚠️", "within": "✅"}
_NEAR = "⚠️"
_RANK: tuple[State, ...] = ("exceeded", "unverified", "within")
_FIXED_BYTES = 4_000
"""What heading, totals and the heads of tables take at most."""
_MOST_REASONS = 3
_SAYING_SO = 100
"""What the line takes that says how much was left out."""


def render_markdown(report: Report, *, most_bytes: int = COMMENT_BYTES) -> str:
    """Render a run in at most so many bytes; what does not fit is left out, and that is said.

    Empty when there is not even room for the verdict.
    """
    room = most_bytes - _FIXED_BYTES
    if room < _FIXED_BYTES:
        return ""
    verdicts, room = _fit(list(_verdict_lines(report)), room // 2, room)
    notes, room = _fit(list(_footer(report)), room // 4, room)
    changes, room = _fit(_changes(report), room // 2, room)
    what_if, room = _fit(_what_if(report), room // 2, room)
    models, room = _fit(list(_models(report)), room // 4, room)
    rows, room = _fit(list(_rows(report)), room, room)
    lines = [MARKER, _heading(report), "", _totals(report)]
    lines += [*_section(verdicts), *_section(changes), *_section(what_if)]
    lines += _folded(f"What each test costs ({len(report.tests):,})", _HEADS, rows)
    lines += _folded("By model", _MODEL_HEADS, models)
    return "\n".join([*lines, *_section(notes)]) + "\n"


def _fit(lines: Sequence[str], most: int, room: int) -> tuple[list[str], int]:
    """Keep the lines that fit into `most` bytes; return them and the room that is then left."""
    used, kept = 0, []
    for place, line in enumerate(lines):
        size = len(line.encode()) + 1
        if used + size > most - _SAYING_SO:
            start = "| " if line.startswith("|") else "- "
            kept.append(f"{start}… {len(lines) - place:,} more left out; the JSON report has all")
            return kept, room - used - _SAYING_SO
        used += size
        kept.append(line)
    return kept, room - used


def _heading(report: Report) -> str:
    states = [mark.verdict.state for mark in marks_of(report)]
    counts = {state: states.count(state) for state in _RANK}
    if not states:
        return "### What the prompts cost"
    if not counts["exceeded"] and not counts["unverified"]:
        return (
            f"### {_SIGNS['within']} What the prompts cost: within {_count(len(states), 'ceiling')}"
        )
    said = [f"{_count(counts[state], 'ceiling')} {state}" for state in _RANK[:2] if counts[state]]
    worst = next(state for state in _RANK if counts[state])
    return f"### {_SIGNS[worst]} What the prompts cost: {', '.join(said)}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _totals(report: Report) -> str:
    totals = report.totals
    least = "at least " if totals.unpriced_calls else ""
    text = (
        f"{least}**{format_usd(totals.usd)}** at list price for {_count(totals.calls, 'call')}; "
        f"live spend of this run {format_usd(totals.live_usd)}"
    )
    if totals.unpriced_calls:
        text += f"; {_count(totals.unpriced_calls, 'call')} without a price"
    if report.incomplete:
        text += f". A partial run: {prose(', '.join(report.incomplete), most=80)}"
    return text + "."


def _changes(report: Report) -> list[str]:
    return list(render_changes(report.comparison)) if report.comparison else []


def _what_if(report: Report) -> list[str]:
    sections = [[*render_section(switch), ""] for switch in report.what_if]
    return [line for section in sections for line in section][:-1]


def _verdict_lines(report: Report) -> Iterator[str]:
    """Yield the broken ceilings, then those nearly reached, then those on the run that hold."""
    marks = list(marks_of(report))
    for state in _RANK[:2]:
        yield from (line for mark in marks if mark.verdict.state == state for line in _say(mark))
    yield from (line for mark in marks if mark.verdict.is_near for line in _say(mark))
    for mark in marks:
        if mark.verdict.state == "within" and not mark.verdict.is_near and mark.words in _OF_RUN:
            yield from _say(mark)


_OF_RUN = ("suite", "place", "increase")


def _say(mark: Mark) -> Iterator[str]:
    verdict = mark.verdict
    sign = "⚠️ nearly reached," if verdict.is_near else _SIGNS[verdict.state]
    line = f"- {sign} {_about(mark)}: {prose(render_headline(verdict))}"
    yield f"{line} ({prose(verdict.origin)})" if verdict.origin else line
    if verdict.state == "unverified":
        yield from (f"  - {prose(reason)}" for reason in verdict.reasons[:_MOST_REASONS])


def _about(mark: Mark) -> str:
    return " ".join(filter(None, (mark.words, code(mark.name) if mark.name else "")))


def _section(lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield from ("", *lines)


_HEADS = ("test", "calls:", "input:", "cached:", "output:", "USD:", "ceiling:", "used:", "")


def _rows(report: Report) -> Iterator[str]:
    """Yield a row for each attempt, fixture and the rest, dearest first."""
    rows: list[tuple[Decimal, str, Sequence[Call], Verdict | None]] = []
    for test in report.tests:
        again = f" attempt {test.attempt}" if test.attempt > 1 else ""
        rows.append((test.usd, code(test.nodeid) + again, test.calls, test.verdict))
    for group in shared_fixtures(report.fixtures):
        row = dearest(group)
        rows.append((row.usd, _fixture_cell(row, len(group)), row.calls, None))
    outside = report.outside_tests
    if outside:
        rows.append((sum_usd(outside), "outside tests", outside, None))
    for usd, name, calls, verdict in sorted(rows, key=lambda row: (-row[0], row[1])):
        yield render_row(name, *_usage_cells(calls), *_money_cells(usd, calls, verdict))


def _fixture_cell(fixture: FixtureRow, set_ups: int) -> str:
    name = code(fixture_name(fixture))
    return f"{name} set up {set_ups} times, counted once" if set_ups > 1 else name


def _usage_cells(calls: Sequence[Call]) -> tuple[str, ...]:
    usage = sum((call.billed_usage for call in calls), Usage())
    return f"{len(calls):,}", *_token_cells(usage)


def _token_cells(usage: Usage) -> tuple[str, str, str]:
    return f"{usage.prompt_tokens:,}", f"{usage.cached_tokens:,}", f"{usage.output_tokens:,}"


def _money_cells(
    usd: Decimal, calls: Sequence[Call], verdict: Verdict | None
) -> tuple[str, str, str, str]:
    against = verdict.limit if verdict and verdict.kind == "usd" else None
    unknown = " + ?" if any(call.usd is None for call in calls) else ""
    price = format_usd(usd, against=against) + unknown
    if verdict is None:
        return price, "", "", ""
    sign = _NEAR if verdict.is_near else _SIGNS[verdict.state]
    return price, format_limit(verdict), _used(verdict), sign


def _used(verdict: Verdict) -> str:
    """The share of the ceiling that decided; nothing where nothing is decided."""
    if verdict.state == "unverified":
        return ""
    used = verdict.high if verdict.state == "within" else verdict.low
    return format_share(used or Decimal(0), verdict.limit)


_MODEL_HEADS = ("model", "calls:", "input:", "cached:", "output:", "USD:")


def _models(report: Report) -> Iterator[str]:
    ranked = sorted(report.totals.by_model.items(), key=lambda each: (-each[1].usd, each[0]))
    unpriced = unpriced_models(report)
    for name, total in ranked[:50]:
        price = format_usd(total.usd) + " + ?" if total.usd else "?"
        if name not in unpriced:
            price = format_usd(total.usd)
        cells = _token_cells(total.usage)
        yield render_row(code(name), f"{total.calls:,}", *cells, price)


def _folded(title: str, heads: Sequence[str], rows: Sequence[str]) -> Iterator[str]:
    if rows:
        yield from ("", f"<details><summary>{title}</summary>", "", *render_table(heads, rows))
        yield from ("", "</details>")


def _footer(report: Report) -> Iterator[str]:
    basis = "" if report.cache_basis == "as-billed" else f", cache priced {report.cache_basis}"
    yield (
        f"<sub>Prices of {prose(report.price_date, most=20)}, rate card "
        f"{prose(report.rate_card.version, most=80)}{prose(basis, most=40)}.</sub>"
    )
    if report.notes:
        yield ""
        yield from (f"- {prose(note)}" for note in report.notes)

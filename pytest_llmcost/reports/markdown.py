"""Markdown: a run as a pull-request comment or job summary; verdict first, details folded.

Data flow: Report -> `render_markdown` -> text that fits in as many bytes as asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import State, Verdict
from pytest_llmcost.call import Call
from pytest_llmcost.ledger.ledger import FixtureRow, Ledger, fixture_name, unpriced_models
from pytest_llmcost.ledger.totals import most_expensive, shared_fixtures
from pytest_llmcost.money import format_share, format_usd
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reports.comparisons import (
    render_changes,
    render_row,
    render_section,
    render_table,
)
from pytest_llmcost.reports.escape import code, prose
from pytest_llmcost.reports.wording import Mark, format_limit, marks_of, render_headline

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


def render_markdown(ledger: Ledger, *, most_bytes: int = COMMENT_BYTES) -> str:
    """Render a run in at most so many bytes; what does not fit is left out, and that is said.

    Empty when there is not even room for the verdict.
    """
    room = most_bytes - _FIXED_BYTES
    if room < _FIXED_BYTES:
        return ""
    verdicts, room = _fit(list(_verdict_lines(ledger)), room // 2, room)
    notes, room = _fit(list(_footer(ledger)), room // 4, room)
    changes, room = _fit(_changes(ledger), room // 2, room)
    other_models, room = _fit(_other_models(ledger), room // 2, room)
    models, room = _fit(list(_models(ledger)), room // 4, room)
    rows, room = _fit(list(_rows(ledger)), room, room)
    lines = [MARKER, _heading(ledger), "", _totals(ledger)]
    lines += [*_section(verdicts), *_section(changes), *_section(other_models)]
    lines += _folded(f"What each test costs ({len(ledger.tests):,})", _HEADS, rows)
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


def _heading(ledger: Ledger) -> str:
    states = [mark.verdict.state for mark in marks_of(ledger)]
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


def _totals(ledger: Ledger) -> str:
    totals = ledger.totals
    least = "at least " if totals.unpriced_calls and totals.usd is not None else ""
    text = (
        f"{least}**{format_usd(totals.usd)}** at list price for {_count(totals.calls, 'call')}; "
        f"live spend of this run {format_usd(totals.live_usd)}"
    )
    if totals.unpriced_calls:
        text += f"; {_count(totals.unpriced_calls, 'call')} without a price"
    if ledger.incomplete:
        text += f". A partial run: {prose(', '.join(ledger.incomplete), most=80)}"
    return text + "."


def _changes(ledger: Ledger) -> list[str]:
    return list(render_changes(ledger.comparison)) if ledger.comparison else []


def _other_models(ledger: Ledger) -> list[str]:
    sections = [[*render_section(other), ""] for other in ledger.other_models]
    return [line for section in sections for line in section][:-1]


def _verdict_lines(ledger: Ledger) -> Iterator[str]:
    """Yield the broken ceilings, then those nearly reached, then those on the run that hold."""
    marks = list(marks_of(ledger))
    for state in _RANK[:2]:
        yield from (line for mark in marks if mark.verdict.state == state for line in _say(mark))
    yield from (line for mark in marks if mark.verdict.is_near for line in _say(mark))
    for mark in marks:
        if mark.verdict.state == "within" and not mark.verdict.is_near and mark.words in _OF_RUN:
            yield from _say(mark)


_OF_RUN = ("suite", "path", "increase")


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


def _rows(ledger: Ledger) -> Iterator[str]:
    """Yield a row for each attempt, fixture and the rest, dearest first."""
    rows: list[tuple[Decimal | None, str, Sequence[Call], Verdict | None]] = []
    for test in ledger.tests:
        again = f" attempt {test.attempt}" if test.attempt > 1 else ""
        rows.append((test.usd, code(test.nodeid) + again, test.calls, test.verdict))
    for group in shared_fixtures(ledger.fixtures):
        row = most_expensive(group)
        rows.append((row.usd, _fixture_cell(row, len(group)), row.calls, None))
    outside = ledger.outside_tests
    if outside:
        rows.append((Amounts.of(outside).usd, "outside tests", outside, None))
    for usd, name, calls, verdict in sorted(rows, key=lambda row: (-(row[0] or 0), row[1])):
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
    usd: Decimal | None, calls: Sequence[Call], verdict: Verdict | None
) -> tuple[str, str, str, str]:
    against = verdict.limit if verdict and verdict.kind == "usd" else None
    unknown = " + ?" if usd is not None and any(call.usd is None for call in calls) else ""
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


def _models(ledger: Ledger) -> Iterator[str]:
    ranked = sorted(ledger.totals.by_model.items(), key=lambda each: (-(each[1].usd or 0), each[0]))
    unpriced = unpriced_models(ledger)
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


def _footer(ledger: Ledger) -> Iterator[str]:
    cache_state = (
        "" if ledger.cache_state == "as-billed" else f", cache priced {ledger.cache_state}"
    )
    yield (
        f"<sub>Prices of {prose(ledger.price_date, most=20)}, rate card "
        f"{prose(ledger.rate_card.version, most=80)}{prose(cache_state, most=40)}.</sub>"
    )
    if ledger.notes:
        yield ""
        yield from (f"- {prose(note)}" for note in ledger.notes)

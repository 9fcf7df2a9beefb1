"""A run as a pull-request comment or job summary: the verdict first, details folded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_llmcost.ledger.ledger import Ledger, unpriced_models
from pytest_llmcost.reports.comparisons import change_of, comparison_section, other_model_section
from pytest_llmcost.reports.escape import code, prose
from pytest_llmcost.reports.rows import OUTSIDE, Row, rows_of, token_cells
from pytest_llmcost.reports.tables import format_count, markdown_row, markdown_table
from pytest_llmcost.reports.wording import (
    Mark,
    describe_total,
    dollars,
    grown_by,
    is_least,
    limit_of,
    marks_of,
    not_counted,
    sentence,
)

MARKER = "<!-- pytest-llmcost -->"
"""The first line, by which a workflow finds the comment that it is to update."""

COMMENT_BYTES = 65_000
"""A comment on GitHub may have 65,536 characters."""

_SIGNS = {"exceeded": "❌", "unverified": "❓", "near": "⚠️", "within": "✅"}
_STATES = {"over": "exceeded", "unknown": "unverified", "near": "near"}
_FIXED_BYTES = 4_000
"""What heading, totals and the heads of tables take at most."""
_MOST_REASONS = 3
_SAYING_SO = 100
"""What the line takes that says how much was left out."""


def render_markdown(ledger: Ledger, *, most_bytes: int = COMMENT_BYTES) -> str:
    """Render a run in at most so many bytes; a line says how much was left out for that.

    Empty when there is not even room for the verdict.
    """
    room = most_bytes - _FIXED_BYTES
    if room < _FIXED_BYTES:
        return ""
    all_rows = rows_of(ledger)
    changes = list(comparison_section(ledger.comparison)) if ledger.comparison else []
    others = [line for other in ledger.other_models for line in [*other_model_section(other), ""]]
    verdicts, room = _fit(list(_verdicts(ledger)), room // 2, room)
    notes, room = _fit([f"- {prose(note)}" for note in ledger.notes], room // 4, room)
    changes, room = _fit(changes, room // 2, room)
    others, room = _fit(others[:-1], room // 2, room)
    models, room = _fit(list(_models(ledger)), room // 4, room)
    rows, room = _fit(list(map(_row, all_rows)), room, room)
    lines = [MARKER, _heading(ledger), "", _totals(ledger)]
    for section in (verdicts, changes, others):
        lines += ["", *section] if section else []
    lines += _folded(f"What each test costs ({len(all_rows):,})", _HEADS, rows)
    lines += _folded("By model", _MODEL_HEADS, models)
    prices = f"Prices of {prose(ledger.price_date, most=20)}"
    if ledger.cache_state != "as-billed":
        prices += f", cache priced {prose(ledger.cache_state, most=40)}"
    lines += ["", f"<sub>{prices}.</sub>"]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def _fit(lines: Sequence[str], most: int, room: int) -> tuple[list[str], int]:
    """Keep the lines that fit into `most` bytes; return them and the room that is then left."""
    used, kept = 0, []
    for number, line in enumerate(lines):
        size = len(line.encode()) + 1
        if used + size > most - _SAYING_SO:
            start = "| " if line.startswith("|") else "- "
            kept.append(f"{start}… {len(lines) - number:,} more left out; the JSON report has all")
            return kept, room - used - _SAYING_SO
        used += size
        kept.append(line)
    return kept, room - used


def _heading(ledger: Ledger) -> str:
    """Say what merging changes, if there is a baseline, and how many budgets are broken."""
    states = [mark.verdict.state for mark in marks_of(ledger)]
    exceeded, unverified = states.count("exceeded"), states.count("unverified")
    parts = [f"{format_count(exceeded, 'budget')} exceeded"] if exceeded else []
    parts += [f"{format_count(unverified, 'budget')} could not be checked"] if unverified else []
    if states and not parts:
        parts = [
            f"within {'its' if len(states) == 1 else 'all'} {format_count(len(states), 'budget')}"
        ]
    worst = "exceeded" if exceeded else "unverified" if unverified else "within"
    sign = f"{_SIGNS[worst]} " if states else ""
    return f"### {sign}{' · '.join([_headline(ledger), *parts])}"


def _headline(ledger: Ledger) -> str:
    comparison = ledger.comparison
    if comparison is None:
        known = ledger.totals.usd is not None
        return f"The prompts cost {describe_total(ledger) if known else 'an unknown amount'}"
    change = change_of(comparison)
    what = "the tests that ran" if comparison.partial else "the suite"
    if not change:
        how = "adds an unknown amount to" if change is None else "does not change the cost of"
        return f"Merging {how} {what}"
    amount = f"{dollars(abs(change))}{grown_by(comparison.base_usd, comparison.head_usd)}"
    return f"Merging adds {amount} to {what}" if change > 0 else f"Merging saves {amount} in {what}"


def _totals(ledger: Ledger) -> str:
    totals = ledger.totals
    text = f"**{describe_total(ledger)}** at list price for {format_count(totals.calls, 'call')}"
    if totals.unpriced_calls:
        text += f", {totals.unpriced_calls:,} of them of unknown cost"
    text += f"; {dollars(totals.live_usd)} spent live in this run"
    if ledger.incomplete:
        text += f". A partial run: {prose(', '.join(ledger.incomplete), most=80)}"
    return text + "."


def _verdicts(ledger: Ledger) -> Iterator[str]:
    """Yield the broken budgets, then those nearly reached, then those on the run that are kept."""
    marks = list(marks_of(ledger))
    cause = not_counted(ledger)

    def say(mark: Mark, sign: str) -> str:
        name = f"{code(mark.name)}: " if mark.name else ""
        return f"- {_SIGNS[sign]} {name}{prose(sentence(mark.verdict))}"

    yield from (say(mark, "exceeded") for mark in marks if mark.verdict.state == "exceeded")
    if cause:
        first, *rest = map(prose, cause.lines())
        yield f"- {_SIGNS['unverified']} {first}"
        yield from (f"  - {text}" for text in rest)
    for mark in marks:
        if mark.verdict.state == "unverified" and not (cause and mark.name in cause.nodeids):
            yield say(mark, "unverified")
            yield from (f"  - {prose(each)}" for each in mark.verdict.reasons[:_MOST_REASONS])
    yield from (say(mark, "near") for mark in marks if mark.verdict.is_near)
    for mark in marks:
        is_kept = mark.verdict.state == "within" and not mark.verdict.is_near
        if is_kept and mark.is_of_run and not mark.name:
            yield say(mark, "within")


_TOKEN_HEADS = ("calls:", "input:", "cache written:", "cache read:", "output:", "cost:")
_HEADS = ("test", *_TOKEN_HEADS, "budget:", "used:")
_MODEL_HEADS = ("model", *_TOKEN_HEADS)


def _row(row: Row) -> str:
    verdict, spent = row.verdict, row.spent
    against = verdict.limit if verdict and verdict.kind == "usd" else None
    sign = f"{_SIGNS[_STATES[row.mark]]} " if row.mark else ""
    name = code(row.name if row.group in (OUTSIDE, row.name) else f"{row.group}::{row.name}")
    return markdown_row(
        f"{sign}{name}",
        f"{spent.calls:,}",
        *token_cells(spent.usage, is_least=spent["input_tokens"].best is None),
        dollars(row.usd, is_least=is_least(spent), against=against),
        limit_of(verdict) if verdict else "",
        row.used,
    )


def _models(ledger: Ledger) -> Iterator[str]:
    models, unpriced = ledger.totals.by_model, unpriced_models(ledger)
    for name in sorted(models, key=lambda each: (-(models[each].usd or 0), each))[:50]:
        total, is_partial = models[name], name in unpriced
        tokens = token_cells(total.usage, is_least=is_partial)
        usd = dollars(total.usd, is_least=is_partial)
        yield markdown_row(code(name), f"{total.calls:,}", *tokens, usd)


def _folded(title: str, heads: Sequence[str], rows: Sequence[str]) -> Iterator[str]:
    if rows:
        yield from ("", f"<details><summary>{title}</summary>", "", *markdown_table(heads, rows))
        yield from ("", "</details>")

"""A Reconciliation for people and for programs: text, Markdown, JSON. Pure.

Data flow: Reconciliation -> `render` -> the command's output.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal

from pytest_llmcost.ledger.ledger_file import to_json
from pytest_llmcost.money import format_usd, plain_usd
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reconcile.matching import Apart, CostLine, Reconciliation, UsageLine
from pytest_llmcost.reports.comparisons import format_signed, render_row, render_table
from pytest_llmcost.reports.escape import prose
from pytest_llmcost.reports.tables import format_count
from pytest_llmcost.reports.tables import render_table as render_text_table

_USAGE_HEADS = ("model", "category", "ledger:", "reported:", "difference:")
_COST_HEADS = ("cost", "ledger:", "reported:", "difference:")
"""A colon marks a column of numbers."""


def render(outcome: Reconciliation, form: str) -> str:
    """Write it as `text`, `md` or `json`."""
    renderers: dict[str, Callable[[Reconciliation], str]] = {
        "text": _render_text,
        "md": _render_markdown,
        "json": _render_json,
    }
    return renderers[form](outcome)


def _render_json(outcome: Reconciliation) -> str:
    return json.dumps(to_json(outcome), indent=2)


def _render_text(outcome: Reconciliation) -> str:
    parts = [f"{outcome.state}: {_headline(outcome)}\n{_asked(outcome)}"]
    parts += [
        render_text_table([head.rstrip(":") for head in heads], rows, names=names)
        for heads, rows, names in _tables(outcome)
    ]
    parts += [f"{title}:\n{_bullets(lines, '  - ')}" for title, lines in _lists(outcome)]
    return "\n\n".join(parts)


def _render_markdown(outcome: Reconciliation) -> str:
    mark = "✅" if outcome.state == "agrees" else "❌"
    parts = [
        f"### {mark} The bill {outcome.state}",
        f"{_headline(outcome)}.",
        prose(_asked(outcome)),
    ]
    for heads, rows, names in _tables(outcome):
        cells = [render_row(*map(prose, row[:names]), *row[names:]) for row in rows]
        parts.append("\n".join(render_table(heads, cells)))
    for title, lines in _lists(outcome):
        parts += [f"**{title}**", _bullets([prose(line) for line in lines], "- ")]
    return "\n\n".join(parts)


def _tables(outcome: Reconciliation) -> Iterator[tuple[Sequence[str], list[list[str]], int]]:
    """Heads, rows, and how many of their columns are names."""
    yield _USAGE_HEADS, [_usage_row(line) for line in outcome.usage], 2
    if outcome.cost:
        yield _COST_HEADS, [_cost_row(line) for line in outcome.cost], 1


def _headline(outcome: Reconciliation) -> str:
    priced = f"{format_usd(outcome.live_usd)} at list price on their own dates"
    if outcome.unpriced_calls:
        priced = f"at least {priced} ({outcome.unpriced_calls:,} without a price)"
    calls = format_count(outcome.live_calls, "live call")
    return f"{calls} of {format_count(outcome.ledgers, 'ledger')}, {priced}"


def _asked(outcome: Reconciliation) -> str:
    terms = outcome.terms
    spans = ", ".join(
        f"{each.starting_at:%Y-%m-%d %H:%M} to {each.ending_at:%Y-%m-%d %H:%M}"
        for each in terms.windows
    )
    keys = ", ".join(terms.filters.api_key_ids) or "all API keys"
    workspaces = ", ".join(terms.filters.workspace_ids) or "all workspaces"
    tolerance = f"tolerance {plain_usd(terms.tolerance * 100)}%"
    return f"{spans} UTC in buckets of {terms.bucket_width}; {keys}; {workspaces}; {tolerance}"


def _usage_row(line: UsageLine) -> list[str]:
    difference = line.reported - line.ledger
    shown = f"{difference:+,}" if difference else "0"
    return [
        line.model,
        line.category,
        f"{line.ledger:,}",
        f"{line.reported:,}",
        shown if line.agrees else f"{shown} !",
    ]


def _cost_row(line: CostLine) -> list[str]:
    if line.ledger_usd is None:
        return [line.item, "-", format_usd(line.reported_usd), "-"]
    shown = format_signed(line.reported_usd - line.ledger_usd)
    ledger, reported = _told_apart(line.ledger_usd, line.reported_usd)
    return [
        line.item,
        ledger,
        reported,
        f"{shown} !" if line.decides and not line.agrees else shown,
    ]


def _told_apart(one: Decimal, other: Decimal) -> tuple[str, str]:
    """Write two amounts so that different ones never look equal."""
    if one == other:
        return format_usd(one), format_usd(other)
    return format_usd(one, against=other), format_usd(other, against=one)


def _lists(outcome: Reconciliation) -> Iterator[tuple[str, list[str]]]:
    if outcome.not_comparable:
        yield "not comparable", [_apart(each) for each in outcome.not_comparable]
    if outcome.likely_reasons:
        yield "likely reasons", [*outcome.likely_reasons]
    if outcome.notes:
        yield "notes", [*outcome.notes]


def _apart(apart: Apart) -> str:
    return f"{apart.source}: {_size(apart)}, {apart.what}"


def _size(apart: Apart) -> str:
    if apart.calls is not None:
        return format_count(apart.calls, "live call")
    if apart.usd is not None:
        return format_usd(apart.usd)
    usage = apart.usage or Usage()
    return f"{usage.prompt_tokens:,} prompt and {usage.output_tokens:,} output tokens"


def _bullets(lines: list[str], mark: str) -> str:
    return "\n".join(f"{mark}{line}" for line in lines)

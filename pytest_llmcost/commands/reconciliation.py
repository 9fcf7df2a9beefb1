"""A Reconciliation for people and for programs: text, Markdown, JSON. Pure.

Data flow: Reconciliation -> `render` -> the command's output.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal

from pytest_llmcost.budgeting.ledger_file import to_json
from pytest_llmcost.commands.table import (
    escape_cell,
    format_count,
    render_markdown_table,
    render_table,
)
from pytest_llmcost.pricing.money import format_usd, plain_usd
from pytest_llmcost.pricing.usage import Usage
from pytest_llmcost.reconcile.comparison import Apart, CostLine, Reconciliation, UsageLine

_USAGE_HEADS = ("model", "category", "ledger", "reported", "difference")
_COST_HEADS = ("cost", "ledger", "reported", "difference")


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
    parts = [
        f"{outcome.state}: {_headline(outcome)}\n{_asked(outcome)}",
        render_table(_USAGE_HEADS, [_usage_row(line) for line in outcome.usage], names=2),
    ]
    if outcome.cost:
        rows = [_cost_row(line) for line in outcome.cost]
        parts.append(render_table(_COST_HEADS, rows))
    parts += [f"{title}:\n{_bullets(lines, '  - ')}" for title, lines in _lists(outcome)]
    return "\n\n".join(parts)


def _render_markdown(outcome: Reconciliation) -> str:
    mark = "✅" if outcome.state == "agrees" else "❌"
    usage = [_usage_row(line) for line in outcome.usage]
    parts = [
        f"### {mark} The bill {outcome.state}",
        f"{_headline(outcome)}.",
        escape_cell(_asked(outcome)),
        render_markdown_table(_USAGE_HEADS, usage, names=2),
    ]
    if outcome.cost:
        parts.append(render_markdown_table(_COST_HEADS, [_cost_row(line) for line in outcome.cost]))
    for title, lines in _lists(outcome):
        parts += [f"**{title}**", _bullets([escape_cell(line) for line in lines], "- ")]
    return "\n\n".join(parts)


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
    difference = line.reported_usd - line.ledger_usd
    sign = "-" if difference < 0 else "+" if difference else ""
    shown = f"{sign}{format_usd(abs(difference))}"
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

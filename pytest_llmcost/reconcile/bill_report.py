"""Write a Reconciliation as text, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pytest_llmcost.ledger.ledger_file import to_json
from pytest_llmcost.money import format_usd, plain_usd
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reconcile.matching import Apart, CostLine, Reconciliation, UsageLine
from pytest_llmcost.reports.escape import prose
from pytest_llmcost.reports.tables import (
    TableRow,
    as_text,
    format_count,
    markdown_row,
    markdown_table,
    text_table,
)
from pytest_llmcost.reports.wording import signed

_USAGE_HEADS: tuple[str, ...] = ("model", "category", "ledger:", "reported:", "difference:")
_COST_HEADS: tuple[str, ...] = ("cost", "ledger:", "reported:", "difference:")
"""A colon marks a column of numbers."""


def render(outcome: Reconciliation, form: str) -> str:
    """Write it as `text`, `md` or `json`."""
    if form == "json":
        return json.dumps(to_json(outcome), indent=2)
    tables = [(_USAGE_HEADS, [_usage_row(line) for line in outcome.usage])]
    if outcome.cost:
        tables.append((_COST_HEADS, [_cost_row(line) for line in outcome.cost]))
    if form == "text":
        parts = [f"{outcome.state}: {_headline(outcome)}\n{_query(outcome)}"]
        parts += [as_text(text_table(heads, [*map(TableRow, rows)])) for heads, rows in tables]
        parts += ["\n  - ".join([f"{title}:", *lines]) for title, lines in _lists(outcome)]
    else:
        mark = "✅" if outcome.state == "agrees" else "❌"
        parts = [f"### {mark} The bill {outcome.state}", f"{_headline(outcome)}."]
        parts.append(prose(_query(outcome)))
        for heads, rows in tables:
            # Numbers are ours; names are not, and could be markup.
            cells = [
                markdown_row(
                    *(
                        cell if head.endswith(":") else prose(cell)
                        for head, cell in zip(heads, row, strict=True)
                    )
                )
                for row in rows
            ]
            parts.append("\n".join(markdown_table(heads, cells)))
        for title, lines in _lists(outcome):
            parts += [f"**{title}**", "\n".join(f"- {prose(line)}" for line in lines)]
    return "\n\n".join(parts)


def _headline(outcome: Reconciliation) -> str:
    priced = f"{format_usd(outcome.live_usd)} at the list prices of their dates"
    if outcome.unpriced_calls:
        priced = f"at least {priced} ({outcome.unpriced_calls:,} without a price)"
    calls = format_count(outcome.live_calls, "live call")
    return f"{calls} in {format_count(outcome.ledgers, 'ledger')}, {priced}"


def _query(outcome: Reconciliation) -> str:
    query = outcome.terms
    spans = ", ".join(
        f"{each.starting_at:%Y-%m-%d %H:%M} to {each.ending_at:%Y-%m-%d %H:%M}"
        for each in query.windows
    )
    keys = ", ".join(query.filters.api_key_ids) or "all API keys"
    workspaces = ", ".join(query.filters.workspace_ids) or "all workspaces"
    tolerance = f"tolerance {plain_usd(query.tolerance * 100)}%"
    return f"{spans} UTC in buckets of {query.bucket_width}; {keys}; {workspaces}; {tolerance}"


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
    ledger, reported = format_usd(line.ledger_usd), format_usd(line.reported_usd)
    if line.ledger_usd != line.reported_usd:
        # Different amounts get as many digits as it takes to see that they differ.
        ledger = format_usd(line.ledger_usd, against=line.reported_usd)
        reported = format_usd(line.reported_usd, against=line.ledger_usd)
    shown = signed(line.reported_usd - line.ledger_usd)
    return [
        line.item,
        ledger,
        reported,
        f"{shown} !" if line.decides and not line.agrees else shown,
    ]


def _lists(outcome: Reconciliation) -> Iterator[tuple[str, list[str]]]:
    if outcome.not_comparable:
        apart = [f"{each.source}: {_size(each)}, {each.what}" for each in outcome.not_comparable]
        yield "not comparable", apart
    if outcome.likely_reasons:
        yield "likely reasons", [*outcome.likely_reasons]
    if outcome.notes:
        yield "notes", [*outcome.notes]


def _size(apart: Apart) -> str:
    if apart.calls is not None:
        return format_count(apart.calls, "live call")
    if apart.usd is not None:
        return format_usd(apart.usd)
    usage = apart.usage or Usage()
    return f"{usage.prompt_tokens:,} prompt and {usage.output_tokens:,} output tokens"

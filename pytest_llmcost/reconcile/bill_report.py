"""Write a Reconciliation as text, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from pytest_llmcost.ledger.ledger_file import to_json
from pytest_llmcost.money import format_usd, plain_usd
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reconcile.matching import CostLine, Reconciliation, UsageLine
from pytest_llmcost.reports.escape import clean, prose
from pytest_llmcost.reports.numbers import format_count, signed
from pytest_llmcost.reports.tables import (
    TableRow,
    as_text,
    markdown_row,
    markdown_table,
    text_table,
)

_USAGE_HEADS: tuple[str, ...] = ("model", "category", "ledger:", "reported:", "difference:")
_COST_HEADS: tuple[str, ...] = ("cost", "ledger:", "reported:", "difference:")
"""A colon marks a column of numbers."""


def render(outcome: Reconciliation, form: str) -> str:
    """Write it as `text`, `md` or `json`."""
    if form == "json":
        return json.dumps(to_json(outcome), indent=2)
    priced = f"{format_usd(outcome.live_usd)} at the list prices of their dates"
    if outcome.unpriced_calls:
        priced = f"at least {priced} ({outcome.unpriced_calls:,} without a price)"
    calls = format_count(outcome.live_calls, "live call")
    headline = f"{calls} in {format_count(outcome.ledgers, 'ledger')}, {priced}"
    query = outcome.terms
    spans = ", ".join(
        f"{each.starting_at:%Y-%m-%d %H:%M} to {each.ending_at:%Y-%m-%d %H:%M}"
        for each in query.windows
    )
    keys = ", ".join(query.filters.api_key_ids) or "all API keys"
    workspaces = ", ".join(query.filters.workspace_ids) or "all workspaces"
    tolerance = f"tolerance {plain_usd(query.tolerance * 100)}%"
    asked = f"{spans} UTC in buckets of {query.bucket_width}; {keys}; {workspaces}; {tolerance}"
    tables = [(_USAGE_HEADS, [_usage_row(line) for line in outcome.usage])]
    if outcome.cost:
        tables.append((_COST_HEADS, [_cost_row(line) for line in outcome.cost]))
    if form == "text":
        parts = [f"{outcome.state}: {headline}\n{asked}"]
        parts += [as_text(text_table(heads, [*map(TableRow, rows)])) for heads, rows in tables]
        for title, lines in _lists(outcome):
            parts.append("\n  - ".join([f"{title}:", *(clean(line, 1_000) for line in lines)]))
        return "\n\n".join(parts)
    mark = "✅" if outcome.state == "agrees" else "❌"
    parts = [f"### {mark} The bill {outcome.state}", f"{headline}.", prose(asked)]
    for heads, rows in tables:
        # Numbers are ours; names are not, and could be markup.
        names = len([head for head in heads if not head.endswith(":")])
        cells = [markdown_row(*map(prose, row[:names]), *row[names:]) for row in rows]
        parts.append("\n".join(markdown_table(heads, cells)))
    for title, lines in _lists(outcome):
        parts += [f"**{title}**", "\n".join(f"- {prose(line)}" for line in lines)]
    return "\n\n".join(parts)


def _usage_row(line: UsageLine) -> list[str]:
    difference = line.reported - line.ledger
    shown = f"{difference:+,}" if difference else "0"
    figures = [f"{line.ledger:,}", f"{line.reported:,}", shown if line.agrees else f"{shown} !"]
    return [clean(line.model), line.category, *figures]


def _cost_row(line: CostLine) -> list[str]:
    item, ours, theirs = clean(line.item), line.ledger_usd, line.reported_usd
    if ours is None:
        return [item, "-", format_usd(theirs), "-"]
    difference = signed(theirs - ours) + (" !" if line.decides and not line.agrees else "")
    if ours == theirs:
        return [item, format_usd(ours), format_usd(theirs), difference]
    # Different amounts get as many digits as it takes to see that they differ.
    figures = [format_usd(ours, against=theirs), format_usd(theirs, against=ours)]
    return [item, *figures, difference]


def _lists(outcome: Reconciliation) -> Iterator[tuple[str, Sequence[str]]]:
    apart = []
    for each in outcome.not_comparable:
        usage = each.usage or Usage()
        size = f"{usage.prompt_tokens:,} prompt and {usage.output_tokens:,} output tokens"
        if each.calls is not None:
            size = format_count(each.calls, "live call")
        elif each.usd is not None:
            size = format_usd(each.usd)
        apart.append(f"{each.source}: {size}, {each.what}")
    lists = {
        "not comparable": apart,
        "likely reasons": outcome.likely_reasons,
        "notes": outcome.notes,
    }
    yield from ((title, lines) for title, lines in lists.items() if lines)

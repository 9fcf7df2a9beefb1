"""The summary's lines on a baseline: what the run adds to it, and what grew.

Data flow: Comparison -> `render_trend` -> Lines.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_llmcost.budgeting.comparison import Change, Comparison
from pytest_llmcost.pricing.money import format_usd
from pytest_llmcost.reporting.changes import format_signed
from pytest_llmcost.reporting.line import Line

_MOST_CHANGES = 5
_MOST_PARTS = 6


def render_trend(comparison: Comparison) -> Iterator[Line]:
    """Say what a run adds to its baseline, then name the changes that add most."""
    text = (
        f"against the baseline {format_signed(comparison.change_usd)}: "
        f"{format_usd(comparison.base_usd)} -> {format_usd(comparison.head_usd)}"
    )
    if comparison.price_change_usd:
        text += f"; new prices alone {format_signed(comparison.price_change_usd)}, not in it"
    yield Line(text, {"bold": True})
    for change in comparison.changes[:_MOST_CHANGES]:
        yield Line(f"  {format_signed(change.usd)} {change.name}: {_what_differs(change)}")
    more = len(comparison.changes) - _MOST_CHANGES
    if more > 0:
        yield Line(f"  ... {more} more changes")
    yield from (Line(f"  {note}", {"yellow": True}) for note in comparison.notes)


def _what_differs(change: Change) -> str:
    if change.status != "changed":
        return change.status
    tokens = [
        f"{number:+,} {name.removesuffix('_tokens').replace('_', ' ')}"
        for name, number in change.tokens.items()
    ]
    calls = [f"{change.calls:+,} calls"] if change.calls else []
    parts = list(change.parts[:_MOST_PARTS])
    if len(change.parts) > _MOST_PARTS:
        parts.append(f"{len(change.parts) - _MOST_PARTS} more parts")
    return ", ".join([*tokens, *calls, *parts])

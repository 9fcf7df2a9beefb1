"""Changes: what a run adds to its baseline, as Markdown.

Data flow: Comparison -> a sentence, and a row of a table for each change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from pytest_llmcost.budgeting.comparison import Change, Comparison
from pytest_llmcost.pricing.money import EXACT, format_usd
from pytest_llmcost.reporting.escape import code, prose

_HEADS = ("changed", "before:", "now:", "difference:", "what differs")
_MOST_PARTS = 6


def render_changes(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of a section: what a run adds, the notes, and a row for each change."""
    yield from ("#### Against the baseline", "", render_difference(comparison))
    if comparison.notes:
        yield from ("", *(f"- {prose(note)}" for note in comparison.notes))
    if comparison.changes:
        yield from ("", *render_table(_HEADS, [_change_row(each) for each in comparison.changes]))


def render_difference(comparison: Comparison) -> str:
    """Say in a sentence what a run adds, and what new prices alone did."""
    base, head = format_usd(comparison.base_usd), format_usd(comparison.head_usd)
    text = f"**{format_signed(comparison.change_usd)}**{_share(comparison)}: {base} → {head}"
    text += f", {comparison.unchanged:,} unchanged."
    if comparison.price_change_usd:
        text += (
            f" New prices since {prose(comparison.base_price_date, most=20)} alone: "
            f"{format_signed(comparison.price_change_usd)}, not in these figures."
        )
    return text


def _share(comparison: Comparison) -> str:
    change, base = comparison.change_usd, comparison.base_usd
    if not change or not base:
        return ""
    percent = EXACT.divide(EXACT.multiply(abs(change), 100), base).quantize(Decimal("0.1"))
    shown = f"{percent:,}%" if percent else "under 0.1%"
    return f" ({'-' if change < 0 else '+'}{shown})"


def format_signed(usd: Decimal | None) -> str:
    """Write a difference with its sign; one that is unknown as such."""
    if usd is None:
        return "unknown"
    sign = "-" if usd < 0 else "+" if usd else "±"
    return f"{sign}{format_usd(abs(usd))}"


def _change_row(change: Change) -> str:
    before = "new" if change.status == "new" else format_usd(change.base_usd)
    now = "removed" if change.status == "removed" else format_usd(change.head_usd)
    return render_row(
        code(change.name), before, now, format_signed(change.usd), _what_differs(change)
    )


def _what_differs(change: Change) -> str:
    tokens = [
        f"{number:+,} {prose(name.removesuffix('_tokens').replace('_', ' '))}"
        for name, number in change.tokens.items()
    ]
    calls = [f"{change.calls:+,} {'call' if abs(change.calls) == 1 else 'calls'}"]
    parts = [code(part) for part in change.parts[:_MOST_PARTS]]
    more = len(change.parts) - len(parts)
    return ", ".join(
        [
            *tokens,
            *(calls if change.calls else ()),
            *parts,
            *([f"{more:,} more parts"] if more else []),
        ]
    )


def render_row(*cells: str) -> str:
    """Write one row of a Markdown table, of cells that are escaped already."""
    return f"| {' | '.join(cells)} |"


def render_table(heads: Sequence[str], rows: Sequence[str]) -> list[str]:
    """Put heads over rows; a head that ends in a colon is over numbers."""
    rule = render_row(*("---:" if head.endswith(":") else "---" for head in heads))
    return [render_row(*(head.removesuffix(":") for head in heads)), rule, *rows]

"""Tables and counts as plain text. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Sequence


def render_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 1, notes: int = 0
) -> str:
    """Align columns: `names` first and `notes` last ones to the left, numbers to the right."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    numbers = range(names, len(heads) - notes)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def format_count(number: int, noun: str) -> str:
    """Write a number with its noun.

    Example:
        >>> format_count(1, "call"), format_count(2000, "call")
        ('1 call', '2,000 calls')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"

"""Tables and counts as plain text. Imports nothing of ours."""

from __future__ import annotations

import os.path
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from pytest_llmcost.money import format_usd


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


@dataclass(frozen=True)
class Line:
    """Text and its markup: `bold`, `red`, ..."""

    text: str
    markup: Mapping[str, bool] = field(default_factory=dict)


_NARROWEST_NAME = 20
_ROOMY = 100
"""A terminal so wide leaves a second blank between columns."""


def align(
    name_head: str,
    heads: Sequence[str],
    names: Sequence[str],
    cells: Sequence[Sequence[str]],
    width: int,
) -> Iterator[str]:
    """Numbers to the right, the name takes what is left and is cut in front if it must."""
    widths = [max(len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(heads)]
    gap = "  " if width >= _ROOMY else " "
    numbers = sum(width + len(gap) for width in widths if width)
    room = max(_NARROWEST_NAME, width - numbers)
    names = _shortened(names, room)
    name_width = min(room, max(len(name_head), *(len(name) for name in names)))
    for name, line in zip([name_head, *names], [heads, *cells], strict=True):
        columns = [f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True) if width]
        yield gap.join([f"{_cut(name, name_width):<{name_width}}", *columns]).rstrip()


def _shortened(names: Sequence[str], room: int) -> Sequence[str]:
    """Drop the folder or the file that all tests are in, where a name would not fit with it."""
    files = {name.partition("::")[0] for name in names if "::" in name}
    if not files or all(len(name) <= room for name in names):
        return names
    folder = os.path.commonpath([os.path.dirname(file) for file in files])
    prefix = f"{files.pop()}::" if len(files) == 1 else f"{folder}/"
    return [name.removeprefix(prefix) for name in names]


def _cut(name: str, width: int) -> str:
    """Keep the end of a node id, which tells tests apart."""
    return name if len(name) <= width else "..." + name[3 - width :]


def narrowed(
    heads: Sequence[str],
    cells: Sequence[Sequence[str]],
    width: int,
    dispensable: Sequence[str],
) -> tuple[list[str], list[list[str]]]:
    """Leave out columns until the rest leaves enough of a line for a name.

    They go in the order given, those without a single cell before them.
    """
    kept = list(range(len(heads)))
    empty = [head for place, head in enumerate(heads) if not any(line[place] for line in cells)]
    for head in (*(each for each in dispensable if each in empty), *dispensable):
        if _fits(*_chosen(heads, cells, kept), width):
            break
        kept = [place for place in kept if heads[place] != head]
    return _chosen(heads, cells, kept)


def _chosen(
    heads: Sequence[str], cells: Sequence[Sequence[str]], kept: Sequence[int]
) -> tuple[list[str], list[list[str]]]:
    return [heads[place] for place in kept], [[line[place] for place in kept] for line in cells]


def _fits(heads: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> bool:
    gap = 2 if width >= _ROOMY else 1
    widths = [max(len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(heads)]
    return sum(each + gap for each in widths if each) + _NARROWEST_NAME <= width


def column_usd(amount: Decimal, *, against: Decimal | None = None) -> str:
    """Write an amount with at least four decimals, so that a column can be compared at a glance."""
    whole, _, decimals = format_usd(amount, against=against).partition(".")
    return f"{whole}.{decimals.ljust(4, '0')}"


def column_partly_usd(amount: Decimal | None, unknown: int, per: int = 1) -> str:
    """Write what is known of an amount, with a question mark where something is not."""
    if not unknown:
        return column_usd((amount or Decimal(0)) * per)
    return f"{column_usd(amount * per)}+?" if amount else "?"

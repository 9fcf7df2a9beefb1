"""Tables as plain text and as Markdown, and the form of the figures in them. Knows no ledger."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

_GAP = "  "


@dataclass(frozen=True)
class Line:
    """Text and its markup: `bold`, `red`, ..."""

    text: str
    markup: Mapping[str, bool] = field(default_factory=dict)


def render_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 1, notes: int = 0
) -> str:
    """Align columns: `names` first and `notes` last ones to the left, numbers to the right."""
    lines = [list(heads), *map(list, rows)]
    widths = _widths(lines)
    numbers = range(names, len(heads) - notes)
    return "\n".join(
        _GAP.join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


@dataclass(frozen=True)
class GroupedRow:
    """One row of a table whose rows stand in groups, such as tests under their files."""

    group: str
    name: str
    cells: Sequence[str]
    markup: Mapping[str, bool] = field(default_factory=dict)
    note: str = ""
    """What is to be said below it."""


def render_groups(heads: Sequence[str], rows: Sequence[GroupedRow], width: int) -> Iterator[Line]:
    """Render rows under the title of their group, numbers to the right, names whole.

    Groups come in the order of their first rows. A name that leaves no room for its numbers has a
    line of its own.
    """
    widths = _widths([heads, *(row.cells for row in rows)])
    room = width - sum(len(_GAP) + each for each in widths)
    names = [*(row.name for row in rows), rows[0].group]
    name_width = max((len(each) for each in names if len(each) <= room), default=0)

    def lines(name: str, cells: Sequence[str], markup: Mapping[str, bool]) -> Iterator[Line]:
        numbers = "".join(f"{_GAP}{cell:>{each}}" for cell, each in zip(cells, widths, strict=True))
        if len(name) > name_width:
            yield Line(name, markup)
            name = ""
        if name or numbers.strip():
            yield Line(f"{name:<{name_width}}{numbers}".rstrip(), markup)

    titles = heads
    for group in dict.fromkeys(row.group for row in rows):
        yield from lines(group, titles, {"bold": True})
        titles = [""] * len(heads)
        for row in rows:
            if row.group == group:
                yield from lines(row.name, row.cells, row.markup)
                if row.note:
                    yield from map(Line, wrap(row.note, width, indent=4))


def wrap(text: str, width: int, *, indent: int = 0) -> list[str]:
    """Break a sentence into lines; a command in it stays whole, on a line of its own."""
    before, colon, command = text.partition(": pytest ")
    pad = " " * indent
    lines = textwrap.wrap(
        f"{before}:" if colon else before,
        width,
        initial_indent=pad,
        subsequent_indent=f"{pad}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    if colon and len(lines) == 1 and len(lines[0]) + len(command) + len(" pytest ") <= width:
        return [f"{lines[0]} pytest {command}"]
    return [*lines, *([f"{pad}  pytest {command}"] if colon else [])]


def markdown_row(*cells: str) -> str:
    """Write one row of a Markdown table, of cells that are escaped already."""
    return f"| {' | '.join(cells)} |"


def markdown_table(heads: Sequence[str], rows: Iterable[str]) -> list[str]:
    """Put heads over rows; a head that ends in a colon is over numbers."""
    rule = markdown_row(*("---:" if head.endswith(":") else "---" for head in heads))
    return [markdown_row(*(head.removesuffix(":") for head in heads)), rule, *rows]


def format_count(number: int, noun: str) -> str:
    """Write a number with its noun.

    Example:
        >>> format_count(1, "call"), format_count(2000, "call")
        ('1 call', '2,000 calls')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def usd_cell(usd: Decimal | None, *, is_least: bool = False, per: int = 1) -> str:
    """Write an amount with four decimals, so that a column lines up.

    Example:
        >>> usd_cell(Decimal("0.5")), usd_cell(Decimal("0.5"), is_least=True), usd_cell(None)
        ('$0.5000', '≥$0.5000', '?')
    """
    if usd is None:
        return "?"
    if 0 < usd * per < Decimal("0.00005"):
        return "<$0.0001"
    return f"{'≥' if is_least else ''}${usd * per:,.4f}"


def signed_cell(usd: Decimal | None) -> str:
    """Write a difference as `usd_cell` writes an amount.

    Example:
        >>> signed_cell(Decimal("-0.5"))
        '-$0.5000'
    """
    if usd is None:
        return "?"
    sign = "-" if usd < 0 else "+" if usd else "±"
    return f"{sign}{usd_cell(abs(usd))}"


def token_cell(number: int, *, is_least: bool = False) -> str:
    """Write a number of tokens as far as it is known; what is unknown is never shown as zero."""
    if not is_least:
        return f"{number:,}"
    return f"≥{number:,}" if number else "?"

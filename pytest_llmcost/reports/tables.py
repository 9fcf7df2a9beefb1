"""Tables as plain text and as Markdown, and the form of the figures in them. Knows no ledger."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Line:
    """Text and its markup: `bold`, `red`, ..."""

    text: str
    markup: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class TableRow:
    """One row, its name first; rows may stand in groups, such as tests under their files."""

    cells: Sequence[str]
    group: str = ""
    markup: Mapping[str, bool] = field(default_factory=dict)
    note: str = ""
    """What is to be said below it."""


def text_table(
    heads: Sequence[str], rows: Sequence[TableRow], width: int = sys.maxsize
) -> Iterator[Line]:
    """Align rows in columns; a head that ends in a colon is over numbers, and so to the right.

    Groups come in the order of their first rows; the title of the first one is in the line of the
    heads. A name that leaves no room for its numbers has a line of its own.
    """
    titles = [head.removesuffix(":") for head in heads]
    columns = zip(titles, *(row.cells for row in rows), strict=True)
    _, *widths = (max(map(len, column)) for column in columns)
    groups = list(dict.fromkeys(row.group for row in rows)) or [""]
    titles[0] = groups[0] or titles[0]
    room = width - sum(2 + each for each in widths)
    names = [titles[0], *(row.cells[0] for row in rows)]
    name_width = max((len(each) for each in names if len(each) <= room), default=0)

    def aligned(cells: Sequence[str], markup: Mapping[str, bool]) -> Iterator[Line]:
        name, *rest = cells
        text = "".join(
            f"  {cell:{'>' if head.endswith(':') else '<'}{each}}"
            for cell, head, each in zip(rest, heads[1:], widths, strict=True)
        ).rstrip()
        if len(name) > name_width:
            yield Line(name, markup)
            name = ""
        if name or text:
            yield Line(f"{name:<{name_width}}{text}".rstrip(), markup)

    for group in groups:
        is_first = group == groups[0]
        yield from aligned(titles if is_first else [group, *[""] * len(widths)], {"bold": True})
        for row in (each for each in rows if each.group == group):
            yield from aligned(row.cells, row.markup)
            yield from wrap(row.note, width, indent=4)


def wrap(
    text: str, width: int, *, indent: int = 0, markup: Mapping[str, bool] | None = None
) -> Iterator[Line]:
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
        lines = [f"{lines[0]} pytest {command}"]
    elif colon:
        lines.append(f"{pad}  pytest {command}")
    yield from (Line(line, markup or {}) for line in lines)


def as_text(lines: Iterable[Line]) -> str:
    """Join lines without their markup."""
    return "\n".join(line.text for line in lines)


def markdown_row(*cells: str) -> str:
    """Write one row of a Markdown table, of cells that are escaped already."""
    return f"| {' | '.join(cells)} |"


def markdown_table(heads: Sequence[str], rows: Iterable[str]) -> list[str]:
    """Put heads over rows; a head that ends in a colon is over numbers, as in `text_table`."""
    rule = markdown_row(*("---:" if head.endswith(":") else "---" for head in heads))
    return [markdown_row(*(head.removesuffix(":") for head in heads)), rule, *rows]

"""Tables as plain text and as Markdown, and the form of the figures in them. Knows no ledger."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_ASCII = str.maketrans(
    {"✗": "x", "✓": "ok", "≥": ">=", "≤": "<=", "…": "...", "·": "-", "→": "->", "±": "+-"}
)


@dataclass(frozen=True)
class Screen:
    """What lines are written for: how many columns there are, and which characters."""

    width: int = sys.maxsize
    unicode: bool = True

    def text(self, line: str) -> str:
        """Write a line so that the terminal can show it."""
        return line if self.unicode else line.translate(_ASCII)


_WORD = re.compile(r"(\s*)(\S+(?: %(?!\w)\S*)?)")
"""A number stays on one line with its percent sign."""


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes.

    Example:
        >>> width_of("test_日本"), width_of("e\u0301")
        (9, 1)
    """
    if text.isascii():
        return len(text)
    # Those of the categories Mn and Me are drawn over the character before them.
    shown = [each for each in text if unicodedata.category(each) not in ("Mn", "Me")]
    return len(shown) + sum(unicodedata.east_asian_width(each) in ("W", "F") for each in shown)


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


def text_table(heads: Sequence[str], rows: Sequence[TableRow], screen: Screen) -> Iterator[Line]:
    """Align rows in columns; a head that ends in a colon is over numbers, and so to the right.

    Groups come in the order of their first rows; the title of the first one is in the line of the
    heads. A name that leaves no room for its numbers has a line of its own.
    """
    titles = [head.removesuffix(":") for head in heads]
    cells_of = [[*map(screen.text, row.cells)] for row in rows]
    _, *widths = (max(map(width_of, column)) for column in zip(titles, *cells_of, strict=True))
    groups = list(dict.fromkeys(row.group for row in rows)) or [""]
    titles[0] = groups[0] or titles[0]
    room = screen.width - sum(2 + each for each in widths)
    taken = [width_of(titles[0]), *(width_of(name) for name, *_ in cells_of)]
    name_width = max((each for each in taken if each <= room), default=0)

    def aligned(cells: Sequence[str], markup: Mapping[str, bool]) -> Iterator[Line]:
        name, *rest = cells
        text = "".join(
            f"  {_padded(cell, each, to_the_right=head.endswith(':'))}"
            for cell, head, each in zip(rest, heads[1:], widths, strict=True)
        ).rstrip()
        if width_of(name) > name_width:
            yield Line(name, markup)
            name = ""
        if name or text:
            yield Line(f"{_padded(name, name_width)}{text}".rstrip(), markup)

    for group in groups:
        heading = titles if group == groups[0] else [group, *[""] * len(widths)]
        yield from aligned(heading, {"bold": True})
        for row, cells in zip(rows, cells_of, strict=True):
            if row.group == group:
                yield from aligned(cells, row.markup)
                yield from wrap(row.note, screen, indent=4)


def _padded(text: str, width: int, *, to_the_right: bool = False) -> str:
    spaces = " " * (width - width_of(text))
    return spaces + text if to_the_right else text + spaces


def wrap(
    text: str, screen: Screen, *, indent: int = 0, markup: Mapping[str, bool] | None = None
) -> Iterator[Line]:
    """Break a sentence into lines; a command in it stays whole, on a line of its own."""
    before, colon, command = screen.text(text).partition(": pytest ")
    pad = line = " " * indent
    lines = []
    # Not textwrap, for it takes every character to be as wide as the others.
    for space, word in _WORD.findall(before + colon[:1]):
        if line != pad and width_of(line + space + word) > screen.width:
            lines.append(line)
            line = f"{pad}  {word}"
        else:
            line += space + word
    lines += [line] if line != pad else []
    if colon and len(lines) == 1 and width_of(f"{line} pytest {command}") <= screen.width:
        lines = [f"{line} pytest {command}"]
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

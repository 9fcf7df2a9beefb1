"""Names, numbers and tables in plain text: the form of whatever people read. Knows no ledger.

A name may hold anything, escape sequences too. Of the numbers a difference has its sign, what is
unknown is never zero, and a bound says that it is one. Operators are exact here: whatever reports
is called under `money.exactly()`.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import NamedTuple

from pytest_llmcost.money import format_usd, format_whole_usd

MOST_CHARACTERS = 300
"""Of a name or a sentence; more than anyone reads."""
MOST_WITH_COMMAND = 2_000
"""Of a sentence that may hold a command, which is of no use when it is cut."""
_SPACE = re.compile(r"\s+")
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def clean(text: str, most: int = MOST_CHARACTERS) -> str:
    r"""Put text on one line, show what is invisible (`\x1b`), and cut what is too long.

    The end is kept: by it alone the names of two tests may differ.

    Example:
        >>> clean("a\tb\x1b[31m"), clean("test_a[a very long prompt-1]", 20)
        ('a b\\x1b[31m', 'test_a[a ve...mpt-1]')
    """
    line = text if len(text) <= most else f"{text[:most]}...{text[-most:]}"
    if not line.isprintable():
        line = "".join(
            each.encode("unicode_escape").decode()
            if unicodedata.category(each) in _INVISIBLE
            else each
            for each in _SPACE.sub(" ", line)
        ).strip()
    end = most // 3
    return line if len(line) <= most else f"{line[: most - end - 3]}...{line[-end:]}"


# Numbers, in a sentence or in a cell of a table

UNKNOWN = "?"
"""What is not known, in every table and file; never zero."""
REFUSED = "refused"
"""The cost of what the cap on live spend kept from being sent, in every table and file."""


def dollars(
    usd: Decimal | None, *, is_least: bool = False, against: Decimal | None = None, per: int = 1
) -> str:
    """Write an amount within a sentence: `$0.0312`, `at least $0.50`, `?`."""
    if usd is None:
        return UNKNOWN
    shown = format_usd(usd * per, against=against)
    return f"at least {shown}" if is_least else shown


def signed(usd: Decimal | None, *, form: Callable[[Decimal], str] = format_usd) -> str:
    """Write a difference with its sign: `+$0.05`, `-$0.05`, `±$0.00`, `?`; a cell by `usd_cell`."""
    if usd is None:
        return UNKNOWN
    return f"{'-' if usd < 0 else '+' if usd else '±'}{form(abs(usd))}"


def short_commit(commit: str) -> str:
    """Shorten a commit's hash as Git does, so that GitHub makes a link of it; else nothing."""
    return commit[:7] if re.fullmatch("[0-9a-f]{7,64}", commit) else ""


def percent(part: Decimal, whole: Decimal) -> str:
    """Write how much one amount is of another: `13 %`, `0.4 %`, `under 0.1 %`."""
    share = abs(part) * 100 / whole
    if not share or share >= Decimal("0.95"):
        return f"{share.quantize(Decimal(1)):,} %"
    return f"{share.quantize(Decimal('0.1'))} %" if share > Decimal("0.05") else "under 0.1 %"


def growth(before: Decimal | int | None, after: Decimal | int | None) -> str:
    """Write by how much something grew: `+31 %`, `=` if by nothing; nothing if that is unknown."""
    if before is None or after is None or (not before and after):
        return ""
    if before == after:
        return "="
    change = Decimal(after) - Decimal(before)
    return f"{'+' if change > 0 else '-'}{percent(change, Decimal(before))}"


def grown_by(before: Decimal | int | None, after: Decimal | int | None) -> str:
    """Write by how much something grew in brackets, ` (+31 %)`; nothing if it did not."""
    grown = growth(before, after)
    return f" ({grown})" if grown not in ("", "=") else ""


def round_up(spent: Decimal, *, is_usd: bool = True) -> Decimal:
    """Round an amount up to two digits, to whole ones if it is no money."""
    # Two digits: enough to stay close, few enough to read as a budget and not as a measurement.
    step = Decimal(1).scaleb(max(spent.adjusted() - 1, -9 if is_usd else 0))
    return (spent / step).to_integral_value(ROUND_CEILING) * step


def write_round_usd(spent: Decimal) -> str:
    """Write a round amount above this one as a marker or a setting takes it: `$1300.00`."""
    return format_whole_usd(round_up(spent)).replace(",", "")


def format_count(number: int, noun: str) -> str:
    """Write a number with its noun: `1 call`, `2,000 calls`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def first_of(names: Sequence[str], most: int, *, joint: str = ", ") -> str:
    """Name the first ones, and say how many more there are: `a, b and 2 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return joint.join(names[:most]) + more


def usd_cell(usd: Decimal | None, *, is_least: bool = False, per: int = 1) -> str:
    """Write an amount with four decimals, so that a column lines up.

    Example:
        >>> usd_cell(Decimal("0.5")), usd_cell(Decimal("0.5"), is_least=True), usd_cell(None)
        ('$0.5000', '≥$0.5000', '?')

        What is not zero is never shown as zero, and a lower bound never as an upper one:

        >>> usd_cell(Decimal("0.00005")), usd_cell(Decimal("0.00001"), is_least=True)
        ('<$0.0001', '?')
    """
    if usd is None:
        return UNKNOWN
    if 0 < usd * per <= Decimal("0.00005"):  # which would be rounded to zero
        return UNKNOWN if is_least else "<$0.0001"
    return f"{'≥' if is_least else ''}${usd * per:,.4f}"


def token_cell(number: int, *, is_least: bool = False) -> str:
    """Write a number of tokens as far as it is known; what is unknown is never shown as zero."""
    if not is_least:
        return f"{number:,}"
    return f"≥{number:,}" if number else UNKNOWN


# Tables

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


class Line(NamedTuple):
    """Text and its markup: `bold`, `red`, ..."""

    text: str
    markup: Mapping[str, bool] = {}


class TableRow(NamedTuple):
    """One row, its name first; rows may stand in groups, such as tests under their files."""

    cells: Sequence[str]
    group: str = ""
    markup: Mapping[str, bool] = {}
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
    groups: dict[str, list[tuple[TableRow, list[str]]]] = {} if rows else {"": []}
    for row, cells in zip(rows, cells_of, strict=True):
        groups.setdefault(row.group, []).append((row, cells))
    first = next(iter(groups))
    titles[0] = first or titles[0]
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

    for group, members in groups.items():
        heading = titles if group == first else [group, *[""] * len(widths)]
        yield from aligned(heading, {"bold": True})
        for row, cells in members:
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

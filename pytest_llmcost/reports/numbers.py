"""The form of every number that people read, in a sentence or in a table's cell.

A difference has its sign, what is unknown is never zero, and a bound says that it is one. Operators
are exact here: whatever reports is called under `money.exactly()`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, Decimal

from pytest_llmcost.money import format_usd, format_whole_usd

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

"""Exact US dollars, quantities and percentages: text to `Decimal`, never a binary fraction.

Knows nothing of prices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

from pytest_llmcost.errors import SettingsError

# A comma only groups thousands: to accept it also as a decimal comma could multiply by a hundred.
_NUMBER = r"(?P<number>(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)"
# Compiled when used: every run of every suite imports this.
_AMOUNT = rf"(?P<dollars>\$)?{_NUMBER}(?P<unit>\s*[c¢])?"
_QUANTITY = rf"{_NUMBER}\s*(?P<unit>[kKmM]?)"
_PERCENT = rf"{_NUMBER}\s*(?P<unit>%)"
_DIGITS = {"k": 3, "m": 6, "c": -2, "¢": -2, "%": -2, "": 0}
_MOST_DIGITS = 40
"""More than any amount of money has; a longer one would make exact sums slow without end."""
EXACT = Context(prec=3 * _MOST_DIGITS)
"""For sums and products of money: never rounds, whatever the caller's own decimal context."""


@contextmanager
def exactly() -> Iterator[None]:
    """Let operators compute as `EXACT` does: a test may have set a context of its own.

    Around whatever judges and reports; below, what a test itself calls names `EXACT`.
    """
    with localcontext(EXACT):
        yield


def parse_usd(value: object) -> Decimal:
    """Read an amount of money: `0.02`, `Decimal`, `"0.02"`, `"$0.02"` or `"2c"`.

    Units: US dollars; a float counts as the decimal that its `repr` shows.

    Raises:
        SettingsError: when it is no amount, negative, or not finite.

    Example:
        >>> parse_usd("2c")
        Decimal('0.02')
    """
    if isinstance(value, float):
        value = Decimal(float.__repr__(value))  # NumPy's floats have a repr of their own
    elif isinstance(value, str) and re.fullmatch(r"\d(\.\d+)?e-\d\d", value, re.ASCII):
        value = Decimal(value)  # how pytest writes a float of TOML that is less than 0.0001
    amount = _read(value, _AMOUNT)
    if amount is None:
        what = "is not an amount of money; write 0.05 or 5c"
        if isinstance(value, str) and re.search(r"[a-z]\.\d+$", value):
            # In double quotes a shell makes "bash.05" of it, which is all that arrives here.
            what += " (in a shell, $0.05 needs single quotes)"
        raise _refused(value, what)
    return amount


def parse_quantity(value: object) -> int:
    """Read a whole number of tokens or calls: `8000`, `"8,000"`, `"8k"` or `"1.5M"`.

    Raises:
        SettingsError: when it is no whole number, or negative.
    """
    number = _read(value, _QUANTITY)
    if number is None or number != number.to_integral_value():
        raise _refused(value, "is not a whole number from 0 up; write for example 8000")
    return int(number)


def parse_percent(text: str) -> Decimal:
    """Read a percentage, `80%` or `12.5 %`, as a share: 0.8, 0.125.

    Raises:
        SettingsError: when it is no percentage.
    """
    share = _read(text, _PERCENT)
    if share is None:
        number = text if read_digits(text) else "80"
        raise _refused(text, f"is not a percentage; write {number}%")
    return share


def parse_share_or_usd(text: str) -> tuple[Decimal | None, Decimal | None]:
    """Read `10%` as a share or `$0.05` as dollars, and return both, one of them None.

    A number alone is refused, except for 0: 10 for 10% would be ten dollars, and limit nothing.

    Raises:
        SettingsError: when it is neither.
    """
    share = _read(text, _PERCENT)
    usd = _read(text, _AMOUNT)
    if usd and re.fullmatch(r"[\d.,\s]+", text):
        usd = None
    if share is usd is None:
        what = "is neither a percentage nor an amount of money with its unit; write 10% or 5c"
        raise _refused(text, what)
    return share, usd


def _read(value: object, form: str) -> Decimal | None:
    """Return a finite number from 0 up, of no more digits than money has, or None."""
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        number = Decimal(value)
    else:
        match = re.fullmatch(form, value.strip(), re.ASCII) if isinstance(value, str) else None
        if match is None or (match["unit"] and "$" in match[0]):
            return None
        digits = _DIGITS[(match["unit"] or "").strip().lower()]
        number = EXACT.scaleb(Decimal(match["number"].replace(",", "")), digits)
    is_money = number.is_finite() and number >= 0 and count_digits(number) <= _MOST_DIGITS
    return number.copy_abs() if is_money else None  # a negative zero is zero


def _refused(value: object, what: str) -> SettingsError:
    if isinstance(value, str) and "," in value:
        what += "; decimals stand behind a point, and a comma only groups thousands (1,000)"
    return SettingsError(f"{show_value(value)} {what}")


def show_value(value: object) -> str:
    """Write any value that a user gave, for a message."""
    try:
        shown = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return shown if len(shown) <= 200 else f"{shown[:200]}..."


def count_digits(amount: Decimal) -> int:
    """Return how many digits a finite amount has when written without an exponent."""
    _, digits, exponent = amount.as_tuple()
    assert isinstance(exponent, int)  # finite
    return max(len(digits) + exponent, len(digits), -exponent)


def read_digits(text: str) -> int | None:
    """Return the whole number that a text of a few plain digits is, and None for any other text.

    `int` also reads `1_0`, ` 10 ` and the digits of every script, and fails on 5,000 digits.

    Example:
        >>> read_digits("200"), read_digits("2_0"), read_digits("²")
        (200, None, None)
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def plain_usd(amount: Decimal) -> str:
    """Write an amount for a file: plain digits, no exponent, no trailing zeros, `0` for zero.

    Example:
        >>> plain_usd(Decimal("1.500E-7"))
        '0.00000015'
    """
    text = format(amount, "f") if amount else "0"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_usd(amount: Decimal, *, against: Decimal | None = None) -> str:
    """Write an amount for a person: `$0.0312`, four decimals or as many as the truth needs.

    A non-zero amount never shows as zero. One that differs from `against`, its limit, never shows
    as equal to it or on its other side, and one that equals it shows in full.

    Example:
        >>> format_usd(Decimal("0.0200004"), against=Decimal("0.02"))
        '$0.0200004'
    """
    if amount == against:
        return format_whole_usd(amount)
    # Of what four decimals do not show, two digits: $0.000057 is neither $0.00006 nor $0.0001.
    digits = 4 if amount.adjusted() >= -4 or not amount else 1 - amount.adjusted()
    while True:
        unit = EXACT.scaleb(Decimal(1), -digits)
        shown = amount.quantize(unit, ROUND_HALF_EVEN, EXACT)
        if against is None or amount.compare(against) == shown.compare(
            against.quantize(unit, ROUND_HALF_EVEN, EXACT)
        ):
            return format_whole_usd(shown)
        digits += 1


def format_whole_usd(amount: Decimal) -> str:
    """Write an amount for a person with every digit it has, for example a limit.

    What `format_usd` writes `against` it is never on its wrong side.

    Example:
        >>> format_whole_usd(Decimal("0.00123456"))
        '$0.00123456'
    """
    sign = "-" if amount < 0 else ""
    whole, _, fraction = format(amount.copy_abs(), ",f").partition(".")
    return f"{sign}${whole}.{fraction.rstrip('0').ljust(2, '0')}"


def format_share(part: Decimal, whole: Decimal) -> str:
    """Write `part` of `whole` in percent, rounded; 100% only when equal, 0% for nothing or less.

    Example:
        >>> format_share(Decimal("0.756"), Decimal(1)), format_share(Decimal("0.999"), Decimal(1))
        ('76%', '99%')
    """
    if not whole:
        return "-"
    percent = EXACT.divide(EXACT.multiply(max(part, Decimal(0)), 100), whole)
    if 0 < percent <= Decimal("0.5"):
        return "<1%"
    rounded = percent.to_integral_value(rounding=ROUND_HALF_EVEN)
    if part < whole:
        rounded = min(rounded, Decimal(99))
    elif part > whole:
        rounded = max(rounded, Decimal(101))
    return f"{rounded:,f}%"

"""Exact US dollars: text to `Decimal` and back, never through a binary fraction.

Data flow: a user's amount -> `parse_usd` -> Decimal -> `plain_usd` (files), `format_usd` (people).
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

from pytest_llmcost.errors import SettingsError

_AMOUNT = re.compile(r"\$?(?P<number>\d[\d_,]*(?:\.\d*)?|\.\d+)(?P<cents>\s*[c¢])?", re.ASCII)
_QUANTITY = re.compile(r"(?P<number>\d[\d_,]*(?:\.\d*)?|\.\d+)\s*(?P<unit>[kKmM]?)", re.ASCII)
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000}
_MOST_DIGITS = 40
"""More than any amount of money has; a longer one would make exact sums slow without end."""
_WIDE = Context(prec=3 * _MOST_DIGITS)
EXACT = _WIDE
"""For sums and products of money: never rounds, whatever the caller's own decimal context."""


def parse_usd(value: object) -> Decimal:
    """Read an amount of money: `0.02`, `Decimal`, `"0.02"`, `"$0.02"` or `"2c"`.

    Units: US dollars; a float counts as the decimal that its `repr` shows.

    Raises:
        SettingsError: when it is no amount, negative, or not finite.

    Example:
        >>> parse_usd("2c")
        Decimal('0.02')
    """
    amount = _parse_amount(value)
    if amount is None or not amount.is_finite() or amount < 0 or _digits(amount) > _MOST_DIGITS:
        raise SettingsError(
            f'{value!r} is not an amount of money; write 0.05, "0.05", "$0.05" or "5c"'
        )
    return amount


def _parse_amount(value: object) -> Decimal | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, Decimal)):
        return Decimal(value)
    if isinstance(value, float):
        return Decimal(repr(value))
    match = _AMOUNT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    amount = Decimal(match["number"].replace(",", "").replace("_", ""))
    return amount.scaleb(-2) if match["cents"] else amount


def _digits(amount: Decimal) -> int:
    """How many digits the amount has when written without an exponent."""
    _, digits, exponent = amount.as_tuple()
    return len(digits) + abs(exponent) if isinstance(exponent, int) else _MOST_DIGITS + 1


def parse_quantity(value: object) -> int:
    """Read a whole number of tokens or calls: `8000`, `"8_000"`, `"8k"` or `"1.5M"`.

    Raises:
        SettingsError: when it is no whole number, or negative.
    """
    number: Decimal | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = Decimal(value)
    elif isinstance(value, str) and (match := _QUANTITY.fullmatch(value.strip())):
        digits = match["number"].replace(",", "").replace("_", "")
        number = Decimal(digits) * _UNITS[match["unit"].lower()]
    if number is None or number < 0 or number != number.to_integral_value():
        raise SettingsError(f'{value!r} is not a whole number; write 8000, "8k" or "1.5M"')
    return int(number)


def parse_percent(text: str) -> Decimal:
    """Read a percentage, `80%` or `12.5 %`, as a share: 0.8, 0.125.

    Raises:
        SettingsError: when it is no percentage.
    """
    number = text.strip().removesuffix("%").strip()
    if not text.strip().endswith("%") or not _AMOUNT.fullmatch(number) or number[-1] in "c¢":
        raise SettingsError(f'{text!r} is not a percentage; write "80%"')
    return Decimal(number.lstrip("$").replace(",", "").replace("_", "")).scaleb(-2)


def plain_usd(amount: Decimal) -> str:
    """Write an amount for a file: plain digits, no exponent, no trailing zeros, `0` for zero.

    Example:
        >>> plain_usd(Decimal("1.500E-7"))
        '0.00000015'
    """
    if not amount:
        return "0"
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_usd(amount: Decimal, *, against: Decimal | None = None) -> str:
    """Write an amount for a person: `$0.0312`, four decimals or as many as the truth needs.

    A non-zero amount never shows as zero; one that differs from `against` (its ceiling)
    never shows as equal to it, nor on its other side.

    Example:
        >>> format_usd(Decimal("0.0200004"), against=Decimal("0.02"))
        '$0.0200004'
    """
    places = 4
    while not _faithful(amount, against, places):
        places += 1
    text = format(_rounded(amount, places), ",f")
    whole, _, fraction = text.partition(".")
    return f"${whole}.{fraction.rstrip('0').ljust(2, '0')}"


def _faithful(amount: Decimal, against: Decimal | None, places: int) -> bool:
    shown = _rounded(amount, places)
    if bool(shown) != bool(amount):
        return False
    return against is None or _compare(shown, _rounded(against, places)) == _compare(
        amount, against
    )


def _compare(left: Decimal, right: Decimal) -> int:
    return (left > right) - (left < right)


def _rounded(amount: Decimal, places: int) -> Decimal:
    return amount.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN, _WIDE)


def format_share(part: Decimal, whole: Decimal) -> str:
    """Write `part` of `whole` in percent; 100% only when exactly equal.

    Example:
        >>> format_share(Decimal("0.999"), Decimal("1"))
        '99%'
    """
    if not whole:
        return "-"
    rounding = ROUND_FLOOR if part < whole else ROUND_CEILING
    percent = (part * 100 / whole).quantize(Decimal(1), rounding=rounding)
    return f"{percent}%"

"""Rates: what one model's tokens cost on one day, at one speed, by length of prompt.

Data flow: the dated rows of a model, the shipped ones and a user's -> `rates_on` -> Rates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from decimal import Decimal

import msgspec

from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.price_file import RATE_KEYS, RateRow

STANDARD = "standard"

Layers = Sequence[Sequence[RateRow]]
"""The rows of one model, the shipped ones first, then those of each price file."""


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's tokens cost on a day.

    Units: US dollars per million tokens, before the factors of batch, geography and endpoint.
    """

    model: str
    speed: str = STANDARD
    above: int = 0
    """These rates hold for prompts longer than this."""
    from_on: date
    """The first day of the row they come from."""
    input: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal
    cache_read: Decimal
    output: Decimal
    ended_on: date | None = None
    """The day on which this speed ended; its last rates stay."""
    checked_on: date | None = None
    sources: tuple[str, ...] = ()


def rates_on(model: str, layers: Layers, on: date, speed: str = STANDARD) -> tuple[Rates, ...]:
    """Return a model's rates on a day, one for each length band, the lowest band first.

    Raises:
        UnknownModelError: before the first rates, or at a speed that the model never had.
    """
    ended_on = None if speed == STANDARD else _ended_on(layers, on, speed)
    day = ended_on - timedelta(days=1) if ended_on else on
    bands = []
    for above in _thresholds(layers, speed):
        if found := row_on(layers, day, speed, above):
            bands.append(_rates(model, speed, above, *found, ended_on))
    if not bands or bands[0].above:
        raise UnknownModelError(_why_none(model, layers, on, speed), model=model)
    return tuple(bands)


def speeds_of(layers: Layers) -> tuple[str, ...]:
    """Return the speeds that a model has or had rates for, the standard one first."""
    speeds = {row.speed or STANDARD for rows in layers for row in rows if row.factor is None}
    return tuple(sorted(speeds, key=lambda speed: (speed != STANDARD, speed)))


def row_on(layers: Layers, on: date, speed: str, above: int) -> tuple[RateRow, Decimal] | None:
    """Return the row in force on a day and the factor that stands on it.

    A user's row wins over the shipped ones however old it is, and among rows of one file the
    latest does; a factor holds for the rows of its own file and of those below it.
    """
    factor = Decimal(1)
    for rows in reversed(layers):
        in_force = [row for row in rows if row.holds_on(on)]
        discount = _latest(row for row in in_force if _discounts(row, speed, above))
        if discount is not None and discount.factor is not None:
            factor = EXACT.multiply(factor, discount.factor)
        if rated := _latest(row for row in in_force if _is_rated(row, speed, above)):
            return rated, factor
    return None


def _discounts(row: RateRow, speed: str, above: int) -> bool:
    return row.factor is not None and row.speed in (None, speed) and row.above in (None, above)


def _is_rated(row: RateRow, speed: str, above: int) -> bool:
    return row.factor is None and (row.speed or STANDARD, row.above or 0) == (speed, above)


def _latest(rows: Iterable[RateRow]) -> RateRow | None:
    latest = None
    for row in rows:
        if latest is None or row.from_on >= latest.from_on:
            latest = row
    return latest


def _rates(
    model: str, speed: str, above: int, row: RateRow, factor: Decimal, ended_on: date | None
) -> Rates:
    amounts = {key: EXACT.multiply(getattr(row, key), factor) for key in RATE_KEYS}
    return Rates(
        model=model,
        speed=speed,
        above=above,
        from_on=row.from_on,
        ended_on=ended_on,
        checked_on=row.checked_on,
        sources=row.sources,
        **amounts,
    )


def _rated_rows(layers: Layers, speed: str) -> list[RateRow]:
    return [
        row
        for rows in layers
        for row in rows
        if row.factor is None and (row.speed or STANDARD) == speed
    ]


def _thresholds(layers: Layers, speed: str) -> list[int]:
    return sorted({row.above or 0 for row in _rated_rows(layers, speed)})


def _ended_on(layers: Layers, on: date, speed: str) -> date | None:
    """Return the day on which a speed ended, if it had ended by then."""
    rows = [row for row in _rated_rows(layers, speed) if not row.above and row.from_on <= on]
    ends = [row.until_on for row in rows if row.until_on is not None and row.until_on <= on]
    return max(ends) if rows and len(ends) == len(rows) else None


def _why_none(model: str, layers: Layers, on: date, speed: str) -> str:
    rows = _rated_rows(layers, speed)
    what = f"{model} on {on}" if speed == STANDARD else f"{model} at speed {speed!r} on {on}"
    if not rows:
        return f"no price for {what}: the rate card has no rates at that speed"
    if all(row.from_on > on for row in rows):
        return f"no price for {what}: its first rates are from {min(r.from_on for r in rows)}"
    return f"no price for {what}: its last rates ended before that day"

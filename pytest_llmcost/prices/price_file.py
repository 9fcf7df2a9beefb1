"""Price files: TOML text to checked rows, and a user's file laid over the shipped one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from pytest_llmcost.errors import RateCardError
from pytest_llmcost.json_values import prepare
from pytest_llmcost.money import EXACT, count_digits
from pytest_llmcost.prices.model_names import mask_account
from pytest_llmcost.prices.usage import TOKENS, Platform, TokenCount

RATE_KEYS = tuple(name.removesuffix("_tokens") for name in TOKENS)
"""The rates of a row, by their keys in the file; US dollars per million tokens."""
STANDARD = "standard"
"""The speed of rows that name none."""
_T = TypeVar("_T")
_MOST_DIGITS = 15
"""More than any rate needs; it keeps the arithmetic exact within `money.EXACT`."""
_MOST_BYTES = 1_000_000
"""Of a price file; the shipped one has 22,000."""
_LEAST_MULTIPLIER = Decimal("0.001")
_TOO_CHEAP = 1_000
"""No discount divides a rate by so much; a wrong unit does."""
_LEAST_RATE = Decimal("0.0001")
"""No model is so cheap for a million tokens: such an amount is the price of a single token."""
_QUOTES = "; a model's name with a point, slash or colon in it needs quotes"
_PLAIN = re.compile(r"[0-9.eE+-]+")
"""How an amount in quotes may be written; `Decimal` also reads `1_0` and ` 10 `."""


class Amount(Decimal):
    """US dollars: from 0 up, of at most 15 digits."""


class Multiplier(Amount):
    """What rates are multiplied by: 0.8 is a discount of 20 %."""


def _name_in_files(name: str) -> str:
    return {"from_on": "from", "until_on": "until"}.get(name, name.replace("multiplier", "factor"))


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=_name_in_files):
    """A table of a price file; a key that it does not have is an error."""


class RateRow(_Table, frozen=True, kw_only=True):
    """One dated row: rates, or a multiplier of whatever rates are in force.

    Units: US dollars per million tokens; dates are UTC days.
    """

    from_on: date
    until_on: date | None = None
    """The first day on which it no longer holds."""
    speed: str | None = None
    """`fast`, or nothing for the standard speed; on a multiplier, nothing is every speed."""
    above: TokenCount | None = None
    """Holds for prompts longer than this; on a multiplier, nothing is every length."""
    input: Amount | None = None
    cache_write_5m: Amount | None = None
    cache_write_1h: Amount | None = None
    cache_read: Amount | None = None
    output: Amount | None = None
    multiplier: Multiplier | None = None
    sources: tuple[str, ...] = ()
    checked_on: date | None = None

    def __post_init__(self) -> None:
        """Check what belongs together; msgspec names the row to these errors."""
        given = [*self.usd]
        if self.until_on is not None and self.until_on <= self.from_on:
            raise ValueError(f"until: {self.until_on} is not after from = {self.from_on}")
        if self.multiplier is not None and given:
            raise ValueError(
                "give rates or a factor on the rates in force, not both; "
                f"got factor = {self.multiplier} and {given[0]} = {getattr(self, given[0])}"
            )
        if self.multiplier is None and not given:
            raise ValueError(f"gives no rate; write {', '.join(RATE_KEYS)}, or a factor")

    @property
    def usd(self) -> dict[str, Decimal]:
        """The rates that it states, by their keys."""
        stated = {key: getattr(self, key) for key in RATE_KEYS}
        return {key: EXACT.plus(rate) for key, rate in stated.items() if rate is not None}

    def covers(self, speed: str, above: int) -> bool:
        """Return whether it is about the rates of a speed and a length band."""
        if self.multiplier is not None:
            return self.speed in (None, speed) and self.above in (None, above)
        return (self.speed or STANDARD, self.above or 0) == (speed, above)

    def holds(self, on: date, ended_on: date | None) -> bool:
        """Return whether it is in force on a day, as the last rates of a speed that ended are."""
        is_last = self.multiplier is None and self.until_on == ended_on
        return self.from_on <= on and (on < (self.until_on or date.max) or is_last)


Layers = Sequence[Sequence[RateRow]]
"""The rows of one model: those of the shipped file first, then those of each price file."""


class ModelEntry(_Table, frozen=True, kw_only=True):
    """What a file says of one model; in a user's file only what it adds or changes."""

    aliases: tuple[str, ...] = ()
    bedrock: str | None = None
    """Its id on Bedrock, without a geography prefix."""
    vertex: str | None = None
    """Its id on Google Cloud, if that differs from Anthropic's."""
    geography: Mapping[str, Multiplier] = {}
    """Multiplier by `usage.inference_geo`."""
    regional: Multiplier | None = None
    """Of a cloud's regional and multi-region endpoints."""
    min_cacheable_tokens: TokenCount | None = None
    tokenizer: str | None = None
    """Models of one name count the same text alike."""
    rejects: tuple[str, ...] = ()
    """Features of a request that are an error there, by the names of `compare/model_support.py`."""
    retires_on: date | None = None
    """The first day on which it is no longer served; its last rates stay."""
    rates: tuple[RateRow, ...] = ()


class RefusalRule(_Table, frozen=True, kw_only=True):
    """Which refusals before any output are billed, from a day on."""

    from_on: date
    billed: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    """Known to be free; if this is empty, every category not billed is."""
    sources: tuple[str, ...] = ()
    checked_on: date | None = None


class CardFile(_Table, frozen=True, kw_only=True):
    """A price file: the shipped card, or a user's changes to it."""

    version: str | None = None
    checked_on: date | None = None
    batch_multiplier: Multiplier | None = None
    web_search_usd_per_1000: Amount | None = None
    geographies_at_list: tuple[str, ...] = ()
    bedrock_prefixes: Mapping[str, Platform] = {}
    bedrock_gov_multiplier: Multiplier | None = None
    """Of every model's tokens in AWS GovCloud (US), in place of its regional multiplier."""
    refusals: tuple[RefusalRule, ...] = ()
    code_execution_free_beside: Mapping[str, str] = {}
    """Tools beside which container time is free, each with the date of its first such version.
    No response shows that time, so it is a caveat and never a charge."""
    sources: Mapping[str, str] = {}
    models: Mapping[str, ModelEntry] = {}


prepare(CardFile, ModelEntry)


def read_card_file(path: Path) -> tuple[CardFile, bytes]:
    """Read a price file and return it with its bytes.

    Raises:
        RateCardError: when it cannot be read, is not TOML, or holds what it should not.
    """
    origin = f"price file {path}"
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise RateCardError(f"{origin}: {error.strerror or error}") from error
    return parse_card_file(data, origin), data


def parse_card_file(data: bytes, origin: str) -> CardFile:
    """Parse the bytes of a price file.

    Raises:
        RateCardError: it is not TOML, or holds what it should not.
    """
    import tomli

    if len(data) > _MOST_BYTES:
        raise RateCardError(f"{origin}: larger than {_MOST_BYTES:,} bytes, the limit")
    try:
        raw = tomli.loads(data.decode("utf-8-sig"), parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as error:  # of a number without end, too
        hint = _QUOTES if "table declaration" in str(error) else ""
        raise RateCardError(f"{origin}: not TOML: {error}{hint}") from error
    # The rates are read when they are needed first, maybe in a test for which freezegun has stopped
    # the clock: it puts a class of its own in the place of `date`, which msgspec does not take.
    raw = msgspec.to_builtins(raw, builtin_types=(Decimal,), enc_hook=lambda day: day.isoformat())
    models = _convert(raw.pop("models", {}), dict[str, Any], f"{origin}: models")
    settings = _convert(raw, CardFile, origin)
    # One by one, because msgspec's path says `models[...]` and not which model.
    entries = {
        name: _convert(table, ModelEntry, f'{origin}: model "{mask_account(name)}"')
        for name, table in models.items()
    }
    return replace(settings, models=entries)


def _convert(raw: Any, kind: type[_T], where: str) -> _T:
    try:
        return msgspec.convert(raw, kind, dec_hook=_read_special)
    except msgspec.ValidationError as error:
        hint, unknown = "", re.search("unknown field `(.+?)`", str(error))
        if unknown:
            keys = {
                key for table in _Table.__subclasses__() for key in table.__struct_encode_fields__
            }
            # A key that belongs into another table is no misspelt one.
            likely = difflib.get_close_matches(unknown[1], sorted(keys - {unknown[1]}), n=1)
            # A point in a name without quotes makes a table in a table: opus-4.7 is a 7 in opus-4.
            found = raw.get(unknown[1]) if kind is ModelEntry else None
            hint = _QUOTES if isinstance(found, dict) else ""
            hint = f". Did you mean {likely[0]}?" if likely else hint
        raise RateCardError(f"{where}: {error}{hint}") from error


def _read_special(kind: type[Any], value: Any) -> Any:
    """Read what msgspec does not know: an amount, or a date where the clock was stopped."""
    if issubclass(kind, date):  # this module was imported while it was
        return date.fromisoformat(value)
    shown = repr(value) if isinstance(value, str) else str(value)
    shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
    is_number = isinstance(value, (int, Decimal)) and not isinstance(value, bool)
    is_text = isinstance(value, str) and _PLAIN.fullmatch(value)
    number = Decimal("NaN")
    with suppress(ArithmeticError):
        number = Decimal(value) if is_number or is_text else number
    if not number.is_finite() or number < 0 or count_digits(number) > _MOST_DIGITS:
        raise ValueError(
            f"Expected an amount of at least 0 with at most {_MOST_DIGITS} digits, got {shown}"
        )
    if kind is Multiplier and number < _LEAST_MULTIPLIER:
        raise ValueError(
            f"Expected a factor of at least {_LEAST_MULTIPLIER}, got {number}; prices are "
            "multiplied by it, so 0.8 is a discount of 20 %"
        )
    return kind(number)


def end_of(layers: Layers, speed: str, on: date) -> date | None:
    """Return the day on which a fast mode ended, if it has by then.

    Its last rates stay, so that no suite fails by the clock.
    """
    begun = [
        row
        for rows in layers
        for row in rows
        if row.covers(speed, 0) and row.from_on <= on and len(row.usd) == len(RATE_KEYS)
    ]
    ends = [row.until_on for row in begun if row.until_on is not None and row.until_on <= on]
    return max(ends) if speed != STANDARD and begun and len(ends) == len(begun) else None


def rates_on(
    layers: Layers, on: date, speed: str, above: int
) -> tuple[RateRow, dict[str, Decimal]] | None:
    """Return the rates of a day, and the row on top that states some of them; None if one lacks.

    The rows in force lie over each other: each file over those below it; in one file a later row
    over an earlier one, and of several rows of one day the last one in the file on top. A row sets
    the rates that it states. A multiplier changes all that is below it; of those of one file the
    latest alone does.
    """
    top, usd = None, dict[str, Decimal]()
    ended_on = end_of(layers, speed, on)
    for rows in layers:
        held = [row for row in rows if row.covers(speed, above) and row.holds(on, ended_on)]
        held.sort(key=lambda row: row.from_on)  # which is stable
        latest = next((row for row in reversed(held) if row.multiplier), None)
        for row in held:
            if row.multiplier is None:
                top, usd = row, usd | row.usd
            elif row is latest:
                usd = {key: EXACT.multiply(rate, row.multiplier) for key, rate in usd.items()}
    return None if top is None or len(usd) < len(RATE_KEYS) else (top, usd)


def check_row(row: RateRow, below: Layers, own: Sequence[RateRow]) -> None:
    """Check a row of a user's file, `own`, against the files below it.

    Raises:
        ValueError: a rate is missing or absurdly cheap, or there is none to multiply.
    """
    where = f"rates row from {row.from_on}"
    layers = (*below, own)
    if row.multiplier is not None:
        stated = (each for rows in layers for each in rows if each.multiplier is None)
        if not any(row.covers(each.speed or STANDARD, each.above or 0) for each in stated):
            kind = f" of speed {row.speed}" if row.speed else ""
            kind += f" above {row.above:,} tokens" if row.above else ""
            raise ValueError(f"{where}: there are no rates{kind} to multiply by {row.multiplier}")
    for key, rate in row.usd.items():
        known = [each.usd[key] for rows in below for each in rows if key in each.usd]
        if rate == 0 and (not known or key.startswith("cache_")):
            continue  # a local model may be free, and so may a gateway's cache
        # Rates for one token, or for a thousand, instead of a million are the likeliest mistake.
        least = EXACT.divide(min(known), _TOO_CHEAP) if known else _LEAST_RATE
        if rate <= least:
            raise ValueError(
                f"{where}: {key}: {rate:f} is not more than {least:f}, which no model costs; rates "
                "are US dollars per million tokens"
            )
    missing = [key for key in RATE_KEYS if key not in row.usd]
    speed, above = row.speed or STANDARD, row.above or 0
    if row.usd and rates_on(layers, row.from_on, speed, above) is None:
        raise ValueError(
            f"{where}: {', '.join(missing)}: missing, and there is no earlier row of that speed "
            "and length to take them from"
        )


_Merged = TypeVar("_Merged", CardFile, ModelEntry)


def merged(base: _Merged, change: _Merged) -> _Merged:
    """Return `base` with what `change` states: tables and lists grow, single values give way."""
    fields: dict[str, object] = {}
    for name in base.__struct_fields__:
        old, new = getattr(base, name), getattr(change, name)
        if name in ("version", "checked_on"):
            fields[name] = old  # how old the shipped prices are is not for a user's file to say
        elif name == "models":
            entries = {model: merged(old.get(model, ModelEntry()), new[model]) for model in new}
            fields[name] = {**old, **entries}
        elif isinstance(old, Mapping):
            fields[name] = {**old, **new}
        elif isinstance(old, tuple):
            fields[name] = old + new
        else:
            fields[name] = old if new is None else new
    return replace(base, **fields)

"""Price files: TOML text to checked rows. Knows no model's spellings and prices nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from pytest_llmcost.errors import RateCardError
from pytest_llmcost.money import EXACT, count_digits
from pytest_llmcost.prices.model_names import mask_account

RATE_KEYS = ("input", "cache_write_5m", "cache_write_1h", "cache_read", "output")
"""The rates of a row, by their keys in the file; US dollars per million tokens."""
STANDARD = "standard"
"""The speed of rows that name none."""
_T = TypeVar("_T")
_MOST_DIGITS = 15
"""More than any rate needs; it keeps the arithmetic exact within `money.EXACT`."""
_MOST_BYTES = 1_000_000
"""Of a price file; the shipped one has 22,000."""
_LEAST_MULTIPLIER = Decimal("0.001")
_PLAIN = re.compile(r"[0-9.eE+-]+")
"""How an amount in quotes may be written; `Decimal` also reads `1_0` and ` 10 `."""

_Tokens = Annotated[int, msgspec.Meta(ge=0, le=10**9)]


class Amount(Decimal):
    """US dollars: from 0 up, of at most 15 digits."""


class Multiplier(Amount):
    """What rates are multiplied by: 0.8 is a discount of 20 %."""


class RateRow(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"from_on": "from", "until_on": "until", "multiplier": "factor"},
):
    """One dated row: five rates, or a multiplier of whatever rates are in force.

    Units: US dollars per million tokens; dates are UTC days.
    """

    from_on: date
    until_on: date | None = None
    """The first day on which it no longer holds."""
    speed: str | None = None
    """`fast`, or nothing for the standard speed; on a multiplier, nothing is every speed."""
    above: _Tokens | None = None
    """Holds for prompts longer than this; on a multiplier, nothing is every length."""
    input: Amount | None = None
    cache_write_5m: Amount | None = None
    cache_write_1h: Amount | None = None
    cache_read: Amount | None = None
    output: Amount | None = None
    multiplier: Multiplier | None = None
    sources: tuple[str, ...] = ()
    checked_on: date | None = None

    def holds_on(self, on: date) -> bool:
        """Return whether the row is in force on a day."""
        return self.from_on <= on and (self.until_on is None or on < self.until_on)


Layers = Sequence[Sequence[RateRow]]
"""The rows of one model: those of the shipped file first, then those of each price file."""


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    min_cacheable_tokens: _Tokens | None = None
    tokenizer: str | None = None
    """Models of one name count the same text alike."""
    rejects: tuple[str, ...] = ()
    """Features of a request that are an error there, by the names of `compare/model_support.py`."""
    retires_on: date | None = None
    """The first day on which it is no longer served; its last rates stay."""
    rates: tuple[RateRow, ...] = ()


class RefusalRule(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"from_on": "from"},
):
    """Which refusals before any output are billed, from a day on."""

    from_on: date
    billed: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    """Known to be free; if this is empty, every category not billed is."""
    sources: tuple[str, ...] = ()
    checked_on: date | None = None


class CodeExecution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Container time; no response shows it, so it is a caveat and never a charge."""

    free_beside: tuple[str, ...]
    """Tools beside which it is free, each as `name_date`; later dates count too."""


class CardFile(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"batch_multiplier": "batch_factor", "bedrock_gov_multiplier": "bedrock_gov_factor"},
):
    """A price file: the shipped card, or a user's changes to it."""

    version: str | None = None
    checked_on: date | None = None
    batch_multiplier: Multiplier | None = None
    web_search_usd_per_1000: Amount | None = None
    geographies_at_list: tuple[str, ...] = ()
    bedrock_prefixes: tuple[str, ...] = ()
    bedrock_global_prefix: str | None = None
    bedrock_gov_prefix: str | None = None
    bedrock_gov_multiplier: Multiplier | None = None
    """Of every model's tokens in AWS GovCloud (US), in place of its regional multiplier."""
    refusals: tuple[RefusalRule, ...] = ()
    code_execution: CodeExecution | None = None
    sources: Mapping[str, str] = {}
    models: Mapping[str, ModelEntry] = {}


def read_card_file(path: Path) -> tuple[CardFile, bytes]:
    """Read a price file and return it with its bytes.

    Raises:
        RateCardError: when it cannot be read, is not TOML, or holds what it should not.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise RateCardError(f"price file {path}: {error.strerror or error}") from error
    if len(data) > _MOST_BYTES:
        raise RateCardError(f"price file {path}: larger than {_MOST_BYTES:,} bytes, the limit")
    return _parse_card_file(data, f"price file {path}"), data


def _parse_card_file(data: bytes, origin: str) -> CardFile:
    import tomli

    try:
        raw = tomli.loads(data.decode("utf-8"), parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as error:  # of a number without end, too
        hint = "; names with / or : need quotes" if "table declaration" in str(error) else ""
        raise RateCardError(f"{origin}: not TOML: {error}{hint}") from error
    models = raw.pop("models", {})
    settings = _convert(raw, CardFile, origin)
    # One by one, because msgspec's path says `models[...]` and not which model.
    models = _convert(models, dict[str, Any], f"{origin}: models")
    # Without account ids from here on: names of a card get into ledgers and messages.
    masked = {mask_account(name): entry for name, entry in models.items()}
    if len(masked) < len(models):
        raise RateCardError(
            f"{origin}: models: two names differ only in their AWS account; put both into one table"
        )
    entries = {name: _parse_model(name, entry, origin) for name, entry in masked.items()}
    return msgspec.structs.replace(settings, models=entries)


def _parse_model(name: str, raw: object, origin: str) -> ModelEntry:
    where = f'{origin}: model "{name}"'
    for key, value in raw.items() if isinstance(raw, dict) else ():
        # A point in a name without quotes makes a table in a table: opus-4.7 is a 7 in opus-4.
        if isinstance(value, dict) and key not in ModelEntry.__struct_fields__:
            raise RateCardError(
                f"{where}: unknown field `{key}`; a model's name with a point in it needs quotes: "
                f'[models."{name}.{key}"]'
            )
    entry = _convert(raw, ModelEntry, where)
    for number, row in enumerate(entry.rates, start=1):
        _check_row(row, f"{where}: rates row {number} (from {row.from_on})")
    return msgspec.structs.replace(entry, aliases=tuple(map(mask_account, entry.aliases)))


def _convert(raw: object, kind: type[_T], where: str) -> _T:
    try:
        return msgspec.convert(raw, kind, dec_hook=_read_amount)
    except msgspec.ValidationError as error:
        raise RateCardError(f"{where}: {error}") from error


def _read_amount(kind: type[Amount], value: object) -> Amount:
    is_number = isinstance(value, (int, Decimal)) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, str) and _PLAIN.fullmatch(value)):
        raise ValueError(f"Expected an amount, got {_shown(value)}")
    try:
        number = Decimal(value)  # type: ignore[arg-type]
    except ArithmeticError:
        raise ValueError(f"Expected an amount, got {_shown(value)}") from None
    if not number.is_finite() or number < 0 or count_digits(number) > _MOST_DIGITS:
        raise ValueError(
            f"Expected an amount of at least 0 with at most {_MOST_DIGITS} digits, "
            f"got {_shown(number)}"
        )
    if kind is Multiplier and number < _LEAST_MULTIPLIER:
        raise ValueError(
            f"Expected a factor of at least {_LEAST_MULTIPLIER}, got {number}; prices are "
            "multiplied by it, so 0.8 is a discount of 20 %"
        )
    return kind(number)


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _check_row(row: RateRow, where: str) -> None:
    given = [key for key in RATE_KEYS if getattr(row, key) is not None]
    if row.until_on is not None and row.until_on <= row.from_on:
        raise RateCardError(f"{where}: until: {row.until_on} is not after from")
    if row.multiplier is not None and given:
        raise RateCardError(
            f"{where}: give rates or a factor on the rates in force, not both; "
            f"got factor = {row.multiplier} and {given[0]} = {getattr(row, given[0])}"
        )
    if row.multiplier is None and not given:
        raise RateCardError(f"{where}: gives no rate; write {', '.join(RATE_KEYS)}, or a factor")


def row_on(layers: Layers, on: date, speed: str, above: int) -> tuple[RateRow, Decimal] | None:
    """Return the row in force on a day, and the multiplier of its rates.

    A user's row wins over the shipped ones however old it is, and of the rows of one file the
    latest wins. A multiplier holds for the rows of its own file and of those below it.
    """
    multiplier = Decimal(1)
    for rows in reversed(layers):
        in_force = [row for row in rows if row.holds_on(on)]
        discounts = [
            row
            for row in in_force
            if row.multiplier is not None
            and row.speed in (None, speed)
            and row.above in (None, above)
        ]
        if discount := _latest(discounts):
            multiplier = EXACT.multiply(multiplier, discount.multiplier or 1)
        rated = [
            row
            for row in in_force
            if row.multiplier is None and (row.speed or STANDARD, row.above or 0) == (speed, above)
        ]
        if found := _latest(rated):
            return found, multiplier
    return None


def _latest(rows: Iterable[RateRow]) -> RateRow | None:
    """Of several rows of one day the last one in the file wins."""
    latest = None
    for row in rows:
        if latest is None or row.from_on >= latest.from_on:
            latest = row
    return latest

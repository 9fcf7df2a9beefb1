"""Price files: TOML text to checked values; errors name file, model, key and value.

Data flow: `anthropic.toml` and a user's own file -> `read_card_file` -> CardFile -> RateCard.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pytest_llmcost.aws_arn import mask_account
from pytest_llmcost.errors import RateCardError

RATE_KEYS = ("input", "cache_write_5m", "cache_write_1h", "cache_read", "output")
"""The rates of a row, by their keys in the file; US dollars per million tokens."""
_S = TypeVar("_S", bound=msgspec.Struct)
_MOST_DIGITS = 15
"""More than any rate needs; it keeps the arithmetic exact within `money.EXACT`."""
_MOST_BYTES = 1_000_000
"""Of a price file; the shipped one has 22,000."""
_MOST_SHOWN = 200
_LEAST_RATE = Decimal("0.0001")
"""Nobody sells a million tokens for less: such an amount is one of a single token."""
_LEAST_FACTOR = Decimal("0.001")
_PLAIN = re.compile(r"[0-9.eE+-]+")
"""What an amount in quotes may be written with; `Decimal` also reads `1_0` and ` 10 `."""
_PLACE = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.(?P<key>[^.\[\]]+)|\[(?P<index>\d+)\]")
_NAMED = re.compile(r"(?:unknown|required) field `(?P<key>[^`]+)`")


class RateRow(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"from_on": "from", "until_on": "until"},
):
    """One dated row: five rates, or a factor on whatever rates are in force.

    Units: US dollars per million tokens; dates are UTC days.
    """

    from_on: date
    until_on: date | None = None
    """The first day on which it no longer holds."""
    speed: str | None = None
    """`fast`, or nothing for the standard speed; on a factor, nothing is every speed."""
    above: int | None = None
    """Holds for prompts longer than this; on a factor, nothing is every length."""
    input: Decimal | None = None
    cache_write_5m: Decimal | None = None
    cache_write_1h: Decimal | None = None
    cache_read: Decimal | None = None
    output: Decimal | None = None
    factor: Decimal | None = None
    sources: tuple[str, ...] = ()
    checked_on: date | None = None

    def holds_on(self, on: date) -> bool:
        """Tell whether the row is in force on a day."""
        return self.from_on <= on and (self.until_on is None or on < self.until_on)


class ModelEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file says of one model; in a user's file only what it adds or changes."""

    aliases: tuple[str, ...] = ()
    bedrock: str | None = None
    """Its id on Bedrock, without a geography prefix."""
    vertex: str | None = None
    """Its id on Google Cloud, where that differs from Anthropic's."""
    geography: Mapping[str, Decimal] = {}
    """Factor by `usage.inference_geo`."""
    regional: Decimal | None = None
    """Factor of a cloud's regional and multi-region endpoints."""
    min_cacheable_tokens: int | None = None
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
    """Known to be free; where this is empty, every category not billed is."""
    sources: tuple[str, ...] = ()
    checked_on: date | None = None


class CodeExecution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What container time costs; no response shows it, so it is a caveat and never a charge."""

    usd_per_hour: Decimal
    free_hours_per_month: int
    minimum_minutes: int
    free_beside: tuple[str, ...]
    """Tools beside which it is free, each as `name_date`; later dates count too."""


class CardFile(msgspec.Struct, frozen=True, kw_only=True):
    """A price file: the shipped card, or a user's changes to it."""

    version: str | None = None
    checked_on: date | None = None
    batch_factor: Decimal | None = None
    web_search_usd_per_1000: Decimal | None = None
    geographies_at_list: tuple[str, ...] = ()
    bedrock_prefixes: tuple[str, ...] = ()
    bedrock_global_prefix: str | None = None
    bedrock_gov_prefix: str | None = None
    bedrock_gov_factor: Decimal | None = None
    """Of every model's tokens in AWS GovCloud (US), in place of its regional factor."""
    refusals: tuple[RefusalRule, ...] = ()
    code_execution: CodeExecution | None = None
    sources: Mapping[str, str] = {}
    models: Mapping[str, ModelEntry] = {}


class _Settings(CardFile, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything but the models, which are read one by one so that errors can name theirs."""


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
    return parse_card_file(data, origin=str(path)), data


def parse_card_file(data: bytes, *, origin: str) -> CardFile:
    """Parse the bytes of a price file; `origin` names it in errors."""
    import tomli

    try:
        raw = tomli.loads(data.decode("utf-8"), parse_float=Decimal)
    except (ValueError, ArithmeticError, RecursionError) as error:  # of a number without end, too
        hint = "; names with / or : need quotes" if "table declaration" in str(error) else ""
        raise RateCardError(f"price file {origin}: not TOML: {error}{hint}") from error
    models = raw.pop("models", {})
    if not isinstance(models, dict):
        raise RateCardError(f"price file {origin}: models: expected a table, got {_quoted(models)}")
    settings = _convert(raw, _Settings, origin)
    _check_factor(settings.batch_factor, f"{origin}: batch_factor")
    _check_factor(settings.bedrock_gov_factor, f"{origin}: bedrock_gov_factor")
    fields = {name: getattr(settings, name) for name in CardFile.__struct_fields__}
    # Without account ids from here on: names of a card get into ledgers and messages.
    masked = {mask_account(name): entry for name, entry in models.items()}
    if len(masked) < len(models):
        raise RateCardError(
            f"price file {origin}: models: two names differ only in their AWS account; "
            "put both into one table"
        )
    entries = {name: _parse_model(name, entry, origin) for name, entry in masked.items()}
    return CardFile(**(fields | {"models": entries}))


def _parse_model(name: str, raw: object, origin: str) -> ModelEntry:
    where = f'{origin}: model "{name}"'
    _check_quotes(name, raw, where)
    entry = _convert(raw, ModelEntry, where)
    entry = msgspec.structs.replace(entry, aliases=tuple(map(mask_account, entry.aliases)))
    _check_factor(entry.regional, f"{where}: regional")
    for place, factor in entry.geography.items():
        _check_factor(factor, f"{where}: geography.{place}")
    for number, row in enumerate(entry.rates, start=1):
        _check_row(row, f"{where}: rates row {number} (from {row.from_on})")
    return entry


def _check_quotes(name: str, raw: object, where: str) -> None:
    """A point in a name without quotes makes a table in a table: opus-4.7 is a 7 in opus-4."""
    for key, value in raw.items() if isinstance(raw, dict) else ():
        if isinstance(value, dict) and key not in ModelEntry.__struct_fields__:
            raise RateCardError(
                f"price file {where}: {key}: unknown field; a model's name with a point in it "
                f'needs quotes: [models."{name}.{key}"]'
            )


def _convert(raw: object, kind: type[_S], where: str) -> _S:
    try:
        value = msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise RateCardError(f"price file {where}: {_explain(str(error), raw)}") from error
    _check_amounts(msgspec.to_builtins(value, builtin_types=(Decimal, date)), raw, where)
    return value


def _explain(text: str, raw: object) -> str:
    """Turn msgspec's message and its path into the key, the value and what was expected."""
    match = _PLACE.fullmatch(text)
    assert match is not None  # the pattern matches every text
    keys = [step["key"] or step["index"] for step in _STEP.finditer(match["path"] or "")]
    named = _NAMED.search(match["what"])
    if named:
        keys.append(named["key"])
    value = _look_up(raw, keys)
    where = "".join(f"[{key}]" if key.isdigit() else f".{key}" for key in keys).lstrip(".")
    shown = "" if value is _MISSING else f", got {_quoted(value)}"
    what = match["what"]
    if named:
        what = "required, but missing" if "missing" in what else "unknown field"
    return f"{where or 'entry'}: {what}{shown}"


_MISSING = object()


def _look_up(raw: object, keys: list[str]) -> object:
    for key in keys:
        if isinstance(raw, list) and key.isdigit():
            raw = raw[int(key)]
        else:
            assert isinstance(raw, dict)  # the path leads through lists and tables
            raw = raw.get(key, _MISSING)
    return raw


def _check_amounts(value: object, raw: object, where: str) -> None:
    for path, number, written in _numbers(value, raw, ""):
        is_plain = not isinstance(written, str) or _PLAIN.fullmatch(written)
        if not is_plain or not number.is_finite() or number < 0 or _digits(number) > _MOST_DIGITS:
            raise RateCardError(
                f"price file {where}: {path}: expected an amount of at least 0 with at most "
                f"{_MOST_DIGITS} digits, got {_shown(number if is_plain else written)}"
            )


def _shown(number: object) -> str:
    text = str(number)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _quoted(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # in hexadecimal, it may have more digits than Python writes
        return "a number of more than 4,300 digits"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _digits(number: Decimal) -> int:
    """How many digits a finite number has when written without an exponent."""
    _, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    return max(len(digits) + exponent, len(digits), -exponent)


def _numbers(value: object, raw: Any, path: str) -> Iterator[tuple[str, Decimal, object]]:
    """Yield every number with its path, and as the file has it."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key in raw:  # else it is a default of ours
                yield from _numbers(each, raw[key], f"{path}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            yield from _numbers(each, raw[index], f"{path}[{index}]")
    elif isinstance(value, (int, Decimal)):
        yield path, Decimal(value), raw


def _check_row(row: RateRow, where: str) -> None:
    given = [key for key in RATE_KEYS if getattr(row, key) is not None]
    if row.until_on is not None and row.until_on <= row.from_on:
        raise RateCardError(f"price file {where}: until: {row.until_on} is not after from")
    if row.factor is not None and given:
        raise RateCardError(
            f"price file {where}: factor: give rates or a factor on the rates in force, "
            f"not both; got factor = {row.factor} and {given[0]} = {getattr(row, given[0])}"
        )
    _check_factor(row.factor, f"{where}: factor")
    for key in given:
        if 0 < getattr(row, key) < _LEAST_RATE:
            raise RateCardError(
                f"price file {where}: {key}: {getattr(row, key):f} is too little; rates are US "
                "dollars per million tokens, and this may be the price of one"
            )
    if row.factor is None and not given:
        raise RateCardError(
            f"price file {where}: gives no rate; write {', '.join(RATE_KEYS)}, or a factor"
        )


def _check_factor(factor: Decimal | None, where: str) -> None:
    if factor is not None and factor < _LEAST_FACTOR:
        raise RateCardError(
            f"price file {where}: expected a factor of at least {_LEAST_FACTOR}, got {factor}; "
            "prices are multiplied by it, so 0.8 is a discount of 20 %"
        )

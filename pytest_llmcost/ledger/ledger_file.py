"""The JSON of a ledger: reading, writing, and its schema."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec

from pytest_llmcost.errors import LedgerError
from pytest_llmcost.files import write_atomic
from pytest_llmcost.ledger.ledger import SCHEMA, Ledger, calls_of
from pytest_llmcost.money import plain_usd
from pytest_llmcost.prices.caveats import decode_caveat, encode_caveat
from pytest_llmcost.prices.usage import find_impossible

_LISTS = ("fixtures", "outside_tests", "tests")
"""What grows with the run. It is written row by row, so that a long run needs no second copy."""

_RARE = frozenset(
    {
        "at",
        "band_tokens",
        "idle",
        "lost_attempts",
        "max_tokens",
        "may_cache",
        "most_output_tokens",
        "param",
        "pattern",
        "read_lifetime",
        "reason",
        "refusal",
        "required",
        "sums_calls",
        "usage_high",
        "usage_low",
        "warn_at",
    }
)
"""Left out where they are null or false."""

_SCHEMA_NAME = re.compile(r"pytest-llmcost/(?P<version>\d{1,9})")
_WIDEST_EXPONENT = 60
"""No amount of money has more digits; adding up wider ones would be slow without end."""
_ODD_AMOUNT = re.compile(
    rb'"(?:[a-z_]*usd[a-z_]*|limit|actual|low|high|warn_at)"\s*:\s*'
    rb'("[^"]*[_\s\\\x80-\xff][^"]*")'
)
"""An amount that `Decimal` reads although it is no plain number: `1_0`, ` 10 `, `\uff11`."""


class _Envelope(msgspec.Struct):
    schema: str = ""


def read_ledger(path: str | os.PathLike[str]) -> Ledger:
    """Read a ledger; keys that this version does not know are ignored.

    Raises:
        LedgerError: the file cannot be read, is damaged, of a newer schema, or no ledger.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read ({error.strerror or error})") from None
    return parse_ledger(data, str(path))


def parse_ledger(data: bytes, source: str) -> Ledger:
    """Read a ledger's JSON; the source names it in errors.

    Raises:
        LedgerError: as `read_ledger`.
    """
    try:
        _check_schema(msgspec.json.decode(data, type=_Envelope).schema, source)
        ledger = msgspec.json.decode(data, type=Ledger, dec_hook=decode_caveat)
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        raise LedgerError(
            f"{source}: is not a ledger of pytest-llmcost, or damaged ({error})"
        ) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise LedgerError(f"{source}: is not JSON, or ends too early ({error})") from None
    if (odd := _ODD_AMOUNT.search(data)) is not None:
        raise _no_amount(odd[1].decode("utf-8", "replace"), source)
    for name in _amount_fields(Ledger):
        # Only differences to a baseline can be negative.
        _check_amounts(getattr(ledger, name), source, is_signed=name == "comparison")
    for call in calls_of(ledger):
        if (impossible := find_impossible(call.sampling_calls)) is not None:
            raise LedgerError(f"{source}: is damaged, a call has {impossible}")
    return ledger


def _no_amount(text: str, source: str) -> LedgerError:
    shown = text if len(text) < 40 else f"{text[:40]}..."
    return LedgerError(f"{source}: is damaged, {shown} is not an amount of money")


def _check_schema(schema: str, source: str) -> None:
    match = _SCHEMA_NAME.fullmatch(schema)
    if match is not None and int(match["version"]) > int(SCHEMA.rpartition("/")[2]):
        raise LedgerError(
            f"{source}: has the schema {schema}, newer than {SCHEMA}, the newest that this "
            "version reads; update pytest-llmcost"
        )
    if schema != SCHEMA:
        raise LedgerError(
            f"{source}: has the schema {schema!r}, not {SCHEMA}; "
            "it is not a ledger of pytest-llmcost"
        )


def _check_amounts(value: Any, source: str, *, is_signed: bool) -> None:
    """Refuse an amount that no price can be: negative, infinite, or of a thousand digits."""
    if isinstance(value, Decimal):
        is_sane = value.is_finite() and abs(value.adjusted()) <= _WIDEST_EXPONENT
        if not is_sane or (value < 0 and not is_signed):
            raise _no_amount(str(value), source)
    elif isinstance(value, msgspec.Struct):
        for name in _amount_fields(type(value)):
            _check_amounts(getattr(value, name), source, is_signed=is_signed)
    elif value is not None:
        for each in value.values() if isinstance(value, Mapping) else value:
            _check_amounts(each, source, is_signed=is_signed)


@cache
def _amount_fields(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    """Name the fields of a type that are amounts, or have amounts in them."""
    return tuple(field.name for field in msgspec.structs.fields(struct) if _has_amounts(field.type))


def _has_amounts(kind: Any) -> bool:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return bool(_amount_fields(kind))
    return kind is Decimal or any(map(_has_amounts, get_args(kind)))


def write_ledger(ledger: Ledger, path: str | os.PathLike[str]) -> None:
    """Write a ledger as JSON, whole or not at all; its folders are made.

    Raises:
        LedgerError: the file cannot be written.
    """
    write_file(path, _chunks(ledger))


def render_json(ledger: Ledger) -> bytes:
    """Render a ledger as JSON: sorted, indented by one space, ending in a line feed."""
    return b"".join(_chunks(ledger))


def to_json(value: Any) -> Any:
    """Make builtins of a value of ours, money as text in plain digits."""
    whole = [msgspec.to_builtins(value, builtin_types=(Decimal,), enc_hook=encode_caveat)]
    _make_plain(whole)
    return whole[0]


def _make_plain(node: Any) -> None:
    """Turn amounts into text and drop rare keys that say nothing, in place: this runs hot."""
    if type(node) is dict:
        for key in _RARE & node.keys():
            if node[key] is None or node[key] is False:
                del node[key]
        for key, each in node.items():
            if type(each) is Decimal:
                node[key] = plain_usd(each)
            else:
                _make_plain(each)
    elif type(node) is list or type(node) is tuple:
        for each in node:
            _make_plain(each)


def _chunks(ledger: Ledger) -> Iterator[bytes]:
    opening = b"{"
    for name in sorted(ledger.__struct_fields__):
        yield opening + b"\n " + msgspec.json.encode(name) + b": "
        value = getattr(ledger, name)
        if name in _LISTS and value:
            joint = b"["
            for row in value:
                yield joint + b"\n  " + _indented(row, 2)
                joint = b","
            yield b"\n ]"
        else:
            yield _indented(value, 1)
        opening = b","
    yield b"\n}\n"


def _indented(value: Any, depth: int) -> bytes:
    try:
        text = msgspec.json.encode(to_json(value), order="sorted")
    except UnicodeEncodeError:  # a node id from a file name that is no UTF-8
        text = msgspec.json.encode(_escape(to_json(value)), order="sorted")
    return msgspec.json.format(text, indent=1).replace(b"\n", b"\n" + b" " * depth)


def _escape(value: Any) -> Any:
    """Write half characters as their escape sequences, in every text of a value."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, (list, tuple)):
        return [_escape(each) for each in value]
    if isinstance(value, dict):
        return {_escape(key): _escape(each) for key, each in value.items()}
    return value


def write_file(path: str | os.PathLike[str], chunks: Iterable[bytes]) -> None:
    """Replace a file by one that is complete, so that no reader ever sees half of it.

    Raises:
        LedgerError: the file cannot be written; what stood there before is left as it was.
    """
    try:
        write_atomic(Path(path), chunks)
    except OSError as error:
        raise LedgerError(f"{path}: cannot be written ({error.strerror or error})") from None


def ledger_schema() -> dict[str, Any]:
    """Return the JSON Schema of ledgers, made from the types."""
    schema = msgspec.json.schema(
        Ledger, ref_template="#/$defs/{name}", schema_hook=lambda kind: {"type": "string"}
    )
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"A ledger of pytest-llmcost, schema {SCHEMA}"
    plain: dict[str, Any] = _with_plain_decimals(schema)
    return plain


def _with_plain_decimals(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_plain_decimals(each) for each in node]
    if not isinstance(node, dict):
        return node
    if node.get("format") == "decimal":
        return {"type": "string", "pattern": r"^-?\d+(\.\d+)?$"}
    return {key: _with_plain_decimals(each) for key, each in node.items()}

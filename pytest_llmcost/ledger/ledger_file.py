"""The JSON of a ledger: reading, writing, and its schema."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from pytest_llmcost.errors import LedgerError
from pytest_llmcost.files import write_atomic
from pytest_llmcost.ledger.ledger import SCHEMA, Ledger, calls_of
from pytest_llmcost.money import plain_usd
from pytest_llmcost.prices.caveats import decode_caveat, encode_caveat
from pytest_llmcost.prices.usage import find_impossible

_LISTS = ("fixtures", "outside_tests", "tests")
"""What grows with the run. It is written row by row, so that a long run needs no second copy."""


def _amount_keys(kind: Any, name: str = "") -> Iterator[str]:
    """Yield the keys of all amounts in a type, at any depth."""
    if kind is Decimal:
        yield name
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            yield from _amount_keys(field.type, field.encode_name)
    for inner in get_args(kind):
        yield from _amount_keys(inner, name)


# A quote within a text is escaped, so that what these match is a key and its value, and no text.
_AMOUNT = "|".join(sorted(set(_amount_keys(Ledger)))).join(('"(?:', ')":'))
_UNUSUAL = re.compile(rf'("\w*usd":|{_AMOUNT})"(-?\d+\.\d*0|-?[\d.]+E[+-]?\d+|-0)"'.encode())
"""An amount, of a ledger or under a key in `usd`, that `str` writes with an exponent, zeros at its
end, or as a negative zero."""
_PLAIN = r'"?{}\d{{1,60}}(?:\.\d{{1,60}})?"?\s*[,}}]'
_ODD, _ODD_CHANGE = (
    re.compile(
        rf'{_AMOUNT[:-1]}\s*:(?!\s*(?:null\b|{_PLAIN.format(sign)}|"[0-9a-f]*[a-df]))'
        r'\s*"?([^",}]*)'.encode()
    )
    for sign in ("", "-?")
)
"""No amount of money: `NaN`, `1E+999` (adding that up would be slow without end), `1_0`, and, in
all but a comparison, one below zero. Something hexadecimal is the digest of a part of that name."""
_RARE = re.compile(
    rb'"(?:at|band_tokens|broken_prefix|by_category|idle|lost_attempts|max_tokens|may_cache|most_output_tokens'
    rb"|most_read_tokens|param|part|pattern|read_lifetime|reason|refusal|required|sums_calls"
    rb'|usage_high|usage_low|warn_at|by_tag|tags|vanished)":(?:null|false|\[\]|\{\}),'
)
"""Keys that are left out where they are null, false or empty; `warn_at` may also come last."""
_OLD_KEY = re.compile(rb'"(legs|what_if|cache_basis)"\s*:\s*(?:\[|"(?:as-billed|cold|warm)")')
"""A key of the first ledgers; to ignore it would be to lose the calls, or how they were priced."""
_SCHEMA_NAME = re.compile(r"pytest-llmcost/(?P<version>\d{1,9})")


class _Envelope(msgspec.Struct):
    schema: str = ""
    comparison: msgspec.Raw = msgspec.Raw(b"null")


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
        if b"\\u" in data:  # a key may be written in escape sequences
            data = msgspec.json.encode(msgspec.json.decode(data))
        envelope = msgspec.json.decode(data, type=_Envelope)
        _check_schema(envelope.schema, source)
        ledger = msgspec.json.decode(data, type=Ledger, dec_hook=decode_caveat)
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        raise LedgerError(
            f"{source}: is not a ledger of pytest-llmcost, or damaged ({error})"
        ) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise LedgerError(f"{source}: is not JSON, or ends too early ({error})") from None
    if (old := _OLD_KEY.search(data)) is not None:
        raise LedgerError(
            f"{source}: has the key `{old[1].decode()}`, which this version does not read; write "
            "the ledger again: run the tests with --llmcost-report"
        )
    comparison = bytes(envelope.comparison)
    rest = data if ledger.comparison is None else data.replace(comparison, b"null", 1)
    if (odd := _ODD.search(rest) or _ODD_CHANGE.search(comparison)) is not None:
        shown = odd[1].decode("utf-8", "replace")
        shown = shown if len(shown) < 40 else f"{shown[:40]}..."
        raise LedgerError(f"{source}: is damaged, {shown} is not an amount of money")
    sampling_calls = [sampling for call in calls_of(ledger) for sampling in call.sampling_calls]
    if (impossible := find_impossible(sampling_calls)) is not None:
        raise LedgerError(f"{source}: is damaged, a call has {impossible}")
    return ledger


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
    return msgspec.json.decode(_compact(value))


def _compact(value: Any, order: Literal["sorted"] | None = None) -> bytes:
    try:
        text = msgspec.json.encode(value, enc_hook=encode_caveat, order=order)
    except UnicodeEncodeError:  # a node id from a file name that is no UTF-8
        whole = msgspec.to_builtins(value, enc_hook=encode_caveat)
        text = msgspec.json.encode(_escape(whole), order=order)

    def plain(amount: re.Match[bytes]) -> bytes:
        return b'%b"%b"' % (amount[1], plain_usd(Decimal(amount[2].decode())).encode())

    text = _RARE.sub(b"", text).replace(b',"warn_at":null}', b"}")
    return _UNUSUAL.sub(plain, text)


def _escape(value: Any) -> Any:
    """Write half characters as their escape sequences, in every text of a value."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, (list, tuple)):
        return [_escape(each) for each in value]
    if isinstance(value, dict):
        return {_escape(key): _escape(each) for key, each in value.items()}
    return value


def _chunks(ledger: Ledger) -> Iterator[bytes]:
    def indented(value: Any, depth: int) -> bytes:
        text = msgspec.json.format(_compact(value, "sorted"), indent=1)
        return text.replace(b"\n", b"\n" + b" " * depth)

    opening = b"{"
    for name in sorted(ledger.__struct_fields__):
        yield opening + b"\n " + msgspec.json.encode(name) + b": "
        value = getattr(ledger, name)
        if name in _LISTS and value:
            joint = b"["
            for row in value:
                yield joint + b"\n  " + indented(row, 2)
                joint = b","
            yield b"\n ]"
        else:
            yield indented(value, 1)
        opening = b","
    yield b"\n}\n"


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

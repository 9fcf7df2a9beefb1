"""The JSON of a ledger: reading, writing, and its schema."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from pytest_llmcost.errors import LedgerError
from pytest_llmcost.files import write_atomic
from pytest_llmcost.ledger.ledger import SCHEMA, Comparison, Ledger, Totals, calls_of
from pytest_llmcost.money import plain_usd, read_digits
from pytest_llmcost.prices.caveats import decode_caveat, encode_caveat
from pytest_llmcost.prices.usage import find_impossible

_LONG = ("fixtures", "outside_tests", "payloads", "tests")
"""What grows with the run. It is written in batches, so that a long run needs no second copy."""
_BATCH = 50


def _amount_keys(kind: Any, name: str = "") -> Iterator[str]:
    """Yield the keys of all amounts in a type, at any depth."""
    if kind is Decimal:
        yield name
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            yield from _amount_keys(field.type, field.encode_name)
    for inner in get_args(kind):
        yield from _amount_keys(inner, name)


_AMOUNTS = sorted(set(_amount_keys(Ledger)))
# A quote within a text is escaped, so that what these match is a key and its value, and no text.
# They begin with fixed letters, because those are found several times as fast.
_UNUSUAL = re.compile(
    r'":"(?=(?:-?\d+\.\d*0|-?[\d.]+E[+-]?\d+|-0)")(?:{})([^"]*)'.format(
        "|".join(rf'(?<={key}":")' for key in ("usd", *(f'"{each}' for each in _AMOUNTS)))
    ).encode()
)
"""An amount, of a ledger or under a key in `usd`, that `str` writes with an exponent, zeros at its
end, or as a negative zero."""
_PLAIN = r'"?{}\d{{1,60}}(?:\.\d{{1,60}})?"?\s*[,}}]'
_KEYS = "|".join(key for key in _AMOUNTS if "usd" not in key)
_ODD, _ODD_CHANGE = (
    [
        re.compile(
            rf'{key}"\s*:(?!\s*(?:null\b|[\[{{]|{_PLAIN.format(sign)}))'
            r'\s*"?([^",}]*)'.encode()
        )
        for key in (r'usd(?<=["_]usd)(?:_\w+)?', f'"(?:{_KEYS})')
    ]
    for sign in ("", "-?")
)
"""No amount of money: `NaN`, `1E+999` (adding that up would be slow without end), `1_0`, and, in
all but a comparison, one below zero. An object has the figures of a tag of that name."""


class _Envelope(msgspec.Struct):
    schema: str = ""
    comparison: msgspec.Raw = msgspec.Raw(b"null")
    payloads: msgspec.Raw = msgspec.Raw(b"{}")


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
    """Read a ledger's JSON as `read_ledger` does; the source names it in errors."""
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        if envelope.schema != SCHEMA:
            ours, _, newest = SCHEMA.rpartition("/")
            name, _, version = envelope.schema.rpartition("/")
            why = f"not {SCHEMA}; it is not a ledger of pytest-llmcost"
            if name == ours and (read_digits(version) or 0) > int(newest):
                why = f"newer than {SCHEMA}; update pytest-llmcost"
            raise LedgerError(f"{source}: has the schema {envelope.schema!r}, {why}")
        # A key may be written in escape sequences; the search for one byte is much faster.
        if b"\\" in data and b"\\u" in data:
            data = msgspec.json.encode(msgspec.json.decode(data))
            envelope = msgspec.json.decode(data, type=_Envelope)
        ledger = msgspec.json.decode(data, type=Ledger, dec_hook=decode_caveat)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LedgerError(
            f"{source}: is not a ledger of pytest-llmcost, or is damaged ({error})"
        ) from None
    # There is no amount in payloads, but there are parts of any name.
    data = data.replace(bytes(envelope.payloads), b"{}", 1)
    searches = [(each, data) for each in _ODD]
    if ledger.comparison is not None:
        comparison = bytes(envelope.comparison)
        searches = [(each, data.replace(comparison, b"null", 1)) for each in _ODD]
        searches += [(each, comparison) for each in _ODD_CHANGE]
    for odd in filter(None, (pattern.search(text) for pattern, text in searches)):
        shown = odd[1].decode("utf-8", "replace").rstrip()
        shown = shown if len(shown) < 40 else f"{shown[:40]}..."
        raise LedgerError(f"{source}: is damaged, {shown} is not an amount of money")
    sampling_calls = [each for call in calls_of(ledger) for each in call.sampling_calls]
    if (impossible := find_impossible(sampling_calls)) is not None:
        raise LedgerError(f"{source}: is damaged, a call has {impossible}")
    return ledger


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
        whole = msgspec.to_builtins(value, enc_hook=encode_caveat, order=order)
        written = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
        # As the text of its escape sequence: a reader refuses the sequence itself.
        text = re.sub("[\ud800-\udfff]", lambda half: f"\\\\u{ord(half[0]):x}", written).encode()

    def plain(amount: re.Match[bytes]) -> bytes:
        return b'":"' + plain_usd(Decimal(amount[1].decode())).encode()

    text = text.replace(b'"by_category":{},', b"")
    if isinstance(value, (Totals, Comparison)):
        text = text.replace(b'"by_tag":{},', b"").replace(b'"vanished":[],', b"")
    return _UNUSUAL.sub(plain, text)


def _batches(rows: Any) -> Iterator[Any]:
    """Cut a mapping, by its sorted keys, or a sequence; yield it whole if it is short."""
    keys = sorted(rows) if isinstance(rows, Mapping) else rows
    for start in range(0, max(len(keys), 1), _BATCH):
        batch = keys[start : start + _BATCH]
        yield {key: rows[key] for key in batch} if isinstance(rows, Mapping) else batch


def _chunks(ledger: Ledger) -> Iterator[bytes]:
    opening = b"{"
    for name in sorted(ledger.__struct_fields__):
        yield opening + b"\n " + msgspec.json.encode(name) + b": "
        value, closing = getattr(ledger, name), b""
        for batch in _batches(value) if name in _LONG else [value]:
            # Within brackets, so that it is indented once more; these are cut off.
            text = msgspec.json.format(b"[%b]" % _compact(batch, "sorted"), indent=1)[3:-2]
            yield b"," + text[1:-3] if closing else text[:-3]
            closing = text[-3:]
        yield closing
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

"""Pool: equal parts of the many calls of a ledger, kept once; it halves what a long one takes.

Used on values that have just been read and that nobody has seen yet.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
from msgspec.structs import force_setattr

from pytest_llmcost.call import Call
from pytest_llmcost.errors import LedgerError
from pytest_llmcost.ledger.ledger import (
    SCHEMA,
    FixtureRow,
    Ledger,
    PayloadFacts,
    TestRow,
    all_verdicts,
    calls_of,
)
from pytest_llmcost.money import plain_usd
from pytest_llmcost.prices.caveats import decode_caveat, encode_caveat
from pytest_llmcost.prices.usage import find_impossible

_Row = TypeVar("_Row", TestRow, FixtureRow, Call)


_MAPPINGS = ("parts", "counts", "rejected", "dropped", "cached")
_NOTHING: dict[str, Any] = {}


class Pool:
    """Values seen so far, by themselves."""

    def __init__(self) -> None:
        self._seen: dict[Any, Any] = {}

    def share(self, row: _Row) -> _Row:
        """Make a row, or a call, refer to equal values that were seen before; return it."""
        if isinstance(row, Call):
            self._share_call(row)
            return row
        if isinstance(row, TestRow):
            self._reuse(row, "path")
            self._reuse(row, "outcome")
        for call in row.calls:
            self._share_call(call)
        return row

    def share_payload(self, payload: PayloadFacts) -> PayloadFacts:
        """Make a payload refer to equal names, digests and empty mappings seen before."""
        self._reuse(payload, "model")
        for name in _MAPPINGS:
            facts = getattr(payload, name)
            pooled = {key: self._seen.setdefault(fact, fact) for key, fact in facts.items()}
            force_setattr(payload, name, pooled or _NOTHING)
        return payload

    def _share_call(self, call: Call) -> None:
        self._reuse(call, "model")
        self._reuse(call, "context")
        for sampling in call.sampling_calls:
            self._reuse(sampling, "model")
            if sampling.usage == call.usage:
                force_setattr(sampling, "usage", call.usage)
            if sampling.usd == call.usd:
                force_setattr(sampling, "usd", call.usd)
        for name in ("usd_low", "usd_high"):
            if getattr(call, name) == call.usd:
                force_setattr(call, name, call.usd)

    def _reuse(self, owner: Any, name: str) -> None:
        value = getattr(owner, name)
        force_setattr(owner, name, self._seen.setdefault(value, value))


_LISTS = ("fixtures", "outside_tests", "tests")
"""What grows with the run; written row by row, so that a long run needs no second copy of it."""

_RARE = frozenset(
    {
        "at",
        "band_tokens",
        "max_tokens",
        "lost_attempts",
        "may_cache",
        "most_output_tokens",
        "param",
        "pattern",
        "read_lifetime",
        "reason",
        "refusal",
        "sums_calls",
        "usage_high",
        "usage_low",
        "warn_at",
    }
)
"""Left out while they say nothing (null or false)."""

_SCHEMA_NAME = re.compile(r"pytest-llmcost/(?P<version>\d{1,9})")
_WIDEST_EXPONENT = 60
_ODD_AMOUNT = re.compile(
    rb'"(?:[a-z_]*usd[a-z_]*|limit|actual|low|high|warn_at)"\s*:\s*'
    rb'("[^"]*[_\s\\\x80-\xff][^"]*")'
)
"""An amount that `Decimal` reads although it is no plain number: `1_0`, ` 10 `, `\uff11`."""


_TYPES = {field.name: field.type for field in msgspec.structs.fields(Ledger)}
_KEYS_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PAYLOAD_DECODER = msgspec.json.Decoder(PayloadFacts)
_LIST_DECODER = msgspec.json.Decoder(list[msgspec.Raw])
_DECODERS = {
    name: msgspec.json.Decoder(kind, dec_hook=decode_caveat) for name, kind in _TYPES.items()
}
_ROW_DECODERS = {
    name: msgspec.json.Decoder(get_args(_TYPES[name])[0], dec_hook=decode_caveat) for name in _LISTS
}


def read_ledger(path: str | os.PathLike[str]) -> Ledger:
    """Read a ledger; keys that this version does not know are passed over.

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
        LedgerError: as `read_report`.
    """
    try:
        raw = _KEYS_DECODER.decode(data)
        _check_schema(_DECODERS["schema"].decode(raw.get("schema", b'""')), source)
        ledger = Ledger(**{name: _decode(name, raw[name]) for name in _TYPES if name in raw})
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        raise LedgerError(f"{source}: is no ledger of ours, or damaged ({error})") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise LedgerError(f"{source}: is damaged, not JSON to its end ({error})") from None
    if (odd := _ODD_AMOUNT.search(data)) is not None:
        shown = odd[1].decode("utf-8", "replace")
        raise LedgerError(f"{source}: is damaged, {_shown(shown)} is no amount of money")
    _check_amounts(ledger, source)
    for call in calls_of(ledger):
        if (impossible := find_impossible(call.sampling_calls)) is not None:
            raise LedgerError(f"{source}: is damaged, a call has {impossible}")
    return ledger


def _decode(name: str, raw: msgspec.Raw) -> Any:
    pool = Pool()
    if name in _LISTS:
        rows = enumerate(_decode_at(f"$.{name}", _LIST_DECODER, raw))
        decoder = _ROW_DECODERS[name]
        return tuple(
            pool.share(_decode_at(f"$.{name}[{place}]", decoder, row)) for place, row in rows
        )
    if name == "payloads":
        found = _decode_at("$.payloads", _KEYS_DECODER, raw)
        return {
            key: pool.share_payload(_decode_at("$.payloads[...]", _PAYLOAD_DECODER, payload))
            for key, payload in found.items()
        }
    return _decode_at(f"$.{name}", _DECODERS[name], raw)


def _decode_at(place: str, decoder: msgspec.json.Decoder[Any], raw: msgspec.Raw) -> Any:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        text, found, inner = str(error).partition(" - at `$")
        raise msgspec.ValidationError(f"{text} - at `{place}{inner if found else '`'}") from None


def _check_schema(schema: str, source: str) -> None:
    if schema == SCHEMA:
        return
    match = _SCHEMA_NAME.fullmatch(schema)
    if match is not None and int(match["version"]) > int(SCHEMA.rpartition("/")[2]):
        raise LedgerError(
            f"{source}: has the schema {schema}, newer than {SCHEMA}, the newest that this "
            "version reads; update pytest-llmcost"
        )
    raise LedgerError(f"{source}: has the schema {schema!r}, not {SCHEMA}; it is no ledger of ours")


def _check_amounts(ledger: Ledger, source: str) -> None:
    """Refuse amounts that no price can be: negative, infinite, or of a thousand digits."""
    for amount in _spent(ledger):
        if amount is not None and not (_is_sane(amount) and amount >= 0):
            raise LedgerError(f"{source}: is damaged, {_shown(amount)} is no amount of money")
    for amount in _stated(ledger):
        if amount is not None and not _is_sane(amount):
            raise LedgerError(f"{source}: is damaged, {_shown(amount)} is no amount")


def _is_sane(amount: Decimal) -> bool:
    return amount.is_finite() and abs(amount.adjusted()) <= _WIDEST_EXPONENT


def _shown(amount: object) -> str:
    text = str(amount)
    return text if len(text) < 40 else f"{text[:40]}..."


def _spent(ledger: Ledger) -> Iterator[Decimal | None]:
    yield from (ledger.totals.usd, ledger.totals.live_usd)
    for total in ledger.totals.by_model.values():
        yield from (total.usd, total.live_usd)
    for test in ledger.tests:
        yield test.usd
    for fixture in ledger.fixtures:
        yield fixture.usd
    for other in ledger.other_models:
        for figures in (other, *other.rows):
            yield from (figures.usd, figures.usd_then)
    for call in calls_of(ledger):
        yield from (call.usd, call.usd_low, call.usd_high, call.declared_usd)
        for sampling in call.sampling_calls:
            yield sampling.usd


def _stated(ledger: Ledger) -> Iterator[Decimal | None]:
    """Yield limits and differences; these may be negative."""
    for verdict in all_verdicts(ledger):
        yield from (verdict.limit, verdict.actual, verdict.low, verdict.high, verdict.warn_at)
    comparison = ledger.comparison
    if comparison is not None:
        yield from (comparison.base_usd_then, comparison.base_usd, comparison.head_usd)
        yield from (comparison.price_change_usd, comparison.change_usd)
        yield from (comparison.low_usd, comparison.high_usd)
        for change in comparison.changes:
            yield from (change.base_usd, change.head_usd, change.usd)


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
    _make_plain_list(whole)
    return whole[0]


def _make_plain(node: dict[str, Any]) -> None:
    """Turn amounts into text and drop rare keys that say nothing, in place: this runs hot."""
    for key in _RARE & node.keys():
        if node[key] is None or node[key] is False:
            del node[key]
    for key, each in node.items():
        if type(each) is dict:
            _make_plain(each)
        elif type(each) is Decimal:
            node[key] = plain_usd(each)
        elif type(each) is list or type(each) is tuple:
            _make_plain_list(each)


def _make_plain_list(nodes: Iterable[Any]) -> None:
    for node in nodes:
        if type(node) is dict:
            _make_plain(node)
        elif type(node) is list or type(node) is tuple:
            _make_plain_list(node)


def _chunks(ledger: Ledger) -> Iterator[bytes]:
    opening = b"{"
    for name in sorted(ledger.__struct_fields__):
        yield opening + b"\n " + msgspec.json.encode(name) + b": "
        value = getattr(ledger, name)
        yield from _rows(value) if name in _LISTS else [_indented(value, 1)]
        opening = b","
    yield b"\n}\n"


def _rows(rows: Iterable[Any]) -> Iterator[bytes]:
    joint = b"["
    for row in rows:
        yield joint + b"\n  " + _indented(row, 2)
        joint = b","
    yield b"[]" if joint == b"[" else b"\n ]"


def _indented(value: Any, depth: int) -> bytes:
    try:
        text = msgspec.json.encode(to_json(value), order="sorted")
    except UnicodeEncodeError:  # a node id from a file name that is no UTF-8
        text = msgspec.json.encode(_escape(to_json(value)), order="sorted")
    return msgspec.json.format(text, indent=1).replace(b"\n", b"\n" + b" " * depth)


def _escape(value: Any) -> Any:
    """Write what is no character as its escape sequence, in every text of a value."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, (list, tuple)):
        return [_escape(each) for each in value]
    if isinstance(value, dict):
        return {_escape(key): _escape(each) for key, each in value.items()}
    return value


def write_file(path: str | os.PathLike[str], chunks: Iterable[bytes]) -> None:
    """Write a file by way of a temporary one beside it, so that nobody ever sees half of it.

    Raises:
        LedgerError: the file cannot be written; what stood there before is left as it was.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f".{target.name[:64]}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(chunks)
            os.chmod(draft, _ordinary_mode(target))
            os.replace(draft, target)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise LedgerError(f"{path}: cannot be written ({error.strerror or error})") from None


def _ordinary_mode(target: Path) -> int:
    """The mode of the file that is replaced, else what a plain `open` would have given it."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def ledger_schema() -> dict[str, Any]:
    """Make the JSON Schema of ledgers from the types."""
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

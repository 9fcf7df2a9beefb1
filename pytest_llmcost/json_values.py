"""A payload as the SDK would send it: plain JSON values, whatever it was made of.

Data flow: what a caller hands in (SDK objects, tuples, generators, ...) -> `to_json_value`
-> dict, list, str, int, float, bool, None -> `canonical`, the bytes that are hashed.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence, Set, ValuesView
from datetime import date
from typing import Any, TypeAlias

import msgspec

from pytest_llmcost.errors import PayloadError

JsonValue: TypeAlias = Any
"""dict with str keys, list, str, int, float, bool or None, all the way down."""

_MOST_LEVELS = 100
"""Deeper than any real payload; below the interpreter's own limit, so that we can say where."""
_TOO_LARGE = 10**1_000
"""A whole number of more digits than any API's, and of fewer than Python refuses to write."""


def to_json_value(value: object, path: str = "") -> JsonValue:
    """Turn a payload, or a part of one, into plain JSON values; iterators are read once.

    Follows what the anthropic SDK sends: pydantic objects without their unset fields, sequences
    and iterators as lists, dates in ISO 8601, files in a base64 source read and encoded,
    `omit` left away. Sets are refused although the SDK takes them: they have no order, and two
    runs would send two payloads.

    Raises:
        PayloadError: for what is not JSON, with the dotted path to it.

    Example:
        >>> to_json_value({"content": ({"type": "text", "text": part} for part in "ab")})
        {'content': [{'type': 'text', 'text': 'a'}, {'type': 'text', 'text': 'b'}]}
    """
    return _convert(value, path, ())


def canonical(value: JsonValue) -> bytes:
    """The one byte form of a JSON value: sorted keys, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _convert(value: object, path: str, above: tuple[int, ...]) -> JsonValue:
    convert = _SCALARS.get(type(value))
    if convert is not None:
        return convert(value, path)
    if id(value) in above:
        raise PayloadError(f"{_at(path)} contains itself; a payload cannot be circular", path=path)
    if len(above) >= _MOST_LEVELS:
        raise PayloadError(f"{_at(path)} is nested {_MOST_LEVELS} levels deep", path=path)
    return _convert_other(value, path, (*above, id(value)))


def _convert_other(value: object, path: str, above: tuple[int, ...]) -> JsonValue:
    if isinstance(value, Mapping):
        return _convert_mapping(value, path, above)
    if isinstance(value, (str, int, float)):
        return _convert_subclass(value, path)
    if isinstance(value, (bytes, bytearray, memoryview, type)) or _is_file(value):
        raise _not_json(value, path)
    if isinstance(value, (Sequence, Iterator, KeysView, ValuesView)):
        return [_convert(item, _join(path, index), above) for index, item in enumerate(value)]
    if isinstance(value, date):
        return value.isoformat()
    return _convert(_dump(value, path), path, above)


def _convert_mapping(
    value: Mapping[Any, Any], path: str, above: tuple[int, ...]
) -> dict[str, JsonValue]:
    found = {}
    for key, item in value.items():
        inner = _join(path, key)
        if not isinstance(key, str):
            raise PayloadError(
                f"the key {key!r} in {_at(path)} is {_named(key)}; JSON has text keys only",
                path=inner,
            )
        if key == "data" and value.get("type") == "base64" and _is_file(item):
            item = _read_base64(item)
        if not _is_left_away(item):
            found[_check_text(key, inner)] = _convert(item, inner, above)
    return found


def _convert_subclass(value: str | float, path: str) -> JsonValue:
    """Enumerations and other kinds of str, int and float, as `json` writes them."""
    if isinstance(value, str):
        return _check_text(str.__str__(value), path)
    if isinstance(value, int):
        return _check_size(int.__index__(value), path)
    return _check_number(float.__float__(value), path)


def _dump(value: object, path: str) -> object:
    """The fields of an SDK object (pydantic), without the unset ones."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        hidden = getattr(value, "__api_exclude__", None)
        dumped: object = dump(
            mode="json", exclude_unset=True, by_alias=True, exclude=hidden, warnings=False
        )
        return dumped
    if type(value).__module__.partition(".")[0] == "anthropic" and hasattr(value, "to_dict"):
        described: object = value.to_dict()
        return described
    raise _not_json(value, path)


def _check_text(value: str, path: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise PayloadError(
                f"{_at(path)} holds half a surrogate pair at character {error.start}; "
                "it cannot be sent as UTF-8",
                path=path,
            ) from None
    return value


def _check_number(value: float, path: str) -> float:
    if not math.isfinite(value):
        raise PayloadError(f"{_at(path)} is {value}, which JSON cannot say", path=path)
    return value


def _check_size(value: int, path: str) -> int:
    """Python writes no number of more than 4,300 digits, so it could be neither sent nor hashed."""
    if abs(value) >= _TOO_LARGE:
        raise PayloadError(
            f"{_at(path)} is a whole number of {value.bit_length():,} bits; no API takes that",
            path=path,
        )
    return value


def _keep(value: Any, path: str) -> Any:
    return value


_SCALARS: dict[type, Callable[[Any, str], JsonValue]] = {
    str: _check_text,
    float: _check_number,
    int: _check_size,
    bool: _keep,
    type(None): _keep,
}


def _is_file(value: object) -> bool:
    reads = hasattr(value, "read") and not hasattr(value, "model_dump")
    return reads or isinstance(value, os.PathLike)


def _read_base64(file: Any) -> str:
    if isinstance(file, os.PathLike):
        with open(file, "rb") as opened:
            return base64.b64encode(opened.read()).decode()
    content = file.read()
    if hasattr(file, "seek"):
        file.seek(-len(content), os.SEEK_CUR)  # the caller sends it, too
    return base64.b64encode(content).decode()


def _is_left_away(value: object) -> bool:
    kind = type(value)
    return kind.__name__ in ("Omit", "NotGiven") and kind.__module__.startswith("anthropic")


def _not_json(value: object, path: str) -> PayloadError:
    hint = ""
    if isinstance(value, (bytes, bytearray, memoryview)):
        hint = "; encode it, as base64 for images and documents"
    elif isinstance(value, Set):
        hint = ", which has no order; pass a list"
    elif isinstance(value, type):
        hint = "; pass its JSON schema as output_config or input_schema"
    return PayloadError(f"{_at(path)} is {_named(value)}, which is not JSON{hint}", path=path)


def _named(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    return f"of type {type(value).__qualname__}"


def _at(path: str) -> str:
    return path or "the payload"


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


_decoder = msgspec.json.Decoder()


def decode_json(data: bytes | bytearray | str) -> object:
    """Decode JSON as leniently as the SDK does; None where it is none.

    A lone surrogate, which a model cut in the middle of an emoji sends, is let through.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value

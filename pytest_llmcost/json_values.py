"""Plain JSON values: what the SDK would send of a payload, the bytes that are hashed, and back.

Knows neither payloads nor responses.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from datetime import date
from hashlib import sha256
from itertools import repeat
from os import PathLike
from typing import Any, TypeAlias, TypeVar

import msgspec

from pytest_llmcost.errors import PayloadError

JsonValue: TypeAlias = Any
"""dict with str keys, list, str, int, float, bool or None, all the way down."""

_T = TypeVar("_T")
_MOST_LEVELS = 100
"""Deeper than any real payload, and below the interpreter's own limit."""
_TOO_LARGE = 10**1_000
"""No API takes such a number; Python writes none of more than 4,300 digits, so it has no hash."""


def written(default: _T) -> _T:
    """Declare a field that is written even if it has its default, where others are left out."""
    # msgspec cannot know what a factory makes, so it leaves out none of its values.
    return msgspec.field(default_factory=repeat(default).__next__)


class _NotJson(Exception):
    """What is wrong with a value; each container on the way up adds its key."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        self.keys: list[object] = []


def to_json_value(value: object) -> JsonValue:
    """Turn a payload into plain JSON values; iterators are read once.

    Follows what the anthropic SDK sends: pydantic objects without their unset fields, sequences
    and iterators as lists, dates in ISO 8601, and nothing for `omit`. Files are to be read and
    encoded first. Sets are refused although the SDK takes them: they have no order, so two
    runs would send two payloads.

    Raises:
        PayloadError: a value is not JSON; with the dotted path to it.

    Example:
        >>> to_json_value({"content": ({"type": "text", "text": part} for part in "ab")})
        {'content': [{'type': 'text', 'text': 'a'}, {'type': 'text', 'text': 'b'}]}
    """
    try:
        return _convert(value, 0)
    except _NotJson as error:
        path = ".".join(map(str, reversed(error.keys)))
        where = path if len(path) <= 200 else f"{path[:200]}..."
        raise PayloadError(f"{where or 'the payload'} {error.problem}", path=path) from None


def _convert(value: Any, level: int) -> JsonValue:
    """Convert one value; what is nested deeper than any real payload may contain itself."""
    kind = type(value)
    if kind is bool or value is None:
        return value
    # Of a subclass, such as an enumeration, the plain value, as `json` has it.
    if isinstance(value, str):
        return _checked_text(str.__str__(value))
    if isinstance(value, int):
        if abs(value) >= _TOO_LARGE:
            bits = value.bit_length()
            raise _NotJson(f"is a whole number of {bits:,} bits; no API takes that")
        return int.__index__(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _NotJson(f"is {float.__repr__(value)}, which JSON cannot hold")
        return float.__float__(value)
    if level >= _MOST_LEVELS:
        raise _NotJson(f"is nested {_MOST_LEVELS} levels deep, or contains itself")
    if isinstance(value, Mapping):
        return _convert_mapping(value, level + 1)
    if kind is not list:
        if isinstance(value, (bytes, bytearray, memoryview)):
            raise _NotJson(f"{_of_type(value)}; encode it, as base64 for images and documents")
        is_file = hasattr(value, "read")  # and an iterator, too
        if is_file or not isinstance(value, (Sequence, Iterator, KeysView, ValuesView)):
            return _convert(_sdk_fields(value), level + 1)
    return _convert_items(value, level + 1)


# Every payload is read on every run, so what nearly all of them consist of is converted in the
# loops of these two, without a further call.


def _convert_items(items: Iterable[Any], level: int) -> list[JsonValue]:
    found: list[JsonValue] = []
    try:
        for item in items:
            kind = type(item)
            if kind is str and item.isascii():
                found.append(item)
            elif kind is dict and level < _MOST_LEVELS:
                found.append(_convert_mapping(item, level + 1))
            else:
                found.append(_convert(item, level))
    except _NotJson as error:
        error.keys.append(len(found))
        raise
    return found


def _convert_mapping(value: Mapping[Any, Any], level: int) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    key: object = None
    try:
        for key, item in value.items():
            kind = type(item)
            if type(key) is str and key.isascii():
                if kind is str and item.isascii():
                    found[key] = item
                    continue
                if level < _MOST_LEVELS and (kind is dict or kind is list):
                    inner = _convert_mapping if kind is dict else _convert_items
                    found[key] = inner(item, level + 1)
                    continue
            if not isinstance(key, str):
                raise _NotJson(f"has a key {_of_type(key)[3:]}; JSON has text keys only")
            if _is_of_sdk(item) and kind.__name__ in ("Omit", "NotGiven"):
                continue
            found[_checked_text(key)] = _convert(item, level)
    except _NotJson as error:
        error.keys.append(key)
        raise
    return found


def _checked_text(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _NotJson(
                f"holds half a surrogate pair at character {error.start}; it cannot be sent as "
                "UTF-8"
            ) from None
    return value


def _sdk_fields(value: Any) -> object:
    """Return the fields of an SDK object (pydantic, or a tool made from a function)."""
    if isinstance(value, date):
        return value.isoformat()
    # Of its class: a mock has whatever it is asked for, and so has what that returns.
    if hasattr(value.__class__, "model_dump"):
        hidden = getattr(value, "__api_exclude__", None)  # the SDK's own fields, as `_client`
        return value.model_dump(
            mode="json", exclude_unset=True, by_alias=True, exclude=hidden, warnings=False
        )
    if _is_of_sdk(value) and hasattr(value, "to_dict"):
        return value.to_dict()
    hint = ""
    if isinstance(value, (set, frozenset)):
        hint = " and has no order; pass a list"
    elif isinstance(value, type):
        hint = "; pass its JSON schema as output_config or input_schema"
    elif isinstance(value, PathLike) or hasattr(value.__class__, "read"):
        hint = "; read it, and encode it as base64 for images and documents"
    raise _NotJson(_of_type(value) + hint)


def _is_of_sdk(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "anthropic"


def _of_type(value: object) -> str:
    what = f"the class {value.__qualname__}" if isinstance(value, type) else ""
    return f"is {what or f'of type {type(value).__qualname__}'}, which is not JSON"


def prepare(*kinds: Any) -> None:
    """Let msgspec learn types while a module is imported.

    It would do so when a type is first used, and threads that do so at once crash the process
    (msgspec 0.22).
    """
    for kind in kinds:
        msgspec.json.Decoder(kind)


_encode_sorted = msgspec.json.Encoder(order="deterministic").encode
_encode_in_order = msgspec.json.Encoder().encode


def canonical(value: JsonValue, *, sort_keys: bool = True) -> bytes:
    """Return the one byte form of a JSON value; 1 and 1.0 are two values."""
    try:
        return _encode_sorted(value) if sort_keys else _encode_in_order(value)
    except OverflowError:  # msgspec writes no whole number of more than 64 bits
        return json.dumps(value, sort_keys=sort_keys, separators=(",", ":")).encode()


def digests(values: Collection[JsonValue]) -> list[str]:
    """Return the SHA-256 of the one byte form of each value, in hexadecimal digits."""
    return [sha256(canonical(each)).hexdigest() for each in values]


def decode_json(data: bytes | bytearray | str) -> object:
    """Decode JSON as leniently as the SDK does; return None if it is not JSON.

    A lone surrogate, which a model sends that is cut in the middle of an emoji, is accepted.
    """
    for decode in (msgspec.json.decode, json.loads):
        try:
            return decode(data)
        except (ValueError, RecursionError):  # msgspec's DecodeError is a ValueError
            continue
    return None

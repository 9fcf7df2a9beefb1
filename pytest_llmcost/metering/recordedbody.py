"""Bodies as recorders store them, brought back to the bytes that went over the wire.

Data flow: the value under `body` -> `decode_body` -> bytes, decompressed.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import re
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec

from pytest_llmcost.metering.assembly import decode_json

_GZIP = b"\x1f\x8b"
_HEX = re.compile(r"(?:[0-9a-f]{2}){8,}|(?:[0-9A-F]{2}){8,}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_EVENTS = re.compile(rb"\s*(?:(?:id|retry|):[^\r\n]*[\r\n]+)*(?:event:|data:\s*[{\[])")
_STARTS = (b"{", b"[", b"event:", b"data:", _GZIP, b"\0\0")
"""How a response body begins that anybody could price."""


MOST_BYTES = 100_000_000
"""Of a file, and of all bodies in it together, unpacked."""
_MOST_VALUES = 2_000_000
"""Of a file's JSON, and of all bodies' together: each takes up to 200 bytes of memory."""
_MOST_LAYERS = 4
"""Of gzip, one in the other; a file can be made that unpacks to itself for ever."""


class UndecodableBody(ValueError):
    """A body that was stored in a way nobody here can read."""


class TooLarge(Exception):
    """More than is read of one file; the message says what and how much."""


class Allowance:
    """How much more of one file may be unpacked."""

    def __init__(self) -> None:
        """Allow all that is read of one file."""
        self.bytes = MOST_BYTES
        self._values = _MOST_VALUES

    def take(self, data: bytes) -> bytes:
        """Return the data, if they are not too many bytes or too many values of JSON.

        Raises:
            TooLarge: saying what there is too much of.
        """
        self.bytes -= len(data)
        self._values -= sum(map(data.count, (b",", b"[", b"{")))
        if self.bytes < 0:
            raise TooLarge(f"unpacks to more than {MOST_BYTES:,} bytes, the limit")
        if self._values < 0:
            raise TooLarge(f"holds more than {_MOST_VALUES:,} JSON values, the limit")
        return data


def decode_body(value: object, allowance: Allowance, *, encoding: str | None = None) -> bytes:
    """Return a body's bytes, whichever way it is stored.

    Shape: text; bytes (`!!binary`); text in hex or base64; a mapping with `string`,
    `base64_string` or `text` (with its `encoding`); anything else is parsed JSON.

    Args:
        value: what the recorder stored.
        allowance: what may still be unpacked of this file.
        encoding: the response's `content-encoding`; many recorders undo it and keep the header.

    Raises:
        UndecodableBody: when it is compressed or encoded beyond reading.
        TooLarge: when it is more than is read of one file.
    """
    data = _stored_bytes(value)
    try:
        data = unzip(data, allowance)
        if encoding == "deflate" and not data.lstrip().startswith(_STARTS):
            data = _inflate(data, allowance)
    except (OSError, EOFError, zlib.error) as error:
        raise UndecodableBody(f"the compressed body is damaged: {error}") from None
    if encoding in ("br", "zstd") and data and not data.lstrip().startswith(_STARTS):
        raise UndecodableBody(f"the body is compressed with {encoding}; record it uncompressed")
    return allowance.take(data)


def _stored_bytes(value: object) -> bytes:
    if value is None:
        return b""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, str):
        return _text_bytes(value)
    if isinstance(value, dict):
        return _wrapped_bytes(value)
    return _json_bytes(value)


def _wrapped_bytes(value: Mapping[str, Any]) -> bytes:
    for name in ("base64_string", "base64"):
        if isinstance(value.get(name), str):
            return _base64_bytes(value[name])
    for name in ("string", "text"):
        if name in value and not value.keys() - {name, "encoding", "mimeType", "size", "params"}:
            inner = value[name]
            is_base64 = value.get("encoding") == "base64" and isinstance(inner, str)
            return _base64_bytes(inner) if is_base64 else _stored_bytes(inner)
    return _json_bytes(value)


def _base64_bytes(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise UndecodableBody(f"the body is said to be base64, but is not: {error}") from None


def _text_bytes(text: str) -> bytes:
    """Text is itself, unless it can only be an encoding of a body."""
    compact = "".join(text.split()) if text[:1] not in "{[" else ""
    if _HEX.fullmatch(compact):
        return _if_body(bytes.fromhex(compact), text)
    if _BASE64.fullmatch(compact):
        try:
            return _if_body(base64.b64decode(compact, validate=True), text)
        except binascii.Error:
            pass
    if text.startswith("\x1f\x8b"):
        return text.encode("latin-1", "replace")
    return text.encode("utf-8", "surrogatepass")


def _if_body(decoded: bytes, text: str) -> bytes:
    return decoded if decoded.startswith(_STARTS) else text.encode()


def _json_bytes(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UndecodableBody(f"the parsed body is no JSON: {error}") from None


def unzip(data: bytes, allowance: Allowance) -> bytes:
    """Undo gzip, however often it was applied; anything else is returned as it is."""
    for _ in range(_MOST_LAYERS):
        if not data.startswith(_GZIP):
            return data
        data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(allowance.bytes + 1)
        if len(data) > allowance.bytes:
            allowance.take(data)
    raise TooLarge(f"is compressed with gzip {_MOST_LAYERS} times or more")


def _inflate(data: bytes, allowance: Allowance) -> bytes:
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(data, allowance.bytes + 1)
    if len(unpacked) > allowance.bytes:
        allowance.take(unpacked)
    if not unpacker.eof:
        raise EOFError("it ends too early")
    return unpacked


def is_event_stream(data: bytes) -> bool:
    """Whether a file is a stream by itself: server-sent events, or AWS frames."""
    return data.startswith(b"\0\0") or _EVENTS.match(data) is not None


def parsed_json(data: bytes) -> object:
    """Return the JSON value, or None where it is none."""
    return decode_json(data)

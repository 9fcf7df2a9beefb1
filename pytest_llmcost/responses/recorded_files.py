"""Bodies as recorders store them, brought back to the bytes that went over the wire.

Data flow: the value under `body` -> `decode_body` -> bytes, decompressed.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from pytest_llmcost.errors import RecordingError, UsageDataError
from pytest_llmcost.json_values import decode_json
from pytest_llmcost.money import read_digits
from pytest_llmcost.responses.batch_results import BatchResult, BatchResultsReader
from pytest_llmcost.responses.endpoints import Endpoint, recognise
from pytest_llmcost.responses.message import Answer, model_of, read_answer
from pytest_llmcost.responses.stream import StreamedMessage, reader_for
from pytest_llmcost.yaml_file import YamlError, load_yaml

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


_INTERACTIONS = ("interactions", "http_interactions")
"""vcrpy, go-vcr and cassetter; vcr for Ruby and for R."""
_STREAM_EVENTS = ("message_start", "message_delta", "content_block_start", "content_block_delta")
_CONTAINERS = ("results", "responses")


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """One exchange as a file holds it; a bare response has no method, URL and request."""

    source: str
    """`path#index`, the index counted from 0 over all that the file holds."""
    method: str | None = None
    url: str | None = None
    status: int = 200
    request: Mapping[str, Any] | None = None
    """The request's JSON, where it was recorded and is an object."""
    content_type: str | None = None
    body: bytes = b""
    """Of the response, decompressed."""
    problem: str | None = None
    """Why there is no body, though there was one."""
    message: tuple[str, str] | None = None
    """A bare response's id and model; logs may hold one response several times while it grows."""
    output_tokens: int = 0
    """Of a bare response, as far as it has grown."""


def read_recordings(data: bytes, path: str) -> tuple[Recorded, ...]:
    """Read whatever a file holds, told by its content and not by its name.

    Raises:
        RecordingError: when it is none of the known forms; names file and place.
    """
    try:
        return tuple(_once_each(_read(_unpacked(data, path), path)))
    except TooLarge as error:
        raise RecordingError(f"{path}: {error}") from None
    except RecursionError:
        raise RecordingError(f"{path}: nested too deeply") from None


def _read(data: bytes, path: str) -> list[Recorded]:
    if is_event_stream(data):
        kind = "application/vnd.amazon.eventstream" if data[:1] == b"\0" else "text/event-stream"
        return [Recorded(source=f"{path}#0", content_type=kind, body=data)]
    found = [*_entries(_parse(data, path), path, Allowance())]
    if not found:
        raise RecordingError(
            f"{path}: neither a cassette nor a Messages response, event stream or batch result"
        )
    return [
        msgspec.structs.replace(each, source=f"{path}#{index}") for index, each in enumerate(found)
    ]


def _once_each(recordings: Sequence[Recorded]) -> Iterator[Recorded]:
    """Leave out earlier states of a response: of one message, the longest reply counts."""
    longest: dict[object, Recorded] = {}
    for each in recordings:
        before = longest.get(each.message)
        if before is None or each.output_tokens >= before.output_tokens:
            longest[each.message] = each
    for each in recordings:
        if each.message is None or longest[each.message] is each:
            yield each


def _unpacked(data: bytes, path: str) -> bytes:
    allowance = Allowance()
    try:
        return allowance.take(unzip(data, allowance)).removeprefix(b"\xef\xbb\xbf")
    except (OSError, EOFError, zlib.error) as error:
        raise RecordingError(f"{path}: looks gzip-compressed, but is not: {error}") from None


def _parse(data: bytes, path: str) -> object:
    """JSON, JSON Lines or YAML, whichever it is."""
    if not data.strip():
        raise RecordingError(f"{path}: the file is empty")
    if data.lstrip()[:1] not in b"{[":
        return _parse_yaml(data, path)
    value = parsed_json(data)
    if value is not None:
        return value
    lines = [(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
    values = [(number, parsed_json(line)) for number, line in lines]
    bad = [number for number, each in values if each is None]
    if not bad:
        return [each for _, each in values]
    if len(bad) < len(values):
        raise RecordingError(f"{path}, line {bad[0]}: not JSON, though other lines are")
    return _parse_yaml(data, path)


def _parse_yaml(data: bytes, path: str) -> object:
    try:
        return load_yaml(data, any_tag=True)
    except YamlError as error:
        raise RecordingError(f"{path}{error.place}: {error.problem}") from None


def _entries(value: object, path: str, allowance: Allowance) -> Iterator[Recorded]:
    """Find every exchange, response and batch result in a parsed file."""
    if isinstance(value, list):
        yield from _listed(value, path, allowance)
    elif isinstance(value, dict):
        yield from _single(value, path, allowance)
        for name in _CONTAINERS:
            if isinstance(value.get(name), list):
                yield from _listed(value[name], path, allowance)


def _listed(values: Sequence[object], path: str, allowance: Allowance) -> Iterator[Recorded]:
    """A list is one stream if it holds events, else each element stands for itself."""
    if any(isinstance(each, dict) and each.get("type") in _STREAM_EVENTS for each in values):
        lines = b"".join(b"data: " + _json(each) + b"\n\n" for each in values)
        yield Recorded(source=path, content_type="text/event-stream", body=lines)
        return
    for each in values:
        if isinstance(each, dict):
            yield from _single(each, path, allowance)


def _single(value: Mapping[str, Any], path: str, allowance: Allowance) -> Iterator[Recorded]:
    interactions = _interactions_of(value)
    if interactions is not None:
        yield from (read_interaction(each, path, allowance) for each in interactions)
    elif _is_answer(value):
        yield _bare(value)


def _is_answer(value: Mapping[str, Any]) -> bool:
    if value.get("type") in ("message", "error") or "usage" in value:
        return True
    return "custom_id" in value and "result" in value


def _bare(value: Mapping[str, Any]) -> Recorded:
    status = 400 if value.get("type") == "error" else 200
    kind = "application/x-jsonl" if "custom_id" in value else "application/json"
    name, model = value.get("id"), value.get("model")
    tokens = _part(value, "usage").get("output_tokens")
    return Recorded(
        source="",
        status=status,
        content_type=kind,
        body=_json(value),
        message=(name, model) if isinstance(name, str) and isinstance(model, str) else None,
        output_tokens=tokens if isinstance(tokens, int) else 0,
    )


def _json(value: object) -> bytes:
    """Write a parsed value as JSON; bytes and odd keys of YAML are no part of a response."""
    return json.dumps(value, default=repr, skipkeys=True).encode()


def _interactions_of(value: Mapping[str, Any]) -> list[Any] | None:
    for name in _INTERACTIONS:
        if name in value:
            return value[name] if isinstance(value[name], list) else []
    log = value.get("log")
    if isinstance(log, dict) and isinstance(log.get("entries"), list):
        return list(log["entries"])
    if isinstance(value.get("request"), dict) and isinstance(value.get("response"), dict):
        return [value]
    return None


def read_interaction(entry: object, path: str, allowance: Allowance) -> Recorded:
    """Read one recorded request with its response, in whichever way the recorder keeps them."""
    request, response = _part(entry, "request"), _part(entry, "response")
    headers = {str(k).lower(): v for k, v in _headers(response).items()}
    body, problem = b"", None
    try:
        encoding = _first(headers.get("content-encoding"))
        body = decode_body(_body_of(response), allowance, encoding=encoding)
    except UndecodableBody as error:
        problem = str(error)
    return Recorded(
        source=path,
        method=str(request.get("method") or "POST").upper(),
        url=str(request.get("uri") or request.get("url") or ""),
        status=_status(response),
        request=_request_json(request, allowance),
        content_type=_first(headers.get("content-type"))
        or _first(_part(response, "content").get("mimeType")),
        body=body,
        problem=problem,
    )


def _part(entry: object, name: str) -> Mapping[str, Any]:
    part = entry.get(name) if isinstance(entry, dict) else None
    return part if isinstance(part, dict) else {}


def _headers(response: Mapping[str, Any]) -> dict[str, Any]:
    """Headers as a mapping; archives (HAR) list them as names with values."""
    headers = response.get("headers")
    if isinstance(headers, list):
        pairs = [each for each in headers if isinstance(each, dict) and "name" in each]
        return {each["name"]: each.get("value") for each in pairs}
    return headers if isinstance(headers, dict) else {}


def _first(value: object) -> str | None:
    """A header's value: recorders keep it as text, as bytes, or as a list of either."""
    while isinstance(value, (list, tuple)):
        value = value[0] if value else None
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return value if isinstance(value, str) else None


def _status(response: Mapping[str, Any]) -> int:
    """`{code: 200}`, `{status_code: 200}`, `code: 200`, `status_code: 200` or `200 OK`."""
    status = response.get("status")
    nested = status if isinstance(status, dict) else response
    for value in (nested.get("code"), nested.get("status_code"), status):
        code = read_digits(str(value).split(" ")[0])
        if code is not None:
            return code
    return 200


def _body_of(message: Mapping[str, Any]) -> object:
    for name in ("parsed_body", "body", "content", "postData"):
        if message.get(name) not in (None, ""):
            return message[name]
    return None


def _request_json(request: Mapping[str, Any], allowance: Allowance) -> Mapping[str, Any] | None:
    try:
        value = parsed_json(decode_body(_body_of(request), allowance))
    except UndecodableBody:
        return None
    return value if isinstance(value, dict) else None


_BARE = Endpoint(kind="messages")
"""A response without its request is taken for one of Anthropic's own API."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What one recorded exchange comes to: a call, something free, or a problem."""

    source: str
    answer: Answer | None = None
    free: str | None = None
    """Why it costs nothing."""
    model: str | None = None
    """As asked for; of what is free or cannot be read."""
    problem: str | None = None


def read_calls(recorded: Recorded) -> tuple[Found, ...]:
    """Return what an exchange comes to; nothing where it is none of Claude's.

    A batch's results are several calls; a batch that is only submitted is billed with them.
    """
    endpoint = _BARE if recorded.url is None else recognise(recorded.method or "POST", recorded.url)
    if endpoint is None or endpoint.kind == "batch_create":
        return ()
    found = Found(source=recorded.source, model=model_of(endpoint, recorded.request))
    if not 200 <= recorded.status < 300:
        return (msgspec.structs.replace(found, free=f"status {recorded.status}"),)
    if endpoint.kind == "count_tokens":
        return (msgspec.structs.replace(found, free="count_tokens"),)
    if recorded.problem:
        return (msgspec.structs.replace(found, problem=recorded.problem),)
    if endpoint.kind == "batch_results" or recorded.content_type == "application/x-jsonl":
        return tuple(_results(recorded, endpoint, found))
    return (_answer(recorded, endpoint, found),)


def _answer(recorded: Recorded, endpoint: Endpoint, found: Found) -> Found:
    reader = reader_for(recorded.content_type)
    reader.feed(recorded.body)
    reader.close()
    if not reader.messages:
        return msgspec.structs.replace(found, problem=_why_nothing(recorded, reader.error))
    return _read_recordedcall(reader.messages, recorded, endpoint, found)


def _read_recordedcall(
    messages: Sequence[StreamedMessage],
    recorded: Recorded,
    endpoint: Endpoint,
    found: Found,
    *,
    batch: bool | None = None,
) -> Found:
    try:
        answer = read_answer(messages, endpoint=endpoint, payload=recorded.request, batch=batch)
    except UsageDataError as error:
        return msgspec.structs.replace(found, problem=str(error))
    return msgspec.structs.replace(found, answer=answer, model=answer.model)


def _why_nothing(recorded: Recorded, error: str | None) -> str:
    if error:
        return f"the answer is an error ({error}) without a usage"
    if not recorded.body:
        return "the response has no body"
    body = decode_json(recorded.body)
    if isinstance(body, dict):
        keys = ", ".join(sorted(body)[:5])
        return f"the response has no usage; expected a Messages response, got an object with {keys}"
    return f"{len(recorded.body):,} bytes without a usage; is the stream or the body cut off?"


def _results(recorded: Recorded, endpoint: Endpoint, found: Found) -> Iterator[Found]:
    reader = BatchResultsReader()
    reader.feed(recorded.body)
    reader.close()
    for result in reader.drain():
        yield _result(result, recorded, endpoint, found)


def _result(result: BatchResult, recorded: Recorded, endpoint: Endpoint, found: Found) -> Found:
    """One line of a batch: only those that succeeded are billed."""
    if result.body is not None:
        messages = [StreamedMessage(body=result.body)]
        return _read_recordedcall(messages, recorded, endpoint, found, batch=True)
    if result.outcome == "unreadable":
        problem = f"batch result {result.custom_id!r} cannot be read"
        return msgspec.structs.replace(found, problem=problem)
    return msgspec.structs.replace(found, free=f"{result.outcome} in a batch")

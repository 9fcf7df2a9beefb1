"""Files of recorders to requests with their answers, recognised by content and not by name.

Knows how recorders store an exchange; what an answer says it used is `message.py`'s.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from itertools import chain
from typing import Any

import msgspec

from pytest_llmcost.errors import RecordingError, UsageDataError
from pytest_llmcost.json_values import decode_json
from pytest_llmcost.money import read_digits
from pytest_llmcost.prices.usage import mapping
from pytest_llmcost.responses.converse import to_payload
from pytest_llmcost.responses.endpoints import Endpoint, recognise
from pytest_llmcost.responses.message import Answer, model_of, read_answer, unknown_answer
from pytest_llmcost.responses.stream import BatchResult, StreamedMessage, read_whole
from pytest_llmcost.yaml_file import YamlError, load_yaml

MOST_BYTES = 100_000_000
"""Of a file, and of all bodies in it together, unpacked."""
_MOST_VALUES = 2_000_000
"""Of a file's JSON, and of all bodies' together: each takes up to 200 bytes of memory."""
_GZIP = b"\x1f\x8b"
_EVENTS = re.compile(rb"\s*(?:(?:id|retry|):[^\r\n]*[\r\n]+)*(?:event:|data:\s*[{\[])")
_STARTS = (b"{", b"[", b"event:", b"data:", b"\0\0")
"""How every response body begins that can be priced."""
_ADDRESS = {"uri", "url"}
_RESULTS = {"method": "GET", "uri": "/v1/messages/batches/any/results"}
"""The request for a batch's results, which are known by it."""
_LEFT_UNREAD = "not every result of the batch can be read; is the body empty or cut off?"


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """One exchange as a file holds it; a bare response has no method, URL and request."""

    source: str
    """`path#index`, the index counted from 0 over all that the file holds."""
    method: str = "POST"
    url: str | None = None
    status: int = 200
    sent: bytes = b""
    """The request's body, if it was recorded and can be read."""
    headers: Mapping[str, str] = {}
    """The request's, by their names in lower case."""
    body: bytes = b""
    """Of the response, decompressed."""
    problem: str | None = None
    """Why there is no body, though there was one."""

    @property
    def request(self) -> Mapping[str, Any] | None:
        """The request's JSON, if it was recorded and is an object."""
        value = decode_json(self.sent) if self.sent else None
        return value if isinstance(value, dict) else None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What one recorded exchange comes to: an answer, something free, or a problem."""

    source: str
    model: str | None = None
    """As asked for; of what is free or cannot be read."""
    answer: Answer | None = None
    free: str | None = None
    """Why it costs nothing."""
    problem: str | None = None
    state: tuple[object, int] | None = None
    """Of which message, and how many output tokens that has by then; None if it has no id."""


def read_recordings(data: bytes, path: str) -> tuple[Recorded, ...]:
    """Read whatever a file holds.

    Raises:
        RecordingError: when it is none of the known forms; names file and place.
    """
    try:
        return tuple(_read(data, path))
    except _TooLarge as error:
        raise RecordingError(f"{path}: {error}") from None
    except RecursionError:
        raise RecordingError(f"{path}: nested too deeply") from None


def read_calls(recordings: Iterable[Recorded]) -> list[Found]:
    """Return what the exchanges of a file come to, without those that are none of Claude's.

    Logs hold a message several times, also in earlier states: the longest reply counts.
    """
    found = [*chain.from_iterable(map(_read_exchange, recordings))]
    longest: dict[object, tuple[int, int]] = {}
    for index, each in enumerate(found):
        message, tokens = each.state or (index, 0)
        longest[message] = max(longest.get(message, (0, 0)), (tokens, index))
    return [found[index] for index in sorted(index for _, index in longest.values())]


def _read_exchange(recorded: Recorded) -> list[Found]:
    """Return what one exchange comes to.

    A batch's results are several calls; a batch that is only submitted is billed with them.
    """
    # A response without its request is taken for one of Anthropic's own API.
    endpoint: Endpoint | None = Endpoint(kind="messages")
    if recorded.url is not None:
        endpoint = recognise(recorded.method, recorded.url, recorded.sent)
    if endpoint is None or endpoint.kind == "batch_create":
        return []
    request = (asked := recorded.request) and to_payload(asked, endpoint.form)[0]

    def without_answer(**why: Any) -> Found:
        return Found(source=recorded.source, model=model_of(endpoint, request), **why)

    # Each request is a call, whatever id a mock or a filter has put into its answer. What was
    # logged, or read of a batch's results, may be the same message again.
    of = recorded.source if recorded.url and endpoint.is_sampling else endpoint.batch_id

    def answered(message: StreamedMessage, custom_id: str = "", **how: Any) -> Found:
        state = _state_of(message.body, of, custom_id)
        try:
            answer = read_answer(
                [message], endpoint=endpoint, payload=request, headers=recorded.headers, **how
            )
        except UsageDataError as error:
            return without_answer(problem=str(error), state=state)
        return Found(source=recorded.source, answer=answer, state=state)

    def in_batch(result: BatchResult) -> Found:
        if result.body is not None:
            return answered(StreamedMessage(body=result.body), result.custom_id, batch=True)
        if result.outcome == "unreadable":
            unread = f"batch result {result.custom_id!r} cannot be read"
            return without_answer(problem=unread if result.custom_id else _LEFT_UNREAD)
        return without_answer(free=f"{result.outcome} in a batch")

    is_success = 200 <= recorded.status < 300
    if not is_success or endpoint.kind == "count_tokens":
        return [without_answer(free=endpoint.kind if is_success else f"status {recorded.status}")]
    if endpoint.kind == "unmetered":
        unknown = unknown_answer(endpoint, request, f"unmetered-route: {endpoint.route}")
        return [Found(source=recorded.source, answer=unknown)]
    if recorded.problem:
        return [without_answer(problem=recorded.problem)]
    reader = read_whole(recorded.body, of_batch=endpoint.kind == "batch_results")
    replies = (each.body for each in reader.messages)
    if endpoint.model and request and not endpoint.is_claude(recorded.headers, request, replies):
        return []
    if found := [*map(in_batch, reader.results), *map(answered, reader.messages)]:
        return found
    size = f"{len(recorded.body):,} bytes"
    why = f"the response has no usage in {size}; is it a Messages response, and whole?"
    return [without_answer(free=reader.error, problem=None if reader.error else why)]


def _state_of(body: Mapping[str, Any], *request: str | None) -> tuple[object, int] | None:
    name, usage = body.get("id"), body.get("usage")
    tokens = usage.get("output_tokens") if isinstance(usage, dict) else None
    is_named = isinstance(name, str) and name != ""
    return ((name, *request), tokens if type(tokens) is int else 0) if is_named else None


# The forms of a file


def _read(data: bytes, path: str) -> Iterator[Recorded]:
    allowance = Allowance()
    try:
        data = allowance.take(_unzip(data, allowance.bytes + 1)[0]).removeprefix(b"\xef\xbb\xbf")
    except (OSError, EOFError, zlib.error) as error:
        what = "looks gzip-compressed, but cannot be unpacked"
        raise RecordingError(f"{path}: {what}: {error}") from None
    if data.startswith(b"\0\0") or _EVENTS.match(data):
        yield Recorded(source=f"{path}#0", body=data)
        return
    entries = [*_entries(_parse(data, path))]
    if not any(entries):
        raise RecordingError(
            f"{path}: neither a cassette nor a Messages response, event stream or batch result"
        )
    allowance = Allowance()
    for index, entry in enumerate(entries):
        if entry:
            yield read_interaction(entry, f"{path}#{index}", allowance)
    if unread := entries.count({}):
        yield Recorded(source=path, problem=f"rows with a usage in an unknown form: {unread:,}")


def _parse(data: bytes, path: str) -> object:
    """Parse JSON, JSON Lines or YAML, whichever it is."""
    if not data.strip():
        raise RecordingError(f"{path}: the file is empty")
    if data.lstrip()[:1] in b"{[":
        value = decode_json(data)
        if value is not None:
            return value
        lines = [(number, line) for number, line in enumerate(data.splitlines(), 1) if line.strip()]
        values = [(number, decode_json(line)) for number, line in lines]
        bad = [number for number, each in values if each is None]
        if not bad:
            return [each for _, each in values]
        if len(bad) < len(values):
            raise RecordingError(f"{path}, line {bad[0]}: not JSON, though other lines are")
    try:
        return load_yaml(data)
    except YamlError as error:
        raise RecordingError(f"{path}{error.where}: is not YAML ({error.problem})") from None


def _entries(value: object) -> Iterator[dict[str, Any]]:
    """Find every exchange in a parsed file; a response, stream or batch result has no request.

    What has a usage in an unknown form is empty.
    """
    if isinstance(value, list):
        yield from chain.from_iterable(map(_entries, value))
    if not isinstance(value, dict):
        return
    if (held := value.get("interactions")) is not None:
        for each in held if isinstance(held, list) else ():
            yield {"request": None, **mapping(each)}
    elif (
        isinstance(value.get("response"), dict) and _ADDRESS & mapping(value.get("request")).keys()
    ):
        yield {**value}
    elif {"custom_id", "result"} <= value.keys():
        yield {**_bare(value), "request": _RESULTS}
    elif value.get("type") in ("message", "error") or "usage" in value:
        yield _bare(value)
    elif _holds_usage(value):
        yield {}


def _holds_usage(value: object) -> bool:
    ahead = [value]
    while ahead:
        each = ahead.pop()
        usage = mapping(mapping(each).get("usage"))
        if any(str(key).endswith(("_tokens", "Tokens")) for key in usage):
            return True
        ahead += each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
    return False


def _bare(body: object) -> dict[str, Any]:
    """Return what came without its request as a recorder would keep it."""
    return {"response": {"parsed_body": body}}


def read_interaction(entry: Mapping[str, Any], source: str, allowance: Allowance) -> Recorded:
    """Read one recorded request with its response, in whichever way the recorder keeps them."""
    request, response = mapping(entry.get("request")), mapping(entry.get("response"))
    body, problem, sent = b"", None, b""
    try:
        body = _decode_body(response, allowance, _headers(response).get("content-encoding"))
    except _UndecodableBody as error:
        problem = str(error)
    with suppress(_UndecodableBody):
        sent = _decode_body(request, allowance)
    return Recorded(
        source=source,
        method=str(request.get("method") or "POST").upper(),
        url=str(request.get("uri") or request.get("url") or "") if "request" in entry else None,
        status=read_status(response),
        sent=sent,
        headers=_headers(request),
        body=body,
        problem=problem,
    )


def _headers(message: Mapping[str, Any]) -> dict[str, str]:
    headers = mapping(message.get("headers"))
    return {str(name).lower(): _first(value) or "" for name, value in headers.items()}


def _first(value: object) -> str | None:
    """Return a header's value: recorders keep it as text, as bytes, or as a list of either."""
    while isinstance(value, (list, tuple)):
        value = value[0] if value else None
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    return value if isinstance(value, str) else None


def read_status(response: Mapping[str, Any]) -> int:
    """Read `{code: 200}`, `{status_code: 200}`, `code: 200`, `status_code: 200` or `200 OK`."""
    status = response.get("status")
    nested = status if isinstance(status, dict) else response
    for value in (nested.get("code"), nested.get("status_code"), status):
        code = read_digits(str(value).split(" ")[0])
        if code is not None:
            return code
    return 200


# Bodies, back to the bytes that went over the wire


class _UndecodableBody(ValueError):
    """A body that was stored in a way that cannot be read."""


class _TooLarge(Exception):
    """More than is read of one file; the message says what and how much."""


class Allowance:
    """How much more of one file may be unpacked."""

    def __init__(self) -> None:
        self.bytes = MOST_BYTES
        self._values = _MOST_VALUES

    def take(self, data: bytes) -> bytes:
        """Return the data, if they are not too many bytes or too many values of JSON."""
        self.check(data)
        self.bytes -= len(data)
        self._values -= sum(map(data.count, (b",", b"[", b"{")))
        if self._values < 0:
            raise _TooLarge(f"holds more than {_MOST_VALUES:,} JSON values, the limit")
        return data

    def check(self, data: bytes) -> bytes:
        """Return the data, if they are not too many bytes."""
        if len(data) > self.bytes:
            raise _TooLarge(f"unpacks to more than {MOST_BYTES:,} bytes, the limit")
        return data


def _decode_body(
    message: Mapping[str, Any], allowance: Allowance, encoding: str | None = None
) -> bytes:
    """Return a body's bytes, whichever way it is stored.

    Shape: text, bytes (`!!binary`), or a mapping with either as its `string`; anything else is
    parsed JSON. Many recorders undo the response's `content-encoding`, perhaps several in turn, and
    keep the header.
    """
    names = ("parsed_body", "body", "content")  # `content` is of httpx in older versions of vcrpy
    stored = (message[name] for name in names if message.get(name) not in (None, ""))
    data = _stored_bytes(next(stored, b""))
    # Gzip tells itself, so it needs no header. What was applied last is undone first.
    for how in ("gzip", *re.findall(r"[^\s,]+", (encoding or "").lower())[::-1]):
        if not data or data.lstrip().startswith(_STARTS):
            break
        if how not in _UNPACKED:
            raise _UndecodableBody(f"the body is encoded as {how}; record it uncompressed")
        try:
            data, is_whole = _UNPACKED[how](data, allowance.bytes + 1)
            allowance.check(data)
            if not is_whole:
                raise EOFError("it ends too early")
        except _TooLarge:
            raise
        except (ModuleNotFoundError, TypeError):
            why = "the body is compressed with br; install brotli 1.2 or later"
            raise _UndecodableBody(why) from None
        except Exception as error:  # noqa: BLE001 - zlib and brotli each raise their own
            why = f"the body is compressed with {how}, and damaged: {error}"
            raise _UndecodableBody(why) from None
    return allowance.take(data)


def _stored_bytes(value: object) -> bytes:
    if mapping(value).keys() == {"string"}:
        value = mapping(value)["string"] or b""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    try:  # not by msgspec, for YAML has keys and values that JSON does not
        return json.dumps(value, default=repr, skipkeys=True).encode()
    except (RecursionError, ValueError) as error:
        raise _UndecodableBody(f"the parsed body is no JSON: {error}") from None


def _unzip(data: bytes, most: int) -> tuple[bytes, bool]:
    """Undo gzip; anything else is returned as it is."""
    if not data.startswith(_GZIP):
        return data, True
    # A reader, for a log that was appended to holds several members.
    return gzip.GzipFile(fileobj=io.BytesIO(data)).read(most), True


def _inflate(data: bytes, most: int) -> tuple[bytes, bool]:
    # Some servers leave zlib's header out, and HTTP clients read both.
    has_header = data[0] & 15 == zlib.DEFLATED
    unpacker = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
    return unpacker.decompress(data, most), unpacker.eof


def _unpack_br(data: bytes, most: int) -> tuple[bytes, bool]:
    unpacker: Any = import_module("brotli").Decompressor()
    # Only version 1.2 and later takes a limit, and a few bytes may unpack to gigabytes.
    return unpacker.process(data, output_buffer_limit=most), unpacker.is_finished()


_UNPACKED = {
    "identity": _unzip,
    "gzip": _unzip,
    "x-gzip": _unzip,
    "deflate": _inflate,
    "br": _unpack_br,
}
"""By the header's word, what returns as many bytes as asked for, and whether the data is whole."""

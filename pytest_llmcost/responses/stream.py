"""Assembly: a stream's events put together again to what its final message would bill.

Data flow: decoded events -> `Assembly.take` -> StreamedMessage -> `read_message`. Only what a
bill depends on is kept, so memory does not grow with the text that passes.
"""

from __future__ import annotations

import binascii
import struct
import zlib
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from pytest_llmcost.json_values import decode_json

_MOST_MESSAGES = 1_000
_MOST_BLOCKS = 500
"""More than any response has; what a broken stream sends beyond is left out."""
_KEPT_KEYS = ("type", "name", "from", "to", "trigger", "caller")
_INPUT_KEYS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_FILLED_KEYS = ("text", "thinking", "signature", "data", "content")
"""Of these only whether they are empty matters: it tells a refusal before any output."""
_FILLING_KEYS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "compaction_delta": "content",
}
_HUNGRY_TYPES = frozenset({"text", "thinking", "compaction"})


class StreamedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a response body, shaped as the API would have sent it whole."""

    body: Mapping[str, object]
    """The final message; `content` is reduced to what a bill depends on where it was streamed."""
    truncated: bool = False
    """Whether the stream ended before the final usage: its output is a lower bound."""
    withdrawn: str | None = None
    """An input count that the end of the stream states as 0, after a greater one before."""


def reduce_block(block: Mapping[str, object]) -> dict[str, object]:
    """Reduce a content block to what a bill depends on: what it is, and whether it is empty."""
    reduced = {key: block[key] for key in _KEPT_KEYS if key in block}
    for key in _FILLED_KEYS:
        if key in block:
            reduced[key] = _reduce(block[key])
    return reduced


def _reduce(value: object) -> object:
    """Keep whether it is empty; of a tool's result its type, which tells an error."""
    if isinstance(value, dict) and "type" in value:
        return {"type": value["type"]}
    return "x" if value else ""


class Assembly:
    """Puts events together; `messages` grows as messages end.

    `message_start` opens a message, each `message_delta` overwrites what it restates (cumulative,
    never added). The same id again before its `message_stop` is the same message; another id is
    a separate response.

    Source: https://platform.claude.com/docs/en/build-with-claude/streaming, read 2026-11-22
    """

    def __init__(self) -> None:
        self.messages: list[StreamedMessage] = []
        self.error: str | None = None
        """The type of an `error` event, where one came."""
        self.hungry: dict[object, dict[str, object]] = {}
        """Blocks by index that are empty so far; while there are any, deltas matter."""
        self._body: dict[str, object] | None = None
        self._final = False
        self._stated: set[str] = set()
        """Input counts that some event of the open message has stated above 0."""

    def take(self, event: object) -> None:
        """Take one decoded event; what is no event is passed over."""
        if not isinstance(event, dict):
            return
        kind = event.get("type")
        if kind == "content_block_delta":
            self._fill(event)
        elif kind == "content_block_start":
            self._start_block(event)
        elif kind == "message_start":
            self._start(event.get("message"))
        elif kind == "message_delta":
            self._overlay(event)
        elif kind == "message_stop":
            self.finish()
        elif kind == "error":
            self.error = _error_type(event)

    def finish(self) -> None:
        """End the open message, as `message_stop` or the end of the stream does."""
        if self._body is None:
            return
        if len(self.messages) < _MOST_MESSAGES:
            self.messages.append(
                StreamedMessage(
                    body=self._body, truncated=not self._final, withdrawn=self._withdrawn()
                )
            )
        self._body, self._final = None, False
        self._stated.clear()
        self.hungry.clear()

    def _start(self, message: object) -> None:
        if not isinstance(message, dict):
            return
        if (
            self._body is not None
            and self._body.get("id")
            and self._body["id"] == message.get("id")
        ):
            self._overlay_usage(self._body, message.get("usage"))
            return
        self.finish()
        self._body = dict(message)
        self._body["usage"] = {}
        self._overlay_usage(self._body, message.get("usage"))
        content = message.get("content")
        blocks = content if isinstance(content, list) else []
        self._body["content"] = [
            reduce_block(block) for block in blocks[:_MOST_BLOCKS] if isinstance(block, dict)
        ]

    def _overlay(self, event: dict[str, object]) -> None:
        if self._body is None:
            return
        delta = event.get("delta")
        if isinstance(delta, dict):
            self._body.update({key: value for key, value in delta.items() if value is not None})
        stated = self._overlay_usage(self._body, event.get("usage"))
        self._final = self._final or (stated and self._body.get("stop_reason") is not None)

    def _overlay_usage(self, body: dict[str, object], stated: object) -> bool:
        """Overwrite what is restated; null restates nothing. Tells whether there was any usage."""
        usage = body["usage"]
        if not isinstance(stated, dict) or not isinstance(usage, dict):
            return False
        usage.update({key: value for key, value in stated.items() if value is not None})
        self._stated.update(key for key in _INPUT_KEYS if usage.get(key))
        return True

    def _withdrawn(self) -> str | None:
        usage = self._body["usage"] if self._body is not None else None
        if not isinstance(usage, dict):
            return None
        return next((key for key in _INPUT_KEYS if key in self._stated and not usage[key]), None)

    def _start_block(self, event: dict[str, object]) -> None:
        block = event.get("content_block")
        if self._body is None or not isinstance(block, dict):
            return
        content = self._body["content"]
        if not isinstance(content, list) or len(content) >= _MOST_BLOCKS:
            return
        reduced = reduce_block(block)
        content.append(reduced)
        if reduced.get("type") in _HUNGRY_TYPES and not any(
            reduced.get(key) for key in _FILLED_KEYS
        ):
            self.hungry[_index(event)] = reduced

    def _fill(self, event: dict[str, object]) -> None:
        block, delta = self.hungry.get(_index(event)), event.get("delta")
        if block is None or not isinstance(delta, dict):
            return
        key = _FILLING_KEYS.get(str(delta.get("type")))
        if key and delta.get(key):
            block[key] = "x"
            del self.hungry[_index(event)]


def _index(event: dict[str, object]) -> int:
    index = event.get("index")
    return index if isinstance(index, int) else -1


def _error_type(event: dict[str, object]) -> str:
    error = event.get("error")
    return str(error.get("type")) if isinstance(error, dict) else "error"


_PRELUDE = struct.Struct("!III")
_LARGEST_FRAME = 24 * 1024 * 1024
"""Bytes; the format's own limit is 16 MB of payload and 128 kB of headers."""
_CHECKSUM = 4


class EventStreamReader:
    """Reads `application/vnd.amazon.eventstream`; what does not check ends the reading.

    A frame is: total length, headers' length, checksum of these two; headers; payload; checksum.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html
    """

    def __init__(self) -> None:
        self._assembly = Assembly()
        self._tail = bytearray()
        self._broken = False

    @property
    def messages(self) -> Sequence[StreamedMessage]:
        """The messages that have ended."""
        return self._assembly.messages

    @property
    def error(self) -> str | None:
        """The type of an `error` event or of an exception frame, where one came."""
        return self._assembly.error

    def feed(self, chunk: bytes) -> None:
        """Read the frames that have become whole."""
        if self._broken:
            return
        self._tail += chunk
        start = 0
        while (length := self._frame_length(start)) and start + length <= len(self._tail):
            self._read_frame(bytes(self._tail[start : start + length]))
            start += length
        del self._tail[:start]

    def close(self) -> None:
        """End the open message; half a frame is dropped."""
        self._tail.clear()
        self._assembly.finish()

    def _frame_length(self, start: int) -> int:
        """The length of the frame that begins here; 0 until it can be told."""
        if len(self._tail) - start < _PRELUDE.size:
            return 0
        total, headers, checksum = _PRELUDE.unpack_from(self._tail, start)
        smallest = _PRELUDE.size + headers + _CHECKSUM
        if zlib.crc32(self._tail[start : start + 8]) == checksum and (
            smallest <= total <= _LARGEST_FRAME
        ):
            return int(total)
        self._broken = True
        self._tail.clear()
        return 0

    def _read_frame(self, frame: bytes) -> None:
        _, headers, _ = _PRELUDE.unpack_from(frame)
        start = _PRELUDE.size + headers
        payload = decode_json(frame[start:-_CHECKSUM])
        if b":exception-type" in frame[_PRELUDE.size : start]:
            self._assembly.take({"type": "error", "error": {"type": "exception"}})
        elif isinstance(payload, dict) and isinstance(payload.get("bytes"), str):
            self._assembly.take(_decode_event(payload["bytes"]))


def _decode_event(encoded: str) -> object:
    try:
        return decode_json(b64decode(encoded))
    except (binascii.Error, ValueError):
        return None


_LARGEST_EVENT = 4 * 1024 * 1024
"""Bytes. Only content that no bill depends on comes in larger events; they are passed over."""
_LARGEST_JSON = 256 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class Reader(Protocol):
    """Reads one response body."""

    @property
    def messages(self) -> Sequence[StreamedMessage]:
        """The messages that have ended; all of them once it is closed."""

    @property
    def error(self) -> str | None:
        """The type of the error that the body states, where it states one."""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes, cut anywhere."""

    def close(self) -> None:
        """The body has ended, or nobody will read on; may be called again."""


def reader_for(content_type: str | None) -> Reader:
    """Choose the reader of a body; one that the type does not tell is known by its first byte."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return StreamReader()
    if kind == "application/vnd.amazon.eventstream":
        return EventStreamReader()
    return _SniffingReader()


class StreamReader:
    r"""Reads server-sent events: `\n`, `\r\n` or `\r`, comments, pings, data over several lines.

    Whole stretches without an event that matters are skipped without being split, so reading
    costs a small fraction of what the client's own parsing does.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    def __init__(self) -> None:
        self._assembly = Assembly()
        self._tail = bytearray()
        self._last = _BOM[:0]
        self._skipping = False

    @property
    def messages(self) -> Sequence[StreamedMessage]:
        """The messages that have ended."""
        return self._assembly.messages

    @property
    def error(self) -> str | None:
        """The type of an `error` event, where one came."""
        return self._assembly.error

    def feed(self, chunk: bytes) -> None:
        """Read what has become whole events, keep the rest for later."""
        if chunk.endswith(b"\n\n") and not self._tail and not self._skipping:
            self._last = b"\n"
            self._read(chunk)  # whole events, as a server sends them: nothing to keep
        elif chunk:
            self._feed_part(chunk)

    def _feed_part(self, chunk: bytes) -> None:
        end = _last_boundary(self._last + chunk) - len(self._last)
        self._last = chunk[-1:]
        if end <= 0:
            self._keep(chunk)
        elif self._tail or self._skipping:
            self._read(b"" if self._skipping else bytes(self._tail) + chunk[:end])
            self._tail[:] = chunk[end:]
            self._skipping = False
        else:
            self._read(chunk[:end])
            self._tail += chunk[end:]

    def close(self) -> None:
        """Read a last event that lacks its blank line, as hand-kept recordings often do."""
        self._read(bytes(self._tail) + b"\n\n")
        self._tail.clear()
        self._assembly.finish()

    def _keep(self, chunk: bytes) -> None:
        if self._skipping:
            return
        self._tail += chunk
        if len(self._tail) > _LARGEST_EVENT:
            self._tail.clear()
            self._skipping = True

    def _read(self, region: bytes) -> None:
        if not self._matters(region):
            return
        data: list[bytes] = []
        for line in region.removeprefix(_BOM).splitlines():
            if not line:
                self._dispatch(b"\n".join(data))
                data.clear()
            elif line.startswith(b"data:"):
                data.append(line[5:])

    def _dispatch(self, data: bytes) -> None:
        if data and self._matters(data):
            self._assembly.take(decode_json(data))

    def _matters(self, data: bytes) -> bool:
        return (
            b"message_" in data
            or b"content_block_start" in data
            or b"error" in data
            or bool(self._assembly.hungry)
        )


def _last_boundary(data: bytes) -> int:
    """Where the last whole event ends: behind its blank line; 0 where none does."""
    end = data.rfind(b"\n\n")
    if b"\r" in data:  # two searches from behind that hardly any stream is worth
        end = max(end, data.rfind(b"\n\r"), data.rfind(b"\r\r"))
    return end + 2 if end >= 0 else 0


class _JsonReader:
    """Reads a whole JSON body when it has ended."""

    def __init__(self) -> None:
        self.messages: list[StreamedMessage] = []
        self.error: str | None = None
        self._body = bytearray()

    def feed(self, chunk: bytes) -> None:
        if len(self._body) <= _LARGEST_JSON:
            self._body += chunk

    def close(self) -> None:
        body = decode_json(self._body) if self._body else None
        self._body.clear()
        if not isinstance(body, dict):
            return
        if body.get("type") == "error":
            self.error = "error"
        elif body.get("type") == "message" or "usage" in body:
            self.messages.append(StreamedMessage(body=body))


class _SniffingReader:
    """Chooses by the first byte that is not white space: JSON, AWS frames, or events."""

    def __init__(self) -> None:
        self._chosen: Reader | None = None

    @property
    def messages(self) -> Sequence[StreamedMessage]:
        return self._chosen.messages if self._chosen else ()

    @property
    def error(self) -> str | None:
        return self._chosen.error if self._chosen else None

    def feed(self, chunk: bytes) -> None:
        if self._chosen is None:
            first = chunk.lstrip().removeprefix(_BOM).lstrip()[:1]
            if not first:
                return
            self._chosen = _choose(first)
        self._chosen.feed(chunk)

    def close(self) -> None:
        if self._chosen:
            self._chosen.close()


def _choose(first: bytes) -> Reader:
    if first in b"{[":
        return _JsonReader()
    return EventStreamReader() if first == b"\x00" else StreamReader()

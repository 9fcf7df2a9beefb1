"""Response bodies as they pass, to their final messages; only what a bill depends on is kept.

Knows events and frames, and no prices. Memory does not grow with the text that passes.
"""

from __future__ import annotations

import binascii
import contextlib
import struct
import zlib
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pytest_llmcost.json_values import decode_json
from pytest_llmcost.prices.usage import is_quantity

_MOST_MESSAGES = 1_000
_MOST_BLOCKS = 500
"""More than any response has; what a broken stream sends beyond is left out."""
_KEPT_KEYS = ("type", "name", "from", "to", "trigger", "caller")
_INPUT_KEYS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_FILLED_KEYS = ("text", "thinking", "signature", "data", "content")
"""Of these only whether they are empty matters: it shows a refusal before any output."""
_FILLING_KEYS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "compaction_delta": "content",
}
_FILLED_TYPES = frozenset({"text", "thinking", "compaction"})
_METRICS = {
    "inputTokenCount": "input_tokens",
    "outputTokenCount": "output_tokens",
    "cacheReadInputTokenCount": "cache_read_input_tokens",
    "cacheWriteInputTokenCount": "cache_creation_input_tokens",
}
"""The names in Bedrock's `amazon-bedrock-invocationMetrics`."""
_BOM = b"\xef\xbb\xbf"


class StreamedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a response body, shaped as the API would have sent it whole."""

    body: Mapping[str, Any]
    """The final message; `content` is reduced to what a bill depends on if it was streamed."""
    truncated: bool = False
    """Whether the stream ended before the final usage: its output is a lower bound."""
    withdrawn: str | None = None
    """An input count that the end of the stream states as 0, after a greater one before."""
    at_most: Mapping[str, int] = {}
    """Counts of the usage that the last event states higher than the final usage does."""


def reduce_block(block: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce a content block to what a bill depends on: what it is, and whether it is empty."""
    reduced = {key: block[key] for key in _KEPT_KEYS if key in block}
    for key in _FILLED_KEYS:
        value = block.get(key)
        if isinstance(value, dict) and "type" in value:
            reduced[key] = {"type": value["type"]}  # of a tool's result, it tells an error
        elif key in block:
            reduced[key] = "x" if value else ""
    return reduced


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
        """The type of an `error` event, if one came."""
        self.empty_blocks: dict[object, dict[str, Any]] = {}
        """Blocks by index that are empty so far; while there are any, deltas matter."""
        self._body: dict[str, Any] | None = None
        self._usage: dict[str, Any] = {}
        self._final = False
        """Whether the final usage has been seen."""
        self._stated: set[str] = set()
        """Input counts that some event of the open message has stated above 0."""
        self._at_most: dict[str, int] = {}

    def take(self, event: object) -> None:
        """Take one decoded event; anything else is ignored."""
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
            self._stop(event)
        elif kind == "error":
            error = event.get("error")
            self.error = str(error.get("type")) if isinstance(error, dict) else "error"

    def finish(self) -> None:
        """End the open message, as `message_stop` or the end of the stream does."""
        if self._body is not None and len(self.messages) < _MOST_MESSAGES:
            gone = (key for key in _INPUT_KEYS if key in self._stated and not self._usage[key])
            self.messages.append(
                StreamedMessage(
                    body=self._body,
                    truncated=not self._final,
                    withdrawn=next(gone, None),
                    at_most=self._at_most,
                )
            )
        self._body, self._usage, self._final = None, {}, False
        self._at_most = {}
        self._stated.clear()
        self.empty_blocks.clear()

    def _start(self, message: object) -> None:
        if not isinstance(message, dict):
            return
        if self._body is None or not message.get("id") or self._body.get("id") != message["id"]:
            self.finish()
            content = message.get("content")
            blocks = content[:_MOST_BLOCKS] if isinstance(content, list) else []
            reduced = [reduce_block(block) for block in blocks if isinstance(block, dict)]
            self._body = {**message, "usage": self._usage, "content": reduced}
        self._restate(message.get("usage"))

    def _overlay(self, event: dict[str, Any]) -> None:
        if self._body is None:
            return
        delta = event.get("delta")
        if isinstance(delta, dict):
            self._body.update({key: value for key, value in delta.items() if value is not None})
        if self._restate(event.get("usage")) and self._body.get("stop_reason") is not None:
            self._final = True

    def _restate(self, stated: object) -> bool:
        """Overwrite what is restated; null restates nothing. Return whether it is a usage."""
        if not isinstance(stated, dict):
            return False
        self._usage.update({key: value for key, value in stated.items() if value is not None})
        self._stated.update(key for key in _INPUT_KEYS if self._usage.get(key))
        return True

    def _stop(self, event: dict[str, Any]) -> None:
        """Take what the last event says, and end the message.

        On Bedrock the cache counts may stand in its metrics, or in a usage of its own, alone.
        What the final usage states is cumulative, and a smaller figure here does not replace it; no
        rule says which of the two is right if this one is higher, so it is what may have been used.
        Source: BerriAI/litellm#34373, #36878 and #24850, read 2026-11-25.
        """
        metrics, usage = event.get("amazon-bedrock-invocationMetrics"), event.get("usage")
        for stated, names in ((usage, {}), (metrics, _METRICS)):
            if self._body is None or not isinstance(stated, dict):
                continue
            known = [key for key in stated if key in names] if names else [*stated]
            counts = {names.get(key, key): stated[key] for key in known if stated[key] is not None}
            if not self._final:
                self._final = self._restate(counts) and is_quantity(counts.get("output_tokens"))
                continue
            for key, value in counts.items():
                before = self._usage.setdefault(key, value)
                if is_quantity(before) and is_quantity(value) and value > before:
                    self._at_most[key] = max(value, self._at_most.get(key, 0))
        self.finish()

    def _start_block(self, event: dict[str, Any]) -> None:
        block = event.get("content_block")
        if self._body is None or not isinstance(block, dict):
            return
        content = self._body["content"]
        if len(content) >= _MOST_BLOCKS:
            return
        reduced = reduce_block(block)
        content.append(reduced)
        is_empty = not any(reduced.get(key) for key in _FILLED_KEYS)
        if is_empty and reduced.get("type") in _FILLED_TYPES:
            self.empty_blocks[_index(event)] = reduced

    def _fill(self, event: dict[str, Any]) -> None:
        block, delta = self.empty_blocks.get(_index(event)), event.get("delta")
        if block is None or not isinstance(delta, dict):
            return
        key = _FILLING_KEYS.get(str(delta.get("type")))
        if key and delta.get(key):
            block[key] = "x"
            del self.empty_blocks[_index(event)]


def _index(event: dict[str, Any]) -> int:
    index = event.get("index")
    return index if isinstance(index, int) else -1


def reader_for(content_type: str | None) -> Reader:
    """Choose the reader of a body; one of another type is known by its first byte."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return StreamReader()
    if kind == "application/vnd.amazon.eventstream":
        return EventStreamReader()
    return _SniffingReader()


class Reader:
    """Reads one response body, fed in pieces that are cut anywhere."""

    def __init__(self) -> None:
        self._assembly = Assembly()

    @property
    def messages(self) -> Sequence[StreamedMessage]:
        """The messages that have ended; all of them once it is closed."""
        return self._assembly.messages

    @property
    def error(self) -> str | None:
        """The type of the error that the body states, if it states one."""
        return self._assembly.error

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        raise NotImplementedError

    def close(self) -> None:
        """End the open message: the body has ended, or will not be read on."""
        self._assembly.finish()


class StreamReader(Reader):
    r"""Reads server-sent events: `\n`, `\r\n` or `\r`, comments, pings, data over several lines.

    Whole stretches without an event that matters are skipped without being split, so reading
    costs a small fraction of what the client's own parsing does.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    _LARGEST_EVENT = 4 * 1024 * 1024
    """Bytes. Only content that no bill depends on comes in larger events; they are skipped."""

    def __init__(self) -> None:
        super().__init__()
        self._tail = bytearray()
        self._last = b""
        self._skipping = False

    def feed(self, chunk: bytes) -> None:
        """Read what has become whole events, keep the rest for later."""
        if chunk.endswith(b"\n\n") and not self._tail and not self._skipping:
            self._last = b"\n"
            self._read(chunk)  # whole events, as a server sends them: nothing to keep
            return
        # A boundary may be cut in two, so the last byte of the chunk before is looked at again.
        end = _last_boundary(self._last + chunk) - len(self._last)
        self._last = chunk[-1:] or self._last
        if end > 0:
            self._read(b"" if self._skipping else bytes(self._tail) + chunk[:end])
            self._tail[:] = chunk[end:]
            self._skipping = False
        elif not self._skipping:
            self._tail += chunk
            if len(self._tail) > self._LARGEST_EVENT:
                self._tail.clear()
                self._skipping = True

    def close(self) -> None:
        """Read a last event that lacks its blank line, as hand-kept recordings often do."""
        self._read(bytes(self._tail) + b"\n\n")
        self._tail.clear()
        super().close()

    def _read(self, region: bytes) -> None:
        if not self._matters(region):
            return
        data: list[bytes] = []
        for line in region.removeprefix(_BOM).splitlines():
            if line.startswith(b"data:"):
                data.append(line[5:])
            elif not line:
                event = b"\n".join(data)
                data.clear()
                if self._matters(event):
                    self._assembly.take(decode_json(event))

    def _matters(self, data: bytes) -> bool:
        return (
            b"message_" in data
            or b"content_block_start" in data
            or b"error" in data
            or bool(data and self._assembly.empty_blocks)
        )


def _last_boundary(data: bytes) -> int:
    """Return where the last whole event ends: behind its blank line, or 0 if none does."""
    end = data.rfind(b"\n\n")
    if b"\r" in data:  # two searches from behind that hardly any stream needs
        end = max(end, data.rfind(b"\n\r"), data.rfind(b"\r\r"))
    return end + 2 if end >= 0 else 0


class EventStreamReader(Reader):
    """Reads `application/vnd.amazon.eventstream`; a frame with a wrong checksum ends the reading.

    A frame is: total length, headers' length, checksum of these two; headers; payload; checksum.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html
    """

    _PRELUDE = struct.Struct("!III")
    _CHECKSUM = 4
    _LARGEST_FRAME = 24 * 1024 * 1024
    """Bytes; the format's own limit is 16 MB of payload and 128 kB of headers."""

    def __init__(self) -> None:
        super().__init__()
        self._tail = bytearray()
        self._broken = False

    def feed(self, chunk: bytes) -> None:
        """Read the frames that have become whole."""
        if self._broken:
            return
        self._tail += chunk
        start = 0
        while len(self._tail) - start >= self._PRELUDE.size:
            total, headers, checksum = self._PRELUDE.unpack_from(self._tail, start)
            smallest = self._PRELUDE.size + headers + self._CHECKSUM
            is_sound = zlib.crc32(self._tail[start : start + 8]) == checksum
            if not is_sound or not smallest <= total <= self._LARGEST_FRAME:
                self._broken = True
                self._tail.clear()
                return
            if start + total > len(self._tail):
                break
            self._read_frame(bytes(self._tail[start : start + total]), headers)
            start += total
        del self._tail[:start]

    def close(self) -> None:
        """End the open message; half a frame is dropped."""
        self._tail.clear()
        super().close()

    def _read_frame(self, frame: bytes, headers: int) -> None:
        start = self._PRELUDE.size + headers
        payload = decode_json(frame[start : -self._CHECKSUM])
        if b":exception-type" in frame[self._PRELUDE.size : start]:
            self._assembly.take({"type": "error", "error": {"type": "exception"}})
        elif isinstance(payload, dict) and isinstance(payload.get("bytes"), str):
            with contextlib.suppress(binascii.Error, ValueError):
                self._assembly.take(decode_json(b64decode(payload["bytes"])))


class _JsonReader(Reader):
    """Reads a whole JSON body when it has ended."""

    _LARGEST = 256 * 1024 * 1024

    def __init__(self) -> None:
        super().__init__()
        self._body = bytearray()

    def feed(self, chunk: bytes) -> None:
        if len(self._body) <= self._LARGEST:
            self._body += chunk

    def close(self) -> None:
        body = decode_json(self._body) if self._body else None
        self._body.clear()
        if isinstance(body, dict):
            if body.get("type") == "error":
                self._assembly.error = "error"
            elif body.get("type") == "message" or "usage" in body:
                self._assembly.messages.append(StreamedMessage(body=body))


class _SniffingReader(Reader):
    """Chooses by the first byte that is not white space: JSON, AWS frames, or events."""

    _chosen: Reader | None = None

    def feed(self, chunk: bytes) -> None:
        if self._chosen is None:
            first = chunk.lstrip().removeprefix(_BOM).lstrip()[:1]
            if not first:
                return
            if first in b"{[":
                self._chosen = _JsonReader()
            else:
                self._chosen = EventStreamReader() if first == b"\0" else StreamReader()
            self._assembly = self._chosen._assembly
        self._chosen.feed(chunk)

    def close(self) -> None:
        if self._chosen is not None:
            self._chosen.close()

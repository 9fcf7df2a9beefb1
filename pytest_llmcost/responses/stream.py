"""Response bodies as they pass, to their final messages; only what a bill depends on is kept.

Knows events, frames and batch results, and no prices. Memory does not grow with the text.
"""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from pytest_llmcost.json_values import decode_json
from pytest_llmcost.prices.usage import is_quantity, mapping, mappings
from pytest_llmcost.responses.converse import counts_of, to_events, to_message

_MOST_MESSAGES = 1_000
_MOST_BLOCKS = 500
"""More than any response has; what a broken stream sends beyond is left out.

A log may hold more messages: then the last one that is read passes for truncated."""
_LARGEST_EVENT = 4 * 1024 * 1024
"""Bytes. Only content that no bill depends on comes in larger events; they are skipped."""
_LARGEST = 64 * 1024 * 1024
"""Bytes of a frame, a batch's result or a whole body: more than the API sends of any of them."""
_KEPT_KEYS = ("type", "name", "from", "to", "trigger", "caller")
FILLINGS = {"text": ("text",), "thinking": ("thinking", "signature"), "compaction": ("content",)}
"""Blocks that may be empty, and the keys that hold what they say, in deltas too."""
_FILLED_KEYS = ("text", "thinking", "signature", "data", "content")
"""Of these only whether they are empty matters: it shows a refusal before any output."""
_BOM = b"\xef\xbb\xbf"
_PRELUDE = struct.Struct("!III")
"""Of a frame: its length, its headers' length, the checksum of these two."""
_CHECKSUM = 4


class StreamedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a response body, shaped as the API would have sent it whole."""

    body: Mapping[str, Any]
    """The final message; `content` is reduced to what a bill depends on if it was streamed."""
    truncated: bool = False
    """Whether the stream ended before all of the final usage: its output is a lower bound."""
    withdrawn: str | None = None
    """An input count that the end of the stream states as 0, after a greater one before."""
    disputed: frozenset[str] = frozenset()
    """Counts of the usage that the last event states higher than the final usage does."""


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one request of a batch; only those that succeeded are billed."""

    custom_id: str = ""
    """Empty for all that cannot be read of a batch's results."""
    outcome: Literal["succeeded", "errored", "canceled", "expired", "unreadable"]
    body: Mapping[str, object] | None = None
    """The message, its content reduced to what a bill depends on."""


_FORMS = {b"{": "json", b"[": "json", b"\0": "frames"}
"""Of a body, by its first byte; any other is one of events."""


def read_whole(body: bytes, reader: Reader | None = None, *, of_batch: bool = False) -> Reader:
    """Read a body that is there as a whole, or the rest of one that a reader has begun."""
    reader = reader or Reader(of_batch=of_batch)
    reader.feed(body)
    reader.close()
    return reader


class Reader:
    """Reads one response body, fed in pieces that are cut anywhere.

    `message_start` opens a message, each `message_delta` overwrites what it restates (cumulative,
    never added). The same id again before its `message_stop` is the same message; another id is
    a separate response.

    Source: https://platform.claude.com/docs/en/build-with-claude/streaming, read 2026-11-22
    """

    def __init__(self, *, of_batch: bool = False) -> None:
        self._form = "lines" if of_batch else None
        """Of the body; None until its first byte is known, `broken` if it cannot be read on."""
        self.messages: list[StreamedMessage] = []
        """Those that have ended; all of them once the reader is closed."""
        self.results: list[BatchResult] = []
        """Of a batch: those that were read."""
        self._lost_lines = False
        """Whether some line was none."""
        self.error: str | None = None
        """The type of the error that the body states, if it states one."""
        self._tail = bytearray()
        """What is not read yet."""
        self._empty_blocks: dict[object, dict[str, Any]] = {}
        """Blocks by index that are empty so far; while there are any, deltas matter."""
        self._start(None)

    def feed(self, chunk: bytes) -> None:
        """Read what has become whole, keep the rest for later."""
        if self._form is None:
            first = chunk.lstrip().removeprefix(_BOM).lstrip()[:1]
            if not first:
                return
            self._form = _FORMS.get(first, "events")
        if self._form == "events":
            self._feed_events(chunk)
        elif self._form == "frames":
            self._feed_frames(chunk)
        elif self._form == "lines":
            self._feed_lines(chunk)
        elif self._form == "json" and len(self._tail) <= _LARGEST:
            self._tail += chunk

    def close(self) -> None:
        """End the open message: the body has ended, or will not be read on."""
        if self._form == "events":
            # A last event may lack its blank line, as in hand-kept recordings.
            self._read_events(bytes(self._tail) + b"\n\n")
        elif self._form == "lines":
            self._feed_lines(b"\n")
            if self._lost_lines or not self.results:  # every batch has some
                self.results.append(BatchResult(outcome="unreadable"))
        elif self._form == "json":
            body = decode_json(self._tail)
            if isinstance(body, dict) and body.get("type") == "error":
                self._take(body)
            elif isinstance(body, dict) and (body.get("type") == "message" or "usage" in body):
                self.messages.append(StreamedMessage(body=to_message(body) or body))
        self._tail.clear()
        self._finish()

    # The forms of a body

    def _feed_events(self, chunk: bytes) -> None:
        r"""Read server-sent events: `\n`, `\r\n` or `\r`, comments, pings, data over several lines.

        Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
        """
        last = self._tail[-1:]  # a blank line may be cut in two
        seen = last + chunk
        end = seen.rfind(b"\n\n")
        if b"\r" in seen:  # two searches from behind that hardly any stream needs
            end = max(end, seen.rfind(b"\n\r"), seen.rfind(b"\r\r"))
        if end >= 0:
            end += 2 - len(last)
            self._read_events(bytes(self._tail) + chunk[:end])
            self._tail[:] = chunk[end:]
        else:
            self._tail += chunk
            if len(self._tail) > _LARGEST_EVENT:  # without its beginning, the rest is no JSON
                self._tail.clear()

    def _read_events(self, region: bytes) -> None:
        # Whole stretches without an event that matters are skipped without being split, so reading
        # costs a small fraction of what the client's own parsing does.
        if not self._matters(region):
            return
        lines = region.removeprefix(_BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        for event in lines.split(b"\n\n"):
            if self._matters(event):
                data = [line[5:] for line in event.split(b"\n") if line.startswith(b"data:")]
                self._take_json(b"\n".join(data))

    def _matters(self, data: bytes) -> bool:
        return (
            b"message_" in data
            or b"content_block_start" in data
            or b"error" in data
            or b"chat.completion.chunk" in data
            or bool(data and self._empty_blocks)
        )

    def _feed_frames(self, chunk: bytes) -> None:
        """Read AWS event frames: prelude, headers, payload, checksum; a wrong one ends the reading.

        Source: https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html
        """
        self._tail += chunk
        while len(self._tail) >= _PRELUDE.size:
            total, headers, checksum = _PRELUDE.unpack_from(self._tail)
            start = _PRELUDE.size + headers
            is_sound = zlib.crc32(self._tail[:8]) == checksum
            if not is_sound or not start + _CHECKSUM <= total <= _LARGEST:
                self._form = "broken"
                self._tail.clear()
            elif total > len(self._tail):
                return
            else:
                frame = bytes(self._tail[:total])
                del self._tail[:total]
                if b":exception-type" in frame[_PRELUDE.size : start]:
                    self.error = "exception"
                else:
                    self._take_json(frame[start:-_CHECKSUM])

    def _feed_lines(self, chunk: bytes) -> None:
        """Read a batch's results, in any order, one a line; a recorder may keep them as a list.

        Source: https://platform.claude.com/docs/en/build-with-claude/batch-processing
        """
        head, newline, rest = chunk.rpartition(b"\n")
        if newline:
            for line in filter(bytes.strip, (bytes(self._tail) + head).splitlines()):
                value = decode_json(line)
                for each in value if isinstance(value, list) else [value]:
                    self._take_result(mapping(each))
            self._tail.clear()
        if len(self._tail) <= _LARGEST:
            self._tail += rest

    def _take_result(self, line: Mapping[str, Any]) -> None:
        custom_id, result = line.get("custom_id"), mapping(line.get("result"))
        message, body = result.get("message"), None
        outcome: Any = result.get("type")
        if outcome == "succeeded" and isinstance(message, dict):
            body = {**message, "content": _reduced(message)}
        elif outcome not in ("errored", "canceled", "expired"):
            outcome = "unreadable"
        if isinstance(custom_id, str):
            self.results.append(BatchResult(custom_id=custom_id, outcome=outcome, body=body))
        else:
            self._lost_lines = True

    # The messages that events add up to

    def _take_json(self, data: bytes) -> None:
        event = decode_json(data)
        if self._form == "frames" and isinstance(event, dict) and "bytes" in event:
            with suppress(TypeError, ValueError):
                event = decode_json(b64decode(event["bytes"]))
        if isinstance(event, dict):
            for each in to_events(event) if event.get("type") is None else [event]:
                self._take(each)

    def _take(self, event: Mapping[str, Any]) -> None:
        kind, message = event.get("type"), event.get("message")
        if kind == "error":
            self.error = str(mapping(event.get("error")).get("type") or "error")
        elif kind == "message_start" and isinstance(message, dict):
            body = self._body
            if body is None or not body.get("id") or body["id"] != message.get("id"):
                self._finish()
                body = {**message, "usage": {}, "content": _reduced(message)}
                self._start(body)
            self._restate(body, message.get("usage"))
        elif self._body is not None:
            self._go_on(self._body, event)

    def _go_on(self, body: dict[str, Any], event: Mapping[str, Any]) -> None:
        """Take an event of the open message."""
        kind, index = event.get("type"), str(event.get("index"))
        block, delta = event.get("content_block"), event.get("delta")
        if kind == "content_block_start" and isinstance(block, dict):
            if len(body["content"]) < _MOST_BLOCKS:
                reduced = _reduce(block)
                body["content"].append(reduced)
                is_empty = not any(map(reduced.get, _FILLED_KEYS))
                if is_empty and str(reduced.get("type")) in FILLINGS:
                    self._empty_blocks[index] = reduced
        elif kind == "content_block_delta" and isinstance(delta, dict):
            key = next(filter(delta.get, _FILLED_KEYS), None)
            if key is not None and index in self._empty_blocks:
                self._empty_blocks.pop(index)[key] = "x"
        elif kind == "message_delta":
            if isinstance(delta, dict):
                stated = {key: delta.get(key) for key in ("stop_reason", "stop_details")}
                body.update({key: each for key, each in stated.items() if each is not None})
            if self._restate(body, event.get("usage")) and body.get("stop_reason") is not None:
                self._is_final = True
        elif kind == "message_stop":
            self._stop(body, event)

    def _start(self, body: dict[str, Any] | None) -> None:
        self._body = body
        self._is_final = False
        """Whether the final usage has been seen."""
        self._stated: set[str] = set()
        """Input counts that some event of the open message has stated above 0."""
        self._disputed: set[str] = set()
        self._empty_blocks.clear()

    def _finish(self, *, is_stopped: bool = False) -> None:
        # In frames, which are Bedrock's, the last event may state more: see `_stop`.
        may_say_more = not is_stopped and self._form in ("frames", "broken")
        if self._body is not None and len(self.messages) == _MOST_MESSAGES:
            self.messages[-1] = replace(self.messages[-1], truncated=True)
        elif self._body is not None:
            usage = self._body["usage"]
            gone = (key for key in usage if key in self._stated and not usage[key])
            self.messages.append(
                StreamedMessage(
                    body=self._body,
                    truncated=may_say_more or not self._is_final,
                    withdrawn=next(gone, None),
                    disputed=frozenset(self._disputed),
                )
            )
        self._start(None)

    def _restate(self, body: dict[str, Any], stated: object) -> bool:
        """Overwrite what is restated; null restates nothing. Return whether output is stated.

        What a start states of the output is a placeholder.
        """
        if not isinstance(stated, dict):
            return False
        usage = body["usage"]
        usage.update({key: value for key, value in stated.items() if value is not None})
        self._stated.update(key for key in usage if key.endswith("input_tokens") and usage[key])
        return stated.get("output_tokens") is not None

    def _stop(self, body: dict[str, Any], event: Mapping[str, Any]) -> None:
        """Take what the last event says, and end the message.

        On Bedrock the cache counts may stand in its metrics, or in a usage of its own, alone.
        What the final usage states is cumulative, and a smaller figure here does not replace it; no
        rule says which of the two is right if this one is higher.
        Source: BerriAI/litellm#34373, #36878 and #24850, read 2026-11-25.
        """
        metrics = event.get("amazon-bedrock-invocationMetrics")
        for stated in (event.get("usage"), counts_of(metrics) if metrics else None):
            if not isinstance(stated, dict):
                continue
            if not self._is_final:
                self._is_final = self._restate(body, stated)
                continue
            for key, value in stated.items():
                if value is None:
                    continue  # restates nothing
                before = body["usage"].setdefault(key, value)
                if is_quantity(before) and is_quantity(value) and value > before:
                    self._disputed.add(key)
        self._finish(is_stopped=True)


def _reduced(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_reduce(block) for block in mappings(message.get("content"))[:_MOST_BLOCKS]]


def _reduce(block: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce a content block to what a bill depends on: what it is, and whether it is empty."""
    reduced = {key: block[key] for key in _KEPT_KEYS if key in block}
    for key in _FILLED_KEYS:
        value = block.get(key)
        if isinstance(value, dict) and "type" in value:
            reduced[key] = {"type": value["type"]}  # of a tool's result, it tells an error
        elif key in block:
            reduced[key] = "x" if value else ""
    return reduced

"""Assembly: a stream's events put together again to what its final message would bill.

Data flow: decoded events -> `Assembly.take` -> StreamedMessage -> `read_message`. Only what a
bill depends on is kept, so memory does not grow with the text that passes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec

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
_decoder = msgspec.json.Decoder()


class StreamedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a response body, shaped as the API would have sent it whole."""

    body: Mapping[str, object]
    """The final message; `content` is reduced to what a bill depends on where it was streamed."""
    truncated: bool = False
    """Whether the stream ended before the final usage: its output is a lower bound."""
    withdrawn: str | None = None
    """An input count that the end of the stream states as 0, after a greater one before."""


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

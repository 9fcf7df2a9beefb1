"""Readers of response bodies: usage out of bytes as they pass, in constant memory.

Data flow: chunks of a body -> `Reader.feed` -> events -> `Assembly` -> `Reader.messages`.
A reader never raises, whatever the bytes and wherever they are cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pytest_llmcost.metering.assembly import Assembly, StreamedMessage, decode_json
from pytest_llmcost.metering.eventstream import EventStreamReader

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

"""EventStreamReader: the frames in which Bedrock wraps a stream's events.

Data flow: frames -> `{"bytes": base64 of an event}` -> event -> `Assembly`.
"""

from __future__ import annotations

import binascii
import struct
import zlib
from base64 import b64decode
from collections.abc import Sequence

from pytest_llmcost.metering.assembly import Assembly, StreamedMessage, decode_json

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

from __future__ import annotations

import json
import struct
import zlib
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmcost.responses.stream import EventStreamReader

START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "model": "claude-opus-4-6",
        "content": [],
        "usage": {"input_tokens": 9, "output_tokens": 1},
    },
}
FINAL: dict[str, Any] = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn"},
    "usage": {"output_tokens": 44},
}
STOP = {"type": "message_stop", "amazon-bedrock-invocationMetrics": {"outputTokenCount": 44}}


def header(name: str, value: str) -> bytes:
    return (
        struct.pack("!B", len(name))
        + name.encode()
        + struct.pack("!BH", 7, len(value))
        + value.encode()
    )


def frame(payload: bytes, kind: str = ":event-type", name: str = "chunk") -> bytes:
    headers = header(kind, name) + header(":content-type", "application/json")
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    body = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    return body + struct.pack("!I", zlib.crc32(body))


def chunk(event: dict[str, Any]) -> bytes:
    encoded = b64encode(json.dumps(event).encode()).decode()
    return frame(json.dumps({"bytes": encoded, "p": "abcdef"}).encode())


@pytest.mark.parametrize("size", [1, 5, 16, 10_000])
def test_frames_cut_anywhere_give_the_final_usage(size: int) -> None:
    body = chunk(START) + chunk(FINAL) + chunk(STOP)
    reader = EventStreamReader()
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    (message,) = reader.messages
    assert (message.body["usage"], message.truncated) == (
        {"input_tokens": 9, "output_tokens": 44},
        False,
    )


def test_an_exception_frame_is_an_error_and_the_message_truncated() -> None:
    reader = EventStreamReader()
    reader.feed(chunk(START) + frame(b'{"message":"slow down"}', ":exception-type", "throttling"))
    reader.close()
    assert reader.error == "exception"
    assert reader.messages[0].truncated


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b'{"bytes": 3}', b'{"bytes": "%%"}', b'{"bytes": "bm8="}', b"\xff"]
)
def test_a_frame_without_an_event_is_passed_over(payload: bytes) -> None:
    reader = EventStreamReader()
    reader.feed(chunk(START) + frame(payload) + chunk(FINAL))
    reader.close()
    assert not reader.messages[0].truncated


def test_a_frame_whose_checksum_is_wrong_ends_the_reading() -> None:
    reader = EventStreamReader()
    damaged = bytearray(chunk(FINAL))
    damaged[9] ^= 1
    reader.feed(chunk(START) + bytes(damaged))
    reader.feed(chunk(FINAL))
    reader.close()
    assert reader.messages[0].truncated


@given(st.binary(max_size=60))
def test_bytes_behind_a_good_frame_never_raise(noise: bytes) -> None:
    reader = EventStreamReader()
    reader.feed(chunk(START) + noise)
    reader.close()
    assert [message.body["id"] for message in reader.messages] == ["msg_1"]

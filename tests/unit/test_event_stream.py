from __future__ import annotations

import json
import struct
import zlib
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmcost.responses.stream import Reader, StreamedMessage

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
    reader = Reader()
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    (message,) = reader.messages
    assert (message.body["usage"], message.truncated) == (
        {"input_tokens": 9, "output_tokens": 44},
        False,
    )


METRICS = "amazon-bedrock-invocationMetrics"
AGREES = {"inputTokenCount": 9, "outputTokenCount": 44, "invocationLatency": 7}
CACHED = {"cacheReadInputTokenCount": 500, "cacheWriteInputTokenCount": 60}


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_frames_of_converse_cut_anywhere_give_its_usage(size: int) -> None:
    events: dict[str, dict[str, Any]] = {
        "messageStart": {"role": "assistant"},
        "contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "Hi"}},
        "messageStop": {"stopReason": "end_turn"},
        "metadata": {"usage": {"inputTokens": 3, "outputTokens": 4}},
    }
    body = b"".join(frame(json.dumps(each).encode(), name=name) for name, each in events.items())
    reader = Reader()
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    reader.close()
    (message,) = reader.messages
    assert message.body["usage"] == {"input_tokens": 3, "output_tokens": 4}
    assert not message.truncated


def last(*sent: dict[str, Any]) -> StreamedMessage:
    reader = Reader()
    reader.feed(b"".join(map(chunk, sent)))
    (message,) = reader.messages
    return message


# Source: BerriAI/litellm#34373, #36878 and #24850.
@pytest.mark.parametrize(
    ("stop", "more", "disputed"),
    [
        ({METRICS: AGREES}, {}, set()),
        (
            {METRICS: AGREES | CACHED},
            {"cache_read_input_tokens": 500, "cache_creation_input_tokens": 60},
            set(),
        ),
        ({"usage": {"cache_read_input_tokens": 500}}, {"cache_read_input_tokens": 500}, set()),
        (
            {"usage": {"cache_read_input_tokens": 500}, METRICS: AGREES | CACHED},
            {"cache_read_input_tokens": 500, "cache_creation_input_tokens": 60},
            set(),
        ),
        ({METRICS: {"inputTokenCount": 509}}, {}, {"input_tokens"}),
        (
            {"usage": {"output_tokens": 45}, METRICS: {"outputTokenCount": 46}},
            {},
            {"output_tokens"},
        ),
        ({METRICS: {"inputTokenCount": 0, "outputTokenCount": 4}}, {}, set()),
        ({METRICS: {"inputTokenCount": "many"}}, {}, set()),
        ({METRICS: 3, "usage": []}, {}, set()),
    ],
)
def test_the_last_event_adds_what_is_not_stated_and_disputes_what_it_states_higher(
    stop: dict[str, Any], more: dict[str, int], disputed: set[str]
) -> None:
    message = last(START, FINAL, {"type": "message_stop", **stop})
    assert message.body["usage"] == {"input_tokens": 9, "output_tokens": 44} | more
    assert message.disputed == disputed
    assert (message.truncated, message.withdrawn) == (False, None)


@pytest.mark.parametrize("ending", [b"", chunk(STOP)[:-1], b"\0" * 16])
def test_without_the_last_event_the_final_usage_may_not_be_all(ending: bytes) -> None:
    reader = Reader()
    reader.feed(chunk(START) + chunk(FINAL) + ending)
    reader.close()
    assert reader.messages[0].truncated


def test_a_final_usage_in_the_last_event_alone_is_the_final_one() -> None:
    stop = {"type": "message_stop", METRICS: AGREES | CACHED}
    message = last(START, stop)
    assert (message.body["usage"]["output_tokens"], message.truncated) == (44, False)
    assert message.body["usage"]["cache_read_input_tokens"] == 500
    assert not message.disputed


def test_an_exception_frame_is_an_error_and_the_message_truncated() -> None:
    reader = Reader()
    reader.feed(chunk(START) + frame(b'{"message":"slow down"}', ":exception-type", "throttling"))
    reader.close()
    assert reader.error == "exception"
    assert reader.messages[0].truncated


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b'{"bytes": 3}', b'{"bytes": "%%"}', b'{"bytes": "bm8="}', b"\xff"]
)
def test_a_frame_without_an_event_is_passed_over(payload: bytes) -> None:
    reader = Reader()
    reader.feed(chunk(START) + frame(payload) + chunk(FINAL) + chunk(STOP))
    reader.close()
    assert not reader.messages[0].truncated


def test_a_frame_whose_checksum_is_wrong_ends_the_reading() -> None:
    reader = Reader()
    damaged = bytearray(chunk(FINAL))
    damaged[9] ^= 1
    reader.feed(chunk(START) + bytes(damaged))
    reader.feed(chunk(FINAL))
    reader.close()
    assert reader.messages[0].truncated


@given(st.binary(max_size=60))
def test_bytes_behind_a_good_frame_never_raise(noise: bytes) -> None:
    reader = Reader()
    reader.feed(chunk(START) + noise)
    reader.close()
    assert [message.body["id"] for message in reader.messages] == ["msg_1"]

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_traffic import billed_lines, body_of, needs_traffic

from pytest_llmcost.responses.stream import Reader, StreamedMessage

START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-opus-4-7",
        "content": [],
        "stop_reason": None,
        "usage": {
            "input_tokens": 25,
            "cache_creation_input_tokens": 7,
            "cache_creation": {"ephemeral_5m_input_tokens": 7},
            "output_tokens": 1,
            "service_tier": "standard",
        },
    },
}
TEXT = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
HELLO = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": "Hello, wörld 🎉"},
}
STOP_BLOCK = {"type": "content_block_stop", "index": 0}
FINAL = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn", "stop_sequence": None},
    "usage": {"output_tokens": 15, "cache_creation_input_tokens": None},
}
STOP = {"type": "message_stop"}
WHOLE = [START, TEXT, HELLO, STOP_BLOCK, FINAL, STOP]


def events(*sent: dict[str, Any], ending: str = "\n") -> bytes:
    lines: list[str] = []
    for event in sent:
        text = json.dumps(event, ensure_ascii=False)
        lines += [f"event: {event['type']}", f"data: {text}", ""]
    return "".join(line + ending for line in lines).encode()


def read(reader: Reader, chunks: Iterable[bytes]) -> Sequence[StreamedMessage]:
    for chunk in chunks:
        reader.feed(chunk)
    reader.close()
    return reader.messages


def cut(body: bytes, seed: int) -> Iterator[bytes]:
    dice = random.Random(seed)
    start = 0
    while start < len(body):
        size = dice.choice((1, 2, 5, 60, 400, 9_000))
        yield body[start : start + size]
        start += size


def usage_of(message: StreamedMessage) -> dict[str, Any]:
    usage = message.body["usage"]
    assert isinstance(usage, dict)
    return usage


@needs_traffic
@pytest.mark.parametrize("seed", range(3))
def test_every_recorded_body_cut_at_random_gives_its_usage(seed: int) -> None:
    lines = billed_lines()
    for line in lines:
        messages = read(Reader(), cut(body_of(line), seed))
        usage = usage_of(messages[-1])
        if len({message.body["id"] for message in messages}) == 1:
            assert usage == line["usage_raw"], line["id"]
        else:  # the line overlays them all; only its numbers are the last message's
            assert usage.items() <= line["usage_raw"].items(), line["id"]
    assert len(lines) == 670


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000_000])
def test_any_line_ending_cut_anywhere_reads_the_same(ending: str, size: int) -> None:
    body = events(*WHOLE, ending=ending)
    chunks = [body[i : i + size] for i in range(0, len(body), size)]
    (message,) = read(Reader(), chunks)
    assert not message.truncated
    assert message.body["stop_reason"] == "end_turn"
    assert message.body["content"] == [{"type": "text", "text": "x"}]


def test_the_final_usage_overwrites_and_never_adds() -> None:
    smaller = {**FINAL, "usage": {"input_tokens": 3, "output_tokens": 15}}
    (message,) = read(Reader(), [events(START, FINAL, smaller, STOP)])
    assert usage_of(message) == {
        "input_tokens": 3,
        "cache_creation_input_tokens": 7,
        "cache_creation": {"ephemeral_5m_input_tokens": 7},
        "output_tokens": 15,
        "service_tier": "standard",
    }


@pytest.mark.parametrize(
    "odd", [{"usage": 5, "content": None}, {"content": 5}, {"content": "x"}, 5]
)
def test_a_delta_leaves_the_usage_and_the_content_as_they_are(odd: object) -> None:
    strange = {"type": "message_delta", "delta": odd}
    (message,) = read(Reader(), [events(START, strange, TEXT, HELLO, FINAL, STOP)])
    assert usage_of(message)["output_tokens"] == 15
    assert message.body["content"] == [{"type": "text", "text": "x"}]


def test_data_over_several_lines_comments_pings_and_a_byte_order_mark_are_read() -> None:
    pretty = "".join(f"data: {line}\n" for line in json.dumps(FINAL, indent=1).splitlines())
    body = b"\xef\xbb\xbf" + events(START) + b": a comment\n\n" + events({"type": "ping"})
    body += b"event: message_delta\nid: 4\nretry: 10\n" + pretty.encode() + b"\n" + events(STOP)
    (message,) = read(Reader(), [body])
    assert (usage_of(message)["output_tokens"], message.truncated) == (15, False)


@pytest.mark.parametrize("sent", [[START], [START, TEXT, HELLO], [START, TEXT, STOP]])
def test_a_stream_without_its_final_usage_is_truncated(sent: list[dict[str, Any]]) -> None:
    (message,) = read(Reader(), [events(*sent)])
    assert message.truncated
    assert usage_of(message)["input_tokens"] == 25


@pytest.mark.parametrize("usage", [{}, {"input_tokens": 25}, {"output_tokens": None}])
def test_a_final_usage_without_the_output_leaves_a_placeholder(usage: dict[str, Any]) -> None:
    (message,) = read(Reader(), [events(START, TEXT, HELLO, {**FINAL, "usage": usage}, STOP)])
    assert message.truncated


def test_a_stream_left_at_the_final_usage_is_whole() -> None:
    (message,) = read(Reader(), [events(START, FINAL)])
    assert not message.truncated


def test_a_last_event_without_its_blank_line_still_counts() -> None:
    (message,) = read(Reader(), [events(START, FINAL).rstrip()])
    assert not message.truncated


def test_half_an_event_at_the_end_reports_nothing() -> None:
    body = events(START, FINAL).rstrip()
    (message,) = read(Reader(), [body[:-3]])
    assert message.truncated
    assert usage_of(message)["output_tokens"] == 1


def test_an_error_event_is_told_and_leaves_what_came_before() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    reader = Reader()
    (message,) = read(reader, [events(START, error)])
    assert (reader.error, message.truncated) == ("overloaded_error", True)
    alone = Reader()
    assert list(read(alone, [events(error)])) == []
    assert alone.error == "overloaded_error"


def test_the_same_id_again_before_its_stop_is_one_message() -> None:
    (message,) = read(Reader(), [events(START, START, TEXT, HELLO, FINAL, STOP)])
    assert not message.truncated


def test_another_id_is_another_message_and_the_first_is_truncated_without_a_delta() -> None:
    other = {**START, "message": {**START["message"], "id": "msg_2"}}
    first, second = read(Reader(), [events(START, other, FINAL, STOP)])
    assert (first.truncated, second.truncated) == (True, False)
    again, _ = read(Reader(), [events(*WHOLE, *WHOLE)])
    assert not again.truncated


def test_each_start_without_an_id_is_a_message_of_its_own() -> None:
    start = {**START, "message": {**START["message"], "id": None}}
    first, second = read(Reader(), [events(start, start, FINAL, STOP)])
    assert (first.truncated, second.truncated) == (True, False)


def test_more_messages_than_are_read_are_not_exact() -> None:
    starts = ({**START, "message": {**START["message"], "id": f"msg_{n}"}} for n in range(1_001))
    sent = [event for start in starts for event in (start, FINAL, STOP)]
    messages = read(Reader(), [events(*sent)])
    assert [message.truncated for message in messages] == [*[False] * 999, True]


def test_blocks_keep_what_a_bill_depends_on_and_nothing_else() -> None:
    fallback = {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}, "trigger": None}
    advisor = {"type": "server_tool_use", "id": "s", "name": "advisor", "input": {"long": "text"}}
    result = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "u"}]}
    advice = {"type": "advisor_tool_result", "content": {"type": "advisor_tool_result_error"}}
    starts = [
        {"type": "content_block_start", "index": index, "content_block": block}
        for index, block in enumerate([fallback, advisor, result, advice], start=1)
    ]
    (message,) = read(Reader(), [events(START, TEXT, *starts, FINAL, STOP)])
    assert message.body["content"] == [
        {"type": "text", "text": ""},
        fallback,
        {"type": "server_tool_use", "name": "advisor"},
        {"type": "web_search_tool_result", "content": "x"},
        advice,
    ]


@pytest.mark.parametrize(
    ("block", "delta", "key"),
    [
        ({"type": "text", "text": ""}, {"type": "text_delta", "text": "a"}, "text"),
        ({"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": "a"}, None),
        ({"type": "thinking", "thinking": ""}, {"type": "signature_delta", "signature": "a"}, None),
        ({"type": "compaction"}, {"type": "compaction_delta", "content": "a"}, "content"),
    ],
)
def test_a_block_is_filled_by_the_first_delta_that_is_not_empty(
    block: dict[str, Any], delta: dict[str, Any], key: str | None
) -> None:
    key = key or delta["type"].removesuffix("_delta")
    start = {"type": "content_block_start", "index": 0, "content_block": block}
    empty = {"type": "content_block_delta", "index": 0, "delta": {**delta, key: ""}}
    full = {"type": "content_block_delta", "index": 0, "delta": delta}
    (left_empty,) = read(Reader(), [events(START, start, empty, FINAL)])
    assert left_empty.body["content"] == [block]
    (filled,) = read(Reader(), [events(START, start, empty, full, full, FINAL)])
    assert filled.body["content"] == [{**block, key: "x"}]


def test_text_that_speaks_of_events_is_no_event() -> None:
    text = 'data: {"type":"message_delta","usage":{"output_tokens":9999}}\n\n'
    dialogue = {**HELLO, "delta": {"type": "text_delta", "text": text}}
    (message,) = read(Reader(), [events(START, TEXT, dialogue, dialogue, FINAL, STOP)])
    assert usage_of(message)["output_tokens"] == 15


def test_a_body_is_known_by_its_first_byte() -> None:
    whole = json.dumps({**START["message"], "stop_reason": "end_turn"}).encode()
    (message,) = read(Reader(), [b" \n", whole[:9], whole[9:]])
    assert (message.body["id"], message.truncated) == ("msg_1", False)
    (streamed,) = read(Reader(), [b"\n", events(*WHOLE)])
    assert usage_of(streamed)["output_tokens"] == 15


@pytest.mark.parametrize("body", [b"", b"  ", b"null", b"[1]", b"{", b'{"input_tokens": 3}', b"x"])
def test_a_body_that_is_no_message_gives_none(body: bytes) -> None:
    assert list(read(Reader(), [body])) == []


def test_an_error_body_says_so() -> None:
    reader = Reader()
    assert list(read(reader, [b'{"type":"error","error":{"type":"api_error"}}'])) == []
    assert reader.error == "api_error"


def test_a_message_cut_in_the_middle_of_an_emoji_is_read() -> None:
    body = json.dumps({**START["message"], "content": [{"type": "text", "text": "\ud83d"}]})
    (message,) = read(Reader(), [body.encode()])
    assert usage_of(message)["input_tokens"] == 25


def test_deep_nesting_is_survived() -> None:
    deep = b'data: {"type":"message_start","message":' + b"[" * 200_000 + b"\n\n"
    assert list(read(Reader(), [deep])) == []
    assert list(read(Reader(), [b"[" * 200_000])) == []


@pytest.mark.parametrize("start", [b"data:", b"\0", b"{", b""])
@given(
    chunks=st.lists(st.binary(max_size=80) | st.sampled_from([b"\n\n", b"data: {", b"\r", b":"]))
)
def test_arbitrary_bytes_in_arbitrary_cuts_never_raise_and_report_nothing(
    start: bytes, chunks: list[bytes]
) -> None:
    assert list(read(Reader(), [start, *chunks])) == []


@given(
    pieces=st.lists(
        st.sampled_from([events(event) for event in WHOLE]) | st.binary(max_size=20), max_size=12
    ),
    size=st.integers(1, 50),
)
def test_damaged_streams_never_report_more_than_was_there(pieces: list[bytes], size: int) -> None:
    body = b"".join(pieces)
    messages = read(Reader(), [body[i : i + size] for i in range(0, len(body), size)])
    assert len(messages) <= body.count(b'"type": "message_start"')
    for message in messages:
        usage = usage_of(message)
        assert usage["input_tokens"] in (25,)
        assert usage["output_tokens"] in (1, 15)
        if not message.truncated:
            assert b'"output_tokens": 15' in body


@given(end=st.integers(0, len(events(*WHOLE))), seed=st.integers(0, 9))
def test_every_beginning_of_a_stream_is_whole_or_truncated(end: int, seed: int) -> None:
    body = events(*WHOLE)[:end]
    for message in read(Reader(), cut(body, seed)):
        assert usage_of(message)["output_tokens"] == (1 if message.truncated else 15)


@settings(max_examples=25)
@given(size=st.integers(1, 3_000), noise=st.sampled_from([b": ping\n\n", b"\n", b"event: x\n\n"]))
def test_cuts_do_not_change_what_is_read(size: int, noise: bytes) -> None:
    body = noise.join(events(event) for event in WHOLE)
    cuts = [body[i : i + size] for i in range(0, len(body), size)]
    assert read(Reader(), cuts) == read(Reader(), [body])


@pytest.mark.parametrize(("size", "whole"), [(100, 2_000_000), (65_536, 20_000_000)])
def test_memory_stays_flat_on_a_long_stream(size: int, whole: int) -> None:
    event = events(HELLO)
    piece = event * (max(size, len(event)) // len(event)) if size > len(event) else event
    reader = Reader()
    reader.feed(events(START, TEXT))
    tracemalloc.start()
    try:
        for _ in range(whole // len(piece)):
            reader.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    reader.feed(events(FINAL, STOP))
    assert len(reader.messages) == 1
    assert peak < whole / 20


def test_what_follows_an_event_too_large_to_keep_is_read() -> None:
    reader = Reader()
    reader.feed(events(START) + b"data: {")
    reader.feed(b"x" * 5_000_000)
    reader.feed(b"}\n\n" + events(FINAL, STOP))
    (message,) = read(reader, [])
    assert not message.truncated


def test_memory_stays_bounded_by_one_endless_event_and_by_endless_blocks() -> None:
    reader, text = Reader(), events(TEXT)
    reader.feed(events(START))
    tracemalloc.start()
    try:
        for _ in range(300):
            reader.feed(b"data: " + b"x" * 100_000)
        for _ in range(20_000):
            reader.feed(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    reader.feed(b"\n\n" + events(FINAL, STOP))
    (message,) = read(reader, [])
    assert not message.truncated
    assert peak < 12_000_000

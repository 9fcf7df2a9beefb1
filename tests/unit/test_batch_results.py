from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_traffic import body_of, needs_traffic, recorded_lines

from pytest_llmcost.responses.stream import BatchResult, Reader

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "model": "claude-haiku-4-5",
    "content": [{"type": "text", "text": "a long answer"}],
    "usage": {"input_tokens": 20, "output_tokens": 5, "service_tier": "batch"},
}


def line(custom_id: str, **result: Any) -> bytes:
    return json.dumps({"custom_id": custom_id, "result": result}).encode()


def read(body: bytes, size: int = 10_000) -> list[BatchResult]:
    reader = Reader(of_batch=True)
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    reader.close()
    return reader.results


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_lines_cut_anywhere_are_results(size: int, ending: bytes) -> None:
    body = ending.join(
        [line("a", type="succeeded", message=MESSAGE), line("b", type="errored", error={}), b""]
    )
    first, second = read(body, size)
    assert (first.custom_id, first.outcome) == ("a", "succeeded")
    assert first.body is not None
    assert first.body["usage"] == MESSAGE["usage"]
    assert first.body["content"] == [{"type": "text", "text": "x"}]
    assert second == BatchResult(custom_id="b", outcome="errored")


def test_a_message_beside_an_error_is_not_billed() -> None:
    (result,) = read(line("a", type="errored", error={}, message=MESSAGE))
    assert result == BatchResult(custom_id="a", outcome="errored")


def test_a_last_line_without_its_end_counts_and_results_that_were_taken_come_once() -> None:
    reader = Reader(of_batch=True)
    reader.feed(line("a", type="expired") + b"\n" + line("b", type="canceled"))
    assert [result.custom_id for result in reader.results] == ["a"]
    reader.results = []
    reader.close()
    assert [result.custom_id for result in reader.results] == ["b"]


def test_a_result_of_an_unknown_shape_is_unreadable_and_not_lost() -> None:
    body = b"\n".join([line("a", type="succeeded"), line("b", type="novel")])
    assert [result.outcome for result in read(body)] == ["unreadable", "unreadable"]


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize(
    "noise", [b"null", b"{}", b"<html>\n</html>", b'{"custom_id": 1}', b"\xff", line("b")[:-9]]
)
def test_lines_that_are_no_result_are_unreadable_together(noise: bytes, size: int) -> None:
    sound = line("a", type="expired")
    assert read(noise + b"\n\n" + sound + b"\n" + noise, size) == [
        BatchResult(custom_id="a", outcome="expired"),
        BatchResult(outcome="unreadable"),
    ]


@pytest.mark.parametrize("body", [b"", b"\n\n", b"[]"])
def test_a_body_without_a_result_is_unreadable(body: bytes) -> None:
    assert read(body) == [BatchResult(outcome="unreadable")]


def test_blank_lines_are_passed_over_and_a_list_holds_results() -> None:
    lines = [line("a", type="expired"), b" ", b"", line("b", type="expired")]
    for body in (b"\n".join(lines), b"[" + lines[0] + b"," + lines[-1] + b"]"):
        assert [(each.custom_id, each.outcome) for each in read(body)] == [
            ("a", "expired"),
            ("b", "expired"),
        ]


@given(st.lists(st.binary(max_size=50)))
def test_arbitrary_bytes_never_raise(chunks: list[bytes]) -> None:
    reader = Reader(of_batch=True)
    for chunk in chunks:
        reader.feed(chunk)
    reader.close()
    assert reader.results == [BatchResult(outcome="unreadable")]


@needs_traffic
def test_recorded_results_are_read() -> None:
    lines = [
        recorded
        for recorded in recorded_lines()
        if recorded["endpoint"] == "batches_results" and recorded["status"] == 200
    ]
    assert len(lines) == 3
    for recorded in lines:
        body = body_of(recorded)
        results = read(body, 13)
        assert [result.outcome for result in results] == ["succeeded"] * body.count(b'"custom_id"')

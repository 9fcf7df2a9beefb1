from __future__ import annotations

import base64
import contextlib
import gzip
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from recorded_traffic import RESPONSES_PATH, body_of, needs_traffic, recorded_lines

from pytest_llmcost.errors import RecordingError
from pytest_llmcost.responses.recorded_files import Recorded, read_calls, read_recordings

CASSETTES_PATH = RESPONSES_PATH.parent / "cassettes"
URL = "https://api.anthropic.com/v1/messages"
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "model": "claude-opus-4-7",
    "usage": {"input_tokens": 10, "output_tokens": 5},
}
TEXT = json.dumps(MESSAGE)
ASKED = {"model": "claude-opus-4-7", "max_tokens": 9, "messages": []}
STREAM = b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n'


def read(data: object, path: str = "a.yaml") -> tuple[Recorded, ...]:
    if isinstance(data, bytes):
        return read_recordings(data, path)
    return read_recordings(yaml.safe_dump(data).encode(), path)


def only(data: object) -> Recorded:
    [recorded] = read(data)
    return recorded


def vcrpy(response_body: object, **response: Any) -> dict[str, Any]:
    request = {"method": "POST", "uri": URL, "body": json.dumps(ASKED), "headers": {}}
    headers = {"content-type": ["application/json"]}
    status = {"code": 200, "message": "OK"}
    full = {"status": status, "headers": headers, "body": response_body, **response}
    return {"version": 1, "interactions": [{"request": request, "response": full}]}


def parsed(**body: Any) -> dict[str, Any]:
    request = {"method": "POST", "uri": URL, "headers": {}, "parsed_body": ASKED}
    status = {"code": 200, "message": "OK"}
    response = {"status": status, "headers": {}, "parsed_body": body}
    return {"version": 1, "interactions": [{"request": request, "response": response}]}


def golang() -> dict[str, Any]:
    request = {"method": "POST", "url": URL, "body": json.dumps(ASKED), "proto": "HTTP/1.1"}
    response = {
        "body": TEXT,
        "headers": {"Content-Type": ["application/json"]},
        "status": "200 OK",
        "code": 200,
    }
    return {"version": 2, "interactions": [{"id": 0, "request": request, "response": response}]}


def older() -> dict[str, Any]:
    """As vcrpy before version 6 wrote what httpx sent."""
    [exchange] = vcrpy(None)["interactions"]
    response = {"status_code": 200, "headers": {}, "content": TEXT, "http_version": "HTTP/1.1"}
    return {"version": 1, "interactions": [{**exchange, "response": response}]}


RECORDERS = {
    "vcrpy": vcrpy({"string": TEXT}),
    "older vcrpy": older(),
    "parsed bodies": parsed(**MESSAGE),
    "go-vcr": golang(),
    "one exchange": golang()["interactions"][0],
}


@pytest.mark.parametrize("form", RECORDERS.values(), ids=RECORDERS)
@pytest.mark.parametrize("dump", [json.dumps, yaml.safe_dump], ids=["JSON", "YAML"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_what_a_recorder_wrote_is_read_as_the_exchange_it_was(
    form: object, dump: Any, pack: Any
) -> None:
    recorded = only(pack(dump(form).encode()))
    assert (recorded.method, recorded.url, recorded.status) == ("POST", URL, 200)
    assert recorded.request == ASKED
    assert json.loads(recorded.body) == MESSAGE
    assert recorded.problem is None


def test_yaml_may_begin_like_json() -> None:
    flow = yaml.safe_dump(vcrpy({"string": TEXT}), default_flow_style=True)
    assert flow.startswith("{")
    assert only(flow.encode()).body == TEXT.encode()


def test_exchanges_are_numbered_from_zero_behind_the_files_path() -> None:
    data = vcrpy({"string": TEXT})
    data["interactions"] *= 2
    sources = [each.source for each in read(data, "tests/c.yaml")]
    assert sources == ["tests/c.yaml#0", "tests/c.yaml#1"]


ZIPPED = gzip.compress(TEXT.encode())
BODIES = {
    "text": {"string": TEXT},
    "bytes": {"string": TEXT.encode()},
    "gzip bytes": {"string": ZIPPED},
    "plain text": TEXT,
    "object": MESSAGE,
}


@pytest.mark.parametrize("stored", BODIES.values(), ids=BODIES)
def test_a_body_is_read_however_it_is_stored(stored: object) -> None:
    assert json.loads(only(vcrpy(stored)).body) == MESSAGE


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (zlib.compress(TEXT.encode()), "Deflate"),
        (zlib.compress(TEXT.encode())[2:-4], "deflate"),  # raw, which clients read as well
        (gzip.compress(ZIPPED), "gzip, gzip"),
        (gzip.compress(zlib.compress(TEXT.encode())), "deflate,gzip"),
        (zlib.compress(ZIPPED), "x-gzip, deflate"),
    ],
)
def test_compressions_are_undone_in_turn_as_clients_do(body: bytes, encoding: str) -> None:
    data = vcrpy({"string": body}, headers={"Content-Encoding": [encoding]})
    assert json.loads(only(data).body) == MESSAGE


def test_a_body_of_br_is_read() -> None:
    """httpx, requests and aiohttp ask for it where brotli is installed, and VCR keeps what came."""
    brotli = pytest.importorskip("brotli")
    kept = {"string": brotli.compress(TEXT.encode())}
    data = vcrpy(kept, headers={"Content-Encoding": ["br"]})
    assert json.loads(only(data).body) == MESSAGE


def test_without_brotli_a_body_of_br_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "brotli", None)
    data = vcrpy({"string": b"\x0b\x00\x80{}\x03"}, headers={"content-encoding": "br"})
    assert "install brotli 1.2" in (only(data).problem or "")


@pytest.mark.parametrize("body", [b"\x0b\x02\x80", b"\xff\xff\xff"])
def test_a_body_of_br_that_cannot_be_read_is_a_problem(body: bytes) -> None:
    pytest.importorskip("brotli")
    data = vcrpy({"string": body}, headers={"content-encoding": ["br"]})
    assert "damaged" in (only(data).problem or "")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "gzip, br", "lzma"])
def test_a_header_of_a_compression_that_the_recorder_undid_does_not_matter(encoding: str) -> None:
    recorded = only(vcrpy({"string": TEXT}, headers={"content-encoding": encoding}))
    assert json.loads(recorded.body) == MESSAGE


@pytest.mark.parametrize(
    ("stored", "headers", "said"),
    [
        ({"string": ZIPPED[:20]}, {}, "damaged"),
        ({"string": b"\x08\x02"}, {"content-encoding": b"deflate"}, "damaged"),
        ({"string": b"\x01\x02"}, {"content-encoding": "gzip, zstd"}, "is encoded as zstd"),
    ],
)
def test_a_body_that_cannot_be_read_is_a_problem_of_that_exchange_alone(
    stored: object, headers: dict[str, object], said: str
) -> None:
    data = vcrpy(stored, headers=headers)
    data["interactions"] += vcrpy({"string": TEXT})["interactions"]
    damaged, sound = read(data)
    assert said in (damaged.problem or "")
    assert damaged.body == b""
    assert json.loads(sound.body) == MESSAGE


def test_a_text_is_its_own_bytes() -> None:
    for text in ("", "1f8b", "\x1f\x8b", "deadbeef" * 4):
        assert only(vcrpy({"string": text})).body == text.encode()


TAGGED = f"""
interactions:
- request:
    body: !!binary |
      {base64.b64encode(json.dumps(ASKED).encode()).decode()}
    headers: !!python/object/apply:httpx2.Headers
    - [[a, b]]
    method: !!python/object/apply:builtins.str [POST]
    uri: {URL}
  response:
    body:
      string: !!binary |-
        {base64.b64encode(TEXT.encode()).decode()}
    headers:
      Content-Type: !!python/tuple [!!python/str application/json]
      x: !!python/object:some.Thing {{a: 1}}
      y: !!python/name:os.system
    status: !!python/object/new:builtins.dict
      code: 201
version: 1
"""


def test_python_tags_come_out_as_plain_data() -> None:
    recorded = only(TAGGED.encode())
    assert recorded.request == ASKED
    assert recorded.status == 201
    assert json.loads(recorded.body) == MESSAGE


def test_python_tags_never_run_anything(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    text = f"interactions: [!!python/object/apply:pathlib.Path.touch [{trace}]]\n"
    read(text.encode())
    assert not trace.exists()


@pytest.mark.parametrize(
    ("response", "status"),
    [
        ({"status": {"code": 429}}, 429),
        ({"status": {"status_code": 429}}, 429),
        ({"status": "429 Too Many Requests"}, 429),
        ({"status": 429}, 429),
        ({"status": None, "status_code": 429}, 429),
        ({"status": None}, 200),
        ({"status": "²"}, 200),
        ({"status": "4_2_9"}, 200),
        ({"status": "9" * 5_000}, 200),
    ],
)
def test_every_recorders_status_is_read(response: dict[str, Any], status: int) -> None:
    assert only(vcrpy({"string": "{}"}, **response)).status == status


def test_a_parsed_body_that_is_a_list_is_one_too() -> None:
    assert json.loads(only(vcrpy([1, 2])).body) == [1, 2]


@pytest.mark.parametrize("odd", ["\ud800", 2**70])
def test_a_parsed_body_may_hold_what_only_plain_json_can_write(odd: object) -> None:
    written = json.dumps(parsed(**MESSAGE, odd=odd)).encode()
    assert json.loads(only(written).body)["odd"] == odd


@pytest.mark.parametrize("key", [True, None])
def test_a_parsed_body_may_have_keys_that_only_yaml_knows(key: object) -> None:
    for data in (vcrpy({**MESSAGE, "input": {key: 1}}), {**MESSAGE, "input": {key: 1}}):
        recorded = only(yaml.safe_dump(data).encode())
        assert not recorded.problem
        assert json.loads(recorded.body)["usage"] == MESSAGE["usage"]


def test_a_request_whose_body_cannot_be_read_is_none() -> None:
    data = vcrpy({"string": TEXT})
    data["interactions"][0]["request"]["body"] = b"\x1f\x8b"
    assert only(yaml.safe_dump(data).encode()).request is None


@pytest.mark.parametrize("part", [None, "text", []])
def test_an_exchange_without_its_parts_is_still_one(part: object) -> None:
    recorded = only({"interactions": [{"request": part, "response": part}, part][:1]})
    assert recorded.body == b""
    assert recorded.request is None


BARE = {
    "object": (TEXT, 1),
    "indented": (json.dumps(MESSAGE, indent=1), 1),
    "list": (json.dumps([MESSAGE, MESSAGE | {"id": "msg_2"}]), 2),
    "one a line": (f"{TEXT}\n\n{TEXT.replace('msg_1', 'msg_2')}\n", 2),
    "without ids": (json.dumps([MESSAGE | {"id": None}] * 2), 2),
    "with a byte order mark": ("\ufeff" + TEXT, 1),
    "in YAML": (yaml.safe_dump(MESSAGE), 1),
}


@pytest.mark.parametrize(("text", "count"), BARE.values(), ids=BARE)
def test_responses_alone_are_read(text: str, count: int) -> None:
    recorded = read(text.encode(), "r.json")
    assert [each.source for each in recorded] == [f"r.json#{n}" for n in range(count)]
    assert all(json.loads(each.body) | {"id": "msg_1"} == MESSAGE for each in recorded)
    assert all(each.url is None for each in recorded)


def calls(data: object) -> list[tuple[str, int]]:
    """Return the id and the output tokens of each call in a file."""
    answers = [found.answer for found in read_calls(read(data))]
    return [("".join(each.ids), each.usage.output_tokens) for each in answers if each is not None]


def lines(*rows: object) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def reply(output_tokens: int, **more: object) -> dict[str, Any]:
    return MESSAGE | {"usage": {"input_tokens": 10, "output_tokens": output_tokens}} | more


def stream(message: dict[str, Any]) -> list[dict[str, Any]]:
    usage = {"output_tokens": message["usage"]["output_tokens"]}
    return [
        {"type": "message_start", "message": reply(1, id=message["id"])},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    ]


def sse(*events: object) -> bytes:
    return "".join(f"data: {json.dumps(each)}\n\n" for each in events).encode()


def in_batch(message: dict[str, Any], custom_id: str = "a") -> dict[str, Any]:
    return {"custom_id": custom_id, "result": {"type": "succeeded", "message": message}}


def fetched(*results: object) -> dict[str, Any]:
    request = {"method": "GET", "uri": f"{URL}/batches/b_1/results"}
    return {"request": request, "response": {"status": 200, "body": lines(*results).decode()}}


@pytest.mark.parametrize("replies", [(2, 5), (5, 2), (5, 5), (1, 2, 5, 3)])
def test_a_response_that_a_log_holds_several_times_is_one(replies: tuple[int, ...]) -> None:
    states = [reply(n) for n in replies]
    other = MESSAGE | {"id": "msg_2"}
    assert sorted(calls(lines(states[0], other, *states[1:]))) == [("msg_1", 5), ("msg_2", 5)]


SEVERAL_TIMES = {
    "a stream twice": sse(*stream(MESSAGE) * 2),
    "a line of results twice": lines(in_batch(MESSAGE), in_batch(MESSAGE)),
    "results that were read twice": {"interactions": [fetched(in_batch(MESSAGE))] * 2},
    "a result twice in one body": {"interactions": [fetched(*[in_batch(MESSAGE)] * 2)]},
    "a recorded stream that repeats": vcrpy({"string": sse(*stream(MESSAGE) * 2)}),
    "a model that declined": lines(reply(1, model="claude-fable-5"), MESSAGE),
    "a state without a usage": lines({key: MESSAGE[key] for key in ("id", "type")}, MESSAGE),
}


@pytest.mark.parametrize("data", SEVERAL_TIMES.values(), ids=SEVERAL_TIMES)
def test_a_message_counts_once_in_whatever_form_a_file_repeats_it(data: object) -> None:
    assert calls(data) == [("msg_1", 5)]
    assert len(read_calls(read(data))) == 1


TWO_CALLS = {
    "two recorded requests": {"interactions": vcrpy(TEXT)["interactions"] * 2},
    "two recorded streams": {
        "interactions": vcrpy({"string": sse(*stream(MESSAGE))})["interactions"] * 2
    },
    "two requests of a batch": lines(in_batch(MESSAGE), in_batch(MESSAGE, "b")),
    "two messages without an id": lines(*[MESSAGE | {"id": ""}] * 2),
}


@pytest.mark.parametrize("data", TWO_CALLS.values(), ids=TWO_CALLS)
def test_two_requests_are_two_calls_whatever_id_was_copied_into_both(data: object) -> None:
    assert [tokens for _, tokens in calls(data)] == [5, 5]


@pytest.mark.parametrize(
    "unread",
    [
        {"message": MESSAGE},
        {"a": [[MESSAGE]]},
        {"request": ASKED, "response": MESSAGE},
        {"type": "message_start", "message": MESSAGE},
        {"results": [MESSAGE]},
    ],
)
def test_a_row_whose_usage_cannot_be_read_is_a_problem(unread: object) -> None:
    found = read_calls(read(lines(unread, MESSAGE, unread), "log.jsonl"))
    assert [(each.source, each.problem) for each in found] == [
        ("log.jsonl#1", None),
        ("log.jsonl", "rows with a usage in an unknown form: 2"),
    ]


@pytest.mark.parametrize(
    "row", [None, 5, {"level": "info"}, {"usage": None}, {"at": {"usage": {"cpu": 9}}}]
)
def test_other_rows_of_a_log_are_none(row: object) -> None:
    assert calls(lines({"message": row}, MESSAGE, [row])) == [("msg_1", 5)]
    assert len(read_calls(read(lines({"message": row}, MESSAGE)))) == 1


def test_batch_result_lines_are_read_one_by_one() -> None:
    recorded = read(lines(in_batch(MESSAGE), in_batch(MESSAGE, "b")))
    assert [json.loads(each.body)["custom_id"] for each in recorded] == ["a", "b"]
    assert [found.answer is None for found in read_calls(recorded)] == [False] * 2


def test_an_error_alone_is_free() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    (found,) = read_calls([only(json.dumps(error).encode())])
    assert (found.free, found.problem) == ("overloaded_error", None)


@pytest.mark.parametrize("data", [STREAM, b"\xef\xbb\xbf" + STREAM, b": hi\n\n" + STREAM])
def test_an_event_stream_is_one_response(data: bytes) -> None:
    recorded = only(data)
    assert STREAM in recorded.body


def test_aws_frames_are_one_response() -> None:
    assert only(b"\x00\x00\x01\x02rest").body == b"\x00\x00\x01\x02rest"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "f: the file is empty"),
        (b" \n", "f: the file is empty"),
        (b"hello", "f: neither a cassette nor"),
        (b"[1, 2]", "f: neither a cassette nor"),
        (b'{"a": 1}', "f: neither a cassette nor"),
        (b"interactions: 3", "f: neither a cassette nor"),
        (b"a: [1\nb: 2", "f, line 2: "),
        (b"a: \x00", "f: "),
        (b'{"a": 1}\n{"b"\n', "f, line 2: not JSON"),
        (b"\x1f\x8bnonsense", "f: looks gzip-compressed, but cannot be unpacked: "),
        (gzip.compress(b"{}", mtime=0)[:-4], "f: looks gzip-compressed, but cannot be unpacked: "),
        (b"? {a: b}\n: c", "f"),
        (b"a: 2001-99-99", "f: neither a cassette nor"),
        (b"[" * 900, "f"),
        (b"- " * 900, "f"),
    ],
)
def test_what_is_no_recording_is_an_error_that_names_the_file(data: bytes, said: str) -> None:
    with pytest.raises(RecordingError) as caught:
        read_recordings(data, "f")
    assert str(caught.value).startswith(said)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(RecordingError):
        read_recordings(data, "f")


@needs_traffic
def test_public_cassettes_give_the_bodies_that_were_sent() -> None:
    lines = {line["id"]: line for line in recorded_lines()}
    compared = 0
    for path in sorted(CASSETTES_PATH.rglob("*.yaml")):
        name = path.relative_to(CASSETTES_PATH).as_posix()
        for recorded in read_recordings(path.read_bytes(), name):
            line = lines.get(recorded.source)
            if line is not None:
                assert recorded.body == body_of(line), recorded.source
                assert recorded.request == line["request"], recorded.source
                assert recorded.status == line["status"], recorded.source
                compared += 1
    assert compared == 200

"""What a cassette played, learnt from VCR itself, whoever opened it and however it is kept."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import pytest
import vcr  # type: ignore[import-untyped]
import yaml
from capture_kit import ASKED, JSON_BODY, LIBRARIES, MESSAGE, SSE_BODY, URL, USAGE, capturing
from msgspec import to_builtins
from msgspec.structs import replace
from vcr.cassette import Cassette  # type: ignore[import-untyped]

from pytest_llmcost.capture.request import CapturedRequest, Replay

LONGER = {**ASKED, "messages": [{"role": "user", "content": "Hi " * 5_000}]}
KEPT = json.dumps(ASKED)
VERSION = {"anthropic-version": ["2023-06-01"]}


def cassette_of(
    path: Path, *bodies: str | None, reply: bytes = JSON_BODY, kind: str = "application/json"
) -> Path:
    interactions = [
        {
            "request": {"method": "POST", "uri": URL, "headers": VERSION, "body": body},
            "response": {
                "status": {"code": 200, "message": "OK"},
                "headers": {"content-type": [kind]},
                "body": {"string": reply.decode()},
            },
        }
        for body in bodies
    ]
    path.write_text(yaml.safe_dump({"version": 1, "interactions": interactions}))
    return path


@pytest.fixture
def cassette(tmp_path: Path) -> Path:
    return cassette_of(tmp_path / "one.yaml", KEPT)


def ask(asked: dict[str, Any] = ASKED, **options: Any) -> None:
    with anthropic.Anthropic(api_key="none", max_retries=0, **options) as client:
        client.messages.create(**asked)


def replayed(cassette: Path, asked: dict[str, Any] = ASKED, **options: Any) -> CapturedRequest:
    with capturing() as purse, vcr.use_cassette(str(cassette), record_mode="none", **options):
        ask(asked)
    (request,) = purse.seen
    assert request.live is False
    assert request.answer is not None
    assert request.answer.usage.input_tokens == 25
    return request


def replay_of(cassette: Path, asked: dict[str, Any] = ASKED, **options: Any) -> Replay:
    replay = replayed(cassette, asked, **options).replay
    assert replay is not None
    return replay


def test_a_grown_prompt_still_gets_yesterdays_reply_and_we_see_what_it_was_for(
    cassette: Path,
) -> None:
    request = replayed(cassette, LONGER)
    assert request.payload == LONGER
    assert request.replay == Replay(body=ASKED)


def test_the_same_bytes_are_told_from_the_same_payload(tmp_path: Path) -> None:
    with capturing() as purse:

        def keep(request: httpx2.Request) -> httpx2.Response:
            return httpx2.Response(200, content=JSON_BODY)

        ask(http_client=httpx2.Client(transport=httpx2.MockTransport(keep)))
    sent = json.dumps(purse.seen[0].payload, separators=(",", ":"))
    assert replay_of(cassette_of(tmp_path / "a.yaml", sent)) == Replay(body=ASKED, is_same=True)
    assert replay_of(cassette_of(tmp_path / "b.yaml", KEPT)) == Replay(body=ASKED)


@pytest.mark.parametrize("body", [None, "", "not JSON", "[1]"])
def test_a_recording_without_a_usable_body_is_not_comparable(
    tmp_path: Path, body: str | None
) -> None:
    replay = replay_of(cassette_of(tmp_path / "one.yaml", body))
    assert replay.body is None
    assert replay.obstacle is not None


def test_a_filter_that_touches_headers_or_metadata_hides_nothing(cassette: Path) -> None:
    asked = {**LONGER, "metadata": {"user_id": "u"}}

    def without_metadata(request: Any) -> Any:
        body = json.loads(request.body)
        body.pop("metadata", None)
        request.body = json.dumps(body)
        return request

    replay = replay_of(
        cassette, asked, filter_headers=["x-api-key"], before_record_request=without_metadata
    )
    assert replay == Replay(body=ASKED)


@pytest.mark.parametrize("words", [1, 5_000])
def test_a_filter_that_replaces_the_prompt_makes_it_not_comparable(
    tmp_path: Path, words: int
) -> None:
    hidden = {**ASKED, "messages": ["hidden"]}

    def hide(request: Any) -> Any:
        request.body = json.dumps({**json.loads(request.body), "messages": ["hidden"]})
        return request

    cassette = cassette_of(tmp_path / "one.yaml", json.dumps(hidden))
    asked = {**ASKED, "messages": [{"role": "user", "content": "Hi " * words}]}
    replay = replay_of(cassette, asked, before_record_request=hide)
    assert replay == Replay(obstacle="a filter of the cassette changes the request body")
    # What changes beside what is hidden is seen all the same.
    changed = replay_of(cassette, {**asked, "model": "claude-opus-4-8"}, before_record_request=hide)
    assert changed == Replay(body=hidden)


def test_a_filter_that_drops_the_body_makes_it_not_comparable(tmp_path: Path) -> None:
    def drop(request: Any) -> Any:
        request.body = None
        return request

    cassette = cassette_of(tmp_path / "one.yaml", None)
    replay = replay_of(cassette, before_record_request=drop)
    assert replay == Replay(obstacle="the cassette holds no request body")


BEDROCK = "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude-{}/invoke"


@pytest.mark.parametrize("model", ["haiku-4-5", "opus-4-7"])
def test_a_model_that_only_the_url_names_is_part_of_what_was_recorded(
    tmp_path: Path, model: str
) -> None:
    cassette = cassette_of(tmp_path / "one.yaml", KEPT)
    recorded = BEDROCK.format("haiku-4-5")
    cassette.write_text(cassette.read_text().replace(URL, recorded))
    with (
        capturing() as purse,
        vcr.use_cassette(str(cassette), record_mode="none", match_on=["method"]),
        httpx2.Client() as client,
    ):
        client.post(BEDROCK.format(model), content=KEPT.encode())
    (request,) = purse.seen
    assert request.replay == Replay(
        body=ASKED, model="anthropic.claude-haiku-4-5", is_same=model == "haiku-4-5"
    )


@pytest.mark.parametrize(
    ("then", "now", "filters", "betas"),
    [
        (None, None, [], ()),
        (None, "new", [], ()),
        ("b,a", None, [], ("a", "b")),
        ("b,a", "a, b", [], ("a", "b")),
        (None, "new", ["anthropic-beta"], None),
        ("HIDDEN", "new", [("anthropic-beta", "HIDDEN")], None),
    ],
)
def test_betas_are_compared_unless_a_filter_hides_them(
    tmp_path: Path, then: str | None, now: str | None, filters: list[Any], betas: Any
) -> None:
    cassette = cassette_of(tmp_path / "one.yaml", KEPT)
    data = yaml.safe_load(cassette.read_text())
    recorded = {"Anthropic-Beta": [then]} if then else {}
    data["interactions"][0]["request"]["headers"] = {**VERSION, **recorded}
    cassette.write_text(yaml.safe_dump(data))
    with (
        capturing() as purse,
        vcr.use_cassette(str(cassette), record_mode="none", filter_headers=filters),
        httpx2.Client() as client,
    ):
        headers = {"anthropic-beta": now} if now else {}
        client.post(URL, content=KEPT.encode(), headers=headers)
    (request,) = purse.seen
    is_same = betas is not None and betas == request.betas
    assert request.replay == Replay(body=ASKED, betas=betas, is_same=is_same)


def test_a_body_that_is_a_stream_is_compared_as_vcr_has_read_it(cassette: Path) -> None:
    with (
        capturing() as purse,
        vcr.use_cassette(str(cassette), record_mode="none", allow_playback_repeats=True),
        httpx2.Client() as client,
    ):
        for body in (KEPT, json.dumps(LONGER)):
            client.post(URL, content=iter([body.encode()]), headers={"anthropic-version": "1"})
    assert [request.payload for request in purse.seen] == [ASKED, LONGER]
    assert [request.replay and request.replay.is_same for request in purse.seen] == [
        True,
        False,
    ]


class ParsedBodies:
    """A serializer as pydantic-ai and others keep it: bodies as YAML, not as text."""

    @staticmethod
    def deserialize(text: str) -> Any:
        data = yaml.safe_load(text)
        for one in data["interactions"]:
            one["request"]["body"] = json.dumps(one["request"].pop("parsed_body"))
            reply = json.dumps(one["response"].pop("parsed_body"))
            one["response"]["body"] = {"string": reply}
        return data

    @staticmethod
    def serialize(data: Any) -> str:
        return str(yaml.safe_dump(data))


def test_serializers_that_keep_parsed_bodies_compare_as_json(tmp_path: Path) -> None:
    cassette = cassette_of(tmp_path / "one.yaml", KEPT)
    data = yaml.safe_load(cassette.read_text())
    (one,) = data["interactions"]
    one["request"]["parsed_body"] = json.loads(one["request"].pop("body"))
    one["response"]["parsed_body"] = json.loads(one["response"].pop("body")["string"])
    cassette.write_text(yaml.safe_dump(data))
    recorder = vcr.VCR(serializer="parsed", record_mode="none")
    recorder.register_serializer("parsed", ParsedBodies)
    with capturing() as purse, recorder.use_cassette(str(cassette)):
        ask(LONGER)
    assert purse.seen[0].replay == Replay(body=ASKED)


def test_streams_are_replayed_and_compared_too(tmp_path: Path) -> None:
    cassette = cassette_of(tmp_path / "one.yaml", KEPT, reply=SSE_BODY, kind="text/event-stream")
    with (
        capturing() as purse,
        vcr.use_cassette(str(cassette), record_mode="none"),
        anthropic.Anthropic(api_key="none") as client,
        client.messages.stream(**LONGER) as stream,
    ):
        assert stream.get_final_text() == "Hello there"
    assert purse.seen[0].replay == Replay(body=ASKED)
    assert purse.call.live is False


def test_asynchronous_replays_each_find_their_own_recording(tmp_path: Path) -> None:
    bodies = [json.dumps({**ASKED, "max_tokens": number}) for number in range(1, 9)]
    cassette = cassette_of(tmp_path / "many.yaml", *bodies)

    async def main() -> None:
        async with anthropic.AsyncAnthropic(api_key="none") as client:
            await asyncio.gather(
                *(client.messages.create(**{**ASKED, "max_tokens": 99}) for _ in bodies)
            )

    with capturing() as purse, vcr.use_cassette(str(cassette), record_mode="none") as opened:
        asyncio.run(main())
    assert opened.play_count == len(bodies)
    found = [request.replay.body for request in purse.seen if request.replay]
    assert sorted(body["max_tokens"] for body in found if body) == [*range(1, 9)]


def test_threads_each_find_their_own_recording(tmp_path: Path) -> None:
    cassette = cassette_of(tmp_path / "many.yaml", *[KEPT] * 8)
    with capturing() as purse, vcr.use_cassette(str(cassette), record_mode="none"):
        threads = [threading.Thread(target=ask, args=(LONGER,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    replays = [request.replay for request in purse.seen if request.replay is not None]
    assert [replace(each, strand=None) for each in replays] == [Replay(body=ASKED)] * 8
    assert len({each.strand for each in replays}) == 8  # none of them waits for another


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: each.__name__)
def test_both_libraries_without_the_sdk(library: Any, cassette: Path) -> None:
    with (
        capturing() as purse,
        vcr.use_cassette(str(cassette), record_mode="none"),
        library.Client() as client,
    ):
        client.post(URL, json=LONGER, headers={"anthropic-version": "2023-06-01"})
    assert purse.seen[0].replay == Replay(body=ASKED)
    assert purse.call.live is False


def test_the_cassette_keeps_its_counts_and_its_bytes(cassette: Path) -> None:
    before = cassette.read_bytes()
    with capturing(), vcr.use_cassette(str(cassette), record_mode="once") as opened:
        ask(LONGER)
        assert (opened.play_count, opened.all_played, opened.dirty) == (1, True, False)
    assert cassette.read_bytes() == before


def test_what_the_cassette_lacks_fails_as_it_would_and_is_nothing(cassette: Path) -> None:
    with capturing() as purse, vcr.use_cassette(str(cassette), record_mode="none"):
        ask()
        with pytest.raises(anthropic.APIConnectionError):
            ask()
        purse.capture.settle()
    assert len(purse.calls) == 1


def test_recording_is_live_and_its_replay_is_not(tmp_path: Path, standin: Any) -> None:
    path = str(tmp_path / "new.yaml")
    with capturing() as purse:
        for _ in range(2):
            with vcr.use_cassette(path, record_mode="once"):
                ask(base_url=standin.url)
    recorded, replayed = purse.seen
    assert (recorded.live, recorded.replay) == (True, None)
    assert (replayed.live, replayed.replay) == (False, Replay(body=ASKED, is_same=True))
    assert recorded.answer is not None
    assert replayed.answer is not None
    assert to_builtins(recorded.answer.usage) == to_builtins(replayed.answer.usage)


def test_other_requests_of_the_cassette_are_no_business_of_ours(tmp_path: Path) -> None:
    cassette = cassette_of(tmp_path / "one.yaml", KEPT)
    data = yaml.safe_load(cassette.read_text())
    token = json.loads(json.dumps(data["interactions"][0]))
    token["request"]["uri"] = "https://login.example/token"
    data["interactions"].insert(0, token)
    cassette.write_text(yaml.safe_dump(data))

    class LogIn(httpx.Auth):
        def auth_flow(self, request: httpx.Request) -> Any:
            yield httpx.Request("POST", "https://login.example/token", content=b"{}")
            yield request

    with (
        capturing() as purse,
        vcr.use_cassette(str(cassette), record_mode="none"),
        httpx.Client(auth=LogIn()) as client,
    ):
        client.post(URL, json=LONGER, headers={"anthropic-version": "2023-06-01"})
    assert [request.replay for request in purse.seen] == [Replay(body=ASKED)]


def test_a_cassette_of_a_kind_of_its_own_is_not_comparable(cassette: Path) -> None:
    class Own(Cassette):  # type: ignore[misc]
        def play_response(self, request: Any) -> Any:
            return self.responses_of(request)[0]

    with capturing() as purse, vcr.use_cassette(str(cassette), record_mode="none") as opened:
        opened.__class__ = Own
        ask(LONGER)
    (request,) = purse.seen
    assert request.live is False
    assert request.replay == Replay(obstacle="VCR does not tell which recording it replayed")


def test_a_cassette_that_plays_again_is_claimed_again(cassette: Path) -> None:
    with (
        capturing() as purse,
        vcr.use_cassette(str(cassette), record_mode="none") as opened,
    ):
        for _ in range(2):
            ask()
            opened.rewind()
    with (
        capturing() as again,
        vcr.use_cassette(str(cassette), record_mode="none", allow_playback_repeats=True),
    ):
        ask()
        ask()
    assert [each.replay for each in (*purse.seen, *again.seen)] == [Replay(body=ASKED)] * 4


def test_a_cassette_that_plays_again_gives_each_call_its_own_again(tmp_path: Path) -> None:
    cassette = cassette_of(tmp_path / "two.yaml", KEPT, json.dumps(LONGER))
    changed = {**ASKED, "messages": [{"role": "user", "content": "Ho"}]}
    with (
        capturing() as purse,
        vcr.use_cassette(str(cassette), record_mode="none") as opened,
    ):
        for asked in (LONGER, ASKED, None, LONGER, ASKED, None, changed, None, changed):
            ask(asked) if asked else opened.rewind()
    recorded = [each.replay and each.replay.body for each in purse.seen]
    assert recorded == [LONGER, ASKED, LONGER, ASKED, ASKED, ASKED]


@pytest.mark.parametrize("repeats", [False, True])
def test_equal_calls_count_an_answer_each_also_where_a_cassette_may_repeat_them(
    tmp_path: Path, repeats: bool
) -> None:
    cassette = cassette_of(tmp_path / "three.yaml", KEPT, json.dumps(LONGER), KEPT)
    data = yaml.safe_load(cassette.read_text())
    other = {**MESSAGE, "usage": {**USAGE, "output_tokens": 90}}
    data["interactions"][2]["response"]["body"]["string"] = json.dumps(other)
    cassette.write_text(yaml.safe_dump(data))
    with (
        capturing() as purse,
        vcr.use_cassette(str(cassette), record_mode="none", allow_playback_repeats=repeats),
    ):
        for asked in (ASKED, ASKED, LONGER):
            ask(asked)
    assert [call.usage.output_tokens for call in purse.calls] == [11, 90, 11]


def test_of_equal_requests_the_very_same_comes_first(tmp_path: Path) -> None:
    """`max_tokens` costs nothing by itself, but tells how the reply was cut."""
    longer = {**ASKED, "max_tokens": 200}
    cassette = cassette_of(tmp_path / "two.yaml", KEPT, json.dumps(longer))
    with capturing() as purse, vcr.use_cassette(str(cassette), record_mode="none"):
        ask(longer)
        ask(ASKED)
    assert [each.replay and each.replay.body for each in purse.seen] == [longer, ASKED]

"""The stand-in itself, through the real SDK: what other tests rely on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from standin import Reply, StandIn, Step, fault, rate_limited

anthropic = pytest.importorskip("anthropic")

HELLO = {"model": "claude-opus-4-7", "messages": [{"role": "user", "content": "Hello there"}]}


clients: list[Any] = []


@pytest.fixture
def api() -> Iterator[StandIn]:
    with StandIn() as api:
        yield api
    while clients:
        clients.pop().close()


def client_of(api: StandIn, **settings: Any) -> Any:
    given = {"base_url": api.url, "api_key": "any", "max_retries": 0, **settings}
    clients.append(anthropic.Anthropic(**given))
    return clients[-1]


def count(api: StandIn, **changes: Any) -> int:
    counted: int = client_of(api).messages.count_tokens(**{**HELLO, **changes}).input_tokens
    return counted


def test_counting_is_deterministic_and_finer_with_the_newer_tokenizer(api: StandIn) -> None:
    assert count(api) == count(api)
    text = [{"role": "user", "content": "internationalisation " * 50}]
    old = count(api, model="claude-opus-4-6", messages=text)
    assert 1.2 < count(api, messages=text) / old < 1.6


def test_text_of_neighbouring_blocks_is_joined_before_it_is_counted(api: StandIn) -> None:
    def blocks(*texts: str) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "text", "text": text} for text in texts]}]

    apart = count(api, messages=blocks("a")) + count(api, messages=blocks("b"))
    alone = count(api, messages=blocks("a"))
    together = count(api, messages=blocks("a", "b"))
    assert together == alone
    assert together < apart


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra_body": {"max_tokens": 5}}, "max_tokens: Extra inputs are not permitted"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"model": "claude-next"}, "model: claude-next"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "first message must use"),
        ({"tool_choice": {"type": "any"}}, "tool_choice may only be specified"),
    ],
)
def test_invalid_payloads_are_refused_in_the_apis_shape(
    api: StandIn, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(anthropic.APIStatusError, match=message) as caught:
        count(api, **change)
    assert caught.value.body["type"] == "error"


def test_server_tools_and_url_sources_are_refused_where_told(api: StandIn) -> None:
    search = [{"type": "web_search_20250305", "name": "web_search"}]
    assert count(api, tools=search) > count(api)
    api.refused.append("server_tools")
    with pytest.raises(anthropic.BadRequestError, match="Server tools are not supported"):
        count(api, tools=search)


def test_a_key_is_needed_and_may_be_a_certain_one() -> None:
    with StandIn(key="right") as api:
        with pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"):
            count(api)
        assert client_of(api, api_key="right").messages.count_tokens(**HELLO).input_tokens


def test_faults_happen_in_the_order_of_the_script(api: StandIn) -> None:
    api.script(rate_limited(), fault(529, "Overloaded"), Step(cut_after_bytes=0))
    for error in (
        anthropic.RateLimitError,
        anthropic.OverloadedError,
        anthropic.APIConnectionError,
    ):
        with pytest.raises(error):
            count(api)
    assert count(api) > 0
    assert client_of(api, max_retries=2).messages.count_tokens(**HELLO).input_tokens == count(api)


def test_a_message_bills_what_counting_said(api: StandIn) -> None:
    message = client_of(api).messages.create(max_tokens=50, **HELLO)
    assert message.usage.input_tokens == count(api)
    assert message.usage.output_tokens > 0


def test_a_stream_builds_the_same_message(api: StandIn) -> None:
    thought = {"type": "thinking", "thinking": "Let me think", "signature": "x"}
    call = {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"query": "abc"}}
    api.reply = Reply(content=(thought, {"type": "text", "text": "Here you are."}, call))
    plain = client_of(api).messages.create(max_tokens=50, **HELLO)
    with client_of(api).messages.stream(max_tokens=50, **HELLO) as stream:
        streamed = stream.get_final_message()
    assert [part.to_dict() for part in streamed.content] == [
        part.to_dict() for part in plain.content
    ]
    assert streamed.usage.output_tokens == plain.usage.output_tokens


def test_a_stream_can_be_cut(api: StandIn) -> None:
    api.script(Step(cut_after_bytes=300))
    with (
        client_of(api).messages.stream(max_tokens=50, **HELLO) as stream,
        pytest.raises(Exception, match="peer closed connection"),
    ):
        stream.get_final_message()


def test_the_cache_writes_reads_and_forgets(api: StandIn) -> None:
    clock = [0.0]
    api.now = lambda: clock[0]
    system = [{"type": "text", "text": "rule " * 3000, "cache_control": {"type": "ephemeral"}}]

    def usage() -> tuple[int, int]:
        used = client_of(api).messages.create(max_tokens=9, system=system, **HELLO).usage
        return used.cache_creation_input_tokens, used.cache_read_input_tokens

    written, none = usage()
    assert (written > 2048, none) == (True, 0)
    clock[0] = 299
    assert usage() == (0, written)
    clock[0] += 299
    assert usage() == (0, written), "a read keeps the entry alive"
    clock[0] += 301
    assert usage() == (written, 0)


def test_a_prefix_below_the_models_minimum_is_not_cached(api: StandIn) -> None:
    system = [{"type": "text", "text": "rule", "cache_control": {"type": "ephemeral"}}]
    used = client_of(api).messages.create(max_tokens=9, system=system, **HELLO).usage
    assert (used.cache_creation_input_tokens, used.cache_read_input_tokens) == (0, 0)


def test_a_batch_ends_with_a_line_for_each_request(api: StandIn) -> None:
    batches = client_of(api).messages.batches
    params = {"max_tokens": 9, **HELLO}
    batch = batches.create(
        requests=[
            {"custom_id": "good", "params": params},
            {"custom_id": "bad", "params": {**params, "model": "claude-next"}},
        ]
    )
    assert batch.processing_status == "in_progress"
    assert batches.retrieve(batch.id).processing_status == "ended"
    results = {line.custom_id: line.result for line in batches.results(batch.id)}
    assert results["bad"].type == "errored"
    assert results["good"].message.usage.service_tier == "batch"


def test_every_request_is_remembered(api: StandIn) -> None:
    count(api)
    (seen,) = api.counted
    assert (seen.method, seen.path) == ("POST", "/v1/messages/count_tokens")
    assert "any" in (seen.headers.get("x-api-key"), seen.headers.get("authorization", "")[7:])
    assert seen.body == json.loads(json.dumps(HELLO))

"""Converse and chat completions in the form of the Messages API, and what has no such form."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from standin.bedrock import frame

from pytest_llmcost.call import price
from pytest_llmcost.counting.payload import read_payload
from pytest_llmcost.errors import UsageDataError
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.responses.converse import to_message, to_payload
from pytest_llmcost.responses.endpoints import recognise
from pytest_llmcost.responses.message import read_answer
from pytest_llmcost.responses.recorded_files import read_calls, read_recordings
from pytest_llmcost.responses.stream import Reader, read_whole

CHAT_URL = "https://api.anthropic.com/v1/chat/completions"
CONVERSE_URL = (
    "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude-sonnet-4-6/converse"
)
ON = date(2026, 11, 22)
RETIRED = "retired-model: claude-3-5-haiku-20241022 on 2026-02-19"
PIXEL = "iVBORw0KGgo="
CONVERSE: dict[str, Any] = {
    "system": [{"text": "Be brief."}, {"cachePoint": {"type": "default", "ttl": "1h"}}],
    "messages": [
        {"role": "user", "content": [{"text": "Weather?"}, {"cachePoint": {"type": "default"}}]},
        {
            "role": "assistant",
            "content": [
                {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "s"}}},
                {"toolUse": {"toolUseId": "t1", "name": "look", "input": {"at": "sky"}}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "toolResult": {
                        "toolUseId": "t1",
                        "content": [
                            {"text": "blue"},
                            {"json": {"sky": "blue"}},
                            {"image": {"format": "png", "source": {"bytes": PIXEL}}},
                        ],
                        "status": "error",
                    }
                },
                {"toolResult": {"toolUseId": "t2", "content": [], "status": "success"}},
            ],
        },
    ],
    "toolConfig": {
        "tools": [
            {
                "toolSpec": {
                    "name": "look",
                    "description": "Looks",
                    "inputSchema": {"json": {"type": "object"}},
                }
            },
            {"cachePoint": {"type": "default"}},
        ],
        "toolChoice": {"tool": {"name": "look"}},
    },
    "inferenceConfig": {"maxTokens": 9, "temperature": 0, "topP": 1, "stopSequences": ["x"]},
    "additionalModelRequestFields": {"top_k": 4},
    "requestMetadata": {"run": "1"},
}
MESSAGES: dict[str, Any] = {
    "system": [
        {
            "type": "text",
            "text": "Be brief.",
            "cache_control": {"type": "ephemeral", "ttl": "1h"},
        }
    ],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Weather?", "cache_control": {"type": "ephemeral"}}
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "sky"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [
                        {"type": "text", "text": "blue"},
                        {"type": "text", "text": '{"sky":"blue"}'},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": PIXEL},
                        },
                    ],
                    "is_error": True,
                },
                {"type": "tool_result", "tool_use_id": "t2", "content": []},
            ],
        },
    ],
    "tools": [
        {
            "name": "look",
            "description": "Looks",
            "input_schema": {"type": "object"},
            "cache_control": {"type": "ephemeral"},
        }
    ],
    "tool_choice": {"type": "tool", "name": "look"},
    "max_tokens": 9,
    "temperature": 0,
    "top_p": 1,
    "stop_sequences": ["x"],
    "top_k": 4,
}


def test_a_converse_payload_is_the_messages_payload_that_says_the_same() -> None:
    assert to_payload(CONVERSE, "converse") == (MESSAGES, None)
    now, as_messages = (
        read_payload(each, model="anthropic.claude-sonnet-4-6")
        for each in (to_payload(CONVERSE, "converse")[0], MESSAGES)
    )
    assert now.fingerprint == as_messages.fingerprint
    assert [each.ttl for each in now.breakpoints] == ["5m", "1h", "5m"]


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"guardrailConfig": {"guardrailIdentifier": "g"}}, "guardrailConfig"),
        ({"system": [{"guardContent": {"text": {"text": "x"}}}]}, "guardContent"),
        *(
            ({"messages": [{"role": "user", "content": [block]}]}, next(iter(block)))
            for block in (
                {"document": {"name": "a", "source": {"bytes": PIXEL}}},
                {"image": {"source": {"s3Location": {"uri": "s3://b/k"}}}},
                {"reasoningContent": {"redactedContent": PIXEL}},
            )
        ),
    ],
)
def test_what_has_no_equal_is_kept_and_cannot_be_counted(more: dict[str, Any], what: str) -> None:
    payload, obstacle = to_payload({**CONVERSE, **more}, "converse")
    assert obstacle == f"count_tokens does not know Converse's {what}"
    assert payload != MESSAGES


def answer_of(url: str, *bodies: Any, request: Any = None) -> Any:
    endpoint = recognise("POST", url)
    assert endpoint is not None
    reader = Reader()
    for body in bodies:
        line = json.dumps(body)
        reader.feed((f"data: {line}\n\n" if len(bodies) > 1 else line).encode())
    reader.close()
    return read_answer(reader.messages, endpoint=endpoint, payload=request)


def test_cache_writes_of_converse_have_their_lifetimes() -> None:
    usage = {
        "inputTokens": 3,
        "outputTokens": 4,
        "totalTokens": 1_007,
        "cacheReadInputTokens": 500,
        "cacheReadInputTokenCount": 500,
        "cacheWriteInputTokens": 500,
        "cacheDetails": [
            {"ttl": "1h", "inputTokens": 250},
            {"ttl": "5m", "inputTokens": 200},
            {"ttl": "1h", "inputTokens": 50},
        ],
    }
    answer = answer_of(CONVERSE_URL, {"usage": usage, "stopReason": "max_tokens"})
    assert answer.usage == Usage(
        input_tokens=3,
        output_tokens=4,
        cache_read_tokens=500,
        cache_write_1h_tokens=300,
        cache_write_5m_tokens=200,
    )
    assert (answer.stop_reason, answer.caveats) == ("max_tokens", ())
    del usage["cacheDetails"]
    payload = {"system": MESSAGES["system"]}
    unsplit = answer_of(CONVERSE_URL, {"usage": usage}, request=payload)
    assert unsplit.usage.cache_write_1h_tokens == 500


@pytest.mark.parametrize("odd", [-5, "x", True, 1.5, [1], {"a": 1}])
def test_a_cache_write_that_is_no_quantity_is_not_added_up(odd: object) -> None:
    writes = [{"ttl": "1h", "inputTokens": each} for each in (2, odd, 15)]
    counts = {"inputTokens": 3, "outputTokens": 4, "cacheWriteInputTokens": 12}
    with pytest.raises(UsageDataError, match="ephemeral_1h_input_tokens"):
        answer_of(CONVERSE_URL, {"usage": {**counts, "cacheDetails": writes}})


def test_a_recorded_request_of_converse_says_how_long_a_write_without_a_split_lives() -> None:
    point = {"cachePoint": {"type": "default", "ttl": "1h"}}
    asked = {"messages": [{"role": "user", "content": [{"text": "Hi"}, point]}]}
    body = {"usage": {"inputTokens": 3, "outputTokens": 5, "cacheWriteInputTokens": 2000}}
    entry = {
        "request": {"method": "POST", "uri": CONVERSE_URL, "body": json.dumps(asked)},
        "response": {"status": {"code": 200}, "body": {"string": json.dumps(body)}},
    }
    recordings = read_recordings(json.dumps({"interactions": [entry]}).encode(), "t.json")
    (found,) = read_calls(recordings)
    assert found.answer is not None
    assert found.answer.usage == Usage(input_tokens=3, cache_write_1h_tokens=2000, output_tokens=5)


def test_an_unknown_quantity_is_said() -> None:
    said = {"inputTokens": 3, "outputTokens": 4, "oddInputTokens": 9}
    answer = answer_of(CONVERSE_URL, {"usage": said})
    assert answer.caveats == ("unknown-usage: oddInputTokens_tokens",)


PRIORITY = {"serviceTier": {"type": "priority"}}
DEFAULT = {"serviceTier": {"type": "default"}}


@pytest.mark.parametrize(
    ("asked", "said", "tier"),
    [
        ({}, {}, None),
        (DEFAULT, DEFAULT, None),
        (PRIORITY, PRIORITY, "priority"),
        (PRIORITY, {}, "priority"),
        ({"serviceTier": {"type": "reserved"}}, DEFAULT, None),  # beyond the reserved capacity
    ],
)
def test_a_service_tier_of_bedrock_has_no_price_unless_it_is_the_default_one(
    asked: dict[str, Any], said: dict[str, Any], tier: str | None
) -> None:
    usage = {"usage": {"inputTokens": 1_000_000, "outputTokens": 0}}
    call = price(answer_of(CONVERSE_URL, usage | said, request=asked), shipped_card(), on=ON)
    bounds = (call.usd_low, call.usd_high)
    assert bounds == ((0, None) if tier else (Decimal("3.3"), Decimal("3.3")))
    assert call.caveats == ((f"unknown-tier: {tier}",) if tier else ())


HAIKU = "claude-3-5-haiku-20241022"
HAIKU_URL = CONVERSE_URL.replace("anthropic.claude-sonnet-4-6", f"us.anthropic.{HAIKU}-v1:0")
FASTER = {"performanceConfig": {"latency": "optimized"}}
STANDARD = {"performanceConfig": {"latency": "standard"}}
NO_RATES = (
    f"unknown-model: no price for {HAIKU} at speed 'latency-optimized' on {ON}: the rate card has "
    "no rates at that speed"
)


# A million in of Claude 3.5 Haiku is $0.80; what it costs at optimised latency, no public copy of
# the price list in reach says.
@pytest.mark.parametrize(
    ("asked", "said", "usd", "caveat"),
    [
        ({}, {}, "0.80", None),
        (STANDARD, {}, "0.80", None),
        (FASTER, {}, "0.80", f"unknown-speed: {HAIKU}"),
        (FASTER, FASTER, None, NO_RATES),
        ({}, FASTER, None, NO_RATES),
        (FASTER, STANDARD, "0.80", None),  # beyond the quota, which is billed as standard
    ],
)
def test_optimised_latency_never_has_the_standard_price(
    asked: dict[str, Any], said: dict[str, Any], usd: str | None, caveat: str | None
) -> None:
    usage = {"usage": {"inputTokens": 1_000_000, "outputTokens": 0}}
    whole = answer_of(HAIKU_URL, {**usage, **said}, request=asked)
    reader = read_whole(
        frame("messageStart", {"role": "assistant"})
        + frame("messageStop", {"stopReason": "end_turn"})
        + frame("metadata", {**usage, **said})
    )
    endpoint = recognise("POST", f"{HAIKU_URL}-stream")
    assert endpoint is not None
    for answer in (whole, read_answer(reader.messages, endpoint=endpoint, payload=asked)):
        call = price(answer, shipped_card(), on=ON)
        assert call.usd == (usd and Decimal(usd))
        assert call.usd_low == (call.usd or 0)
        assert call.usd_high == (None if caveat else call.usd)
        assert {*call.caveats} == {*filter(None, [caveat, usd and RETIRED])}


def test_the_rates_of_a_price_file_make_optimised_latency_exact(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(
        f"[models.{HAIKU}]\n"
        'rates = [{ from = 2024-12-03, speed = "latency-optimized", input = 1, output = 5, '
        "cache_write_5m = 1.25, cache_write_1h = 2, cache_read = 0.10 }]\n"
    )
    card = shipped_card().with_overrides(file)
    body = {"usage": {"inputTokens": 1_000_000, "outputTokens": 0}}
    confirmed = price(answer_of(HAIKU_URL, {**body, **FASTER}), card, on=ON)
    assert confirmed.usd == confirmed.usd_low == confirmed.usd_high == 1
    asked = price(answer_of(HAIKU_URL, body, request=FASTER), card, on=ON)
    assert (asked.usd_low, asked.usd_high) == (Decimal("0.80"), Decimal(1))


def test_a_chat_completion_is_read_whole_and_streamed() -> None:
    usage = {"prompt_tokens": 30, "completion_tokens": 5, "total_tokens": 35}
    named = {"id": "chat_1", "model": "claude-opus-4-7"}
    choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "length"}
    whole = answer_of(CHAT_URL, {**named, "choices": [choice], "usage": usage})
    chunk = {**named, "object": "chat.completion.chunk", "usage": None}
    streamed = answer_of(
        CHAT_URL,
        {**chunk, "choices": [{"delta": {"content": "H"}, "finish_reason": None}]},
        {**chunk, "choices": [{"delta": {}, "finish_reason": "length"}]},
        {**chunk, "choices": [], "usage": usage},
    )
    for answer in (whole, streamed):
        assert (answer.model, answer.stop_reason) == ("claude-opus-4-7", "max_tokens")
        assert answer.usage == Usage(input_tokens=30, output_tokens=5)
        assert answer.caveats == ()
    uncached = {**usage, "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": None}}
    assert answer_of(CHAT_URL, {**named, "choices": [], "usage": uncached}).caveats == ()
    cached = {**usage, "prompt_tokens_details": {"cached_tokens": 9}}
    odd = answer_of(CHAT_URL, {**named, "choices": [], "usage": cached})
    assert odd.caveats == ("unknown-usage: cached_tokens_prompt_tokens",)


def test_a_body_of_the_messages_api_stays_as_it_is() -> None:
    assert to_message({"type": "message", "usage": {"input_tokens": 1}}) is None

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from one_message import read_message

from pytest_llmcost.call import Call, price
from pytest_llmcost.capture.changed_prompt import ReplayedReply, obstacle_to_recount
from pytest_llmcost.counting.payload import read_payload
from pytest_llmcost.counting.segments import CachedPrompt, Segment
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.responses.message import Answer

ON = date(2026, 11, 22)
SHORT: dict[str, Any] = {
    "model": "claude-opus-4-7",
    "max_tokens": 100,
    "system": "Be brief.",
    "messages": [{"role": "user", "content": "Hi"}],
}
LONG: dict[str, Any] = {**SHORT, "system": "Be brief. " * 500}


def reply(stop_reason: str = "end_turn", **usage: Any) -> Answer:
    return read_message(
        {
            "id": "msg_1",
            "type": "message",
            "model": "claude-opus-4-7",
            "content": [{"type": "text", "text": "Hello"}],
            "stop_reason": stop_reason,
            "usage": {"input_tokens": 20, "output_tokens": 7, **usage},
        }
    )


def others(call: Call) -> tuple[str, ...]:
    """The caveats besides the one that names what changed, which every recount has."""
    assert any(each.startswith("changed-prompt: ") for each in call.caveats)
    return tuple(each for each in call.caveats if not each.startswith("changed-prompt"))


def recounted(
    answer: Answer,
    sent: dict[str, Any],
    recorded: dict[str, Any] = SHORT,
    *,
    tokens: int = 1_500,
    left_out: tuple[str, ...] = (),
) -> Call:
    replayed = ReplayedReply(answer, read_payload(sent), read_payload(recorded))
    if obstacle_to_recount(answer) is not None:
        unknown = replayed.without_figures(obstacle_to_recount(answer))
        return price(unknown, shipped_card(), on=ON, evidence="stale")
    answer_now = replayed.recount(
        CachedPrompt(segments=(Segment(upto="end", tokens=tokens),)),
        caveats=tuple(f"left-out: {part}" for part in left_out),
        tokenizer=tokenizer,
    )
    return price(answer_now, shipped_card(), on=ON, evidence="recounted")


def tokenizer(model: str) -> str | None:
    return shipped_card().about(model).tokenizer


def test_a_grown_prompt_is_its_count_as_input_with_the_recorded_output() -> None:
    call = recounted(reply(), LONG)
    assert call.evidence == "recounted"
    assert call.usage == Usage(input_tokens=1_500, output_tokens=7)
    assert [sampling.usage for sampling in call.sampling_calls] == [call.usage]
    assert others(call) == ()


def test_what_grew_is_uncached_and_what_was_cached_stays_so() -> None:
    cached = reply(cache_read_input_tokens=900, cache_creation_input_tokens=60)
    call = recounted(cached, LONG, tokens=1_000)
    assert call.usage == Usage(
        input_tokens=40, cache_read_tokens=900, cache_write_5m_tokens=60, output_tokens=7
    )


def test_a_prompt_shorter_than_what_was_cached_without_a_mark_is_uncached() -> None:
    cached = reply(cache_read_input_tokens=900, cache_creation_input_tokens=60)
    call = recounted(cached, LONG, tokens=500)
    assert call.usage == Usage(input_tokens=500, output_tokens=7)


@given(
    uncached=st.integers(1, 99),
    reads=st.integers(0, 99),
    writes=st.integers(0, 99),
    tokens=st.integers(1, 500),
)
def test_a_recounted_prompt_is_as_long_as_it_was_counted(
    uncached: int, reads: int, writes: int, tokens: int
) -> None:
    answer = reply(
        input_tokens=uncached, cache_read_input_tokens=reads, cache_creation_input_tokens=writes
    )
    usage = recounted(answer, LONG, tokens=tokens).usage
    assert (usage.prompt_tokens, usage.output_tokens) == (tokens, 7)


def test_another_model_is_priced_at_its_own_rates_and_tokenizers_are_told_apart() -> None:
    same = recounted(reply(), {**SHORT, "model": "claude-opus-4-8"})
    assert (same.model, same.sampling_calls[0].model) == ("claude-opus-4-8", "claude-opus-4-8")
    assert others(same) == ()
    other = recounted(reply(), {**SHORT, "model": "claude-opus-4-6"})
    assert others(other) == ("other-tokenizer: recorded with claude-opus-4-7",)
    unknown = recounted(reply(), {**SHORT, "model": "claude-next"})
    assert "other-tokenizer: recorded with claude-opus-4-7" in others(unknown)
    assert unknown.usd is None
    own = recounted(reply(), {**SHORT, "model": "mine-2"}, {**SHORT, "model": "mine-1"})
    assert "other-tokenizer: recorded with mine-1" in others(own)


@pytest.mark.parametrize(
    ("then", "now", "caveats"),
    [
        (100, 101, ("cut-reply: by max_tokens 100, now 101",)),
        (100, 100, ()),
        (100, 99, ()),
        (None, 100, ("cut-reply: by max_tokens None, now 100",)),
        (100, None, ("cut-reply: by max_tokens 100, now None",)),
    ],
)
def test_a_reply_cut_by_a_limit_that_has_grown_is_a_lower_bound(
    then: int | None, now: int | None, caveats: tuple[str, ...]
) -> None:
    recorded = {**SHORT, "max_tokens": then}
    sent = {**LONG, "max_tokens": now}
    assert others(recounted(reply("max_tokens"), sent, recorded)) == caveats
    assert others(recounted(reply(), sent, recorded)) == ()


@pytest.mark.parametrize(
    ("then", "now", "tokens"),
    [(100, 7, 7), (100, 6, 6), (None, 2, 2), (100, 0, 0), (5, 4, 4), (5, 5, 7), (2, 5, 7)],
)
def test_a_reply_that_is_longer_than_max_tokens_allows_now_ends_there(
    then: int | None, now: int, tokens: int
) -> None:
    recorded, sent = {**SHORT, "max_tokens": then}, {**SHORT, "max_tokens": now}
    reply_now = ReplayedReply(reply(), read_payload(sent), read_payload(recorded))
    assert reply_now.is_as_billed() == (tokens == 7)
    assert reply_now.plan(read_payload) is None  # no count is needed
    answer = reply_now.recount(None, tokenizer=tokenizer)
    assert answer.usage == Usage(input_tokens=20, output_tokens=tokens)
    if tokens != 7:
        assert answer.caveats == ("changed-prompt: max_tokens",)
    assert recounted(reply(), {**LONG, "max_tokens": now}, recorded).usage.output_tokens == tokens


@pytest.mark.parametrize(
    ("then", "now", "is_bound"),
    [
        (["END"], ["END"], False),
        (["END"], ["STOP", "END"], False),
        (["END"], ["STOP"], True),
        (["END", "STOP"], ["END"], True),
        (["END"], None, True),
        (None, None, False),
    ],
)
def test_a_reply_ended_by_a_stop_sequence_that_is_gone_is_a_lower_bound(
    then: list[str] | None, now: list[str] | None, is_bound: bool
) -> None:
    recorded, sent = {**SHORT, "stop_sequences": then}, {**LONG, "stop_sequences": now}
    found = others(recounted(reply("stop_sequence"), sent, recorded))
    assert [caveat.partition(":")[0] for caveat in found] == ["cut-reply"] * is_bound
    assert others(recounted(reply(), sent, recorded)) == ()


@pytest.mark.parametrize(
    "usage",
    [
        {"server_tool_use": {"web_search_requests": 1}},
        {
            "iterations": [
                {"type": "message", "input_tokens": 8, "output_tokens": 3},
                {"type": "message", "input_tokens": 12, "output_tokens": 4},
            ]
        },
        {"iterations": [{"type": "compaction", "input_tokens": 9, "output_tokens": 1}]},
    ],
)
def test_several_sampling_calls_cannot_be_recounted(usage: dict[str, Any]) -> None:
    call = recounted(reply(**usage), LONG)
    assert (call.evidence, call.sampling_calls) == ("stale", ())
    (caveat,) = (each for each in call.caveats if each.startswith("not-recounted: "))
    assert "several sampling calls" in caveat
    assert "system" in caveat


def test_what_cannot_be_recounted_keeps_its_caveats_and_its_cloud() -> None:
    ran = replace(
        reply(), asked_model="us.anthropic.claude-opus-4-7", sampling_calls=(), code_beside=()
    )
    call = recounted(ran, LONG)
    assert call.context.platform == "bedrock-regional"
    assert "code-execution-hours" in call.caveats


def test_several_messages_and_refusals_cannot_be_recounted() -> None:
    several = recounted(replace(reply(), ids=("msg_1", "msg_2")), LONG)
    assert several.evidence == "stale"
    refused = read_message(
        {
            "type": "message",
            "model": "claude-opus-4-7",
            "content": [],
            "stop_reason": "refusal",
            "usage": {"input_tokens": 20, "output_tokens": 0},
        }
    )
    assert recounted(refused, LONG).evidence == "stale"


def test_what_the_count_left_out_stays_a_caveat() -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    call = recounted(reply(), {**SHORT, "tools": tools}, left_out=("tools.web_search",))
    assert call.evidence == "recounted"
    assert others(call) == ("left-out: tools.web_search",)


def test_a_prompt_that_is_cached_up_to_an_earlier_mark_now_is_read_up_to_there() -> None:
    blocks = [
        {"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}
        for text in ("Rules. " * 2_000, "More. " * 2_000)
    ]
    sent, recorded = (read_payload({**SHORT, "system": blocks[:n]}) for n in (1, 2))
    replayed = ReplayedReply(reply(cache_read_input_tokens=9_000), sent, recorded)
    segments = (Segment(upto="system.0", tokens=5_000, ttl="5m"), Segment(upto="end", tokens=20))
    (now,) = replayed.recount(CachedPrompt(segments=segments), tokenizer=tokenizer).sampling_calls
    assert now.usage == Usage(input_tokens=20, cache_read_tokens=5_000, output_tokens=7)
    assert now.usage_low is None


def test_a_recording_cut_before_any_output_stays_one_that_may_be_free() -> None:
    cut = read_message(
        {"model": "claude-opus-4-7", "usage": {"input_tokens": 20, "output_tokens": 1}},
        truncated=True,
    )
    call = recounted(cut, LONG)
    assert call.evidence == "recounted"
    assert call.usd_low == 0


def test_geography_and_speed_are_priced_as_they_are_asked_for_now() -> None:
    us = recounted(reply(), {**SHORT, "inference_geo": "us"})
    assert us.context.inference_geo == "us"
    was_us = recounted(reply(inference_geo="us"), SHORT, {**SHORT, "inference_geo": "us"})
    assert was_us.context.inference_geo is None
    unchanged = recounted(reply(inference_geo="us"), LONG)
    assert unchanged.context.inference_geo == "us"
    was_fast = recounted(reply(speed="fast"), SHORT, {**SHORT, "speed": "fast"})
    assert was_fast.context.speed == "standard"
    fast = recounted(reply(speed="standard"), {**SHORT, "speed": "fast"})
    assert fast.context.speed == "asked-fast"
    assert others(fast) == ("unknown-speed: claude-opus-4-7",)
    for said in ("fast", "asked-fast"):
        was_asked = recounted(reply(speed=said), SHORT, {**SHORT, "speed": "fast"})
        assert was_asked.context.speed == "standard"
    # A header asks for it, which was read of what is sent now.
    faster = recounted(reply(speed="asked-latency-optimized"), LONG)
    assert others(faster) == ("unknown-speed: claude-opus-4-7",)

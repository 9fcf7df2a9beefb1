"""What caching costs, from counts of the payload cut at its breakpoints.

The stand-in's counter joins text across borders, and its cache writes, reads and forgets: what
it bills for two calls in a row is what the counts must predict.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standin import MODELS, StandIn
from standin.cache import PromptCache
from standin.models import Model, find_model
from standin.prompt import count_blocks, lay_out
from standin.rules import check_count

from pytest_llmcost.counting.cassette import Count, CountCassette
from pytest_llmcost.counting.client import Asker, Counter, Job
from pytest_llmcost.counting.payload import read_payload
from pytest_llmcost.counting.record_mode import MODES
from pytest_llmcost.counting.segments import (
    CachedPrompt,
    calls_until_it_pays,
    opening_tokens_of,
    plan_caching,
    split_prompt,
)
from pytest_llmcost.prices.bill import price_request
from pytest_llmcost.prices.price_file import ModelEntry
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import SamplingCall, Terms, Usage

FIVE = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
ON = date(2026, 11, 22)
CARD = shipped_card()


def text(words: str, control: Any = None) -> dict[str, Any]:
    return {"type": "text", "text": words, **({"cache_control": control} if control else {})}


def count_locally(body: dict[str, Any], model: Model) -> int:
    """What the stand-in's count_tokens says, without the way there and back."""
    assert check_count(body, beta=True, refused=()) is None
    return count_blocks(lay_out(body, model), model)


def predict(body: dict[str, Any]) -> CachedPrompt:
    payload = read_payload(body)
    model = find_model(payload.model)
    assert model is not None
    plan = plan_caching(payload, read=read_payload)
    keep = ("max_tokens",)
    counts = {
        one.fingerprint: Count(
            input_tokens=count_locally(
                {key: value for key, value in one.body.items() if key not in keep}, model
            )
        )
        for one in plan.payloads
    }
    return split_prompt(plan, counts, CARD.about(payload.model))


def bill_twice(body: dict[str, Any]) -> list[Usage]:
    """What the stand-in's cache bills for a first and a second call."""
    model = find_model(body["model"])
    assert model is not None
    cache = PromptCache(lambda: 0.0)
    billed = [cache.bill(body, model) for _ in range(2)]
    return [
        Usage(
            input_tokens=one.input_tokens,
            cache_write_5m_tokens=one.write_5m_tokens,
            cache_write_1h_tokens=one.write_1h_tokens,
            cache_read_tokens=one.read_tokens,
        )
        for one in billed
    ]


CALL = {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"query": "x"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "found " * 900}
TOOLS = [{"name": name, "input_schema": {"description": "word " * 900}} for name in ("find", "ask")]
RULES = "rule " * 3000


def payload(**changes: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "model": "claude-opus-4-7",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hello there"}],
    }
    return {**asked, **changes}


def cached(*tools: int) -> list[dict[str, Any]]:
    return [
        {**tool, "cache_control": HOUR} if index in tools else tool
        for index, tool in enumerate(TOOLS)
    ]


BARE = {key: value for key, value in payload().items() if key != "max_tokens"}
CONVERSATION = [
    {"role": "user", "content": [text("question " * 900, FIVE)]},
    {"role": "assistant", "content": [text("answer " * 900, FIVE)]},
    {"role": "user", "content": [text("so"), text("then " * 900, FIVE), text("more")]},
]
PAYLOADS = {
    "without any": payload(system=RULES),
    "system": payload(system=[text(RULES, FIVE)]),
    "half of the system prompt": payload(system=[text(RULES, HOUR), text("today")]),
    "tools and system": payload(tools=cached(1), system=[text(RULES, FIVE)]),
    "half of the tools": payload(tools=cached(0), system=RULES),
    "with a forced choice of a tool cut off": payload(
        tools=cached(0), tool_choice={"type": "tool", "name": "ask"}
    ),
    "with a choice": payload(tools=cached(0), tool_choice={"type": "any"}),
    "conversation": payload(messages=CONVERSATION, system=RULES),
    "with thinking": payload(
        messages=CONVERSATION, system=[text(RULES, HOUR)], thinking={"type": "adaptive"}
    ),
    "with a schema": payload(
        system=[text(RULES, HOUR)], output_config={"format": {"schema": {"type": "object"}}}
    ),
    "automatic": payload(system=RULES, cache_control=FIVE),
    "automatic behind the system's": payload(system=[text(RULES, HOUR)], cache_control=FIVE),
    "after a tool's result": payload(
        tools=TOOLS,
        messages=[
            {"role": "user", "content": "Find it"},
            {"role": "assistant", "content": [CALL]},
            {"role": "user", "content": [{**RESULT, "cache_control": FIVE}, text("and?")]},
        ],
    ),
    "too short": payload(system=[text("short", FIVE)]),
    "too short for one, long enough for the next": payload(
        system=[text("short", HOUR), text(RULES, FIVE)]
    ),
    "words joined at the border": payload(
        system=[text(RULES + "cache", HOUR), text("able " * 2500, FIVE), text("ly")]
    ),
}


@pytest.mark.parametrize("model", ["claude-opus-4-7", "claude-sonnet-4-6", "claude-haiku-5-5"])
@pytest.mark.parametrize("name", PAYLOADS)
def test_two_calls_in_a_row_are_billed_as_expected(name: str, model: str) -> None:
    body = {**PAYLOADS[name], "model": model}
    expected = predict(body)
    assert [expected.usage("cold"), expected.usage("warm")] == bill_twice(body)


@pytest.mark.parametrize("name", PAYLOADS)
def test_segments_add_up_to_the_whole_to_the_token(name: str) -> None:
    body = PAYLOADS[name]
    asked = {key: value for key, value in body.items() if key != "max_tokens"}
    expected = predict(body)
    whole = count_locally(asked, MODELS["claude-opus-4-7"])
    assert expected.input_tokens == whole
    assert expected.usage("none") == Usage(input_tokens=whole)
    for usage in (expected.usage("cold"), expected.usage("warm")):
        assert usage.prompt_tokens == whole


def test_adding_up_counts_of_the_parts_would_be_wrong() -> None:
    model = MODELS["claude-opus-4-7"]
    system = PAYLOADS["words joined at the border"]["system"]

    def alone(*blocks: dict[str, Any]) -> int:
        with_system = {**BARE, "system": list(blocks)}
        return count_locally(with_system, model) - count_locally(BARE, model)

    assert alone(*system) < sum(alone(block) for block in system)


WORDS = st.builds(
    lambda piece, times: piece * times, st.text("ab ,", min_size=1, max_size=8), st.integers(1, 500)
)
LIVES = st.lists(st.sampled_from([None, None, HOUR, FIVE]), min_size=6, max_size=6)


@settings(max_examples=60, deadline=None)
@given(words=st.lists(WORDS, min_size=6, max_size=6), lives=LIVES)
def test_any_prompt_is_billed_as_expected(words: list[str], lives: list[Any]) -> None:
    controls = sorted(lives, key=lambda life: life is FIVE)[:6]
    kept, left = [], 4
    for control in controls:
        kept.append(control if left else None)
        left -= control is not None and left > 0
    blocks = [text(said, control) for said, control in zip(words, kept, strict=True)]
    body = payload(
        model="claude-haiku-5-5",
        system=blocks[:3],
        messages=[{"role": "user", "content": blocks[3:]}],
    )
    expected = predict(body)
    assert [expected.usage("cold"), expected.usage("warm")] == bill_twice(body)


def test_a_prefix_too_short_is_said_to_be() -> None:
    expected = predict(PAYLOADS["too short"])
    assert expected.usage("cold") == expected.usage("warm") == expected.usage("none")
    (note,) = expected.notes
    assert note.startswith("the prefix up to system.0 is ")
    assert note.endswith(" tokens, and claude-opus-4-7 caches none shorter than 2,048")


def test_open_tool_calls_are_answered_and_said_to_be_only_nearly_exact() -> None:
    second = {**CALL, "id": "toolu_2"}
    both = [{**RESULT, "tool_use_id": name} for name in ("toolu_1", "toolu_2")]
    for blocks, answers in (
        ([CALL, {**second, "cache_control": FIVE}], both),
        ([CALL, second], [{**both[0], "cache_control": FIVE}, both[1]]),
    ):
        body = payload(
            tools=TOOLS,
            system=RULES,
            messages=[
                {"role": "user", "content": "Find it"},
                {"role": "assistant", "content": blocks},
                {"role": "user", "content": answers},
            ],
        )
        expected, (billed, _) = predict(body), bill_twice(body)
        assert "a few tokens too many" in expected.notes[0]
        assert (
            0 <= expected.usage("cold").cache_write_5m_tokens - billed.cache_write_5m_tokens <= 10
        )
        assert expected.input_tokens == billed.prompt_tokens


def test_an_unknown_minimum_is_said_to_be_unknown() -> None:
    asked = read_payload(PAYLOADS["system"])
    plan = plan_caching(asked, read=read_payload)
    counts = {
        one.fingerprint: Count(input_tokens=10 - place) for place, one in enumerate(plan.payloads)
    }
    found = split_prompt(plan, counts, ModelEntry())
    assert found.notes == ("how short a prefix claude-opus-4-7 still caches is not known",)
    assert [segment.upto for segment in found.segments] == ["system.0", "end"]


@pytest.mark.parametrize(
    "changes",
    [
        {"cache_control": FIVE},
        {"messages": [{"role": "user", "content": [text("Hi"), text("there", FIVE)]}]},
    ],
)
def test_a_prompt_that_is_cached_to_its_end_needs_one_count(changes: dict[str, Any]) -> None:
    plan = plan_caching(read_payload(payload(**changes)), read=read_payload)
    assert plan.payloads == (plan.whole,)


def test_a_text_before_an_answer_that_cannot_be_cached_is_cached_whole() -> None:
    thinking = {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm"}]}
    messages = [{"role": "user", "content": "Hi there"}, thinking]
    asked = read_payload(payload(messages=messages, cache_control=FIVE))
    _, cut = plan_caching(asked, read=read_payload).cuts
    assert str(cut.point.path) == "messages.0.content.0"
    assert cut.payload.body["messages"][:1] == messages[:1]


def test_moving_a_breakpoint_needs_no_new_count_of_the_others() -> None:
    def prints(body: dict[str, Any]) -> set[str]:
        plan = plan_caching(read_payload(body), read=read_payload)
        return {one.fingerprint for one in plan.payloads} - {plan.whole.fingerprint}

    one = payload(tools=cached(1), system=[text(RULES, FIVE)])
    two = payload(tools=cached(1), system=[text(RULES, HOUR)], speed="fast", max_tokens=3)
    assert prints(one) == prints(two)
    assert len(prints(one)) == 3


@pytest.fixture
def api() -> Iterator[StandIn]:
    with StandIn() as api:
        yield api


def test_recorded_once_it_is_expected_offline_and_agrees_with_the_bill(
    api: StandIn, tmp_path: Path
) -> None:
    anthropic = pytest.importorskip("anthropic")
    turns = [*CONVERSATION[:2], {"role": "user", "content": "And now?"}]
    body = payload(tools=cached(1), system=[text(RULES, FIVE)], messages=turns)
    plan = plan_caching(read_payload(body), read=read_payload)
    path = tmp_path / "test.llmcost.yaml"

    def count(mode: str, client: Any) -> CachedPrompt:
        counter, cassette = Counter(lambda: client), CountCassette(path)
        counts = {
            one.fingerprint: counter.count(Job(one, cassette, MODES[mode], Asker("test")))
            for one in plan.payloads
        }
        cassette.save()
        return split_prompt(plan, counts, CARD.about(plan.whole.model))

    with anthropic.Anthropic(base_url=api.url, api_key="any") as client:
        expected = count("new_episodes", client)
        used = [json.loads(client.messages.create(**body).usage.to_json()) for _ in range(2)]
    assert count("none", None) == expected
    assert len(api.counted) == len(plan.payloads) == 6
    cold, warm = used
    assert cold["cache_creation"] == {
        "ephemeral_5m_input_tokens": expected.usage("cold").cache_write_5m_tokens,
        "ephemeral_1h_input_tokens": expected.usage("cold").cache_write_1h_tokens,
    }
    assert warm["cache_read_input_tokens"] == expected.usage("warm").cache_read_tokens
    assert cold["input_tokens"] == warm["input_tokens"] == expected.usage("warm").input_tokens


@pytest.mark.parametrize(
    ("cold", "warm", "none", "calls"),
    [
        ("6.25", "0.50", "5", 2),  # Opus 4.7, all of it for five minutes
        ("10", "0.50", "5", 3),  # for an hour
        ("8", "0.20", "8", 2),
        ("5", "5", "5", None),  # nothing is long enough
        ("6", "5", "5", None),
        ("4", "4", "5", 1),
        ("9.5", "0.5", "5", 3),  # equal after two calls
        ("9.4999", "0.5", "5", 2),
    ],
)
def test_the_calls_until_it_pays(cold: str, warm: str, none: str, calls: int | None) -> None:
    prices = {"cold_usd": Decimal(cold), "warm_usd": Decimal(warm), "none_usd": Decimal(none)}
    found = calls_until_it_pays(**prices)
    assert found == calls
    for number in range(1, 6):
        with_cache = prices["cold_usd"] + (number - 1) * prices["warm_usd"]
        pays = with_cache < number * prices["none_usd"]
        assert pays is (calls is not None and number >= calls)


def test_worked_example_with_opus_4_7s_prices() -> None:
    """10,000 tokens cached, 500 not: 6.25 to write, 0.50 to read, 5 for plain input a million."""
    plan = plan_caching(read_payload(PAYLOADS["system"]), read=read_payload)
    tokens = zip(plan.payloads, (10_500, 10_008, 8), strict=True)
    counts = {one.fingerprint: Count(input_tokens=number) for one, number in tokens}
    prompt = split_prompt(plan, counts, ModelEntry(min_cacheable_tokens=2048))

    def usd(usage: Usage) -> Decimal:
        sampling = SamplingCall(model="claude-opus-4-7", usage=usage)
        return price_request(CARD, [sampling], Terms(), on=ON).usd

    assert usd(prompt.usage("cold")) == Decimal("0.065")  # 10,000 x 6.25 + 500 x 5
    assert usd(prompt.usage("warm")) == Decimal("0.0075")  # 10,000 x 0.50 + 500 x 5
    assert usd(prompt.usage("none")) == Decimal("0.0525")  # 10,500 x 5


@pytest.mark.parametrize("model", sorted(MODELS))
def test_the_tokens_that_open_an_answer_are_the_stand_ins(model: str) -> None:
    assert opening_tokens_of(model, CARD.about(model).tokenizer) == MODELS[model].opening_tokens


def test_messages_that_are_no_list_are_the_api_s_to_refuse() -> None:
    mark = {"type": "text", "text": "Rules.", "cache_control": {"type": "ephemeral"}}
    body = {"model": "claude-opus-4-7", "system": [mark], "messages": 5}
    whole, *_ = plan_caching(read_payload(body), read=read_payload).payloads
    assert whole.body == body

"""What is in a prompt, from counts of the payload cut at the borders of its parts.

The stand-in's counter joins text across borders, so that counts of single parts would not add up.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standin.models import find_model
from standin.prompt import IMAGE_TOKENS, THINKING_TOKENS, count_blocks, lay_out
from standin.rules import check_count

from pytest_llmcost.counting.cassette import Count
from pytest_llmcost.counting.payload import read_payload
from pytest_llmcost.counting.segments import (
    Plan,
    PromptParts,
    plan_parts,
    split_parts,
)
from pytest_llmcost.errors import PayloadError
from pytest_llmcost.prices.rate_card import shipped_card

CARD = shipped_card()
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
IMAGE = {"type": "image", "source": PNG}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"query": "x"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "found " * 90}
TOOLS = [
    {"name": name, "input_schema": {"type": "object", "description": "word " * words}}
    for name, words in (("find", 90), ("ask", 9), ("find_all", 5))
]


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def payload(**changes: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "model": "claude-opus-4-7",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hello there"}],
    }
    return {**asked, **changes}


def count_locally(body: Any) -> int:
    """What the stand-in's count_tokens says, which takes only what the API takes."""
    sent = {key: value for key, value in body.items() if key != "max_tokens"}
    assert check_count(sent, beta=True, refused=()) is None, sent
    model = find_model(body["model"])
    assert model is not None
    return count_blocks(lay_out(sent, model), model)


def counted(plan: Plan) -> PromptParts:
    counts = {
        each.fingerprint: Count(input_tokens=count_locally(each.body)) for each in plan.payloads
    }
    return split_parts(plan, counts, CARD.about(plan.whole.model))


def parts_of(body: dict[str, Any], *names: str) -> PromptParts:
    return counted(plan_parts(read_payload(body), names or None, read=read_payload))


EVERYTHING = payload(
    tools=TOOLS,
    system=[text("Rules. " * 50), text("More rules. " * 5)],
    thinking={"type": "adaptive"},
    messages=[
        {"role": "user", "content": [text("Look:"), IMAGE, text("and find it")]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"},
                                          text("I look"), CALL]},
        {"role": "user", "content": [RESULT]},
        {"role": "user", "content": "and?"},
    ],
)  # fmt: skip


def test_every_part_has_its_name_in_the_order_of_the_prompt() -> None:
    assert [*parts_of(EVERYTHING)] == [
        "tools.(fixed)", "tools.find", "tools.ask", "tools.find_all", "system.0", "system.1",
        "messages.0.text", "messages.0.image", "messages.1.text", "messages.1.tool_use",
        "messages.2.tool_result", "messages.2.text", "rest",
    ]  # fmt: skip


def test_the_sums_of_groups_are_there_by_name_and_add_up_to_the_whole() -> None:
    parts = parts_of(EVERYTHING)
    assert parts.total == sum(parts.values()) == count_locally(EVERYTHING)
    groups = ("tools", "system", "messages", "rest")
    assert sum(parts[group] for group in groups) == parts.total
    tools = ("(fixed)", "find", "ask", "find_all")
    assert parts["tools"] == sum(parts[f"tools.{each}"] for each in tools)
    assert parts["messages.0"] == parts["messages.0.text"] + parts["messages.0.image"]
    assert parts["messages.0.image"] == IMAGE_TOKENS
    assert parts["rest"] == THINKING_TOKENS + 2  # and the tokens that open the answer
    assert "tools.fin" not in parts
    assert parts.get("tools.fin", 0) == 0


def test_one_part_needs_no_more_counts_than_its_ends() -> None:
    asked = read_payload(EVERYTHING)
    for names, number in (
        (["tools"], 2),
        (["system"], 2),
        (["tools", "system"], 3),
        (["tools.ask"], 2),
        (["tools", "tools.ask"], 4),
        (["tools.find"], 3),  # its end, and two that tell it from the fixed prompt
        (["messages.0.image"], 2),
        (["system", "system.9", "tools.nothing"], 2),
        (["tools.nothing"], 0),
    ):
        plan = plan_parts(asked, names, read=read_payload)
        assert len(plan.payloads) == number, names
        some, every = counted(plan), parts_of(EVERYTHING)
        assert {name: some.get(name, 0) for name in names} == {
            name: every.get(name, 0) for name in names
        }
    plan = plan_parts(asked, read=read_payload)
    # One more end, and another tool; but the whole is the end of the last message and of the rest.
    assert len(plan.payloads) == len(plan.spans) + 1


def test_the_shortest_message_takes_nothing_from_the_part_before_it() -> None:
    message = {"role": "user", "content": "."}  # as the one that closes a cut
    body = payload(tools=TOOLS, system="Rules.", messages=[message])
    assert parts_of(body, "system")["system"] == parts_of(body)["system"]


def test_two_spellings_of_a_prompt_have_the_same_parts() -> None:
    one = payload(system="Rules.", messages=[{"role": "user", "content": "Hello"}])
    two = payload(system=[text("Rules.")], messages=[{"role": "user", "content": [text("Hello")]}])
    assert parts_of(one) == parts_of(two) == {**parts_of(one)}
    assert [*parts_of(one)] == ["system.0", "messages.0.text", "rest"]


def test_adding_up_counts_of_the_single_parts_would_be_wrong() -> None:
    body = payload(system=[text("cache"), text("able")])
    bare = count_locally(payload())
    alone = [count_locally(payload(system=[each])) - bare for each in body["system"]]
    assert parts_of(body)["system"] < sum(alone)


def test_worked_example() -> None:
    """Opus 4.7's stand-in: 3 letters a token, 4 a turn, 2 to open the answer."""
    parts = parts_of(payload(system=[text("abcdef"), text("ghij")]))
    # abcdefghij are 4 tokens, of which the first six letters are 2; "Hello there" 2 + 1 + 2.
    assert dict(parts) == {"system.0": 2, "system.1": 2, "messages.0.text": 4 + 5, "rest": 2}


def test_the_order_of_the_tools_changes_the_tokens_of_none() -> None:
    for choice in ({"type": "auto"}, {"type": "tool", "name": "ask"}):
        one = parts_of(payload(tools=TOOLS, tool_choice=choice))
        two = parts_of(payload(tools=TOOLS[::-1], tool_choice=choice))
        for name in ("tools", *one):
            assert abs(one[name] - two[name]) <= 1, name  # they join at other borders
        model = find_model("claude-opus-4-7")
        assert model is not None
        fixed = model.tool_prompt_tokens[choice["type"] == "tool"]
        assert abs(one["tools.(fixed)"] - fixed) <= 1


def test_open_tool_calls_are_answered_and_said_to_be_only_nearly_exact() -> None:
    parts = parts_of(EVERYTHING)
    (one, other) = parts.notes
    assert one == "messages.1.tool_use is only nearly exact: open tool calls"
    assert other == "messages.2.tool_result is only nearly exact: open tool calls"


def test_what_is_left_out_of_a_count_makes_its_part_a_lower_bound() -> None:
    plan = plan_parts(read_payload(payload(tools=TOOLS, system="Rules.")), read=read_payload)
    _, _, at_ask, *later = [cut.payload.fingerprint for _, _, cut in plan.spans]
    without = (at_ask, *later, plan.whole.fingerprint)
    counts = {
        each.fingerprint: Count(
            input_tokens=count_locally(each.body),
            left_out=("tools.ask",) if each.fingerprint in without else (),
        )
        for each in plan.payloads
    }
    parts = split_parts(plan, counts, CARD.about(plan.whole.model))
    assert parts.left_out == {"tools.ask"}
    assert parts.notes == ("count_tokens rejects tools.ask; left out",)


@pytest.mark.parametrize(
    "messages", [None, [], "Hello", ["Hello"], [{"role": "user", "content": None}]]
)
def test_a_payload_without_messages_has_no_parts(messages: Any) -> None:
    with pytest.raises(PayloadError):
        plan_parts(read_payload(payload(messages=messages)), read=read_payload)


WORDS = st.builds(
    lambda piece, times: piece * times, st.text("ab ,", min_size=1, max_size=8), st.integers(1, 99)
)
BLOCKS = st.lists(WORDS.map(text) | st.just(IMAGE), min_size=1, max_size=4)


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for number in range(draw(st.integers(0, 3))):
        messages.append({"role": "user", "content": draw(BLOCKS | WORDS)})
        call = {**CALL, "id": f"toolu_{number}"}
        answer: list[Any] = [text(draw(WORDS)), *([call] if draw(st.booleans()) else [])]
        messages.append({"role": "assistant", "content": answer})
        if len(answer) > 1:
            result = {**RESULT, "tool_use_id": call["id"], "content": draw(WORDS)}
            messages.append({"role": "user", "content": [result, *draw(BLOCKS)]})
    messages.append({"role": "user", "content": draw(BLOCKS | WORDS)})
    body = payload(tools=TOOLS, messages=messages)
    if draw(st.booleans()):
        body["system"] = draw(st.lists(WORDS.map(text), min_size=1, max_size=3) | WORDS)
    if draw(st.booleans()):
        body["thinking"] = {"type": "adaptive"}
    return body


@given(body=bodies())
def test_the_parts_of_any_prompt_add_up_to_the_whole_to_the_token(body: dict[str, Any]) -> None:
    parts = parts_of(body)
    assert sum(parts.values()) == count_locally(body)
    assert min(parts.values()) >= 0
    groups = ("tools", "system", "messages", "rest")
    assert sum(parts.get(group, 0) for group in groups) == parts.total
    for name in ("tools", "tools.find", "system", "messages"):
        assert parts_of(body, name).get(name, 0) == parts.get(name, 0)

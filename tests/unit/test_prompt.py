"""One spelling of a prompt: what is the same prompt has one fingerprint, and what is not has not.

The pairs of tests/plugin/test_other_spellings.py are replayed; these are what goes beyond them.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmcost.counting.payload import BlockPath, Payload, changed_parts, read_payload

Body = dict[str, Any]
FIVE = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
HI = {"type": "text", "text": "Hi"}
FIND = {"name": "find", "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}}}


def ask(*content: Any, model: str = "claude-opus-4-7", **more: Any) -> Body:
    return {"model": model, "messages": [{"role": "user", "content": [*content] or "Hi"}], **more}


def print_of(body: Body) -> str:
    return read_payload(body).fingerprint


def result(**more: Any) -> Body:
    return ask({"type": "tool_result", "tool_use_id": "t", **more})


def thinking(kind: str, model: str) -> Body:
    return ask(model=model, thinking={"type": kind})


def user(*content: Any) -> Body:
    return {"role": "user", "content": [*content]}


def dialogue(*messages: Body) -> Body:
    return {"model": "claude-opus-4-7", "messages": [*messages]}


def pages(content: Any, **more: Any) -> Body:
    return ask({"type": "document", "source": {"type": "content", "content": content}, **more})


SAME: dict[str, tuple[Body, Body]] = {
    "a document of one text": (pages("A bell."), pages([{"type": "text", "text": "A bell."}])),
    "turns in a row": (dialogue(user(HI), user(HI)), dialogue(user(HI, HI))),
    "turns in a row of which one is a text": (
        dialogue({"role": "user", "content": "Hi"}, user(HI)), dialogue(user(HI, HI)),
    ),
    "no servers": (ask(), ask(mcp_servers=[])),
    "an empty output_config": (ask(), ask(output_config={})),
    "effort medium, where that is the default": (
        ask(model="claude-opus-5-5"),
        ask(model="claude-opus-5-5", output_config={"effort": "medium"}),
    ),
    "thinking, where that is the default": (
        ask(model="claude-opus-5-5"), thinking("adaptive", "claude-opus-5-5"),
    ),
    "the automatic breakpoint where it stands anyway": (
        ask({**HI, "cache_control": FIVE}), ask(HI, cache_control={**FIVE, "ttl": "5m"}),
    ),
    "an error that is none, inside a search": (
        ask({"type": "search_result", "source": "s", "title": "t", "content": [HI]}),
        ask({"type": "search_result", "source": "s", "title": "t", "content": [HI],
             "citations": {"enabled": False}, "cache_control": None}),
    ),
    "a web fetch without citations": (
        ask(tools=[{"type": "web_fetch_20250910", "name": "web_fetch"}]),
        ask(tools=[{"type": "web_fetch_20250910", "name": "web_fetch",
                    "citations": {"enabled": False}, "max_uses": None}]),
    ),
    "a toolset without settings": (
        ask(tools=[{"type": "computer_toolset_20260801"}]),
        ask(tools=[{"type": "computer_toolset_20260801", "configs": {}}]),
    ),
}  # fmt: skip

OTHER: dict[str, tuple[Body, Body]] = {
    "0 is not false": (result(is_error=0), result()),
    "thinking, where it is not the default": (
        thinking("disabled", "claude-opus-5"),
        ask(model="claude-opus-5"),
    ),
    "effort high, where medium is the default": (
        ask(model="claude-haiku-5-5"),
        ask(model="claude-haiku-5-5", output_config={"effort": "high"}),
    ),
    "a default in a tool's input": (
        ask({"type": "tool_use", "id": "t", "name": "n", "input": {"is_error": False}}),
        ask({"type": "tool_use", "id": "t", "name": "n", "input": {}}),
    ),
    "a null in a tool's input": (
        ask({"type": "tool_use", "id": "t", "name": "n", "input": {"a": None}}),
        ask({"type": "tool_use", "id": "t", "name": "n", "input": {}}),
    ),
    "an own model may think by itself": (thinking("disabled", "mine"), ask(model="mine")),
    "turns of two roles": (
        dialogue(user(HI), {"role": "assistant", "content": [HI]}),
        dialogue(user(HI)),
    ),
    "an error": (result(is_error=True), result()),
    "another lifetime": (
        ask({**HI, "cache_control": FIVE}),
        ask({**HI, "cache_control": HOUR}),
    ),
    "another place of a breakpoint": (
        ask({**HI, "cache_control": FIVE}, HI),
        ask(HI, {**HI, "cache_control": FIVE}),
    ),
    "a large number": (ask(x=2**70), ask(x=2**70 + 1)),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_another_spelling_has_the_same_fingerprint(one: Body, other: Body) -> None:
    assert read_payload(one).parts == read_payload(other).parts
    assert print_of(one) == print_of(other)


@pytest.mark.parametrize(("one", "other"), OTHER.values(), ids=OTHER)
def test_another_prompt_has_another_fingerprint(one: Body, other: Body) -> None:
    assert print_of(one) != print_of(other)


def test_what_is_sent_stays_as_it_was_written() -> None:
    body = ask({**HI, "citations": None}, system="s", tools=[{**FIND, "strict": False}])
    assert read_payload(body).body == body


def test_a_breakpoint_that_moves_changes_nothing_but_the_breakpoints() -> None:
    one, other = (read_payload(body) for body in OTHER["another place of a breakpoint"])
    assert changed_parts(one.parts, other.parts) == ["cache_control"]


@given(st.permutations(list(FIND)), st.permutations(["type", "properties"]))
def test_the_order_of_keys_is_no_change_but_another_prefix(
    keys: list[str], inner: list[str]
) -> None:
    schema: Body = {key: FIND["input_schema"][key] for key in inner}  # type: ignore[index]
    tool = {key: schema if key == "input_schema" else FIND[key] for key in keys}
    one = read_payload(ask(tools=[FIND], system=[{**HI, "cache_control": FIVE}]))
    other = read_payload(ask(tools=[tool], system=[{**HI, "cache_control": FIVE}]))
    assert one.fingerprint == other.fingerprint
    is_same = (list(tool), list(schema)) == (list(FIND), ["type", "properties"])
    assert (one.prefixes[0].digest == other.prefixes[0].digest) is is_same
    changed = changed_parts(one.prefixes[0].parts, other.prefixes[0].parts)
    assert changed == ([] if is_same else ["tools.find"])


# Prefixes


def cached(**more: Any) -> Payload:
    body = {
        "tools": [{**FIND, "cache_control": HOUR}],
        "system": [{"type": "text", "text": "Rules", "cache_control": FIVE}],
    }
    return read_payload(ask({**HI, "cache_control": FIVE}, {**HI, "text": "?"}, **{**body, **more}))


def changed_at(sent: Payload) -> list[list[str]]:
    """Which prefixes have changed, and by what."""
    return [
        changed_parts(old.parts, new.parts)
        for old, new in zip(cached().prefixes, sent.prefixes, strict=True)
    ]


def test_a_prefix_says_where_it_ends_and_what_is_in_it() -> None:
    tools, _, messages = cached().prefixes
    assert [each.path for each in cached().prefixes] == [at for at, _ in cached().breakpoints]
    assert [(str(each.path), each.ttl) for each in cached().breakpoints] == [
        ("tools.0", "1h"), ("system.0", "5m"), ("messages.0.content.0", "5m"),
    ]  # fmt: skip
    assert list(tools.parts) == ["model", "tools.find"]
    assert list(messages.parts) == ["model", "tools.find", "system.0", "messages.0.content.0"]


def test_marks_are_in_no_prefix() -> None:
    unmarked = read_payload(ask(HI, tools=[FIND], system="Rules"))
    assert unmarked.prefixes == ()
    for prefix in cached().prefixes:
        assert unmarked.prefix_to(prefix.path).digest == prefix.digest


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"max_tokens": 5, "temperature": 1, "metadata": {"user_id": "u"}}, [[], [], []]),
        ({"tool_choice": {"type": "any"}}, [[], [], ["tool_choice (new)"]]),
        ({"thinking": {"type": "adaptive"}}, [["thinking (new)"]] * 3),
        ({"output_config": {"effort": "low"}}, [["output_config.effort (new)"]] * 3),
        ({"output_config": {"format": {}}}, [[], *[["output_config.format (new)"]] * 2]),
        ({"speed": "fast"}, [[], *[["speed (new)"]] * 2]),
        ({"mcp_servers": [{"name": "m"}]}, [["mcp_servers (new)"]] * 3),
        ({"model": "claude-opus-4-8"}, [["model"]] * 3),
        (
            {"system": [{"type": "text", "text": "Rule", "cache_control": FIVE}]},
            [[], ["system.0"], ["system.0"]],
        ),
    ],
)
def test_a_setting_breaks_the_prefixes_that_the_documentation_says(
    change: Body, changed: list[list[str]]
) -> None:
    assert changed_at(cached(**change)) == changed


def test_thinking_and_effort_of_earlier_models_break_the_messages_alone() -> None:
    for model in ("claude-sonnet-4-6", "claude-haiku-4-5-20251001", "claude-3-7-sonnet-20250219"):
        for setting in ({"thinking": {"type": "adaptive"}}, {"output_config": {"effort": "low"}}):
            changed = [names[1:] for names in changed_at(cached(model=model, **setting))]
            assert [len(names) for names in changed] == [0, 0, 1]


def test_an_image_breaks_the_messages_and_citations_the_system_prompt() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://example.test/x.png"}}
    document = {"type": "document", "source": {"type": "text"}, "citations": {"enabled": True}}
    for block, changed in (
        (image, [[], [], ["images (new)"]]),
        (document, [[], *[["citations (new)"]] * 2]),
    ):
        messages = [user({**HI, "cache_control": FIVE}, {**HI, "text": "?"}), user(block)]
        assert changed_at(cached(messages=messages)) == changed


def test_the_prefix_to_any_block_can_be_asked_for() -> None:
    payload = read_payload(ask(HI, {**HI, "text": "more"}))
    ends = [payload.prefix_to(BlockPath("messages", 0, number)) for number in (0, 1)]
    assert changed_parts(ends[0].parts, ends[1].parts) == ["messages.0.content.1 (new)"]

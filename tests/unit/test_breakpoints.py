"""Where a prompt is cached, and what the API would refuse."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_llmcost.counting.payload import read_prompt

FIVE = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}


def text(words: str = "x", control: Any = None) -> dict[str, Any]:
    return {"type": "text", "text": words, **({"cache_control": control} if control else {})}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def paths(body: dict[str, Any]) -> list[tuple[str, str]]:
    return [(str(each.path), each.ttl) for each in read_prompt(body, "m").breakpoints]


ANSWER = {"role": "assistant", "content": [{"type": "thinking", "thinking": "Let me see"}]}


def test_they_come_in_the_order_of_the_prompt() -> None:
    body = {
        "messages": [user(text(), text("y", FIVE))],
        "system": [text("a", HOUR), text("b")],
        "tools": [{"name": "find"}, {"name": "ask", "cache_control": HOUR}],
    }
    assert paths(body) == [("tools.1", "1h"), ("system.0", "1h"), ("messages.0.content.1", "5m")]


def test_a_payload_without_any_has_none() -> None:
    assert paths({"messages": [user(text())], "system": "s", "cache_control": None}) == []
    assert paths({}) == []
    assert paths({"messages": ["?"], "tools": "?", "system": 3}) == []


@pytest.mark.parametrize(
    ("messages", "path"),
    [
        ([{"role": "user", "content": "Hi"}], "messages.0.content.0"),
        ([user(text(), text("y"))], "messages.0.content.1"),
        ([user(text(), text(""))], "messages.0.content.0"),
        ([user(text()), ANSWER], "messages.0.content.0"),
        ([{"role": "user", "content": ""}], "system.0"),
    ],
)
def test_the_automatic_one_sits_on_the_last_block_that_can_be_cached(
    messages: list[Any], path: str
) -> None:
    body = {"messages": messages, "system": "s", "cache_control": HOUR}
    assert paths(body) == [(path, "1h")]


def test_an_automatic_one_adds_nothing_where_one_is_already() -> None:
    body = {"messages": [user(text("x", FIVE))], "cache_control": FIVE}
    assert paths(body) == [("messages.0.content.0", "5m")]
    assert paths({"messages": [], "cache_control": FIVE}) == []


def test_one_inside_a_tools_result_ends_with_the_result() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [text("x", FIVE)]}
    assert paths({"messages": [user(result)]}) == [("messages.0.content.0", "5m")]


def test_that_of_a_block_stands_before_one_inside_of_it_in_any_order_of_keys() -> None:
    result = {"type": "tool_result", "content": [text("x", FIVE)], "cache_control": HOUR}
    for each in (result, dict(reversed(result.items()))):
        assert paths({"messages": [user(each)]}) == [("messages.0.content.0", "1h")]


def test_what_the_api_would_refuse_is_left_to_it() -> None:
    five = {"messages": [user(*[text("x", FIVE)] * 5)]}
    assert len(paths(five)) == 5
    late = {"system": [text("a", FIVE)], "messages": [user(text("x", HOUR))]}
    assert paths(late) == [("system.0", "5m"), ("messages.0.content.0", "1h")]


@pytest.mark.parametrize("control", [{"type": "ephemeral", "ttl": "2h"}, "5m"])
def test_a_lifetime_that_does_not_exist_caches_nothing(control: Any) -> None:
    assert paths({"system": [{"type": "text", "text": "a", "cache_control": control}]}) == []

"""Where a prompt is cached, and what the API would refuse."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_llmcost.counting.limits import find_breakpoints
from pytest_llmcost.errors import PayloadError

FIVE = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}


def text(words: str = "x", control: Any = None) -> dict[str, Any]:
    return {"type": "text", "text": words, **({"cache_control": control} if control else {})}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def places(body: dict[str, Any]) -> list[tuple[str, str]]:
    return [(str(point.place), point.ttl) for point in find_breakpoints(body)]


ANSWER = {"role": "assistant", "content": [{"type": "thinking", "thinking": "Let me see"}]}


def test_they_come_in_the_order_of_the_prompt() -> None:
    body = {
        "messages": [user(text(), text("y", FIVE))],
        "system": [text("a", HOUR), text("b")],
        "tools": [{"name": "find"}, {"name": "ask", "cache_control": HOUR}],
    }
    assert places(body) == [("tools.1", "1h"), ("system.0", "1h"), ("messages.0.content.1", "5m")]


def test_a_payload_without_any_has_none() -> None:
    assert places({"messages": [user(text())], "system": "s", "cache_control": None}) == []
    assert places({}) == []
    assert places({"messages": ["?"], "tools": "?", "system": 3}) == []


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([{"role": "user", "content": "Hi"}], "messages.0"),
        ([user(text(), text("y"))], "messages.0.content.1"),
        ([user(text(), text(""))], "messages.0.content.0"),
        ([user(text()), ANSWER], "messages.0.content.0"),
        ([{"role": "user", "content": ""}], "system.0"),
    ],
)
def test_the_automatic_one_sits_on_the_last_block_that_can_be_cached(
    messages: list[Any], place: str
) -> None:
    body = {"messages": messages, "system": "s", "cache_control": HOUR}
    (point,) = find_breakpoints(body)
    assert (str(point.place), point.ttl, point.automatic) == (place, "1h", True)


def test_an_automatic_one_adds_nothing_where_one_is_already() -> None:
    body = {"messages": [user(text("x", FIVE))], "cache_control": FIVE}
    assert places(body) == [("messages.0.content.0", "5m")]
    assert places({"messages": [], "cache_control": FIVE}) == []


def test_one_inside_a_tools_result_ends_with_the_result() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [text("x", FIVE)]}
    assert places({"messages": [user(result)]}) == [("messages.0.content.0", "5m")]


def test_more_than_four_are_an_error_that_names_them() -> None:
    four = {"messages": [user(*[text("x", FIVE)] * 4)]}
    assert len(places(four)) == 4
    four["messages"].append(user(text()))
    with pytest.raises(PayloadError, match=r"5 cache breakpoints \(messages.0.content.0, .* 4, "):
        find_breakpoints({**four, "cache_control": FIVE})


def test_an_hour_after_five_minutes_is_an_error() -> None:
    body = {"system": [text("a", FIVE)], "messages": [user(text("x", HOUR))]}
    with pytest.raises(PayloadError, match=r"messages.0.content.0 lives 1h .* system.0") as caught:
        find_breakpoints(body)
    assert caught.value.path == "messages.0.content.0.cache_control.ttl"
    automatic = {"system": [text("a", FIVE)], "messages": [user(text())], "cache_control": HOUR}
    with pytest.raises(PayloadError, match="lives 1h"):
        find_breakpoints(automatic)


@pytest.mark.parametrize("control", [{"type": "ephemeral", "ttl": "2h"}, "5m"])
def test_an_unknown_life_is_an_error(control: Any) -> None:
    with pytest.raises(PayloadError, match='ttl "5m" or "1h"'):
        find_breakpoints({"system": [{"type": "text", "text": "a", "cache_control": control}]})

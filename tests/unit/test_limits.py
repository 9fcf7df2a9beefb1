"""What a payload says of how much its answer may be."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmcost.compare.model_support import find_rejections
from pytest_llmcost.counting.payload import read_payload
from pytest_llmcost.prices.rate_card import shipped_card

PLAIN: dict[str, Any] = {
    "model": "claude-opus-4-7",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hi"}],
}
CACHED = {"type": "text", "text": "rules", "cache_control": {"type": "ephemeral"}}
HOUR = {"type": "text", "text": "rules", "cache_control": {"type": "ephemeral", "ttl": "1h"}}


def added(tool: dict[str, Any]) -> list[dict[str, Any]]:
    """A message that defines a tool in the middle of a conversation (inline-tools-2026-09-15)."""
    block = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": tool}}
    return [{"role": "user", "content": "hi"}, {"role": "system", "content": [block]}]


@pytest.mark.parametrize(
    ("change", "longest"),
    [
        ({}, 100),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": None}, None),
        ({"max_tokens": "100"}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": -1}, None),
        ({"tools": [{"name": "find", "input_schema": {}}]}, 100),
        ({"tools": [{"type": "custom", "name": "find"}, {"type": None, "name": "see"}]}, 100),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, 100),
        ({"tools": [{"type": "computer_toolset_20260801"}]}, 100),
        ({"tools": [{"type": "not_known_yet_20270101", "name": "new"}]}, None),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, None),
        ({"messages": added({"name": "find", "input_schema": {}})}, 100),
        ({"messages": added({"type": "web_search_20260318", "name": "web_search"})}, None),
        ({"mcp_servers": [{"name": "files", "url": "https://example.com"}]}, None),
        ({"fallbacks": [{"model": "claude-opus-5"}]}, None),
        ({"compaction": {"type": "auto"}}, None),
        ({"context_management": {"edits": [{"type": "clear_thinking_20251015"}]}}, 100),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, None),
        ({"context_management": "clear"}, None),
        ({"thread": {"type": "continue", "previous_message_id": "msg_1"}}, None),
        ({"thread": {"type": "new"}}, 100),
    ],
)
def test_max_tokens_bounds_the_reply_unless_the_server_calls_again(
    change: dict[str, Any], longest: int | None
) -> None:
    assert read_payload({**PLAIN, **change}).longest_reply == longest


def test_a_tool_that_is_not_known_may_sample_again() -> None:
    tools = [{"type": "made_up_20270101", "name": "made_up"}, {"name": "find"}]
    assert read_payload({**PLAIN, "tools": tools}).samples_again.keys() == {"made_up"}


def test_a_tool_that_a_message_defines_samples_again_as_any_other() -> None:
    search = {"type": "web_search_20260318", "name": "web_search"}
    assert read_payload({**PLAIN, "messages": added(search)}).samples_again.keys() == {"web_search"}


def test_without_max_tokens_nothing_bounds_the_reply() -> None:
    assert read_payload({"model": "m", "messages": []}).longest_reply is None


@pytest.mark.parametrize(
    ("budget", "tokens"),
    [
        ({"type": "tokens", "total": 64_000}, 64_000),
        ({"type": "tokens", "total": 64_000, "remaining": 12_000}, 12_000),
        ({"type": "tokens"}, None),
        ("64k", None),
        (None, None),
    ],
)
def test_a_task_budget_is_what_remains_of_it(budget: object, tokens: int | None) -> None:
    config = {"task_budget": budget}
    assert read_payload({**PLAIN, "output_config": config}).task_budget == tokens


def test_without_a_task_budget_there_is_none() -> None:
    assert read_payload(PLAIN).task_budget is None
    assert read_payload({**PLAIN, "output_config": "high"}).task_budget is None


@pytest.mark.parametrize(
    ("change", "number"),
    [
        ({}, 0),
        ({"cache_control": {"type": "ephemeral"}}, 1),
        ({"system": [CACHED]}, 1),
        ({"system": [CACHED], "cache_control": {"type": "ephemeral"}}, 2),
        ({"system": [CACHED, HOUR]}, 2),
    ],
)
def test_breakpoints_are_counted_and_wrong_ones_left_to_the_api(
    change: dict[str, Any], number: int
) -> None:
    assert len(read_payload({**PLAIN, **change}).breakpoints) == number


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["auto", "ephemeral", "user"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "content", "role", "cache_control", "ttl", "total"]), inner
        )
    ),
    max_leaves=12,
)
KEYS = ["tools", "system", "messages", "max_tokens", "output_config", "cache_control", "thinking"]


@given(st.dictionaries(st.sampled_from(KEYS), anything))
def test_no_payload_of_the_code_under_test_makes_it_fail_here(body: dict[str, Any]) -> None:
    payload = read_payload({"model": "claude-opus-5-5", **body})
    assert (payload.longest_reply or 0) >= 0
    assert payload.task_budget is None or isinstance(payload.task_budget, int)
    assert len(payload.prefixes) == len(payload.breakpoints)
    find_rejections(body, "claude-opus-5-5", shipped_card(), on=date(2026, 11, 22))

"""What is left out of a count after a refusal, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_llmcost.counting.api_error import leave_out

SEARCH = {"type": "web_search_20250305", "name": "web_search"}
FIND = {"name": "find", "input_schema": {"type": "object"}}
TEXT = {"type": "text", "text": "What is this?"}
PICTURE = {"type": "image", "source": {"type": "url", "url": "https://example.test/x.png"}}
SERVER = (
    "Server tools are not supported in the count_tokens endpoint: web_search_20250305. "
    "Use the /v1/messages endpoint instead."
)


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **changes}


def turn(*blocks: dict[str, Any]) -> dict[str, Any]:
    return body(messages=[{"role": "user", "content": list(blocks)}])


@pytest.mark.parametrize(
    ("given", "message", "left_out"),
    [
        (body(tools=[FIND, SEARCH]), SERVER, "tools.web_search"),
        (
            body(tools=[FIND, SEARCH]),
            "tools.1: Input tag 'web_search_20250305' found using 'type' does not match any of "
            "the expected tags: 'custom'",
            "tools.web_search",
        ),
        (body(tools=[FIND, SEARCH]), "tools.1.type: not supported", "tools.web_search"),
        (body(mcp_servers=[{}]), "mcp_servers: Extra inputs are not permitted", "mcp_servers"),
        (body(mcp_servers=[{}]), "mcp_servers.0.url: not supported", "mcp_servers"),
        (body(speed="fast"), "speed: Extra inputs are not permitted", "speed"),
        (
            turn(TEXT, PICTURE),
            "messages.0.content.1.image.source.base64.data: URL sources are not supported",
            "messages.0.content.1 (image from url)",
        ),
        (
            turn({"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, TEXT),
            "messages.0.content.0: Invalid `encrypted_content` in `search_result` block",
            "messages.0.content.0 (web_search_tool_result)",
        ),
    ],
)
def test_the_part_that_a_refusal_names_is_left_out(
    given: dict[str, Any], message: str, left_out: str
) -> None:
    trimmed = leave_out(given, message)
    assert trimmed is not None
    assert trimmed[1] == left_out
    assert trimmed[0] != given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (body(), "messages: at least one message is required"),
        (body(tools=[FIND]), "tools.0.custom.input_schema.type: Field required"),
        (body(tools=[FIND, SEARCH]), "tools.0: custom tools are not supported"),
        (body(tools=[FIND, SEARCH]), "tools: too many tools"),
        (
            body(output_config={"format": {}}),
            "output_config.format.schema: For 'object' type, 'additionalProperties' must be "
            "explicitly set to false",
        ),
        (body(thinking={}), "thinking.budget_tokens: Extra inputs are not permitted"),
        (body(), "max_tokens: Extra inputs are not permitted"),
        (body(), "system is not supported for token counting"),
        (turn(TEXT, PICTURE), "messages.0.content.0: text content blocks must be non-empty"),
        (turn(TEXT, PICTURE), "messages.0.content.1: Could not process image"),
        (turn(TEXT, PICTURE), "messages.0.content.7.image: not supported"),
        (turn(TEXT, PICTURE), "messages.x.content.y: not supported"),
        (body(), "messages.0.content.1: not supported"),
        (
            turn({"type": "tool_result", "tool_use_id": "t", "content": [TEXT, PICTURE]}),
            "messages.0.content.0.tool_result.content.1.image.source.url: not supported",
        ),
        (turn(TEXT), "prompt is too long: 3333404 tokens > 200000 maximum"),
    ],
)
def test_what_create_would_refuse_as_well_is_the_users_to_read(
    given: dict[str, Any], message: str
) -> None:
    assert leave_out(given, message) is None


def test_a_choice_goes_with_the_tool_it_names_and_with_the_last_one() -> None:
    choice = {"type": "tool", "name": "web_search"}
    both = leave_out(body(tools=[FIND, SEARCH], tool_choice=choice), SERVER)
    assert both is not None
    assert both[0] == body(tools=[FIND])
    alone = leave_out(body(tools=[SEARCH], tool_choice={"type": "any"}), SERVER)
    assert alone is not None
    assert alone[0] == body()
    for choice in ({"type": "any"}, {"type": "tool", "name": "find"}):
        kept = leave_out(body(tools=[FIND, SEARCH], tool_choice=choice), SERVER)
        assert kept is not None
        assert kept[0] == body(tools=[FIND], tool_choice=choice)


@pytest.mark.parametrize(
    ("blocks", "left"),
    [([PICTURE], [{"type": "text", "text": "."}]), ([PICTURE, TEXT, FIND], [TEXT, FIND])],
)
def test_the_rest_of_a_turn_stays_and_none_is_left_empty(
    blocks: list[dict[str, Any]], left: list[dict[str, Any]]
) -> None:
    trimmed = leave_out(
        turn(*blocks), "messages.0.content.0.image.source.url: URL sources are not supported"
    )
    assert trimmed is not None
    assert trimmed[0] == turn(*left)

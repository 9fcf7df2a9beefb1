"""Fingerprints, digests of parts, and what differs between two payloads."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standin import StandIn

from pytest_llmcost.counting.payload import (
    COUNTED,
    HEADERS,
    KNOWN,
    NEEDS_BETA,
    changed_parts,
    describe_changes,
    fingerprint,
    read_payload,
)
from pytest_llmcost.errors import PayloadError
from pytest_llmcost.prices.rate_card import shipped_card

HELLO: dict[str, Any] = {
    "model": "claude-opus-4-7",
    "max_tokens": 100,
    "system": "Be brief.",
    "tools": [{"name": "find", "input_schema": {"type": "object"}}],
    "messages": [{"role": "user", "content": "Hello"}],
}
IGNORED = {
    "stream": True,
    "metadata": {"user_id": "u"},
    "diagnostics": {},
    "stop_sequences": ["x"],
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "max_tokens": 7,
    "user_profile_id": "p",
    "workspace_id": "w",
    "anthropic_version": "bedrock-2023-05-31",
    "timeout": 5,
}
CHANGES_COST = {
    "model": "claude-opus-4-8",
    "system": "Be briefer.",
    "messages": [],
    "tools": [],
    "tool_choice": {"type": "any"},
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "low"},
    "speed": "fast",
    "service_tier": "standard_only",
    "inference_geo": "us",
    "container": "c",
    "cache_control": {"type": "ephemeral"},
    "mcp_servers": [{"name": "m", "type": "url", "url": "https://example.test"}],
    "context_management": {},
    "fallbacks": [],
    "never_heard_of": 1,
    "betas": ["a-2026-01-01"],
}


def print_of(**changes: Any) -> str:
    return read_payload({**HELLO, **changes}).fingerprint


def test_the_recipe_is_pinned() -> None:
    # A change here makes every recorded count of every user a miss: raise RECIPE with it.
    expected = "2:83593a3eced98bbf"
    assert print_of()[:18] == expected


@pytest.mark.parametrize("key", IGNORED)
def test_what_changes_no_token_and_no_rate_is_not_in_the_fingerprint(key: str) -> None:
    assert print_of(**{key: IGNORED[key]}) == print_of()


@pytest.mark.parametrize("key", CHANGES_COST)
def test_everything_else_is_in_the_fingerprint(key: str) -> None:
    assert print_of(**{key: CHANGES_COST[key]}) != print_of()


@given(st.dictionaries(st.sampled_from(sorted(IGNORED)), st.integers(1, 9)), st.randoms())
def test_neither_order_nor_ignored_keys_matter(extra: dict[str, int], shuffler: Any) -> None:
    items = list({**HELLO, **extra}.items())
    shuffler.shuffle(items)
    assert read_payload(dict(items)).fingerprint == print_of()


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_any_other_text_is_another_fingerprint(text: str) -> None:
    changed = print_of(messages=[{"role": "user", "content": "Hello" + text}])
    assert changed != print_of()


@pytest.mark.parametrize("key", ["messages.0", "tools.find"])
def test_a_key_that_is_spelled_like_a_part_hides_none(key: str) -> None:
    hello, bye = ([{"role": "user", "content": text}] for text in ("Hello", "Bye"))
    tools = [{"name": "find", "input_schema": {"type": "string"}}]
    found = {
        print_of(**{key: 1}),
        print_of(**{key: 2}),
        print_of(**{key: 1}, messages=bye),
        print_of(**{key: 1}, messages=hello, tools=tools),
        print_of(),
    }
    assert len(found) == 5


def test_an_alias_and_the_id_it_stands_for_are_one_payload() -> None:
    find = shipped_card().find
    alias = read_payload({**HELLO, "model": "claude-sonnet-4-5"}, find=find)
    exact = read_payload({**HELLO, "model": "claude-sonnet-4-5-20250929"}, find=find)
    assert alias.fingerprint == exact.fingerprint
    assert alias.model == exact.model == "claude-sonnet-4-5-20250929"
    assert alias.body["model"] == "claude-sonnet-4-5", "it is sent as it was asked for"


def test_a_model_without_a_price_still_has_a_fingerprint() -> None:
    assert read_payload({**HELLO, "model": "mine"}, find=shipped_card().find).model == "mine"


def test_the_model_may_come_from_the_url() -> None:
    body = {key: value for key, value in HELLO.items() if key != "model"}
    bedrock = read_payload(
        {**body, "anthropic_version": "bedrock-2023-05-31"},
        model="us.anthropic.claude-opus-4-7",
        find=shipped_card().find,
    )
    assert bedrock.fingerprint == print_of()


def test_a_payload_without_a_model_is_refused() -> None:
    with pytest.raises(PayloadError, match="names no model"):
        read_payload({"messages": []})


def test_a_payload_must_be_a_mapping() -> None:
    with pytest.raises(PayloadError, match="mapping of keywords, not list"):
        read_payload([("model", "x")])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {"betas": ["b-2", "a-1", "b-2"]},
        {"betas": "b-2, a-1"},
        {"anthropic_beta": ["a-1", "b-2"]},
        {"extra_headers": {"Anthropic-Beta": "b-2, a-1", "X-Trace": "c-3"}},
        {"betas": ["a-1"], "extra_headers": {"anthropic-beta": "b-2"}},
        {"extra_body": {"betas": ["a-1", "b-2"]}},
    ],
)
def test_betas_count_wherever_they_stand(given: dict[str, Any]) -> None:
    payload = read_payload({**HELLO, **given})
    assert payload.betas == ("a-1", "b-2")
    assert payload.fingerprint == read_payload(HELLO, betas=["b-2", "a-1"]).fingerprint
    assert payload.fingerprint == read_payload(HELLO, betas="b-2,a-1").fingerprint
    assert not {"betas", "anthropic_beta", "extra_headers"} & payload.body.keys()


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"extra_body": [1]}, "extra_body"),
        ({"extra_body": "a"}, "extra_body"),
        ({"extra_headers": [("anthropic-beta", "a")]}, "extra_headers"),
        ({"extra_headers": {"anthropic-beta": {"a": 1}}}, "extra_headers.anthropic-beta"),
        ({"betas": 5}, "betas"),
        ({"betas": True}, "betas"),
        ({"betas": [None]}, "betas"),
        ({"anthropic_beta": {"a": 1}}, "anthropic_beta"),
    ],
)
def test_options_of_another_shape_are_named(given: dict[str, Any], path: str) -> None:
    with pytest.raises(PayloadError, match=path) as caught:
        read_payload({**HELLO, **given})
    assert caught.value.path == path


def test_request_options_of_the_sdk_are_understood() -> None:
    options = {"extra_body": {"speed": "fast"}, "extra_query": {"x": "1"}, "timeout": 3}
    assert print_of(**options) == print_of(speed="fast")


def test_whose_request_it_is_goes_out_as_headers() -> None:
    payload = read_payload({**HELLO, "workspace_id": "wrkspc_1", "user_profile_id": None})
    assert payload.headers == {"anthropic-workspace-id": "wrkspc_1"}
    assert "workspace_id" not in payload.body


def test_every_field_that_the_sdk_has_is_known() -> None:
    """A new one goes into a set of `counting/payload.py`, by what it does to the prompt."""
    beta, plain = anthropic.types.beta, anthropic.types
    create = {*beta.message_create_params.MessageCreateParamsBase.__annotations__}
    count = {*beta.message_count_tokens_params.MessageCountTokensParams.__annotations__}
    of_count = {*plain.message_count_tokens_params.MessageCountTokensParams.__annotations__}
    assert create <= KNOWN
    assert count - {"betas", *HEADERS} <= COUNTED
    assert count - of_count - {"betas"} <= NEEDS_BETA


def test_a_log_in_token_of_an_mcp_server_is_in_no_hash() -> None:
    def server(token: str, name: str = "m") -> list[dict[str, str]]:
        return [{"name": name, "url": "https://example.test", "authorization_token": token}]

    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    one, two = (
        read_payload({**HELLO, "system": system, "mcp_servers": server(token)})
        for token in ("a", "b")
    )
    assert (one.fingerprint, one.parts) == (two.fingerprint, two.parts)
    assert one.prefixes[0].digest == two.prefixes[0].digest
    assert one.body["mcp_servers"][0]["authorization_token"] == "a", "it is still sent"
    other = read_payload({**HELLO, "mcp_servers": server("a", "n")})
    assert other.fingerprint != one.fingerprint


def test_a_generator_is_read_once_and_counted_whole() -> None:
    turns = ({"role": "user", "content": text} for text in ("Hello",))
    payload = read_payload({**HELLO, "messages": turns})
    assert payload.fingerprint == print_of()
    assert payload.body["messages"] == HELLO["messages"]


def test_each_part_has_a_digest_of_its_own() -> None:
    parts = read_payload({**HELLO, "thinking": {"type": "adaptive"}, "betas": ["a"]}).parts
    assert list(parts) == ["model", "system", "tools.find", "messages.0", "betas", "thinking"]
    assert all(len(digest) == 8 for digest in parts.values())


def test_tools_without_a_name_are_told_apart() -> None:
    tools = [
        {"name": "find"},
        {"type": "mcp_toolset", "mcp_server_name": "m"},
        {"type": "computer_toolset_20260801"},
        {},
    ]
    parts = read_payload({"model": "m", "tools": tools, "messages": []}).parts
    assert list(parts)[1:] == [
        "tools.find",
        "tools.m",
        "tools.computer_toolset_20260801",
        "tools.3",
    ]


@pytest.mark.parametrize("nothing", [{}, {"tools": None, "system": None}, {"tools": []}])
def test_what_is_not_there_has_no_part(nothing: dict[str, Any]) -> None:
    assert [*read_payload({"model": "m", **nothing}).parts] == ["model"]


def test_odd_shapes_still_have_digests() -> None:
    assert list(read_payload({"model": "m", "tools": "x", "messages": "y"}).parts) == [
        "model",
        "tools",
        "messages",
    ]
    assert fingerprint({"model": "m", "mcp_servers": ["x"]})


def test_null_is_the_default_of_a_field_that_has_another() -> None:
    tool = {"name": "find", "input_schema": {}}
    asked = {**HELLO, "tools": [{**tool, "strict": None, "type": None}], "service_tier": None}
    assert fingerprint(asked) == fingerprint({**HELLO, "tools": [tool]})


@pytest.mark.parametrize(
    "config", [{}, {"output_config": None}, {"output_config": {"effort": "low"}}]
)
def test_a_format_is_the_same_where_it_stood_before(config: dict[str, Any]) -> None:
    form = {"type": "json_schema", "schema": {}}
    now = {**HELLO, "output_config": {**(config.get("output_config") or {}), "format": form}}
    assert fingerprint({**HELLO, **config, "output_format": form}) == fingerprint(now)


@pytest.mark.parametrize("of", ["tools", "mcp_servers"])
def test_a_choice_of_tools_that_is_the_default_changes_nothing(of: str) -> None:
    asked = {"model": "m", "messages": [], of: [{"name": "find"}]}
    assert fingerprint({**asked, "tool_choice": {"type": "auto"}}) == fingerprint(asked)
    assert fingerprint({**asked, "tool_choice": {"type": "none"}}) != fingerprint(asked)


def test_changes_are_told_in_words_and_in_order() -> None:
    turns = [{"role": role, "content": "Hello"} for role in ("user", "assistant")] * 6
    old = read_payload({**HELLO, "messages": turns, "speed": "fast"}).parts
    tools = [{"name": "search"}]
    new = read_payload({**HELLO, "system": "x", "tools": tools, "thinking": {}}).parts
    changes = changed_parts(old, new)
    assert changes[:3] == ["system", "tools.search (new)", "tools.find (removed)"]
    assert changes[3:14] == [f"messages.{index} (removed)" for index in range(1, 12)]
    assert changes[14:] == ["thinking (new)", "speed (removed)"]
    assert describe_changes(changes).endswith("messages.3 (removed) and 10 more")
    assert changed_parts(old, old) == []
    assert changed_parts({"messages.0": "x"}, {"messages": "y"}) == [
        "messages (new)",
        "messages.0 (removed)",
    ]


def test_what_a_test_counts_is_what_the_sdk_then_sends() -> None:
    """SDK objects, generators, omit, betas and extras: one fingerprint on both ways."""
    anthropic = pytest.importorskip("anthropic")
    said = anthropic.types.Message.model_validate(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-opus-4-7",
            "content": [
                {"type": "thinking", "thinking": "Let me look", "signature": "s"},
                {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {"q": "é"}},
            ],
            "stop_reason": "tool_use",
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
    )

    def asked() -> dict[str, Any]:
        source = {"type": "base64", "media_type": "image/png", "data": "cGl4ZWxz"}
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "found"}
        return {
            **HELLO,
            "extra_headers": {"anthropic-beta": "context-1m-2025-08-07"},
            "tool_choice": anthropic.NOT_GIVEN,
            "tools": tuple(HELLO["tools"]),
            "extra_body": {"speed": "fast"},
            "messages": (
                turn
                for turn in (
                    {"role": "user", "content": [{"type": "image", "source": source}]},
                    {"role": "assistant", "content": said.content},
                    {"role": "user", "content": (part for part in (result,))},
                )
            ),
        }

    with (
        StandIn() as api,
        anthropic.Anthropic(base_url=api.url, api_key="any", max_retries=0) as client,
    ):
        client.messages.create(**asked())
    (sent,) = api.requests
    captured = read_payload(sent.body, betas=[sent.headers["anthropic-beta"]])
    counted = read_payload(asked())
    assert captured.parts == counted.parts
    assert captured.fingerprint == counted.fingerprint

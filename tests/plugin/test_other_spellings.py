"""Another spelling of the recorded prompt is the same prompt: nothing has changed, no count.

Each pair says where it is written that both are one. Sources, read 2026-11-25:

- API: https://platform.claude.com/docs/en/api/messages/create
- SDK: the parameter types of anthropic 2.14.0, `anthropic.types.<name>`
- TOOLS: https://platform.claude.com/docs/en/agents-and-tools/tool-use/define-tools
- EFFORT: https://platform.claude.com/docs/en/build-with-claude/effort
- OUTPUTS: https://platform.claude.com/docs/en/build-with-claude/structured-outputs
- CACHING: https://platform.claude.com/docs/en/build-with-claude/prompt-caching
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from conftest import Project
from hand_made_cassettes import (
    MODEL,
    OUTPUT,
    VERSION,
    Exchange,
    cold,
    count_and_replay,
    replay,
    usd,
    warm,
    write_project,
)
from standin import StandIn

Body = dict[str, Any]

HI: Body = {"type": "text", "text": "Hi there."}
TOOL: Body = {"name": "find", "description": "It finds.", "input_schema": {"type": "object"}}
SCHEMA: Body = {
    "type": "json_schema",
    "schema": {"type": "object", "properties": {"a": {"type": "string"}}},
}
CACHED = {"type": "ephemeral"}
BETA = "interleaved-thinking-2025-05-14"
AS_RECORDED = Decimal("0.00018")
"""10 tokens in at $3 and 10 out at $15 per million."""


def ask(content: Any = "Hi there.", **more: Any) -> Body:
    return {
        "model": MODEL,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": content}],
        **more,
    }


def answered(*results: Any, calls: int = 1, **marks: Any) -> Body:
    """A conversation in which tools were called and have answered."""
    asked = [
        {"type": "tool_use", "id": f"toolu_{each}", "name": "find", "input": {}}
        for each in range(calls)
    ]
    reported = [
        {"type": "tool_result", "tool_use_id": f"toolu_{place}", "content": result, **marks}
        for place, result in enumerate(results)
    ]
    messages = [
        {"role": "user", "content": "Hi there."},
        {"role": "assistant", "content": asked},
        {"role": "user", "content": reported},
    ]
    return {**ask(), "tools": [TOOL], "messages": messages}


def dialogue(*turns: tuple[str, Any]) -> Body:
    return {**ask(), "messages": [{"role": role, "content": content} for role, content in turns]}


def document(**more: Any) -> Body:
    source = {"type": "text", "media_type": "text/plain", "data": "A bell."}
    return ask([{"type": "document", "source": source, **more}, HI])


def forced(**more: Any) -> Body:
    return {**ask(), "tools": [TOOL], "tool_choice": {"type": "any", **more}}


def cached(**mark: Any) -> Body:
    return ask(system=[{"type": "text", "text": "Be brief.", "cache_control": {**CACHED, **mark}}])


# What was recorded, and what is sent; each is also tried the other way round.
SAME: dict[str, tuple[Body, Body]] = {
    # API, messages.content: a string is short for one content block of type text
    "content": (ask(), ask([HI])),
    "content-of-several": (
        {
            **ask(),
            "messages": [
                {"role": "user", "content": "Hi there."},
                {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": [HI]},
            ],
        },
        {
            **ask(),
            "messages": [
                {"role": "user", "content": [HI]},
                {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
                {"role": "user", "content": "Hi there."},
            ],
        },
    ),
    # API, system: a string or text blocks
    "system": (ask(system="Be brief."), ask(system=[{"type": "text", "text": "Be brief."}])),
    # SDK, ToolResultBlockParam.content: a string or blocks
    "tool-result": (answered("A bell."), answered([{"type": "text", "text": "A bell."}])),
    "tool-results": (
        answered("A bell.", [{"type": "text", "text": "None."}], calls=2),
        answered([{"type": "text", "text": "A bell."}], "None.", calls=2),
    ),
    # TOOLS: auto is the default where there are tools, none where there are none
    "tool-choice-auto": (
        ask(tools=[TOOL]),
        ask(tools=[TOOL], tool_choice={"type": "auto"}),
    ),
    "tool-choice-none": (ask(), ask(tool_choice={"type": "none"})),
    # SDK, ToolChoiceAutoParam, ToolChoiceAnyParam: defaults to false
    "parallel-auto": (
        ask(tools=[TOOL]),
        ask(tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": False}),
    ),
    "parallel-any": (forced(), forced(disable_parallel_tool_use=False)),
    # SDK, MessageCreateParams.tools: no tools are none
    "no-tools": (ask(), ask(tools=[])),
    # SDK, ToolParam.type: Optional[Literal["custom"]]; a tool without a type is a custom one
    "custom-tool": (ask(tools=[TOOL]), ask(tools=[{**TOOL, "type": "custom"}])),
    "custom-tool-null": (ask(tools=[TOOL]), ask(tools=[{**TOOL, "type": None}])),
    # API, tools: false is the default of each
    "tool-flags": (
        ask(tools=[TOOL]),
        ask(tools=[{**TOOL, "strict": False, "defer_loading": False}]),
    ),
    # API, messages: consecutive turns of one role are combined, here with others behind them
    "turns-in-a-row": (
        dialogue(("user", "Hi"), ("assistant", "A"), ("assistant", "B"), ("user", "And?")),
        dialogue(
            ("user", "Hi"),
            ("assistant", [{**HI, "text": "A"}, {**HI, "text": "B"}]),
            ("user", "And?"),
        ),
    ),
    # SDK, ToolResultBlockParam.is_error; API: defaults to false
    "is-error": (answered("A bell."), answered("A bell.", is_error=False)),
    # SDK, TextBlockParam: both are Optional, and null is none
    "nulls": (ask([HI]), ask([{**HI, "citations": None, "cache_control": None}])),
    "tool-null": (ask(tools=[TOOL]), ask(tools=[{**TOOL, "cache_control": None}])),
    # API, DocumentBlockParam.citations: not enabled by default
    "citations": (document(), document(citations={"enabled": False})),
    "citations-null": (document(), document(citations=None, title=None, context=None)),
    # SDK, CacheControlEphemeralParam.ttl: defaults to 5m
    "lifetime": (cached(), cached(ttl="5m")),
    "automatic-lifetime": (
        ask(cache_control=CACHED),
        ask(cache_control={**CACHED, "ttl": "5m"}),
    ),
    # API, thinking: this model does not think unless asked to
    "thinking": (ask(), ask(thinking={"type": "disabled"})),
    # API, service_tier: defaults to auto; SDK, speed: standard unless asked to be fast
    "service-tier": (ask(), ask(service_tier="auto")),
    "speed": (ask(), ask(speed="standard")),
    "speed-null": (ask(), ask(speed=None)),
    # EFFORT: high is equivalent to not setting the parameter
    "effort": (ask(), ask(output_config={"effort": "high"})),
    "effort-null": (ask(), ask(output_config={"effort": None, "format": None})),
    # OUTPUTS: output_format has moved to output_config.format
    "output-format": (ask(output_format=SCHEMA), ask(output_config={"format": SCHEMA})),
    "output-format-and-effort": (
        ask(output_format=SCHEMA, output_config={"effort": "low"}),
        ask(output_config={"effort": "low", "format": SCHEMA}),
    ),
    "everything-at-once": (
        ask([HI], system=[{"type": "text", "text": "Be brief."}], tools=[TOOL]),
        ask(
            system="Be brief.",
            tools=[{**TOOL, "type": "custom"}],
            tool_choice={"type": "auto"},
            thinking={"type": "disabled"},
            service_tier="auto",
        ),
    ),
}


NOTHING_CHANGED: tuple[object, ...] = ("within", "billed", [], *(AS_RECORDED,) * 3)


def one_row(project: Project, exchange: Exchange) -> Body:
    write_project(project, one=[exchange])
    return replay(project)["one"]


def read(row: Body) -> tuple[object, ...]:
    """Return what a test of one call came to: its state, the call's evidence, its bounds."""
    (call,) = row["calls"]
    verdict = row["verdict"]
    amounts = (row["usd"], verdict["low"], verdict["high"])
    return (
        verdict["state"], call["evidence"], call["caveats"],
        *(None if each is None else Decimal(each) for each in amounts),
    )  # fmt: skip


def assert_changed(row: Body) -> None:
    assert read(row)[:2] == ("unverified", "stale")


def replay_all(
    project: Project, pairs: dict[str, tuple[Body, Body]], *, turned: bool
) -> dict[str, Body]:
    """Replay each pair in a test of its own, all in one run, which is fast."""
    tests = {
        name.replace("-", "_").replace(".", "_"): [Exchange(*(pair[::-1] if turned else pair))]
        for name, pair in pairs.items()
    }
    write_project(project, **tests)
    rows = replay(project)
    assert len(rows) == len(pairs)
    return rows


@pytest.mark.parametrize("turned", [False, True], ids=["one-for-other", "other-for-one"])
def test_another_spelling_is_the_same_prompt(project: Project, turned: bool) -> None:
    rows = replay_all(project, SAME, turned=turned)
    assert {name: read(row) for name, row in rows.items() if read(row) != NOTHING_CHANGED} == {}


DIFFERENT: dict[str, tuple[Body, Body]] = {
    "1-and-1.0": (
        ask(tools=[{**TOOL, "input_schema": {"type": "object", "minProperties": 1}}]),
        ask(tools=[{**TOOL, "input_schema": {"type": "object", "minProperties": 1.0}}]),
    ),
    "two-blocks": (ask("Hi there."), ask([{**HI, "text": "Hi "}, {**HI, "text": "there."}])),
    "system-of-two-blocks": (
        ask(system="Be brief."),
        ask(system=[{**HI, "text": "Be "}, {**HI, "text": "brief."}]),
    ),
    "forced": (ask(tools=[TOOL]), forced()),
    "one-tool-at-a-time": (
        ask(tools=[TOOL]),
        ask(tools=[TOOL], tool_choice={"type": "auto", "disable_parallel_tool_use": True}),
    ),
    "no-tools-to-be-used": (ask(tools=[TOOL]), ask(tools=[TOOL], tool_choice={"type": "none"})),
    "order-of-tools": (
        ask(tools=[TOOL, {**TOOL, "name": "ask"}]),
        ask(tools=[{**TOOL, "name": "ask"}, TOOL]),
    ),
    "the-first-of-two-tools-with-one-name": (
        ask(tools=[TOOL, TOOL]),
        ask(tools=[{**TOOL, "description": "It asks."}, TOOL]),
    ),
    "is-error": (answered("A bell."), answered("A bell.", is_error=True)),
    "citations": (document(), document(citations={"enabled": True})),
    "effort": (ask(), ask(output_config={"effort": "low"})),
    "thinking": (ask(), ask(thinking={"type": "adaptive"})),
    "service-tier": (ask(), ask(service_tier="standard_only")),
    "another-format": (
        ask(output_format=SCHEMA),
        ask(output_config={"format": {**SCHEMA, "schema": {"type": "object"}}}),
    ),
    "spaces": (ask("Hi there."), ask([{**HI, "text": "Hi there. "}])),
    "a-null-of-the-schema": (
        ask(tools=[{**TOOL, "input_schema": {"type": "object", "default": None}}]),
        ask(tools=[TOOL]),
    ),
    "a-schema-named-like-a-default": (
        ask(tools=[{**TOOL, "input_schema": {"type": "object", "is_error": False}}]),
        ask(tools=[TOOL]),
    ),
}


@pytest.mark.parametrize("turned", [False, True], ids=["one-for-other", "other-for-one"])
def test_what_is_no_spelling_stays_a_change(project: Project, turned: bool) -> None:
    for row in replay_all(project, DIFFERENT, turned=turned).values():
        assert_changed(row)


# Betas, where the recorder strips or redacts the headers


ASKED = {**VERSION, "anthropic-beta": BETA}


@pytest.mark.parametrize(
    "left",
    [
        {},
        {"content-type": "application/json"},
        {"anthropic-version": "REDACTED", "anthropic-beta": "REDACTED"},
        {"anthropic-version": "**REDACTED**", "anthropic-beta": "**REDACTED**"},
        {"Anthropic-Version": "<redacted>", "Anthropic-Beta": "<redacted>"},
    ],
    ids=["nothing", "no-header-of-anthropics", "REDACTED", "with-stars", "in-angles"],
)
def test_a_recording_without_its_headers_says_nothing_of_betas(
    project: Project, left: dict[str, str]
) -> None:
    exchange = Exchange(ask(), ask(), recorded_headers=left, sent_headers=ASKED)
    assert read(one_row(project, exchange)) == NOTHING_CHANGED


def test_a_format_that_moved_needs_no_beta_any_more_where_the_headers_are_gone(
    project: Project,
) -> None:
    then, now = ask(output_format=SCHEMA), ask(output_config={"format": SCHEMA})
    for sent_headers in (VERSION, ASKED):
        exchange = Exchange(then, now, recorded_headers={}, sent_headers=sent_headers)
        assert read(one_row(project, exchange)) == NOTHING_CHANGED


def test_a_recording_without_its_headers_still_tells_another_prompt(project: Project) -> None:
    exchange = Exchange(ask(), ask("Hi all."), recorded_headers={}, sent_headers=ASKED)
    assert_changed(one_row(project, exchange))


@pytest.mark.parametrize(("then", "now"), [(VERSION, ASKED), (ASKED, VERSION)])
def test_a_recording_with_its_headers_tells_another_beta(
    project: Project, then: dict[str, str], now: dict[str, str]
) -> None:
    exchange = Exchange(ask(), ask(), recorded_headers=then, sent_headers=now)
    assert_changed(one_row(project, exchange))


# The cache reads bytes: there, the order of keys counts


def reordered(tool: Body) -> Body:
    return dict(reversed(tool.items()))


def with_tools(*tools: Body, mark: bool = True) -> Body:
    long = "All that there is to know of bells. " * 300
    block: Body = {"type": "text", "text": long}
    if mark:
        block["cache_control"] = CACHED
    return ask(system=[block], tools=list(tools))


def test_the_order_of_keys_is_no_change_where_nothing_is_cached(project: Project) -> None:
    sent = with_tools(reordered(TOOL), mark=False)
    assert sent == with_tools(TOOL, mark=False)
    assert read(one_row(project, Exchange(with_tools(TOOL, mark=False), sent))) == NOTHING_CHANGED


@pytest.mark.parametrize("deep", [False, True], ids=["a-tools-keys", "its-schemas-keys"])
def test_a_cached_prefix_with_its_keys_in_another_order_may_have_been_written_anew(
    project: Project, standin: StandIn, deep: bool
) -> None:
    project.online(standin)
    schema: Body = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    tool = {**TOOL, "input_schema": schema}
    now = {**tool, "input_schema": reordered(schema)} if deep else reordered(tool)
    recorded, sent = with_tools(tool), with_tools(now)
    usage = {**warm(recorded).usage(), "output_tokens": OUTPUT}
    write_project(project, one=[Exchange(recorded, sent, usage)])
    row = count_and_replay(project)["one"]
    low, high = (Decimal(row["verdict"][bound] or "0") for bound in ("low", "high"))
    assert (low, high) == (usd(warm(recorded)), usd(cold(recorded)))
    (call,) = row["calls"]
    assert any("cache" in each and "tools.find" in each for each in call["caveats"])


@pytest.mark.parametrize("state", [cold, warm], ids=["written", "read"])
def test_a_cached_prefix_is_the_same_however_its_turns_are_divided_up(
    project: Project, state: Any
) -> None:
    long = with_tools(TOOL)["system"][0]
    then = dialogue(("user", "Hi"), ("user", [long]), ("user", "And?"))
    now = dialogue(("user", [{**HI, "text": "Hi"}, long, {**HI, "text": "And?"}]))
    usage = {**state(then).usage(), "output_tokens": OUTPUT}
    row = one_row(project, Exchange(then, now, usage))
    assert read(row)[:3] == ("within", "billed", [])
    assert Decimal(row["usd"]) == usd(state(then))


@pytest.mark.parametrize("state", [cold, warm], ids=["written", "read"])
def test_keys_in_another_order_behind_the_cached_prefix_change_nothing(
    project: Project, state: Any
) -> None:
    def body(block: Body) -> Body:
        return {**with_tools(TOOL), "messages": [{"role": "user", "content": [block]}]}

    usage = {**state(body(HI)).usage(), "output_tokens": OUTPUT}
    row = one_row(project, Exchange(body(HI), body(reordered(HI)), usage))
    assert row["verdict"]["state"] == "within"
    assert Decimal(row["verdict"]["low"]) == Decimal(row["verdict"]["high"])
    assert Decimal(row["usd"]) == usd(state(body(HI)))

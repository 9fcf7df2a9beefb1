"""What a response bills, by the rules of its kind."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace
from one_message import read_message
from sample_reports import make_budget

from pytest_llmcost.budgets.budget import judge_calls
from pytest_llmcost.call import Call, price, reprice
from pytest_llmcost.errors import UsageDataError
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Terms, Usage
from pytest_llmcost.responses.endpoints import Endpoint, recognise
from pytest_llmcost.responses.message import Answer, read_answer
from pytest_llmcost.responses.stream import StreamedMessage

ON = date(2026, 11, 22)
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:inference-profile"
OPAQUE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile"
TEXT = {"type": "text", "text": "Here you are."}
ADVISED = [
    {"type": "server_tool_use", "name": "advisor", "input": {}},
    {"type": "advisor_tool_result", "content": {"type": "advisor_result", "text": "Do it."}},
    TEXT,
]


def usage(tokens: int = 0, output: int = 0, **more: Any) -> dict[str, Any]:
    return {"input_tokens": tokens, "output_tokens": output} | more


def entry(kind: str, tokens: int, output: int, **more: Any) -> dict[str, Any]:
    return usage(tokens, output, type=kind, **more)


def body(raw: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    stated = {"model": "claude-opus-5", "content": [TEXT], "stop_reason": "end_turn"}
    return stated | {"usage": raw or usage(1_000, 100)} | more


def priced(answer: Answer, on: date = ON) -> Call:
    return price(answer, shipped_card(), on=on)


def usd(message: dict[str, Any], on: date = ON, **more: Any) -> Decimal | None:
    return priced(read_message(message, **more), on).usd


def sampling_calls(call: Answer | Call) -> list[tuple[str, str, int, int]]:
    return [
        (sampling.kind, sampling.model, sampling.usage.prompt_tokens, sampling.usage.output_tokens)
        for sampling in call.sampling_calls
    ]


def test_an_ordinary_response_is_one_sampling_call_of_its_usage() -> None:
    answer = read_message(
        body(usage(1_000, 100, service_tier="standard", speed="fast", inference_geo="us"))
    )
    assert sampling_calls(answer) == [("message", "claude-opus-5", 1_000, 100)]
    assert answer.usage == Usage(input_tokens=1_000, output_tokens=100)
    assert answer.terms == Terms(service_tier="standard", speed="fast", inference_geo="us")
    assert (answer.model, answer.stream, answer.caveats) == ("claude-opus-5", False, ())
    call = priced(answer)
    assert (call.usage, call.billed_usage) == (answer.usage, answer.usage)
    assert (call.context, call.evidence, call.stream) == (answer.terms, "billed", False)
    assert priced(replace(answer, stream=True)).stream


@pytest.mark.parametrize("key", ["service_tier", "speed", "inference_geo"])
def test_terms_that_are_no_text_are_an_error_and_never_the_standard_ones(key: str) -> None:
    odd: object
    for odd in (7, {}, ["fast"], True):
        with pytest.raises(UsageDataError, match=rf"usage\.{key}: "):
            read_message(body(usage(1_000, 100, **{key: odd})))
    for empty in (None, ""):
        assert read_message(body(usage(1_000, 100, **{key: empty}))).terms == Terms()


def test_a_geography_asked_for_and_not_stated_opens_the_high_bound_alone() -> None:
    silent, request = body(usage(1_000_000, 0)), {"inference_geo": "us"}
    call = priced(read_message(silent, request=request))
    assert (call.usd, call.usd_low, call.usd_high) == (Decimal(5), Decimal(5), Decimal("5.5"))
    assert call.caveats == ("unknown-geography: us, which only the request names",)


@pytest.mark.parametrize("asked", ["global", None, ""])
def test_a_geography_without_a_premium_needs_no_answer(asked: str | None) -> None:
    call = priced(read_message(body(), request={"inference_geo": asked}))
    assert (call.usd_high, call.caveats) == (call.usd, ())


@pytest.mark.parametrize(("stated", "high"), [("us", "5.5"), ("not_available", "5")])
def test_a_stated_geography_settles_what_was_asked_for(stated: str, high: str) -> None:
    message = body(usage(1_000_000, 0, inference_geo=stated))
    call = priced(read_message(message, request={"inference_geo": "us"}))
    assert (call.usd, call.usd_high, call.caveats) == (Decimal(high), Decimal(high), ())


def test_the_model_is_the_responses_own_and_else_the_requests() -> None:
    nameless = {"content": [], "usage": usage(1, 1)}
    assert read_message(body(), model="claude-opus-4-8").model == "claude-opus-5"
    assert read_message(nameless, model="claude-opus-4-8").model == "claude-opus-4-8"
    assert read_message(nameless, request={"model": "claude-opus-4-7"}).model == "claude-opus-4-7"
    with pytest.raises(UsageDataError, match="expected the model's name"):
        read_message(nameless)


@pytest.mark.parametrize(
    ("name", "platform"),
    [
        ("us.anthropic.claude-opus-4-6-v1", "bedrock-regional"),
        ("global.anthropic.claude-opus-4-6-v1", "bedrock"),
        ("claude-opus-4-5@20251101", "vertex-unknown"),
        ("claude-opus-5", None),
        ("acme/opus", None),
    ],
)
def test_a_requests_model_tells_of_the_endpoint_where_the_url_does_not(
    name: str, platform: str | None
) -> None:
    assert priced(read_message(body(), model=name)).context.platform == platform
    given = priced(read_message(body(), model=name, platform="foundry"))
    assert given.context.platform == "foundry"


# Sonnet 4.6 at a regional endpoint is $3.30 for a million tokens, else $3.
@pytest.mark.parametrize(
    ("asked", "said", "usd", "high"),
    [
        ("us.anthropic.claude-sonnet-4-6", "claude-sonnet-4-6", "3.3", "3.3"),
        ("anthropic.claude-sonnet-4-6", "claude-sonnet-4-6", "3.3", "3.3"),
        ("claude-sonnet-4-6", "claude-sonnet-4-6", "3.3", "3.3"),
        ("global.anthropic.claude-sonnet-4-6", "claude-sonnet-4-6", "3", "3"),
        (f"{PROFILE}/us.anthropic.claude-sonnet-4-6", "claude-sonnet-4-6", "3.3", "3.3"),
        (f"{PROFILE}/global.anthropic.claude-sonnet-4-6", "claude-sonnet-4-6", "3", "3"),
        (f"{OPAQUE}/abc", "claude-sonnet-4-6", "3", "3.3"),
        (None, "us.anthropic.claude-sonnet-4-6", "3.3", "3.3"),
        (None, "anthropic.claude-sonnet-4-6", "3.3", "3.3"),
        (None, "global.anthropic.claude-sonnet-4-6", "3", "3"),
        (None, "claude-sonnet-4-6", "3", "3.3"),
    ],
)
@pytest.mark.parametrize("host", ["mantle.eu-west-1.api.aws", "runtime.eu-west-1.amazonaws.com"])
def test_a_messages_route_of_bedrock_has_its_region_in_a_body_or_is_unknown(
    host: str, asked: str | None, said: str, usd: str, high: str
) -> None:
    endpoint = recognise("POST", f"https://bedrock-{host}/anthropic/v1/messages")
    assert endpoint is not None
    message = StreamedMessage(body=body(usage(1_000_000), model=said))
    request = {"model": asked} if asked else None
    call = priced(read_answer([message], endpoint=endpoint, payload=request))
    assert (call.usd, call.usd_high) == (Decimal(usd), Decimal(high))
    assert call.caveats == (() if usd == high else ("unknown-endpoint: bedrock",))


@pytest.mark.parametrize(
    ("asked", "usd", "high"),
    [
        ("bedrock/us.anthropic.claude-sonnet-4-6", "3.3", "3.3"),
        ("bedrock/global.anthropic.claude-sonnet-4-6", "3", "3"),
        ("us.anthropic.claude-sonnet-4-6-v9:0", "3.3", "3.3"),
        (f"{OPAQUE}/abc", "3", "3.3"),
        (f"bedrock/{OPAQUE}/abc", "3", "3.3"),
        ("acme/sonnet", "3", "3"),
    ],
)
def test_a_gateway_is_told_of_bedrocks_region_in_a_name_of_its_own(
    asked: str, usd: str, high: str
) -> None:
    message = StreamedMessage(body=body(usage(1_000_000), model="claude-sonnet-4-6"))
    endpoint = Endpoint(kind="messages")
    call = priced(read_answer([message], endpoint=endpoint, payload={"model": asked}))
    assert (call.usd, call.usd_high) == (Decimal(usd), Decimal(high))


def test_a_batchs_result_is_in_the_batch_tier_even_where_it_does_not_say_so() -> None:
    assert usd(body(usage(1_000_000, 0)), batch=True) == Decimal("2.5")
    assert usd(body(usage(1_000_000, 0, service_tier="batch"))) == Decimal("2.5")


# Source: https://platform.claude.com/docs/en/build-with-claude/compaction


def test_a_compaction_is_added_to_the_answer() -> None:
    iterations = [entry("compaction", 180_000, 3_500), entry("message", 23_000, 1_000)]
    call = priced(read_message(body(usage(23_000, 1_000, iterations=iterations))))
    assert sampling_calls(call) == [
        ("message", "claude-opus-5", 23_000, 1_000),
        ("compaction", "claude-opus-5", 180_000, 3_500),
    ]
    assert call.usd == Decimal("1.1275")
    assert call.usage == Usage(input_tokens=23_000, output_tokens=1_000)


def test_a_compaction_on_demand_is_billed_though_the_top_level_is_zero() -> None:
    iterations = [entry("compaction", 180_000, 3_500)]
    call = priced(read_message(body(usage(0, 0, iterations=iterations))))
    assert sampling_calls(call) == [("compaction", "claude-opus-5", 180_000, 3_500)]
    assert call.usd == Decimal("0.9875")
    assert call.usage == Usage()


def test_message_passes_are_the_bill_where_the_top_level_is_zero() -> None:
    iterations = [entry("compaction", 180_000, 3_500), entry("message", 1_000, 100)]
    searched = usage(0, 0, iterations=iterations, server_tool_use={"web_search_requests": 1})
    call = priced(read_message(body(searched)))
    assert sampling_calls(call)[0] == ("message", "claude-opus-5", 1_000, 100)
    assert call.usd == Decimal("0.9875") + Decimal("0.0075") + Decimal("0.01")


@pytest.mark.parametrize("passes", [[], [entry("compaction", 0, 0)]])
@pytest.mark.parametrize(("summary", "high"), [("What was said.", None), (None, "0.0075")])
def test_a_compaction_without_an_entry_leaves_a_lower_bound(
    passes: list[dict[str, Any]], summary: str | None, high: str | None
) -> None:
    iterations = [*passes, entry("message", 1_000, 100)]
    content = [{"type": "compaction", "content": summary}, TEXT]
    call = priced(read_message(body(usage(1_000, 100, iterations=iterations), content=content)))
    assert (call.usd_low, call.usd_high) == (Decimal("0.0075"), high and Decimal(high))
    assert call.caveats == (("usage-disagrees: compaction",) if summary else ())


def test_a_compaction_takes_the_answers_speed_tier_and_geography() -> None:
    iterations = [entry("compaction", 100_000, 0), entry("message", 1_000, 1_000)]
    raw = usage(1_000, 1_000, iterations=iterations, speed="fast", inference_geo="us")
    assert usd(body(raw)) == (Decimal("1.01") + Decimal("0.05")) * Decimal("1.1")


# Source: https://platform.claude.com/docs/en/agents-and-tools/tool-use/advisor-tool; the numbers
# are those of a public recording of such a response.


def test_an_advisor_is_added_at_its_own_models_rates() -> None:
    iterations = [
        entry("message", 1_051, 35),
        entry("advisor_message", 2_728, 874, model="claude-opus-4-7"),
        entry("message", 1_363, 3_165),
    ]
    call = priced(
        read_message(
            body(
                usage(2_414, 3_200, iterations=iterations),
                model="claude-sonnet-4-6",
                content=ADVISED,
            )
        )
    )
    assert sampling_calls(call) == [
        ("message", "claude-sonnet-4-6", 1_051, 35),
        ("message", "claude-sonnet-4-6", 1_363, 3_165),
        ("advisor", "claude-opus-4-7", 2_728, 874),
    ]
    assert call.usd == call.usd_low == call.usd_high == Decimal("0.090732")
    assert call.caveats == ()


@pytest.mark.parametrize("answers", [[], [entry("advisor_message", 0, 0, model="claude-opus-5")]])
def test_an_advisor_without_an_entry_leaves_a_lower_bound(answers: list[dict[str, Any]]) -> None:
    iterations = [entry("message", 1_000, 100), *answers]
    call = priced(read_message(body(usage(1_000, 100, iterations=iterations), content=ADVISED)))
    assert call.caveats == ("advisor-without-entry",)
    assert call.usd_low == call.usd
    assert call.usd_high is None


def test_an_advisor_whose_advice_was_cut_off_leaves_a_lower_bound() -> None:
    call = priced(read_message(body(usage(1_000, 100), content=[TEXT, ADVISED[0]])))
    assert call.caveats == ("advisor-without-entry",)


def test_an_advisor_that_failed_has_no_entry_and_costs_nothing() -> None:
    failure = {"type": "advisor_tool_result", "content": {"type": "advisor_tool_result_error"}}
    assert read_message(body(content=[ADVISED[0], failure, TEXT])).caveats == ()


def test_an_advisors_entry_must_name_its_model() -> None:
    iterations = [entry("message", 1, 1), entry("advisor_message", 1, 1)]
    with pytest.raises(UsageDataError) as caught:
        read_message(body(usage(1, 1, iterations=iterations)))
    assert caught.value.path == "usage.iterations[1].model"


# Bands: one sampling pass each, where the passes explain the top level.

SEARCHED = [{"type": "server_tool_use", "name": "web_search", "input": {}}, TEXT]


def haiku(raw: dict[str, Any], **more: Any) -> Call:
    return priced(read_message(body(raw, model="claude-haiku-5-5", **more)))


def test_each_sampling_pass_has_a_band_of_its_own() -> None:
    iterations = [entry("message", 60_000, 100), entry("message", 120_000, 200)]
    searches = {"web_search_requests": 3}
    call = haiku(usage(180_000, 300, iterations=iterations, server_tool_use=searches))
    assert [sampling.usd for sampling in call.sampling_calls] == [
        Decimal("0.03605"),
        Decimal("0.0605"),
    ]
    assert call.sampling_calls[0].usage.web_search_requests == 3
    assert call.usd == call.usd_low == call.usd_high
    assert call.billed_usage == call.usage


def written(total: int, *split: int) -> dict[str, Any]:
    """Cache writes of 5 minutes and of an hour; without a split nothing says how long."""
    stated: dict[str, Any] = {"cache_creation_input_tokens": total}
    if split:
        names = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
        stated["cache_creation"] = dict(zip(names, split, strict=True))
    return stated


# A million tokens that Opus 5 writes are $6.25, for an hour $10. A stream's end states no split.
@pytest.mark.parametrize(
    ("top", "passes", "expected"),
    [
        ((0, 1_000_000), [(0, 500_000), (0, 500_000)], "10"),
        ((), [(0, 500_000), (0, 500_000)], "10"),
        ((0, 500_000), [(0, 500_000), (0, 500_000)], "10"),
        ((0, 500_000), [(0, 500_000), (500_000, 0)], "8.125"),
        ((0, 0), [(0, 1_000_000)], "10"),
        ((0, 1_000_000), [(1_000_000, 0)], "6.25"),
        ((0, 1_000_000), [(), ()], "10"),
        ((), [(), ()], "6.25"),
    ],
)
def test_each_pass_says_itself_how_long_its_writes_live(
    top: tuple[int, ...], passes: list[tuple[int, ...]], expected: str
) -> None:
    each = 1_000_000 // len(passes)
    iterations = [entry("message", 0, 0, **written(each, *split)) for split in passes]
    raw = usage(0, 0, **written(1_000_000, *top), iterations=iterations)
    call = priced(read_message(body(raw)))
    assert call.usd == call.usd_low == call.usd_high == Decimal(expected)
    assert call.caveats == ()


def test_passes_with_other_lifetimes_than_the_top_level_keep_their_own_bands() -> None:
    for split, top, expected in (
        ((0, 60_000), (60_000, 60_000), "0.024003"),
        ((), (), "0.015003"),
    ):
        iterations = [entry("message", 10, 1, **written(60_000, *split))] * 2
        call = haiku(usage(20, 2, **written(120_000, *top), iterations=iterations))
        assert call.usd == call.usd_low == call.usd_high == Decimal(expected)


@pytest.mark.parametrize(
    "iterations", [[], None, [entry("message", 60_000, 100)], [entry("message", 1, 1)] * 2]
)
def test_without_passes_that_add_up_the_band_is_chosen_on_the_total(
    iterations: list[dict[str, Any]] | None,
) -> None:
    call = haiku(usage(180_000, 300, iterations=iterations), content=SEARCHED)
    assert call.usd == call.usd_high == Decimal("0.09075")
    assert call.usd_low == Decimal("0.01815")
    assert call.caveats == ("band-on-total: claude-haiku-5-5 above 100,000 prompt tokens",)


@pytest.mark.parametrize(
    ("content", "tools"),
    [([{"type": "mcp_tool_use", "name": "x"}, TEXT], None), ([TEXT], {"web_fetch_requests": 1})],
)
def test_a_loop_shows_in_the_content_or_in_the_counts(
    content: list[dict[str, Any]], tools: dict[str, int] | None
) -> None:
    call = haiku(usage(180_000, 300, server_tool_use=tools), content=content)
    assert call.caveats != ()


def test_a_single_long_prompt_is_exact() -> None:
    call = haiku(usage(180_000, 300, server_tool_use={"web_search_requests": 0}))
    assert call.usd == call.usd_low == call.usd_high == Decimal("0.09075")
    assert call.caveats == ()


def test_a_kind_of_pass_that_nobody_knows_is_named() -> None:
    iterations = [entry("message", 1_000, 100), entry("oracle", 7, 7), entry("oracle", 7, 7)]
    call = priced(read_message(body(usage(1_000, 100, iterations=iterations))))
    assert call.caveats == ("unknown-usage: iterations of type oracle",)
    assert call.usd_high is None


def test_a_pass_without_a_type_is_a_message() -> None:
    raw = usage(10, 1, iterations=[usage(4, 1), usage(6, 0)])
    assert sampling_calls(read_message(body(raw))) == [
        ("message", "claude-opus-5", 4, 1),
        ("message", "claude-opus-5", 6, 0),
    ]


@pytest.mark.parametrize(
    ("iterations", "path"),
    [
        ("none", "usage.iterations"),
        ({"type": "message"}, "usage.iterations"),
        ([3], "usage.iterations[0]"),
        ([usage(1, 1), {"input_tokens": 1}], "usage.iterations[1].output_tokens"),
    ],
)
def test_passes_that_cannot_be_read_are_named(iterations: object, path: str) -> None:
    with pytest.raises(UsageDataError) as caught:
        read_message(body(usage(1, 1, iterations=iterations)))
    assert caught.value.path == path


# Source: https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback


def refused(content: Any, category: object = "bio") -> dict[str, Any]:
    details = {"type": "refusal", "category": category}
    return body(usage(1_000, 5), content=content, stop_reason="refusal", stop_details=details)


@pytest.mark.parametrize(
    "content",
    [
        [],
        [{"type": "text", "text": ""}],
        [{"type": "thinking", "thinking": "", "signature": ""}],
        [{"type": "compaction", "content": None}],
        [None, "odd"],
        None,
        "",
    ],
)
def test_a_refusal_without_a_block_that_says_something_is_one_before_any_output(
    content: Any,
) -> None:
    message = refused(content)
    assert usd(message, date(2026, 9, 23)) == 0
    assert usd(message, date(2026, 9, 24)) == Decimal("0.005125")
    call = priced(read_message(message), date(2026, 9, 23))
    assert call.sampling_calls[0].refusal == "bio"
    assert call.usage.input_tokens == 1_000
    assert call.billed_usage == Usage()


@pytest.mark.parametrize(
    "content",
    [
        [TEXT],
        [{"type": "text", "text": ""}, {"type": "tool_use", "name": "x", "input": {}}],
        [{"type": "thinking", "thinking": "Hm", "signature": ""}],
        [{"type": "thinking", "thinking": "", "signature": "x"}],
        [{"type": "redacted_thinking", "data": "x"}],
        "[REDACTED]",
    ],
)
def test_a_refusal_after_some_output_is_always_billed(content: Any) -> None:
    assert usd(refused(content, "cyber"), date(2026, 8, 1)) == Decimal("0.005125")


@pytest.mark.parametrize("details", [None, {}, {"category": None}, "none"])
def test_a_refusal_without_a_category_is_of_none(details: object) -> None:
    call = read_message(body(content=[], stop_reason="refusal", stop_details=details))
    assert call.sampling_calls[0].refusal == "unspecified"


def fallback(
    declined: str | None, serving: str | None, category: str | None = None
) -> dict[str, Any]:
    trigger = {"type": "refusal", "category": category}
    return {
        "type": "fallback",
        "from": {"model": declined},
        "to": {"model": serving},
        "trigger": trigger,
    }


def fell_back(category: str | None, *before: dict[str, Any], named: str) -> dict[str, Any]:
    iterations = [
        entry("message", 408, 0, model="claude-fable-5"),
        entry("fallback_message", 412, 264, model="claude-opus-4-8"),
    ]
    content = [*before, fallback("claude-fable-5", "claude-opus-4-8", category), TEXT]
    return body(usage(412, 264, iterations=iterations), model=named, content=content)


# The answer alone, 412 in and 264 out of Opus 4.8, is $0.00866; the declined prompt, 408 of
# Fable 5, is $0.00408.
@pytest.mark.parametrize("named", ["claude-opus-4-8", "claude-fable-5"])
@pytest.mark.parametrize(
    ("category", "before", "on", "expected"),
    [
        (None, [], ON, "0.00866"),
        ("cyber", [], ON, "0.00866"),
        ("bio", [], ON, "0.01274"),
        ("bio", [], date(2026, 9, 23), "0.00866"),
        ("cyber", [TEXT], ON, "0.01274"),
        ("cyber", [{"type": "text", "text": ""}], ON, "0.00866"),
    ],
)
def test_a_fallback_is_billed_once_and_what_declined_before_it_where_that_is_billed(
    category: str | None, before: list[dict[str, Any]], on: date, expected: str, named: str
) -> None:
    call = priced(read_message(fell_back(category, *before, named=named)), on)
    assert call.model == "claude-opus-4-8"
    assert sampling_calls(call) == [
        ("message", "claude-opus-4-8", 412, 264),
        ("declined", "claude-fable-5", 408, 0),
    ]
    assert call.usd == call.usd_low == call.usd_high == Decimal(expected)
    assert call.caveats == ()


def test_a_stream_cut_after_a_fallback_is_priced_at_the_serving_model() -> None:
    message = body(
        usage(412, 1),
        model="claude-fable-5",
        content=[fallback("claude-fable-5", "claude-opus-4-8", "cyber"), TEXT],
    )
    call = priced(read_message(message, truncated=True))
    assert sampling_calls(call) == [
        ("message", "claude-opus-4-8", 412, 1),
        ("declined", "claude-fable-5", 0, 0),
    ]
    assert call.caveats == ("truncated-stream",)
    # What the start states are tokens of the model that declined, and the other's cache differs.
    assert call.usd_low == 0


@pytest.mark.parametrize(
    ("category", "high", "caveats"),
    [
        ("cyber", Decimal("0.00866"), ()),
        ("bio", None, ("fallback-without-entry: claude-fable-5",)),
    ],
)
def test_a_declined_attempt_without_an_entry_is_open_only_where_it_is_billed(
    category: str, high: Decimal | None, caveats: tuple[str, ...]
) -> None:
    message = body(
        usage(412, 264),
        model="claude-opus-4-8",
        content=[fallback("claude-fable-5", "claude-opus-4-8", category), TEXT],
    )
    call = priced(read_message(message))
    assert (call.usd, call.usd_high, call.caveats) == (Decimal("0.00866"), high, caveats)


# Each pass of Fable 5 has a million tokens, at $10; the answer's by Opus 4.8 costs $5.
@pytest.mark.parametrize("named", ["claude-fable-5", None])
@pytest.mark.parametrize("passes", [1, 2, 3])
@pytest.mark.parametrize(
    ("before", "category", "is_billed"),
    [([TEXT], "cyber", True), ([], "bio", True), ([], "cyber", False)],
)
def test_an_attempt_that_was_declined_may_have_sampled_several_times(
    before: list[dict[str, Any]], category: str, is_billed: bool, passes: int, named: str | None
) -> None:
    iterations = [
        *[entry("message", 1_000_000, 0, model=named)] * passes,
        entry("fallback_message", 1_000_000, 0, model="claude-opus-4-8"),
    ]
    content = [*before, fallback("claude-fable-5", "claude-opus-4-8", category), TEXT]
    message = body(usage(1_000_000, 0, iterations=iterations), content=content)
    call = priced(read_message(message))
    assert call.usd == call.usd_low == call.usd_high == 5 + 10 * passes * is_billed
    assert call.caveats == ()


@pytest.mark.parametrize("named", ["claude-haiku-5-5", None])
def test_the_passes_of_the_model_that_served_add_up_to_the_top_level(named: str | None) -> None:
    iterations = [
        entry("message", 1_000, 3, model="claude-fable-5" if named else None),
        entry("message", 60_000, 50, model=named),
        entry("fallback_message", 80_000, 50, model="claude-haiku-5-5"),
    ]
    content = [fallback("claude-fable-5", "claude-haiku-5-5", "cyber"), TEXT]
    call = haiku(usage(140_000, 100, iterations=iterations), content=content)
    assert call.usd == call.usd_low == call.usd_high == Decimal("0.01405")
    assert [each.kind for each in call.sampling_calls] == ["message", "message", "declined"]


def test_a_block_may_name_the_model_that_declined_by_an_alias() -> None:
    iterations = [
        entry("message", 1_000_000, 0, model="claude-opus-4-5-20251101"),
        entry("message", 1_000_000, 0, model="claude-fable-5"),
        entry("fallback_message", 1_000_000, 0, model="claude-opus-4-8"),
    ]
    content = [
        fallback("claude-opus-4-5", "claude-fable-5", "bio"),
        fallback("claude-fable-5", "claude-opus-4-8", "cyber"),
        TEXT,
    ]
    message = body(usage(1_000_000, 0, iterations=iterations), content=content)
    call = priced(read_message(message, model="claude-opus-4-5"))
    assert (call.usd, call.usd_high, call.caveats) == (Decimal(10), Decimal(10), ())


def test_attempts_without_a_model_are_declined_in_the_order_of_the_blocks() -> None:
    iterations = [
        entry("message", 1_000_000, 0),
        entry("message", 1_000_000, 0),
        entry("fallback_message", 1_000_000, 0, model="claude-opus-4-8"),
    ]
    content = [
        fallback("claude-fable-5", "claude-opus-5", "bio"),
        fallback("claude-opus-5", "claude-opus-4-8", "cyber"),
        TEXT,
    ]
    call = priced(read_message(body(usage(1_000_000, 0, iterations=iterations), content=content)))
    declined = {each.model: each.usd for each in call.sampling_calls[1:]}
    assert declined == {"claude-fable-5": Decimal(10), "claude-opus-5": Decimal(0)}
    assert (call.usd, call.usd_high, call.caveats) == (Decimal(15), Decimal(15), ())


def test_a_block_belongs_to_the_attempt_that_it_names() -> None:
    iterations = [
        entry("message", 10, 0, model="claude-opus-5"),
        entry("message", 20, 0, model="claude-fable-5"),
        entry("fallback_message", 30, 0, model="claude-opus-4-8"),
    ]
    content = [fallback("claude-fable-5", "claude-opus-4-8", "cyber"), TEXT]
    answer = read_message(body(usage(30, 0, iterations=iterations), content=content))
    refusals = {each.model: each.refusal for each in answer.sampling_calls[1:]}
    assert refusals == {"claude-opus-5": "no fallback block", "claude-fable-5": "cyber"}


def test_of_passes_that_do_not_add_up_the_last_fallback_served() -> None:
    message = fell_back("bio", named="claude-opus-4-8")
    message["usage"]["input_tokens"] = 500
    assert sampling_calls(read_message(message)) == [
        ("message", "claude-opus-4-8", 500, 264),
        ("declined", "claude-fable-5", 408, 0),
    ]


def test_without_the_content_nothing_says_whether_a_declined_attempt_is_billed() -> None:
    message = fell_back("cyber", named="claude-opus-4-8") | {"content": []}
    for day in (ON, date(2026, 9, 23)):
        call = priced(read_message(message), day)
        assert (call.usd, call.usd_low) == (Decimal("0.00866"), Decimal("0.00866"))
        assert call.usd_high == Decimal("0.01274")
        assert call.caveats == ("unknown-refusal: no fallback block",)


# A million tokens of Fable 5.2, which declined, are $8, and of Opus 5, which served, $5, in fast
# mode twice as much; Sonnet 5.5 at $2 has no fast mode. `named` is what the message names.
@pytest.mark.parametrize(
    ("asked", "to", "serving", "said", "named", "low", "high"),
    [
        ("fast", {}, "opus-5", None, None, "13", "26"),
        ("fast", {"speed": "standard"}, "opus-5", "standard", "opus-5", "13", "21"),
        ("fast", {"speed": None}, "opus-5", "fast", "fable-5-2", "21", "21"),
        ("fast", {}, "opus-5", "fast", "fable-5-2", "21", "26"),
        ("fast", {}, "opus-5", "fast", "opus-5", "18", "26"),
        ("fast", {}, "sonnet-5-5", "fast", "fable-5-2", "18", "18"),
        ("fast", {}, "sonnet-5-5", "standard", "sonnet-5-5", "10", "18"),
        (None, {"speed": "fast"}, "opus-5", "fast", "opus-5", "18", "18"),
        (None, {"speed": "fast"}, "opus-5", "standard", "fable-5-2", "13", "18"),
        (None, {"speed": "fast"}, "sonnet-5-5", "standard", "fable-5-2", "10", None),
        (None, {}, "opus-5", "standard", "fable-5-2", "13", "13"),
    ],
)
def test_each_attempt_of_a_fallback_has_a_speed_of_its_own(
    asked: str | None,
    to: dict[str, Any],
    serving: str,
    said: str | None,
    named: str | None,
    low: str,
    high: str | None,
) -> None:
    first, last = "claude-fable-5-2", f"claude-{serving}"
    iterations = [
        entry("message", 1_000_000, 0, model=first),
        entry("fallback_message", 1_000_000, 0, model=last),
    ]
    message = body(
        usage(1_000_000, 0, iterations=iterations, speed=said),
        model=named and f"claude-{named}",
        content=[fallback(first, last, "bio"), TEXT],
    )
    request: dict[str, Any] = {"model": first, "fallbacks": [{"model": last, **to}]}
    request |= {"speed": asked} if asked else {}
    call = priced(read_message(message, request=request))
    assert (call.usd, call.usd_low) == (Decimal(low), Decimal(low))
    assert call.usd_high == (None if high is None else Decimal(high))
    assert {each.name for each in call.caveats} == (set() if low == high else {"unknown-speed"})
    assert reprice(call, shipped_card(), on=ON) == call


def test_a_fallback_has_the_speed_of_the_request_and_not_of_another_fallback() -> None:
    first, second, last = "claude-fable-5", "claude-opus-5", "claude-opus-4-8"
    iterations = [
        entry("message", 1_000_000, 0, model=first),
        entry("message", 1_000_000, 0, model=second),
        entry("fallback_message", 1_000_000, 0, model=last),
    ]
    content = [fallback(first, second, "bio"), fallback(second, last, "bio"), TEXT]
    raw = usage(1_000_000, 0, iterations=iterations, speed="fast")
    request = {"model": first, "fallbacks": [{"model": second}, {"model": last, "speed": "fast"}]}
    call = priced(read_message(body(raw, model=last, content=content), request=request))
    assert (call.usd, call.usd_high, call.caveats) == (Decimal(25), Decimal(25), ())


# As above, but Fable 5, which has no fast mode, declined, and Opus 4.8 served.
@pytest.mark.parametrize(
    ("said", "named", "expected", "high"),
    [
        ("fast", "claude-opus-4-8", "0.0214", "0.0214"),
        ("standard", "claude-opus-4-8", "0.01274", "0.01274"),
        ("standard", "claude-fable-5", "0.01274", "0.0214"),
        (None, "claude-fable-5", "0.01274", "0.01274"),
    ],
)
def test_without_the_request_the_speed_of_the_others_is_unknown(
    said: str | None, named: str, expected: str, high: str
) -> None:
    message = fell_back("bio", named=named)
    message["usage"]["speed"] = said
    call = priced(read_message(message))
    assert (call.usd, call.usd_high) == (Decimal(expected), Decimal(high))


def test_a_chain_of_fallbacks_pairs_each_attempt_with_its_own_refusal() -> None:
    iterations = [
        entry("message", 100, 0),
        entry("compaction", 50, 5),
        entry("fallback_message", 200, 0, model="claude-fable-5-1"),
        entry("fallback_message", 300, 30, model="claude-opus-4-8"),
    ]
    content = [
        fallback("claude-fable-5", "claude-fable-5-1", "cyber"),
        TEXT,
        fallback("claude-fable-5-1", "claude-opus-4-8", "cyber"),
        TEXT,
    ]
    message = body(usage(300, 30, iterations=iterations), model="claude-opus-4-8", content=content)
    call = priced(read_message(message, model="claude-fable-5"))
    assert [
        (sampling.kind, sampling.model, sampling.refusal) for sampling in call.sampling_calls
    ] == [
        ("message", "claude-opus-4-8", None),
        ("compaction", "claude-fable-5", None),
        ("declined", "claude-fable-5", "cyber"),
        ("declined", "claude-fable-5-1", None),
    ]
    assert [sampling.usd for sampling in call.sampling_calls] == [
        Decimal("0.00225"),
        Decimal("0.00075"),
        Decimal(0),
        Decimal("0.002"),
    ]


def test_the_serving_model_may_sample_several_times() -> None:
    iterations = [
        entry("message", 100, 0, model="claude-fable-5"),
        entry("fallback_message", 300, 30, model="claude-opus-4-8"),
        entry("fallback_message", 400, 40, model="claude-opus-4-8"),
        entry("message", 500, 50),
    ]
    message = body(usage(1_200, 120, iterations=iterations), content=[])
    assert sampling_calls(read_message(message)) == [
        ("message", "claude-opus-4-8", 300, 30),
        ("message", "claude-opus-4-8", 400, 40),
        ("message", "claude-opus-4-8", 500, 50),
        ("declined", "claude-fable-5", 100, 0),
    ]


def test_a_chain_that_every_model_refused_is_a_refusal_of_the_last() -> None:
    iterations = [
        entry("message", 100, 0, model="claude-fable-5"),
        entry("fallback_message", 300, 3, model="claude-opus-4-8"),
    ]
    message = body(
        usage(300, 3, iterations=iterations),
        content=[TEXT, fallback("claude-fable-5", "claude-opus-4-8", "bio")],
        stop_reason="refusal",
        stop_details={"category": "cyber"},
    )
    call = priced(read_message(message))
    assert [
        (sampling.kind, sampling.refusal, sampling.usd) for sampling in call.sampling_calls
    ] == [
        ("message", "cyber", Decimal(0)),
        ("declined", None, Decimal("0.001")),
    ]


# 2,000 in and 100 out of Fable 5, the model of the request, are $0.025; of Opus 4.8 $0.0125.
@pytest.mark.parametrize("named_by", ["request", "block", "entry"])
def test_a_compaction_before_a_fallback_is_the_requests_whatever_names_its_model(
    named_by: str,
) -> None:
    first, blocks = "claude-fable-5", [fallback("claude-fable-5", "claude-opus-4-8", "cyber")]
    iterations = [
        entry("compaction", 2_000, 100),
        entry("message", 100, 0, model=first if named_by == "entry" else None),
        entry("fallback_message", 300, 3, model="claude-opus-4-8"),
    ]
    content = [*(blocks if named_by == "block" else []), TEXT]
    message = body(usage(300, 3, iterations=iterations), model="claude-opus-4-8", content=content)
    call = priced(read_message(message, model=first if named_by == "request" else None))
    compaction = next(each for each in call.sampling_calls if each.kind == "compaction")
    assert (compaction.model, compaction.usd) == (first, Decimal("0.025"))


def test_a_declined_attempt_without_any_name_is_the_requests() -> None:
    iterations = [entry("message", 100, 0), entry("fallback_message", 300, 3)]
    message = body(usage(300, 3, iterations=iterations), model="claude-opus-4-8", content=[])
    call = read_message(message, request={"model": "claude-fable-5"})
    assert sampling_calls(call) == [
        ("message", "claude-opus-4-8", 300, 3),
        ("declined", "claude-fable-5", 100, 0),
    ]


def test_a_block_may_name_the_model_that_its_entry_does_not() -> None:
    iterations = [entry("message", 100, 0), entry("fallback_message", 300, 3)]
    content = [{"type": "fallback", "from": {"model": "claude-fable-5"}}, TEXT]
    message = body(usage(300, 3, iterations=iterations), model="claude-opus-4-8", content=content)
    assert sampling_calls(read_message(message))[1] == ("declined", "claude-fable-5", 100, 0)


# Two places that disagree


def test_what_another_place_states_higher_leaves_no_high_bound() -> None:
    raw = usage(0, 0, cache_creation_input_tokens=10)
    disputed = frozenset({"cache_creation_input_tokens"})
    call = priced(read_message(body(raw), disputed=disputed))
    assert call.usd == call.usd_low == usd(body(raw))
    assert call.usd_high is None
    assert call.caveats == ("usage-disagrees: cache_creation_input_tokens",)
    assert reprice(call, shipped_card(), on=ON) == call


@pytest.mark.parametrize(
    ("passes", "names"),
    [
        ([entry("message", 180_000, 3_500), entry("message", 10, 5)], "io"),
        ([usage(180_000, 3_500), entry("message", 10, 5)], "io"),
        ([entry("message", 10, 2), entry("message", 10, 1)], "i"),
    ],
)
def test_passes_that_add_up_to_more_than_the_top_level_leave_no_high_bound(
    passes: list[dict[str, Any]], names: str
) -> None:
    call = priced(read_message(body(usage(10, 5, iterations=passes))))
    assert call.usd == call.usd_low == usd(body(usage(10, 5)))
    assert call.usd_high is None
    assert call.caveats == tuple(
        f"usage-disagrees: {key}" for key in ("input_tokens", "output_tokens") if key[0] in names
    )


def test_passes_that_add_up_to_less_leave_the_top_level_exact() -> None:
    call = priced(read_message(body(usage(10, 5, iterations=[entry("message", 4, 5)]))))
    assert (call.usd_high, call.caveats) == (call.usd, ())


def test_writes_without_a_split_live_as_long_as_the_request_asks() -> None:
    raw = usage(0, 0, cache_creation_input_tokens=1_000_000)
    long = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    assert usd(body(raw), request=long) == Decimal(10)
    assert usd(body(raw)) == Decimal("6.25")
    passes = [entry("message", 0, 0, cache_creation_input_tokens=500_000)] * 2
    assert usd(body(raw | {"iterations": passes}), request=long) == Decimal(10)
    split = {"cache_creation": {"ephemeral_5m_input_tokens": 1_000_000}}
    assert usd(body(raw | split), request=long) == Decimal("6.25")


# Streams that were cut


@pytest.mark.parametrize(
    ("request_", "high"),
    [
        (None, None),
        ({"max_tokens": 200}, Decimal("0.01")),
        ({"max_tokens": "200"}, None),
        ({"max_tokens": 200, "tools": [{"name": "x"}]}, Decimal("0.01")),
        ({"max_tokens": 200, "tools": [{"type": "custom", "name": "x"}]}, Decimal("0.01")),
        ({"max_tokens": 200, "tools": [{"type": "bash_20250124"}]}, Decimal("0.01")),
        ({"max_tokens": 200, "tools": [{"type": "web_search_20260209"}]}, None),
        (
            {"max_tokens": 200, "context_management": {"edits": [{"type": "clear_x"}]}},
            Decimal("0.01"),
        ),
        ({"max_tokens": 200, "context_management": {"edits": [{"type": "compact_x"}]}}, None),
        ({"max_tokens": 200, "mcp_servers": [{"url": "x"}]}, None),
        ({"max_tokens": 200, "fallbacks": [{"model": "claude-opus-4-8"}]}, None),
    ],
)
def test_a_cut_stream_is_bounded_by_its_requests_limit(
    request_: dict[str, Any] | None, high: Decimal | None
) -> None:
    call = priced(read_message(body(usage(1_000, 1)), truncated=True, request=request_))
    assert call.caveats == ("truncated-stream",)
    assert call.usd == call.usd_low == Decimal("0.005025")
    assert call.usd_high == high


SILENT: list[list[dict[str, Any]]] = [[], [{"type": "text", "text": ""}]]


@pytest.mark.parametrize("content", SILENT, ids=["no-block", "empty-block"])
@pytest.mark.parametrize("category", ["cyber", "bio"])
def test_a_stream_cut_before_any_output_may_have_ended_in_a_free_refusal(
    category: str, content: list[dict[str, Any]]
) -> None:
    request = {"max_tokens": 200}
    so_far = body(usage(1_000, 1), content=content, stop_reason=None)
    call = priced(read_message(so_far, truncated=True, request=request))
    assert call.caveats == ("truncated-stream",)
    assert (call.usd, call.usd_high) == (Decimal("0.005025"), Decimal("0.01"))
    assert call.usd_low == 0
    ends = {"stop_reason": "refusal", "stop_details": {"category": category}}
    refused = usd(so_far | ends, request=request)
    assert refused == (0 if category == "cyber" else Decimal("0.005025"))
    for limit, state in (("1000", "within"), ("999", "unverified")):
        verdict = judge_calls(make_budget(limit, kind="input_tokens"), [call])
        assert (verdict.state, bool(verdict.reasons)) == (state, True)


# What a response hides


@pytest.mark.parametrize(
    ("content", "tools", "caveats"),
    [
        (SEARCHED, [], ()),
        ([{"type": "server_tool_use", "name": "code_execution"}], [], ("code-execution-hours",)),
        (
            [{"type": "bash_code_execution_tool_result", "content": {}}],
            ["code_execution_20260521"],
            ("code-execution-hours",),
        ),
        ([TEXT], ["code_execution_20260521"], ()),
        (
            [{"type": "server_tool_use", "name": "bash_code_execution"}],
            ["code_execution_20260521", "web_search_20260209"],
            (),
        ),
        ([{"type": "server_tool_use", "name": "code_execution"}], ["web_fetch_20270101"], ()),
        (
            [{"type": "server_tool_use", "name": "code_execution"}],
            ["web_search_20250305"],
            ("code-execution-hours",),
        ),
        (
            [{"type": "server_tool_use", "name": "code_execution"}],
            ["my_web_search_20260209", None],
            ("code-execution-hours",),
        ),
    ],
)
def test_container_time_is_a_caveat_unless_a_newer_web_tool_makes_it_free(
    content: list[dict[str, Any]], tools: list[str | None], caveats: tuple[str, ...]
) -> None:
    request = {"tools": [{"type": tool} for tool in tools] + ["odd"]}
    assert priced(read_message(body(content=content), request=request)).caveats == caveats


def test_container_time_of_any_message_in_a_body_is_a_caveat_of_the_call() -> None:
    ran = body(content=[{"type": "server_tool_use", "name": "code_execution"}])
    for bodies in ([ran, body()], [body(), ran]):
        messages = [StreamedMessage(body=each) for each in bodies]
        answer = read_answer(messages, endpoint=Endpoint(kind="messages"), payload=None)
        assert priced(answer).caveats == ("code-execution-hours",)


def test_container_time_without_a_request_is_a_caveat() -> None:
    content = [{"type": "server_tool_use", "name": "code_execution"}]
    call = priced(read_message(body(content=content)))
    assert call.caveats == ("code-execution-hours",)
    assert call.usd_high is None


@pytest.mark.parametrize(
    ("tools", "caveats"),
    [([], ("code-execution-hours",)), ([{"type": "web_search_20260209"}], ())],
)
def test_code_that_only_the_usage_counts_has_run_in_a_container(
    tools: list[dict[str, Any]], caveats: tuple[str, ...]
) -> None:
    ran = {"server_tool_use": {"code_execution_requests": 4}}
    for raw in (usage(1_000, 100, **ran), usage(9, 9, iterations=[entry("message", 9, 9, **ran)])):
        assert priced(read_message(body(raw), request={"tools": tools})).caveats == caveats
    none = {"server_tool_use": {"code_execution_requests": 0}}
    assert priced(read_message(body(usage(1_000, 100, **none)))).caveats == ()


@pytest.mark.parametrize(
    ("blocks", "caveats"),
    [([{"type": "container_upload", "file_id": "x"}], ("code-execution-hours",)), ([TEXT], ())],
)
def test_a_container_is_charged_when_files_are_attached(
    blocks: list[dict[str, Any]], caveats: tuple[str, ...]
) -> None:
    request = {
        "tools": [{"type": "code_execution_20260521"}],
        "messages": [{"content": "text"}, "odd", {"content": [*blocks, "odd"]}],
    }
    assert priced(read_message(body(), request=request)).caveats == caveats


# A million in of Opus 5 is $5, and $10 in fast mode; Sonnet 5 has no fast mode, at $2.
@pytest.mark.parametrize(
    ("model", "asked", "said", "expected", "high", "caveats"),
    [
        ("claude-opus-5", "fast", None, "5", "10", ("unknown-speed: claude-opus-5",)),
        ("claude-opus-5", "fast", "standard", "5", "5", ()),
        ("claude-opus-5", "fast", "fast", "10", "10", ()),
        ("claude-opus-5", "standard", None, "5", "5", ()),
        ("claude-sonnet-5", "fast", None, "2", None, ("unknown-speed: claude-sonnet-5",)),
    ],
)
def test_the_fast_rates_bound_a_speed_that_was_asked_for_and_not_confirmed(
    model: str,
    asked: str,
    said: str | None,
    expected: str,
    high: str | None,
    caveats: tuple[str, ...],
) -> None:
    message = body(usage(1_000_000, 0, speed=said), model=model)
    call = priced(read_message(message, request={"speed": asked}))
    assert (call.usd, call.usd_low) == (Decimal(expected), Decimal(expected))
    assert (call.usd_high, call.caveats) == (None if high is None else Decimal(high), caveats)
    assert reprice(call, shipped_card(), on=ON) == call


def test_a_deployment_that_is_named_as_fast_may_have_been_fast() -> None:
    request = {"model": "claude-opus-5-fast"}  # as on Foundry
    call = priced(read_message(body(usage(1_000_000, 0)), request=request))
    assert (call.usd, call.usd_high) == (Decimal(5), Decimal(10))
    assert [*map(str, call.caveats)] == ["unknown-speed: claude-opus-5"]
    said = body(usage(1_000_000, 0, speed="fast"))
    call = priced(read_message(said, request=request))
    assert (call.usd, call.usd_high, call.caveats) == (Decimal(10), Decimal(10), ())


def test_the_advisor_of_a_fast_answer_may_be_fast() -> None:
    advice = entry("advisor_message", 1_000_000, 0, model="claude-opus-5")
    for said, request, speed in (
        ("fast", None, "inherited-fast"),
        (None, {"speed": "fast"}, "inherited-fast"),
        ("standard", {"speed": "fast"}, "inherited-fast"),
        ("standard", None, None),
    ):
        raw = usage(1, 0, speed=said, iterations=[entry("message", 1, 0), advice])
        call = read_message(body(raw, content=ADVISED), request=request)
        assert call.sampling_calls[1].speed == speed


def test_new_quantities_in_the_usage_are_named() -> None:
    call = read_message(body(usage(1, 1, cache_creation={"ephemeral_24h_input_tokens": 5})))
    assert call.caveats == ("unknown-usage: cache_creation.ephemeral_24h_input_tokens",)
    iterations = [entry("message", 1, 1), {**entry("message", 1, 1), "video_tokens": 5}]
    call = read_message(body(usage(2, 2, iterations=iterations)))
    assert call.caveats == ("unknown-usage: iterations[1].video_tokens",)


# How long cache entries live


def mark(ttl: str | None = None) -> dict[str, Any]:
    return {"cache_control": {"type": "ephemeral"} | ({"ttl": ttl} if ttl else {})}


LONG = {"type": "ephemeral", "ttl": "1h"}


@pytest.mark.parametrize(
    ("request_", "lifetime"),
    [
        (None, None),
        ({}, None),
        (mark(), "5m"),
        (mark("1h"), "1h"),
        ({"system": [mark("1h")], "messages": [{"content": [mark("1h")]}]}, "1h"),
        ({"tools": (mark("1h"),), "messages": [{"content": [mark("5m")]}]}, None),
        ({"cache_control": None}, None),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "5m"),
        (mark() | {"tools": [{"type": "advisor_20260301", "caching": LONG}]}, None),
        ({"tools": [{"input_schema": {"cache_control": {"type": "string"}}}]}, None),
    ],
)
def test_the_request_says_how_long_the_entries_live_that_are_read(
    request_: dict[str, Any] | None, lifetime: str | None
) -> None:
    call = read_message(body(usage(1, 1, cache_read_input_tokens=9)), request=request_)
    assert call.sampling_calls[0].read_lifetime == lifetime
    assert read_message(body(), request=request_).sampling_calls[0].read_lifetime is None


def test_a_compaction_reads_entries_that_live_as_long_as_those_of_its_request() -> None:
    read = entry("compaction", 100, 10, cache_read_input_tokens=9_000)
    call = read_message(body(usage(0, 0, iterations=[read])), request=mark("1h"))
    assert [each.read_lifetime for each in call.sampling_calls] == ["1h"]


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ({"type": "error", "error": {"type": "overloaded_error"}}, "usage"),
        (body() | {"usage": "none"}, "usage"),
    ],
)
def test_what_is_no_message_is_named(message: dict[str, Any], path: str) -> None:
    with pytest.raises(UsageDataError) as caught:
        read_message(message)
    assert caught.value.path == path

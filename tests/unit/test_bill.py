"""Each rule of the bill with worked figures; sources are named beside them."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.money import plain_usd
from pytest_llmcost.prices.bill import CacheState, Cost, price_request
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import SamplingCall, Terms, Usage

ON = date(2026, 11, 22)
MILLION = 1_000_000
MILLION_READ = Usage(cache_read_tokens=MILLION)
MILLION_EACH_WAY = Usage(input_tokens=MILLION, output_tokens=MILLION)


def price(
    model: str = "claude-opus-5-5",
    usage: Usage = MILLION_EACH_WAY,
    *,
    on: date = ON,
    cache_state: CacheState = "as-billed",
    sampling: dict[str, Any] | None = None,
    **context: Any,
) -> Cost:
    sampling_calls = [SamplingCall(model=model, usage=usage, **(sampling or {}))]
    return price_request(
        shipped_card(), sampling_calls, Terms(**context), on=on, cache_state=cache_state
    )


def bounds(cost: Cost) -> tuple[str, str, str | None]:
    high = None if cost.high is None else plain_usd(cost.high)
    return plain_usd(cost.low), plain_usd(cost.usd), high


# Source: the worked figures of Anthropic's price page and of the tools that get them wrong,
# genai-prices 0.2.3 and litellm 1.109.1, each run and checked in November 2026.
@pytest.mark.parametrize(
    ("usd", "cost"),
    [
        ("24", price()),
        ("12", price(service_tier="batch")),
        ("48", price(speed="fast")),
        ("26.40", price(inference_geo="us")),
        ("52.80", price(speed="fast", inference_geo="us")),
        ("13.20", price(service_tier="batch", inference_geo="us")),
        ("4", price(usage=Usage(cache_write_1h_tokens=MILLION), service_tier="batch")),
        ("0.20", price("claude-sonnet-5-5", MILLION_READ, on=date(2026, 10, 6))),
        ("0.10", price("claude-sonnet-5-5", MILLION_READ, on=date(2026, 10, 7))),
        (
            "1.5225",
            price(
                "claude-sonnet-4-0",
                Usage(input_tokens=250_000, output_tokens=1_000),
                on=date(2026, 4, 29),
            ),
        ),
        (
            "1.5225",
            price(
                "claude-sonnet-4-5",
                Usage(input_tokens=250_000, output_tokens=1_000),
                on=date(2026, 4, 29),
            ),
        ),
        (
            "0.765",
            price(
                "claude-sonnet-4-5",
                Usage(input_tokens=250_000, output_tokens=1_000),
                on=date(2026, 4, 30),
            ),
        ),
        ("48", price("claude-fable-5-2")),
        ("48", price("claude-mythos-5-2")),
        ("90", price("claude-opus-4-1")),
        ("90", price("claude-opus-4-20250514")),
        ("18", price("claude-sonnet-4-20250514")),
        ("18", price("claude-3-7-sonnet-20250219")),
        ("4.80", price("claude-3-5-haiku-20241022")),
        ("1.50", price("claude-3-haiku-20240307")),
        ("150", price("claude-mythos-preview")),
        ("10", price("claude-haiku-4-5", Usage(web_search_requests=1_000))),
        (
            "0.0000005",
            price("claude-haiku-5-5", Usage(cache_read_tokens=100), service_tier="batch"),
        ),
    ],
)  # fmt: skip
def test_a_published_or_recomputed_figure_is_met_exactly(usd: str, cost: Cost) -> None:
    assert cost.usd == cost.low == cost.high == Decimal(usd)


# Source: https://platform.claude.com/docs/en/about-claude/pricing: batch, geography and endpoint
# scale every token category, and the search fee is added after them.
@pytest.mark.parametrize(
    ("context", "factor"),
    [
        ({}, "1"),
        ({"service_tier": "standard", "speed": "standard", "inference_geo": "global"}, "1"),
        ({"inference_geo": "not_available"}, "1"),
        ({"inference_geo": ""}, "1"),
        ({"service_tier": "batch"}, "0.5"),
        ({"inference_geo": "us"}, "1.1"),
        ({"platform": "foundry", "inference_geo": "us"}, "1.1"),
        ({"platform": "foundry"}, "1"),
        ({"platform": "bedrock"}, "1"),
        ({"platform": "vertex"}, "1"),
        ({"platform": "bedrock-regional"}, "1.1"),
        ({"platform": "bedrock-gov"}, "1.2"),
        ({"platform": "bedrock-gov", "service_tier": "batch"}, "0.6"),
        ({"platform": "vertex-regional"}, "1.1"),
        ({"platform": "vertex-regional", "inference_geo": "us"}, "1.21"),
        ({"platform": "vertex-regional", "inference_geo": "us", "service_tier": "batch"}, "0.605"),
    ],
)
def test_factors_stack_on_every_token_category_and_leave_fees_alone(
    context: dict[str, Any], factor: str
) -> None:
    usage = Usage(
        input_tokens=1_000,
        cache_write_5m_tokens=2_000,
        cache_write_1h_tokens=3_000,
        cache_read_tokens=4_000,
        output_tokens=5_000,
        web_search_requests=6,
    )
    tokens_usd = Decimal(1_000 * 4 + 2_000 * 5 + 3_000 * 8 + 5_000 * 20) + 4_000 * Decimal("0.20")
    cost = price(usage=usage, **context)
    assert cost.usd == tokens_usd / MILLION * Decimal(factor) + Decimal("0.06")
    assert cost.caveats == ()


def test_the_charges_of_a_bill_add_up_to_it() -> None:
    usage = Usage(input_tokens=3, cache_read_tokens=7, output_tokens=4, web_search_requests=2)
    cost = price(usage=usage, service_tier="batch", inference_geo="us")
    lines = [(each.category, each.quantity, each.usd_per_million) for each in cost.charges]
    assert lines == [
        ("input_tokens", 3, Decimal("2.2")),
        ("cache_read_tokens", 7, Decimal("0.11")),
        ("output_tokens", 4, Decimal("11")),
        ("web_search_requests", 2, Decimal(10_000)),
    ]
    assert sum(each.usd for each in cost.charges) == cost.usd
    assert {(each.kind, each.model) for each in cost.charges} == {("message", "claude-opus-5-5")}


def test_a_bill_of_several_sampling_calls_prices_each_by_its_own_model_and_band() -> None:
    sampling_calls = [
        SamplingCall(
            model="claude-haiku-5-5", usage=Usage(input_tokens=100_000, output_tokens=100)
        ),
        SamplingCall(
            model="claude-haiku-5-5", usage=Usage(input_tokens=100_001, output_tokens=100)
        ),
        SamplingCall(kind="advisor", model="claude-opus-5", usage=Usage(input_tokens=1_000)),
    ]
    cost = price_request(shipped_card(), sampling_calls, Terms(), on=ON)
    assert [sampling.usd for sampling in cost.sampling_calls] == [
        Decimal("0.01005"),
        Decimal("0.0502505"),
        Decimal("0.005"),
    ]
    assert cost.usd == cost.low == cost.high == Decimal("0.0653005")


def test_caches_count_for_the_length_of_a_prompt_and_output_does_not() -> None:
    cached = Usage(cache_read_tokens=100_000, input_tokens=1)
    assert price("claude-haiku-5-5", cached).usd == Decimal("0.0050005")
    assert price("claude-haiku-5-5", Usage(output_tokens=100_001)).usd == Decimal("0.0500005")


# Source: https://platform.claude.com/docs/en/build-with-claude/fast-mode: the price follows
# `usage.speed`; Opus 4.8's ends on 2026-11-30, Opus 4.7's ended on 2026-07-24.
@pytest.mark.parametrize(
    ("model", "on", "usd", "caveats"),
    [
        ("claude-opus-4-8", date(2026, 11, 29), "60", ()),
        (
            "claude-opus-4-8",
            date(2026, 11, 30),
            "60",
            ("ended-fast-mode: claude-opus-4-8 on 2026-11-30",),
        ),
        ("claude-opus-4-7", date(2026, 7, 23), "180", ()),
        (
            "claude-opus-4-7",
            date(2030, 1, 1),
            "180",
            ("ended-fast-mode: claude-opus-4-7 on 2026-07-24",),
        ),
        ("claude-opus-4-6", date(2026, 3, 12), "285", ()),  # above 200,000 in its beta
        ("claude-opus-4-6", date(2026, 3, 13), "180", ()),
    ],
)
def test_a_fast_mode_that_ended_keeps_its_last_rates(
    model: str, on: date, usd: str, caveats: tuple[str, ...]
) -> None:
    cost = price(model, on=on, speed="fast")
    assert (cost.usd, cost.caveats) == (Decimal(usd), caveats)
    assert cost.low == cost.usd == cost.high


@pytest.mark.parametrize(
    ("model", "on", "speed", "reason"),
    [
        ("claude-sonnet-5", ON, "fast", "on 2026-11-22: the rate card has no rates at that speed"),
        ("claude-opus-5", ON, "turbo", "at speed 'turbo' on 2026-11-22: the rate card has no"),
        ("claude-opus-4-7", date(2026, 5, 11), "fast", "its first rates are from 2026-05-12"),
    ],
)  # fmt: skip
def test_a_speed_that_a_model_never_had_has_no_price(
    model: str, on: date, speed: str, reason: str
) -> None:
    with pytest.raises(UnknownModelError, match=f"{model}.*{reason}"):
        price(model, on=on, speed=speed)


def test_a_retired_model_keeps_its_last_rates() -> None:
    before = price("claude-opus-4-1", on=date(2026, 8, 4))
    after = price("claude-opus-4-1", on=date(2026, 8, 5))
    assert before.usd == after.usd == after.low == after.high
    assert before.caveats == ()
    assert after.caveats == ("retired-model: claude-opus-4-1-20250805 on 2026-08-05",)


# Source: https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback
BILLED = Decimal(24)
FREE = Decimal(0)


@pytest.mark.parametrize(
    ("category", "on", "usd"),
    [
        ("cyber", date(2026, 6, 1), BILLED),
        ("unspecified", date(2026, 6, 1), BILLED),
        ("bio", date(2026, 6, 2), FREE),
        ("weather", date(2026, 6, 2), FREE),
        ("bio", date(2026, 9, 23), FREE),
        ("bio", date(2026, 9, 24), BILLED),
        ("frontier_llm", date(2026, 9, 24), BILLED),
        ("reasoning_extraction", date(2026, 9, 24), BILLED),
        ("cyber", date(2026, 9, 24), FREE),
        ("general_harms", date(2026, 9, 24), FREE),
        ("unspecified", date(2026, 9, 24), FREE),
    ],
)
def test_a_refusal_before_any_output_is_billed_by_category_and_day(
    category: str, on: date, usd: Decimal
) -> None:
    cost = price("claude-opus-4-5", on=on, sampling={"refusal": category})
    expected = usd / BILLED * 30
    assert cost.usd == cost.low == cost.high == expected
    assert bool(cost.charges) == bool(expected)


# $0 is certain, wherever it ran and at whatever speed.
@pytest.mark.parametrize(
    "context",
    [
        {"inference_geo": "mars"},
        {"service_tier": "flex"},
        {"platform": "vertex-unknown"},
        {"speed": "asked-fast"},
    ],
)
def test_a_refusal_that_is_free_is_exact(context: dict[str, Any]) -> None:
    for model in ("claude-haiku-5-5", "claude-3-haiku-20240307", "claude-opus-5-5"):
        cost = price(model, sampling={"refusal": "cyber", "sums_calls": True}, **context)
        assert (*bounds(cost), cost.caveats) == ("0", "0", "0", ())


def test_a_refusal_of_an_unknown_category_may_be_billed() -> None:
    cost = price(sampling={"refusal": "weather"})
    assert bounds(cost) == ("0", "0", "24")
    assert cost.caveats == ("unknown-refusal: weather",)


# Bounds


@pytest.mark.parametrize(
    ("cost", "low", "high", "caveat"),
    [
        (price(inference_geo="mars"), "24", "26.4", "unknown-geography: mars"),
        (price("claude-opus-4-5", inference_geo="us"), "30", "33", "unknown-geography: us"),
        (price(platform="vertex-unknown"), "24", "26.4", "unknown-endpoint: vertex"),
        (price(platform="bedrock-unknown"), "24", "26.4", "unknown-endpoint: bedrock"),
        (
            price(platform="bedrock-unknown", inference_geo="us", service_tier="batch"),
            "13.2",
            "14.52",
            "unknown-endpoint: bedrock",
        ),
        (price(service_tier="priority"), "24", "24", "priority-tier"),
        (price(service_tier="flex"), "0", None, "unknown-tier: flex"),
        # Bedrock's own, at a premium
        (
            price(platform="bedrock", service_tier="priority"),
            "0",
            None,
            "unknown-tier: priority",
        ),
        (
            price("claude-haiku-5-5", sampling={"sums_calls": True}),
            "0.6",
            "3",
            "band-on-total: claude-haiku-5-5 above 100,000 prompt tokens",
        ),
    ],
)
def test_what_a_response_leaves_open_bounds_the_figure(
    cost: Cost, low: str, high: str | None, caveat: str
) -> None:
    assert cost.low == Decimal(low)
    assert cost.high == (None if high is None else Decimal(high))
    assert cost.low <= cost.usd
    assert cost.high is None or cost.usd <= cost.high
    assert cost.caveats == (caveat,)


def test_an_unknown_endpoint_leaves_the_price_of_an_old_model_exact() -> None:
    cost = price("claude-opus-4-1", on=date(2026, 8, 4), platform="vertex-unknown")
    assert cost.low == cost.usd == cost.high
    assert cost.caveats == ()


@pytest.mark.parametrize("tokens", [100_000, 99_999])
def test_a_sum_of_calls_below_the_threshold_has_only_short_ones(tokens: int) -> None:
    cost = price("claude-haiku-5-5", Usage(input_tokens=tokens), sampling={"sums_calls": True})
    assert cost.low == cost.usd == cost.high
    assert cost.caveats == ()


def test_a_cut_stream_costs_at_most_what_its_limit_allows() -> None:
    usage = Usage(input_tokens=1_000, output_tokens=1)
    cost = price(usage=usage, sampling={"most_output_tokens": 500})
    assert cost.low == cost.usd == Decimal("0.00402")
    assert cost.high == Decimal("0.014")
    assert price(usage=usage, sampling={"most_output_tokens": 0}).high == cost.usd


def test_a_usage_that_is_not_certain_costs_between_what_it_may_be() -> None:
    usage = Usage(input_tokens=1_000)
    one = {"usage_low": Usage(input_tokens=500), "most_output_tokens": 100}
    assert bounds(price(usage=usage, sampling=one)) == ("0.002", "0.004", "0.006")


def test_a_model_that_inherits_a_speed_counts_as_standard_and_may_be_fast() -> None:
    cost = price("claude-opus-5", sampling={"speed": "inherited-fast"}, speed="fast")
    assert bounds(cost) == ("30", "30", "60")
    assert cost.caveats == ("unknown-speed: claude-opus-5",)


@pytest.mark.parametrize(
    ("model", "on", "usd"),
    [("claude-sonnet-5", date(2026, 11, 22), "12"), ("claude-opus-4-7", date(2026, 5, 11), "30")],
)
def test_a_model_that_inherits_a_speed_that_it_never_had_is_exact(
    model: str, on: date, usd: str
) -> None:
    cost = price(model, on=on, sampling={"speed": "inherited-fast"}, speed="fast")
    assert (*bounds(cost), cost.caveats) == (usd, usd, usd, ())


@pytest.mark.parametrize(
    ("own", "usd"), [(None, "60"), ("fast", "60"), ("standard", "30"), ("asked-fast", "30")]
)
def test_a_pass_has_the_speed_of_the_answer_or_its_own(own: str | None, usd: str) -> None:
    cost = price("claude-opus-5", sampling={"kind": "declined", "speed": own}, speed="fast")
    assert cost.usd == Decimal(usd)


# On demand it is all that was billed, and it takes the request's own speed.
def test_a_fast_compaction_of_a_model_without_a_fast_mode_has_no_price() -> None:
    with pytest.raises(UnknownModelError, match="the rate card has no rates at that speed"):
        price("claude-sonnet-5", sampling={"kind": "compaction"}, speed="fast")


def test_a_declined_attempt_that_no_entry_tells_of_is_open_where_it_is_billed() -> None:
    open_ended = price(usage=Usage(), sampling={"kind": "declined", "refusal": "bio"})
    assert bounds(open_ended) == ("0", "0", None)
    assert open_ended.caveats == ("fallback-without-entry: claude-opus-5-5",)
    free = price(usage=Usage(), sampling={"kind": "declined", "refusal": "cyber"})
    assert (*bounds(free), free.caveats) == ("0", "0", "0", ())


def test_one_open_sampling_call_opens_the_whole_bill() -> None:
    sampling_calls = [
        SamplingCall(model="claude-opus-5-5", usage=MILLION_EACH_WAY),
        SamplingCall(kind="declined", model="claude-fable-5", usage=Usage()),
    ]
    cost = price_request(shipped_card(), sampling_calls, Terms(), on=ON)
    assert bounds(cost) == ("24", "24", None)


# Cache basis

WRITES = Usage(input_tokens=10, cache_write_5m_tokens=1_000, output_tokens=5)
LONG_WRITES = Usage(input_tokens=10, cache_write_1h_tokens=1_000, output_tokens=5)
READS = Usage(input_tokens=10, cache_read_tokens=1_000, output_tokens=5)


@pytest.mark.parametrize(
    ("usage", "cache_state", "same_as"),
    [
        (READS, "as-billed", READS),
        (READS, "cold", WRITES),
        (READS, "warm", READS),
        (WRITES, "cold", WRITES),
        (WRITES, "warm", READS),
        (LONG_WRITES, "cold", LONG_WRITES),
        (LONG_WRITES, "warm", READS),
        (
            Usage(cache_write_1h_tokens=10, cache_read_tokens=90),
            "cold",
            Usage(cache_write_1h_tokens=100),
        ),
        (
            Usage(cache_write_1h_tokens=10, cache_write_5m_tokens=1, cache_read_tokens=90),
            "cold",
            Usage(cache_write_1h_tokens=100, cache_write_5m_tokens=1),
        ),
    ],
)
def test_a_cold_state_writes_what_was_read_and_a_warm_one_reads_what_was_written(
    usage: Usage, cache_state: CacheState, same_as: Usage
) -> None:
    assert price(usage=usage, cache_state=cache_state).usd == price(usage=same_as).usd


@pytest.mark.parametrize(
    ("lifetime", "low", "high", "caveats"),
    [
        ("1h", LONG_WRITES, LONG_WRITES, ()),
        ("5m", WRITES, WRITES, ()),
        (None, WRITES, LONG_WRITES, ("unknown-lifetime",)),
    ],
)
def test_the_request_tells_how_long_the_entries_live_that_are_read(
    lifetime: str | None, low: Usage, high: Usage, caveats: tuple[str, ...]
) -> None:
    sampling = {"read_lifetime": lifetime}
    cold = price(usage=READS, cache_state="cold", sampling=sampling)
    assert (cold.low, cold.high) == (price(usage=low).usd, price(usage=high).usd)
    assert (cold.usd, cold.caveats) == (cold.low, caveats)
    for state in ("as-billed", "warm"):
        assert price(usage=READS, cache_state=state, sampling=sampling).caveats == ()


def test_what_a_warm_cache_does_not_hold_may_live_for_an_hour() -> None:
    warm = price(usage=READS, cache_state="warm", sampling={"most_read_tokens": 400})
    short, long = (
        price(usage=Usage(input_tokens=10, cache_read_tokens=400, output_tokens=5) + written)
        for written in (Usage(cache_write_5m_tokens=600), Usage(cache_write_1h_tokens=600))
    )
    assert (warm.low, warm.usd, warm.high) == (short.usd, short.usd, long.usd)


def test_the_band_of_a_prompt_is_the_same_cold_and_warm() -> None:
    usage = Usage(cache_read_tokens=100_000, cache_write_5m_tokens=1)
    cold = price("claude-haiku-5-5", usage, cache_state="cold")
    assert cold.usd == Decimal("0.625") * 100_001 / MILLION

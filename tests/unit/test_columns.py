"""What a call costs at most, cold and warm."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmcost.call import Call, PricedSamplingCall
from pytest_llmcost.call import reprice as reprice_call
from pytest_llmcost.compare.repriced import Column, at_worst, in_column
from pytest_llmcost.ledger.ledger import PayloadFacts
from pytest_llmcost.prices.caveats import CAVEATS, sorted_caveats
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Terms, Usage

NOV = date(2026, 11, 22)
MODEL = "claude-opus-4-7"  # 5 in, 6.25 and 10 to write, 0.50 to read, 25 out


def a_call(usage: Usage, *, sampling: dict[str, Any] | None = None, **fields: Any) -> Call:
    sampling_calls = (PricedSamplingCall(model=MODEL, usage=usage, **(sampling or {})),)
    call = Call(**{
        "model": MODEL, "fingerprint": "1:a", "evidence": "billed", "usage": usage,
        "sampling_calls": sampling_calls, "max_tokens": 1_000, **fields,
    })  # fmt: skip
    return reprice_call(call, shipped_card(), on=NOV)


def usd(call: Call, column: Column, payload: PayloadFacts | None = None) -> Decimal | None:
    payloads = {} if payload is None else {"1:a": payload}
    changed = in_column(call, column, payloads, shipped_card(), on=NOV)
    return None if isinstance(changed, str) else changed.usd


def test_the_worst_case_is_a_cold_cache_and_the_longest_reply() -> None:
    usage = Usage(input_tokens=1_000, cache_read_tokens=10_000, output_tokens=50)
    call = a_call(usage, sampling={"read_lifetime": "5m"})
    # 1,000 x 5 + 10,000 x 6.25 + 1,000 x 25, per million
    assert usd(call, "worst") == Decimal("0.0925")
    assert usd(call, "cold") == Decimal("0.06875")
    assert usd(call, "warm") == Decimal("0.01125")
    # At worst what was read lives for an hour: 10,000 x 10.
    assert usd(a_call(usage), "worst") == Decimal("0.13")


def test_what_has_no_bound_at_worst_is_unknown_for_no_further_reason() -> None:
    call = a_call(Usage(input_tokens=1_000), context=Terms(service_tier="flex"))
    worst = at_worst(call, {}, shipped_card(), on=NOV)
    assert (worst.usd, worst.usd_high, worst.caveats) == (None, None, ("unknown-tier: flex",))


def test_without_caching_cold_and_warm_are_what_it_cost() -> None:
    call = a_call(Usage(input_tokens=1_000, output_tokens=50))
    assert usd(call, "cold") == usd(call, "warm") == call.usd


COUNTED = a_call(
    Usage(input_tokens=11_000),
    evidence="counted",
    caveats=sorted_caveats(("input-only",)),
    max_tokens=100,
)


def test_a_count_is_told_apart_by_what_its_breakpoints_cache() -> None:
    payload = PayloadFacts(model=MODEL, breakpoints=2, cached={"5m": 4_000, "1h": 6_000})
    # 1,000 x 5 + 4,000 x 6.25 + 6,000 x 10
    assert usd(COUNTED, "cold", payload) == Decimal("0.09")
    assert usd(COUNTED, "warm", payload) == Decimal("0.01")
    assert usd(COUNTED, "worst", payload) == Decimal("0.0925")


def test_lives_are_kept_even_where_the_count_was_booked_as_warm() -> None:
    warm = a_call(Usage(input_tokens=1_000, cache_read_tokens=10_000), evidence="counted")
    payload = PayloadFacts(model=MODEL, breakpoints=2, cached={"5m": 4_000, "1h": 6_000})
    assert usd(warm, "cold", payload) == Decimal("0.09")


@pytest.mark.parametrize("column", ["worst", "cold", "warm"])
def test_breakpoints_that_nobody_counted_leave_it_unknown(column: Column) -> None:
    assert usd(COUNTED, column, PayloadFacts(model=MODEL, breakpoints=1)) is None
    assert usd(COUNTED, column, PayloadFacts(model=MODEL)) is not None


def test_breakpoints_too_short_to_be_cached_change_nothing() -> None:
    payload = PayloadFacts(model=MODEL, breakpoints=1, cached={"5m": 0, "1h": 0})
    assert usd(COUNTED, "cold", payload) == usd(COUNTED, "warm", payload) == COUNTED.usd


@pytest.mark.parametrize(
    "call",
    [
        a_call(Usage(input_tokens=1), max_tokens=None),
        a_call(Usage(input_tokens=1), sampling={"sums_calls": True}),
        a_call(Usage(input_tokens=1), sampling={"kind": "compaction"}),
        a_call(
            Usage(),
            sampling_calls=(PricedSamplingCall(model=MODEL, usage=Usage(input_tokens=1)),) * 2,
        ),
        a_call(Usage(input_tokens=1), caveats=sorted_caveats(("left-out: tools.web_search",))),
        a_call(Usage(input_tokens=1), context=Terms(platform="bedrock-unknown", speed="warp")),
    ],
)
def test_where_nothing_bounds_a_call_there_is_no_worst_case(call: Call) -> None:
    assert usd(call, "worst") is None


def test_a_stream_cut_short_has_a_worst_case_all_the_same() -> None:
    call = a_call(
        Usage(input_tokens=1_000, output_tokens=3), caveats=sorted_caveats(("truncated-stream",))
    )
    assert call.usd_high is None
    assert usd(call, "worst") == Decimal("0.03")


def test_a_refusal_might_be_an_answer_the_next_time() -> None:
    call = a_call(Usage(input_tokens=1_000), sampling={"refusal": "cyber"})
    assert call.usd == 0
    assert usd(call, "worst") == Decimal("0.03")


def test_an_endpoint_that_may_cost_more_is_taken_to() -> None:
    call = a_call(Usage(input_tokens=1_000), context=Terms(platform="bedrock-unknown"))
    assert usd(call, "worst") == Decimal("0.033")


tokens = st.integers(0, 10**6)


@given(tokens, tokens, tokens, tokens, st.integers(0, 128_000))
def test_nothing_costs_more_than_the_worst_case_nor_warm_more_than_cold(
    plain: int, written: int, read: int, output: int, most: int
) -> None:
    usage = Usage(
        input_tokens=plain,
        cache_write_5m_tokens=written,
        cache_read_tokens=read,
        output_tokens=min(output, most),
    )
    call = a_call(usage, max_tokens=most)
    worst, cold, warm = (usd(call, column) for column in ("worst", "cold", "warm"))
    assert worst is not None
    assert cold is not None
    assert warm is not None
    assert call.usd is not None
    assert worst >= cold >= call.usd >= warm


def test_what_nothing_bounds_is_left_out_with_the_reason() -> None:
    calls = [a_call(Usage(input_tokens=1_000)), a_call(Usage(input_tokens=1), max_tokens=None)]
    longest, why = (in_column(each, "worst", {}, shipped_card(), on=NOV) for each in calls)
    assert isinstance(longest, Call)
    assert longest.usd == Decimal("0.03")
    assert why == "unbounded-output: no max_tokens, or several sampling calls are possible"
    assert "output_tokens=" not in CAVEATS["unbounded-output"].remedy  # it says what is usual

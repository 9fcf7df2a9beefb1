"""What holds of every price, whatever the usage, the model and the day."""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal, localcontext
from random import Random

import msgspec
import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st
from msgspec.structs import replace
from one_message import read_message

from pytest_llmcost.call import Call, PricedSamplingCall, reprice
from pytest_llmcost.call import price as price_answer
from pytest_llmcost.errors import UnknownModelError, UsageDataError
from pytest_llmcost.prices.bill import CacheState, Cost, in_cache_state, price_request
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import SamplingCall, Terms, Usage
from pytest_llmcost.responses.stream import Reader

CARD = shipped_card()
ON = date(2026, 11, 22)
FIELDS = Usage.__struct_fields__

counts = st.integers(min_value=0, max_value=300_000)
usages = st.builds(Usage, **dict.fromkeys(FIELDS, counts))
models = st.sampled_from(sorted(CARD.models))
days = st.dates(min_value=date(2024, 1, 1), max_value=date(2027, 12, 31))
contexts = st.builds(
    Terms,
    service_tier=st.sampled_from([None, "standard", "batch", "priority", "flex"]),
    speed=st.sampled_from([None, "standard", "fast"]),
    inference_geo=st.sampled_from([None, "global", "not_available", "us", "mars"]),
    platform=st.sampled_from([None, "bedrock-regional", "vertex-unknown", "foundry"]),
)
sampling_calls = st.builds(
    SamplingCall,
    kind=st.sampled_from(["message", "compaction", "advisor", "declined"]),
    model=models,
    usage=usages,
    refusal=st.sampled_from([None, None, None, "unspecified", "bio", "weather"]),
    sums_calls=st.booleans(),
    most_output_tokens=st.one_of(st.none(), counts),
    read_lifetime=st.sampled_from([None, "5m", "1h"]),
)
bases: st.SearchStrategy[CacheState] = st.sampled_from(["as-billed", "cold", "warm"])


def price(
    sampling: SamplingCall, context: Terms, on: date = ON, cache_state: CacheState = "as-billed"
) -> Cost:
    try:
        return price_request(CARD, [sampling], context, on=on, cache_state=cache_state)
    except UnknownModelError:
        assume(False)
        raise


@given(sampling_calls, contexts, days, bases)
def test_a_price_lies_between_its_bounds_and_its_charges_add_up_to_it(
    sampling: SamplingCall, context: Terms, on: date, cache_state: CacheState
) -> None:
    cost = price(sampling, context, on, cache_state)
    assert 0 <= cost.low <= cost.usd
    assert cost.high is None or cost.usd <= cost.high
    assert sum(charge.usd for charge in cost.charges) == cost.usd
    for charge in cost.charges:
        assert charge.quantity * charge.usd_per_million == charge.usd * 1_000_000
    assert all(type(amount) is Decimal for amount in (cost.usd, cost.low, cost.high or cost.usd))


@given(models, usages, usages, contexts)
def test_a_price_is_additive_within_a_band(
    model: str, one: Usage, other: Usage, context: Terms
) -> None:
    costs = [
        price(SamplingCall(model=model, usage=usage), context)
        for usage in (one, other, one + other)
    ]
    assume(len({cost.sampling_calls[0].rates.above for cost in costs}) == 1)
    assert costs[0].usd + costs[1].usd == costs[2].usd


@given(models, usages, contexts, st.sampled_from(FIELDS), st.integers(1, 200_000), bases)
def test_a_price_grows_with_every_category(
    model: str, usage: Usage, context: Terms, field: str, more: int, cache_state: CacheState
) -> None:
    grown = msgspec.structs.replace(usage, **{field: getattr(usage, field) + more})
    # Otherwise what is written beside a read says how long its entries live.
    before, after = (
        price(
            SamplingCall(model=model, usage=each, read_lifetime="5m"),
            context,
            cache_state=cache_state,
        )
        for each in (usage, grown)
    )
    assert before.usd < after.usd
    assert before.low <= after.low


@given(st.lists(sampling_calls, max_size=4), contexts, st.randoms())
def test_the_order_of_sampling_calls_and_of_calls_changes_nothing(
    several: list[SamplingCall], context: Terms, random: Random
) -> None:
    one_by_one = [price(sampling, context) for sampling in several]
    shuffled = list(several)
    random.shuffle(shuffled)
    together = price_request(CARD, shuffled, context, on=ON)
    assert together.usd == sum(each.usd for each in one_by_one)
    assert together.low == sum(each.low for each in one_by_one)
    highs = [each.high for each in one_by_one if each.high is not None]
    assert together.high == (sum(highs) if len(highs) == len(one_by_one) else None)
    assert set(together.caveats) == {caveat for each in one_by_one for caveat in each.caveats}


@given(sampling_calls, contexts, days)
def test_a_cold_cache_never_costs_less_than_a_warm_one(
    sampling: SamplingCall, context: Terms, on: date
) -> None:
    warm, billed, cold = (
        price(sampling, context, on, cache_state).usd
        for cache_state in ("warm", "as-billed", "cold")
    )
    assert warm <= billed <= cold


@given(sampling_calls, contexts, counts, counts)
def test_the_more_a_warm_cache_gives_the_less_it_costs(
    sampling: SamplingCall, context: Terms, some: int, more: int
) -> None:
    some, more = sorted((some, more))
    one, two = (replace(sampling, most_read_tokens=read) for read in (some, more))
    tokens = [in_cache_state(each, "warm").prompt_tokens for each in (one, two, sampling)]
    assert len({*tokens}) == 1
    warm, less, least = (
        price(each, context, cache_state="warm").usd for each in (sampling, two, one)
    )
    cold = price(sampling, context, cache_state="cold").usd
    assert warm <= less <= least <= cold


@given(sampling_calls, contexts, st.integers(min_value=1, max_value=8))
def test_the_callers_own_decimal_context_changes_nothing(
    sampling: SamplingCall, context: Terms, prec: int
) -> None:
    expected = price(sampling, context)
    with localcontext() as decimals:
        decimals.prec = prec
        assert price(sampling, context) == expected


@given(sampling_calls, contexts, days, bases)
def test_pricing_a_priced_call_again_changes_nothing(
    sampling: SamplingCall, context: Terms, on: date, cache_state: CacheState
) -> None:
    call = Call(
        model=sampling.model,
        evidence="billed",
        sampling_calls=(priced_sampling_call(sampling),),
        context=context,
    )
    once = reprice(call, CARD, on=on, cache_state=cache_state)
    assert reprice(once, CARD, on=on, cache_state=cache_state) == once
    assert reprice(once, CARD, on=ON) == reprice(call, CARD, on=ON)


def priced_sampling_call(sampling: SamplingCall) -> PricedSamplingCall:
    return PricedSamplingCall(
        **{name: getattr(sampling, name) for name in sampling.__struct_fields__}
    )


@given(
    models,
    st.fixed_dictionaries(
        {"service_tier": st.sampled_from(["standard", "batch"]), "input_tokens": counts},
        optional={
            "cache_creation_input_tokens": counts,
            "cache_read_input_tokens": counts,
            "cache_creation": st.fixed_dictionaries(
                {"ephemeral_5m_input_tokens": counts, "ephemeral_1h_input_tokens": counts}
            ),
            "inference_geo": st.sampled_from([None, "us", "global"]),
        },
    ),
    st.fixed_dictionaries(
        {"output_tokens": counts},
        optional={"input_tokens": counts, "cache_creation_input_tokens": counts},
    ),
    st.integers(min_value=1, max_value=500),
)
def test_a_streams_price_is_that_of_its_final_message(
    model: str, start: dict[str, object], end: dict[str, object], size: int
) -> None:
    opening = {"id": "msg_1", "model": model, "content": [], "usage": {**start, "output_tokens": 1}}
    delta = {"stop_reason": "end_turn"}
    body = events(
        {"type": "message_start", "message": opening},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "message_delta", "delta": delta, "usage": end},
        {"type": "message_stop"},
    )
    reader = Reader()
    for begin in range(0, len(body), size):
        reader.feed(body[begin : begin + size])
    reader.close()
    (streamed,) = reader.messages
    final = {"model": model, "content": [{"type": "text", "text": "Hi"}], "usage": {**start, **end}}
    try:
        answer = read_message(final | delta)
    except UsageDataError:  # without a prompt it is no usage at all
        reject()
    one, other = (price_answer(each, CARD, on=ON) for each in (read_message(streamed.body), answer))
    assert (one.usd, one.usd_low, one.usd_high) == (other.usd, other.usd_low, other.usd_high)
    assert one.usage == other.usage


def events(*each: dict[str, object]) -> bytes:
    return b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in each)


@given(models, contexts, st.integers(min_value=0, max_value=900))
def test_once_a_model_has_a_price_it_never_loses_it(model: str, context: Terms, later: int) -> None:
    first = min(row.from_on for row in CARD.models[model].rates)
    sampling = SamplingCall(model=model, usage=Usage(input_tokens=1))
    context = msgspec.structs.replace(context, speed=None)
    assert price_request(CARD, [sampling], context, on=first + timedelta(days=later)).usd > 0


@pytest.mark.parametrize("model", CARD.models)
def test_no_category_of_any_model_is_free(model: str) -> None:
    on = max(ON, min(row.from_on for row in CARD.models[model].rates))
    for field in FIELDS:
        sampling = SamplingCall(model=model, usage=Usage(**{field: 1}))
        assert price_request(CARD, [sampling], Terms(), on=on).usd > 0

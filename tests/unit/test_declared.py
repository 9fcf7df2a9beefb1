"""What a test states itself is read like a response, and a stated price stays the price."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any
from unittest.mock import MagicMock, Mock

import anthropic
import pytest
from sample_reports import make_budget

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import judge_calls
from pytest_llmcost.call import Call, price
from pytest_llmcost.errors import UsageDataError
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.responses.declared import read_declared

ON = date(2026, 11, 22)
MODEL = "claude-opus-4-7"


def usage(tokens: int, output: int = 0, **more: Any) -> dict[str, Any]:
    return {"input_tokens": tokens, "output_tokens": output} | more


def recorded(response: Any, **more: Any) -> Call:
    call = price(read_declared(response, **more), shipped_card(), on=ON, evidence="declared")
    assert (call.evidence, call.live) == ("declared", False)
    return call


@pytest.mark.parametrize(
    ("more", "usd"),
    [
        ({}, "5"),
        ({"inference_geo": "us"}, "5.5"),
        ({"service_tier": "batch"}, "2.5"),
        ({"server_tool_use": {"web_search_requests": 100}}, "6"),
        ({"iterations": [usage(1_000_000), usage(1_000_000, type="compaction")]}, "10"),
    ],
)
def test_a_usage_alone_is_billed_by_all_that_it_says(more: dict[str, Any], usd: str) -> None:
    call = recorded(usage(1_000_000, **more), model=MODEL)
    assert (call.usd, call.usd_high) == (Decimal(usd), Decimal(usd))
    assert recorded({"usage": usage(1_000_000, **more), "model": MODEL}).usd == call.usd


def test_a_usage_alone_has_the_doubts_of_a_response() -> None:
    call = recorded(usage(1_000, audio_input_tokens=10**6), model=MODEL)
    assert call.caveats == ("unknown-usage: audio_input_tokens",)
    assert call.usd_high is None


def test_a_stated_price_stays_the_price_and_the_responses_tokens_are_kept() -> None:
    message = {"model": MODEL, "usage": usage(1_000, 10, inference_geo="us")}
    call = recorded(message, usd=Decimal("0.5"))
    assert (call.model, call.usage) == (MODEL, Usage(input_tokens=1_000, output_tokens=10))
    assert call.usd == call.usd_low == call.usd_high == Decimal("0.5")
    assert [sampling.usd for sampling in call.sampling_calls] == [None]
    assert call.caveats == ("declared-price",)
    assert Amounts.of([call])["input_tokens"].high == 1_000
    assert Amounts.of([call])["output_tokens"].high == 10


def test_a_price_beside_a_session_is_no_total_of_it() -> None:
    answer = read_declared({"session_id": "s", "model": MODEL}, usd=Decimal(1))
    assert (answer.declared_usd, answer.session_total) == (Decimal(1), None)
    answer = read_declared({"session_id": "s", "total_cost_usd": 3, "model": MODEL})
    assert (answer.declared_usd, answer.session_total) == (None, ("s", Decimal(3)))


def test_a_stated_price_needs_no_model_and_no_usage() -> None:
    assert recorded(usage(1_000), usd=Decimal(1)).usd == Decimal(1)
    call = recorded({}, usd=Decimal(1), model=MODEL)
    assert (call.model, call.usd, call.sampling_calls) == (MODEL, Decimal(1), ())


@pytest.mark.parametrize(
    "response",
    [
        {"total_cost_usd": 0.5, "usage": usage(1_000)},
        {"model": MODEL, "usage": usage(1_000, audio_input_tokens=9)},
    ],
)
def test_tokens_that_may_not_be_all_leave_a_token_ceiling_open(response: Any) -> None:
    call = recorded(response, usd=Decimal("0.5"))
    assert (call.usd, call.usd_high) == (Decimal("0.5"), Decimal("0.5"))
    tokens = Amounts.of([call])["input_tokens"]
    assert tokens.high is None
    (reason,) = tokens.reasons.explain()
    assert "stated what a call cost, but not all its tokens" in reason.what
    assert "drop the budget on tokens" in reason.remedy


def test_an_agents_total_is_its_price() -> None:
    call = recorded({"total_cost_usd": 0.25, "usage": usage(1_000), "model": MODEL})
    assert (call.usd, call.model, call.usage.input_tokens) == (Decimal("0.25"), MODEL, 1_000)


@pytest.mark.parametrize(
    ("response", "most"), [({"total_cost_usd": 0.5}, None), (usage(1_000, audio_input_tokens=9), 1)]
)
def test_an_agent_may_have_called_more_often_than_once(response: Any, most: int | None) -> None:
    number = Amounts.of([recorded(response, usd=Decimal("0.5"), model=MODEL)])["calls"]
    assert number.low == 1
    assert number.high == most
    assert len(number.reasons.explain()) == (most is None)


@pytest.mark.parametrize(
    ("limit", "state"), [("0.5", "within"), ("0.49", "unverified"), ("0.001", "unverified")]
)
def test_an_agents_total_is_only_the_most_that_one_of_its_calls_can_cost(
    limit: str, state: str
) -> None:
    budget = make_budget(limit, kind="call_usd")
    verdict = judge_calls(budget, [recorded({"total_cost_usd": 0.5})])
    assert verdict.state == state
    assert ["how often it called" in reason.what for reason in verdict.reasons] == [True]


@pytest.mark.parametrize("total", [-0.01, "much"])
def test_an_agents_total_that_is_no_amount_is_refused_by_its_name(total: object) -> None:
    what = f"^total_cost_usd is {total}, which is not an amount of money$"
    with pytest.raises(UsageDataError, match=what):
        read_declared({"total_cost_usd": total})


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ({"session_id": "s", "total_cost_usd": None}, "session_id"),
        ({"total_cost_usd": None, "usage": usage(1_000)}, "usage"),
        ({"total_cost_usd": None, "model": MODEL}, "model"),
        (usage(1_000), "input_tokens, output_tokens"),
        ({}, "no value in it"),
        ({"total_cost_usd": None}, "no value in it"),
    ],
)
def test_what_states_neither_a_price_nor_a_usage_of_a_model_is_refused(
    result: dict[str, Any], shown: str
) -> None:
    with pytest.raises(UsageDataError, match=f"or usd=; got dict with {shown}$"):
        read_declared(result)
    assert recorded(result, usd=Decimal("0.5")).usd == Decimal("0.5")


@pytest.mark.parametrize(
    "mock",
    [Mock(), MagicMock(), Mock(spec=anthropic.types.Message), object()],
    ids=["mock", "magic", "of a message", "object"],
)
def test_what_is_no_response_is_refused_by_its_type(mock: object) -> None:
    kind = type(mock).__name__
    with pytest.raises(UsageDataError, match=f"a Messages response or a usage, not {kind}$"):
        read_declared(mock, model=MODEL)


def test_what_is_no_usage_inside_a_response_is_named_by_its_place() -> None:
    with pytest.raises(UsageDataError, match=r"^usage\.input_tokens is of type MagicMock"):
        read_declared({"usage": {"input_tokens": MagicMock()}, "model": MODEL})
    with pytest.raises(UsageDataError, match=r"^usage\.output_tokens: is missing$"):
        read_declared({"usage": {"input_tokens": 1}, "model": MODEL})

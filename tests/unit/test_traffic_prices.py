"""Recorded traffic of other projects: every line with a list price is priced exactly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from one_message import read_message
from recorded_traffic import body_of, needs_traffic, recorded_lines

from pytest_llmcost.call import Call, price
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.responses.endpoints import Endpoint, recognise
from pytest_llmcost.responses.message import Answer
from pytest_llmcost.responses.stream import read_whole

pytestmark = needs_traffic

ON = date(2026, 11, 22)


def endpoint_of(line: dict[str, Any]) -> Endpoint:
    method = "GET" if line["endpoint"] == "batches_results" else "POST"
    endpoint = recognise(method, f"https://{line['host'] or 'api.anthropic.com'}{line['path']}")
    assert endpoint is not None
    return endpoint


def answers_of(line: dict[str, Any]) -> Iterator[Answer]:
    endpoint = endpoint_of(line)
    if line["status"] >= 300 or endpoint.kind == "count_tokens":
        return  # errors and counts are free
    if endpoint.kind == "batch_results":
        results = read_whole(body_of(line), of_batch=True).results
        bodies = [result.body for result in results if result.body is not None]
        yield from (read_message(body, batch=True) for body in bodies)
        return
    for message in read_whole(body_of(line)).messages:
        yield read_message(
            message.body,
            model=endpoint.model,
            platform=endpoint.platform,
            truncated=message.truncated,
            request=line["request"],
        )


def priced_calls(line: dict[str, Any]) -> list[Call]:
    return [price(answer, shipped_card(), on=ON) for answer in answers_of(line)]


def lines_with(priced: bool) -> list[dict[str, Any]]:
    return [line for line in recorded_lines() if (line["list_usd"] is not None) is priced]


def test_every_line_with_a_list_price_agrees_exactly() -> None:
    lines = lines_with(priced=True)
    assert len(lines) == 684
    for line in lines:
        usds = [call.usd for call in priced_calls(line)]
        assert None not in usds, line["id"]
        assert sum(usd for usd in usds if usd) == Decimal(line["list_usd"]), line["id"]


def test_every_price_lies_between_its_bounds() -> None:
    for line in recorded_lines():
        for call in priced_calls(line):
            assert call.usd_low <= (call.usd or call.usd_low), line["id"]
            if call.usd is not None and call.usd_high is not None:
                assert call.usd <= call.usd_high, line["id"]


def test_every_usage_is_the_one_that_was_recorded() -> None:
    for line in lines_with(priced=True):
        if line["usage"] is not None:
            (call,) = answers_of(line)
            assert call.usage == Usage(**line["usage"]), line["id"]


@pytest.mark.parametrize(
    ("note", "lines", "prices", "caveats"),
    [
        ("no price for this model", 19, {None}, {"unknown-model"}),
        (
            "advisor calls in the content without usage entries: a lower bound",
            2,
            {Decimal("0.00033")},
            {"advisor-without-entry"},
        ),
    ],
)
def test_a_line_without_a_list_price_says_why(
    note: str, lines: int, prices: set[Decimal | None], caveats: set[str]
) -> None:
    found = [line for line in lines_with(priced=False) if line["note"] == note]
    calls = [call for line in found for call in priced_calls(line)]
    assert len(found) == lines
    assert {call.usd for call in calls} == prices
    assert {caveat.partition(":")[0] for call in calls for caveat in call.caveats} == caveats


def test_several_responses_in_one_body_are_priced_apart() -> None:
    for line in lines_with(priced=False):
        if (line["note"] or "").startswith("several responses"):
            assert len(priced_calls(line)) > 1, line["id"]


def test_a_merged_stream_costs_what_its_final_message_does() -> None:
    """A stream's merged usage, read as if it had come in one whole message."""
    compared = 0
    for line in lines_with(priced=True):
        if line["stream"] and line["usage_raw"] and not line["usage_raw"].get("iterations"):
            (call,) = priced_calls(line)
            if call.sampling_calls[0].refusal is not None:
                continue
            final = {"model": call.model, "content": [], "usage": line["usage_raw"]}
            whole = read_message(json.loads(json.dumps(final)), platform=call.context.platform)
            assert price(whole, shipped_card(), on=ON).usd == call.usd, line["id"]
            compared += 1
    assert compared > 200

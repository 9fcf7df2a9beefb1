"""What a ticket costs. Runs offline: the counts are in cassettes/, beside this file."""

from __future__ import annotations

import pytest
from triage import build_payload

from pytest_llmcost import max_cost
from pytest_llmcost.plugin.fixture import LlmCost

TICKETS = {
    "battery": "The battery of NB-20417 smells odd since this morning. Can I still ride?",
    "delivery": "My bike should have come on Tuesday. Where is it? Order NB-20533.",
    "german": "Die Bremse quietscht bei Regen. Ist das normal, oder soll ich vorbeikommen?",
}


@max_cost("$0.03")
def test_a_short_ticket_in_the_worst_case(llmcost: LlmCost) -> None:
    counted = llmcost.count(build_payload("My bell is broken."), output_tokens="max")
    assert counted.input_tokens < 2_000


@max_cost("$0.02", reason="a routing decision is about 90 tokens")
@pytest.mark.parametrize("topic", TICKETS)
def test_a_ticket_of_each_kind(llmcost: LlmCost, topic: str) -> None:
    llmcost.count(build_payload(TICKETS[topic]), output_tokens=90)


@max_cost(input_tokens="4k")
def test_a_long_history_stays_within_its_tokens(llmcost: LlmCost) -> None:
    history = [f"Mail {number}: still waiting for an answer." for number in range(40)]
    llmcost.count(build_payload("Is anybody there?", history=history))


@max_cost("$0.04")
@pytest.mark.xfail(
    raises=pytest.fail.Exception,
    strict=True,
    reason="over its budget on purpose: this is what a failure looks like",
)
def test_a_whole_mailbox_is_too_expensive(llmcost: LlmCost) -> None:
    history = [f"Mail {number}: my bike makes a noise when it rains." for number in range(200)]
    llmcost.count(build_payload("Can you hear me now?", history=history), output_tokens=90)

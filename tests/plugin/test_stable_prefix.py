"""Turns of one test that break the cached prefix of an earlier one.

With the prices of Opus 4.7, in dollars per million tokens: $5 plain, $6.25 written, $0.50 read.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from conftest import Project
from standin import StandIn

SUITE = """
    import os

    import httpx
    import pytest
    from pytest_llmcost import max_cost

    CACHED = {"type": "ephemeral"}
    BOOK = "All that there is to know of bells. " * 440

    def ask(clock="09:41:07", question="Why?", mark=CACHED, **more):
        system = [
            {"type": "text", "text": "You answer letters."},
            {"type": "text", "text": f"It is {clock}. {BOOK}", "cache_control": mark},
        ]
        return {"model": "claude-opus-4-7", "max_tokens": 100, "system": system,
                "messages": [{"role": "user", "content": question}], **more}

    def send(body):
        httpx.post(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages", json=body,
                   headers={"x-api-key": "any", "anthropic-version": "2023-06-01"})
"""


@pytest.fixture
def online(project: Project, standin: StandIn) -> Project:
    return project.online(standin)


def rows(project: Project) -> dict[str, Any]:
    return {row["nodeid"].partition("::")[2]: row for row in project.ledger()["tests"]}


def price_of(call: dict[str, Any]) -> Decimal:
    return Decimal(call["usd"])


WARM = """
    @max_cost("$0.02", cache="warm")
    def test_clock(llmcost):
        llmcost.count(ask("09:41:07"), output_tokens=0)
        llmcost.count(ask("09:41:19"), output_tokens=0)

    @max_cost("$0.02", cache="warm")
    def test_stable(llmcost):
        llmcost.count(ask(question="Why?"), output_tokens=0)
        llmcost.count(ask(question="How?"), output_tokens=0)

    @max_cost("$0.02", cache="warm")
    def test_sent():
        send(ask("09:41:07"))
        send(ask("09:41:19"))

    @max_cost("$0.2", cache="warm")
    def test_an_hour(llmcost):
        hour = {"type": "ephemeral", "ttl": "1h"}
        llmcost.count(ask("09:41:07", mark=hour), output_tokens=0)
        llmcost.count(ask("09:41:19", mark=hour), output_tokens=0)
"""


def test_a_warm_cache_does_not_hold_what_a_clock_has_changed(online: Project) -> None:
    online.write(test_app=SUITE + WARM)
    result = online.record("--llmcost-report=ledger.json")
    result.assert_outcomes(passed=2, failed=2)
    tests = rows(online)
    first, second = sorted(tests["test_clock"]["calls"], key=price_of)
    cached = first["usage"]["cache_read_tokens"]
    assert (cached, first["usage"]["input_tokens"]) == (9_260, 8)
    # Per million: the first one, read, 8 x $5 + 9,260 x $0.50; the second 8 x $5 + 9,260 x $6.25.
    assert Decimal(first["usd"]) == Decimal("0.00467")
    assert Decimal(second["usd"]) == Decimal("0.057915")
    assert tests["test_clock"]["verdict"]["actual"] == "0.062585"
    assert second["broken_prefix"] == {"part": "system.1", "character": 13, "usd": "0.053245"}
    assert tests["test_stable"]["usd"] == "0.00934"
    assert not any("broken_prefix" in call for call in tests["test_stable"]["calls"])
    # What was sent has a bill, which says that both turns were written; each reply has 5 tokens.
    assert [call["usage"]["cache_read_tokens"] for call in tests["test_sent"]["calls"]] == [0, 0]
    assert tests["test_sent"]["verdict"]["actual"] == "0.062835"
    assert tests["test_sent"]["verdict"]["state"] == "exceeded"
    # Written for an hour, they cost $10 per million.
    assert max(map(price_of, tests["test_an_hour"]["calls"])) == Decimal("0.09264")


def test_what_stands_before_the_difference_is_read(online: Project) -> None:
    online.write(
        test_app=SUITE
        + """
    TOOL = {"name": "find", "description": "It finds. " * 3_000, "input_schema": {"type": "object"},
            "cache_control": CACHED}

    @max_cost("$0.1", cache="warm")
    def test_clock(llmcost):
        llmcost.count(ask("09:41:07", tools=[TOOL]), output_tokens=0)
        counted = llmcost.count(ask("09:41:19", tools=[TOOL]), output_tokens=0)
        tools, system, _ = counted.segments
        usage = counted.call.usage
        assert (usage.cache_read_tokens, usage.cache_write_5m_tokens) == (
            tools.tokens, system.tokens)
    """
    )
    online.record().assert_outcomes(passed=1)
    online.run("--llmcost-columns=warm").assert_outcomes(passed=1)


def test_a_whole_run_with_a_warm_cache_prices_it_alike(online: Project) -> None:
    online.write(test_app=SUITE + WARM.replace(', cache="warm"', "").replace("$0.02", "$1"))
    result = online.record("--llmcost-cache=warm", "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=4)
    tests = rows(online)
    assert tests["test_clock"]["usd"] == "0.062585"
    assert max(tests["test_sent"]["calls"], key=price_of)["broken_prefix"]["usd"] == "0.053245"

"""`--llmcost-columns` and `--llmcost-per`: worst, cold, warm, and a price that reads as a bill."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from conftest import Project
from standin import StandIn

PAYLOAD = """
    import anthropic
    import pytest

    def payload(**more):
        return {
            "model": "claude-opus-4-7",
            "max_tokens": 1000,
            "messages": [{"role": "user", "content": "Sort this ticket. " * 50}],
            **more,
        }

    CACHED = {
        "system": [
            {"type": "text", "text": "Rules. " * 2000, "cache_control": {"type": "ephemeral"}},
        ],
    }
"""
COUNT = "--llmcost-record-mode=new_episodes"
ALL = ("--llmcost-columns=worst", "--llmcost-columns=cold", "--llmcost-columns=warm")


def amounts(line: str) -> list[Decimal]:
    return [Decimal(each.replace(",", "")) for each in re.findall(r"\$([\d,.]+)", line)]


def test_worst_cold_and_warm_stand_beside_the_price(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    def test_plain(llmcost):
        llmcost.count(payload())

    def test_cached(llmcost):
        llmcost.count(payload(**CACHED), cache="warm")
    """
    )
    result = project.run(COUNT, *ALL)
    result.assert_outcomes(passed=2)
    lines = result.stdout.lines
    head = next(line for line in lines if " cost" in line)
    assert "cost worst cold warm" in " ".join(head.split())
    usd, worst, cold, warm = amounts(next(line for line in lines if "test_plain " in line))
    assert worst == usd + Decimal("0.025"), "1,000 tokens at $25 per million"
    assert usd == cold == warm
    usd, worst, cold, warm = amounts(next(line for line in lines if "test_cached " in line))
    assert usd == warm < cold < worst
    result.stdout.fnmatch_lines(
        [
            "worst $*: cold cache and replies of max_tokens",
            "cold $*: all that is cached is written",
            "warm $*: all that is cached is read",
        ]
    )


def test_breakpoints_are_counted_for_the_columns_where_that_is_allowed_and_said_where_not(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    def test_cached(llmcost):
        llmcost.count(payload(**CACHED))
    """
    )
    project.run(COUNT).assert_outcomes(passed=1)
    result = project.run(*ALL)
    result.assert_outcomes(passed=1)
    row = next(line for line in result.stdout.lines if "test_cached " in line)
    assert row.split()[-3:] == ["?", "?", "?"]
    lines = iter(result.stdout.lines)
    next(line for line in lines if "breakpoints not counted yet" in line)
    command = next(lines)
    project.run(*command.split()[1:]).assert_outcomes(passed=1)
    result = project.run(*ALL)
    row = next(line for line in result.stdout.lines if "test_cached " in line)
    usd, worst, cold, warm = amounts(row)
    assert warm < usd < cold < worst
    assert "breakpoints not counted" not in result.stdout.str()


def test_server_tools_and_no_max_tokens_have_no_worst_case(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    def test_loops(llmcost):
        search = {"type": "web_search_20250305", "name": "web_search"}
        llmcost.count(payload(tools=[search]))

    def test_open(llmcost):
        body = payload()
        del body["max_tokens"]
        llmcost.count(body)
    """
    )
    result = project.run(COUNT, "--llmcost-columns=worst")
    for name in ("test_loops", "test_open"):
        assert next(line for line in result.stdout.lines if f"{name} " in line).endswith("?")
    result.stdout.fnmatch_lines(["worst ?: *; 2 calls unknown (no max_tokens, several*"])


@pytest.mark.parametrize("option", ["flag", "ini"])
def test_a_price_per_thousand_scales_all_that_is_shown_and_nothing_else(
    project: Project, standin: StandIn, option: str
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    from pytest_llmcost import max_cost

    @max_cost("$0.01")
    def test_plain(llmcost):
        llmcost.count(payload())
    """,
        **({"pytest_ini": "[pytest]\nllmcost_per = 1000\n"} if option == "ini" else {}),
    )
    args = ("--llmcost-per=1k",) if option == "flag" else ()
    report = "--llmcost-report=ledger.json"
    model = "--llmcost-model=claude-haiku-5-5"
    result = project.run(COUNT, "--llmcost-columns=worst", report, model, *args)
    result.assert_outcomes(passed=1)
    head = next(line for line in result.stdout.lines if " cost" in line)
    assert {"cost/1,000", "worst"} <= set(head.split())
    row = next(line for line in result.stdout.lines if "test_plain " in line)
    usd, worst, ceiling = amounts(row)
    exact = Decimal(project.ledger()["totals"]["usd"])
    assert usd == exact * 1_000
    assert worst == (exact + Decimal("0.025")) * 1_000
    assert ceiling == Decimal("0.01")
    result.stdout.fnmatch_lines(
        [
            "on claude-haiku-5-5: the same prompts *",
            "test_app.py * cost/1,000 *",
            f"${float(exact) * 1_000:.2f} per 1,000 runs at list price, 1 call",
            "worst $* per 1,000 runs: *",
        ]
    )


def test_a_task_budget_is_shown_as_the_advisory_bound_that_it_is(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    @pytest.mark.parametrize("number", [1, 2])
    def test_agent(llmcost, number):
        llmcost.count(payload(output_config={"task_budget": {"type": "tokens", "total": 64_000}}))
    """
    )
    result = project.run(COUNT, "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=2)
    note = (
        "task budget of 64,000 tokens in test_app.py::test_agent: advisory, nothing enforces it, "
        "so it bounds no price; all of it as output of claude-opus-4-7 would be $1.60"
    )
    assert note in project.ledger()["notes"]
    assert note in " ".join(result.stdout.str().split())


def test_without_columns_there_are_none(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app=PAYLOAD + "    def test_plain(llmcost): llmcost.count(payload())\n"
    )
    result = project.run(COUNT)
    assert not re.search("worst|cold|warm|task budget|same prompts", result.stdout.str())

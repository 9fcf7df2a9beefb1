"""Threads, whose earlier turns the server holds: a request that goes on is not a whole prompt.

The SDK's tool runner asks for a thread by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from conftest import Project
from hand_made_cassettes import MODEL, Exchange, count_and_replay, write_project
from standin import StandIn

Body = dict[str, Any]

HELD = "the server holds the rest of its prompt (thread)"
AFTER_FIRST = {"type": "continue", "previous_message_id": "msg_1"}


def turn(words: str, thread: Mapping[str, str] = AFTER_FIRST, **more: Any) -> Body:
    messages = [{"role": "user", "content": words}]
    return {"model": MODEL, "max_tokens": 100, "messages": messages, "thread": thread, **more}


def first(system: str) -> Body:
    return turn("Where is it?", {"type": "create"}, system=system)


def spent(tokens: int) -> Body:
    return {"input_tokens": tokens, "output_tokens": 10}


@pytest.fixture(autouse=True)
def online(project: Project, standin: StandIn) -> Project:
    """The counts come from the stand-in."""
    return project.online(standin)


def test_a_thread_that_did_not_change_is_as_billed(project: Project) -> None:
    exchanges = [
        Exchange(first("Be brief."), first("Be brief."), spent(900)),
        Exchange(turn("And now?"), turn("And now?"), spent(930)),
    ]
    write_project(project, one=exchanges)
    row = count_and_replay(project)["one"]
    assert [call["evidence"] for call in row["calls"]] == ["billed", "billed"]
    assert (row["usd"], row["verdict"]["state"]) == ("0.00579", "within")


def test_a_changed_system_prompt_is_in_each_later_turn(project: Project) -> None:
    exchanges = [
        Exchange(first("Be brief."), first("Be brief. " * 400), spent(900)),
        Exchange(turn("And now?"), turn("And now?"), spent(930)),
        Exchange(turn("Thanks."), turn("Thanks."), spent(960)),
    ]
    write_project(project, one=exchanges)
    row = count_and_replay(project)["one"]
    assert [call["evidence"] for call in row["calls"]] == ["recounted", "stale", "stale"]
    assert row["calls"][2]["caveats"] == [f"not-recounted: the payload: {HELD}"]
    assert (row["verdict"]["state"], row["verdict"]["high"]) == ("unverified", None)


def test_a_changed_turn_is_not_taken_for_a_whole_prompt(project: Project) -> None:
    exchanges = [
        Exchange(first("Be brief."), first("Be brief."), spent(900)),
        Exchange(turn("And now?"), turn("And now? Please answer in English."), spent(930)),
    ]
    write_project(project, one=exchanges)
    row = count_and_replay(project)["one"]
    assert [call["evidence"] for call in row["calls"]] == ["billed", "stale"]
    assert row["calls"][1]["caveats"] == [f"not-recounted: messages.0: {HELD}"]
    assert row["verdict"]["state"] == "unverified"


def test_a_part_of_a_prompt_is_not_counted(project: Project, standin: StandIn) -> None:
    project.write(
        test_app=f"""
        from pytest_llmcost import max_cost

        @max_cost("$1")
        def test_part(llmcost):
            llmcost.count({turn("And now?")})
        """
    )
    result = project.run("--llmcost-record-mode=new_episodes")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            f"  cause             {HELD}, so a count of this part says nothing of its cost",
            "  to settle it      count the whole conversation, without thread",
        ]
    )
    assert standin.requests == []


def test_the_cap_on_live_spend_reserves_what_the_server_holds(
    project: Project, standin: StandIn
) -> None:
    project.write(
        test_app=f"""
        import anthropic

        BETA = {{"betas": ["message-threads-2026-08-12"]}}

        def test_goes_on():
            with anthropic.Anthropic() as client:
                create = client.beta.messages.create
                said = create(**{first("Be brief. " * 8_000)}, **BETA)
                thread = {{"type": "continue", "previous_message_id": said.id}}
                create(**{{**{turn("More.")}, "thread": thread, "max_tokens": 5_000}}, **BETA)

        def test_of_another_run():
            with anthropic.Anthropic() as client:
                client.beta.messages.create(**{turn("More.")}, **BETA)
        """
    )
    result = project.run("--llmcost-max-live=$0.50")
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines([f"*LiveCapError: {MODEL} was not sent: {HELD}, so the $0.50 cap*"])
    assert len(standin.requests) == 2
    result = project.run("--llmcost-max-live=$0.32", "-k", "goes_on")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*(at most * input tokens for * bytes and its thread, *"])
    assert len(standin.requests) == 3

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


pytestmark = pytest.mark.usefixtures("online")  # the counts come from the stand-in


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
    assert row["calls"][2]["caveats"] == [f"not-recounted: an earlier turn of its thread: {HELD}"]
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


def test_what_goes_on_has_no_worst_case_for_the_cap_on_live_spend(
    project: Project, standin: StandIn
) -> None:
    project.write(
        test_app=f"""
        import anthropic

        def test_goes_on():
            with anthropic.Anthropic() as client:
                client.beta.messages.create(**{turn("More.")}, betas=["message-threads-2026-08-12"])
        """
    )
    result = project.run("--llmcost-max-live=$100")
    result.assert_outcomes(failed=1)
    told = f"{HELD}, which tool_runner(thread=False) does not ask for, so the $100*"
    result.stdout.fnmatch_lines([f"*LiveCapError: {MODEL} was not sent: {told}"])
    assert standin.requests == []


def test_a_turn_that_may_have_changed_is_not_as_billed(project: Project) -> None:
    """An earlier one was not seen to be as recorded, so what the server holds is unknown."""
    write_project(project, one=[Exchange(turn("And now?"), turn("And now?"), spent(930))])
    row = count_and_replay(project)["one"]
    assert row["calls"][0]["caveats"] == [f"not-recounted: an earlier turn of its thread: {HELD}"]


def test_a_change_in_another_test_is_none_in_this_one(project: Project) -> None:
    goes_on = Exchange(turn("And now?"), turn("And now?"), spent(930))
    changed = Exchange(first("Be brief."), first("Be brief. " * 400), spent(900))
    write_project(
        project,
        one=[changed, goes_on],
        two=[Exchange(first("Be brief."), first("Be brief."), spent(900)), goes_on],
    )
    rows = count_and_replay(project)
    states = [rows[name]["verdict"]["state"] for name in ("one", "two")]
    assert states == ["unverified", "within"]


def test_what_the_server_holds_may_be_cached_for_an_hour(project: Project) -> None:
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    create = turn("Where is it?", {"type": "create"}, system=system)
    read = {**spent(30), "cache_read_input_tokens": 5_000}
    exchanges = [Exchange(create, create, spent(900)), Exchange(turn("So?"), turn("So?"), read)]
    write_project(project, one=exchanges)
    row = count_and_replay(project, "--llmcost-cache=cold")["one"]
    # 5,930 tokens of input and 20 of output; of those read, 5,000 may be written for an hour.
    assert (row["verdict"]["low"], row["verdict"]["high"]) == ("0.02184", "0.03309")


def test_what_the_server_holds_may_call_the_model_again(project: Project) -> None:
    project.write(
        test_app=f"""
        import json
        import anthropic
        import httpx2
        from pytest_llmcost import max_cost

        USAGE = {{"input_tokens": 9, "output_tokens": 1}}
        MESSAGE = {{
            "id": "msg_1", "type": "message", "role": "assistant", "model": "{MODEL}",
            "content": [{{"type": "text", "text": "So"}}], "usage": USAGE,
        }}

        def cut(request):
            start = json.dumps({{"type": "message_start", "message": MESSAGE}})
            stream = {{"content-type": "text/event-stream"}}
            content = f"event: message_start\\ndata: {{start}}\\n\\n"
            return httpx2.Response(200, content=content, headers=stream)

        @max_cost("$1")
        def test_cut():
            transport = httpx2.MockTransport(cut)
            with anthropic.Anthropic(http_client=httpx2.Client(transport=transport)) as client:
                for _ in client.beta.messages.create(**{turn("More.")}, stream=True):
                    pass
        """
    )
    project.run("--llmcost-report=ledger.json")
    (row,) = project.ledger()["tests"]
    assert (row["verdict"]["state"], row["verdict"]["high"]) == ("unverified", None)

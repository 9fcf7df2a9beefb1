"""A Claude call on a route that is not metered is of unknown cost, and never $0."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from conftest import Project, calls_of

CHAT = "https://gateway.example/v1/chat/completions"
APP = """
    import asyncio
    import httpx2
    import pytest
    from pytest_llmcost import max_cost

    REPLY = {"id": "chatcmpl-1", "object": "chat.completion", "model": "claude-sonnet-4-6",
             "usage": {"prompt_tokens": 100_000, "completion_tokens": 1_000}}
    MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-6",
               "content": [{"type": "text", "text": "ok"}], "stop_reason": "end_turn",
               "usage": {"input_tokens": 100_000, "output_tokens": 1_000}}
    CHAT = "https://gateway.example/v1/chat/completions"
    MESSAGES = "https://api.anthropic.com/v1/messages"
    ASKED = {"model": "claude-sonnet-4-6", "max_tokens": 9,
             "messages": [{"role": "user", "content": "Hi"}]}

    def answer(request, status=200):
        return httpx2.Response(status, json=REPLY)

    def ask(url=CHAT, method="POST", handler=answer, **asked):
        with httpx2.Client(transport=httpx2.MockTransport(handler)) as client:
            return client.request(method, url, json={**ASKED, **asked})

    async def ask_async(url=CHAT):
        transport = httpx2.MockTransport(answer)
        async with httpx2.AsyncClient(transport=transport) as client:
            return await client.post(url, json=ASKED)
"""
SUITE = "--llmcost-max-suite=$0.01"
UNKNOWN = (
    "FAILED --llmcost-max-suite - not checked: $0.01 suite budget, "
    "gateway.example/v1/chat/completions is not metered"
)


@pytest.mark.parametrize("call", ["ask()", "asyncio.run(ask_async())"])
def test_a_suite_budget_is_not_kept_by_what_is_not_metered(project: Project, call: str) -> None:
    project.write(test_app=f"{APP}\n    def test_chat():\n        {call}\n")
    result = project.run(SUITE, "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*not metered*", UNKNOWN])
    (found,) = calls_of(project)
    assert found["caveats"] == ["unmetered-route: gateway.example/v1/chat/completions"]
    assert (found["evidence"], found["usd"]) == ("mocked", None)
    assert found["model"] == "claude-sonnet-4-6"


@pytest.mark.parametrize(
    ("url", "model"),
    [
        (
            "https://us-east5-aiplatform.googleapis.com/v1/projects/p/locations/us-east5/"
            "batchPredictionJobs",
            {"model": "publishers/anthropic/models/claude-sonnet-4-6"},
        ),
        (
            "https://bedrock.us-east-1.amazonaws.com/model-invocation-job",
            {"model": None, "modelId": "us.anthropic.claude-sonnet-4-6"},
        ),
    ],
)
def test_a_cloud_s_batch_is_not_metered_if_it_is_claude_s(
    project: Project, url: str, model: dict[str, Any]
) -> None:
    others = {**model, ("modelId" if "modelId" in model else "model"): "amazon.nova-pro-v1:0"}
    project.write(
        test_app=APP
        + f"""
    @max_cost("$1")
    def test_claude():
        ask({url!r}, **{model!r})

    def test_other():
        ask({url!r}, **{others!r})
    """
    )
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1, failed=1)
    (found,) = calls_of(project)
    assert found["caveats"][0].startswith("unmetered-route: ")


def test_a_class_s_budget_and_no_calls_at_all_are_not_kept(project: Project) -> None:
    project.write(
        test_app=APP
        + """
    @max_cost("$1")
    class TestChat:
        def test_chat(self):
            ask()

    @max_cost(calls=0)
    def test_none():
        ask()
    """
    )
    result = project.run("-v")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*llmcost.record(...)*"])


def test_what_the_test_states_settles_it(project: Project) -> None:
    project.write(
        test_app=APP
        + """
    def test_chat(llmcost):
        for number in range(2):
            used = ask().json()["usage"]
            llmcost.record({"input_tokens": used["prompt_tokens"] // 1_000, "output_tokens": 10},
                           model="claude-sonnet-4-6")
        ask()
        ask()
        llmcost.record({"id": "msg_9", **MESSAGE})
        llmcost.record({**MESSAGE, "id": "msg_10"})
        assert len(llmcost.calls) == 4
    """
    )
    result = project.run("--llmcost-max-suite=$1")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.OK


def test_other_vendors_and_free_requests_are_no_calls(project: Project) -> None:
    project.write(
        test_app=APP
        + """
    def test_others():
        ask("https://api.openai.com/v1/chat/completions", model="gpt-5")
        ask("https://api.anthropic.com/v1/models", "GET")
        ask("https://api.anthropic.com/v1/files")
        ask(handler=lambda request: answer(request, 429))
    """
    )
    result = project.run("--llmcost-max-suite=$0.01", "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.OK
    assert calls_of(project) == []


def test_a_redirect_a_bare_transport_and_an_escaped_path_are_priced(project: Project) -> None:
    project.write(
        test_app=APP
        + """
    def answer_message(request):
        if request.url.path == "/old":
            return httpx2.Response(307, headers={"location": MESSAGES})
        return httpx2.Response(200, json=MESSAGE)

    TRANSPORT = httpx2.MockTransport(answer_message)

    def test_redirect():
        with httpx2.Client(transport=TRANSPORT, follow_redirects=True) as client:
            assert client.post("https://gateway.example/old", json=ASKED).json() == MESSAGE

    def test_transport():
        response = TRANSPORT.handle_request(httpx2.Request("POST", MESSAGES, json=ASKED))
        assert b"msg_1" in response.read()

    def test_async_transport():
        async def main():
            request = httpx2.Request("POST", MESSAGES, json=ASKED)
            return await (await TRANSPORT.handle_async_request(request)).aread()
        assert b"msg_1" in asyncio.run(main())

    def test_escaped():
        ask("https://api.anthropic.com/v1/m%65ssages", handler=answer_message)

    def test_ordinary():
        ask(MESSAGES, handler=answer_message)
    """
    )
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(passed=5)
    assert [call["usd"] for call in calls_of(project)] == ["0.315"] * 5


def test_a_replayed_one_is_not_checked_either(project: Project) -> None:
    request = {"method": "POST", "uri": CHAT, "headers": {}, "body": '{"model": "claude-x"}'}
    response = {
        "status": {"code": 200, "message": "OK"},
        "headers": {"content-type": ["application/json"]},
        "body": {"string": json.dumps({"id": "chatcmpl-1", "usage": {"prompt_tokens": 9}})},
    }
    recorded = {"version": 1, "interactions": [{"request": request, "response": response}]}
    (project.path / "chat.yaml").write_text(yaml.safe_dump(recorded))
    project.write(
        test_app=APP
        + """
    import vcr

    def test_replayed():
        with vcr.use_cassette("chat.yaml", record_mode="none"), httpx2.Client() as client:
            assert client.post(CHAT, json=ASKED).json()["id"] == "chatcmpl-1"
    """
    )
    result = project.run(SUITE, "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([UNKNOWN])
    (found,) = calls_of(project)
    assert (found["evidence"], found["live"]) == ("billed", False)

"""Replayed calls that VCR answers with each other's replies cost what each of them has cost."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from typing import Any

import pytest
import yaml
from conftest import Project, calls_of
from standin import StandIn
from standin.server import Step

RECORDING = ("recording",)
GATHERS = """
    import asyncio
    import anthropic
    import pytest
    from pytest_llmcost import max_cost

    def asked(words, model="claude-opus-4-7", **more):
        message = {{"role": "user", "content": "word " * words}}
        return dict(model=model, max_tokens=100, messages=[message], **more)

    CACHED = [{{"type": "text", "text": "Be brief. " * 4000,
               "cache_control": {{"type": "ephemeral"}}}}]
    REQUESTS = {requests}

    async def ask(client, number, request):
        # The server gets them in this order, and answers the first one last.
        await asyncio.sleep(number * 0.05)
        answer = await client.messages.create(**request)
        if request.get("stream"):
            async for event in answer:
                pass

    async def ask_all():
        async with anthropic.AsyncAnthropic(max_retries=0) as client:
            await asyncio.gather(*(ask(client, *each) for each in enumerate(REQUESTS)))

    @pytest.mark.vcr
    @max_cost("$1")
    def test_gathers():
        asyncio.run(ask_all())
"""
KINDS = {
    "two prompts": "[asked(3000), asked(10)]",
    "two models": "[asked(50, 'claude-opus-4-7'), asked(50, 'claude-haiku-4-5')]",
    "a cache": "[asked(5, system=CACHED), asked(5)]",
    "streams": "[asked(3000, stream=True), asked(10, stream=True)]",
    "three": "[asked(3000), asked(10), asked(400, 'claude-haiku-4-5')]",
}
MODEL = "claude-sonnet-4-6"
"""$3 and $15 per million tokens."""


def spent(project: Project) -> Counter[tuple[str, str]]:
    return Counter((call["model"], call["usd"]) for call in calls_of(project))


def states(project: Project) -> list[str]:
    return [test["verdict"]["state"] for test in project.ledger()["tests"]]


@pytest.mark.parametrize("kind", KINDS)
def test_concurrent_calls_cost_in_replay_what_they_cost_live(
    project: Project, standin: StandIn, kind: str
) -> None:
    project.online(standin).write(test_app=GATHERS.format(requests=KINDS[kind]))
    others = KINDS[kind].count("asked") - 1
    standin.script(Step(until=lambda: standin.answered == others, delay_seconds=0.1))
    live = project.run("--record-mode=once", "--llmcost-report=ledger.json", plugins=RECORDING)
    live.assert_outcomes(passed=1)
    cost = spent(project)
    (cassette,) = project.path.rglob("test_gathers.yaml")
    recorded = [json.loads(each["request"]["body"]) for each in interactions(cassette.read_text())]
    sent = [each.body for each in standin.requests]
    assert recorded != sent, "VCR was to write them in another order"

    replay = project.run("--llmcost-report=ledger.json", plugins=RECORDING)
    replay.assert_outcomes(passed=1)
    assert spent(project) == cost
    assert states(project) == ["within"]
    assert {(call["evidence"], call["live"]) for call in calls_of(project)} == {("billed", False)}


def interactions(text: str) -> list[Any]:
    loaded: list[Any] = yaml.safe_load(text)["interactions"]
    return loaded


SENDS = """
    import json
    import httpx
    import pytest
    from pytest_llmcost import max_cost

    def send(*texts):
        with httpx.Client() as client:
            for text in texts:
                body = {"model": "claude-sonnet-4-6", "max_tokens": 2000,
                        "messages": [{"role": "user", "content": text}]}
                client.post("https://api.anthropic.com/v1/messages", content=json.dumps(body))
"""


def interaction(text: str, input_tokens: int, output_tokens: int) -> dict[str, Any]:
    asked = {
        "model": MODEL,
        "max_tokens": 2000,
        "messages": [{"role": "user", "content": text}],
    }
    reply = {
        "id": f"msg_{text}_{output_tokens}",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": "ok"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": input_tokens, "output_tokens": output_tokens},
    }
    kind = {"content-type": ["application/json"]}
    return {
        "request": {
            "method": "POST",
            "uri": "https://api.anthropic.com/v1/messages",
            "headers": kind,
            "body": json.dumps(asked),
        },
        "response": {
            "status": {"code": 200, "message": "OK"},
            "headers": kind,
            "body": {"string": json.dumps(reply)},
        },
    }


def write_cassette(project: Project, name: str, *recorded: dict[str, Any]) -> None:
    path = project.path / "cassettes" / "test_app" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"version": 1, "interactions": list(recorded)}))


A_SHORT = interaction("A", 1000, 100)  # $0.0045
A_LONG = interaction("A", 1000, 1000)  # $0.018
B = interaction("B", 3000, 100)  # $0.0105


@pytest.mark.parametrize(
    "recorded",
    [(B, A_SHORT, A_LONG), (A_SHORT, B, A_LONG), (B, A_LONG, A_SHORT)],
    ids=["last first", "between", "last first, the longer before the shorter"],
)
def test_equal_requests_take_each_a_recording_of_their_own(
    project: Project, recorded: tuple[dict[str, Any], ...]
) -> None:
    write_cassette(project, "test_three", *recorded)
    project.write(
        test_app=SENDS
        + """
    @pytest.mark.vcr
    @max_cost("$0.033")
    def test_three():
        send("A", "A", "B")
    """
    )
    result = project.run("--llmcost-report=ledger.json", plugins=RECORDING)
    result.assert_outcomes(passed=1)
    assert states(project) == ["within"]
    each = {(MODEL, "0.0045"): 1, (MODEL, "0.018"): 1, (MODEL, "0.0105"): 1}
    assert spent(project) == each


@pytest.mark.parametrize("recorded", [(A_SHORT, B), (B, A_SHORT)])
def test_a_recording_that_another_call_has_claimed_is_nobody_else_s(
    project: Project, recorded: tuple[dict[str, Any], ...]
) -> None:
    write_cassette(project, "test_two", *recorded)
    project.write(
        test_app=SENDS
        + """
    @pytest.mark.vcr
    @max_cost("$1")
    def test_two():
        send("A", "A")
    """
    )
    result = project.run("--llmcost-report=ledger.json", plugins=RECORDING)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert states(project) == ["unverified"]
    assert [call["usd"] for call in calls_of(project)] == ["0.0045", None]
    result.stdout.fnmatch_lines(["*changed*messages.0*"])


def test_a_prompt_that_changed_is_told_from_one_that_was_played_out_of_order(
    project: Project,
) -> None:
    write_cassette(project, "test_two", B, A_SHORT)
    project.write(
        test_app=SENDS
        + """
    @pytest.mark.vcr
    @max_cost("$1")
    def test_two():
        send("A", "another")
    """
    )
    result = project.run("--llmcost-report=ledger.json", plugins=RECORDING)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert states(project) == ["unverified"]
    by_evidence = {call["evidence"]: call["usd"] for call in calls_of(project)}
    assert by_evidence == {"billed": "0.0045", "stale": None}


def test_two_tests_that_share_a_cassette_both_cost_what_is_in_it(project: Project) -> None:
    write_cassette(project, "shared", B, A_SHORT)
    project.write(
        test_app=SENDS
        + """
    @pytest.mark.vcr
    @pytest.mark.default_cassette("shared.yaml")
    @pytest.mark.parametrize("time", [1, 2])
    @max_cost("$0.015")
    def test_both(time):
        send("A", "B")
    """
    )
    result = project.run("--llmcost-report=ledger.json", plugins=RECORDING)
    result.assert_outcomes(passed=2)
    assert states(project) == ["within"] * 2
    assert spent(project) == {(MODEL, "0.0045"): 2, (MODEL, "0.0105"): 2}


def test_a_changed_prompt_takes_what_the_others_have_left(project: Project) -> None:
    """Both are sent before either is reported; VCR plays each the recording of the other."""
    write_cassette(project, "test_two", B, A_SHORT)
    project.write(
        test_app=SENDS
        + """
    @pytest.mark.vcr
    @max_cost("$1")
    def test_two():
        send("A, changed", "B")
    """
    )
    project.run("--llmcost-report=ledger.json", plugins=RECORDING)
    changed, same = sorted(calls_of(project), key=lambda call: call["evidence"] == "billed")
    assert (same["evidence"], same["usd"]) == ("billed", "0.0105")
    assert (changed["evidence"], changed["usage"]["input_tokens"]) == ("stale", 1000)


def test_each_changed_prompt_takes_a_recording_of_its_own(project: Project) -> None:
    """The last two are played what the first two have claimed."""
    write_cassette(
        project, "test_four", A_SHORT, B, interaction("C", 10, 1), interaction("D", 20, 1)
    )
    project.write(
        test_app=SENDS
        + """
    @pytest.mark.vcr
    @max_cost("$1")
    def test_four():
        send("C", "D", "A, changed", "B, changed")
    """
    )
    project.run("--llmcost-report=ledger.json", plugins=RECORDING)
    stale = [call["usage"] for call in calls_of(project) if call["evidence"] == "stale"]
    assert [usage["input_tokens"] for usage in stale] == [1000, 3000]


@pytest.mark.parametrize("texts", ['"B", "B", "A"', '"B", "A", "B"'])
def test_a_call_that_was_played_another_s_error_costs_nothing_and_its_retry_its_own(
    project: Project, texts: str
) -> None:
    """A was overloaded in the recording; now B is sent first."""
    overloaded = interaction("A", 1, 1)
    overloaded["response"]["status"]["code"] = 529
    write_cassette(project, "test_two", overloaded, B, A_SHORT)
    project.write(
        test_app=SENDS
        + f"""
    @pytest.mark.vcr
    @max_cost("$0.015")
    def test_two():
        send({texts})
    """
    )
    result = project.run("--llmcost-report=ledger.json", plugins=RECORDING)
    result.assert_outcomes(passed=1)
    assert spent(project) == {(MODEL, "0.0045"): 1, (MODEL, "0.0105"): 1}


def test_requests_that_a_hook_makes_equal_are_equal(project: Project) -> None:
    write_cassette(project, "test_two", interaction("B on Monday", 3000, 100), A_SHORT)
    project.write(
        conftest="""
        def pytest_llmcost_normalize_payload(payload):
            content = payload["messages"][0]["content"].partition(" on ")[0]
            return {**payload, "messages": [{"role": "user", "content": content}]}
        """,
        test_app=SENDS
        + """
    @pytest.mark.vcr
    @max_cost("$0.015")
    def test_two():
        send("A", "B on Friday")
    """,
    )
    result = project.run("--llmcost-report=ledger.json", plugins=RECORDING)
    result.assert_outcomes(passed=1)
    assert spent(project) == {(MODEL, "0.0045"): 1, (MODEL, "0.0105"): 1}


def test_a_response_that_was_recorded_compressed_is_read_in_the_place_of_another(
    project: Project,
) -> None:
    packed = interaction("A", 1000, 100)
    packed["response"]["headers"] = {
        "content-type": ["application/json"],
        "content-encoding": ["gzip"],
    }
    body = packed["response"]["body"]
    body["string"] = gzip.compress(body["string"].encode())
    write_cassette(project, "test_two", B, packed)
    project.write(
        test_app=SENDS
        + """
    @pytest.mark.vcr
    @max_cost("$0.015")
    def test_two():
        send("A", "B")
    """
    )
    result = project.run("--llmcost-report=ledger.json", plugins=RECORDING)
    result.assert_outcomes(passed=1)
    assert spent(project) == {(MODEL, "0.0045"): 1, (MODEL, "0.0105"): 1}


@pytest.mark.parametrize("before", [[B], []], ids=["other played", "played"])
def test_of_a_recording_that_cannot_be_unpacked_the_reason_is_said(
    project: Project, before: list[dict[str, Any]]
) -> None:
    packed = interaction("A", 1000, 100)
    packed["response"]["headers"]["content-encoding"] = ["zstd"]
    packed["response"]["body"]["string"] = b"(\xb5/\xfd"
    write_cassette(project, "test_two", *before, packed)
    project.write(
        test_app=SENDS
        + """
    @pytest.mark.vcr
    @max_cost("$1")
    def test_two():
        send("A")
    """
    )
    result = project.run(plugins=RECORDING)
    said = (
        "the usage of a reply cannot be read (the body is encoded as zstd; record it uncompressed)"
    )
    result.stdout.fnmatch_lines([f"  unknown * {said}"])

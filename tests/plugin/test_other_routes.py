"""Bedrock's Converse and Anthropic's chat completions in tests: recorded, changed, stubbed."""

from __future__ import annotations

import pytest
from conftest import Project, calls_of
from standin import StandIn

APP = """
    import os
    import pytest
    import vcr
    from pytest_llmcost import max_cost

    STANDIN = os.environ["STANDIN"]
    MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"

    def converse(words, **more):
        import boto3
        client = boto3.client(
            "bedrock-runtime", region_name="us-east-1", endpoint_url=STANDIN,
            aws_access_key_id="any", aws_secret_access_key="any")
        with vcr.use_cassette("converse.yaml", filter_headers=["authorization"]):
            return client.converse(modelId=MODEL, inferenceConfig={"maxTokens": 50}, messages=[
                {"role": "user", "content": [{"text": "word " * words}]}], **more)

    def chat(words, **more):
        import httpx
        import openai

        class ToStandIn(httpx.HTTPTransport):
            def handle_request(self, request):
                request.url = httpx.URL(STANDIN + request.url.path)
                return super().handle_request(request)

        with openai.OpenAI(
            base_url="https://api.anthropic.com/v1", api_key="any", max_retries=0,
            http_client=httpx.Client(transport=ToStandIn())
        ) as client:
            said = client.chat.completions.create(
                model="claude-opus-4-7", messages=[{"role": "user", "content": "word " * words}],
                **more)
            return [*said] if more else said
"""


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    """Import once what takes half a second, by the worker that runs this and not by all."""
    pytest.importorskip("boto3")
    pytest.importorskip("openai")


@pytest.fixture
def app(project: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("STANDIN", standin.url)
    return project.online(standin)


def test_a_changed_prompt_of_converse_is_counted(app: Project) -> None:
    app.write(test_app=APP + "\n    def test_converse():\n        converse(10)\n")
    app.run("--llmcost-report=ledger.json").assert_outcomes(passed=1)
    (recorded,) = calls_of(app)
    assert (recorded["live"], recorded["evidence"]) == (True, "billed")
    app.write(test_app=APP + "\n    def test_converse():\n        converse(500)\n")
    app.run("--llmcost-report=ledger.json").assert_outcomes(passed=1)
    (stale,) = calls_of(app)
    assert (stale["evidence"], stale["usd"]) == ("stale", None)
    app.run("--llmcost-report=ledger.json", "--llmcost-record-mode=once")
    (call,) = calls_of(app)
    assert (call["live"], call["evidence"]) == (False, "recounted")
    assert call["caveats"] == ["changed-prompt: messages.0"]
    assert call["usage"]["input_tokens"] > 10 * recorded["usage"]["input_tokens"]


def test_a_changed_document_of_converse_is_unknown_with_the_reason(app: Project) -> None:
    first = "converse(10)"
    app.write(test_app=f"{APP}\n    def test_converse():\n        {first}\n")
    app.run().assert_outcomes(passed=1)
    guarded = "{'guardrailIdentifier': 'g', 'guardrailVersion': '1'}"
    app.write(
        test_app=f"{APP}\n    def test_it():\n        converse(10, guardrailConfig={guarded})\n"
    )
    app.run("--llmcost-report=ledger.json", "--llmcost-record-mode=once")
    (call,) = calls_of(app)
    assert call["usd"] is None
    assert call["caveats"] == [
        "not-recounted: guardrailConfig (new): count_tokens does not know Converse's "
        "guardrailConfig"
    ]


def test_chat_completions_of_anthropic_are_priced(app: Project) -> None:
    app.write(
        test_app=APP
        + """
    @max_cost("$1", calls=1)
    def test_whole():
        assert chat(10).usage.prompt_tokens > 0

    @max_cost("$1", calls=1)
    def test_streamed():
        assert chat(10, stream=True, stream_options={"include_usage": True})

    @max_cost("$1", calls=1)
    def test_without_its_usage():
        assert chat(10, stream=True)
    """
    )
    result = app.run("--llmcost-report=ledger.json")
    result.assert_outcomes(passed=2, failed=1)
    calls = {test["nodeid"].rpartition("::")[2]: test["calls"][0] for test in app.ledger()["tests"]}
    whole, streamed = calls["test_whole"], calls["test_streamed"]
    assert whole["usd"] == streamed["usd"] != "0"
    assert (whole["live"], whole["model"]) == (True, "claude-opus-4-7")
    assert calls["test_without_its_usage"]["usd"] is None


def test_a_changed_prompt_of_a_chat_is_unknown_with_the_reason(app: Project) -> None:
    body = "with vcr.use_cassette('chat.yaml', filter_headers=['authorization']):"
    for words in (10, 10, 20):
        app.write(
            test_app=f"{APP}\n    def test_chat():\n        {body}\n            chat({words})\n"
        )
        app.run("--llmcost-report=ledger.json", "--llmcost-record-mode=once").assert_outcomes(
            passed=1
        )
        (call,) = calls_of(app)
        if words == 10:
            assert (call["evidence"], call["caveats"]) == ("billed", ["chat/completions"])
    assert call["usd"] is None
    assert call["caveats"] == [
        "chat/completions",
        "not-recounted: messages.0: count_tokens does not take OpenAI's form of a request",
    ]
    state = "llmcost.record({'input_tokens': 100, 'output_tokens': 10}, model='claude-opus-4-7')"
    app.write(
        test_app=f"{APP}\n    def test_chat(llmcost):\n        {body}\n            chat(20)\n"
        f"        {state}\n"
    )
    app.run("--llmcost-report=ledger.json", "--llmcost-record-mode=once").assert_outcomes(passed=1)
    (call,) = calls_of(app)  # in its place, as the message says
    assert (call["evidence"], call["caveats"]) == ("declared", ["chat/completions"])


def test_what_a_stub_says_is_a_mock_s(app: Project) -> None:
    app.write(
        test_app=APP
        + """
    def test_stubbed(llmcost):
        import boto3
        from botocore.stub import Stubber
        client = boto3.client("bedrock-runtime", region_name="us-east-1",
                              aws_access_key_id="any", aws_secret_access_key="any")
        with Stubber(client) as stub:
            stub.add_response("converse", {
                "output": {"message": {"role": "assistant", "content": [{"text": "ok"}]}},
                "stopReason": "end_turn", "metrics": {"latencyMs": 1},
                "usage": {"inputTokens": 100, "outputTokens": 10, "totalTokens": 110}})
            client.converse(modelId=MODEL, messages=[
                {"role": "user", "content": [{"text": "Hi"}]}])
        assert [call.evidence for call in llmcost.calls] == ["mocked"]
    """
    )
    app.run("--llmcost-report=ledger.json").assert_outcomes(passed=1)
    (call,) = calls_of(app)
    assert (call["usd"], call["live"]) == ("0.000495", False)

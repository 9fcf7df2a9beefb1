"""Which requests sample from Claude on a route that is not metered, and which do not."""

from __future__ import annotations

import json

import pytest

from pytest_llmcost.capture.transports import claude_address
from pytest_llmcost.responses.endpoints import recognise

API = "https://api.anthropic.com"
BEDROCK = "https://bedrock-runtime.us-east-1.amazonaws.com"
CHAT = "/v1/chat/completions"


def body_of(model: str) -> bytes:
    return json.dumps({"model": model, "messages": []}).encode()


@pytest.mark.parametrize(
    ("url", "model", "route"),
    [
        (API + "/v1/complete", "claude-2.1", "api.anthropic.com/v1/complete"),
        (API + "//v1//messages", "any", "api.anthropic.com//v1//messages"),
        (API + "/V1/Messages", "any", "api.anthropic.com/V1/Messages"),
        (API + "/v1/messages;x", "any", "api.anthropic.com/v1/messages"),
        (API + "/v1/Responses", "any", "api.anthropic.com/v1/Responses"),
        ("http://localhost:4000" + CHAT, "anthropic/claude-opus-4-7", "localhost" + CHAT),
        ("http://localhost:4000" + CHAT, "databricks-claude-opus-4-7", "localhost" + CHAT),
        ("https://openrouter.ai/api/v1/responses", "anthropic/claude-4", None),
        (BEDROCK + "/openai" + CHAT, "us.anthropic.claude-opus-4-7", None),
        ("https://gw.example/account-7/key-8" + CHAT, "claude-opus-4-7", "gw.example/…" + CHAT),
        (
            "https://me:key-8@gw.example/v2/completions",
            "claude-opus-4-7",
            "gw.example/…/completions",
        ),
        (API + "/v1/responses", "any", "api.anthropic.com/v1/responses"),
    ],
)
def test_a_claude_call_on_another_route_is_found(url: str, model: str, route: str | None) -> None:
    endpoint = recognise("post", url, body_of(model))
    assert claude_address(url)  # or no transport would ask
    assert endpoint is not None
    assert endpoint.kind == "unmetered"
    assert route in (None, endpoint.route)


@pytest.mark.parametrize(
    ("method", "url", "model"),
    [
        ("POST", "https://api.openai.com" + CHAT, "gpt-5"),
        ("POST", "https://api.openai.com/v1/responses", "gpt-5"),
        ("POST", "http://localhost:4000" + CHAT, "mistral/claudette"),
        ("POST", "https://api.openai.com/v1/models/claude/completion_tokens", "claude-x"),
        ("GET", API + CHAT, "claude-opus-4-7"),
        ("GET", API + "/v1/models", ""),
        ("POST", API + "/v1/files", ""),
        ("POST", API + "/v1/messages/batches/msgbatch_1/cancel", ""),
        ("POST", API + "/v1/messages/count_tokens", "claude-opus-4-7"),
        ("POST", API + "/v1/messages", "claude-opus-4-7"),
        ("POST", API + CHAT, "claude-opus-4-7"),
        ("POST", BEDROCK + "/model/anthropic.claude-v2/converse", ""),
        ("POST", BEDROCK + "/model/amazon.nova-pro-v1%3A0/converse", ""),
        ("POST", "https://evil.example/?u=https://api.anthropic.com/v1/complete", ""),
        ("POST", "https://[api.anthropic.com/v1/complete", ""),
    ],
)
def test_others_calls_and_free_requests_are_not(method: str, url: str, model: str) -> None:
    endpoint = recognise(method, url, body_of(model))
    assert endpoint is None or endpoint.kind != "unmetered"


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b'{"model": 3}', b'"model"'])
def test_without_a_model_only_the_host_tells(body: bytes) -> None:
    assert recognise("POST", "https://api.openai.com" + CHAT, body) is None
    assert recognise("POST", API + "/v1/complete", body) is not None


@pytest.mark.parametrize(
    "path", ["/v1/m%65ssages", "/v1/%6Dessages?x=%2F", "/%76%31/messages", "/v1%2Fmessages"]
)
def test_escapes_that_say_nothing_leave_a_route_metered(path: str) -> None:
    endpoint = recognise("POST", API + path)
    assert endpoint is not None
    assert endpoint.kind == "messages"

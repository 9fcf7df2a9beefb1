from __future__ import annotations

from typing import Any

import pytest

from pytest_llmcost.capture.transports import claude_address
from pytest_llmcost.responses.endpoints import Endpoint, recognise

BEDROCK = "https://bedrock-runtime.us-east-1.amazonaws.com"
VERTEX = "https://us-east5-aiplatform.googleapis.com/v1/projects/p/locations"
CLAUDE = "publishers/anthropic/models/claude-opus-4-7"
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:"


def seen(url: str, method: str = "POST") -> Endpoint:
    endpoint = recognise(method, url)
    assert endpoint is not None
    assert claude_address(url)  # or no transport would ask
    return endpoint


@pytest.mark.parametrize(
    "url",
    [
        "https://api.anthropic.com/v1/messages",
        "https://api.anthropic.com/v1/messages?beta=true",
        "https://api.anthropic.com/v1/messages/",
        "http://localhost:4000/anthropic/v1/messages",
        "https://gateway.example/team/a%20b/anthropic/v1/messages?beta=true&x=1",
        "https://aws-external-anthropic.us-east-1.api.aws/v1/messages",
    ],
)
def test_messages_are_known_under_any_host_prefix_and_query(url: str) -> None:
    assert seen(url) == Endpoint(kind="messages")


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("GET", "https://api.anthropic.com/v1/messages"),
        ("POST", "https://api.mail.example/v3/list/messages"),
        ("POST", "https://api.example/v1/messages/42/reactions"),
        ("POST", "https://api.example/v1/messages_archive"),
        ("POST", "https://api.example/xv1/messages"),
        ("GET", "https://api.anthropic.com/v1/messages/batches"),
        ("GET", "https://api.anthropic.com/v1/messages/batches/msgbatch_1"),
        ("POST", "https://api.anthropic.com/v1/messages/batches/msgbatch_1/cancel"),
        ("POST", "https://api.anthropic.com/v1/messages/batches/msgbatch_1/results"),
        ("DELETE", "https://api.anthropic.com/v1/messages/batches/msgbatch_1"),
        ("GET", "https://api.anthropic.com/v1/models"),
        ("POST", f"{BEDROCK}/model/amazon.titan-text-express-v1/invoke"),
        ("POST", f"{BEDROCK}/model/amazon.nova-pro-v1%3A0/converse"),
        ("POST", f"{BEDROCK}/model/{PROFILE}imported-model%2Fabc123/invoke"),
        ("POST", f"{BEDROCK}/model/{PROFILE}custom-model-deployment%2Fabc123/converse"),
        ("POST", f"{BEDROCK}/model/{PROFILE}default-prompt-router%2Fmeta.llama:1/converse"),
        ("POST", f"{BEDROCK}/model/{PROFILE}inference-profile%2Fus.meta.llama3/converse"),
        ("POST", "https://api.openai.com/v1/chat/completions"),
        ("GET", "https://api.anthropic.com/v1/chat/completions"),
        ("GET", f"{BEDROCK}/model/anthropic.claude-v2/invoke"),
        ("POST", f"{VERTEX}/global/publishers/mistralai/models/mistral-large:rawPredict"),
        ("POST", f"{VERTEX}/global/publishers/google/models/gemini:generateContent"),
        ("POST", "not a url"),
        ("POST", "https://[::1/v1/messages"),
        ("POST", ""),
    ],
)
def test_other_requests_are_not_claude_calls(method: str, url: str) -> None:
    assert recognise(method, url) is None


def test_the_method_may_be_spelt_in_small_letters() -> None:
    assert recognise("post", "https://api.anthropic.com/v1/messages") is not None


@pytest.mark.parametrize(
    ("headers", "payload", "replies", "is_claude"),
    [
        ({}, {"to": "a@example.test"}, [], False),
        ({}, {"to": "a@example.test"}, [{"id": "1"}, {"queued": True}], False),
        ({}, {"to": "a@example.test"}, [{"id": "1"}, {"usage": {"input_tokens": 1}}], True),
        ({"anthropic-version": "2023-06-01"}, {}, [], True),
        ({}, {"model": "m", "messages": [], "max_tokens": 1}, [], True),
    ],
)
def test_a_path_of_messages_is_claudes_if_the_request_or_any_reply_is(
    headers: dict[str, str], payload: Any, replies: list[Any], is_claude: bool
) -> None:
    endpoint = seen("https://mail.example/v1/messages")
    assert endpoint.is_claude(headers, payload, replies) is is_claude


@pytest.mark.parametrize(
    ("payload", "replies", "is_claude"),
    [
        ({"anthropic_version": "bedrock-2023-05-31"}, [], True),
        ({"prompt": "Hi"}, [], False),
        ({"prompt": "Hi"}, [{"model": "other"}, {"model": "claude-opus-4-7"}], True),
    ],
)
def test_a_model_behind_a_profile_of_ones_own_is_claude_by_its_version_or_a_reply(
    payload: Any, replies: list[Any], is_claude: bool
) -> None:
    profile = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile%2Fab12"
    endpoint = seen(f"{BEDROCK}/model/{profile}/invoke")
    assert endpoint.is_claude({}, payload, replies) is is_claude


def test_a_model_of_anthropic_is_claude_whatever_its_name() -> None:
    assert seen(f"{BEDROCK}/model/anthropic.next-1-v1:0/invoke").kind == "messages"


def test_counting_and_batches_are_told_apart_from_messages() -> None:
    base = "https://api.anthropic.com/v1/messages"
    assert seen(f"{base}/count_tokens?beta=true").kind == "count_tokens"
    assert seen(f"{base}/batches?beta=true").kind == "batch_create"
    results = seen(f"{base}/batches/msgbatch_1/results", "GET")
    assert (results.kind, results.batch_id) == ("batch_results", "msgbatch_1")


@pytest.mark.parametrize(
    ("host", "platform"),
    [
        ("x.services.ai.azure.com", "foundry"),
        ("aws-external-anthropic.us-west-2.api.aws", None),
        # Without the body, which names the model, the region's premium is unknown.
        ("bedrock-mantle.us-east-1.api.aws", "bedrock-unknown"),
        ("bedrock-runtime.us-east-1.amazonaws.com", "bedrock-unknown"),
        ("bedrock-runtime-fips.us-gov-west-1.amazonaws.com", "bedrock-gov"),
        ("vpce-1.bedrock-runtime.us-east-1.vpce.amazonaws.com", "bedrock-unknown"),
        ("my-bedrock-mantle.example", None),
    ],
)
def test_clouds_with_anthropics_own_paths_are_known_by_their_hosts(
    host: str, platform: str | None
) -> None:
    endpoint = seen(f"https://{host}/anthropic/v1/messages")
    assert (endpoint.platform, endpoint.model) == (platform, None)


@pytest.mark.parametrize(
    ("model", "platform"),
    [
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "bedrock-regional"),
        ("anthropic.claude-3-haiku-20240307-v1%3A0", "bedrock-regional"),
        ("global.anthropic.claude-opus-4-6-v1", "bedrock"),
        (f"{PROFILE}inference-profile%2Fglobal.anthropic.claude-opus-4-6-v1", "bedrock"),
        (f"{PROFILE}inference-profile%2Feu.anthropic.claude-opus-4-6-v1", "bedrock-regional"),
        (f"{PROFILE}inference-profile/eu.anthropic.claude-opus-4-6-v1", "bedrock-regional"),
    ],
)
def test_bedrock_ids_tell_global_from_regional(model: str, platform: str) -> None:
    endpoint = seen(f"{BEDROCK}/model/{model}/invoke")
    assert endpoint.platform == platform
    assert endpoint.model == model.replace("%3A", ":").replace("%2F", "/")
    assert endpoint.stream is False


@pytest.mark.parametrize(
    "resource",
    [
        "application-inference-profile%2Fabc123",
        "prompt%2FABCDEFGHIJ:1",
        "provisioned-model%2Fabc123",
    ],
)
def test_an_arn_that_names_no_model_is_an_unknown_endpoint(resource: str) -> None:
    endpoint = seen(f"{BEDROCK}/model/{PROFILE}{resource}/invoke-with-response-stream")
    assert endpoint.stream is True
    assert endpoint.platform == "bedrock-unknown"


@pytest.mark.parametrize(
    "url",
    [
        f"{BEDROCK}/model/us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0/invoke",
        f"{BEDROCK}/model/arn:aws-us-gov:bedrock:us-gov-west-1:1:inference-profile%2F"
        "us-gov.anthropic.claude-opus-4-6-v1/invoke",
        f"{BEDROCK}/model/arn:aws-us-gov:bedrock:us-gov-west-1:1:application-inference-profile%2F"
        "abc/invoke",
        "https://bedrock-runtime.us-gov-west-1.amazonaws.com/model/anthropic.claude-opus-4-6-v1/invoke",
        "https://bedrock-runtime-fips.us-gov-east-1.amazonaws.com/model/anthropic.claude-v2/invoke",
        "https://bedrock-mantle.us-gov-west-1.api.aws/anthropic/v1/messages",
    ],
)
def test_govcloud_is_known_by_its_ids_its_arns_and_its_hosts(url: str) -> None:
    assert seen(url).platform == "bedrock-gov"


def test_bedrock_counts_its_own_way() -> None:
    model = "anthropic.claude-opus-4-6-v1"
    assert seen(f"{BEDROCK}/model/{model}/count-tokens").kind == "count_tokens"


@pytest.mark.parametrize(
    ("location", "platform"), [("global", "vertex"), ("us-east5", "vertex-regional")]
)
def test_vertex_locations_tell_global_from_regional(location: str, platform: str) -> None:
    endpoint = seen(f"{VERTEX}/{location}/{CLAUDE}:rawPredict")
    assert (endpoint.platform, endpoint.model) == (platform, "claude-opus-4-7")
    assert endpoint.stream is False
    assert seen(f"{VERTEX}/{location}/{CLAUDE}:streamRawPredict").stream is True


@pytest.mark.parametrize(
    ("location", "platform"), [("global", "vertex"), ("us-east5", "vertex-regional")]
)
@pytest.mark.parametrize("host", ["claude.googleapis.com", "gateway.example/google"])
def test_what_anthropic_manages_on_google_cloud_has_its_location_in_the_path(
    host: str, location: str, platform: str
) -> None:
    base = f"https://{host}/v1/projects/p/locations/{location}/workspaces/w/invoke/v1/messages"
    assert seen(base).kind == "messages"
    for method, path in (("POST", ""), ("POST", "/batches"), ("GET", "/batches/b/results")):
        assert seen(base + path, method).platform == platform


def test_vertex_decodes_dated_ids_and_counts_at_a_model_of_its_own() -> None:
    dated = "publishers/anthropic/models/claude-opus-4-1%4020250805"
    assert seen(f"{VERTEX}/us/{dated}:rawPredict").model == "claude-opus-4-1@20250805"
    counting = "publishers/anthropic/models/count-tokens"
    assert seen(f"{VERTEX}/us/{counting}:rawPredict").kind == "count_tokens"


def test_vertex_without_a_location_is_an_unknown_endpoint() -> None:
    endpoint = seen(f"https://gateway.example/{CLAUDE}:rawPredict")
    assert endpoint.platform == "vertex-unknown"

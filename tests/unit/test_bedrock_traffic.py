"""Public cassettes of Bedrock, played to botocore's own transport: priced call by call."""

from __future__ import annotations

import json
from base64 import b64decode
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from capture_kit import capturing
from recorded_traffic import RESPONSES_PATH

vcr = pytest.importorskip("vcr")
awsrequest = pytest.importorskip("botocore.awsrequest")
eventstream = pytest.importorskip("botocore.eventstream")
httpsession = pytest.importorskip("botocore.httpsession")


def cassettes() -> list[Any]:
    found = [
        path
        for path in sorted((RESPONSES_PATH.parent / "cassettes").rglob("*.yaml"))
        if "bedrock-runtime" in path.read_text(errors="replace")
    ]
    if not found:
        reason = "the recorded traffic is not beside this repository"
        return [pytest.param(Path("none"), marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(path, id=f"{path.parent.name}-{path.stem}") for path in found]


def usage_in(body: bytes) -> tuple[int, int] | None:
    """The prompt's tokens and the output's, as the recorded bytes say; read with botocore."""
    said: dict[str, int] = {}
    payloads = [body]
    if body[:1] == b"\0":
        frames = eventstream.EventStreamBuffer()
        frames.add_data(body)
        payloads = [event.payload for event in frames]
    for payload in payloads:
        event = json.loads(payload)
        if "bytes" in event:
            event = json.loads(b64decode(event["bytes"]))
        for part in (event, event.get("message") or {}):
            said |= {key: n for key, n in (part.get("usage") or {}).items() if isinstance(n, int)}
    if "inputTokens" in said:
        return said["inputTokens"], said["outputTokens"]
    if "input_tokens" not in said:
        return None
    cached = ("cache_creation_input_tokens", "cache_read_input_tokens")
    return said["input_tokens"] + sum(said.get(key, 0) for key in cached), said["output_tokens"]


@pytest.mark.parametrize("path", cassettes())
def test_every_call_of_a_public_cassette_is_read_as_it_was_billed(path: Path) -> None:
    kept = [
        each
        for each in yaml.safe_load(path.read_text())["interactions"]
        if "bedrock-runtime" in each["request"]["uri"]
    ]
    bodies = []
    with capturing() as purse, vcr.use_cassette(str(path), record_mode="none"):
        for asked in (each["request"] for each in kept):
            sent = asked.get("body") or json.dumps(asked.get("parsed_body"))
            request = awsrequest.AWSRequest(method="POST", url=asked["uri"], data=sent)
            response = httpsession.URLLib3Session().send(request.prepare())
            bodies += [response.content] if response.status_code == 200 else []
        calls = purse.calls
    assert len(calls) == len(bodies)
    billed = [each for each in purse.seen if each.answer is not None]
    for call, body, seen in zip(calls, bodies, billed, strict=True):
        assert seen.replay is not None
        assert seen.replay.body == seen.payload
        stated = usage_in(body)
        assert (call.usage.prompt_tokens, call.usage.output_tokens) == (stated or (0, 0))
        # Models before Claude 3 Haiku have no price here, and one has no usage.
        no_price = ("unknown-model", "unreadable-response")
        assert (call.usd is None) == call.has_caveat(*no_price)


@pytest.mark.skipif(not RESPONSES_PATH.is_file(), reason="no recorded traffic")
def test_the_regional_profile_of_a_public_suite_costs_a_tenth_more() -> None:
    (path,) = (RESPONSES_PATH.parent / "cassettes").glob(
        "**/test_provider_bedrock/test_anthropic_simple_streaming_request.yaml"
    )
    (kept,) = yaml.safe_load(path.read_text())["interactions"]
    asked = kept["request"]
    sent = asked.get("body") or json.dumps(asked.get("parsed_body"))
    with capturing() as purse, vcr.use_cassette(str(path), record_mode="none"):
        request = awsrequest.AWSRequest(method="POST", url=asked["uri"], data=sent)
        assert httpsession.URLLib3Session().send(request.prepare()).content
    # 26 tokens in at $3.30 and 5 out at $16.50 per million
    assert purse.call.usd == Decimal("0.0001683")

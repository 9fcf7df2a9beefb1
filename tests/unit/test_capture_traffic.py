"""Every recorded body through real clients, cut at random: exactly the usage it states."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import anthropic
import anyio
import httpx2
import pytest
from capture_kit import ASKED, HEADERS, LIBRARIES, Purse, capturing, chunks
from recorded_traffic import billed_lines, body_of, needs_traffic

from pytest_llmcost.call import Call
from pytest_llmcost.prices.usage import Usage

pytestmark = needs_traffic
Line = dict[str, Any]


def cut(line: Line) -> list[bytes]:
    body, dice = body_of(line), random.Random(line["id"])
    pieces, start = [], 0
    while start < len(body):
        size = dice.choice((1, 3, 17, 300, 4_000, 20_000))
        pieces.append(body[start : start + size])
        start += size
    return pieces


def server(library: ModuleType, line: Line) -> Callable[[Any], Any]:
    headers = {"content-type": line["content_type"]} if line["content_type"] else {}
    return lambda request: library.Response(
        line["status"], headers=headers, stream=chunks(library, cut(line))
    )


def url_of(line: Line) -> str:
    return f"https://{line['host'] or 'api.anthropic.com'}{line['path']}"


def ids_in(line: Line) -> int:
    body = body_of(line)
    if line["stream"] and line["body"] is None:
        return 1
    starts = [
        json.loads(event[5:])
        for event in body.splitlines()
        if event.startswith(b"data:") and b'"message_start"' in event
    ]
    return len({start["message"]["id"] for start in starts}) or 1


def check(purse: Purse, lines: list[Line]) -> int:
    """Compare call by call; return how many were compared exactly."""
    calls = purse.calls
    assert len(calls) == len(lines)
    exact = 0
    for call, line in zip(calls, lines, strict=True):
        if ids_in(line) > 1:
            check_several(call, line)
            continue
        assert call.usage == Usage(**line["usage"]), line["id"]
        assert "truncated-stream" not in call.caveats, line["id"]
        exact += 1
    return exact


def check_several(call: Call, line: Line) -> None:
    """The line states the last message; a call is all of them together."""
    assert len(call.sampling_calls) > 1, line["id"]
    assert call.sampling_calls[-1].usage == Usage(**line["usage"]), line["id"]


def stated_by(lines: list[Line]) -> tuple[int, int]:
    several = sum(ids_in(line) > 1 for line in lines)
    return len(lines) - several, several


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: each.__name__)
def test_every_body_through_a_synchronous_client(library: ModuleType) -> None:
    lines = billed_lines()
    with capturing() as purse:
        for line in lines:
            client = library.Client(transport=library.MockTransport(server(library, line)))
            client.post(url_of(line), json=ASKED, headers=HEADERS)
    assert check(purse, lines) == 664


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: each.__name__)
def test_every_body_through_an_asynchronous_client(library: ModuleType) -> None:
    lines = billed_lines()

    async def main() -> None:
        for line in lines:
            transport = library.MockTransport(server(library, line))
            async with library.AsyncClient(transport=transport) as client:
                await client.post(url_of(line), json=ASKED, headers=HEADERS)

    with capturing() as purse:
        anyio.run(main)
    assert check(purse, lines) == 664


def sdk_of(line: Line, **options: Any) -> Any:
    if line["provider"] == "bedrock":
        return anthropic.AnthropicBedrock(
            aws_access_key="none", aws_secret_key="none", aws_region="us-east-1", **options
        )
    return anthropic.Anthropic(api_key="none", **options)


def asked_of(line: Line) -> dict[str, Any]:
    model = ASKED["model"]  # the SDK warns of retired ones
    if line["provider"] == "bedrock":
        model = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
    return {**ASKED, "model": model, "stream": line["stream"]}


def names_events(line: Line) -> bool:
    """The SDK passes over events that only their data names; capture does not."""
    return line["body"] is None or "event:" in line["body"]


def test_every_body_through_the_sdk() -> None:
    lines = billed_lines()
    with capturing() as purse:
        for line in lines:
            transport = httpx2.MockTransport(server(httpx2, line))
            client = sdk_of(line, http_client=httpx2.Client(transport=transport))
            reply = client.messages.create(**asked_of(line))
            if line["stream"]:
                assert [*reply] or not names_events(line), line["id"]
    assert check(purse, lines) == 664
    assert stated_by(lines) == (664, 6)


def test_streams_and_whole_messages_bill_the_same() -> None:
    """The SDK's own final message of each recorded stream, sent whole, is the same call."""
    lines = [line for line in billed_lines() if line["stream"] and line["provider"] == "anthropic"]
    # The SDK reads nothing of the others.
    read = [line for line in lines if ids_in(line) == 1 and names_events(line)]
    assert (len(lines), len(read)) == (285, 255)
    with capturing() as purse:
        for line in read:
            transport = httpx2.MockTransport(server(httpx2, line))
            client = sdk_of(line, http_client=httpx2.Client(transport=transport))
            with client.messages.stream(**ASKED) as stream:
                final = stream.get_final_message()
            whole = {**line, "stream": False, "content_type": "application/json"}
            whole["body"] = json.dumps(merged_by_sdk(final, line))
            transport = httpx2.MockTransport(server(httpx2, whole))
            sdk_of(line, http_client=httpx2.Client(transport=transport)).messages.create(**ASKED)
    calls = purse.calls
    for line, one, other in zip(read, calls[::2], calls[1::2], strict=True):
        assert (one.usage, one.sampling_calls) == (other.usage, other.sampling_calls), line["id"]
        # The SDK drops the summary of a compaction, by which one without an entry is known.
        caveats = tuple(each for each in one.caveats if each != "usage-disagrees: compaction")
        assert (one.context, caveats) == (other.context, other.caveats), line["id"]


def merged_by_sdk(final: Any, line: Line) -> Any:
    """What the SDK made of the stream; the usage, of which it drops parts, as recorded."""
    return {**final.model_dump(mode="json", warnings=False), "usage": line["usage_raw"]}

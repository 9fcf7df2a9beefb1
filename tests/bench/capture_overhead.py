"""What capture costs: the SDK against a MockTransport, with and without, side by side.

A stream whose lines nothing parses is shown too, without a target; and processor time of calls
through the other libraries to a server that answers at once.

Blocks with and without capture alternate, so that a machine which gets busy slows down both; the
ratio is that of the fastest quarter of each.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import boto3  # type: ignore[import-untyped]
import httpx2
import requests

from pytest_llmcost.capture.capture import Capture
from pytest_llmcost.capture.request import CapturedRequest

from .figures import Figure

MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-4-7",
    "content": [{"type": "text", "text": "Hello there"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 25, "output_tokens": 11, "service_tier": "standard"},
}
STREAM_BYTES = 10_000_000
CHUNK_BYTES = 16_384
STANDIN_TOKENS = (4, 5)
"""Of its reply, by tokenizer."""
AT_ONCE = 20
ASKED: dict[str, Any] = {
    "model": "claude-opus-4-7",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hi"}],
}


class Purse:
    """Only counts."""

    def __init__(self) -> None:
        self.calls = 0

    def report(self, request: CapturedRequest) -> None:
        assert request.answer is not None
        assert request.answer.usage.output_tokens in (11, *STANDIN_TOKENS)
        self.calls += 1


class Chunks(httpx2.SyncByteStream):
    """A body that comes in pieces, as from a socket."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks

    def __iter__(self) -> Any:
        return iter(self.chunks)


def event(data: dict[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


def stream_chunks() -> list[bytes]:
    delta = {"type": "text_delta", "text": "Lorem ipsum dolor sit amet, consectetur "}
    text = event({"type": "content_block_delta", "index": 0, "delta": delta})
    empty = {"type": "text", "text": ""}
    body = event({"type": "message_start", "message": {**MESSAGE, "content": []}})
    body += event({"type": "content_block_start", "index": 0, "content_block": empty})
    body += text * (STREAM_BYTES // len(text))
    body += event({"type": "content_block_stop", "index": 0})
    final = {"stop_reason": "end_turn", "stop_sequence": None}
    body += event({"type": "message_delta", "delta": final, "usage": {"output_tokens": 11}})
    body += event({"type": "message_stop"})
    return [body[start : start + CHUNK_BYTES] for start in range(0, len(body), CHUNK_BYTES)]


def client_of(respond: Callable[[httpx2.Request], httpx2.Response]) -> anthropic.Anthropic:
    transport = httpx2.MockTransport(respond)
    # No key-shaped text stands in this repository.
    return anthropic.Anthropic(api_key="none", http_client=httpx2.Client(transport=transport))


def whole_call() -> Callable[[], None]:
    body = json.dumps(MESSAGE).encode()
    kind = {"content-type": "application/json"}
    client = client_of(lambda request: httpx2.Response(200, headers=kind, content=body))

    def call() -> None:
        client.messages.create(**ASKED)

    return call


def streamed_call() -> Callable[[], None]:
    chunks = stream_chunks()
    kind = {"content-type": "text/event-stream"}
    client = client_of(lambda request: httpx2.Response(200, headers=kind, stream=Chunks(chunks)))

    def call() -> None:
        for _ in client.messages.create(**ASKED, stream=True):
            pass

    return call


def raw_stream() -> Callable[[], None]:
    chunks = stream_chunks()
    kind = {"content-type": "text/event-stream"}
    mock = httpx2.MockTransport(
        lambda request: httpx2.Response(200, headers=kind, stream=Chunks(chunks))
    )
    client = httpx2.Client(transport=mock)
    url = "https://api.anthropic.com/v1/messages"

    def call() -> None:
        asked = {"anthropic-version": "2023-06-01"}
        with client.stream("POST", url, json=ASKED, headers=asked) as response:
            for _ in response.iter_lines():
                pass

    return call


def boto_call(url: str) -> Callable[[], None]:
    client = boto3.client(
        "bedrock-runtime",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
    )
    said = {"role": "user", "content": [{"text": "Hi"}]}

    def call() -> None:
        client.converse(modelId="anthropic.claude-sonnet-4-6", messages=[said])

    return call


def requests_call(url: str) -> Callable[[], None]:
    session = requests.Session()

    def call() -> None:
        asked = {"anthropic-version": "2023-06-01", "x-api-key": "none"}
        session.post(f"{url}/v1/messages", json=ASKED, headers=asked).json()

    return call


def aiohttp_calls(url: str) -> Callable[[], None]:
    """Many in one loop, for each needs one."""

    async def main() -> None:
        asked = {"anthropic-version": "2023-06-01", "x-api-key": "none"}
        async with aiohttp.ClientSession() as session:
            for _ in range(AT_ONCE):
                async with session.post(f"{url}/v1/messages", json=ASKED, headers=asked) as reply:
                    await reply.json()

    return lambda: asyncio.run(main())


@contextmanager
def server() -> Iterator[str]:
    """A stand-in in a process of its own, whose work is not measured."""
    folder = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "standin", "--port", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=folder, text=True, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.kill()


def seconds(call: Callable[[], None], times: int) -> float:
    started = time.process_time()  # of this process alone, whatever else the machine does
    for _ in range(times):
        call()
    return time.process_time() - started


def ratio(call: Callable[[], None], *, blocks: int, times: int, each: int = 1) -> float:
    purse = Purse()
    capture = Capture(owner=lambda: purse, report=purse.report, clock=time.time)
    seconds(call, times)
    without, with_ = [], []
    # A session installs capture once; Python then has to specialise what it has specialised before.
    again = max(1, times // 4)
    for _ in range(blocks):
        seconds(call, again)
        without.append(seconds(call, times))
        capture.install()
        seconds(call, again)
        with_.append(seconds(call, times))
        capture.disable()
        capture.drain()
    assert purse.calls == blocks * (again + times) * each
    return fastest(with_) / fastest(without)


def fastest(timings: list[float]) -> float:
    quarter = sorted(timings)[: max(1, len(timings) // 4)]
    return sum(quarter) / len(quarter)


def measure(quick: bool) -> list[Figure]:
    few = 3 if quick else 1
    call = ratio(whole_call(), blocks=120 // few, times=20)
    stream = ratio(streamed_call(), blocks=6 // few, times=1)
    lines = ratio(raw_stream(), blocks=12 // few, times=1)
    with server() as url:
        by_requests = ratio(requests_call(url), blocks=20 // few, times=10)
        by_boto = ratio(boto_call(url), blocks=20 // few, times=10)
        by_aiohttp = ratio(aiohttp_calls(url), blocks=20 // few, times=1, each=AT_ONCE)
    return [
        Figure("call through requests, captured : not", by_requests, target=1.05),
        Figure("call through boto3, captured : not", by_boto, target=1.05),
        Figure("call through aiohttp, captured : not", by_aiohttp, target=1.05),
        Figure("call through the SDK, captured : not", call, target=1.03),
        Figure("10 MB stream through the SDK, captured : not", stream, target=1.03),
        Figure("10 MB stream of raw lines, captured : not", lines),
    ]

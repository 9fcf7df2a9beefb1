"""What capture costs in the way of a call: with it and without, side by side in one process.

The SDK has a MockTransport, the other libraries a server on loopback in a process of its own. What
is read of an answer afterwards, at the end of a phase, is not in it.

Instructions are counted, for they hardly differ between runs; what the kernel does is not in them,
so that the ratio of a library with sockets is rather too high.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import aiohttp
import anthropic
import boto3  # type: ignore[import-untyped]
import httpx2
import requests

from pytest_llmcost.capture.capture import Capture
from pytest_llmcost.capture.request import CapturedRequest
from pytest_llmcost.capture.transports import follow, unfollow

from .figures import Figure, run

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
STREAM_BYTES = 1_000_000
CHUNK_BYTES = 16_384
STANDIN_TOKENS = (4, 5)
"""Of its reply, by tokenizer."""
AT_ONCE = 20
BLOCKS = 3
"""How often a loop waits for its socket differs from block to block."""
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


class Case(NamedTuple):
    """One figure."""

    what: str
    target: float | None
    call_of: Callable[[str], Callable[[], None]]
    """Takes the address of the server."""
    times: int
    """How often it is called in a block."""
    each: int = 1
    """How many requests it sends."""


CASES = (
    Case("call through requests", 1.05, requests_call, 40),
    Case("call through boto3", 1.05, boto_call, 40),
    Case("call through aiohttp", 1.05, aiohttp_calls, 10, AT_ONCE),
    Case("call through the SDK", 1.03, lambda url: whole_call(), 100),
    Case("1 MB stream through the SDK", 1.03, lambda url: streamed_call(), 1),
    Case("1 MB stream of raw lines", None, lambda url: raw_stream(), 1),
)


def repeat(call: Callable[[], None], times: int) -> None:
    for _ in range(times):
        call()


def marked(call: Callable[[], None], times: int) -> None:
    """Let callgrind write down what was counted, before and after."""
    os.getppid()
    repeat(call, times)
    os.getppid()


def both_sides(case: Case, url: str) -> None:
    """Run each block without capture, then with it."""
    purse, call = Purse(), case.call_of(url)
    capture = Capture(owner=lambda: purse, report=purse.report, clock=time.time)
    # A session installs capture once; Python then has to specialise what it has specialised before.
    again = max(2, case.times)
    repeat(call, again)
    for _ in range(BLOCKS):
        repeat(call, again)
        gc.collect()
        marked(call, case.times)
        follower = follow(capture.begin)
        repeat(call, again)
        gc.collect()
        marked(call, case.times)
        unfollow(follower)
        capture.drain()
    assert purse.calls == BLOCKS * (again + case.times) * case.each


def counted() -> list[float]:
    """Return the ratio of each case in instructions."""
    with tempfile.TemporaryDirectory() as folder:
        # Written down whenever this function is entered, which nothing else calls.
        tool = ["valgrind", "--tool=callgrind", "--dump-before=getppid"]
        run([*tool, f"--callgrind-out-file={folder}/out", sys.executable, "-m", __name__])
        found = []
        for number in range(1, 4 * BLOCKS * len(CASES) + 1):
            text = Path(folder, f"out.{number}").read_text(encoding="utf-8")
            total = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
            assert total
            found.append(int(total[1]))
    each = range(0, len(found), 4 * BLOCKS)
    return [
        fmean(found[first + 3 : first + 4 * BLOCKS : 4])
        / fmean(found[first + 1 : first + 4 * BLOCKS : 4])
        for first in each
    ]


def measure(quick: bool) -> list[Figure]:
    return [
        Figure(f"{case.what}, captured : not", ratio, target=case.target)
        for case, ratio in zip(CASES, counted(), strict=True)
    ]


if __name__ == "__main__":  # under callgrind
    with server() as address:
        for each in CASES:
            both_sides(each, address)

"""What capture costs: the SDK against a MockTransport, with and without, side by side.

Run it by hand: `python tests/bench/capture_overhead.py`. It prints ratios and ends with 1 when a
target is missed: at most 1.05 for a call, at most 1.10 for a stream of 10 MB, both through the
SDK. A stream whose lines nobody parses is shown too, without a target.

Blocks with and without capture alternate, so that a machine which gets busy slows down both; the
ratio is that of the fastest quarter of each.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2

from pytest_llmcost.capture.capture import Capture
from pytest_llmcost.capture.request import CapturedRequest

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
        assert request.answer.usage.output_tokens == 11
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


def seconds(call: Callable[[], None], times: int) -> float:
    started = time.process_time()  # of this process alone, whatever else the machine does
    for _ in range(times):
        call()
    return time.process_time() - started


def compare(
    name: str, call: Callable[[], None], *, blocks: int, times: int, most: float | None
) -> bool:
    purse = Purse()
    capture = Capture(owner=lambda: purse, report=purse.report, clock=time.time)
    seconds(call, times)
    without, with_, later = [], [], []
    for _ in range(blocks):
        without.append(seconds(call, times))
        capture.install()
        with_.append(seconds(call, times))
        capture.disable()
        later.append(seconds(capture.drain, 1))
    assert purse.calls == blocks * times
    plain, captured, read = (fastest(each) / times for each in (without, with_, later))
    ratio = captured / plain
    verdict = "no target" if most is None else f"at most x{most:.2f}"
    if most is not None and ratio > most:
        verdict += " MISSED"
    print(  # noqa: T201 - its output is what it is for
        f"{name:28} {plain * 1e6:12,.0f} us without {captured * 1e6:12,.0f} us with "
        f"x{ratio:.3f} ({verdict}); read afterwards {read * 1e6:,.0f} us"
    )
    return most is None or ratio <= most


def fastest(timings: list[float]) -> float:
    quarter = sorted(timings)[: max(1, len(timings) // 4)]
    return sum(quarter) / len(quarter)


def main() -> int:
    results = [
        compare("call through the SDK", whole_call(), blocks=120, times=20, most=1.05),
        compare("10 MB stream, SDK", streamed_call(), blocks=4, times=1, most=1.10),
        compare("10 MB stream, raw lines", raw_stream(), blocks=12, times=1, most=None),
    ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())

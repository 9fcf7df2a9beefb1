"""What the tests of capture share: a sink, bodies as from a socket, and clients of every kind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from types import ModuleType
from typing import Any

import httpx
import httpx2

from pytest_llmcost.call import Call, price
from pytest_llmcost.capture.capture import Capture
from pytest_llmcost.capture.request import CapturedRequest
from pytest_llmcost.capture.transports import follow, unfollow
from pytest_llmcost.prices.rate_card import shipped_card

LIBRARIES: tuple[ModuleType, ...] = (httpx, httpx2)
URL = "https://api.anthropic.com/v1/messages"
HEADERS = {"anthropic-version": "2023-06-01"}
ASKED: dict[str, Any] = {
    "model": "claude-opus-4-7",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hi"}],
}
USAGE: dict[str, Any] = {"input_tokens": 25, "output_tokens": 11, "service_tier": "standard"}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-4-7",
    "content": [{"type": "text", "text": "Hello there"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": USAGE,
}
JSON_BODY = json.dumps(MESSAGE).encode()

SENT_AT = 1_700_000_000.0
PRICE_DATE = date(2026, 11, 22)


def event(**data: Any) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


START = event(
    type="message_start",
    message={**MESSAGE, "content": [], "usage": {**USAGE, "output_tokens": 1}},
)
TEXT = event(
    type="content_block_start", index=0, content_block={"type": "text", "text": ""}
) + event(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello there"})
FINAL = event(type="content_block_stop", index=0) + event(
    type="message_delta",
    delta={"stop_reason": "end_turn", "stop_sequence": None},
    usage={"output_tokens": 11},
)
STOP = event(type="message_stop")
SSE_BODY = START + TEXT + FINAL + STOP


class Purse:
    """Keeps what is reported."""

    def __init__(self, owner: object = "the test") -> None:
        self.now: object = owner
        self.capture = Capture(
            owner=lambda: self.owner(), report=lambda each: self.saw(each), clock=lambda: SENT_AT
        )
        self._seen: list[CapturedRequest] = []

    def owner(self) -> object:
        return self.now

    def saw(self, request: CapturedRequest) -> None:
        self._seen.append(request)

    @property
    def seen(self) -> list[CapturedRequest]:
        self.capture.drain()
        return self._seen

    @property
    def owners(self) -> list[object]:
        return [request.owner for request in self.seen]

    @property
    def calls(self) -> list[Call]:
        """What the requests cost."""
        return [
            price(
                request.answer,
                shipped_card(),
                on=PRICE_DATE,
                live=request.live,
                at=request.sending["at"],
                attempts=request.attempts,
            )
            for request in self.seen
            if request.answer is not None
        ]

    @property
    def call(self) -> Call:
        (call,) = self.calls
        return call


@contextmanager
def capturing(owner: object = "the test") -> Iterator[Purse]:
    purse = Purse(owner)
    follower = follow(purse.capture.begin)
    try:
        yield purse
        purse.capture.drain()
        assert purse.capture.failures == []
    finally:
        unfollow(follower)


def chunks(library: ModuleType, pieces: Iterable[bytes], fail: Exception | None = None) -> Any:
    """A body that comes in pieces, as from a socket, and may break off."""

    class Chunks(library.SyncByteStream, library.AsyncByteStream):  # type: ignore[name-defined,misc]
        def __iter__(self) -> Iterator[bytes]:
            yield from pieces
            if fail:
                raise fail

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece
            if fail:
                raise fail

    return Chunks()


def respond(library: ModuleType, *pieces: bytes, **options: Any) -> Callable[[Any], Any]:
    """Answer with these pieces, streamed; `kind`, `status`, `headers`, `fail`."""
    kind = options.get("kind", "text/event-stream")
    headers = {"content-type": kind} if kind else {}

    def handler(request: Any) -> Any:
        return library.Response(
            options.get("status", 200),
            headers={**headers, **options.get("headers", {})},
            stream=chunks(library, pieces, options.get("fail")),
        )

    return handler


def client_of(library: ModuleType, handler: Callable[[Any], Any]) -> Any:
    return library.Client(transport=library.MockTransport(handler))


def own_client_of(library: ModuleType, handler: Callable[[Any], Any]) -> Any:
    """A client with a transport of the user's own, of which nothing tells whether it sends."""

    class Own(library.BaseTransport):  # type: ignore[name-defined,misc]
        def handle_request(self, request: Any) -> Any:
            return handler(request)

    return library.Client(transport=Own())


def async_client_of(library: ModuleType, handler: Callable[[Any], Any]) -> Any:
    return library.AsyncClient(transport=library.MockTransport(handler))

"""StandIn: a Messages API on loopback, over real sockets, with faults on demand."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from weakref import WeakSet

from standin.answers import (
    Answer,
    Reply,
    answer_count,
    answer_error,
    answer_message,
)
from standin.batches import Batches
from standin.bedrock import ROUTE, answer_bedrock
from standin.cache import PromptCache
from standin.chat import answer_chat


@dataclass(frozen=True)
class Seen:
    """A request as it arrived; header names in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Step:
    """What happens to one of the next requests, instead of or before its usual answer."""

    answer: Answer | None = None
    """Given instead of the usual one."""
    until: Callable[[], bool] | None = None
    """The answer is held back until this holds."""
    delay_seconds: float = 0
    cut_after_bytes: int | None = None
    """The connection is closed when that much of the body is out; 0 answers nothing at all."""
    path: str | None = None
    """Only for requests of this path; others pass it by."""


def fault(status: int, message: str = "on demand", **headers: str) -> Step:
    """The next request fails like this."""
    return Step(answer_error(status, message, **headers))


def rate_limited(retry_after: str = "0") -> Step:
    """The next request is refused with 429."""
    return fault(429, "This request would exceed your rate limit", retry_after=retry_after)


@dataclass
class StandIn:
    """A server on loopback, running inside a `with` block or between `start` and `stop`.

    Example:
        >>> with StandIn() as api:
        ...     client = anthropic.Anthropic(base_url=api.url, api_key="any")
    """

    port: int = 0
    key: str | None = None
    """The one key let in; without it every non-empty key or token is."""
    refused: list[str] = field(default_factory=list)
    """What `count_tokens` refuses: `server_tools`, `url_sources`, a tool's type, a body key."""
    reply: Reply = field(default_factory=Reply)
    now: Callable[[], float] = time.monotonic
    """Seconds, for the life of cache entries."""
    requests: list[Seen] = field(default_factory=list)
    answered: int = 0
    most_at_once: int = 0
    """The largest number of requests that were open at the same time."""

    def __post_init__(self) -> None:
        self.cache = PromptCache(lambda: self.now())
        self.batches = Batches()
        self._steps: deque[Step] = deque()
        self._lock = threading.Lock()
        self._open = 0
        self._server: _Server | None = None
        self._stopped = threading.Event()

    @property
    def url(self) -> str:
        """What `ANTHROPIC_BASE_URL` or `base_url` takes."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def counted(self) -> list[Seen]:
        """The requests to `count_tokens` alone."""
        return [one for one in self.requests if one.path.endswith("/count_tokens")]

    def script(self, *steps: Step) -> None:
        """Queue what shall happen to the next requests."""
        with self._lock:
            self._steps.extend(steps)

    def start(self) -> StandIn:
        """Listen, and answer in threads of its own."""
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = _Server(("127.0.0.1", self.port), handler)
        self.port = self._server.server_address[1]
        self._stopped.clear()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.005,))
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop listening, hang up on everybody, and leave neither thread nor socket behind."""
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._stopped.set()
            self._server.hang_up()
            self._server.server_close()

    def hold_back(self, step: Step) -> None:
        """Let the time of a step come, unless the server stops."""
        while step.until is not None and not step.until():
            if self._stopped.wait(0.002):
                return
        self._stopped.wait(step.delay_seconds)

    def __enter__(self) -> StandIn:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def take(self, seen: Seen) -> tuple[Answer, Step]:
        """Remember a request, and decide what to do with it."""
        with self._lock:
            self.requests.append(seen)
            number = len(self.requests)
            step = next((one for one in self._steps if one.path in (None, seen.path)), None)
            if step is None:
                return self._answer(seen, number), Step()
            self._steps.remove(step)
            return step.answer or self._answer(seen, number), step

    def _answer(self, seen: Seen, number: int) -> Answer:
        create = partial(
            answer_message, beta=False, reply=self.reply, cache=self.cache, number=number
        )
        if route := ROUTE.match(unquote(seen.path)):
            return answer_bedrock(route, seen.body, create)
        if seen.path == "/v1/chat/completions":
            return answer_chat(seen.body, create)
        if not seen.headers.get("anthropic-version"):
            return answer_error(400, "anthropic-version: header is required")
        if message := self._refuse_key(seen.headers):
            return answer_error(401, message)
        # the SDK once said so in the query, and since 2.0 in the header alone
        beta = seen.query.get("beta") == "true" or bool(seen.headers.get("anthropic-beta"))
        if seen.method == "POST" and seen.path == "/v1/messages/count_tokens":
            return answer_count(seen.body, beta=beta, refused=self.refused)
        if seen.method == "POST" and seen.path == "/v1/messages":
            return answer_message(
                seen.body, beta=beta, reply=self.reply, cache=self.cache, number=number
            )
        return self._answer_batch(seen)

    def _answer_batch(self, seen: Seen) -> Answer:
        parts = seen.path.strip("/").split("/")
        if parts[:3] != ["v1", "messages", "batches"]:
            return answer_error(404, f"Not found: {seen.path}")
        if len(parts) == 3:
            return self.batches.create(seen.body)
        if len(parts) == 4:
            return self.batches.retrieve(parts[3], self.url)
        return self.batches.results(parts[3], self.reply, self.cache)

    def _refuse_key(self, headers: Mapping[str, str]) -> str | None:
        given = headers.get("x-api-key") or headers.get("authorization", "").partition("Bearer ")[2]
        if not given:
            return "x-api-key header is required"
        return "invalid x-api-key" if self.key and given != self.key else None

    def opened(self, change: int) -> None:
        """Keep track of how many requests are open."""
        with self._lock:
            self._open += change
            self.answered += change < 0
            self.most_at_once = max(self.most_at_once, self._open)


class _Server(ThreadingHTTPServer):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._connections: WeakSet[socket.socket] = WeakSet()

    daemon_threads = False  # they are waited for when the server closes
    request_queue_size = 128

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection, and remember it."""
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def hang_up(self) -> None:
        """End every connection that a client keeps open."""
        for connection in tuple(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are part of the tests, and no news."""


class _Handler(BaseHTTPRequestHandler):
    api: StandIn
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # buffered: an answer that is no stream leaves in one piece
    disable_nagle_algorithm = True
    """Otherwise the end of an answer waits 40 ms for the client to acknowledge its beginning."""

    def do_POST(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        self.api.opened(+1)
        try:
            answer, step = self.api.take(self._read())
            self.api.hold_back(step)
            self._write(answer, step.cut_after_bytes)
        finally:
            self.api.opened(-1)

    def _read(self) -> Seen:
        split = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        query = {key: values[-1] for key, values in parse_qs(split.query).items()}
        headers = {key.lower(): value for key, value in self.headers.items()}
        return Seen(self.command, split.path, query, headers, json.loads(raw) if raw else None)

    def _write(self, answer: Answer, cut: int | None) -> None:
        if cut == 0:
            self._hang_up()
            return
        self.send_response(answer.status)
        self.send_header("content-type", answer.content_type)
        self.send_header("request-id", "req_standin")
        self.send_header("anthropic-organization-id", "org-standin")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        left = cut
        for chunk in answer.chunks:
            piece = chunk if left is None else chunk[:left]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if len(answer.chunks) > 1:
                self.wfile.flush()
            if left is not None:
                left -= len(piece)
                if left <= 0:
                    self._hang_up()
                    return
        self.wfile.write(b"0\r\n\r\n")

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

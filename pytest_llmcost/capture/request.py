"""Exchange: a request to Claude and what its answer costs, as capture hands it on.

Data flow: Talk -> Exchange -> the sink, which compares, prices and books it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from pytest_llmcost.capture.lost_answer import read_failure
from pytest_llmcost.capture.replay import Replay, read_betas
from pytest_llmcost.capture.transports.httpx import Library
from pytest_llmcost.errors import UsageDataError
from pytest_llmcost.json_values import decode_json
from pytest_llmcost.money import read_digits
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.responses.batch_results import BatchResult, BatchResultsReader
from pytest_llmcost.responses.endpoints import Endpoint
from pytest_llmcost.responses.message import Answer, read_answer, unknown_answer
from pytest_llmcost.responses.stream import Reader, reader_for


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """One request of the code under test and what came of it."""

    endpoint: Endpoint
    answer: Answer | None
    """What the response said; None where it costs nothing: a count, a request that was refused or
    answered by a mock's exception, a batch's request that failed."""
    payload: Mapping[str, Any] | None = None
    """The request's JSON; None where its body could not be read."""
    betas: tuple[str, ...] = ()
    """From the request's header."""
    replay: Replay | None = None
    """The recorded request whose response was played; None where nothing was replayed."""
    live: bool | None = False
    """Whether it went over the network in this run; None is unknown."""
    at: str | None = None
    """When it was sent, UTC; None unless it was, or may have been, live."""
    attempts: int = 1
    """How often the client has sent it by now."""
    lost_attempts: int | None = None
    """How many of the attempts got no answer; None for none."""
    supersedes: Exchange | None = None
    """What was said of the same request when its owner was settled, before it was complete."""


class Desk(Protocol):
    """Where conversations report."""

    def conclude(self, talk: Conversation) -> None:
        """Its answer is complete, or will not be read on."""

    def keep_lost(self, talk: Conversation, lost: int) -> None:
        """It is over without an answer to price, and so many of its attempts may be billed."""

    def note(self, talk: Conversation, error: Exception) -> None:
        """Something of ours went wrong."""


class Conversation:
    """One request on its way, and what becomes of it; the code under test never sees it fail.

    While the request is under way only what must be is done; the answer is read by `read`,
    which the capture calls when somebody wants to know.
    """

    lost_before = 0
    """Attempts of the same call before this one that got no answer."""
    outer: Conversation | None = None
    """The one inside whose `send` this one was sent."""
    relays = False
    """Whether it was passed on by another Claude call in this process: that one counts."""
    told: Exchange | None = None
    """What the sink was told before it was over."""
    is_over = False
    is_free = False
    """Whether it is over, was refused or never sent, and costs nothing."""
    is_seen = True
    """Whether anybody took it: a blocked request shows nobody that the code under test works."""
    live: bool | None = None
    replay: Replay | None = None
    _reader: Reader | BatchResultsReader | None = None
    _headers: Any = None
    _body: bytes | None = None
    _exhausted = True

    def __init__(
        self,
        desk: Desk,
        client: Any,
        request: Any,
        endpoint: Endpoint,
        owner: object,
        sent_at: float,
    ) -> None:
        """Begin with the client and the request that are about to be used."""
        self._desk = desk
        self.client = client
        self.request = request
        self.endpoint = endpoint
        self.owner = owner
        self.sent_at = sent_at
        """Seconds since 1970."""

    # What the seam calls

    def replayed(self, read: Callable[[bytes], Replay | None]) -> None:
        """A cassette plays a response."""
        self._guard(self._replayed, read)

    def failed(self, error: BaseException, library: Library) -> None:
        """No response came."""
        self._guard(self._failed, error, library)

    def answered(self, response: Any, library: Library) -> None:
        """A response came, its body perhaps not read yet."""
        self._guard(self._answered, response, library)

    # What the tee calls

    def feed(self, chunk: bytes) -> None:
        """Some of the body passes."""
        if not self.is_over:
            self._guard(self._feed, chunk)

    def close(self, *, exhausted: bool) -> None:
        """The body has ended, or nobody will read on."""
        if not self.is_over:
            self._guard(self._close, exhausted)

    def _guard(self, step: Callable[..., None], *args: Any) -> None:
        try:
            step(*args)
        except Exception as error:  # noqa: BLE001 - the code under test must not see ours
            self._desk.note(self, error)

    def _replayed(self, read: Callable[[bytes], Replay | None]) -> None:
        self.replay = read(_content(self.request)) or self.replay

    def _failed(self, error: BaseException, library: Library) -> None:
        failure = read_failure(error)
        if failure.is_read:
            self._answered(failure.response, library)
            return
        self.live = library.is_live(self.client, self.request, failure.response, error)
        self.is_seen = failure.is_seen
        # What a mock or a recorder has raised was never sent, so it cannot be billed.
        is_lost = failure.is_lost and self.live is not False
        self._desk.keep_lost(self, self.lost_before + is_lost)

    def _answered(self, response: Any, library: Library) -> None:
        self.live = library.is_live(self.client, self.request, response)
        if self.replay is not None:
            self._settle_replay()
        if not 200 <= response.status_code < 300:
            self._desk.keep_lost(self, self.lost_before)
            return
        self._headers = response.headers
        self._body = getattr(response, "_content", None)
        if self._body is None and self.endpoint.kind != "count_tokens":
            self._reader = self._choose_reader()
            library.attach(response, self)
        else:
            self._desk.conclude(self)

    def _settle_replay(self) -> None:
        """What came over a socket was not replayed; what was replayed is not live."""
        if self.live:
            self.replay = None
        else:
            self.live = False

    def _choose_reader(self) -> Reader | BatchResultsReader | None:
        if self.endpoint.kind == "batch_results":
            return BatchResultsReader()
        if self.endpoint.kind == "messages":
            return reader_for(self._headers.get("content-type"))
        return None

    def _feed(self, chunk: bytes) -> None:
        if self._reader is not None:
            self._reader.feed(chunk)
        else:
            self._body = (self._body or b"") + chunk

    def _close(self, exhausted: bool) -> None:
        self._exhausted = exhausted
        self._desk.conclude(self)

    # What the capture asks for, later

    @property
    def receipt(self) -> bytes:
        """The whole body of a small answer."""
        return self._body or b""

    def read(self) -> Exchange | None:
        """Read the answer, once it is complete; None where it cost nothing and says nothing."""
        if self.is_free:
            return None
        if self._reader is None and self._body is not None:
            self._reader = self._choose_reader()
            if self._reader is not None:
                self._reader.feed(self._body)
        if self._reader is not None:
            self._reader.close()
        if self.endpoint.kind != "messages" or isinstance(self._reader, BatchResultsReader):
            return self.exchange(None)
        return self._read(self._reader, self._exhausted)

    def read_so_far(self) -> Exchange | None:
        """Read what has passed of a message: a lower bound, or an unknown."""
        if self.endpoint.kind != "messages" or isinstance(self._reader, BatchResultsReader):
            return None
        if self._reader is None:
            return self.unknown("lost-answer: still under way when its owner was judged")
        reader = copy.deepcopy(self._reader)
        reader.close()
        return self._read(reader, exhausted=False)

    def take_results(self) -> list[BatchResult]:
        """Return the results of a batch that have passed since the last time."""
        return self._reader.drain() if isinstance(self._reader, BatchResultsReader) else []

    def unknown(self, caveat: str) -> Exchange:
        """Return an exchange of which no cost is known."""
        return self.exchange(unknown_answer(self.endpoint, self.payload, caveat))

    def exchange(self, answer: Answer | None) -> Exchange:
        """Return the exchange with what is known of the request."""
        return Exchange(
            endpoint=self.endpoint,
            answer=None if answer is None else self._complete(answer),
            payload=self.payload,
            betas=read_betas(self.request.headers.get("anthropic-beta", "")),
            replay=self.replay,
            live=self.live,
            at=self._at,
            attempts=self.attempts,
            lost_attempts=self.lost_before or None,
            supersedes=self.told,
        )

    @functools.cached_property
    def attempts(self) -> int:
        """How often the client has sent this call by now."""
        count = self.request.headers.get("x-stainless-retry-count", "0")
        return 1 + (read_digits(count) or 0)

    @functools.cached_property
    def payload(self) -> Mapping[str, Any] | None:
        """The request's JSON."""
        value = decode_json(_content(self.request))
        return value if isinstance(value, dict) else None

    @property
    def _at(self) -> str | None:
        return None if self.live is False else _utc(self.sent_at)

    def _complete(self, answer: Answer) -> Answer:
        lost = ("lost-answer",) if self.lost_before else ()
        return replace(
            answer,
            stream=bool(self.endpoint.stream or (self.payload or {}).get("stream")),
            caveats=sorted_caveats([*answer.caveats, *lost]),
        )

    def _read(self, reader: Reader | None, exhausted: bool) -> Exchange | None:
        messages = reader.messages if reader is not None else ()
        if not any(message.body.get("usage") for message in messages) and not self.is_ours:
            return None
        if not messages and (self._is_broken_by_a_mock() or (reader and reader.error)):
            return None  # nothing was sampled
        if not messages:
            return self.unknown("unreadable-response" if exhausted else "truncated-stream")
        try:
            answer = read_answer(messages, endpoint=self.endpoint, payload=self.payload)
        except UsageDataError as error:
            return self.unknown(f"unreadable-response: {error}")
        return self.exchange(answer)

    def _is_broken_by_a_mock(self) -> bool:
        """Whether a mock sent what is no JSON at all; JSON without a usage may be an oversight."""
        is_mock = self.live is False and self.replay is None
        return is_mock and self._body is not None and decode_json(self._body) is None

    @property
    def is_ours(self) -> bool:
        """Whether it is a Claude call beyond its path, which any mail service may have too."""
        if self.endpoint.model is not None or "anthropic-version" in self.request.headers:
            return True
        return {"model", "messages", "max_tokens"} <= (self.payload or {}).keys()


def _content(request: Any) -> bytes:
    """The request's body; a stream that nobody has read is left alone."""
    content: bytes = getattr(request, "_content", b"")
    return content


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

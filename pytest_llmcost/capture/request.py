"""A captured request: what was sent, how it was answered, and what the answer used.

It knows no library: a transport tells it what happens while the request is under way, and does no
more than it must in the way of the code under test. The capture reads the answer afterwards.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from pytest_llmcost.capture.headers import as_bytes, read_headers
from pytest_llmcost.concurrency import answer_pool, cached_property
from pytest_llmcost.errors import LiveCapError, UsageDataError
from pytest_llmcost.json_values import decode_json
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.responses.converse import to_payload
from pytest_llmcost.responses.endpoints import Endpoint, recognise
from pytest_llmcost.responses.message import (
    Answer,
    model_of,
    read_answer,
    unknown_answer,
)
from pytest_llmcost.responses.recorded_files import (
    Allowance,
    Recorded,
    read_interaction,
    read_status,
)
from pytest_llmcost.responses.stream import BatchResult, Reader, StreamedMessage, read_whole

_PROMPT = ("system", "tools", "messages", "max_tokens")
"""What a gateway passes on as it is, while it changes the rest of a payload."""
_UNREAD = ("count_tokens", "unmetered")
_MOST_UNREAD = 16_384
"""Bytes that are kept as they pass, to be read together: most answers are read afterwards."""
_ATTEMPT = re.compile(r"\battempt=([0-9]{1,3})\b")
"""In botocore's header `amz-sdk-request`, after a `ttl` if the attempt before was answered."""
_RETRIES = re.compile(r"[0-9]{1,3}")
"""In the SDK's."""


def _live_cap(error: LiveCapError, how: str = "") -> str:
    """Return the caveat that says why the cap on live spend refuses a request."""
    return f"live-cap: {how}{str(error).rpartition(' was not sent: ')[2]}"


class Unclaimed(NamedTuple):
    """A recording that equals nothing that was sent: its call has changed, or is gone."""

    body: Mapping[str, Any]
    model: str | None
    betas: tuple[str, ...] | None
    read_tokens: int
    cached_tokens: int
    """Read and written."""


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the request that was recorded with the response that counts."""

    body: Mapping[str, Any] | None = None
    """Its JSON; None if it cannot be compared."""
    model: str | None = None
    """The model if its URL named it (Bedrock, Google Cloud)."""
    betas: tuple[str, ...] | None = ()
    """From its `anthropic-beta` header; None if a filter of the cassette hides or redacts it."""
    is_same: bool = False
    """Byte for byte what is sent now, under the same names of model and betas."""
    obstacle: str | None = None
    """Why it cannot be compared, for people."""
    strand: object = None
    """Of its task, if it is in the main thread: calls that share it follow one another."""
    unclaimed: tuple[Unclaimed, ...] = ()
    """Those recorded before it that wrote to the cache, as far as is known when it is reported."""


class _Outcome:
    """What becomes of a captured request, and is seldom asked for: at first as the class says.

    So it costs no time to set, and each reading costs more than one of a slot.
    """

    answer: Answer | None = None
    """What the response said. None if it costs nothing: a count, a refused request, one that a mock
    answered with an exception, a request of a batch that failed."""
    replay: Replay | None = None
    """The recorded request whose response counts; None if nothing was replayed."""
    sent_again: int = 0
    """How many of the attempts its client does not know of: a library below it made them."""
    lost_attempts: int | None = None
    """How many attempts before this one got no answer and may be billed; None for none."""
    retry_of: CapturedRequest | None = None
    """The last of them if its client knows of it, while this one is under way."""
    supersedes: CapturedRequest | None = None
    """What was reported of it before it was over."""
    error: Exception | None = None
    """What went wrong on our side."""
    is_refused: bool = False
    """Whether the cap on live spend kept it from being sent."""
    past_cap: str | None = None
    """Why that cap would have refused it, had anything shown that it was about to leave."""
    has_left_inside: bool = False
    """Whether its transport has sent the same call by another client, which has the reservation."""
    asked: tuple[Mapping[str, Any] | None, str | None] | None = None
    """What `read_body` returns of what was sent, once it is read, or a request of a batch."""
    is_of_batch: bool = False
    """Whether it is one of a batch; a refused attempt to create that is none of its own."""
    is_lost: bool = False
    """Whether it may be billed although no response came, or not all of one that is no stream."""
    is_seen: bool = True
    """Whether it reached anything. A blocked request does not show that the tested code works."""
    is_on_wire: bool = False
    """Whether `http.client`, aiohttp or httpcore has sent it over a socket."""
    is_unrefused: bool = False
    """Whether a library below its client has sent it, and no refusal came yet."""
    is_in_mock: bool = False
    """Whether it has come to a mock transport; what is sent in it is a call of its own."""
    outcome_below: object = None
    """The response or error that a transport below its client has brought last."""
    is_answered_inside: bool = False
    """Whether its response is the very one of a call inside its `send`, which counts instead."""
    ids_inside: tuple[str, ...] = ()
    """Of the messages that calls inside its `send` brought, other than from a mock."""
    is_passed_on: bool = False
    """Whether another Claude call in this process passed it on, and counts instead."""
    _reader: Reader | None = None


@dataclass(eq=False, slots=True)
class CapturedRequest(_Outcome):
    """One request of the code under test.

    It is reported once, or again with `supersedes` if it was judged before it was over.
    """

    endpoint: Endpoint
    source: object
    """The library's own object for it, while it is under way, or for its headers."""
    client: object
    """Who sends it, and would send it again; known until it is answered."""
    sent: bytes
    """Its body, as far as it is known: a stream that has not been read is left alone."""
    owner: object
    sent_at: float
    """Seconds since 1970."""
    over: Callable[[CapturedRequest], None]
    """Called once, when nothing more will come; makes it over."""
    is_to_stand_in: bool
    """Whether its address is one that spends nothing, so that a socket does not make it live."""
    cap: Any
    """On live spend, None without one: its `reserve` is called before the request goes over the
    network, and raises what refuses it."""
    outer: CapturedRequest | None
    """The request inside whose `send` this one was sent."""
    is_over: bool = False
    is_answered: bool = False
    """Whether a successful response came; without one it is free, or lost."""
    live: bool | None = None
    """Whether it went over the network in this run; None is unknown."""
    play: object = None
    """What a recorder has played: a `VcrPlay` until it is known which recording counts, or that."""
    reserved: Decimal | None = None
    """What of the cap on live spend is reserved for it, in US dollars."""
    decoder: Any = None
    """What undoes the content encoding of what is fed, the library's own with a state for us."""
    _unread: bytearray = field(default_factory=bytearray)
    """Of the body: what the reader has not been fed, and all of a batch's receipt."""
    _is_whole: bool = True
    """Whether the body was read to its end."""
    _recorded: Recorded | None = None
    """The recorded response that is read in the place of what passes."""

    # What was sent

    @property
    def payload(self) -> Mapping[str, Any] | None:
        """The request in the Messages API's form; None if its body could not be read."""
        self.asked = self.asked or read_body(self.endpoint, self.sent)
        return self.asked[0]

    @property
    def uncountable(self) -> str | None:
        """Why count_tokens does not count this payload, if its form says so."""
        self.asked = self.asked or read_body(self.endpoint, self.sent)
        return self.asked[1]

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """Those that say something about its price, by their names in lower case; no key."""
        return read_headers(getattr(self.source, "headers", self.source))

    @property
    def attempts(self) -> int:
        """How often this call was sent by now; SDK and botocore say in a header what they know."""
        if self.is_of_batch or self.is_refused:
            return 1 + (self.lost_attempts or 0)
        return self._client_attempts + self.sent_again

    @property
    def _client_attempts(self) -> int:
        if match := _ATTEMPT.search(self.headers.get("amz-sdk-request", "")):
            return int(match[1])
        match = _RETRIES.fullmatch(self.headers.get("x-stainless-retry-count", ""))
        return 1 + int(match[0]) if match else 1

    @property
    def betas(self) -> tuple[str, ...]:
        """From the request's header."""
        return read_betas(self.headers.get("anthropic-beta", ""))

    @property
    def sending(self) -> dict[str, Any]:
        """When, how often and whether over the network it was sent, as fields of a `Call`."""
        at = None
        if self.live is not False:
            sent_at = datetime.fromtimestamp(self.sent_at, timezone.utc)
            at = sent_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "live": self.live,
            "at": at,
            "attempts": self.attempts,
            "lost_attempts": self.lost_attempts,
        }

    @property
    def is_stream(self) -> bool:
        """Whether it asks for a stream."""
        return bool(self.endpoint.stream or (self.payload or {}).get("stream"))

    @property
    def is_claude(self) -> bool:
        """Whether it is a Claude call beyond its path."""
        return self.endpoint.is_claude(self.headers, self.payload or {})

    @property
    def is_mocked(self) -> bool:
        """Whether it neither went out nor was replayed: its usage is what a mock says."""
        return self.live is False and self.play is None

    def may_send(self, body: object) -> bool:
        """Tell whether a body is the one that was sent, or its JSON; of a stream nothing tells."""
        sent = body if type(body) is bytes else as_bytes(body)
        if not sent or not self.sent or sent == self.sent:
            return True
        value = decode_json(sent)
        return value is not None and value == decode_json(self.sent)

    def is_retry_of(self, lost: CapturedRequest) -> bool:
        """Whether it is the next attempt of a request that got no answer."""
        return (
            self._client_attempts == lost._client_attempts + 1
            and self.owner == lost.owner
            and self.client is lost.client
            and self.endpoint == lost.endpoint
            and self.sent == lost.sent
        )

    @property
    def is_outer(self) -> bool:
        """Whether a call inside this one's `send` counts instead; what went live is one itself."""
        if self.is_answered_inside or (self.is_passed_on and self.live is not True):
            return True
        # What its transport, or a gateway, asked instead, and made a response of its own of.
        is_elsewhere = self.play is None and not self.is_on_wire
        ids = self.answer.ids if is_elsewhere and self.answer is not None else ()
        return any(each in self.ids_inside for each in ids)

    def is_passed_on_by(self, inner: CapturedRequest) -> bool:
        """Tell whether a call inside this one's `send` is this very one; then it counts instead.

        So a gateway of one's own in the same process, and the call that it makes, are one call.
        Hooks make calls of their own inside another's `send`, counts and questions about the
        prompt; those come on top.
        """
        if self.endpoint.kind == "unmetered":
            # Its payload has another form, and a call that is read says more.
            return inner.endpoint.kind == "messages"
        sent, received = inner.payload or {}, self.payload or {}
        model, asked = model_of(inner.endpoint, sent), model_of(self.endpoint, received)
        # A cloud's name for a model contains the plain one.
        is_same_model = model and asked and (model in asked or asked in model)
        return bool(is_same_model) and all(sent.get(part) == received.get(part) for part in _PROMPT)

    # What its transport calls, in the way of the request

    def leave(self, *, again: bool = False) -> None:
        """Let it go over the network, or refuse it: the one step that may raise.

        Raises:
            LiveCapError: its worst case exceeds what is left of the cap.
        """
        __tracebackhide__ = True
        if self.cap is None or self.is_over or self.is_to_stand_in:
            return
        if self.reserved is not None and not again:
            return
        # What was sent before is another call than what is refused now.
        own = {"reserved": None, "lost_attempts": None, "retry_of": None, "supersedes": None}
        attempt = self.variant(**own) if again else self
        try:
            self.cap.reserve(attempt)
        except LiveCapError as error:
            attempt.live, attempt.is_refused = False, True
            answer = unknown_answer(self.endpoint, self.payload, _live_cap(error))
            attempt.answer = replace(answer, declared_usd=Decimal(0))
            self.over(attempt)
            answer_pool(error)
            raise
        self.reserved = attempt.reserved  # that of one before stays: it was lost
        if self.outer is not None:
            self.outer.has_left_inside |= self.outer.is_passed_on_by(self)

    def leave_below(self, method: str = "POST", url: str | None = None) -> None:
        """Let a library below its client send it over a socket, perhaps again, or a log-in in it.

        What is sent to an address that is none of Claude's is a log-in.

        Raises:
            LiveCapError: as `leave`.
        """
        __tracebackhide__ = True
        is_log_in = url is not None and recognise(method, url, self.sent) is None
        self.is_on_wire = True
        if self.is_unrefused and not is_log_in:
            self.go_again()
        else:
            self.leave()
        self.is_unrefused |= not is_log_in

    def go_again(self) -> None:
        """Let it be sent, or replayed, once more; the attempt before may have been billed.

        Raises:
            LiveCapError: as `leave`.
        """
        __tracebackhide__ = True
        if self.is_on_wire:
            self.leave(again=True)
        self.lost_attempts = (self.lost_attempts or 0) + 1
        self.sent_again += 1

    def note_left(self) -> None:
        """Under a cap, note what nothing has shown to leave: it may have sockets of its own."""
        if self.cap is None or self.live is False or self.reserved is not None:
            return
        if not (self.has_left_inside or self.is_answered_inside):
            self.reserved = Decimal(0)  # so that what it costs is kept, in any case
            try:
                self.cap.reserve(self)
            except LiveCapError as error:
                self.past_cap = _live_cap(error, "not seen to leave; ")

    def do(self, action: Callable[..., object], *facts: Any) -> None:
        """Run what a transport has to do with its library's objects, unless the request is over.

        A failure of ours is kept from the code under test: the request's cost is unknown then.
        """
        if self.is_over:
            return
        try:
            action(self, *facts)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is ours
            self.broke(error)

    def broke(self, error: Exception) -> None:
        """Following it has failed: its cost is unknown."""
        self.error = error
        self.over(self)

    def answered(
        self,
        *,
        status: int,
        live: bool | None,
        content: bytes | Mapping[str, Any] | None = None,
    ) -> None:
        """A response came; if it is there as a whole its body, or it as a recorder keeps it.

        If the request is not over with that, what is read of it is to be fed.
        """
        live = self.live = False if self.is_to_stand_in else live
        if self.play is not None:
            if live:
                self.play = None  # what came over a socket was not replayed
            else:
                self.live = False
        self.is_answered = 200 <= status < 300
        if self.cap is not None and self.is_answered:
            self.note_left()
        if isinstance(content, bytes):
            self._unread += content
        elif content is not None:
            self.use(content)
        # What would come of a refusal, or of these, says nothing about a bill.
        elif self.is_answered and self.endpoint.kind not in _UNREAD:
            return
        self.over(self)

    def feed(self, chunk: bytes) -> None:
        """Some of the body passes."""
        if self.is_over or self._recorded is not None:
            return
        if self.decoder is not None:
            # httpx calls it `decode`, all others as zlib does.
            step = getattr(self.decoder, "decompress", None) or self.decoder.decode
            chunk = self._decoded(step, chunk)
        self._unread += chunk
        # The receipt of a batch is read as a whole.
        if len(self._unread) >= _MOST_UNREAD and self.endpoint.kind != "batch_create":
            self.do(CapturedRequest._read_on)

    def passing(self, pieces: Any) -> _Passing:
        """Return an iterator over a body's pieces that are fed as they pass, sync or async."""
        return _Passing(pieces, self)

    def close(self, *, is_whole: bool) -> None:
        """The body has ended, or will not be read on."""
        if is_whole and self.decoder is not None and not self.is_over:
            self._unread += self._decoded(self.decoder.flush)
        if not self.is_over:
            self._is_whole = is_whole or self._recorded is not None
            # A client that reads the whole answer itself, as botocore does, sends it again.
            is_cut = self.is_answered and not self._is_whole and not self.is_stream
            self.is_lost = is_cut and self.endpoint.kind == "messages" and self.live is not False
            self.over(self)

    def _decoded(self, step: Callable[..., Any], *chunk: bytes) -> bytes:
        try:
            decoded = step(*chunk)  # httpx2's decoders yield pieces, all others return bytes
            return decoded if isinstance(decoded, bytes) else b"".join(decoded)
        except Exception:  # noqa: BLE001 - zlib, brotli and zstd each raise their own
            # The caller's own decoder meets the same bytes and says what is wrong with them.
            self.close(is_whole=False)
            return b""

    # What the capture asks for, afterwards

    def use(self, response: Mapping[str, Any]) -> None:
        """Read a response, as a recorder keeps it, in the place of what passes."""
        self.is_answered = 200 <= read_status(response) < 300
        self._recorded = _read_recorded(response)
        self._unread, self._reader = bytearray(self._recorded.body), None

    def read(self) -> Answer | None:
        """Return what the response used; None if it costs nothing."""
        if not self.is_answered:
            return self.answer  # which one has that was refused by the cap
        if self.endpoint.kind == "unmetered":
            return self.unknown(f"unmetered-route: {self.endpoint.route}")
        if self.endpoint.kind != "messages":
            return None
        reader = self._read_whole()
        replies = [each.body for each in reader.messages]
        if not self.endpoint.is_claude(self.headers, self.payload or {}, replies):
            return None
        if reader.messages:
            return self.read_messages(reader.messages)
        # A mock's answer that is neither JSON nor events, or an error, samples nothing. One without
        # a usage may be an oversight of who wrote the mock.
        is_no_answer = (
            self.is_mocked
            and self._is_whole
            and not self._reader
            and b"data:" not in self._unread
            and decode_json(self.receipt) is None
        )
        if reader.error or is_no_answer:
            return None
        if not self._is_whole:
            return self.unknown("truncated-stream")
        recorded, played = self._recorded, getattr(self.play, "response", None)
        if recorded is None and isinstance(played, dict):
            recorded = _read_recorded(played)  # for what is wrong with it
        why = f": {recorded.problem}" if recorded and recorded.problem else ""
        return self.unknown(f"unreadable-response{why}")

    def read_messages(self, messages: Sequence[StreamedMessage]) -> Answer:
        """Return what these messages used."""
        try:
            return self.read_reply(partial(read_answer, messages))
        except UsageDataError as error:
            ids = tuple(str(each.body["id"]) for each in messages if each.body.get("id"))
            is_cut = not self._is_whole and not all(each.body.get("usage") for each in messages)
            return self.unknown(
                "truncated-stream" if is_cut else f"unreadable-response: {error}", ids
            )

    def read_reply(self, read: Callable[..., Answer]) -> Answer:
        """Return what `read` makes of a reply to this request; it takes what `read_answer` does.

        Raises:
            UsageDataError: as `read`.
        """
        answer = read(
            endpoint=self.endpoint,
            payload=self.payload,
            batch=self.is_of_batch or None,
            headers=self.headers,
        )
        return self._complete(answer)

    def unknown(self, caveat: str, ids: tuple[str, ...] = ()) -> Answer:
        """Return an answer of unknown cost, and why; of messages with these ids, if it has some."""
        return self._complete(replace(unknown_answer(self.endpoint, self.payload, caveat), ids=ids))

    def so_far(self) -> CapturedRequest:
        """Return what is known of a message that is still under way."""
        request = self.variant(
            headers=self.headers,
            _is_whole=self._recorded is not None,
            is_over=False,  # although it may have come to its end in another thread by now
        )
        under_way = "lost-answer: still under way, let the test wait for it"
        request.answer = request.read() if request.is_answered else request.unknown(under_way)
        return request

    def results(self) -> list[BatchResult]:
        """Return the results of a batch that have passed."""
        if not self.is_answered:
            return []
        results = self._read_whole(of_batch=True).results
        # Of a body that is left early, the end may be cut anywhere.
        return results if self._is_whole else [each for each in results if each.custom_id]

    @property
    def receipt(self) -> bytes:
        """What is kept of the body: the whole, if it is small."""
        return bytes(self._unread)

    def _read_on(self) -> None:
        if self._reader is None:
            # Known by its first byte: to keep the headers until now would cost more.
            self._reader = Reader(of_batch=self.endpoint.kind == "batch_results")
        self._reader.feed(self.receipt)
        self._unread.clear()

    def _read_whole(self, *, of_batch: bool = False) -> Reader:
        """Read the rest on a copy: what is under way is read on, and by others at once."""
        return read_whole(self.receipt, copy.deepcopy(self._reader), of_batch=of_batch)

    def variant(self, **changes: Any) -> CapturedRequest:
        """Return the same request with other facts: a part of it, or what is known by now."""
        other = copy.copy(self)
        for name, value in changes.items():
            setattr(other, name, value)
        return other

    def _complete(self, answer: Answer) -> Answer:
        more = ["lost-answer"] if self.lost_attempts else []
        if self.past_cap is not None:
            more.append(self.past_cap)
        if self.endpoint.form == "chat":
            more.append("chat/completions")
        return replace(
            answer,
            stream=self.is_stream,
            caveats=sorted_caveats([*answer.caveats, *more]) if more else answer.caveats,
        )


class _Passing:
    """The pieces of a body on their way to the code under test.

    An iterator, not a generator: abandoned, it leaves nothing to be collected late. It passes for
    an async generator, for httpx2 closes those.
    """

    def __init__(self, pieces: Any, captured: CapturedRequest) -> None:
        self._pieces = pieces
        self._captured = captured

    def __iter__(self) -> _Passing:
        return self

    def __next__(self) -> bytes:
        __tracebackhide__ = True
        try:
            chunk: bytes = next(self._pieces)
        except BaseException as error:
            self._captured.close(is_whole=isinstance(error, StopIteration))
            raise
        self._captured.feed(chunk)
        return chunk

    def __aiter__(self) -> _Passing:
        return self

    async def __anext__(self) -> bytes:
        __tracebackhide__ = True
        try:
            chunk: bytes = await anext(self._pieces)
        except BaseException as error:
            self._captured.close(is_whole=isinstance(error, StopAsyncIteration))
            raise
        self._captured.feed(chunk)
        return chunk

    async def asend(self, value: None) -> bytes:
        return await self.__anext__()

    async def athrow(self, *error: Any) -> Any:
        return await self._pieces.athrow(*error)

    async def aclose(self) -> None:
        if hasattr(self._pieces, "aclose"):
            await self._pieces.aclose()


def _read_recorded(response: Mapping[str, Any]) -> Recorded:
    return read_interaction({"response": response}, "", Allowance())


def read_body(
    endpoint: Endpoint | None, body: bytes
) -> tuple[Mapping[str, Any] | None, str | None]:
    """Return a body in the Messages API's form, and why that cannot be counted, if it cannot."""
    value = decode_json(body)
    if not isinstance(value, dict):
        return None, None
    if endpoint is None or endpoint.form == "messages":
        return value, None
    return to_payload(value, endpoint.form)


def read_betas(header: str) -> tuple[str, ...]:
    """Return the names in an `anthropic-beta` header, sorted, each once.

    Example:
        >>> read_betas("b, a,b,")
        ('a', 'b')
    """
    return tuple(sorted({name.strip() for name in header.split(",")} - {""}))

"""Capture: sees every Messages call of the process, live, replayed or mocked.

Data flow: the seam -> `Capture.begin` -> a Conversation -> its answer -> `Capture.drain` ->
Exchange -> `Sink.saw`, under the owner that `Sink.owner` named when the request was sent.

Nothing here raises into the code under test: a failure of our own is a call of unknown cost.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from pytest_llmcost.capture.batches import Batches
from pytest_llmcost.capture.request import Conversation, Exchange
from pytest_llmcost.capture.transports.httpx import UNDER_WAY, close_seam, open_seam
from pytest_llmcost.counting.past_vcr import OWN_REQUEST
from pytest_llmcost.responses.endpoints import recognise
from pytest_llmcost.responses.message import model_of

_MOST_FAILURES = 20
_BILLED = ("messages", "batch_create")
"""Kinds of requests that a budget is for; counts are not."""
_PROMPT = ("system", "tools", "messages", "max_tokens")
"""What a gateway passes on as it is, while it changes the rest of a payload."""


class Sink(Protocol):
    """Who owns what is seen."""

    def owner(self) -> object:
        """Whose a request is that is being sent now; comes back with what became of it.

        Called from any thread or task, in the way of the request: it should be quick.
        """

    def saw(self, owner: object, exchange: Exchange) -> None:
        """Take an exchange; called by `Capture.drain` and `Capture.settle` alone."""


class _Lost(msgspec.Struct, frozen=True):
    """A call whose attempts so far got no answer, until its next attempt or its settling."""

    talk: Conversation
    count: int


class Capture:
    """Listens at the seam from `install` to `disable`; captures nest, the innermost hears."""

    def __init__(self, sink: Sink, *, clock: Callable[[], float]) -> None:
        """Report to a sink; the clock tells the seconds since 1970, as `time.time`."""
        self.failures: list[str] = []
        """What went wrong on our side, for the summary; the calls concerned are unknown."""
        self._sink = sink
        self._clock = clock
        # Held for a moment, and never while the sink is told. One that the same thread may take
        # again, for the garbage collector may close a response in the midst of it.
        self._lock = threading.RLock()
        self._under_way: dict[int, Conversation] = {}
        self._news: deque[Callable[[], None]] = deque()
        """What became of conversations, in the order in which it did."""
        self._lost: list[_Lost] = []
        self._batches = Batches()

    def install(self) -> None:
        """Begin to listen."""
        open_seam(self)

    def disable(self) -> None:
        """Stop listening; what is under way is no longer followed."""
        close_seam(self)

    def drain(self) -> None:
        """Tell the sink of every exchange that is complete, each once.

        No lock is held: the sink runs code of the user's, which may send, drain, or wait for
        threads that do.
        """
        while True:
            try:
                tell = self._news.popleft()
            except IndexError:
                break
            tell()
        for talk in self._open_talks(lambda talk: talk.endpoint.kind == "batch_results"):
            self._settle_results(talk)

    def settle(self, matches: Callable[[object], bool] = lambda owner: True) -> None:
        """Drain, then tell the sink what is still open, for owners about to be judged.

        An open stream is truncated; a request without an answer and a batch without results are
        unknown. What becomes of them later comes with `supersedes`.
        """
        self.drain()
        for talk in self._open_talks(lambda talk: matches(talk.owner)):
            talk.told = talk.read_so_far()
            self._tell(talk.owner, talk.told)
        for lost in self._take_lost(lambda each: matches(each.talk.owner)):
            self._tell(lost.talk.owner, lost.talk.unknown("lost-answer"))
        for owner, exchange in self._batches.tell_open(matches):
            self._tell(owner, exchange)

    def _open_talks(self, matches: Callable[[Conversation], bool]) -> list[Conversation]:
        return [talk for talk in [*self._under_way.values()] if talk.told is None and matches(talk)]

    def _report(self, talk: Conversation) -> None:
        try:
            self._read(talk)
        except Exception as error:  # noqa: BLE001 - one bad answer must not hide others
            self._report_failure(talk, error)

    def _read(self, talk: Conversation) -> None:
        kind = talk.endpoint.kind
        exchange = talk.read()
        if kind == "batch_create" and exchange is not None:
            self._batches.create(talk.owner, exchange, talk.receipt)
        elif kind == "batch_results":
            self._settle_results(talk)
        elif exchange is None:
            self._withdraw(talk)
        else:
            _mark_relay(talk, exchange)
            if talk.relays and talk.live is not True:
                self._withdraw(talk)
            else:
                self._tell(talk.owner, exchange)

    def _settle_results(self, talk: Conversation) -> None:
        for result in talk.take_results():
            booking = self._batches.settle(talk.owner, talk.exchange(None), result)
            if booking is not None:
                self._tell(*booking)

    def _withdraw(self, talk: Conversation) -> None:
        """Tell the sink of a request that costs nothing, whatever it was told before."""
        if talk.told is not None:
            self._tell(talk.owner, replace(talk.told, answer=None, supersedes=talk.told))
        elif talk.is_seen and talk.is_ours and talk.endpoint.kind in _BILLED:
            self._tell(talk.owner, talk.exchange(None))

    def _tell(self, owner: object, exchange: Exchange | None) -> None:
        if exchange is None:
            return
        try:
            self._sink.saw(owner, exchange)
        except Exception as error:  # noqa: BLE001 - a sink that fails must not lose other calls
            self._keep_failure(error)

    def _report_failure(self, talk: Conversation, error: Exception) -> None:
        self._keep_failure(error)
        if talk.endpoint.kind == "messages":
            self._tell(talk.owner, talk.unknown(f"unreadable-response: {error!r}"))

    # What the seam calls

    def begin(self, client: Any, request: Any) -> Conversation | None:
        """Follow a request if it is a Claude call, and not one of our own counts."""
        try:
            endpoint = recognise(request.method, str(request.url))
            if endpoint is None or OWN_REQUEST.get():
                return None
            owner, sent_at = self._sink.owner(), self._clock()
            talk = Conversation(self, client, request, endpoint, owner, sent_at)
            self._follow(talk)
        except Exception as error:  # noqa: BLE001 - the code under test must not see ours
            self._keep_failure(error)
            return None
        return talk

    def _follow(self, talk: Conversation) -> None:
        outer = UNDER_WAY.get()
        if isinstance(outer, Conversation):
            talk.outer = outer
        for lost in self._take_lost(lambda each: _is_retry(talk, each.talk)):
            talk.lost_before += lost.count
        self._under_way[id(talk)] = talk

    def _take_lost(self, matches: Callable[[_Lost], bool]) -> list[_Lost]:
        if not self._lost:
            return []
        with self._lock:
            taken = [lost for lost in self._lost if matches(lost)]
            self._lost = [lost for lost in self._lost if lost not in taken]
        return taken

    # What conversations report, in the way of the request: kept for `drain`

    def conclude(self, talk: Conversation) -> None:
        """Keep a complete answer."""
        if self._end(talk):
            self._news.append(partial(self._report, talk))

    def keep_lost(self, talk: Conversation, lost: int) -> None:
        """End an attempt without an answer; keep it for the next if any may have been billed."""
        if not self._end(talk):
            return
        if not lost:
            talk.is_free = True
            self._news.append(partial(self._report, talk))
            return
        with self._lock:
            self._lost.append(_Lost(talk, lost))

    def note(self, talk: Conversation, error: Exception) -> None:
        """Keep a call that we failed to follow; it is unknown."""
        if self._end(talk):
            self._news.append(partial(self._report_failure, talk, error))

    def _end(self, talk: Conversation) -> bool:
        was_open = not talk.is_over
        talk.is_over = True
        self._under_way.pop(id(talk), None)
        return was_open

    def _keep_failure(self, error: Exception) -> None:
        if len(self.failures) < _MOST_FAILURES:
            self.failures.append(f"{type(error).__name__}: {error}")


def _mark_relay(talk: Conversation, exchange: Exchange) -> None:
    """Let a call take the place of the one around it if it is that very call, passed on.

    Hooks make calls of their own inside another's `send`: counts, and questions about the
    prompt. Those come on top.
    """
    outer = talk.outer
    if outer is not None and exchange.answer is not None and _passes_on(talk, outer):
        outer.relays = True


def _passes_on(talk: Conversation, outer: Conversation) -> bool:
    """Whether both ask one model the same; a cloud's name for it contains the plain one."""
    inner_payload, outer_payload = talk.payload or {}, outer.payload or {}
    model = model_of(talk.endpoint, inner_payload)
    asked = model_of(outer.endpoint, outer_payload)
    if model is None or asked is None or not (model in asked or asked in model):
        return False
    same = (inner_payload.get(part) == outer_payload.get(part) for part in _PROMPT)
    return outer.endpoint.kind == "messages" and all(same)


def _is_retry(talk: Conversation, lost: Conversation) -> bool:
    """Whether a request is the next attempt of one that got no answer."""
    return (
        talk.attempts == lost.attempts + 1
        and talk.owner == lost.owner
        and talk.client is lost.client
        and talk.request.url == lost.request.url
        and talk.payload == lost.payload
    )

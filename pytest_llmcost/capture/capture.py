"""Capture: follows every Claude call of the process, live, replayed or mocked.

A transport calls `begin`; what became of the request is reported by `drain`, for the owner that was
asked for when it was sent. Nothing here raises into the code under test: if the plugin itself
fails, the request's cost is unknown.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from msgspec.structs import replace

from pytest_llmcost.capture.batches import Batches
from pytest_llmcost.capture.headers import as_bytes, read_headers
from pytest_llmcost.capture.replay import Fingerprint, Recording, VcrPlay
from pytest_llmcost.capture.request import CapturedRequest, Replay
from pytest_llmcost.counting.own_requests import OWN_REQUEST
from pytest_llmcost.counting.payload import read_payload
from pytest_llmcost.errors import LiveCapError, PayloadError
from pytest_llmcost.responses.endpoints import recognise

_MOST_FAILURES = 20


class Capture:
    """What a process sends and gets, once `transports.follow` is given its `begin`."""

    def __init__(
        self,
        *,
        owner: Callable[[], object],
        report: Callable[[CapturedRequest], None],
        clock: Callable[[], float],
        fingerprint: Fingerprint | None = None,
    ) -> None:
        """Begin with nothing seen.

        `owner` returns whose a request is that is being sent now, from any thread or task; `report`
        takes what became of one, when `drain` or `settle` is called; `clock` is as `time.time`;
        `fingerprint` tells equal requests, by default the payload's own does.
        """
        self.failures: list[str] = []
        """What went wrong on our side, for the summary."""
        self._owner = owner
        self._report = report
        self._clock = clock
        self._fingerprint = fingerprint or _fingerprint
        self.limit()
        self._over_with = self._end  # one object for all requests
        self._recordings: WeakKeyDictionary[Any, dict[int, Recording]] = WeakKeyDictionary()
        self._open: set[CapturedRequest] = set()
        self.enter_child(None)

    def limit(self, stand_ins: Collection[str] = (), cap: Any = None) -> None:
        """Let these hold for what is sent from now on.

        `stand_ins` are hosts, with or without a port, that spend nothing. `cap` may refuse, by its
        `reserve`, a request that is about to be sent; its `settle` takes each that was let through
        when it is over.
        """
        self._stand_ins = frozenset(stand_ins)
        self._cap = cap

    # What transports and requests call, in the way of the code under test

    def begin(
        self,
        source: object,
        client: object,
        method: str,
        url: str,
        headers: Any,
        sent: object,
        outer: CapturedRequest | None = None,
    ) -> CapturedRequest | None:
        """Follow a request if it is a Claude call, and not one of our own counts.

        `source` is the library's own object for it, `client` who sends it, `outer` the request
        inside whose `send` that is.
        """
        try:
            sent = sent if type(sent) is bytes else as_bytes(sent)
            endpoint = recognise(method, url, sent)
            if endpoint is None or OWN_REQUEST.get():
                return None
            request = CapturedRequest(
                endpoint,
                source,
                client,
                sent,
                self._owner(),
                self._clock(),
                self._over_with,
                bool(self._stand_ins) and self._is_stand_in(url),
                self._cap,
                outer,
            )
            if headers is not None:
                request.headers = read_headers(headers)
            lost = self._take_lost(request) if self._lost else None
            if lost is not None:
                request.retry_of = lost
                request.lost_attempts = (lost.lost_attempts or 0) + lost.is_lost
                request.sent_again = lost.sent_again
                request.supersedes = lost if lost.answer is not None else lost.supersedes
            self._open.add(request)
        except Exception as error:
            self._note(error)
            if self._cap is not None:  # what is not followed has no worst case
                raise LiveCapError(f"not sent under a cap on live spend: {error!r}") from error
            return None
        return request

    def _is_stand_in(self, url: str) -> bool:
        parts = urlsplit(url.lower())
        address = parts.netloc.rpartition("@")[2]
        # Some libraries omit the usual port, others always name it.
        named = f"{address}:{443 if parts.scheme == 'https' else 80}"
        return not self._stand_ins.isdisjoint((address, named, parts.hostname))

    def _end(self, request: CapturedRequest) -> None:
        request.is_over = True
        self._open.discard(request)
        # Kept until the test is over, what is large costs more time than all that is done here. A
        # source that is the headers alone is not large: they are read afterwards.
        if "headers" in vars(request) or hasattr(request.source, "headers"):
            _ = request.headers
            request.source = None
        if request.reserved is not None and self._cap is not None:
            self._cap.settle(request)
        if request.retry_of is not None:
            if request.is_refused:  # never sent, it is a call of its own, and the other still lost
                request.lost_attempts = request.supersedes = None
                with self._lock:
                    self._lost.append(request.retry_of)
            request.retry_of = None
        is_whole = request.is_answered and not request.is_lost
        may_be_billed = (request.is_lost or request.lost_attempts) and request.is_claude
        if is_whole or request.error or not may_be_billed:
            request.client = None
            self._over.append(request)
        else:
            with self._lock:
                self._lost.append(request)
        if self.when_idle is not None:
            self.drain()
            is_lost = any(each.answer is None for each in self._lost)
            if not (self._open or is_lost or self._batches.open):
                self.when_idle()

    def enter_child(self, when_idle: Callable[[], None] | None) -> None:
        """Begin anew, as in a forked child: what is under way there is for the parent to follow."""
        self.when_idle = when_idle
        """In a child process, where each request is reported when it is over: called when no other
        one is under way."""
        # Held for a moment, and never across a call into user code. Reentrant, for the garbage
        # collector may close a response in the midst of it.
        self._lock = threading.RLock()
        for request in self._open:  # copies of the parent's, which a child may read on or close
            request.is_over = True
        self._open.clear()
        self._over: deque[CapturedRequest] = deque()
        self._lost: list[CapturedRequest] = []
        """Requests without a whole answer, of which an attempt may be billed, until a retry;
        those that were reported meanwhile have what was made of it."""
        self._batches = Batches()

    def _take_lost(self, retry: CapturedRequest) -> CapturedRequest | None:
        with self._lock:
            taken = next((each for each in self._lost if retry.is_retry_of(each)), None)
            self._lost = [each for each in self._lost if each is not taken]
        return taken

    # What is asked for afterwards

    def drain(self) -> None:
        """Report every request that is over, each once.

        No lock is held: reporting runs code of the user's, which may send, drain, or wait for
        threads that do.
        """
        while self._over:
            requests: deque[CapturedRequest] = deque()
            while self._over:
                requests.append(self._over.popleft())
            try:
                # All claim before the first is reported: a changed prompt takes what is left.
                for request in requests:
                    self._choose_recording(request, may_differ=False)
                while requests:
                    self._finish(requests.popleft())
            except BaseException:  # an interrupt: the others are still to be reported
                self._over.extendleft(reversed(requests))
                raise

    def settle(self, matches: Callable[[object], bool] = lambda owner: True) -> None:
        """Drain, then report what is still open, for owners that are about to be judged.

        An open stream is truncated; a request without an answer and a batch without results are
        unknown. What becomes of them later is reported with `supersedes`.
        """
        self.drain()
        for request in self._open.copy():
            is_new = request.supersedes is None and not request.is_outer and matches(request.owner)
            if is_new and request.endpoint.is_sampling:
                self._choose_recording(request, may_differ=True)
                so_far = request.so_far()
                request.supersedes = so_far
                self._tell(so_far)
        with self._lock:
            # Those of other owners that were reported will hardly be retried.
            self._lost = [each for each in self._lost if each.answer is None or matches(each.owner)]
            lost = [each for each in self._lost if each.answer is None and matches(each.owner)]
            for request in lost:
                request.answer = request.read() or request.unknown("lost-answer")
        for request in lost:
            self._tell(request)
        for request in [*self._batches.open.values()]:
            if request.supersedes is None and matches(request.owner):
                request.supersedes = request.variant()
                self._tell(request.supersedes)

    def _finish(self, request: CapturedRequest) -> None:
        try:
            if request.error is not None:
                raise request.error
            self._choose_recording(request, may_differ=True)
            request.answer = request.read()
            self._note_unclaimed(request)
        except Exception as error:  # noqa: BLE001 - one bad answer must not hide others
            self._note(error)
            if request.endpoint.is_sampling:
                request.answer = request.unknown(f"unreadable-response: {error!r}")
        if request.endpoint.kind == "batch_results":
            for settled in self._batches.settle(request):
                self._note_unclaimed(settled)
                self._tell(settled)
        elif request.endpoint.kind == "batch_create" and request.is_answered:
            self._batches.create(request)
        else:
            outer = request.outer
            if outer is not None and request.answer is not None and outer.endpoint.is_sampling:
                outer.is_passed_on |= outer.is_passed_on_by(request)
                outer.ids_inside += () if request.is_mocked else request.answer.ids
            if request.is_outer:
                request.answer = None
            is_known = request.answer is not None or request.supersedes is not None
            if is_known or (request.is_seen and request.is_claude):
                self._tell(request)

    def _note_unclaimed(self, request: CapturedRequest) -> None:
        """Note whose writes to the cache a reply may have read that equal nothing sent now."""
        play, replay, answer = request.play, request.replay, request.answer
        if isinstance(play, VcrPlay) and replay and answer and answer.usage.cache_read_tokens:
            unclaimed = play.unclaimed_before(request, self._recordings[play.cassette])
            unclaimed += self._batches.unclaimed_before(request)
            request.replay = replace(replay, unclaimed=unclaimed)

    def _choose_recording(self, request: CapturedRequest, *, may_differ: bool) -> None:
        play = request.play
        if request.replay is not None or request.error is not None:
            return
        if isinstance(play, Replay):
            request.replay = play
        if not isinstance(play, VcrPlay):
            return
        recordings = self._recordings.setdefault(play.cassette, {})
        chosen = play.choose(request, recordings, self._fingerprint, may_differ=may_differ)
        if chosen is not None:
            play.chosen = chosen
            request.replay = play.describe(request, chosen)
            if chosen.response is not play.response:
                request.use(chosen.response)

    def _tell(self, request: CapturedRequest) -> None:
        try:
            self._report(request)
        except Exception as error:  # noqa: BLE001 - a report that fails must not lose other calls
            self._note(error)

    def _note(self, error: Exception) -> None:
        if len(self.failures) < _MOST_FAILURES:
            self.failures.append(f"{type(error).__name__}: {error}")


def _fingerprint(
    request: CapturedRequest, body: Mapping[str, Any], betas: tuple[str, ...], model: str | None
) -> object:
    try:
        return read_payload(body, betas=betas, model=model).fingerprint
    except PayloadError:
        return None

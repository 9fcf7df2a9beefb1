"""Many counts at once: a few in flight, rate limits obeyed, nothing counted is ever lost.

Data flow: Jobs -> `count_all` -> a Count or the reason why not for each, in the jobs' order;
the cassettes are saved as it goes, and when it is interrupted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from queue import Empty, Queue
from typing import NamedTuple, TypeAlias

from pytest_llmcost.errors import CountCassetteError, CountError, CountMissingError
from pytest_llmcost.metering.cassette import CountCassette
from pytest_llmcost.metering.counter import Asker, Count, Counter, Mode, may_record
from pytest_llmcost.metering.patience import SILENT_SECONDS, Patience
from pytest_llmcost.metering.payload import Payload

AT_ONCE = 8
_MOST_ATTEMPTS = 6
_MOST_CONNECTIONS = 3
"""Attempts where no answer comes at all."""
_WAKING_SECONDS = 0.5
_PATIENCE_SECONDS = 5.0
"""How long an interrupt waits for the counts that are under way."""
_ITS_OWN = frozenset({400, 404, 413})
"""Refusals of this one payload; after any other failure the rest would fail as well."""


class Job(NamedTuple):
    """One count: what, for whom, from and into which cassette."""

    payload: Payload
    cassette: CountCassette
    mode: Mode
    asker: Asker


Outcome: TypeAlias = Count | CountError


class Progress(NamedTuple):
    """How far a long recording is."""

    done: int
    total: int
    failed: int
    seconds: float
    """Since it began."""

    @property
    def per_second(self) -> float:
        """Counts a second so far."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None as long as there is none."""
        return (self.total - self.done) / self.per_second if self.per_second else None


def count_all(
    counter: Counter,
    jobs: Sequence[Job],
    *,
    at_once: int = AT_ONCE,
    progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Outcome]:
    """Count everything; what cannot be counted gives its error in place of a count.

    Recorded counts need no thread and no client. When the API wants a pause, all wait; when it
    refuses the key, or cannot be reached, the rest is not tried and gets the same error.
    Whatever was counted is in the cassettes when this returns or is interrupted.

    Args:
        counter: The session's.
        jobs: In any order; equal payloads are asked for once.
        at_once: How many counts are in flight.
        progress: Called in this thread after each count.
        clock: Seconds, for the rate.
    """
    run = _Run(counter, jobs, progress, clock)
    try:
        run.take_recorded()
        if run.waiting:
            run.ask(at_once)
    finally:
        run.save()
    return [run.outcomes[index] for index in range(len(jobs))]


class _Run:
    """The state of one `count_all`."""

    def __init__(
        self,
        counter: Counter,
        jobs: Sequence[Job],
        progress: Callable[[Progress], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self._counter, self._jobs = counter, jobs
        self._progress, self._clock, self._began_at = progress, clock, clock()
        self._pause = _Pause()
        self._failed = 0

    @property
    def waiting(self) -> list[int]:
        """The jobs without an outcome."""
        return [index for index in range(len(self._jobs)) if index not in self.outcomes]

    def take_recorded(self) -> None:
        """Do what needs no network."""
        for index, job in enumerate(self._jobs):
            if job.mode not in ("all", "rewrite", "live"):
                known = job.cassette.find(job.payload.fingerprint)
                if known or not may_record(job.cassette, job.mode, job.asker):
                    self._note(index, self._count(job))

    def ask(self, at_once: int) -> None:
        """Ask the API for the rest, a few at a time."""
        self._counter.client()  # made here: fixtures belong to this thread
        asked: dict[Future[Outcome], int] = {}
        finished: Queue[Future[Outcome]] = Queue()
        pool = ThreadPoolExecutor(at_once, thread_name_prefix="llmcost-count")
        try:
            for index in self.waiting:
                future = pool.submit(self._attempt, self._jobs[index])
                asked[future] = index
                future.add_done_callback(finished.put)
            for _ in range(len(asked)):
                done = self._next(finished)
                self._note(asked[done], done.result())
        finally:
            self._pause.end()
            pool.shutdown(wait=False, cancel_futures=True)
            self._take_late(asked)

    def _take_late(self, asked: dict[Future[Outcome], int]) -> None:
        """After an interrupt: let what is under way come in, so that it is kept."""
        wait([one for one in asked if one.running()], timeout=_PATIENCE_SECONDS)

    def _attempt(self, job: Job) -> Outcome:
        outcome: Outcome = CountError("interrupted before it was counted")
        patience = Patience(self._counter.seconds)
        for attempt in range(_MOST_ATTEMPTS):
            if not self._pause.wait():
                return self._pause.reason or outcome
            outcome = self._count(job, patience)
            if not isinstance(outcome, CountError) or not outcome.may_pass:
                break
            if outcome.status is None and attempt == _MOST_CONNECTIONS - 1:
                break
            told = outcome.retry_after
            seconds = 2.0**attempt / 2 if told is None else told
            patience.left -= seconds
            if patience.left <= 0:
                break
            self._pause.all_for(seconds)
        if isinstance(outcome, CountError) and _concerns_all(outcome):
            self._pause.end(outcome)
        return outcome

    def _count(self, job: Job, patience: Patience | None = None) -> Outcome:
        try:
            return self._counter.count(
                job.payload,
                cassette=job.cassette,
                mode=job.mode,
                asker=job.asker,
                retries=0,  # one pause for all, which an interrupt can end
                patience=patience,
            )
        except CountError as error:
            return error.with_traceback(None)

    def _next(self, finished: Queue[Future[Outcome]]) -> Future[Outcome]:
        """The next one, waiting with a time-out: on Windows an interrupt ends no wait without."""
        waited = 0.0
        while True:
            with suppress(Empty):
                return finished.get(timeout=_WAKING_SECONDS)
            waited += _WAKING_SECONDS
            if waited == SILENT_SECONDS and self._counter.waiting is not None:
                self._counter.waiting(
                    f"llmcost: waiting for {len(self.waiting):,} counts, for "
                    f"{self._counter.seconds:g} s each at most (--llmcost-count-timeout)"
                )

    def _note(self, index: int, outcome: Outcome) -> None:
        self.outcomes[index] = outcome
        self._failed += isinstance(outcome, CountError)
        if self._progress is not None:
            seconds = self._clock() - self._began_at
            self._progress(Progress(len(self.outcomes), len(self._jobs), self._failed, seconds))

    def save(self) -> None:
        """Write what is not yet written; a cassette that cannot be is its jobs' outcome."""
        for cassette in {id(job.cassette): job.cassette for job in self._jobs}.values():
            try:
                cassette.save()
            except CountCassetteError as error:
                for index, job in enumerate(self._jobs):
                    if job.cassette is cassette:
                        self.outcomes[index] = error


def _concerns_all(error: CountError) -> bool:
    """Whether other payloads would meet the same."""
    if isinstance(error, (CountMissingError, CountCassetteError)):
        return False
    return error.status not in _ITS_OWN


class _Pause:
    """A pause that all threads keep, and that an end cuts short."""

    def __init__(self) -> None:
        self.reason: CountError | None = None
        """Why nothing more is asked."""
        self._until = 0.0
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def all_for(self, seconds: float) -> None:
        """Nobody goes on for so long."""
        with self._lock:
            self._until = max(self._until, time.monotonic() + seconds)

    def wait(self) -> bool:
        """Wait while there is a pause; also, may one go on."""
        waited_until = 0.0  # a clock that a test has stopped makes no pause longer
        while (left := self._until - time.monotonic()) > 0 and waited_until != self._until:
            waited_until = self._until
            if self._ended.wait(left):
                break
        return not self._ended.is_set()

    def end(self, reason: CountError | None = None) -> None:
        """Wake everybody; with a reason, nothing more is asked."""
        self.reason = self.reason or reason
        self._ended.set()

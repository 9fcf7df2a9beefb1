"""Count: how many tokens a payload is, who asked, and what to do where nobody knows.

Data flow: a recorded entry or the API's answer -> Count; nothing recorded -> CountMissingError.
"""

from __future__ import annotations

import inspect
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from queue import Empty, Queue
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from pytest_llmcost.counting.api_error import (
    explain_block,
    explain_failure,
    explain_refusal,
    message_of,
    show_body,
    status_of,
)
from pytest_llmcost.counting.cassette import CountCassette, Entry, show_path
from pytest_llmcost.counting.past_vcr import (
    OWN_REQUEST,
    NetworkBlocked,
    own_request,
    past_recorders,
)
from pytest_llmcost.counting.patience import SILENT_SECONDS, Patience, Turn, start
from pytest_llmcost.counting.payload import (
    NEEDS_BETA,
    Payload,
    changed_parts,
    countable,
    describe_changes,
    sampling_tools,
)
from pytest_llmcost.counting.refused import Trimmed, leave_out
from pytest_llmcost.errors import CountCassetteError, CountError, CountMissingError
from pytest_llmcost.prices.usage import is_quantity

Mode = Literal["none", "once", "new_episodes", "all", "rewrite", "live"]
MODES: tuple[Mode, ...] = ("none", "once", "new_episodes", "all", "rewrite", "live")
"""pytest-recording's, and `live` (--disable-recording): count, read nothing, write nothing."""


_LONGEST_REFUSAL = 300


class Asker(NamedTuple):
    """Who counts: a test's node id, or a fixture's name."""

    name: str
    """As it stands in the cassette."""
    run: str | None = None
    """What to give to pytest to have it counted; nothing where it is the name."""
    options: tuple[str, ...] = ()
    """Further options that the count needs, `--llmcost-model X` say."""

    @property
    def command(self) -> str:
        """The exact command that records its counts."""
        words = ["pytest", self.run or self.name, *self.options]
        return f"{shlex.join(words)} --llmcost-record-mode=new_episodes"


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """How many tokens a payload is."""

    input_tokens: int
    """The whole prompt; a lower bound where something is left out."""
    model: str
    fingerprint: str
    parts: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    recorded: bool = False
    """From a cassette, not from the API in this run."""


class Answer(NamedTuple):
    """What the API says, or once said."""

    input_tokens: int
    left_out: tuple[str, ...]


def recorded_answer(entry: Entry) -> Answer:
    """What the API once said.

    Raises:
        CountError: it refused the payload.
    """
    if entry.refused is not None:
        raise explain_refusal(entry.refused, entry.model)
    return Answer(entry.input_tokens, entry.left_out)


def make_entry(payload: Payload, answer: Answer, asker: Asker) -> Entry:
    """What goes into the cassette: digests and numbers, none of the payload's text."""
    return Entry(
        fingerprint=payload.fingerprint,
        model=payload.model,
        asked_by=(asker.name,),
        parts=payload.parts,
        left_out=answer.left_out,
        input_tokens=answer.input_tokens,
    )


def make_refusal(payload: Payload, said: str, asker: Asker) -> Entry:
    """What goes into the cassette of a payload that the API does not take for this model."""
    return Entry(
        fingerprint=payload.fingerprint,
        model=payload.model,
        asked_by=(asker.name,),
        parts=payload.parts,
        refused=said[:_LONGEST_REFUSAL],
    )


def make_count(payload: Payload, answer: Answer, *, recorded: bool) -> Count:
    """The count of a payload, with what makes it a bound."""
    return Count(
        input_tokens=answer.input_tokens,
        model=payload.model,
        fingerprint=payload.fingerprint,
        parts=payload.parts,
        left_out=answer.left_out,
        caveats=_caveats(payload, answer.left_out),
        recorded=recorded,
    )


def _caveats(payload: Payload, left_out: tuple[str, ...]) -> tuple[str, ...]:
    counted, unknown = countable(payload.body, beta=True)
    sampled = sorted(
        {name for name in sampling_tools(counted)} - {part.partition(".")[2] for part in left_out}
    )
    return tuple(
        sorted(
            [
                *(f"left-out: {part}" for part in left_out),
                *(f"unknown-field: {key}" for key in unknown),
                *(f"first-call-only: {name}" for name in sampled),
            ]
        )
    )


def explain_missing(
    payload: Payload, cassette: CountCassette, mode: Mode, asker: Asker
) -> CountMissingError:
    """Say what changed against the nearest recorded payload, and the command that records it."""
    nearest = cassette.nearest(payload.parts, asker.name)
    changed = tuple(changed_parts(nearest.parts, payload.parts)) if nearest else ()
    where = show_path(cassette.path)
    if nearest is None:
        compared = f"{where} holds no counts yet"
    else:
        others = "" if asker.name in nearest.asked_by else f" of {nearest.asked_by[0]}"
        compared = (
            f"changed against the nearest payload{others} in {where}: "
            f"{describe_changes(changed) or 'only what has no digest'}"
        )
    return CountMissingError(
        f"no recorded token count for this payload of {payload.model} "
        f"({payload.fingerprint[:10]}, record mode {mode}); {compared}. "
        f"Count it, free of charge: {asker.command}",
        fingerprint=payload.fingerprint,
        changed=changed,
        command=asker.command,
    )


_MOST_REFUSALS = 30


class Counter:
    """Counts for a whole session; any number of threads may count at once.

    A memo of what the API said only spares requests: every test still reads and writes its own
    cassette.
    """

    def __init__(
        self,
        make_client: Callable[[], object],
        *,
        seconds: float = 60.0,
        waiting: Callable[[str], None] | None = None,
    ) -> None:
        """Take what makes a synchronous SDK client; it is called once, when first needed.

        One count takes `seconds` at most; `waiting` is told what one that takes long waits for.
        """
        self.seconds = seconds
        self.waiting = waiting
        self._make_client = make_client
        self._making = Turn()
        self._client: object | None = None
        self._memo: dict[str, Future[Answer]] = {}
        self._lock = threading.Lock()
        self.requests = 0
        """How many counts the API was asked for, retries and refusals not counted."""

    def count(
        self,
        payload: Payload,
        *,
        cassette: CountCassette,
        mode: Mode,
        asker: Asker,
        retries: int | None = None,
        patience: Patience | None = None,
    ) -> Count:
        """Count a payload as the mode allows; what the API says is saved at once.

        Args:
            payload: What would be sent.
            cassette: The asker's.
            mode: What may be asked and written.
            asker: Whose count it is.
            retries: How often the SDK tries again; the client's own setting unless given.
            patience: What is left of the time that this count may take; all of it unless given.

        Raises:
            CountMissingError: not recorded, and the mode forbids to ask.
            CountCassetteError: the cassette could not be written.
            CountError: the API did not count it; the text says what to do.
        """
        if mode == "live":
            return make_count(payload, self.ask(payload, retries, patience), recorded=False)
        known = None if mode in ("all", "rewrite") else cassette.find(payload.fingerprint)
        if known is None and not may_record(cassette, mode, asker):
            raise explain_missing(payload, cassette, mode, asker)
        answer = recorded_answer(known) if known else self.ask(payload, retries, patience)
        if may_record(cassette, mode, asker):
            cassette.put(make_entry(payload, answer, asker))
            cassette.save_soon()
        return make_count(payload, answer, recorded=known is not None)

    def ask(
        self, payload: Payload, retries: int | None = None, patience: Patience | None = None
    ) -> Answer:
        """Ask the API, unless it was asked the same in this session."""
        if OWN_REQUEST.get():
            raise CountError("the client of llmcost_client counts while it is sending a count")
        patience = patience or Patience(self.seconds, self.waiting)
        waiting = self._memo.get(payload.fingerprint)
        if waiting is None:
            client = self.client(patience)  # which may take a while, and count itself
            with self._lock:
                waiting = self._memo.get(payload.fingerprint)
                if waiting is None:
                    self._memo[payload.fingerprint] = mine = Future[Answer]()
        if waiting is not None:
            patience.wait(waiting, model=payload.model, host=_host(self._client))
            return waiting.result()
        try:
            mine.set_result(self._request(client, payload, retries, patience))
        except BaseException as error:
            del self._memo[payload.fingerprint]
            mine.set_exception(error)
            raise
        return mine.result()

    def client(self, patience: Patience | None = None) -> Any:
        """The SDK client, made when first needed, and anew once it has been closed.

        Raises:
            CountError: when it is an asynchronous one, or cannot count.
        """
        if self._making.is_mine:
            raise CountError(
                "llmcost_client counts while it is being made, and there is no client to count "
                "with; let the fixture count nothing"
            )
        seconds = self.seconds if patience is None else patience.left
        with self._making.taken(seconds) as is_free:
            if not is_free:
                raise CountError(
                    f"another thread has been making llmcost_client for {seconds:g} s; if the "
                    "fixture waits for this thread, let it not"
                )
            if self._client is None or _is_closed(self._client):
                self._client = _checked_client(self._make_client())
            return self._client

    def _request(
        self, client: Any, payload: Payload, retries: int | None, patience: Patience
    ) -> Answer:
        options = {} if retries is None else {"max_retries": retries}
        body, betas = countable(payload.body, beta=payload.needs_beta)[0], payload.betas
        body["model"] = _model_for(client, payload)
        left_out: list[str] = []
        with self._lock:
            self.requests += 1

        def send() -> int:
            watched = past_recorders(client, patience, **options)
            return _send(watched, body, betas, payload.headers)

        while True:
            asked = start(send)
            patience.wait(asked, model=payload.model, host=_host(client))
            error = asked.exception()
            if error is None:
                return Answer(asked.result(), tuple(sorted(left_out)))
            if isinstance(error, NetworkBlocked):
                raise explain_block(str(error), _host(client))
            if isinstance(error, CountError) or not isinstance(error, Exception):
                raise error
            # The SDK's, httpx's and credentials' all.
            trimmed = _trim(error, body, betas) if len(left_out) < _MOST_REFUSALS else None
            if trimmed is None:
                raise _explain(error, payload, client, patience.seconds)
            body, betas = trimmed.body, trimmed.betas
            left_out.append(trimmed.left_out)


def may_record(cassette: CountCassette, mode: Mode, asker: Asker) -> bool:
    """Whether a count may be asked for and written; `once` only for those new to the file."""
    if mode == "once":
        return not cassette.has_recorded(asker.name)
    return mode in ("new_episodes", "all", "rewrite")


def _trim(error: Exception, body: dict[str, Any], betas: tuple[str, ...]) -> Trimmed | None:
    return leave_out(body, betas, message_of(error)) if status_of(error) == 400 else None


def _explain(error: Exception, payload: Payload, client: object, seconds: float) -> CountError:
    return explain_failure(error, model=payload.model, host=_host(client), seconds=seconds)


def _send(
    client: Any, body: Mapping[str, Any], betas: tuple[str, ...], headers: Mapping[str, str]
) -> int:
    """One call of the SDK's `count_tokens`, marked as ours."""
    rest = {key: value for key, value in body.items() if key not in ("model", "messages")}
    asked: dict[str, Any] = {"model": body["model"], "messages": body.get("messages", [])}
    if rest:  # as the SDK's own extra, so that an older one takes what it does not know
        asked["extra_body"] = rest
    if headers:
        asked["extra_headers"] = dict(headers)
    with own_request():
        if betas or not NEEDS_BETA.isdisjoint(rest):
            counted = client.beta.messages.count_tokens(betas=list(betas), **asked)
        else:
            counted = client.messages.count_tokens(**asked)
    tokens = getattr(counted, "input_tokens", None)
    if not is_quantity(tokens, least=1):
        raise CountError(
            f"{_host(client)} answered without a number of tokens that a prompt can have "
            f"({_show(counted)}); it may not be the Messages API: check ANTHROPIC_BASE_URL or the "
            "fixture llmcost_client"
        )
    return tokens


def _show(answer: object) -> str:
    return show_body(answer if isinstance(answer, str) else repr(answer))


def _model_for(client: object, payload: Payload) -> str:
    """The name as asked for, unless it is a cloud's and the client is not."""
    asked: str = payload.body["model"]
    of_cloud = "anthropic." in asked or not set("@:[").isdisjoint(asked)
    at_cloud = type(client).__name__.startswith(("AnthropicVertex", "AnthropicBedrock"))
    return payload.model if of_cloud and not at_cloud else asked


def _is_closed(client: object) -> bool:
    is_closed = getattr(client, "is_closed", None)
    return callable(is_closed) and bool(is_closed())


def _checked_client(client: object) -> object:
    counting = getattr(getattr(client, "messages", None), "count_tokens", None)
    name = type(client).__name__
    if counting is None:
        raise CountError(
            f"llmcost_client gave {name}, which has no messages.count_tokens; return a client "
            "of the anthropic SDK, anthropic.Anthropic() say"
        )
    if inspect.iscoroutinefunction(counting) or name.startswith("Async"):
        raise CountError(
            f"llmcost_client gave {name}; return the synchronous client, "
            f"{name.removeprefix('Async')}(): acount runs it in a thread of its own"
        )
    return client


def _host(client: object) -> str:
    return str(getattr(getattr(client, "base_url", None), "host", None) or "the API")


def make_client() -> object:
    """The client that is used without an override: key and address from the environment."""
    import anthropic

    return anthropic.Anthropic()


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

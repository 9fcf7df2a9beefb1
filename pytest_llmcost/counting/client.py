"""Counts: from the cassette or, if the mode allows it, from the API by the user's SDK client.

No lock of ours is held while the user's code runs: the fixture `llmcost_client`, its client, hooks.
"""

from __future__ import annotations

import inspect
import shlex
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from datetime import datetime, timezone
from typing import Any, Literal, NamedTuple, TypeAlias

from msgspec.structs import replace

from pytest_llmcost.counting.api_error import (
    explain_block,
    explain_failure,
    explain_refusal,
    message_of,
    show_body,
    status_of,
)
from pytest_llmcost.counting.cassette import Count, CountCassette, Entry
from pytest_llmcost.counting.past_vcr import (
    OWN_REQUEST,
    NetworkBlocked,
    own_request,
    past_recorders,
)
from pytest_llmcost.counting.patience import SILENT_SECONDS, Patience, start
from pytest_llmcost.counting.payload import RECIPE, Payload, changed_parts, describe_changes
from pytest_llmcost.counting.refused import leave_out
from pytest_llmcost.counting.turn import Turn
from pytest_llmcost.counting.volatile import describe_suspicious
from pytest_llmcost.errors import CountCassetteError, CountError, CountMissingError
from pytest_llmcost.files import show_path
from pytest_llmcost.prices.usage import is_quantity

Mode = Literal["none", "once", "new_episodes", "all", "rewrite", "live"]
MODES: tuple[Mode, ...] = ("none", "once", "new_episodes", "all", "rewrite", "live")
"""pytest-recording's, and `live` (--disable-recording): count, read nothing, write nothing."""
_ANEW = ("all", "rewrite", "live")
_MOST_REFUSALS = 30

_ACCEPTED = frozenset(
    {
        "messages", "model", "cache_control", "output_config", "output_format", "speed", "system",
        "thinking", "tool_choice", "tools",
    }
)  # fmt: skip
_NEEDS_BETA = frozenset({"billing_policy", "compaction", "context_management", "mcp_servers"})
"""Accepted on the beta route alone."""
_FOR_CREATE = frozenset(
    {
        "max_tokens", "container", "diagnostics", "inference_geo", "metadata", "service_tier",
        "stop_sequences", "stream", "temperature", "top_p", "top_k", "fallback_credit_token",
        "fallbacks", "thread",
    }
)  # fmt: skip
"""No tokens of the prompt."""


def countable(payload: Payload) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what `count_tokens` takes of a body, and the keys that are unknown, sorted.

    Server tools, toolsets and `mcp_servers` are kept: they are tried, not presumed refused.

    Source: the parameters of count_tokens in anthropic 2.12.0, read 2026-11-22.
    """
    accepted = _ACCEPTED | _NEEDS_BETA
    kept = {key: value for key, value in payload.body.items() if key in accepted}
    return kept, tuple(sorted(payload.body.keys() - accepted - _FOR_CREATE))


def caveats_of(payload: Payload, count: Count) -> tuple[str, ...]:
    """Return what makes the count of a payload a bound, sorted."""
    left_out = [f"left-out: {part}" for part in count.left_out]
    unknown = [f"unknown-field: {key}" for key in countable(payload)[1]]
    gone = {part.partition(".")[2] for part in count.left_out}
    sampled = [f"first-call-only: {name}" for name in {*payload.sampling_tools} - gone]
    return tuple(sorted([*left_out, *unknown, *sampled]))


class Asker(NamedTuple):
    """The test or fixture that counts."""

    name: str
    """As it stands in the cassette."""
    run: str | None = None
    """What to give to pytest to have it counted; the name unless given."""
    options: tuple[str, ...] = ()
    """Further options that the count needs, for example `--llmcost-model X`."""

    @property
    def command(self) -> str:
        """The command that records its counts."""
        return self.command_in("rewrite")

    def command_in(self, mode: Mode) -> str:
        """Return the command that counts in a mode."""
        words = ["pytest", self.run or self.name, *self.options]
        return f"{shlex.join(words)} --llmcost-record-mode={mode}"


def may_record(cassette: CountCassette, mode: Mode, asker: Asker) -> bool:
    """Return whether a count may be asked for and written; `once` only if the asker is new."""
    if mode == "once":
        return not cassette.has_recorded(asker.name)
    return mode in ("new_episodes", "all", "rewrite")


def explain_missing(
    payload: Payload, cassette: CountCassette, mode: Mode, asker: Asker
) -> CountMissingError:
    """Explain what changed since the nearest recorded payload, and what records the count."""
    nearest = cassette.nearest(payload.parts, asker.name)
    changed = tuple(changed_parts(nearest.parts, payload.parts)) if nearest else ()
    where, command = show_path(cassette.path), asker.command
    if cassette.is_outdated(asker.name):
        command, changed = asker.command_in("rewrite"), ()
        compared = (
            f"the counts in {where} are of an earlier recipe, and this version of pytest-llmcost "
            f"uses recipe {RECIPE}"
        )
    elif nearest is None:
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
        f"Count it, free of charge: {command}",
        fingerprint=payload.fingerprint,
        changed=changed,
        command=command,
        before=cassette.tokens_before(payload, asker.name),
        suspicious=describe_suspicious(payload, changed, datetime.now(timezone.utc)),
    )


class Counter:
    """Counts for a whole session; any number of threads may count at once.

    What the API said is kept in memory, which only spares requests: every test still reads and
    writes its own cassette.
    """

    def __init__(
        self,
        make_client: Callable[[], object],
        *,
        seconds: float = 60.0,
        waiting: Callable[[str], None] | None = None,
    ) -> None:
        """Take what makes a synchronous SDK client; it is called once, when first needed.

        One count takes `seconds` at most; `waiting` is given a line about one that takes long.
        """
        self.seconds = seconds
        self.waiting = waiting
        self._make_client = make_client
        self._making = Turn()
        self._client: object | None = None
        self._memo: dict[str, Future[Count]] = {}
        self._lock = threading.Lock()

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
            CountMissingError: not recorded, and the mode forbids asking.
            CountCassetteError: the cassette could not be written.
            CountError: the API did not count it; the text says what to do.
        """
        known = None if mode in _ANEW else cassette.find(payload.fingerprint)
        records = may_record(cassette, mode, asker)
        if known is None and not records and mode != "live":
            raise explain_missing(payload, cassette, mode, asker)
        if known is not None and known.refused is not None:
            raise explain_refusal(known.refused, known.model)
        count = known or self.ask(payload, retries, patience)
        if records:
            cassette.put(Entry.of(payload, count, asker.name))
            cassette.save_soon()
        if known is not None:
            return count
        counted: Count = replace(count, before=cassette.tokens_before(payload, asker.name))
        return counted

    def ask(
        self, payload: Payload, retries: int | None = None, patience: Patience | None = None
    ) -> Count:
        """Ask the API, unless it was asked the same in this session."""
        if OWN_REQUEST.get():
            raise CountError("the client of llmcost_client counts while it is sending a count")
        patience = patience or Patience(self.seconds, self.waiting)
        first = None
        if payload.fingerprint not in self._memo:
            client = self.client(patience)  # user code, which may take a while, and count itself
            with self._lock:
                if payload.fingerprint not in self._memo:
                    first = self._memo[payload.fingerprint] = Future[Count]()
        if first is None:
            other = self._memo[payload.fingerprint]
            patience.wait(other, model=payload.model, host=_host(self._client))
            return other.result()
        try:
            first.set_result(self._request(client, payload, retries, patience))
        except BaseException as error:
            del self._memo[payload.fingerprint]
            first.set_exception(error)
            raise
        return first.result()

    def client(self, patience: Patience | None = None) -> Any:
        """Return the SDK client, made when first needed, and again if it has been closed.

        Raises:
            CountError: it is asynchronous, or cannot count.
        """
        if self._making.is_mine:
            raise CountError(
                "llmcost_client counts while it is being made, and there is no client to count "
                "with; remove the count from the fixture"
            )
        seconds = self.seconds if patience is None else patience.left
        with self._making.taken(seconds) as is_free:
            if not is_free:
                raise CountError(
                    f"another thread has been making llmcost_client for {seconds:g} s; the "
                    "fixture must not wait for this thread"
                )
            is_closed = getattr(self._client, "is_closed", None)
            if self._client is None or (callable(is_closed) and is_closed()):
                self._client = _checked_client(self._make_client())
            return self._client

    def _request(
        self, client: Any, payload: Payload, retries: int | None, patience: Patience
    ) -> Count:
        options = {} if retries is None else {"max_retries": retries}
        body = countable(payload)[0]
        body["model"] = _model_for(client, payload)
        left_out: list[str] = []

        def send() -> int:
            return _send(past_recorders(client, patience, **options), body, payload)

        while True:
            asked = start(send)
            patience.wait(asked, model=payload.model, host=_host(client))
            error = asked.exception()
            if error is None:
                return Count(input_tokens=asked.result(), left_out=tuple(sorted(left_out)))
            if isinstance(error, NetworkBlocked):
                raise explain_block(str(error), _host(client))
            if isinstance(error, CountError) or not isinstance(error, Exception):
                raise error
            # The errors of the SDK, of httpx and of credentials.
            trimmed = None
            if status_of(error) == 400 and len(left_out) < _MOST_REFUSALS:
                trimmed = leave_out(body, message_of(error))
            if trimmed is None:
                raise explain_failure(
                    error, model=payload.model, host=_host(client), seconds=patience.seconds
                )
            body = trimmed.body
            left_out.append(trimmed.left_out)


def _send(client: Any, body: Mapping[str, Any], payload: Payload) -> int:
    """Call the SDK's `count_tokens` once, marked as ours."""
    rest = {key: value for key, value in body.items() if key not in ("model", "messages")}
    asked: dict[str, Any] = {"model": body["model"], "messages": body.get("messages", [])}
    if rest:  # as the SDK's own extra, so that an older one takes what it does not know
        asked["extra_body"] = rest
    if payload.headers:
        asked["extra_headers"] = dict(payload.headers)
    with own_request():
        if payload.betas or not _NEEDS_BETA.isdisjoint(rest):
            counted = client.beta.messages.count_tokens(betas=list(payload.betas), **asked)
        else:
            counted = client.messages.count_tokens(**asked)
    tokens = getattr(counted, "input_tokens", None)
    if not is_quantity(tokens, least=1):
        shown = show_body(counted if isinstance(counted, str) else repr(counted))
        raise CountError(
            f"{_host(client)} answered without a number of tokens that a prompt can have "
            f"({shown}); it may not be the Messages API: check ANTHROPIC_BASE_URL or the "
            "fixture llmcost_client"
        )
    return tokens


def _model_for(client: object, payload: Payload) -> str:
    """Return the name as asked for, unless it is a cloud's and the client is not."""
    asked: str = payload.body["model"]
    of_cloud = "anthropic." in asked or not set("@:[").isdisjoint(asked)
    at_cloud = type(client).__name__.startswith(("AnthropicVertex", "AnthropicBedrock"))
    return payload.model if of_cloud and not at_cloud else asked


def _checked_client(client: object) -> object:
    counting = getattr(getattr(client, "messages", None), "count_tokens", None)
    name = type(client).__name__
    if counting is None:
        raise CountError(
            f"llmcost_client gave {name}, which has no messages.count_tokens; return a client "
            "of the anthropic SDK, for example anthropic.Anthropic()"
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
    """Make the client that is used without an override: key and address from the environment."""
    import anthropic

    return anthropic.Anthropic()


AT_ONCE = 8
_RETRIES = 6
"""Of the SDK, in a long recording: it waits as long as a rate limit says."""
_GRACE_SECONDS = 5.0
"""How long an interrupt waits for the counts that are under way."""


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
        """At the rate so far; None as long as there is no rate."""
        return (self.total - self.done) / self.per_second if self.per_second else None


def count_all(
    counter: Counter,
    jobs: Sequence[Job],
    *,
    at_once: int = AT_ONCE,
    progress: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Outcome]:
    """Count everything; a job that cannot be counted gets its error in place of a count.

    Recorded counts need no thread and no client. One count goes out first: if the key is refused
    or the API cannot be reached, the rest is not tried and gets the same error. Whatever was
    counted is in the cassettes when this returns or is interrupted.

    Args:
        counter: The session's.
        jobs: In any order; equal payloads are asked for once.
        at_once: How many counts are in flight.
        progress: Called in this thread after each count.
        clock: Seconds, for the rate.
    """
    outcomes: dict[int, Outcome] = {}
    failed, began_at = 0, clock()

    def note(index: int, outcome: Outcome) -> None:
        nonlocal failed
        outcomes[index] = outcome
        failed += isinstance(outcome, CountError)
        if progress is not None:
            progress(Progress(len(outcomes), len(jobs), failed, clock() - began_at))

    try:
        waiting = []
        for index, job in enumerate(jobs):
            known = job.mode not in _ANEW and job.cassette.find(job.payload.fingerprint)
            if known or not (job.mode == "live" or may_record(job.cassette, job.mode, job.asker)):
                note(index, _outcome(counter, job))
            else:
                waiting.append(index)
        if waiting:
            counter.client()  # made here: fixtures belong to this thread
            with closing(_ask_all(counter, jobs, waiting, at_once)) as asked:
                for index, outcome in asked:
                    note(index, outcome)
    finally:
        for cassette in {id(job.cassette): job.cassette for job in jobs}.values():
            try:
                cassette.save()
            except CountCassetteError as error:
                outcomes |= {at: error for at, job in enumerate(jobs) if job.cassette is cassette}
    return [outcomes[index] for index in range(len(jobs))]


def _ask_all(
    counter: Counter, jobs: Sequence[Job], waiting: Sequence[int], at_once: int
) -> Generator[tuple[int, Outcome], None, None]:
    """Ask the API for the jobs that wait, and yield their outcomes as they come in."""
    stopped_by: list[CountError] = []
    under_way: list[Patience] = []

    def attempt(index: int, retries: int | None, patience: Patience) -> Outcome:
        if stopped_by:
            return stopped_by[0]
        under_way.append(patience)
        outcome = _outcome(counter, jobs[index], retries=retries, patience=patience)
        if isinstance(outcome, CountError) and _concerns_all(outcome):
            stopped_by.append(outcome)
        return outcome

    first, *rest = waiting
    outcome = attempt(first, None, Patience(counter.seconds, counter.waiting))
    if stopped_by and stopped_by[0].may_pass and stopped_by[0].status is not None:
        stopped_by.clear()  # the API is only busy: the first one waits for it with the others
        rest = [first, *rest]
    else:
        yield first, outcome
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="llmcost-count")
    asked: dict[Future[Outcome], int] = {}
    try:
        for index in rest:
            patience = Patience(counter.seconds)
            asked[pool.submit(attempt, index, _RETRIES, patience)] = index
        pending, silent = {*asked}, 0.0
        while pending:
            # With a time-out: on Windows an interrupt ends no wait without one.
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            silent = 0.0 if done else silent + 0.5
            if silent == SILENT_SECONDS and counter.waiting is not None:
                counter.waiting(
                    f"llmcost: waiting for {len(pending):,} counts, for {counter.seconds:g} s "
                    "each at most (--llmcost-count-timeout)"
                )
            for one in done:
                yield asked[one], one.result()
    finally:
        # After an interrupt, what is under way may still come in and is then kept.
        pool.shutdown(wait=False, cancel_futures=True)
        # Not only those that are running: a thread may have taken one that is about to run.
        wait([one for one in asked if not one.done()], timeout=_GRACE_SECONDS)
        for patience in under_way:
            patience.left = 0


def _outcome(counter: Counter, job: Job, **how: Any) -> Outcome:
    payload, cassette, mode, asker = job
    try:
        return counter.count(payload, cassette=cassette, mode=mode, asker=asker, **how)
    except CountError as error:
        return error.with_traceback(None)


def _concerns_all(error: CountError) -> bool:
    """Return whether other payloads would meet the same."""
    if isinstance(error, (CountMissingError, CountCassetteError)):
        return False
    return error.status not in (400, 404, 413)

"""Counts: from the cassette or, if the mode allows it, from the API by the user's SDK client.

No lock of ours is held while the user's code runs: the fixture `llmcost_client`, its client, hooks.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime, timezone
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from msgspec.structs import replace

from pytest_llmcost.counting.api_error import (
    ELSEWHERE,
    explain_failure,
    explain_refusal,
    leave_out,
    message_of,
    show_body,
)
from pytest_llmcost.counting.cassette import Count, CountCassette, Entry
from pytest_llmcost.counting.own_requests import (
    OWN_REQUEST,
    SILENT_SECONDS,
    NetworkBlocked,
    Patience,
    past_recorders,
    start,
)
from pytest_llmcost.counting.payload import (
    COUNTED,
    KNOWN,
    NEEDS_BETA,
    RECIPE,
    Payload,
    changed_parts,
    describe_changes,
)
from pytest_llmcost.counting.record_mode import RecordMode
from pytest_llmcost.counting.volatile import describe_suspicious
from pytest_llmcost.errors import CountCassetteError, CountError, CountMissingError
from pytest_llmcost.files import show_path
from pytest_llmcost.prices.usage import HELD, is_quantity

_MOST_REFUSALS = 30


def unknown_keys(payload: Payload) -> list[str]:
    """Return the keys of a body that neither `count_tokens` nor `create` is known to have."""
    return sorted(payload.body.keys() - KNOWN)


class Asker(NamedTuple):
    """The test or fixture that counts."""

    name: str
    """As it stands in the cassette."""
    command: str = ""
    """What records its counts, to be pasted."""


class Job(NamedTuple):
    """One count: what, for whom, from and into which cassette."""

    payload: Payload
    cassette: CountCassette
    mode: RecordMode
    """As it is for this asker."""
    asker: Asker

    @property
    def recorded(self) -> Entry | None:
        """The recorded count, if the mode allows to read it."""
        return self.cassette.entries.get(self.payload.fingerprint) if self.mode.reads else None

    @property
    def asks(self) -> bool:
        """Whether the API is asked for it."""
        return self.mode.asks and self.recorded is None


def _explain_missing(job: Job) -> CountMissingError:
    """Explain what changed since the nearest recorded payload, and what records the count."""
    payload, cassette, _, asker = job
    before = cassette.entry_before(payload, asker.name)
    nearest = cassette.nearest(payload.parts, asker.name)
    where, changed, empty = show_path(cassette.path), tuple[str, ...](), ""
    if nearest is None:
        of_recipe = f" of recipe {RECIPE}" if cassette.entries else ""
        compared = f"{where} holds no counts{of_recipe} yet"
        empty = f"no counts{of_recipe} in {where}"
    else:
        changed = tuple(changed_parts(nearest.parts, payload.parts))
        others = "" if asker.name in nearest.asked_by else f" of {nearest.asked_by[0]}"
        parts = describe_changes(changed) or "a part that has no digest"
        compared = f"since the nearest count{others} in {where}, {parts} changed"
    return CountMissingError(
        f"this prompt is not counted yet for {payload.model}: {compared}. "
        f"Count it (free): {asker.command}",
        changed=changed,
        command=asker.command,
        before=None if before is None else before.input_tokens,
        empty=empty,
        suspicious=describe_suspicious(payload, changed, datetime.now(timezone.utc)),
    )


class PayloadCount(Count, frozen=True, kw_only=True):
    """A count, with what is known of it in this run alone."""

    caveats: tuple[str, ...] = ()
    """What makes it a bound, sorted."""
    before: Entry | None = None
    """What was recorded before the payload changed."""


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
        in_tests: bool = True,
    ) -> None:
        """Take what makes a synchronous SDK client; it is called once, when first needed.

        One count takes `seconds` at most; `waiting` is given a line about one that takes long.
        Errors name the fixture that makes the client unless `in_tests` is false.
        """
        self.in_tests = in_tests
        self.seconds = seconds
        self.waiting = waiting
        self._make_client = make_client
        self._client: object | None = None
        self._client_lock = threading.Lock()
        self._memo: dict[str, Future[Count]] = {}

    def count(self, job: Job, patience: Patience | None = None) -> PayloadCount:
        """Count a payload as the mode allows; what the API says is saved at once.

        `patience` is what is left of the time that this count may take, by default all of it.

        Raises:
            CountMissingError: not recorded, and the mode forbids asking.
            CountCassetteError: the cassette could not be written.
            CountError: the API did not count it; the text says what to do.
        """
        payload, cassette, mode, asker = job
        if payload.continues is not None:
            raise CountError(
                f"{HELD}, so a count of this part says nothing of its cost; "
                "count the whole conversation, without thread",
                status=400,
            )
        count: Count | None = job.recorded
        before = None
        if count is None:
            if not mode.asks:
                raise _explain_missing(job)
            count = self.ask(payload, patience)
            before = cassette.entry_before(payload, asker.name)
        elif count.refused is not None:
            raise explain_refusal(count.refused, payload.model)
        if mode.writes:
            cassette.put(Entry.of(payload, count, asker.name))
            cassette.save_soon()
        caveats = [f"left-out: {part}" for part in count.left_out]
        caveats += [f"unknown-field: {key}" for key in unknown_keys(payload)]
        gone = {part.partition(".")[2] for part in count.left_out}
        caveats += [
            f"first-call-only: {name}"
            for name, least in payload.samples_again.items()
            if count.input_tokens >= least and name not in gone
        ]
        said = {name: getattr(count, name) for name in Count.__struct_fields__}
        return PayloadCount(**said, caveats=tuple(sorted(caveats)), before=before)

    def ask(self, payload: Payload, patience: Patience | None = None) -> Count:
        """Ask the API, unless it was asked the same in this session."""
        if OWN_REQUEST.get():
            raise CountError("the client of llmcost_client counts while it is sending a count")
        patience = patience or Patience(self.seconds, self.waiting)
        try:
            asked = self._memo.get(payload.fingerprint)
            if asked is None:
                client = self.client(patience)  # user code, which may take long, and count itself
                own = Future[Count]()
                asked = self._memo.setdefault(payload.fingerprint, own)  # one thread's is kept
                if asked is own:
                    start(partial(self._request, client, payload, patience), own)
            patience.wait(asked, model=payload.model, host=_host(self._client))
            return asked.result()
        except BaseException:
            self._memo.pop(payload.fingerprint, None)
            raise

    def client(self, patience: Patience | None = None) -> Any:
        """Return the SDK client, made when first needed, and again if it has been closed.

        Raises:
            CountError: it is asynchronous, or cannot count.
        """
        seconds = self.seconds if patience is None else patience.left
        if not self._client_lock.acquire(timeout=seconds):
            raise CountError(
                f"llmcost_client has been in the making for {seconds:g} s; the fixture must "
                "neither count nor wait for this thread"
            )
        try:
            # The SDK's method; a fixture narrower than the session closes its client.
            is_closed = getattr(self._client, "is_closed", None)
            if self._client is None or (callable(is_closed) and is_closed()):
                client = self._make_client()
                counting = getattr(getattr(client, "messages", None), "count_tokens", None)
                name = type(client).__name__
                if counting is None:
                    raise CountError(
                        f"llmcost_client gave {name}, which has no messages.count_tokens; return a "
                        "client of the anthropic SDK, for example anthropic.Anthropic()"
                    )
                if inspect.iscoroutinefunction(counting) or name.startswith("Async"):
                    raise CountError(
                        f"llmcost_client gave {name}; return the synchronous client, "
                        f"{name.removeprefix('Async')}(): acount runs it in a thread of its own"
                    )
                self._client = client
            return self._client
        finally:
            self._client_lock.release()

    def _request(self, client: Any, payload: Payload, patience: Patience) -> Count:
        """Count with a client, again without each part that is refused alone.

        In a thread of its own, hence also in a context of its own, which marks what is sent.
        """
        OWN_REQUEST.set(True)
        body = {key: value for key, value in payload.body.items() if key in COUNTED}
        of_cloud = "anthropic." in body["model"] or not set("@:[").isdisjoint(body["model"])
        at_cloud = type(client).__name__.startswith(("AnthropicVertex", "AnthropicBedrock"))
        if of_cloud and not at_cloud:  # Anthropic's own API does not know the clouds' names
            body["model"] = payload.model
        left_out: list[str] = []
        host = _host(client)
        while True:
            try:
                counted = _send(past_recorders(client, patience), body, payload)
                return replace(counted, left_out=tuple(sorted(left_out)))
            except CountError:
                raise
            except NetworkBlocked as error:
                said = show_body(str(error))
                raise CountError(
                    f"counting needs a connection to {host}, and this test forbids connections "
                    f"({said}); allow that host (block_network(allowed_hosts=...), --allow-hosts), "
                    "or run without recording counts",
                    foreign=(said, host),
                ) from None
            except Exception as error:  # noqa: BLE001 - of the SDK, of httpx and of credentials
                trimmed = None
                if getattr(error, "status_code", None) == 400 and len(left_out) < _MOST_REFUSALS:
                    trimmed = leave_out(body, message_of(error))
                if trimmed is None:
                    raise explain_failure(
                        error,
                        model=payload.model,
                        host=host,
                        seconds=patience.seconds,
                        in_tests=self.in_tests,
                    ) from None
                body, part = trimmed
                left_out.append(part)


def make_client() -> object:
    """Make the client that is used without an override: key and address from the environment."""
    import anthropic

    return anthropic.Anthropic()


def _send(client: Any, body: dict[str, Any], payload: Payload) -> Count:
    """Call the SDK's `count_tokens` once."""
    rest = {key: value for key, value in body.items() if key not in ("model", "messages")}
    asked: dict[str, Any] = {"model": body["model"], "messages": body.get("messages", [])}
    if rest:  # as the SDK's own extra, so that an older one takes what it does not know
        asked["extra_body"] = rest
    if payload.headers:
        asked["extra_headers"] = dict(payload.headers)
    if payload.betas or not NEEDS_BETA.isdisjoint(rest):
        counted = client.beta.messages.count_tokens(betas=list(payload.betas), **asked)
    else:
        counted = client.messages.count_tokens(**asked)
    tokens = getattr(counted, "input_tokens", None)
    if not is_quantity(tokens, least=1):
        shown = show_body(counted if isinstance(counted, str) else repr(counted))
        host = _host(client)
        raise CountError(
            f"{host} answered without a number of tokens that a prompt can have ({shown}); "
            f"{ELSEWHERE}",
            foreign=(shown, host),
        )
    return Count(input_tokens=tokens)


def _host(client: object) -> str:
    return str(getattr(getattr(client, "base_url", None), "host", None) or "the API")


# Many at once

_AT_ONCE = 8
_RETRIES = 6
"""Of the SDK, in a long recording: it waits as long as a rate limit says."""
_DEFAULT_RETRIES = 2
"""Of the SDK's clients (`anthropic.DEFAULT_MAX_RETRIES`); any other number is the user's."""
_LOOK_SECONDS = 0.01
_GRACE_SECONDS = 5.0
"""How long an interrupt waits for the counts that are under way."""

Outcome: TypeAlias = PayloadCount | CountError


class Progress(NamedTuple):
    """How far a long recording is."""

    done: int
    total: int
    failed: int
    seconds: float
    """Since it began."""


def count_all(
    counter: Counter,
    jobs: Sequence[Job],
    *,
    progress: Callable[[Progress], None] | None = None,
) -> list[Outcome]:
    """Count everything; a job that cannot be counted gets its error in place of a count.

    One count goes out first: if the key is refused, or the API is busy or cannot be reached, the
    rest is not tried and gets the same error. The others are tried more often than one alone is.
    Whatever was counted is in the cassettes when this returns or is interrupted. `progress` is
    called in this thread after each count.
    """
    outcomes: dict[int, Outcome] = {}
    stopped_by: list[CountError] = []
    failed, began_at = 0, time.monotonic()
    retries: int | None = None
    show = progress or (lambda _: None)
    to_ask: list[int] = []
    todo = iter(to_ask)
    asked: dict[int, tuple[Patience, Future[Outcome]]] = {}

    def count(index: int, patience: Patience) -> Outcome:
        if stopped_by:
            return stopped_by[0]
        try:
            return counter.count(jobs[index], patience)
        except CountError as error:
            is_of_one = isinstance(error, (CountMissingError, CountCassetteError))
            if not is_of_one and error.status not in (400, 404, 413):
                stopped_by.append(error)  # other payloads would meet the same
            return error.with_traceback(None)
        finally:
            patience.left = 0  # after an interrupt its request sends nothing any more

    def note(index: int, outcome: Outcome) -> None:
        nonlocal failed
        outcomes[index] = outcome
        failed += isinstance(outcome, CountError)
        show(Progress(len(outcomes), len(jobs), failed, time.monotonic() - began_at))

    try:
        for index, job in enumerate(jobs):
            if job.asks:
                to_ask.append(index)
            else:
                note(index, count(index, Patience(counter.seconds)))
        if to_ask:
            # Made here: fixtures belong to this thread.
            is_default = getattr(counter.client(), "max_retries", None) == _DEFAULT_RETRIES
            retries = _RETRIES if is_default else None
            note(next(todo), count(to_ask[0], Patience(counter.seconds, counter.waiting)))
        while len(outcomes) < len(jobs):
            for index in islice(todo, _AT_ONCE - len(asked)):
                patience = Patience(counter.seconds, retries=retries)
                own = Future[Outcome]()
                asked[index] = patience, own  # first: an interrupt can meet the start
                start(partial(count, index, patience), own)
            index = _next(asked, counter, len(jobs) - len(outcomes))
            note(index, asked.pop(index)[1].result())
    finally:
        grace = Patience(_GRACE_SECONDS)
        for patience, under_way in asked.values():
            with suppress(CountError):
                grace.wait(under_way, model="", host="")
            patience.left = 0  # what has not come in by now sends nothing any more
        outcomes |= _save_all(jobs)
    return [outcomes[index] for index in range(len(jobs))]


def _next(
    asked: Mapping[int, tuple[Patience, Future[Outcome]]], counter: Counter, pending: int
) -> int:
    """Return which of these has ended; if none does for a while, say so."""
    # An interrupt that meets `concurrent.futures.wait` can leave a future locked for ever, and the
    # thread that is to set its result; on Windows it ends no wait without a time-out; and tests
    # replace `time.sleep`.
    silent = 0.0
    while True:
        for index, (_, outcome) in asked.items():
            if outcome.done():
                return index
        threading.Event().wait(_LOOK_SECONDS)
        silent += _LOOK_SECONDS
        if silent - _LOOK_SECONDS < SILENT_SECONDS <= silent and counter.waiting is not None:
            counter.waiting(
                f"llmcost: waiting for {pending:,} counts, for {counter.seconds:g} s each at "
                "most (--llmcost-count-timeout)"
            )


def _save_all(jobs: Sequence[Job]) -> dict[int, Outcome]:
    """Save all cassettes; return the error of each that cannot be written, for its jobs."""
    errors: dict[int, Outcome] = {}
    for cassette in dict.fromkeys(job.cassette for job in jobs):
        try:
            cassette.save()
        except CountCassetteError as error:
            errors |= {at: error for at, job in enumerate(jobs) if job.cassette is cassette}
    return errors

"""Counting for a test: its cassette, its mode, its client; and pricing what was counted.

Data flow: payload -> `Counting.count` (the test's count cassette, else the API) -> Count ->
`counted_answer` -> Answer -> `Run.book`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import pytest
from msgspec.structs import replace

from pytest_llmcost.counting.api_error import without_secrets
from pytest_llmcost.counting.cassette import Count, CountCassette
from pytest_llmcost.counting.client import (
    Asker,
    Counter,
    Job,
    Mode,
    caveats_of,
    count_all,
    make_client,
)
from pytest_llmcost.counting.payload import Payload, describe_changes, read_payload
from pytest_llmcost.counting.segments import (
    CachedPrompt,
    CachePlan,
    opening_tokens_of,
    plan_caching,
    split_prompt,
)
from pytest_llmcost.errors import (
    CountCassetteError,
    CountError,
    CountMissingError,
    PayloadError,
    SettingsError,
    UnknownModelError,
)
from pytest_llmcost.ledger.builder import FixtureOwner, Owner
from pytest_llmcost.ledger.ledger import PayloadFacts as LedgerPayload
from pytest_llmcost.plugin.marker import ceilings_of
from pytest_llmcost.plugin.progress import show_waiting
from pytest_llmcost.plugin.pytest_recording import cassette_path, fixture_cassette_path, record_mode
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import SamplingCall, Terms, Usage, is_quantity
from pytest_llmcost.responses.endpoints import bedrock_platform
from pytest_llmcost.responses.message import Answer, read_lifetime

if TYPE_CHECKING:
    from pytest_llmcost.plugin.owners import Seat
    from pytest_llmcost.plugin.session import Session


class Desk(NamedTuple):
    """Where the counts of one owner come from and go to."""

    cassette: CountCassette
    mode: Mode
    asker: Asker


class Counting:
    """The run's counter, and the cassettes of the owners that are counting."""

    def __init__(self, run: Session) -> None:
        """Make nothing yet: neither client nor cassette."""
        self._run = run
        self._desks: dict[Owner, Desk] = {}
        self._asked: dict[str, set[str]] = {}
        """By the asker's name, over all attempts of a test and all set-ups of a fixture."""
        self._new_askers: set[str] = set()
        self._own_client: Any = None
        self.counter = Counter(
            self._make_client,
            seconds=run.settings.count_timeout,
            waiting=partial(show_waiting, run.config),
        )

    def count(self, seat: Seat, payload: Payload) -> Count:
        """Count a payload for its owner as the owner's mode allows.

        Raises:
            CountError: not recorded and not allowed to ask, or the API did not count it.
        """
        desk = self._desk(seat)
        self._asked.setdefault(desk.asker.name, set()).add(payload.fingerprint)
        return self.counter.count(payload, cassette=desk.cassette, mode=desk.mode, asker=desk.asker)

    def job(self, seat: Seat, payload: Payload) -> Job:
        """Everything that counting a payload for its owner takes, to be done later."""
        desk = self._desk(seat)
        self._asked.setdefault(desk.asker.name, set()).add(payload.fingerprint)
        return Job(payload, *desk)

    def make_ready(self, seat: Seat) -> None:
        """Make the client now, if a count of this owner may go out at all."""
        if self._desk(seat).mode != "none":
            self.counter.client()

    def close(self, owner: Owner) -> None:
        """Save what an owner has recorded; `rewrite` lets go of what it no longer asks for."""
        desk = self._desks.pop(owner, None)
        if desk is None or desk.mode in ("none", "live"):
            return
        if desk.mode == "rewrite":
            desk.cassette.prune(desk.asker.name, self._asked.get(desk.asker.name, set()))
        desk.cassette.save()

    def close_all(self) -> None:
        """Save everyone's, and close the client that no fixture closes.

        No test is left to fail by a cassette that cannot be written, so it is a note.
        """
        for owner in list(self._desks):
            try:
                self.close(owner)
            except CountCassetteError as error:
                self._run.notes.add(f"counts were not saved: {error}")
        if self._own_client is not None:
            self._own_client.close()

    def _desk(self, seat: Seat) -> Desk:
        desk = self._desks.get(seat.owner)
        if desk is None:
            cassette, asker = CountCassette.load(self._path(seat)), self._asker(seat)
            desk = Desk(cassette, self._mode(seat, cassette, asker), asker)
            self._desks[seat.owner] = desk
        return desk

    def _mode(self, seat: Seat, cassette: CountCassette, asker: Asker) -> Mode:
        mode = cast("Mode", record_mode(seat.item, self._run.config, self._run.settings))
        if mode != "once":
            return mode
        # `once` is once a session: a rerun may count what the first attempt did not come to.
        if not cassette.has_recorded(asker.name):
            self._new_askers.add(asker.name)
        return "new_episodes" if asker.name in self._new_askers else "once"

    def _path(self, seat: Seat) -> Path:
        if seat.item is not None:
            return cassette_path(seat.item)
        config = self._run.config
        if isinstance(seat.owner, FixtureOwner):
            return fixture_cassette_path(
                config, seat.owner.baseid, seat.owner.scope, seat.owner.name
            )
        return fixture_cassette_path(config, "", "session", "outside-tests")

    def _asker(self, seat: Seat) -> Asker:
        if seat.item is not None:
            nodeid = self._run.nodeid(seat.item)
            return Asker(nodeid, run=self._run.count_target(nodeid))
        if isinstance(seat.owner, FixtureOwner):
            owner = seat.owner
            target = self._run.count_target(owner.node or owner.baseid)
            # Modules and parameters share the file; what one asked for is not another's to drop.
            param = f"[{owner.param}]" if owner.param else ""
            return Asker(f"{owner.node or owner.baseid}::{owner.name}{param}", run=target)
        return Asker("outside-tests", run=self._run.count_target(""))

    def _make_client(self) -> object:
        """The user's `llmcost_client`, which any test can ask for; the default outside of tests."""
        item = self._run.seat.item
        request = getattr(item, "_request", None)
        if request is not None:
            return self._fixture_client(request)
        self._own_client = make_client()
        return self._own_client

    def _fixture_client(self, request: pytest.FixtureRequest) -> object:
        with self._run.reporting() as is_asked_by_test:
            try:
                return request.getfixturevalue("llmcost_client")
            except (pytest.skip.Exception, pytest.fail.Exception) as outcome:
                if is_asked_by_test:
                    raise
                # Nobody in the test asked: it is the count that fails, and not the test.
                raise CountError(f"llmcost_client cannot be made: {outcome}") from None
            except Exception as error:
                if self._run.seat.phase != "teardown":
                    raise
                text = without_secrets(str(error))
                raise CountError(
                    f"llmcost_client cannot be made in the last teardown ({text}); let the "
                    "fixture that sends there ask for it"
                ) from None


def read_normalised(
    run: Session, body: Mapping[str, Any], item: pytest.Item | None, **how: Any
) -> Payload:
    """Read a payload that is sent as it is, and told from others as the user's hook makes it.

    Raises:
        PayloadError: it is not JSON.
        SettingsError: the hook's result is not.
    """
    sent = read_payload(body, resolve=run.books.exact_model, **how)
    hook = run.hook("pytest_llmcost_normalize_payload")
    if not hook.get_hookimpls():
        return sent
    # A copy: what a hook changes in place must not change what is counted.
    stand_in = hook(payload=copy.deepcopy(sent.body), item=item)
    if stand_in is None:
        return sent
    how = {**how, "model": how.get("model") or sent.model, "betas": sent.betas}
    try:
        told = read_payload(stand_in, resolve=run.books.exact_model, **how)
    except PayloadError as error:
        raise SettingsError(
            f"pytest_llmcost_normalize_payload returned what is not a payload: {error}; "
            "return plain JSON, as messages.create takes it, or None to leave it as it is"
        ) from error
    return replace(sent, fingerprint=told.fingerprint, parts=told.parts, compared=told.body)


def counted_answer(
    count: Count, payload: Payload, output_tokens: int | None, prompt: Usage | None = None
) -> Answer:
    """Return what a count predicts; without an output, of the input alone.

    The prompt is plain input, unless `prompt` splits it by what the cache does.
    """
    caveats = ("input-only",) if output_tokens is None else ()
    prompt = prompt or Usage(input_tokens=count.input_tokens)
    usage = replace(prompt, output_tokens=output_tokens or 0)
    lifetime = read_lifetime(payload.body) if prompt.cache_read_tokens else None
    return Answer(
        model=payload.model,
        usage=usage,
        sampling_calls=(SamplingCall(model=payload.model, usage=usage, read_lifetime=lifetime),),
        terms=_terms(payload),
        caveats=sorted_caveats([*caveats_of(payload, count), *caveats]),
        before=_counted_before(payload, count.before, output_tokens),
    )


def _counted_before(
    payload: Payload, tokens: int | None, output_tokens: int | None
) -> Answer | None:
    if tokens is None:
        return None
    usage = Usage(input_tokens=tokens, output_tokens=output_tokens or 0)
    sampling = SamplingCall(model=payload.model, usage=usage)
    return Answer(model=payload.model, sampling_calls=(sampling,), terms=_terms(payload))


def uncounted_answer(payload: Payload, error: CountError) -> Answer:
    """Return what is known of a payload whose count failed: an unknown price, not $0."""
    caveat = f"uncounted: {_why_uncounted(error)}"
    tokens = error.before if isinstance(error, CountMissingError) else None
    return Answer(
        model=payload.model,
        terms=_terms(payload),
        caveats=sorted_caveats([caveat]),
        before=_counted_before(payload, tokens, None),
    )


def _why_uncounted(error: CountError) -> str:
    if isinstance(error, CountMissingError):
        changes = describe_changes(error.changed)
        return f"changed: {changes}" if changes else "no recorded count"
    if isinstance(error, CountCassetteError):
        return "the count cassette cannot be read"
    return "the API could not be asked" if error.status is None else f"HTTP {error.status}"


def read_output(payload: Payload, output_tokens: int | str | None) -> int | None:
    """How long a reply is taken to be: a number, or the payload's `max_tokens` for `"max"`.

    Raises:
        SettingsError: neither of them, or `"max"` without a `max_tokens`.
    """
    if output_tokens == "max":
        most = payload.body.get("max_tokens")
        if not is_quantity(most):
            raise SettingsError('output_tokens="max", but the payload has no usable max_tokens')
        return most
    if output_tokens is None:
        return None
    if not is_quantity(output_tokens):
        raise SettingsError(
            f'output_tokens={output_tokens!r:.80} is neither a number from 0 to 10^9 nor "max"'
        )
    return output_tokens


def _terms(payload: Payload) -> Terms:
    """What the payload asks for that changes its price; a response may say otherwise."""
    asked = str(payload.body.get("model", ""))
    speed, geography = payload.body.get("speed"), payload.body.get("inference_geo")
    return Terms(
        speed=speed if isinstance(speed, str) else None,
        inference_geo=geography if isinstance(geography, str) else None,
        platform=bedrock_platform(asked) if "anthropic." in asked else None,
    )


State = Literal["cold", "warm", "none"]
_STATES = ("cold", "warm", "none")


class Result(NamedTuple):
    """A payload's count, and what it uses in one state of the cache."""

    whole: Count
    prompt: CachedPrompt | None = None
    """None where nobody asked what is cached."""
    usage: Usage | None = None
    """None is all of the prompt as plain input."""


class _Asked(NamedTuple):
    """Which state of the cache to price, and who says so."""

    state: State | None
    by: Literal["test", "marker", "run", "columns", "nobody"]


def count_payload(
    run: Session, seat: Seat, payload: Payload, item: pytest.Item, state: State | None
) -> Result:
    """Count a payload, and its cached prefixes where the test, its marker or the run asks for it.

    Raises:
        SettingsError: no such state.
        PayloadError: breakpoints that the API would refuse.
        CountError: not recorded and not allowed to ask, or the API did not count it.
    """
    if state is not None and state not in _STATES:
        raise SettingsError(f"cache={state!r} is none of {', '.join(_STATES)}")
    asked = _who_asks(run, item, payload, state)
    if asked.by == "nobody":
        return Result(run.books.counting.count(seat, payload))
    plan = plan_caching(
        payload, read=lambda body: read_normalised(run, body, item, betas=payload.betas)
    )
    whole = run.books.counting.count(seat, payload)
    try:
        prompt = split(run, seat, plan, asked)
    except CountError:
        if asked.by != "columns":
            raise
        return Result(whole)  # a column that nobody can fill fails no test
    written = {
        "5m": prompt.cold.cache_write_5m_tokens,
        "1h": prompt.cold.cache_write_1h_tokens,
    }
    news = LedgerPayload(model=payload.model, parts=payload.parts, cached=written)
    run.books.ledger.learn(payload.fingerprint, news)
    return Result(whole, prompt, prompt.usage(asked.state) if asked.state else None)


def _who_asks(run: Session, item: pytest.Item, payload: Payload, state: State | None) -> _Asked:
    if state is not None:
        return _Asked(state, "test")
    if not payload.breakpoints:
        return _Asked(None, "nobody")
    cache_state = ceilings_of(item, run.settings).cache
    if cache_state in ("cold", "warm"):
        return _Asked(cache_state, "marker")
    if cache_state is None and run.settings.cache != "as-billed":
        return _Asked(run.settings.cache, "run")
    return _Asked(None, "columns" if run.settings.columns else "nobody")


def with_cache_bounds(run: Session, payload: Payload, answer: Answer) -> Answer:
    """Bound a prompt with breakpoints that is priced as plain input: it is not exact."""
    if not payload.breakpoints:
        return answer
    least = _least(run, payload.model)
    if least is not None and answer.usage.prompt_tokens < least:
        return answer  # too short to be cached at all
    lifetime = read_lifetime(payload.body) or "1h"  # the most expensive of several
    samplings = tuple(replace(each, may_cache=lifetime) for each in answer.sampling_calls)
    return replace(answer, sampling_calls=samplings)


def split(run: Session, seat: Seat, plan: CachePlan, asked: _Asked | None = None) -> CachedPrompt:
    """Count all that a plan needs, and return the prompt by what is cached of it.

    Raises:
        CountError: not recorded and not allowed to ask, or the API did not count it.
    """
    books, model = run.books, plan.whole.model
    jobs = [books.counting.job(seat, part) for part in plan.payloads]
    outcomes = count_all(books.counting.counter, jobs)
    counts = {
        job.payload.fingerprint: one.input_tokens
        for job, one in zip(jobs, outcomes, strict=True)
        if isinstance(one, Count)
    }
    errors = [one for one in outcomes if isinstance(one, CountError)]
    if errors:
        raise _explain(run, plan, jobs, errors, asked)
    return split_prompt(
        plan,
        counts,
        min_cacheable_tokens=_least(run, model),
        opening_tokens=opening_tokens_of(model, books.tokenizer(model)),
    )


def _least(run: Session, model: str) -> int | None:
    try:
        return run.books.card.min_cacheable_tokens(model, run.price_date)
    except UnknownModelError:
        return None


def _explain(
    run: Session,
    plan: CachePlan,
    jobs: Sequence[Job],
    errors: Sequence[CountError],
    asked: _Asked | None,
) -> CountError:
    """Say what is missing of a prompt whose whole is known, and what records it."""
    for error in errors:
        if not isinstance(error, CountMissingError):
            return error
    asker = jobs[0].asker
    if asked is not None and asked.by == "run":
        asker = asker._replace(options=(f"--llmcost-cache={run.settings.cache}",))
    places = ", ".join(str(cut.point.place) for cut in plan.cuts)
    return CountMissingError(
        f"no recorded token count of the cached prefixes ({places}) of this payload of "
        f"{plan.whole.model} (record mode {jobs[0].mode}). Count them, free of charge: "
        f"{asker.command}",
        fingerprint=plan.whole.fingerprint,
        changed=(),
        command=asker.command,
        what=f"the cached prefixes ({places}) of a prompt are",
    )

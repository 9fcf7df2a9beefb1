"""Counting what of a prompt is cached: the payload cut at its breakpoints, each cut counted.

Data flow: payload, what the cache is to be taken for -> `count_payload` -> its Count and, where
somebody asked, its CachedPrompt and the usage of a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest
from msgspec.structs import replace

from pytest_llmcost.budgeting.report import Payload as LedgerPayload
from pytest_llmcost.errors import CountError, CountMissingError, SettingsError, UnknownModelError
from pytest_llmcost.metering.cachedprompt import CachedPrompt, opening_tokens_of, split_prompt
from pytest_llmcost.metering.cacheplan import CachePlan, plan_caching
from pytest_llmcost.metering.call import Call
from pytest_llmcost.metering.contents import read_lifetime
from pytest_llmcost.metering.count import Count
from pytest_llmcost.metering.countmany import Job, count_all
from pytest_llmcost.metering.limits import count_breakpoints
from pytest_llmcost.metering.payload import Payload
from pytest_llmcost.plugin.counting import read_normalised
from pytest_llmcost.plugin.marker import ceilings_of
from pytest_llmcost.pricing.usage import Usage

if TYPE_CHECKING:
    from pytest_llmcost.plugin.run import Run
    from pytest_llmcost.plugin.seats import Seat

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
    run: Run, seat: Seat, payload: Payload, item: pytest.Item, state: State | None
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
        prompt = _split(run, seat, plan, asked)
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


def _who_asks(run: Run, item: pytest.Item, payload: Payload, state: State | None) -> _Asked:
    if state is not None:
        return _Asked(state, "test")
    if not count_breakpoints(payload.body):
        return _Asked(None, "nobody")
    basis = ceilings_of(item, run.settings).cache
    if basis in ("cold", "warm"):
        return _Asked(basis, "marker")
    if basis is None and run.settings.cache != "as-billed":
        return _Asked(run.settings.cache, "run")
    return _Asked(None, "columns" if run.settings.columns else "nobody")


def with_cache_bounds(run: Run, payload: Payload, call: Call) -> Call:
    """Let a prompt with breakpoints that was priced as plain input be bounded, not exact."""
    if not count_breakpoints(payload.body):
        return call
    least = _least(run, payload.model)
    if least is not None and call.usage.prompt_tokens < least:
        return call  # too short to be cached at all
    lifetime = read_lifetime(payload.body) or "1h"  # the dearest of several
    legs = tuple(replace(leg, may_cache=lifetime) for leg in call.legs)
    return replace(call, legs=legs)


def _split(run: Run, seat: Seat, plan: CachePlan, asked: _Asked) -> CachedPrompt:
    books, model = run.books, plan.whole.model
    jobs = [books.counting.job(seat, part) for part in plan.payloads]
    outcomes = count_all(books.counting.counter, jobs)
    counts = {one.fingerprint: one.input_tokens for one in outcomes if isinstance(one, Count)}
    errors = [one for one in outcomes if isinstance(one, CountError)]
    if errors:
        raise _explain(run, plan, jobs, errors, asked)
    return split_prompt(
        plan,
        counts,
        min_cacheable_tokens=_least(run, model),
        opening_tokens=opening_tokens_of(model, books.tokenizer(model)),
    )


def _least(run: Run, model: str) -> int | None:
    try:
        return run.books.card.min_cacheable_tokens(model, run.price_date)
    except UnknownModelError:
        return None


def _explain(
    run: Run, plan: CachePlan, jobs: Sequence[Job], errors: Sequence[CountError], asked: _Asked
) -> CountError:
    """Say what is missing of a prompt whose whole is known, and what records it."""
    for error in errors:
        if not isinstance(error, CountMissingError):
            return error
    asker = jobs[0].asker
    if asked.by == "run":
        asker = asker._replace(options=(f"--llmcost-cache={run.settings.cache}",))
    places = ", ".join(str(cut.point.place) for cut in plan.cuts)
    return CountMissingError(
        f"no recorded token count of the cached prefixes ({places}) of this payload of "
        f"{plan.whole.model} (record mode {jobs[0].mode}). Count them, free of charge: "
        f"{asker.command}",
        fingerprint=plan.whole.fingerprint,
        changed=(),
        command=asker.command,
    )

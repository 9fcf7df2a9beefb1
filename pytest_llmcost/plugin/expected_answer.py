"""The answer that a payload is expected to get: its count, and what of it is cached."""

from __future__ import annotations

from typing import Literal

import pytest
from msgspec.structs import replace

from pytest_llmcost.counting.payload import Payload, describe_changes
from pytest_llmcost.counting.segments import CachedPrompt, plan_caching
from pytest_llmcost.errors import CountCassetteError, CountError, CountMissingError, SettingsError
from pytest_llmcost.ledger.ledger import PayloadFacts
from pytest_llmcost.plugin.marker import limits_of
from pytest_llmcost.plugin.owners import Owner
from pytest_llmcost.plugin.prompts import read_normalised, split
from pytest_llmcost.plugin.session import Session
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import SamplingCall, Terms, Usage, is_quantity
from pytest_llmcost.responses.endpoints import bedrock_platform
from pytest_llmcost.responses.message import Answer, read_lifetime

PromptState = Literal["cold", "warm", "none"]
_STATES = ("cold", "warm", "none")


def expect_answer(
    session: Session,
    owner: Owner,
    payload: Payload,
    item: pytest.Item,
    asked_output: int | str | None,
    state: PromptState | None,
) -> tuple[Answer, CachedPrompt | None]:
    """Count a payload, and its cached prefixes if the test, its marker or the run asks for them.

    Without an output, the answer is that of the input alone.

    Raises:
        SettingsError: no such state, or no such length of a reply.
        PayloadError: breakpoints that the API would refuse.
        CountError: not recorded and not allowed to ask, or the API did not count it.
    """
    output_tokens = _read_output(payload, asked_output)
    if state is not None and state not in _STATES:
        raise SettingsError(f"cache={state!r} is not one of {', '.join(_STATES)}")
    is_column = False
    options: tuple[str, ...] = ()
    if state is None and payload.breakpoints:
        limits, of_run = limits_of(item, session.settings), session.settings.cache
        marked = limits.cache
        if marked in ("cold", "warm"):
            state = marked
        elif marked is None and of_run != "as-billed":
            state, options = of_run, (f"--llmcost-cache={of_run}",)
        else:
            has_worst = any(budget.kind == "worst" for budget in limits.budgets)
            is_column = has_worst or bool(session.settings.columns)
    plan = None
    if state is not None or is_column:
        plan = plan_caching(
            payload, read=lambda body: read_normalised(session, body, item, betas=payload.betas)
        )
    count = session.counts.count(owner, payload)
    prompt, usage = None, None
    if plan is not None:
        try:
            prompt = split(session, owner, plan, options)
        except CountError:
            if not is_column:  # a column that cannot be filled fails no test; a budget may
                raise
    if prompt is not None:
        cold = prompt.usage("cold")
        written = {"5m": cold.cache_write_5m_tokens, "1h": cold.cache_write_1h_tokens}
        facts = PayloadFacts(model=payload.model, parts=payload.parts, cached=written)
        session.ledger.learn(payload.fingerprint, facts)
        usage = prompt.usage(state) if state else None
    may_cache = None
    if usage is None:
        usage = Usage(input_tokens=count.input_tokens)
        least = session.least_cacheable(payload.model) if payload.breakpoints else None
        if payload.breakpoints and (least is None or count.input_tokens >= least):
            # A prompt priced as plain input may be cached: a bound, the most expensive of several.
            may_cache = read_lifetime(payload.body) or "1h"
    usage = replace(usage, output_tokens=output_tokens or 0)
    sampling = SamplingCall(
        model=payload.model,
        usage=usage,
        read_lifetime=read_lifetime(payload.body) if usage.cache_read_tokens else None,
        may_cache=may_cache,
    )
    caveats = [*count.caveats]
    if output_tokens is None:
        caveats.append("input-only")
    if count.changed:
        caveats.append(f"changed-prompt: {describe_changes(count.changed)}")
    answer = Answer(
        model=payload.model,
        usage=usage,
        sampling_calls=(sampling,),
        terms=_terms(payload),
        caveats=sorted_caveats(caveats) if caveats else (),
        before=_counted_before(payload, count.before, output_tokens),
    )
    return answer, prompt


def _counted_before(
    payload: Payload, tokens: int | None, output_tokens: int | None
) -> Answer | None:
    """Return what the payload was expected to use before it changed."""
    if tokens is None:
        return None
    usage = Usage(input_tokens=tokens, output_tokens=output_tokens or 0)
    sampling = SamplingCall(model=payload.model, usage=usage)
    return Answer(model=payload.model, sampling_calls=(sampling,), terms=_terms(payload))


def uncounted_answer(payload: Payload, error: CountError) -> Answer:
    """Return what is known of a payload whose count failed: an unknown price, not $0."""
    before = None
    if isinstance(error, CountMissingError):
        changes = describe_changes(error.changed)
        why = f"changed: {changes}" if changes else "no recorded count"
        before = _counted_before(payload, error.before, None)
    elif isinstance(error, CountCassetteError):
        why = "the count cassette cannot be read"
    else:
        why = "the API could not be asked" if error.status is None else f"HTTP {error.status}"
    caveats = sorted_caveats([f"uncounted: {why}"])
    return Answer(model=payload.model, terms=_terms(payload), caveats=caveats, before=before)


def _read_output(payload: Payload, output_tokens: int | str | None) -> int | None:
    """Return how long a reply is taken to be; `"max"` is the payload's `max_tokens`.

    Raises:
        SettingsError: not a number of tokens, or `"max"` without a `max_tokens`.
    """
    if output_tokens == "max":
        most = payload.body.get("max_tokens")
        if not is_quantity(most):
            raise SettingsError('output_tokens="max", but the payload has no usable max_tokens')
        return most
    if output_tokens is not None and not is_quantity(output_tokens):
        raise SettingsError(
            f'output_tokens={output_tokens!r:.80} is neither a number from 0 to 10^9 nor "max"'
        )
    return output_tokens


def _terms(payload: Payload) -> Terms:
    """Return what the payload asks for that changes its price; a response may say otherwise."""
    asked = str(payload.body.get("model", ""))
    speed, geography = payload.body.get("speed"), payload.body.get("inference_geo")
    return Terms(
        speed=speed if isinstance(speed, str) else None,
        inference_geo=geography if isinstance(geography, str) else None,
        platform=bedrock_platform(asked) if "anthropic." in asked else None,
    )

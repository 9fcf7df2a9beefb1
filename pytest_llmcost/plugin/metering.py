"""What a captured answer uses now: as billed, as recounted for a changed prompt, or as mocked.

A replayed reply counts for what was sent when it was recorded; here alone the two are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from functools import partial
from typing import Any

from msgspec.structs import replace

from pytest_llmcost.call import Evidence
from pytest_llmcost.capture.changed_prompt import (
    is_as_recorded,
    left_in_the_cache,
    obstacle_to_recount,
    plan_recount,
    recount,
    reply_caveats,
    without_figures,
)
from pytest_llmcost.capture.request import CapturedRequest
from pytest_llmcost.counting.payload import Payload
from pytest_llmcost.counting.segments import CachedPrompt
from pytest_llmcost.counting.volatile import describe_volatile
from pytest_llmcost.errors import CountError, CountMissingError, PayloadError
from pytest_llmcost.plugin.owners import Owner
from pytest_llmcost.plugin.prompts import describe_failed_count, read_normalised, split
from pytest_llmcost.plugin.session import Session
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.responses.message import Answer


def meter(
    session: Session, owner: Owner, request: CapturedRequest, answer: Answer
) -> tuple[Answer, Payload | None, Evidence]:
    """Compare what was sent with what was recorded, and return what the reply uses now.

    Also what was sent; None if that could not be read.
    """
    if request.is_refused:
        return answer, None, "refused" if answer.declared_usd is not None else "billed"
    if request.endpoint.kind == "unmetered":  # nothing to compare: there are no figures
        return answer, None, "mocked" if request.is_mocked else "billed"

    def read(body: Mapping[str, Any] | None, **how: Any) -> Payload | None:
        try:
            return None if body is None else read_normalised(session, body, owner.item, **how)
        except PayloadError:  # a live API will have refused it, too
            return None

    replay, model = request.replay, request.endpoint.model
    payload = read(request.payload, betas=request.betas, model=model)
    if request.is_mocked:
        now, evidence = _mocked(session, owner, request, answer, payload)
        return now, payload, evidence
    if replay is None or replay.is_same:
        return answer, payload, "billed"
    # If the cassette hides its betas, they are taken for those of today.
    betas = request.betas if replay.betas is None else replay.betas
    recorded = payload and read(replay.body, betas=betas, model=replay.model or model)
    if payload is None or recorded is None:
        obstacle = replay.obstacle or "the recorded request is unknown"
        if payload is None:
            obstacle = "what is sent now cannot be read"
        session.notes.add(
            f"replayed replies cannot be checked against what is sent now: {obstacle}; keep the "
            "request's body in the cassette (see docs/how-it-works/changed-prompts.md)"
        )
        return with_caveats(answer, f"not-comparable: {obstacle}"), payload, "billed"
    now, evidence = _compare(session, owner, request, answer, payload, recorded)
    if now.before is not None:
        places = describe_volatile(recorded, payload, datetime.now(timezone.utc))
        now = with_caveats(now, *([f"volatile: {places}"] if places else ()))
    left = left_in_the_cache(answer.usage, now.usage, sent=payload, recorded=recorded)
    # A call that is still under way is metered once more, and must not seem to repeat itself.
    if left is not None and evidence != "stale" and request.is_over:
        owner.cached_prefixes.append(left)
    return now, payload, evidence


def _compare(
    session: Session,
    owner: Owner,
    request: CapturedRequest,
    answer: Answer,
    payload: Payload,
    recorded: Payload,
) -> tuple[Answer, Evidence]:
    """Return what a replayed reply uses for the payload that is sent now."""
    if is_as_recorded(answer, sent=payload, recorded=recorded):
        # The prompt is the same; a reply that was cut may be longer now.
        cut = reply_caveats(answer, payload, recorded, session.tokenizer)
        return with_caveats(answer, *cut), "billed"
    obstacle = obstacle_to_recount(answer) or request.uncountable
    unknown = partial(without_figures, answer, obstacle, sent=payload, recorded=recorded)
    if obstacle is not None:
        return unknown(), "stale"

    read = partial(read_normalised, session, item=owner.item, betas=payload.betas)
    plan = plan_recount(payload, recorded, read=read)
    prompt: CachedPrompt | None = None
    caveats: tuple[str, ...] = ()
    try:
        if plan is not None:
            caveats = session.counts.count(owner, payload).caveats
            prompt = split(session, owner, plan)
    except CountError as error:
        return unknown(failed=_failed_count(session, error)), "stale"
    recounted = recount(
        answer,
        prompt,
        sent=payload,
        recorded=recorded,
        earlier=owner.cached_prefixes,
        caveats=caveats,
        tokenizer=session.tokenizer,
    )
    return recounted, "recounted"


def _mocked(
    session: Session,
    owner: Owner,
    request: CapturedRequest,
    answer: Answer,
    payload: Payload | None,
) -> tuple[Answer, Evidence]:
    """Trust a mock's figures, or take the input from a count, as `llmcost_mocks` says."""
    if session.settings.mocks == "trust" or not answer.sampling_calls:
        return answer, "mocked"
    obstacle = obstacle_to_recount(answer) or request.uncountable
    if payload is None:
        obstacle = "the request cannot be read"
    caveat = f"not-recounted: {obstacle}"
    if payload is not None and obstacle is None:
        try:
            count = session.counts.count(owner, payload)
        except CountError as error:
            caveat = _failed_count(session, error) or "uncounted: the answer is a mock's"
        else:
            (sampling,) = answer.sampling_calls
            usage = sampling.usage
            # A count says nothing of the cache: a prompt that marks nothing is uncached, and of one
            # that does, what the mock reads or writes is a part.
            if not payload.breakpoints:
                usage = Usage(output_tokens=usage.output_tokens)
            usage = replace(usage, input_tokens=max(0, count.input_tokens - usage.cached_tokens))
            counted = replace(answer, usage=usage, sampling_calls=(replace(sampling, usage=usage),))
            return with_caveats(counted, *count.caveats), "recounted"
    unknown = replace(answer, sampling_calls=())
    return with_caveats(unknown, caveat), "mocked"


def _failed_count(session: Session, error: CountError) -> str:
    """Note why a count has failed that was tried, and return its caveat; "" if none was tried."""
    if isinstance(error, CountMissingError):
        return ""
    session.notes.add(f"not counted: {error}")
    return describe_failed_count(error)


def with_caveats(answer: Answer, *caveats: str) -> Answer:
    """Return an answer with further caveats."""
    return replace(answer, caveats=sorted_caveats([*answer.caveats, *caveats]))

"""Prompts as a session reads and counts them: whole, by what is cached of them, and by part.

And what answers use by these counts: the one that a payload is expected to get, a mock's, and a
replayed one, which counts for what was sent when it was recorded; here alone the two are compared.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any, get_args

import pytest
from msgspec.structs import replace

from pytest_llmcost.call import Call, Evidence
from pytest_llmcost.capture.changed_prompt import ReplayedReply, obstacle_to_recount
from pytest_llmcost.capture.request import CapturedRequest
from pytest_llmcost.counting.cassette import Count
from pytest_llmcost.counting.client import count_all
from pytest_llmcost.counting.payload import Payload, changed_parts, describe_changes, read_payload
from pytest_llmcost.counting.segments import (
    CachedPrompt,
    Plan,
    PromptParts,
    PromptState,
    is_part_of,
    plan_caching,
    plan_parts,
    split_parts,
    split_prompt,
)
from pytest_llmcost.counting.volatile import describe_volatile
from pytest_llmcost.errors import (
    CountCassetteError,
    CountError,
    CountMissingError,
    PayloadError,
    SettingsError,
)
from pytest_llmcost.ledger.ledger import PayloadFacts
from pytest_llmcost.money import show_value
from pytest_llmcost.plugin.marker import limits_of
from pytest_llmcost.plugin.options import MARKER
from pytest_llmcost.plugin.owners import Owner
from pytest_llmcost.plugin.session import Session
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import (
    LONGEST,
    WRITTEN,
    SamplingCall,
    Terms,
    Usage,
    is_quantity,
    reply_limit,
)
from pytest_llmcost.responses.endpoints import bedrock_platform
from pytest_llmcost.responses.message import Answer

_STATES = get_args(PromptState)


def read_normalised(
    session: Session, body: Mapping[str, Any], item: pytest.Item | None, **how: Any
) -> Payload:
    """Read a payload as it is sent, with the fingerprint that the user's hook gives it.

    Raises:
        PayloadError: it is not JSON.
        SettingsError: the hook's result is not.
    """
    sent = read_payload(body, find=session.card.find, **how)
    hook = session.hook("pytest_llmcost_normalize_payload")
    if not hook.get_hookimpls():
        return sent
    # A copy: what a hook changes in place must not change what is counted.
    normalised = hook(payload=copy.deepcopy(sent.body), item=item)
    if normalised is None:
        return sent
    how = {**how, "model": how.get("model") or sent.model, "betas": sent.betas}
    try:
        read = read_payload(normalised, find=session.card.find, **how)
    except PayloadError as error:
        raise SettingsError(
            f"pytest_llmcost_normalize_payload returned what is not a payload: {error}; "
            "return plain JSON, as messages.create takes it, or None to leave it as it is"
        ) from error
    return replace(sent, fingerprint=read.fingerprint, parts=read.parts, compared=read.prompt)


def split(session: Session, owner: Owner, plan: Plan) -> CachedPrompt:
    """Count all that a plan needs, and return the prompt by what is cached of it."""
    what = f"the cached prefixes ({', '.join(str(cut.point.place) for cut in plan.cuts[1:])})"
    counted = _count_cuts(session, owner, plan, what)
    return split_prompt(plan, counted, session.card.about(plan.whole.model))


def count_parts(
    session: Session, owner: Owner, payload: Payload, names: Sequence[str] | None = None
) -> PromptParts:
    """Count the parts of a prompt that are named, or all; its errors are those of `parts(...)`."""
    read = partial(read_normalised, session, item=owner.item, betas=payload.betas)
    plan = plan_parts(payload, names, read=read)
    what = f"the parts ({', '.join(names)})" if names else "the parts"
    counted = _count_cuts(session, owner, plan, what)
    return split_parts(plan, counted, session.card.about(payload.model))


def learn_parts(session: Session, owner: Owner, call: Call, payload: Payload) -> None:
    """Count the parts of a prompt that have a budget, or all if that was asked for."""
    settings, item = session.settings, owner.item
    names = [name for name, _ in settings.max_parts]
    # Not for every call: it takes long to read all limits of a test.
    if item is not None and any("parts" in mark.kwargs for mark in item.iter_markers(MARKER)):
        limits = limits_of(item, settings)
        names += [each.part for each in limits.budgets if each.part is not None]
    names = [*dict.fromkeys(names)]
    if payload.fingerprint in owner.parts or not (names or settings.parts):
        return
    if call.has_caveat("count-failed", "uncounted"):  # it would only fail, or wait, again
        return
    owner.parts[payload.fingerprint] = known = {}
    # Those with a budget may be counted where the others are not.
    for asked in [None, names] if settings.parts else [names]:
        with contextlib.suppress(CountError, PayloadError):  # what is unknown, the budget reports
            found = count_parts(session, owner, payload, asked)
            break
    else:
        return
    for name in dict.fromkeys([*found, *names]):
        if not any(is_part_of(each, name) for each in found.left_out):  # those are too low
            known[name] = found.get(name, 0)
    facts = PayloadFacts(model=payload.model, parts=payload.parts, parts_tokens=known)
    session.ledger.learn(payload.fingerprint, facts)


def _count_cuts(session: Session, owner: Owner, plan: Plan, what: str) -> dict[str, Count]:
    """Return the count of each payload of a plan; a missing one is named by what it is for."""
    jobs = [session.counts.job(owner, part) for part in plan.payloads]
    found: dict[str, Count] = {}
    is_missing = False
    for job, outcome in zip(jobs, count_all(session.counts.counter, jobs), strict=True):
        if isinstance(outcome, Count):
            found[job.payload.fingerprint] = outcome
        elif isinstance(outcome, CountMissingError):
            is_missing = True
        else:
            raise outcome
    if is_missing:
        command = jobs[0].asker.command
        raise CountMissingError(
            f"{what} of this prompt are not counted yet for {plan.whole.model}. Count them (free): "
            f"{command}",
            command=command,
            what=f"{what} of a prompt are",
        )
    return found


# The answer that a payload is expected to get


def expect_answer(
    session: Session,
    owner: Owner,
    payload: Payload,
    item: pytest.Item,
    asked_output: int | str | None,
    state: PromptState | None,
) -> tuple[Answer, CachedPrompt | None]:
    """Count a payload, and its cached prefixes if the test, its marker or the run asks for them.

    Without an output, the answer is that of the input alone. Its errors are those of `count(...)`.
    """
    output_tokens = _read_output(payload, asked_output)
    if state is not None and state not in _STATES:
        raise SettingsError(f"cache={show_value(state)} is not one of {', '.join(_STATES)}")
    is_column, prompt = False, None
    if state is None and payload.breakpoints:
        limits = limits_of(item, session.settings)
        cache = limits.cache or session.settings.cache
        state = None if cache == "as-billed" else cache
        has_worst = any(budget.kind == "worst" for budget in limits.budgets)
        is_column = state is None and (has_worst or bool(session.settings.columns))
    count = session.counts.count(owner, payload)
    if state is not None or is_column:
        read = partial(read_normalised, session, item=item, betas=payload.betas)
        # A column that cannot be filled fails no test; a budget may.
        harmless = (CountError,) if is_column else ()
        with contextlib.suppress(*harmless):
            prompt = split(session, owner, plan_caching(payload, read=read))
            cold = prompt.usage("cold")
            written: dict[str, int] = {life: getattr(cold, name) for life, name in WRITTEN.items()}
            facts = PayloadFacts(model=payload.model, parts=payload.parts, cached=written)
            session.ledger.learn(payload.fingerprint, facts)
    usage = Usage(input_tokens=count.input_tokens, output_tokens=output_tokens or 0)
    cached: dict[str, Any] = {}
    if prompt is not None and state is not None:
        usage = replace(prompt.usage(state), output_tokens=usage.output_tokens)
        cached["read_lifetime"] = payload.lifetime if usage.cache_read_tokens else None
    elif payload.breakpoints:
        least = session.least_cacheable(payload.model)
        if least is None or count.input_tokens >= least:
            # A prompt priced as plain input may be cached: a bound, the most expensive of several.
            cached["may_cache"] = payload.lifetime or LONGEST
    caveats = [*count.caveats]
    if output_tokens is None:
        caveats.append("input-only")
    before = None
    if count.before is not None:
        before = count.before.input_tokens
        changes = describe_changes(changed_parts(count.before.parts, payload.parts))
        caveats += [f"changed-prompt: {changes}"] if changes else []
    return _answer(payload, usage, caveats=caveats, before=before, **cached), prompt


def uncounted_answer(payload: Payload, error: CountError) -> Answer:
    """Return what is known of a payload whose count failed: an unknown price, not $0."""
    if not isinstance(error, CountMissingError):
        return _answer(payload, None, caveats=[_describe_failed_count(error)])
    changes = describe_changes(error.changed)
    why = f"uncounted: changed: {changes}" if changes else "uncounted: no recorded count"
    return _answer(payload, None, caveats=[why], before=error.before)


def _answer(
    payload: Payload,
    usage: Usage | None,
    *,
    caveats: Sequence[str] = (),
    before: int | None = None,
    **cached: Any,
) -> Answer:
    """Return what a payload uses, None if unknown; `before` its input tokens until it changed."""
    asked = str(payload.body.get("model", ""))
    speed, geography = payload.body.get("speed"), payload.body.get("inference_geo")
    then = None
    if before is not None:
        output_tokens = 0 if usage is None else usage.output_tokens
        then = _answer(payload, Usage(input_tokens=before, output_tokens=output_tokens))
    sampling_calls: tuple[SamplingCall, ...] = ()
    if usage is not None:
        sampling_calls = (SamplingCall(model=payload.model, usage=usage, **cached),)
    return Answer(
        model=payload.model,
        usage=Usage() if usage is None else usage,
        sampling_calls=sampling_calls,
        terms=Terms(  # a response may say otherwise
            speed=speed if isinstance(speed, str) else None,
            inference_geo=geography if isinstance(geography, str) else None,
            platform=bedrock_platform(asked) if "anthropic." in asked else None,
        ),
        caveats=sorted_caveats(caveats) if caveats else (),
        before=then,
    )


def _describe_failed_count(error: CountError) -> str:
    """Return the caveat of a count that was tried and failed."""
    if isinstance(error, CountCassetteError):
        return "count-failed: the test's count cassette cannot be read; restore or delete it"
    return f"count-failed: {error}"


def _read_output(payload: Payload, output_tokens: int | str | None) -> int | None:
    """Return how long a reply is taken to be; `"max"` is the payload's `max_tokens`."""
    if output_tokens == "max":
        most = reply_limit(payload.body)
        if most is None:
            raise SettingsError(
                'output_tokens="max", but the payload has no usable max_tokens; set it, or pass a '
                "number as output_tokens="
            )
        return most
    if output_tokens is not None and not is_quantity(output_tokens):
        raise SettingsError(
            f"output_tokens={show_value(output_tokens)} is neither a number from 0 to 10^9 nor "
            '"max"'
        )
    return output_tokens


# What a captured answer uses now


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
    reply = ReplayedReply(answer, payload, recorded)
    now, evidence = _compare(session, owner, request, reply)
    if now.before is not None:
        places = describe_volatile(recorded, payload, datetime.now(timezone.utc))
        now = with_caveats(now, *([f"volatile: {places}"] if places else ()))
    left = reply.left_in_the_cache(now.usage)
    # A call that is still under way is metered once more, and must not seem to repeat itself.
    if left is not None and evidence != "stale" and request.is_over:
        owner.cached_prefixes.append(left)
    return now, payload, evidence


def _compare(
    session: Session, owner: Owner, request: CapturedRequest, reply: ReplayedReply
) -> tuple[Answer, Evidence]:
    """Return what a replayed reply uses for the payload that is sent now."""
    answer, payload, _ = reply
    if reply.is_as_billed():
        # The prompt is the same; a reply that was cut may be longer now.
        return with_caveats(answer, *reply.reply_caveats(session.tokenizer)), "billed"
    obstacle = obstacle_to_recount(answer) or request.uncountable
    if obstacle is not None:
        return reply.without_figures(obstacle), "stale"

    plan = reply.plan(partial(read_normalised, session, item=owner.item, betas=payload.betas))
    prompt: CachedPrompt | None = None
    caveats: tuple[str, ...] = ()
    try:
        if plan is not None:
            caveats = session.counts.count(owner, payload).caveats
            prompt = split(session, owner, plan)
    except CountError as error:
        return reply.without_figures(None, _failed_count(session, error)), "stale"
    earlier, tokenizer = owner.cached_prefixes, session.tokenizer
    now = reply.recount(prompt, earlier=earlier, caveats=caveats, tokenizer=tokenizer)
    return now, "recounted"


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
    return _describe_failed_count(error)


def with_caveats(answer: Answer, *caveats: str) -> Answer:
    """Return an answer with further caveats."""
    return replace(answer, caveats=sorted_caveats([*answer.caveats, *caveats]))

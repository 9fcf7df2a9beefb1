"""Recording calls: what was captured, counted or declared, priced and put into the ledger.

A replayed reply counts for what was sent when it was recorded; here alone the two are compared.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from decimal import Decimal
from functools import partial
from typing import Any, TypeAlias

import pytest
from msgspec.structs import replace

from pytest_llmcost.amounts import settled
from pytest_llmcost.call import BrokenPrefix, Call, Evidence, price, reprice
from pytest_llmcost.capture.capture import Capture
from pytest_llmcost.capture.changed_prompt import (
    is_as_recorded,
    left_in_the_cache,
    obstacle_to_recount,
    plan_recount,
    recount,
    reply_caveats,
    without_figures,
)
from pytest_llmcost.capture.replay import Fingerprint
from pytest_llmcost.capture.request import CapturedRequest
from pytest_llmcost.counting.cassette import Count
from pytest_llmcost.counting.client import caveats_of, count_all
from pytest_llmcost.counting.payload import Payload, read_payload
from pytest_llmcost.counting.prefixes import Break, CachedPrefixes, Readable
from pytest_llmcost.counting.segments import (
    CachedPrompt,
    CachePlan,
    PartsPlan,
    PromptParts,
    is_part_of,
    opening_tokens_of,
    plan_parts,
    split_parts,
    split_prompt,
)
from pytest_llmcost.counting.volatile import describe_volatile
from pytest_llmcost.errors import (
    CountError,
    CountMissingError,
    PayloadError,
    SettingsError,
    UnknownModelError,
)
from pytest_llmcost.ledger.ledger import PayloadFacts
from pytest_llmcost.money import EXACT
from pytest_llmcost.plugin.live_cap import LiveCap
from pytest_llmcost.plugin.marker import marked_tags, parts_with_budget
from pytest_llmcost.plugin.owners import AssumedWarm, Owner, Sender, TestAttempt, Unfinished
from pytest_llmcost.plugin.session import Session
from pytest_llmcost.prices.bill import CacheState, in_cache_state
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.responses.message import Answer

_UNKNOWN = ("truncated-stream", "unreadable-response", "unmetered-route")
"""Caveats of a call whose cost the test may state."""
Metered: TypeAlias = tuple[Answer, Evidence, "Payload | None"]
"""A captured reply as it is to be priced, and what was sent; None if that could not be read."""


def capture_of(session: Session) -> Capture:
    """Return the session's capture; made, with all that it imports, for the first request."""

    def fingerprint_of(request: CapturedRequest) -> Fingerprint:
        """Give equal requests one fingerprint, as the user's hook normalises them."""

        def fingerprint(
            body: Mapping[str, Any], betas: tuple[str, ...], model: str | None
        ) -> str | None:
            item = _sender_of(request).owner.item
            try:
                return read_normalised(session, body, item, betas=betas, model=model).fingerprint
            except Exception:  # noqa: BLE001 - of the user's hook; called again, it raises again
                return None

        return fingerprint

    cap = None if session.settings.max_live is None else LiveCap(session)
    with session.lock:
        if session.capture is None:
            session.capture = Capture(
                owner=session.note_sent,
                report=partial(record_captured, session),
                clock=time.time,
                fingerprint=fingerprint_of,
                stand_ins=session.settings.stand_ins,
                gate=None if cap is None else cap.reserve,
                settle=None if cap is None else cap.settle,
            )
            if session.children is not None:
                session.capture.when_idle = session.children.when_idle
        return session.capture


def _sender_of(request: CapturedRequest) -> Sender:
    assert isinstance(request.owner, Sender)
    return request.owner


def record_captured(session: Session, request: CapturedRequest) -> None:
    """Record a captured request, or what has become of one that was recorded before."""
    if session.children is not None and session.children.send_back(request):
        return
    sender = _sender_of(request)
    owner = sender.owner
    is_count = request.endpoint.kind == "count_tokens"
    owner.has_requests |= not is_count
    if request.live is not False and request.supersedes is None and not is_count:
        owner.live_requests += 1
        owner.has_spent |= bool(session.settings.live)  # a gate may be about it, a call or not
    before = [each for each in owner.unfinished if each.captured is request.supersedes]
    for each in before:
        _withdraw(session, owner, each)
    if request.answer is None:
        return
    metered: Metered = (request.answer, "billed", None)
    with session.keeping_failures():
        metered = meter(session, owner, request, request.answer)
    answer, evidence, payload = metered
    blocks = before[0].blocks if before else sender.blocks
    prefix = before[0].prefix if before else _note_prefix(session, owner, payload, evidence)
    call = _record(
        session,
        sender,
        answer,
        blocks,
        payload,
        prefix=prefix,
        evidence=evidence,
        live=request.live,
        at=request.at,
        attempts=request.attempts,
        lost_attempts=request.lost_attempts,
    )
    if call.has_caveat(*_UNKNOWN, "lost-answer", "open-batch"):
        # A lost answer beside sampling calls is one of the attempts before them.
        is_lost = call.has_caveat("lost-answer") and not call.sampling_calls
        is_doubtful = is_lost or call.has_caveat(*_UNKNOWN)
        owner.unfinished.append(
            Unfinished(request, request.answer, call, blocks, prefix, is_doubtful)
        )
    with session.keeping_failures():
        _announce(session, sender, call, payload)


def meter(session: Session, owner: Owner, request: CapturedRequest, answer: Answer) -> Metered:
    """Compare what was sent with what was recorded, and return what the reply uses now."""
    if request.is_refused:
        return answer, "refused" if answer.declared_usd is not None else "billed", None
    if request.endpoint.kind == "unmetered":  # nothing to compare: there are no figures
        return answer, "mocked" if request.is_mocked else "billed", None

    def read(body: Mapping[str, Any] | None, **how: Any) -> Payload | None:
        try:
            return None if body is None else read_normalised(session, body, owner.item, **how)
        except PayloadError:  # a live API will have refused it, too
            return None

    replay, model = request.replay, request.endpoint.model
    payload = read(request.payload, betas=request.betas, model=model)
    if request.is_mocked:
        return *_mocked(session, owner, request, answer, payload), payload
    if replay is None or replay.is_same:
        return answer, "billed", payload
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
        return with_caveats(answer, f"not-comparable: {obstacle}"), "billed", payload
    now, evidence = _compare(session, owner, request, answer, payload, recorded)
    if now.before is not None:
        places = describe_volatile(recorded, payload, datetime.now(timezone.utc))
        now = with_caveats(now, *([f"volatile: {places}"] if places else ()))
    left = left_in_the_cache(answer.usage, now.usage, sent=payload, recorded=recorded)
    if left is not None and evidence != "stale":
        owner.cached_prefixes.append(left)
    return now, evidence, payload


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
    unknown = without_figures(answer, obstacle, sent=payload, recorded=recorded)
    if obstacle is not None:
        return unknown, "stale"

    def read_cut(body: Mapping[str, Any]) -> Payload:
        return read_normalised(session, body, owner.item, betas=payload.betas)

    plan = plan_recount(payload, recorded, read=read_cut)
    prompt: CachedPrompt | None = None
    caveats: tuple[str, ...] = ()
    try:
        if plan is not None:
            caveats = caveats_of(payload, session.counts.count(owner, payload))
            prompt = split(session, owner, plan)
    except CountError as error:
        _note_in_vain(session, error)
        return unknown, "stale"  # not counted yet; the caveat says how to count it
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
            _note_in_vain(session, error)
            caveat = "uncounted: the answer is a mock's"
        else:
            (sampling,) = answer.sampling_calls
            usage = sampling.usage
            # A count says nothing of the cache: a prompt that marks nothing is uncached, and of one
            # that does, what the mock reads or writes is a part.
            if not payload.breakpoints:
                usage = Usage(output_tokens=usage.output_tokens)
            usage = replace(usage, input_tokens=max(0, count.input_tokens - usage.cached_tokens))
            counted = replace(answer, usage=usage, sampling_calls=(replace(sampling, usage=usage),))
            return with_caveats(counted, *caveats_of(payload, count)), "recounted"
    unknown = replace(answer, sampling_calls=())
    return with_caveats(unknown, caveat), "mocked"


def _note_in_vain(session: Session, error: CountError) -> None:
    """Say why a count has failed that was tried; the command that its caveat names would, too."""
    if not isinstance(error, CountMissingError):
        session.notes.add(f"not counted: {error}")


def with_caveats(answer: Answer, *caveats: str) -> Answer:
    """Return an answer with further caveats."""
    return replace(answer, caveats=sorted_caveats([*answer.caveats, *caveats]))


def read_normalised(
    session: Session, body: Mapping[str, Any], item: pytest.Item | None, **how: Any
) -> Payload:
    """Read a payload as it is sent, with the fingerprint that the user's hook gives it.

    Raises:
        PayloadError: it is not JSON.
        SettingsError: the hook's result is not.
    """
    sent = read_payload(body, resolve=session.exact_model, **how)
    hook = session.hook("pytest_llmcost_normalize_payload")
    if not hook.get_hookimpls():
        return sent
    # A copy: what a hook changes in place must not change what is counted.
    normalised = hook(payload=copy.deepcopy(sent.body), item=item)
    if normalised is None:
        return sent
    how = {**how, "model": how.get("model") or sent.model, "betas": sent.betas}
    try:
        read = read_payload(normalised, resolve=session.exact_model, **how)
    except PayloadError as error:
        raise SettingsError(
            f"pytest_llmcost_normalize_payload returned what is not a payload: {error}; "
            "return plain JSON, as messages.create takes it, or None to leave it as it is"
        ) from error
    return replace(sent, fingerprint=read.fingerprint, parts=read.parts, compared=read.body)


def record(
    session: Session,
    answer: Answer,
    payload: Payload | None,
    evidence: Evidence,
    prompt: CachedPrompt | None = None,
) -> Call:
    """Price an answer for the owner that is running, and put it into the ledger."""
    sender = session.sender()
    owner = sender.owner
    prefix = _note_prefix(session, owner, payload, evidence)
    how: dict[str, Any] = {"prefix": prefix, "prompt": prompt, "evidence": evidence}
    call = _record(session, sender, answer, sender.blocks, payload, **how)
    _announce(session, sender, call, payload)
    return call


def declare(session: Session, answer: Answer) -> Call:
    """Record what the test states itself, in place of the doubtful call that it settles.

    A message settles the doubtful call with its id, a usage without an id the only doubtful call
    of the test. Of an agent's session, what its running total has grown by is added.
    """
    owner, total, agent_session = session.owner, answer.declared_usd, answer.session_id
    if agent_session is not None and total is not None:
        so_far, last = owner.agent_totals.get(agent_session, (Decimal(0), None))
        if last is not None and total <= so_far:
            return last
        growth = replace(answer, declared_usd=EXACT.subtract(total, so_far))
        call = record(session, growth, None, "declared")
        owner.agent_totals[agent_session] = (total, call)
        return call
    session.settle(owner)
    doubtful = _doubtful_call(owner, answer)
    if doubtful is None:
        return record(session, answer, None, "declared")
    _withdraw(session, owner, doubtful)
    before, lost = doubtful.call, doubtful.call.lost_attempts
    sender = Sender(owner, before.phase, before.tags)
    call = _record(
        session,
        sender,
        with_caveats(answer, "lost-answer") if lost else answer,
        doubtful.blocks,
        prefix=doubtful.prefix,
        evidence="declared",
        fingerprint=before.fingerprint,
        max_tokens=before.max_tokens,
        live=before.live,
        at=before.at,
        attempts=before.attempts,
        lost_attempts=lost,
    )
    # Kept, because its stream may still be read to the end, and says the same once more.
    owner.unfinished.append(doubtful._replace(call=call, is_doubtful=False))
    _announce(session, sender, call, None)
    return call


def _doubtful_call(owner: Owner, answer: Answer) -> Unfinished | None:
    doubtful = [each for each in owner.unfinished if each.is_doubtful]
    unread = [each for each in doubtful if each.call.has_caveat("unmetered-route")]
    if answer.ids:
        doubtful = [each for each in doubtful if set(each.answer.ids) == set(answer.ids)]
    if len(doubtful) == 1:
        return doubtful[0]
    # Their ids were not read, so what is stated settles those calls in their order.
    return unread[0] if unread else None


def _record(
    session: Session,
    sender: Sender,
    answer: Answer,
    blocks: Sequence[list[Call]],
    payload: Payload | None = None,
    *,
    prefix: Readable | None = None,
    prompt: CachedPrompt | None = None,
    **facts: Any,
) -> Call:
    known: PayloadFacts | None = None
    if payload is not None:
        known = PayloadFacts(
            model=payload.model,
            parts=payload.parts,
            task_budget=payload.task_budget,
            breakpoints=len(payload.breakpoints),
            prefixes={str(each.place): each.digest[:16] for each in payload.prefixes},
        )
        facts |= {"fingerprint": payload.fingerprint, "max_tokens": payload.longest_reply}
    call = price(
        answer,
        session.card,
        on=session.price_date,
        cache_state=session.settings.cache,
        phase=sender.phase,
        tags=tuple(sorted({*sender.tags, *marked_tags(sender.owner.item)})),
        **facts,
    )
    owner = sender.owner
    if prefix is not None and prefix.is_limited:
        call = _limited(session, call, prefix, prompt)
        if prefix.broken is not None:
            call = replace(call, broken_prefix=_price_break(session, call, prefix.broken))
        _limit_earlier(session, owner, prefix, call)
    elif prefix is not None:
        assumed = owner.assumed_warm.setdefault(prefix.group, [])
        assumed.append(AssumedWarm(prefix, prompt, call, blocks))
    if prefix is not None and prompt is not None:
        prefix.learn(prompt)
    session.ledger.add(owner.key, call, known)
    for block in blocks:
        block.append(call)
    owner.has_spent = True
    _note_change(session, owner)
    return call


def _note_prefix(
    session: Session, owner: Owner, payload: Payload | None, evidence: Evidence
) -> Readable | None:
    """Return how much of a call's cached prefix the earlier ones of its owner let it read."""
    if payload is None or not payload.breakpoints:
        return None
    prefixes = owner.prefixes.setdefault(evidence == "counted", CachedPrefixes())
    prefix = prefixes.note(payload)
    broken = prefix and prefix.broken
    if broken and broken.excerpt and session.config.get_verbosity() > 1:
        shown = f"{broken.part} has now: {broken.excerpt!r}"
        session.excerpts.setdefault(owner, []).append(shown)
    return prefix


# What `cache="warm"` gives the calls of one test: it assumes that the same prompts were sent a
# moment ago, for example by the last run of the test. So the first call of a group, which is one
# model and one first cached block, is read, and so is each later one that contains what an earlier
# one has cached. A later call whose prefix differs is read as far as an earlier one has written it,
# and the rest is written, which is what the API bills for it. The first call then keeps the
# assumption if the difference was made by an edit or another order: the last run will have sent the
# same bytes. It does not if the two differ in nothing but a clock or a random id: no run sends
# these twice. Then no call of the group, the first included, can read more than what stands before
# that, or was written in this run.


def _limited(
    session: Session, call: Call, prefix: Readable, prompt: CachedPrompt | None, stable: int = 0
) -> Call:
    """Limit what a warm cache gives a call; `stable` tokens of it may be read in any case."""
    usage, sampling_calls = call.usage, call.sampling_calls
    if sampling_calls and prompt is not None:
        (sampling,) = sampling_calls
        read = prefix.read_tokens(prompt)
        least = least_cacheable(session, call.model)
        read = 0 if least is not None and read < least else read
        if sampling.usage.cache_read_tokens:  # it is counted as warm
            usage = prompt.usage("warm", most_read=read)
            usage = replace(usage, output_tokens=sampling.usage.output_tokens)
            sampling = replace(sampling, usage=usage)
        sampling_calls = (replace(sampling, most_read_tokens=read),)
    else:  # the bill says what was read, and what was read can be read
        sampling_calls = tuple(
            replace(each, most_read_tokens=max(stable, each.usage.cache_read_tokens))
            for each in sampling_calls
        )
    limited = replace(call, usage=usage, sampling_calls=sampling_calls)
    return reprice(limited, session.card, on=session.price_date, cache_state=session.settings.cache)


def _limit_earlier(session: Session, owner: Owner, prefix: Readable, call: Call) -> None:
    """Limit the earlier calls of a group that a call has shown to be volatile."""
    if prefix.volatile is None:
        return
    # It was billed as reading what they have written before the difference.
    stable = next((each.most_read_tokens or 0 for each in call.sampling_calls), 0)
    assumed = owner.assumed_warm.get(prefix.group, [])
    for each in [each for each in assumed if each.prefix.is_limited]:
        now = _limited(session, each.call, each.prefix, each.prompt, stable)
        _replace_call(session, owner, each.call, each.blocks, now)
        owner.unfinished[:] = [
            one._replace(call=now) if one.call is each.call else one for one in owner.unfinished
        ]
    assumed[:] = [each for each in assumed if not each.prefix.is_limited]


def _price_break(session: Session, call: Call, broken: Break) -> BrokenPrefix | None:
    """Say where a prefix breaks, and what that costs; None if nothing was cached."""
    is_cached = any(each.usage.cached_tokens for each in call.sampling_calls)
    # A mock says nothing of the cache, and neither does a count of the prompt alone.
    is_known = call.evidence != "mocked" and all(not each.may_cache for each in call.sampling_calls)
    if call.sampling_calls and is_known and not is_cached:
        return None  # for example because it is shorter than the model caches
    extra = None
    if is_cached:
        unlimited = (replace(each, most_read_tokens=None) for each in call.sampling_calls)
        card, on = session.card, session.price_date
        now = reprice(call, card, on=on, cache_state="warm")
        read = replace(call, sampling_calls=tuple(unlimited))
        read = reprice(read, card, on=on, cache_state="warm")
        if now.usd is not None and read.usd is not None:
            extra = EXACT.subtract(now.usd, read.usd)
    return BrokenPrefix(part=broken.part, character=broken.character, usd=extra)


def _withdraw(session: Session, owner: Owner, unfinished: Unfinished) -> None:
    """Take back a call that has turned out otherwise."""
    # By identity: equal calls are not the same.
    owner.unfinished[:] = [each for each in owner.unfinished if each is not unfinished]
    if unfinished.prefix is not None:
        assumed = owner.assumed_warm.get(unfinished.prefix.group, [])
        assumed[:] = [each for each in assumed if each.call is not unfinished.call]
    _replace_call(session, owner, unfinished.call, unfinished.blocks)


def _replace_call(
    session: Session, owner: Owner, call: Call, blocks: Sequence[list[Call]], *by: Call
) -> None:
    session.ledger.replace(owner.key, call, *by)
    for block in blocks:
        at = block.index(call)
        block[at : at + 1] = by
    _note_change(session, owner)


def _note_change(session: Session, owner: Owner) -> None:
    session.changes += 1
    if isinstance(owner, TestAttempt) and owner.is_over:
        session.changed_late[owner] = None


def _announce(session: Session, sender: Sender, call: Call, payload: Payload | None) -> None:
    session.hook("pytest_llmcost_call")(call=call, item=sender.owner.item)
    if payload is not None:
        if not call.has_caveat("uncounted"):  # what failed once would only fail, or wait, again
            _learn_parts(session, sender.owner, payload)
        for callback in session.after_call:
            callback(sender, call, payload)


def calls_of(
    session: Session, owner: Owner, cache_state: CacheState | None = None
) -> Sequence[Call]:
    """Return an owner's calls so far, with price and tokens in a cache state if asked.

    A payload that was counted and then sent is one call.
    """
    session.settle(owner)
    calls = session.ledger.calls(owner.key)
    if cache_state is None or cache_state == session.settings.cache == "as-billed":
        return calls
    card, on, state = session.card, session.price_date, cache_state

    def in_state(call: Call) -> Call:
        now = reprice(call, card, on=on, cache_state=state)
        used = (replace(each, usage=in_cache_state(each, state)) for each in now.sampling_calls)
        return replace(now, sampling_calls=tuple(used))

    return settled(map(in_state, calls))


def split(
    session: Session, owner: Owner, plan: CachePlan, options: tuple[str, ...] = ()
) -> CachedPrompt:
    """Count all that a plan needs, and return the prompt by what is cached of it.

    The options are further ones that the command needs which counts it.

    Raises:
        CountError: not recorded and not allowed to ask, or the API did not count it.
    """
    model = plan.whole.model
    what = f"the cached prefixes ({', '.join(str(cut.point.place) for cut in plan.cuts)})"
    counted = _count_cuts(session, owner, plan, what, options)
    return split_prompt(
        plan,
        {key: count.input_tokens for key, count in counted.items()},
        min_cacheable_tokens=least_cacheable(session, model),
        opening_tokens=opening_tokens_of(model, session.tokenizer(model)),
    )


def count_parts(
    session: Session, owner: Owner, payload: Payload, names: Sequence[str] | None = None
) -> PromptParts:
    """Count the parts of a prompt that are named, or all.

    Raises:
        PayloadError: it has no messages.
        CountError: not recorded and not allowed to ask, or the API did not count it.
    """
    model = payload.model
    plan = plan_parts(
        payload,
        names,
        read=lambda body: read_normalised(session, body, owner.item, betas=payload.betas),
    )
    what = f"the parts ({', '.join(names)})" if names else "the parts"
    counted = _count_cuts(session, owner, plan, what)
    return split_parts(
        plan,
        {key: count.input_tokens for key, count in counted.items()},
        {key: count.left_out for key, count in counted.items()},
        opening_tokens=opening_tokens_of(model, session.tokenizer(model)),
    )


def _learn_parts(session: Session, owner: Owner, payload: Payload) -> None:
    """Count the parts of a prompt that have a budget, or all if that was asked for."""
    names = parts_with_budget(owner.item, session.settings)
    if payload.fingerprint in owner.parts or not (names or session.settings.parts):
        return
    owner.parts[payload.fingerprint] = known = {}
    # Those with a budget may be counted where the others are not.
    for asked in [None, names] if session.settings.parts else [names]:
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


def _count_cuts(
    session: Session,
    owner: Owner,
    plan: CachePlan | PartsPlan,
    what: str,
    options: tuple[str, ...] = (),
) -> dict[str, Count]:
    counts = session.counts
    jobs = [counts.job(owner, part) for part in plan.payloads]
    found: dict[str, Count] = {}
    is_missing = False
    for job, outcome in zip(jobs, count_all(counts.counter, jobs), strict=True):
        if isinstance(outcome, Count):
            found[job.payload.fingerprint] = outcome
        elif isinstance(outcome, CountMissingError):
            is_missing = True
        else:
            raise outcome
    if is_missing:
        command = jobs[0].asker._replace(options=options).command
        raise CountMissingError(
            f"{what} of this prompt are not counted yet for {plan.whole.model}. Count them (free): "
            f"{command}",
            fingerprint=plan.whole.fingerprint,
            changed=(),
            command=command,
            what=f"{what} of a prompt are",
        )
    return found


def least_cacheable(session: Session, model: str) -> int | None:
    """Return the least number of tokens that a model caches; None if it is unknown."""
    try:
        return session.card.min_cacheable_tokens(model, session.price_date)
    except UnknownModelError:
        return None

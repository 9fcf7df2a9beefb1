"""Recording calls: an answer that was captured, counted or declared is priced, and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

from msgspec.structs import replace

from pytest_llmcost.call import Call, Evidence, price, reprice
from pytest_llmcost.capture.capture import Capture
from pytest_llmcost.capture.request import CapturedRequest
from pytest_llmcost.counting.payload import Payload
from pytest_llmcost.counting.prefixes import Readable
from pytest_llmcost.counting.segments import CachedPrompt
from pytest_llmcost.ledger.ledger import PayloadFacts
from pytest_llmcost.money import EXACT
from pytest_llmcost.plugin.live_cap import LiveCap
from pytest_llmcost.plugin.owners import Owner, Sender, TestAttempt, nodeid_of
from pytest_llmcost.plugin.prompts import learn_parts, meter, read_normalised, with_caveats
from pytest_llmcost.plugin.session import FAILURES, Session
from pytest_llmcost.plugin.warm_cache import RecordedCall, WarmCache
from pytest_llmcost.prices.bill import CacheState, in_cache_state
from pytest_llmcost.responses.message import Answer

_UNREAD = ("truncated-stream", "unreadable-response", "unmetered-route")
"""Caveats of an answer that says less than what the test has stated."""


def capture_of(session: Session) -> Capture:
    """Return the session's capture; made, with all that it imports, for the first request."""

    def fingerprint(
        request: CapturedRequest, body: Mapping[str, Any], betas: tuple[str, ...], model: str | None
    ) -> str | None:
        """Give equal requests one fingerprint, as the user's hook normalises them."""
        item = _sender_of(request).owner.item
        try:
            return read_normalised(session, body, item, betas=betas, model=model).fingerprint
        except FAILURES:  # of the user's hook; called again, it raises again
            return None

    session.children.enter()  # in a forked child: a thread of its parent may have held the lock
    limits = limits_on_capture(session)
    with session.lock:
        if session.capture is None:
            capture = Capture(
                owner=session.note_sent,
                report=partial(record_captured, session),
                clock=session.clock,
                fingerprint=fingerprint,
            )
            capture.limit(*limits)
            capture.when_idle = session.children.when_idle
            session.capture = capture
        return session.capture


def limits_on_capture(session: Session) -> tuple[tuple[str, ...], LiveCap | None]:
    """Return what the settings, if they are read, say of requests that are about to be sent."""
    cap = None if session.settings.max_live is None else LiveCap(session)
    return session.settings.stand_ins, cap


def _sender_of(request: CapturedRequest) -> Sender:
    assert isinstance(request.owner, Sender)
    return request.owner


def record_captured(session: Session, request: CapturedRequest) -> None:
    """Record a captured request, or what has become of one that was recorded before."""
    try:
        _record_captured(session, request)
    except BaseException:
        # Of an error capture notes what it was, and goes on with other calls.
        _sender_of(request).owner.has_lost_calls = True
        session.lost_calls.add("internal-error")
        raise


def _record_captured(session: Session, request: CapturedRequest) -> None:
    if session.children.may_exist and session.children.send_back(request):
        return
    sender = _sender_of(request)
    owner = sender.owner
    if request.endpoint.kind != "count_tokens":
        owner.has_requests = True
        is_live, earlier = request.live is not False, request.supersedes
        # Of one that is under way it is not known yet.
        owner.live_requests += is_live - (earlier is not None and earlier.live is not False)
        # A gate may be about it, a call or not.
        owner.has_spent |= is_live and bool(session.settings.live)
    unfinished = (each for each in owner.unfinished if each.captured is request.supersedes)
    before = next(unfinished, None)
    if before is not None:
        is_stated, said = before.call.evidence == "declared", request.answer
        if is_stated and said and any(each.name in _UNREAD for each in said.caveats):
            return  # what the test has stated stands
        is_same = said is not None and said.usage == before.call.usage
        if not is_stated or before.ids or is_same:
            _withdraw(session, owner, before)
        else:  # it has stated a call that was made while this one was under way
            owner.unfinished.remove(before)
    if request.answer is None:
        return
    try:
        answer, payload, evidence = meter(session, owner, request, request.answer)
    except FAILURES as error:  # of a hook of the user, whatever it is
        session.failures.append(error)
        why = f"not-comparable: {type(error).__name__} while the request was compared"
        more = () if request.live is True else (why,)
        answer, payload, evidence = with_caveats(request.answer, *more), None, "billed"
    is_open = any(each.rule.may_be_stated or each.name == "open-batch" for each in answer.caveats)
    # One that is still under way is reported again, even if no more of its usage comes.
    facts = {**request.sending, "captured": request if is_open or not request.is_over else None}
    record(session, sender, answer, payload, evidence, in_place_of=before, **facts)


def declare(session: Session, answer: Answer) -> Call:
    """Record what the test states itself, in place of the doubtful call that it settles.

    A message settles the doubtful call with its id, a usage without an id the only doubtful call
    of the test. Of an agent's session, what its running total has grown by is added.
    """
    sender, total, agent_session = session.sender(), answer.declared_usd, answer.session_id
    owner = sender.owner
    if agent_session is not None and total is not None:
        so_far, last = owner.agent_totals.get(agent_session, (Decimal(0), None))
        if last is not None and total <= so_far:
            return last
        growth = replace(answer, declared_usd=EXACT.subtract(total, so_far))
        call = record(session, sender, growth, None, "declared")
        owner.agent_totals[agent_session] = (total, call)
        return call
    session.settle(owner)
    doubtful = [each for each in owner.unfinished if _is_doubtful(each)]
    unread = [each for each in doubtful if each.call.has_caveat("unmetered-route")]
    if answer.ids:
        doubtful = [each for each in doubtful if set(each.ids) == set(answer.ids)]
        # The reply to another prompt, and one that contradicts itself, are known already.
        known = ("not-recounted", "usage-disagrees")
        doubtful = [each for each in doubtful if not each.call.has_caveat(*known)]
    if len(doubtful) != 1:
        doubtful = unread[:1]  # their ids were not read: it settles them in their order
    if not doubtful:
        return record(session, sender, answer, None, "declared")
    (before,) = doubtful
    _withdraw(session, owner, before)
    if before.call.lost_attempts:
        answer = with_caveats(answer, "lost-answer")
    assert before.captured is not None  # as of all that are unfinished
    names = ("fingerprint", "max_tokens", *before.captured.sending)
    facts = {name: getattr(before.call, name) for name in names}
    # Its stream may still be read to the end, and says the same once more.
    facts["captured"] = before.captured
    return record(session, sender, answer, None, "declared", in_place_of=before, **facts)


def _is_doubtful(recorded: RecordedCall) -> bool:
    """Return whether what a call cost is unknown, so that the test can state it."""
    call, captured = recorded.call, recorded.captured
    # A lost answer beside sampling calls is one of the attempts before them.
    is_lost = not call.sampling_calls and captured is not None and captured.is_over
    return call.evidence != "declared" and any(
        each.rule.may_be_stated and (is_lost or each.name != "lost-answer") for each in call.caveats
    )


def record(
    session: Session,
    sender: Sender,
    answer: Answer,
    payload: Payload | None,
    evidence: Evidence,
    prompt: CachedPrompt | None = None,
    in_place_of: RecordedCall | None = None,
    captured: CapturedRequest | None = None,
    **facts: Any,
) -> Call:
    """Price an answer, limit what it reads from a warm cache, and put it into the ledger.

    In place of a call that was taken back, it is of the same sender, and has the same prefix. What
    it was `captured` as is kept if it may turn out otherwise.
    """
    owner, known, prefix = sender.owner, None, None
    if payload is not None:
        cached = payload.prefixes if payload.breakpoints else ()
        known = PayloadFacts(
            model=payload.model,
            parts=payload.parts,
            task_budget=payload.task_budget,
            breakpoints=len(payload.breakpoints),
            prefixes={str(each.place): each.digest[:16] for each in cached},
        )
        if cached and in_place_of is None:
            prefix = _note_prefix(session, owner, payload, evidence)
        facts |= {"fingerprint": payload.fingerprint, "max_tokens": payload.longest_reply}
    if in_place_of is not None:
        before, prefix = in_place_of.call, in_place_of.prefix
        sender = Sender(owner, before.phase, before.tags, in_place_of.blocks)
    call = price(
        answer,
        session.card,
        on=session.price_date,
        evidence=evidence,
        cache_state=session.settings.cache,
        phase=sender.phase,
        tags=sender.all_tags(),
        **facts,
    )
    recorded = RecordedCall(call, sender.blocks, prefix, prompt, captured, answer.ids)
    if owner.warm_cache is not None:
        for earlier, now in owner.warm_cache.admit(recorded):
            _replace_call(session, owner, earlier, now)
            earlier.call = now
    session.ledger.add(owner.key, recorded.call, known)
    for block in sender.blocks:
        block.append(recorded.call)
    if captured is not None:
        owner.unfinished.append(recorded)
    owner.has_spent = True
    note_change(session, owner)
    call, hook = recorded.call, session.hook("pytest_llmcost_call")
    try:
        if hook.get_hookimpls():  # seldom, and to call it takes long even so
            hook(call=call, item=owner.item)
        if payload is not None:
            learn_parts(session, owner, call, payload)
            for callback in session.after_call:
                callback(sender, call, payload)
    except FAILURES as error:  # of a hook of the user, whatever it is
        session.failures.append(error)
    return call


def _note_prefix(
    session: Session, owner: Owner, payload: Payload, evidence: Evidence
) -> Readable | None:
    """Return how much of a call's cached prefix the earlier ones of its owner let it read."""
    if owner.warm_cache is None:
        owner.warm_cache = WarmCache(partial(_reprice, session), session.least_cacheable)
    prefix = owner.warm_cache.note(payload, evidence)
    broken = prefix and prefix.broken
    if broken and broken.excerpt and session.config.get_verbosity() > 1:
        name = f"{nodeid_of(owner.item)}: " if owner.item is not None else ""
        session.excerpts.append(f"{name}{broken.part} has now: {broken.excerpt!r}")
    return prefix


def _reprice(session: Session, call: Call, cache_state: CacheState | None = None) -> Call:
    state = cache_state or session.settings.cache
    return reprice(call, session.card, on=session.price_date, cache_state=state)


def _withdraw(session: Session, owner: Owner, unfinished: RecordedCall) -> None:
    """Take back a call that has turned out otherwise."""
    owner.unfinished.remove(unfinished)
    if owner.warm_cache is not None:
        owner.warm_cache.forget(unfinished)
    _replace_call(session, owner, unfinished)


def _replace_call(session: Session, owner: Owner, recorded: RecordedCall, *by: Call) -> None:
    session.ledger.replace(owner.key, recorded.call, *by)
    for block in recorded.blocks:
        at = block.index(recorded.call)
        block[at : at + 1] = by
    note_change(session, owner)


def note_change(session: Session, owner: Owner) -> None:
    """Note that an owner's spending, or the verdict on a block of it, has changed."""
    session.changes += 1
    if isinstance(owner, TestAttempt) and owner.is_over:
        session.changed_late[owner] = None


def calls_of(session: Session, owner: Owner) -> Sequence[Call]:
    """Return an owner's calls so far; a payload that was counted and then sent is one."""
    session.settle(owner)
    return session.ledger.calls(owner.key)


def calls_in(session: Session, calls: Sequence[Call], state: CacheState) -> Sequence[Call]:
    """Return calls, which are settled already, with price and tokens in a cache state."""
    if state == session.settings.cache == "as-billed":
        return calls

    def in_state(call: Call) -> Call:
        now = _reprice(session, call, state)
        used = (replace(each, usage=in_cache_state(each, state)) for each in now.sampling_calls)
        return replace(now, sampling_calls=tuple(used))

    return tuple(map(in_state, calls))

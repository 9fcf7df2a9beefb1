"""Recording calls: an answer that was captured, counted or declared is priced, and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any

from msgspec.structs import replace

from pytest_llmcost.call import Call, Evidence, price, reprice
from pytest_llmcost.capture.capture import Capture
from pytest_llmcost.capture.changed_prompt import (
    CacheUse,
    ReplayedReply,
    marks_of,
    obstacle_to_recount,
)
from pytest_llmcost.capture.request import CapturedRequest
from pytest_llmcost.counting.payload import Payload
from pytest_llmcost.counting.prefixes import Readable
from pytest_llmcost.counting.segments import CachedPrompt, is_part_of
from pytest_llmcost.counting.volatile import describe_volatile
from pytest_llmcost.errors import CountError, CountMissingError, PayloadError
from pytest_llmcost.ledger.ledger import PayloadFacts
from pytest_llmcost.plugin.live_cap import LiveCap
from pytest_llmcost.plugin.marker import limits_of
from pytest_llmcost.plugin.options import MARKER
from pytest_llmcost.plugin.owners import Owner, Sender, TestAttempt, nodeid_of
from pytest_llmcost.plugin.session import FAILURES, Session
from pytest_llmcost.plugin.warm_cache import RecordedCall, WarmCache
from pytest_llmcost.prices.bill import CacheState, in_cache_state
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import HELD, Usage
from pytest_llmcost.responses.message import Answer


def capture_of(session: Session) -> Capture:
    """Return the session's capture; made, with all that it imports, for the first request."""

    def fingerprint(
        request: CapturedRequest, body: Mapping[str, Any], betas: tuple[str, ...], model: str | None
    ) -> str | None:
        """Give equal requests one fingerprint, as the user's hook normalises them."""
        item = _sender_of(request).owner.item
        try:
            return session.counts.read(body, item, betas=betas, model=model).fingerprint
        except FAILURES:  # of the user's hook; called again, it raises again
            return None

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
    before = None
    if request.supersedes is not None:
        reported = (each for each in owner.recorded if each.captured is request.supersedes)
        before = next(reported, None)
    if before is not None:
        unread = ("truncated-stream", "unreadable-response")
        said = request.answer.caveats if request.answer is not None else ()
        if before.call.evidence == "declared" and any(each.name in unread for each in said):
            return  # what the test has stated stands
        withdraw(session, owner, before)
    if request.answer is None:
        return
    try:
        answer, payload, evidence = _meter(session, owner, request, request.answer)
    except FAILURES as error:  # of a hook of the user, whatever it is
        session.failures.append(error)
        why = f"not-comparable: {type(error).__name__} while the request was compared"
        more = () if request.live is True else (why,)
        answer, payload, evidence = with_caveats(request.answer, *more), None, "billed"
    is_open = any(each.rule.may_be_stated or each.name == "open-batch" for each in answer.caveats)
    # One that is still under way is reported again, even if no more of its usage comes.
    captured = request if is_open or not request.is_over else None
    facts = {**request.sending, "captured": captured, "said": request.answer}
    record(session, sender, answer, payload, evidence, instead_of=before, **facts)


# What a captured answer uses now


def _meter(
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
            return None if body is None else session.counts.read(body, owner.item, **how)
        except PayloadError:  # a live API will have refused it, too
            return None

    replay, model = request.replay, request.endpoint.model
    payload = read(request.payload, betas=request.betas, model=model)
    if request.is_mocked:
        now, evidence = _mocked(session, owner, request, answer, payload)
        return now, payload, evidence
    # Who reads the results of a batch that was created elsewhere sends no prompt to compare.
    is_prompt = request.endpoint.kind != "batch_results"
    if replay is None or not is_prompt or (replay.is_same and payload is None):
        return answer, payload, "billed"
    recorded = payload
    if payload is not None and not replay.is_same:
        # If the cassette hides its betas, they are taken for those of today.
        betas = request.betas if replay.betas is None else replay.betas
        recorded = read(replay.body, betas=betas, model=replay.model or model)
    if payload is None or recorded is None:
        obstacle = replay.obstacle or "the recorded request is unknown"
        if payload is None:
            obstacle = "what is sent now cannot be read"
        session.note(
            f"replayed replies cannot be checked against what is sent now: {obstacle}; keep the "
            "request's body in the cassette (see docs/how-it-works/changed-prompts.md)"
        )
        return with_caveats(answer, f"not-comparable: {obstacle}"), payload, "billed"
    least = session.least_cacheable(payload.model)
    reply = ReplayedReply(answer, payload, recorded, least, replay.strand, replay.body)
    now, evidence = _compare(session, owner, request, reply, is_same=replay.is_same)
    if now.before is not None:
        where = describe_volatile(recorded, payload, datetime.now(timezone.utc))
        now = with_caveats(now, *([f"volatile: {where}"] if where else ()))
    if evidence != "stale":
        now = _with_cache_in_doubt(owner, request, reply, now, read)
    return now, payload, evidence


def _with_cache_in_doubt(
    owner: Owner,
    request: CapturedRequest,
    reply: ReplayedReply,
    now: Answer,
    read: Callable[..., Payload | None],
) -> Answer:
    """Compare what other calls leave in the cache for it with what they did in the recording."""
    assert request.replay is not None
    if not (now.usage.cached_tokens or reply.answer.usage.cached_tokens):
        return now  # as most do: a test may make thousands
    read_then, unsent = reply.answer.usage.cache_read_tokens, list[CacheUse]()
    for each in request.replay.unclaimed:
        if each.read_tokens < read_then <= each.cached_tokens:
            betas = request.betas if each.betas is None else each.betas
            gone = read(each.body, betas=betas, model=each.model)
            unsent.append(CacheUse(marks_of(gone), each.read_tokens, each.cached_tokens))
    now = reply.with_cache_in_doubt(now, [*owner.cache_uses, *unsent])
    # What it leaves is for the calls of its owner that follow. One that is still under way is
    # metered once more, and must not seem to repeat itself.
    if request.is_over:
        owner.cache_uses.append(reply.use_of_the_cache(now.usage))
    return now


def _compare(
    session: Session,
    owner: Owner,
    request: CapturedRequest,
    reply: ReplayedReply,
    *,
    is_same: bool,
) -> tuple[Answer, Evidence]:
    """Return what a replayed reply uses for the payload that is sent now."""
    answer, payload, *_ = reply
    before = payload.continues
    is_as_billed = is_same or reply.is_as_billed()
    if before is not None and not session.turns.get(before):
        is_as_billed = False  # what the server holds has changed, or is not known yet
    if "thread" in payload.body:
        session.turns |= dict.fromkeys(answer.ids, is_as_billed)
    if is_as_billed and is_same:
        return answer, "billed"
    if is_as_billed:
        # The prompt is the same; a reply that was cut may be longer now.
        return with_caveats(answer, *reply.reply_caveats(session.tokenizer)), "billed"
    obstacle = obstacle_to_recount(answer) or request.uncountable
    if before is not None:
        obstacle = obstacle or HELD
    if obstacle is not None:
        return reply.without_figures(obstacle), "stale"

    plan = reply.plan(session.counts.reader(owner.item, payload))
    prompt: CachedPrompt | None = None
    caveats: tuple[str, ...] = ()
    try:
        if plan is not None:
            caveats = session.counts.count(owner, payload).caveats
            prompt = session.counts.split(owner, plan)
    except CountError as error:
        return reply.without_figures(None, _failed_count(session, owner, error)), "stale"
    earlier, tokenizer = owner.cache_uses, session.tokenizer
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
    unknown = replace(answer, sampling_calls=())
    obstacle = obstacle_to_recount(answer) or request.uncountable
    if payload is None or payload.continues is not None:
        obstacle = HELD if payload else "the request cannot be read"
    if payload is None or obstacle is not None:
        return with_caveats(unknown, f"not-recounted: {obstacle}"), "mocked"
    try:
        count = session.counts.count(owner, payload)
    except CountError as error:
        caveat = _failed_count(session, owner, error) or "uncounted: the answer is a mock's"
        return with_caveats(unknown, caveat), "mocked"
    (sampling,) = answer.sampling_calls
    usage = sampling.usage
    # A count says nothing of the cache: a prompt that marks nothing is uncached, and of one that
    # does, what the mock reads or writes is a part.
    if not payload.breakpoints:
        usage = Usage(output_tokens=usage.output_tokens)
    usage = replace(usage, input_tokens=max(0, count.input_tokens - usage.cached_tokens))
    counted = replace(answer, usage=usage, sampling_calls=(replace(sampling, usage=usage),))
    return with_caveats(counted, *count.caveats), "recounted"


def _failed_count(
    session: Session, owner: Owner, error: CountError, what: str = "not counted"
) -> str:
    """Note why a count has failed that was tried, and return its caveat; "" if none was tried."""
    if isinstance(error, CountMissingError):
        return ""
    session.note_error(what, error)
    owner.count_errors[error.for_files] = str(error)
    return f"count-failed: {error.for_files}"


def with_caveats(answer: Answer, *caveats: str) -> Answer:
    """Return an answer with further caveats."""
    return replace(answer, caveats=sorted_caveats([*answer.caveats, *caveats]))


# What is recorded


def record(
    session: Session,
    sender: Sender,
    answer: Answer,
    payload: Payload | None,
    evidence: Evidence,
    prompt: CachedPrompt | None = None,
    instead_of: RecordedCall | None = None,
    captured: CapturedRequest | None = None,
    said: Answer | None = None,
    **facts: Any,
) -> Call:
    """Price an answer, limit what it reads from a warm cache, and put it into the ledger.

    In place of a call that was taken back, it is of the same sender, and has the same prefix. What
    it was `captured` as is kept if it may turn out otherwise, and what its reply `said` if that is
    not the answer.
    """
    owner, known, prefix = sender.owner, None, None
    if payload is not None:
        is_whole = payload.continues is None
        cached = payload.prefixes if payload.breakpoints and is_whole else ()
        known = PayloadFacts(
            model=payload.model,
            parts=payload.parts,
            task_budget=payload.task_budget,
            breakpoints=len(payload.breakpoints),
            prefixes={str(each.path): each.digest[:16] for each in cached},
        )
        if cached and instead_of is None:
            prefix = _note_prefix(session, owner, payload, evidence)
        facts |= {"fingerprint": payload.fingerprint, "max_tokens": payload.longest_reply}
    if instead_of is not None:
        before, prefix = instead_of.call, instead_of.prefix
        sender = Sender(owner, before.phase, before.tags, instead_of.blocks)
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
    recorded = RecordedCall(call, said or answer, sender.blocks, prefix, prompt, captured)
    if owner.warm_cache is not None:
        for earlier, now in owner.warm_cache.admit(recorded):
            _replace_call(session, owner, earlier, now)
            earlier.call = now
    session.ledger.add(owner.key, recorded.call, known)
    for block in sender.blocks:
        block.append(recorded.call)
    if captured is not None or (answer.ids and evidence != "declared"):
        owner.recorded.append(recorded)
    owner.has_spent = True
    note_change(session, owner)
    call, hook = recorded.call, session.config.hook.pytest_llmcost_call
    try:
        if hook.get_hookimpls():  # seldom, and to call it takes long even so
            hook(call=call, item=owner.item)
        if payload is not None:
            _learn_parts(session, owner, call, payload)
            for callback in session.after_call:
                callback(sender, call, payload)
    except FAILURES as error:  # of a hook of the user, whatever it is
        session.failures.append(error)
    return call


def _learn_parts(session: Session, owner: Owner, call: Call, payload: Payload) -> None:
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
        try:
            found = session.counts.parts(owner, payload, asked)
            break
        except PayloadError:
            pass  # what is unknown, the budget reports
        except CountError as error:
            _failed_count(session, owner, error, "parts of a prompt were not counted")
    else:
        return
    for name in dict.fromkeys([*found, *names]):
        if not any(is_part_of(each, name) for each in found.left_out):  # those are too low
            known[name] = found.get(name, 0)
    facts = PayloadFacts(model=payload.model, parts=payload.parts, parts_tokens=known)
    session.ledger.learn(payload.fingerprint, facts)


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


def withdraw(session: Session, owner: Owner, recorded: RecordedCall) -> None:
    """Take back a call that has turned out otherwise."""
    owner.recorded.remove(recorded)
    if owner.warm_cache is not None:
        owner.warm_cache.forget(recorded)
    _replace_call(session, owner, recorded)


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

"""What a test states itself, and which of its calls that is."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from msgspec.structs import asdict, replace

from pytest_llmcost.call import Call
from pytest_llmcost.money import EXACT
from pytest_llmcost.plugin.calls import record, withdraw
from pytest_llmcost.plugin.owners import Owner, Sender
from pytest_llmcost.plugin.session import Session
from pytest_llmcost.plugin.warm_cache import RecordedCall
from pytest_llmcost.responses.message import Answer


def declare(session: Session, read: Callable[..., Answer]) -> Call:
    """Record what the test states itself, in place of the captured call that it is about.

    `read` reads it as the reply to that call's request, which then says what it leaves open.
    """
    sender, answer = session.sender(), read()
    total = answer.session_total
    if total is not None and answer.declared_usd is None:
        return _declare_growth(session, sender, answer, *total)
    call = _declare_call(session, sender, answer, read)
    if total is not None:  # the price of this turn is stated; later ones grow from its total
        sender.owner.agent_totals[total[0]] = (total[1], call)
    return call


def _declare_call(
    session: Session, sender: Sender, answer: Answer, read: Callable[..., Answer]
) -> Call:
    owner = sender.owner
    session.settle(owner)
    before = _call_stated(session, owner, answer, read)
    if before is None:
        return record(session, sender, answer, None, "declared")
    if answer.declared_usd is None and not _settles(answer, before):
        return before.call
    withdraw(session, owner, before)
    names = ("fingerprint", "max_tokens", "live", "at", "attempts", "lost_attempts")
    facts = {name: getattr(before.call, name) for name in names}
    # A stream that is under way may still be read to its end, and then says it itself.
    facts |= {"instead_of": before, "captured": before.captured}
    reply = _as_reply(before, read)
    said = replace(reply, ids=reply.ids or before.said.ids)  # its message may be stated later
    return record(session, sender, reply, None, "declared", said=said, **facts)


def _declare_growth(
    session: Session, sender: Sender, answer: Answer, agent_session: str, total: Decimal
) -> Call:
    """Record what the running total of an agent's session has grown by, once for each total.

    One that has fallen was begun anew, as TypeScript's SDK did before 0.3.277 to resume a session.
    Source: https://github.com/anthropics/claude-agent-sdk-typescript/issues/469, read 2026-11-27.
    """
    totals = sender.owner.agent_totals
    so_far, last = totals.get(agent_session, (Decimal(0), None))
    if last is not None and total == so_far:
        return last
    grown = total if total < so_far else EXACT.subtract(total, so_far)
    call = record(session, sender, replace(answer, declared_usd=grown), None, "declared")
    totals[agent_session] = (total, call)
    return call


def _call_stated(
    session: Session, owner: Owner, answer: Answer, read: Callable[..., Answer]
) -> RecordedCall | None:
    """Return the captured call that a statement is about; None if it was not seen.

    A message is about the call with its id: the first doubtful one, or a known one of its usage.
    Without an id, or if the id of the call is unknown, a statement is about the only doubtful call
    that is over and of its model, or the first if it would be the same reply to each of them.
    """
    named = [each for each in owner.recorded if answer.ids and each.said.ids == answer.ids]
    for each in named:
        if _settles(answer, each):
            return each
    for each in named:  # mocks may give one id to several replies
        if each.said.usage == answer.usage:
            return each
    doubtful = [
        each
        for each in owner.recorded
        if _settles(answer, each)
        and (each.captured is None or each.captured.is_over)
        and not (answer.ids and each.said.ids)
        and not _is_other_model(session, answer.model, each.call.model)
    ]
    replies = [(each.said.ids, _as_reply(each, read)) for each in doubtful]
    return doubtful[0] if replies and all(each == replies[0] for each in replies) else None


def _as_reply(recorded: RecordedCall, read: Callable[..., Answer]) -> Answer:
    """Read a statement as the reply to a call's request, if that is still known.

    The part of the reply that was read says more of its terms than what was asked for.
    """
    answer = read() if recorded.captured is None else recorded.captured.read_reply(read)
    terms = {
        name: getattr(recorded.call.context, name) or each
        for name, each in asdict(answer.terms).items()
        if each is None or each.startswith("asked-")
    }
    return replace(answer, terms=replace(answer.terms, **terms))


def _is_other_model(session: Session, *names: str | None) -> bool:
    stated, asked = (session.card.find(str(each)) for each in names)
    return stated is not None and asked is not None and stated.model != asked.model


def _settles(answer: Answer, recorded: RecordedCall) -> bool:
    """Return whether what a call cost is unknown, and a statement may say it."""
    call, captured = recorded.call, recorded.captured
    # The message of a reply to another prompt, and of one that contradicts itself, is known.
    is_message = bool(answer.ids) and answer.declared_usd is None
    if call.evidence == "declared" or (
        is_message and call.has_caveat("not-recounted", "usage-disagrees")
    ):
        return False
    # A lost answer beside sampling calls is one of the attempts before them.
    is_lost = not call.sampling_calls and captured is not None and captured.is_over
    return any(
        each.rule.may_be_stated and (is_lost or each.name != "lost-answer") for each in call.caveats
    )

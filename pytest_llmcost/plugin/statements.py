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
from pytest_llmcost.prices.usage import mappings
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
        before.is_stated = True
        return before.call
    withdraw(session, owner, before)
    names = ("fingerprint", "max_tokens", "live", "at", "attempts", "lost_attempts")
    facts = {name: getattr(before.call, name) for name in names}
    # Its stream may still be read to the end, and says the same once more.
    facts |= {"in_place_of": before, "captured": before.captured}
    return record(session, sender, _as_reply(before, read), None, "declared", **facts)


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

    It is of the same id and the same model, if both name them, and the first of these:

    | a message | a usage or a price without an id |
    |---|---|
    | a doubtful call with its id | a doubtful call whose id is unknown |
    | a known call with its id and its usage | the only doubtful call |
    | a doubtful call whose id is unknown | |

    Of several doubtful ones it is the first, if it would be the same reply to each of them.
    """
    fits = [each for each in owner.recorded if not _contradicts(session, answer, each)]
    doubtful = [each for each in fits if _settles(answer, each)]
    alike = [each for each in doubtful if each.said.ids == answer.ids]
    if answer.ids and not alike:
        for each in fits:
            # Mocks may give one id to several replies, so that what these say must be the same.
            is_one = (each.said.ids, each.said.usage) == (answer.ids, answer.usage)
            if is_one and each.call.evidence != "declared" and not each.is_stated:
                return each
    doubtful = alike or doubtful
    places = [(each.said.ids, _as_reply(each, read)) for each in doubtful]
    return doubtful[0] if places and all(each == places[0] for each in places) else None


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


def _contradicts(session: Session, answer: Answer, recorded: RecordedCall) -> bool:
    """Return whether a statement names another id or model than a call."""
    if answer.ids and recorded.said.ids and answer.ids != recorded.said.ids:
        return True
    request = (recorded.captured and recorded.captured.payload) or {}
    fallbacks = request.get("fallbacks")
    names = [recorded.call.model, *(each.get("model") for each in mappings(fallbacks))]
    stated, *may_serve = (session.card.find(str(each)) for each in (answer.model, *names))
    if stated is None or None in may_serve or fallbacks == "default":
        return False
    return stated.model not in {each.model for each in may_serve if each}


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

"""Prompts as a session reads and counts them: whole, by what is cached of them, and by part."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from pytest_llmcost.call import Call
from pytest_llmcost.counting.cassette import Count
from pytest_llmcost.counting.client import count_all
from pytest_llmcost.counting.payload import Payload, read_payload
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
from pytest_llmcost.errors import CountError, CountMissingError, PayloadError, SettingsError
from pytest_llmcost.ledger.ledger import PayloadFacts
from pytest_llmcost.plugin.marker import parts_with_budget
from pytest_llmcost.plugin.owners import Owner
from pytest_llmcost.plugin.session import Session


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
    return replace(sent, fingerprint=read.fingerprint, parts=read.parts, compared=read.body)


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
    return split_prompt(
        plan,
        _count_cuts(session, owner, plan, what, options),
        min_cacheable_tokens=session.least_cacheable(model),
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
    read = partial(read_normalised, session, item=owner.item, betas=payload.betas)
    plan = plan_parts(payload, names, read=read)
    what = f"the parts ({', '.join(names)})" if names else "the parts"
    counted = _count_cuts(session, owner, plan, what)
    opening_tokens = opening_tokens_of(model, session.tokenizer(model))
    return split_parts(plan, counted, opening_tokens=opening_tokens)


def learn_parts(session: Session, owner: Owner, call: Call, payload: Payload) -> None:
    """Count the parts of a prompt that have a budget, or all if that was asked for."""
    names = parts_with_budget(owner.item, session.settings)
    if payload.fingerprint in owner.parts or not (names or session.settings.parts):
        return
    if call.has_caveat("uncounted"):  # what failed once would only fail, or wait, again
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

"""`--llmcost-model` and `--llmcost-columns`: what the run would cost otherwise.

Every payload is counted for the other models too, from the tests' own count cassettes. What is
not recorded waits until the tests have run, and is then counted, many at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Sequence
from functools import partial
from typing import TypeAlias, cast

import pytest
from msgspec.structs import replace

from pytest_llmcost.call import Call
from pytest_llmcost.compare import other_model
from pytest_llmcost.compare.model_support import find_rejections
from pytest_llmcost.compare.repriced import Column, in_column
from pytest_llmcost.counting.cassette import Count, Entry
from pytest_llmcost.counting.client import Job, count_all
from pytest_llmcost.counting.payload import Payload
from pytest_llmcost.errors import CountCassetteError, CountError
from pytest_llmcost.ledger.ledger import Ledger, PayloadFacts, calls_of
from pytest_llmcost.plugin.counts import count_command_of_run, showing_progress
from pytest_llmcost.plugin.owners import Sender
from pytest_llmcost.plugin.session import Session
from pytest_llmcost.reports.terminal import View

_Waiting: TypeAlias = tuple[Job, str, PayloadFacts]
"""A count of a payload for the other model; the payload that was sent or counted, and its facts."""


class OtherModels:
    """Counts for the other models, in the process that runs the tests."""

    def __init__(self, session: Session) -> None:
        """Look up every payload that the session records from now on."""
        self._session = session
        self._waiting: dict[str, list[_Waiting]] = {}
        """By the fingerprint of the payload for the other model."""
        session.after_call.append(self.look_up)

    def look_up(self, sender: Sender, call: Call, payload: Payload) -> None:
        """Note what is known of a call's payload on each model, and what is to be counted."""
        session, known = self._session, call.fingerprint
        if known is None or other_model.obstacle_of(call) is not None:
            return
        for model in models_of(session):
            if model == payload.model:
                continue
            found = find_rejections(payload.body, model, session.card, on=session.price_date)
            facts = PayloadFacts(model=payload.model, parts=payload.parts)
            if found.harmless:
                facts = replace(facts, dropped={model: ", ".join(found.harmless)})
            if found.blocking:
                facts = replace(facts, rejected={model: ", ".join(found.blocking)})
            else:
                # The same payload for another model, as the user's hook normalises it.
                body = {**payload.body, "model": model}
                other = session.counts.read(body, sender.owner.item, betas=payload.betas)
                job = session.counts.job(sender.owner, replace(other, headers=payload.headers))
                if job.recorded is not None:
                    facts = _with_count(facts, model, job.recorded)
                elif job.asks:
                    try:
                        # Made while the test is there, whose fixture it is; then it is torn down.
                        if sender.phase != "teardown":
                            session.counts.counter.client()
                        self._waiting.setdefault(other.fingerprint, []).append((job, known, facts))
                    except CountError as error:
                        session.note_error(f"not counted for {model}", error)
            session.ledger.learn(known, facts)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, nextitem: pytest.Item | None) -> None:
        """Count before the last test's fixtures are torn down, and with them the user's client."""
        if nextitem is None:
            self._count_waiting(is_last=False)

    @pytest.hookimpl(wrapper=True, trylast=True)  # inside of the wrapper that judges the run
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Count what came in after that, before the run is judged."""
        result = yield
        if not session.config.option.collectonly:
            self._count_waiting(is_last=True)
        return result

    def _count_waiting(self, *, is_last: bool) -> None:
        """Count what waits, many at once; an interrupt keeps what was counted.

        What got no answer, for example in a test that forbids connections, waits for the last time.
        """
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        counter, first = self._session.counts.counter, [asked[0][0] for asked in waiting.values()]
        try:
            with showing_progress(self._session.config) as progress:
                outcomes = count_all(counter, first, progress=progress)
        except CountError as error:  # there is no client
            self._session.note_error("not counted for another model", error)
            return
        except KeyboardInterrupt:
            for fingerprint, asked in waiting.items():
                entry = asked[0][0].cassette.entries.get(fingerprint)
                if entry is not None and entry.refused is None:  # it was counted before
                    self._learn(asked, entry)
            raise
        for (fingerprint, asked), outcome in zip(waiting.items(), outcomes, strict=True):
            jobs, model = [job for job, *_ in asked], asked[0][0].payload.model
            if isinstance(outcome, Count):
                self._learn(asked, outcome)
                count_all(counter, jobs[1:])  # from memory, into each test's own cassette
            elif outcome.refusal is not None:
                self._session.note_error(f"not counted for {model}", outcome)
                refused = Count(refused=outcome.refusal)
                self._learn(asked, refused)
                for job in (each for each in jobs if each.mode.writes):
                    job.cassette.put(Entry.of(job.payload, refused, job.asker.name))
                    try:
                        job.cassette.save()
                    except CountCassetteError as error:
                        self._session.note_error("counts were not saved", error)
            elif outcome.status is None and not is_last:
                self._waiting[fingerprint] = asked
            else:
                self._session.note_error(f"not counted for {model}", outcome)

    def _learn(self, asked: Sequence[_Waiting], count: Count) -> None:
        model = asked[0][0].payload.model
        for known, facts in {known: facts for _, known, facts in asked}.items():
            self._session.ledger.learn(known, _with_count(facts, model, count))


def models_of(session: Session) -> tuple[str, ...]:
    """Return the models of `--llmcost-model`, each once, whatever it is called."""
    return tuple(dict.fromkeys(session.card.resolve(each).model for each in session.settings.model))


def _with_count(facts: PayloadFacts, model: str, count: Count) -> PayloadFacts:
    """Add what is known of a payload on another model: its tokens, or why it is refused."""
    if count.refused is not None:
        return replace(facts, rejected={model: f"the payload: {count.refused}"})
    if count.left_out:
        facts = replace(facts, left_out={model: ", ".join(count.left_out)})
    return replace(facts, counts={model: count.input_tokens})


def with_other_models(session: Session, ledger: Ledger) -> Ledger:
    """Add the run's calls on each model that was asked for."""
    ledger = other_model.with_other_models(ledger, models_of(session), session.card)
    notes, others = list(ledger.notes), ledger.other_models
    if missing := [f"{other.missing:,} for {other.model}" for other in others if other.missing]:
        command = count_command_of_run(session.config, session.settings, "model")
        notes.append(
            f"prompts not counted yet: {', '.join(missing)}; count them all, free: {command}"
        )
    return replace(ledger, notes=tuple(notes))


def with_columns(session: Session, ledger: Ledger, view: View) -> View:
    """Add the columns that were asked for to the summary's table."""

    def price(column: Column, call: Call) -> Call | str:
        return in_column(call, column, ledger.payloads, session.card, on=session.price_date)

    columns = dict.fromkeys(cast("tuple[Column, ...]", session.settings.columns))
    payloads = (
        ledger.payloads.get(call.fingerprint or "")
        for call in calls_of(ledger)
        if call.evidence == "counted"  # a billed reply states itself what was cached
    )
    notes = []
    if columns and any(each and each.breakpoints and not each.cached for each in payloads):
        command = count_command_of_run(session.config, session.settings, "columns")
        notes.append(f"cache breakpoints not counted yet; count them all, free: {command}")
    priced = {column: partial(price, column) for column in columns}
    return dataclasses.replace(view, columns=priced, notes=notes)

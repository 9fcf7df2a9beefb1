"""`--llmcost-model` and `--llmcost-columns`: what the run would cost otherwise.

Every payload is counted for the other models too, from the tests' own count cassettes. What is
not recorded waits until the tests have run, and is then counted, many at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Sequence
from functools import partial
from typing import Literal, cast

import pytest
from msgspec.structs import replace

from pytest_llmcost.call import Call
from pytest_llmcost.compare.cache_states import Column, in_column
from pytest_llmcost.compare.model_support import find_rejections
from pytest_llmcost.compare.other_model import obstacle_of, on_other_model
from pytest_llmcost.counting.cassette import Count, Entry
from pytest_llmcost.counting.client import Job, count_all
from pytest_llmcost.counting.payload import Payload
from pytest_llmcost.errors import CountCassetteError, CountError
from pytest_llmcost.ledger.ledger import Ledger, PayloadFacts, calls_of
from pytest_llmcost.plugin.counts import count_command_of_run, showing_progress
from pytest_llmcost.plugin.prompts import read_normalised
from pytest_llmcost.plugin.sender import Sender
from pytest_llmcost.plugin.session import Session
from pytest_llmcost.reports.terminal import View

_KEEPS = ("new_episodes", "all", "rewrite")
"""Modes that write what the API said."""


class OtherModels:
    """Counts for the other models, in the process that runs the tests."""

    def __init__(self, session: Session) -> None:
        """Look up every payload that the session records from now on."""
        self._session = session
        self._waiting: dict[str, list[Job]] = {}
        """By the fingerprint of the payload for the other model."""
        self._stands_for: dict[str, dict[str, PayloadFacts]] = {}
        """That fingerprint -> those of the payloads that were sent or counted."""
        session.after_call.append(self.look_up)

    def look_up(self, sender: Sender, call: Call, payload: Payload) -> None:
        """Note what is known of a call's payload on each model, and what is to be counted."""
        if call.fingerprint is not None and obstacle_of(call) is None:
            for model in models_of(self._session):
                if model != payload.model:
                    facts = self._look_up(sender, call.fingerprint, payload, model)
                    self._session.ledger.learn(call.fingerprint, facts)

    def _look_up(
        self, sender: Sender, fingerprint: str, payload: Payload, model: str
    ) -> PayloadFacts:
        session = self._session
        found = find_rejections(payload.body, model, session.card, on=session.price_date)
        facts = PayloadFacts(model=payload.model, parts=payload.parts)
        if found.harmless:
            facts = replace(facts, dropped={model: ", ".join(found.harmless)})
        if found.blocking:
            return replace(facts, rejected={model: ", ".join(found.blocking)})
        # The same payload for another model, with the fingerprint that the user's hook gives it.
        body = {**payload.body, "model": model}
        other = read_normalised(session, body, sender.owner.item, betas=payload.betas)
        job = session.counts.job(sender.owner, replace(other, headers=payload.headers))
        if job.mode not in ("all", "rewrite", "live"):
            entry = job.cassette.entries.get(other.fingerprint)
            if entry is not None:
                return _with_count(facts, model, entry)
        if job.mode == "live" or job.mode in _KEEPS:
            try:
                if sender.phase != "teardown":  # the user's client is a fixture, and is torn down
                    session.counts.counter.client()
            except CountError as error:
                session.notes.add(f"not counted for {model}: {error}")
            else:
                self._waiting.setdefault(other.fingerprint, []).append(job)
                self._stands_for.setdefault(other.fingerprint, {})[fingerprint] = facts
        return facts

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, nextitem: pytest.Item | None) -> None:
        """Count before the last test's fixtures are torn down, and with them the user's client."""
        if nextitem is None:
            self._count_waiting(is_last=False)

    @pytest.hookimpl(wrapper=True, trylast=True)
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
        counter, first = self._session.counts.counter, [jobs[0] for jobs in waiting.values()]
        try:
            with showing_progress(self._session.config) as progress:
                outcomes = count_all(counter, first, progress=progress)
        except CountError as error:  # there is no client
            self._session.notes.add(f"not counted for another model: {error}")
            return
        except KeyboardInterrupt:
            for job in first:  # what was counted before is in the cassettes by now
                entry = job.cassette.entries.get(job.payload.fingerprint)
                if entry is not None and entry.refused is None:
                    self._learn(job.payload, entry)
            raise
        for (fingerprint, jobs), outcome in zip(waiting.items(), outcomes, strict=True):
            payload = jobs[0].payload
            if isinstance(outcome, Count):
                self._learn(payload, outcome)
                count_all(counter, jobs[1:])  # from memory, into each test's own cassette
            elif outcome.refusal is not None:
                refused = Count(refused=outcome.refusal)
                self._learn(payload, refused)
                self._keep(jobs, refused)
            elif outcome.status is None and not is_last:
                self._waiting[fingerprint] = jobs
            else:
                self._stands_for.pop(fingerprint, None)
                self._session.notes.add(f"not counted for {payload.model}: {outcome}")

    def _keep(self, jobs: Iterable[Job], refused: Count) -> None:
        for job in jobs:
            if job.mode in _KEEPS:
                job.cassette.put(Entry.of(job.payload, refused, job.asker.name))
                try:
                    job.cassette.save()
                except CountCassetteError as error:
                    self._session.notes.add(f"counts were not saved: {error}")

    def _learn(self, payload: Payload, count: Count) -> None:
        for known, facts in self._stands_for.pop(payload.fingerprint, {}).items():
            self._session.ledger.learn(known, _with_count(facts, payload.model, count))


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
    others = tuple(
        on_other_model(ledger, model, session.card, on=session.price_date)
        for model in sorted(models_of(session))
    )
    notes = list(ledger.notes)
    if missing := [f"{other.missing:,} for {other.model}" for other in others if other.missing]:
        command = count_command_of_run(session.config, _given_again(session, "model"))
        notes.append(
            f"prompts not counted yet: {', '.join(missing)}; count them all, free: {command}"
        )
    return replace(ledger, other_models=others, notes=tuple(notes))


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
        command = count_command_of_run(session.config, _given_again(session, "columns"))
        notes.append(f"cache breakpoints not counted yet; count them all, free: {command}")
    priced = {column: partial(price, column) for column in columns}
    return dataclasses.replace(view, columns=priced, notes=notes)


def _given_again(session: Session, name: Literal["model", "columns"]) -> Sequence[str]:
    """Return the options for the command line that are set in the environment or the ini file."""
    flag = f"--llmcost-{name}"
    if session.settings.origin(name) == flag:
        return ()
    return [f"{flag}={value}" for value in getattr(session.settings, name)]

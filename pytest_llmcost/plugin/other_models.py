"""Other models: every payload of the run counted for them, from the tests' own cassettes.

Data flow: a booked call's payload -> `look_up` -> its count for each model, into the ledger; what
is not recorded waits -> `count_waiting`, many at once -> the ledger and the cassettes.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, cast

import pytest
from msgspec.structs import replace

from pytest_llmcost.call import Call
from pytest_llmcost.compare.cache_states import Column, in_column
from pytest_llmcost.compare.model_support import find_rejections
from pytest_llmcost.compare.other_model import obstacle_of, on_other_model
from pytest_llmcost.counting.cassette import Count, Entry
from pytest_llmcost.counting.client import Job, Outcome, count_all
from pytest_llmcost.counting.payload import Payload
from pytest_llmcost.errors import CountCassetteError, CountError
from pytest_llmcost.ledger.ledger import Ledger, OtherModel, calls_of
from pytest_llmcost.ledger.ledger import PayloadFacts as LedgerPayload
from pytest_llmcost.plugin.counts import read_normalised
from pytest_llmcost.plugin.progress import showing_progress
from pytest_llmcost.plugin.session import Session
from pytest_llmcost.reports.terminal import View

if TYPE_CHECKING:
    from pytest_llmcost.plugin.calls import Books
    from pytest_llmcost.plugin.owners import Seat
    from pytest_llmcost.plugin.session import Session


_KEEPS = ("new_episodes", "all", "rewrite")
"""Modes that write what the API said."""


class OtherModels:
    """The models of `--llmcost-model`, and the payloads that are still to be counted for them."""

    def __init__(self, books: Books) -> None:
        """Resolve the models' names; each counts once, whatever it is called."""
        self._books = books
        names = map(books.exact_model, books.run.settings.model)
        self.models = tuple(dict.fromkeys(names))
        self._waiting: dict[str, list[Job]] = {}
        """By the fingerprint of the payload for the other model."""
        self._stands_for: dict[str, dict[str, LedgerPayload]] = {}
        """That fingerprint -> those of the payloads that were sent or counted."""

    def look_up(self, seat: Seat, call: Call, payload: Payload) -> None:
        """Note what is known of a call's payload on each model, and what is to be counted."""
        if call.fingerprint is None or obstacle_of(call) is not None:
            return
        for model in self.models:
            if model != payload.model:
                self._look_up(seat, call.fingerprint, payload, model)

    def _look_up(self, seat: Seat, fingerprint: str, payload: Payload, model: str) -> None:
        books = self._books
        found = find_rejections(payload.body, model, books.card, on=books.run.price_date)
        news = LedgerPayload(model=payload.model, parts=payload.parts)
        if found.harmless:
            news = replace(news, dropped={model: ", ".join(found.harmless)})
        if found.blocking:
            news = replace(news, rejected={model: ", ".join(found.blocking)})
            books.ledger.learn(fingerprint, news)
            return
        job = books.counting.job(seat, self._on(model, payload, seat))
        entry = None if _asks_anew(job) else job.cassette.find(job.payload.fingerprint)
        if entry is not None and entry.refused is not None:
            news = _refused(news, model, entry.refused)
        elif entry is not None:
            news = _counted(news, model, entry.input_tokens, entry.left_out)
        elif _may_ask(job):
            self._wait(seat, job, fingerprint, news)
        books.ledger.learn(fingerprint, news)

    def _on(self, model: str, payload: Payload, seat: Seat) -> Payload:
        """The same payload for another model, told from others as the user's hook makes it."""
        body = {**payload.body, "model": model}
        other = read_normalised(self._books.run, body, seat.item, betas=payload.betas)
        return replace(other, headers=payload.headers)

    def _wait(self, seat: Seat, job: Job, fingerprint: str, news: LedgerPayload) -> None:
        try:
            if seat.phase != "teardown":  # the user's client is a fixture; later there is none
                self._books.counting.counter.client()
        except CountError as error:
            self._books.run.notes.add(f"not counted for {job.payload.model}: {error}")
            return
        other = job.payload.fingerprint
        self._waiting.setdefault(other, []).append(job)
        self._stands_for.setdefault(other, {})[fingerprint] = news

    def count_waiting(self, *, is_last: bool) -> None:
        """Count what waits, many at once; whatever was counted is kept, also by an interrupt.

        What got no answer, for a test that forbids connections say, waits for the last time.
        """
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        counter = self._books.counting.counter
        first = [jobs[0] for jobs in waiting.values()]
        try:
            with showing_progress(self._books.run.config) as progress:
                outcomes = count_all(counter, first, progress=progress)
        except CountError as error:  # there is no client
            self._books.run.notes.add(f"not counted for another model: {error}")
            return
        except KeyboardInterrupt:
            self._learn_recorded(first)
            raise
        for (fingerprint, jobs), outcome in zip(waiting.items(), outcomes, strict=True):
            if isinstance(outcome, CountError) and outcome.status is None and not is_last:
                self._waiting[fingerprint] = jobs
                continue
            self._learn(fingerprint, jobs[0].payload.model, outcome)
            if isinstance(outcome, Count):
                count_all(counter, jobs[1:])  # from memory, into each test's own cassette
            elif outcome.refusal is not None:
                self._record_refusal(jobs, outcome.refusal)

    def _record_refusal(self, jobs: Iterable[Job], said: str) -> None:
        for job in jobs:
            if job.mode in _KEEPS:
                job.cassette.put(Entry.of(job.payload, Count(refused=said), job.asker.name))
                try:
                    job.cassette.save()
                except CountCassetteError as error:
                    self._books.run.notes.add(f"counts were not saved: {error}")

    def _learn_recorded(self, jobs: Iterable[Job]) -> None:
        """Take what was counted before an interrupt, which is in the cassettes by now."""
        for job in jobs:
            entry = job.cassette.find(job.payload.fingerprint)
            if entry is not None and entry.refused is None:
                self._learn(job.payload.fingerprint, job.payload.model, entry)

    def _learn(self, fingerprint: str, model: str, outcome: Outcome) -> None:
        for known, news in self._stands_for.pop(fingerprint, {}).items():
            if isinstance(outcome, Count):
                news = _counted(news, model, outcome.input_tokens, outcome.left_out)
            elif outcome.refusal is not None:
                news = _refused(news, model, outcome.refusal)
            else:
                self._books.run.notes.add(f"not counted for {model}: {outcome}")
            self._books.ledger.learn(known, news)


def _asks_anew(job: Job) -> bool:
    return job.mode in ("all", "rewrite", "live")


def _may_ask(job: Job) -> bool:
    return job.mode == "live" or job.mode in _KEEPS


def _counted(
    news: LedgerPayload, model: str, tokens: int, left_out: tuple[str, ...]
) -> LedgerPayload:
    if left_out:
        news = replace(news, left_out={model: ", ".join(left_out)})
    return replace(news, counts={model: tokens})


def _refused(news: LedgerPayload, model: str, said: str) -> LedgerPayload:
    return replace(news, rejected={model: f"the payload: {said}"})


class CountAtTheEnd:
    """The hooks that count what waits: while there are fixtures still, then what is left."""

    def __init__(self, run: Session) -> None:
        """Count for a run, in the process that ran the tests."""
        self.run = run

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, nextitem: pytest.Item | None) -> None:
        """Count before the last test's fixtures go, and with them the user's client."""
        if nextitem is None:
            self._count(is_last=False)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Count what came in after that, before the books are closed."""
        result = yield
        if not session.config.option.collectonly:
            self._count(is_last=True)
        return result

    def _count(self, *, is_last: bool) -> None:
        if self.run.has_books and self.run.books.other_models is not None:
            self.run.books.other_models.count_waiting(is_last=is_last)


_RECORDING = "--llmcost-record-mode"


def with_other_models(run: Session, report: Ledger) -> Ledger:
    """Add the run's calls on each model that was asked for."""
    others = run.books.other_models
    models = sorted(others.models) if others is not None else ()
    switches = tuple(
        on_other_model(report, model, run.books.card, on=run.price_date) for model in models
    )
    missing = [switch for switch in switches if switch.missing]
    notes = [_missing(run, missing)] if missing else []
    return replace(report, other_models=switches, notes=(*report.notes, *notes))


def _missing(run: Session, switches: Sequence[OtherModel]) -> str:
    listed = ", ".join(f"{switch.missing:,} for {switch.model}" for switch in switches)
    command = record_command(run, _given_again(run, "model"))
    return f"prompts not counted yet: {listed}; count them all, free: {command}"


def with_columns(run: Session, report: Ledger, view: View) -> View:
    """Add the columns that were asked for to the summary's table."""

    def price(column: Column, call: Call) -> Call | str:
        return in_column(call, column, report.payloads, run.books.card, on=run.price_date)

    columns = dict.fromkeys(cast("tuple[Column, ...]", run.settings.columns))
    notes = []
    if columns and any(
        _lacks_cuts(report.payloads.get(call.fingerprint or ""), call) for call in calls_of(report)
    ):
        command = record_command(run, _given_again(run, "columns"))
        notes.append(f"cache breakpoints not counted yet; count them all, free: {command}")
    priced = {column: partial(price, column) for column in columns}
    return dataclasses.replace(view, columns=priced, notes=notes)


def _lacks_cuts(payload: LedgerPayload | None, call: Call) -> bool:
    if call.evidence != "counted" or payload is None:
        return False  # what was billed says itself what was cached
    return payload.breakpoints > 0 and not payload.cached


def _given_again(run: Session, name: Literal["model", "columns"]) -> list[str]:
    """Options for the command line that stand in the environment or the ini file."""
    flag = f"--llmcost-{name}"
    if run.settings.origin(name) == flag:
        return []
    return [f"{flag}={value}" for value in getattr(run.settings, name)]


def record_command(run: Session, options: Sequence[str]) -> str:
    """The command that repeats this run with permission to count, and with these options."""
    words = ["pytest", *_without_mode(run.config.invocation_params.args), *options]
    return f"{shlex.join(words)} {_RECORDING}=new_episodes"


def _without_mode(args: Sequence[object]) -> Iterator[str]:
    """The arguments but for those that say how to record."""
    words = iter(map(str, args))
    for word in words:
        if word == _RECORDING:
            next(words, None)
        elif word != "--disable-recording" and not word.startswith(f"{_RECORDING}="):
            yield word

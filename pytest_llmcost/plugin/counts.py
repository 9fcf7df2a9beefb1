"""Token counts of a session: of whole prompts, of their parts, and of what is cached of them.

Also whose cassette they are in, in which mode, by which command they are made, how far they are.
"""

from __future__ import annotations

import copy
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import pytest
from msgspec.structs import replace

from pytest_llmcost.counting.cassette import Count, CountCassette
from pytest_llmcost.counting.client import Asker, Counter, Job, PayloadCount, Progress, count_all
from pytest_llmcost.counting.payload import Payload, read_payload
from pytest_llmcost.counting.record_mode import RecordMode
from pytest_llmcost.counting.segments import (
    CachedPrompt,
    Plan,
    PromptParts,
    plan_parts,
    split_parts,
    split_prompt,
)
from pytest_llmcost.errors import (
    CountCassetteError,
    CountError,
    CountMissingError,
    PayloadError,
    SettingsError,
)
from pytest_llmcost.plugin.owners import Owner, SharedFixture, TestAttempt
from pytest_llmcost.plugin.pytest_recording import cassette_path, fixture_cassette_path, record_mode
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.settings import Settings

_SECONDS_BETWEEN = 0.1
"""Between two lines of progress: a slow terminal must not slow the counting down."""


class Counts:
    """The counter, the count cassettes that are open, and how payloads are read to be counted."""

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        card: RateCard,
        make_client: Callable[[], object],
        note_error: Callable[[str, CountError], None],
        recording: Callable[[], AbstractContextManager[object]],
    ) -> None:
        """Open nothing yet: neither client nor cassette."""
        self._config = config
        self._settings = settings
        self._card = card
        self._note_error = note_error
        self._recording = recording
        self._sources: dict[Owner, tuple[CountCassette, RecordMode, Asker]] = {}
        self._asked: dict[str, set[str]] = {}
        """Fingerprints by the asker's name, over all attempts of a test or set-ups of a fixture."""
        self._new_askers: set[str] = set()
        self.counter = Counter(
            make_client, seconds=settings.count_timeout, waiting=self._show_waiting
        )

    def count(self, owner: Owner, payload: Payload) -> PayloadCount:
        """Count a payload for its owner as the owner's mode allows.

        Raises:
            CountError: not recorded and not allowed to ask, or the API did not count it.
        """
        return self.counter.count(self.job(owner, payload))

    def read(self, body: Mapping[str, Any], item: pytest.Item | None, **how: Any) -> Payload:
        """Read a payload as it is sent, with the fingerprint that the user's hook gives it.

        Raises:
            PayloadError: it is not JSON.
            SettingsError: the hook's result is not.
        """
        sent = read_payload(body, find=self._card.find, **how)
        hook = self._config.hook.pytest_llmcost_normalize_payload
        if not hook.get_hookimpls():
            return sent
        # A copy: what a hook changes in place must not change what is counted.
        normalised = hook(payload=copy.deepcopy(sent.body), item=item)
        if normalised is None:
            return sent
        how = {**how, "model": sent.model, "betas": sent.betas}
        try:
            read = read_payload(normalised, find=self._card.find, **how)
        except PayloadError as error:
            raise SettingsError(
                f"pytest_llmcost_normalize_payload returned what is not a payload: {error}; "
                "return plain JSON, as messages.create takes it, or None to leave it as it is"
            ) from error
        return replace(sent, fingerprint=read.fingerprint, parts=read.parts, compared=read.prompt)

    def split(self, owner: Owner, plan: Plan) -> CachedPrompt:
        """Count all that a plan needs, and return the prompt by what is cached of it."""
        what = f"the cached prefixes ({', '.join(str(cut.point.path) for cut in plan.cuts[1:])})"
        about = self._card.about(plan.whole.model)
        return split_prompt(plan, self._count_cuts(owner, plan, what), about)

    def parts(
        self, owner: Owner, payload: Payload, names: Sequence[str] | None = None
    ) -> PromptParts:
        """Count the parts of a prompt that are named, or all.

        Raises:
            CountError: as by `count`.
            PayloadError: it has no messages.
        """
        plan = plan_parts(payload, names, read=self.reader(owner.item, payload))
        what = f"the parts ({', '.join(names)})" if names else "the parts"
        about = self._card.about(payload.model)
        return split_parts(plan, self._count_cuts(owner, plan, what), about)

    def reader(self, item: pytest.Item | None, payload: Payload) -> Callable[..., Payload]:
        """Return what reads a piece of a payload as that itself is read."""
        return partial(self.read, item=item, betas=payload.betas)

    def _count_cuts(self, owner: Owner, plan: Plan, what: str) -> dict[str, Count]:
        """Return the count of each payload of a plan; a missing one is named by what it is for."""
        jobs = [self.job(owner, part) for part in plan.payloads]
        found: dict[str, Count] = {}
        is_missing = False
        for job, outcome in zip(jobs, count_all(self.counter, jobs), strict=True):
            if isinstance(outcome, Count):
                found[job.payload.fingerprint] = outcome
            elif isinstance(outcome, CountMissingError):
                is_missing = True
            else:
                raise outcome
        if is_missing:
            command = jobs[0].asker.command
            raise CountMissingError(
                f"{what} of this prompt are not counted yet for {plan.whole.model}. Count them "
                f"(free): {command}",
                command=command,
                what=f"{what} of a prompt are",
            )
        return found

    def job(self, owner: Owner, payload: Payload) -> Job:
        """Return all that it takes to count a payload for its owner later."""
        job = Job(payload, *self._source(owner))
        self._asked.setdefault(job.asker.name, set()).add(payload.fingerprint)
        return job

    def make_client_ready(self, owner: Owner) -> None:
        """Make the client now, if counts of this owner may be sent at all."""
        if self._source(owner)[1].asks:
            self.counter.client()

    def open_to_rewrite(self, owner: Owner) -> None:
        """Open the cassette that `save` is to rewrite, also if its owner asks for nothing any more.

        Fails the running test if the file is damaged or something else.
        """
        if record_mode(owner.item, self._config, self._settings).prunes:
            with _failing():
                self._source(owner)

    def save(self, owner: Owner) -> None:
        """Save what an owner has recorded; a mode that prunes drops what it no longer asks for.

        Not of one that ended early: what it did not come to, it may still ask for. Fails the
        running test if the file cannot be written.
        """
        with _failing():
            self._save(owner)

    def _save(self, owner: Owner) -> None:
        if owner not in self._sources:
            return
        cassette, mode, asker = self._sources.pop(owner)
        if mode.prunes and owner.is_whole:
            cassette.prune(asker.name, self._asked.get(asker.name, set()))
        cassette.save()

    def save_all(self) -> None:
        """Save what all owners have recorded; no test is left to fail, so an error is a note."""
        for owner in list(self._sources):
            try:
                self._save(owner)
            except CountCassetteError as error:
                self._note_error("counts were not saved", error)

    def _show_waiting(self, text: str) -> None:
        """Say what a count is waiting for, on any terminal and in any log."""
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            with _uncaptured(self._config):
                terminal.ensure_newline()
                terminal.write_line(text)
                terminal.flush()

    def _source(self, owner: Owner) -> tuple[CountCassette, RecordMode, Asker]:
        source = self._sources.get(owner)
        if source is None:
            with self._recording():  # pytest makes fixtures in one thread at a time
                made = self._sources.get(owner) or self._open(owner)
                source = self._sources.setdefault(owner, made)
        return source

    def _open(self, owner: Owner) -> tuple[CountCassette, RecordMode, Asker]:
        config = self._config
        if isinstance(owner, TestAttempt):
            name = node = owner.nodeid
            path = cassette_path(owner.item)
        elif isinstance(owner, SharedFixture):
            key = owner.key
            node = key.node or key.baseid
            # Modules and parameters share the file; one must not drop what another has asked for.
            name = f"{node}::{key.name}" + (f"[{key.param}]" if key.param else "")
            path = fixture_cassette_path(config, key.baseid, key.scope, key.name)
        else:
            name, node = "outside-tests", ""
            path = fixture_cassette_path(config, "", "session", name)
        cassette = CountCassette(path)
        if not cassette.has_recorded(name):
            # `once` is once per session: a rerun may count what the first attempt did not reach.
            self._new_askers.add(name)
        mode = record_mode(owner.item, config, self._settings)
        mode = mode.for_asker(is_new=name in self._new_askers)
        command = count_command(config, self._settings, node, owner.item)
        asker = Asker(name, command)
        return cassette, mode, asker


@contextmanager
def _failing() -> Iterator[None]:
    """Fail the running test without a traceback, which would be one of ours."""
    __tracebackhide__ = True
    try:
        yield
    except CountCassetteError as error:
        raise pytest.fail.Exception(f"counts were not saved: {error}", pytrace=False) from None


# Commands that messages tell the user to paste


def count_command(
    config: pytest.Config, settings: Settings, nodeid: str, item: pytest.Item | None
) -> str:
    """Return the command that counts all that a test sends, and drops its other counts; free."""
    path, separator, names = nodeid.partition("::")
    # The id of a test outside of the rootdir does not say where it is.
    file = config.rootpath / path if item is None else item.path
    target = os.path.relpath(file, config.invocation_params.dir) + separator + names
    words = ["pytest", target, "--llmcost-record-mode=rewrite"]
    # What is counted depends on these; only an ini file holds wherever the command is run.
    for name in ("cache", "mocks"):
        if settings.origin(name) not in ("default", f"llmcost_{name}"):
            words.append(f"--llmcost-{name}={getattr(settings, name)}")
    return shlex.join(words)


def count_command_of_run(
    config: pytest.Config, settings: Settings, name: Literal["model", "columns", "parts"]
) -> str:
    """Return the command that repeats this run with permission to count.

    The setting that needs the counts is among its options, also if it is set elsewhere.
    """
    words, flag = [], "--llmcost-record-mode"
    given = iter(map(str, config.invocation_params.args))
    for word in given:
        if word == flag:
            next(given, None)
        elif word != "--disable-recording" and not word.startswith(f"{flag}="):
            words.append(word)
    option, value = f"--llmcost-{name}", getattr(settings, name)
    if settings.origin(name) != option:
        words += [option] if value is True else [f"{option}={each}" for each in value]
    return shlex.join(["pytest", *words, f"{flag}=new_episodes"])


# What the terminal says meanwhile; a terminal reporter is never found in workers


@contextmanager
def showing_progress(config: pytest.Config) -> Iterator[Callable[[Progress], None] | None]:
    """Give what shows the progress of counting, where there is a terminal to show it on."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or not terminal.isatty or config.get_verbosity() < 0:
        yield None
        return
    shown_at: float | None = None

    def show(progress: Progress) -> None:
        """Write the counter over the one before."""
        nonlocal shown_at
        if shown_at is None:
            terminal.ensure_newline()
        elif progress.seconds - shown_at < _SECONDS_BETWEEN and progress.done < progress.total:
            return
        shown_at = progress.seconds
        terminal.rewrite(render_progress(progress), bold=True, erase=True)

    with _uncaptured(config):
        try:
            yield show
        finally:
            if shown_at is not None:
                terminal.write_line("")


def _uncaptured(config: pytest.Config) -> AbstractContextManager[None]:
    capture = config.pluginmanager.get_plugin("capturemanager")
    return nullcontext() if capture is None else capture.global_and_fixture_disabled()


def render_progress(progress: Progress) -> str:
    """Write how far it is, how fast, and how long it will take.

    Example:
        >>> render_progress(Progress(done=500, total=2_000, failed=0, seconds=10.0))
        'llmcost: counted 500/2,000, 50/s, 30 s left [ 25%]'
    """
    text = f"llmcost: counted {progress.done:,}/{progress.total:,}"
    if progress.failed:
        text += f" ({progress.failed:,} failed)"
    if progress.done and progress.seconds > 0:
        per_second = progress.done / progress.seconds
        text += f", {per_second:,.0f}/s"
        if progress.done < progress.total:
            minutes, seconds = divmod(round((progress.total - progress.done) / per_second), 60)
            text += f", {minutes}:{seconds:02} min left" if minutes else f", {seconds} s left"
    return f"{text} [{100 * progress.done // progress.total:>3}%]"

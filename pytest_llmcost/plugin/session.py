"""Session: the state of the plugin in one pytest session, shared by all its hooks.

The light half says who is running. The heavy half, everything that knows of prices, is made when
it is first needed; a suite that sends nothing to Claude never gets that far, unless it forks beside
an HTTP library. Session must not know what is recorded, judged or reported: those modules know the
session.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, timezone
from functools import partial
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmcost.concurrency import cached_property
from pytest_llmcost.errors import CountError, SettingsError
from pytest_llmcost.plugin.owners import (
    Owner,
    Sender,
    SharedFixture,
    TestAttempt,
    sender_of,
    worker_of,
)
from pytest_llmcost.settings import Settings

if TYPE_CHECKING:
    from pytest_llmcost.call import Call, Phase
    from pytest_llmcost.capture.capture import Capture
    from pytest_llmcost.counting.payload import Payload
    from pytest_llmcost.ledger.builder import LedgerBuilder
    from pytest_llmcost.ledger.ledger import Ledger
    from pytest_llmcost.ledger.run_history import Run
    from pytest_llmcost.plugin.counts import Counts
    from pytest_llmcost.prices.rate_card import RateCard

KEY = pytest.StashKey["Session"]()
FAILURES = (Exception, pytest.fail.Exception, pytest.skip.Exception)
"""What a hook of the user, or a timeout of the test, may raise; pytest's own are no `Exception`."""
LONG_WAIT, SHORT_WAIT = 300.0, 5.0
"""Seconds for which the main thread, and any other, waits while another one records calls."""


class _Findings:
    """What the process that owns the run joins with what others have found."""

    incomplete: set[str]
    """Why the run does not stand for the whole suite."""
    lost_calls: set[str]
    """Why calls may be missing: the run is incomplete, and what it spent has no upper bound."""
    not_passed: set[str]
    """Tests that were skipped or failed, and modules and classes that were skipped whole."""
    skipped: set[str]
    """Tests that were skipped, and modules and classes that were skipped whole."""
    skipped_budgets: set[str]
    """Tests with a budget of their own that were skipped."""
    live_markers: set[str]
    """Tests with a marker that says whether they may go live."""
    deselected: set[str]
    """Tests that pytest has deselected, for its own options, or a conftest."""
    deselecting: set[str]
    """The conftests that have done so."""
    unmatched_globs: set[str]
    """The paths in settings that match no test."""
    saved_cassettes: set[str]
    """Those that VCR has written in this run."""


class Session(_Findings):
    """The settings of a session, who is running in it, and what it has spent so far."""

    def __init__(self, config: pytest.Config) -> None:
        """Begin with nothing seen; the settings are read when pytest is configured."""
        self.config = config
        self.settings = Settings()
        self.started_at = utc_now()
        self.clock = time.time  # now: freezegun puts another function in its place in each module
        self.base: Ledger | None = None
        """The baseline as it was when the run began; none in workers."""
        self.in_history: Run | None = None
        """What was appended to the history of this run."""
        self.in_job_summary = 0, 0
        """Where what was appended to the job summary begins and ends, in bytes."""
        self.workers = 0
        vars(self).update({name: set[str]() for name in _Findings.__annotations__})
        self.selected: set[str] = set()
        """With a baseline, all tests that are to run."""
        self.changes = 0
        """How often a call was recorded or withdrawn in this process."""
        self.changed_late: dict[TestAttempt, None] = {}
        """Tests whose calls have changed since their teardown."""
        self.turns: dict[str, bool] = {}
        """Whether each replayed message of a thread is as billed, by its id, for what goes on."""
        self._notes: dict[str, str] = {}
        self.excerpts: list[str] = []
        """With `-vv`: what stands where calls break a cached prefix. For the terminal, no file."""
        self.after_call: list[Callable[[Sender, Call, Payload], None]] = []
        """Called after a call whose payload is known was recorded."""
        self.capture: Capture | None = None
        self.stop_following: Callable[[], None] = lambda: None
        self.test: pytest.Item | None = None
        self.phase: Phase | None = None
        self.attempt: TestAttempt | None = None
        """Of the running test, until the next one begins; None if it needs none."""
        self.outcome = "passed"
        """How the running test has ended so far."""
        self.failed_before = 0
        """How many reports had failed when the running test began."""
        self.outside = Owner()
        self.outside.is_whole = True
        self._begun, self._attempts = list[pytest.Item](), Counter[str]()
        self.fixtures: list[tuple[SharedFixture, Phase, int | None]] = []
        """Fixtures wider than a function that are being set up or torn down, the innermost last;
        each with the thread whose requests are its own, None for all."""
        self.failures: list[BaseException] = []
        """What hooks of the user raised in this phase, at whose end a test can fail by it."""
        self.is_configured = False
        """Whether all plugins and conftests are loaded whose hooks count."""
        self.options_of_plugins: set[str] = set()
        """The names of all options before conftests declare theirs."""
        self.children: Any
        """A `ChildProcesses`, which knows the session."""
        self._turn, self._recorders = threading.Lock(), set[int]()
        """The right to record, and the threads that do."""
        self.lock = threading.Lock()
        """Held for a moment, never while code of the user runs."""

    @cached_property
    def worker(self) -> str | None:
        """The name of this xdist worker, which xdist sets late; None in the process of the run."""
        return worker_of(self.config)

    @cached_property
    def price_date(self) -> date:
        """The UTC date as of which everything is priced; in a worker the controller's."""
        sent = getattr(self.config, "workerinput", {}).get("llmcost")
        if sent is not None:
            return date.fromisoformat(sent["price_date"])
        # Not of now: a test may have stopped the clock.
        return self.settings.price_date or date.fromisoformat(self.started_at[:10])

    @cached_property
    def run_folder(self) -> Path:
        """A folder of this run alone, shared by its workers and children, and then removed."""
        sent = getattr(self.config, "workerinput", {}).get("llmcost")
        if sent is not None:
            return Path(sent["run_folder"])
        path = Path(tempfile.gettempdir(), f"pytest-llmcost-run-{os.urandom(8).hex()}")
        self.config.add_cleanup(partial(shutil.rmtree, path, ignore_errors=True))
        return path

    def take_news(self) -> dict[str, Any]:
        """Return what the process that owns the run does not know yet, in exact builtins."""
        fragment = self.ledger.take_fragment() if self.has_spending else None
        sets = {name: sorted(getattr(self, name)) for name in _Findings.__annotations__}
        return {"ledger": fragment, "notes": self.notes, **sets}

    def absorb(self, news: Mapping[str, Any], **process: Any) -> None:
        """Take in the news of another process."""
        if news["ledger"] is not None:
            self.ledger.absorb(news["ledger"], **process)
            self.changes += 1
        for name in _Findings.__annotations__:
            getattr(self, name).update(news[name])
        self._notes.update(news["notes"])

    # The heavy half

    @property
    def has_spending(self) -> bool:
        """Whether anything was sent, counted or limited."""
        return "ledger" in vars(self)

    @cached_property
    def ledger(self) -> LedgerBuilder:
        """Every call so far, by owner."""
        from pytest_llmcost.ledger.builder import LedgerBuilder

        return LedgerBuilder()

    @cached_property
    def counts(self) -> Counts:
        """The token counts of this session."""
        from pytest_llmcost.plugin.counts import Counts

        return Counts(
            self.config,
            self.settings,
            self.card,
            self._make_client,
            self.note_error,
            self.recording,
        )

    @cached_property
    def card(self) -> RateCard:
        """The prices of this session: the shipped ones, then the user's file, then the hook's."""
        from pytest_llmcost.prices.rate_card import RateCard, shipped_card

        card, name = shipped_card(), "pytest_llmcost_rate_card"
        if self.settings.prices is not None:
            with self.settings.naming("prices"):
                card = card.with_overrides(self.settings.prices)
        try:
            replaced = self.config.hook.pytest_llmcost_rate_card(config=self.config, card=card)
        except FAILURES as error:  # of the user's hook, whatever it is
            frames = extract_tb(error.__traceback__)
            at = next((each for each in frames if each.name == name), frames[-1])
            raised = f"pytest_llmcost_rate_card raised {type(error).__name__}: {error}"
            raise SettingsError(f"{at.filename}:{at.lineno}: {raised}") from error
        if replaced is None:
            return card
        if not isinstance(replaced, RateCard):
            raise SettingsError(f"{name} returned {type(replaced).__name__}, not a RateCard")
        return replaced

    def tokenizer(self, model: str) -> str | None:
        """Return the name of a model's tokenizer; None if the card does not know it."""
        return self.card.about(model).tokenizer

    def least_cacheable(self, model: str) -> int | None:
        """Return the least number of tokens that a model caches; None if it is unknown."""
        return self.card.about(model).min_cacheable_tokens

    def _make_client(self) -> object:
        """Make the user's `llmcost_client`, which any test can ask for; outside a default one."""
        from pytest_llmcost.counting.api_error import without_secrets
        from pytest_llmcost.counting.client import make_client

        sender = self.sender()
        request = getattr(sender.owner.item, "_request", None)  # private: of a function
        if request is None:
            client: Any = make_client()
            self.config.add_cleanup(client.close)  # which no fixture does
            return client
        with self.recording() as is_asked_by_test:
            try:
                return request.getfixturevalue("llmcost_client")
            except FAILURES as error:
                is_teardown = sender.phase == "teardown"  # in the last one pytest makes no fixture
                if is_asked_by_test and not is_teardown:
                    raise
                # The test has not asked for the client: the count fails, and not the test.
                remedy = "; let the fixture that sends there ask for it" if is_teardown else ""
                why = without_secrets(repr(error))
                raise CountError(
                    f"llmcost_client cannot be made: {why}{remedy}", foreign=(why,)
                ) from None

    def save_counts(self) -> None:
        """Save all counts at the end."""
        if "counts" in vars(self):
            self.counts.save_all()

    # Who is running

    @property
    def owner(self) -> Owner:
        """Whose is what is sent now."""
        return self.sender().owner

    def sender(self) -> Sender:
        """Return whose a request is that is sent now; asked from any thread or task."""
        # Each is read once: the main thread may go on meanwhile.
        test, phase, fixtures = self.test, self.phase, self.fixtures[::-1]
        for fixture, began, thread in fixtures:
            if thread is None or thread == threading.get_ident():
                return sender_of(fixture, began)
        if test is None:
            return sender_of(self.outside, None)
        return sender_of(self.attempt_of(test), phase)

    def begin(self, item: pytest.Item) -> None:
        """Begin the next attempt of a test. This makes no object: most tests send nothing."""
        if self.children.may_exist:
            self.children.begin_test()
        self._begun.append(item)  # counted when it is asked for: pytest makes each id anew
        self.attempt, self.outcome = None, "passed"
        self.test, self.phase = item, "setup"
        self.failed_before = item.session.testsfailed

    def attempt_of(self, item: pytest.Item) -> TestAttempt:
        """Return the attempt of a test under way."""
        attempt = self.attempt
        if attempt is not None and attempt.item is item:
            return attempt
        with self.lock:
            attempt = self.attempt
            if attempt is None or attempt.item is not item:
                while self._begun:  # one by one: the next test may begin meanwhile
                    self._attempts[self._begun.pop().nodeid] += 1
                attempt = TestAttempt(item, self._attempts[item.nodeid] or 1)
                if item is self.test:  # not so if a thread has outlived its test
                    self.attempt = attempt
            return attempt

    @contextmanager
    def owning(self, fixture: SharedFixture, phase: Phase) -> Iterator[None]:
        """Make a wider fixture the owner, in the midst of a phase of a test."""
        # What we make in the midst of a test, the client, is not what its other threads send for.
        thread = threading.get_ident() if self._is_recording else None
        self.fixtures.append((fixture, phase, thread))
        try:
            yield
        finally:
            self.fixtures.pop()
            self.drain()

    # Recording what was captured

    def note_sent(self) -> Sender:
        """Note that this process, perhaps a forked child, sends a request; return whose it is."""
        sender = self.sender()
        if self.children.may_exist:
            self.children.note(sender.owner)
        return sender

    def enter_child(self) -> None:
        """Begin anew in a forked child: a thread of its parent may hold any lock of ours."""
        self.lock, self._turn, self._recorders = threading.Lock(), threading.Lock(), set()
        if self.has_spending:
            self.ledger.enter_child()
        vars(self).pop("counts", None)
        self.saved_cassettes.clear()
        if self.capture is not None:
            self.capture.enter_child(self.children.when_idle)

    def catch_up(self, is_due: Callable[[Any], bool] | None = None) -> None:
        """Record what is complete; of the senders that are due the rest as unknown, too."""
        if self.capture is None and not self.children.may_exist:
            return
        with self.recording() as may_record:
            if not may_record:
                return
            if self.children.may_exist:
                self.children.bring_back()
            if self.capture is not None and is_due is not None:
                self.capture.settle(is_due)
            elif self.capture is not None:
                self.capture.drain()

    def drain(self) -> None:
        """Record what is complete; raise whatever a hook of the user has raised meanwhile."""
        self.catch_up()
        if self.failures and not self._is_recording:
            failure = self.failures[0]
            self.failures.clear()
            raise failure

    def settle(self, owner: Owner | None = None) -> None:
        """Record all that was seen of an owner, or of all; what is incomplete as unknown."""
        self.catch_up(lambda sender: owner in (None, sender.owner))
        if owner is None and self.children.are_lost():
            self.lost_calls.add("forked-child")

    @contextmanager
    def recording(self) -> Iterator[bool]:
        """Take the turn to record, or to make the client; yield whether to go on.

        Counting, fixtures and hooks send requests themselves and bring us back here. Their
        requests are recorded by whoever has the turn already, once that is done.
        """
        if self._is_recording:
            yield False
            return
        # Verdicts are due in the main thread: it waits until others have recorded. They in turn
        # may be what a hook in the main thread is waiting for, so they go ahead soon.
        is_main = threading.current_thread() is threading.main_thread()
        turn, recorders = self._turn, self._recorders  # a child that is forked meanwhile has others
        has_turn = turn.acquire(timeout=LONG_WAIT if is_main else SHORT_WAIT)
        recorders.add(threading.get_ident())
        try:
            yield True
        finally:
            recorders.discard(threading.get_ident())
            if has_turn:
                turn.release()

    @property
    def _is_recording(self) -> bool:
        """Whether this thread records already, further up its stack."""
        return threading.get_ident() in self._recorders

    def note_failures(self) -> None:
        """Note what came too late for a test to fail by it, so that nothing else does."""
        while self.failures:
            failure = self.failures.pop()
            text = "a pytest_llmcost hook failed outside of tests: "
            self.note(text + type(failure).__name__, f"{text}{failure!r}")

    def note_error(self, what: str, error: CountError) -> None:
        """Note why a count has failed, in full on the terminal alone."""
        self.note(f"{what}: {error.for_files}", f"{what}: {error}")

    def note(self, for_files: str, in_full: str | None = None) -> None:
        """Note what a reader should know, as files hold it and as the terminal shows it."""
        self._notes[in_full or for_files] = for_files

    @property
    def notes(self) -> Mapping[str, str]:
        """By each note as the terminal shows it, what files hold."""
        text = "internal error while reading a request; its cost is unknown: "
        failures = () if self.capture is None else self.capture.failures
        # Its kind alone goes into files: the rest may quote what the request holds.
        return {**self._notes, **{text + each: text + each.partition(":")[0] for each in failures}}


class Hooks:
    """The hooks of one session that pytest is to register."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __dir__(self) -> list[str]:
        """Show hooks alone, for pytest inspects each name of a plugin, in every run."""
        return [name for name in vars(type(self)) if name.startswith("pytest_")]


def check_settings(session: Session) -> None:
    """Read what the settings name, so that a mistake is an error before anything is spent.

    Raises:
        LlmCostError: a wrong price file, baseline, path budget or model.
    """
    settings = session.settings
    if settings.baseline is None:
        # In an ini file it is allowed: CI may add the baseline.
        for name in ("max_increase", "max_test_increase", "update_baseline", "vanished"):
            origin = settings.origin(name)
            is_set = getattr(settings, name) not in ((), False, "off", "warn")
            if is_set and not origin.startswith("llmcost_"):
                raise SettingsError(
                    f"{origin}: needs a baseline; name the ledger of an earlier run with "
                    "--llmcost-baseline=PATH"
                )
    reports = {path.resolve() for path in settings.report}
    for name in ("baseline", "history"):
        path = getattr(settings, name)
        if path is not None and path.resolve() in reports:
            raise SettingsError(
                f"{settings.origin('report')}: {path} is the file of {settings.origin(name)}, "
                "which it would overwrite; write the report to another file"
            )
    history = settings.history
    if history is not None and os.path.exists(history) and not os.path.isfile(history):
        raise SettingsError(  # to read a device may never end
            f"{settings.origin('history')}: {history} is no regular file, so no run can be "
            "appended to it; name a file, for example history.jsonl"
        )
    if settings.budgets:
        from pytest_llmcost.plugin.marker import budgets_of_run

        budgets_of_run(settings)
    path = settings.baseline if session.worker is None else None
    if path is not None and path.exists():
        from pytest_llmcost.ledger.ledger import read_ledger

        with settings.naming("baseline"):
            session.base = read_ledger(path)
    elif path is not None and not settings.update_baseline:
        origin, command = settings.origin("baseline"), "pytest --llmcost-update-baseline"
        if origin == "--llmcost-baseline":
            command += f" {origin}={shlex.quote(str(path))}"
        raise SettingsError(
            f"{origin}: {path}: the baseline does not exist; write it with: {command}"
        )
    if settings.max_live is not None:
        # Now: before each fork it keeps out the threads that import it, and we would wait for them.
        import filelock  # noqa: F401
    has_hook = session.config.hook.pytest_llmcost_rate_card.get_hookimpls()
    if settings.prices is not None or has_hook or settings.model:
        _ = session.card
        for model in settings.model:
            with settings.naming("model"):
                session.card.resolve(model)


def utc_now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

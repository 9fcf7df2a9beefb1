"""Session: the state of the plugin in one pytest session, shared by all its hooks.

The light half says who is running. The heavy half, everything that knows of prices, is made when
it is first needed; a suite that sends nothing to Claude never gets that far. Session must not
know what is recorded, judged or reported: those modules know the session.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy
import pytest

from pytest_llmcost.capture.children import Children, Ticket
from pytest_llmcost.capture.transports import RELAYS
from pytest_llmcost.counting.turn import Turn
from pytest_llmcost.errors import CountError, SettingsError
from pytest_llmcost.plugin.owners import Owner, Sender, SharedFixture, TestAttempt, worker_of
from pytest_llmcost.plugin.tags import current_tags
from pytest_llmcost.settings import Settings

if TYPE_CHECKING:
    from pytest_llmcost.call import Call, Phase
    from pytest_llmcost.capture.capture import Capture
    from pytest_llmcost.capture.request import CapturedRequest
    from pytest_llmcost.counting.payload import Payload
    from pytest_llmcost.ledger.builder import LedgerBuilder
    from pytest_llmcost.ledger.run_history import Run
    from pytest_llmcost.plugin.counts import Counts
    from pytest_llmcost.prices.rate_card import RateCard

KEY = pytest.StashKey["Session"]()
SETS = (
    *("incomplete", "lost_calls", "notes", "not_passed", "saved_cassettes", "unmatched_globs"),
    *("skipped", "skipped_budgets", "deselected", "deselecting"),
)
"""Sets of a session that the process which owns the run joins."""
_LONG_WAIT, _SHORT_WAIT = 300.0, 5.0
"""Seconds for which the main thread, and any other, waits while another one records calls."""


class Session:
    """The settings of a session, who is running in it, and what it has spent so far."""

    def __init__(self, config: pytest.Config) -> None:
        """Begin with nothing seen; the settings are read when pytest is configured."""
        self.config = config
        self.settings = Settings()
        self.started_at = utc_now()
        self.in_history: Run | None = None
        """What was appended to the history of this run."""
        self.accepted = ""
        """What was written as the new baseline, in a sentence."""
        self.workers = 0
        self.incomplete: set[str] = set()
        """Why the run does not stand for the whole suite."""
        self.lost_calls: set[str] = set()
        """Why calls may be missing; what was spent then has no upper bound."""
        self.notes: set[str] = set()
        self.not_passed: set[str] = set()
        """Tests that were skipped or failed, and modules and classes that were skipped whole."""
        self.saved_cassettes: set[str] = set()
        """Those that VCR has written in this run."""
        self.failures: list[str] = []
        """What fails the run besides its budgets, as lines of pytest's short summary."""
        self.selected: set[str] = set()
        """With a baseline, all tests that are to run; so the next one."""
        self.skipped: set[str] = set()
        """Tests that were skipped, and modules and classes that were skipped whole."""
        self.deselected: set[str] = set()
        """Tests that pytest has deselected, for its own options, or a conftest."""
        self.deselecting: set[str] = set()
        """The files of pytest or conftests that have done so."""
        self.skipped_budgets: set[str] = set()
        """Tests with a budget of their own that were skipped."""
        self.unmatched_globs: set[str] = set()
        """The paths in settings that match no test."""
        self.late_conftests: set[object] = set()
        """Conftests that were loaded by the collection; our hooks in them are ignored."""
        self.changes = 0
        """How often a call was recorded or withdrawn in this process."""
        self.changed_late: dict[TestAttempt, None] = {}
        """Tests whose calls have changed since their teardown."""
        self.excerpts: dict[Owner, list[str]] = {}
        """With `-vv`: what stands where an owner's calls break a cached prefix. In no file."""
        self.after_call: list[Callable[[Sender, Call, Payload], None]] = []
        """Called after a call whose payload is known was recorded."""
        self.capture: Capture | None = None
        self.stop_following: Callable[[], None] = lambda: None
        self.record: Callable[[CapturedRequest], None] = lambda request: None
        """Records what a child has sent."""
        self.test: pytest.Item | None = None
        self.phase: Phase | None = None
        self.attempt: TestAttempt | None = None
        """Of the running test, until the next one begins; None if it needs none."""
        self.outside = Owner()  # its token is the same in all processes
        self._attempts: dict[str, int] = {}
        self._begun: list[pytest.Item] = []
        """Whose attempts are not counted yet: to ask for each test's id would take long."""
        self._fixtures: list[Sender] = []
        """Fixtures wider than a function that are being set up or torn down, the innermost last."""
        self._own_client: Any = None
        self._failure: Exception | None = None
        self._children = Children()
        self._turn = Turn()
        self._process = os.getpid()
        self._is_child = False
        """Whether this process was forked while a test ran in its parent, to which its calls go."""
        self._way_back: Children | None = None
        self.is_forked_test = False
        """Whether this process was forked to run a test, of which its reports tell the parent."""
        self.forked_children: dict[int, str] = {}
        """By process id, the names of those in which tests have run."""
        self._owners: dict[str, Owner] = {"outside": self.outside}
        """By their tokens, owners whose children may send something."""
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
        return self.settings.price_date or datetime.now(timezone.utc).date()

    @cached_property
    def run_folder(self) -> Path:
        """A folder of this run alone, shared by its workers and children; made when needed."""
        sent = getattr(self.config, "workerinput", {}).get("llmcost")
        if sent is not None:
            return Path(sent["run_folder"])
        name = f"pytest-llmcost-run-{os.urandom(8).hex()}"
        return Path(tempfile.gettempdir(), name)

    @property
    def baseline(self) -> Path | None:
        """The ledger to compare with; None if this run is to write the first one."""
        path = self.settings.baseline
        if path is None or (self.settings.update_baseline and not path.exists()):
            return None
        return path

    # The heavy half

    @property
    def has_spending(self) -> bool:
        """Whether the heavy half was needed."""
        return "ledger" in vars(self)

    ledger: LedgerBuilder
    """Every call so far, by owner."""
    card: RateCard
    """The prices of this session."""
    counts: Counts
    """The token counts of this session."""

    def __getattr__(self, name: str) -> Any:
        """Make the heavy half when one of the three is first asked for; then they are plain."""
        if name not in ("ledger", "card", "counts"):
            raise AttributeError(name)
        from pytest_llmcost.ledger.builder import LedgerBuilder
        from pytest_llmcost.plugin.counts import Counts

        counts = Counts(self.config, self.settings, self._make_client, self.notes)
        made = {"ledger": LedgerBuilder(), "counts": counts, "card": self._read_card()}
        with self.lock:  # not around the above, which calls a hook
            if not self.has_spending:
                vars(self).update(made)
        return vars(self)[name]

    def _read_card(self) -> RateCard:
        """Read the shipped prices, then the user's file, then ask the hook."""
        from pytest_llmcost.prices.rate_card import RateCard, shipped_card

        card, name = shipped_card(), "pytest_llmcost_rate_card"
        if self.settings.prices is not None:
            card = card.with_overrides(self.settings.prices)
        replaced = self.hook(name)(config=self.config, card=card)
        if replaced is None:
            return card
        if not isinstance(replaced, RateCard):
            raise SettingsError(f"{name} returned {type(replaced).__name__}, not a RateCard")
        return replaced

    def exact_model(self, name: str) -> str:
        """Return a model's exact id.

        Raises:
            UnknownModelError: the card has no row and no alias of this name.
        """
        return self.card.resolve(name).model

    def tokenizer(self, model: str) -> str | None:
        """Return the name of a model's tokenizer; None if the card does not know it."""
        return self.card.tokenizer(model) if self.card.find(model) else None

    def _make_client(self) -> object:
        """Make the user's `llmcost_client`, which any test can ask for; outside a default one."""
        from pytest_llmcost.counting.api_error import without_secrets
        from pytest_llmcost.counting.client import make_client

        sender = self.sender()
        request = getattr(sender.owner.item, "_request", None)
        if request is None:
            self._own_client = make_client()
            return self._own_client
        with self.recording() as is_asked_by_test:
            try:
                return request.getfixturevalue("llmcost_client")
            except (pytest.skip.Exception, pytest.fail.Exception) as outcome:
                if is_asked_by_test:
                    raise
                # The test has not asked for the client: the count fails, and not the test.
                raise CountError(f"llmcost_client cannot be made: {outcome}") from None
            except Exception as error:
                if sender.phase != "teardown":
                    raise
                text = without_secrets(str(error))
                raise CountError(
                    f"llmcost_client cannot be made in the last teardown ({text}); let the "
                    "fixture that sends there ask for it"
                ) from None

    def share_folder(self) -> None:
        """Settle where children write, before one can be forked."""
        self._children.folder = self.run_folder / f"children-{os.getpid()}"

    def remove_run_folder(self) -> None:
        """Remove what the processes of the run have shared."""
        if "run_folder" in vars(self):
            shutil.rmtree(self.run_folder, ignore_errors=True)

    def save_counts(self) -> None:
        """Save all counts at the end, and close the client that no fixture closes."""
        if self.has_spending:
            self.counts.save_all()
        if self._own_client is not None:
            self._own_client.close()

    # Who is running

    @property
    def owner(self) -> Owner:
        """Whose is what is sent now."""
        return self.sender().owner

    def sender(self) -> Sender:
        """Return whose a request is that is sent now; asked from any thread or task."""
        test, phase = self.test, self.phase
        if self._fixtures:
            owner, phase = self._fixtures[-1][:2]
        elif test is None:
            owner, phase = self.outside, None
        else:
            owner = self.attempt_of(test)
        blocks = owner.blocks_around(phase) if owner.open_blocks else ()
        return Sender(owner, phase, current_tags(owner.uses), blocks)

    def begin(self, item: pytest.Item) -> None:
        """Begin the next attempt of a test. This makes no object: most tests send nothing."""
        if os.getpid() != self._process:
            self.enter_process(item)
        self._begun.append(item)
        self.attempt = None
        self.test, self.phase = item, "setup"

    def attempt_of(self, item: pytest.Item) -> TestAttempt:
        """Return the attempt of a test under way."""
        attempt = self.attempt
        if attempt is not None and attempt.item is item:
            return attempt
        with self.lock:
            attempt = self.attempt
            if attempt is None or attempt.item is not item:
                for nodeid in (begun.nodeid for begun in self._begun):
                    self._attempts[nodeid] = self._attempts.get(nodeid, 0) + 1
                self._begun.clear()
                attempt = TestAttempt(item, self._attempts.get(item.nodeid, 1))
                if item is self.test:  # not so if a thread has outlived its test
                    self.attempt = attempt
            return attempt

    def end(self, attempt: TestAttempt) -> None:
        """End the teardown of a test that has an attempt: what is sent from now on is not its."""
        self.test = self.phase = None
        try:
            self.drain()
        finally:
            attempt.is_over = True
        if attempt.has_spent:
            self.counts.save(attempt)

    def push(self, fixture: SharedFixture, phase: Phase) -> None:
        """Make a wider fixture the owner, in the midst of a phase of a test."""
        self._owners[token_of(fixture)] = fixture
        self._fixtures.append(Sender(fixture, phase))

    def pop(self) -> None:
        """End what `push` began."""
        ended = self._fixtures.pop() if self._fixtures else None
        self.drain()
        if ended is not None and ended.phase == "teardown" and ended.owner.has_spent:
            self.counts.save(ended.owner)

    # Recording what was captured

    def note_sent(self) -> Sender:
        """Note that this process, perhaps a forked child, sends a request; return whose it is."""
        sender = self.sender()
        if self._is_child:
            self._children.note(token_of(sender.owner))
        elif self._way_back is not None:
            self._way_back.note(token_of(sender.owner))
        return sender

    def enter_process(self, item: pytest.Item | None = None) -> None:
        """Begin anew if this is a forked child, which may run a test of its own."""
        if os.getpid() == self._process:
            return
        self._process = os.getpid()
        # Another thread of the parent may have held them.
        self.lock, self._turn = threading.Lock(), Turn()
        if self.has_spending:
            self.ledger.enter_child()
        self.saved_cassettes.clear()
        self._is_child = item is None
        self.is_forked_test = item is not None
        if item is not None:
            # Its own children are for it to wait for.
            self._way_back, self._children = self._children, Children()
            self._children.folder = self.run_folder / f"children-{os.getpid()}"
        if self.capture is not None:
            self.capture.enter_child(self.when_idle)

    @property
    def when_idle(self) -> Callable[[], None] | None:
        """What a child's capture calls when all it has sent is back."""
        return self._children.all_back if self._is_child else None

    def send_back(self, request: CapturedRequest) -> bool:
        """Send a request to the parent, if this is a forked child of a test."""
        if not self._is_child:
            return False
        sender = request.owner
        assert isinstance(sender, Sender)
        from pytest_llmcost.capture.children import packed

        news = (sender.owner.key, sender[1:3], packed(request))
        self._children.send(token_of(sender.owner), news)
        return True

    @property
    def children_have_sent(self) -> bool:
        """Whether something may have to be brought back."""
        return self._children.have_sent and not self._is_child

    def bring_back(self) -> None:
        """Record what children have sent, for the owner that started them."""
        if not self.children_have_sent:
            return
        for token, (key, how, request) in self._children.take():
            owner = self._owners.get(token)
            if owner is None:
                attempt = self.attempt if self.test is None else self.attempt_of(self.test)
                is_its = attempt is not None and token_of(attempt) == token
                owner = attempt if is_its else None
            if owner is None:  # a test that is over
                owner = Owner()
                owner.key = key
            request.owner = Sender(owner, *how)._replace(blocks=owner.blocks_around(None))
            self.record(request)

    def ticket(self, cap: bytes | None) -> Ticket:
        """Return what lets a spawned child send back what it sends for who is running now.

        `cap` is the pickled cap on live spend, if there is one.
        """
        owner, *how, _ = self.sender()
        token = token_of(owner)
        self._owners[token] = owner
        self._children.may_send()
        folder, settings = self._children.folder or self.run_folder, self.settings
        ins, relays = list(settings.stand_ins), list(RELAYS)
        return Ticket(str(folder), token, tuple(how), cap, ins, relays)

    def is_lost(self, owner: Owner) -> bool:
        """Whether a child has sent something for an owner that has not come back."""
        return self._children.is_lost(token_of(owner))

    def forked_test_is_back(self, pid: int) -> None:
        """Note that the last report of a test that ran in a child has come."""
        self._children.all_back(pid)

    def catch_up(self) -> None:
        """Record what is complete."""
        if self.capture is not None or self.children_have_sent:
            with self.recording() as may_record:
                if may_record:
                    self.bring_back()
                    if self.capture is not None:
                        self.capture.drain()

    def drain(self) -> None:
        """Record what is complete.

        Raises:
            Exception: whatever a hook of the user has raised meanwhile.
        """
        self.catch_up()
        if not self._turn.is_mine and (failure := self.take_failure()) is not None:
            raise failure

    def settle(self, owner: Owner | None = None) -> None:
        """Record all that was seen of an owner, or of all; what is incomplete as unknown."""
        if self.capture is not None or self.children_have_sent:
            with self.recording() as may_record:
                if may_record:
                    self.bring_back()
                if may_record and self.capture is not None:
                    self.capture.settle(
                        lambda sender: isinstance(sender, Sender) and owner in (None, sender.owner)
                    )
        if owner is None and self._children.is_lost():
            self.incomplete.add("forked-child")
            self.lost_calls.add("forked-child")

    @contextmanager
    def recording(self) -> Iterator[bool]:
        """Take the turn to record, or to make the client; yield whether to go on.

        Counting, fixtures and hooks send requests themselves and bring us back here. Their
        requests are recorded by whoever has the turn already, once that is done.
        """
        if self._turn.is_mine:
            yield False
            return
        # Verdicts are due in the main thread: it waits until others have recorded. They in turn
        # may be what a hook in the main thread is waiting for, so they go ahead soon.
        is_main = threading.current_thread() is threading.main_thread()
        with self._turn.taken(_LONG_WAIT if is_main else _SHORT_WAIT):
            yield True

    @property
    def all_notes(self) -> set[str]:
        """What a reader should know, with the requests that capture failed to follow."""
        failures = () if self.capture is None else self.capture.failures
        text = "internal error while reading a request; its cost is unknown: "
        return {*self.notes, *(text + each for each in failures)}

    # Hooks of the user

    def hook(self, name: str) -> pluggy.HookCaller:
        """Return a hook of ours, as plugins and initial conftests implement it."""
        return self.config.pluginmanager.subset_hook_caller(name, self.late_conftests)

    def keep_failure(self, error: Exception) -> None:
        """Keep what a user's hook raised for the end of the phase, where a test can fail by it."""
        self._failure = self._failure or error

    def take_failure(self) -> Exception | None:
        """Return a failure that came too late for a test to fail by it."""
        failure, self._failure = self._failure, None
        return failure


def token_of(owner: Owner) -> str:
    """Name an owner in a way that a forked child shares."""
    if isinstance(owner, TestAttempt):
        return f"{owner.nodeid} #{owner.number}"
    return str(id(owner)) if isinstance(owner, SharedFixture) else "outside"


def check_settings(session: Session) -> None:
    """Read what the settings name, so that a mistake is an error before anything is spent.

    Raises:
        LlmCostError: a wrong price file, baseline, path budget or model.
    """
    settings = session.settings
    if settings.baseline is None:
        # In an ini file it is allowed: CI may add the baseline.
        for name in ("max_increase", "max_test_increase", "update_baseline"):
            origin = settings.origin(name)
            if getattr(settings, name) and not origin.startswith("llmcost_"):
                raise SettingsError(
                    f"{origin}: needs a baseline; name the ledger of an earlier run with "
                    "--llmcost-baseline=PATH"
                )
    if settings.budgets:
        from pytest_llmcost.plugin.marker import budgets_of_run

        budgets_of_run(settings)
    if session.worker is None and session.baseline is not None:
        from pytest_llmcost.ledger.ledger_file import read_ledger

        if not session.baseline.exists():
            option = f"--llmcost-baseline={shlex.quote(str(session.baseline))}"
            raise SettingsError(
                f"{session.baseline}: the baseline does not exist; write it with: "
                f"pytest {option} --llmcost-update-baseline"
            )
        read_ledger(session.baseline)
    has_hook = session.config.hook.pytest_llmcost_rate_card.get_hookimpls()
    if settings.prices is not None or has_hook or settings.model:
        for model in settings.model:
            session.exact_model(model)
        _ = session.card


def utc_now() -> str:
    """Return the time, UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

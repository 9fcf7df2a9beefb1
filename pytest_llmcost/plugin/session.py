"""Run: one pytest session, and who is running in it; what all hooks share.

Hooks set `seat`; a request is sent, capture asks whose it is, and reports what became of it.
The books, and with them everything that knows of prices, are opened when something is to be
booked; a suite that sends nothing to Claude never gets that far.
"""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmcost.capture.children import Children
from pytest_llmcost.capture.transports import follow, unfollow
from pytest_llmcost.counting.turn import Turn
from pytest_llmcost.errors import SettingsError
from pytest_llmcost.plugin.owners import NOBODY, Attempt, Holder, Seat
from pytest_llmcost.settings import Settings

if TYPE_CHECKING:
    from pytest_llmcost.capture.capture import Capture
    from pytest_llmcost.capture.replay import Fingerprint
    from pytest_llmcost.capture.request import CapturedRequest
    from pytest_llmcost.plugin.calls import Books


KEY = pytest.StashKey["Session"]()
_LONG_WAIT, _SHORT_WAIT = 300.0, 5.0
"""Seconds for which a thread waits while another one books, the main one longer."""


class Session:
    """What one session knows; hooks set `seat`, calls are booked under it."""

    def __init__(self, config: pytest.Config) -> None:
        """Begin with nothing seen and nobody running; the settings come a little later."""
        self.config = config
        self.settings = Settings()
        self.started_at = utc_now()
        self.workers = 0
        self.incomplete: set[str] = set()
        """Why the run does not stand for the whole suite."""
        self.lost_calls: set[str] = set()
        """Why calls that were made may be missing; what was spent then has no upper bound."""
        self.notes: set[str] = set()
        self.not_passed: set[str] = set()
        """Tests that were skipped or failed, and modules and classes that were skipped whole."""
        self.idle_places: set[str] = set()
        """The globs of ceilings by place that match no test."""
        self.seat = NOBODY
        self.late_conftests: set[object] = set()
        """Conftests that came with the collection; our hooks do not count there."""
        self._outer: list[Seat] = []
        self._attempts: dict[str, int] = {}
        self._capture: Capture | None = None
        self._making_capture = threading.Lock()
        self._children: Children | None = None
        self._failure: Exception | None = None
        self._reporting = Turn()

    @cached_property
    def books(self) -> Books:
        """What everything cost."""
        from pytest_llmcost.plugin.calls import Books

        return Books(self)

    @property
    def has_books(self) -> bool:
        """Whether anything was ever booked or judged."""
        return "books" in self.__dict__

    def check_settings(self) -> None:
        """Read what the settings name, so that a mistake is told before a test is spent.

        Raises:
            LlmCostError: a price file, a baseline or a ceiling by place that makes no sense.
        """
        settings = self.settings
        self._check_baseline()
        if settings.budgets:
            from pytest_llmcost.plugin.marker import budgets_of

            budgets_of(settings)
        if self.worker is None and self.baseline is not None:
            from pytest_llmcost.ledger.ledger_file import read_ledger

            read_ledger(self.baseline)
        if settings.prices is not None or self.config.hook.pytest_llmcost_rate_card.get_hookimpls():
            _ = self.books.card
        for model in settings.model:
            self.books.exact_model(model)

    def _check_baseline(self) -> None:
        """Let nobody ask for a comparison with nothing; an ini file may leave that to CI."""
        if self.settings.baseline is not None:
            return
        for name in ("max_increase", "max_test_increase", "update_baseline"):
            origin = self.settings.origin(name)
            if getattr(self.settings, name) and not origin.startswith("llmcost_"):
                raise SettingsError(
                    f"{origin}: there is no baseline, so it does nothing; name the ledger of an "
                    "earlier run with --llmcost-baseline=PATH"
                )

    @property
    def baseline(self) -> Path | None:
        """The ledger to compare with; the run that is to write it first can do without."""
        path = self.settings.baseline
        if path is None or (self.settings.update_baseline and not path.exists()):
            return None
        return path

    # Listening

    def listen(self) -> None:
        """See every Messages call of this process from now on."""
        self._children = Children()
        follow(self._begin)

    def _begin(self, **sent: Any) -> CapturedRequest | None:
        """Follow a request; the capture and all that it imports is made for the first one."""
        with self._making_capture:
            if self._capture is None:
                from pytest_llmcost.capture.capture import Capture

                self._capture = Capture(
                    owner=lambda: self.seat,
                    report=self._saw,
                    clock=time.time,
                    fingerprint=self._fingerprint,
                )
        request = self._capture.begin(**sent)
        if request is not None and self._children is not None:
            self._children.note()
        return request

    def stop_listening(self) -> None:
        """Leave the process as it was."""
        unfollow(self._begin)
        self._capture = None

    def _saw(self, request: CapturedRequest) -> None:
        """Book what came of a request."""
        assert isinstance(request.owner, Seat)
        self.books.saw(request.owner, request)

    def _fingerprint(self, request: CapturedRequest) -> Fingerprint:
        """What equal requests have in common, once the user's hook has normalised them."""
        from pytest_llmcost.plugin.counts import read_normalised

        def fingerprint(
            body: Mapping[str, Any], betas: tuple[str, ...], model: str | None
        ) -> str | None:
            assert isinstance(request.owner, Seat)
            try:
                item = request.owner.item
                return read_normalised(self, body, item, betas=betas, model=model).fingerprint
            except Exception:  # noqa: BLE001 - the user's hook; it is called again, and then it tells
                return None

        return fingerprint

    def catch_up(self) -> None:
        """Book what is complete."""
        if self._capture is None:
            return
        with self.reporting() as mine:
            if mine and self._capture is not None:
                self._capture.drain()

    def drain(self) -> None:
        """Book what is complete; raises what a user's hook raised over it."""
        self.catch_up()
        if self._failure is not None and not self._reporting.is_mine:
            failure, self._failure = self._failure, None
            raise failure

    def settle(self, holder: Holder | None = None) -> None:
        """Book what has been seen of somebody, or of everyone, the incomplete as unknown."""
        if self._children is not None and self._children.have_sent:
            self.incomplete.add("forked-child")
            self.lost_calls.add("forked-child")
        if self._capture is None:
            return
        with self.reporting() as mine:
            if not mine or self._capture is None:
                return
            if holder is None:
                self._capture.settle()
            else:
                self._capture.settle(lambda seat: isinstance(seat, Seat) and seat.holder is holder)

    @contextmanager
    def reporting(self) -> Iterator[bool]:
        """Book, or make the client, and book nothing else meanwhile; gives whether to go on.

        Counting, fixtures and hooks send requests themselves and bring us back here. What they
        have sent is booked by whoever is at it already, once that is done.
        """
        if self._reporting.is_mine:
            yield False
            return
        # Verdicts are due in the main thread: it waits until others have booked. They in turn
        # may be what a hook in the main thread is waiting for, so that they soon go ahead.
        is_main = threading.current_thread() is threading.main_thread()
        with self._reporting.taken(_LONG_WAIT if is_main else _SHORT_WAIT):
            yield True

    @property
    def all_notes(self) -> set[str]:
        """What a reader should know; of what capture failed to follow, that it is unknown."""
        failures = () if self._capture is None else self._capture.failures
        return {*self.notes, *(f"not understood, so of unknown cost: {each}" for each in failures)}

    # Where we are

    @cached_property
    def worker(self) -> str | None:
        """The name of this xdist worker; None in the process that owns the run."""
        workerinput = getattr(self.config, "workerinput", None)
        return None if workerinput is None else str(workerinput["workerid"])

    @cached_property
    def price_date(self) -> date:
        """The one UTC date on which everything is priced; the controller's, in a worker."""
        sent = getattr(self.config, "workerinput", {}).get("llmcost")
        if sent is not None:
            return date.fromisoformat(sent["price_date"])
        return self.settings.price_date or datetime.now(timezone.utc).date()

    def nodeid(self, item: pytest.Item) -> str:
        """A test's own id, without the group that xdist's loadgroup hangs behind it."""
        if self.worker is not None and item.parent is not None:
            own = f"{item.parent.nodeid}::{item.name}"
            if item.nodeid.startswith(f"{own}@"):
                return own
        return item.nodeid

    def count_target(self, nodeid: str) -> str:
        """What to give to pytest, in the folder where it was started, to run a test."""
        path, separator, names = nodeid.partition("::")
        here = self.config.invocation_params.dir
        return os.path.relpath(self.config.rootpath / path, here) + separator + names

    def count_command(self, item: pytest.Item | None) -> str:
        """The command that counts what a test sends, and records it; free."""
        words = ["pytest", *([] if item is None else [self.count_target(self.nodeid(item))])]
        return f"{shlex.join(words)} --llmcost-record-mode=rewrite"

    # Who is running

    def begin(self, item: pytest.Item) -> Attempt:
        """Start the next attempt of a test."""
        nodeid = self.nodeid(item)
        number = self._attempts[nodeid] = self._attempts.get(nodeid, 0) + 1
        return Attempt(item, nodeid, number)

    def sit(self, seat: Seat) -> None:
        """Make a test the owner of what is sent from now on."""
        self.seat = seat

    def rise(self, attempt: Attempt) -> None:
        """A test is over: what is sent from now on is nobody's."""
        self.seat = NOBODY
        self._close(attempt)

    def enter(self, seat: Seat) -> None:
        """Make a fixture the owner, in the midst of somebody else's phase."""
        self._outer.append(self.seat)
        self.seat = seat

    def leave(self) -> None:
        """Give the seat back to whoever had it before."""
        left = self.seat
        self.seat = self._outer.pop() if self._outer else NOBODY
        if left.phase == "teardown":
            self._close(left.holder)
        else:
            self.drain()

    def _close(self, holder: Holder) -> None:
        self.drain()
        if holder.is_touched:
            self.books.put_away(holder)

    # What users' hooks say

    def hook(self, name: str) -> Any:
        """A hook of ours, as plugins and initial conftests implement it, others not."""
        if not self.late_conftests:
            return getattr(self.config.hook, name)
        return self.config.pluginmanager.subset_hook_caller(name, self.late_conftests)

    @contextmanager
    def keeping_failures(self) -> Iterator[None]:
        """Keep what a user's hook raises for the end of the phase, where a test can fail by it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, it is theirs
            self._failure = self._failure or error

    def take_failure(self) -> Exception | None:
        """What no test is left to fail by."""
        failure, self._failure = self._failure, None
        return failure


def utc_now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def checked_hook_result(value: Any, expected: type, hook: str) -> Any:
    """Return what a hook returned.

    Raises:
        SettingsError: it is of another type.
    """
    if not isinstance(value, expected):
        raise SettingsError(f"{hook} returned {type(value).__name__}, not a {expected.__name__}")
    return value

"""Child processes of a session, forked or spawned: whose requests they send, and their way back.

Where tests themselves run in forked children, as with pytest-forked, their reports bring back what
they have spent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pytest_llmcost.capture.transports import RELAYS, Ticket, may_follow
from pytest_llmcost.concurrency import AtFork, cached_property
from pytest_llmcost.plugin.owners import Owner, Sender, blocks_around, open_tags
from pytest_llmcost.plugin.session import Session

if TYPE_CHECKING:
    from pytest_llmcost.capture.children import Children
    from pytest_llmcost.capture.request import CapturedRequest


class ChildProcesses:
    """What a session and its children share; in a forked child it is the child's copy."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._is_child = False
        """Whether this process was forked, and runs no test itself: its calls are its parent's."""
        self._way_back: Children | None = None
        """In a forked child, those of its parent."""
        self._owners: dict[str, Owner] = {session.outside.shared_name: session.outside}
        """By their tokens, owners whose children may send something."""
        self._names: dict[int, str] = {}
        """By process id, the names of those in which tests have run."""
        self._at_fork = AtFork(self.may_begin, self.enter)
        self.may_exist = False
        """Whether one was about to begin; asked for in every phase, and for every request."""

    @cached_property
    def _own(self) -> Children:
        """What this process shares with its children; made before the first one begins."""
        from pytest_llmcost.capture.children import Children

        return Children(self.session.run_folder / f"children-{os.getpid()}")

    def _share(self) -> None:
        """Make it; not sooner, for most runs have no children."""
        _ = self._own
        self.may_exist = True

    # In the parent

    def may_begin(self) -> None:
        """Note whose is what a child sends that is about to be forked; watch reports from now on.

        Not before: our hook would take longer than it may.
        """
        try:
            self._share()
            if may_follow() and self.session.capture is None:
                # All that a child imports at its first request. Another thread may be importing
                # it: we wait, but the child has no such thread, and would wait forever.
                from pytest_llmcost.ledger import builder  # noqa: F401
                from pytest_llmcost.plugin import counts  # noqa: F401
                from pytest_llmcost.plugin.calls import capture_of

                capture_of(self.session)
        except BaseException:  # Python shows it and forks: what the child sends does not come back
            self.session.owner.has_lost_calls = True
            self.session.lost_calls.add("internal-error")
            raise
        self._owners.update((each.shared_name, each) for each, *_ in self.session.fixtures)
        manager = self.session.config.pluginmanager
        if not manager.is_registered(self):
            manager.register(self, "llmcost-forked")

    def ticket(self) -> Ticket:
        """Return what lets a spawned child send back what it sends for who is running now.

        With it goes the cap on live spend, if there is one.
        """
        import pickle  # seldom needed, and slow to load

        from pytest_llmcost.capture.children import Inheritance

        cap = None
        if self.session.settings.max_live is not None:
            from pytest_llmcost.plugin.live_cap import LiveCap

            cap = pickle.dumps(LiveCap(self.session))
        sender, settings = self.session.sender(), self.session.settings
        token = sender.owner.shared_name
        self._owners[token] = sender.owner
        self._share()
        self._own.may_send()
        return Inheritance(
            folder=str(self._own.folder),
            token=token,
            phase=sender.phase,
            tags=sender.tags,
            open_tags=pickle.dumps(open_tags),
            cap=cap,
            stand_ins=settings.stand_ins,
            relays=tuple(RELAYS),
        ).follow

    def bring_back(self) -> None:
        """Record what children have sent, for the owner that started them, and have written."""
        if self._is_child:
            return
        session = self.session
        for token, news in self._own.take():
            if token is None:
                session.saved_cassettes.add(news)
                continue
            key, (phase, tags), request = news
            from pytest_llmcost.plugin.calls import record_captured

            test = session.test  # once: the main thread may go on meanwhile
            attempt = session.attempt if test is None else session.attempt_of(test)
            owner = self._owners.get(token)
            if owner is None and attempt is not None and attempt.shared_name == token:
                owner = attempt
            if owner is None:  # a test that is over
                owner = Owner()
                owner.key = key
            request.owner = Sender(owner, phase, tags, blocks_around(owner, None))
            record_captured(session, request)

    def are_lost(self, owner: Owner | None = None) -> bool:
        """Whether a child has sent something, for this owner or any, that has not come back."""
        return self.may_exist and self._own.is_lost("" if owner is None else owner.shared_name)

    @pytest.hookimpl(tryfirst=True)  # before whatever reads the report, or passes it on to xdist
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what a child has put on the report of the test that ran there."""
        if "llmcost_child" not in vars(report):
            return
        session, news = self.session, json.loads(vars(report).pop("llmcost_child"))
        # Numbered, for a process id would differ in every run.
        number = len(self._names) + 1
        name = self._names.setdefault(news["pid"], f"{session.worker or ''}fork{number}")
        session.absorb(news, worker=name, is_child=True)
        if report.when == "teardown":
            self._own.all_back(news["pid"])

    # In a forked child

    def enter(self) -> None:
        """Begin anew, before the child does anything."""
        if self.may_exist:
            self._is_child, self._way_back = True, self._own
            self.session.enter_child()

    def begin_test(self) -> None:
        """Let a child that was not forked by a test run tests of its own."""
        if self._is_child and self.session.test is None:
            self._is_child = False
            del self._own  # its own children are for it to wait for
            self._share()
            self.session.enter_child()

    def end_child(self) -> None:
        """End this process if it is a forked child of a test, out of which a refusal has come.

        No `Exception`, it passes what was to end the child. That would go on as a second pytest
        beside its parent, and wait for threads that it does not have.
        """
        if self._is_child:
            os._exit(1)

    @property
    def when_idle(self) -> Callable[[], None] | None:
        """What a child's capture calls when all it has sent is back."""
        return self._own.all_back if self._is_child else None

    def note(self, owner: Owner) -> None:
        """Note that this process, perhaps a child, sends a request."""
        if self._way_back is not None:
            self._way_back.note(owner.shared_name)

    def send_back(self, request: CapturedRequest) -> bool:
        """Send a request to the parent, once it is over, if this is a forked child of a test."""
        if self._is_child and request.is_over:
            sender = request.owner
            assert isinstance(sender, Sender)
            from pytest_llmcost.capture.children import packed

            news = (sender.owner.key, (sender.phase, sender.tags), packed(request))
            self._own.send(sender.owner.shared_name, news)
        return self._is_child

    def note_saved(self, path: str) -> None:
        """Note that VCR has written a cassette; in a forked child of a test, tell the parent."""
        if self._is_child:
            self._own.send(None, path)
        else:
            self.session.saved_cassettes.add(path)

    def put_on_report(self, report: pytest.TestReport) -> None:
        """Let the report of a test that runs in this child bring the news."""
        if self._way_back is not None and not self._is_child:
            news = {**self.session.take_news(), "pid": os.getpid()}
            report.llmcost_child = json.dumps(news)  # type: ignore[attr-defined]

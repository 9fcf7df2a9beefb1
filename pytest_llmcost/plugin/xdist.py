"""pytest-xdist: what crosses from workers to the controller, as ASCII JSON in a plain string.

A worker's calls leave with the next report that is logged, because rerunning plugins make reports
that they never log; what is left at its end goes with its output. A crash loses one phase at most.
JSON, because execnet refuses the half characters that a payload may hold, and encodes slower.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_llmcost.plugin.session import Session

_KEY = "llmcost"


class Worker:
    """The hooks in a worker process."""

    def __init__(self, run: Session) -> None:
        """Send the run's calls to the controller."""
        self.run = run

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Put on the report what came since the last one."""
        self.run.catch_up()
        fragment = self._news()
        if fragment is not None:
            report.llmcost = json.dumps(fragment)  # type: ignore[attr-defined]

    def _news(self) -> dict[str, Any] | None:
        return self.run.books.ledger.take_fragment() if self.run.has_books else None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Send the rest: calls outside of tests, and why the run is not complete."""
        self.run.settle()
        if self.run.has_books:
            self.run.books.put_all_away()
        last_words = {
            "ledger": self._news(),
            "incomplete": sorted(self.run.incomplete),
            "lost_calls": sorted(self.run.lost_calls),
            "notes": sorted(self.run.all_notes),
            "not_passed": sorted(self.run.not_passed),
            "idle_places": sorted(self.run.idle_places),
        }
        session.config.workeroutput[_KEY] = json.dumps(last_words)  # type: ignore[attr-defined]


class _Inbox:
    """The hook that takes in what workers put on their reports."""

    def __init__(self, run: Session) -> None:
        self.run = run

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take it off the report, too: others that write reports down have no use for it."""
        fragment = report.__dict__.pop(_KEY, None)
        if fragment is not None:
            worker = getattr(report, "worker_id", None)
            self.run.books.ledger.absorb(json.loads(fragment), worker=worker)
        if report.when not in _PHASES and self.run.has_books:
            self._note_crash(report)

    def _note_crash(self, report: pytest.TestReport) -> None:
        """Let a test that killed its worker not stand there as passed, for its setup had."""
        node = getattr(report, "node", None)
        if node is not None:
            self.run.books.ledger.fail_last(report.nodeid, worker=node.gateway.id)


_PHASES = ("setup", "call", "teardown")


class Controller:
    """The hooks in the process that workers report to; idle in a run without workers."""

    def __init__(self, run: Session) -> None:
        """Gather the workers' calls into the run's ledger."""
        self.run = run

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Send the price date, so that a run around midnight has one."""
        if not self.run.workers:
            self.run.config.pluginmanager.register(_Inbox(self.run), "llmcost-inbox")
        self.run.workers += 1
        node.workerinput[_KEY] = {"price_date": self.run.price_date.isoformat()}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take in a worker's last words; one that has none has crashed."""
        output = getattr(node, "workeroutput", {})
        if _KEY not in output:
            self.run.incomplete.add("worker-crashed")
            self.run.lost_calls.add("worker-crashed")
            return
        if output[_KEY] is None:  # of one that was interrupted xdist tells twice
            return
        last_words, output[_KEY] = json.loads(output[_KEY]), None
        if last_words["ledger"] is not None:
            self.run.books.ledger.absorb(last_words["ledger"], worker=node.gateway.id)
        self.run.incomplete.update(last_words["incomplete"])
        self.run.lost_calls.update(last_words["lost_calls"])
        self.run.notes.update(last_words["notes"])
        self.run.not_passed.update(last_words["not_passed"])
        self.run.idle_places.update(last_words["idle_places"])

"""pytest-xdist: what crosses from workers to the controller, as ASCII JSON in a plain string.

A worker's news leave with the next report that is logged, because rerunning plugins make reports
that they never log; the rest goes with the worker's output. A crash loses one phase at most.
JSON, because execnet refuses the lone surrogates that a payload may hold, and encodes more slowly.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

from pytest_llmcost.concurrency import cached_property
from pytest_llmcost.plugin.session import Hooks

_KEY = "llmcost"


class Worker(Hooks):
    """The hooks in a worker process."""

    @pytest.hookimpl(tryfirst=True)  # before xdist's own, which sends the report
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Put on the report what is new since the last one."""
        self.session.catch_up()
        if self.session.has_spending and (news := self.session.ledger.take_fragment()) is not None:
            report.llmcost = json.dumps(news)  # type: ignore[attr-defined]

    # The innermost wrapper: inside of it pytest's own hook tears down the last fixtures, outside
    # of it xdist's wrapper sends the output.
    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Send the rest: calls outside of tests, and why the run is not complete."""
        self.session.note_failures()  # or the teardown of a wider fixture raises them
        result = yield
        self.session.settle()
        if self.session.has_spending:
            from pytest_llmcost.plugin.verdicts import judge_late

            judge_late(self.session)
        self.session.save_counts()
        self.session.note_failures()
        news = json.dumps(self.session.take_news())
        session.config.workeroutput[_KEY] = news  # type: ignore[attr-defined]
        return result


class Controller(Hooks):
    """The hooks in the process that workers report to; never called in a run without workers."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Send the price date, so that a run around midnight has one."""
        if not self.session.workers:
            # Not before: its hook is called three times a test.
            self.session.config.pluginmanager.register(WorkerReports(self.session))
        self.session.workers += 1
        node.workerinput[_KEY] = {
            "price_date": self.session.price_date.isoformat(),
            "run_folder": str(self.session.run_folder),
        }

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Note which tests are to run; xdist appends the name of a group after an `@`."""
        if self.session.settings.baseline is not None:
            self.session.selected.update(ids, (each.rpartition("@")[0] for each in ids))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Take in a worker's output; one that has none has crashed."""
        output = getattr(node, "workeroutput", {})
        if _KEY not in output:
            self.session.lost_calls.add("worker-crashed")
        elif output[_KEY] is not None:  # xdist reports an interrupted worker twice
            sent, output[_KEY] = json.loads(output[_KEY]), None
            self.session.absorb(sent, worker=node.gateway.id)


class WorkerReports(Hooks):
    """The hook in the process that workers report to, once there is one."""

    @cached_property
    def _in_baseline(self) -> set[str]:
        base = self.session.base
        return {test.nodeid for test in base.tests} if base else set()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take news off a report: plugins that write reports down have no use for them."""
        fragment = report.__dict__.pop(_KEY, None)
        node, worker = getattr(report, "node", None), getattr(report, "worker_id", None)
        if fragment is not None:
            self.session.ledger.absorb(json.loads(fragment), worker=worker)
        if report.outcome not in ("passed", "skipped") and self.session.base is not None:
            # A worker that crashes, now or later, never tells which of its tests have failed. One
            # that is to run again has another outcome, whatever became of its subtests.
            whole = f"{report.nodeid}@"  # behind which xdist puts the name of a group
            names = {whole[:at] for at, each in enumerate(whole) if each == "@"}
            noted = self.session.not_passed
            change = noted.update if report.failed else noted.difference_update
            change(names & self._in_baseline)
        is_crash = report.when not in ("setup", "call", "teardown")
        if is_crash and node is not None and self.session.has_spending:
            # The test has killed its worker; its set-up had passed.
            self.session.ledger.fail_last(report.nodeid, worker=node.gateway.id)

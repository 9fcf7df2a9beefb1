"""Whose call is it, and did the test keep its ceilings: the hooks around every test.

Data flow: phases and fixtures set `Run.owner` -> calls reach the ledger -> at the end of a test's
body `judge` -> a failure, a section, properties.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import pytest

from pytest_llmcost.budgeting.budget import Verdict, check, spend_of
from pytest_llmcost.budgeting.ledger import FixtureOwner, TestOwner
from pytest_llmcost.errors import LlmCostError, SettingsError
from pytest_llmcost.metering.call import Phase
from pytest_llmcost.plugin.marker import ceilings_of
from pytest_llmcost.plugin.run import Run, Seat
from pytest_llmcost.reporting.failure import render_failure, render_section

_FAILED = "Failed: "
"""What pytest puts in front of the words of `pytest.fail`."""


class Watch:
    """The hooks of one run around its tests; what they learn is in `Run`."""

    def __init__(self, run: Run) -> None:
        """Watch the tests of a run."""
        self.run = run
        self._attempts: dict[str, int] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Turn a marker that makes no sense into a collection error, the same with workers."""
        report = yield
        problems = list(_problems(self.run, report.result or []))
        if problems:
            report.outcome = "failed"
            report.longrepr = "\n".join(problems)
            report.result = []
        return report

    @pytest.hookimpl
    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """A run that left tests out is not complete."""
        if items:
            self.run.incomplete.add("deselected")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Begin an attempt: everything from here on is the test's, but for wider fixtures."""
        nodeid = self.run.nodeid(item)
        self._attempts[nodeid] = self._attempts.get(nodeid, 0) + 1
        self.run.begin()
        return (yield from self._phase(item, "setup"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge the test once its body has run; one that failed by itself fails only for that."""
        passed = False
        try:
            result = yield from self._phase(item, "call")
            # unittest keeps its outcome on the item instead of raising it.
            passed = not getattr(item, "_excinfo", None)
        finally:
            verdict = self._judge(item, needs_calls=passed)
        if passed and verdict is not None and self.run.is_broken(verdict):
            self._fail(item, verdict)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """Judge again, for fixtures may spend on their way out."""
        result = yield from self._phase(item, "teardown")
        before = self.run.verdicts.get(self._owner(item))
        if before is None:
            return result
        verdict = self._judge(item, needs_calls=before.state == "unverified")
        if verdict is not None and self._is_worse(verdict, before):
            self._fail(item, verdict)
        return result

    def _is_worse(self, verdict: Verdict, before: Verdict) -> bool:
        return self.run.is_broken(verdict) and not self.run.is_broken(before)

    def _owner(self, item: pytest.Item) -> TestOwner:
        path, line, _ = item.location
        nodeid = self.run.nodeid(item)
        return TestOwner(
            nodeid=nodeid,
            path=path,
            line=None if line is None else line + 1,
            attempt=self._attempts.get(nodeid, 1),
        )

    def _phase(self, item: pytest.Item, phase: Phase) -> Generator[None, object, object]:
        self.run.enter(Seat(self._owner(item), phase, item))
        try:
            return (yield)
        finally:
            self.run.leave()

    def _judge(self, item: pytest.Item, *, needs_calls: bool) -> Verdict | None:
        """Decide every ceiling of the test once, store it, and return the decisive one."""
        run, owner = self.run, self._owner(item)
        try:
            ceilings = ceilings_of(item, run.settings)
        except SettingsError as error:  # a marker that was added while the test ran
            pytest.fail(str(error), pytrace=False)
        calls = run.calls_of(owner, ceilings.cache)
        saw_calls = bool(calls) or not needs_calls
        command = run.count_command(item)
        return run.conclude(
            owner,
            [
                check(
                    budget,
                    spend_of(calls, budget.kind, count_command=command),
                    saw_calls=saw_calls,
                )
                for budget in ceilings.budgets
            ],
        )

    def _fail(self, item: pytest.Item, verdict: Verdict) -> None:
        owner = self._owner(item)
        self.run.broken.add(owner)
        pytest.fail(render_failure(verdict, self.run.ledger.calls(owner)), pytrace=False)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """A fixture wider than a function owns what its set-up and teardown spend.

        Finalizers run last in, first out: ours come after and before the fixture's own.
        """
        if fixturedef.scope == "function":
            return (yield)
        run = self.run
        owner = FixtureOwner(
            name=fixturedef.argname,
            scope=fixturedef.scope,
            baseid=fixturedef.baseid,
            node=request.node.nodeid,
            worker=run.worker,
            param=_param(request),
        )
        fixturedef.addfinalizer(run.leave)
        run.enter(Seat(owner, "setup", None))
        try:
            return (yield)
        finally:
            run.leave()
            fixturedef.addfinalizer(partial(run.enter, Seat(owner, "teardown", None)))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note the outcome; show what the test cost on its report."""
        owner, ledger = self._owner(item), self.run.ledger
        calls = ledger.calls(owner)
        has_row = bool(calls) or owner in self.run.verdicts
        if call.when == "teardown" and has_row:
            self._set_properties(item, owner)
        report = yield
        if has_row and (report.when != "teardown" or report.failed):
            ledger.judge(owner, outcome=_outcome(report))
        error = call.excinfo.value if report.failed and call.excinfo else None
        if isinstance(error, LlmCostError):
            _shorten(report, error)
        if report.failed and owner in self.run.broken:
            _place(report, item)
        elif report.failed and calls:
            text = render_section(calls, self.run.verdicts.get(owner))
            report.sections.append(("llmcost", text))
        return report

    def _set_properties(self, item: pytest.Item, owner: TestOwner) -> None:
        """JUnit shows the last attempt alone, so an earlier one's properties go."""
        from pytest_llmcost.reporting.junit import PROPERTY_PREFIX, test_properties

        kept = [each for each in item.user_properties if not each[0].startswith(PROPERTY_PREFIX)]
        item.user_properties[:] = [*kept, *test_properties(self.run.ledger.row(owner))]


def _problems(run: Run, nodes: list[Any]) -> Generator[str, None, None]:
    for node in nodes:
        if isinstance(node, pytest.Item):
            try:
                ceilings_of(node, run.settings)
            except SettingsError as error:
                yield f"{node.nodeid}: {error}"


def _param(request: pytest.FixtureRequest) -> str | None:
    return repr(request.param)[:80] if hasattr(request, "param") else None


def _outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "xpassed" if report.passed else "xfailed"
    return "error" if report.failed and report.when != "call" else str(report.outcome)


def _place(report: pytest.TestReport, item: pytest.Item) -> None:
    """Let the summary's line begin with the numbers, and annotations point at the test."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None and crash.message.startswith(_FAILED):
        crash.message = crash.message.removeprefix(_FAILED)
        crash.path, crash.lineno = str(item.path), (item.location[1] or 0) + 1


def _shorten(report: pytest.TestReport, error: LlmCostError) -> None:
    """Let the summary's line begin with what happened: an error's module path fills it."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        crash.message = str(error)

"""Who is running, and did the test keep its ceilings: the hooks around every test.

Data flow: phases and fixtures set `Run.seat` -> calls reach the books -> at the end of a test's
body `judge` -> a failure, a section, properties. Tests that neither spend nor have a ceiling,
in most suites all of them, pass by here without anything being loaded or computed.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmcost.errors import CountMissingError, LlmCostError, SettingsError
from pytest_llmcost.plugin.owners import Attempt, Seat, Shared
from pytest_llmcost.plugin.session import Session

if TYPE_CHECKING:
    from pytest_llmcost.budgets.budget import Verdict


MARKER = "max_cost"
MARKER_HELP = (
    'max_cost(usd, *, input_tokens=None, output_tokens=None, calls=None, cache=None, reason=""): '
    'fail the test when its Claude calls cost more than usd ("$0.02", "2c", 0.02), or use more '
    'tokens or calls ("8k") than stated. (pytest-llmcost)'
)


class Watch:
    """The hooks of one run around its tests; what they learn is in `Run`."""

    def __init__(self, run: Session) -> None:
        """Watch the tests of a run."""
        self.run = run
        self.is_started = False
        """Whether the plugins and conftests that count are all there."""
        self._attempt: Attempt | None = None
        self._set_ups: dict[pytest.FixtureDef[Any], int] = {}

    @pytest.hookimpl
    def pytest_plugin_registered(self, plugin: object, plugin_name: str) -> None:
        """Tell conftests that come with the collection: no price may depend on their order."""
        if self.is_started and Path(plugin_name).name == "conftest.py":
            named = sorted(name for name in vars(plugin) if name.startswith("pytest_llmcost_"))
            if named:
                self.run.late_conftests.add(plugin)
                self.run.notes.add(
                    f"{', '.join(named)} in {plugin_name}: not called, for hooks of "
                    "pytest-llmcost count in plugins and in the topmost conftest alone"
                )

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Turn a marker that makes no sense into a collection error, the same with workers."""
        report = yield
        problems = list(_problems(self.run, collector, report.result or []))
        if problems:
            report.outcome = "failed"
            report.longrepr = "\n".join(problems)
            report.result = []
        if report.failed:
            self.run.incomplete.add("collection-errors")
        elif report.skipped:
            self.run.not_passed.add(collector.nodeid)
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: Sequence[pytest.Item]
    ) -> Generator[None, None, None]:
        """Look which ceilings by place are for no test, while no test is deselected yet."""
        if self.run.settings.budgets:
            from pytest_llmcost.plugin.unmatched_globs import idle_places

            self.run.idle_places.update(idle_places(self.run, session, items))
        yield

    @pytest.hookimpl
    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """A run that left tests out is not complete."""
        if items:
            self.run.incomplete.add("deselected")

    # Phases

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Begin an attempt: everything from here on is the test's, but for wider fixtures."""
        __tracebackhide__ = True
        self._attempt = attempt = self.run.begin(item)
        self.run.sit(Seat(attempt, "setup", item))
        try:
            return (yield)
        except BaseException as error:
            self.run.catch_up()
            if attempt.is_touched:  # nothing was spent where a mark skips, as in many suites
                self._end(attempt, error)
            raise

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge the test once its body has run; one that failed by itself fails only for that."""
        __tracebackhide__ = True
        attempt = self._attempt_of(item)
        self.run.sit(Seat(attempt, "call", item))
        try:
            result = yield
        except BaseException as error:
            self._drain_and_end(attempt, error)
            raise
        # unittest keeps its outcome on the item instead of raising it; pytest reports the first.
        kept = getattr(item, "_excinfo", None)
        self._drain_and_end(attempt, kept[0].value if kept else None)
        return result

    def _drain_and_end(self, attempt: Attempt, error: BaseException | None) -> None:
        __tracebackhide__ = True
        try:
            self.run.drain()
        finally:
            self._end(attempt, error)

    def _end(self, attempt: Attempt, error: BaseException | None) -> None:
        """Judge a test by how its set-up or body ended; raise a breach that a skip would hide."""
        __tracebackhide__ = True
        attempt.is_skipped = _is_skip(error)
        attempt.is_xfailed = isinstance(error, pytest.xfail.Exception)
        self._judge(attempt, needs_calls=error is None)
        if (error is None or attempt.is_skipped) and (found := self._broken(attempt)):
            # pytest would report unittest's skip in place of what is raised here.
            vars(attempt.item).pop("_excinfo", None)
            self._fail(attempt, found)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge again, for fixtures may spend on their way out."""
        __tracebackhide__ = True
        attempt = self._attempt_of(item)
        self.run.sit(Seat(attempt, "teardown", item))
        before, was_broken = attempt.verdict, bool(self._broken(attempt))
        try:
            result = yield
        except BaseException as error:
            self._judge_again(attempt, before)
            # A skip or xfail here says nothing about the money, so it must not hide a breach.
            is_excuse = _is_skip(error) or isinstance(error, pytest.xfail.Exception)
            if not is_excuse or was_broken or not self._broken(attempt):
                raise
            result = None
        else:
            self._judge_again(attempt, before)
        if not was_broken and (worse := self._broken(attempt)):
            self._fail(attempt, worse)
        return result

    def _judge_again(self, attempt: Attempt, before: Verdict | None) -> None:
        """Store what a judged test's ceilings say at its very end."""
        try:
            self.run.rise(attempt)
        finally:
            # A set-up that skipped before it had spent was not judged; a fixture still may spend.
            is_open = attempt.blocks or not attempt.has_failed
            if before is not None or (attempt.is_touched and is_open):
                needs_calls = before is not None and before.state == "unverified"
                self._judge(attempt, needs_calls=needs_calls)

    def _attempt_of(self, item: pytest.Item) -> Attempt:
        """The attempt under way; a plugin may run phases without the ones before."""
        if self._attempt is None or self._attempt.item is not item:
            self._attempt = self.run.begin(item)
        return self._attempt

    # Verdicts

    def _judge(self, attempt: Attempt, *, needs_calls: bool) -> None:
        """Decide every ceiling of the test once, and store it."""
        if attempt.is_touched or self._has_ceiling(attempt.item):
            from pytest_llmcost.plugin.verdicts import judge

            judge(self.run, attempt, needs_calls=needs_calls)

    def _broken(self, attempt: Attempt) -> list[Verdict]:
        """What fails the test of what was judged so far, the decisive one first.

        A skipped test had no chance to show that it keeps a ceiling, so only what is exceeded
        fails it; one that ended with `pytest.xfail()` stays an xfail.
        """
        if attempt.is_xfailed or (not attempt.is_touched and attempt.verdict is None):
            return []
        return [
            each
            for each in attempt.verdicts
            if each.state == "exceeded"
            or (not attempt.is_skipped and self.run.books.is_broken(each))
        ]

    def _has_ceiling(self, item: pytest.Item) -> bool:
        has_default = self.run.settings.max_test is not None
        return has_default or next(item.iter_markers(MARKER), None) is not None

    def _fail(self, attempt: Attempt, found: Sequence[Verdict]) -> None:
        from pytest_llmcost.plugin.verdicts import broken

        calls = self.run.books.ledger.calls(attempt.owner)
        raise broken(found[0], calls, found[1:]) from None

    # Shared fixtures

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """A fixture wider than a function owns what its set-up and teardown spend.

        Finalizers run last in, first out: ours come after and before the fixture's own.
        """
        __tracebackhide__ = True
        if fixturedef.scope == "function":
            return (yield)
        run = self.run
        set_up = self._set_ups[fixturedef] = self._set_ups.get(fixturedef, 0) + 1
        shared = Shared(fixturedef, request, run.worker, set_up)
        fixturedef.addfinalizer(run.leave)
        run.enter(Seat(shared, "setup"))
        try:
            return (yield)
        finally:
            run.leave()
            fixturedef.addfinalizer(partial(run.enter, Seat(shared, "teardown")))

    # Reports

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note the outcome; show what the test cost on its report."""
        attempt = self._attempt_of(item)
        if call.excinfo is not None:  # a set-up that fails has spent, too
            self.run.catch_up()
        if not attempt.is_touched and attempt.verdict is None:
            report = yield
            if call.excinfo is not None:
                attempt.has_failed |= report.failed
                _shorten(report, call)
            self._note_passing(attempt, report)
            return report
        from pytest_llmcost.plugin.verdicts import add_properties, note

        if call.when == "teardown":
            add_properties(self.run, attempt)
        report = yield
        attempt.has_failed |= report.failed
        note(self.run, attempt, report, call)
        _shorten(report, call)
        self._note_passing(attempt, report)
        return report

    def _note_passing(self, attempt: Attempt, report: pytest.TestReport) -> None:
        """Note whether the test has passed so far; of several attempts the last one counts."""
        is_skipped = report.skipped and report.when != "teardown"
        if report.failed or (is_skipped and not hasattr(report, "wasxfail")):
            self.run.not_passed.add(attempt.nodeid)
        elif report.when != "teardown" and not attempt.has_failed:
            # A new attempt, or a test that passed although one of its subtests was skipped.
            self.run.not_passed.discard(attempt.nodeid)


def _is_skip(error: BaseException | None) -> bool:
    """Whether pytest will report an error as a skip; unittest's own kind anywhere, as pytest."""
    unittest = sys.modules.get("unittest")
    kinds = (pytest.skip.Exception, *((unittest.SkipTest,) if unittest else ()))
    return isinstance(error, kinds)


def _shorten(report: pytest.TestReport, call: pytest.CallInfo[None]) -> None:
    """Let the summary's line begin with what happened: an error's module path fills it."""
    error = call.excinfo.value if report.failed and call.excinfo else None
    crash = getattr(report.longrepr, "reprcrash", None)
    is_ours = isinstance(error, LlmCostError) and not isinstance(error, CountMissingError)
    if crash is not None and is_ours:
        crash.message = str(error)


def _problems(
    run: Session, collector: pytest.Collector, nodes: Sequence[object]
) -> Generator[str, None, None]:
    """What is wrong with the markers of a collector's tests; most have none."""
    is_inherited = next(collector.iter_markers(MARKER), None) is not None
    for node in nodes:
        if not isinstance(node, pytest.Item):
            continue
        if is_inherited or any(mark.name == MARKER for mark in node.own_markers):
            from pytest_llmcost.plugin.marker import ceilings_of, check_marks

            try:
                ceilings_of(node, run.settings)
                check_marks(node)
            except SettingsError as error:
                yield f"{node.nodeid}: {error}"

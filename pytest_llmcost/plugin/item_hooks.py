"""The hooks around every test: who is running, and whether the test kept its budgets.

They are registered in every run of every suite. A test that neither spends nor has a budget, in
most suites all of them, passes through without an object made or a module loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import pytest_llmcost
from pytest_llmcost.capture.transports import may_follow
from pytest_llmcost.errors import LiveCapError, LlmCostError, SettingsError
from pytest_llmcost.plugin.options import MARKER, TAG_MARKER
from pytest_llmcost.plugin.owners import (
    Ending,
    SharedFixture,
    TestAttempt,
    nodeid_of,
    open_tags,
)
from pytest_llmcost.plugin.pytest_recording import record_mode
from pytest_llmcost.plugin.session import Hooks, Session

if TYPE_CHECKING:
    import _pytest.nodes
    from _pytest.fixtures import SubRequest

    from pytest_llmcost.call import Phase

_OURS = (MARKER, TAG_MARKER)
_IGNORED = (
    "pytest ignores pytestmark here; write it in the test modules, or a budget for the folder in "
    "llmcost_budgets"
)


def _phase(
    phase: Phase,
) -> Callable[[ItemHooks, pytest.Item], Generator[None, object, object]]:
    """Make the hook around a phase of a test.

    It is the outermost wrapper, for what other plugins send in theirs is the test's.
    """

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def around(hooks: ItemHooks, item: pytest.Item) -> Generator[None, object, object]:
        __tracebackhide__ = True
        session = hooks.session
        if phase == "setup" or session.test is not item:  # a plugin may leave phases out
            session.begin(item)
        session.phase = phase
        try:
            result = yield
        except BaseException as error:
            hooks.end_phase(item, error)
            raise
        if phase == "setup":
            return result
        kept, is_due = None, session.attempt is not None or session.children.may_exist
        if phase == "call":
            # Private: unittest keeps its outcome there instead of raising it; pytest reports the
            # first. In this order: it is asked for every test of every suite.
            kept = getattr(item, "_excinfo", None)
            is_due = is_due or kept or hooks.rewrites_all or _has_marker(item)
        if is_due:
            hooks.end_phase(item, kept[0].value if kept else None)
        elif phase == "teardown":  # as nearly all tests of nearly all suites
            session.test = session.phase = None
        return result

    return around


class ItemHooks(Hooks):
    """The hooks of one session around its tests."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.rewrites_all = record_mode(None, session.config, session.settings).prunes
        self._set_ups: dict[pytest.FixtureDef[Any], int] = {}
        self._is_watching = False
        """Whether it is seen what is deselected, and by what."""

    # Collection

    @pytest.hookimpl
    def pytest_plugin_registered(self, plugin: object, plugin_name: str) -> None:
        """Refuse markers of conftests, which pytest ignores, and hooks in late ones.

        Those that the collection loads are late: prices must not depend on order.
        """
        if not plugin_name.endswith("conftest.py"):  # before a path is made of each of them
            return
        is_late, why = self.session.is_configured, _IGNORED if _is_marked(plugin) else ""
        names = [name for name in vars(plugin) if name.startswith("pytest_llmcost_")]
        if is_late and names:
            why = (
                f"{', '.join(sorted(names))} must be in a plugin or in the rootdir conftest; "
                "move it, or run pytest in this folder"
            )
        if why:
            kind = pytest.Collector.CollectError if is_late else pytest.UsageError
            raise kind(f"{plugin_name}: {why}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> None:
        """Watch which files plugins leave out, where one may."""
        hook, plugins = session.config.pluginmanager.hook.pytest_ignore_collect, []
        for each in hook.get_hookimpls():
            module = getattr(each.function, "__globals__", {})
            if not (_is_conftest(module) or module.get("__name__") == "_pytest.main"):
                plugins.append(each.plugin)
        if plugins:
            watch = _IgnoredFiles(self.session, plugins)
            session.config.pluginmanager.register(watch, "llmcost-ignored-files")

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Make a wrong marker a collection error, the same with workers."""
        report = yield
        nodes, problems = report.result or [], list[str]()
        # Not `obj`: a doctest's module would be imported anew for it, as a test.
        if nodes and isinstance(module := getattr(collector, "_obj", None), ModuleType):
            name = module.__package__ or ""
            while name:
                package = sys.modules.get(name)
                if package is not module and _is_marked(package):
                    problems.append(f"{getattr(package, '__file__', name)}: {_IGNORED}")
                name = name.rpartition(".")[0]
        is_inherited = _has_marker(collector, _OURS)
        for node in nodes:
            is_marked = is_inherited or (node.own_markers and _has_marker(node, _OURS))
            # In this order: to ask for the class of a node, an abstract one, takes long.
            if is_marked and isinstance(node, pytest.Item):
                from pytest_llmcost.plugin.marker import check_markers

                try:
                    check_markers(node, self.session.settings)
                except SettingsError as error:
                    problems.append(f"{node.nodeid}: {error}")
        if problems:
            report.outcome = "failed"
            report.longrepr = "\n".join(problems)
            report.result = []
        if report.failed:
            self.session.incomplete.add("collection-errors")
        elif report.skipped:
            self.session.not_passed.add(collector.nodeid)
            self.session.skipped.add(collector.nodeid)
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # the outermost: it watches all others
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: Sequence[pytest.Item]
    ) -> Generator[None, None, None]:
        """Find the paths in settings that match no test; then note what each hook deselects."""
        settings = self.session.settings
        if any("=" in str(value) for value in vars(settings).values()):  # as in a line for a path
            from pytest_llmcost.plugin.marker import unmatched_globs

            self.session.unmatched_globs.update(unmatched_globs(settings, session, items))
        with pytest.MonkeyPatch.context() as patch:
            for each in session.config.hook.pytest_collection_modifyitems.get_hookimpls():
                if not (each.wrapper or each.hookwrapper):
                    module = getattr(each.function, "__globals__", {})
                    patch.setattr(each, "function", self._watching(items, module)(each.function))
            self._is_watching = True
            with self._watching(items, {}):  # which of the wrappers took a test off is not known
                yield
            self._is_watching = False

    @contextmanager
    def _watching(self, items: Sequence[pytest.Item], module: Mapping[str, Any]) -> Iterator[None]:
        """Note the tests that a hook of a module takes off the list, with or without a word."""
        before = [*items]
        yield
        if before == items:  # as after nearly all hooks
            return
        session, left = self.session, {*map(id, items)}
        gone = {nodeid_of(each) for each in before if id(each) not in left} - session.deselected
        if gone:
            gone.difference_update(map(nodeid_of, items))  # of which there is another one
        if not gone:
            return
        if _is_conftest(module):
            session.deselecting.add(module["__file__"])
        # `-m` and `-k`, then `--deselect`; not `--lf` and `--stepwise`.
        if _is_conftest(module) or module.get("__name__") in ("_pytest.mark", "_pytest.main"):
            session.deselected.update(gone)
        else:  # by a plugin, such as a shard's: the run is a part
            session.incomplete.add("deselected")

    @pytest.hookimpl
    def pytest_deselected(self) -> None:
        """Take the run for a part if a plugin deselects at another time than in the hook for it."""
        if not self._is_watching:
            self.session.incomplete.add("deselected")

    @pytest.hookimpl
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which tests are to run, for the guards of the baseline that are gone."""
        if self.session.settings.baseline is not None:
            self.session.selected.update(map(nodeid_of, session.items))
        if (
            may_follow()
            and "pyfakefs" in sys.modules
            and any(
                name.partition("_")[0] == "fs"
                for item in session.items
                for name in getattr(item, "fixturenames", ())
            )
        ):
            from pkgutil import walk_packages

            # After a test with fake files pyfakefs forgets the modules that were imported in it.
            # Those from before keep what they had of these; classes of a second copy are others.
            import_module("filelock")
            for module in walk_packages(pytest_llmcost.__path__, "pytest_llmcost."):
                if not module.name.startswith(("pytest_llmcost.cli", "pytest_llmcost.reconcile")):
                    import_module(module.name)
            # Their files stay real, or counts would be recorded in fake ones.
            known, names = sys.modules.items(), ("pytest_llmcost", "filelock")
            ours = [each for name, each in known if name.startswith(names)]
            patcher = getattr(sys.modules.get("pyfakefs.fake_filesystem_unittest"), "Patcher", None)
            getattr(patcher, "SKIPMODULES", set[ModuleType]()).update(ours)

    # Phases

    pytest_runtest_setup = _phase("setup")
    pytest_runtest_call = _phase("call")
    pytest_runtest_teardown = _phase("teardown")

    def end_phase(self, item: pytest.Item, error: BaseException | None) -> None:
        """Record what a phase has sent, judge its test, and raise what else the test fails by."""
        __tracebackhide__ = True
        session = self.session
        if isinstance(error, (LlmCostError, LiveCapError)):
            watch_reports(session)
        if error is not None and _is_refusal(error):
            session.children.end_child()
        (self._end_test if session.phase == "teardown" else self._end_body)(item, error)

    def _end_body(self, item: pytest.Item, error: BaseException | None) -> None:
        """Judge a test by how its set-up or body ended; raise what a hook of the user has raised.

        One that has failed itself fails only by that.
        """
        __tracebackhide__ = True
        session, failure, is_body = self.session, None, self.session.phase == "call"
        try:
            session.drain()
            has_spent = session.attempt is not None and session.attempt.has_spent
            if error is None and (has_spent or self.rewrites_all):
                # Now, because its folder is a fixture's value.
                session.counts.open_to_rewrite(session.attempt_of(item))
        except BaseException as raised:  # noqa: BLE001 - it is raised once the test is judged
            if error is None:
                error = failure = raised
            else:
                session.failures.append(raised)  # for the teardown, or the end of the run
        # Asked now, because markers may have been added while it ran.
        is_marked, ending = _has_marker(item), _ending(error)
        attempt = session.attempt_of(item) if is_body and is_marked else session.attempt
        # A failed subtest may have come before our reports were watched.
        has_failed = item.session.testsfailed > session.failed_before
        if has_failed or error is not None:
            failed = "failed" if is_body else "error"
            session.outcome = "failed" if has_failed else _outcome_of(item, ending, failed)
        if attempt is not None:
            attempt.has_failed |= has_failed
            attempt.ending = ending
            is_due = attempt.has_spent or (is_body and is_marked)
            self._judge(attempt, error, is_due=is_due)
        # One that skips although it is over its budget has failed. `xfail(run=False)` runs as
        # little of a test as a skip.
        if ending in ("skip", "xfail") and session.settings.baseline is not None:
            session.skipped.add(nodeid_of(item))
        if ending == "skip" and is_marked:
            session.skipped_budgets.add(nodeid_of(item))
        if failure is not None:
            watch_reports(session)
            raise failure

    def _end_test(self, item: pytest.Item, error: BaseException | None) -> None:
        """End the attempt, and judge it again, because fixtures may spend in their teardown."""
        __tracebackhide__ = True
        session, children = self.session, self.session.children
        if error is not None:
            session.outcome = _outcome_of(item, _ending(error), "error")
        if children.may_exist:
            session.catch_up()
            if children.are_lost():
                session.attempt_of(item)  # it may have sent by that child alone
        session.test = session.phase = None  # what is sent from now on is not its
        attempt = session.attempt
        if attempt is None:
            return
        attempt.is_whole = session.outcome == "passed"
        try:
            session.drain()
            if "counts" in vars(session):
                session.counts.save(attempt)
            if not attempt.has_spent:
                session.settle(attempt)  # a stream or batch that is still open has been sent
        except BaseException as raised:
            error = raised
            raise
        finally:
            attempt.is_over = True
            # A set-up that skipped before it had spent was not judged; fixtures may spend.
            has_spent = attempt.has_spent or attempt.has_lost_calls or children.are_lost(attempt)
            is_open = attempt.blocks or not attempt.has_failed
            is_due = bool(attempt.verdicts or (has_spent and is_open))
            if session.has_spending and not session.ledger.row(attempt.key).outcome:
                # It had spent nothing when its body was reported, or that was never reported.
                outcome = "failed" if attempt.broken else session.outcome
                session.ledger.judge(attempt.key, outcome=outcome)
            self._judge(attempt, error, is_due=is_due)

    def _judge(self, attempt: TestAttempt, error: BaseException | None, *, is_due: bool) -> None:
        """Judge an attempt; raise a broken budget, also if it skips; at its end only a new one."""
        __tracebackhide__ = True
        watch_reports(self.session)
        if is_due:
            from pytest_llmcost.plugin.verdicts import fail, judge

            # A plugin may run the body of an attempt again, which then fails again.
            was_broken = attempt.is_over and bool(attempt.broken)
            judge(self.session, attempt)
            if attempt.broken and not was_broken and _ending(error) != "error":
                fail(attempt)

    # Fixtures

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # around the wrappers that run async fixtures
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: SubRequest
    ) -> Generator[None, object, object]:
        """Let a fixture wider than a function own what its set-up and teardown spend."""
        __tracebackhide__ = True
        try:
            if fixturedef.scope == "function":
                return (yield)
            set_up = self._set_ups[fixturedef] = self._set_ups.get(fixturedef, 0) + 1
            fixture = SharedFixture(fixturedef, request, set_up)
            self._own_teardown(fixturedef, fixture)
            tags = len(open_tags())
            with self.session.owning(fixture, "setup"):
                result = yield
            for tag in open_tags()[tags:]:
                fixturedef.finish(request)  # ends the tag, which all other tests would have, too
                pytest.fail(
                    f'the {fixturedef.scope} fixture {fixturedef.argname} leaves tag("{tag}") '
                    "open; give it function scope, mark the tests that use it with "
                    f'@pytest.mark.llmcost_tag("{tag}"), or tag the calls themselves',
                    pytrace=False,
                )
            fixture.is_whole = True
            return result
        except BaseException as error:
            if _is_refusal(error) or isinstance(error, pytest.fail.Exception):
                # Kept as pytest keeps an `Exception` of the fixture: else it takes it for one that
                # is neither set up nor torn down.
                has_traceback = pytest.version_tuple >= (8, 3)
                kept: Any = (error, error.__traceback__) if has_traceback else error
                fixturedef.cached_result = (None, fixturedef.cache_key(request), kept)
            raise

    def _own_teardown(self, fixturedef: pytest.FixtureDef[Any], fixture: SharedFixture) -> None:
        """Let a fixture own its teardown, and what factories add to it while tests run."""
        session, add = self.session, fixturedef.addfinalizer

        def finalize(finalizer: Callable[[], object]) -> None:
            __tracebackhide__ = True
            was_whole, fixture.is_whole = fixture.is_whole, False
            with session.owning(fixture, "teardown"):
                finalizer()
            fixture.is_whole = was_whole

        def add_owned(finalizer: Callable[[], object]) -> None:
            # Fixtures that need this one add how they end; whose that is, they say themselves.
            owner = getattr(getattr(finalizer, "func", None), "__self__", None)
            is_fixture = isinstance(owner, type(fixturedef))
            add(finalizer if is_fixture else partial(finalize, finalizer))

        def end() -> None:
            vars(fixturedef).pop("addfinalizer", None)
            if fixture.has_spent or self.rewrites_all:
                session.counts.open_to_rewrite(fixture)
                session.counts.save(fixture)

        add(end)  # finalizers run last in, first out: this one after the fixture's own
        vars(fixturedef)["addfinalizer"] = add_owned


class _IgnoredFiles(Hooks):
    """What plugins leave out, such as those that run only what a change affects."""

    def __init__(self, session: Session, plugins: Sequence[object]) -> None:
        super().__init__(session)
        self._not_of_suite = (*plugins, self)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_ignore_collect(
        self, collection_path: Path, config: pytest.Config
    ) -> Generator[None, bool | None, bool | None]:
        """Take the run for a part if a plugin alone leaves out a file or a folder."""
        is_ignored, path = (yield), collection_path
        # Not what is hidden: hypothesis leaves its own folder out if `norecursedirs` does not.
        if is_ignored and not path.name.startswith("."):
            # Made now: pluggy 1.7 does not remove what is not registered yet, as we were not.
            is_ignored_by_suite = config.pluginmanager.subset_hook_caller(
                "pytest_ignore_collect", self._not_of_suite
            )
            given: dict[str, object] = {"collection_path": path, "config": config}
            if "path" in getattr(is_ignored_by_suite.spec, "argnames", ()):  # up to pytest 9.0
                from _pytest.compat import legacy_path

                given["path"] = legacy_path(path)
            if not is_ignored_by_suite(**given):
                self.session.incomplete.add("deselected")
        return is_ignored


def _is_refusal(error: BaseException) -> bool:
    """Return whether a request was refused by the live cap, also one of a group of tasks."""
    if isinstance(error, (Exception, LiveCapError)):  # a group that holds one is no `Exception`
        return isinstance(error, LiveCapError)
    return any(map(_is_refusal, getattr(error, "exceptions", ())))


def watch_reports(session: Session) -> None:
    """Fill in the reports that pytest makes of tests from now on, if there is anything to say.

    Not before: this hook is called three times a test. Whatever sends, counts or has a budget has
    an attempt by the end of the phase, and that comes before the phase's report is made.
    """
    if not session.config.pluginmanager.has_plugin("llmcost-reports"):
        from pytest_llmcost.plugin.verdicts import Reports

        session.config.pluginmanager.register(Reports(session), "llmcost-reports")


def _is_conftest(module: Mapping[str, Any]) -> bool:
    return Path(module.get("__file__") or "").name == "conftest.py"


def _is_marked(module: object) -> bool:
    """Return whether a conftest or a package has a marker of ours."""
    # Of its own: a `__getattr__` may import a module of that name, and fail.
    marks = getattr(module, "__dict__", {}).get("pytestmark", ())
    listed = marks if isinstance(marks, (list, tuple)) else [marks]
    return any(getattr(mark, "name", None) in _OURS for mark in listed)


def _has_marker(node: _pytest.nodes.Node | None, names: Sequence[str] = (MARKER,)) -> bool:
    """Return whether a node or one around it has a marker of ours; faster than `iter_markers`."""
    while node is not None:
        if node.own_markers and any(mark.name in names for mark in node.own_markers):
            return True
        node = node.parent
    return False


def _ending(error: BaseException | None) -> Ending:
    """Return how a phase has ended; a skip of unittest's kind is one in any test."""
    unittest = sys.modules.get("unittest")
    if isinstance(error, (pytest.skip.Exception, *((unittest.SkipTest,) if unittest else ()))):
        return "skip"
    if isinstance(error, pytest.xfail.Exception):
        return "xfail"
    return "whole" if error is None else "error"


def _outcome_of(item: pytest.Item, ending: Ending, failed: str) -> str:
    """Return what pytest will most likely report a test as that has not come to its end."""
    if ending == "skip":
        return "skipped"
    return "xfailed" if ending == "xfail" or item.get_closest_marker("xfail") else failed

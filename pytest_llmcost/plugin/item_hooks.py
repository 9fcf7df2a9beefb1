"""The hooks around every test: who is running, and whether the test kept its budgets.

They are registered in every run of every suite. A test that neither spends nor has a budget, in
most suites all of them, passes through without an object made or a module loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import pytest_llmcost
from pytest_llmcost.errors import LiveCapError, LlmCostError, SettingsError
from pytest_llmcost.plugin.options import MARKER, TAG_MARKER
from pytest_llmcost.plugin.owners import SharedFixture, TestAttempt, nodeid_of
from pytest_llmcost.plugin.pytest_recording import record_mode
from pytest_llmcost.plugin.sender import holding_tags
from pytest_llmcost.plugin.session import Hooks, Session

if TYPE_CHECKING:
    import _pytest.nodes

    from pytest_llmcost.budgets.budget import Verdict


_OURS = (MARKER, TAG_MARKER)
_IGNORED = (
    "pytest ignores pytestmark here; write it in the test modules, or a budget for the folder in "
    "llmcost_budgets"
)


class ItemHooks(Hooks):
    """The hooks of one session around its tests."""

    def __init__(self, session: Session) -> None:
        """Watch the tests of a session."""
        super().__init__(session)
        self._limits_all = session.settings.max_test is not None
        mode = record_mode(None, session.config, session.settings)
        self._rewrites_all = mode == "rewrite"
        self._set_ups: dict[pytest.FixtureDef[Any], int] = {}
        self._deselected: set[str] = set()
        """What was noted as deselected."""

    # Collection

    @pytest.hookimpl
    def pytest_plugin_registered(self, plugin: object, plugin_name: str) -> None:
        """Refuse markers of conftests, which pytest ignores; ignore hooks in late ones.

        Those that the collection loads are late: prices must not depend on order.
        """
        if not plugin_name.endswith("conftest.py"):  # before a path is made of each of them
            return
        if _is_marked(plugin):
            is_late = self.session.is_configured
            kind = pytest.Collector.CollectError if is_late else pytest.UsageError
            raise kind(f"{plugin_name}: {_IGNORED}")
        if self.session.is_configured:
            names = sorted(name for name in vars(plugin) if name.startswith("pytest_llmcost_"))
            if names:
                self.session.late_conftests.add(plugin)
                self.session.notes.add(
                    f"{', '.join(names)} in {plugin_name}: ignored; hooks of pytest-llmcost must "
                    "be in a plugin or in the rootdir conftest"
                )

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Make a wrong marker a collection error, the same with workers."""
        report = yield
        problems = list(self._problems(collector, report.result or []))
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

    def _problems(
        self, collector: pytest.Collector, nodes: Sequence[_pytest.nodes.Node]
    ) -> Iterator[str]:
        # Not `obj`: a doctest's module would be imported anew for it, as a test.
        if nodes and isinstance(module := getattr(collector, "_obj", None), ModuleType):
            name = module.__package__ or ""
            while name:
                package = sys.modules.get(name)
                if package is not module and _is_marked(package):
                    yield f"{getattr(package, '__file__', name)}: {_IGNORED}"
                name = name.rpartition(".")[0]
        is_inherited = _has_marker(collector, _OURS)
        for node in nodes:
            # In this order: to ask for the class of a node, an abstract one, takes long.
            if (is_inherited or node.own_markers) and isinstance(node, pytest.Item):
                if not (is_inherited or _has_marker(node, _OURS)):
                    continue
                from pytest_llmcost.plugin.marker import check_markers

                try:
                    check_markers(node, self.session.settings)
                except SettingsError as error:
                    yield f"{node.nodeid}: {error}"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, items: Sequence[pytest.Item]
    ) -> Generator[None, None, None]:
        """Find the paths in settings that match no test, while no test is deselected yet.

        Also note what is deselected without a word, by taking it off the list.
        """
        settings = self.session.settings
        lines = (*settings.budgets, *settings.live, *settings.allowed_models)
        if any("=" in line for line in lines):
            from pytest_llmcost.plugin.marker import unmatched_globs

            self.session.unmatched_globs.update(unmatched_globs(settings, session, items))
        before = [*items]
        with pytest.MonkeyPatch.context() as patch:
            for each in session.config.hook.pytest_collection_modifyitems.get_hookimpls():
                file = getattr(each.function, "__globals__", {}).get("__file__") or ""
                # What a wrapper takes off passes for a plugin's.
                if Path(file).name == "conftest.py" and not (each.wrapper or each.hookwrapper):
                    patch.setattr(
                        each, "function", partial(self._watch, items, file, each.function)
                    )
            yield
        self._note_silent(before, items)

    def _watch(
        self, items: Sequence[pytest.Item], file: str, function: Callable[..., object], *args: Any
    ) -> object:
        before = [*items]
        result = function(*args)
        self._note_silent(before, items, file)
        return result

    def _note_silent(
        self, before: Sequence[pytest.Item], items: Sequence[pytest.Item], *conftests: str
    ) -> None:
        if len(items) < len(before):
            left = {*map(nodeid_of, items), *self._deselected}
            gone = [item for item in before if nodeid_of(item) not in left]
            self._deselected.update(map(nodeid_of, gone))
            self._note_deselected(gone, *conftests)

    @pytest.hookimpl
    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Note what is deselected, and by what."""
        name, file = _deselecting_module()
        self._deselected.update(map(nodeid_of, items))
        # `-m` and `-k`, then `--deselect`; not `--lf` and `--stepwise`.
        if name in ("_pytest.mark", "_pytest.main"):
            self.session.deselected.update(map(nodeid_of, items))
        else:
            self._note_deselected(items, *([file] if Path(file).name == "conftest.py" else []))

    def _note_deselected(self, items: Sequence[pytest.Item], *conftests: str) -> None:
        """Note what conftests deselect; of a plugin, such as a shard's, it is a part."""
        if items and conftests:
            self.session.deselected.update(map(nodeid_of, items))
            self.session.deselecting.update(conftests)
        elif items:
            self.session.incomplete.add("deselected")

    @pytest.hookimpl
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Note which tests are to run, for the guards of the baseline that are gone."""
        if self.session.baseline is not None:
            self.session.selected.update(map(nodeid_of, session.items))
        can_send = {"http.client", "aiohttp"} & sys.modules.keys()  # all others import the former
        if (
            can_send
            and "pyfakefs" in sys.modules
            and any(
                name.partition("_")[0] == "fs"
                for item in session.items
                for name in getattr(item, "fixturenames", ())
            )
        ):
            _import_all()

    # Phases

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Begin an attempt; a set-up that ends early may have spent."""
        __tracebackhide__ = True
        session = self.session
        session.begin(item)
        try:
            return (yield)
        except BaseException as error:
            session.outcome = _outcome_of(item, error, "error")
            session.catch_up()
            self._report_spending(error)
            if session.attempt is not None and session.attempt.has_spent:
                self._judge(session.attempt, error)
            self._note_skip(item, error)
            raise

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge a test when its body has run; a test that has failed itself fails only by that."""
        __tracebackhide__ = True
        session = self.session
        if session.test is not item:  # a plugin may run phases without the ones before
            session.begin(item)
        session.phase = "call"
        try:
            result = yield
        except BaseException as error:
            self._end_body(item, error)
            raise
        if session.children is not None:
            session.catch_up()
        # unittest keeps its outcome on the item instead of raising it; pytest reports the first.
        kept = getattr(item, "_excinfo", None)
        # In this order, and not by `_has_budget`: it is asked for every test of every suite.
        is_judged = kept or self._limits_all or self._rewrites_all or _has_marker(item)
        if session.attempt is not None or is_judged:
            self._end_body(item, kept[0].value if kept else None)
        return result

    def _note_skip(self, item: pytest.Item, error: BaseException | None) -> None:
        """Note a test that is skipped, if its absence says something.

        After it was judged: one that skips although it is over its budget has failed.
        """
        is_skip, nodeid = _is_skip(error), nodeid_of(item)
        # `xfail(run=False)` runs as little of a test as a skip.
        is_left_out = is_skip or isinstance(error, pytest.xfail.Exception)
        if is_left_out and self.session.baseline is not None:
            self.session.skipped.add(nodeid)
        if is_skip and _has_marker(item):
            self.session.skipped_budgets.add(nodeid)

    def _has_budget(self, item: pytest.Item) -> bool:
        """Return whether a test has a budget; markers may have been added while it ran."""
        return self._limits_all or _has_marker(item)

    def _end_body(self, item: pytest.Item, error: BaseException | None) -> None:
        __tracebackhide__ = True
        session, failure = self.session, None
        try:
            session.drain()
            has_spent = session.attempt is not None and session.attempt.has_spent
            if error is None and (has_spent or self._rewrites_all):
                # Now, because its folder is a fixture's value.
                session.counts.open_to_rewrite(session.attempt_of(item))
        except BaseException as raised:  # noqa: BLE001 - once the test is judged, it fails by that
            failure = raised
        error = error or failure
        has_budget = self._has_budget(item)
        attempt = session.attempt_of(item) if has_budget else session.attempt
        # A failed subtest may have come before our reports were watched.
        has_failed = item.session.testsfailed > session.failed_before
        if has_failed or error is not None:
            session.outcome = "failed" if has_failed else _outcome_of(item, error, "failed")
        if attempt is not None:
            attempt.has_failed |= has_failed
        self._report_spending(error)
        if attempt is not None and (has_budget or attempt.has_spent):
            self._judge(attempt, error)
        self._note_skip(item, error)
        if failure is not None:
            raise failure

    def _judge(self, attempt: TestAttempt, error: BaseException | None) -> None:
        """Judge a test by how its set-up or body ended; raise what a skip would hide."""
        __tracebackhide__ = True
        from pytest_llmcost.plugin.verdicts import judge

        attempt.is_skipped = _is_skip(error)
        attempt.is_xfailed = isinstance(error, pytest.xfail.Exception)
        judge(self.session, attempt, needs_calls=error is None)
        if (error is None or attempt.is_skipped) and (broken := self._broken(attempt)):
            # pytest would report unittest's skip in place of what is raised here.
            vars(attempt.item).pop("_excinfo", None)
            self._fail(attempt, broken)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Judge again, because fixtures may spend in their teardown."""
        __tracebackhide__ = True
        session = self.session
        if session.test is not item:
            session.begin(item)
        session.phase = "teardown"
        was_broken = session.attempt is not None and bool(self._broken(session.attempt))
        try:
            result = yield
        except BaseException as error:
            session.outcome = _outcome_of(item, error, "error")
            self._report_spending(error)
            # A skip or xfail raised in teardown must not hide a broken budget.
            is_excuse = _is_skip(error) or isinstance(error, pytest.xfail.Exception)
            self._end_teardown(may_fail=is_excuse and not was_broken)
            raise
        if session.children is not None:
            session.catch_up()
        if session.attempt is None:
            session.test = session.phase = None
        else:
            self._end_teardown(may_fail=not was_broken)
        return result

    def _end_teardown(self, *, may_fail: bool) -> None:
        """End the attempt; raise a budget that was kept until the teardown."""
        __tracebackhide__ = True
        session, attempt = self.session, self.session.attempt
        self._report_spending(None)
        if attempt is None:
            session.test = session.phase = None
            return
        before = attempt.verdicts[:1]
        try:
            session.end(attempt)
            if not attempt.has_spent:
                session.settle(attempt)  # a stream or batch that is still open has been sent
        finally:
            # A set-up that skipped before it had spent was not judged; fixtures may spend.
            is_open = attempt.blocks or not attempt.has_failed
            if before or (attempt.has_spent and is_open):
                from pytest_llmcost.plugin.verdicts import judge, judge_again

                needs_calls = bool(before) and before[0].state == "unverified"
                judge_now = judge_again if attempt.is_failed_by_budget else judge
                judge_now(session, attempt, needs_calls=needs_calls)
        if may_fail and (broken := self._broken(attempt)):
            self._fail(attempt, broken)

    def _broken(self, attempt: TestAttempt) -> list[Verdict]:
        if not (attempt.verdicts or attempt.blocks):
            return []
        from pytest_llmcost.plugin.verdicts import broken_verdicts

        return broken_verdicts(attempt, self.session.settings)

    def _fail(self, attempt: TestAttempt, broken: Sequence[Verdict]) -> None:
        from pytest_llmcost.plugin.verdicts import budget_failure

        calls = self.session.ledger.calls(attempt.key)
        attempt.is_failed_by_budget = True
        # This frame is not hidden: if all are, pytest adds a line about that to the message.
        raise budget_failure(attempt, broken[0], calls, broken[1:]) from None

    def _report_spending(self, error: BaseException | None) -> None:
        """Have reports filled in, from this phase of this test on, if there is anything to say.

        Not before: this hook is called three times a test. Whatever sends, counts or has a budget
        has an attempt by the end of the phase, and this comes before the phase's report is made.
        """
        if self.session.attempt is not None or isinstance(error, (LlmCostError, LiveCapError)):
            watch_reports(self.session)

    # Fixtures

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        """Let a fixture wider than a function own what its set-up and teardown spend.

        Finalizers run last in, first out: ours comes after the fixture's own.
        """
        __tracebackhide__ = True
        session, fixture = self.session, None
        if fixturedef.scope != "function":
            set_up = self._set_ups[fixturedef] = self._set_ups.get(fixturedef, 0) + 1
            fixture = SharedFixture(fixturedef, request, set_up)
            fixturedef.addfinalizer(partial(self._end_fixture, fixturedef, fixture))
            self._own_finalizers(fixturedef, fixture)
            session.push(fixture, "setup")
        try:
            if fixture is None:
                return (yield)
            with holding_tags(fixture):
                result = yield
            fixture.is_whole = True
            return result
        except BaseException as error:
            if _is_refusal(error):
                _keep_refusal(fixturedef, request, error)
            raise
        finally:
            if fixture is not None:
                session.pop()

    def _own_finalizers(self, fixturedef: pytest.FixtureDef[Any], fixture: SharedFixture) -> None:
        """Let a fixture own its teardown, and what factories add to it while tests run."""
        add = fixturedef.addfinalizer

        def add_owned(finalizer: Callable[[], object]) -> None:
            # Fixtures that need this one add how they end; whose that is, they say themselves.
            owner = getattr(getattr(finalizer, "func", None), "__self__", None)
            is_fixture = isinstance(owner, type(fixturedef))
            add(finalizer if is_fixture else partial(self._finalize, fixture, finalizer))

        vars(fixturedef)["addfinalizer"] = add_owned

    def _finalize(self, fixture: SharedFixture, finalizer: Callable[[], object]) -> None:
        __tracebackhide__ = True
        self.session.push(fixture, "teardown")
        try:
            finalizer()
        except BaseException:
            fixture.is_whole = False
            raise
        finally:
            self.session.pop()

    def _end_fixture(self, fixturedef: pytest.FixtureDef[Any], fixture: SharedFixture) -> None:
        vars(fixturedef).pop("addfinalizer", None)
        if fixture.has_spent or self._rewrites_all:
            self.session.counts.open_to_rewrite(fixture)
            self.session.counts.save(fixture)


def _is_refusal(error: BaseException) -> bool:
    """Return whether a request was refused by the live cap, also one of a group of tasks."""
    if isinstance(error, (Exception, LiveCapError)):  # a group that holds one is no `Exception`
        return isinstance(error, LiveCapError)
    return any(map(_is_refusal, getattr(error, "exceptions", ())))


def _keep_refusal(fixturedef: pytest.FixtureDef[Any], request: Any, refusal: BaseException) -> None:
    """Keep the refusal by which a set-up has failed, as pytest does with an `Exception`.

    It takes the fixture else for one that is neither set up nor torn down.
    """
    has_traceback = pytest.version_tuple >= (8, 3)
    kept: Any = (refusal, refusal.__traceback__) if has_traceback else refusal
    fixturedef.cached_result = (None, fixturedef.cache_key(request), kept)


def watch_reports(session: Session) -> None:
    """Fill in the reports that pytest makes of tests from now on."""
    if not session.config.pluginmanager.has_plugin("llmcost-reports"):
        from pytest_llmcost.plugin.verdicts import Reports

        session.config.pluginmanager.register(Reports(session), "llmcost-reports")


def _import_all() -> None:
    """Import all that a session may need.

    After a test with fake files pyfakefs forgets the modules that were imported in it. Those from
    before keep what they had of these, and the classes of a second copy are others.
    """
    from importlib import import_module
    from pkgutil import walk_packages

    for module in walk_packages(pytest_llmcost.__path__, "pytest_llmcost."):
        if not module.name.startswith(("pytest_llmcost.cli", "pytest_llmcost.reconcile")):
            import_module(module.name)


def _is_marked(module: object) -> bool:
    """Return whether a conftest or a package has a marker of ours.

    A `__getattr__` of it may import a module of that name, and fail.
    """
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


def _deselecting_module() -> tuple[str, str]:
    """Return the name and the file of the module with the hook that deselects now."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_name != "pytest_collection_modifyitems":
        frame = frame.f_back
    found = frame.f_globals if frame else {}
    return found.get("__name__", ""), found.get("__file__") or ""


def _is_skip(error: BaseException | None) -> bool:
    """Return whether pytest will report an error as a skip; of unittest's kind it reports any."""
    unittest = sys.modules.get("unittest")
    kinds = (pytest.skip.Exception, *((unittest.SkipTest,) if unittest else ()))
    return isinstance(error, kinds)


def _outcome_of(item: pytest.Item, error: BaseException | None, failed: str) -> str:
    """Return what pytest will most likely report a test as that has not come to its end."""
    if _is_skip(error):
        return "skipped"
    is_expected = item.get_closest_marker("xfail") or isinstance(error, pytest.xfail.Exception)
    return "xfailed" if is_expected else failed

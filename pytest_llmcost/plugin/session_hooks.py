"""The hooks around a whole session: budgets over several tests, report files, the summary.

Only in the process that owns the run, never in a worker.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_llmcost.plugin.session import FAILURES, Hooks, Session

if TYPE_CHECKING:
    from pytest_llmcost.plugin.run_end import RunEnd

_OF_COLLECTION = (
    *("addopts", "norecursedirs", "testpaths"),
    *("python_classes", "python_files", "python_functions"),
)
"""The settings of pytest that select tests; `-o` overrides one for a run."""


class SessionHooks(Hooks):
    """The hooks of one session at its end."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._end: RunEnd | None = None
        self._failures: list[str] = []
        """What fails the run besides its budgets, as lines of pytest's short summary."""
        self._fails_by_keys = session.settings.key_guard == "fail"
        self._closed_with: tuple[object, ...] = ()
        self._pytest: pytest.Session | None = None
        """Set when pytest is to run tests. It shows fixtures and its cache in sessions, too."""
        self._has_begun = False
        """Whether the tests have begun to run."""

    @pytest.hookimpl(wrapper=True)  # xdist answers this hook before others are called
    def pytest_collection(self, session: pytest.Session) -> Generator[None, object, object]:
        """Note that pytest collects tests in order to run them."""
        self._pytest = session
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Judge the suite when all tests have run, while a failure still sets the exit status."""
        self._has_begun = True
        # Errors of the collection; pytest runs no test then, with `-x` or without.
        is_uncollected = session.testsfailed and not session.config.getoption(
            "continue_on_collection_errors"
        )
        try:
            result = yield
        except BaseException as error:
            # `-x`, `--maxfail` and `pytest.exit()` end a run between two tests, calls complete.
            is_orderly = session.shouldstop or session.shouldfail
            is_orderly = is_orderly or isinstance(error, pytest.exit.Exception)
            if is_uncollected:
                self.session.lost_calls.add("collection-errors")
            elif is_orderly:
                self.session.incomplete.add("interrupted")
            else:
                self.session.lost_calls.add("interrupted")
            raise
        # The exit status and other plugins read this; it only turns success into failure.
        end = self._close()
        session.testsfailed += end is not None and end.is_broken()
        session.testsfailed += self._fails_by_keys and bool(self._find_keys())
        return result

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int
    ) -> Generator[None, object, object]:
        """Write every file when the last fixtures are torn down, however the session ends.

        The innermost wrapper: pytest's own prints the summary after this.
        """
        # Also what the last fixtures have written; runs that were stopped come here, too.
        is_ok = session.exitstatus == pytest.ExitCode.OK
        if is_ok and self._fails_by_keys and self._find_keys():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        is_interrupted = exitstatus == pytest.ExitCode.INTERRUPTED or not self._has_begun
        if is_interrupted and "collection-errors" not in self.session.lost_calls:
            self.session.incomplete.add("interrupted")
        if before := self._close():
            before.add_junit_properties()  # pytest is about to write them
        try:
            result = yield
        finally:  # another plugin may call `pytest.exit()` here
            if end := self._close():
                end.publish()
                hook = session.config.hook.pytest_llmcost_report
                try:
                    hook(report=end.ledger, config=session.config)
                except FAILURES as error:  # or pytest ends without its summary
                    end.problems.append(f"pytest_llmcost_report failed: {error!r}")
                    end.settle_status()
        if end is not None and end is not before:  # a run that was stopped ends fixtures after it
            end.add_junit_properties(is_written=True)
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Have the last word on the exit status, and let the ledger name the final one."""
        before, end = self._end, self._close()
        if end is not None:
            if end is not before:  # a call has ended since, or another plugin has spent
                end.publish()
                terminal = self.session.config.pluginmanager.get_plugin("terminalreporter")
                if terminal is not None:
                    from pytest_llmcost.plugin.run_end import write_late

                    write_late(end, before, terminal)
            end.settle_status()

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the summary; nothing if nothing was counted."""
        if self._end is not None:
            self._end.write_summary(terminalreporter)
        if number := len(self.session.skipped_budgets):
            what = "test with a budget was" if number == 1 else "tests with a budget were"
            terminalreporter.write_line(f"llmcost: {number:,} {what} skipped")
        if keys := self._find_keys():
            from pytest_llmcost.reports.plain_text import format_count
            from pytest_llmcost.reports.run_wording import describe_keys

            cassettes, fails = format_count(len(keys), "cassette"), self._fails_by_keys
            terminalreporter.write_sep("=", "llmcost: keys in cassettes", bold=True, red=fails)
            for line in describe_keys(keys):
                terminalreporter.write_line(line)
            if fails:
                self._failures.append(f"FAILED llmcost_key_guard - keys in {cassettes}")

    def _close(self) -> RunEnd | None:
        """Sum up the run, again if there is news; None if there is nothing to say."""
        if self._pytest is None or self._pytest.config.option.collectonly:
            return None
        session = self.session
        session.catch_up()
        session.note_failures()
        asking = {"budgets", "max_suite", "report", "baseline", "history"}  # without a call, too
        is_asked = session.unmatched_globs or asking & session.settings.origins.keys()
        if not (is_asked or (session.has_spending and session.ledger)):
            return self._end
        session.incomplete.update(_why_incomplete(session, self._pytest))
        news = (session.changes, {*session.incomplete, *session.lost_calls, *session.notes})
        if self._end is None or self._closed_with != news:
            from pytest_llmcost.plugin.run_end import RunEnd

            self._end, self._closed_with = RunEnd(session, self._pytest), news
        return self._end

    @pytest.hookimpl(specname="pytest_terminal_summary", wrapper=True, tryfirst=True)
    def pytest_terminal_summary_ends(
        self, terminalreporter: pytest.TerminalReporter
    ) -> Generator[None, object, object]:
        """Write what fails the run by itself beside the failed tests, where people look last.

        Outside of all wrappers: pytest's own writes the short summary once the hooks are through.
        """
        result = yield
        if self._end is not None or self._failures:
            from pytest_llmcost.plugin.run_end import write_run_failures

            write_run_failures(self._end, self._failures, terminalreporter)
        return result

    def _find_keys(self) -> dict[str, list[str]]:
        """Return where each cassette that VCR wrote in this run holds what looks like a key."""
        found = dict[str, list[str]]()
        if self.session.saved_cassettes and self.session.settings.key_guard != "off":
            from pytest_llmcost.credentials import keys_in_cassette
            from pytest_llmcost.files import show_path

            for path in map(Path, sorted(self.session.saved_cassettes)):
                with suppress(OSError):  # removed since, or kept elsewhere by the user's persister
                    if keys := keys_in_cassette(path):
                        found[show_path(path)] = keys
        return found


def _why_incomplete(session: Session, pytest_session: pytest.Session) -> Iterator[str]:
    """Yield why the run does not stand for the whole suite: pytest was stopped, or asked to select.

    What the suite deselects however it is started is no part of it.
    """
    config, here = session.config, session.config.invocation_params.dir
    # pytest's own parser, which has no public name, so that every spelling of an option is read.
    own = vars(config._parser.parse_known_args(config.getini("addopts")))

    def are_own(names: Iterable[str]) -> bool:
        """Return whether these options are what the ini file alone says."""
        return all(own.get(name) == getattr(config.option, name, None) for name in names)

    if pytest_session.shouldstop or pytest_session.shouldfail:
        yield "stopped"
    # A conftest goes by the options that conftests declare.
    of_conftests = own.keys() - session.options_of_plugins if session.deselecting else ()
    if session.deselected and not are_own(("keyword", "markexpr", "deselect", *of_conftests)):
        yield "deselected"
    overridden = {*(config.option.override_ini or ())}.difference(own["override_ini"] or ())
    overrides = [each.partition("=") for each in overridden]
    given = [(here / arg).resolve() for arg in config.args]
    # Without `testpaths` it is not known what the suite is, and folders are taken for all of it.
    whole = [(config.rootpath / path).resolve() for path in config.getini("testpaths")]
    if (
        config.getoption("lf", False)  # leaves files out that are then not collected
        or config.getoption("setuponly", False)  # also set by `--setup-plan`
        or not are_own(("ignore", "ignore_glob", "keepduplicates"))
        # An empty one, as `-o addopts=`, leaves no test out.
        or any(value and name.strip() in _OF_COLLECTION for name, _, value in overrides)
        # A file, or a misspelt name; with `--pyargs` a package is all of it, too.
        or not (config.option.pyargs or all(path.is_dir() for path in given))
        or any("::" in arg for arg in config.args)
        or not all(any(path.is_relative_to(folder) for folder in given) for path in whole)
    ):
        yield "selected"

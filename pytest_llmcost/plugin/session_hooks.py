"""The end of a run: ceilings over several tests, report files, the summary.

Data flow: books -> `close` -> Report with its verdicts, decided once -> exit status, files,
terminal. Only in the process that owns the run, never in a worker.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_llmcost.plugin.session import Session

if TYPE_CHECKING:
    from pytest_llmcost.ledger.ledger import Ledger


class Suite:
    """The hooks of one run around its whole session."""

    def __init__(self, run: Session) -> None:
        """Close this run when its tests are through."""
        self.run = run
        self.report: Ledger | None = None
        self.problems: list[str] = []
        """Files that could not be written."""
        self._closed_with: tuple[object, ...] = ()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Judge the suite once all tests have run, while a failure still sets the exit status."""
        try:
            result = yield
        except BaseException as error:
            self.run.incomplete.add("interrupted")
            # `-x`, `--maxfail` and `pytest.exit()` end a run between two tests, calls complete.
            is_orderly = session.shouldstop or session.shouldfail
            if not (is_orderly or isinstance(error, pytest.exit.Exception)):
                self.run.lost_calls.add("interrupted")
            raise
        # The exit status and other plugins read this; it only turns success into failure.
        session.testsfailed += self._close(session) and self._is_broken(session)
        return result

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int
    ) -> Generator[None, object, object]:
        """Write every file, also after an interrupt, when the last fixtures are torn down."""
        if exitstatus == pytest.ExitCode.INTERRUPTED:
            self.run.incomplete.add("interrupted")
        if self._close(session):
            from pytest_llmcost.plugin.run_end import add_suite_properties

            add_suite_properties(self.run.config, self.report)  # JUnit is about to be written
        result = yield
        if self._close(session):
            self._publish(session, exitstatus)
        return result

    def _close(self, session: pytest.Session) -> bool:
        """Close the books, over again if there is news; whether there is anything in them."""
        if session.config.option.collectonly:
            return False
        self.run.catch_up()
        if failure := self.run.take_failure():
            self.run.notes.add(f"a pytest_llmcost hook failed outside of tests: {failure!r}")
        news = (
            self.run.has_books and self.run.books.changes,
            *sorted(self.run.incomplete | self.run.notes),
        )
        if self._has_something() and (self.report is None or self._closed_with != news):
            from pytest_llmcost.plugin.run_end import close

            self.report = close(self.run, session)
            self._closed_with = news
        return self.report is not None

    def _is_broken(self, session: pytest.Session) -> bool:
        """Whether a ceiling over several tests fails the run; one without tests is none."""
        from pytest_llmcost.plugin.run_end import is_broken

        assert self.report is not None
        return bool(session.testscollected) and is_broken(self.run, self.report)

    def _publish(self, session: pytest.Session, exitstatus: int) -> None:
        from pytest_llmcost.plugin.run_end import finish, publish

        assert self.report is not None
        self.report = finish(self.run, self.report, int(exitstatus))
        self.problems = publish(self.run, self.report)
        if exitstatus == pytest.ExitCode.OK and (self.problems or self._is_broken(session)):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self.run.hook("pytest_llmcost_report")(report=self.report, config=self.run.config)

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the summary; nothing when nothing was counted."""
        if self.report is not None:
            from pytest_llmcost.plugin.run_end import write_summary

            write_summary(self.run, self.report, self.problems, terminalreporter)

    @pytest.hookimpl(specname="pytest_terminal_summary", wrapper=True, tryfirst=True)
    def pytest_terminal_summary_ends(
        self, terminalreporter: pytest.TerminalReporter
    ) -> Generator[None, object, object]:
        """Write what fails the run by itself beside the failed tests, where people look last.

        Outside of all wrappers: pytest's own writes the short summary once the hooks are through.
        """
        result = yield
        if self.report is not None:
            from pytest_llmcost.plugin.run_end import write_run_failures

            write_run_failures(self.report, terminalreporter)
        return result

    def _has_something(self) -> bool:
        """Whether there is anything to close: a call, a ceiling, or a file that was asked for."""
        settings = self.run.settings
        asked = (settings.max_suite, settings.budgets, settings.report, settings.baseline)
        has_calls = self.run.has_books and bool(self.run.books.ledger)
        return has_calls or any(each not in (None, ()) for each in asked)

"""The end of a run: ceilings over several tests, report files, the summary.

Data flow: books -> `close` -> Report with its verdicts, decided once -> exit status, files,
terminal. Only in the process that owns the run, never in a worker.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_llmcost.plugin.run import Run

if TYPE_CHECKING:
    from pytest_llmcost.budgeting.ledger import Report


class Suite:
    """The hooks of one run around its whole session."""

    def __init__(self, run: Run) -> None:
        """Close this run when its tests are through."""
        self.run = run
        self.report: Report | None = None
        self.problems: list[str] = []
        """Files that could not be written."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """Judge the suite once all tests have run, while a failure still sets the exit status."""
        try:
            result = yield
        except BaseException:
            self.run.incomplete.add("interrupted")
            raise
        if self._has_something(session):
            from pytest_llmcost.plugin.closing import close, is_broken

            self.report = close(self.run, session)
            # The exit status and other plugins read this; it only turns success into failure,
            # and a run without tests is none.
            session.testsfailed += bool(session.testscollected and is_broken(self.run, self.report))
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write every file, also after an interrupt."""
        if not self._has_something(session):
            return
        from pytest_llmcost.plugin.closing import close, finish
        from pytest_llmcost.plugin.publishing import publish

        if exitstatus == pytest.ExitCode.INTERRUPTED:
            self.run.incomplete.add("interrupted")
        if self.report is None or self.run.incomplete - set(self.report.incomplete):
            self.report = close(self.run, session)
        self.report = finish(self.run, self.report, int(exitstatus))
        self.problems = publish(self.run, self.report)
        if self.problems and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self.run.hook("pytest_llmcost_report")(report=self.report, config=self.run.config)

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the summary; nothing when nothing was counted."""
        if self.report is not None:
            from pytest_llmcost.plugin.summary import write_summary

            write_summary(self.run, self.report, self.problems, terminalreporter)

    def _has_something(self, session: pytest.Session) -> bool:
        """Whether there is anything to close: a call, a ceiling, or a file that was asked for."""
        if session.config.option.collectonly:
            return False
        settings = self.run.settings
        asked = (settings.max_suite, settings.budgets, settings.report, settings.baseline)
        has_calls = self.run.has_books and bool(self.run.books.ledger)
        return has_calls or any(each not in (None, ()) for each in asked)

"""The end of a run: ceilings over several tests, report files, the summary.

Data flow: ledger -> `Suite.close` -> Report with its verdicts, decided once -> exit status, files,
terminal. Only in the process that owns the run, never in a worker.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_llmcost.budgeting.report import run_verdicts
from pytest_llmcost.plugin.closing import close, finish, has_books
from pytest_llmcost.plugin.publishing import mark_files, publish
from pytest_llmcost.plugin.run import Run
from pytest_llmcost.reporting.terminal import View, render_short, render_summary

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
        result = yield
        if not session.config.option.collectonly and has_books(self.run):
            self.report = close(self.run, session)
            # The exit status and other plugins read this; it only turns success into failure.
            broken = any(map(self.run.is_broken, run_verdicts(self.report)))
            session.testsfailed += broken
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write every file, also after an interrupt."""
        if session.config.option.collectonly or not has_books(self.run):
            return
        if exitstatus == pytest.ExitCode.INTERRUPTED:
            self.run.incomplete.add("interrupted")
        if self.report is None or self.run.incomplete - set(self.report.incomplete):
            self.report = close(self.run, session)
        self.report = finish(self.run, self.report, int(exitstatus))
        self.run.config.hook.pytest_llmcost_report(report=self.report, config=self.run.config)
        self.problems = publish(self.run, self.report)
        if self.problems and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the summary; nothing when nothing was counted."""
        if self.report is None:
            return
        if self.run.config.get_verbosity() < 0:
            text = render_short(self.report)
            if text:
                terminalreporter.write_line(text)
            return
        self._print(terminalreporter, self.report)

    def _print(self, terminal: pytest.TerminalReporter, report: Report) -> None:
        writer = self.run.config.get_terminal_writer()
        lines = render_summary(report, self._view(writer.fullwidth, _encoding(writer)))
        if lines:
            terminal.write_sep("=", "llmcost: what the Claude calls cost", blue=True)
        for line in lines:
            terminal.write_line(line.text, **line.markup)
        for problem in self.problems:
            terminal.write_line(f"not written: {problem}", red=True, bold=True)
        for command in mark_files(self.run, report):
            terminal.write_line(command)

    def _view(self, width: int, encoding: str) -> View:
        settings = self.run.settings
        return View(
            width=width,
            rows=settings.rows,
            per=settings.per,
            warn_at=settings.warn_at,
            unicode=encoding.lower().replace("-", "").startswith("utf"),
        )


def _encoding(writer: object) -> str:
    return getattr(getattr(writer, "_file", None), "encoding", None) or "utf-8"

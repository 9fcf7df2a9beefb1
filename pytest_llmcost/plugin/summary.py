"""The summary on the terminal: what `reporting.terminal` renders, written by pytest's writer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pytest_llmcost.budgeting.ledger import Report
from pytest_llmcost.budgeting.report import own_verdicts
from pytest_llmcost.plugin.publishing import mark_files
from pytest_llmcost.plugin.run import Run
from pytest_llmcost.plugin.whatif import with_columns
from pytest_llmcost.reporting.terminal import View, render_short, render_summary


def write_summary(
    run: Run, report: Report, problems: Sequence[str], terminal: pytest.TerminalReporter
) -> None:
    """Write the table and the verdicts, one line under `-q`; what went wrong in any case."""
    if run.config.get_verbosity() < 0:
        lines = render_short(report)
        if lines:
            terminal.write_line("; ".join(lines))
    else:
        _write_section(run, report, terminal)
    if run.settings.unverified == "warn" and (number := _count_let_pass(report)):
        tests = "1 test" if number == 1 else f"{number:,} tests"
        text = f"{tests} unverified, let pass by llmcost_unverified=warn"
        terminal.write_line(text, yellow=True, bold=True)
    for problem in problems:
        terminal.write_line(f"not written: {problem}", red=True, bold=True)
    for command in mark_files(run, report):
        terminal.write_line(command)


def _count_let_pass(report: Report) -> int:
    """Count the tests that passed although nobody knows whether they kept a ceiling."""
    return len(
        {
            test.nodeid
            for test in report.tests
            if test.outcome == "passed"
            and any(verdict.state == "unverified" for verdict in own_verdicts(test))
        }
    )


def _write_section(run: Run, report: Report, terminal: pytest.TerminalReporter) -> None:
    writer = run.config.get_terminal_writer()
    view = _view(run, writer.fullwidth, _encoding(writer))
    lines = render_summary(report, with_columns(run, report, view))
    if lines:
        terminal.write_sep("=", "llmcost: what the Claude calls cost", blue=True)
    for line in lines:
        terminal.write_line(line.text, **line.markup)


def _view(run: Run, width: int, encoding: str) -> View:
    settings = run.settings
    return View(
        width=width,
        rows=settings.rows,
        per=settings.per,
        warn_at=settings.warn_at,
        unicode=encoding.lower().replace("-", "").startswith("utf"),
    )


def _encoding(writer: object) -> str:
    return getattr(getattr(writer, "_file", None), "encoding", None) or "utf-8"

"""What leaves a run for others: report files, the job summary, annotations, the new baseline.

Data flow: Report -> renderers -> files. A file that cannot be written is an error of the run,
told in the summary; it never hides another one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pytest_llmcost.budgeting.budget import is_uncounted
from pytest_llmcost.budgeting.ledger import Report, TestRow, read_report, write_report
from pytest_llmcost.budgeting.ledger_file import write_file
from pytest_llmcost.budgeting.report import own_verdicts
from pytest_llmcost.errors import LedgerError, LlmCostError
from pytest_llmcost.plugin.run import Run


def publish(run: Run, report: Report) -> list[str]:
    """Write what was asked for; return what could not be written, a line each."""
    problems = [_attempt(partial(_write, path, report)) for path in run.settings.report]
    if run.settings.update_baseline and run.settings.baseline is not None:
        problems.append(_attempt(partial(_accept, run, run.settings.baseline, report)))
    if _is_github(run):
        problems.append(_attempt(partial(_write_job_summary, report)))
    return [problem for problem in problems if problem]


def _attempt(write: Callable[[], None]) -> str:
    try:
        write()
    except (LlmCostError, OSError) as error:
        return str(error)
    return ""


def _write(path: Path, report: Report) -> None:
    if path.suffix == ".json":
        write_report(report, path)
    else:
        from pytest_llmcost.reporting.markdown import render_markdown

        write_file(path, [render_markdown(report).encode()])


def _accept(run: Run, baseline: Path, report: Report) -> None:
    """Write the run as the new baseline; tests that did not pass keep what they had in the old.

    One that failed before it had sent all, and has nothing to keep, makes that impossible.
    """
    from pytest_llmcost.budgeting.baseline import keep_rows, write_baseline

    old = None if run.baseline is None else read_report(baseline)
    kept = set() if old is None else {test.nodeid for test in old.tests} & run.not_passed
    last = {test.nodeid: test for test in sorted(report.tests, key=lambda test: test.attempt)}
    failed = [each for each in sorted(last) if _failed_by_itself(last[each]) and each not in kept]
    if failed:
        raise LedgerError(
            f"{baseline}: is left as it was, for {failed[0]} failed"
            f"{f' and {len(failed) - 1} more' if len(failed) > 1 else ''}: what a failing test "
            "costs is not what it will cost"
        )
    if old is not None and report.complete:
        report = keep_rows(report, old, run.not_passed, run.books.card)
    write_baseline(report, baseline)


def _failed_by_itself(test: TestRow) -> bool:
    """Whether a test failed for another reason than its ceiling."""
    is_within = all(verdict.state == "within" for verdict in own_verdicts(test))
    is_stopped = any(map(is_uncounted, test.calls))  # the error ended the test, most likely
    return test.outcome in ("failed", "error") and (is_within or is_stopped)


def _is_github(run: Run) -> bool:
    return run.settings.github and os.environ.get("GITHUB_ACTIONS") == "true"


def _write_job_summary(report: Report) -> None:
    """Append, for the file is shared by all steps of the job."""
    from pytest_llmcost.reporting.github import render_job_summary

    path = Path(os.environ.get("GITHUB_STEP_SUMMARY", ""))
    if path.name:
        used = path.stat().st_size if path.exists() else 0
        with path.open("a", encoding="utf-8") as summary:
            summary.write(render_job_summary(report, used_bytes=used))


def mark_files(run: Run, report: Report) -> Iterator[str]:
    """The workflow commands that mark broken ceilings in the pull request's files."""
    if _is_github(run):
        from pytest_llmcost.reporting.github import render_annotations

        root = os.path.relpath(run.config.rootpath, os.environ.get("GITHUB_WORKSPACE", "."))
        yield from render_annotations(
            report, unverified=run.settings.unverified, root=Path(root).as_posix()
        )


def add_suite_properties(config: pytest.Config, report: Report | None) -> None:
    """Hand the totals to pytest's own JUnit file, through what `record_testsuite_property` uses."""
    from _pytest.junitxml import xml_key

    xml = config.stash.get(xml_key, None)
    if xml is not None and report is not None:
        from pytest_llmcost.reporting.junit import suite_properties

        for name, value in suite_properties(report):
            xml.add_global_property(name, value)

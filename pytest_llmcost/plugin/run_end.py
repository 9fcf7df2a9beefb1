"""Closing the books: from a run's ledger to the one Report that everything else shows.

Data flow: ledger, settings, baseline -> `close` -> Report with verdicts, decided once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
from msgspec.structs import replace

from pytest_llmcost.amounts import is_uncounted
from pytest_llmcost.budgets.increase import IncreaseLimit, parse_increase
from pytest_llmcost.errors import LedgerError, LlmCostError
from pytest_llmcost.ledger.ledger import Ledger, TestRow, calls_of, own_verdicts, run_verdicts
from pytest_llmcost.ledger.ledger import RunRecord as RunRecord
from pytest_llmcost.ledger.ledger_file import read_ledger, write_file, write_ledger
from pytest_llmcost.ledger.notes import length_band_notes, task_budget_notes
from pytest_llmcost.plugin.marker import budgets_of
from pytest_llmcost.plugin.other_models import with_columns, with_other_models
from pytest_llmcost.plugin.session import Session, utc_now
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.reports.terminal import View, render_short, render_summary
from pytest_llmcost.reports.wording import run_failures
from pytest_llmcost.settings import Settings

_STALE_CARD_DAYS = 90


def close(run: Session, session: pytest.Session) -> Ledger:
    """Sum up a run and decide every ceiling over several tests."""
    run.settle()
    run.books.put_all_away()
    run.incomplete.update(_what_is_missing(session))
    report = run.books.ledger.ledger(
        price_date=run.price_date.isoformat(),
        rate_card=run.books.card_id,
        run=_record(run, None),
        generator={name: version(name) for name in ("pytest-llmcost", "pytest")},
        cache_state=run.settings.cache,
        unverified=run.settings.unverified,
        incomplete=run.incomplete,
        lost_calls=run.lost_calls,
        budgets=[
            replace(budget, idle=budget.pattern in run.idle_places)
            for budget in budgets_of(run.settings)
        ],
        notes=[*run.all_notes, *_notes(run)],
    )
    if run.settings.model:
        report = with_other_models(run, report)
    near = length_band_notes(report, run.books.card, run.price_date) if run.books.ledger else ()
    budgets = task_budget_notes(report, run.books.card, on=run.price_date)
    cut_off = [
        f"{nodeid} exceeded its ceiling, and the run ended before this could fail it"
        for nodeid in _cut_off(report)
    ]
    notes = (*report.notes, *near, *budgets, *cut_off, *_mock_notes(run, report))
    report = replace(report, notes=notes)
    if run.baseline is None:
        return report
    return _compared(run.settings, run.books.card, report, run.baseline)


def _compared(settings: Settings, card: RateCard, report: Ledger, baseline: Path) -> Ledger:
    from pytest_llmcost.compare.baseline import compare

    comparison = compare(
        read_ledger(baseline),
        report,
        card,
        limits=_increase_limits(settings, "max_increase"),
        test_limits=_increase_limits(settings, "max_test_increase"),
    )
    return replace(report, comparison=comparison)


def _increase_limits(settings: Settings, label: str) -> list[IncreaseLimit]:
    """What may be added to the baseline; whatever it is, where it is being accepted."""
    if settings.update_baseline:
        return []
    origin = settings.origin(label)
    return [
        parse_increase(text, origin=origin, label=label, warn_at=settings.warn_at)
        for text in getattr(settings, label)
    ]


def is_broken(run: Session, report: Ledger) -> bool:
    """Whether a ceiling over several tests fails the run, or one that its test had no time to."""
    return any(map(run.books.is_broken, run_verdicts(report))) or bool(_cut_off(report))


def _cut_off(report: Ledger) -> list[str]:
    """The tests that exceeded a ceiling and did not fail: `pytest.exit()` ended the run in them."""
    last = {test.nodeid: test for test in report.tests}
    return [
        test.nodeid
        for test in last.values()
        if test.outcome in ("", "passed", "skipped")
        and any(verdict.state == "exceeded" for verdict in own_verdicts(test))
    ]


def finish(run: Session, report: Ledger, exit_status: int) -> Ledger:
    """Note how the run ended."""
    return replace(report, run=_record(run, exit_status))


def _record(run: Session, exit_status: int | None) -> RunRecord:
    return RunRecord(
        started_at=run.started_at,
        finished_at=utc_now(),
        exit_status=exit_status,
        workers=run.workers,
    )


def _what_is_missing(session: pytest.Session) -> Iterator[str]:
    """Why the run may not stand for the whole suite."""
    if session.shouldstop or session.shouldfail:
        yield "stopped"
    if not _covers_suite(session.config):
        yield "selected"


def _covers_suite(config: pytest.Config) -> bool:
    """Whether what pytest was told to run is all that it would run by itself.

    Without `testpaths` nobody knows what that is, and folders are taken for all of it.
    """
    here, told = config.invocation_params.dir, config.invocation_params.args
    if config.getoption("lf", False) or any(str(arg).startswith("--ignore") for arg in told):
        return False  # neither is told to `pytest_deselected`
    if any("::" in arg or (here / arg).is_file() for arg in config.args):
        return False
    given = [(here / arg).resolve() for arg in config.args]
    whole = [(config.rootpath / path).resolve() for path in config.getini("testpaths")]
    return all(any(path.is_relative_to(folder) for folder in given) for path in whole)


def _notes(run: Session) -> Iterator[str]:
    age = (run.price_date - run.books.card.checked_on).days if run.books.ledger else 0
    if age > _STALE_CARD_DAYS:
        yield (
            f"the rate card was checked {age} days before the price date "
            f"({run.books.card.checked_on}): update pytest-llmcost, or see `llmcost rates`"
        )


def _mock_notes(run: Session, report: Ledger) -> Iterator[str]:
    mocked = sum(call.evidence == "mocked" for call in calls_of(report))
    if mocked and run.settings.mocks == "trust":
        yield (
            f"{mocked:,} call{'s' if mocked > 1 else ''} cost what a mock says, whatever is sent; "
            "with --llmcost-mocks=count the input is counted"
        )


def publish(run: Session, report: Ledger) -> list[str]:
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


def _write(path: Path, report: Ledger) -> None:
    if path.suffix == ".json":
        write_ledger(report, path)
    else:
        from pytest_llmcost.reports.markdown import render_markdown

        write_file(path, [render_markdown(report).encode()])


def _accept(run: Session, baseline: Path, report: Ledger) -> None:
    """Write the run as the new baseline; tests that did not pass keep what they had in the old.

    One that failed before it had sent all, and has nothing to keep, makes that impossible.
    """
    from pytest_llmcost.compare.baseline import keep_rows, write_baseline

    old = None if run.baseline is None else read_ledger(baseline)
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


def _is_github(run: Session) -> bool:
    return run.settings.github and os.environ.get("GITHUB_ACTIONS") == "true"


def _write_job_summary(report: Ledger) -> None:
    """Append, for the file is shared by all steps of the job."""
    from pytest_llmcost.reports.github import render_job_summary

    path = Path(os.environ.get("GITHUB_STEP_SUMMARY", ""))
    if path.name:
        used = path.stat().st_size if path.exists() else 0
        with path.open("a", encoding="utf-8") as summary:
            summary.write(render_job_summary(report, used_bytes=used))


def mark_files(run: Session, report: Ledger) -> Iterator[str]:
    """The workflow commands that mark broken ceilings in the pull request's files."""
    if _is_github(run):
        from pytest_llmcost.reports.github import render_annotations

        root = os.path.relpath(run.config.rootpath, os.environ.get("GITHUB_WORKSPACE", "."))
        yield from render_annotations(
            report, unverified=run.settings.unverified, root=Path(root).as_posix()
        )


def add_suite_properties(config: pytest.Config, report: Ledger | None) -> None:
    """Hand the totals to pytest's own JUnit file, through what `record_testsuite_property` uses."""
    from _pytest.junitxml import xml_key

    xml = config.stash.get(xml_key, None)
    if xml is not None and report is not None:
        from pytest_llmcost.reports.junit import suite_properties

        for name, value in suite_properties(report):
            xml.add_global_property(name, value)


def write_summary(
    run: Session, report: Ledger, problems: Sequence[str], terminal: pytest.TerminalReporter
) -> None:
    """Write the table and the verdicts, one line under `-q`; what went wrong in any case."""
    if run.config.get_verbosity() < 0:
        if line := render_short(report):
            terminal.write_line(line)
    else:
        _write_section(run, report, terminal)
    if run.settings.unverified == "warn" and (number := _count_let_pass(report)):
        tests = "1 test" if number == 1 else f"{number:,} tests"
        text = f"{tests} passed with an unverified budget (llmcost_unverified=warn)"
        terminal.write_line(text, yellow=True, bold=True)
    for problem in problems:
        terminal.write_line(f"not written: {problem}", red=True, bold=True)
    for command in mark_files(run, report):
        terminal.write_line(command)


def write_run_failures(report: Ledger, terminal: pytest.TerminalReporter) -> None:
    """End pytest's short summary with the budgets that no test fails by."""
    lines = list(run_failures(report))
    if lines and not (terminal.stats.get("failed") or terminal.stats.get("error")):
        terminal.write_sep("=", "short test summary info", cyan=True, bold=True)
    for line in lines:
        terminal.write_line(line, red=True)


def _count_let_pass(report: Ledger) -> int:
    """Count the tests that passed although nobody knows whether they kept a ceiling."""
    return len(
        {
            test.nodeid
            for test in report.tests
            if test.outcome == "passed"
            and any(verdict.state == "unverified" for verdict in own_verdicts(test))
        }
    )


def _write_section(run: Session, report: Ledger, terminal: pytest.TerminalReporter) -> None:
    writer = run.config.get_terminal_writer()
    view = _view(run, writer.fullwidth, _encoding(writer))
    lines = render_summary(report, with_columns(run, report, view))
    if lines:
        terminal.write_sep("=", "llmcost", blue=True)
    for line in lines:
        terminal.write_line(line.text, **line.markup)


def _view(run: Session, width: int, encoding: str) -> View:
    settings = run.settings
    return View(
        width=width,
        rows=settings.rows,
        per=settings.per,
        unicode=encoding.lower().replace("-", "").startswith("utf"),
    )


def _encoding(writer: object) -> str:
    return getattr(getattr(writer, "_file", None), "encoding", None) or "utf-8"

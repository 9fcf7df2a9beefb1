"""What came of a test: its ceilings judged, its failure worded, its report filled in.

Data flow: the test's calls and ceilings -> `judge` -> Verdict -> `broken`, the failure; the
report of each phase -> `note` -> outcome, section; `add_properties` -> JUnit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
from _pytest.outcomes import Failed
from msgspec.structs import replace

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.budgets.budget import judge as judge_budget
from pytest_llmcost.call import Call
from pytest_llmcost.errors import CountMissingError, SettingsError
from pytest_llmcost.plugin.marker import ceilings_of
from pytest_llmcost.plugin.owners import Attempt
from pytest_llmcost.plugin.session import Session
from pytest_llmcost.reports.wording import (
    render_failure,
    render_missing_count,
    render_section,
    short_sentence,
)

_FAILED = "Failed: "
"""What pytest puts in front of the words of `pytest.fail`."""


class _Broken(Failed):
    """A ceiling's failure, told apart from whatever else a test fails by."""

    __module__ = "builtins"
    short = ""
    """For the line of pytest's short summary."""


_Broken.__qualname__ = _Broken.__name__ = "Failed"


def broken(verdict: Verdict, calls: Sequence[Call], others: Sequence[Verdict] = ()) -> _Broken:
    """Make the failure of a test, or of a block of it, that broke its ceiling, and maybe others."""
    return _failed(render_failure(verdict, calls, others), short_sentence(verdict))


def _failed(text: str, short: str) -> _Broken:
    failed = _Broken(_sendable(text), pytrace=False)
    failed.short = _sendable(short)
    return failed


def _sendable(text: str) -> str:
    """Spell out half characters, which a model's name may hold: a report with one ends a worker."""
    return text.encode("utf-8", "backslashreplace").decode()


def judge(run: Session, attempt: Attempt, *, needs_calls: bool) -> Verdict | None:
    """Decide every ceiling of a test once, store it, and return the decisive one."""
    try:
        ceilings = ceilings_of(attempt.item, run.settings)
    except SettingsError as error:  # a marker that was added while the test ran
        pytest.fail(str(error), pytrace=False)
    amounts = Amounts.of(run.books.calls_of(attempt, ceilings.cache))
    if attempt.has_requests:  # a request that cannot have been billed is no call
        amounts = replace(amounts, requests=max(amounts.requests, 1))
    command = run.count_command(attempt.item)
    return run.books.conclude(
        attempt,
        [
            judge_budget(
                replace(budget, required=budget.required and needs_calls),
                amounts,
                count_command=command,
            )
            for budget in ceilings.budgets
        ],
    )


def add_properties(run: Session, attempt: Attempt) -> None:
    """Hand the figures to JUnit; it shows the last attempt alone, so an earlier one's go."""
    from pytest_llmcost.reports.junit import PROPERTY_PREFIX, test_properties

    properties = attempt.item.user_properties
    kept = [each for each in properties if not each[0].startswith(PROPERTY_PREFIX)]
    properties[:] = [*kept, *test_properties(run.books.ledger.row(attempt.owner))]


def note(
    run: Session, attempt: Attempt, report: pytest.TestReport, call: pytest.CallInfo[None]
) -> None:
    """Note the outcome; show on a failed report what the test cost."""
    ledger = run.books.ledger
    if report.when != "teardown" or report.failed:
        ledger.judge(attempt.owner, outcome=_outcome(attempt, report))
    if not report.failed:
        return
    error = call.excinfo.value if call.excinfo is not None else None
    if call.excinfo is not None and isinstance(error, CountMissingError):
        # A traceback would bury what is missing, and the command.
        text, short = render_missing_count(error, attempt.verdict, _line_of(call.excinfo))
        error = _failed(text, short).with_traceback(error.__traceback__)
        report.longrepr = attempt.item.repr_failure(pytest.ExceptionInfo.from_exception(error))
    if isinstance(error, _Broken):
        _place(report, attempt.item, error.short)
        return
    calls = ledger.calls(attempt.owner)
    if calls:
        text = _sendable(render_section(calls, attempt.verdict))
        report.sections.append(("llmcost", text))


def _outcome(attempt: Attempt, report: pytest.TestReport) -> str:
    if attempt.has_failed and report.passed:  # all but a subtest
        return "failed"
    if hasattr(report, "wasxfail"):
        return "xpassed" if report.passed else "xfailed"
    return "error" if report.failed and report.when != "call" else str(report.outcome)


def _line_of(info: pytest.ExceptionInfo[BaseException]) -> str:
    """The last line of the user's own on the way to an error."""
    frames = info.traceback.filter(info)
    return os.path.relpath(f"{frames[-1].path}:{frames[-1].lineno + 1}") if frames else ""


def _place(report: pytest.TestReport, item: pytest.Item, short: str) -> None:
    """Let the summary's line begin with the numbers, and annotations point at the test."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None and crash.message.startswith(_FAILED):
        crash.message = short
        crash.path, crash.lineno = str(item.path), (item.location[1] or 0) + 1

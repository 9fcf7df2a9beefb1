"""What came of a test: its budgets judged, its failure worded, its report filled in."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from pathlib import Path
from traceback import walk_tb
from types import TracebackType
from typing import NoReturn, get_args

import pytest
from _pytest._code import Traceback
from _pytest.outcomes import Failed
from msgspec.structs import replace

from pytest_llmcost.budgets.budget import Budget, State, Verdict, judge_calls
from pytest_llmcost.call import Call
from pytest_llmcost.compare.repriced import at_worst
from pytest_llmcost.errors import CountError, LiveCapError, LlmCostError, SettingsError
from pytest_llmcost.money import exactly
from pytest_llmcost.plugin.calls import calls_in, calls_of
from pytest_llmcost.plugin.counts import count_command
from pytest_llmcost.plugin.marker import limits_of
from pytest_llmcost.plugin.owners import Owner, TestAttempt, location_of, nodeid_of
from pytest_llmcost.plugin.session import Hooks, Session
from pytest_llmcost.reports.junit import test_properties, with_properties
from pytest_llmcost.reports.wording import (
    render_failure,
    render_missing_count,
    render_section,
    short_sentence,
)

_RANK = get_args(State)
_Raised = pytest.ExceptionInfo[BaseException]


class _BudgetFailed(Failed):
    """The failure of a budget, to tell it from everything else that a test fails by."""

    __module__ = "builtins"

    def __init__(self, text: str, short: str) -> None:
        """Keep the text, and what stands in the line of pytest's short summary."""
        super().__init__(_sendable(text), pytrace=False)
        self.short = _sendable(short)


_BudgetFailed.__qualname__ = _BudgetFailed.__name__ = "Failed"


@exactly()
def budget_failure(
    owner: Owner, verdict: Verdict, calls: Sequence[Call], others: Sequence[Verdict] = ()
) -> BaseException:
    """Return the failure of a test, or of a block of it, by a budget, and perhaps others."""
    text = render_failure(verdict, calls, others, owner.parts)
    for for_files, in_full in owner.count_errors.items():
        text = text.replace(for_files, in_full)
    return _BudgetFailed(text, short_sentence(verdict))


def _sendable(text: str) -> str:
    """Spell out lone surrogates, for example in a model's name: they would end an xdist worker."""
    return text.encode("utf-8", "backslashreplace").decode()


@exactly()
def judge_budget(session: Session, owner: Owner, budget: Budget, calls: Sequence[Call]) -> Verdict:
    """Return what became of a budget of a test, or of a block of it."""
    lost = ["internal-error"] if owner.has_lost_calls else []
    if session.children.are_lost(owner):
        lost.append("forked-child")
    if budget.kind == "worst":
        payloads, card, on = session.ledger.payloads, session.card, session.price_date
        # Of the calls as they were sent: a warm cache does not say how long each entry lives.
        calls = [at_worst(call, payloads, card, on=on) for call in calls_of(session, owner)]
    return judge_calls(
        budget,
        calls,
        find=session.card.find,
        parts=owner.parts,
        has_requests=owner.has_requests,  # one that cannot have been billed is no call
        live_requests=owner.live_requests,
        lost_calls=lost,
        count_command=count_command(session.config, session.settings, owner.nodeid, owner.item),
    )


def judge(session: Session, attempt: TestAttempt) -> None:
    """Judge every budget of a test, and store the verdicts, and which of them fail it.

    A verdict by which the test has failed stays, with its figures, if it would be better now.
    """
    before = {each.subject: each for each in attempt.verdicts if attempt.is_failed_by_budget}
    try:
        limits = limits_of(attempt.item, session.settings)
    except SettingsError as error:  # a marker that was added while the test ran
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    if limits.is_live_stated:
        session.live_markers.add(nodeid_of(attempt.item))
    calls = calls_in(session, calls_of(session, attempt), limits.cache)
    verdicts = list[Verdict]()
    for budget in limits.budgets:
        # A marker needs a call, but of a test alone that has come to its end.
        is_required = budget.required and attempt.ending == "whole"
        now = judge_budget(session, attempt, replace(budget, required=is_required), calls)
        old = before.get(now.subject, now)
        verdicts.append(max(now, old, key=lambda each: _RANK.index(each.state)))
    attempt.verdicts = sorted(verdicts, key=lambda each: -_RANK.index(each.state))
    # The cap on live spend is the run's: of a test it says something only if it refused a call.
    own = [each for each in attempt.verdicts if (each.kind, each.state) != ("refused", "within")]
    blocks = [verdict for verdict, _ in attempt.blocks]
    if own or blocks:
        verdict = own[0] if own else None
        session.ledger.judge(attempt.key, verdict=verdict, blocks=[*own[1:], *blocks])
    # A skipped test had no chance to show that it keeps a budget, so it fails only by what is
    # exceeded; one that ended with `pytest.xfail()` stays an xfail.
    unverified = "warn" if attempt.ending == "skip" else session.settings.unverified
    judged = [*((each, calls) for each in attempt.verdicts), *attempt.blocks]
    attempt.broken = [each for each in judged if each[0].fails(unverified)]
    if attempt.ending == "xfail":
        attempt.broken = []


def judge_late(session: Session) -> None:
    """Judge again the tests whose calls have changed since their end."""
    session.settle()
    while session.changed_late:  # one by one: another thread may end a call meanwhile
        attempt, _ = session.changed_late.popitem()
        if attempt.verdicts or attempt.blocks:
            judge(session, attempt)


def fail(attempt: TestAttempt) -> NoReturn:
    """Fail a test by its broken budgets."""
    attempt.is_failed_by_budget = True
    # Private: pytest would report unittest's skip, which it holds, in place of what is raised here.
    vars(attempt.item).pop("_excinfo", None)
    (worst, calls), *others = attempt.broken
    # This frame is not hidden: if all are, pytest adds a line about that to the message.
    raise budget_failure(attempt, worst, calls, [verdict for verdict, _ in others]) from None


class Reports(Hooks):
    """The hook that fills in the reports of tests; registered once there is anything to say."""

    # The outermost wrapper, so that what xfail and unittest make of the report is known.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note the outcome; show what the test cost on its report."""
        session, before = self.session, self.session.attempt
        if call.when == "teardown" and before is not None and before.item is item:
            session.settle(before)  # of what is still under way, only that it is unknown
            if before.has_spent or before.verdicts:
                # JUnit shows the last attempt alone, so without the figures of earlier ones.
                added = test_properties(session.ledger.row(before.key))
                item.user_properties[:] = with_properties(item.user_properties, added)
        # The first of unittest's own takes the place of the other.
        for raised in (call.excinfo, *(getattr(item, "_excinfo", None) or ())):
            if raised is not None and isinstance(raised.value, LiveCapError):
                _hide_libraries(raised)
        report = yield
        attempt = session.attempt  # perhaps another one: pytest-retry runs a test again meanwhile
        if attempt and not (attempt.item is item and (attempt.has_spent or attempt.verdicts)):
            attempt = None  # the ledger has nothing of it
        _note_outcome(session, item, attempt, report)
        session.children.put_on_report(report)
        if report.failed:
            _explain(session, item, attempt, report, call.excinfo)
        return report


def _hide_libraries(raised: _Raised) -> None:
    """Leave the frames alone that are under test, of what comes from deep inside a library."""
    own, standard = None, os.path.dirname(os.__file__)
    for frame, line in reversed([*walk_tb(raised.tb)]):
        path = Path(frame.f_code.co_filename)
        is_installed = {"site-packages", "dist-packages"}.intersection(path.parts)
        if not (is_installed or path.is_relative_to(standard)):
            own = TracebackType(own, frame, frame.f_lasti, line)
    if own is not None:
        raised.traceback = Traceback(own)


def _note_outcome(
    session: Session, item: pytest.Item, attempt: TestAttempt | None, report: pytest.TestReport
) -> None:
    """Note in the ledger how a test ends, and for the baseline whether it has passed so far."""
    if report.failed:
        session.attempt_of(item).has_failed = True
    if attempt is not None:
        outcome = str(report.outcome)
        if attempt.has_failed and report.passed:  # all but a subtest
            outcome = "failed"
        elif hasattr(report, "wasxfail"):
            outcome = "xpassed" if report.passed else "xfailed"
        elif report.failed and report.when != "call":
            outcome = "error"
        if report.when != "teardown" or report.failed:
            session.ledger.judge(attempt.key, outcome=outcome)
    is_skipped = report.skipped and report.when != "teardown"
    if report.failed or (is_skipped and not hasattr(report, "wasxfail")):
        session.not_passed.add(nodeid_of(item))
    elif report.when != "teardown" and not (session.attempt and session.attempt.has_failed):
        # A new attempt, or a test that passed although one of its subtests was skipped.
        session.not_passed.discard(nodeid_of(item))


@exactly()
def _explain(
    session: Session,
    item: pytest.Item,
    attempt: TestAttempt | None,
    report: pytest.TestReport,
    raised: _Raised | None,
) -> None:
    """Let the report of a failure begin with the numbers, and show what the test cost."""
    error = None if raised is None else raised.value
    verdict = attempt.verdicts[0] if attempt and attempt.verdicts else None
    if attempt is not None and raised is not None and isinstance(error, CountError):
        # A traceback would bury what is missing, and the command: the user's own line is enough.
        frames = raised.traceback.filter(raised)
        where = f"{frames[-1].path}:{frames[-1].lineno + 1}" if frames else ""
        where = where and os.path.relpath(where, session.config.invocation_params.dir)
        text, short = render_missing_count(error, verdict, where)
        error = _BudgetFailed(text, short).with_traceback(error.__traceback__)
        report.longrepr = item.repr_failure(pytest.ExceptionInfo.from_exception(error))
    crash = getattr(report.longrepr, "reprcrash", None)
    if isinstance(error, _BudgetFailed):
        # For the line in the summary, where pytest has a type; annotations point at the test.
        if crash is not None and crash.message.startswith("Failed: "):
            crash.message = error.short
            crash.path, crash.lineno = str(item.path), location_of(item)[1] or 1
        return
    if crash is not None and isinstance(error, (LlmCostError, LiveCapError)):
        crash.message = _sendable(str(error))  # its module path would fill the summary's line
    if attempt is not None and (calls := session.ledger.calls(attempt.key)):
        report.sections.append(("llmcost", _sendable(render_section(calls, verdict))))

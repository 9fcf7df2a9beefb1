"""What came of a test: its budgets judged, its failure worded, its report filled in."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from pathlib import Path
from traceback import walk_tb
from types import TracebackType

import pytest
from _pytest.outcomes import Failed
from msgspec.structs import replace

from pytest_llmcost.budgets.budget import Budget, Verdict, judge_calls
from pytest_llmcost.call import Call
from pytest_llmcost.compare.repriced import at_worst
from pytest_llmcost.errors import (
    CountError,
    CountMissingError,
    LiveCapError,
    LlmCostError,
    SettingsError,
)
from pytest_llmcost.money import exactly
from pytest_llmcost.plugin.calls import calls_in, calls_of
from pytest_llmcost.plugin.counts import count_command
from pytest_llmcost.plugin.marker import limits_of
from pytest_llmcost.plugin.owners import Owner, TestAttempt, nodeid_of
from pytest_llmcost.plugin.session import Session
from pytest_llmcost.reports.junit import PROPERTY_PREFIX, test_properties
from pytest_llmcost.reports.wording import (
    render_failure,
    render_missing_count,
    render_section,
    short_sentence,
)
from pytest_llmcost.settings import Settings

_FAILED = "Failed: "
"""What pytest puts in front of the text of `pytest.fail`."""
_RANK = ("within", "unverified", "exceeded")
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
    owner: Owner,
    verdict: Verdict,
    calls: Sequence[Call],
    others: Sequence[Verdict] = (),
) -> BaseException:
    """Return the failure of a test, or of a block of it, by a budget, and perhaps others."""
    text = render_failure(verdict, calls, others, owner.parts)
    return _BudgetFailed(text, short_sentence(verdict))


def _sendable(text: str) -> str:
    """Spell out lone surrogates, for example in a model's name: they would end an xdist worker."""
    return text.encode("utf-8", "backslashreplace").decode()


@exactly()
def judge_budget(
    session: Session, owner: Owner, budget: Budget, calls: Sequence[Call], *, needs_calls: bool
) -> Verdict:
    """Return what became of a budget of a test, or of a block of it."""
    nodeid = owner.nodeid if isinstance(owner, TestAttempt) else ""
    lost = ["internal-error"] if owner.has_lost_calls else []
    if session.children is not None and session.children.are_lost(owner):
        lost.append("forked-child")
    if budget.kind == "worst":
        payloads, card, on = session.ledger.payloads, session.card, session.price_date
        # Of the calls as they were sent: a warm cache does not say how long each entry lives.
        calls = [at_worst(call, payloads, card, on=on) for call in calls_of(session, owner)]
    return judge_calls(
        replace(budget, required=budget.required and needs_calls),
        calls,
        parts=owner.parts,
        has_requests=owner.has_requests,  # one that cannot have been billed is no call
        live_requests=owner.live_requests,
        lost_calls=lost,
        count_command=count_command(session.config, nodeid, owner.item),
    )


def judge(session: Session, attempt: TestAttempt, *, needs_calls: bool) -> None:
    """Judge every budget of a test, and store the verdicts.

    `needs_calls` says whether a marker on a test that has sent nothing is a budget unverified.
    """
    try:
        attempt.verdicts = _verdicts(session, attempt, needs_calls)
    except SettingsError as error:  # a marker that was added while the test ran
        pytest.fail(str(error), pytrace=False)
    _store(session, attempt)


def judge_again(session: Session, attempt: TestAttempt, *, needs_calls: bool) -> None:
    """Judge a test that has been judged.

    The figures are those of now, but no verdict becomes better: the test has failed by it.
    """
    before = {verdict.subject: verdict for verdict in attempt.verdicts}
    attempt.verdicts = _verdicts(session, attempt, needs_calls)
    for at, now in enumerate(attempt.verdicts):
        old = before.get(now.subject, now)
        if _RANK.index(now.state) < _RANK.index(old.state):
            attempt.verdicts[at] = replace(now, state=old.state, reasons=old.reasons)
    _store(session, attempt)


def judge_late(session: Session) -> None:
    """Judge again the tests whose calls have changed since their end."""
    session.settle()
    while session.changed_late:  # one by one: another thread may end a call meanwhile
        attempt, _ = session.changed_late.popitem()
        if attempt.verdicts or attempt.blocks:
            judge_again(session, attempt, needs_calls=False)


def _verdicts(session: Session, attempt: TestAttempt, needs_calls: bool) -> list[Verdict]:
    limits = limits_of(attempt.item, session.settings)
    state = limits.cache or session.settings.cache
    calls = calls_in(session, calls_of(session, attempt), state)
    return [
        judge_budget(session, attempt, budget, calls, needs_calls=needs_calls)
        for budget in limits.budgets
    ]


def _store(session: Session, attempt: TestAttempt) -> None:
    attempt.verdicts.sort(key=lambda each: -_RANK.index(each.state))
    # The cap on live spend is the run's: of a test it says something only if it refused a call.
    own = [each for each in attempt.verdicts if (each.kind, each.state) != ("refused", "within")]
    blocks = [*own[1:], *attempt.blocks]
    if own or blocks:
        session.ledger.judge(attempt.key, verdict=own[0] if own else None, blocks=blocks)


def broken_verdicts(attempt: TestAttempt, settings: Settings) -> list[Verdict]:
    """Return the verdicts that fail a test, the worst first, those of blocks last.

    A skipped test had no chance to show that it keeps a budget, so it fails only by what is
    exceeded; one that ended with `pytest.xfail()` stays an xfail.
    """
    if attempt.is_xfailed:
        return []
    return [
        each
        for each in (*attempt.verdicts, *attempt.blocks)
        if each.state == "exceeded" or (not attempt.is_skipped and each.fails(settings.unverified))
    ]


class Reports:
    """The hook that fills in the reports of tests; registered once there is anything to say."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note the outcome; show what the test cost on its report."""
        session, attempt, is_last = self._session, self._session.attempt, call.when == "teardown"
        has_spent = False
        if attempt is not None and attempt.item is item:
            if is_last:
                session.settle(attempt)  # of what is still under way, only that it is unknown
            has_spent = attempt.has_spent or bool(attempt.verdicts)
            if has_spent and is_last:
                # JUnit shows the last attempt alone, so without the figures of earlier ones.
                kept = [
                    each for each in item.user_properties if not each[0].startswith(PROPERTY_PREFIX)
                ]
                added = test_properties(session.ledger.row(attempt.key))
                item.user_properties[:] = [*kept, *added]
        call.excinfo = call.excinfo and _without_libraries(call.excinfo)
        of_unittest = getattr(item, "_excinfo", None) or []  # pytest puts it in its place
        of_unittest[:] = map(_without_libraries, of_unittest)
        report = yield
        if attempt is not session.attempt:
            # A plugin such as pytest-retry has run the test again; the last report is of the last.
            attempt = session.attempt
            if session.has_spending:
                last = None if attempt is None else attempt.key
                session.ledger.fail_all_but(last, nodeid_of(item))
            has_spent = attempt is not None and (attempt.has_spent or bool(attempt.verdicts))
        if attempt is not None and has_spent:
            attempt.has_failed |= report.failed
            _note_report(session, attempt, report, call)
        if session.children is not None:
            session.children.put_on_report(report)
        if report.outcome != "passed" or session.not_passed:
            self._note_passing(item, report)
            error = call.excinfo.value if report.failed and call.excinfo else None
            crash = getattr(report.longrepr, "reprcrash", None)
            is_ours = isinstance(error, (LlmCostError, LiveCapError))
            is_ours = is_ours and not isinstance(error, CountMissingError)
            if crash is not None and is_ours:
                # An error's module path would fill the summary's line.
                crash.message = str(error)
        return report

    def _note_passing(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Note whether a test has passed so far; of several attempts the last one counts."""
        session, nodeid = self._session, nodeid_of(item)
        if report.failed:
            session.attempt_of(item).has_failed = True
        is_skipped = report.skipped and report.when != "teardown"
        if report.failed or (is_skipped and not hasattr(report, "wasxfail")):
            session.not_passed.add(nodeid)
        elif report.when != "teardown" and not (session.attempt and session.attempt.has_failed):
            # A new attempt, or a test that passed although one of its subtests was skipped.
            session.not_passed.discard(nodeid)


def _without_libraries(raised: _Raised) -> _Raised:
    """Return what was raised; if by the live cap, with the frames alone that are under test.

    It comes from deep inside an HTTP library, which has nothing to do with why.
    """
    if not isinstance(raised.value, LiveCapError):
        return raised
    own, standard = None, os.path.dirname(os.__file__)
    for frame, line in reversed([*walk_tb(raised.tb)]):
        file = frame.f_code.co_filename
        is_installed = {"site-packages", "dist-packages"}.intersection(Path(file).parts)
        if not is_installed and not file.startswith(standard):
            own = TracebackType(own, frame, frame.f_lasti, line)
    return pytest.ExceptionInfo.from_exception(raised.value.with_traceback(own or raised.tb))


@exactly()
def _note_report(
    session: Session, attempt: TestAttempt, report: pytest.TestReport, call: pytest.CallInfo[None]
) -> None:
    """Note the outcome; show on a failed report what the test cost."""
    if report.when != "teardown" or report.failed:
        outcome = str(report.outcome)
        if attempt.has_failed and report.passed:  # all but a subtest
            outcome = "failed"
        elif hasattr(report, "wasxfail"):
            outcome = "xpassed" if report.passed else "xfailed"
        elif report.failed and report.when != "call":
            outcome = "error"
        session.ledger.judge(attempt.key, outcome=outcome)
    elif not session.ledger.row(attempt.key).outcome:  # it had spent nothing before
        session.ledger.judge(attempt.key, outcome=session.outcome)
    if not report.failed:
        return
    verdict = attempt.verdicts[0] if attempt.verdicts else None
    info = call.excinfo
    error = None if info is None else info.value
    if info is not None and isinstance(error, CountError):
        # A traceback would bury what is missing, and the command: the user's own line is enough.
        frames = info.traceback.filter(info)
        where = f"{frames[-1].path}:{frames[-1].lineno + 1}" if frames else ""
        where = where and os.path.relpath(where, session.config.invocation_params.dir)
        text, short = render_missing_count(error, verdict, where)
        error = _BudgetFailed(text, short).with_traceback(error.__traceback__)
        report.longrepr = attempt.item.repr_failure(pytest.ExceptionInfo.from_exception(error))
    if isinstance(error, _BudgetFailed):
        # Let the summary's line begin with the numbers, and annotations point at the test.
        crash = getattr(report.longrepr, "reprcrash", None)
        if crash is not None and crash.message.startswith(_FAILED):
            crash.message = error.short
            crash.path, crash.lineno = str(attempt.item.path), (attempt.item.location[1] or 0) + 1
    elif calls := session.ledger.calls(attempt.key):
        report.sections.append(("llmcost", _sendable(render_section(calls, verdict))))

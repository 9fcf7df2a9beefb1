"""Marks: every verdict that a run is judged by, with what it is about and where that stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pytest_llmcost.budgeting.budget import Verdict
from pytest_llmcost.budgeting.comparison import Comparison
from pytest_llmcost.budgeting.report import Report, TestRow, own_verdicts


class Mark(NamedTuple):
    """A verdict and what it is about, in our words and in a name that is not ours."""

    verdict: Verdict
    words: str = ""
    name: str = ""
    path: str = ""
    line: int | None = None


def marks_of(report: Report) -> Iterator[Mark]:
    """Yield the ceilings over the run, increases, and those of each test's last attempt.

    A breach that is expected, under `xfail`, is none.
    """
    yield from marks_of_run(report)
    for test in _last_attempts(report.tests):
        if test.outcome != "xfailed":
            for verdict in own_verdicts(test):
                yield Mark(verdict, "", test.nodeid, test.path, test.line)


def marks_of_run(report: Report) -> Iterator[Mark]:
    """Yield the ceilings over several tests, and increases: what fails a run by itself."""
    for verdict in report.verdicts:
        yield Mark(verdict, verdict.scope, verdict.pattern or "")
    comparison = report.comparison or Comparison()
    yield from (Mark(verdict, "increase") for verdict in comparison.verdicts)
    for change in comparison.changes:
        for verdict in change.verdicts:
            yield Mark(verdict, "increase of", change.name, change.path, change.line)


def _last_attempts(tests: Iterable[TestRow]) -> list[TestRow]:
    last: dict[str, TestRow] = {}
    for test in sorted(tests, key=lambda each: each.attempt):
        last[test.nodeid] = test
    return [last[nodeid] for nodeid in sorted(last)]

"""Guards of the baseline that a run no longer has: tests and budgets that watch nothing now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from decimal import Decimal
from typing import NamedTuple, cast

from pytest_llmcost.amounts import Amounts, Range
from pytest_llmcost.budgets.budget import Budget, Verdict, decide
from pytest_llmcost.ledger.ledger import How, Ledger, Status, TestRow, Vanished, own_verdicts


class Fates(NamedTuple):
    """What a run knows of its tests that its ledger does not hold."""

    is_searched: Callable[[str], bool]
    """Whether a test would have been found if it still existed."""
    selected: Set[str] = frozenset()
    """All tests that were to run."""
    skipped: Set[str] = frozenset()
    """Tests, and modules and classes that were skipped whole."""
    not_passed: Set[str] = frozenset()
    """The same, and those that failed: one that ended early shows no budget."""
    deselected: Set[str] = frozenset()
    """Tests that no run has any more, because the ini file deselects them."""

    def is_skipped(self, nodeid: str) -> bool:
        """Whether a test was skipped, or what it is in."""
        return not self.skipped.isdisjoint(_around(nodeid))


def _around(nodeid: str) -> set[str]:
    """Return the ids of a test and of all that it is in."""
    return {nodeid, *(nodeid[:at] for at, each in enumerate(nodeid) if each in ":/")}


def why_without_calls(nodeid: str, fates: Fates | None) -> Status:
    """Say what is known of a test of the baseline that has no call in a whole run."""
    if fates is None:
        return "no calls"
    if fates.is_skipped(nodeid):
        return "skipped"
    return "no calls" if nodeid in fates.selected else "removed"


def find_vanished(base: Ledger, head: Ledger, fates: Fates | None = None) -> Iterator[Vanished]:
    """Yield the tests with a budget or calls that are gone, and those that lost their budget.

    A part of a suite shows only what is wrong in it: what it left out is not gone. A test of
    another name that sends the same prompts is the same guard, of one test alone.
    """
    before, now = ({test.nodeid: test for test in each.tests} for each in (base, head))
    renamed: dict[tuple[str, ...], list[TestRow]] = {}
    for name, test in now.items():
        if name not in before:
            renamed.setdefault(_prompts(test), []).append(test)
    for nodeid, test in before.items():
        budgets = [
            each
            for each in own_verdicts(test)
            if each.scope == "test"
            and each.kind != "unbudgeted"
            # One of the suite's own files, and not of how it was once started.
            and not each.origin.startswith(("--", "PYTEST_"))
        ]
        if test.outcome == "skipped" or not (budgets or test.calls):
            continue
        row, how = now.get(nodeid), cast("How | None", None)
        if fates and fates.is_skipped(nodeid):
            how = "skipped"
        elif fates and not fates.not_passed.isdisjoint(_around(nodeid)):
            continue
        elif fates and nodeid in fates.deselected:
            how = "deselected"
        elif row is None and head.complete:
            prompts = _prompts(test)
            if fates and nodeid in fates.selected:
                how = "without its budget" if budgets else None
            elif prompts and (alike := renamed.get(prompts)):
                had = _subjects(test)
                row = min(alike, key=lambda each: len(had ^ _subjects(each)))
                alike.remove(row)
            elif fates is None or fates.is_searched(nodeid):
                how = "deleted or renamed" if fates else "not in this run"
        if budgets and how is None and row and row.outcome in ("passed", "xpassed"):
            budgets = [each for each in budgets if each.subject not in _subjects(row)]
            how = "without its budget" if budgets else None
        if how is not None:
            spent = Amounts.of(test.calls)
            yield Vanished(
                name=nodeid,
                how=how,
                base_usd=spent.usd,
                base_calls=spent.calls,
                base_is_least=spent.is_least,
                verdict=budgets[0] if budgets else None,
            )


def _subjects(test: TestRow) -> set[object]:
    """Return what the budgets of a test limit."""
    return {verdict.subject for verdict in own_verdicts(test)}


def _prompts(test: TestRow) -> tuple[str, ...]:
    """Return what a test sends; empty if it is unknown of a call."""
    prompts = tuple(sorted(filter(None, (call.fingerprint for call in test.calls))))
    return prompts if len(prompts) == len(test.calls) else ()


def judge_vanished(number: int, origin: str) -> Verdict:
    """Return the verdict that fails a run by guards that vanished."""
    label = "vanished fail"
    budget = Budget(scope="increase", kind="vanished", limit=Decimal(0), origin=origin, label=label)
    return decide(budget, Range.exactly(number), budget.limit, budget.limit)

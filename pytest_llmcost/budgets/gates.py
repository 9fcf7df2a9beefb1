"""Gates: what is allowed of single calls, judged like every budget.

A gate chooses which calls count; the comparison is the one of all budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from fnmatch import fnmatchcase

from msgspec.structs import replace

from pytest_llmcost.amounts import COUNT_COMMAND, Amounts, most
from pytest_llmcost.budgets.budget import Budget, Verdict, judge
from pytest_llmcost.call import Call


def judge_calls(
    budget: Budget,
    calls: Iterable[Call],
    *,
    has_requests: bool = False,
    lost_calls: Iterable[str] = (),
    count_command: str = COUNT_COMMAND,
) -> Verdict:
    """Judge any budget, gates included, over the calls of one owner.

    Args:
        budget: The budget.
        calls: The owner's calls.
        has_requests: Whether it has sent a request, even one that cannot have been billed.
        lost_calls: Why calls are missing, if any are.
        count_command: What the reasons name for counting a changed prompt.
    """
    calls = tuple(calls)
    counting = concerned(budget, calls)
    amounts = Amounts.of(counting)
    if budget.is_per_call:  # the largest is unknown if one of them is
        amounts = most([Amounts.of([each]) for each in calls] or [amounts])
    amounts = replace(amounts, requests=max(len(calls), int(has_requests)))
    verdict = judge(budget, amounts.with_lost_calls(lost_calls), count_command=count_command)
    if budget.kind != "models" or not counting:
        return verdict
    found = {name for call in counting for name in _foreign(call, budget.models)}
    return replace(verdict, found=tuple(sorted(found)))


def concerned(budget: Budget, calls: Sequence[Call]) -> Sequence[Call]:
    """Return the calls that count against a budget: of a gate the foreign ones or the largest."""
    if budget.is_per_call:
        return [max(calls, key=lambda each: _least(each, budget))] if calls else []
    if budget.kind != "models":
        return calls
    return [call for call in calls if _foreign(call, budget.models)]


def _least(call: Call, budget: Budget) -> Decimal:
    return Amounts.of([call])[budget.quantity].low or Decimal(0)


def _foreign(call: Call, globs: Iterable[str]) -> list[str]:
    """Return the models of a call that no glob allows; fallbacks and advisors have their own."""
    names = dict.fromkeys([call.model, *(each.model for each in call.sampling_calls)])
    return [name for name in names if not any(fnmatchcase(name, glob) for glob in globs)]

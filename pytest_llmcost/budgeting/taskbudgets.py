"""Task budgets: what a run's advisory budgets would come to, told as the bounds that they are not.

Data flow: Report, RateCard -> `task_budget_notes` -> sentences for the summary and the comment.

Source: https://platform.claude.com/docs/en/build-with-claude/task-budgets, read 2026-11-22.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal

from pytest_llmcost.budgeting.report import Report
from pytest_llmcost.budgeting.whatif import spenders_of
from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.pricing.money import EXACT, format_usd
from pytest_llmcost.pricing.ratecard import RateCard

_MOST_NAMES = 3
_MILLION = 6


def task_budget_notes(report: Report, card: RateCard, *, on: date) -> Iterator[str]:
    """Yield a sentence for each task budget that a run's payloads state, with who states it.

    The tokens are thinking, tool calls, their results and text together, over a whole task; what
    they cost at most is all of them as output, which is the dearest kind.
    """
    who: dict[tuple[str, int], dict[str, None]] = {}
    for _, name, _, calls in spenders_of(report):
        for call in calls:
            payload = report.payloads.get(call.fingerprint or "")
            if payload is not None and payload.task_budget is not None:
                key = (payload.model, payload.task_budget)
                who.setdefault(key, {})[name.partition("[")[0]] = None
    for (model, tokens), names in sorted(who.items()):
        yield _note(model, tokens, [*names], card, on)


def _note(model: str, tokens: int, names: list[str], card: RateCard, on: date) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    usd = _as_output(model, tokens, card, on)
    price = "" if usd is None else f"; all of it as output of {model} would be {format_usd(usd)}"
    return (
        f"task budget of {tokens:,} tokens in {shown}{more}: advisory, nothing enforces it, so it "
        f"bounds no price{price}"
    )


def _as_output(model: str, tokens: int, card: RateCard, on: date) -> Decimal | None:
    try:
        rate = card.rates(model, on=on).output
    except UnknownModelError:
        return None
    return EXACT.scaleb(EXACT.multiply(rate, tokens), -_MILLION)

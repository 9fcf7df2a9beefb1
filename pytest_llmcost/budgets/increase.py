"""Increase: a limit on what a run, or a test, may add to its baseline.

Data flow: `10%` or `$0.05` -> `parse_increase` -> IncreaseLimit -> `check_increase` -> Verdict.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from pytest_llmcost.budgets.budget import Budget, Spend, State, Verdict, judge
from pytest_llmcost.money import EXACT, parse_percent, parse_usd

_ZERO = Decimal(0)


class IncreaseLimit(msgspec.Struct, frozen=True, kw_only=True):
    """What may be added: an amount of money, or a share of the baseline."""

    usd: Decimal | None = None
    share: Decimal | None = None
    text: str
    """As the user wrote it."""
    origin: str = ""
    label: str = "max_increase"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What a run adds, negative when it takes away; a bound of None is unknown."""

    actual: Decimal | None = _ZERO
    low: Decimal | None = _ZERO
    high: Decimal | None = _ZERO
    reasons: tuple[str, ...] = ()


def parse_increase(text: str, *, origin: str = "", label: str = "max_increase") -> IncreaseLimit:
    """Read a limit on an increase, `10%` or `$0.05`.

    Raises:
        SettingsError: when it is neither.
    """
    if text.strip().endswith("%"):
        share = parse_percent(text)
        return IncreaseLimit(share=share, text=text.strip(), origin=origin, label=label)
    return IncreaseLimit(usd=parse_usd(text), text=text.strip(), origin=origin, label=label)


def subtract(head: Spend, base: Spend) -> Difference:
    """Return what the one spend has more than the other, with its bounds."""
    reasons = {*head.reasons, *(f"in the baseline: {reason}" for reason in base.reasons)}
    return Difference(
        actual=_minus(head.actual, base.actual),
        low=_minus(head.low, base.high),
        high=_minus(head.high, base.low),
        reasons=tuple(sorted(reasons)),
    )


def _minus(left: Decimal | None, right: Decimal | None) -> Decimal | None:
    return None if left is None or right is None else EXACT.subtract(left, right)


def check_increase(limit: IncreaseLimit, base: Spend, difference: Difference) -> Verdict:
    """Judge what was added to a baseline; taking away is an increase of nothing.

    A share is one of the baseline's cost at today's prices; of an unknown cost it is one of
    what is known.
    """
    least, most = _allowed(limit, base.low), _allowed(limit, base.high)
    allowed = least if base.actual is None else _allowed(limit, base.actual)
    added = Spend(
        actual=_at_least_nothing(difference.actual),
        low=_at_least_nothing(difference.low) or _ZERO,
        high=_at_least_nothing(difference.high),
        reasons=difference.reasons,
    )
    budget = Budget(
        scope="increase",
        limit=allowed or _ZERO,
        origin=limit.origin,
        label=f"{limit.label} {limit.text}",
    )
    return judge(budget, added, _state(added, least, most))


def _allowed(limit: IncreaseLimit, base: Decimal | None) -> Decimal | None:
    if limit.usd is not None:
        return limit.usd
    if not limit.share or base is None:
        return None if limit.share else _ZERO
    return EXACT.multiply(base, limit.share)


def _state(added: Spend, least: Decimal | None, most: Decimal | None) -> State:
    """Compare with the least and the most that may be added, as the baseline's cost bounds them."""
    if most is not None and added.low > most:
        return "exceeded"
    if least is not None and added.high is not None and added.high <= least:
        return "within"
    return "unverified"


def _at_least_nothing(amount: Decimal | None) -> Decimal | None:
    return None if amount is None else max(amount, _ZERO)

"""Budget and Verdict: a ceiling, and whether what was spent kept below it.

Data flow: calls -> `spend_of` -> `check` against a Budget -> Verdict, decided once and stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Literal

import msgspec

from pytest_llmcost.metering.call import Call

Kind = Literal["usd", "input_tokens", "output_tokens", "calls"]
Scope = Literal["suite", "test", "block", "place", "increase"]
State = Literal["within", "exceeded", "unverified"]


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """A ceiling on one quantity, and where it was set."""

    scope: Scope
    kind: Kind = "usd"
    limit: Decimal
    origin: str
    """`file:line`, or the flag, variable or ini key it comes from."""
    required: bool = False
    """A marker on the test itself: seeing no call at all is then `unverified`."""
    label: str = "max_cost"
    """What the user called it: the marker, option or ini key."""
    reason: str | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a budget. `low` and `high` bound the true value; high None is unbounded."""

    scope: Scope
    kind: Kind
    limit: Decimal
    actual: Decimal | None
    """The best figure; None where some of it is unknown."""
    low: Decimal
    high: Decimal | None
    state: State
    reasons: tuple[str, ...] = ()
    """Why it is not exact, each once, sorted."""
    origin: str
    label: str = "max_cost"
    reason: str | None = None
    """The reason that the user gave for the ceiling."""


class Spend(msgspec.Struct, frozen=True, kw_only=True):
    """A quantity with its bounds, over any number of calls."""

    actual: Decimal | None
    low: Decimal
    high: Decimal | None
    reasons: tuple[str, ...] = ()


def spend_of(calls: Iterable[Call], kind: Kind) -> Spend:
    """Sum one quantity over calls, with bounds; an unknown part makes the high bound unknown."""
    raise NotImplementedError


def check(budget: Budget, spend: Spend, *, saw_calls: bool = True) -> Verdict:
    """Judge a spend: low above the limit is exceeded, high within it is within, else unverified.

    The limit itself passes. A required budget that saw no call is unverified.
    """
    raise NotImplementedError

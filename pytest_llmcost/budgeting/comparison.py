"""Comparison: a run against an earlier one, as reports hold it; `baseline` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Literal

import msgspec

from pytest_llmcost.budgeting.budget import Verdict

Status = Literal["new", "removed", "changed"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one test, one shared fixture, or the calls outside tests."""

    kind: Literal["test", "fixture", "outside"] = "test"
    name: str
    """The node id; a fixture's name with the node it belongs to."""
    path: str = ""
    line: int | None = None
    status: Status
    base_usd: Decimal
    """At today's prices; a lower bound where something has no price."""
    head_usd: Decimal
    usd: Decimal | None
    """What it adds to the bill, negative when it takes away; None where that is unknown."""
    tokens: Mapping[str, int] = {}
    """By billing category, the differences that are not zero."""
    calls: int = 0
    parts: tuple[str, ...] = ()
    """Of the payloads, the parts that differ."""
    verdicts: tuple[Verdict, ...] = ()


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A run against its baseline, over the tests that both could have run.

    `price_change_usd` is what new prices make of the old calls, `change_usd` what the new
    calls add at those prices; so the one is the vendor's doing and the other one's own.
    """

    base_price_date: str = ""
    base_rate_card: str = ""
    """The card's version."""
    partial: bool = False
    """The run left tests out; then only those that ran are compared."""
    base_usd_then: Decimal = Decimal(0)
    """The baseline's calls at its own prices."""
    base_usd: Decimal = Decimal(0)
    """The same calls at today's prices."""
    head_usd: Decimal = Decimal(0)
    price_change_usd: Decimal = Decimal(0)
    change_usd: Decimal | None = Decimal(0)
    """None where part of it is unknown; the bounds hold then."""
    low_usd: Decimal | None = Decimal(0)
    high_usd: Decimal | None = Decimal(0)
    tokens: Mapping[str, int] = {}
    unchanged: int = 0
    """Tests, fixtures and the like that cost what they did, call by call."""
    changes: tuple[Change, ...] = ()
    """What adds most comes first."""
    verdicts: tuple[Verdict, ...] = ()
    """Of scope `increase`, for the run as a whole."""
    notes: tuple[str, ...] = ()

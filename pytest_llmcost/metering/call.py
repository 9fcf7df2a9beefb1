"""Call: one billable request, whatever told us of it.

Data flow: a count, a response or a statement -> Call (unpriced) -> `price_call` -> Call with
its price and bounds -> the ledger.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import msgspec

from pytest_llmcost.pricing.usage import Context, Leg, Usage

Evidence = Literal["billed", "counted", "recounted", "stale", "declared"]
Phase = Literal["setup", "call", "teardown"]


class PricedLeg(Leg, frozen=True, kw_only=True):
    """A leg with its list price in US dollars; nothing where it cannot be priced."""

    usd: Decimal | None = None


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One billable request: its usage, where the numbers come from, its price and its bounds."""

    model: str
    """The serving model as the response names it, resolved to its exact id where known."""
    fingerprint: str | None = None
    evidence: Evidence
    phase: Phase | None = None
    live: bool | None = False
    """Whether it went over the network in this run; None is unknown and counts as live."""
    at: str | None = None
    """When it was made, UTC, live calls only."""
    stream: bool = False
    attempts: int = 1
    """How often the client sent it before an answer came."""
    usage: Usage = Usage()
    """What the response's top level states, in our categories."""
    legs: tuple[PricedLeg, ...] = ()
    context: Context = Context()
    usd: Decimal | None = None
    """List price on the price date; None where it is unknown, never zero for that."""
    usd_low: Decimal = Decimal(0)
    usd_high: Decimal | None = None
    """None where nothing bounds it."""
    declared_usd: Decimal | None = None
    """A price the test stated itself; it is the call's price where there are no legs."""
    caveats: tuple[str, ...] = ()
    """Sorted; each the name of a `Caveat`, with a detail behind a colon where there is one."""

    @property
    def billed_usage(self) -> Usage:
        """The tokens one pays for: all legs together, unbilled refusals left out."""
        return sum((leg.usage for leg in self.legs if _is_billed(leg)), Usage())


def _is_billed(leg: PricedLeg) -> bool:
    return leg.refusal is None or leg.usd != 0

"""What of a ledger the organisation pays for: its live calls, priced on their own dates.

Data flow: reports -> `live_runs`, `sort_calls` -> billed calls, and what cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from decimal import Decimal

import msgspec

from pytest_llmcost.budgeting.report import Report, calls_of
from pytest_llmcost.errors import ReconcileError, UnknownModelError
from pytest_llmcost.metering.call import Call
from pytest_llmcost.pricing.caveats import caveat_name
from pytest_llmcost.pricing.ratecard import RateCard
from pytest_llmcost.pricing.usage import Leg, Usage
from pytest_llmcost.reconcile.window import parse_instant

LISTED_TIERS = (None, "standard", "batch")
"""Service tiers that have a list price; None is a response, or a report, that does not say."""
_LOWER_BOUNDS = ("truncated-stream", "lost-answer", "unreadable-response")


class Billed(msgspec.Struct, frozen=True, kw_only=True):
    """One leg of a live call: what the organisation should see under its model."""

    model: str
    usage: Usage
    tokens_usd: Decimal | None
    """List price on the call's own date without its searches; None where there is none."""
    searches_usd: Decimal = Decimal(0)


class LiveCall(msgspec.Struct, frozen=True, kw_only=True):
    """A live call with its bill, or the reason why there is nothing to compare."""

    call: Call
    legs: tuple[Billed, ...] = ()
    apart: str | None = None

    @property
    def is_lower_bound(self) -> bool:
        """Whether some of its tokens were never seen."""
        return any(caveat_name(caveat) in _LOWER_BOUNDS for caveat in self.call.caveats)


def live_runs(reports: Iterable[Report]) -> tuple[tuple[Report, tuple[Call, ...]], ...]:
    """Return the runs that went over the network, each with its live calls.

    Unknown counts as live, as it does for live spend.

    Raises:
        ReconcileError: when none did; replayed calls cost nothing and stand on no bill.
    """
    reports = list(reports)
    runs = [(each, tuple(c for c in calls_of(each) if c.live is not False)) for each in reports]
    live = tuple((report, calls) for report, calls in runs if calls)
    if not live:
        replayed = sum(1 for report in reports for _ in calls_of(report))
        raise ReconcileError(
            f"nothing to reconcile: all calls of the ledgers ({replayed:,}) were replayed or "
            "counted, which costs nothing; reconcile the ledger of a run that went to the API (a "
            "recording run, --record-mode=rewrite, or --disable-recording)"
        )
    return live


def bill_call(call: Call, card: RateCard, *, otherwise: date) -> LiveCall:
    """Price a live call on the date on which it was made; `otherwise` where it does not say."""
    apart = _apart(call)
    if apart:
        return LiveCall(call=call, apart=apart)
    on = parse_instant(call.at).date() if call.at else otherwise
    return LiveCall(call=call, legs=tuple(_bill_leg(leg, call, card, on) for leg in call.legs))


def _bill_leg(leg: Leg, call: Call, card: RateCard, on: date) -> Billed:
    try:
        cost = card.price_leg(leg, call.context, on=on)
    except UnknownModelError:
        return Billed(model=leg.model, usage=leg.usage, tokens_usd=None)
    searches = Decimal(cost.billed.web_search_requests) * cost.search_usd
    return Billed(
        model=cost.leg.model,
        usage=cost.billed,
        tokens_usd=cost.usd - searches,
        searches_usd=searches,
    )


def _apart(call: Call) -> str | None:
    """Say why a live call has no counterpart in Anthropic's report, if it has none."""
    if call.context.platform:
        cloud = call.context.platform.partition("-")[0]
        return f"on {cloud}, which the cloud's own bill holds"
    if call.context.service_tier not in LISTED_TIERS:
        return f"service tier {call.context.service_tier}, which has no list price"
    if call.evidence != "billed":
        return f"tokens {call.evidence}, not read from a response"
    return None if call.legs else "without a usage that could be read"


def resolve_model(model: str, card: RateCard) -> str:
    """Return the exact id of a model, or its name as it stands where the card knows none."""
    try:
        return card.resolve(model).model
    except UnknownModelError:
        return model

"""Put it together: ledgers and the organisation's answers in, one Reconciliation out.

Data flow: reports -> `plan` -> a Plan says what to ask -> answers -> `reconcile`. Pure; who asks,
and how often, is the command's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal

import msgspec

from pytest_llmcost.budgeting.report import Report, calls_of
from pytest_llmcost.errors import ReconcileError
from pytest_llmcost.pricing.ratecard import RateCard
from pytest_llmcost.reconcile.adminapi import Filters
from pytest_llmcost.reconcile.bill import Bucket, CostRow, UsageRow
from pytest_llmcost.reconcile.comparison import (
    Reconciliation,
    Terms,
    compare_cost,
    compare_usage,
    decide,
    set_apart,
)
from pytest_llmcost.reconcile.live import LiveCall, bill_call, live_runs
from pytest_llmcost.reconcile.reasons import Evidence, likely_reasons
from pytest_llmcost.reconcile.window import whole_days, windows_of


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledgers hold and for which time to ask."""

    terms: Terms
    calls: tuple[LiveCall, ...]
    ledgers: int
    replayed_calls: int


def plan(
    reports: Sequence[Report],
    card: RateCard,
    *,
    filters: Filters,
    tolerance: Decimal,
    whole_days: bool,
) -> Plan:
    """Find the live calls and their time.

    Raises:
        ReconcileError: when there are none, or none of which Anthropic's report could know.
    """
    runs = live_runs(reports)
    width, windows = windows_of(runs, whole_days=whole_days)
    otherwise = windows[0].starting_at.date()
    calls = tuple(
        bill_call(call, card, otherwise=_price_date(report, otherwise))
        for report, live in runs
        for call in live
    )
    if all(call.apart for call in calls):
        reasons = sorted({call.apart for call in calls if call.apart})
        raise ReconcileError(
            f"nothing to reconcile: none of the {len(calls)} live calls stands in Anthropic's "
            f"usage report ({'; '.join(reasons)})"
        )
    terms = Terms(
        windows=windows,
        bucket_width=width,
        filters=filters,
        tolerance=tolerance,
        whole_days=whole_days,
    )
    every = sum(1 for report in reports for _ in calls_of(report))
    return Plan(terms=terms, calls=calls, ledgers=len(reports), replayed_calls=every - len(calls))


def _price_date(report: Report, otherwise: date) -> date:
    return date.fromisoformat(report.price_date) if report.price_date else otherwise


def reconcile(
    plan: Plan,
    usage: Iterable[Bucket[UsageRow]],
    cost: Iterable[Bucket[CostRow]] | None,
    *,
    card: RateCard,
    asked_at: datetime | None,
) -> Reconciliation:
    """Compare, decide and explain.

    Args:
        plan: the ledgers' side.
        usage: the usage report; buckets outside the plan's windows are left out.
        cost: the cost report, or None when it was not asked for.
        card: today's prices and those before them.
        asked_at: when the API answered; None for saved answers.
    """
    terms, calls = plan.terms, plan.calls
    usage_rows = _rows(usage, terms)
    cost_rows = None if cost is None else _cost_rows(cost, terms)
    tokens = compare_usage(calls, usage_rows, terms, card)
    dollars = None if cost_rows is None else compare_cost(calls, cost_rows, terms, card)
    evidence = Evidence(
        terms=terms, calls=calls, usage=tokens, cost=dollars or (), asked_at=asked_at
    )
    amounts = [leg.tokens_usd for call in calls for leg in call.legs]
    searches = sum((leg.searches_usd for call in calls for leg in call.legs), Decimal(0))
    return Reconciliation(
        state=decide(tokens, dollars),
        terms=terms,
        ledgers=plan.ledgers,
        live_calls=len(calls),
        live_usd=sum((usd for usd in amounts if usd is not None), searches),
        unpriced_calls=sum(any(leg.tokens_usd is None for leg in each.legs) for each in calls),
        replayed_calls=plan.replayed_calls,
        usage=tokens,
        cost=dollars,
        not_comparable=set_apart(calls, usage_rows, cost_rows or ()),
        likely_reasons=likely_reasons(evidence),
        notes=_notes(plan, cost is not None),
    )


def is_short(outcome: Reconciliation) -> bool:
    """Whether usage that the ledgers have is still missing from the report."""
    return any(line.reported < line.ledger and not line.agrees for line in outcome.usage)


def _rows(buckets: Iterable[Bucket[UsageRow]], terms: Terms) -> list[UsageRow]:
    inside = [row for each in buckets if each.lies_in(terms.windows) for row in each.results]
    kept = [row for row in inside if terms.filters.keeps(row)]
    if inside and not kept and all(row.api_key_id is None for row in inside):
        raise ReconcileError(
            f"{len(inside)} rows of usage, none of which names its API key; "
            "ask for the report with group_by[]=api_key_id and group_by[]=workspace_id"
        )
    return kept


def _cost_rows(buckets: Iterable[Bucket[CostRow]], terms: Terms) -> list[CostRow]:
    days = whole_days(terms.windows)
    return [
        row
        for each in buckets
        if each.lies_in(days)
        for row in each.results
        if terms.filters.keeps(row)
    ]


def _notes(plan: Plan, has_cost: bool) -> tuple[str, ...]:
    notes = []
    if plan.replayed_calls:
        notes.append(
            f"calls left out as replayed or counted, which is free: {plan.replayed_calls:,}"
        )
    if not plan.terms.filters.api_key_ids and not plan.terms.filters.workspace_ids:
        notes.append("without --api-key-id and --workspace-id: the usage of the whole organisation")
    if has_cost and not plan.terms.whole_days:
        notes.append("cost is by UTC day and only shown; --whole-days lets it decide")
    return tuple(notes)

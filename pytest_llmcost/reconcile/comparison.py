"""The ledger's live calls and the organisation's bill, side by side, and whether they agree.

Data flow: billed calls, usage and cost buckets -> `compare` -> Reconciliation, decided once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Literal

import msgspec

from pytest_llmcost.pricing.ratecard import RateCard
from pytest_llmcost.pricing.usage import Usage
from pytest_llmcost.reconcile.adminapi import Filters
from pytest_llmcost.reconcile.bill import CostRow, UsageRow
from pytest_llmcost.reconcile.live import LISTED_TIERS, LiveCall, resolve_model
from pytest_llmcost.reconcile.window import Width, Window, whole_days

CATEGORIES = Usage.__struct_fields__
SEARCHES = "web search"
_ROUNDING_USD = Decimal("0.005")
"""Half a cent a day, which the cost report's rounding may take or give."""


class UsageLine(msgspec.Struct, frozen=True, kw_only=True):
    """One model's tokens of one category (or its web searches)."""

    model: str
    category: str
    ledger: int
    reported: int
    agrees: bool


class CostLine(msgspec.Struct, frozen=True, kw_only=True):
    """One item of the cost report; `decides` where both sides mean the same."""

    item: str
    """A model (its tokens), `web search`, or a type of cost that no ledger knows."""
    ledger_usd: Decimal | None
    reported_usd: Decimal
    decides: bool
    agrees: bool | None
    """None where there is nothing to compare it with."""


class Apart(msgspec.Struct, frozen=True, kw_only=True):
    """Something that stands on one side only and has no list price."""

    source: Literal["ledger", "usage report", "cost report"]
    what: str
    calls: int | None = None
    usage: Usage | None = None
    usd: Decimal | None = None


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared with what, and how closely they must agree."""

    windows: tuple[Window, ...]
    bucket_width: Width
    filters: Filters = Filters()
    tolerance: Decimal = Decimal(0)
    """Share of the reported figure; 0 is exact agreement."""
    whole_days: bool = False


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """The whole comparison, as files hold it."""

    schema: str = "pytest-llmcost-reconcile/1"
    state: Literal["agrees", "differs"]
    terms: Terms
    ledgers: int
    live_calls: int
    live_usd: Decimal
    """List price of the live calls, each on its own date."""
    unpriced_calls: int
    replayed_calls: int
    """Left out: they cost nothing."""
    usage: tuple[UsageLine, ...]
    cost: tuple[CostLine, ...] | None
    """None where no cost report was asked for."""
    not_comparable: tuple[Apart, ...]
    likely_reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def within(ledger: Decimal | int, reported: Decimal | int, tolerance: Decimal) -> bool:
    """Whether two figures differ by no more than the tolerance's share of the reported one."""
    return abs(Decimal(ledger) - Decimal(reported)) <= tolerance * abs(Decimal(reported))


def compare_usage(
    calls: Iterable[LiveCall], rows: Iterable[UsageRow], terms: Terms, card: RateCard
) -> tuple[UsageLine, ...]:
    """Lay tokens side by side, by model and category; only what either side has."""
    ledger: dict[str, Usage] = defaultdict(Usage)
    reported: dict[str, Usage] = defaultdict(Usage)
    for leg in (leg for call in calls for leg in call.legs):
        ledger[leg.model] += leg.usage
    for row in rows:
        if _oddity(row) is None and row.model:
            reported[resolve_model(row.model, card)] += row.usage
    return tuple(_usage_lines(ledger, reported, terms.tolerance))


def _usage_lines(
    ledger: Mapping[str, Usage], reported: Mapping[str, Usage], tolerance: Decimal
) -> Iterator[UsageLine]:
    for model in sorted({*ledger, *reported}):
        for category in CATEGORIES:
            ours = getattr(ledger.get(model, Usage()), category)
            theirs = getattr(reported.get(model, Usage()), category)
            if ours or theirs:
                yield UsageLine(
                    model=model,
                    category=category,
                    ledger=ours,
                    reported=theirs,
                    agrees=within(ours, theirs, tolerance),
                )


def _oddity(row: UsageRow | CostRow) -> str | None:
    """Say why a row has no counterpart in a ledger, if it has none."""
    if row.service_tier not in LISTED_TIERS:
        return f"service tier {row.service_tier}"
    if isinstance(row, UsageRow):
        return None if row.model else "a row that names no model"
    if row.cost_type == "tokens":
        return None if row.model else f"tokens of no model ({row.description})"
    if row.cost_type in ("web_search", "code_execution"):
        return None
    return f"cost type {row.cost_type}"


def compare_cost(
    calls: Iterable[LiveCall], rows: Sequence[CostRow], terms: Terms, card: RateCard
) -> tuple[CostLine, ...]:
    """Lay dollars side by side; searches and code execution kept apart from tokens."""
    ledger: dict[str, Decimal | None] = {}
    for leg in (leg for call in calls for leg in call.legs):
        so_far = ledger.get(leg.model, Decimal(0))
        known = so_far is not None and leg.tokens_usd is not None
        ledger[leg.model] = so_far + leg.tokens_usd if known else None  # type: ignore[operator]
        if leg.searches_usd:
            ledger[SEARCHES] = (ledger.get(SEARCHES) or Decimal(0)) + leg.searches_usd
    reported: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        if _oddity(row) is None:
            reported[_item(row, card)] += row.usd
    items = sorted({*ledger, *reported}, key=lambda item: (" " in item, item))
    return tuple(_cost_line(item, ledger, reported[item], terms) for item in items)


def _item(row: CostRow, card: RateCard) -> str:
    if row.cost_type == "tokens" and row.model:
        return resolve_model(row.model, card)
    return (row.cost_type or "").replace("_", " ")


def _cost_line(
    item: str, ledger: Mapping[str, Decimal | None], reported: Decimal, terms: Terms
) -> CostLine:
    """Decide one item; container time of code execution is in no response, so it never counts."""
    beyond_ledgers = item == "code execution"
    ours = None if beyond_ledgers else ledger.get(item, Decimal(0))
    agrees = None
    if ours is not None:
        days = sum((day.ending_at - day.starting_at).days for day in whole_days(terms.windows))
        close = abs(ours - reported) <= _ROUNDING_USD * days
        agrees = close or within(ours, reported, terms.tolerance)
    return CostLine(
        item=item,
        ledger_usd=ours,
        reported_usd=reported,
        decides=terms.whole_days and not beyond_ledgers,
        agrees=agrees,
    )


def set_apart(
    calls: Iterable[LiveCall], usage: Iterable[UsageRow], cost: Iterable[CostRow]
) -> tuple[Apart, ...]:
    """List everything that one side has and the other cannot have, with its size."""
    ours = Counter(call.apart for call in calls if call.apart)
    tokens: dict[str, Usage] = defaultdict(Usage)
    dollars: dict[str, Decimal] = defaultdict(Decimal)
    for row in usage:
        if (oddity := _oddity(row)) is not None:
            tokens[oddity] += row.usage
    for item in cost:
        if (oddity := _oddity(item)) is not None:
            dollars[oddity] += item.usd
    return (
        *(Apart(source="ledger", what=what, calls=ours[what]) for what in sorted(ours)),
        *(Apart(source="usage report", what=k, usage=tokens[k]) for k in sorted(tokens)),
        *(Apart(source="cost report", what=k, usd=dollars[k]) for k in sorted(dollars)),
    )


def decide(
    usage: Iterable[UsageLine], cost: Iterable[CostLine] | None
) -> Literal["agrees", "differs"]:
    """Every line of tokens must agree, and every line of cost that decides."""
    tokens = all(line.agrees for line in usage)
    dollars = all(line.agrees for line in cost or () if line.decides)
    return "agrees" if tokens and dollars else "differs"

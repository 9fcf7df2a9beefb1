"""What of a ledger the organisation pays for: its live calls, priced on their own dates.

Data flow: reports -> `live_runs`, `sort_calls` -> billed calls, and what cannot be compared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Literal

import msgspec

from pytest_llmcost.call import Call
from pytest_llmcost.errors import ReconcileError, UnknownModelError
from pytest_llmcost.ledger.ledger import Ledger, calls_of
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.prices.usage import SamplingCall, Usage
from pytest_llmcost.reconcile.admin_api import Filters
from pytest_llmcost.reconcile.usage_report import Bucket, CostRow, UsageRow
from pytest_llmcost.reconcile.windows import Width, Window, parse_instant, whole_days, windows_of

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
    sampling_calls: tuple[Billed, ...] = ()
    apart: str | None = None

    @property
    def is_lower_bound(self) -> bool:
        """Whether some of its tokens were never seen."""
        return any(caveat.name in _LOWER_BOUNDS for caveat in self.call.caveats)


def live_runs(reports: Iterable[Ledger]) -> tuple[tuple[Ledger, tuple[Call, ...]], ...]:
    """Return the runs that went over the network, each with its live calls.

    Unknown counts as live, as it does for live spend.

    Raises:
        ReconcileError: when none did; replayed calls cost nothing and stand on no bill.
    """
    reports = list(reports)
    runs = [(each, tuple(c for c in calls_of(each) if c.live is not False)) for each in reports]
    live = tuple((ledger, calls) for ledger, calls in runs if calls)
    if not live:
        replayed = sum(1 for ledger in reports for _ in calls_of(ledger))
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
    return LiveCall(
        call=call,
        sampling_calls=tuple(
            _bill_sampling(sampling, call, card, on) for sampling in call.sampling_calls
        ),
    )


def _bill_sampling(sampling: SamplingCall, call: Call, card: RateCard, on: date) -> Billed:
    try:
        cost = card.price_sampling(sampling, call.context, on=on)
    except UnknownModelError:
        return Billed(model=sampling.model, usage=sampling.usage, tokens_usd=None)
    searches = Decimal(cost.billed.web_search_requests) * cost.search_usd
    return Billed(
        model=cost.sampling.model,
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
    return None if call.sampling_calls else "without a usage that could be read"


def resolve_model(model: str, card: RateCard) -> str:
    """Return the exact id of a model, or its name as it stands where the card knows none."""
    try:
        return card.resolve(model).model
    except UnknownModelError:
        return model


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
    for sampling in (sampling for call in calls for sampling in call.sampling_calls):
        ledger[sampling.model] += sampling.usage
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
    for sampling in (sampling for call in calls for sampling in call.sampling_calls):
        so_far = ledger.get(sampling.model, Decimal(0))
        known = so_far is not None and sampling.tokens_usd is not None
        ledger[sampling.model] = so_far + sampling.tokens_usd if known else None  # type: ignore[operator]
        if sampling.searches_usd:
            ledger[SEARCHES] = (ledger.get(SEARCHES) or Decimal(0)) + sampling.searches_usd
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


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledgers hold and for which time to ask."""

    terms: Terms
    calls: tuple[LiveCall, ...]
    ledgers: int
    replayed_calls: int


def plan(
    reports: Sequence[Ledger],
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
        bill_call(call, card, otherwise=_price_date(ledger, otherwise))
        for ledger, live in runs
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
    every = sum(1 for ledger in reports for _ in calls_of(ledger))
    return Plan(terms=terms, calls=calls, ledgers=len(reports), replayed_calls=every - len(calls))


def _price_date(ledger: Ledger, otherwise: date) -> date:
    return date.fromisoformat(ledger.price_date) if ledger.price_date else otherwise


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
    amounts = [sampling.tokens_usd for call in calls for sampling in call.sampling_calls]
    searches = sum(
        (sampling.searches_usd for call in calls for sampling in call.sampling_calls), Decimal(0)
    )
    return Reconciliation(
        state=decide(tokens, dollars),
        terms=terms,
        ledgers=plan.ledgers,
        live_calls=len(calls),
        live_usd=sum((usd for usd in amounts if usd is not None), searches),
        unpriced_calls=sum(
            any(sampling.tokens_usd is None for sampling in each.sampling_calls) for each in calls
        ),
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


FRESH_AFTER = timedelta(minutes=5)
"""How long the API takes to know a request.

Source: https://platform.claude.com/docs/en/manage-claude/usage-cost-api (2026-08-22)
"""
_PROMPT = ("input_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "cache_read_tokens")


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that the guesses are made from."""

    terms: Terms
    calls: tuple[LiveCall, ...]
    usage: tuple[UsageLine, ...]
    cost: tuple[CostLine, ...] = ()
    asked_at: datetime | None = None
    """When the API was asked; None for saved answers."""


def last_call_at(calls: Sequence[LiveCall]) -> datetime | None:
    """Return the instant of the latest live call that says when it was made."""
    return max((parse_instant(each.call.at) for each in calls if each.call.at), default=None)


def likely_reasons(evidence: Evidence) -> tuple[str, ...]:
    """List what may explain a difference, the strongest first; empty when all agrees."""
    over = [line for line in evidence.usage if line.reported > line.ledger and not line.agrees]
    under = [line for line in evidence.usage if line.reported < line.ledger and not line.agrees]
    dollars = [line for line in evidence.cost if line.agrees is False]
    return (
        *_moved(over, under),
        *(_billed_more(evidence, over) if over else ()),
        *(_billed_less(evidence, under) if under else ()),
        *(_cost_alone(evidence) if dollars and not over and not under else ()),
    )


def _moved(over: Sequence[UsageLine], under: Sequence[UsageLine]) -> Iterator[str]:
    """A retry finds the cache cold or warm where the answered attempt did not."""
    models = {line.model for line in over if line.category in _PROMPT}
    for model in sorted(models & {line.model for line in under if line.category in _PROMPT}):
        yield (
            f"{model}: prompt tokens moved between input, cache writes and cache reads, "
            "as a retry does that finds the cache cold"
        )


def _billed_more(evidence: Evidence, over: Sequence[UsageLine]) -> Iterator[str]:
    foreign = sorted({line.model for line in over} - {line.model for line in _own(evidence)})
    if foreign:
        yield f"other traffic: no ledger has a live call of {', '.join(foreign)}"
    if not evidence.terms.filters.api_key_ids:
        yield (
            "other traffic: without --api-key-id everybody's requests of these minutes are "
            "reported; give the id of a key that only these runs use"
        )
    unseen = sum(call.is_lower_bound for call in evidence.calls)
    if unseen:
        yield (
            f"of {unseen:,} live calls the answer was cut off or never came, so the ledger has "
            "only part of their tokens; the bill has all of them"
        )
    retried = sum(call.call.attempts > 1 for call in evidence.calls)
    if retried:
        yield (
            f"cold retries: {retried:,} of the live calls were sent more than once; an attempt "
            "that timed out here may have been completed, and billed, there"
        )
    if evidence.terms.bucket_width != "1m":
        yield (
            f"usage comes in buckets of {evidence.terms.bucket_width}: what the key did shortly "
            "before or after the runs is in it"
        )
    yield (
        "calls outside the ledger: made in subprocesses or other programs with the same key, "
        "or with --no-llmcost"
    )


def _own(evidence: Evidence) -> list[UsageLine]:
    return [line for line in evidence.usage if line.ledger]


def _billed_less(evidence: Evidence, under: Sequence[UsageLine]) -> Iterator[str]:
    last = last_call_at(evidence.calls)
    if evidence.asked_at and last and evidence.asked_at - last < FRESH_AFTER:
        minutes = int((evidence.asked_at - last).total_seconds() // 60)
        yield (
            f"freshness: the last call was {minutes} min before the question, and usage takes "
            "about 5 min to appear; ask again, or with --wait"
        )
    if evidence.terms.filters != type(evidence.terms.filters)():
        yield "the runs used another API key or workspace than the one asked for"
    unknown = sum(call.call.live is None for call in evidence.calls)
    if unknown:
        yield (
            f"{unknown:,} of the live calls went through a transport that does not tell whether "
            "it is the network; they count as live"
        )
    if any(each.call.context.service_tier == "batch" for each in evidence.calls):
        yield "batches are billed when they are processed, not when their results are fetched"
    if not any(line.reported for line in evidence.usage):
        yield (
            "nothing is reported at all: another organisation's Admin key, a gateway with a key "
            "of its own, or a time longer ago than the API keeps"
        )


def _cost_alone(evidence: Evidence) -> Iterator[str]:
    if not evidence.terms.whole_days:
        yield (
            "cost is reported by day and workspace, so it holds all that was spent on these days; "
            "it does not decide without --whole-days"
        )
        return
    yield "cost: other traffic on these days, for the cost report knows workspaces but no API keys"
    yield "cost: rounding by day, a negotiated discount, or credits"
    yield "cost: a price that the rate card does not have yet; compare with `llmcost rates`"

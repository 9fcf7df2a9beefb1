"""Compare ledgers with what Anthropic reports: tokens decide, dollars are shown.

Knows neither the network nor how an outcome is printed. The names of the fields below are those of
`--format json`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import MAXYEAR, MINYEAR, datetime, timedelta, timezone
from decimal import Decimal
from typing import Literal

import msgspec

from pytest_llmcost.call import Call
from pytest_llmcost.errors import ReconcileError, UnknownModelError
from pytest_llmcost.ledger.ledger import Ledger, calls_of
from pytest_llmcost.ledger.totals import is_live
from pytest_llmcost.prices.bill import USD_OF, price_sampling
from pytest_llmcost.prices.rate_card import LISTED_TIERS, RateCard
from pytest_llmcost.prices.usage import FEES, PROMPT, Usage
from pytest_llmcost.reconcile.admin_api import (
    BUCKETS,
    Bucket,
    CostRow,
    Filters,
    UsageRow,
    Width,
    Window,
    cover,
    days_of,
)

FRESH_AFTER = timedelta(minutes=5)
"""How long it takes until the API reports a request.

Source: https://platform.claude.com/docs/en/manage-claude/usage-cost-api (2026-08-22)
"""
_FEES = {USD_OF[name]: name.removesuffix("_requests").replace("_", " ") for name in FEES}
_CONTAINERS = "code execution"
_TOOLS = (*_FEES.values(), _CONTAINERS)
"""Items of the cost report that are no model's tokens; those of fees by our own names."""


class UsageLine(msgspec.Struct, frozen=True):
    """One model's tokens of one category, or its web searches."""

    model: str
    category: str
    ledger: int
    reported: int
    agrees: bool


class CostLine(msgspec.Struct, frozen=True):
    """One item of the cost report: a model's tokens, `web search` or `code execution`."""

    item: str
    ledger_usd: Decimal | None
    """None if unknown."""
    reported_usd: Decimal
    decides: bool
    """Whether the state depends on it."""
    agrees: bool | None
    """None if there is nothing to compare it with."""


class Apart(msgspec.Struct, frozen=True, kw_only=True):
    """Something that only one side can have; it has one of calls, usage and dollars."""

    source: Literal["ledger", "usage report", "cost report"]
    what: str
    calls: int | None = None
    usage: Usage | None = None
    usd: Decimal | None = None


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which usage is compared, and how closely it must match."""

    windows: tuple[Window, ...] = ()
    bucket_width: Width = "1d"
    filters: Filters = Filters()
    tolerance: Decimal = Decimal(0)
    """Share of the reported figure; 0 requires equal figures."""
    whole_days: bool = False


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome."""

    schema: str = "pytest-llmcost-reconcile/1"
    state: Literal["agrees", "differs"]
    terms: Query
    ledgers: int
    live_calls: int
    live_usd: Decimal
    """List price of the live calls, each on its own date."""
    unpriced_calls: int
    replayed_calls: int
    """Left out, because they cost nothing."""
    usage: tuple[UsageLine, ...]
    cost: tuple[CostLine, ...] | None
    """None without a cost report."""
    not_comparable: tuple[Apart, ...]
    likely_reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_short(self) -> bool:
        """Whether some usage in the ledgers is not reported, or not yet."""
        return any(line.reported < line.ledger and not line.agrees for line in self.usage)


@dataclass
class _Side:
    """What one side of the comparison adds up to."""

    usage: defaultdict[str, Usage] = field(default_factory=lambda: defaultdict(Usage))
    """By model."""
    usd: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    """By item of the cost report."""
    unpriced: set[str] = field(default_factory=set)
    """Models of which some call has no price."""
    unpriced_calls: int = 0
    apart: list[Apart] = field(default_factory=list)

    @staticmethod
    def of_calls(ledgers: Iterable[Ledger], card: RateCard) -> _Side:
        """Add up live calls, each priced on the date on which it was made."""
        side, apart = _Side(), Counter[str]()
        for ledger, call in [(run, call) for run in ledgers for call in live_calls(run)]:
            if reason := _not_reported(call):
                apart[reason] += 1
                continue
            on = parse_instant(call.at or f"{ledger.price_date}T00:00:00Z").date()
            is_priced = True
            for sampling in call.sampling_calls:
                try:
                    cost = price_sampling(card, sampling, call.context, on=on)
                except UnknownModelError:
                    is_priced = False
                    side.usage[sampling.model] += sampling.usage
                    side.unpriced.add(sampling.model)
                    continue
                model = cost.sampling.model
                # `billed` instead of the usage: a refusal may be free, and is not reported then.
                side.usage[model] += cost.billed
                for category, usd in cost.by_category.items():
                    side.usd[_FEES.get(category, model)] += usd
            side.unpriced_calls += not is_priced
        side.apart = [Apart(source="ledger", what=k, calls=apart[k]) for k in sorted(apart)]
        return side

    @staticmethod
    def of_rows(usage: Iterable[UsageRow], cost: Iterable[CostRow], card: RateCard) -> _Side:
        """Add up the reports; rows that no ledger can have are listed apart."""
        side = _Side()
        tokens: defaultdict[str, Usage] = defaultdict(Usage)
        dollars: defaultdict[str, Decimal] = defaultdict(Decimal)

        for row in usage:
            item, is_ours = _item_of(row, "tokens", card)
            (side.usage if is_ours else tokens)[item] += row.usage
        for charge in cost:
            item, is_ours = _item_of(charge, charge.cost_type, card)
            (side.usd if is_ours else dollars)[item] += charge.usd
        side.apart = [
            *(Apart(source="usage report", what=k, usage=tokens[k]) for k in sorted(tokens)),
            *(Apart(source="cost report", what=k, usd=dollars[k]) for k in sorted(dollars)),
        ]
        return side


def _item_of(row: UsageRow | CostRow, kind: str | None, card: RateCard) -> tuple[str, bool]:
    """Return the model or tool that a row is of, or else what it is that no ledger can have."""
    if row.service_tier not in LISTED_TIERS:
        return f"service tier {row.service_tier}", False
    if (tool := str(kind).replace("_", " ")) in _TOOLS:
        return tool, True
    if kind != "tokens":
        return f"cost type {kind}", False
    if not row.model:
        return "a row that names no model", False
    found = card.find(row.model)
    return found.model if found else row.model, True


def live_calls(*ledgers: Ledger) -> list[Call]:
    """Return the calls that went over the network, or may have, as for live spend."""
    return [call for ledger in ledgers for call in calls_of(ledger) if is_live(call)]


def last_call_at(calls: Iterable[Call]) -> datetime | None:
    """Return when the last of these calls was made; None if no call has a time."""
    return max((parse_instant(call.at) for call in calls if call.at), default=None)


def parse_instant(text: str) -> datetime:
    """Read a date and time from a ledger, or raise an error; without an offset it is UTC."""
    try:
        instant = msgspec.convert(text, datetime)
        if instant.year in (MINYEAR, MAXYEAR):
            raise ValueError("a later computation would leave the calendar")
    except ValueError:  # of msgspec, or half a surrogate pair
        raise ReconcileError(f"{text!r} in the ledger is not a date and time") from None
    return instant.replace(tzinfo=instant.tzinfo or timezone.utc).astimezone(timezone.utc)


def with_windows(query: Query, ledgers: Sequence[Ledger]) -> Query:
    """Find out for which time to ask: the windows in which the live calls were made.

    All windows have buckets of the same width, so that none is counted twice. It is the narrowest
    one for which the longest run fits on one page.

    Raises:
        ReconcileError: the ledgers have no live call that Anthropic could report, or no time.
    """
    reasons = [_not_reported(call) for call in live_calls(*ledgers)]
    if not reasons:
        replayed = sum(len(calls_of(ledger)) for ledger in ledgers)
        raise ReconcileError(
            f"nothing to reconcile: all calls in the ledgers ({replayed:,}) were replayed or "
            "counted, which is free; use the ledger of a run that sends requests to the API, for "
            "example with --record-mode=rewrite or --disable-recording"
        )
    if all(reasons):
        raise ReconcileError(
            f"nothing to reconcile: Anthropic's usage report has none of the {len(reasons)} live "
            f"calls ({'; '.join(sorted(set(filter(None, reasons))))})"
        )
    spans = []
    for ledger in ledgers:
        calls = live_calls(ledger)
        if not calls:
            continue
        start, end = ledger.run.started_at, ledger.run.finished_at
        if not start or not end:
            raise ReconcileError(
                f"the time of {len(calls)} live calls is unknown: the ledger has no time of the "
                "run; write it again with --llmcost-report"
            )
        at = [parse_instant(each) for each in (start, end, *(call.at for call in calls)) if each]
        spans.append((min(at), max(at)))
    longest = max(end - start for start, end in spans)
    fitting = [width for width, (length, most) in BUCKETS.items() if longest <= length * most]
    width: Width = fitting[0] if fitting and not query.whole_days else "1d"
    return msgspec.structs.replace(query, windows=cover(spans, width), bucket_width=width)


def reconcile(
    ledgers: Sequence[Ledger],
    query: Query,
    usage: Iterable[Bucket[UsageRow]],
    cost: Iterable[Bucket[CostRow]] | None,
    *,
    card: RateCard,
    asked_at: datetime | None,
) -> Reconciliation:
    """Compare the ledgers with the reports and explain the differences.

    `query` has windows of the same ledgers; buckets outside of them are ignored. `asked_at` is
    when the API answered, None for saved answers.
    """
    calls, usage = live_calls(*ledgers), [*usage]
    # Saved answers may have other buckets than would be asked for.
    lengths = {each.ending_at - each.starting_at for each in usage}
    saved = [width for width, (length, _) in BUCKETS.items() if length in lengths]
    query = msgspec.structs.replace(query, bucket_width=[query.bucket_width, *saved][-1])
    days = days_of(query.windows)
    ours = _Side.of_calls(ledgers, card)
    keep = query.filters.keep
    theirs = _Side.of_rows(keep(usage, query.windows), keep(cost or (), days), card)
    usage_lines = []
    for model in sorted({*ours.usage, *theirs.usage}):
        for category in Usage.__struct_fields__:
            ledger = getattr(ours.usage[model], category)
            billed = getattr(theirs.usage[model], category)
            if ledger or billed:
                agrees = within(ledger, billed, query.tolerance)
                usage_lines.append(UsageLine(model, category, ledger, billed, agrees))
    cost_lines = []
    # Half a cent a day, for the rounding of the cost report.
    rounding = Decimal("0.005") * sum((day.ending_at - day.starting_at).days for day in days)
    items = {*ours.usd, *ours.unpriced, *theirs.usd} if cost is not None else ()
    for item in sorted(items, key=lambda item: (item in _TOOLS, item)):
        owed, charged = ours.usd[item], theirs.usd[item]
        decides = query.whole_days and item != _CONTAINERS
        # The container time of code execution is in no response, so no ledger can have it.
        if item == _CONTAINERS or item in ours.unpriced:
            cost_lines.append(CostLine(item, None, charged, decides, None))
        else:
            is_equal = abs(owed - charged) <= rounding or within(owed, charged, query.tolerance)
            cost_lines.append(CostLine(item, owed, charged, decides, is_equal))
    verdicts = [line.agrees for line in usage_lines]
    verdicts += [bool(line.agrees) for line in cost_lines if line.decides]
    outcome = Reconciliation(
        state="agrees" if all(verdicts) else "differs",
        terms=query,
        ledgers=len(ledgers),
        live_calls=len(calls),
        live_usd=sum(ours.usd.values(), Decimal(0)),
        unpriced_calls=ours.unpriced_calls,
        replayed_calls=sum(len(calls_of(each)) for each in ledgers) - len(calls),
        usage=tuple(usage_lines),
        cost=None if cost is None else tuple(cost_lines),
        not_comparable=(*ours.apart, *theirs.apart),
    )
    return msgspec.structs.replace(
        outcome,
        likely_reasons=tuple(_likely_reasons(outcome, calls, asked_at)),
        notes=tuple(_notes(outcome)),
    )


def _not_reported(call: Call) -> str | None:
    """Say why Anthropic's report cannot have a live call, if so."""
    if call.context.platform:
        cloud = call.context.platform.partition("-")[0]
        return f"on {cloud}, billed by that cloud"
    if call.context.service_tier not in LISTED_TIERS:
        return f"service tier {call.context.service_tier}, which has no list price"
    if call.evidence != "billed":
        return f"tokens {call.evidence}, not read from a response"
    return None if call.sampling_calls else "no readable usage"


def within(ledger: Decimal | int, reported: Decimal | int, tolerance: Decimal) -> bool:
    """Whether two figures differ by no more than the tolerance's share of the reported one."""
    return abs(Decimal(ledger) - Decimal(reported)) <= tolerance * abs(Decimal(reported))


def _notes(outcome: Reconciliation) -> Iterator[str]:
    if outcome.replayed_calls:
        yield f"replayed or counted calls, left out as free: {outcome.replayed_calls:,}"
    if outcome.terms.filters == Filters():
        yield "no --api-key-id or --workspace-id: this is the usage of the whole organisation"
    if outcome.cost is not None and not outcome.terms.whole_days:
        yield "the cost report has whole UTC days, so cost is only shown; --whole-days checks it"


def _likely_reasons(
    outcome: Reconciliation, calls: Sequence[Call], asked_at: datetime | None
) -> Iterator[str]:
    """Name what may explain a difference, the strongest reason first."""
    over = [line for line in outcome.usage if line.reported > line.ledger and not line.agrees]
    under = [line for line in outcome.usage if line.reported < line.ledger and not line.agrees]
    moved = {line.model for line in over if line.category in PROMPT}
    moved &= {line.model for line in under if line.category in PROMPT}
    for model in sorted(moved):
        # A retry may find the cache cold or warm where the answered attempt did not.
        yield f"{model}: prompt tokens moved between input, cache writes and reads, as on a retry"
    if over:
        yield from _billed_more(outcome, calls, {line.model for line in over})
    if under:
        yield from _billed_less(outcome, calls, asked_at)
    compared = [each for each in outcome.cost or () if each.decides or each.agrees is not None]
    if not (over or under or all(each.agrees for each in compared)):
        if outcome.terms.whole_days:
            yield "cost: other traffic on these days; this report cannot be filtered by API key"
            yield "cost: rounding per day, a negotiated discount, or credits"
            yield "cost: a price that the rate card does not have yet; see `llmcost rates`"
        else:
            yield "cost: all spend of these days is reported; it is checked with --whole-days only"


def _billed_more(outcome: Reconciliation, calls: Sequence[Call], models: set[str]) -> Iterator[str]:
    width = outcome.terms.bucket_width
    if foreign := sorted(models - {line.model for line in outcome.usage if line.ledger}):
        yield f"other traffic: the ledgers have no live call of {', '.join(foreign)}"
    if not outcome.terms.filters.api_key_ids:
        yield "other traffic: pass --api-key-id with an API key that only these runs use"
    if cut := sum(any(each.rule.tokens for each in call.caveats) for call in calls):
        yield f"answers cut off, lost or unclear: {cut:,}; the ledger may lack some of their tokens"
    if retried := sum(call.attempts > 1 for call in calls):
        yield f"calls sent more than once: {retried:,}; an attempt that timed out may be billed"
    if width != "1m":
        yield f"buckets of {width}: other requests shortly before or after the runs are in them"
    yield "calls outside the ledger: by subprocesses or other programs, or with --no-llmcost"


def _billed_less(
    outcome: Reconciliation, calls: Sequence[Call], asked_at: datetime | None
) -> Iterator[str]:
    last = last_call_at(calls)
    if asked_at and last and asked_at - last < FRESH_AFTER:
        minutes = (asked_at - last) // timedelta(minutes=1)
        yield f"late data: usage takes 5 min, the last call was {minutes} min ago; use --wait"
    if outcome.terms.filters != Filters():
        yield "the runs used another API key or workspace than the given one"
    if outcome.ledgers > 1:
        yield "calls that are in two of the ledgers: name shards, or what they were merged into"
    if unknown := sum(call.live is None for call in calls):
        yield f"calls that may not have been live: {unknown:,}; their transport does not tell"
    if any(call.context.service_tier == "batch" for call in calls):
        yield "batches are billed when they are processed, not when their results are fetched"
    if not any(line.reported for line in outcome.usage):
        mistake = "the Admin key is"
        if not asked_at:
            groups = "model, api_key_id and workspace_id"
            mistake = f"the saved answers are of another time, not grouped by {groups}, or"
        yield (
            f"nothing is reported at all: {mistake} of another organisation, a gateway's own key "
            "or Claude Platform on AWS or Google Cloud was used, or the API no longer keeps that "
            "time"
        )

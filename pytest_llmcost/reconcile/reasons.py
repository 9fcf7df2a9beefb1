"""Why the two sides may differ, in words; guesses that the figures themselves support.

Data flow: a comparison's lines and calls -> `likely_reasons`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import msgspec

from pytest_llmcost.reconcile.comparison import CostLine, Terms, UsageLine
from pytest_llmcost.reconcile.live import LiveCall
from pytest_llmcost.reconcile.window import parse_instant

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

"""Ledger: every call of a run with its owner; JSON in and out.

Data flow: calls and verdicts -> Ledger -> `Report` (frozen, what files hold) -> renderers.
`Report` is the one format on the wire between workers, in shard files, reports and baselines.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import msgspec

from pytest_llmcost.budgeting.budget import Verdict
from pytest_llmcost.metering.call import Call
from pytest_llmcost.pricing.usage import Usage

SCHEMA = "pytest-llmcost/1"


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """What a fingerprint stands for: its model, and a short digest of every part."""

    model: str
    parts: Mapping[str, str] = {}


class TestRow(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of one test."""

    __test__ = False

    nodeid: str
    path: str = ""
    line: int | None = None
    """Counted from 1."""
    attempt: int = 1
    outcome: str = ""
    usd: Decimal | None = None
    verdict: Verdict | None = None
    """The decisive ceiling of the test: the worst of all that apply."""
    blocks: tuple[Verdict, ...] = ()
    """Every further ceiling: other quantities of the marker, and `budget(...)` blocks."""
    calls: tuple[Call, ...] = ()


class FixtureRow(msgspec.Struct, frozen=True, kw_only=True):
    """One set-up (and teardown) of a fixture wider than a function."""

    name: str
    scope: str
    baseid: str = ""
    """The node under which it is defined; empty for the whole session."""
    worker: str | None = None
    param: str | None = None
    usd: Decimal | None = None
    calls: tuple[Call, ...] = ()


class ModelTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over one model's legs."""

    usd: Decimal
    live_usd: Decimal
    calls: int
    usage: Usage


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over a whole run."""

    usd: Decimal = Decimal(0)
    """List price of what could be priced; a lower bound when `unpriced_calls` is above 0."""
    live_usd: Decimal = Decimal(0)
    """What this run itself spent: every call that went over the network, or may have."""
    calls: int = 0
    unpriced_calls: int = 0
    usage: Usage = Usage()
    by_model: Mapping[str, ModelTotals] = {}


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """When and how the run went; the only part that differs between equal runs."""

    started_at: str | None = None
    finished_at: str | None = None
    exit_status: int | None = None
    workers: int = 0


class CardId(msgspec.Struct, frozen=True, kw_only=True):
    """Which prices were used."""

    version: str = ""
    sha256: str = ""
    sources: tuple[str, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run, as every file holds it."""

    schema: str = SCHEMA
    generator: Mapping[str, str] = {}
    run: Run = Run()
    complete: bool = True
    incomplete: tuple[str, ...] = ()
    price_date: str = ""
    cache_basis: str = "as-billed"
    rate_card: CardId = CardId()
    totals: Totals = Totals()
    verdicts: tuple[Verdict, ...] = ()
    """Ceilings over several tests: the suite's, places', increases'."""
    comparison: object | None = None
    payloads: Mapping[str, Payload] = {}
    tests: tuple[TestRow, ...] = ()
    fixtures: tuple[FixtureRow, ...] = ()
    outside_tests: tuple[Call, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader should know: tier cliffs, stale prices, what could not be compared."""

"""Report: a whole run as a frozen value, the one format that files and workers exchange.

Data flow: Ledger -> Report -> renderers, JSON, `merge`, `compare`. Field names are JSON keys,
and a promise; keys added later have defaults, so that older files can be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TypeVar

import msgspec

from pytest_llmcost.budgeting.budget import Verdict
from pytest_llmcost.budgeting.comparison import Comparison
from pytest_llmcost.budgeting.switch import Switch
from pytest_llmcost.metering.call import Call
from pytest_llmcost.pricing.usage import Count, PromptCount, Usage

SCHEMA = "pytest-llmcost/1"


class Payload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a fingerprint stands for: its model, and a short digest of every part.

    What is known of it besides is there only where somebody asked.
    """

    model: str
    parts: Mapping[str, str] = {}
    counts: Mapping[str, PromptCount] = {}
    """Another model -> the tokens that this prompt is there."""
    rejected: Mapping[str, str] = {}
    """Another model -> what it rejects, so that there is no count."""
    dropped: Mapping[str, str] = {}
    """Another model -> settings it rejects that have no tokens; the count holds without them."""
    left_out: Mapping[str, str] = {}
    """Another model -> the parts that the count leaves out, so that it is too low."""
    task_budget: int | None = None
    """Tokens that the model is told to keep to; advisory."""
    breakpoints: int = 0
    """How many cached prefixes the prompt asks for."""
    cached: Mapping[str, Count] = {}
    """Life of a cache entry, `5m` or `1h` -> the tokens that a first call writes, where counted."""

    def joined(self, other: Payload) -> Payload:
        """Return all that two sources know of the same payload, whichever came first."""
        base = min(self, other, key=lambda each: (each.model, sorted(each.parts.items())))
        return msgspec.structs.replace(
            base,
            counts=_joined(self.counts, other.counts),
            rejected=_joined(self.rejected, other.rejected),
            dropped=_joined(self.dropped, other.dropped),
            left_out=_joined(self.left_out, other.left_out),
            task_budget=_larger(self.task_budget, other.task_budget),
            breakpoints=max(self.breakpoints, other.breakpoints),
            cached=_joined(self.cached, other.cached),
        )


_AnyValue = TypeVar("_AnyValue", int, str)


def _joined(one: Mapping[str, _AnyValue], other: Mapping[str, _AnyValue]) -> dict[str, _AnyValue]:
    """Both, sorted; where they differ the greater, so that their order never shows."""
    return {
        key: max(found[key] for found in (one, other) if key in found)
        for key in sorted({*one, *other})
    }


def _larger(one: int | None, other: int | None) -> int | None:
    return max((each for each in (one, other) if each is not None), default=None)


class TestRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt of one test."""

    __test__ = False

    nodeid: str
    path: str = ""
    line: int | None = None
    """Counted from 1."""
    attempt: int = 1
    outcome: str = ""
    usd: Decimal = Decimal(0)
    """List price of what could be priced."""
    verdict: Verdict | None = None
    """The decisive ceiling of the test: the worst of all that apply."""
    blocks: tuple[Verdict, ...] = ()
    """Every further ceiling: other quantities of the marker, and `budget(...)` blocks."""
    calls: tuple[Call, ...] = ()


class FixtureRow(msgspec.Struct, frozen=True, kw_only=True):
    """One set-up (and teardown) of a fixture wider than a function, in one process."""

    name: str
    scope: str
    baseid: str = ""
    """The node under which it is defined; empty for the whole session."""
    node: str = ""
    """The module, class or package it was set up for; empty for the whole session."""
    worker: str | None = None
    param: str | None = None
    usd: Decimal = Decimal(0)
    calls: tuple[Call, ...] = ()


class ModelTotals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over one model's legs."""

    usd: Decimal = Decimal(0)
    live_usd: Decimal = Decimal(0)
    calls: int = 0
    """Calls in which the model had a leg."""
    usage: Usage = Usage()


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over a whole run; a fixture set up several times counts once, at its dearest."""

    usd: Decimal = Decimal(0)
    """List price of what could be priced; a lower bound when `unpriced_calls` is above 0."""
    live_usd: Decimal = Decimal(0)
    """What this run itself spent: every call that went over the network, or may have; all
    set-ups of every fixture."""
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
    lost_calls: tuple[str, ...] = ()
    """Why calls may be missing that were made: `worker-crashed` or `interrupted`. What the run
    cost then has no upper bound; a run that only left tests out has one."""
    price_date: str = ""
    cache_basis: str = "as-billed"
    rate_card: CardId = CardId()
    totals: Totals = Totals()
    verdicts: tuple[Verdict, ...] = ()
    """Ceilings over several tests: the suite's and places'."""
    comparison: Comparison | None = None
    """With the verdicts on increases in it."""
    payloads: Mapping[str, Payload] = {}
    tests: tuple[TestRow, ...] = ()
    fixtures: tuple[FixtureRow, ...] = ()
    outside_tests: tuple[Call, ...] = ()
    what_if: tuple[Switch, ...] = ()
    """The run on other models, where it was asked for, sorted by model."""
    notes: tuple[str, ...] = ()
    """What a reader should know: tier cliffs, stale prices, what could not be compared."""


def fixture_name(row: FixtureRow) -> str:
    """Name a shared fixture: where it belongs to, its own name, its parameter, its scope."""
    place = row.node or row.baseid
    param = "" if row.param is None else f"[{row.param}]"
    return f"{place}{'::' if place else ''}{row.name}{param} ({row.scope} fixture)"


def calls_of(report: Report) -> Iterator[Call]:
    """Yield every call of a run, every set-up of a fixture included."""
    for test in report.tests:
        yield from test.calls
    for fixture in report.fixtures:
        yield from fixture.calls
    yield from report.outside_tests


def unpriced_models(report: Report) -> frozenset[str]:
    """The models of which some call has no price; what they cost in all is a lower bound."""
    unpriced = [call for call in calls_of(report) if call.usd is None]
    legs = {leg.model for call in unpriced for leg in call.legs if leg.usd is None}
    return frozenset(legs | {call.model for call in unpriced if not call.legs})


def run_verdicts(report: Report) -> Iterator[Verdict]:
    """Yield the verdicts on more than one test: suite, places, increases of suite and tests.

    An exceeded or unverified one among them is what fails a run whose tests all passed.
    """
    yield from report.verdicts
    if report.comparison is not None:
        yield from report.comparison.verdicts
        for change in report.comparison.changes:
            yield from change.verdicts


def all_verdicts(report: Report) -> Iterator[Verdict]:
    """Yield every verdict of a run, the tests' own last."""
    yield from run_verdicts(report)
    for test in report.tests:
        yield from own_verdicts(test)


def own_verdicts(test: TestRow) -> Iterator[Verdict]:
    """Yield the verdicts on one attempt of a test, the decisive one first."""
    if test.verdict is not None:
        yield test.verdict
    yield from test.blocks

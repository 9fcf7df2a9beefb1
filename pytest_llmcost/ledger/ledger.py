"""Comparison: a run against an earlier one, as reports hold it; `baseline` makes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Literal, TypeVar

import msgspec

from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.call import Call
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.usage import Count, PromptCount, Usage

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


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Now and then, over the calls that could be compared; nothing where none could."""

    calls: int = 0
    """Those compared: the figures are of these alone, now as well as then."""
    unknown_calls: int = 0
    """Those that could not be; they are in none of the figures."""
    input_tokens: int | None = None
    """The whole prompts as they are now."""
    input_tokens_then: int | None = None
    usd: Decimal | None = None
    """List price now; the output is the same now and then, as recorded or stated."""
    usd_then: Decimal | None = None


class OtherModelRow(Figures, frozen=True, kw_only=True):
    """One attempt of a test, a shared fixture, or what belongs to nobody."""

    kind: Literal["test", "fixture", "outside"] = "test"
    name: str
    attempt: int = 1
    reasons: tuple[str, ...] = ()
    """Why calls could not be compared, sorted, each once."""


class OtherModel(Figures, frozen=True, kw_only=True):
    """A whole run on another model."""

    model: str
    rows: tuple[OtherModelRow, ...] = ()
    """Sorted by kind, name and attempt."""
    missing: int = 0
    """Payloads whose count for the model is not recorded."""
    rejected: Mapping[str, int] = {}
    """What the model rejects -> how many payloads have it; these are not priced."""
    dropped: Mapping[str, int] = {}
    """Rejected settings without tokens -> how many payloads have them; the rest is priced."""
    notes: tuple[str, ...] = ()


_KINDS = ("test", "fixture", "outside")


def sum_figures(rows: Iterable[Figures]) -> Figures:
    """Add up figures; unknown calls stay apart."""
    rows = list(rows)
    return Figures(
        calls=sum(row.calls for row in rows),
        unknown_calls=sum(row.unknown_calls for row in rows),
        input_tokens=_sum_tokens(row.input_tokens for row in rows),
        input_tokens_then=_sum_tokens(row.input_tokens_then for row in rows),
        usd=_sum_usd(row.usd for row in rows),
        usd_then=_sum_usd(row.usd_then for row in rows),
    )


def _sum_tokens(numbers: Iterable[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _sum_usd(amounts: Iterable[Decimal | None]) -> Decimal | None:
    total: Decimal | None = None
    for amount in amounts:
        if amount is not None:
            total = EXACT.add(total or Decimal(0), amount)
    return total


def make_other_model(
    model: str,
    rows: Iterable[OtherModelRow],
    *,
    missing: int = 0,
    rejected: Mapping[str, int] | None = None,
    dropped: Mapping[str, int] | None = None,
    notes: Iterable[str] = (),
) -> OtherModel:
    """Sort the rows and add them up."""
    ordered = tuple(sorted(rows, key=_row_order))
    totals = sum_figures(ordered)
    return OtherModel(
        **{name: getattr(totals, name) for name in Figures.__struct_fields__},
        model=model,
        rows=ordered,
        missing=missing,
        rejected=_sorted(rejected or {}),
        dropped=_sorted(dropped or {}),
        notes=tuple(sorted(set(notes))),
    )


def _row_order(row: OtherModelRow) -> tuple[int, str, int]:
    return _KINDS.index(row.kind), row.name, row.attempt


def _sorted(numbers: Mapping[str, int]) -> dict[str, int]:
    return {name: numbers[name] for name in sorted(numbers)}


def merge_other_models(shards: Sequence[Sequence[OtherModel]]) -> tuple[OtherModel, ...]:
    """Add up what the shards of a run found out, model by model.

    A fixture that several shards set up counts once, at its dearest. A payload that several
    shards sent and lack the count of is missing in each.
    """
    models = sorted({other.model for shard in shards for other in shard})
    return tuple(_merge(model, shards) for model in models)


def _merge(model: str, shards: Sequence[Sequence[OtherModel]]) -> OtherModel:
    found = [other for shard in shards for other in shard if other.model == model]
    notes = {note for other in found for note in other.notes}
    if len(found) < len(shards):
        notes.add(f"{len(shards) - len(found)} of {len(shards)} shards did not ask for {model}")
    return make_other_model(
        model,
        _once(row for other in found for row in other.rows),
        missing=sum(other.missing for other in found),
        rejected=_added(other.rejected for other in found),
        dropped=_added(other.dropped for other in found),
        notes=notes,
    )


def _once(rows: Iterable[OtherModelRow]) -> list[OtherModelRow]:
    """Keep tests as they are, and of a fixture's or nobody's rows what stands for all."""
    kept: list[OtherModelRow] = []
    fixtures: dict[str, OtherModelRow] = {}
    outside: list[OtherModelRow] = []
    for row in rows:
        if row.kind == "fixture":
            rival = fixtures.get(row.name, row)
            fixtures[row.name] = max(rival, row, key=_expense)
        else:
            (outside if row.kind == "outside" else kept).append(row)
    if outside:
        kept.append(_joined(outside))
    return [*kept, *fixtures.values()]


def _expense(row: OtherModelRow) -> tuple[Decimal, Decimal, int, str]:
    nothing = Decimal(0)
    return row.usd or nothing, row.usd_then or nothing, row.unknown_calls, repr(row)


def _joined(rows: Sequence[OtherModelRow]) -> OtherModelRow:
    totals = sum_figures(rows)
    return OtherModelRow(
        **{name: getattr(totals, name) for name in Figures.__struct_fields__},
        kind=rows[0].kind,
        name=rows[0].name,
        reasons=tuple(sorted({reason for row in rows for reason in row.reasons})),
    )


def _added(shards: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for numbers in shards:
        for name, number in numbers.items():
            total[name] = total.get(name, 0) + number
    return total


SCHEMA = "pytest-llmcost/1"


class PayloadFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
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

    def joined(self, other: PayloadFacts) -> PayloadFacts:
        """Return all that two sources know of the same payload, whichever came first."""
        base = min(self, other, key=lambda each: (each.model, sorted(each.parts.items())))
        return msgspec.structs.replace(
            base,
            counts=_joined_report(self.counts, other.counts),
            rejected=_joined_report(self.rejected, other.rejected),
            dropped=_joined_report(self.dropped, other.dropped),
            left_out=_joined_report(self.left_out, other.left_out),
            task_budget=_larger(self.task_budget, other.task_budget),
            breakpoints=max(self.breakpoints, other.breakpoints),
            cached=_joined_report(self.cached, other.cached),
        )


_AnyValue = TypeVar("_AnyValue", int, str)


def _joined_report(
    one: Mapping[str, _AnyValue], other: Mapping[str, _AnyValue]
) -> dict[str, _AnyValue]:
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


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
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


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run, as every file holds it."""

    schema: str = SCHEMA
    generator: Mapping[str, str] = {}
    run: RunRecord = RunRecord()
    complete: bool = True
    incomplete: tuple[str, ...] = ()
    lost_calls: tuple[str, ...] = ()
    """Why calls may be missing that were made: `worker-crashed` or `interrupted`. What the run
    cost then has no upper bound; a run that only left tests out has one."""
    price_date: str = ""
    cache_state: str = "as-billed"
    rate_card: CardId = CardId()
    totals: Totals = Totals()
    verdicts: tuple[Verdict, ...] = ()
    """Ceilings over several tests: the suite's and places'."""
    comparison: Comparison | None = None
    """With the verdicts on increases in it."""
    payloads: Mapping[str, PayloadFacts] = {}
    tests: tuple[TestRow, ...] = ()
    fixtures: tuple[FixtureRow, ...] = ()
    outside_tests: tuple[Call, ...] = ()
    other_models: tuple[OtherModel, ...] = ()
    """The run on other models, where it was asked for, sorted by model."""
    notes: tuple[str, ...] = ()
    """What a reader should know: tier cliffs, stale prices, what could not be compared."""


def fixture_name(row: FixtureRow) -> str:
    """Name a shared fixture: where it belongs to, its own name, its parameter, its scope."""
    place = row.node or row.baseid
    param = "" if row.param is None else f"[{row.param}]"
    return f"{place}{'::' if place else ''}{row.name}{param} ({row.scope} fixture)"


def calls_of(ledger: Ledger) -> Iterator[Call]:
    """Yield every call of a run, every set-up of a fixture included."""
    for test in ledger.tests:
        yield from test.calls
    for fixture in ledger.fixtures:
        yield from fixture.calls
    yield from ledger.outside_tests


def unpriced_models(ledger: Ledger) -> frozenset[str]:
    """The models of which some call has no price; what they cost in all is a lower bound."""
    unpriced = [call for call in calls_of(ledger) if call.usd is None]
    sampling_calls = {
        sampling.model
        for call in unpriced
        for sampling in call.sampling_calls
        if sampling.usd is None
    }
    return frozenset(sampling_calls | {call.model for call in unpriced if not call.sampling_calls})


def run_verdicts(ledger: Ledger) -> Iterator[Verdict]:
    """Yield the verdicts on more than one test: suite, places, increases of suite and tests.

    An exceeded or unverified one among them is what fails a run whose tests all passed.
    """
    yield from ledger.verdicts
    if ledger.comparison is not None:
        yield from ledger.comparison.verdicts
        for change in ledger.comparison.changes:
            yield from change.verdicts


def all_verdicts(ledger: Ledger) -> Iterator[Verdict]:
    """Yield every verdict of a run, the tests' own last."""
    yield from run_verdicts(ledger)
    for test in ledger.tests:
        yield from own_verdicts(test)


def own_verdicts(test: TestRow) -> Iterator[Verdict]:
    """Yield the verdicts on one attempt of a test, the decisive one first."""
    if test.verdict is not None:
        yield test.verdict
    yield from test.blocks

"""Switch: what a run's calls would cost on another model, then against now.

Data flow: `switch_model` -> Switch -> the ledger's `what_if`, the summary, the comment. Keys in
JSON are these names. Nothing unknown is ever counted as $0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Literal

import msgspec

from pytest_llmcost.pricing.money import EXACT


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


class SwitchRow(Figures, frozen=True, kw_only=True):
    """One attempt of a test, a shared fixture, or what belongs to nobody."""

    kind: Literal["test", "fixture", "outside"] = "test"
    name: str
    attempt: int = 1
    reasons: tuple[str, ...] = ()
    """Why calls could not be compared, sorted, each once."""


class Switch(Figures, frozen=True, kw_only=True):
    """A whole run on another model."""

    model: str
    rows: tuple[SwitchRow, ...] = ()
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


def make_switch(
    model: str,
    rows: Iterable[SwitchRow],
    *,
    missing: int = 0,
    rejected: Mapping[str, int] | None = None,
    dropped: Mapping[str, int] | None = None,
    notes: Iterable[str] = (),
) -> Switch:
    """Sort the rows and add them up."""
    ordered = tuple(sorted(rows, key=_row_order))
    totals = sum_figures(ordered)
    return Switch(
        **{name: getattr(totals, name) for name in Figures.__struct_fields__},
        model=model,
        rows=ordered,
        missing=missing,
        rejected=_sorted(rejected or {}),
        dropped=_sorted(dropped or {}),
        notes=tuple(sorted(set(notes))),
    )


def _row_order(row: SwitchRow) -> tuple[int, str, int]:
    return _KINDS.index(row.kind), row.name, row.attempt


def _sorted(numbers: Mapping[str, int]) -> dict[str, int]:
    return {name: numbers[name] for name in sorted(numbers)}


def merge_switches(shards: Sequence[Sequence[Switch]]) -> tuple[Switch, ...]:
    """Add up what the shards of a run found out, model by model.

    A fixture that several shards set up counts once, at its dearest. A payload that several
    shards sent and lack the count of is missing in each.
    """
    models = sorted({switch.model for shard in shards for switch in shard})
    return tuple(_merge(model, shards) for model in models)


def _merge(model: str, shards: Sequence[Sequence[Switch]]) -> Switch:
    found = [switch for shard in shards for switch in shard if switch.model == model]
    notes = {note for switch in found for note in switch.notes}
    if len(found) < len(shards):
        notes.add(f"{len(shards) - len(found)} of {len(shards)} shards did not ask for {model}")
    return make_switch(
        model,
        _once(row for switch in found for row in switch.rows),
        missing=sum(switch.missing for switch in found),
        rejected=_added(switch.rejected for switch in found),
        dropped=_added(switch.dropped for switch in found),
        notes=notes,
    )


def _once(rows: Iterable[SwitchRow]) -> list[SwitchRow]:
    """Keep tests as they are, and of a fixture's or nobody's rows what stands for all."""
    kept: list[SwitchRow] = []
    fixtures: dict[str, SwitchRow] = {}
    outside: list[SwitchRow] = []
    for row in rows:
        if row.kind == "fixture":
            rival = fixtures.get(row.name, row)
            fixtures[row.name] = max(rival, row, key=_dearness)
        else:
            (outside if row.kind == "outside" else kept).append(row)
    if outside:
        kept.append(_joined(outside))
    return [*kept, *fixtures.values()]


def _dearness(row: SwitchRow) -> tuple[Decimal, Decimal, int, str]:
    nothing = Decimal(0)
    return row.usd or nothing, row.usd_then or nothing, row.unknown_calls, repr(row)


def _joined(rows: Sequence[SwitchRow]) -> SwitchRow:
    totals = sum_figures(rows)
    return SwitchRow(
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

"""A run against its baseline or on another model, as text and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from pytest_llmcost.ledger.ledger import (
    Change,
    Comparison,
    Figures,
    OtherModel,
    OtherModelRow,
)
from pytest_llmcost.money import EXACT, format_usd
from pytest_llmcost.reports.escape import clean, code, prose
from pytest_llmcost.reports.tables import (
    GroupedRow,
    Line,
    format_count,
    markdown_row,
    markdown_table,
    render_groups,
    signed_cell,
    usd_cell,
    wrap,
)
from pytest_llmcost.reports.wording import UNKNOWN, dollars, growth, signed

_MOST_PARTS = 6


# Against the baseline


def describe_difference(comparison: Comparison) -> tuple[str, str]:
    """Say what a run adds, and how: `+$0.05`, ` (+12 %): $0.40 → $0.45, 3 unchanged`."""
    base, head, change = comparison.base_usd, comparison.head_usd, change_of(comparison)
    grown = growth(base, head) if change else ""
    share = f" ({grown})" if grown not in ("", "=") else ""
    figures = f"{dollars(base)} → {dollars(head)}"
    return signed(change), f"{share}: {figures}, {comparison.unchanged:,} unchanged"


def change_of(comparison: Comparison) -> Decimal | None:
    """Return what a run adds; None also if nothing is known of it before and after."""
    if comparison.base_usd is None and comparison.head_usd is None:
        return None
    return comparison.change_usd


def describe_new_prices(comparison: Comparison) -> str:
    """Say what new prices alone changed; empty if they changed nothing."""
    if not comparison.price_change_usd:
        return ""
    return (
        f"new prices since {comparison.base_price_date} changed the same calls by "
        f"{signed(comparison.price_change_usd)}, which these figures leave out"
    )


class SharedPart(NamedTuple):
    """A part of prompts that changed in several tests."""

    name: str
    tests: int
    tokens: int | None
    """By how many input tokens; None if other parts of these tests changed, too."""

    def __str__(self) -> str:
        grown = "" if self.tokens is None else f": {self.tokens:+,} input tokens"
        return f"{self.name} changed in {self.tests:,} tests{grown}"


def shared_parts(comparison: Comparison) -> list[SharedPart]:
    """Find the parts that changed in several tests, so that each is named once."""
    found: dict[str, list[Change]] = {}
    for change in comparison.changes:
        for part in change.parts:
            found.setdefault(part, []).append(change)
    shared = []
    for part, changes in found.items():
        if len(changes) > 1:
            is_alone = all(change.parts == (part,) for change in changes)
            tokens = sum(_input_tokens(change) for change in changes)
            shared.append(SharedPart(part, len(changes), tokens if is_alone else None))
    return sorted(shared, key=lambda each: (-each.tests, each.name))


def _input_tokens(change: Change) -> int:
    return sum(number for name, number in change.tokens.items() if name != "output_tokens")


def _before(change: Change) -> str:
    return "new" if change.status == "new" else usd_cell(change.base_usd)


def _after(change: Change) -> str:
    return "removed" if change.status == "removed" else usd_cell(change.head_usd)


def _what_differs(change: Change, shared: Sequence[SharedPart]) -> tuple[list[str], list[str]]:
    """Return tokens and calls as phrases, and the names of the changed parts."""
    phrases = [
        f"{number:+,} {name.removesuffix('_tokens').replace('_', ' ')}"
        for name, number in change.tokens.items()
    ]
    if change.calls:
        phrases.append(f"{change.calls:+,} {'call' if abs(change.calls) == 1 else 'calls'}")
    named = {each.name for each in shared}
    return phrases, [part for part in change.parts if part not in named]


def render_comparison(comparison: Comparison, width: int, *, most: int = 5) -> Iterator[Line]:
    """Say what a run adds to its baseline, then name the changes that add most; 0 shows all."""
    change, figures = describe_difference(comparison)
    yield Line(f"{change} against the baseline{figures}", {"bold": True})
    shared = shared_parts(comparison)
    for text in [describe_new_prices(comparison), *map(str, shared)]:
        yield from map(Line, wrap(text, width, indent=2))
    shown = comparison.changes[:most] if most else comparison.changes
    if shown:
        rows = [_change_row(each, shared) for each in shown]
        yield from render_groups(["before", "after", "change"], rows, width)
    if len(comparison.changes) > len(shown):
        yield Line(f"… {len(comparison.changes) - len(shown)} more changes")
    for note in comparison.notes:
        yield from (Line(text, {"yellow": True}) for text in wrap(clean(note), width, indent=2))


def _change_row(change: Change, shared: Sequence[SharedPart]) -> GroupedRow:
    group, name = _split_name(change.name)
    phrases, parts = _what_differs(change, shared)
    more = [f"{len(parts) - _MOST_PARTS:,} more parts"] if len(parts) > _MOST_PARTS else []
    return GroupedRow(
        group,
        f"  {name}",
        [_before(change), _after(change), signed_cell(change.usd)],
        note=clean(", ".join([*phrases, *parts[:_MOST_PARTS], *more])),
    )


def _split_name(name: str) -> tuple[str, str]:
    file, separator, rest = clean(name).partition("::")
    return (file, rest) if separator else ("fixtures and calls outside tests", name)


def comparison_section(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of a Markdown section: what a run adds, and a row for each change."""
    change, figures = describe_difference(comparison)
    yield from ("#### Against the baseline", "", f"**{change}**{figures}.")
    shared = shared_parts(comparison)
    remarks = [describe_new_prices(comparison), *map(str, shared), *comparison.notes]
    if any(remarks):
        yield from ("", *(f"- {prose(each)}" for each in remarks if each))
    if comparison.changes:
        heads = ("changed", "before:", "after:", "change:", "what changed")
        rows = [_markdown_change(each, shared) for each in comparison.changes]
        yield from ("", *markdown_table(heads, rows))


def _markdown_change(change: Change, shared: Sequence[SharedPart]) -> str:
    phrases, parts = _what_differs(change, shared)
    shown = [*map(prose, phrases), *map(code, parts[:_MOST_PARTS])]
    if len(parts) > _MOST_PARTS:
        shown.append(f"{len(parts) - _MOST_PARTS:,} more parts")
    figures = [_before(change), _after(change), signed_cell(change.usd)]
    return markdown_row(code(change.name), *figures, ", ".join(shown))


# On another model


class OtherModelLine(NamedTuple):
    """Cases and attempts of one test, or what else has calls, as one row."""

    name: str
    figures: Figures


def fold_other_model(rows: Sequence[OtherModelRow]) -> list[OtherModelLine]:
    """Put cases and attempts of a test into one row; the one that costs most now comes first."""
    groups: dict[tuple[str, str], list[OtherModelRow]] = {}
    for row in rows:
        groups.setdefault((row.kind, _base(row)), []).append(row)
    folded = []
    for (_, base), group in groups.items():
        names = {row.name for row in group}
        name = next(iter(names)) if len(names) == 1 else f"{base} ({len(names)} cases)"
        attempts = max(row.attempt for row in group)
        name += f" ({attempts} attempts)" if attempts > 1 else ""
        folded.append(OtherModelLine(name, sum(group, Figures())))
    return sorted(folded, key=lambda row: (-(row.figures.usd or Decimal(0)), row.name))


def _base(row: OtherModelRow) -> str:
    return row.name.partition("[")[0] if row.kind == "test" else row.name


def render_other_model(
    other: OtherModel, *, width: int = 80, rows: int = 10, per: int = 1
) -> Iterator[Line]:
    """Render one model's table, and below it which calls are in no figure and why."""
    folded = fold_other_model(other.rows)
    most = folded[:rows] if rows else folded
    title = f"on {other.model}: the same prompts counted for it, output as it is now"
    yield Line(title, {"bold": True})
    table = []
    for row in most:
        group, name = _split_name(row.name)
        table.append(GroupedRow(group, f"  {name}", _cells(row.figures, per)))
    table.append(GroupedRow("", "total", _cells(other, per), {"bold": True}))
    cost = f"cost/{per:,}" if per != 1 else "cost"
    yield from render_groups(["input", "then", "", cost, "then", ""], table, width)
    if len(folded) > len(most):
        yield Line(f"… {len(folded) - len(most)} more (--llmcost-rows=0 shows all)")
    for text in _remarks(other):
        yield from (Line(each, {"yellow": True}) for each in wrap(text, width))


def _cells(figures: Figures, per: int = 1) -> list[str]:
    is_least = bool(figures.unknown_calls)
    tokens = (figures.input_tokens, figures.input_tokens_then)
    usds = (figures.usd, figures.usd_then)
    return [
        *(_tokens(each, is_least) for each in tokens),
        growth(*tokens).replace(" %", "%"),
        *(usd_cell(each, is_least=is_least, per=per) for each in usds),
        growth(*usds).replace(" %", "%"),
    ]


def _tokens(number: int | None, is_least: bool) -> str:
    return UNKNOWN if number is None else f"{'≥' if is_least else ''}{number:,}"


def _remarks(other: OtherModel) -> Iterator[str]:
    """Say what has no figure, then what a figure leaves out."""
    for reason, names in _reasons(other.rows).items():
        more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        yield f"no figure: {reason} ({', '.join(map(clean, names[:3]))}{more})"
    for text, number in other.dropped.items():
        yield f"{other.model} rejects {text}: {format_count(number, 'payload')} priced without it"
    yield from other.notes


def _reasons(rows: Iterable[OtherModelRow]) -> Mapping[str, Sequence[str]]:
    """Return each reason for a missing figure with the tests that it holds for."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for reason in row.reasons:
            found.setdefault(reason, {})[_base(row)] = None
    return {reason: [*found[reason]] for reason in sorted(found)}


def other_model_section(other: OtherModel) -> Iterator[str]:
    """Yield the lines of a Markdown section: the whole in a sentence, remarks, a row for each."""
    yield from (f"#### On {code(other.model)}", "", _sentence(other))
    remarks = [f"- {prose(text)}" for text in _remarks(other)]
    if remarks:
        yield from ("", *remarks)
    if other.rows:
        heads = ("test", "input:", "then:", "", "cost:", "then:", "")
        folded = fold_other_model(other.rows)
        rows = [markdown_row(code(row.name), *_cells(row.figures)) for row in folded]
        yield from ("", *markdown_table(heads, rows))


def _sentence(other: OtherModel) -> str:
    if other.usd is None or other.usd_then is None:
        return "Unknown: none of the calls could be compared."
    change = EXACT.subtract(other.usd_then, other.usd)
    grown = growth(other.usd, other.usd_then)
    share = f" ({grown})" if grown not in ("", "=") else ""
    text = (
        f"**{signed(change)}**{share}: {format_usd(other.usd)} → {format_usd(other.usd_then)} for "
        f"{format_count(other.calls, 'call')}, the same prompts counted for it, output as it is now"
    )
    if other.unknown_calls:
        text += f"; {format_count(other.unknown_calls, 'call')} without a figure"
    return f"{text}."

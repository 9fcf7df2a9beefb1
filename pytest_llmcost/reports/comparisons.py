"""A run against its baseline or on another model, as text and as Markdown."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

from pytest_llmcost.ledger.ledger import (
    BeforeAndAfter,
    Change,
    Comparison,
    Figures,
    OtherModel,
    OtherModelRow,
    function_of,
)
from pytest_llmcost.money import format_usd
from pytest_llmcost.reports.escape import clean, code, prose
from pytest_llmcost.reports.numbers import (
    UNKNOWN,
    dollars,
    first_of,
    format_count,
    grown_by,
    growth,
    signed,
    signed_cell,
    usd_cell,
)
from pytest_llmcost.reports.rows import OUTSIDE
from pytest_llmcost.reports.tables import (
    Line,
    Screen,
    TableRow,
    markdown_row,
    markdown_table,
    text_table,
    wrap,
)
from pytest_llmcost.reports.wording import limit_of, list_parts, show_part

_MOST_FAILED = 3
_MOST_GROWN = 3
_MOST_PREFIXES = 3
_MOST_VANISHED = 10


# Against the baseline


def describe_difference(comparison: Comparison) -> tuple[str, str]:
    """Say what a run adds, and how: `+$0.05`, ` (+12 %): $0.40 → $0.45, 3 unchanged`."""
    change = change_of(comparison)
    share = growth_of(comparison) if change else ""
    return signed(change), f"{share}: {_sides(comparison)}, {comparison.unchanged:,} unchanged"


def _sides(costs: BeforeAndAfter) -> str:
    base = dollars(costs.base_usd, is_least=costs.base_is_least)
    return f"{base} → {dollars(costs.head_usd, is_least=costs.head_is_least)}"


def growth_of(costs: BeforeAndAfter) -> str:
    """Write by how much a cost grew in brackets; nothing if it did not or that is unknown."""
    # Of two lower bounds the second may be the larger one whatever the true costs are.
    is_least = costs.base_is_least or costs.head_is_least
    return "" if is_least else grown_by(costs.base_usd, costs.head_usd)


def change_of(comparison: Comparison) -> Decimal | None:
    """Return what a run adds; None also if nothing is known of it before and after."""
    is_unknown = comparison.base_usd is None and comparison.head_usd is None
    return None if is_unknown else comparison.change_usd


def shared_parts(comparison: Comparison) -> dict[str, str]:
    """Say which parts changed in several tests, by their names, so that each is named once."""
    found: dict[str, list[Change]] = {}
    for change in comparison.changes:
        for part in change.parts:
            found.setdefault(part, []).append(change)
    shared = {}
    for part, changes in sorted(found.items(), key=lambda each: (-len(each[1]), each[0])):
        if len(changes) > 1:
            shared[part] = f"{part} changed in {len(changes):,} tests"
            # By how many tokens is only known if nothing else changed.
            if all(
                each.parts == (part,) and not each.calls and each.usd is not None
                for each in changes
            ):
                tokens = sum(
                    number
                    for change in changes
                    for name, number in change.tokens.items()
                    if name not in ("output_tokens", "web_search_requests")
                )
                shared[part] += f": {tokens:+,} input tokens"
    return shared


def describe_facts(comparison: Comparison) -> Iterator[str]:
    """Say what the figures leave out, which parts changed in several tests, which tags' cost."""
    if failed := comparison.failed:
        names = first_of([*map(clean, failed)], _MOST_FAILED)
        passing = "it passes" if len(failed) == 1 else "they pass"
        tests = format_count(len(failed), "test")
        yield f"{tests} failed and may cost more when {passing}: {names}"
    if comparison.price_change_usd:
        on, state = comparison.base_price_date, comparison.base_cache_state
        why = f"new prices since {on} changed the same calls"
        if state:
            why = f"the baseline is of {on} with llmcost_cache={state}; priced as this run, "
            why += "the same calls change"
        change_usd = signed(comparison.price_change_usd)
        yield f"{why} by {change_usd}, which these figures leave out"
    yield from shared_parts(comparison).values()
    for tag, change in comparison.by_tag.items():
        yield f"tag {clean(tag)}: {_sides(change)}{growth_of(change)}"
    for each in comparison.prefixes[:_MOST_PREFIXES]:
        others = f" and {each.owners - 1:,} more" if each.owners > 1 else ""
        what = f"a cached prefix changed ({', '.join(each.parts)}) in {clean(each.name)}{others}"
        size = "it" if each.tokens is None else f"its {each.tokens:,} tokens"
        most = "at most " if each.is_most else ""
        yield f"{what}: writing {size} again costs {most}{dollars(each.usd)} once"
    if (more := len(comparison.prefixes) - _MOST_PREFIXES) > 0:
        yield f"{more:,} more cached prefixes changed"


def describe_part_changes(comparison: Comparison) -> Iterator[str]:
    """Say by how much the parts of prompts changed that did so most, and where each of them is."""
    names: dict[tuple[str, int, int], list[str]] = {}
    for each in comparison.parts:
        if each.before is not None and each.before != each.after:
            names.setdefault((each.part, each.before, each.after), []).append(each.name)
    changed = sorted(names, key=lambda key: (-abs(key[2] - key[1]), key))
    parts = {each.part for each in comparison.parts}
    for part, before, after in changed[:_MOST_GROWN]:
        grown = grown_by(before, after) if after else " (removed)"
        where = first_of([*map(clean, names[part, before, after])], 1)
        figures = f"{before:,} → {after:,} tokens{grown if before else ' (new)'}"
        yield f"{show_part(part, parts)}: {figures} in {where}"
    if (more := len(changed) - _MOST_GROWN) > 0:
        yield f"{format_count(more, 'more part')} changed"


def describe_vanished(comparison: Comparison) -> Iterator[str]:
    """Say which guards of the baseline are gone, how, and what they watched."""
    for gone in comparison.vanished[:_MOST_VANISHED]:
        budget = f", budget {limit_of(gone.verdict)}" if gone.verdict else ""
        spent = dollars(gone.base_usd, is_least=gone.base_is_least)
        figures = f"{spent} in {format_count(gone.base_calls, 'call')}{budget}"
        yield f"{clean(gone.name)}: {gone.how} (baseline: {figures})"
    if (more := len(comparison.vanished) - _MOST_VANISHED) > 0:
        yield f"{format_count(more, 'more guard')} of the baseline"


def count_vanished(comparison: Comparison | None) -> str:
    """Say how many guards are gone, with the mark of the footnote that names them."""
    number = len(comparison.vanished) if comparison else 0
    return f"{format_count(number, 'guard')} vanished¹" if number else ""


def cells_of(costs: BeforeAndAfter) -> tuple[str, str]:
    """Write what something cost in the baseline and costs now, or that it is new or gone."""
    before = usd_cell(costs.base_usd, is_least=costs.base_is_least)
    after = usd_cell(costs.head_usd, is_least=costs.head_is_least)
    if isinstance(costs, Change) and costs.status == "new":
        before = "new"
    elif isinstance(costs, Change) and costs.status != "changed":
        after = costs.status
    return before, after


def what_differs(change: Change, shared: Container[str]) -> tuple[list[str], list[str]]:
    """Return tokens and calls as phrases, and the changed parts that are not shared with others."""
    phrases = [
        f"{number:+,} {name.removesuffix('_tokens').replace('_', ' ')}"
        for name, number in change.tokens.items()
    ]
    if change.calls:
        phrases.append(f"{change.calls:+,} {'call' if abs(change.calls) == 1 else 'calls'}")
    return phrases, [part for part in change.parts if part not in shared]


def render_comparison(comparison: Comparison, screen: Screen, *, most: int = 5) -> Iterator[Line]:
    """Say what a run adds to its baseline, then name the changes that add most; 0 shows all."""
    change, figures = describe_difference(comparison)
    yield Line(f"{change} against the baseline{figures}", {"bold": True})
    for text in (
        *describe_vanished(comparison),
        *describe_facts(comparison),
        *describe_part_changes(comparison),
    ):
        yield from wrap(text, screen, indent=2)
    shown = comparison.changes[:most] if most else comparison.changes
    rows, shared = [], shared_parts(comparison)
    for each in shown:
        group, name = _split_name(each.name)
        phrases, parts = what_differs(each, shared)
        cells = [f"  {name}", *cells_of(each), signed_cell(each.usd)]
        note = clean(", ".join([*phrases, *list_parts(parts)]))
        rows.append(TableRow(cells, group, note=note))
    if rows:
        yield from text_table(["", "before:", "after:", "change:"], rows, screen)
    if len(comparison.changes) > len(shown):
        yield Line(f"… {len(comparison.changes) - len(shown)} more changes")
    for note in comparison.notes:
        yield from wrap(clean(note), screen, indent=2, markup={"yellow": True})


def _split_name(name: str) -> tuple[str, str]:
    file, separator, rest = clean(name).partition("::")
    return (file, rest) if separator else (OUTSIDE, file)


# On another model

SAME_PROMPTS = "the same prompts counted for it, output as it is now"


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
    return function_of(row.name) if row.kind == "test" else row.name


def render_other_model(
    other: OtherModel, screen: Screen, *, rows: int = 10, per: int = 1
) -> Iterator[Line]:
    """Render one model's table, and below it which calls are in no figure and why."""
    folded = fold_other_model(other.rows)
    most = folded[:rows] if rows else folded
    yield Line(f"on {other.model}: {SAME_PROMPTS}", {"bold": True})
    table = []
    for row in most:
        group, name = _split_name(row.name)
        table.append(TableRow([f"  {name}", *other_model_cells(row.figures, per)], group))
    table.append(TableRow(["total", *other_model_cells(other, per)], markup={"bold": True}))
    cost = f"cost/{per:,}:" if per != 1 else "cost:"
    yield from text_table(["", "input:", "then:", ":", cost, "then:", ":"], table, screen)
    if len(folded) > len(most):
        yield Line(f"… {len(folded) - len(most)} more (--llmcost-rows=0 shows all)")
    for text in other_model_remarks(other):
        yield from wrap(text, screen, markup={"yellow": True})


def other_model_cells(figures: Figures, per: int = 1) -> list[str]:
    """Write input tokens and cost: now, then, and by how much they grow."""
    least = "≥" if figures.unknown_calls else ""
    tokens = (figures.input_tokens, figures.input_tokens_then)
    usds = (figures.usd, figures.usd_then)
    return [
        *(UNKNOWN if each is None else f"{least}{each:,}" for each in tokens),
        growth(*tokens).replace(" %", "%"),
        *(usd_cell(each, is_least=bool(least), per=per) for each in usds),
        growth(*usds).replace(" %", "%"),
    ]


def other_model_remarks(other: OtherModel) -> Iterator[str]:
    """Say what has no figure, then what a figure leaves out."""
    reasons: dict[str, dict[str, None]] = {}
    for row in other.rows:
        for reason in row.reasons:
            reasons.setdefault(reason, {})[clean(_base(row))] = None
    for reason, found in sorted(reasons.items()):
        yield f"no figure: {reason} ({first_of(list(found), 3)})"
    for text, number in other.dropped.items():
        yield f"{other.model} rejects {text}: {format_count(number, 'payload')} priced without it"
    yield from other.notes


def other_model_section(other: OtherModel) -> Iterator[str]:
    """Yield the lines of a Markdown section: the whole in a sentence, remarks, a row for each."""
    text = "Unknown: none of the calls could be compared"
    if other.usd is not None and other.usd_then is not None:
        text = (
            f"**{signed(other.usd_then - other.usd)}**"
            f"{grown_by(other.usd, other.usd_then)}: {format_usd(other.usd)} → "
            f"{format_usd(other.usd_then)} for {format_count(other.calls, 'call')}, {SAME_PROMPTS}"
        )
        if other.unknown_calls:
            text += f"; {format_count(other.unknown_calls, 'call')} without a figure"
    yield f"{text}."
    if remarks := [f"- {prose(text)}" for text in other_model_remarks(other)]:
        yield from ("", *remarks)
    if other.rows:
        heads = ("test", "input:", "then:", "", "cost:", "then:", "")
        folded = fold_other_model(other.rows)
        rows = [markdown_row(code(row.name), *other_model_cells(row.figures)) for row in folded]
        yield from ("", *markdown_table(heads, rows))

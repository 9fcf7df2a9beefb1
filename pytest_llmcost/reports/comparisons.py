"""A run against its baseline, another model or the runs before it, in words and as text."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import chain

from pytest_llmcost.ledger.ledger import (
    BeforeAndAfter,
    Change,
    Comparison,
    Figures,
    Ledger,
    OtherModel,
    OtherModelRow,
    PartChange,
    function_of,
)
from pytest_llmcost.ledger.run_history import Run, average
from pytest_llmcost.ledger.totals import largest_prompt, parts_of, spenders_of
from pytest_llmcost.prices.usage import PROMPT, Usage
from pytest_llmcost.reports.plain_text import (
    UNKNOWN,
    Line,
    Screen,
    TableRow,
    clean,
    dollars,
    first_of,
    format_count,
    grown_by,
    growth,
    short_commit,
    signed,
    text_table,
    usd_cell,
    wrap,
)
from pytest_llmcost.reports.rows import OUTSIDE
from pytest_llmcost.reports.wording import MOST_PARTS, limit_of, show_part

_MOST_NAMED = 3
"""Of what differs in one way; how many more there are is said behind them."""
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
        if len(changes) < 2:
            break
        shared[part] = f"{part} changed in {len(changes):,} tests"
        # By how many tokens is only known if nothing else changed.
        if all(
            (each.parts, each.calls) == ((part,), 0) and each.usd is not None for each in changes
        ):
            tokens = [pair for each in changes for pair in each.tokens.items()]
            number = sum(number for name, number in tokens if name in PROMPT)
            shared[part] += f": {number:+,} input tokens"
    return shared


def describe_facts(comparison: Comparison) -> Iterator[str]:
    """Say what the figures leave out, which parts changed in several tests, which tags' cost."""
    if failed := comparison.failed:
        names = first_of([*map(clean, failed)], _MOST_NAMED)
        passing = "it passes" if len(failed) == 1 else "they pass"
        tests = format_count(len(failed), "test")
        yield f"{tests} failed and may cost more when {passing}: {names}"
    if comparison.price_change_usd:
        on, state = comparison.base_price_date, comparison.base_cache_state
        why = f"new prices since {on} changed the same calls"
        if state:
            why = f"the baseline is of {on} with llmcost_cache={state}; priced as this run, "
            why += "the same calls change"
        yield f"{why} by {signed(comparison.price_change_usd)}, which these figures leave out"
    yield from shared_parts(comparison).values()
    for tag, change in comparison.by_tag.items():
        yield f"tag {clean(tag)}: {_sides(change)}{growth_of(change)}"
    for each in comparison.prefixes[:_MOST_NAMED]:
        others = f" and {each.owners - 1:,} more" if each.owners > 1 else ""
        what = f"a cached prefix changed ({', '.join(each.parts)}) in {clean(each.name)}{others}"
        size = "it" if each.tokens is None else f"its {each.tokens:,} tokens"
        most = "at most " if each.is_most else ""
        yield f"{what}: writing {size} again costs {most}{dollars(each.usd)} once"
    if (more := len(comparison.prefixes) - _MOST_NAMED) > 0:
        yield f"{more:,} more cached prefixes changed"


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


def cells_of(costs: Change | Comparison, *, with_share: bool = False) -> tuple[str, str, str]:
    """Write what something cost in the baseline, costs now, or that it is new or gone, and adds."""
    before = usd_cell(costs.base_usd, is_least=costs.base_is_least)
    after = usd_cell(costs.head_usd, is_least=costs.head_is_least)
    change = signed(costs.usd if isinstance(costs, Change) else change_of(costs), form=usd_cell)
    if isinstance(costs, Change) and costs.status not in ("new", "changed"):
        return before, costs.status, change
    if isinstance(costs, Change) and costs.status == "new":
        before = "new"
    return before, after, f"{change}{growth_of(costs)}" if with_share else change


def what_differs(change: Change, shared: Container[str]) -> str:
    """Say by how many tokens and calls, and which parts changed that are not shared with others."""
    # In the order of the categories, which a ledger that is read again has lost.
    phrases = [
        f"{change.tokens[name]:+,} {name.removesuffix('_tokens').replace('_', ' ')}"
        for name in Usage.__struct_fields__
        if name in change.tokens
    ]
    if change.calls:
        phrases.append(f"{change.calls:+,} {'call' if abs(change.calls) == 1 else 'calls'}")
    parts = [part for part in change.parts if part not in shared]
    return ", ".join(filter(None, (*phrases, first_of(parts, MOST_PARTS))))


def render_comparison(comparison: Comparison, screen: Screen, *, most: int = 5) -> Iterator[Line]:
    """Say what a run adds to its baseline, then name the changes that add most; 0 shows all."""
    change, figures = describe_difference(comparison)
    first = f"{change} against the baseline{figures}"
    facts = [*describe_vanished(comparison), *describe_facts(comparison)]
    facts += describe_part_changes(comparison)
    blocks: list[Iterable[Line]] = [wrap(first, screen, markup={"bold": True})]
    blocks += [wrap(text, screen, indent=2) for text in facts]
    shown, shared = comparison.changes[: most or None], shared_parts(comparison)
    rows = []
    for each in shown:
        group, name = _split_name(each.name)
        cells = [f"  {name}", *cells_of(each)]
        rows.append(TableRow(cells, group, note=clean(what_differs(each, shared))))
    if rows:
        blocks.append(text_table(["", "before:", "after:", "change:"], rows, screen))
    if len(comparison.changes) > len(shown):
        blocks.append([Line(f"… {len(comparison.changes) - len(shown):,} more changes")])
    for note in comparison.notes:
        blocks.append(wrap(clean(note), screen, indent=2, markup={"yellow": True}))
    return chain.from_iterable(blocks)


def _split_name(name: str) -> tuple[str, str]:
    file, separator, rest = clean(name).partition("::")
    return (file, rest) if separator else (OUTSIDE, file)


# On another model

SAME_PROMPTS = "the same prompts counted for it, output as it is now"


def fold_other_model(rows: Iterable[OtherModelRow]) -> list[tuple[str, Figures]]:
    """Put cases and attempts of a test into one row; the one that costs most now comes first."""
    groups: dict[tuple[str, str], list[OtherModelRow]] = {}
    for row in rows:
        groups.setdefault((row.kind, _base(row)), []).append(row)
    folded = []
    for (_, base), group in groups.items():
        names = {row.name for row in group}
        name = group[0].name if len(names) == 1 else f"{base} ({len(names)} cases)"
        attempts = max(row.attempt for row in group)
        name += f" ({attempts} attempts)" if attempts > 1 else ""
        folded.append((name, sum(group, Figures())))
    return sorted(folded, key=lambda row: (-(row[1].usd or Decimal(0)), row[0]))


def _base(row: OtherModelRow) -> str:
    return function_of(row.name) if row.kind == "test" else row.name


def render_other_model(
    other: OtherModel, screen: Screen, *, rows: int = 10, per: int = 1
) -> Iterator[Line]:
    """Render one model's table, and below it which calls are in no figure and why."""
    folded = fold_other_model(other.rows)
    yield from wrap(f"on {other.model}: {SAME_PROMPTS}", screen, markup={"bold": True})
    table = []
    for full_name, figures in folded[: rows or None]:
        group, name = _split_name(full_name)
        table.append(TableRow([f"  {name}", *other_model_cells(figures, per)], group))
    left_out = len(folded) - len(table)
    total = other_model_cells(other, per)
    table.append(TableRow(["total", *total], markup={"bold": True}))
    cost = f"cost/{per:,}:" if per != 1 else "cost:"
    heads = (cost if head == "cost:" else head for head in OTHER_MODEL_HEADS)
    yield from text_table(["", *heads], table, screen)
    if left_out:
        yield Line(f"… {left_out:,} more (--llmcost-rows=0 shows all)")
    for text in other_model_remarks(other):
        yield from wrap(text, screen, markup={"yellow": True})


OTHER_MODEL_HEADS = ("input:", "then:", "change:", "cost:", "then:", "change:")


def other_model_cells(figures: Figures, per: int = 1) -> list[str]:
    """Write what stands under these heads."""
    least = "≥" if figures.unknown_calls else ""
    is_least = figures.unknown_calls + figures.unbounded_calls > 0
    tokens = (figures.input_tokens, figures.input_tokens_then)
    usds = (figures.usd, figures.usd_then)
    return [
        *(UNKNOWN if each is None else f"{least}{each:,}" for each in tokens),
        growth(*tokens),
        *(usd_cell(each, is_least=is_least, per=per) for each in usds),
        growth(*usds),
    ]


def other_model_remarks(other: OtherModel) -> Iterator[str]:
    """Say what has no figure, then what a figure leaves out."""
    reasons: dict[str, dict[str, None]] = {}
    for row in other.rows:
        for reason in row.reasons:
            reasons.setdefault(reason, {})[clean(_base(row))] = None
    for reason, found in sorted(reasons.items()):
        yield f"no figure: {reason} ({first_of(list(found), _MOST_NAMED)})"
    for text, number in other.dropped.items():
        yield f"{other.model} rejects {text}: {format_count(number, 'payload')} priced without it"
    yield from other.notes


# Parts of prompts


def parts_by_owner(ledger: Ledger) -> dict[str, list[PartChange]]:
    """Return the parts of each owner's largest prompt as far as they are counted, largest first."""
    found: dict[str, list[PartChange]] = {}
    if ledger.comparison:
        for each in ledger.comparison.parts:
            found.setdefault(each.name, []).append(each)
        return found
    tokens = parts_of(ledger)
    for spender in spenders_of(ledger):  # of several attempts the last one
        parts = largest_prompt(spender.calls, tokens)
        found[spender.name] = [
            PartChange(name=spender.name, part=part, before=None, after=size)
            for part, size in sorted(parts.items(), key=lambda each: (-each[1], each[0]))
        ]
    return found


def describe_part(before: int | None, after: int) -> str:
    """Say how large a part is and was: `60 tokens (new)`, `200 → 250 tokens (+25 %)`."""
    if not before or before == after:
        note = {None: "", 0: " (new)"}.get(before, " (unchanged)")
        return f"{after:,} tokens{note}"
    return f"{before:,} → {after:,} tokens{grown_by(before, after) if after else ' (removed)'}"


def describe_part_changes(comparison: Comparison) -> Iterator[str]:
    """Say by how much the parts of prompts changed that did so most, and where each of them is."""
    names: dict[tuple[str, int, int], list[str]] = {}
    for each in comparison.parts:
        if each.before is not None and each.before != each.after:
            names.setdefault((each.part, each.before, each.after), []).append(each.name)
    changed = sorted(names, key=lambda key: (-abs(key[2] - key[1]), key))
    parts = {each.part for each in comparison.parts}
    for part, before, after in changed[:_MOST_NAMED]:
        where = first_of([*map(clean, names[part, before, after])], 1)
        yield f"{show_part(part, parts)}: {describe_part(before, after)} in {where}"
    if (more := len(changed) - _MOST_NAMED) > 0:
        yield f"{format_count(more, 'more part')} changed"


# From run to run

COMPARED_WITH = 10
"""With the average of how many runs the last one is compared."""


def run_cells(run: Run) -> tuple[str, str, str, str, str]:
    """Write when a run ended, its commit, its calls, its cost, and whether it is a partial one."""
    return (
        run.at.replace("T", " ").removesuffix("Z"),
        short_commit(run.commit or ""),
        f"{run.calls:,}",
        usd_cell(run.usd, is_least=run.is_least),
        f"partial ({', '.join(run.incomplete)})" if run.incomplete else "",
    )


def compare_runs(last: Run, before: Sequence[Run], number: int = COMPARED_WITH) -> Iterator[str]:
    """Say how the last run differs from the average of whole runs before it, and where."""
    if last.incomplete:
        yield "the last run is a partial one, so it is not compared"
        return
    if last.usd is None or last.is_least:
        yield "the last run is not compared: the cost of some calls is unknown"
        return
    known = (run for run in before if run.usd is not None and not run.is_least)
    whole = [run for run in known if not run.incomplete][-number:]
    if not whole:
        yield "no earlier run of the whole suite with a known cost to compare the last one with"
        return
    mean, runs = average([run.usd for run in whole]), len(whole)
    assert mean is not None
    than = f"the average of the {runs:,} runs before" if runs > 1 else "the run before"
    change = f"{signed(last.usd - mean)}{grown_by(mean, last.usd)}"
    yield f"{change} against {than}: {dollars(mean)} → {dollars(last.usd)}"
    for kind in ("model", "tag", "path"):
        now, *then = (getattr(run, f"by_{kind}") for run in (last, *whole))
        changes = []
        for name in sorted({*now, *chain.from_iterable(then)}):
            # What is missing in a run is nothing spent.
            usd, *spent = (shares.get(name, Decimal(0)) for shares in (now, *then))
            old = average(spent)
            if usd is not None and old is not None and usd != old:
                changes.append((usd - old, name or "outside test files"))
        changes.sort(key=lambda each: -abs(each[0]))
        if changes:
            shown = [f"{name} {signed(usd)}" for usd, name in changes]
            yield f"  by {kind}: {first_of(shown, _MOST_NAMED)}"

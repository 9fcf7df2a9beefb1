"""Changes: what a run adds to its baseline, as Markdown.

Data flow: Comparison -> a sentence, and a row of a table for each change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from pytest_llmcost.ledger.ledger import (
    Change,
    Comparison,
    Figures,
    OtherModel,
    OtherModelRow,
)
from pytest_llmcost.money import EXACT, format_usd
from pytest_llmcost.reports.escape import clean, code, prose
from pytest_llmcost.reports.tables import Line, align, column_partly_usd

_HEADS = ("changed", "before:", "now:", "difference:", "what differs")
_MOST_PARTS = 6


def render_changes(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of a section: what a run adds, the notes, and a row for each change."""
    yield from ("#### Against the baseline", "", render_difference(comparison))
    if comparison.notes:
        yield from ("", *(f"- {prose(note)}" for note in comparison.notes))
    if comparison.changes:
        yield from ("", *render_table(_HEADS, [_change_row(each) for each in comparison.changes]))


def render_difference(comparison: Comparison) -> str:
    """Say in a sentence what a run adds, and what new prices alone did."""
    base, head = format_usd(comparison.base_usd), format_usd(comparison.head_usd)
    text = f"**{format_signed(comparison.change_usd)}**{_share(comparison)}: {base} → {head}"
    text += f", {comparison.unchanged:,} unchanged."
    if comparison.price_change_usd:
        text += (
            f" New prices since {prose(comparison.base_price_date, most=20)} alone: "
            f"{format_signed(comparison.price_change_usd)}, not in these figures."
        )
    return text


def _share(comparison: Comparison) -> str:
    change, base = comparison.change_usd, comparison.base_usd
    if not change or not base:
        return ""
    percent = EXACT.divide(EXACT.multiply(abs(change), 100), base).quantize(Decimal("0.1"))
    shown = f"{percent:,}%" if percent else "under 0.1%"
    return f" ({'-' if change < 0 else '+'}{shown})"


def format_signed(usd: Decimal | None) -> str:
    """Write a difference with its sign; one that is unknown as such."""
    if usd is None:
        return "unknown"
    sign = "-" if usd < 0 else "+" if usd else "±"
    return f"{sign}{format_usd(abs(usd))}"


def _change_row(change: Change) -> str:
    before = "new" if change.status == "new" else format_usd(change.base_usd)
    now = "removed" if change.status == "removed" else format_usd(change.head_usd)
    return render_row(
        code(change.name), before, now, format_signed(change.usd), _what_differs(change)
    )


def _what_differs(change: Change) -> str:
    tokens = [
        f"{number:+,} {prose(name.removesuffix('_tokens').replace('_', ' '))}"
        for name, number in change.tokens.items()
    ]
    calls = [f"{change.calls:+,} {'call' if abs(change.calls) == 1 else 'calls'}"]
    parts = [code(part) for part in change.parts[:_MOST_PARTS]]
    more = len(change.parts) - len(parts)
    return ", ".join(
        [
            *tokens,
            *(calls if change.calls else ()),
            *parts,
            *([f"{more:,} more parts"] if more else []),
        ]
    )


def render_row(*cells: str) -> str:
    """Write one row of a Markdown table, of cells that are escaped already."""
    return f"| {' | '.join(cells)} |"


def render_table(heads: Sequence[str], rows: Sequence[str]) -> list[str]:
    """Put heads over rows; a head that ends in a colon is over numbers."""
    rule = render_row(*("---:" if head.endswith(":") else "---" for head in heads))
    return [render_row(*(head.removesuffix(":") for head in heads)), rule, *rows]


_MOST_CHANGES = 5


def render_trend(comparison: Comparison) -> Iterator[Line]:
    """Say what a run adds to its baseline, then name the changes that add most."""
    text = (
        f"against the baseline {format_signed(comparison.change_usd)}: "
        f"{format_usd(comparison.base_usd)} -> {format_usd(comparison.head_usd)}"
    )
    if comparison.price_change_usd:
        text += f"; new prices alone {format_signed(comparison.price_change_usd)}, not in it"
    yield Line(text, {"bold": True})
    for change in comparison.changes[:_MOST_CHANGES]:
        yield Line(f"  {format_signed(change.usd)} {change.name}: {_what_differs_trend(change)}")
    more = len(comparison.changes) - _MOST_CHANGES
    if more > 0:
        yield Line(f"  ... {more} more changes")
    yield from (Line(f"  {note}", {"yellow": True}) for note in comparison.notes)


def _what_differs_trend(change: Change) -> str:
    if change.status != "changed":
        return change.status
    tokens = [
        f"{number:+,} {name.removesuffix('_tokens').replace('_', ' ')}"
        for name, number in change.tokens.items()
    ]
    calls = [f"{change.calls:+,} calls"] if change.calls else []
    parts = list(change.parts[:_MOST_PARTS])
    if len(change.parts) > _MOST_PARTS:
        parts.append(f"{len(change.parts) - _MOST_PARTS} more parts")
    return ", ".join([*tokens, *calls, *parts])


_MOST_NAMES = 3


@dataclass(frozen=True)
class Folded:
    """Cases and attempts of one test, or what else has calls, as one row."""

    name: str
    figures: Figures


def fold_other_model(rows: Sequence[OtherModelRow]) -> list[Folded]:
    """Put cases of a parametrised test and its attempts into one row; dearest now first."""
    groups: dict[tuple[str, str], list[OtherModelRow]] = {}
    for row in rows:
        base = row.name.partition("[")[0] if row.kind == "test" else row.name
        groups.setdefault((row.kind, base), []).append(row)
    folded = [Folded(_name(base, each), sum(each, Figures())) for (_, base), each in groups.items()]
    return sorted(folded, key=lambda row: (-(row.figures.usd or Decimal(0)), row.name))


def _name(base: str, rows: Sequence[OtherModelRow]) -> str:
    names = {row.name for row in rows}
    name = next(iter(names)) if len(names) == 1 else f"{base}[{len(names)} cases]"
    attempts = max(row.attempt for row in rows)
    return f"{name} ({attempts} attempts)" if attempts > 1 else name


def render_other_model(
    other: OtherModel, *, width: int = 80, rows: int = 10, per: int = 1
) -> list[Line]:
    """Render one model's table, and below it what is in no figure and why."""
    folded = fold_other_model(other.rows)
    shown = folded[:rows] if rows else folded
    lines = [Line(f"if it were {other.model}: same prompts counted anew, output as now")]
    heads = ["input", "then", "", f"USD{f'/{per:,}' if per != 1 else ''}", "then", ""]
    names = [clean(row.name) for row in shown]
    cells = [_cells(row.figures, per) for row in shown]
    texts = list(align("test", heads, [*names, "total"], [*cells, _cells(other, per)], width))
    lines += [Line(texts[0], {"bold": True}), *map(Line, texts[1:-1])]
    if len(folded) > len(shown):
        lines.append(Line(f"... {len(folded) - len(shown)} more (--llmcost-rows=0 shows all)"))
    lines.append(Line(texts[-1], {"bold": True}))
    return [*lines, *(Line(text, {"yellow": True}) for text in _remarks(other))]


def _cells(figures: Figures, per: int) -> list[str]:
    unknown = figures.unknown_calls
    return [
        _tokens(figures.input_tokens, unknown),
        _tokens(figures.input_tokens_then, unknown),
        format_growth(figures.input_tokens, figures.input_tokens_then),
        column_partly_usd(figures.usd, unknown, per),
        column_partly_usd(figures.usd_then, unknown, per),
        format_growth(figures.usd, figures.usd_then),
    ]


def _tokens(number: int | None, unknown: int) -> str:
    if number is None:
        return "?"
    return f"{number:,}+?" if unknown else f"{number:,}"


def format_growth(now: Decimal | int | None, then: Decimal | int | None) -> str:
    """Write by how much something grows, in percent; `=` only where it is exactly equal.

    Example:
        >>> format_growth(1_000, 1_310)
        '+31%'
    """
    if now is None or then is None or (not now and then):
        return ""
    if now == then:
        return "="
    percent = EXACT.divide(EXACT.multiply(Decimal(then) - Decimal(now), 100), Decimal(now))
    if abs(percent) >= Decimal("0.95"):
        return f"{percent.quantize(Decimal(1)):+,}%"
    return f"{percent.quantize(Decimal('0.1')):+}%"


def _remarks(other: OtherModel) -> Iterator[str]:
    """Say what has no figure, then what a figure leaves out."""
    for reason, names in _reasons(other.rows).items():
        yield f"no figure: {reason} ({_some(names)})"
    for text, number in other.dropped.items():
        yield f"{other.model} rejects {text}: {_count(number, 'payload')} priced without"
    yield from other.notes


def _reasons(rows: Iterable[OtherModelRow]) -> Mapping[str, Sequence[str]]:
    """Bring together who lacks a figure for the same reason."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        name = row.name.partition("[")[0] if row.kind == "test" else row.name
        for reason in row.reasons:
            found.setdefault(reason, {})[name] = None
    return {reason: [*found[reason]] for reason in sorted(found)}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(clean, names[:_MOST_NAMES])) + more


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


_HEADS_whatif = ("test", "input:", "then:", "", "USD:", "then:", "")


def render_section(other: OtherModel) -> Iterator[str]:
    """Yield the lines of a Markdown section: the whole in a sentence, remarks, a row for each."""
    yield from (f"#### If it were {code(other.model)}", "", _sentence(other))
    remarks = [f"- {prose(text)}" for text in _remarks(other)]
    if remarks:
        yield from ("", *remarks)
    rows = [
        render_row(code(row.name), *_cells(row.figures, 1)) for row in fold_other_model(other.rows)
    ]
    if rows:
        yield from ("", *render_table(_HEADS_whatif, rows))


def _sentence(other: OtherModel) -> str:
    if other.usd is None or other.usd_then is None:
        return "Unknown: none of the calls could be compared."
    change = EXACT.subtract(other.usd_then, other.usd)
    growth = format_growth(other.usd, other.usd_then)
    share = f" ({growth})" if growth not in ("", "=") else ""
    text = (
        f"**{format_signed(change)}**{share}: {format_usd(other.usd)} → "
        f"{format_usd(other.usd_then)} for {_count(other.calls, 'call')}, the same prompts "
        "counted anew, output as it is now"
    )
    if other.unknown_calls:
        text += f"; {_count(other.unknown_calls, 'call')} without a figure"
    return f"{text}."

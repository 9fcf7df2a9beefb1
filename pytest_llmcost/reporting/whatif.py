"""Another model, then against now: a table for the terminal and a section of the comment.

Data flow: Switch -> `fold_switch` into rows -> `render_switch` -> Lines; -> `render_section` ->
Markdown. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from pytest_llmcost.budgeting.switch import Figures, Switch, SwitchRow, sum_figures
from pytest_llmcost.pricing.money import EXACT, format_usd
from pytest_llmcost.reporting.changes import format_signed, render_row, render_table
from pytest_llmcost.reporting.escape import clean, code, prose
from pytest_llmcost.reporting.line import Line
from pytest_llmcost.reporting.table import align, column_partly_usd

_MOST_NAMES = 3


@dataclass(frozen=True)
class Folded:
    """Cases and attempts of one test, or what else has calls, as one row."""

    name: str
    figures: Figures


def fold_switch(rows: Sequence[SwitchRow]) -> list[Folded]:
    """Put cases of a parametrised test and its attempts into one row; dearest now first."""
    groups: dict[tuple[str, str], list[SwitchRow]] = {}
    for row in rows:
        base = row.name.partition("[")[0] if row.kind == "test" else row.name
        groups.setdefault((row.kind, base), []).append(row)
    folded = [Folded(_name(base, each), sum_figures(each)) for (_, base), each in groups.items()]
    return sorted(folded, key=lambda row: (-(row.figures.usd or Decimal(0)), row.name))


def _name(base: str, rows: Sequence[SwitchRow]) -> str:
    names = {row.name for row in rows}
    name = next(iter(names)) if len(names) == 1 else f"{base}[{len(names)} cases]"
    attempts = max(row.attempt for row in rows)
    return f"{name} ({attempts} attempts)" if attempts > 1 else name


def render_switch(switch: Switch, *, width: int = 80, rows: int = 10, per: int = 1) -> list[Line]:
    """Render one model's table, and below it what is in no figure and why."""
    folded = fold_switch(switch.rows)
    shown = folded[:rows] if rows else folded
    lines = [Line(f"if it were {switch.model}: same prompts counted anew, output as now")]
    heads = ["input", "then", "", f"USD{f'/{per:,}' if per != 1 else ''}", "then", ""]
    names = [clean(row.name) for row in shown]
    cells = [_cells(row.figures, per) for row in shown]
    texts = list(align("test", heads, [*names, "total"], [*cells, _cells(switch, per)], width))
    lines += [Line(texts[0], {"bold": True}), *map(Line, texts[1:-1])]
    if len(folded) > len(shown):
        lines.append(Line(f"... {len(folded) - len(shown)} more (--llmcost-rows=0 shows all)"))
    lines.append(Line(texts[-1], {"bold": True}))
    return [*lines, *(Line(text, {"yellow": True}) for text in _remarks(switch))]


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


def _remarks(switch: Switch) -> Iterator[str]:
    """Say what has no figure, then what a figure leaves out."""
    for reason, names in _reasons(switch.rows).items():
        yield f"no figure: {reason} ({_some(names)})"
    for text, number in switch.dropped.items():
        yield f"{switch.model} rejects {text}: {_count(number, 'payload')} priced without"
    yield from switch.notes


def _reasons(rows: Iterable[SwitchRow]) -> Mapping[str, Sequence[str]]:
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


_HEADS = ("test", "input:", "then:", "", "USD:", "then:", "")


def render_section(switch: Switch) -> Iterator[str]:
    """Yield the lines of a Markdown section: the whole in a sentence, remarks, a row for each."""
    yield from (f"#### If it were {code(switch.model)}", "", _sentence(switch))
    remarks = [f"- {prose(text)}" for text in _remarks(switch)]
    if remarks:
        yield from ("", *remarks)
    rows = [render_row(code(row.name), *_cells(row.figures, 1)) for row in fold_switch(switch.rows)]
    if rows:
        yield from ("", *render_table(_HEADS, rows))


def _sentence(switch: Switch) -> str:
    if switch.usd is None or switch.usd_then is None:
        return "Unknown: none of the calls could be compared."
    change = EXACT.subtract(switch.usd_then, switch.usd)
    growth = format_growth(switch.usd, switch.usd_then)
    share = f" ({growth})" if growth not in ("", "=") else ""
    text = (
        f"**{format_signed(change)}**{share}: {format_usd(switch.usd)} → "
        f"{format_usd(switch.usd_then)} for {_count(switch.calls, 'call')}, the same prompts "
        "counted anew, output as it is now"
    )
    if switch.unknown_calls:
        text += f"; {_count(switch.unknown_calls, 'call')} without a figure"
    return f"{text}."

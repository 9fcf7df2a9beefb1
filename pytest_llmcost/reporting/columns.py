"""Further columns of the summary: the worst case, a cold cache, a warm one.

Data flow: Report, a price for each call and column -> `extra_cells` and `extra_notes` -> View.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial

from pytest_llmcost.budgeting.columns import Column, Sum, sum_column
from pytest_llmcost.budgeting.report import Report
from pytest_llmcost.budgeting.totals import Rows, counted_calls
from pytest_llmcost.metering.call import Call
from pytest_llmcost.pricing.money import format_usd
from pytest_llmcost.reporting.table import column_partly_usd
from pytest_llmcost.reporting.terminal import fold

Price = Callable[[Call, Column], Decimal | None]

_MEANINGS: Mapping[Column, str] = {
    "worst": "cold cache and replies of max_tokens",
    "cold": "all that is cached is written",
    "warm": "all that is cached is read",
}
_UNKNOWN: Mapping[Column, str] = {
    "worst": "no max_tokens, server tools, or cache breakpoints that are not counted apart",
    "cold": "no price, or cache breakpoints that are not counted apart",
    "warm": "no price, or cache breakpoints that are not counted apart",
}


def extra_cells(
    report: Report, columns: Sequence[Column], price: Price, *, per: int = 1
) -> dict[str, dict[str, str]]:
    """Make the cells of further columns: title -> row of the summary's table -> cell."""
    rows = fold(report)
    return {
        column: {
            row.name: _cell(sum_column(row.made, partial(_price, price, column)), per)
            for row in rows
            if row.made
        }
        for column in columns
    }


def _price(price: Price, column: Column, call: Call) -> Decimal | None:
    return price(call, column)


def _cell(total: Sum, per: int) -> str:
    return column_partly_usd(total.usd or None, total.unknown_calls, per)


def extra_notes(
    report: Report, columns: Sequence[Column], price: Price, *, per: int = 1
) -> list[str]:
    """Say what each column means, what the run comes to in it, and what it leaves out."""
    calls = list(
        counted_calls(
            Rows(tests=report.tests, fixtures=report.fixtures, outside=report.outside_tests)
        )
    )
    return [
        _note(column, sum_column(calls, partial(_price, price, column)), per) for column in columns
    ]


def _note(column: Column, total: Sum, per: int) -> str:
    least = "at least " if total.unknown_calls else ""
    scale = f" per {per:,}" if per != 1 else ""
    text = f"{column} {least}{format_usd(total.usd * per)}{scale}: {_MEANINGS[column]}"
    if total.unknown_calls:
        calls = "1 call" if total.unknown_calls == 1 else f"{total.unknown_calls:,} calls"
        text += f"; {calls} unknown ({_UNKNOWN[column]})"
    return text

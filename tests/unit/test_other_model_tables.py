"""Another model, then against now, as people read it; further columns of the summary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest
from golden_files import assert_golden
from msgspec.structs import asdict, replace
from sample_reports import a_fixture, a_test, judge, make_call, make_report

from pytest_llmcost.call import Call
from pytest_llmcost.compare.repriced import Column
from pytest_llmcost.ledger.ledger import Figures, Ledger, OtherModel, OtherModelRow, TestRow
from pytest_llmcost.ledger.totals import closed
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.reports.comparisons import (
    fold_other_model,
    other_model_cells,
    render_other_model,
)
from pytest_llmcost.reports.html import render_html
from pytest_llmcost.reports.markdown import render_markdown
from pytest_llmcost.reports.plain_text import Screen
from pytest_llmcost.reports.terminal import Pricing, View, render_summary

MODEL = "claude-opus-5-5"


def a_row(name: str, now: str = "0.01", then: str = "0.013", **fields: object) -> OtherModelRow:
    whole: dict[str, object] = {
        "calls": 1,
        "input_tokens": 1_000,
        "input_tokens_then": 1_310,
        "usd": Decimal(now),
        "usd_then": Decimal(then),
    }
    return OtherModelRow(name=name, **{**whole, **fields})  # type: ignore[arg-type]


def make_other_model(model: str, rows: Sequence[OtherModelRow], **facts: Any) -> OtherModel:
    return OtherModel(**asdict(sum(rows, Figures())), model=model, rows=tuple(rows), **facts)


def unknown(name: str, reason: str = "not counted") -> OtherModelRow:
    return OtherModelRow(name=name, unknown_calls=2, reasons=(reason,))


def an_other_model() -> OtherModel:
    return make_other_model(
        MODEL,
        [
            a_row("tests/test_triage.py::test_refund"),
            a_row("tests/test_triage.py::test_kinds[bell]", "0.002", "0.0018"),
            a_row("tests/test_triage.py::test_kinds[brake|<b>]", "0.003", "0.003"),
            unknown("tests/test_agent.py::test_route", f'{MODEL} rejects tool_choice "any"'),
            a_row("tests/test_agent.py::test_partly", unknown_calls=1, reasons=("not counted",)),
            a_row("conftest.py::client (session fixture)", kind="fixture"),
        ],
        missing=1,
        rejected={'tool_choice "any"': 2},
        dropped={"temperature": 1},
        notes=(f"{MODEL} has another tokenizer than claude-opus-4-6",),
    )


def text_of(other: OtherModel, width: int = 80, **how: int) -> str:
    return "\n".join(line.text for line in render_other_model(other, Screen(width), **how)) + "\n"


@pytest.mark.parametrize("width", [80, 140])
def test_the_whole_table(width: int) -> None:
    assert_golden(f"other-model-{width}.txt", text_of(an_other_model(), width=width))


def test_the_table_fits_the_terminal() -> None:
    longest = max(shipped_card().models, key=len)
    long = make_other_model(longest, [a_row("t.py::test_" + "x" * 200, "123.45", "234.56")])
    lines = text_of(long).splitlines()
    names = [line for line in lines if "xxx" in line]
    assert names == ["  test_" + "x" * 200]
    assert max(len(line) for line in lines if line not in names) <= 80


def test_what_is_unknown_is_a_question_mark_and_never_a_price() -> None:
    text = text_of(make_other_model(MODEL, [unknown("t.py::test_a")]))
    assert "$" not in text.replace("USD", "")
    assert text.splitlines()[2].split() == ["test_a", "?", "?", "?", "?"]
    assert "no figure: not counted (t.py::test_a)" in text


def test_cases_and_attempts_are_one_row_most_expensive_first() -> None:
    rows = fold_other_model(
        [
            a_row("t.py::test_a[1]"),
            a_row("t.py::test_a[2]"),
            a_row("t.py::test_b", "5"),
            a_row("t.py::test_c", attempt=1),
            a_row("t.py::test_c", attempt=2),
            a_row("t.py::test_d[only]"),
        ]
    )
    assert [name for name, _ in rows] == [
        "t.py::test_b",
        "t.py::test_a (2 cases)",
        "t.py::test_c (2 attempts)",
        "t.py::test_d[only]",
    ]


@pytest.mark.parametrize(("rows", "shown"), [(2, 2), (0, 5), (9, 5)])
def test_as_many_rows_as_asked_for(rows: int, shown: int) -> None:
    other = make_other_model(MODEL, [a_row(f"t.py::test_{number}") for number in range(5)])
    text = text_of(other, rows=rows)
    assert text.count("  test_") == shown
    assert (f"… {5 - shown} more" in text) is (shown < 5)
    assert "total" in text


def test_prices_can_be_those_of_a_thousand_runs() -> None:
    text = text_of(make_other_model(MODEL, [a_row("t.py::test_a")]), per=1_000)
    assert "cost/1,000" in text
    assert "$10.0000" in text
    assert "$13.0000" in text


class TestSummary:
    def report(self) -> Ledger:
        calls = [make_call("0.01"), make_call("0.02", max_tokens=100)]
        report = make_report({a_test("t.py::test_a"): calls, a_fixture(): calls[:1]})
        return replace(report, other_models=(an_other_model(),))

    def test_it_has_a_table_for_each_model(self) -> None:
        text = "\n".join(line.text for line in render_summary(self.report(), View()))
        assert f"on {MODEL}: the same prompts" in text
        assert text.index("the same prompts") < text.index("$0.04 at list price")

    def test_the_comment_has_a_section_for_each_model(self) -> None:
        text = render_markdown(self.report())
        assert f"<summary>On <code>{MODEL}</code></summary>" in text
        assert "<b>" not in text
        assert_golden("other-model.md", text)

    def test_the_comment_says_that_no_call_could_be_compared(self) -> None:
        other = make_other_model(MODEL, [unknown("t.py::test_a")])
        text = render_markdown(replace(self.report(), other_models=(other,)))
        assert "Unknown: none of the calls could be compared." in text

    def test_the_page_has_a_table_for_each_model(self) -> None:
        html = render_html(self.report())
        assert f">On {MODEL}</h2>" in html
        assert "<b>" not in html
        for row in (
            an_other_model(),
            *(each for _, each in fold_other_model(an_other_model().rows)),
        ):
            cells = "".join(re.findall(r'<td class="number(?: wide)?">[^<]*</td>', html))
            assert ">".join(other_model_cells(row)) in re.sub(r"</td><td[^>]*>", ">", cells)

    def price(self, call: Call) -> Call | str:
        return "no max_tokens" if call.max_tokens is None else make_call("0.5")

    def columns(self, *names: Column) -> Mapping[Column, Pricing]:
        return dict.fromkeys(names, self.price)

    def test_further_columns_stand_beside_the_price_and_are_explained(self) -> None:
        view = View(columns=self.columns("worst", "warm"), notes=["and a note"], width=140)
        lines = [line.text for line in render_summary(self.report(), view)]
        assert lines[0].split() == ["t.py", "calls", "input", "cost", "worst", "warm"]
        assert lines[1].split() == ["test_a", "2", "200", "$0.0300", "≥$0.5000", "≥$0.5000"]
        assert lines[3].split()[-3:] == ["$0.0100", "?", "?"]
        note = next(line for line in lines if line.startswith("worst "))
        assert note.startswith("worst at least $0.50: cold cache and replies of max_tokens; ")
        assert "2 calls unknown (no max_tokens, several sampling calls" in note
        assert "and a note" in lines

    def test_what_may_be_more_is_a_lower_bound_in_a_further_column_too(self) -> None:
        open_end = make_call("0.01", usd_high=None)
        columns: Mapping[Column, Pricing] = {"cold": lambda call: call}
        report = make_report({a_test("t.py::test_a"): [open_end]})
        lines = [line.text for line in render_summary(report, View(columns=columns))]
        assert lines[1].split()[-2:] == ["≥$0.0100", "≥$0.0100"]
        assert "cold at least $0.01: all that is cached is written" in lines
        lost = make_report({a_test("t.py::a"): [make_call("0.01")]}, lost_calls=["interrupted"])
        lines = [line.text for line in render_summary(lost, View(columns=columns))]
        assert "cold at least $0.01: all that is cached is written" in lines

    def test_the_note_of_a_bill_is_scaled(self) -> None:
        view = View(columns=self.columns("worst"), per=10)
        lines = [line.text for line in render_summary(self.report(), view)]
        assert any(line.startswith("worst at least $5.00 per 10 runs: ") for line in lines)

    def test_a_test_without_the_call_that_it_needs_costs_nothing_in_no_column(self) -> None:
        test = TestRow(nodeid="t.py::test_a", verdict=judge("1"), outcome="failed")
        report = closed(Ledger(tests=(test,), price_date="2026-11-22"))
        lines = [line.text for line in render_summary(report, View(columns=self.columns("cold")))]
        assert lines[1].split() == ["?", "test_a", "?", "?", "$1.00", "?"]

    def test_a_column_of_which_nothing_is_known_is_a_question_mark(self) -> None:
        report = make_report({a_test("t.py::test_a"): [make_call("0.01")]})
        lines = [line.text for line in render_summary(report, View(columns=self.columns("cold")))]
        assert any(
            line.startswith("cold ?: all that is cached is written; 1 call") for line in lines
        )

"""Another model, then against now, as people read it; further columns of the summary."""

from __future__ import annotations

from decimal import Decimal

import pytest
from golden_files import assert_golden
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sample_reports import a_fixture, a_test, make_call, make_report

from pytest_llmcost.call import Call
from pytest_llmcost.compare.cache_states import Column
from pytest_llmcost.ledger.ledger import Ledger, OtherModel, OtherModelRow, make_other_model
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.reports.comparisons import fold_other_model, format_growth, render_other_model
from pytest_llmcost.reports.markdown import render_markdown
from pytest_llmcost.reports.tables import narrowed
from pytest_llmcost.reports.terminal import View, extra_cells, extra_notes, render_summary

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


def unknown(name: str, reason: str = "not counted") -> OtherModelRow:
    return OtherModelRow(name=name, unknown_calls=2, reasons=(reason,))


def a_switch() -> OtherModel:
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
        notes=[f"{MODEL} has another tokenizer than claude-opus-4-6"],
    )


def text_of(other: OtherModel, **how: int) -> str:
    return "\n".join(line.text for line in render_other_model(other, **how)) + "\n"


@pytest.mark.parametrize("width", [80, 120])
def test_the_whole_table(width: int) -> None:
    assert_golden(f"what-if-{width}.txt", text_of(a_switch(), width=width))


def test_the_table_fits_the_terminal() -> None:
    longest = max(shipped_card().models, key=len)
    long = make_other_model(longest, [a_row("t.py::test_" + "x" * 200, "123.45", "234.56")])
    table = text_of(long).splitlines()
    assert max(map(len, table)) <= 80


def test_what_is_unknown_is_a_question_mark_and_never_a_price() -> None:
    text = text_of(make_other_model(MODEL, [unknown("t.py::test_a")]))
    assert "$" not in text.replace("USD", "")
    assert text.splitlines()[2].split() == ["t.py::test_a", "?", "?", "?", "?"]
    assert "no figure: not counted (t.py::test_a)" in text


def test_cases_and_attempts_are_one_row_dearest_first() -> None:
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
    assert [row.name for row in rows] == [
        "t.py::test_b",
        "t.py::test_a[2 cases]",
        "t.py::test_c (2 attempts)",
        "t.py::test_d[only]",
    ]


@pytest.mark.parametrize(("rows", "shown"), [(2, 2), (0, 5), (9, 5)])
def test_as_many_rows_as_asked_for(rows: int, shown: int) -> None:
    other = make_other_model(MODEL, [a_row(f"t.py::test_{number}") for number in range(5)])
    text = text_of(other, rows=rows)
    assert text.count("t.py::") == shown
    assert (f"... {5 - shown} more" in text) is (shown < 5)
    assert "total" in text


def test_prices_can_be_those_of_a_thousand_runs() -> None:
    text = text_of(make_other_model(MODEL, [a_row("t.py::test_a")]), per=1_000)
    assert "USD/1,000" in text
    assert "$10.0000" in text
    assert "$13.0000" in text


@pytest.mark.parametrize(
    ("now", "then", "shown"),
    [
        (100, 131, "+31%"),
        (100, 50, "-50%"),
        (100, 100, "="),
        (1_000, 1_004, "+0.4%"),
        (100_000, 100_001, "+0.0%"),
        (100_000, 99_999, "-0.0%"),
        (1, 21, "+2,000%"),
        (0, 5, ""),
        (0, 0, "="),
        (None, 5, ""),
        (5, None, ""),
    ],
)
def test_growth_in_percent(now: int | None, then: int | None, shown: str) -> None:
    assert format_growth(now, then) == shown


@given(st.integers(1, 10**9), st.integers(0, 10**9))
def test_growth_shows_its_sign_and_equal_only_when_it_is(now: int, then: int) -> None:
    shown = format_growth(now, then)
    assert (shown == "=") is (now == then)
    assert shown.startswith("+") is (then > now)
    assert shown.startswith("-") is (then < now)


class TestSummary:
    def report(self) -> Ledger:
        calls = [make_call("0.01"), make_call("0.02", max_tokens=100)]
        report = make_report({a_test("t.py::test_a"): calls, a_fixture(): calls[:1]})
        return replace(report, other_models=(a_switch(),))

    def test_it_has_a_table_for_each_model(self) -> None:
        text = "\n".join(line.text for line in render_summary(self.report(), View()))
        assert f"if it were {MODEL}" in text
        assert text.index("if it were") < text.index("total $0.04 at list price")

    def test_the_comment_has_a_section_for_each_model(self) -> None:
        text = render_markdown(self.report())
        assert f"#### If it were <code>{MODEL}</code>" in text
        assert "<b>" not in text
        assert_golden("what-if.md", text)

    def price(self, call: Call, column: Column) -> Call | str:
        return "no max_tokens" if call.max_tokens is None else make_call("0.5")

    def test_further_columns_stand_beside_the_price(self) -> None:
        report = self.report()
        cells = extra_cells(report, ["worst", "warm"], self.price)
        assert cells["worst"] == {
            "t.py::test_a": "$0.5000+?",
            "fixture client (session)": "?",
        }
        notes = extra_notes(report, ["worst", "warm"], self.price, per=10)
        assert notes[0].startswith("worst at least $5.00 per 10: cold cache and replies of max_")
        assert "2 calls unknown (no max_tokens, server tools" in notes[0]
        view = View(extra=cells, extra_notes=notes)
        lines = [line.text for line in render_summary(report, view)]
        heads = ["test", "calls", "input", "cached", "output", "USD", "worst", "warm"]
        assert lines[0].split() == heads
        assert notes[0] in lines

    @pytest.mark.parametrize("width", [80, 100, 120])
    def test_all_columns_fit_the_terminal(self, width: int) -> None:
        report = self.report()
        cells = extra_cells(report, ["worst", "cold", "warm"], self.price, per=1_000)
        view = View(width=width, extra=cells, per=1_000)
        table = [line.text for line in render_summary(report, view)][:3]
        assert max(map(len, table)) <= width
        assert {"input", "USD/1,000", "worst/1,000", "cold/1,000", "warm/1,000"} <= set(
            table[0].split()
        )


def test_columns_go_in_the_order_given_until_the_rest_fits() -> None:
    heads, cells = ["calls", "cached", "USD"], [["1", "2", "x" * 52]]
    assert narrowed(heads, cells, 80, ["cached", "calls"]) == (
        ["calls", "USD"],
        [["1", "x" * 52]],
    )
    assert narrowed(heads, cells, 60, ["cached", "calls"])[0] == ["USD"]
    assert narrowed(heads, cells, 200, ["cached", "calls"])[0] == heads

from __future__ import annotations

import dataclasses
import itertools
import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from golden_files import assert_golden
from hostile_report import HOSTILE, hostile_report
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sample_reports import (
    STALE,
    VOLATILE,
    a_test,
    judge,
    make_budget,
    make_call,
    make_report,
    suite_budget,
)
from sample_run import sample_run

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import judge_calls
from pytest_llmcost.call import Call
from pytest_llmcost.compare.repriced import Column
from pytest_llmcost.ledger.builder import LedgerBuilder
from pytest_llmcost.ledger.ledger import CardId, Change, Comparison, Ledger, TestRow
from pytest_llmcost.ledger.run_history import run_of
from pytest_llmcost.ledger.totals import closed
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reports.comparisons import render_comparison
from pytest_llmcost.reports.github import render_annotations
from pytest_llmcost.reports.html import render_html
from pytest_llmcost.reports.markdown import render_markdown
from pytest_llmcost.reports.plain_text import Screen, wrap
from pytest_llmcost.reports.rows import rows_of, share_of
from pytest_llmcost.reports.terminal import View, render_short, render_summary
from pytest_llmcost.reports.wording import limit_of


def report_of(*tests: TestRow) -> Ledger:
    return closed(Ledger(tests=tests, price_date="2026-11-22"))


def row(nodeid: str, *calls: Call, limit: str | None = None, attempt: int = 1) -> TestRow:
    verdict = None if limit is None else judge(limit, *calls)
    return TestRow(nodeid=nodeid, calls=calls, verdict=verdict, attempt=attempt)


def lines_of(report: Ledger, view: View | None = None) -> list[str]:
    return [line.text for line in render_summary(report, view or View())]


def text_of(report: Ledger, view: View | None = None) -> str:
    return "\n".join(lines_of(report, view)) + "\n"


def line_with(text: str, report: Ledger, view: View | None = None) -> str:
    return next(line for line in lines_of(report, view) if text in line)


def uncounted(number: int, *parts: str) -> Ledger:
    """A run whose tests share a prompt that changed in these parts and is not counted."""
    call = make_call(None, evidence="stale", caveats=sorted_caveats([f"stale: {', '.join(parts)}"]))
    rows = [row(f"tests/t.py::test_{each}", call, limit="0.05") for each in range(number)]
    return report_of(*(replace(each, outcome="failed") for each in rows))


def columns(text: str) -> int:
    """How many columns of a terminal a text takes, of the scripts that are used here."""
    return sum(
        0 if unicodedata.combining(each) or each == "\u0e31" else 2 if each > "\u2e80" else 1
        for each in text
    )


COLUMNS: tuple[Column, ...] = ("worst", "cold", "warm")
SCREENS: dict[str, tuple[Callable[[], Ledger], View]] = {
    "run": (sample_run, View()),
    "ascii": (sample_run, View(unicode=False)),
    "hostile": (hostile_report, View()),
    "uncounted": (lambda: uncounted(12, "system", "tools.find (new)"), View()),
    "columns": (sample_run, View(per=1000, columns=dict.fromkeys(COLUMNS, lambda call: call))),
}


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("name", SCREENS)
def test_the_whole_summary(name: str, width: int) -> None:
    ledger, view = SCREENS[name]
    text = text_of(ledger(), dataclasses.replace(view, width=width))
    assert text.isascii() or view.unicode
    assert_golden(f"summary-{name}-{width}.txt", text)


class TestWidths:
    @pytest.mark.parametrize("width", range(60, 201, 10))
    def test_no_line_wraps_and_columns_line_up_with_any_options(self, width: int) -> None:
        for number, per, rows in itertools.product(range(4), (1, 1000), (0, 3)):
            prices = dict.fromkeys(COLUMNS[:number], lambda call: call)
            view = View(width=width, per=per, rows=rows, columns=prices)
            lines = lines_of(sample_run(), view)
            commands = [line for line in lines if line.lstrip().startswith("pytest ")]
            names = [line for line in lines if len(line.split()) < 3 and "::" not in line]
            assert max(len(line) for line in lines if line not in [*commands, *names]) <= width
            head = next(line for line in lines if " cost" in line)
            costs = [
                found.end()
                for line in lines[: lines.index("")]
                if (found := re.search(r"\$[\d,]+\.\d{4}(?!\S)", line)) and line[0] != "…"
            ]
            assert set(costs) == {re.search(r" cost\S*", head).end()}  # type: ignore[union-attr]

    def test_the_change_against_a_baseline_does_not_wrap(self) -> None:
        comparison = Comparison(
            base_usd=Decimal("0.2946"), head_usd=Decimal("0.2524"), head_is_least=True, unchanged=10
        )
        lines = lines_of(replace(sample_run(), comparison=comparison), View(width=60))
        at = next(at for at, line in enumerate(lines) if "against the baseline" in line)
        assert lines[at] == "±$0.00 against the baseline: $0.2946 → at least $0.2524, 10"
        assert lines[at + 1] == "  unchanged"

    @pytest.mark.parametrize("width", [60, 80, 140, 200])
    def test_names_are_whole(self, width: int) -> None:
        long = "tests/t.py::TestAll::test_" + "x" * 120
        assert "TestAll::test_" + "x" * 120 in text_of(report_of(row(long, make_call("1"))))

    @pytest.mark.parametrize("width", [60, 80, 140])
    def test_further_columns_and_bills_keep_the_budget(self, width: int) -> None:
        prices = dict.fromkeys(COLUMNS, lambda call: call)
        report = report_of(row("t.py::test_a", make_call("0.5"), limit="1"))
        text = text_of(report, View(width=width, per=1000, columns=prices))
        assert re.search(r"cost/1,000 +worst +cold +warm +budget", text)
        assert re.search(r"(\$500\.0000 +){4}\$1\.00", text)

    @pytest.mark.parametrize("name", ["test_日本語の要約", "test_🚀", "test_cafe\u0301", "test_ฉัน"])
    def test_columns_line_up_below_names_of_any_script(self, name: str) -> None:
        plain = row("tests/日本.py::test_a_plain_name", make_call("0.1"), limit="1")
        report = report_of(plain, row(f"tests/日本.py::{name}", make_call("0.2"), limit="1"))
        head, *rows = [line for line in lines_of(report) if " cost " in line or " $1.00" in line]
        end = re.compile(r"(?<=cost)|(?<=\$\d\.\d{4})")
        ends = [columns(end.split(line)[0]) for line in (head, *rows)]
        assert len(rows) == 2
        assert len(set(ends)) == 1

    def test_wide_characters_count_twice_where_a_sentence_breaks(self) -> None:
        note = " ".join(["日本語"] * 20)
        lines = lines_of(replace(report_of(row("t.py::a", make_call("1"))), notes=(note,)))
        found = [line for line in lines if "日" in line]
        assert [columns(line) for line in found] == [76, 64]
        assert "".join(found).count("日本語") == 20

    @pytest.mark.parametrize("width", range(60, 101))
    def test_no_line_grows_when_it_is_written_in_ascii(self, width: int) -> None:
        ledger = sample_run()
        long = [
            line
            for line in lines_of(ledger, View(width=width, unicode=False))
            if len(line) > width and not line.lstrip().startswith("pytest ")
        ]
        assert [line for line in long if len(line.split()) > 2] == []

    def test_columns_line_up_in_ascii_behind_a_lower_bound(self) -> None:
        changes = tuple(
            Change(
                name=f"t.py::{name}",
                status="changed",
                base_usd=Decimal("0.1"),
                head_usd=Decimal("0.2"),
                head_is_least=least,
                usd=Decimal("0.1"),
            )
            for name, least in (("a", True), ("b", False))
        )
        lines = render_comparison(Comparison(changes=changes), Screen(80, unicode=False))
        table = [line.text for line in lines if "$0.1000" in line.text]
        assert len(table) == 2
        assert len({line.index("  +$") for line in table}) == 1

    def test_a_percent_sign_stays_with_its_number(self) -> None:
        found = [line.text for line in wrap("$0.02 is $0.01 (10 %) over it", Screen(19))]
        assert found == ["$0.02 is $0.01", "  (10 %) over it"]

    def test_a_long_tag_is_cut(self) -> None:
        call = replace(make_call("0.1"), tags=("x" * 200, "y"))
        lines = lines_of(report_of(row("t.py::test_a", call)))
        assert max(map(len, lines)) <= 80
        assert any("y $0.10" in line for line in lines)


def test_nothing_hostile_is_printed() -> None:
    lines = lines_of(hostile_report())
    assert not any(ord(character) < 32 for line in lines for character in line)


def test_nothing_is_printed_when_nothing_was_counted() -> None:
    assert render_summary(Ledger(), View()) == []
    assert render_short(Ledger()) == ""


class TestRows:
    def test_cases_are_one_row_that_shows_the_most_expensive_and_attempts_the_last(self) -> None:
        rows = rows_of(
            report_of(
                row("t.py::test_a[1]", make_call("0.1")),
                row("t.py::test_a[2]", make_call("0.2")),
                row("t.py::test_b", make_call("0.01"), attempt=1),
                row("t.py::test_b", make_call("0.01"), attempt=2),
                row("t.py::test_c[only]", make_call("0.001")),
            )
        )
        assert [(each.name, each.usd, Amounts.of(each.folded).usd) for each in rows] == [
            ("test_a (2 cases, most expensive)", Decimal("0.2"), Decimal("0.1")),
            ("test_b (2 attempts, last)", Decimal("0.01"), Decimal("0.01")),
            ("test_c[only]", Decimal("0.001"), Decimal("0")),
        ]

    def test_files_in_a_folder_with_brackets_in_its_name_are_not_cases(self) -> None:
        names = [f"dir [x]/test_{file}.py::test" for file in "ab"]
        rows = rows_of(report_of(*(row(name, make_call("0.1")) for name in names)))
        assert [each.name for each in rows] == ["test", "test"]

    def test_a_case_over_its_budget_is_named(self) -> None:
        over, rest = rows_of(
            report_of(
                row("t.py::test_a[1]", make_call("0.1"), limit="0.05"),
                row("t.py::test_a[2]", make_call("0.2"), limit="1"),
                row("t.py::test_a[3]", make_call("0.1"), limit="1"),
            )
        )
        assert (over.name, over.mark) == ("test_a[1]", "exceeded")
        assert (rest.name, rest.mark) == ("test_a (2 cases, most expensive)", "")

    def test_a_rerun_that_kept_its_budget_has_no_mark(self) -> None:
        rows = rows_of(
            report_of(
                row("t.py::test_b", make_call("2"), limit="1", attempt=1),
                row("t.py::test_b", make_call("1"), limit="1", attempt=2),
            )
        )
        shown = [(each.mark, each.name, each.usd, share_of(each.verdict)) for each in rows]
        assert shown == [("", "test_b (2 attempts, last)", Decimal(1), "100%")]

    def test_the_budget_of_a_case_does_not_stand_beside_the_cost_of_another(self) -> None:
        (shown,) = rows_of(
            report_of(
                row("t.py::test_a[1]", make_call("0.1"), limit="1"),
                row("t.py::test_a[2]", make_call("0.2"), attempt=1),
                row("t.py::test_a[2]", make_call("0.2"), attempt=2),
            )
        )
        name = "test_a (2 cases, most expensive)"
        assert (shown.name, shown.usd, limit_of(shown.verdict)) == (name, Decimal("0.2"), "")

    def test_an_expected_failure_has_no_mark(self) -> None:
        test = replace(row("t.py::test_a", make_call("2"), limit="1"), outcome="xfailed")
        assert line_with("test_a", report_of(test)).startswith("  test_a")

    def test_expected_failures_of_several_cases_have_no_mark(self) -> None:
        cases = [row(f"t.py::test_a[{each}]", make_call("2"), limit="1") for each in "xy"]
        expected = report_of(*(replace(each, outcome="xfailed") for each in cases))
        assert [(each.name, each.mark) for each in rows_of(expected)] == [
            ("test_a (2 cases, most expensive)", "")
        ]

    def test_files_with_broken_budgets_come_first_and_broken_ones_first_in_them(self) -> None:
        text = text_of(
            report_of(
                row("a.py::test_dear", make_call("9")),
                row("b.py::test_unknown", make_call(None), limit="1"),
                row("c.py::test_dear", make_call("5")),
                row("c.py::test_over", make_call("0.2"), limit="0.1"),
            )
        )
        found = re.findall(r"^(?:[✗?] |  )?\w+(?:\.py)?(?= |$)", text, re.MULTILINE)[:7]
        assert [each.strip() for each in found] == [
            "c.py",
            "✗ test_over",
            "test_dear",
            "b.py",
            "? test_unknown",
            "a.py",
            "test_dear",
        ]

    @pytest.mark.parametrize(("rows", "shown"), [(3, 3), (10, 10), (0, 12), (12, 12), (99, 12)])
    def test_as_many_as_asked_for_and_a_line_for_the_rest(self, rows: int, shown: int) -> None:
        tests = [row(f"t.py::test_{number:02}", make_call("0.01")) for number in range(12)]
        text = text_of(report_of(*tests), View(rows=rows))
        assert text.count("  test_") == shown
        assert (f"… {12 - shown} more" in text) is (shown < 12)

    def test_a_broken_budget_is_shown_however_few_rows_there_are(self) -> None:
        tests = [row(f"t.py::test_{number}", make_call("1")) for number in range(5)]
        over = [row(f"u.py::over_{number}", make_call("0.2"), limit="0.1") for number in range(3)]
        text = text_of(report_of(*tests, *over), View(rows=1))
        assert text.count("✗ over_") == 3
        assert "… 5 more, $5.00" in text

    def test_what_is_not_counted_for_a_shared_cause_comes_before_what_is_in_order(self) -> None:
        dear = [row(f"t.py::test_{number}", make_call("1")) for number in range(3)]
        stale = uncounted(3, "system").tests
        text = text_of(report_of(*dear, *stale), View(rows=2))
        assert text.count("? test_") == 2
        assert "… 4 more, at least $3.00" in text

    def test_the_rest_counts_every_case_and_never_a_zero_for_what_is_unknown(self) -> None:
        tests = [row(f"t.py::test_a[{number}]", make_call("0.01")) for number in range(3)]
        dear = row("t.py::test_dear", make_call("1"))
        assert "… 1 more, $0.03" in text_of(report_of(dear, *tests), View(rows=1))
        unknown = row("t.py::test_unknown", make_call(None))
        assert "… 1 more, ? " in text_of(report_of(dear, unknown), View(rows=1))
        assert "… 2 more, at least $0.03 " in text_of(
            report_of(dear, unknown, *tests), View(rows=1)
        )


class TestUnknown:
    def test_is_a_question_mark_and_never_zero(self) -> None:
        report = report_of(
            row("t.py::test_a", make_call(None)), row("t.py::test_b", make_call("1"))
        )
        line = line_with("test_a", report)
        assert "?" in line
        assert "$0" not in line
        assert "at least $1.00 at list price, 2 calls (1 of unknown cost)" in text_of(report)

    def test_tokens_are_unknown_too(self) -> None:
        nothing = make_call(None, sampling_calls=())
        known = make_call("1", usage=Usage(input_tokens=1234, output_tokens=5))
        report = report_of(row("t.py::test_a", nothing), row("t.py::test_b", nothing, known))
        view = View(width=140)
        assert line_with("test_a", report, view).split() == ["test_a", "1", "?", "?", "?"]
        cells = line_with("test_b", report, view).split()
        assert cells == ["test_b", "2", "≥1,234", "≥5", "≥$1.0000"]

    def test_what_was_spent_live_is_a_lower_bound_as_the_total_is(self) -> None:
        unbounded = make_call("1", usd_high=None, live=True)
        report = report_of(row("t.py::test_a", unbounded, make_call(None), make_call("2")))
        assert "at least $3.00 at list price" in text_of(report)
        assert "at least $1.00 spent live · " in text_of(report)
        assert render_short(report) == "llmcost: at least $3.00, at least $1.00 spent live"
        assert "at least $1.00 spent live in this run" in render_markdown(report)
        known = report_of(row("t.py::test_a", make_call(None), make_call("2", live=True)))
        assert "\n$2.00 spent live · " in text_of(known)

    def test_what_a_model_cost_is_a_lower_bound_as_the_total_is(self) -> None:
        unbounded = make_call("1", usd_high=None)
        other = make_call("2", model="claude-opus-4-6")
        report = report_of(row("t.py::test_a", unbounded, other))
        said = "at least $3.00 at list price, 2 calls: claude-opus-4-6 $2.0000, claude-opus-4-7"
        assert f"{said} ≥$1.0000" in " ".join(text_of(report).split())

    def test_a_total_of_nothing_known_is_unknown(self) -> None:
        report = report_of(row("t.py::test_a", make_call(None)))
        assert "? at list price, 1 call (1 of unknown cost)" in text_of(report)
        assert render_short(report) == "llmcost: ?"

    def test_has_its_reasons_in_the_notes_unless_a_budget_gives_them(self) -> None:
        no_price = "unknown-model: no price for model 'acme'. Did you mean acme-1?"
        unknown = make_call(None, caveats=sorted_caveats((no_price,)))
        report = report_of(row("t.py::test_a", unknown, unknown))
        said = "the cost of a run is unknown: no price for model 'acme'. Did you mean acme-1?"
        assert f"{said} (2 calls)\n" in text_of(report, View(width=200))
        assert f"- {said} (2 calls)\n" in render_markdown(report)
        cut = make_call("1", usd_high=None, caveats=sorted_caveats(("truncated-stream",)))
        both = text_of(report_of(row("t.py::test_a", unknown, cut)), View(width=200))
        assert "the cost of a run is at least $1.00: a reply" in both
        assert "\nanother reason: no price for model 'acme'. Did you mean acme-1?\n" in both
        judged = make_report({a_test("t.py::test_a"): [unknown]}, budgets=[suite_budget("1")])
        assert text_of(judged).count("Did you mean acme-1?") == 1
        open_test = row("t.py::test_a", unknown, limit="1")
        assert "acme-1?" not in text_of(report_of(open_test)), "the failure of the test has it"
        warned = replace(report_of(open_test), unverified="warn")
        assert text_of(warned).count("Did you mean acme-1?") == 1

    def test_has_no_reason_that_several_tests_share_and_no_count_in_vain(self) -> None:
        ledger = uncounted(2, "system")
        failed = [replace(test, verdict=None, outcome="failed") for test in ledger.tests]
        text = text_of(replace(ledger, tests=tuple(failed)))
        assert text.count("--llmcost-record-mode=rewrite") == text.count("not counted yet") == 1
        text = text_of(report_of(row("t.py::test", VOLATILE)))
        assert "the cost of a run is unknown: " in text
        assert "count it" not in text


def test_a_price_per_thousand_runs_reads_as_a_bill() -> None:
    text = text_of(report_of(row("t.py::test_a", make_call("0.0012"))), View(per=1000))
    assert "cost/1,000" in text
    assert "$1.2000" in text
    assert "$1.20 per 1,000 runs at list price" in text


def test_decimals_line_up_and_nothing_small_shows_as_zero() -> None:
    report = report_of(
        row("t.py::test_a", make_call("0.0669"), limit="0.05"),
        row("t.py::test_b", make_call("0.00965659"), limit="0.009"),
        row("t.py::test_c", make_call("0.0000001")),
    )
    lines = lines_of(report, View(width=60))[:4]
    assert [line.split()[-3 if line[0] != " " else -1] for line in lines[1:]] == [
        "$0.0669",
        "$0.0097",
        "<$0.0001",
    ]


def test_each_kind_of_budget_has_its_unit() -> None:
    usage = Usage(input_tokens=2933, output_tokens=412)
    call = make_call("0.02", usage=usage)
    for kind, limit, cells in (
        ("input_tokens", "4000", ["4,000", "input", "73%"]),
        ("output_tokens", "500", ["500", "output", "82%"]),
        ("calls", "3", ["3", "calls", "33%"]),
    ):
        test = TestRow(nodeid="t.py::a", calls=(call,), verdict=judge(limit, call, kind=kind))
        found = line_with("  a ", report_of(test)).split()
        assert found[-3:] == cells


@given(cents=st.integers(1, 10_000), limit=st.integers(1, 10_000))
def test_the_share_the_mark_and_the_colour_agree_with_the_verdict(cents: int, limit: int) -> None:
    call = make_call(str(Decimal(cents) / 100_000_000))
    report = report_of(row("t.py::test_a", call, limit=str(Decimal(limit) / 100_000_000)))
    line = next(each for each in render_summary(report, View()) if "test_a" in each.text)
    share = (
        line.text.rpartition("%")[0]
        .split()[-1]
        .replace(">9,999", "10000")
        .lstrip("<")
        .replace(",", "")
    )
    assert (int(share) > 100) is (cents > limit)
    assert (int(share) == 100) is (cents == limit)
    assert line.text.startswith("✗") is bool(line.markup.get("red")) is (cents > limit)


def test_the_table_and_the_sentence_name_the_same_share() -> None:
    call = make_call("0.755")
    suite = make_report({a_test("t.py::test_a"): [call]}, budgets=[suite_budget("1")])
    text = text_of(replace(suite, tests=(row("t.py::test_a", call, limit="1"),)))
    assert "$1.00   76%" in text
    assert "(76 % used)" in text


@pytest.mark.parametrize(
    ("call", "limit", "share", "said"),
    [
        (make_call("0.5", usd_high=Decimal("0.604")), "1", "≤60%", "at most $0.604 is within"),
        (make_call(None, usd_low=Decimal("0.5")), "0.4", "≥125%", "at least $0.50 is $0.10 (25 %)"),
    ],
)
def test_a_share_that_is_a_bound_says_so_in_table_and_sentence(
    call: Call, limit: str, share: str, said: str
) -> None:
    suite = make_report({a_test("t.py::test_a"): [call]}, budgets=[suite_budget(limit)])
    text = text_of(replace(suite, tests=(row("t.py::test_a", call, limit=limit),)))
    assert f" {share}\n" in text
    assert said in text


def test_a_total_that_is_not_exact_says_between_which_bounds_it_lies_and_why() -> None:
    caveats = sorted_caveats(["unknown-endpoint: foundry"])
    call = make_call("0.5", usd_high=Decimal("0.55"), caveats=caveats)
    report = make_report({a_test("t.py::test_a"): [call, call, make_call("1")]})
    said = (
        "the cost of a run is between $2.00 and $2.10: the endpoint may be a regional one, which "
        "costs more (foundry) (2 calls); if it is not, set regional = 1 in a price file "
        "(--llmcost-prices=FILE)\n"
    )
    assert said in text_of(report, View(width=300))
    assert f"- {said}" in render_markdown(report)
    assert "between" not in text_of(make_report({a_test("t.py::test_a"): [make_call("1")]}))
    judged = make_report({a_test("t.py::test_a"): [call]}, budgets=[suite_budget("0.52")])
    assert text_of(judged).count("a regional one") == 1, "below the budget"
    assert render_markdown(judged).count("a regional one") == 1
    lost = text_of(replace(report, lost_calls=("worker-crashed",)))
    assert "the cost of a run is at least $2.00: " in lost
    test, calls = a_test("t.py::test_a"), [make_call("1")]
    lost_one = make_report({test: calls}, lost_calls=("worker-crashed",))
    assert "at least $1.00 at list price" in text_of(lost_one)
    assert run_of(lost_one).is_least
    assert not run_of(make_report({test: calls})).is_least
    close = make_call("2", usd_high=Decimal("2.000001"), caveats=caveats)
    assert "between $2.00 and $2.000001:" in text_of(make_report({a_test("t.py::test_a"): [close]}))


def test_a_budget_of_the_run_that_is_exceeded_names_one_that_would_hold() -> None:
    report = make_report({a_test("t.py::test_a"): [make_call("0.61")]}, budgets=[suite_budget("1")])
    advice = "  if the price is right, raise the budget to $0.61\n"
    assert advice not in text_of(report)
    over = make_report({a_test("t.py::test_a"): [make_call("0.61")]}, budgets=[suite_budget("0.5")])
    assert advice in text_of(over)
    open_ended = make_call("0.6", usd_high=Decimal("0.61"))
    spent: dict[Any, Any] = {a_test("t.py::test_a"): [open_ended]}
    assert advice in text_of(make_report(spent, budgets=[suite_budget("0.5")]))
    path = replace(suite_budget("0.6"), scope="path", pattern="t.py")
    both = make_report(
        {a_test("t.py::test_a"): [make_call("0.61")]}, budgets=[suite_budget("0.5"), path]
    )
    assert text_of(both).count(advice) == 2
    # What was left out costs more.
    part = text_of(replace(over, complete=False, incomplete=("deselected",)))
    assert "  if the price is right, raise the budget\n" in part
    unknown: dict[Any, Any] = {a_test("t.py::test_a"): [make_call("0.61"), make_call(None)]}
    assert "raise" not in text_of(make_report(unknown, budgets=[suite_budget("0.5")]))


def test_a_reason_that_several_budgets_share_is_given_once() -> None:
    call = make_call(None, caveats=sorted_caveats(["truncated-stream: no message_stop"]))
    place = replace(suite_budget("2"), scope="path", pattern="t.py", label="t.py", origin="ini")
    text = text_of(
        make_report({a_test("t.py::test_a"): [call]}, budgets=[suite_budget("1"), place])
    )
    assert text.count("cannot check the ") == 2
    assert text.count("was not read to its end") == text.count("read it to the end") == 1


def test_what_to_do_about_many_tests_that_grew_is_said_once() -> None:
    over = judge("1", make_call("2"), scope="increase", origin="--llmcost-max-test-increase")
    changes = tuple(
        Change(kind="test", name=f"t.py::test_{each}", status="changed", usd=None, verdicts=(over,))
        for each in range(3)
    )
    text = text_of(replace(make_report({}), comparison=Comparison(changes=changes)))
    assert text.count(" over the $1.00 increase limit") == 3
    assert text.count("pytest --llmcost-update-baseline") == 1


class TestOneCause:
    def test_the_command_is_to_be_typed_where_pytest_was_started(self) -> None:
        text = text_of(uncounted(2, "system"), View(root=".."))
        assert "pytest ../tests/t.py --llmcost-record-mode=rewrite" in text

    def test_a_part_that_changed_in_some_says_in_how_many(self) -> None:
        ledger = uncounted(2, "system")
        other = uncounted(3, "system", "messages.0").tests[2]
        lines = lines_of(replace(ledger, tests=(*ledger.tests, other)))
        assert "  changed: system in all 3, messages.0 in 1" in lines

    def test_prompts_that_differ_in_every_run_are_not_to_be_counted(self) -> None:
        ledger = uncounted(2, "system")
        tests = [replace(test, calls=(VOLATILE,)) for test in ledger.tests]
        text = text_of(replace(ledger, tests=tuple(tests)))
        assert "differs in every run in both" in text
        assert "count them all" not in text

    @pytest.mark.parametrize("show", [text_of, render_markdown, render_html, render_annotations])
    def test_nor_below_the_suites_budget(self, show: Callable[[Ledger], str | list[str]]) -> None:
        for test in (row("t.py::test", VOLATILE, limit="1"), row("t.py::test", VOLATILE)):
            report = make_report({a_test("t.py::test"): [VOLATILE]}, budgets=[suite_budget("1")])
            text = str(show(replace(report, tests=(test,))))
            assert "cannot check the $1.00 suite budget" in text
            assert "count it" not in text
            assert "count what" not in text

    def test_what_a_count_settles_elsewhere_is_to_be_counted(self) -> None:
        tests = [row(f"t.py::test_{each}", VOLATILE, limit="1") for each in range(2)]
        ledger = report_of(*tests, row("u.py::test", STALE))
        text = text_of(closed(ledger, [suite_budget("1")]))
        assert "differs in every run in both" in text
        assert "count them all (free): pytest u.py --llmcost-record-mode=rewrite" in text

    @pytest.mark.parametrize("show", [render_markdown, render_html, render_annotations])
    @pytest.mark.parametrize("call", [STALE, VOLATILE])
    def test_a_part_that_is_not_counted_is_another_cause(
        self, show: Callable[[Ledger], str | list[str]], call: Call
    ) -> None:
        shared = [row(f"t.py::test_{each}", call, limit="1") for each in range(2)]
        billed = make_call("0.01", fingerprint="1:a")
        budget = make_budget("50", kind="parts", part="tools")
        other = replace(row("u.py::test", billed), verdict=judge_calls(budget, [billed]))
        for tests in (shared, shared[:1]):
            text = str(show(report_of(*tests, other)))
            assert "tools of a prompt is not counted" in text
            assert "count it (free): pytest --llmcost" in text
            assert show != render_markdown or "# count what is not counted yet (free)" in text

    def test_one_test_is_no_group(self) -> None:
        assert "cannot be checked" not in lines_of(uncounted(1, "system"))[0]

    def test_an_expected_failure_is_not_in_it(self) -> None:
        ledger = uncounted(2, "system")
        first, second = ledger.tests
        ledger = replace(ledger, tests=(first, replace(second, outcome="xfailed")))
        assert "cannot be checked" not in lines_of(ledger)[0]


class TestShort:
    def test_is_one_line_with_the_total_its_budget_and_what_is_broken(self) -> None:
        assert render_short(sample_run()) == (
            "llmcost: cost at least $0.1633 > $0.15 max_suite (+9 %), "
            "2 budgets exceeded, 1 not checked"
        )
        assert render_short(hostile_report()).endswith(", $0.009 spent live")

    def test_says_within_which_bounds_a_total_lies_that_is_not_exact(self) -> None:
        bounded = make_call("0.5", usd_high=Decimal("0.55"))
        short = render_short(report_of(row("t.py::a", bounded)))
        assert short == "llmcost: between $0.50 and $0.55"
        either = make_call("0.5", usd_low=Decimal(0), usd_high=None)
        short = render_short(report_of(row("t.py::a", bounded, either)))
        assert short == "llmcost: at least $0.50"

    def test_says_of_live_calls_the_same_as_of_the_total(self) -> None:
        bounded = make_call("0.5", usd_high=Decimal("0.55"), live=True)
        short = render_short(report_of(row("t.py::a", bounded)))
        assert short == "llmcost: between $0.50 and $0.55, between $0.50 and $0.55 spent live"
        either = make_call("0.5", usd_low=Decimal(0), usd_high=None, live=True)
        short = render_short(report_of(row("t.py::a", bounded, either)))
        assert short == "llmcost: at least $0.50, at least $0.50 spent live"
        short = render_short(report_of(row("t.py::a", either)))
        assert short == "llmcost: ?, ? spent live"

    def test_says_what_the_run_adds_to_its_baseline(self) -> None:
        assert ", +$0.0031 against the baseline, " in render_short(hostile_report())

    def test_has_no_more_than_there_is(self) -> None:
        assert render_short(report_of(row("t.py::a", make_call("0.5")))) == "llmcost: $0.50"
        report = make_report({a_test("t"): [make_call("1")]}, budgets=[suite_budget("1")])
        assert render_short(report) == "llmcost: cost $1.00 <= $1.00 max_suite"


def test_a_cache_state_and_one_date_are_named() -> None:
    ledger = LedgerBuilder()
    ledger.add(a_test("t.py::test_a"), make_call("1", usage=Usage(cache_read_tokens=7)))
    report = ledger.ledger(
        price_date="2026-11-25", rate_card=CardId(version="2026-11-22"), cache_state="cold"
    )
    text = text_of(report)
    assert "$1.00 at list price, 1 call, cache priced cold\n" in text
    assert "$0.00 spent live · prices of 2026-11-25\n" in text
    assert "2026-11-22" not in text
    assert HOSTILE not in text

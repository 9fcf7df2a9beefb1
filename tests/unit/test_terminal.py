from __future__ import annotations

from decimal import Decimal

import pytest
from golden_files import assert_golden
from hostile_report import HOSTILE, hostile_report, judge
from hypothesis import given
from hypothesis import strategies as st
from sample_reports import a_test, make_call

from pytest_llmcost.call import Call
from pytest_llmcost.ledger.builder import LedgerBuilder
from pytest_llmcost.ledger.ledger import CardId, Ledger, TestRow
from pytest_llmcost.ledger.totals import closed
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reports.terminal import View, fold, render_short, render_summary


def report_of(*tests: TestRow) -> Ledger:
    return closed(Ledger(tests=tests, price_date="2026-11-22"))


def row(nodeid: str, *calls: Call, limit: str | None = None, attempt: int = 1) -> TestRow:
    verdict = None if limit is None else judge(limit, *calls)
    return TestRow(nodeid=nodeid, calls=calls, verdict=verdict, attempt=attempt)


def text_of(report: Ledger, view: View | None = None) -> str:
    return "\n".join(line.text for line in render_summary(report, view or View())) + "\n"


@pytest.mark.parametrize("width", [80, 120])
def test_the_whole_summary(width: int) -> None:
    text = text_of(hostile_report(), View(width=width))
    assert_golden(f"summary-{width}.txt", text)


def test_no_line_of_the_table_is_wider_than_the_terminal_and_nothing_hostile_is_printed() -> None:
    for width in (80, 100, 200):
        lines = render_summary(hostile_report(), View(width=width))
        table = [line.text for line in lines if line.text.endswith(("█", "░", "unverified"))]
        assert table
        assert max(map(len, table)) <= width
    assert not any(ord(character) < 32 for line in lines for character in line.text)


def test_nothing_is_printed_when_nothing_was_counted() -> None:
    assert render_summary(Ledger(), View()) == []
    assert render_short(Ledger()) == []


def test_cases_of_a_parametrised_test_are_one_row_and_so_are_reruns() -> None:
    rows = fold(
        report_of(
            row("t.py::test_a[1]", make_call("0.1")),
            row("t.py::test_a[2]", make_call("0.2")),
            row("t.py::test_b", make_call("0.01"), attempt=1),
            row("t.py::test_b", make_call("0.01"), attempt=2),
            row("t.py::test_c[only]", make_call("0.001")),
        )
    )
    assert [(each.name, each.calls, each.usd) for each in rows] == [
        ("t.py::test_a[2 cases]", 2, Decimal("0.3")),
        ("t.py::test_b (2 attempts)", 2, Decimal("0.02")),
        ("t.py::test_c[only]", 1, Decimal("0.001")),
    ]


def test_the_worst_verdict_of_folded_cases_is_shown() -> None:
    (folded,) = fold(
        report_of(
            row("t.py::test_a[1]", make_call("0.1"), limit="0.05"),
            row("t.py::test_a[2]", make_call("0.2"), limit="1"),
        )
    )
    assert folded.verdict is not None
    assert folded.verdict.state == "exceeded"


@pytest.mark.parametrize(("rows", "shown"), [(3, 3), (10, 10), (0, 12), (12, 12), (99, 12)])
def test_as_many_rows_as_asked_for_and_a_line_for_the_rest(rows: int, shown: int) -> None:
    tests = [row(f"t.py::test_{number:02}", make_call("0.01")) for number in range(12)]
    text = text_of(report_of(*tests), View(rows=rows))
    assert text.count("t.py::test_") == shown
    assert (f"... {12 - shown} more" in text) is (shown < 12)


def test_what_has_no_price_is_never_shown_as_zero() -> None:
    unknown = make_call(None)
    text = text_of(report_of(row("t.py::test_a", unknown), row("t.py::test_b", make_call("1"))))
    line = next(line for line in text.splitlines() if "test_a" in line)
    assert "?" in line
    assert "$0" not in line
    assert "1 call without a price: the total is a lower bound" in text
    assert "total at least $1.00" in text


def test_a_price_per_thousand_runs_reads_as_a_bill() -> None:
    text = text_of(report_of(row("t.py::test_a", make_call("0.0012"))), View(per=1000))
    assert "USD/1,000" in text
    assert "$1.2000" in text
    assert "total $1.20 per 1,000 at list price" in text


def test_a_terminal_without_unicode_gets_plain_bars() -> None:
    text = text_of(report_of(row("t.py::test_a", make_call("0.5"), limit="1")), View(unicode=False))
    assert "50% ###.." in text
    assert text.isascii()


@given(cents=st.integers(1, 10_000), limit=st.integers(1, 10_000))
def test_the_share_and_the_colour_agree_with_the_verdict(cents: int, limit: int) -> None:
    call = make_call(str(Decimal(cents) / 100_000_000))
    report = report_of(row("t.py::test_a", call, limit=str(Decimal(limit) / 100_000_000)))
    line = next(each for each in render_summary(report, View()) if "test_a" in each.text)
    share = line.text.rpartition("%")[0].split()[-1].replace(">999", "1000")
    assert (int(share) > 100) is (cents > limit)
    assert (int(share) == 100) is (cents == limit)
    assert bool(line.markup.get("red")) is (cents > limit)


def test_quiet_runs_have_a_line_and_one_for_each_ceiling() -> None:
    first, *others = render_short(hostile_report())
    assert first.startswith("llmcost: at least $")
    assert "live spend" in first
    assert others[0].startswith("suite unverified: cost unverified against $1.00 max_suite")
    assert all("\n" not in line for line in others)


def test_a_cache_basis_and_the_card_are_named() -> None:
    ledger = LedgerBuilder()
    ledger.add(a_test("t.py::test_a"), make_call("1", usage=Usage(cache_read_tokens=7)))
    report = ledger.ledger(
        price_date="2026-11-22", rate_card=CardId(version="2026-11-22"), cache_state="cold"
    )
    text = text_of(report)
    assert "prices of 2026-11-22, rate card 2026-11-22, cache priced cold" in text
    assert HOSTILE not in text

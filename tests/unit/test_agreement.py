"""What the ledger holds, what people read, and what fails the build are one and the same."""

from __future__ import annotations

import re
import tempfile
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample_reports import (
    a_fixture,
    a_test,
    judged,
    make_budget,
    make_call,
    make_report,
    suite_budget,
)

from pytest_llmcost.call import Call
from pytest_llmcost.cli.main import main
from pytest_llmcost.ledger.builder import Owner
from pytest_llmcost.ledger.ledger import Ledger, parse_ledger, render_json, write_ledger
from pytest_llmcost.ledger.shards import merge_ledgers
from pytest_llmcost.reports.github import render_annotations
from pytest_llmcost.reports.junit import suite_properties
from pytest_llmcost.reports.markdown import render_markdown
from pytest_llmcost.reports.rows import rows_of
from pytest_llmcost.reports.run_wording import marks_of_run
from pytest_llmcost.reports.terminal import View, render_short, render_summary
from pytest_llmcost.reports.wording import sentence

STEP = Decimal("0.000000001")
"""A thousandth of a micro-dollar."""
AMOUNT = re.compile(r"\$([\d,]+\.\d+)")

LIMITS = st.decimals("0", "1000", places=9).map(lambda limit: limit.quantize(STEP))
SPENT = st.tuples(LIMITS, st.integers(-3, 3), st.integers(1, 4)).filter(
    lambda case: case[0] + case[1] * STEP >= 0
)


def run(spent: Decimal, limit: Decimal, parts: int) -> Ledger:
    """A suite, a place and a test, all with one ceiling, and spending the same in some calls."""
    piece = (spent / parts).quantize(STEP)
    amounts = [piece] * (parts - 1)
    calls = [make_call(str(each)) for each in [*amounts, spent - sum(amounts)] if each >= 0]
    place = make_budget(str(limit), scope="path", pattern="t.py", label="t.py")
    report = make_report({a_test("t.py::test"): calls}, budgets=[suite_budget(str(limit)), place])
    return judged(report, str(limit))


def as_shown(text: str, origin: str) -> tuple[Decimal, Decimal]:
    """The first amount and the last one before the place where the budget was set."""
    spent, *_, limit = AMOUNT.findall(text.partition(origin)[0])
    return Decimal(spent.replace(",", "")), Decimal(limit.replace(",", ""))


@given(SPENT)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_every_report_says_what_the_ledger_says(case: tuple[Decimal, int, int]) -> None:
    limit, steps, parts = case
    report = run(limit + steps * STEP, limit, parts)
    is_over = (report.totals.usd or 0) > limit
    state = "exceeded" if is_over else "within"

    assert {mark.verdict.state for mark in marks_of_run(report)} == {state}
    assert report.tests[0].verdict is not None
    assert report.tests[0].verdict.state == state

    for verdict in report.verdicts:
        text = sentence(verdict)
        shown, shown_limit = as_shown(text, verdict.origin)
        assert shown_limit == limit
        assert (" over the " in text) == is_over
        assert (shown > shown_limit) == is_over
        assert (shown == shown_limit) == (report.totals.usd == limit)

    comment = render_markdown(report)
    assert ("3 budgets exceeded" in comment) == is_over
    assert ("within all 3 budgets" in comment) != is_over
    assert bool(render_annotations(report)) == is_over
    assert dict(suite_properties(report))["llmcost_verdict"] == state
    assert (", 3 budgets exceeded" in render_short(report)) == is_over
    summary = " ".join(line.text.strip() for line in render_summary(report, View()))
    assert summary.count("✗ ") == (3 if is_over else 0)


@given(SPENT)
@settings(deadline=None)
def test_files_and_merged_shards_decide_the_same(case: tuple[Decimal, int, int]) -> None:
    limit, steps, parts = case
    report = run(limit + steps * STEP, limit, parts)
    again = parse_ledger(render_json(report), "x")
    assert again == report
    assert merge_ledgers([("x", again)]).verdicts == report.verdicts


@given(SPENT)
@settings(max_examples=25, deadline=None)
def test_the_command_fails_exactly_when_the_file_says_exceeded(
    case: tuple[Decimal, int, int],
) -> None:
    limit, steps, parts = case
    report = run(limit + steps * STEP, limit, parts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.json"
        write_ledger(report, path)
        status = main(["merge", str(path), "-o", str(path)])
    assert status == (1 if report.verdicts[0].state == "exceeded" else 0)


@pytest.mark.parametrize("limit", ["0", "0.02", "1000"])
def test_an_unknown_call_is_never_shown_as_within(limit: str) -> None:
    report = make_report({a_test("t.py::test"): [make_call(None)]}, budgets=[suite_budget(limit)])
    assert report.verdicts[0].state == "unverified"
    assert "could not be checked" in render_markdown(report)
    assert "could not be checked" in render_annotations(report)[0]
    assert "1 budget could not be checked" in render_short(report)


def test_the_table_counts_a_shared_fixture_as_the_total_does() -> None:
    spent: dict[Owner, list[Call]] = {
        a_fixture(worker="gw0"): [make_call("1")],
        a_fixture(worker="gw1"): [make_call("3")],
    }
    report = make_report(spent)
    (row,) = rows_of(report)
    assert row.spent.usd == report.totals.usd == 3
    assert row.name == "client (session fixture, most expensive of 2)"

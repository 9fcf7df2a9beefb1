"""A run with all that reports show, and with names that try to break out of every format."""

from __future__ import annotations

from decimal import Decimal

from msgspec.structs import replace
from sample_reports import (
    OUTSIDE,
    a_fixture,
    a_test,
    judge,
    make_budget,
    make_call,
    suite_budget,
)

from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.ledger.builder import LedgerBuilder
from pytest_llmcost.ledger.ledger import CardId, Change, Comparison, Ledger, RunRecord, Vanished
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import Usage

HOSTILE = (
    "tests/t.py::test_x[a|b`c`<img src=x>@octocat #1 __b__ ![i](http://e.vil) "
    "%0A::error::\x1b[31m\u202e]"
)
FIX = "tests/t.py::test_fix"


def hostile_report() -> Ledger:
    """Exceeded, unverified, nearly reached and expected ceilings; a comparison; hostile names."""
    dear = make_call(
        "0.0312", usage=Usage(input_tokens=5000, cache_read_tokens=200, output_tokens=40)
    )
    stale = make_call(
        None, evidence="stale", caveats=sorted_caveats(("stale: system, tools.`x`|y",))
    )
    small = make_call("0.009", model="claude-haiku-5-5", live=True)
    warned = judge("0.01", small, warn_at=Decimal("0.8"))
    ledger = LedgerBuilder()
    for owner, call, verdict, outcome in (
        (a_test(HOSTILE, line=12), dear, judge("0.02", dear), "failed"),
        (a_test(FIX, line=30), stale, judge("0.01", stale, label="max_test"), "failed"),
        (a_test("tests/t.py::test_near"), small, warned, "passed"),
        (a_test("tests/t.py::test_expected"), dear, judge("0.03", dear), "xfailed"),
        (a_test("tests/t.py::test_free"), None, judge("0.01"), "failed"),
    ):  # fmt: skip
        if call is not None:
            ledger.add(owner, call)
        ledger.judge(owner, outcome=outcome, verdict=verdict)
    again = a_test(FIX, line=30, attempt=2)
    ledger.add(again, stale)
    ledger.judge(again, outcome="failed", verdict=judge("0.01", stale, label="max_test"))
    ledger.add(a_fixture("client", baseid="tests", worker="gw0"), make_call("0.5"))
    ledger.add(a_fixture("client", baseid="tests", worker="gw1"), make_call("0.4"))
    ledger.add(OUTSIDE, make_call("0.0000001"))
    place = make_budget("0.01", scope="path", pattern="tests/**", label="tests/**", origin="ini")
    report = ledger.ledger(
        price_date="2026-11-22",
        rate_card=CardId(version="2026-11-22"),
        cache_state="cold",
        run=RunRecord(exit_status=1, workers=2),
        budgets=[suite_budget("1"), place],
        incomplete=["deselected"],
        notes=["a prompt of 99,000 tokens is 1 % under <the> next band of `haiku`"],
    )
    return replace(report, comparison=a_comparison())


def a_comparison() -> Comparison:
    """What a run adds to a baseline: grown, new, removed and unknown."""
    limit = Decimal("0.002")
    added = Verdict(
        scope="increase",
        kind="usd",
        limit=limit,
        actual=Decimal("0.0041"),
        low=Decimal("0.0041"),
        high=Decimal("0.0041"),
        state="exceeded",
        origin="--llmcost-max-test-increase",
        label="max_test_increase $0.002",
    )
    grown = Change(
        name=HOSTILE,
        path="tests/t.py",
        line=12,
        status="changed",
        base_usd=Decimal("0.0271"),
        head_usd=Decimal("0.0312"),
        usd=Decimal("0.0041"),
        tokens={"input_tokens": 820, "cache_write_5m_tokens": -20},
        calls=1,
        parts=("system", "tools.search|`x` (new)", *(f"messages.{each}" for each in range(7))),
        verdicts=(added,),
    )
    new = Change(name=FIX, status="new", base_usd=Decimal(0), head_usd=Decimal(0), usd=None)
    gone = Change(
        kind="fixture",
        name="tests::old (session fixture)",
        status="removed",
        base_usd=Decimal("0.001"),
        head_usd=Decimal(0),
        usd=Decimal("-0.001"),
    )
    return Comparison(
        base_price_date="2026-10-06",
        base_rate_card="2026-10-01",
        partial=True,
        base_usd_then=Decimal("0.5"),
        base_usd=Decimal("0.4"),
        head_usd=Decimal("0.4031"),
        price_change_usd=Decimal("-0.1"),
        change_usd=Decimal("0.0031"),
        low_usd=Decimal("0.0031"),
        high_usd=Decimal("0.0031"),
        tokens={"input_tokens": 800},
        unchanged=41,
        vanished=(
            Vanished(name=HOSTILE, how="skipped", base_usd=Decimal("0.02"), base_calls=1),
            Vanished(name=FIX, how="without its budget", base_usd=None, base_calls=2),
        ),
        changes=(new, grown, gone),
        verdicts=(replace(added, limit=Decimal("0.04"), state="within", label="max_increase 10%"),),
        notes=("a partial run (deselected); only what ran is compared",),
    )

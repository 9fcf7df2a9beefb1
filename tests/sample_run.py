"""A small run with everything that the summary shows, as a reader would meet it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sample_reports import a_fixture, a_test, judge, make_call, suite_budget

from pytest_llmcost.call import Call
from pytest_llmcost.ledger.builder import LedgerBuilder
from pytest_llmcost.ledger.ledger import CardId, Ledger
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import Usage

HAIKU = "claude-haiku-5-5"


def call(usd: str | None, input_tokens: int = 1000, **usage: int) -> Call:
    return make_call(usd, usage=Usage(input_tokens=input_tokens, **usage))


def sample_run() -> Ledger:
    """Over budget, not counted, nearly over, in tokens, in cases, without a budget."""
    triage, support = "tests/test_triage.py", "tests/agents/test_support.py"
    stale = make_call(
        None,
        evidence="stale",
        sampling_calls=(),
        caveats=sorted_caveats(["stale: system, tools.search_orders"]),
    )
    mailbox = call("0.0479", 8120, output_tokens=292)
    chat = call("0.0460", 1200, cache_read_tokens=30_412, cache_write_5m_tokens=2_010)
    tests: list[tuple[str, Call, dict[str, Any]]] = [
        (f"{triage}::test_a_whole_mailbox_is_too_expensive", mailbox, {"limit": "0.04"}),
        (f"{triage}::test_a_ticket_of_each_kind[bell]", call("0.0054"), {"limit": "0.02"}),
        (f"{triage}::test_a_ticket_of_each_kind[brake]", call("0.0111"), {"limit": "0.02"}),
        (f"{triage}::test_a_ticket_of_each_kind[tyre]", call("0.0052"), {"limit": "0.02"}),
        (f"{triage}::test_a_short_ticket_in_the_worst_case", call("0.0215"), {"limit": "0.03"}),
        (
            f"{triage}::test_a_long_history_stays_within_its_tokens",
            call("0.0147", 2933),
            {"limit": "4000", "kind": "input_tokens"},
        ),
        (f"{support}::test_refund_flow", stale, {"limit": "0.05"}),
        (f"{support}::test_a_long_chat", chat, {"limit": "0.05", "warn_at": Decimal("0.8")}),
    ]
    ledger = LedgerBuilder()
    for nodeid, made, budget in tests:
        owner = a_test(nodeid)
        ledger.add(owner, made)
        verdict = judge(budget.pop("limit"), made, **budget)
        outcome = "passed" if verdict.state == "within" else "failed"
        ledger.judge(owner, outcome=outcome, verdict=verdict)
    small = make_call("0.0015", model=HAIKU)
    ledger.add(a_test("tests/test_rag.py::test_without_a_budget"), small)
    ledger.add(a_fixture("warmed_cache", baseid="tests"), call("0.01"))
    return ledger.ledger(
        price_date="2026-11-25",
        rate_card=CardId(version="2026-11-22"),
        budgets=[suite_budget("0.15")],
    )

"""A run of some size, as a project with agents and retrieval might have it, for the HTML page."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from msgspec.structs import replace
from sample_reports import CARD, OUTSIDE, a_fixture, a_test, judge, make_call, suite_budget

from pytest_llmcost.call import Call
from pytest_llmcost.ledger.builder import LedgerBuilder
from pytest_llmcost.ledger.ledger import (
    CardId,
    Change,
    Comparison,
    Ledger,
    PartChange,
    PayloadFacts,
    RunRecord,
    Vanished,
)
from pytest_llmcost.ledger.run_history import Run, run_of
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import Usage

OPUS, SONNET, HAIKU = "claude-opus-4-7", "claude-sonnet-5-5", "claude-haiku-5-5"

_TESTS = (
    # file, test, model, calls, uncached, written, read, output, dollars, budget
    ("rag/test_answers", "test_answer_with_sources", OPUS, 2, 5620, 0, 0, 412, "0.0113", "0.01"),
    ("rag/test_answers", "test_answer_without_a_hit", OPUS, 1, 2210, 0, 0, 96, "0.0049", "0.01"),
    ("rag/test_answers", "test_answer_in[de]", OPUS, 1, 2764, 0, 0, 240, "0.0056", "0.01"),
    ("rag/test_answers", "test_answer_in[fr]", OPUS, 1, 2790, 0, 0, 251, "0.0058", "0.01"),
    ("rag/test_answers", "test_answer_in[ja]", OPUS, 1, 3340, 0, 0, 302, "0.0071", "0.01"),
    ("rag/test_rerank", "test_rerank_ten_passages", HAIKU, 1, 4100, 0, 0, 60, "0.0044", "0.005"),
    ("rag/test_rerank", "test_rerank_nothing", HAIKU, 1, 310, 0, 0, 12, "0.0004", ""),
    ("agents/test_support", "test_a_long_chat", SONNET, 6, 1200, 2010, 30412, 890, "0.046", "0.05"),
    ("agents/test_support", "test_handover", SONNET, 3, 900, 1800, 9200, 410, "0.0182", "0.05"),
    ("agents/test_research", "test_plan_search_write", OPUS, 9, 14210, 8400, 61200, 3120, "0.1892",
     "0.25"),
    ("agents/test_research", "test_stops_when_sure", OPUS, 4, 6100, 4200, 16800, 980, "0.0611",
     "0.1"),
    ("agents/test_tools", "test_calls_the_right_tool[orders]", SONNET, 1, 1890, 0, 0, 88, "0.0071",
     "0.01"),
    ("agents/test_tools", "test_calls_the_right_tool[stock]", SONNET, 1, 1902, 0, 0, 80, "0.0069",
     "0.01"),
    ("agents/test_tools", "test_calls_the_right_tool[refund]", SONNET, 1, 1930, 0, 0, 92, "0.0073",
     "0.01"),
    ("test_triage", "test_a_ticket_of_each_kind[bell]", HAIKU, 1, 1100, 0, 0, 40, "0.0013",
     "0.002"),
    ("test_triage", "test_a_ticket_of_each_kind[brake]", HAIKU, 1, 1140, 0, 0, 42, "0.0014",
     "0.002"),
    ("test_triage", "test_a_whole_mailbox", OPUS, 1, 8120, 0, 0, 292, "0.0479", "0.06"),
    ("test_summary", "test_summary_of_a_contract", SONNET, 1, 18400, 0, 0, 1210, "0.0734", ""),
)  # fmt: skip


_PARTS: dict[str, tuple[tuple[str, int, int], ...]] = {
    # test: part, tokens before, tokens now
    "agents/test_research.py::test_plan_search_write": (
        ("system.0", 5214, 5214), ("tools.search", 480, 948), ("tools.write_report", 610, 610),
        ("messages.0.text", 402, 402), ("messages.1", 2119, 2119), ("rest", 18, 18),
    ),
    "rag/test_answers.py::test_answer_with_sources": (
        ("system.0", 0, 1428), ("messages.0.document", 702, 702), ("messages.0.text", 668, 668),
        ("messages.1", 31, 0), ("rest", 12, 12),
    ),
}  # fmt: skip


def page_run() -> Ledger:
    """Two budgets over, one not counted, two near; three models; a comparison with growth."""
    ledger = LedgerBuilder()
    for file, name, model, number, *tokens, usd, limit in _TESTS:
        fresh, written, read, output = tokens
        share = Decimal(usd) / number
        usage = Usage(
            input_tokens=fresh // number,
            cache_write_5m_tokens=written // number,
            cache_read_tokens=read // number,
            output_tokens=output // number,
        )
        parts = _PARTS.get(f"{file}.py::{name}")
        fields: dict[str, Any] = {"fingerprint": f"1:{name}"} if parts else {}
        facts = PayloadFacts(model=model, parts_tokens={part: now for part, _, now in parts or ()})
        one = make_call(f"{share:.6f}", model=model, usage=usage, **fields)
        calls = [one] * number
        owner = a_test(f"tests/{file}.py::{name}")
        for each in calls:
            ledger.add(owner, each, facts)
        verdict = None
        if limit:
            origin = f"tests/{file}.py:{12 + len(name)}"
            verdict = judge(limit, *calls, warn_at=Decimal("0.85"), origin=origin)
        is_over = verdict is not None and verdict.state == "exceeded"
        ledger.judge(owner, outcome="failed" if is_over else "passed", verdict=verdict)
    _add_the_rest(ledger)
    run = ledger.ledger(
        price_date="2026-11-25",
        rate_card=CardId(version="2026-11-22"),
        generator={"pytest-llmcost": "0.1.0", "pytest": "9.2.0"},
        run=RunRecord(
            started_at="2026-11-25T09:14:02Z",
            finished_at="2026-11-25T09:14:21Z",
            commit="1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d",
        ),
        budgets=[suite_budget("0.60")],
    )
    return replace(run, comparison=_comparison())


def _add_the_rest(ledger: LedgerBuilder) -> None:
    """A prompt that is not counted, a shared fixture, and a call outside tests."""
    stale: Call = make_call(
        None,
        model=SONNET,
        evidence="stale",
        sampling_calls=(),
        caveats=sorted_caveats(["stale: system, tools.search_orders"]),
    )
    refund = a_test("tests/agents/test_support.py::test_refund_flow")
    ledger.add(refund, stale)
    verdict = judge("0.05", stale, origin="tests/agents/test_support.py:30")
    ledger.judge(refund, outcome="failed", verdict=verdict)
    usage = Usage(input_tokens=400, cache_write_5m_tokens=6200)
    ledger.add(a_fixture("warmed_cache", baseid="tests"), make_call("0.0412", usage=usage))
    ledger.add(OUTSIDE, make_call("0.0011", model=HAIKU, usage=Usage(input_tokens=920)))


def _comparison() -> Comparison:
    def change(name: str, base: str, head: str, parts: tuple[str, ...], **tokens: int) -> Change:
        before, after = Decimal(base), Decimal(head)
        return Change(
            name=f"tests/{name}",
            status="changed" if before else "new",
            base_usd=before,
            head_usd=after,
            usd=after - before,
            tokens=tokens,
            parts=parts,
        )

    return Comparison(
        base_price_date="2026-11-20",
        base_commit="9f8e7d6c5b4a39281706f5e4d3c2b1a09f8e7d6c",
        base_usd=Decimal("0.5174"),
        head_usd=Decimal("0.5422"),
        change_usd=Decimal("0.0248"),
        low_usd=Decimal("0.0248"),
        high_usd=Decimal("0.0248"),
        unchanged=17,
        vanished=(
            Vanished(
                name="tests/agents/test_support.py::test_escalates",
                how="skipped",
                base_usd=Decimal("0.0214"),
                base_calls=2,
                verdict=judge("0.03", make_call("0.0214")),
            ),
        ),
        parts=tuple(
            PartChange(name=f"tests/{name}", part=part, before=before, after=after)
            for name, parts in _PARTS.items()
            for part, before, after in sorted(parts, key=lambda each: -each[2])
        ),
        changes=(
            change("agents/test_research.py::test_plan_search_write", "0.1621", "0.1892",
                   ("tools.search",), input_tokens=4210, output_tokens=120),
            change("rag/test_answers.py::test_answer_with_sources", "0.0056", "0.0113",
                   ("system",), input_tokens=2856),
            change("test_triage.py::test_a_ticket_of_each_kind[bell]", "0", "0.0013", ()),
            change("test_summary.py::test_summary_of_a_contract", "0.0827", "0.0734",
                   ("messages.0",), input_tokens=-2300),
        ),
    )  # fmt: skip


def page_history() -> list[Run]:
    """Twelve runs of the suite: it grows; one is partial, of one the cost is unknown."""
    run = replace(run_of(page_run()), commit="1a2b3c4d5e6f")
    costs = ("0.4102", "0.4102", "0.4388", "0.0613", "0.4402", "0.4391", None, "0.4620",
             "0.5174", "0.5174", "0.5201")  # fmt: skip
    before = [
        replace(
            run,
            at=f"2026-11-{14 + number}T09:14:21Z",
            commit=f"{number:x}" * 12,
            usd=None if usd is None else Decimal(usd),
            is_least=usd is None,
            incomplete=("deselected",) if usd == "0.0613" else (),
        )
        for number, usd in enumerate(costs)
    ]
    return [*before, run]


def big_run(tests: int = 10_000) -> Ledger:
    """As many tests as a page must open at once, with two calls and a budget each."""
    ledger = LedgerBuilder()
    cheap, dear = (
        make_call("0.002", model=HAIKU),
        [make_call(f"0.{n:05}") for n in range(100, 1000)],
    )
    for number in range(tests):
        folder, file = number % 17, number % 211
        name = f"test_the_agent_answers_with_its_sources[case-{number}-of-many]"
        path = f"tests/part_{folder}/sub/test_module_{file}.py"
        owner = a_test(f"{path}::{name}")
        calls = dear[number % 900], cheap
        for each in calls:
            ledger.add(owner, each)
        verdict = judge("0.011", *calls, origin=f"{path}:12")
        outcome = "passed" if verdict.state == "within" else "failed"
        ledger.judge(owner, outcome=outcome, verdict=verdict)
    return ledger.ledger(price_date="2026-11-25", rate_card=CARD)

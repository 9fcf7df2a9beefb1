from __future__ import annotations

from datetime import date

import msgspec
from sample_reports import a_test, make_call, make_report

from pytest_llmcost.ledger.ledger import Ledger, PayloadFacts
from pytest_llmcost.ledger.notes import task_budget_notes
from pytest_llmcost.prices.rate_card import shipped_card

ON = date(2026, 11, 22)


def notes_for(model: str) -> tuple[str, ...]:
    call = make_call("0.01", fingerprint="1:aa")
    report = make_report({a_test("t.py::test_agent"): [call]})
    payloads = {"1:aa": PayloadFacts(model=model, task_budget=20_000)}
    return tuple(
        task_budget_notes(msgspec.structs.replace(report, payloads=payloads), shipped_card(), on=ON)
    )


def test_a_task_budget_is_shown_as_advice_with_its_price_as_output() -> None:
    """20,000 tokens of output at $25 per million."""
    (note,) = notes_for("claude-opus-4-7")
    assert "20,000 tokens in t.py::test_agent: advisory" in note
    assert note.endswith("would be $0.50")


def test_a_model_without_a_price_has_a_task_budget_without_one() -> None:
    (note,) = notes_for("nobody-knows")
    assert note.endswith("bounds no price")


def test_no_task_budget_is_no_note() -> None:
    assert [*task_budget_notes(Ledger(), shipped_card(), on=ON)] == []

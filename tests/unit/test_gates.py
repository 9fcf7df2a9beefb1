"""Gates: what is allowed of single calls, as a pure judgement over calls."""

from __future__ import annotations

from typing import Any

import pytest
from sample_reports import OUTSIDE, a_fixture, a_test, make_budget, make_call, make_report

from pytest_llmcost.budgets.budget import Budget
from pytest_llmcost.budgets.gates import judge_calls
from pytest_llmcost.call import PricedSamplingCall
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reports.wording import render_failure, sentence, short_sentence

HAIKU, OPUS = "claude-haiku-4-5-20251001", "claude-opus-4-7"


def allow(*globs: str, **fields: Any) -> Budget:
    return make_budget("0", kind="models", models=globs, **fields)


class TestAllowedModels:
    @pytest.mark.parametrize(
        ("globs", "state"),
        [
            (("claude-haiku-*",), "within"),
            (("claude-opus-*", HAIKU), "within"),
            (("claude-haiku-4-5",), "exceeded"),  # an alias is no exact id
            (("Claude-Haiku-*",), "exceeded"),
            (("claude-opus-*",), "exceeded"),
        ],
    )
    def test_one_glob_must_match_the_exact_id(self, globs: tuple[str, ...], state: str) -> None:
        assert judge_calls(allow(*globs), [make_call("1", model=HAIKU)]).state == state

    def test_no_call_at_all_is_allowed_even_where_a_call_is_required(self) -> None:
        assert judge_calls(allow("x", required=True), []).state == "within"

    def test_a_call_of_unknown_cost_has_a_model_all_the_same(self) -> None:
        call = make_call(None, model="claude-next")
        assert judge_calls(allow("claude-opus-*"), [call]).state == "exceeded"
        assert judge_calls(allow("claude-*"), [call]).state == "within"

    def test_a_fallback_is_a_model_of_the_call(self) -> None:
        legs = tuple(PricedSamplingCall(model=name, usage=Usage()) for name in (HAIKU, OPUS))
        verdict = judge_calls(allow(HAIKU), [make_call("1", model=HAIKU, sampling_calls=legs)])
        assert verdict.found == (OPUS,)

    def test_the_failure_names_model_and_call(self) -> None:
        calls = [make_call("1", model=HAIKU), make_call("0.5", model=OPUS)]
        verdict = judge_calls(allow("claude-haiku-*", origin="llmcost_allowed_models"), calls)
        assert render_failure(verdict, calls).splitlines() == [
            "1 call of claude-opus-4-7, not one of the allowed models claude-haiku-* set by "
            "llmcost_allowed_models",
            "",
            "  not allowed       claude-opus-4-7, 100 input tokens, $0.50",
            "",
            "Call an allowed model, or allow this one where the list is set.",
        ]
        assert short_sentence(verdict) == "claude-opus-4-7 is not allowed"
        kept = judge_calls(allow(HAIKU, origin="t.py:3"), calls[:1])
        assert sentence(kept) == f"all calls are of the allowed models {HAIKU} set at t.py:3"

    def test_over_a_run_it_judges_what_no_test_made(self) -> None:
        opus, haiku = make_call("1", model=OPUS), make_call("1", model=HAIKU)
        budgets = [allow("claude-haiku-*", scope="suite", label="allowed_models")]
        for fixture, outside, states in (
            (haiku, haiku, []),
            (opus, haiku, ["exceeded"]),
            (haiku, opus, ["exceeded"]),
        ):
            spent: dict[Any, Any] = {
                a_test("t.py::test"): [opus],
                a_fixture(): [fixture],
                OUTSIDE: [outside],
            }
            ledger = make_report(spent, budgets=budgets)
            assert [each.state for each in ledger.verdicts] == states

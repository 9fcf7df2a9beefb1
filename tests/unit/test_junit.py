from __future__ import annotations

from msgspec.structs import replace
from sample_reports import a_test, judge, make_budget, make_call, make_report, suite_budget

from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reports.junit import suite_properties, test_properties


def test_a_test_states_cost_tokens_limits_and_verdict() -> None:
    call = make_call("0.0000001", usage=Usage(input_tokens=5, cache_read_tokens=3, output_tokens=2))
    (row,) = make_report({a_test("t"): [call]}).tests
    row = replace(
        row, verdict=judge("0.02", call), blocks=(judge("10", call, kind="input_tokens"),)
    )
    properties = dict(test_properties(row))
    assert properties["llmcost_usd"] == "0.0000001"
    assert properties["llmcost_limit_usd"] == "0.02"
    assert properties["llmcost_limit_input_tokens"] == "10"
    assert properties["llmcost_input_tokens"] == "8"
    assert properties["llmcost_output_tokens"] == "2"
    assert properties["llmcost_calls"] == "1"
    assert properties["llmcost_verdict"] == "within"
    assert "llmcost_unpriced_calls" not in properties


def test_a_test_says_what_has_no_price() -> None:
    (row,) = make_report({a_test("t"): [make_call("1"), make_call(None)]}).tests
    properties = dict(test_properties(row))
    assert properties["llmcost_unpriced_calls"] == "1"
    assert properties["llmcost_usd"] == "1"
    assert "llmcost_verdict" not in properties


def test_what_is_unknown_is_a_question_mark() -> None:
    report = make_report({a_test("t"): [make_call(None, sampling_calls=())]})
    for properties in map(dict, (test_properties(report.tests[0]), suite_properties(report))):
        for name in ("usd", "input_tokens", "output_tokens"):
            assert properties[f"llmcost_{name}"] == "?"
        assert properties["llmcost_calls"] == "1"


def test_the_suite_states_its_totals_and_its_verdict() -> None:
    report = make_report(
        {a_test("t"): [make_call("1", live=True), make_call("2")]}, budgets=[suite_budget("2.5")]
    )
    properties = dict(suite_properties(report))
    assert properties["llmcost_usd"] == "3"
    assert properties["llmcost_live_usd"] == "1"
    assert properties["llmcost_limit_usd"] == "2.5"
    assert properties["llmcost_verdict"] == "exceeded"
    assert properties["llmcost_price_date"] == "2026-11-22"


def test_of_several_verdicts_the_worst_is_the_one_that_is_stated() -> None:
    call = make_call("1")
    owner = a_test("t.py::a")
    path = make_budget("0.5", scope="path", pattern="t.py")
    for budgets in ([suite_budget("2"), path], [suite_budget("2"), suite_budget("0.5")]):
        stated = [*suite_properties(make_report({owner: [call]}, budgets=budgets))]
        assert [each for name, each in stated if name == "llmcost_verdict"] == ["exceeded"]
    (row,) = make_report({owner: [call]}).tests
    over = judge("0.5", call, scope="block")
    for verdict in (judge("2", call), None):
        stated = [*test_properties(replace(row, verdict=verdict, blocks=(over,)))]
        assert [each for name, each in stated if name == "llmcost_verdict"] == ["exceeded"]


def test_the_suite_has_no_verdict_without_a_ceiling() -> None:
    assert "llmcost_verdict" not in dict(suite_properties(make_report({})))

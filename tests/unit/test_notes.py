"""Notes on a run: prompts just under a length band, and task budgets, which bound nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal

import msgspec
import pytest
from sample_reports import a_test, judge, make_budget, make_call, make_report

from pytest_llmcost.call import Call, PricedSamplingCall
from pytest_llmcost.ledger.ledger import FixtureRow, Ledger, PayloadFacts, TestRow
from pytest_llmcost.ledger.notes import (
    length_band_notes,
    max_tokens_notes,
    missing_notes,
    notes_of_run,
    task_budget_notes,
)
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Usage

ON = date(2026, 11, 22)


def call(tokens: int, model: str = "claude-haiku-5-5") -> Call:
    usage = Usage(input_tokens=tokens, output_tokens=1_000)
    return Call(
        model=model,
        evidence="billed",
        usage=usage,
        sampling_calls=(PricedSamplingCall(model=model, usage=usage),),
    )


def notes_of(*calls: Call) -> tuple[str, ...]:
    report = Ledger(tests=(TestRow(nodeid="test_a.py::test_a", calls=calls),))
    return length_band_notes(report, shipped_card(), ON)


@pytest.mark.parametrize(("tokens", "is_near"), [(89_999, False), (90_000, True), (100_000, True)])
def test_a_prompt_within_ten_percent_under_a_band_is_noted(tokens: int, is_near: bool) -> None:
    assert bool(notes_of(call(tokens))) is is_near


def test_a_prompt_above_the_last_band_or_of_a_flat_model_is_not_noted() -> None:
    assert notes_of(call(100_001), call(99_000, "claude-opus-5"), call(99_000, "nobody")) == ()


def test_the_note_says_what_crossing_costs() -> None:
    """100,000 in at $0.10 and 1,000 out at $0.50; above, five times as much."""
    (note,) = notes_of(call(100_000))
    assert note == (
        "test_a.py::test_a: a prompt of 100,000 tokens is 0 under the band of claude-haiku-5-5; "
        "above 100,000 the request costs $0.0525 instead of $0.0105"
    )
    assert Decimal("0.0525") == 5 * Decimal("0.0105")


def test_the_note_prices_the_cache_as_the_run_does() -> None:
    """100,000 written at $0.125 and 1,000 out at $0.50, where the reply states a read."""
    usage = Usage(cache_read_tokens=100_000, output_tokens=1_000)
    sampling = PricedSamplingCall(model=call(0).model, usage=usage)
    read = msgspec.structs.replace(call(0), sampling_calls=(sampling,))
    tests = (TestRow(nodeid="test_a.py::test_a", calls=(read,)),)
    (note,) = length_band_notes(Ledger(tests=tests, cache_state="cold"), shipped_card(), ON)
    assert note.endswith("costs $0.065 instead of $0.013")


def test_fixtures_and_calls_of_nobody_count_and_many_notes_are_cut() -> None:
    fixture = FixtureRow(name="index", scope="session", calls=(call(99_999),))
    tests = tuple(
        TestRow(nodeid=f"test_a.py::test_{number}", calls=(call(99_000 + number),))
        for number in range(6)
    )
    report = Ledger(fixtures=(fixture,), tests=tests, outside_tests=(call(99_998),))
    notes = length_band_notes(report, shipped_card(), ON)
    assert [note.partition(":")[0] for note in notes[:2]] == [
        "index (session fixture)",
        "outside tests",
    ]
    assert len(notes) == 5


# Task budgets


def notes_for(model: str, tests: Sequence[str] = ("agent",)) -> tuple[str, ...]:
    call = make_call("0.01", fingerprint="1:aa")
    report = make_report({a_test(f"t.py::test_{name}"): [call] for name in tests})
    payloads = {"1:aa": PayloadFacts(model=model, task_budget=20_000)}
    return tuple(
        task_budget_notes(msgspec.structs.replace(report, payloads=payloads), shipped_card(), on=ON)
    )


def test_a_task_budget_is_shown_as_advice_with_its_price_as_output() -> None:
    """20,000 tokens of output at $25 per million."""
    (note,) = notes_for("claude-opus-4-7")
    assert "20,000 tokens in t.py::test_agent: advisory" in note
    assert note.endswith("would be $0.50")


@pytest.mark.parametrize(
    ("tests", "named"), [("abc", "a, t.py::test_b, t.py::test_c:"), ("abcd", "c and 1 more:")]
)
def test_a_task_budget_of_many_tests_names_three(tests: str, named: str) -> None:
    (note,) = notes_for("claude-opus-4-7", tests)
    assert f"t.py::test_{named}" in note


def test_a_model_without_a_price_has_a_task_budget_without_one() -> None:
    (note,) = notes_for("nobody-knows")
    assert note.endswith("bounds no price")


def test_no_task_budget_is_no_note() -> None:
    assert [*task_budget_notes(Ledger(), shipped_card(), on=ON)] == []


# Old rates


@pytest.mark.parametrize(("days", "is_old"), [(90, False), (91, True)])
def test_rates_older_than_ninety_days_are_noted(days: int, is_old: bool) -> None:
    on = shipped_card().checked_on + timedelta(days=days)
    report = make_report({a_test("t.py::test"): [make_call("1")]}, price_date=on.isoformat())
    notes = [*notes_of_run(report, shipped_card(), every_test=False)]
    assert any(f"last updated {days} days before" in note for note in notes) is is_old


def test_rates_by_which_nothing_is_priced_are_not_noted() -> None:
    report = make_report({}, price_date="2099-01-01")
    assert [*notes_of_run(report, shipped_card(), every_test=False)] == []


@pytest.mark.parametrize(("incomplete", "notes"), [([], 1), (["deselected"], 0)])
def test_only_a_whole_run_has_no_call_of_a_tag(incomplete: list[str], notes: int) -> None:
    budget = make_budget("1", scope="tag", pattern="tag:judge")
    run = make_report({a_test("t.py::a"): [call(1)]}, budgets=[budget], incomplete=incomplete)
    assert len([*missing_notes(run)]) == notes


@pytest.mark.parametrize(("tag", "notes"), [("judge", 0), ("judges", 1)])
def test_a_tag_that_a_call_has_is_not_missing(tag: str, notes: int) -> None:
    budget = make_budget("1", scope="tag", pattern="tag:judge")
    run = make_report({a_test("t.py::a"): [make_call("0.01", tags=(tag,))]}, budgets=[budget])
    assert len([*missing_notes(run)]) == notes


@pytest.mark.parametrize(("actual", "notes"), [(None, 0), (Decimal(0), 1), (Decimal(5), 0)])
def test_a_tool_whose_tokens_are_not_counted_is_not_missing(
    actual: Decimal | None, notes: int
) -> None:
    run = make_report({a_test("t.py::a"): [call(1)]})
    verdict = judge("1", call(1), kind="parts", part="tools.find")
    row = msgspec.structs.replace(
        run.tests[0], verdict=msgspec.structs.replace(verdict, actual=actual)
    )
    assert len([*missing_notes(msgspec.structs.replace(run, tests=(row,)))]) == notes


@pytest.mark.parametrize(("used", "notes"), [((0,), 0), ((0, 2), 1), ((2, 90), 0)])
def test_a_limit_is_far_above_replies_only_if_there_are_some(
    used: tuple[int, ...], notes: int
) -> None:
    calls = [make_call("1", usage=Usage(output_tokens=each), max_tokens=100) for each in used]
    run = make_report({a_test("t.py::a"): calls})
    assert len(max_tokens_notes(run, every_test=True)) == notes


@pytest.mark.parametrize(("kind", "notes"), [("usd", 0), ("stable_prefix", 1)])
def test_only_a_stable_prefix_needs_a_cache(kind: str, notes: int) -> None:
    prompt = PayloadFacts(model="claude-haiku-5-5")
    sent = msgspec.structs.replace(call(1), fingerprint="1:a")
    run = make_report({a_test("t.py::a"): [sent]}, payloads={"1:a": prompt})
    row = msgspec.structs.replace(run.tests[0], verdict=judge("1", sent, kind=kind))
    assert len([*missing_notes(msgspec.structs.replace(run, tests=(row,)))]) == notes

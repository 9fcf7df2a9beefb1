from __future__ import annotations

import json
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sample_reports import (
    CARD,
    OUTSIDE,
    a_fixture,
    a_test,
    make_budget,
    make_call,
    make_report,
    suite_budget,
)

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import judge
from pytest_llmcost.call import Call, PricedSamplingCall
from pytest_llmcost.errors import LedgerError
from pytest_llmcost.ledger.builder import LedgerBuilder, Owner
from pytest_llmcost.ledger.ledger import (
    Comparison,
    Ledger,
    PayloadFacts,
    RunRecord,
    parse_ledger,
    read_ledger,
    render_json,
    write_file,
    write_ledger,
)
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import Usage

A, B = a_test("tests/test_a.py::test_one"), a_test("tests/test_a.py::test_two[x|y]")
TOOK_OVER = {"gw10": "10", "gw2": "2"}
BUILTINS = (dict, list, tuple, str, int, bool, type(None))


def only_builtins(value: object) -> bool:
    if type(value) is dict:
        return all(type(key) is str and only_builtins(each) for key, each in value.items())
    if type(value) in (list, tuple):
        return all(map(only_builtins, value))  # type: ignore[call-overload]
    return type(value) in BUILTINS


def close(ledger: LedgerBuilder, **fields: object) -> Ledger:
    return ledger.ledger(price_date="2026-11-22", rate_card=CARD, **fields)  # type: ignore[arg-type]


class TestTotals:
    def test_sum_tests_fixtures_and_the_rest(self) -> None:
        report = make_report(
            {
                A: [make_call("1"), make_call("2")],
                a_fixture(): [make_call("4")],
                OUTSIDE: [make_call("8")],
            }
        )
        assert (report.totals.usd, report.totals.calls) == (Decimal(15), 4)
        assert [row.usd for row in report.tests] == [Decimal(3)]
        assert report.fixtures[0].usd == 4

    def test_count_what_has_no_price_apart(self) -> None:
        totals = make_report({A: [make_call("1"), make_call(None)]}).totals
        assert (totals.usd, totals.unpriced_calls, totals.calls) == (Decimal(1), 1, 2)

    def test_count_live_and_unknown_as_live_spend(self) -> None:
        calls = [make_call("1", live=True), make_call("2", live=None), make_call("4", live=False)]
        assert make_report({A: calls}).totals.live_usd == 3

    def test_split_a_call_by_its_models(self) -> None:
        sampling_calls = (
            PricedSamplingCall(model="opus", usage=Usage(input_tokens=10), usd=Decimal(2)),
            PricedSamplingCall(
                model="haiku", kind="advisor", usage=Usage(output_tokens=5), usd=Decimal(1)
            ),
            PricedSamplingCall(
                model="opus", kind="compaction", usage=Usage(input_tokens=1), usd=Decimal(3)
            ),
        )
        totals = make_report(
            {A: [make_call("6", model="opus", sampling_calls=sampling_calls, live=True)]}
        ).totals
        opus, haiku = totals.by_model["opus"], totals.by_model["haiku"]
        assert (opus.usd, opus.live_usd, opus.calls) == (Decimal(5), Decimal(5), 1)
        assert (haiku.usd, haiku.calls, haiku.usage.output_tokens) == (Decimal(1), 1, 5)
        assert totals.usage == Usage(input_tokens=11, output_tokens=5)

    def test_book_a_stated_price_on_the_calls_own_model(self) -> None:
        call = make_call(
            "2", model="agent", sampling_calls=(), evidence="declared", declared_usd=Decimal(2)
        )
        assert make_report({A: [call]}).totals.by_model["agent"].usd == 2

    def test_leave_unbilled_refusals_out_of_the_tokens(self) -> None:
        sampling = PricedSamplingCall(
            model="m", usage=Usage(input_tokens=9), refusal="cyber", usd=Decimal(0)
        )
        assert not make_report({A: [make_call("0", sampling_calls=(sampling,))]}).totals.usage

    def test_split_what_is_known_of_a_call_from_what_is_not(self) -> None:
        sampling_calls = (
            PricedSamplingCall(model="unheard-of", usage=Usage(input_tokens=10)),
            PricedSamplingCall(model="haiku", kind="advisor", usage=Usage(), usd=Decimal(2)),
        )
        call = make_call(
            None, model="unheard-of", sampling_calls=sampling_calls, usd_low=Decimal(2)
        )
        totals = make_report({A: [call]}).totals
        assert {name: each.usd for name, each in totals.by_model.items()} == {
            "haiku": Decimal(2),
            "unheard-of": None,
        }
        assert totals.usd == 2

    def test_of_nothing_but_the_unknown_are_unknown(self) -> None:
        report = make_report({A: [make_call(None, live=True)], a_fixture(): [make_call(None)]})
        totals = report.totals
        assert (totals.usd, totals.live_usd, totals.unpriced_calls) == (None, None, 2)
        assert (report.tests[0].usd, report.fixtures[0].usd) == (None, None)

    def test_are_lower_bounds_if_any_call_may_have_cost_more_also_in_another_set_up(self) -> None:
        known = make_call("3", model="known", live=False, tags=("one",))
        doubtful = make_call(None, model="doubtful", live=True, tags=("two",))
        unbounded = make_call("1", usd_high=None, model="known", live=True, tags=("two",))
        cheaper = [a_fixture(worker="gw0"), a_fixture(worker="gw1")]

        def bounds(spent: dict[Owner, list[Call]], **fields: Any) -> tuple[set[str], bool]:
            totals = make_report(spent, **fields).totals
            parts = {**totals.by_model, **totals.by_tag, "run": totals}
            return {name for name, each in parts.items() if each.is_least}, totals.live_is_least

        assert bounds({A: [known]}) == (set(), False)
        assert bounds({A: [known, doubtful]}) == ({"doubtful", "two", "run"}, True)
        assert bounds({A: [known, unbounded]}) == ({"known", "two", "run"}, True)
        again = bounds({cheaper[0]: [known], cheaper[1]: [unbounded]})
        assert again == ({"known", "two", "run"}, True)
        assert bounds({A: [known]}, lost_calls=("interrupted",)) == ({"run"}, True)

    def test_are_exact_however_many_cents_there_are(self) -> None:
        calls = [make_call("0.000000000000000000000000000001"), make_call("1000000")]
        assert str(make_report({A: calls}).totals.usd) == "1000000.000000000000000000000000000001"

    def test_of_models_add_up_to_the_whole(self) -> None:
        calls = [make_call("1", model="a"), make_call(None, model="b"), make_call("3", model="c")]
        totals = make_report({A: calls}).totals
        assert sum(each.usd or 0 for each in totals.by_model.values()) == totals.usd
        assert totals.by_model["b"].usd is None
        assert list(totals.by_model) == ["a", "b", "c"]


class TestSharedFixtures:
    def test_count_once_at_their_most_expensive_but_are_all_live_spend(self) -> None:
        report = make_report(
            {
                a_fixture(worker="gw0"): [make_call("1", live=True)],
                a_fixture(worker="gw1"): [make_call("3", live=True)],
            },
            budgets=[suite_budget("3")],
        )
        assert report.totals.usd == 3
        assert report.totals.live_usd == 4
        assert report.totals.calls == 1
        assert report.verdicts[0].state == "within"
        assert [row.worker for row in report.fixtures] == ["gw0", "gw1"]

    @pytest.mark.parametrize(
        "differing", [{"name": "other"}, {"node": "b.py"}, {"param": "x"}, {"baseid": "tests/b"}]
    )
    def test_are_not_the_same_when_anything_but_the_worker_differs(
        self, differing: dict[str, str]
    ) -> None:
        first, second = a_fixture(worker="gw0"), a_fixture(**{"worker": "gw1", **differing})
        assert make_report({first: [make_call("1")], second: [make_call("3")]}).totals.usd == 4

    def test_count_once_also_when_one_process_set_them_up_again(self) -> None:
        spent: dict[Owner, list[Call]] = {
            a_fixture(set_up=1): [make_call("1", live=True), make_call("1", live=True)],
            a_fixture(set_up=2): [make_call("3", live=True)],
        }
        totals = make_report(spent).totals
        assert (totals.usd, totals.live_usd, totals.calls) == (Decimal(3), Decimal(5), 1)

    def test_are_unpriced_when_any_set_up_is(self) -> None:
        spent: dict[Owner, list[Call]] = {
            a_fixture(worker="gw0"): [make_call("3")],
            a_fixture(worker="gw1"): [make_call(None)],
        }
        report = make_report(spent, budgets=[suite_budget("5")])
        assert report.totals.usd == 3
        assert report.totals.unpriced_calls == 1
        assert report.verdicts[0].state == "unverified"
        assert make_report(spent, budgets=[suite_budget("2")]).verdicts[0].state == "exceeded"


class TestRows:
    def test_list_tests_with_a_call_or_a_ceiling(self) -> None:
        ledger = LedgerBuilder()
        ledger.judge(A, outcome="passed")
        ledger.judge(B, outcome="passed", verdict=judge(make_budget("1"), Amounts.of([])))
        assert [row.nodeid for row in close(ledger).tests] == [B.nodeid]

    def test_keep_every_attempt(self) -> None:
        again = a_test(A.nodeid, attempt=2)
        report = make_report({again: [make_call("2")], A: [make_call("1")]})
        assert [(row.attempt, int(row.usd or 0)) for row in report.tests] == [(1, 1), (2, 2)]
        assert report.totals.usd == 3

    def test_settle_counts_that_were_sent_too(self) -> None:
        counted = make_call("1", fingerprint="1:a", evidence="counted")
        report = make_report({A: [counted, make_call("2", fingerprint="1:a")]})
        assert report.totals.usd == 2
        assert report.tests[0].calls[0].evidence == "billed"

    def test_keep_what_a_test_was_told_last(self) -> None:
        ledger = LedgerBuilder()
        verdict = judge(make_budget("1"), Amounts.of([]))
        ledger.judge(A, outcome="passed", verdict=verdict, blocks=[verdict])
        ledger.judge(A, outcome="failed")
        (row,) = close(ledger).tests
        assert (row.outcome, row.verdict, row.blocks) == ("failed", verdict, (verdict,))

    def test_say_what_keeps_a_run_from_being_complete(self) -> None:
        report = make_report({}, incomplete=["interrupted", "deselected", "interrupted"])
        assert (report.complete, report.incomplete) == (False, ("deselected", "interrupted"))
        assert make_report({}).complete


class TestPlacesAndSuite:
    def test_are_judged_together_suite_first(self) -> None:
        place = make_budget("1", scope="path", pattern="tests/a/**", label="tests/a/**")
        report = make_report(
            {
                a_test("tests/a/test_x.py::test_1"): [make_call("1")],
                a_test("tests/b/test_y.py::test_2"): [make_call("2")],
                a_fixture("shared", baseid="tests/a"): [make_call("0.5")],
                a_fixture("other", scope="module", node="tests/b/test_y.py"): [make_call("4")],
                OUTSIDE: [make_call("8")],
            },
            budgets=[place, suite_budget("15.5")],
        )
        suite, at_place = report.verdicts
        assert (suite.scope, suite.state, suite.actual) == ("suite", "within", Decimal("15.5"))
        assert (at_place.state, at_place.actual) == ("exceeded", Decimal("1.5"))


class TestWorkers:
    def test_send_builtins_alone_and_nothing_twice(self) -> None:
        worker, controller = LedgerBuilder(), LedgerBuilder()
        worker.add(A, make_call("0.0000001", live=None, fingerprint="1:a"), PayloadFacts(model="m"))
        first = worker.take_fragment()
        worker.add(A, make_call("2"))
        worker.judge(A, outcome="passed", verdict=judge(make_budget("1"), Amounts.of([])))
        second = worker.take_fragment()
        assert worker.take_fragment() is None
        for fragment in (first, second):
            assert fragment is not None
            assert only_builtins(fragment)
            controller.absorb(fragment, worker="gw0")
        assert render_json(close(controller)) == render_json(close(worker))

    def test_may_speak_in_any_order(self) -> None:
        fragments = []
        for name, usd in (("gw0", "1"), ("gw1", "2"), ("gw2", "3")):
            worker = LedgerBuilder()
            worker.add(a_test(f"t.py::test_{name}"), make_call(usd))
            worker.add(a_fixture(), make_call(usd))
            worker.add(OUTSIDE, make_call(usd))
            fragments.append((name, worker.take_fragment()))
        files = set()
        for order in (fragments, fragments[::-1], fragments[1:] + fragments[:1]):
            controller = LedgerBuilder()
            for name, fragment in order:
                assert fragment is not None
                controller.absorb(fragment, worker=name)
            files.add(render_json(close(controller)))
        assert len(files) == 1

    def test_number_an_attempt_after_one_without_calls_as_it_was(self) -> None:
        spent: dict[Owner, list[Call]] = {
            a_test("t.py::a", attempt=number): [make_call("1")] for number in (1, 3)
        }
        assert [row.attempt for row in make_report(spent).tests] == [1, 3]

    def test_send_what_has_changed_of_an_owner_as_a_whole(self) -> None:
        controller = LedgerBuilder()
        for name in ("gw0", "gw1"):
            worker = LedgerBuilder()
            for owner in (OUTSIDE, a_fixture(), A):
                worker.add(owner, make_call("1"))
            send(worker, controller, name)
            worker.replace(OUTSIDE, make_call("1"))
            worker.add(OUTSIDE, make_call("2"))
            worker.add(OUTSIDE, make_call("4"))
            send(worker, controller, name)
        ledger = close(controller)
        assert sorted(int(call.usd or 0) for call in ledger.outside_tests) == [2, 2, 4, 4]
        assert [int(row.usd or 0) for rows in (ledger.tests, ledger.fixtures) for row in rows] == [
            1,
            1,
            1,
            1,
        ]

    def test_that_ran_the_same_test_have_made_two_attempts(self) -> None:
        controller = LedgerBuilder()
        for name in ("gw1", "gw0"):
            worker = LedgerBuilder()
            worker.add(A, make_call("1"))
            fragment = worker.take_fragment()
            assert fragment is not None
            controller.absorb(fragment, worker=name)
        assert [row.attempt for row in close(controller).tests] == [1, 2]

    def test_count_the_attempt_of_the_worker_that_took_over_as_the_later_one(self) -> None:
        report = make_report(
            {a_test(A.nodeid, worker=name): [make_call(usd)] for name, usd in TOOK_OVER.items()}
        )
        assert [(row.attempt, str(row.usd)) for row in report.tests] == [(1, "2"), (2, "10")]

    @pytest.mark.parametrize("group", ["", "@group", "@x@y"])
    def test_that_died_in_a_test_have_failed_its_last_attempt(self, group: str) -> None:
        ledger = LedgerBuilder()
        for attempt, worker in ((1, "gw0"), (2, "gw0"), (1, "gw1")):
            owner = a_test(A.nodeid, attempt=attempt, worker=worker)
            ledger.add(owner, make_call("1"))
            ledger.judge(owner, outcome="passed")
        ledger.fail_last(A.nodeid + group, worker="gw0")
        ledger.fail_last(A.nodeid + "_of_another_name", worker="gw1")
        assert [row.outcome for row in close(ledger).tests] == ["passed", "passed", "failed"]

    def test_keep_a_gap_where_an_attempt_had_nothing_to_say(self) -> None:
        report = make_report({a_test(A.nodeid, attempt=3): [make_call("1")]})
        assert [row.attempt for row in report.tests] == [3]

    def test_settle_across_fragments(self) -> None:
        worker, controller = LedgerBuilder(), LedgerBuilder()
        for call in (
            make_call("1", fingerprint="1:a", evidence="counted", phase="setup"),
            make_call("2", fingerprint="1:a"),
        ):
            worker.add(A, call)
            fragment = worker.take_fragment()
            assert fragment is not None
            controller.absorb(fragment, worker="gw0")
        assert close(controller).totals.usd == 2
        assert len(worker.calls(A)) == 1
        assert worker.calls(B) == ()


class TestSecondThoughts:
    def test_take_a_call_back_before_it_has_left(self) -> None:
        ledger = LedgerBuilder()
        ledger.add(A, make_call("1"))
        ledger.replace(A, make_call("1"))
        assert ledger.calls(A) == ()
        fragment = ledger.take_fragment()
        assert fragment is not None
        assert fragment["accounts"][0]["calls"] == []

    def test_take_a_call_back_that_the_controller_has_already(self) -> None:
        worker, controller = LedgerBuilder(), LedgerBuilder()
        worker.add(A, make_call(None))
        worker.add(A, make_call("2"))
        send(worker, controller)
        worker.replace(A, make_call(None))
        worker.add(A, make_call("3"))
        send(worker, controller)
        for ledger in (worker, controller):
            assert close(ledger).totals.usd == 5
            assert close(ledger).totals.unpriced_calls == 0

    def test_take_nothing_back_that_was_never_booked(self) -> None:
        ledger = LedgerBuilder()
        ledger.replace(A, make_call("1"))
        assert close(ledger).tests == ()

    def test_may_learn_of_a_payload_after_its_call(self) -> None:
        worker, controller = LedgerBuilder(), LedgerBuilder()
        worker.add(
            A, make_call("1", fingerprint="1:a"), PayloadFacts(model="m", parts={"system": "x"})
        )
        send(worker, controller)
        worker.learn("1:a", PayloadFacts(model="m", parts={"system": "x"}, counts={"n": 7}))
        send(worker, controller)
        (payload,) = close(controller).payloads.values()
        assert payload == PayloadFacts(model="m", parts={"system": "x"}, counts={"n": 7})

    def test_show_one_attempt_while_it_runs(self) -> None:
        ledger = LedgerBuilder()
        assert not ledger
        assert ledger.row(A).calls == ()
        ledger.add(A, make_call("1"))
        assert ledger
        assert ledger.row(A).usd == 1


def send(worker: LedgerBuilder, controller: LedgerBuilder, name: str = "gw0") -> None:
    fragment = worker.take_fragment()
    assert fragment is not None
    controller.absorb(fragment, worker=name)


class TestThreads:
    def test_lose_no_call_between_them(self) -> None:
        worker, controller = LedgerBuilder(), LedgerBuilder()

        def spend(_: int) -> None:
            worker.add(A, make_call("1"))

        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(spend, range(400)):
                if fragment := worker.take_fragment():
                    controller.absorb(fragment)
        if fragment := worker.take_fragment():
            controller.absorb(fragment)
        assert close(controller).totals.calls == 400

    @given(st.permutations([make_call(str(i), fingerprint=f"1:{i % 2}") for i in range(5)]))
    def test_never_change_a_byte(self, calls: list[Call]) -> None:
        in_order = sorted(calls, key=lambda call: call.usd_low)
        assert render_json(make_report({A: calls, OUTSIDE: calls})) == render_json(
            make_report({A: in_order, OUTSIDE: in_order})
        )


def a_full_report() -> Ledger:
    return make_report(
        {
            A: [
                make_call(
                    "0.0000001",
                    fingerprint="1:a",
                    caveats=sorted_caveats(("input-only",)),
                    live=True,
                    at="2026-11-22T10:00:00Z",
                )
            ],
            B: [make_call(None, phase=None)],
            a_fixture(worker="gw0", param="p"): [make_call("1.50", phase="setup")],
            OUTSIDE: [make_call("2", live=None)],
        },
        budgets=[suite_budget("1")],
        payloads={"1:a": PayloadFacts(model="m", parts={"system": "0a1b2c3d"})},
        run=RunRecord(started_at="2026-11-22T10:00:00Z", exit_status=1, workers=2),
        generator={"pytest-llmcost": "0.1.0"},
        notes=["b", "a"],
    )


class TestFiles:
    def test_come_back_as_they_were(self, tmp_path: Path) -> None:
        report = a_full_report()
        write_ledger(report, tmp_path / "deep" / "er" / "cost.json")
        assert read_ledger(tmp_path / "deep" / "er" / "cost.json") == report

    def test_have_the_promised_keys(self) -> None:
        data = json.loads(render_json(a_full_report()))
        assert {
            "schema", "generator", "run", "complete", "incomplete", "price_date", "cache_state",
            "rate_card", "totals", "verdicts", "comparison", "payloads", "tests", "fixtures",
            "outside_tests",
        } <= set(data)  # fmt: skip
        run = {"started_at", "finished_at", "exit_status", "has_tests", "workers", "commit"}
        assert set(data["run"]) == run
        assert {
            "nodeid",
            "path",
            "line",
            "attempt",
            "outcome",
            "usd",
            "verdict",
            "blocks",
            "calls",
        } == set(data["tests"][0])
        assert {"name", "scope", "baseid", "worker", "usd", "calls"} <= set(data["fixtures"][0])
        assert set(data["tests"][0]["calls"][0]) == {
            "model", "fingerprint", "evidence", "phase", "live", "at", "stream", "attempts",
            "before",
            "usage", "sampling_calls", "context", "usd", "usd_low", "usd_high",
            "declared_usd", "caveats",
        }  # fmt: skip
        assert set(data["tests"][1]["calls"][0]["sampling_calls"][0]) == {
            "kind",
            "model",
            "usage",
            "usd",
        }
        assert {
            "scope",
            "kind",
            "limit",
            "actual",
            "low",
            "high",
            "state",
            "reasons",
            "origin",
        } <= set(data["verdicts"][0])
        assert data["payloads"] == {"1:a": {"model": "m", "parts": {"system": "0a1b2c3d"}}}
        assert data["schema"] == "pytest-llmcost/1"

    def test_write_money_in_plain_digits(self) -> None:
        data = json.loads(render_json(a_full_report()))
        assert data["tests"][0]["usd"] == "0.0000001"
        assert data["fixtures"][0]["usd"] == "1.5"
        assert data["tests"][1]["calls"][0]["usd"] is None
        assert data["verdicts"][0]["limit"] == "1"

    def test_are_sorted_and_end_in_a_line_feed(self) -> None:
        text = render_json(a_full_report()).decode()
        assert (
            text
            == json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        )

    def test_of_long_runs_look_like_short_ones(self) -> None:
        tests: dict[Owner, list[Call]] = {
            a_test(f"t.py::test[{n}]"): [make_call("1", fingerprint=f"1:{n}")] for n in range(120)
        }
        facts = PayloadFacts(model="m", parts={"system": "0a1b2c3d"})
        report = make_report(tests, payloads={f"1:{n}": facts for n in range(120)})
        text = render_json(report).decode()
        data = json.loads(text)
        assert (len(data["tests"]), len(data["payloads"])) == (120, 120)
        assert text == json.dumps(data, indent=1, sort_keys=True) + "\n"
        assert parse_ledger(text.encode(), "x") == report

    def test_of_equal_runs_differ_in_run_alone(self) -> None:
        first = json.loads(
            render_json(make_report({A: [make_call("1")]}, run=RunRecord(workers=2)))
        )
        second = json.loads(render_json(make_report({A: [make_call("1")]})))
        assert {key for key in first if first[key] != second[key]} == {"run"}

    def test_keep_names_that_are_hostile(self) -> None:
        nodeid = 'tests/t.py::test["usd":"1E-7"|`@x`\x00\ud7ff\U0001f600]'
        report = make_report({a_test(nodeid): [make_call("1")]})
        assert parse_ledger(render_json(report), "x").tests[0].nodeid == nodeid

    def test_escape_what_is_no_character(self) -> None:
        calls = [make_call("1", model="\ud800"), make_call("2", model="\ud800")]
        report = make_report({a_test("tests/t\udc80.py::test"): calls})
        assert parse_ledger(render_json(report), "x").tests[0].nodeid == "tests/t\\udc80.py::test"

    def test_pass_over_keys_of_a_later_version(self) -> None:
        data = json.loads(render_json(a_full_report()))
        data["later"] = data["tests"][0]["later"] = data["tests"][0]["calls"][0]["later"] = {"x": 1}
        assert parse_ledger(json.dumps(data).encode(), "x") == a_full_report()

    def test_may_lack_keys_that_came_later(self) -> None:
        report = parse_ledger(b'{"schema": "pytest-llmcost/1", "tests": [{"nodeid": "a"}]}', "x")
        assert report.tests[0].nodeid == "a"

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (b"", "is damaged"),
            (b'{"schema": "pytest-llmcost/1", "tests": [', "is damaged"),
            (b'{"schema": "pytest-llmcost/2"}', "newer than pytest-llmcost/1"),
            (b'{"schema": "pytest-llmcost/0"}', "not a ledger of pytest-llmcost"),
            (b'{"schema": "pytest-llmcost/x"}', "not a ledger of pytest-llmcost"),
            (b'{"schema": "other/2"}', "not a ledger of pytest-llmcost"),
            (b'{"schema": "cyclonedx"}', "not a ledger of pytest-llmcost"),
            (b'{"a": 1}', "not a ledger of pytest-llmcost"),
            (b"[]", "not a ledger of pytest-llmcost, or is damaged"),
            (b"interactions: []", "is damaged"),
            (b"\xff\xfe", "is damaged"),
            (b'{"schema": "pytest-llmcost/1", "tests": [{"nodeid": 3}]}', "$.tests[0].nodeid"),
            (b'{"schema": "pytest-llmcost/1", "totals": {"usd": "NaN"}}', "NaN"),
            (b'{"schema": "pytest-llmcost/1", "totals": {"usd": "-1"}}', "-1"),
            (b'{"schema": "pytest-llmcost/1", "totals": {"usd": "1E+999"}}', "1E+999"),
            (
                b'{"schema": "pytest-llmcost/1", "tests": [{"nodeid": "a", "usd": "Infinity"}]}',
                "Infin",
            ),
            (b"[" * 100_000, "damaged"),
        ],
    )
    def test_that_are_no_ledgers_say_so(self, data: bytes, said: str, tmp_path: Path) -> None:
        path = tmp_path / "odd.json"
        path.write_bytes(data)
        with pytest.raises(LedgerError, match=r"odd\.json") as raised:
            read_ledger(path)
        assert said in str(raised.value)

    def test_keep_unlike_parts_of_a_call_apart(self) -> None:
        sampling_calls = (
            PricedSamplingCall(model="a", usage=Usage(input_tokens=1), usd=Decimal(1)),
            PricedSamplingCall(model="b", usage=Usage(input_tokens=2), usd=Decimal(2)),
        )
        bounded = make_call(
            "3", sampling_calls=sampling_calls, usd_low=Decimal(1), usd_high=Decimal(9)
        )
        report = make_report({A: [bounded]})
        assert parse_ledger(render_json(report), "x") == report

    def test_refuse_limits_that_are_no_number(self) -> None:
        text = render_json(a_full_report()).decode().replace('"limit": "1"', '"limit": "sNaN"')
        with pytest.raises(LedgerError, match="sNaN is not an amount"):
            parse_ledger(text.encode(), "x")

    @pytest.mark.parametrize("path", ["calls", "totals.by_model", "sampling_calls", "verdicts"])
    def test_refuse_amounts_that_are_no_price_wherever_they_stand(self, path: str) -> None:
        data = json.loads(render_json(a_full_report()))
        call = data["tests"][0]["calls"][0]
        place, name = {
            "calls": (call, "usd_high"),
            "totals.by_model": (data["totals"]["by_model"]["claude-opus-4-7"], "live_usd"),
            "sampling_calls": (call["sampling_calls"][0], "usd"),
            "verdicts": (data["verdicts"][0], "high"),
        }[path]
        long = ("0E-999999999", "0E+999999999", f"1.{'1' * 61}")  # endlessly slow to show
        for amount in ("-0.1", "NaN", "-Infinity", "1E+999", *long):
            place[name] = amount
            with pytest.raises(
                LedgerError, match=f"is damaged, {re.escape(amount[:40])} is not an amount"
            ):
                parse_ledger(json.dumps(data).encode(), "x")

    def test_have_a_comparison_whose_amounts_may_be_less_than_nothing(self) -> None:
        data = json.loads(render_json(replace(a_full_report(), comparison=Comparison())))
        data["comparison"]["price_change_usd"] = "-0.1"
        parse_ledger(json.dumps(data).encode(), "x")
        data["comparison"]["price_change_usd"] = "0E-999999999"
        with pytest.raises(LedgerError, match="is damaged, 0E-999999999 is not an amount"):
            parse_ledger(json.dumps(data).encode(), "x")

    def test_take_a_name_that_looks_like_an_amount_for_what_it_is(self) -> None:
        report = make_report(
            {A: [make_call("1", fingerprint="1:a")]},
            payloads={
                "1:a": PayloadFacts(
                    model="m",
                    parts={"tools.get_usd": "12e456789012"},  # a digest
                    rejected={"my-usd": "none", "my_low": "no", "my_usd": "none"},
                )
            },
        )
        assert parse_ledger(render_json(report), "x") == report

    def test_may_have_become_cheaper(self) -> None:
        less = Comparison(change_usd=Decimal("-0.1"), low_usd=None, base_usd=None)
        report = replace(a_full_report(), comparison=less)
        assert parse_ledger(render_json(report), "x") == report

    def test_that_are_not_there_say_so(self, tmp_path: Path) -> None:
        with pytest.raises(LedgerError, match="No such file"):
            read_ledger(tmp_path / "none.json")

    def test_are_written_whole_or_not_at_all(self, tmp_path: Path) -> None:
        path = tmp_path / "cost.json"
        path.write_text("before")

        def breaking() -> object:
            yield b"half"
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_file(path, breaking())  # type: ignore[arg-type]
        assert [each.name for each in tmp_path.iterdir()] == ["cost.json"]
        assert path.read_text() == "before"

    def test_that_cannot_be_written_say_so(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(LedgerError, match="cannot be written"):
            write_ledger(a_full_report(), tmp_path / "file" / "cost.json")

    def test_have_an_ordinary_mode_and_keep_the_one_they_had(self, tmp_path: Path) -> None:
        path = tmp_path / "cost.json"
        write_file(path, [b"1"])
        plain = tmp_path / "plain"
        plain.touch()
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
        os.chmod(path, 0o640)
        write_file(path, [b"2"])
        assert stat.S_IMODE(path.stat().st_mode) == 0o640

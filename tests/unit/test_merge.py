from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Literal, get_args, get_origin

import msgspec
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

from pytest_llmcost.budgets.budget import judge_calls
from pytest_llmcost.call import Call
from pytest_llmcost.errors import LedgerError
from pytest_llmcost.ledger.builder import LedgerBuilder, Owner
from pytest_llmcost.ledger.ledger import (
    CardId,
    Comparison,
    Ledger,
    PayloadFacts,
    RunRecord,
    parse_ledger,
    render_json,
)
from pytest_llmcost.ledger.notes import missing_notes
from pytest_llmcost.ledger.shards import NOT_COMPARED, merge_ledgers

Shards = list[tuple[str, Ledger]]


def shard(number: int, *, usd: str = "1", limit: str | None = "10", **fields: Any) -> Ledger:
    spent: dict[Owner, list[Call]] = {
        a_test(f"tests/a/test_{number}.py::test"): [make_call(usd, fingerprint=f"1:{number}")],
        a_fixture(worker="gw0"): [make_call(str(number), live=True)],
        OUTSIDE: [make_call("0.1", live=True)],
    }
    return make_report(
        spent,
        budgets=[] if limit is None else [suite_budget(limit)],
        payloads={f"1:{number}": PayloadFacts(model="m", parts={"system": f"{number}"})},
        **fields,
    )


def named(*reports: Ledger) -> Shards:
    return [(f"shard-{place}.json", report) for place, report in enumerate(reports)]


class TestSums:
    def test_are_those_of_a_single_run(self) -> None:
        merged = merge_ledgers(named(shard(1), shard(2, usd="2"), shard(3)))
        assert len(merged.tests) == 3
        assert merged.totals.usd == Decimal("7.3")  # 4 of tests, 0.3 outside, the dearest fixture
        assert merged.totals.live_usd == Decimal("6.3")  # all three set-ups
        assert set(merged.payloads) == {"1:1", "1:2", "1:3"}

    def test_of_one_shard_are_its_own(self) -> None:
        alone = shard(1, rate_card=replace(CARD, sources=("built in", "a user's file")))
        assert render_json(merge_ledgers(named(alone))) == render_json(alone)

    def test_of_merged_shards_can_be_merged_on(self) -> None:
        one, two, three = shard(1), shard(2), shard(3)
        by_steps = merge_ledgers(named(merge_ledgers(named(one, two)), three))
        assert render_json(by_steps) == render_json(merge_ledgers(named(one, two, three)))

    @given(st.permutations(range(5)))
    def test_never_depend_on_the_order(self, order: list[int]) -> None:
        shards = [
            shard(
                number,
                usd=f"0.{number}",
                incomplete=["deselected"] if number % 2 else [],
                run=RunRecord(started_at=f"2026-11-22T10:0{number}:00Z", workers=number),
                notes=[f"note {number % 3}"],
                generator={"pytest": f"9.{number % 2}"},
            )
            for number in range(5)
        ]
        merged = render_json(merge_ledgers(named(*(shards[each] for each in order))))
        assert merged == render_json(merge_ledgers(named(*shards)))


def other_values() -> Iterator[tuple[str, object]]:
    """Yield another value of each key of a ledger that is a plain fact of the run."""
    for each in msgspec.structs.fields(Ledger):
        choices = get_args(each.type)
        if get_origin(each.type) is Literal:
            yield each.name, next(value for value in choices if value != each.default)
        elif each.type in (str, tuple[str, ...]) and each.name != "schema":  # which all have
            yield each.name, "x" if each.type is str else ("x",)


class TestConflicts:
    @pytest.mark.parametrize(("key", "value"), [*other_values()])
    def test_of_any_key_are_refused_or_settled_whatever_the_order(
        self, key: str, value: object
    ) -> None:
        shards = shard(1), replace(shard(2), **{key: value})
        merged = set()
        for order in (shards, shards[::-1]):
            try:
                merged.add(render_json(merge_ledgers(named(*order))))
            except LedgerError as error:
                merged.add(str(error).partition(": ")[0].encode())
        assert len(merged) == 1

    def test_of_the_same_attempt_name_it_and_both_files(self) -> None:
        with pytest.raises(LedgerError) as raised:
            merge_ledgers([("a.json", shard(1)), ("b.json", shard(2)), ("c.json", shard(1))])
        assert "attempt 1 of tests/a/test_1.py::test is both in a.json and in c.json" in str(
            raised.value
        )

    def test_do_not_arise_between_attempts(self) -> None:
        first = make_report({a_test("t.py::test"): [make_call("1")]})
        second = make_report({a_test("t.py::test", attempt=2): [make_call("1")]})
        assert len(merge_ledgers(named(first, second)).tests) == 2

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"price_date": "2026-11-23"}, "price date: shard-0.json has 2026-11-22, shard-1.json"),
            ({"cache_state": "cold"}, "cache state: shard-0.json has as-billed, shard-1.json"),
            ({"rate_card": CardId(version="x", sha256="y")}, "rate card: shard-0.json has 2026"),
            ({"unverified": "warn"}, "llmcost_unverified: shard-0.json has fail, shard-1.json"),
        ],
    )
    def test_of_prices_name_both_files(self, fields: dict[str, Any], said: str) -> None:
        with pytest.raises(LedgerError) as raised:
            merge_ledgers(named(shard(1), shard(2, **fields)))
        assert said in str(raised.value)

    def test_of_ceilings_name_both_files(self) -> None:
        with pytest.raises(LedgerError, match=r"the suite: shard-0\.json has 10, shard-2\.json"):
            merge_ledgers(named(shard(1), shard(2), shard(3, limit="11")))

    def test_of_payloads_are_settled_whatever_the_order(self) -> None:
        one = replace(shard(1), payloads={"1:x": PayloadFacts(model="a")})
        two = replace(shard(2), payloads={"1:x": PayloadFacts(model="b")})
        assert merge_ledgers(named(one, two)).payloads == merge_ledgers(named(two, one)).payloads

    def test_of_card_files_on_other_machines_are_none(self) -> None:
        moved = replace(shard(2), rate_card=replace(CARD, sources=("elsewhere",)))
        assert merge_ledgers(named(shard(1), moved)).rate_card.sources == ("built in", "elsewhere")


class TestVerdicts:
    @pytest.mark.parametrize(("limit", "state"), [("4.2", "within"), ("4.199999999", "exceeded")])
    def test_are_decided_anew_over_all_shards(self, limit: str, state: str) -> None:
        merged = merge_ledgers(named(shard(1, limit=limit), shard(2, limit=limit)))
        (verdict,) = merged.verdicts
        assert (verdict.state, verdict.actual) == (state, Decimal("4.2"))
        assert verdict.origin == "--llmcost-max-suite"

    def test_hold_for_a_shard_that_forgot_the_ceiling(self) -> None:
        merged = merge_ledgers(named(shard(1, limit="2"), shard(2, limit=None)))
        assert merged.verdicts[0].state == "exceeded"

    def test_are_of_the_limit_that_merge_was_given(self) -> None:
        given_budget = make_budget("1", scope="suite", origin="--max-suite", label="max_suite")
        merged = merge_ledgers(
            named(shard(1, limit="10"), shard(2, limit="20")), max_suite=given_budget
        )
        assert [(int(each.limit), each.state) for each in merged.verdicts] == [(1, "exceeded")]

    def test_are_none_where_nobody_set_a_ceiling(self) -> None:
        assert merge_ledgers(named(shard(1, limit=None), shard(2, limit=None))).verdicts == ()

    def test_are_unverified_when_a_shard_has_an_unknown_call(self) -> None:
        unknown = make_report({a_test("t.py::test"): [make_call(None)]})
        merged = merge_ledgers(named(shard(1), unknown))
        assert merged.verdicts[0].state == "unverified"

    def test_on_models_need_the_same_list_in_all_shards(self) -> None:
        """Also where every call of both is allowed, so that no verdict names the list."""

        def allowing(number: int, *lines: str) -> Ledger:
            return replace(shard(number, limit=None), allowed_models=lines)

        lines = ("claude-*", "tests/a/** = acme")
        alike = merge_ledgers(named(allowing(1, *lines), allowing(2, *lines)))
        assert alike.allowed_models == lines
        for other, named_as in ((("claude-haiku-*",), "claude-haiku-*"), ((), "every model")):
            with pytest.raises(LedgerError, match="the same llmcost_allowed_models") as raised:
                merge_ledgers(named(allowing(1, "claude-*"), allowing(2, *other)))
            assert f"shard-0.json has claude-*, shard-1.json has {named_as}" in str(raised.value)

    def test_need_the_same_rule_for_live_calls(self) -> None:
        with pytest.raises(LedgerError, match=r"the same llmcost_live: .* has fail, .* has off"):
            merge_ledgers(named(replace(shard(1), live=("fail",)), shard(2)))

    def test_on_places_are_decided_anew_too(self) -> None:
        place = make_budget(
            "1.5", scope="path", pattern="tests/a/**", origin="ini", warn_at=Decimal("0.8")
        )
        shards = [
            make_report(
                {a_test(f"tests/a/test_{each}.py::test"): [make_call("1")]}, budgets=[place]
            )
            for each in range(2)
        ]
        assert [each.verdicts[0].state for each in shards] == ["within", "within"]
        (verdict,) = merge_ledgers(named(*shards), max_suite=suite_budget("9")).verdicts[1:]
        assert (verdict.state, verdict.pattern, verdict.warn_at) == (
            "exceeded",
            "tests/a/**",
            Decimal("0.8"),
        )

    @pytest.mark.parametrize(
        ("idle", "state"), [((True, True), "unverified"), ((True, False), "within")]
    )
    def test_on_places_stay_unverified_where_no_shard_had_a_test_for_them(
        self, idle: tuple[bool, bool], state: str
    ) -> None:
        shards = [
            make_report({}, budgets=[make_budget("1", scope="path", pattern="a/**", idle=each)])
            for each in idle
        ]
        (verdict,) = merge_ledgers(named(*shards)).verdicts
        assert verdict.state == state

    @pytest.mark.parametrize("idle", [(True, True), (True, False)])
    def test_on_models_of_places_are_idle_only_where_no_shard_had_a_test_for_them(
        self, idle: tuple[bool, bool]
    ) -> None:
        """A shard that had one has no verdict, for its tests have it themselves."""
        gate = make_budget("0", scope="path", kind="models", models=("x",), pattern="a/**")
        shards = [
            make_report({a_fixture(): [make_call("1")]}, budgets=[replace(gate, idle=each)])
            for each in idle
        ]
        assert [bool(each.verdicts) for each in shards] == [*idle]
        verdicts = merge_ledgers(named(*shards)).verdicts
        assert [each.state for each in verdicts] == (["unverified"] if all(idle) else [])

    @pytest.mark.parametrize("limits", [("1", "2"), ("1", "1")])
    def test_on_a_place_with_two_lines_hold_both_as_in_each_shard(
        self, limits: tuple[str, str]
    ) -> None:
        budgets = [make_budget(each, scope="path", pattern="a/**", idle=True) for each in limits]
        shards = [make_report({}, budgets=budgets)] * 2
        merged = merge_ledgers(named(*shards))
        assert set(merged.verdicts) == set(shards[0].verdicts)
        assert {each.state for each in merged.verdicts} == {"unverified"}

    def test_on_places_need_one_limit(self) -> None:
        shards = [
            make_report({}, budgets=[make_budget(limit, scope="path", pattern="a/**")])
            for limit in ("1", "2")
        ]
        with pytest.raises(LedgerError, match=r"budget for a/\*\*: "):
            merge_ledgers(named(*shards), max_suite=suite_budget("1"))


class TestRuns:
    @pytest.mark.parametrize(
        ("statuses", "merged"),
        [
            ([0, 0], 0),
            ([0, 1], 1),
            ([1, 2], 2),
            ([0, 5], 0),
            ([5, 5], 5),
            ([None, 0], 0),
            ([None, None], None),
        ],
    )
    def test_end_as_badly_as_the_worst(
        self, statuses: list[int | None], merged: int | None
    ) -> None:
        shards = [
            shard(place, run=RunRecord(exit_status=status)) for place, status in enumerate(statuses)
        ]
        assert merge_ledgers(named(*shards)).run.exit_status == merged

    @pytest.mark.parametrize("tests", [(True, False), (False, True), (False, False)])
    def test_have_tests_if_one_shard_has(self, tests: tuple[bool, bool]) -> None:
        runs = [RunRecord(has_tests=each, exit_status=0 if each else 4) for each in tests]
        merged = merge_ledgers(named(*(shard(at, run=run) for at, run in enumerate(runs))))
        assert merged.run.has_tests is any(tests)

    def test_fail_when_the_ceiling_over_all_is_broken(self) -> None:
        shards = [shard(each, limit="2", run=RunRecord(exit_status=0)) for each in (1, 2)]
        assert merge_ledgers(named(*shards)).run.exit_status == 1

    def test_span_the_time_of_all(self) -> None:
        first = shard(1, run=RunRecord(started_at="2026-11-22T10:00:00Z", workers=2))
        second = shard(
            2,
            run=RunRecord(
                started_at="2026-11-22T09:00:00Z", finished_at="2026-11-22T11:00:00Z", workers=3
            ),
        )
        run = merge_ledgers(named(first, second)).run
        assert (run.started_at, run.finished_at, run.workers) == (
            "2026-11-22T09:00:00Z",
            "2026-11-22T11:00:00Z",
            5,
        )

    @pytest.mark.parametrize(
        ("commits", "merged"), [(("1a2b3c4", "1a2b3c4"), "1a2b3c4"), (("1a2b3c4", ""), "")]
    )
    def test_have_a_commit_if_it_is_one(self, commits: tuple[str, str], merged: str) -> None:
        shards = [shard(at, run=RunRecord(commit=each)) for at, each in enumerate(commits)]
        assert merge_ledgers(named(*shards)).run.commit == merged

    @pytest.mark.parametrize("unsaid", [0, 1, 2])
    def test_are_of_one_commit(self, unsaid: int) -> None:
        commits = ["1a2b3c4", "9f8e7d6"]
        commits.insert(unsaid, "")
        shards = [shard(at, run=RunRecord(commit=each)) for at, each in enumerate(commits)]
        why = r"same commit: shard-\d.json has 1a2b3c4, shard-\d.json has 9f8e7d6"
        with pytest.raises(LedgerError, match=why):
            merge_ledgers(named(*shards))

    def test_are_incomplete_when_one_is(self) -> None:
        shards = named(shard(1, incomplete=["deselected"]), shard(2, incomplete=["interrupted"]))
        assert merge_ledgers(shards).incomplete == ("deselected", "interrupted")
        assert merge_ledgers(shards, is_whole=True).incomplete == ("interrupted",)

    def test_are_complete_when_the_shards_were_the_whole_suite(self) -> None:
        shards = named(shard(1, incomplete=["deselected"]), shard(2, incomplete=["selected"]))
        assert not merge_ledgers(shards).complete
        assert merge_ledgers(shards, is_whole=True).complete

    def test_lose_their_comparisons_and_say_so(self) -> None:
        compared = replace(shard(1), comparison=Comparison())
        merged = merge_ledgers(named(compared, shard(2)))
        assert merged.comparison is None
        assert merged.notes == (NOT_COMPARED,)

    @pytest.mark.parametrize("others", [0, 100])
    def test_miss_a_tool_only_if_no_shard_has_it(self, others: int) -> None:
        budget = make_budget("500", kind="parts", part="tools.find", origin="t.py:3")
        shards = []
        for number, tokens in enumerate((0, others)):
            key = f"1:{number}"
            calls = [make_call("1", fingerprint=key)]
            facts = PayloadFacts(model="m", parts={"tools.fnd": "1"})
            ran = make_report({a_test(f"t.py::T::{number}"): calls}, payloads={key: facts})
            verdict = judge_calls(budget, calls, parts={key: {"tools.find": tokens}})
            ran = replace(ran, tests=(replace(ran.tests[0], verdict=verdict),))
            shards.append(replace(ran, notes=tuple(missing_notes(ran))))
        note = "no prompt has tools.find, which t.py:3 limits; did you mean tools.fnd?"
        assert shards[0].notes == (note,)
        assert merge_ledgers(named(*shards)).notes == (() if others else (note,))


def test_a_merged_ledger_reads_as_any_other() -> None:
    merged = merge_ledgers(named(shard(1), shard(2)))
    assert parse_ledger(render_json(merged), "all.json") == merged
    assert json.loads(render_json(merged))["totals"]["calls"] == 5


SPENT = st.lists(
    st.tuples(
        st.sampled_from(
            [a_test("a.py::one"), a_test("b.py::two", attempt=2), a_fixture("f"), OUTSIDE]
        ),
        st.integers(0, 10**9).map(lambda nanos: str(Decimal(nanos).scaleb(-9))) | st.none(),
        st.sampled_from([True, False, None]),
        st.sampled_from(["1:a", "1:b", None]),
        st.sampled_from(["billed", "counted", "recounted"]),
    ),
    max_size=12,
)


@given(SPENT, st.data())
def test_shards_and_workers_add_up_to_what_one_process_would_have_written(
    spent: list[tuple[Owner, str | None, bool | None, str | None, str]], data: st.DataObject
) -> None:
    owners = list({owner: None for owner, *_ in spent})
    places = {owner: data.draw(st.integers(0, 2)) for owner in owners}
    budgets = [suite_budget("1"), make_budget("0.5", scope="path", pattern="a.py", label="a.py")]
    whole, controller = LedgerBuilder(), LedgerBuilder()
    parts, workers = [LedgerBuilder() for _ in range(3)], [LedgerBuilder() for _ in range(3)]
    for owner, usd, live, fingerprint, evidence in spent:
        call = make_call(usd, live=live, fingerprint=fingerprint, evidence=evidence)
        for ledger in (whole, parts[places[owner]], workers[places[owner]]):
            ledger.add(owner, call)
        if data.draw(st.booleans()) and (fragment := workers[places[owner]].take_fragment()):
            controller.absorb(fragment)
    for worker in workers:
        if fragment := worker.take_fragment():
            controller.absorb(fragment)

    def close(ledger: LedgerBuilder) -> Ledger:
        return ledger.ledger(price_date="2026-11-22", rate_card=CARD, budgets=budgets)

    expected = render_json(close(whole))
    assert render_json(close(controller)) == expected
    merged = merge_ledgers(named(*map(close, parts)))
    assert render_json(replace(merged, run=RunRecord())) == expected


class TestLostCalls:
    def test_open_the_suites_bound_whatever_is_merged_with_them(self) -> None:
        lost = shard(1, incomplete=["worker-crashed"], lost_calls=["worker-crashed"])
        merged = merge_ledgers(named(lost, shard(2)), is_whole=True)
        merged = merge_ledgers(named(merged, shard(3)), is_whole=True)
        assert merged.lost_calls == ("worker-crashed",)
        (verdict,) = merged.verdicts
        assert (verdict.state, verdict.actual, verdict.high) == ("unverified", None, None)
        assert verdict.low == merged.totals.usd
        assert "worker crashed" in verdict.reasons[0].what

    def test_do_not_hide_what_is_known_to_be_too_much(self) -> None:
        lost = shard(1, limit="0.5", lost_calls=["interrupted"])
        assert merge_ledgers(named(lost)).verdicts[0].state == "exceeded"

    def test_for_a_reason_of_a_later_version_do_so_too(self) -> None:
        (verdict,) = merge_ledgers(named(shard(1, lost_calls=["something-new"]))).verdicts
        assert verdict.state == "unverified"
        assert verdict.reasons[0].what == "calls were lost (something-new)"

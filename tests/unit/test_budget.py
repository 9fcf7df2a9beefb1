from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pytest_llmcost.amounts import NO_REASONS, Amounts, Kind, Range, most
from pytest_llmcost.budgets.budget import (
    Budget,
    decide,
    judge,
    judge_calls,
    judge_increase,
    parse_increase,
)
from pytest_llmcost.call import Call, Evidence, PricedSamplingCall
from pytest_llmcost.ledger.builder import settled
from pytest_llmcost.prices.caveats import CAVEATS, sorted_caveats
from pytest_llmcost.prices.usage import Usage

UNEXPLAINED = "what a call cost is unknown; state it with llmcost.record(...)"
A_THOUSANDTH_OF_A_MICRO_DOLLAR = Decimal("0.000000001")


def priced(usd: str | None, **fields: object) -> Call:
    """A call of an exact price, or of none at all."""
    amount = None if usd is None else Decimal(usd)
    bounds = {"usd": amount, "usd_low": amount or Decimal(0), "usd_high": amount}
    whole = {
        "model": "claude-opus-4-7",
        "evidence": "billed",
        "sampling_calls": sampling_calls_of(Usage()),
        **bounds,
    }
    return Call(**{**whole, **fields})  # type: ignore[arg-type]


def sampling_calls_of(*usages: Usage) -> tuple[PricedSamplingCall, ...]:
    return tuple(PricedSamplingCall(model="claude-opus-4-7", usage=usage) for usage in usages)


def spent(calls: Iterable[Call], kind: Kind = "usd") -> Range:
    return Amounts.of(calls)[kind]


def reasons(calls: Iterable[Call], kind: Kind = "usd", **how: str) -> tuple[str, ...]:
    return tuple(map(str, spent(calls, kind).reasons.explain(**how)))


def figures(spend: Range) -> tuple[object, object, object]:
    return spend.low, spend.best, spend.high


def exactly(number: str) -> Range:
    return Range(Decimal(number), Decimal(number), Decimal(number))


def dollars(limit: str, **fields: object) -> Budget:
    return Budget(**{"scope": "test", "limit": Decimal(limit), "origin": "t.py:3", **fields})  # type: ignore[arg-type]


class TestSpend:
    def test_is_exact_when_every_call_is(self) -> None:
        spend = spent([priced("0.1"), priced("0.2")], "usd")
        assert spend == exactly("0.3")

    def test_of_nothing_is_nothing(self) -> None:
        assert Amounts.of([]) == Amounts()
        assert spent([]) == exactly("0")

    def test_of_an_unpriced_call_is_a_lower_bound(self) -> None:
        spend = spent([priced("0.1"), priced(None)], "usd")
        assert figures(spend) == (Decimal("0.1"), None, None)
        assert [*map(str, spend.reasons.explain())] == [UNEXPLAINED]

    def test_never_rounds_whatever_the_callers_decimal_context(self) -> None:
        with localcontext() as context:
            context.prec = 3
            spend = spent([priced("1234.5678"), priced("0.0000001")], "usd")
        assert spend.best == Decimal("1234.5678001")

    def test_of_input_tokens_is_the_whole_prompt_of_every_sampling_call(self) -> None:
        prompt = Usage(
            input_tokens=1, cache_write_5m_tokens=10, cache_write_1h_tokens=100, output_tokens=7
        )
        call = priced("1", sampling_calls=sampling_calls_of(prompt, Usage(cache_read_tokens=1000)))
        assert spent([call], "input_tokens").best == 1111
        assert spent([call], "output_tokens").best == 7

    def test_of_tokens_leaves_refusals_out_that_are_not_billed(self) -> None:
        free = PricedSamplingCall(
            model="m", usage=Usage(input_tokens=5), refusal="unspecified", usd=Decimal(0)
        )
        assert spent([priced("0", sampling_calls=(free,))], "input_tokens").high == 0

    @pytest.mark.parametrize(("refusal", "usd"), [("cyber", "0.1"), ("cyber", None), (None, "0")])
    def test_of_tokens_holds_a_billed_refusal_and_a_model_that_costs_nothing(
        self, refusal: str | None, usd: str | None
    ) -> None:
        amount = None if usd is None else Decimal(usd)
        one = PricedSamplingCall(
            model="m", usage=Usage(input_tokens=5), refusal=refusal, usd=amount
        )
        call = priced(usd, sampling_calls=(one,))
        assert figures(spent([call], "input_tokens")) == (5, 5, 5)
        assert call.billed_usage == Usage(input_tokens=5)

    def test_of_the_whole_prompt_is_exact_whatever_the_cache_holds(self) -> None:
        one = PricedSamplingCall(model="m", usage=Usage(input_tokens=5), usd=Decimal(1))
        call = priced("1", sampling_calls=(one,), caveats=sorted_caveats(["cache-unpriced"]))
        assert figures(spent([call], "input_tokens")) == (5, 5, 5)
        assert spent([call], "uncached_input_tokens").high is None

    @pytest.mark.parametrize("kind", ["input_tokens", "output_tokens"])
    def test_of_tokens_nobody_stated_is_unbounded(self, kind: Kind) -> None:
        spend = spent([priced("1", sampling_calls=(), declared_usd=Decimal(1))], kind)
        assert figures(spend) == (0, None, None)
        assert spend.reasons

    def test_of_calls_is_exact_even_when_nothing_else_is_known(self) -> None:
        calls = [priced(None, sampling_calls=()), priced(None, sampling_calls=(), attempts=3)]
        assert spent(calls, "calls") == exactly("2")

    def test_knows_the_tokens_of_a_model_without_a_price(self) -> None:
        call = priced(
            None,
            sampling_calls=sampling_calls_of(Usage(input_tokens=5)),
            caveats=sorted_caveats(("unknown-model: who?",)),
        )
        assert spent([call], "input_tokens").high == 5
        assert reasons([call]) == ("who?",)

    @pytest.mark.parametrize(
        ("caveat", "kind", "low", "high"),
        [
            ("truncated-stream", "output_tokens", 3, None),
            ("truncated-stream", "input_tokens", 8, 8),
            ("left-out: tools.web_search", "input_tokens", 8, None),
            ("left-out: tools.web_search", "output_tokens", 3, 3),
            ("input-only", "output_tokens", 3, None),
            ("stale: system", "input_tokens", 0, None),
            ("stale: system", "output_tokens", 3, 3),
            ("open-batch", "output_tokens", 3, None),
            ("usage-disagrees: input_tokens", "input_tokens", 8, None),
            ("other-tokenizer", "output_tokens", 0, None),
            ("from-a-newer-version", "output_tokens", 0, None),
            ("priority-tier", "input_tokens", 8, 8),
        ],
    )
    def test_of_tokens_is_as_wide_as_its_caveat_says(
        self, caveat: str, kind: Kind, low: int, high: int | None
    ) -> None:
        sampling_calls = sampling_calls_of(Usage(input_tokens=8, output_tokens=3))
        caveats = sorted_caveats([caveat])
        spend = spent([priced("1", sampling_calls=sampling_calls, caveats=caveats)], kind)
        assert (figures(spend)[0], figures(spend)[2]) == (low, high)
        assert bool(spend.reasons) == (high is None)

    @pytest.mark.parametrize(
        ("caveat", "stated", "kind", "expected"),
        [
            ("truncated-stream", {"most_output_tokens": 1_000}, "output_tokens", (3, 3, 1_000)),
            ("truncated-stream", {"most_output_tokens": 2}, "output_tokens", (3, 3, 3)),
            (
                "changed-cache: system",
                {"usage_low": Usage(input_tokens=2, cache_read_tokens=6, output_tokens=3)},
                "uncached_input_tokens",
                (2, 8, 8),
            ),
        ],
    )
    def test_of_tokens_has_the_bounds_that_the_price_has(
        self, caveat: str, stated: dict[str, object], kind: Kind, expected: tuple[int, int, int]
    ) -> None:
        usage = Usage(input_tokens=8, output_tokens=3)
        (sampling,) = sampling_calls_of(usage)
        call = priced(
            "1",
            sampling_calls=(replace(sampling, **stated),),
            caveats=sorted_caveats([caveat]),
        )
        spend = spent([call, call], kind)
        assert figures(spend) == tuple(2 * each for each in expected)
        assert spend.reasons

    def test_of_a_largest_call_is_bounded_too(self) -> None:
        (sampling,) = sampling_calls_of(Usage(input_tokens=8, output_tokens=3))
        call = priced(
            "1",
            sampling_calls=(replace(sampling, most_output_tokens=1_000),),
            caveats=sorted_caveats(["truncated-stream"]),
        )
        for limit, state in (("1000", "within"), ("999", "unverified"), ("2", "exceeded")):
            budget = dollars(limit, kind="call_output_tokens")
            assert judge_calls(budget, [call]).state == state


class TestReasons:
    def test_name_what_changed_and_the_command_that_counts_it(self) -> None:
        call = priced(
            None, evidence="stale", caveats=sorted_caveats(("stale: system, tools.search",))
        )
        command = "pytest t.py::test_a --llmcost-record-mode=new_episodes"
        (reason,) = reasons([call], "usd", count_command=command)
        assert reason == (
            "the prompt changed since its reply was recorded (system, tools.search) and is not "
            f"counted yet; count it (free): {command}"
        )

    def test_end_in_a_command_that_can_be_pasted_however_many_calls_there_are(self) -> None:
        calls = [priced(None, evidence="stale"), priced(None, evidence="stale")]
        (reason,) = reasons(calls, "usd", count_command="pytest --x")
        assert "(2 calls); " in reason
        assert reason.endswith(": pytest --x")

    def test_say_stale_even_when_no_caveat_does(self) -> None:
        assert "prompt changed" in reasons([priced(None, evidence="stale")])[0]

    def test_fold_many_calls_into_one_sentence_whatever_their_order(self) -> None:
        calls = [
            priced(None, caveats=sorted_caveats((f"lost-answer: no. {i}",))) for i in range(1200)
        ]
        (reason,) = reasons(calls)
        assert "(no. 0, ...)" in reason
        assert "(1,200 calls); run the test again" in reason
        assert reasons(reversed(calls)) == (reason,)

    def test_show_a_detail_that_only_some_of_the_calls_have(self) -> None:
        calls = [
            priced(None, caveats=sorted_caveats((each,)))
            for each in ("lost-answer", "lost-answer: no. 1")
        ]
        assert "(no. 1, ...) (2 calls); " in reasons(calls)[0]

    @pytest.mark.parametrize(
        ("other", "often"), [("a", "2 calls"), ("b", "2 calls of several models")]
    )
    def test_a_model_without_a_price_is_not_named_for_the_calls_of_another(
        self, other: str, often: str
    ) -> None:
        unknown = [f"unknown-model: no price for model '{name}'" for name in ("a", other)]
        calls = [priced(None, caveats=sorted_caveats((each,))) for each in unknown]
        assert reasons(calls) == (f"no price for model 'a' ({often})",)

    def test_leave_out_what_does_not_make_a_figure_inexact(self) -> None:
        call = priced(None, caveats=sorted_caveats(("input-only", "truncated-stream")))
        (reason,) = reasons([call])
        assert "read to its end" in reason
        assert reasons([priced("1", caveats=sorted_caveats(("retired-model",)))]) == ()

    def test_exist_for_every_caveat_that_opens_a_bound(self) -> None:
        for name, caveat in CAVEATS.items():
            (reason,) = reasons([priced(None, caveats=sorted_caveats((f"{name}: a detail",)))])
            assert (reason == UNEXPLAINED) == (caveat.direction == "none")
            assert len(reason) > len(name) + 12 or name == "unknown-model"

    def test_pass_on_a_caveat_that_has_no_sentence_here(self) -> None:
        assert reasons([priced(None, caveats=sorted_caveats(("odd: {0}",)))]) == ("odd ({0})",)

    @pytest.mark.usefixtures("soon")
    def test_take_no_time_however_many_names_a_ledger_has(self) -> None:
        calls = [priced(None, caveats=sorted_caveats((f"odd-{i}",))) for i in range(40_000)]
        assert len(reasons(calls, "input_tokens")) == 40_000

    @given(st.lists(st.lists(st.sampled_from("abcdef: 1"), max_size=3), max_size=12), st.data())
    def test_are_the_same_in_whatever_order_sums_are_added_up(
        self, names: list[list[str]], data: st.DataObject
    ) -> None:
        calls = [priced(None, caveats=sorted_caveats(each)) for each in names]
        sums = [Amounts.of([call]) for call in calls]
        while len(sums) > 1:
            one = sums.pop(data.draw(st.integers(0, len(sums) - 1)))
            other = sums.pop(data.draw(st.integers(0, len(sums) - 1)))
            sums.append(one + other)
        assert sum(sums, Amounts())["usd"].reasons == Amounts.of(calls)["usd"].reasons


class TestVerdict:
    @pytest.mark.parametrize(
        ("low", "high", "state"),
        [
            ("0.02", "0.02", "within"),
            ("0.020000001", "0.020000001", "exceeded"),
            ("0.019999999", "0.020000001", "unverified"),
            ("0.020000001", None, "exceeded"),
            ("0.02", None, "unverified"),
            ("0", "0", "within"),
        ],
    )
    def test_lets_the_limit_itself_pass(self, low: str, high: str | None, state: str) -> None:
        limit = Decimal("0.02")
        between = Range(Decimal(low), None, None if high is None else Decimal(high))
        assert decide(dollars("0.02"), between, limit, limit).state == state

    def test_of_a_required_budget_without_calls_is_unverified(self) -> None:
        verdict = judge(dollars("0.02", required=True), Amounts())
        assert (verdict.state, verdict.actual, verdict.high, verdict.reasons) == (
            "unverified",
            None,
            None,
            (),
        )

    def test_of_an_inherited_budget_without_calls_holds_for_nothing(self) -> None:
        verdict = judge(dollars("0"), Amounts())
        assert verdict.state == "within"
        assert verdict.actual == 0

    def test_of_a_path_without_tests_is_of_the_calls_that_shared_fixtures_make_there(self) -> None:
        idle = dollars("1", scope="path", pattern="a/**", idle=True)
        refused = priced("0", usd_high=Decimal("0.5"))  # whether it is billed is unknown
        assert judge(idle, Amounts()).saw_nothing
        assert judge(idle, Amounts.of([refused])).state == "within"

    def test_keeps_where_the_budget_was_set_and_why(self) -> None:
        budget = dollars("1", label="max_suite", reason="agreed", pattern="tests/**")
        verdict = judge(budget, Amounts.of([]))
        assert (verdict.origin, verdict.label, verdict.reason, verdict.pattern) == (
            "t.py:3",
            "max_suite",
            "agreed",
            "tests/**",
        )

    @pytest.mark.parametrize(
        ("spent", "near"),
        [("0.8", True), ("0.799999999", False), ("1", True), ("1.1", False), ("0", False)],
    )
    def test_warns_from_its_share_of_the_limit_on_but_never_when_exceeded(
        self, spent: str, near: bool
    ) -> None:
        budget = dollars("1", warn_at=Decimal("0.8"))
        assert judge(budget, Amounts.of([priced(spent)])).is_near is near

    def test_never_warns_of_calls_or_of_a_budget_of_nothing(self) -> None:
        every = {"warn_at": Decimal("0.8")}
        assert not judge(dollars("1", kind="calls", **every), Amounts.of([priced("1")])).is_near
        assert not judge(dollars("0", **every), Amounts()).is_near

    def test_of_a_required_budget_holds_for_a_request_that_cannot_have_been_billed(self) -> None:
        verdict = judge(dollars("0.02", required=True), Amounts(), has_requests=True)
        assert (verdict.state, verdict.actual) == ("within", Decimal(0))

    def test_of_calls_counts_an_agents_result_as_one_or_more(self) -> None:
        total = {"declared_usd": Decimal(1), "sampling_calls": ()}
        result = priced("1", **total, caveats=sorted_caveats(["declared-price: s1"]))
        verdict = judge_calls(dollars("1", kind="calls"), [result], live_requests=1)
        assert (verdict.state, verdict.high) == ("unverified", None)

    def test_never_warns_unasked(self) -> None:
        assert not judge(dollars("1"), Amounts.of([priced("1")])).is_near

    @given(
        steps=st.integers(-3, 3),
        limit=st.decimals("0", "100", places=9),
        parts=st.lists(st.integers(0, 10**9), max_size=5),
    )
    def test_turns_at_the_limit_whatever_the_sum_is_made_of(
        self, steps: int, limit: Decimal, parts: list[int]
    ) -> None:
        nanos = [Decimal(part).scaleb(-9) for part in parts]
        rest = limit + steps * A_THOUSANDTH_OF_A_MICRO_DOLLAR - sum(nanos)
        amounts = [*nanos, rest] if rest >= 0 else [max(limit + steps * Decimal("1e-9"), limit)]
        total = sum(amounts)
        spend = Amounts.of(priced(str(each)) for each in amounts)
        verdict = judge(dollars(str(limit)), spend)
        assert verdict.state == ("exceeded" if total > limit else "within")


class TestIncrease:
    @pytest.mark.parametrize(
        ("figures", "limit"), [(("1", "2", "4"), "0.2"), (("1", None, None), "0.1")]
    )
    def test_shows_the_share_of_the_best_figure_or_of_the_least_that_is_known(
        self, figures: tuple[str, str | None, str | None], limit: str
    ) -> None:
        low, best, high = (None if each is None else Decimal(each) for each in figures)
        before = Range(low, best, high)
        base = Amounts(ranges={**Amounts().ranges, "usd": before})
        verdict = judge_increase(parse_increase("10%"), base, Amounts())
        assert verdict.limit == Decimal(limit)


class TestFixturesUnderWorkers:
    def test_count_once_by_the_most_expensive(self) -> None:
        set_ups = [Amounts.of([priced("1"), priced("1")]), Amounts.of([priced("3")])]
        total = Amounts.of([priced("10")]) + most(set_ups)
        assert total["usd"] == exactly("13")
        assert (total.usd, total.calls) == (Decimal(13), 2)

    def test_are_bounded_by_the_known_and_open_by_the_unknown(self) -> None:
        total = Amounts() + most([Amounts.of([priced(each)]) for each in ("3", None)])
        assert figures(total["usd"]) == (3, None, None)
        assert total["usd"].reasons
        assert (total.usd, total.unpriced) == (Decimal(3), 1)


class TestUnknown:
    def test_is_no_amount_of_money(self) -> None:
        unknown = Amounts.of([priced(None, live=True)])
        assert (unknown.usd, unknown.unpriced) == (None, 1)

    def test_beside_the_known_leaves_a_lower_bound(self) -> None:
        assert Amounts.of([priced(None), priced("1")]).usd == 1
        assert (Amounts.of([priced(None)]) + Amounts.of([priced("1")])).usd == 1

    def test_cost_of_something_that_cost_nothing_is_nothing(self) -> None:
        assert Amounts.of([priced("0")]).usd == 0


AMOUNTS = st.lists(
    st.tuples(
        st.none() | st.decimals("0", "9", places=3),
        st.sampled_from([(), ("left-out: a",), ("left-out: b",), ("truncated-stream",)]),
        st.sampled_from([True, False, None]),
    ).map(
        lambda each: priced(
            None if each[0] is None else str(each[0]), caveats=sorted_caveats(each[1]), live=each[2]
        )
    ),
    max_size=4,
)


class TestSums:
    @given(AMOUNTS, AMOUNTS)
    def test_of_sums_are_the_sum_of_all(self, some: list[Call], more: list[Call]) -> None:
        assert Amounts.of(some) + Amounts.of(more) == Amounts.of([*some, *more])

    @given(AMOUNTS)
    def test_minus_nothing_are_what_they_are(self, calls: list[Call]) -> None:
        amounts = Amounts.of(calls)
        assert (amounts - Amounts()).ranges == amounts.ranges

    def test_may_become_less(self) -> None:
        usage = Usage(input_tokens=7)
        less = Amounts.of([priced("1")]) - Amounts.of(
            [priced("3", sampling_calls=sampling_calls_of(usage))]
        )
        assert less["usd"] == exactly("-2")
        assert less.usd == -2
        assert less.usage.input_tokens == -7
        assert less["usd"].reasons == NO_REASONS

    def test_differ_by_no_more_than_the_bounds_let_them(self) -> None:
        change = Amounts.of([priced("5")]) - Amounts.of([priced("2"), priced(None)])
        assert figures(change["usd"]) == (None, None, 3)
        assert change.usd is None
        (why,) = change["usd"].reasons.explain()
        assert str(why) == f"in the baseline: {UNEXPLAINED}"


def seen(fingerprint: str | None, evidence: Evidence, usd: str | None = "1") -> Call:
    return priced(usd, fingerprint=fingerprint, evidence=evidence)


class TestCountedThenSent:
    @pytest.mark.parametrize("counts", [0, 1, 2, 3])
    @pytest.mark.parametrize("sends", [0, 1, 2, 3])
    def test_is_as_many_calls_as_the_more_frequent_of_the_two(
        self, counts: int, sends: int
    ) -> None:
        calls = [seen("1:a", "counted")] * counts + [seen("1:a", "billed")] * sends
        for order in (calls, list(reversed(calls))):
            left = settled(order)
            assert len(left) == max(counts, sends)
            assert sum(call.evidence == "billed" for call in left) == sends

    def test_is_told_apart_by_payload(self) -> None:
        calls = (seen("1:a", "counted"), seen("1:b", "recounted"))
        assert settled(calls) == calls

    def test_never_drops_a_call_whose_payload_is_unknown(self) -> None:
        calls = (seen(None, "declared"), seen(None, "billed"))
        assert settled(calls) == calls

    def test_keeps_the_most_expensive_count_that_is_left_over(self) -> None:
        cheap, dear, unknown = (seen("1:a", "counted", usd) for usd in ("1", "5", None))
        sent = seen("1:a", "billed")
        assert settled([dear, cheap, sent]) == (dear, sent)
        assert settled([unknown, sent, dear]) == (unknown, sent)

    def test_keeps_a_failed_count_only_if_there_is_nothing_else_of_its_payload(self) -> None:
        failed = replace(
            seen("1:a", "counted", None),
            sampling_calls=(),
            caveats=sorted_caveats(["count-failed"]),
        )
        for other in (seen("1:a", "billed"), seen("1:a", "counted")):
            assert settled([failed, other, failed]) == (other,)
        assert settled([failed, failed]) == (failed,)
        apart = (failed, seen("1:b", "billed"))
        assert settled(apart) == apart

    @pytest.mark.parametrize("evidence", ["stale", "mocked"])
    def test_keeps_each_reply_whose_prompt_could_not_be_counted(self, evidence: Evidence) -> None:
        failed = replace(
            seen("1:a", evidence, None), sampling_calls=(), caveats=sorted_caveats(["count-failed"])
        )
        assert settled([failed, failed, seen("1:a", "recounted")])[:2] == (failed, failed)

    @given(st.permutations([("1:a", "counted"), ("1:a", "billed"), ("1:b", "counted")] * 2))
    def test_does_not_depend_on_the_order(self, order: list[tuple[str, Evidence]]) -> None:
        left = settled([seen(*each) for each in order])
        assert sorted((call.fingerprint or "", call.evidence) for call in left) == [
            ("1:a", "billed"),
            ("1:a", "billed"),
            ("1:b", "counted"),
            ("1:b", "counted"),
        ]

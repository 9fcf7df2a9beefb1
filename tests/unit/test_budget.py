from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llmcost.budgets.budget import Budget, Kind, Spend, Tally, check, settled, spend_of
from pytest_llmcost.call import Call, Evidence, PricedSamplingCall
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
        "sampling_calls": legs_of(Usage()),
        **bounds,
    }
    return Call(**{**whole, **fields})  # type: ignore[arg-type]


def legs_of(*usages: Usage) -> tuple[PricedSamplingCall, ...]:
    return tuple(PricedSamplingCall(model="claude-opus-4-7", usage=usage) for usage in usages)


def figures(spend: Spend) -> tuple[object, object, object]:
    return spend.low, spend.actual, spend.high


def dollars(limit: str, **fields: object) -> Budget:
    return Budget(**{"scope": "test", "limit": Decimal(limit), "origin": "t.py:3", **fields})  # type: ignore[arg-type]


class TestSpend:
    def test_is_exact_when_every_call_is(self) -> None:
        spend = spend_of([priced("0.1"), priced("0.2")], "usd")
        assert spend == Spend(actual=Decimal("0.3"), low=Decimal("0.3"), high=Decimal("0.3"))

    def test_of_nothing_is_nothing(self) -> None:
        assert spend_of([], "usd") == Spend(actual=Decimal(0), low=Decimal(0), high=Decimal(0))

    def test_of_an_unpriced_call_is_a_lower_bound(self) -> None:
        spend = spend_of([priced("0.1"), priced(None)], "usd")
        assert figures(spend) == (Decimal("0.1"), None, None)
        assert spend.reasons == (UNEXPLAINED,)

    def test_never_rounds_whatever_the_callers_decimal_context(self) -> None:
        with localcontext() as context:
            context.prec = 3
            spend = spend_of([priced("1234.5678"), priced("0.0000001")], "usd")
        assert spend.actual == Decimal("1234.5678001")

    def test_of_input_tokens_is_the_whole_prompt_of_every_leg(self) -> None:
        prompt = Usage(
            input_tokens=1, cache_write_5m_tokens=10, cache_write_1h_tokens=100, output_tokens=7
        )
        call = priced("1", sampling_calls=legs_of(prompt, Usage(cache_read_tokens=1000)))
        assert spend_of([call], "input_tokens").actual == 1111
        assert spend_of([call], "output_tokens").actual == 7

    def test_of_tokens_leaves_refusals_out_that_are_not_billed(self) -> None:
        free = PricedSamplingCall(
            model="m", usage=Usage(input_tokens=5), refusal="unspecified", usd=Decimal(0)
        )
        assert spend_of([priced("0", sampling_calls=(free,))], "input_tokens").high == 0

    @pytest.mark.parametrize("kind", ["input_tokens", "output_tokens"])
    def test_of_tokens_nobody_stated_is_unbounded(self, kind: Kind) -> None:
        spend = spend_of([priced("1", sampling_calls=(), declared_usd=Decimal(1))], kind)
        assert figures(spend) == (0, None, None)
        assert spend.reasons

    def test_of_calls_is_exact_even_when_nothing_else_is_known(self) -> None:
        calls = [priced(None, sampling_calls=()), priced(None, sampling_calls=(), attempts=3)]
        assert spend_of(calls, "calls") == Spend(actual=Decimal(2), low=Decimal(2), high=Decimal(2))

    def test_knows_the_tokens_of_a_model_without_a_price(self) -> None:
        call = priced(
            None,
            sampling_calls=legs_of(Usage(input_tokens=5)),
            caveats=sorted_caveats(("unknown-model: who?",)),
        )
        assert spend_of([call], "input_tokens").high == 5
        assert spend_of([call], "usd").reasons == ("who?",)

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
            ("other-tokenizer", "output_tokens", 0, None),
            ("from-a-newer-version", "output_tokens", 0, None),
            ("priority-tier", "input_tokens", 8, 8),
        ],
    )
    def test_of_tokens_is_as_wide_as_its_caveat_says(
        self, caveat: str, kind: Kind, low: int, high: int | None
    ) -> None:
        sampling_calls = legs_of(Usage(input_tokens=8, output_tokens=3))
        caveats = sorted_caveats([caveat])
        spend = spend_of([priced("1", sampling_calls=sampling_calls, caveats=caveats)], kind)
        assert (figures(spend)[0], figures(spend)[2]) == (low, high)
        assert bool(spend.reasons) == (high is None)


class TestReasons:
    def test_name_what_changed_and_the_command_that_counts_it(self) -> None:
        call = priced(
            None, evidence="stale", caveats=sorted_caveats(("stale: system, tools.search",))
        )
        command = "pytest t.py::test_a --llmcost-record-mode=new_episodes"
        (reason,) = spend_of([call], "usd", count_command=command).reasons
        assert reason == (
            "the prompt changed since its reply was recorded (system, tools.search) and is not "
            f"counted yet; count it (free): {command}"
        )

    def test_say_stale_even_when_no_caveat_does(self) -> None:
        assert "prompt changed" in spend_of([priced(None, evidence="stale")], "usd").reasons[0]

    def test_fold_many_calls_into_one_sentence_whatever_their_order(self) -> None:
        calls = [
            priced(None, caveats=sorted_caveats((f"lost-answer: no. {i}",))) for i in range(1200)
        ]
        (reason,) = spend_of(calls, "usd").reasons
        assert "(no. 0, ...)" in reason
        assert reason.endswith("(1,200 calls)")
        assert spend_of(reversed(calls), "usd").reasons == (reason,)

    def test_leave_out_what_does_not_make_a_figure_inexact(self) -> None:
        call = priced(None, caveats=sorted_caveats(("input-only", "truncated-stream")))
        (reason,) = spend_of([call], "usd").reasons
        assert "read to its end" in reason
        assert (
            spend_of([priced("1", caveats=sorted_caveats(("retired-model",)))], "usd").reasons == ()
        )

    def test_exist_for_every_caveat_that_opens_a_bound(self) -> None:
        for name, caveat in CAVEATS.items():
            (reason,) = spend_of(
                [priced(None, caveats=sorted_caveats((f"{name}: a detail",)))], "usd"
            ).reasons
            assert (reason == UNEXPLAINED) == (caveat.direction == "none")
            assert len(reason) > len(name) + 12 or name == "unknown-model"

    def test_pass_on_a_caveat_that_has_no_sentence_here(self) -> None:
        assert spend_of([priced(None, caveats=sorted_caveats(("odd: {0}",)))], "usd").reasons == (
            "odd ({0})",
        )


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
        spend = Spend(actual=None, low=Decimal(low), high=None if high is None else Decimal(high))
        assert check(dollars("0.02"), spend).state == state

    def test_of_a_required_budget_without_calls_is_unverified(self) -> None:
        nothing = spend_of([], "usd")
        verdict = check(dollars("0.02", required=True), nothing, saw_calls=False)
        assert (verdict.state, verdict.actual, verdict.high, verdict.reasons) == (
            "unverified",
            None,
            None,
            (),
        )

    def test_of_an_inherited_budget_without_calls_holds_for_nothing(self) -> None:
        verdict = check(dollars("0"), spend_of([], "usd"), saw_calls=False)
        assert verdict.state == "within"
        assert verdict.actual == 0

    def test_keeps_where_the_budget_was_set_and_why(self) -> None:
        budget = dollars("1", label="max_suite", reason="agreed", pattern="tests/**")
        verdict = check(budget, spend_of([], "usd"))
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
        assert check(budget, spend_of([priced(spent)], "usd")).is_near is near

    def test_never_warns_unasked(self) -> None:
        assert not check(dollars("1"), spend_of([priced("1")], "usd")).is_near

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
        verdict = check(
            dollars(str(limit)), spend_of([priced(str(each)) for each in amounts], "usd")
        )
        assert verdict.state == ("exceeded" if total > limit else "within")


class TestFixturesUnderWorkers:
    def test_count_once_at_their_dearest(self) -> None:
        rivals = [
            Tally("usd").add_all([priced("1"), priced("1")]),
            Tally("usd").add_all([priced("3")]),
        ]
        tally = Tally("usd").add_all([priced("10")])
        tally.add_most_expensive(rivals)
        assert tally.spend() == Spend(actual=Decimal(13), low=Decimal(13), high=Decimal(13))

    def test_are_bounded_by_the_known_and_open_by_the_unknown(self) -> None:
        tally = Tally("usd")
        tally.add_most_expensive([Tally("usd").add_all([priced(each)]) for each in ("3", None)])
        spend = tally.spend()
        assert figures(spend) == (3, None, None)
        assert spend.reasons


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

    def test_keeps_the_dearest_count_that_is_left_over(self) -> None:
        cheap, dear, unknown = (seen("1:a", "counted", usd) for usd in ("1", "5", None))
        sent = seen("1:a", "billed")
        assert settled([dear, cheap, sent]) == (dear, sent)
        assert settled([unknown, sent, dear]) == (unknown, sent)

    @given(st.permutations([("1:a", "counted"), ("1:a", "billed"), ("1:b", "counted")] * 2))
    def test_does_not_depend_on_the_order(self, order: list[tuple[str, Evidence]]) -> None:
        left = settled([seen(*each) for each in order])
        assert sorted((call.fingerprint or "", call.evidence) for call in left) == [
            ("1:a", "billed"),
            ("1:a", "billed"),
            ("1:b", "counted"),
            ("1:b", "counted"),
        ]

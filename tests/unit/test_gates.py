"""Gates: what is allowed of single calls, as a pure judgement over calls."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sample_reports import CARD, OUTSIDE, a_fixture, a_test, make_budget, make_call, make_report

from pytest_llmcost.budgets.budget import Budget, Rule, Verdict, judge_calls
from pytest_llmcost.budgets.path_globs import parse_path_budget
from pytest_llmcost.call import BrokenPrefix, Call, PricedSamplingCall, reprice
from pytest_llmcost.compare.repriced import at_worst
from pytest_llmcost.ledger.builder import LedgerBuilder
from pytest_llmcost.ledger.ledger import Ledger, PayloadFacts
from pytest_llmcost.ledger.notes import max_tokens_notes
from pytest_llmcost.ledger.shards import merge_ledgers
from pytest_llmcost.ledger.totals import amounts_of
from pytest_llmcost.prices.caveats import Caveat, sorted_caveats
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reports.gates import GATES
from pytest_llmcost.reports.github import render_annotations
from pytest_llmcost.reports.junit import test_properties as properties_of
from pytest_llmcost.reports.run_wording import broken_prefixes
from pytest_llmcost.reports.wording import render_failure, sentence, short_sentence

HAIKU, OPUS = "claude-haiku-4-5-20251001", "claude-opus-4-7"


def allow(*globs: str, **fields: Any) -> Budget:
    return make_budget("0", kind="models", models=globs, **fields)


def test_every_rule_has_words_of_its_own() -> None:
    assert GATES.keys() == {*get_args(Rule)}


class TestAllowedModels:
    @pytest.mark.parametrize(
        ("globs", "state"),
        [
            (("claude-haiku-*",), "within"),
            (("claude-opus-*", HAIKU), "within"),
            (("claude-haiku-4-5",), "within"),  # its alias
            (("claude-haiku-4",), "exceeded"),  # a part of an alias is none
            (("claude-opus-4-5", "claude-haiku-3-5"), "exceeded"),
            (("Claude-Haiku-*",), "exceeded"),
            (("claude-opus-*",), "exceeded"),
        ],
    )
    def test_one_must_be_the_model_or_match_its_exact_id(
        self, globs: tuple[str, ...], state: str
    ) -> None:
        call, find = make_call("1", model=HAIKU), shipped_card().find
        verdict = judge_calls(allow(*globs), [call], find=find)
        assert verdict.state == state
        assert judge_calls(verdict, [call]).state == state  # as where shards are merged

    def test_no_call_at_all_is_allowed_even_where_a_call_is_required(self) -> None:
        assert judge_calls(allow("x", required=True), []).state == "within"

    def test_a_call_of_unknown_cost_has_a_model_all_the_same(self) -> None:
        call = make_call(None, model="claude-next")
        assert judge_calls(allow("claude-opus-*"), [call]).state == "exceeded"
        assert judge_calls(allow("claude-*"), [call]).state == "within"

    def test_a_fallback_is_a_model_of_the_call(self) -> None:
        served = tuple(PricedSamplingCall(model=name, usage=Usage()) for name in (HAIKU, OPUS))
        verdict = judge_calls(allow(HAIKU), [make_call("1", model=HAIKU, sampling_calls=served)])
        assert verdict.found == (OPUS,)

    def test_an_unknown_model_is_to_be_stated(self) -> None:
        calls = [make_call("1", model="unknown", sampling_calls=())]
        verdict = judge_calls(allow(HAIKU), calls)
        text = render_failure(verdict, calls)
        assert text.startswith("1 call of an unknown model, not one of the allowed models ")
        assert "  an unknown model, tokens unknown, $1.00" in text
        assert text.endswith("\nState which model was called: llmcost.record(..., model=...).")

    def test_the_failure_names_model_and_call(self) -> None:
        calls = [make_call("1", model=HAIKU), make_call("0.5", model=OPUS)]
        verdict = judge_calls(allow("claude-haiku-*", origin="llmcost_allowed_models"), calls)
        assert render_failure(verdict, calls).splitlines() == [
            "1 call of claude-opus-4-7, not one of the allowed models claude-haiku-* set by "
            "llmcost_allowed_models",
            "",
            "  not allowed       claude-opus-4-7, 100 input tokens, $0.50",
            "",
            "Call an allowed model, or add claude-opus-4-7 to the list of llmcost_allowed_models.",
        ]
        assert short_sentence(verdict) == "claude-opus-4-7 is not allowed"
        kept = judge_calls(allow(HAIKU, origin="t.py:3"), calls[:1])
        assert sentence(kept) == f"all calls are of the allowed models {HAIKU} set at t.py:3"

    def test_where_calls_are_missing_it_is_not_told_as_kept(self) -> None:
        verdict = judge_calls(allow("x", origin="t.py:3"), [], lost_calls=["worker-crashed"])
        assert sentence(verdict).startswith("cannot check the list of allowed models set at t.py:3")
        assert short_sentence(verdict).startswith("not checked: list of allowed models, ")

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

    def test_of_a_path_it_judges_no_call_outside_tests(self) -> None:
        calls: dict[Any, Any] = {OUTSIDE: [make_call("1", model=OPUS)]}
        for scope, pattern, states in (("suite", None, ["exceeded"]), ("path", "tests/**", [])):
            budget = allow("claude-haiku-*", scope=scope, pattern=pattern)
            ledger = make_report(calls, budgets=[budget])
            assert [each.state for each in ledger.verdicts] == states


def per_call(limit: str, kind: str = "call_usd", **fields: Any) -> Budget:
    return make_budget(limit, kind=kind, **fields)


SMALL = make_call("0.0014")
LARGE = make_call("0.0298", usage=Usage(input_tokens=8_120, output_tokens=412))


class TestLargestCall:
    @pytest.mark.parametrize(
        ("kind", "limit", "state"),
        [
            ("call_usd", "0.0298", "within"),  # though all together cost more
            ("call_usd", "0.0297", "exceeded"),
            ("call_input_tokens", "8120", "within"),
            ("call_input_tokens", "8119", "exceeded"),
            ("call_output_tokens", "412", "within"),
            ("call_output_tokens", "411", "exceeded"),
        ],
    )
    def test_only_the_largest_call_counts(self, kind: str, limit: str, state: str) -> None:
        assert judge_calls(per_call(limit, kind), [SMALL, LARGE, SMALL]).state == state

    def test_a_call_of_unknown_cost_could_be_the_largest(self) -> None:
        calls = [SMALL, make_call(None)]
        assert judge_calls(per_call("1"), calls).state == "unverified"
        assert judge_calls(per_call("0.001"), calls).state == "exceeded"

    def test_without_a_call_a_marker_is_unverified_and_a_default_kept(self) -> None:
        assert judge_calls(per_call("1", required=True), []).saw_nothing
        assert judge_calls(per_call("1"), []).state == "within"

    @given(st.lists(st.decimals("0", "9", places=4), max_size=5), st.decimals("0", "9", places=4))
    def test_a_budget_on_the_sum_that_is_kept_is_kept_by_each_call(
        self, prices: list[Decimal], limit: Decimal
    ) -> None:
        calls = [make_call(str(usd)) for usd in prices]
        sums, largest = make_budget(str(limit)), per_call(str(limit))
        whole, single = judge_calls(sums, calls), judge_calls(largest, calls)
        assert single.low == max(prices, default=0) <= whole.low
        assert whole.state == "exceeded" or single.state == "within"

    def test_the_failure_names_that_call(self) -> None:
        calls = [SMALL, LARGE]
        verdict = judge_calls(per_call("0.02", origin="t.py:3"), calls)
        assert render_failure(verdict, calls).splitlines() == [
            "$0.0298 is $0.0098 (49 %) over the budget of $0.02 per call set at t.py:3",
            "",
            "  largest of 2      claude-opus-4-7, 8,120 input + 412 output tokens, $0.0298",
            "",
            "Shorten the prompt, or accept the price with a new budget: "
            '@max_cost(call_usd="$0.03")',
        ]
        assert short_sentence(verdict) == "$0.0298 > $0.02 per call (+49 %)"
        verdict = judge_calls(per_call("400", "call_output_tokens", origin="t.py:3"), calls)
        assert sentence(verdict) == (
            "412 output tokens are 12 (3 %) over the budget of 400 output tokens per call set at "
            "t.py:3"
        )
        assert "@max_cost(call_output_tokens=420)" in render_failure(verdict, calls)

    def test_the_largest_call_is_the_one_with_most_of_what_is_limited(self) -> None:
        wordy = make_call("0.001", usage=Usage(input_tokens=10, output_tokens=900))
        verdict = judge_calls(per_call("500", "call_output_tokens"), [LARGE, wordy])
        assert "largest of 2      claude-opus-4-7, 10 input + 900 out" in render_failure(
            verdict, [LARGE, wordy]
        )

    def test_over_a_run_it_judges_what_no_test_made(self) -> None:
        spent: dict[Any, Any] = {a_test("t.py::test"): [LARGE], a_fixture(): [SMALL, SMALL]}
        for limit, states in (("0.002", []), ("0.001", ["exceeded"])):
            ledger = make_report(spent, budgets=[per_call(limit, scope="suite", label="max_call")])
            assert [each.state for each in ledger.verdicts] == states


class TestWorstCase:
    BUDGET = make_budget("0.09", kind="worst", origin="t.py:3")
    CALL = make_call("0.0298", usage=Usage(input_tokens=8_120, output_tokens=412), max_tokens=2_000)

    def judged(self, budget: Budget, *calls: Call) -> Verdict:
        on = date(2026, 11, 22)
        return judge_calls(budget, [at_worst(each, {}, shipped_card(), on=on) for each in calls])

    def test_it_is_a_cold_cache_and_the_longest_reply(self) -> None:
        # 8,120 x $5 + 2,000 x $25 per million
        assert self.judged(make_budget("0.0906", kind="worst"), self.CALL).state == "within"
        verdict = self.judged(self.BUDGET, self.CALL)
        assert (verdict.state, verdict.low) == ("exceeded", Decimal("0.0906"))
        assert render_failure(verdict, [SMALL, self.CALL]).splitlines() == [
            "$0.0906 is $0.0006 (0.7 %) over the $0.09 worst-case budget set at t.py:3",
            "",
            "  longest reply     max_tokens of 2,000: claude-opus-4-7, 8,120 input + 412 output "
            "tokens, $0.0298",
            "",
            "Lower max_tokens, shorten the prompt, or accept the price with a new budget: "
            '@max_cost(worst="$0.091")',
        ]
        assert short_sentence(verdict) == "$0.0906 > $0.09 worst-case budget (+0.7 %)"

    def test_sonnet_5_5_writes_its_cache_at_worst(self) -> None:
        usage = Usage(input_tokens=1_000, cache_read_tokens=10_000, output_tokens=50)
        call = make_call("0.0068", model="claude-sonnet-5-5", usage=usage, max_tokens=1_000)
        verdict = self.judged(make_budget("1", kind="worst"), call)
        usd = shipped_card().rates("claude-sonnet-5-5", on=date(2026, 11, 22)).usd
        most = 1_000 * (usd["input"] + usd["output"]) + 10_000 * usd["cache_write_1h"]
        assert verdict.high == most / 10**6

    @pytest.mark.parametrize(
        "call",
        [
            make_call("0.01"),
            make_call("0.01", max_tokens=5, sampling_calls=CALL.sampling_calls * 2),
            make_call(None, sampling_calls=(), caveats=sorted_caveats(["uncounted: x"])),
        ],
    )
    def test_what_has_no_worst_case_is_unverified_or_over_by_what_it_cost(self, call: Call) -> None:
        verdict = self.judged(self.BUDGET, call)
        assert (verdict.state, verdict.high) == ("unverified", None)
        assert len(verdict.reasons) == 1
        assert verdict.reasons[0].remedy
        assert "the worst case is " in sentence(verdict) or "not counted" in sentence(verdict)
        if call.usd:
            assert self.judged(make_budget("0.009", kind="worst"), call).state == "exceeded"

    @given(st.lists(st.tuples(*[st.integers(0, 10**5)] * 3, st.none() | st.integers(0, 10**5))))
    def test_it_is_never_less_than_the_cost(self, calls: list[tuple[Any, ...]]) -> None:
        on, priced = date(2026, 11, 22), []
        for plain, read, output, most in calls:
            usage = Usage(input_tokens=plain, cache_read_tokens=read, output_tokens=output)
            call = make_call("0", usage=usage, max_tokens=most)
            priced.append(reprice(call, shipped_card(), on=on))
        worst = self.judged(self.BUDGET, *priced)
        cost = judge_calls(make_budget("0.09"), priced)
        assert cost.high is not None
        assert worst.low >= cost.low
        assert worst.high is None or worst.high >= cost.high
        assert worst.state != "within" or cost.state == "within"

    def test_a_limit_far_above_every_reply_is_noted(self) -> None:
        def noted(
            most: int, kind: str = "worst", evidence: str = "billed", used: int = 100
        ) -> tuple[str, ...]:
            usage = Usage(input_tokens=1, output_tokens=used)
            call = make_call("1", usage=usage, max_tokens=most, evidence=evidence)
            ledger = LedgerBuilder()
            for name in ("t.py::test[a]", "t.py::test[b]"):
                ledger.add(a_test(name), call)
                verdict = judge_calls(make_budget("9", kind=kind), [call])
                ledger.judge(a_test(name), verdict=verdict)
            made = ledger.ledger(price_date="2026-11-22", rate_card=CARD)
            return max_tokens_notes(made, every_test=False)

        assert noted(1_001) == (
            "t.py::test: max_tokens of 1,001 is 10 times its longest reply (100 tokens), and the "
            "worst case pays for all of it",
        )
        assert "11 times its longest reply (1 token), and" in noted(11, used=1)[0]
        assert noted(1_000) == noted(9_999, kind="usd") == noted(9_999, evidence="counted") == ()


class TestRequiredBudget:
    BUDGET = make_budget("0", kind="unbudgeted", origin="llmcost_require_budget")

    def test_a_call_breaks_it_and_none_keeps_it(self) -> None:
        assert judge_calls(self.BUDGET, [SMALL]).state == "exceeded"
        assert judge_calls(self.BUDGET, [make_call(None)]).state == "exceeded"
        assert judge_calls(self.BUDGET, []).state == "within"

    def test_the_failure_says_how_to_give_one(self) -> None:
        verdict = judge_calls(self.BUDGET, [SMALL, LARGE])
        assert render_failure(verdict, [SMALL, LARGE]).splitlines() == [
            "2 calls without a budget; llmcost_require_budget requires one",
            "",
            "  no budget for     claude-opus-4-7, 100 input tokens, $0.0014",
            "  no budget for     claude-opus-4-7, 8,120 input + 412 output tokens, $0.0298",
            "",
            'Give the test a budget, for example @max_cost("$0.032"), or set llmcost_max_test or a '
            "path in llmcost_budgets.",
        ]
        assert short_sentence(verdict) == "2 calls without a budget"
        most = [SMALL, make_call("0.04", usd_high=Decimal("0.05"))]
        assert '@max_cost("$0.052")' in render_failure(judge_calls(self.BUDGET, most), most)


class TestTags:
    @given(st.lists(st.tuples(st.integers(0, 9), st.sets(st.sampled_from("abc"))), max_size=6))
    def test_a_tag_costs_what_its_calls_cost_and_never_more_than_the_run(
        self, calls: list[tuple[int, set[str]]]
    ) -> None:
        made = [make_call(str(usd), tags=tuple(sorted(tags))) for usd, tags in calls]
        spent: dict[Any, Any] = {a_test("t.py::t"): made[::2], a_fixture(): made[1::2]}
        ledger = make_report(spent, budgets=[parse_path_budget("tag:a = $5", "ini")])
        whole = ledger.totals.usd
        assert whole is not None
        for tag in "abc":
            usd = sum(cost for cost, tags in calls if tag in tags)
            assert amounts_of(ledger, f"tag:{tag}").usd == usd <= whole
            assert (tag in ledger.totals.by_tag) == any(tag in tags for _, tags in calls)
        (verdict,) = ledger.verdicts
        assert verdict.state == ("exceeded" if verdict.low > 5 else "within")


def broken(usd: str | None, part: str = "system.1", character: int | None = 13) -> Any:
    extra = None if usd is None else Decimal(usd)
    return make_call("0.06", broken_prefix=BrokenPrefix(part=part, character=character, usd=extra))


STABLE = make_budget("0", kind="stable_prefix", origin="t.py:3")


class TestStablePrefix:
    def test_each_place_is_named_once_with_the_most_that_it_costs(self) -> None:
        calls = [SMALL, broken("0.05"), broken("0.06"), broken(None, "thinking", None)]
        verdict = judge_calls(STABLE, calls)
        assert (verdict.state, int(verdict.low)) == ("exceeded", 3)
        assert verdict.found == ("system.1 at character 13 (+$0.06 per call)", "thinking")
        assert sentence(verdict) == (
            "3 calls break the cached prefix of an earlier one: system.1 at character 13 (+$0.06 "
            "per call), thinking; a stable prefix is required at t.py:3"
        )
        assert short_sentence(verdict).startswith("cached prefix broken: system.1 at character 13")
        failure = render_failure(verdict, calls).splitlines()
        assert sum("not read" in line for line in failure) == 3

    def test_calls_that_break_none_are_within(self) -> None:
        verdict = judge_calls(STABLE, [SMALL, LARGE])
        assert verdict.state == "within"
        assert sentence(verdict) == (
            "no call breaks a cached prefix; a stable prefix is required at t.py:3"
        )
        assert judge_calls(make_budget("0", kind="stable_prefix", required=True), []).state == (
            "within"
        )

    @given(st.lists(st.sampled_from([SMALL, LARGE, broken("0.05"), broken(None)]), max_size=6))
    def test_it_fails_for_as_many_calls_as_are_broken(self, calls: list[Any]) -> None:
        number = sum(call.broken_prefix is not None for call in calls)
        verdict = judge_calls(STABLE, calls)
        assert (int(verdict.low), verdict.state == "exceeded") == (number, number > 0)
        assert bool(verdict.found) is bool(number)

    def test_annotation_and_junit_say_it_too(self) -> None:
        calls = [broken("0.05")]
        ledger = make_report({a_test("t.py::test_clock"): calls})
        row = replace(ledger.tests[0], verdict=judge_calls(STABLE, calls))
        (annotation,) = render_annotations(replace(ledger, tests=(row,)))
        assert "1 call breaks the cached prefix of an earlier one: system.1" in annotation
        assert ("llmcost_verdict", "exceeded") in [*properties_of(row)]

    def test_the_line_of_a_run_names_what_costs_most(self) -> None:
        ledger = make_report(
            {
                a_test("t.py::test_a"): [broken("0.05"), broken("0.05", "tools.find")],
                a_test("t.py::test_b"): [broken("0.2")],
                a_test("t.py::test_c"): [SMALL],
            }
        )
        assert broken_prefixes(ledger) == (
            "3 calls break the cached prefix of an earlier one: t.py::test_b: system.1 at "
            "character 13 (+$0.20 per call), and 2 calls elsewhere (llmcost_stable_prefix)"
        )
        assert broken_prefixes(make_report({a_test("t.py::test_c"): [SMALL]})) == ""


quantities = st.integers(0, 9_000)
prompts = st.builds(
    Usage,
    input_tokens=quantities,
    cache_write_5m_tokens=quantities,
    cache_write_1h_tokens=quantities,
    cache_read_tokens=quantities,
)


class TestUncachedInput:
    def test_what_is_written_to_the_cache_is_not_read_from_it(self) -> None:
        usage = Usage(input_tokens=8, cache_write_5m_tokens=300, cache_read_tokens=9_000)
        calls = [make_call("0.01", usage=usage), make_call("0.01", usage=usage)]
        for limit, state in (("616", "within"), ("615", "exceeded")):
            verdict = judge_calls(make_budget(limit, kind="uncached_input_tokens"), calls)
            assert verdict.state == state
        assert sentence(verdict) == (
            "616 uncached input tokens are 1 (0.2 %) over the budget of 615 uncached input tokens "
            "set at t.py:3"
        )
        assert "Let more of the prompt be read" in render_failure(verdict, calls)

    @given(st.lists(prompts, max_size=5), quantities)
    def test_it_restates_input_without_what_is_read(self, used: list[Usage], limit: int) -> None:
        calls = [make_call("1", usage=usage) for usage in used]
        whole, uncached = (
            judge_calls(make_budget(str(limit), kind=kind), calls)
            for kind in ("input_tokens", "uncached_input_tokens")
        )
        assert whole.low - uncached.low == sum(usage.cache_read_tokens for usage in used)
        assert whole.state == "exceeded" or uncached.state == "within"

    @pytest.mark.parametrize("caveat", ["changed-cache", "cache-unpriced", "stale", "left-out"])
    def test_it_is_unknown_where_reading_is(self, caveat: str) -> None:
        call = make_call("1", caveats=sorted_caveats([caveat]))
        verdict = judge_calls(make_budget("1000000", kind="uncached_input_tokens"), [call])
        assert verdict.state == "unverified"
        assert verdict.reasons


def tokens_of(*sizes: int | None) -> tuple[list[Call], dict[str, dict[str, int]]]:
    """Calls whose system prompt is so large; None if that is not counted."""
    usage = Usage(input_tokens=2_000)
    calls = [make_call("1", fingerprint=f"2:{at}", usage=usage) for at in range(len(sizes))]
    known = {
        f"2:{number}": {"system": size} for number, size in enumerate(sizes) if size is not None
    }
    return calls, known


class TestParts:
    @pytest.mark.parametrize(
        ("sizes", "state"),
        [
            ((900, 1_000), "within"),
            ((900, 1_001), "exceeded"),
            ((0,), "within"),
            ((900, None), "unverified"),
            ((None, 1_001), "exceeded"),
            ((), "within"),
        ],
    )
    def test_the_largest_of_each_part_decides(
        self, sizes: tuple[int | None, ...], state: str
    ) -> None:
        calls, parts = tokens_of(*sizes)
        budget = make_budget("1000", kind="parts", part="system")
        assert judge_calls(budget, calls, parts=parts).state == state

    def test_a_sum_of_known_parts_is_not_taken_for_the_whole_group(self) -> None:
        calls, parts = tokens_of(900)
        parts["2:0"]["tools.find"] = 5
        budget = make_budget("1000", kind="parts", part="tools")
        assert judge_calls(budget, calls, parts=parts).state == "unverified"

    @pytest.mark.parametrize(
        ("call", "reason"),
        [
            (make_call("1", fingerprint="2:0"), "not counted; count it (free): pytest a.py"),
            (make_call("1"), "how large system is in a prompt is unknown, as the prompt was not"),
            (
                make_call("1", fingerprint="2:0", caveats=(Caveat("left-out: tools.web"),)),
                "(tools.web)",
            ),
        ],
    )
    def test_what_is_unknown_says_why(self, call: Call, reason: str) -> None:
        budget = make_budget("99", kind="parts", part="system")
        verdict = judge_calls(budget, [call], count_command="pytest a.py")
        assert verdict.state == "unverified"
        (said,) = verdict.reasons
        assert reason in str(said)

    def test_no_part_is_larger_than_its_prompt_unless_a_mock_says_how_large_that_is(self) -> None:
        budget = make_budget("100", kind="parts", part="system")
        assert judge_calls(budget, [make_call("1")]).state == "within"
        assert judge_calls(budget, [make_call("1", evidence="mocked")]).state == "unverified"

    def test_a_shared_fixture_breaks_them_in_one_shard_and_in_all_together(self) -> None:
        gates = [
            make_budget(limit, kind="parts", part=part, scope="suite", label="max_parts")
            for part, limit in (("system", "1000"), ("tools", "1000"))
        ]

        def shard(number: int, system: int, tools: int) -> Ledger:
            tokens = {"system": system, "tools": tools}
            usage = Usage(input_tokens=2_000 + number)
            call = make_call("1", fingerprint=f"2:{number}", usage=usage)
            facts = PayloadFacts(model=OPUS, parts_tokens=tokens)
            fixture = a_fixture(worker=f"gw{number}")
            payloads = {f"2:{number}": facts}
            return make_report({fixture: [call]}, budgets=gates, payloads=payloads)

        shards = [shard(1, 900, 5), shard(2, 1_100, 1_001), shard(3, 1_500, 7)]
        found = [[(each.part, int(each.low)) for each in ledger.verdicts] for ledger in shards]
        assert found == [[], [("system", 1_100), ("tools", 1_001)], [("system", 1_500)]]
        for order in (shards, shards[::-1]):
            merged = merge_ledgers((f"{at}.json", ledger) for at, ledger in enumerate(order))
            assert [each.part for each in merged.verdicts] == ["system", "tools"]
            assert {each.state for each in merged.verdicts} == {"exceeded"}

    def test_the_failure_shows_the_largest_prompt_and_its_largest_parts(self) -> None:
        calls, parts = tokens_of(900, 1_500)
        calls[1] = make_call("2", fingerprint="2:1", usage=Usage(input_tokens=2_600))
        parts["2:1"] = {
            "system.0": 1_500, "tools.(fixed)": 300, "tools.find": 500, "tools": 800,
            "messages.2.document": 298, "messages.0.text": 0, "rest": 2, "system": 1_500,
        }  # fmt: skip
        verdict = judge_calls(make_budget("1000", kind="parts", part="system"), calls, parts=parts)
        assert render_failure(verdict, calls, (), parts).splitlines() == [
            "1,500 tokens are 500 (50 %) over the budget of 1,000 tokens of system set at t.py:3",
            "",
            "  largest of 2      claude-opus-4-7, 2,600 input tokens, $2.00",
            "  largest parts     system 1,500; tools.find 500; messages.2 (document) 298",
            "",
            'Shorten it, or accept it with a new budget: @max_cost(parts={"system": 1_500})',
        ]
        assert short_sentence(verdict) == "1,500 > 1,000 tokens of system (+50 %)"

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from golden_files import assert_golden
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sample_reports import judge, make_budget, make_call

from pytest_llmcost.budgets.budget import Verdict, judge_calls
from pytest_llmcost.call import Before, Call, PricedSamplingCall
from pytest_llmcost.counting.api_error import explain_failure
from pytest_llmcost.prices.bill import ByCategory
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reports.plain_text import (
    dollars,
    first_of,
    format_count,
    growth,
    percent,
    signed,
    write_round_usd,
)
from pytest_llmcost.reports.wording import (
    describe_call,
    render_failure,
    render_missing_count,
    render_section,
    sentence,
    short_sentence,
)

STALE = make_call(
    None,
    evidence="stale",
    sampling_calls=(),
    caveats=sorted_caveats(["stale: system, tools.search_orders"]),
)


def failures() -> str:
    """Each state of a budget as a test's failure shows it."""
    small = make_call("0.0014")
    large = make_call("0.0298", usage=Usage(input_tokens=8_120, output_tokens=412))
    again = make_call(
        "0.0113",
        usage=Usage(input_tokens=5_620),
        evidence="recounted",
        caveats=sorted_caveats(["changed-prompt: system"]),
        before=Before(input_tokens=2_764, usd=Decimal("0.0056")),
    )
    shorter = replace(
        again, usage=Usage(input_tokens=1_000), before=Before(input_tokens=2_764, usd=None)
    )
    stale = replace(STALE, before=Before(input_tokens=2_764, usd=Decimal("0.0056")))
    cut = make_call(
        "0.01", usd_high=None, caveats=sorted_caveats(["truncated-stream: no message_stop"])
    )
    where = {"origin": "tests/test_rag.py:12"}
    cases: tuple[tuple[str, list[Call], Verdict], ...] = (
        ("over", [small, large], judge("0.02", small, large, reason="triage is cheap", **where)),
        ("a changed prompt", [again], judge("0.01", again, **where)),
        ("two changed prompts", [again, again], judge("0.01", again, again, **where)),
        ("a changed prompt, no price before", [shorter], judge("0.01", shorter, **where)),
        ("not counted yet", [stale], judge("0.05", stale, **where)),
        ("at least over", [large, STALE], judge("0.02", large, STALE, **where)),
        ("could not be checked", [cut], judge("0.02", cut, **where)),
        ("no call", [], judge("0.05", **where)),
        ("tokens", [large], judge("5000", large, kind="input_tokens", **where)),
        ("calls", [small, large], judge("1", small, large, kind="calls", **where)),
        ("a block", [large], judge("0.01", large, scope="block", label="budget", **where)),
        ("an option", [large], judge("0.01", large, label="max_test", origin="--llmcost-max-test")),
    )
    parts = [f"{name}\n---\n{render_failure(verdict, calls)}\n" for name, calls, verdict in cases]
    others = [judge("1", small, large, kind="calls", **where)]
    parts.append(f"and more\n---\n{render_failure(cases[0][2], [small, large], others)}\n")
    return "\n".join(parts)


def test_failures_look_like_this() -> None:
    assert_golden("failures.txt", failures())


def test_no_text_of_a_budget_is_obeyed_by_a_terminal() -> None:
    call = make_call("0.02")
    odd = "\x1b[31m\u202e"
    verdict = judge("0.01", call, origin=f"tests/t{odd}.py:12", reason=f"because{odd}\n::error::")
    for text in (*render_failure(verdict, [call]).splitlines(), sentence(verdict)):
        assert text.isprintable()
        assert not text.startswith("::")
    assert r"set at tests/t\x1b[31m\u202e.py:12 (because\x1b[31m\u202e ::error::)" in text


@pytest.mark.parametrize(
    ("kind", "limit", "said", "short"),
    [
        ("usd", "0.01", "$0.02 is $0.01 (100 %) over the $0.01 budget", "$0.02 > $0.01 budget"),
        ("calls", "1", "2 calls are 1 (100 %) over the budget of 1 call", "2 > 1 call"),
        (
            "input_tokens",
            "8000",
            "16,240 input tokens are 8,240 (103 %) over the budget of 8,000 input tokens",
            "16,240 > 8,000 input tokens",
        ),
        (
            "output_tokens",
            "500",
            "824 output tokens are 324 (65 %) over the budget of 500 output tokens",
            "824 > 500 output tokens",
        ),
    ],
)
def test_quantities_have_their_own_words(kind: str, limit: str, said: str, short: str) -> None:
    call = make_call("0.01", usage=Usage(input_tokens=8_120, output_tokens=412))
    verdict = judge(limit, call, call, kind=kind, origin="")
    assert sentence(verdict) == said
    assert short_sentence(verdict).rpartition(" (+")[0] == short


VOLATILE = replace(STALE, caveats=sorted_caveats(["stale: system", "volatile: system, a time"]))
NOT_RECOUNTED = replace(
    STALE,
    caveats=sorted_caveats(
        ["not-recounted: system: the recorded answer took several sampling calls"]
    ),
)


def test_a_count_that_would_be_missing_again_is_not_advised() -> None:
    text = render_failure(judge("0.05", VOLATILE), [VOLATILE])
    assert "  cause             differs in every run: system, a time" in text
    assert "count it (free)" not in text
    assert "count it (free)" in render_failure(judge("0.05", VOLATILE, STALE), [VOLATILE, STALE])


def test_what_settles_another_budget_of_the_test_is_said_too() -> None:
    calls = judge("1", STALE, STALE, kind="calls")
    others = [judge("0.05", STALE, STALE), judge("900", STALE, STALE, kind="input_tokens")]
    text = render_failure(calls, [STALE, STALE], others)
    assert text.startswith("2 calls are 1 (100 %) over the budget of 1 call")
    assert text.count("count it (free)") == 1
    assert "  count it (free)   pytest --llmcost-record-mode=rewrite" in text


def test_the_reply_to_a_prompt_that_is_not_counted_needs_that_count() -> None:
    text = render_failure(judge("900", STALE, kind="output_tokens"), [STALE])
    assert text.splitlines()[0].endswith(": a prompt is not counted yet")
    assert "llmcost.record" not in text


def test_a_count_that_cannot_give_the_cost_is_not_advised() -> None:
    text = render_failure(judge("0.05", NOT_RECOUNTED), [NOT_RECOUNTED])
    assert "count it (free)" not in text
    assert "  changed           system (since it was recorded)" in text
    assert "  to settle it      record it again, or state its cost with llmcost.record(...)" in text
    assert describe_call(NOT_RECOUNTED) == "claude-opus-4-7: cost unknown"


@pytest.mark.parametrize("status", [401, 402, 403, 404, 413, 418, 429, 500])
def test_what_settles_a_failed_count_is_one_fact(status: int) -> None:
    error = OSError("said")
    error.status_code = status  # type: ignore[attr-defined]
    why = explain_failure(error, model="m", host="h", seconds=60)
    text, _ = render_missing_count(why, None, "t.py:3")
    assert f"  cause             counting m failed with status {status}: said\n" in text


class TestShortSentence:
    def test_begins_with_what_matters_and_fits_the_short_summary(self) -> None:
        short = short_sentence(judge("0.01", make_call("0.0113")))
        assert short == "$0.0113 > $0.01 budget (+13 %)"

    def test_of_a_prompt_that_is_not_counted(self) -> None:
        assert short_sentence(judge("0.05", STALE)) == "not counted yet: $0.05 budget"

    def test_of_a_budget_that_cannot_be_checked(self) -> None:
        call = make_call("0.01", usd_high=None, caveats=sorted_caveats(["truncated-stream"]))
        assert short_sentence(judge("0.02", call)) == (
            "not checked: $0.02 budget, the cost is at least $0.01, the rest is unknown"
        )
        assert short_sentence(judge("0.02")) == "not checked: $0.02 budget, no Claude call was seen"

    def test_of_another_cache_than_the_runs(self) -> None:
        call = make_call("0.0113")
        warm = replace(judge("0.01", call), cache_state="warm")
        assert short_sentence(warm) == "$0.0113 > $0.01 warm cache budget (+13 %)"
        assert render_failure(warm, [call]).endswith('@max_cost("$0.012", cache="warm")')
        block = replace(warm, scope="block")
        assert render_failure(block, [call]).endswith('llmcost.budget("$0.012")')

    def test_of_a_suite_and_a_path(self) -> None:
        call = make_call("0.2")
        suite = judge("0.15", call, scope="suite")
        assert short_sentence(suite) == "cost $0.20 > $0.15 max_suite (+33 %)"
        path = judge("0.15", call, scope="path", pattern="tests/**")
        assert short_sentence(path) == "$0.20 > $0.15 budget for tests/** (+33 %)"


def test_what_is_only_known_in_part_says_so() -> None:
    over = judge("0.02", make_call("0.03"), STALE, origin="")
    assert sentence(over) == "at least $0.03 is $0.01 (50 %) over the $0.02 budget"
    unsure = judge("0.05", make_call("0.03"), make_call(None), origin="")
    assert sentence(unsure) == (
        "cannot check the $0.05 budget: the cost is at least $0.03, the rest is unknown"
    )


def test_two_prompts_that_are_not_counted_have_a_command_that_can_be_pasted() -> None:
    text = render_failure(judge("0.05", STALE, STALE), [STALE, STALE])
    assert text.endswith("count it (free)   pytest --llmcost-record-mode=rewrite")


class TestGrowth:
    def call(self, tokens: int = 5_620, parts: str = "system") -> Call:
        return make_call(
            "0.0113",
            usage=Usage(input_tokens=tokens),
            evidence="recounted",
            caveats=sorted_caveats([f"changed-prompt: {parts}"]),
            before=Before(input_tokens=2_764, usd=Decimal("0.0056")),
        )

    def lines(self, *calls: Call) -> list[str]:
        return [line.strip() for line in render_failure(judge("0.01", *calls), calls).splitlines()]

    def test_of_a_changed_prompt_is_said_in_tokens_and_money(self) -> None:
        lines = self.lines(self.call())
        assert "the prompt grew   2,764 -> 5,620 input tokens (+103 %), $0.0056 -> $0.0113" in lines
        assert "changed           system (+2,856 tokens)" in lines

    def test_is_not_said_of_one_part_among_several(self) -> None:
        lines = self.lines(self.call(parts="system, tools.find"))
        assert "changed           system, tools.find (since it was recorded)" in lines

    def test_by_another_model_is_not_said_to_be_the_prompts_alone(self) -> None:
        *_, advice = self.lines(self.call(parts="model, system"))
        assert advice.startswith("Keep the model, shorten the prompt, or accept the price")
        *_, advice = self.lines(self.call())
        assert advice.startswith("Shorten the prompt, or accept the price")

    def test_of_several_prompts_is_added_up(self) -> None:
        lines = self.lines(self.call(), self.call(1_000))
        assert "2 prompts grew    5,528 -> 6,620 input tokens (+20 %), $0.0112 -> $0.0226" in lines

    def test_may_be_negative(self) -> None:
        assert any(line.startswith("the prompt shrank") for line in self.lines(self.call(10)))

    def test_a_request_of_which_max_tokens_alone_changed_is_no_changed_prompt(self) -> None:
        lines = self.lines(self.call(2_764, parts="max_tokens"))
        assert "request changed   2,764 -> 2,764 input tokens, $0.0056 -> $0.0113" in lines
        assert "changed           max_tokens (since it was recorded)" in lines

    def test_of_a_prompt_that_is_not_counted_yet_shows_what_was_recorded(self) -> None:
        stale = replace(STALE, before=Before(input_tokens=2_764, usd=Decimal("0.0056")))
        assert "recorded          2,764 input tokens, $0.0056" in self.lines(stale)
        several = [line for line in self.lines(*[stale] * 40) if line.startswith("recorded")]
        assert several == ["recorded          110,560 input tokens of 40 calls, $0.224"]


def test_a_call_is_described_with_all_that_one_pays_for() -> None:
    usage = Usage(
        input_tokens=10,
        cache_read_tokens=70,
        cache_write_1h_tokens=20,
        output_tokens=5,
        web_search_requests=2,
    )
    assert describe_call(make_call("0.0201", usage=usage, evidence="counted")) == (
        "claude-opus-4-7, 100 input (20 written to cache, 70 read from cache) + 5 output tokens + "
        "2 web search requests, $0.0201 (counted)"
    )
    assert describe_call(make_call(None)).endswith(", cost unknown")
    stated = make_call("0.50", evidence="declared", sampling_calls=(), model="unknown")
    assert describe_call(stated) == "an unknown model, tokens unknown, $0.50 (declared)"
    assert describe_call(STALE) == "claude-opus-4-7: not counted yet"
    assert describe_call(make_call(None, sampling_calls=())) == "claude-opus-4-7: cost unknown"


def test_a_test_that_fails_by_itself_gets_its_calls_and_its_budget() -> None:
    call = make_call("0.0298")
    assert render_section([call], None) == describe_call(call)
    section = render_section([call], judge("0.02", call, origin="tests/t.py:12"))
    assert section.endswith("$0.0298 is $0.0098 (49 %) over the $0.02 budget set at tests/t.py:12")


@pytest.mark.parametrize(
    ("spent", "kind", "advised"),
    [
        ("0.0113", "usd", '@max_cost("$0.012")'),
        ("0.0000001", "usd", '@max_cost("$0.0000001")'),
        ("12", "usd", '@max_cost("$12.00")'),
        ("5620", "input_tokens", "@max_cost(input_tokens=5_700)"),
        ("3", "calls", "@max_cost(calls=3)"),
    ],
)
def test_the_new_budget_is_round_and_kept(spent: str, kind: str, advised: str) -> None:
    calls = [make_call(spent if kind == "usd" else "1", usage=Usage(input_tokens=5620))]
    calls *= 3 if kind == "calls" else 1
    text = render_failure(judge("0", *calls, kind=kind), calls)
    assert text.endswith(f"new budget: {advised}")


def test_the_new_budget_has_a_limit_for_each_one_that_the_same_marker_broke() -> None:
    calls = [make_call("0.0113", usage=Usage(input_tokens=5620, output_tokens=90))] * 2
    here, there = {"origin": "tests/test_rag.py:12"}, {"origin": "tests/test_rag.py:3"}
    others = [
        judge("0.01", *calls, **here),
        judge("10", *calls, kind="output_tokens", **there),
        judge("90000", *calls, kind="input_tokens", **here),
    ]
    text = render_failure(judge("1", *calls, kind="calls", **here), calls, others)
    assert text.endswith('new budget: @max_cost("$0.023", calls=2)')


def test_the_new_budget_has_all_parts_that_are_too_large() -> None:
    call = make_call("0.0113")
    parts = {call.fingerprint or "": {"tools": 890, "system": 3_412}}
    broken = [
        judge_calls(make_budget("9", kind="parts", part=each), [call], parts=parts)
        for each in ("tools", "system")
    ]
    text = render_failure(broken[0], [call], broken[1:], parts)
    assert text.endswith('@max_cost(parts={"tools": 890, "system": 3_500})')


# An endpoint of Foundry's may cost a tenth more; a cut stream without max_tokens has no bound.
@pytest.mark.parametrize(
    ("high", "advice"),
    [
        ("0.0066", 'accept the price with a new budget: @max_cost("$0.0066")'),
        (None, "raise the budget if the price is right."),
    ],
)
def test_the_new_budget_is_one_that_the_most_it_may_have_cost_keeps(
    high: str | None, advice: str
) -> None:
    call = make_call("0.006", usd_high=None if high is None else Decimal(high))
    assert render_failure(judge("0.005", call), [call]).endswith(f", or {advice}")


@given(amount=st.integers(1, 10**12), limit=st.integers(0, 10**12))
def test_a_sentence_never_shows_two_equal_amounts_for_a_breach(amount: int, limit: int) -> None:
    spent, most = Decimal(amount).scaleb(-12), Decimal(limit).scaleb(-12)
    verdict = judge(str(most), make_call(str(spent)), origin="")
    shown, sign, against = short_sentence(verdict).split()[:3]
    left, right = (Decimal(each.strip("$").replace(",", "")) for each in (shown, against))
    assert (left > right) is (sign == ">") is (verdict.state == "exceeded")
    assert sentence(verdict).startswith(shown)


class TestNumbers:
    @pytest.mark.parametrize(
        ("now", "then", "shown"),
        [
            (100, 131, "+31 %"),
            (100, 50, "-50 %"),
            (100, 100, "="),
            (1_000, 1_004, "+0.4 %"),
            (100_000, 100_001, "+under 0.1 %"),
            (100_000, 99_999, "-under 0.1 %"),
            (1, 21, "+2,000 %"),
            (0, 5, ""),
            (0, 0, "="),
            (None, 5, ""),
            (5, None, ""),
        ],
    )
    def test_growth(self, now: int | None, then: int | None, shown: str) -> None:
        assert growth(now, then) == shown

    @given(st.integers(1, 10**9), st.integers(0, 10**9))
    def test_growth_shows_its_sign_and_equal_only_when_it_is(self, now: int, then: int) -> None:
        shown = growth(now, then)
        assert (shown == "=") is (now == then)
        assert shown.startswith("+") is (then > now)
        assert shown.startswith("-") is (then < now)

    @pytest.mark.parametrize(
        ("usd", "shown"),
        [(None, "?"), ("0", "±$0.00"), ("-0.00001", "-$0.00001"), ("2", "+$2.00")],
    )
    def test_differences_have_a_sign(self, usd: str | None, shown: str) -> None:
        assert signed(None if usd is None else Decimal(usd)) == shown

    def test_each_number_has_its_form(self) -> None:
        assert dollars(Decimal("0.5"), is_least=True) == "at least $0.50"
        assert percent(Decimal("0.0013"), Decimal("0.01")) == "13 %"
        assert growth(1_000, 1_310) == "+31 %"
        assert write_round_usd(Decimal("1234.5")) == "$1300.00"
        assert [format_count(each, "call") for each in (1, 2000)] == ["1 call", "2,000 calls"]
        assert first_of(["a", "b", "c", "d"], 2) == "a, b and 2 more"

    def test_percentages_never_show_zero(self) -> None:
        for part in range(1, 100):  # the half that rounds to zero among them
            assert not re.match("0(\\.0)? %", percent(Decimal(part), Decimal(20_000)))
        assert percent(Decimal("0.00001"), Decimal(1)) == "under 0.1 %"
        assert percent(Decimal(0), Decimal(1)) == "0 %"


def a_dollar(output_usd: str) -> Call:
    parts = ByCategory(input_usd=1 - Decimal(output_usd), output_usd=Decimal(output_usd))
    sampling = PricedSamplingCall(model="claude-opus-4-7", usage=Usage(), usd=Decimal(1))
    return make_call("1", sampling_calls=(replace(sampling, by_category=parts),))


@pytest.mark.parametrize(("output_usd", "advice"), [("0.6", "reply"), ("0.4", "prompt")])
def test_it_advises_to_shorten_what_costs_most(output_usd: str, advice: str) -> None:
    call = a_dollar(output_usd)
    text = render_failure(judge("0.5", call), [call])
    assert text.splitlines()[-1].startswith(f"Shorten the {advice}, or accept the price")


def test_of_a_call_that_is_too_large_it_advises_to_shorten_that_one() -> None:
    largest = replace(
        a_dollar("0.4"), **dict.fromkeys(("usd", "usd_low", "usd_high"), Decimal("1.1"))
    )
    calls = [a_dollar("0.9"), largest, a_dollar("0.9")]
    verdict = judge_calls(make_budget("0.5", kind="call_usd"), calls)
    assert "Shorten the prompt, or" in render_failure(verdict, calls)


@pytest.mark.parametrize(
    ("low", "high", "limit", "bounds"),
    [
        ("0.00080001", "0.00080004", "0.5", "between $0.00080001 and $0.00080004"),
        ("0.0008", "0.0009", "0.5", "between $0.0008 and $0.0009"),
    ],
)
def test_two_bounds_that_differ_are_shown_to_differ(
    low: str, high: str, limit: str, bounds: str
) -> None:
    verdict = replace(
        judge(limit, make_call(low)), state="unverified", low=Decimal(low), high=Decimal(high)
    )
    assert f"the cost is {bounds}" in sentence(verdict)

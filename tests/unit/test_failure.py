from __future__ import annotations

from decimal import Decimal

import pytest
from hostile_report import judge
from hypothesis import given
from hypothesis import strategies as st
from sample_reports import make_call

from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reports.wording import (
    render_call,
    render_failure,
    render_headline,
    render_section,
)


def test_a_breach_says_the_numbers_the_place_the_largest_call_and_what_to_do() -> None:
    small = make_call("0.0014")
    large = make_call("0.0298", usage=Usage(input_tokens=8_120, output_tokens=412))
    verdict = judge("0.02", small, large, origin="tests/t.py:12", reason="triage is cheap")
    assert render_failure(verdict, [small, large]).splitlines() == [
        "cost $0.0312 > $0.02 max_cost",
        "ceiling set at tests/t.py:12 (triage is cheap)",
        "largest call (of 2): claude-opus-4-7, 8,120 in + 412 out = $0.0298",
        "Shorten the prompt, or raise the ceiling if the price is right.",
    ]


def test_the_headline_fits_a_short_summary() -> None:
    assert len(render_headline(judge("0.02", make_call("0.0312")))) < 40


@pytest.mark.parametrize(
    ("kind", "limit", "headline"),
    [
        ("calls", "1", "calls 2 > 1 max_cost"),
        ("input_tokens", "8000", "input tokens 16,240 > 8,000 max_cost"),
        ("output_tokens", "500", "output tokens 824 > 500 max_cost"),
    ],
)
def test_quantities_have_their_own_words(kind: str, limit: str, headline: str) -> None:
    call = make_call("0.01", usage=Usage(input_tokens=8_120, output_tokens=412))
    assert render_headline(judge(limit, call, call, kind=kind)) == headline


def test_what_is_only_known_in_part_says_so() -> None:
    stale = make_call(None, evidence="stale", caveats=sorted_caveats(("stale: system",)))
    over = judge("0.02", make_call("0.03"), stale)
    assert render_headline(over) == "cost at least $0.03 > $0.02 max_cost"
    unsure = judge("0.05", make_call("0.03"), stale)
    assert render_headline(unsure) == (
        "cost unverified against $0.05 max_cost: at least $0.03, the rest unknown"
    )
    text = render_failure(unsure, [stale])
    assert "the prompt changed since its reply was recorded (system)" in text
    assert "--llmcost-record-mode=new_episodes" in text


def test_a_test_that_made_no_call_is_told_how_to_make_one_seen() -> None:
    text = render_failure(judge("0.05"), [])
    assert "no call was seen" in text
    assert "llmcost.count(...)" in text


def test_what_changed_since_the_reply_was_recorded_is_named() -> None:
    call = make_call(
        "0.3", evidence="recounted", caveats=sorted_caveats(("changed-prompt: system, tools.find",))
    )
    text = render_failure(judge("0.1", call), [call])
    assert "changed since the reply was recorded: system, tools.find" in text.splitlines()


def test_a_call_is_described_with_all_that_one_pays_for() -> None:
    usage = Usage(input_tokens=10, cache_read_tokens=90, output_tokens=5, web_search_requests=2)
    assert render_call(make_call("0.0201", usage=usage, evidence="counted")) == (
        "claude-opus-4-7, 100 in (90 cached) + 5 out + 2 searches = $0.0201 (counted)"
    )
    assert render_call(make_call(None)).endswith("= no price")


def test_a_test_that_fails_by_itself_gets_its_calls_and_its_ceiling() -> None:
    call = make_call("0.0298")
    assert render_section([call], None) == render_call(call)
    section = render_section([call], judge("0.02", call, origin="tests/t.py:12"))
    assert section.endswith("exceeded: cost $0.0298 > $0.02 max_cost (tests/t.py:12)")


@given(amount=st.integers(1, 10**12), limit=st.integers(0, 10**12))
def test_a_headline_never_shows_two_equal_amounts_for_a_breach(amount: int, limit: int) -> None:
    spent, ceiling = Decimal(amount).scaleb(-12), Decimal(limit).scaleb(-12)
    verdict = judge(str(ceiling), make_call(str(spent)))
    shown, sign, against = render_headline(verdict).split()[1:4]
    left, right = (Decimal(each.strip("$").replace(",", "")) for each in (shown, against))
    assert (left > right) is (sign == ">") is (verdict.state == "exceeded")

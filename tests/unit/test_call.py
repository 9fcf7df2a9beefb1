"""A call's price, bounds and caveats."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_llmcost.call import Call, PricedSamplingCall, reprice
from pytest_llmcost.prices.caveats import decode_caveat, encode_caveat, sorted_caveats
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Terms, Usage

ON = date(2026, 11, 22)
CARD = shipped_card()


def sampling(
    model: str = "claude-opus-5-5", tokens: int = 1_000_000, **more: Any
) -> PricedSamplingCall:
    return PricedSamplingCall(model=model, usage=Usage(input_tokens=tokens), **more)


def call(*sampling_calls: PricedSamplingCall, **more: Any) -> Call:
    stated = {
        "model": sampling_calls[0].model if sampling_calls else "claude-opus-5-5",
        "evidence": "billed",
    }
    return Call(**(stated | more), sampling_calls=sampling_calls)


def bounds(one: Call) -> tuple[Decimal, Decimal | None, Decimal | None]:
    return one.usd_low, one.usd, one.usd_high


def test_a_call_and_its_sampling_calls_get_their_price() -> None:
    priced = reprice(call(sampling(), sampling("claude-opus-5", kind="advisor")), CARD, on=ON)
    assert [each.usd for each in priced.sampling_calls] == [Decimal(4), Decimal(5)]
    assert bounds(priced) == (Decimal(9), Decimal(9), Decimal(9))
    assert priced.caveats == ()


def test_names_become_exact_ids() -> None:
    priced = reprice(call(sampling("claude-opus-4-5")), CARD, on=ON)
    assert priced.model == priced.sampling_calls[0].model == "claude-opus-4-5-20251101"


def test_a_call_without_any_usage_has_an_exact_id_too() -> None:
    """Lists of allowed models hold exact ids, also for a payload that could not be counted."""
    uncounted = call(model="claude-opus-4-5", caveats=sorted_caveats(["uncounted"]))
    assert reprice(uncounted, CARD, on=ON).model == "claude-opus-4-5-20251101"


def test_an_unknown_model_is_unknown_and_never_free() -> None:
    priced = reprice(call(sampling("acme/large")), CARD, on=ON)
    assert bounds(priced) == (Decimal(0), None, None)
    assert priced.sampling_calls[0].usd is None
    (caveat,) = priced.caveats
    assert caveat.startswith("unknown-model: no price for model 'acme/large'")
    assert "--llmcost-prices" in caveat


def test_the_known_sampling_calls_of_an_unknown_price_are_its_low_bound() -> None:
    priced = reprice(call(sampling(), sampling("acme/advisor", kind="advisor")), CARD, on=ON)
    assert bounds(priced) == (Decimal(4), None, None)
    assert [each.usd for each in priced.sampling_calls] == [Decimal(4), None]


def test_before_its_first_day_a_model_is_unknown_and_says_since_when() -> None:
    priced = reprice(call(sampling()), CARD, on=date(2026, 9, 21))
    assert priced.usd is None
    assert "its first rates are from 2026-09-22" in priced.caveats[0]


def test_an_unknown_model_that_a_price_file_adds_is_priced_anew(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('[models.claude-opus-5-5]\naliases = ["acme/large"]')
    unknown = reprice(call(sampling("acme/large")), CARD, on=ON)
    priced = reprice(unknown, CARD.with_overrides(path), on=ON)
    assert bounds(priced) == (Decimal(4), Decimal(4), Decimal(4))
    assert priced.caveats == ()
    assert priced.model == "claude-opus-5-5"


@pytest.mark.parametrize(
    ("caveat", "low", "high"),
    [
        ("left-out: tools.web_search", "4", None),
        ("stale: system", "0", None),
        ("invented-later", "0", None),
        ("input-only", "4", "4"),
        ("truncated-stream", "4", None),
        ("lost-answer: ReadTimeout", "4", None),
    ],
)
def test_a_caveat_of_the_reading_opens_the_bounds_in_its_direction(
    caveat: str, low: str, high: str | None
) -> None:
    priced = reprice(call(sampling(), caveats=sorted_caveats([caveat])), CARD, on=ON)
    assert priced.usd == 4
    assert priced.usd_low == Decimal(low)
    assert priced.usd_high == (None if high is None else Decimal(high))
    assert priced.caveats == (caveat,)


def test_a_cut_stream_with_a_known_limit_stays_bounded() -> None:
    bounded = sampling("claude-opus-5-5", 1_000, most_output_tokens=1_000)
    priced = reprice(call(bounded, caveats=sorted_caveats(("truncated-stream",))), CARD, on=ON)
    assert bounds(priced) == (Decimal("0.004"), Decimal("0.004"), Decimal("0.024"))
    other = reprice(
        call(bounded, caveats=sorted_caveats(("left-out", "truncated-stream"))), CARD, on=ON
    )
    assert other.usd_high is None


def test_a_cut_stream_stays_bounded_beside_an_advisor_that_was_read_whole() -> None:
    bounded = sampling("claude-opus-5-5", 1_000, most_output_tokens=1_000)
    advisor = sampling("claude-opus-5-5", 1_000, kind="advisor")
    both = call(bounded, advisor, caveats=sorted_caveats(("truncated-stream",)))
    assert reprice(both, CARD, on=ON).usd_high == Decimal("0.028")


@pytest.mark.parametrize(
    ("models", "high"),
    [
        (["claude-opus-5-5"], Decimal("0.028")),
        (["claude-opus-5-5", "claude-opus-5-5"], None),  # which of them an attempt came to
        (["gpt-x"], None),
    ],
)
def test_lost_attempts_are_bounded_by_the_one_pass_of_the_answer(
    models: list[str], high: Decimal | None
) -> None:
    lost = {"lost_attempts": 1, "max_tokens": 1_000, "caveats": sorted_caveats(["lost-answer: x"])}
    one = call(*(sampling(model, 1_000) for model in models), **lost)
    assert reprice(one, CARD, on=ON).usd_high == high


@pytest.mark.parametrize(
    ("evidence", "passes", "caveat", "is_uncounted"),
    [
        ("counted", 0, "count-failed", True),
        ("counted", 0, "input-only", False),
        ("counted", 1, "count-failed", False),
        ("billed", 0, "count-failed", False),
    ],
)
def test_only_a_count_that_failed_stands_for_no_call(
    evidence: str, passes: int, caveat: str, is_uncounted: bool
) -> None:
    one = call(*[sampling()] * passes, evidence=evidence, caveats=sorted_caveats([caveat]))
    assert one.is_uncounted is is_uncounted


def test_caveats_of_reading_and_pricing_stand_together_sorted() -> None:
    old = call(sampling("claude-opus-4-1"), caveats=sorted_caveats(("stale: x", "input-only")))
    priced = reprice(old, CARD, on=ON)
    assert priced.caveats == (
        "input-only",
        "retired-model: claude-opus-4-1-20250805 on 2026-08-05",
        "stale: x",
    )
    earlier = reprice(priced, CARD, on=date(2026, 8, 4))
    assert earlier.caveats == ("input-only", "stale: x")


@pytest.mark.parametrize(
    ("model", "platform", "usd"),
    [
        ("us.anthropic.claude-opus-5-5", "bedrock-regional", "4.4"),
        ("us-gov.anthropic.claude-opus-5-5", "bedrock-gov", "4.8"),
        ("global.anthropic.claude-opus-5-5", "bedrock", "4"),
        ("claude-opus-5-5", None, "4"),
    ],
)
def test_a_clouds_spelling_tells_of_the_endpoint_and_is_remembered(
    model: str, platform: str | None, usd: str
) -> None:
    priced = reprice(call(sampling(model)), CARD, on=ON)
    assert (priced.usd, priced.context.platform) == (Decimal(usd), platform)
    assert reprice(priced, CARD, on=ON) == priced


def test_an_endpoint_that_was_seen_goes_before_a_spelling() -> None:
    seen = call(sampling("us.anthropic.claude-opus-5-5"), context=Terms(platform="foundry"))
    assert reprice(seen, CARD, on=ON).usd == 4


@pytest.mark.parametrize(
    ("platform", "known_as", "high"),
    [
        ("vertex", "vertex-unknown", "4.4"),
        ("bedrock", "bedrock-unknown", "4.4"),
        ("vertex-regional", "vertex-regional", "4.4"),
        ("foundry", "foundry", "4"),
    ],
)
def test_an_endpoint_that_the_url_leaves_open_is_unknown(
    platform: str, known_as: str, high: str
) -> None:
    context = Terms(platform=platform)  # type: ignore[arg-type]
    caveats = sorted_caveats(["unknown-endpoint: the URL names no location"])
    priced = reprice(call(sampling(), context=context, caveats=caveats), CARD, on=ON)
    assert priced.context.platform == known_as
    assert priced.usd_high == Decimal(high)
    assert bool(priced.caveats) == known_as.endswith("-unknown")


def test_a_declared_price_is_the_price_of_a_call_without_sampling_calls() -> None:
    declared = call(declared_usd=Decimal("0.03"), caveats=sorted_caveats(("declared-price",)))
    priced = reprice(declared, CARD, on=ON)
    assert bounds(priced) == (Decimal("0.03"), Decimal("0.03"), Decimal("0.03"))
    assert priced.caveats == ("declared-price",)


def test_a_call_that_nothing_is_known_of_has_no_price() -> None:
    lost = reprice(call(caveats=sorted_caveats(("lost-answer",))), CARD, on=ON)
    assert bounds(lost) == (Decimal(0), None, None)


@pytest.mark.parametrize(
    ("cache_state", "usd"), [("as-billed", "0.2"), ("cold", "5"), ("warm", "0.2")]
)
def test_a_call_is_priced_in_the_cache_state_that_is_asked_for(cache_state: Any, usd: str) -> None:
    reads = PricedSamplingCall(model="claude-opus-5-5", usage=Usage(cache_read_tokens=1_000_000))
    priced = reprice(call(reads), CARD, on=ON, cache_state=cache_state)
    assert priced.usd == Decimal(usd)
    assert priced.sampling_calls[0].usage == reads.usage
    assert reprice(priced, CARD, on=ON).usd == Decimal("0.2")


def test_billed_usage_leaves_out_what_is_free() -> None:
    one = call(sampling(tokens=7), sampling(tokens=5, kind="declined", refusal="cyber"))
    assert reprice(one, CARD, on=ON).billed_usage == Usage(input_tokens=7)
    assert reprice(one, CARD, on=date(2026, 10, 1)).billed_usage == Usage(input_tokens=7)
    unknown = call(sampling("acme", tokens=5, refusal="cyber"))
    assert reprice(unknown, CARD, on=ON).billed_usage == Usage(input_tokens=5)


def test_a_priced_call_survives_json() -> None:
    priced = reprice(call(sampling(), sampling("acme", kind="advisor")), CARD, on=ON)
    text = msgspec.json.encode(priced, enc_hook=encode_caveat)
    assert msgspec.json.decode(text, type=Call, dec_hook=decode_caveat) == priced

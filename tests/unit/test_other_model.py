"""A run's calls on another model, from counts of the same prompts."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sample_reports import OUTSIDE, a_fixture, a_test, make_report

from pytest_llmcost.call import Call, PricedSamplingCall, reprice
from pytest_llmcost.compare.repriced import (
    NO_PAYLOAD,
    NO_PRICE_NOW,
    SEVERAL_PASSES,
    on_other_model,
    scale_prompt,
)
from pytest_llmcost.ledger.ledger import (
    Ledger,
    OtherModel,
    OtherModelRow,
    PayloadFacts,
)
from pytest_llmcost.ledger.ledger_file import parse_ledger, render_json
from pytest_llmcost.ledger.shards import merge_ledgers, merge_other_models
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Terms, Usage

NOV = date(2026, 11, 22)
OLD, NEW = "claude-opus-4-6", "claude-opus-4-7"
TEST = a_test("t.py::test")


def priced(usage: Usage, *, model: str = OLD, **fields: Any) -> Call:
    sampling = PricedSamplingCall(model=model, usage=usage, **fields.pop("sampling", {}))
    call = Call(**{
        "model": model, "fingerprint": "1:a", "evidence": "billed", "usage": usage,
        "sampling_calls": (sampling,), **fields,
    })  # fmt: skip
    return reprice(call, shipped_card(), on=NOV)


def known(model: str = OLD, **fields: Any) -> PayloadFacts:
    return PayloadFacts(model=model, **fields)


def switched(
    *calls: Call, to: str = NEW, payloads: dict[str, PayloadFacts] | None = None, **fields: Any
) -> OtherModel:
    report = make_report({TEST: calls}, payloads=payloads or {}, **fields)
    return on_other_model(report, to, shipped_card(), on=NOV)


COUNTED = {"1:a": known(counts={NEW: 1_300})}


def test_the_new_count_is_priced_at_the_new_rates_with_the_output_as_it_was() -> None:
    call = priced(Usage(input_tokens=1_000, output_tokens=200))
    other = switched(call, to="claude-haiku-5-5", payloads={
        "1:a": known(counts={"claude-haiku-5-5": 1_300})
    })  # fmt: skip
    assert (other.input_tokens, other.input_tokens_then) == (1_000, 1_300)
    assert other.usd == Decimal("0.01")  # 1,000 x $5 + 200 x $25 per million
    assert other.usd_then == Decimal("0.00023")  # 1,300 x $0.10 + 200 x $0.50
    assert (other.calls, other.unknown_calls, other.missing) == (1, 0, 0)
    assert [row.name for row in other.rows] == ["t.py::test"]


def test_cached_shares_are_kept() -> None:
    usage = Usage(input_tokens=1_000, cache_read_tokens=9_000, output_tokens=10)
    other = switched(priced(usage), payloads={"1:a": known(counts={NEW: 13_000})})
    # 1,300 x $5 + 11,700 x $0.50 + 10 x $25
    assert other.usd_then == Decimal("0.0126")


def test_a_prefix_too_short_for_the_other_model_is_priced_uncached_and_said_so() -> None:
    usage = Usage(input_tokens=500, cache_read_tokens=1_000)
    call = priced(usage, model="claude-opus-4-8")
    other = switched(call, payloads={"1:a": known("claude-opus-4-8", counts={NEW: 1_500})})
    assert other.usd_then == Decimal("0.0075")
    assert any("caches no prefix shorter than 2,048" in note for note in other.notes)


def test_another_tokenizer_is_said_and_the_same_one_is_not() -> None:
    call = priced(Usage(input_tokens=1_000))
    assert any("another tokenizer" in note for note in switched(call, payloads=COUNTED).notes)
    same = priced(Usage(input_tokens=1_000), model="claude-opus-4-8")
    assert not switched(same, payloads={"1:a": known("claude-opus-4-8", counts={NEW: 1})}).notes


def test_a_call_of_that_model_stays_as_it_is_and_needs_no_count() -> None:
    call = priced(Usage(input_tokens=1_000), model=NEW)
    other = switched(call, payloads={"1:a": known(NEW)})
    assert other.usd == other.usd_then == Decimal("0.005")
    assert other.missing == 0


def test_what_is_not_counted_is_unknown_and_never_free() -> None:
    calls = [priced(Usage(input_tokens=10)), priced(Usage(input_tokens=10), fingerprint="1:b")]
    other = switched(*calls, payloads={**COUNTED, "1:b": known()})
    assert (other.calls, other.unknown_calls, other.missing) == (1, 1, 1)
    assert other.usd == Decimal("0.00005"), "of the compared call alone"
    alone = switched(calls[1], payloads={"1:b": known()})
    assert (alone.usd, alone.usd_then) == (None, None)
    assert (alone.input_tokens, alone.input_tokens_then) == (None, None)
    assert alone.rows[0].reasons == (f"its prompt is not counted for {NEW}",)


def test_what_the_model_rejects_is_named_instead_of_priced() -> None:
    call = priced(Usage(input_tokens=10))
    other = switched(call, call, payloads={"1:a": known(rejected={NEW: 'thinking "enabled"'})})
    assert other.usd_then is None
    assert other.rejected == {'thinking "enabled"': 1}, "payloads, not calls"
    assert other.rows[0].reasons == (f'{NEW} rejects thinking "enabled"',)
    assert other.missing == 0


def test_a_rejected_setting_without_tokens_is_named_and_the_rest_priced() -> None:
    call = priced(Usage(input_tokens=1_000))
    payload = known(counts={NEW: 1_300}, dropped={NEW: "temperature"})
    other = switched(call, payloads={"1:a": payload})
    assert other.dropped == {"temperature": 1}
    assert other.usd_then == Decimal("0.0065")


def test_a_place_of_inference_that_would_be_dropped_costs_nothing_there() -> None:
    haiku = "claude-haiku-4-5-20251001"
    call = priced(Usage(input_tokens=1_000), context=Terms(inference_geo="us"))
    payload = known(counts={haiku: 1_000}, dropped={haiku: "inference_geo"})
    assert call.usd == Decimal("0.0055")
    assert switched(call, to=haiku, payloads={"1:a": payload}).usd_then == Decimal("0.001")


USAGE = Usage(input_tokens=10)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (priced(USAGE, fingerprint=None), NO_PAYLOAD),
        (priced(USAGE, fingerprint="1:never-seen"), NO_PAYLOAD),
        (priced(USAGE, sampling={"sums_calls": True}), SEVERAL_PASSES),
        (priced(USAGE, sampling={"kind": "compaction"}), SEVERAL_PASSES),
        (
            priced(USAGE, sampling_calls=(PricedSamplingCall(model=OLD, usage=USAGE),) * 2),
            SEVERAL_PASSES,
        ),
        (priced(Usage(web_search_requests=1)), SEVERAL_PASSES),
        (priced(USAGE, evidence="stale", sampling_calls=()), NO_PRICE_NOW),
        (priced(USAGE, model="claude-unheard-of"), NO_PRICE_NOW),
    ],
)
def test_what_cannot_be_moved_is_unknown_with_its_reason(call: Call, reason: str) -> None:
    other = switched(call, payloads=COUNTED)
    assert (other.calls, other.unknown_calls) == (0, 1)
    assert other.rows[0].reasons == (reason,)
    assert other.missing == 0, "a count would not help"


def test_a_model_without_a_price_on_that_day_is_a_reason() -> None:
    report = make_report({TEST: [priced(USAGE)]}, payloads={"1:a": known(counts={NEW: 9})})
    other = on_other_model(report, NEW, shipped_card(), on=date(2026, 4, 15))
    assert other.usd_then is None
    assert "first rates are from 2026-04-16" in other.rows[0].reasons[0]


def test_a_shared_fixture_counts_once_at_its_most_expensive_and_totals_agree_with_the_run() -> None:
    cheap, dear = priced(Usage(input_tokens=10)), priced(Usage(input_tokens=1_000))
    report = make_report(
        {
            a_fixture(worker="gw0"): [cheap],
            a_fixture(worker="gw1"): [dear],
            TEST: [dear],
            OUTSIDE: [cheap],
        },
        payloads=COUNTED,
    )
    other = on_other_model(report, NEW, shipped_card(), on=NOV)
    assert other.usd == report.totals.usd
    assert [row.kind for row in other.rows] == ["test", "fixture", "outside"]


def test_the_cache_state_of_the_run_is_the_cache_state_of_the_comparison() -> None:
    call = priced(Usage(cache_read_tokens=10_000))
    payloads = {"1:a": known(counts={NEW: 10_000})}
    assert switched(call, payloads=payloads).usd_then == Decimal("0.005")
    assert switched(call, payloads=payloads, cache_state="cold").usd_then == Decimal("0.0625")


tokens = st.integers(0, 10**7)


@given(tokens, tokens, tokens, tokens, tokens)
def test_scaling_keeps_the_sum_exact_and_every_share_within_one_token(
    plain: int, short: int, long: int, read: int, prompt: int
) -> None:
    usage = Usage(
        input_tokens=plain,
        cache_write_5m_tokens=short,
        cache_write_1h_tokens=long,
        cache_read_tokens=read,
        output_tokens=7,
    )
    scaled = scale_prompt(usage, prompt)
    assert scaled.prompt_tokens == prompt
    assert scaled.output_tokens == 7
    for kind in ("cache_write_5m_tokens", "cache_write_1h_tokens", "cache_read_tokens"):
        if usage.prompt_tokens:
            exact = getattr(usage, kind) * prompt / usage.prompt_tokens
            assert abs(getattr(scaled, kind) - exact) <= 1
        else:
            assert getattr(scaled, kind) == 0


def test_the_same_length_changes_nothing() -> None:
    usage = Usage(input_tokens=3, cache_write_1h_tokens=5, cache_read_tokens=7)
    assert scale_prompt(usage, 15) == usage


class TestInFiles:
    def report(self, *calls: Call, nodeid: str = "t.py::test") -> Ledger:
        report = make_report({a_test(nodeid): calls}, payloads=COUNTED)
        return replace(report, other_models=(on_other_model(report, NEW, shipped_card(), on=NOV),))

    def test_it_comes_back_as_it_was(self) -> None:
        report = self.report(priced(USAGE), priced(USAGE, fingerprint=None))
        assert parse_ledger(render_json(report), "x") == report

    def test_shards_add_up_to_what_one_run_would_have_found(self) -> None:
        one, two = self.report(priced(USAGE)), self.report(priced(USAGE), nodeid="t.py::other")
        merged = merge_ledgers([("1", one), ("2", two)])
        (other,) = merged.other_models
        assert other == on_other_model(merged, NEW, shipped_card(), on=NOV)

    def test_a_shard_that_did_not_ask_is_said(self) -> None:
        plain = make_report({a_test("t.py::other"): [priced(USAGE)]})
        (other,) = merge_ledgers([("1", self.report(priced(USAGE))), ("2", plain)]).other_models
        assert f"1 of 2 shards did not ask for {NEW}" in other.notes

    def test_fixtures_of_several_shards_count_once_at_their_most_expensive(self) -> None:
        def shard(nodeid: str, tokens: int) -> Ledger:
            call = priced(Usage(input_tokens=tokens))
            report = make_report(
                {a_test(nodeid): [], a_fixture(): [call], OUTSIDE: [call]}, payloads=COUNTED
            )
            return replace(
                report, other_models=(on_other_model(report, NEW, shipped_card(), on=NOV),)
            )

        merged = merge_ledgers([("1", shard("a", 10)), ("2", shard("b", 1_000))])
        (other,) = merged.other_models
        assert other.usd == merged.totals.usd
        assert [row.kind for row in other.rows] == ["fixture", "outside"]

    def test_rows_without_a_figure_have_none_in_the_file(self) -> None:
        data = render_json(self.report(priced(USAGE, fingerprint=None))).decode()
        assert '"usd_then": null' in data


def test_a_row_is_unknown_until_told_otherwise() -> None:
    row = OtherModelRow(name="x")
    assert row.usd_then is None


def test_a_count_of_less_than_the_prompt_prices_no_reply_that_was_billed_in_full() -> None:
    call = priced(Usage(input_tokens=1_000))
    payload = known(counts={NEW: 900}, left_out={NEW: "tools.web_search"})
    other = switched(call, payloads={"1:a": payload})
    assert other.rows[0].reasons == ("its prompt is counted without tools.web_search",)
    assert other.usd_then is None


def test_a_fixture_and_the_one_that_it_overrides_both_count_in_every_shard() -> None:
    call = priced(Usage(input_tokens=1_000))
    node = "tests/test_a.py"
    other = on_other_model(
        make_report(
            {
                a_fixture(scope="module", node=node, baseid=base): [call]
                for base in ("tests", "tests/test_a.py")
            },
            payloads=COUNTED,
        ),
        NEW,
        shipped_card(),
        on=NOV,
    )
    (merged,) = merge_other_models([[other], [other]])
    assert (merged.calls, merged.usd) == (other.calls, other.usd) == (2, Decimal("0.01"))


def test_what_shards_reject_adds_up() -> None:
    call = priced(Usage(input_tokens=10))
    payload = known(rejected={NEW: "prefill"})
    other = switched(call, payloads={"1:a": payload})
    (merged,) = merge_other_models([[other], [other]])
    assert merged.rejected == {"prefill": 2}
    assert merged.unknown_calls == 2

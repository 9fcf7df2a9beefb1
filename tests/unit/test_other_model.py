"""A run's calls on another model, from counts of the same prompts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sample_reports import OUTSIDE, a_fixture, a_test
from sample_reports import make_report as make_any_report

from pytest_llmcost.call import Call, PricedSamplingCall, reprice
from pytest_llmcost.cli.main import main
from pytest_llmcost.compare.other_model import (
    NO_PAYLOAD,
    NO_PRICE_NOW,
    SEVERAL_PASSES,
    scale_prompt,
    with_other_models,
)
from pytest_llmcost.ledger.ledger import (
    CardId,
    Ledger,
    OtherModel,
    OtherModelRow,
    PayloadFacts,
    parse_ledger,
    read_ledger,
    render_json,
    write_ledger,
)
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import Terms, Usage

NOV = date(2026, 11, 22)
OLD, NEW = "claude-opus-4-6", "claude-opus-4-7"
TEST = a_test("t.py::test")
CARD = CardId(version=shipped_card().version, sha256=shipped_card().sha256)


def make_report(spent: Mapping[Any, Any], **fields: Any) -> Ledger:
    return make_any_report(spent, **{"rate_card": CARD, **fields})


def on_other_model(report: Ledger, to: str = NEW) -> OtherModel:
    (other,) = with_other_models(report, [to], shipped_card()).other_models
    return other


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
    return on_other_model(report, to)


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
    payloads = {"1:a": known(counts={NEW: 9})}
    other = switched(priced(USAGE), payloads=payloads, price_date="2026-04-15")
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
    other = on_other_model(report)
    assert other.usd == report.totals.usd
    assert [row.kind for row in other.rows] == ["test", "fixture", "outside"]


def test_the_cache_state_of_the_run_is_the_cache_state_of_the_comparison() -> None:
    call = priced(Usage(cache_read_tokens=10_000))
    payloads = {"1:a": known(counts={NEW: 10_000})}
    assert switched(call, payloads=payloads).usd_then == Decimal("0.005")
    assert switched(call, payloads=payloads, cache_state="cold").usd_then == Decimal("0.0625")


def test_a_warm_cache_holds_the_same_share_of_the_prompt() -> None:
    call = priced(Usage(cache_write_5m_tokens=10_000), sampling={"most_read_tokens": 5_000})
    payloads = {"1:a": known(counts={NEW: 13_000})}
    then = switched(call, payloads=payloads, cache_state="warm").usd_then
    assert then == Decimal("0.043875")  # 6,500 x $6.25 + 6,500 x $0.50 per million


def test_why_the_price_there_is_not_exact_is_said() -> None:
    call = priced(Usage(input_tokens=1_000), context=Terms(inference_geo="us"))
    to = "claude-haiku-4-5-20251001"
    other = switched(call, to=to, payloads={"1:a": known(counts={to: 1_000})})
    assert [note for note in other.notes if "geography" in note] == ["unknown-geography: us"]


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


def asked(spent: Mapping[Any, Any], **fields: Any) -> Ledger:
    report = make_report(spent, **{"payloads": COUNTED, **fields})
    return with_other_models(report, [NEW], shipped_card())


class TestInFiles:
    def test_it_comes_back_as_it_was(self) -> None:
        report = asked({TEST: [priced(USAGE), priced(USAGE, fingerprint=None)]})
        assert parse_ledger(render_json(report), "x") == report

    def test_rows_without_a_figure_have_none_in_the_file(self) -> None:
        data = render_json(asked({TEST: [priced(USAGE, fingerprint=None)]})).decode()
        assert '"usd_then": null' in data


class TestShards:
    def merged(self, folder: Path, *shards: Ledger) -> tuple[Ledger, OtherModel]:
        paths = [str(folder / f"{number}.json") for number in range(len(shards) + 1)]
        for shard, path in zip(shards, paths[1:], strict=True):
            write_ledger(shard, path)
        assert main(["merge", *paths[1:], "-o", paths[0]]) == 0
        merged = read_ledger(paths[0])
        (other,) = merged.other_models
        return merged, other

    def test_add_up_to_what_one_run_would_have_found(self, tmp_path: Path) -> None:
        spent = {a_test(f"t.py::{name}"): [priced(USAGE)] for name in ("one", "other")}
        shards = [asked({test: calls}) for test, calls in spent.items()]
        merged, other = self.merged(tmp_path, *shards)
        assert other == on_other_model(merged) == on_other_model(asked(spent))

    def test_that_did_not_ask_have_no_counts(self, tmp_path: Path) -> None:
        plain = make_report({a_test("t.py::other"): [priced(USAGE, fingerprint="1:b")]},
                            payloads={"1:b": known()})  # fmt: skip
        _, other = self.merged(tmp_path, asked({TEST: [priced(USAGE)]}), plain)
        assert (other.calls, other.unknown_calls, other.missing) == (1, 1, 1)

    def test_set_up_a_fixture_that_counts_once_at_its_most_expensive(self, tmp_path: Path) -> None:
        shards = []
        for tokens in (10, 1_000):
            call = priced(Usage(input_tokens=tokens))
            spent = {a_fixture(worker=str(tokens)): [call], OUTSIDE: [call]}
            shards.append(asked(spent))
        merged, other = self.merged(tmp_path, *shards)
        assert other.usd == merged.totals.usd
        assert [row.kind for row in other.rows] == ["fixture", "outside"]

    def test_set_up_a_fixture_and_the_one_that_it_overrides(self, tmp_path: Path) -> None:
        call, node = priced(Usage(input_tokens=1_000)), "tests/test_a.py"
        bases = ("tests", node)
        spent = {a_fixture(scope="module", node=node, baseid=base): [call] for base in bases}
        shard = asked(spent)
        _, other = self.merged(tmp_path, shard, shard)
        assert (other.calls, other.usd) == (2, Decimal("0.01"))

    def test_name_a_payload_once_that_several_of_them_sent(self, tmp_path: Path) -> None:
        call, payloads = priced(USAGE), {"1:a": known(rejected={NEW: "prefill"})}
        shards = [
            asked({a_test(f"t.py::{name}"): [call]}, payloads=payloads) for name in ("one", "other")
        ]
        _, other = self.merged(tmp_path, *shards)
        assert other.rejected == {"prefill": 1}
        assert other.unknown_calls == 2

    def test_on_a_model_without_a_price_here_say_so(self, tmp_path: Path) -> None:
        own = {"1:a": known(counts={"claude-own": 5})}
        shard = make_report({TEST: [priced(USAGE)]}, payloads=own)
        shard = replace(shard, other_models=(OtherModel(model="claude-own"),))
        _, other = self.merged(tmp_path, shard)
        assert (other.model, other.usd_then, other.unknown_calls) == ("claude-own", None, 1)
        assert "no price for model 'claude-own'" in other.rows[0].reasons[0]

    def test_priced_with_another_card_are_compared_at_the_prices_of_this_one(
        self, tmp_path: Path
    ) -> None:
        for version, hint in (("0", ""), ("0+own.toml", "; for those of own.toml, give --prices")):
            shard = asked({TEST: [priced(USAGE)]}, rate_card=CardId(version=version, sha256="0"))
            _, other = self.merged(tmp_path, shard)
            at = f"both sides are compared at the prices of {CARD.version}{hint}"
            assert f"the run was priced with the rate card {version}; {at}" in other.notes


def test_a_row_is_unknown_until_told_otherwise() -> None:
    row = OtherModelRow(name="x")
    assert row.usd_then is None


def test_a_count_of_less_than_the_prompt_prices_no_reply_that_was_billed_in_full() -> None:
    call = priced(Usage(input_tokens=1_000))
    payload = known(counts={NEW: 900}, left_out={NEW: "tools.web_search"})
    other = switched(call, payloads={"1:a": payload})
    assert other.rows[0].reasons == ("its prompt is counted without tools.web_search",)
    assert other.usd_then is None

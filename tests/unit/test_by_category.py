"""What a run costs by token category: the amounts add up to the total, to the digit."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sample_reports import OUTSIDE, a_fixture, a_test, make_report

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.call import Call, price, reprice
from pytest_llmcost.errors import LedgerError
from pytest_llmcost.ledger.builder import Owner
from pytest_llmcost.ledger.ledger import Ledger, ModelTotals, parse_ledger, render_json
from pytest_llmcost.ledger.shards import merge_ledgers
from pytest_llmcost.prices.bill import USD_OF, ByCategory
from pytest_llmcost.prices.price_file import RATE_KEYS, CardFile, RateRow
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import FEES, SamplingCall, Terms, Usage
from pytest_llmcost.responses.message import Answer

CARD, ON = shipped_card(), date(2026, 11, 22)
MILLION = 1_000_000

counts = dict.fromkeys(Usage.__struct_fields__, st.integers(0, 300_000))
usages = st.builds(Usage, **{**counts, "input_tokens": st.integers(1, 300_000)})
models = st.sampled_from(["claude-opus-5-5", "claude-haiku-5-5", "claude-sonnet-4-5", "gpt-x"])


@st.composite
def calls(draw: st.DrawFn) -> Call:
    """A priced call, one of a model without a price, or one whose price the test states."""
    sampling = st.builds(
        SamplingCall, model=models, usage=usages, refusal=st.sampled_from([None, None, "bio"])
    )
    samplings = tuple(draw(st.lists(sampling, min_size=1, max_size=3)))
    answer = Answer(
        model=samplings[0].model,
        sampling_calls=samplings,
        terms=Terms(service_tier=draw(st.sampled_from([None, "batch"])), inference_geo="us"),
        declared_usd=draw(st.none() | st.decimals("0", "9", places=7)),
    )
    tags = draw(st.sets(st.sampled_from(["judge", "slow"])))
    return price(answer, CARD, on=ON, tags=tuple(sorted(tags)))


owners: st.SearchStrategy[Owner] = st.sampled_from(
    [a_test("t.py::a"), a_fixture(worker="gw0"), a_fixture(worker="gw1"), OUTSIDE]
)
spendings = st.dictionaries(owners, st.lists(calls(), min_size=1, max_size=3))


def assert_adds_up(totals: ModelTotals) -> None:
    assert sum(usd for _, usd in totals.by_category.items()) == (totals.usd or 0)


@given(spendings, spendings)
def test_categories_add_up_to_the_total_by_model_and_tag_and_over_shards(
    one: dict[Owner, list[Call]], two: dict[Owner, list[Call]]
) -> None:
    moved = {a_test("t.py::b") if key == a_test("t.py::a") else key: two[key] for key in two}
    first, second = make_report(one), make_report(moved)
    merged = merge_ledgers([("one.json", first), ("two.json", second)])
    for ledger in (first, second, merged):
        whole = ledger.totals
        for totals in (whole, *whole.by_model.values(), *whole.by_tag.values()):
            assert_adds_up(totals)
        by_model = [each.by_category for each in whole.by_model.values()]
        assert whole.unpriced_calls or sum(by_model, ByCategory()) == whole.by_category


@given(spendings)
def test_categories_come_back_from_a_file_as_they_were(spent: dict[Owner, list[Call]]) -> None:
    ledger = make_report(spent)
    written = render_json(ledger)
    assert parse_ledger(written, "cost.json") == ledger
    assert render_json(parse_ledger(written, "cost.json")) == written


@given(st.lists(calls(), max_size=3), st.lists(calls(), max_size=3))
def test_amounts_add_and_differ_by_category(one: list[Call], two: list[Call]) -> None:
    first, second = Amounts.of(one), Amounts.of(two)
    assert (first + second).by_category == Amounts.of([*one, *two]).by_category
    assert ((first + second) - second).by_category == first.by_category


def test_a_category_without_a_difference_is_left_out_of_files() -> None:
    parts = ByCategory(output_usd=Decimal("0.25"))
    assert msgspec.json.encode(parts - parts) == b"{}"


def test_each_category_has_its_own_amount() -> None:
    usage = Usage(**{**dict.fromkeys(Usage.__struct_fields__, MILLION), "web_search_requests": 3})
    sampling = SamplingCall(model="claude-opus-4-7", usage=usage)
    bill = price(Answer(model="claude-opus-4-7", sampling_calls=(sampling,)), CARD, on=ON)
    assert dict(Amounts.of([bill]).by_category.items()) == {
        "input_usd": 5,
        "cache_write_5m_usd": Decimal("6.25"),
        "cache_write_1h_usd": 10,
        "cache_read_usd": Decimal("0.5"),
        "output_usd": 25,
        "web_search_usd": Decimal("0.03"),
    }


def declared(usd: str | None, model: str = "gpt-x") -> Call:
    sampling = SamplingCall(model=model, usage=Usage(input_tokens=MILLION))
    stated = None if usd is None else Decimal(usd)
    return price(Answer(model=model, sampling_calls=(sampling,), declared_usd=stated), CARD, on=ON)


def test_a_stated_price_has_no_category_and_an_unknown_one_costs_nothing_for_sure() -> None:
    by_category = Amounts.of([declared("0.25"), declared(None)]).by_category
    assert dict(by_category.items()) == {"declared_usd": Decimal("0.25")}


def old_ledger() -> Ledger:
    """A ledger as it was written before it had categories."""
    report = make_report({a_test("t.py::old"): [declared(None, "claude-opus-4-7")]})
    data = json.loads(render_json(report))
    del data["totals"]["by_category"]
    del data["totals"]["by_model"]["claude-opus-4-7"]["by_category"]
    del data["tests"][0]["calls"][0]["sampling_calls"][0]["by_category"]
    return parse_ledger(json.dumps(data).encode(), "old.json")


def test_what_an_older_ledger_did_not_itemise_is_unknown_in_a_sum() -> None:
    old = old_ledger()
    assert old.totals.by_category == ByCategory()
    new = make_report({a_test("t.py::new"): [declared(None, "claude-opus-4-7")]})
    merged = merge_ledgers([("old.json", old), ("new.json", new)])
    assert dict(merged.totals.by_category.items()) == {"input_usd": 5, "unknown_usd": 5}
    assert_adds_up(merged.totals)


@pytest.mark.parametrize("written", ["NaN", "-1", "1E+999"])
def test_a_damaged_amount_is_refused_in_a_category_too(written: str) -> None:
    report = make_report({a_test("t.py::old"): [declared(None, "claude-opus-4-7")]})
    data = json.loads(render_json(report))
    data["totals"]["by_category"]["input_usd"] = written
    with pytest.raises(LedgerError, match="is not an amount of money"):
        parse_ledger(json.dumps(data).encode(), "cost.json")


def test_an_unpriced_call_of_priced_passes_counts_by_its_lower_bound() -> None:
    known = SamplingCall(model="claude-opus-4-7", usage=Usage(input_tokens=MILLION))
    answer = Answer(
        model="gpt-x", sampling_calls=(replace(known, model="gpt-x"), known), terms=Terms()
    )
    totals = make_report({OUTSIDE: [price(answer, CARD, on=ON)]}).totals
    assert totals.usd == 5
    assert dict(totals.by_category.items()) == {"input_usd": 5}
    assert {name: each.usd for name, each in totals.by_model.items()} == {
        "claude-opus-4-7": 5, "gpt-x": None
    }  # fmt: skip
    stated = make_report({OUTSIDE: [price(replace(answer, declared_usd=Decimal(8)), CARD, on=ON)]})
    by_model = stated.totals.by_model
    assert {name: each.usd for name, each in by_model.items()} == {"claude-opus-4-7": 0, "gpt-x": 8}


def test_a_model_that_only_others_have_sampled_for_has_no_share() -> None:
    known = SamplingCall(model="claude-opus-4-7", usage=Usage(input_tokens=MILLION))
    answer = Answer(model="claude-haiku-4-5", sampling_calls=(known,), terms=Terms())
    assert [*make_report({OUTSIDE: [price(answer, CARD, on=ON)]}).totals.by_model] == [known.model]


def test_an_unpriced_call_that_may_cost_less_than_its_passes_has_no_categories() -> None:
    known = SamplingCall(model="claude-opus-4-7", usage=Usage(input_tokens=MILLION))
    answer = Answer(model="gpt-x", sampling_calls=(replace(known, model="gpt-x"), known))
    lowered = replace(price(answer, CARD, on=ON), usd_low=Decimal(2))
    assert dict(Amounts.of([lowered]).by_category.items()) == {"unknown_usd": 2}


def test_a_call_that_loses_its_price_loses_its_categories() -> None:
    call = declared(None, "claude-opus-4-7")
    assert call.sampling_calls[0].by_category != ByCategory()
    stated = reprice(replace(call, declared_usd=Decimal(1)), CARD, on=ON)
    assert stated.sampling_calls[0].by_category == ByCategory()


def test_every_category_has_an_amount_and_a_rate_or_a_fee() -> None:
    assert (*USD_OF.values(), "declared_usd", "unknown_usd") == ByCategory.__struct_fields__
    assert {*RATE_KEYS} <= {*RateRow.__struct_fields__}
    fees = {f"{name.removesuffix('_requests')}_usd_per_1000" for name in FEES}
    assert fees <= {*CardFile.__struct_fields__}

"""A user's price file: what it may say, how it lies over the card, what its errors name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from pytest_llmcost.errors import RateCardError, UnknownModelError
from pytest_llmcost.prices.bill import price_request
from pytest_llmcost.prices.price_file import RATE_KEYS
from pytest_llmcost.prices.rate_card import RateCard, shipped_card
from pytest_llmcost.prices.usage import SamplingCall, Terms, Usage

ON = date(2026, 11, 22)
FIVE = "input = 3, cache_write_5m = 3.75, cache_write_1h = 6, cache_read = 0.3, output = 15"

Overlay = Callable[..., RateCard]


@pytest.fixture
def overlay(tmp_path: Path) -> Overlay:
    def lay(text: str, card: RateCard | None = None, name: str = "prices.toml") -> RateCard:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return (card or shipped_card()).with_overrides(path)

    return lay


def rates(card: RateCard, model: str, on: date = ON, speed: str | None = None) -> list[str]:
    found = card.rates(model, on=on, speed=speed)
    return [f"{found.usd[key].normalize():f}" for key in RATE_KEYS]


def test_a_new_model_has_the_rates_that_the_file_states(overlay: Overlay) -> None:
    card = overlay(f'[models."acme/large"]\nrates = [{{ from = 2026-01-01, {FIVE} }}]')
    assert rates(card, "acme/large") == ["3", "3.75", "6", "0.3", "15"]
    assert "acme/large" not in shipped_card().models
    with pytest.raises(UnknownModelError, match="its first rates are from 2026-01-01"):
        card.rates("acme/large", on=date(2025, 12, 31))


def test_amounts_may_be_quoted(overlay: Overlay) -> None:
    card = overlay('[models.claude-opus-5-5]\nrates = [{ from = 2026-11-01, output = "18.50" }]')
    assert rates(card, "claude-opus-5-5") == ["4", "5", "8", "0.2", "18.5"]


@pytest.mark.parametrize(
    "written", ["1_0", "1_0_", " 10 ", "\uff11\uff10", "1 0", "NaN", "Infinity"]
)
def test_a_quoted_amount_is_a_plain_number(written: str, overlay: Overlay) -> None:
    with pytest.raises(RateCardError, match=r"output"):
        overlay(
            f'[models.claude-opus-5-5]\nrates = [{{ from = 2026-11-01, output = "{written}" }}]'
        )


def test_a_row_changes_what_it_states_from_its_day_on(overlay: Overlay) -> None:
    card = overlay("[models.claude-opus-5-5]\nrates = [{ from = 2026-11-01, output = 18 }]")
    assert rates(card, "claude-opus-5-5", date(2026, 10, 31)) == ["4", "5", "8", "0.2", "20"]
    assert rates(card, "claude-opus-5-5", date(2026, 11, 1)) == ["4", "5", "8", "0.2", "18"]
    assert rates(card, "claude-opus-5-5", ON, "fast") == ["8", "10", "16", "0.4", "40"]


def test_an_older_row_of_yours_wins_over_a_newer_one_of_the_card(overlay: Overlay) -> None:
    card = overlay(f"[models.claude-sonnet-5-5]\nrates = [{{ from = 2026-10-01, {FIVE} }}]")
    assert rates(card, "claude-sonnet-5-5", date(2026, 9, 30))[3] == "0.2"
    assert rates(card, "claude-sonnet-5-5", date(2026, 10, 7)) == ["3", "3.75", "6", "0.3", "15"]


def test_a_factor_is_a_discount_on_every_rate_speed_and_band(overlay: Overlay) -> None:
    card = overlay(
        "[models.claude-opus-5-5]\nrates = [{ from = 2026-11-01, factor = 0.8 }]\n"
        "[models.claude-haiku-5-5]\nrates = [{ from = 2026-11-01, factor = 0.5 }]"
    )
    assert rates(card, "claude-opus-5-5") == ["3.2", "4", "6.4", "0.16", "16"]
    assert rates(card, "claude-opus-5-5", ON, "fast") == ["6.4", "8", "12.8", "0.32", "32"]
    assert rates(card, "claude-opus-5-5", date(2026, 10, 31))[0] == "4"
    _, beyond = card.bands("claude-haiku-5-5", on=ON)
    assert (beyond.usd["input"], beyond.usd["output"]) == (Decimal("0.25"), Decimal("1.25"))


def test_a_factor_may_hold_for_one_speed_or_one_band(overlay: Overlay) -> None:
    card = overlay(
        '[models.claude-opus-5-5]\nrates = [{ from = 2026-11-01, speed = "fast", factor = 0.5 }]\n'
        "[models.claude-haiku-5-5]\n"
        "rates = [{ from = 2026-11-01, above = 100_000, factor = 0.5 }]"
    )
    assert rates(card, "claude-opus-5-5")[0] == "4"
    assert rates(card, "claude-opus-5-5", ON, "fast")[0] == "4"
    low, high = card.bands("claude-haiku-5-5", on=ON)
    assert (low.usd["input"], high.usd["input"]) == (Decimal("0.1"), Decimal("0.25"))


@pytest.mark.parametrize(
    ("rows", "inputs"),
    [
        # The card's own rate is 4.
        (["11-01, until = 2026-11-20, input = 3"], {"10-31": "4", "11-19": "3", "11-20": "4"}),
        # Rows may stand in any order, and of two of one day the last one holds.
        (["11-10, input = 2", "11-01, input = 3"], {"11-09": "3", "11-10": "2"}),
        (["11-10, input = 2", "11-10, input = 3"], {"11-10": "3"}),
        # Of two factors the later one holds.
        (
            ["10-01, factor = 0.9", "11-01, until = 2026-11-10, factor = 0.5"],
            {"09-30": "4", "10-01": "3.6", "11-01": "2", "11-10": "3.6"},
        ),
    ],
)
def test_a_row_holds_from_its_day_until_another_one_or_its_end(
    overlay: Overlay, rows: list[str], inputs: dict[str, str]
) -> None:
    listed = ", ".join(f"{{ from = 2026-{row} }}" for row in rows)
    card = overlay(f"[models.claude-opus-5-5]\nrates = [{listed}]")
    for day, rate in inputs.items():
        assert rates(card, "claude-opus-5-5", date.fromisoformat(f"2026-{day}"))[0] == rate


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # A later row keeps what an earlier one states, also of the same day.
        (["01, output = 20", "10, input = 4"], "4 6.25 10 0.5 20"),
        (["10, output = 20", "10, input = 4"], "4 6.25 10 0.5 20"),
        (["01, until = 2026-11-20, output = 20", "10, input = 4"], "4 6.25 10 0.5 25"),
        # A rate that was agreed on later is no longer multiplied; one that was before is.
        (["01, factor = 0.5", "10, output = 20"], "2.5 3.125 5 0.25 20"),
        (["10, output = 20", "01, factor = 0.5"], "2.5 3.125 5 0.25 20"),
        (["01, output = 20", "10, factor = 0.5"], "2.5 3.125 5 0.25 10"),
        (["10, factor = 0.5", "10, output = 20"], "2.5 3.125 5 0.25 20"),
        (["01, factor = 0.8", "05, output = 20", "10, factor = 0.5"], "2.5 3.125 5 0.25 10"),
    ],
)
def test_rows_lie_over_each_other(overlay: Overlay, rows: list[str], expected: str) -> None:
    listed = ", ".join(f"{{ from = 2026-11-{row} }}" for row in rows)
    card = overlay(f"[models.claude-opus-4-7]\nrates = [{listed}]")
    assert " ".join(rates(card, "claude-opus-4-7")) == expected


def test_a_rate_that_a_row_leaves_out_changes_with_the_card(overlay: Overlay) -> None:
    card = overlay("[models.claude-sonnet-5-5]\nrates = [{ from = 2026-09-28, output = 9 }]")
    days = (date(2026, 10, 6), date(2026, 10, 7))
    assert [rates(card, "claude-sonnet-5-5", on)[3:] for on in days] == [["0.2", "9"], ["0.1", "9"]]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("factor = 0.9", "27 33.75 54 2.7 135"),
        ('speed = "fast", factor = 0.9', "27 33.75 54 2.7 135"),
        ('speed = "fast", output = 140', "30 37.5 60 3 140"),
    ],
)
def test_the_last_rates_of_a_fast_mode_that_has_ended_can_be_changed(
    overlay: Overlay, row: str, expected: str
) -> None:
    card = overlay(f"[models.claude-opus-4-7]\nrates = [{{ from = 2026-11-10, {row} }}]")
    assert rates(card, "claude-opus-4-7", date(2026, 11, 9), "fast")[0] == "30"
    assert " ".join(rates(card, "claude-opus-4-7", ON, "fast")) == expected
    assert card.rates("claude-opus-4-7", on=ON, speed="fast").ended_on == date(2026, 7, 24)


FAST = 'speed = "fast"'


def test_after_several_fast_rows_have_ended_those_that_ended_last_stay(overlay: Overlay) -> None:
    card = overlay(
        '[models."acme/large"]\nrates = [\n'
        f"  {{ from = 2026-01-01, {FIVE} }},\n"
        f"  {{ from = 2026-03-01, until = 2026-04-01, {FAST}, {FIVE} }},\n"
        f"  {{ from = 2026-01-01, until = 2026-02-01, {FAST}, {FIVE.replace('15', '30')} }},\n"
        "]"
    )
    assert rates(card, "acme/large", date(2026, 2, 1), "fast")[-1] == "30"
    assert rates(card, "acme/large", ON, "fast")[-1] == "15"


def test_a_fast_mode_that_comes_back_ends_the_time_without_it_on_its_day(overlay: Overlay) -> None:
    card = overlay(f"[models.claude-opus-4-7]\nrates = [{{ from = 2026-11-10, {FAST}, {FIVE} }}]")
    for day, usd, ended_on in [(9, "30", date(2026, 7, 24)), (10, "3", None), (11, "3", None)]:
        assert rates(card, "claude-opus-4-7", date(2026, 11, day), "fast")[0] == usd
        found = card.rates("claude-opus-4-7", on=date(2026, 11, day), speed="fast")
        assert found.ended_on == ended_on


def test_a_discount_ends_on_its_day_although_a_fast_mode_ends_on_the_same(overlay: Overlay) -> None:
    row = "from = 2026-07-01, until = 2026-07-24, factor = 0.5"
    card = overlay(f"[models.claude-opus-4-7]\nrates = [{{ {row} }}]")
    assert rates(card, "claude-opus-4-7", date(2026, 7, 23), "fast")[0] == "15"
    assert rates(card, "claude-opus-4-7", date(2026, 7, 24), "fast")[0] == "30"


def test_a_model_has_no_price_before_the_rates_of_its_short_prompts(overlay: Overlay) -> None:
    card = overlay(
        '[models."acme/large"]\nrates = [\n'
        f"  {{ from = 2026-01-01, above = 200_000, {FIVE} }},\n"
        f"  {{ from = 2026-02-01, {FIVE} }},\n"
        "]"
    )
    with pytest.raises(UnknownModelError, match="no price for acme/large on 2026-01-31"):
        card.rates("acme/large", on=date(2026, 1, 31))


def test_a_name_that_a_file_lists_is_read_as_it_stands(overlay: Overlay) -> None:
    card = overlay(f'[models."claude-sonnet-5[1m]"]\nrates = [{{ from = 2026-01-01, {FIVE} }}]')
    assert card.resolve("claude-sonnet-5[1m]").model == "claude-sonnet-5[1m]"


@pytest.mark.parametrize("name", ["anthropic/acme-4-1", "anthropic/acme-4.1"])
def test_a_model_of_ones_own_is_none_that_a_gateway_gets_from_anthropic(
    overlay: Overlay, name: str
) -> None:
    card = overlay(f'[models."acme-4-1"]\nrates = [{{ from = 2026-01-01, {FIVE} }}]')
    assert card.find(name) is None


def test_a_model_whose_last_row_has_ended_has_no_price(overlay: Overlay) -> None:
    row = f"{{ from = 2026-01-01, until = 2026-06-01, {FIVE} }}"
    card = overlay(f'[models."acme/large"]\nrates = [{row}]')
    with pytest.raises(UnknownModelError, match="its last rates ended before that day"):
        card.rates("acme/large", on=ON)


def test_a_byte_order_mark_is_no_part_of_a_file(overlay: Overlay) -> None:
    card = overlay("\ufeff[models.claude-opus-5-5]\r\nrates = [{ from = 2026-11-01, input = 3 }]")
    assert rates(card, "claude-opus-5-5")[0] == "3"


def test_a_second_file_lies_over_the_first(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text("[models.claude-opus-5-5]\nrates = [{ from = 2026-11-01, input = 3 }]")
    second.write_text("[models.claude-opus-5-5]\nrates = [{ from = 2026-11-01, factor = 0.5 }]")
    card = shipped_card().with_overrides(first).with_overrides(second)
    assert rates(card, "claude-opus-5-5") == ["1.5", "2.5", "4", "0.1", "10"]
    swapped = shipped_card().with_overrides(second).with_overrides(first)
    assert rates(swapped, "claude-opus-5-5") == ["3", "2.5", "4", "0.1", "10"]


def test_a_new_band_and_a_new_speed_need_all_rates(overlay: Overlay) -> None:
    card = overlay(
        "[models.claude-opus-5-5]\nrates = [\n"
        f"  {{ from = 2026-11-01, above = 500_000, {FIVE} }},\n"
        f'  {{ from = 2026-11-01, speed = "turbo", {FIVE} }},\n'
        "]"
    )
    assert [each.above for each in card.bands("claude-opus-5-5", on=ON)] == [0, 500_000]
    assert rates(card, "claude-opus-5-5", ON, "turbo")[-1] == "15"
    assert card.speeds("claude-opus-5-5") == ("standard", "fast", "turbo")


def test_aliases_are_names_of_gateways_and_deployments(overlay: Overlay) -> None:
    card = overlay(
        '[models.claude-opus-5-5]\naliases = ["acme/opus", "arn:aws:bedrock:eu-west-1:0:'
        'application-inference-profile/abc"]'
    )
    assert card.resolve("acme/opus").model == "claude-opus-5-5"
    assert card.resolve("acme/opus[1m]").model == "claude-opus-5-5"
    profile = "arn:aws:bedrock:eu-west-1:0:application-inference-profile/abc"
    assert card.resolve(profile).model == "claude-opus-5-5"
    assert shipped_card().find("acme/opus") is None


def test_an_alias_goes_before_a_clouds_spelling_of_the_same_model(overlay: Overlay) -> None:
    name = "us.anthropic.claude-opus-5"
    card = overlay(f'[models.claude-opus-5]\naliases = ["{name}"]')
    assert card.resolve(name) == ("claude-opus-5", None)
    assert card.resolve(f"eu{name[2:]}") == ("claude-opus-5", "bedrock-regional")


@pytest.mark.parametrize(
    ("alias", "owner"),
    [
        ("claude-opus-4-5", "claude-opus-4-5-20251101"),
        ("claude-3-opus-latest", "claude-3-opus-20240229"),
        ("us.anthropic.claude-opus-5", "claude-opus-5"),
        ("claude-opus-4-5[1m]", "claude-opus-4-5-20251101"),
    ],
)
def test_a_name_never_moves_to_another_model(overlay: Overlay, alias: str, owner: str) -> None:
    with pytest.raises(
        RateCardError, match=rf"aliases: '.*' already names {owner}; remove it here$"
    ):
        overlay(f'[models.claude-haiku-4-5]\naliases = ["{alias}"]')
    with pytest.raises(RateCardError, match=f"already names {owner}; remove it here$"):
        overlay(f'[models.z]\naliases = ["{alias}"]\nrates = [{{ from = 2026-01-01, {FIVE} }}]')


def test_a_name_may_be_stated_again_but_a_second_file_moves_it_nowhere(overlay: Overlay) -> None:
    card = overlay('[models.claude-opus-5]\naliases = ["acme"]')
    again = overlay('[models.claude-opus-5]\naliases = ["acme"]', card)
    assert again.resolve("acme").model == "claude-opus-5"
    with pytest.raises(RateCardError, match=r"'acme' already names claude-opus-5; remove it here$"):
        overlay('[models.claude-haiku-4-5]\naliases = ["acme"]', card)


def test_a_model_may_be_named_by_its_alias(overlay: Overlay) -> None:
    card = overlay("[models.claude-opus-4-5]\nrates = [{ from = 2026-01-01, output = 20 }]")
    assert rates(card, "claude-opus-4-5-20251101")[-1] == "20"
    assert "claude-opus-4-5" not in card.models


def test_facts_of_a_model_and_of_the_card_can_be_changed(overlay: Overlay) -> None:
    card = overlay(
        "web_search_usd_per_1000 = 0\nbatch_factor = 0.4\n"
        "[models.claude-opus-5-5]\n"
        "geography = { eu = 1.2 }\nregional = 1.0\nmin_cacheable_tokens = 2_048\n"
        "retires_on = 2026-11-01"
    )
    usage = Usage(input_tokens=1_000_000, web_search_requests=5)
    sampling_calls = [SamplingCall(model="claude-opus-5-5", usage=usage)]
    context = Terms(inference_geo="eu", platform="vertex-regional", service_tier="batch")
    cost = price_request(card, sampling_calls, context, on=ON)
    assert cost.usd == Decimal(4) * Decimal("0.4") * Decimal("1.2")
    assert cost.caveats == ("retired-model: claude-opus-5-5 on 2026-11-01",)
    assert card.about("claude-opus-5-5").min_cacheable_tokens == 2_048
    us = price_request(card, sampling_calls, Terms(inference_geo="us"), on=ON)
    assert us.usd == Decimal("4.4")


# An endpoint may be regional, and no URL shows it.
@pytest.mark.parametrize(
    ("rates", "usd"), [("", "4"), ("{ from = 2026-11-01, factor = 1.1 }", "4.4")]
)
def test_a_file_can_settle_what_an_endpoint_costs(overlay: Overlay, rates: str, usd: str) -> None:
    card = overlay(f"[models.claude-opus-5-5]\nregional = 1\nrates = [{rates}]")
    sampling = SamplingCall(model="claude-opus-5-5", usage=Usage(input_tokens=1_000_000))
    cost = price_request(card, [sampling], Terms(platform="vertex-unknown"), on=ON)
    assert cost.usd == cost.low == cost.high == Decimal(usd)
    assert cost.caveats == ()


def test_a_card_says_what_it_is_made_of(overlay: Overlay) -> None:
    shipped = shipped_card()
    card = overlay(
        'version = "7"\nchecked_on = 2020-01-01\n[sources]\ncontract = "https://contract.example"\n'
        '[models.claude-opus-5-5]\naliases = ["acme"]'
    )
    assert card.version == f"{shipped.version}+prices.toml"
    assert card.checked_on == shipped.checked_on
    assert card.sources == (*shipped.sources, "https://contract.example")
    assert card.source_url("contract") == "https://contract.example"
    assert card.source_url("hearsay") == "hearsay"
    assert len(card.sha256) == len(shipped.sha256) == 64
    assert card.sha256 != shipped.sha256
    assert overlay("").models == shipped.models


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a = [", ["not TOML"]),
        ("models = 3", ["models: Expected `object`, got `int`"]),
        ("[models]\na = 3", ['model "a"', "got `int`"]),
        ("speed = 1", ["unknown field `speed`"]),
        ("batch_factr = 1", ["unknown field `batch_factr`. Did you mean batch_factor?"]),
        ('[models.a]\ncolour = "red"', ['model "a"', "unknown field `colour`"]),
        ("[models.a]\nrates = 3", ['model "a"', "$.rates", "array", "got `int`"]),
        (
            "[models.a]\nrates = [{ input = 3 }]",
            ['model "a"', "rates[0]", "missing required field `from`"],
        ),
        (
            "[models.a]\nrates = [{ from = 2026-01-01, inptu = 3 }]",
            ['model "a"', "rates[0]", "unknown field `inptu`", "Did you mean input?"],
        ),
        (
            '[models.a]\nrates = [{ from = 2026-01-01, input = "cheap" }]',
            ['model "a"', "rates[0].input", "'cheap'"],
        ),
        (
            "[models.a]\nrates = [{ from = 2026-01-01, input = true }]",
            ['model "a"', "rates[0].input", "True"],
        ),
        (
            "[models.a]\nrates = [{ from = 2026-01-01, input = -3 }]",
            ['model "a"', "rates[0].input", "at least 0", "got -3"],
        ),
        (
            "[models.a]\nrates = [{ from = 2026-01-01, input = nan }]",
            ['model "a"', "rates[0].input", "got NaN"],
        ),
        (
            '[models.a]\nrates = [{ from = 2026-01-01, input = "inf" }]',
            ['model "a"', "rates[0].input", "got 'inf'"],
        ),
        (
            "[models.a]\nrates = [{ from = 2026-01-01, input = 3.1234567890123456 }]",
            ['model "a"', "rates[0].input", "15 digits"],
        ),
        (
            "[models.a]\nrates = [{ from = 2026-01-01T00:00:00, input = 3 }]",
            ['model "a"', "rates[0].from", "Invalid"],
        ),
        (
            "[models.a]\nrates = [{ from = 2026-01-01, above = -1, input = 3 }]",
            ['model "a"', "rates[0].above", "Expected `int` >= 0"],
        ),
        ("[models.a]\nrates = [{ from = 2026-01-01 }]", ['model "a"', "rates[0]", "gives no rate"]),
        (
            "[models.a]\nrates = [{ from = 2026-01-01, until = 2026-01-01, input = 3 }]",
            ['model "a"', "rates[0]", "until: 2026-01-01 is not after from"],
        ),
        (
            '[models.claude-opus-5]\nrates = [{ from = 2026-11-01, speed = "Fast", factor = 0.5 }]',
            ['model "claude-opus-5"', "2026-11-01", "no rates of speed Fast to multiply by 0.5"],
        ),
        (
            "[models.claude-opus-5]\nrates = [{ from = 2026-11-01, above = 5, factor = 0.5 }]",
            ['model "claude-opus-5"', "no rates above 5 tokens to multiply by 0.5"],
        ),
        (
            '[models."acme/claude-opus-4.7"]\nrates = [{ from = 2026-11-01, factor = 0.5 }]',
            ["a new model needs rates, got none"],
        ),
        (
            '[models."anthropic/claude-opus-4.7"]\nrates = [{ from = 2026-11-01, factor = 0.5 }]',
            ['got none; for claude-opus-4-7 write [models."claude-opus-4-7"]'],
        ),
        (
            "[models.claude-opus-5]\nrates = [{ from = 2026-11-01, input = 3, factor = 0.5 }]",
            ['model "claude-opus-5"', "factor = 0.5", "input = 3"],
        ),
        ('[models.a]\ngeography = { us = "1.2.3" }', ['model "a"', "geography", "got '1.2.3'"]),
        ('[models.a]\ngeography = { us = "x" }', ['model "a"', "geography", "got 'x'"]),
        ("[models.a]\ngeography = { us = -1 }", ['model "a"', "geography", "got -1"]),
        ("batch_factor = -1", ["batch_factor", "got -1"]),
        ("[models.a]\naliases = [3]", ['model "a"', "aliases[0]", "got `int`"]),
        ('[models.a]\naliases = ["b"]', ['model "a"', "a new model needs rates"]),
        (
            "[models.a]\nrates = [{ from = 2026-01-01, factor = 0.5 }]",
            ['model "a"', "a new model needs rates"],
        ),
        (
            "[models.a]\nrates = [{ from = 2026-01-01, input = 3, output = 4 }]",
            ['model "a"', "from 2026-01-01", "cache_write_5m, cache_write_1h, cache_read: missing"],
        ),
        (
            '[models.claude-sonnet-5]\nrates = [{ from = 2026-11-01, speed = "fast", input = 3 }]',
            ['model "claude-sonnet-5"', "missing"],
        ),
        (
            "[models.claude-opus-5]\nrates = [{ from = 2020-01-01, input = 3 }]",
            ['model "claude-opus-5"', "missing"],
        ),
        (
            "[models.claude-opus-5]\nrates = [{ from = 2026-11-01, above = 200_000, input = 3 }]",
            ['model "claude-opus-5"', "missing"],
        ),
        (
            '[models.claude-opus-5]\naliases = ["claude-opus-5-5"]',
            ['model "claude-opus-5"', "'claude-opus-5-5' already names claude-opus-5-5"],
        ),
        (
            '[models.claude-opus-5]\naliases = ["a"]\n[models.claude-haiku-4-5]\naliases = ["a"]',
            ['model "claude-opus-5"', "aliases: 'a' already names claude-haiku-4-5"],
        ),
        (
            "[models.claude-haiku-4-5]\nretires_on = 2030-01-01\n"
            "[models.claude-haiku-4-5-20251001]\nregional = 2",
            ['is the same model as "claude-haiku-4-5"'],
        ),
        (
            "[models.claude-opus-4.7]\nrates = [{ from = 2026-11-01, input = 3 }]",
            ['model "claude-opus-4"', "unknown field `7`", "a point, slash or colon in it needs"],
        ),
        *(
            (
                f"[models.{name}]\nregional = 1",
                ["unknown field `", "slash or colon in it needs quotes"],
            )
            for name in ("gpt-4.1-mini", "us.anthropic.claude-opus-9")
        ),
        ("[models.acme/a]\nregional = 1", ["not TOML", "slash or colon in it needs quotes"]),
        (f"batch_factor = {'9' * 5_000}", ["not TOML", "4300"]),
        ("batch_factor = 0", ["Expected a factor of at least 0.001, got 0", "$.batch_factor"]),
        ("[models.a]\ngeography = { us = 0 }", ["geography", "Expected a factor", "got 0"]),
        ("[models.a]\nregional = 0.0001", ["$.regional", "Expected a factor", "got 0.0001"]),
        (
            "[models.claude-opus-5]\nrates = [{ from = 2026-11-01, factor = 0 }]",
            ['model "claude-opus-5"', "rates[0].factor", "Expected a factor", "got 0"],
        ),
        (
            "[models.a]\nrates = [{ from = 2026-01-01, input = 1e300 }]",
            ["rates[0].input", "15 digits", "got 1E+300"],
        ),
        (
            "[models.a]\nrates = [{ from = 2026-01-01, input = 1e-300 }]",
            ["rates[0].input", "15 digits", "got 1E-300"],
        ),
        (
            "[models.a]\nrates = [{ from = 2026-01-01, output = 0.000025 }]",
            [
                'model "a"',
                "2026-01-01",
                "output: 0.000025 is not more",
                "dollars per million tokens",
            ],
        ),
        (
            "[models.claude-opus-5]\nrates = [{ from = 2026-11-01, input = 0.005 }]",
            [
                'model "claude-opus-5"',
                "input: 0.005",
                "more than 0.005, ",
                "dollars per million tokens",
            ],
        ),
        (
            "[models.claude-opus-5]\nrates = [{ from = 2026-11-01, output = 0 }]",
            ['model "claude-opus-5"', "output: 0 is not more", "dollars per million tokens"],
        ),
    ],
)
def test_an_error_names_file_model_and_key(
    overlay: Overlay, tmp_path: Path, text: str, names: list[str]
) -> None:
    with pytest.raises(RateCardError) as caught:
        overlay(text)
    message = str(caught.value)
    assert message.startswith(f"price file {tmp_path / 'prices.toml'}: ")
    assert "\n" not in message
    for name in names:
        assert name in message


def test_a_key_that_is_no_table_is_no_name_without_quotes(overlay: Overlay) -> None:
    with pytest.raises(RateCardError, match=r"unknown field `colour`( - at `\$`)?$"):
        overlay('[models.a]\ncolour = "red"')


def test_a_cheap_gateway_and_a_free_model_of_ones_own_are_possible(overlay: Overlay) -> None:
    row = "from = 2026-11-01, input = 0.0051, cache_write_5m = 0, cache_read = 0"
    card = overlay(f"[models.claude-opus-5]\nrates = [{{ {row} }}]")
    assert rates(card, "claude-opus-5")[:2] == ["0.0051", "0"]
    free = ", ".join(f"{key} = 0" for key in RATE_KEYS)
    card = overlay(f'[models."acme/local"]\nrates = [{{ from = 2026-11-01, {free} }}]')
    assert rates(card, "acme/local") == ["0"] * 5
    card = overlay("[models.claude-opus-5]\nrates = [{ from = 2026-11-01, factor = 0.001 }]")
    assert rates(card, "claude-opus-5")[0] == "0.005"


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(RateCardError, match=r"missing\.toml: No such file"):
        shipped_card().with_overrides(tmp_path / "missing.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(RateCardError, match=r"binary\.toml: not TOML"):
        shipped_card().with_overrides(str(binary))


def test_an_arn_in_a_price_file_holds_with_its_account_and_without(overlay: Overlay) -> None:
    profile = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/"
    masked = profile.replace("123456789012", "ACCOUNT")
    card = overlay(
        f'[models.claude-opus-5-5]\naliases = ["{profile}a"]\n'
        f'[models."{profile}b"]\nrates = [{{ from = 2026-01-01, {FIVE} }}]'
    )
    assert card.resolve(f"{profile}a").model == "claude-opus-5-5"
    assert card.resolve(f"{masked}a").model == "claude-opus-5-5"
    assert card.resolve(f"{profile}b").model == f"{masked}b"
    assert card.resolve(f"{masked}b").model == f"{masked}b"


def test_two_accounts_for_one_profile_are_not_two_models(overlay: Overlay) -> None:
    tables = "".join(
        f'[models."arn:aws:bedrock:eu-west-1:{account}:application-inference-profile/a"]\n'
        f"rates = [{{ from = 2026-01-01, {FIVE} }}]\n"
        for account in ("123456789012", "210987654321")
    )
    with pytest.raises(RateCardError, match=r"is the same model as .*ACCOUNT.*; put both into one"):
        overlay(tables)

"""What a rate card answers beside prices: names, rates, length bands, tokenizers, caches."""

from __future__ import annotations

import pickle
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from pytest_llmcost.call import Call, PricedSamplingCall, reprice
from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.prices import rate_card
from pytest_llmcost.prices.bill import band_of, price_request
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import SamplingCall, Terms, Usage

ON = date(2026, 11, 22)
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/"


# Source: https://platform.claude.com/docs/en/about-claude/models/model-ids-and-versions and
# Bedrock's inference profiles.
@pytest.mark.parametrize(
    ("name", "model", "platform"),
    [
        ("claude-fable-5", "claude-fable-5", None),
        ("claude-fable-5-1", "claude-fable-5-1", None),
        ("claude-fable-5-2", "claude-fable-5-2", None),
        ("claude-opus-4-5", "claude-opus-4-5-20251101", None),
        ("claude-sonnet-4-0", "claude-sonnet-4-20250514", None),
        ("claude-3-7-sonnet-latest", "claude-3-7-sonnet-20250219", None),
        ("claude-sonnet-4-5[1m]", "claude-sonnet-4-5-20250929", None),
        ("claude-opus-5-5[1M]", "claude-opus-5-5", None),
        (" claude-opus-5-5 ", "claude-opus-5-5", None),
        ("anthropic.claude-opus-5-5", "claude-opus-5-5", "bedrock-regional"),
        ("anthropic.claude-opus-4-6-v1", "claude-opus-4-6", "bedrock-regional"),
        ("us.anthropic.claude-opus-4-6-v1", "claude-opus-4-6", "bedrock-regional"),
        ("global.anthropic.claude-opus-4-6-v1", "claude-opus-4-6", "bedrock"),
        (
            "eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "claude-sonnet-4-5-20250929",
            "bedrock-regional",
        ),
        (
            "apac.anthropic.claude-3-5-sonnet-20241022-v2:0",
            "claude-3-5-sonnet-20241022",
            "bedrock-regional",
        ),
        ("jp.anthropic.claude-haiku-4-5-20251001-v1%3A0", "claude-haiku-4-5-20251001", ...),
        ("au.anthropic.claude-haiku-4-5-20251001-v1:0[1m]", "claude-haiku-4-5-20251001", ...),
        (f"{PROFILE}us.anthropic.claude-opus-4-6-v1", "claude-opus-4-6", "bedrock-regional"),
        (f"{PROFILE}global.anthropic.claude-opus-5-5", "claude-opus-5-5", "bedrock"),
        (
            "arn%3Aaws%3Abedrock%3Aus-east-1%3A%3Afoundation-model%2Fanthropic.claude-opus-5-5",
            "claude-opus-5-5",
            "bedrock-regional",
        ),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5-20250929", "vertex-unknown"),
        ("claude-3-5-sonnet-v2@20241022", "claude-3-5-sonnet-20241022", "vertex-unknown"),
        ("claude-3-haiku-48k-20240307", "claude-3-haiku-20240307", None),
        ("claude-opus-4-6@default", "claude-opus-4-6", "vertex-unknown"),
        ("claude-sonnet-5-5@default", "claude-sonnet-5-5", "vertex-unknown"),
        ("claude-opus-4-5@default", "claude-opus-4-5-20251101", "vertex-unknown"),
        ("claude-3-5-sonnet-v2@default", "claude-3-5-sonnet-20241022", "vertex-unknown"),
        ("anthropic/claude-sonnet-5-5", "claude-sonnet-5-5", None),
        ("anthropic/claude-sonnet-5.5", "claude-sonnet-5-5", None),
        ("anthropic/claude-opus-4.5", "claude-opus-4-5-20251101", None),
        ("anthropic/claude-opus-4-5-20251101", "claude-opus-4-5-20251101", None),
        ("us-gov.anthropic.claude-opus-4-6-v1", "claude-opus-4-6", "bedrock-gov"),
        (
            "arn:aws-us-gov:bedrock:us-gov-west-1:1:inference-profile/"
            "us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "claude-sonnet-4-5-20250929",
            "bedrock-gov",
        ),
        (
            "arn:aws-us-gov:bedrock:us-gov-east-1::foundation-model/anthropic.claude-opus-5-5",
            "claude-opus-5-5",
            "bedrock-gov",
        ),
    ],
)
def test_a_name_resolves_exactly_however_a_cloud_spells_it(
    name: str, model: str, platform: object
) -> None:
    found = shipped_card().resolve(name)
    assert found.model == model
    assert found.platform == ("bedrock-regional" if platform is ... else platform)
    assert shipped_card().find(name) == found


@pytest.mark.parametrize(
    "name",
    [
        "claude-opus-5-6",
        "claude-opus",
        "claude",
        "",
        "Claude-Opus-5",
        "claude-opus-5-5-20261001",
        "claude-opus-4-6-20260205",
        "xx.anthropic.claude-opus-5-5",
        "us.global.anthropic.claude-opus-5-5",
        "anthropic.claude-opus-5-5-v1:0",
        "us.claude-opus-5-5",
        "openai/claude-opus-5-5",
        "anthropic/claude-opus-5.6",
        "anthropic/anthropic.claude-opus-5-5",
        "claude-sonnet-5.5",
        "claude-opus-5-6@default",
        "xx-gov.anthropic.claude-opus-5-5",
        "claude-opus-5-5@20261001",
        "[1m]",
        "arn:aws:bedrock:us-east-1:ACCOUNT:application-inference-profile/abc123",
        "arn:aws:sagemaker:us-east-1:1:endpoint/anthropic.claude-opus-5-5",
    ],
)
def test_anything_else_is_unknown_and_names_the_remedy(name: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        shipped_card().resolve(name)
    error = caught.value
    assert shipped_card().find(name) is None
    assert f"no price for model {name!r}" in str(error)
    assert f'[models."{name}"] rates = [...]' in str(error)
    assert "aliases" not in str(error)  # nothing is proposed as if it were the same model
    assert "--llmcost-prices" in str(error)


@pytest.mark.parametrize(
    ("name", "likely"),
    [
        ("claude-opsu-5-5", "claude-opus-5-5"),
        ("claude-opus-47", "claude-opus-4-7"),
        ("claude-opus-5-6", None),  # a model of another number is another model
        ("gpt-5-5", None),
    ],
)
def test_a_misspelt_name_is_told_from_another_model(name: str, likely: str | None) -> None:
    with pytest.raises(UnknownModelError) as caught:
        shipped_card().resolve(name)
    assert (f"Did you mean {likely}?" in str(caught.value)) is (likely is not None)
    assert ("See the models with llmcost rates" in str(caught.value)) is (likely is None)


@pytest.mark.parametrize(
    ("prompt_tokens", "above", "usd"),
    [(0, 0, "0.1"), (100_000, 0, "0.1"), (100_001, 100_000, "0.5"), (10**9, 100_000, "0.5")],
)
def test_rates_are_those_of_the_prompts_length(prompt_tokens: int, above: int, usd: str) -> None:
    bands = shipped_card().bands("claude-haiku-5-5", on=ON)
    rates = band_of(bands, Usage(input_tokens=prompt_tokens))
    assert (rates.above, rates.usd["input"]) == (above, Decimal(usd))


def test_rates_answer_to_any_name_and_say_where_they_come_from() -> None:
    rates = shipped_card().rates("us.anthropic.claude-sonnet-4-5-20250929-v1:0", on=ON)
    assert rates.model == "claude-sonnet-4-5-20250929"
    assert rates.from_on == date(2025, 9, 29)
    assert rates.checked_on == date(2026, 11, 22)
    assert shipped_card().source_url(rates.sources[0]).startswith("https://platform.claude.com/")
    assert rates.ended_on is None


def test_the_speeds_of_a_model_are_those_it_ever_had() -> None:
    assert shipped_card().speeds("claude-opus-4-6") == ("standard", "fast")
    assert shipped_card().speeds("claude-sonnet-5") == ("standard",)


@pytest.mark.parametrize(
    ("model", "tokens"), [("claude-opus-4-6", 4_096), ("claude-opus-4-8", 1_024)]
)
def test_a_cache_has_a_least_prefix(model: str, tokens: int) -> None:
    assert shipped_card().about(model).min_cacheable_tokens == tokens
    assert shipped_card().about("claude-opus-9").min_cacheable_tokens is None


# Source: https://platform.claude.com/docs/en/release-notes/overview: Opus 4.7 brought a new one.
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("claude-opus-4-6", "claude-opus-4-7", False),
        ("claude-opus-4-7", "claude-haiku-5-5", True),
        ("claude-sonnet-4-6", "claude-sonnet-5", False),
        ("claude-sonnet-4-6", "claude-3-5-haiku-latest", True),
        ("claude-fable-5-2", "claude-mythos-preview", True),
    ],
)
def test_models_of_one_tokenizer_count_alike(one: str, other: str, same: bool) -> None:
    card = shipped_card()
    assert (card.about(one).tokenizer == card.about(other).tokenizer) is same


def test_the_shipped_card_is_read_once_and_says_what_it_is() -> None:
    card = shipped_card()
    assert shipped_card() is card
    text = (Path(rate_card.__file__).parent / "anthropic.toml").read_text(encoding="utf-8")
    assert f'version = "{card.version}"\nchecked_on = {card.checked_on} ' in text
    assert len(card.models) == text.count("\n[models.")


def test_a_price_worked_out_once_answers_for_every_later_call() -> None:
    card = shipped_card()
    sampling_calls = [SamplingCall(model="claude-opus-5-5", usage=Usage(input_tokens=7))]
    first = price_request(card, sampling_calls, Terms(), on=ON).sampling_calls[0].rates
    assert price_request(card, sampling_calls, Terms(), on=ON).sampling_calls[0].rates is first


def test_an_unknown_models_name_is_shown_without_what_a_terminal_or_a_file_chokes_on() -> None:
    name = "claude\x1b[31mX\n::error::\ud800\u202e" + "y" * 1_000
    with pytest.raises(UnknownModelError) as caught:
        shipped_card().resolve(name)
    text = str(caught.value)
    assert text.isprintable()
    assert text.encode()
    assert r"'claude\x1b[31mX\n::error::\ud800\u202eyyy" in text
    assert len(text) < 2_000


ACCOUNT = "123456789012"


@pytest.mark.parametrize(
    "name",
    [
        "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123",
        "arn:aws-us-gov:bedrock:us-gov-west-1:123456789012:application-inference-profile/abc123",
        "arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aprompt-router%2Fabc123",
        "arn:aws:sagemaker:us-east-1:123456789012:endpoint/anthropic.claude-opus-5-5",
        "bedrock/arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123",
        "arn:aws-us-gov:bedrock:us-gov-west-1:123456789012:inference-profile/us-gov.abc123",
    ],
)
def test_an_unknown_arn_is_named_without_its_account(name: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        shipped_card().resolve(name)
    assert ACCOUNT not in str(caught.value)
    assert "abc123" in str(caught.value) or "claude-opus-5-5" in str(caught.value)
    priced = reprice(
        Call(
            model=name,
            evidence="billed",
            sampling_calls=(PricedSamplingCall(model=name, usage=Usage()),),
        ),
        shipped_card(),
        on=ON,
    )
    assert ACCOUNT not in repr(priced)
    assert ACCOUNT not in repr(
        reprice(Call(model=name, evidence="declared"), shipped_card(), on=ON)
    )


def test_a_card_that_a_child_process_is_given_answers_as_before(tmp_path: Path) -> None:
    prices = tmp_path / "ours.toml"
    prices.write_text(
        '[models."claude-opus-4-7"]\nrates = [{ from = 2026-11-01, factor = 0.8 }]\n',
        encoding="utf-8",
    )
    card = shipped_card().with_overrides(prices)
    again = pickle.loads(pickle.dumps(card))
    assert (again.version, again.sha256) == (card.version, card.sha256)
    for model in card.models:
        assert again.find(model) == card.find(model)
    assert again.bands("claude-opus-4-7", on=ON) == card.bands("claude-opus-4-7", on=ON)

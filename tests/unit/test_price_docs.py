"""The price files that the documentation shows do what it says they do."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from pytest_llmcost.prices import rate_card
from pytest_llmcost.prices.price_file import RATE_KEYS, read_card_file
from pytest_llmcost.prices.rate_card import RateCard, shipped_card

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "prices.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def _discount(card: RateCard) -> list[Decimal]:
    days = (date(2026, 6, 30), date(2026, 7, 1), date(2026, 11, 1), date(2027, 11, 1))
    return [card.rates("claude-opus-4-7", on=day).usd["output"] for day in days]


def _rates(card: RateCard) -> list[Decimal]:
    on = date(2026, 11, 1)
    low, high = (rates.usd for rates in card.bands("claude-haiku-5-5", on=on))
    fast = card.rates("claude-opus-5-5", on=on, speed="fast").usd
    kinds = ((low, "input"), (low, "output"), (high, "input"), (high, "output"))
    return [*(usd[key] for usd, key in kinds), high["cache_read"], fast["output"]]


def _gateway(card: RateCard) -> list[Decimal]:
    assert card.resolve("acme/assistant").model == "claude-sonnet-5-5"
    profile = "arn:aws:bedrock:eu-central-1:123456789012:application-inference-profile/a1b2c3d4e5f6"
    return [card.rates(profile, on=date(2026, 11, 22)).usd["output"]]


def _new_model(card: RateCard) -> list[Decimal]:
    regional = card.models["acme/large"].regional
    assert regional is not None
    return [card.rates("acme/large-latest", on=date(2026, 11, 1)).usd["output"], regional]


@pytest.mark.parametrize(
    ("block", "read", "expected"),
    list(
        zip(
            BLOCKS,
            (_discount, _rates, _gateway, _new_model),
            (
                ["25", "21.25", "20", "21.25"],
                ["0.1", "0.4", "0.3", "1.5", "0.05", "35"],
                ["10"],
                ["15", "1.1"],
            ),
            strict=True,
        )
    ),
)
def test_a_price_file_of_the_documentation_does_what_it_says(
    tmp_path: Path, block: str, read: Callable[[RateCard], list[Decimal]], expected: list[str]
) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(block, encoding="utf-8")
    assert read(shipped_card().with_overrides(path)) == list(map(Decimal, expected))


def test_a_model_that_contributing_adds_is_priced_and_pinned_as_shown(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = re.findall(r"^ *```toml\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL)[0]
    (pin,) = re.findall(r"^ +(claude-\S+ +\d{4}-.+)$", page, re.MULTILINE)
    shipped = Path(rate_card.__file__).with_name("anthropic.toml").read_text(encoding="utf-8")
    path = tmp_path / "anthropic.toml"
    path.write_text(shipped + textwrap.dedent(block), encoding="utf-8")
    card, _ = read_card_file(path)
    name, from_on, _, _, _, *amounts = pin.split()
    (row,) = card.models[name].rates
    assert row.from_on == date.fromisoformat(from_on)
    assert [getattr(row, key) for key in RATE_KEYS] == list(map(Decimal, amounts))
    assert set(row.sources) <= set(card.sources)

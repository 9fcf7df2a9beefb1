"""The shipped prices, pinned: whoever changes the past, or forgets a source, sees it here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.prices.bill import band_of, price_request
from pytest_llmcost.prices.price_file import RATE_KEYS
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import SamplingCall, Terms, Usage

PINS_PATH = Path(__file__).parents[1] / "data" / "pinned_rates.txt"
MILLION = 1_000_000
ONE_DAY = timedelta(days=1)


class Pin(NamedTuple):
    model: str
    from_on: date
    until_on: date | None
    speed: str
    above: int
    rates: tuple[Decimal, ...]

    @property
    def band(self) -> tuple[str, str, int]:
        return self.model, self.speed, self.above

    @property
    def days(self) -> Iterator[date]:
        """The first day on which its rates hold, and the last one if there is one."""
        yield self.from_on
        later = [each.from_on for each in PINS if each.band == self.band]
        ends = [day for day in (*later, self.until_on) if day is not None and day > self.from_on]
        if ends:
            yield min(ends) - ONE_DAY


def pins() -> list[Pin]:
    lines = PINS_PATH.read_text(encoding="ascii").splitlines()
    return [read_pin(line.split()) for line in lines if not line.startswith("#")]


def read_pin(words: list[str]) -> Pin:
    model, from_on, until_on, speed, above, *rates = words
    until = None if until_on == "-" else date.fromisoformat(until_on)
    usd = tuple(map(Decimal, rates))
    return Pin(model, date.fromisoformat(from_on), until, speed, int(above), usd)


PINS = pins()
BANDS = [pin for pin in PINS if pin.above]


def usd_of(pin: Pin, on: date, usage: Usage) -> Decimal:
    sampling = SamplingCall(model=pin.model, usage=usage)
    return price_request(shipped_card(), [sampling], Terms(speed=pin.speed), on=on).usd


@pytest.mark.parametrize("pin", PINS, ids=lambda pin: f"{pin.model}-{pin.from_on}-{pin.speed}")
def test_a_million_of_each_category_costs_what_is_pinned(pin: Pin) -> None:
    for on in pin.days:
        bands = shipped_card().bands(pin.model, on=on, speed=pin.speed)
        rates = band_of(bands, Usage(input_tokens=pin.above + 1))
        assert tuple(rates.usd[key] for key in RATE_KEYS) == pin.rates


@pytest.mark.parametrize("pin", BANDS, ids=lambda pin: f"{pin.model}-{pin.speed}")
def test_a_prompt_of_exactly_the_threshold_is_still_in_the_lower_band(pin: Pin) -> None:
    for on in pin.days:
        below = [each for each in PINS if each.band == (*pin.band[:2], 0) and each.from_on <= on]
        lower = max(below, key=lambda each: each.from_on)
        for tokens, expected in ((pin.above, lower), (pin.above + 1, pin)):
            usage = Usage(
                input_tokens=tokens - 30,
                cache_write_5m_tokens=10,
                cache_write_1h_tokens=10,
                cache_read_tokens=10,
                output_tokens=500,
            )
            quantities = (tokens - 30, 10, 10, 10, 500)
            usd = sum(q * rate for q, rate in zip(quantities, expected.rates, strict=True))
            assert usd_of(pin, on, usage) == usd / MILLION


@pytest.mark.parametrize(
    ("model", "until_on"), [(pin.model, pin.until_on) for pin in BANDS if pin.until_on]
)
def test_a_band_that_ended_leaves_the_ordinary_rates(model: str, until_on: date) -> None:
    bands = shipped_card().bands(model, on=until_on, speed="standard")
    assert [rates.above for rates in bands] == [0]


def test_every_row_of_the_card_is_pinned_and_every_pin_is_a_row() -> None:
    rows = {
        (model, row.from_on, row.until_on, row.speed or "standard", row.above or 0)
        for model, entry in shipped_card().models.items()
        for row in entry.rates
    }
    assert rows == {pin[:5] for pin in PINS}


@pytest.mark.parametrize("model", shipped_card().models)
def test_before_its_first_day_a_model_has_no_price(model: str) -> None:
    first = min(pin.from_on for pin in PINS if pin.model == model)
    with pytest.raises(
        UnknownModelError, match=rf"{model} on .*: its first rates are from {first}"
    ):
        shipped_card().rates(model, on=first - ONE_DAY)


def test_every_row_names_its_sources_and_the_day_it_was_checked() -> None:
    card = shipped_card()
    for model, entry in card.models.items():
        for row in entry.rates:
            assert row.sources, model
            assert all(card.source_url(name) in card.sources for name in row.sources), model
            assert row.checked_on is not None, model
            assert row.checked_on <= card.checked_on, model
    assert all(url.startswith("https://") for url in card.sources)


def test_every_rate_lies_in_a_sane_band() -> None:
    for model, entry in shipped_card().models.items():
        for row in entry.rates:
            rates = [getattr(row, key) for key in RATE_KEYS]
            cheap, write_5m, write_1h, read, output = rates
            assert Decimal("0.005") <= read < cheap < write_5m < write_1h < output <= 300, model
            assert Decimal("3.75") <= output / cheap <= 5, model
            assert Decimal("1.2") <= write_5m / cheap <= Decimal("1.25"), model
            assert write_1h == 2 * cheap, model
            assert Decimal("0.025") <= read / cheap <= Decimal("0.12"), model


def test_every_model_says_what_its_price_and_cache_depend_on() -> None:
    for model, entry in shipped_card().models.items():
        assert entry.min_cacheable_tokens in (512, 1024, 2048, 4096), model
        assert entry.tokenizer in ("opus-4-7", "before-opus-4-7"), model
        assert set(entry.geography.values()) <= {Decimal("1.1")}, model
        assert entry.regional in (None, Decimal("1.1")), model


@pytest.mark.parametrize(
    ("model", "has_geography", "has_regional"),
    [
        ("claude-opus-4-6", True, True),
        ("claude-sonnet-4-6", True, True),
        ("claude-haiku-5-5", True, True),
        ("claude-opus-4-5", False, True),
        ("claude-sonnet-4-5", False, True),
        ("claude-haiku-4-5", False, True),
        ("claude-opus-4-1", False, False),
        ("claude-sonnet-4-0", False, False),
        ("claude-3-5-haiku-latest", False, False),
    ],
)
def test_geography_costs_more_from_4_6_on_and_regions_from_4_5_on(
    model: str, has_geography: bool, has_regional: bool
) -> None:
    entry = shipped_card().models[shipped_card().resolve(model).model]
    assert ("us" in entry.geography, entry.regional is not None) == (has_geography, has_regional)


def test_the_rates_of_opus_4_7_are_as_published() -> None:
    rates = shipped_card().rates("claude-opus-4-7", on=date(2026, 11, 22))
    published = ("5", "6.25", "10", "0.50", "25")
    assert [rates.usd[key] for key in RATE_KEYS] == list(map(Decimal, published))


def test_models_of_one_family_that_differ_in_one_rate_are_told_apart() -> None:
    on = date(2026, 11, 22)
    reads = [
        shipped_card().rates(model, on=on).usd["cache_read"]
        for model in ("claude-fable-5", "claude-fable-5-1", "claude-fable-5-2")
    ]
    assert reads == [Decimal(1), Decimal("0.25"), Decimal("0.20")]

"""Compare the shipped prices with two other public tables; how a price change is noticed.

Run, in an environment that has them, `python tests/tools/crosscheck_prices.py [--on DATE]`:

    pip install genai-prices
    pip install litellm            # or, without its many dependencies,
    pip download --no-deps litellm # and --litellm-wheel FILE

Equal figures are counted, known differences listed with their reason, and what is NEW makes the
exit status 1: somebody has changed a price, or made a mistake. No part of the
test suite runs this, so that another project's release never turns the suite red.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.prices.bill import price_request
from pytest_llmcost.prices.price_file import RATE_KEYS
from pytest_llmcost.prices.rate_card import RateCard, Rates, shipped_card
from pytest_llmcost.prices.usage import SamplingCall, Terms, Usage

GENAI_PRICES_KEYS = {
    "input": "input_mtok",
    "cache_write_5m": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "cache_read": "cache_read_mtok",
    "output": "output_mtok",
}
LITELLM_KEYS = {
    "input": "input_cost_per_token",
    "cache_write_5m": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
    "cache_read": "cache_read_input_token_cost",
    "output": "output_cost_per_token",
}
LITELLM_TABLE = "litellm/model_prices_and_context_window_backup.json"


class Place(NamedTuple):
    """What is compared: one figure of one model, at one speed, above one length."""

    model: str
    speed: str
    above: int
    key: str
    """A rate, `web search`, or `us` for the geography's factor."""

    def __str__(self) -> str:
        above = f" above {self.above:,}" if self.above else ""
        return f"{self.model} {self.speed}{above} {self.key}"


Figures = Mapping[Place, Decimal]


class Known(NamedTuple):
    """A difference that has been looked into, and why ours is right."""

    table: str
    model: str
    key: str | None
    """Nothing stands for every figure."""
    reason: str

    def explains(self, table: str, place: Place) -> bool:
        named = (self.table, self.model) == (table, place.model)
        return named and self.key in (None, place.key)


KNOWN = (
    Known(
        "genai-prices",
        "claude-sonnet-4-5-20250929",
        None,
        "still has the rates above 200,000 of the 1M beta, which ended on 2026-04-30",
    ),
    Known("litellm", "claude-mythos-preview", "us", "whether it ever applied is not documented"),
    Known(
        "litellm",
        "claude-mythos-preview",
        None,
        "10/50; its own Bedrock entries, from the AWS price feed, are 1.1 times 25/125",
    ),
    Known("litellm", "claude-haiku-4-5-20251001", "web search", "leaves the fee out"),
)
NOT_OURS = {
    "claude-2": "retired in 2025, not priced",
    "claude-v1": "retired in 2024, not priced",
    "claude-3-sonnet": "retired in 2025, not priced",
    "claude-3-5-sonnet": "a family, not an id",
    "claude-3-haiku": "a family, not an id",
    "claude-opus-4-6-20260205": "from 4.6 on there are no dated ids",
    "claude-opus-4-7-20260416": "from 4.6 on there are no dated ids",
}
"""Names in the tables that the card does not know on purpose."""


def our_figures(card: RateCard, on: date) -> dict[Place, Decimal]:
    found = {}
    for model, entry in card.models.items():
        for rates in _rates_in_force(card, model, on):
            for key in RATE_KEYS:
                found[Place(model, rates.speed, rates.above, key)] = rates.usd[key]
        sampling = SamplingCall(model=model, usage=Usage(web_search_requests=1_000))
        first = min(row.from_on for row in entry.rates)
        fee = price_request(card, [sampling], Terms(), on=max(on, first)).usd
        found[Place(model, "standard", 0, "web search")] = fee
        found[Place(model, "standard", 0, "us")] = entry.geography.get("us", Decimal(1))
    return found


def _rates_in_force(card: RateCard, model: str, on: date) -> Iterator[Rates]:
    for speed in card.speeds(model):
        try:
            bands = card.bands(model, on=on, speed=speed)
        except UnknownModelError:  # not launched yet
            continue
        yield from (rates for rates in bands if rates.ended_on is None)


def genai_prices_provider() -> Any:
    from genai_prices import data  # type: ignore[import-not-found,unused-ignore]

    return next(each for each in data.providers if each.id == "anthropic")


def genai_prices_figures(
    card: RateCard, provider: Any, on: date
) -> Iterator[tuple[Place, Decimal]]:
    noon = datetime(on.year, on.month, on.day, 12, tzinfo=timezone.utc)
    for model in card.models:
        info = provider.find_model(model)
        if info is None:
            continue
        standard = info.get_prices(noon)
        yield from _tiered(model, "standard", standard)
        if standard.web_searches_kcount is not None:
            yield Place(model, "standard", 0, "web search"), standard.web_searches_kcount
        fast = info.get_prices(noon, {"speed": "fast"})
        if vars(fast) != vars(standard):
            yield from _tiered(model, "fast", fast)


def _tiered(model: str, speed: str, prices: Any) -> Iterator[tuple[Place, Decimal]]:
    for key, name in GENAI_PRICES_KEYS.items():
        price = getattr(prices, name, None)
        if price is None:
            continue
        yield Place(model, speed, 0, key), getattr(price, "base", price)
        for tier in getattr(price, "tiers", ()):
            yield Place(model, speed, tier.start, key), tier.price


def litellm_figures(card: RateCard, table: Mapping[str, Any]) -> Iterator[tuple[Place, Decimal]]:
    for model in card.models:
        if model in table:
            yield from _litellm_entry(model, table[model])


def _litellm_entry(model: str, entry: Mapping[str, Any]) -> Iterator[tuple[Place, Decimal]]:
    factors = entry.get("provider_specific_entry", {})
    fee = entry.get("search_context_cost_per_query", {}).get("search_context_size_medium", 0)
    yield Place(model, "standard", 0, "us"), Decimal(factors.get("us", 1))
    yield Place(model, "standard", 0, "web search"), fee * Decimal(1_000)
    for key, name in LITELLM_KEYS.items():
        for above in (0, 100_000, 200_000):
            usd = entry.get(name + (f"_above_{above // 1_000}k_tokens" if above else ""))
            if usd is not None:
                yield Place(model, "standard", above, key), usd * 1_000_000
                if "fast" in factors:
                    yield Place(model, "fast", above, key), usd * 1_000_000 * factors["fast"]


def read_litellm_table(wheel: Path | None) -> Mapping[str, Any]:
    if wheel is not None:
        with zipfile.ZipFile(wheel) as archive:
            text = archive.read(LITELLM_TABLE).decode()
    else:
        spec = importlib.util.find_spec("litellm")  # its import takes seconds and is not needed
        if spec is None or spec.origin is None:
            sys.exit("litellm is not installed; see --help for a way without its dependencies")
        path = Path(spec.origin).parent.parent / LITELLM_TABLE
        text = path.read_text(encoding="utf-8")
    table: Mapping[str, Any] = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    return table


def compare(table: str, card: RateCard, ours: Figures, theirs: Figures, names: list[str]) -> int:
    """Say how a table differs from ours; return how many differences are new."""
    new = 0
    for name in names:
        if card.find(name) is None:
            new += name not in NOT_OURS
            say(f"{table}: has {name}: {NOT_OURS.get(name, 'NEW, not in our card')}")
    for model in sorted({place.model for place in ours} - {place.model for place in theirs}):
        say(f"{table}: does not have {model}")
    for place in sorted({*ours, *theirs}):
        one, other = ours.get(place), theirs.get(place)
        if one == other or not _is_comparable(place, theirs):
            continue
        reason = next((k.reason for k in KNOWN if k.explains(table, place)), None)
        new += reason is None
        say(f"{table}: {place}: ours {_plain(one)}, theirs {_plain(other)}: {reason or 'NEW'}")
    equal = sum(ours.get(place) == usd for place, usd in theirs.items())
    say(f"{table}: {equal} of {len(theirs)} figures equal ours")
    return new


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _is_comparable(place: Place, theirs: Figures) -> bool:
    """Whether a table has anything to say here: on the model, at that speed, of that kind."""
    return place in theirs or any(
        (each.model, each.speed) == (place.model, place.speed) and place.key in RATE_KEYS
        for each in theirs
        if each.key in RATE_KEYS
    )


def _plain(usd: Decimal | None) -> str:
    return "nothing" if usd is None else f"{usd.normalize():f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    today = datetime.now(timezone.utc).date()
    parser.add_argument("--on", type=date.fromisoformat, default=today, metavar="DATE")
    parser.add_argument("--litellm-wheel", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    card, on = shipped_card(), arguments.on
    ours = our_figures(card, on)
    provider, table = genai_prices_provider(), read_litellm_table(arguments.litellm_wheel)
    names = [model.id for model in provider.models]
    theirs = dict(genai_prices_figures(card, provider, on))
    new = compare("genai-prices", card, ours, theirs, names)
    names = [name for name in table if table[name].get("litellm_provider") == "anthropic"]
    new += compare("litellm", card, ours, dict(litellm_figures(card, table)), names)
    say(f"{new} new differences" if new else "nothing new")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())

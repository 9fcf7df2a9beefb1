"""Cliffs: prompts just under the length from which every token of the request costs more.

Data flow: a Report's calls and the RateCard -> `cliff_notes` -> sentences for the summary.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from msgspec.structs import replace

from pytest_llmcost.budgeting.report import Report
from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.metering.call import Call, PricedLeg
from pytest_llmcost.pricing.money import format_usd
from pytest_llmcost.pricing.ratecard import RateCard

_NEAR = Decimal("0.9")
"""From this share of a threshold on, a prompt is worth a note."""
_MOST_NOTES = 5


class _Near(NamedTuple):
    rise_usd: Decimal
    note: str


def cliff_notes(report: Report, card: RateCard, on: date) -> tuple[str, ...]:
    """Say which prompts are within 10% under a length band, and what crossing it costs.

    The most expensive crossings first, at most five; the rest are counted.
    """
    found = sorted(
        set(_near_cliffs(report, card, on)), key=lambda near: (-near.rise_usd, near.note)
    )
    notes = [near.note for near in found[:_MOST_NOTES]]
    if len(found) > _MOST_NOTES:
        notes.append(f"{len(found) - _MOST_NOTES} more prompts are just under a length band")
    return tuple(notes)


def _near_cliffs(report: Report, card: RateCard, on: date) -> Iterator[_Near]:
    owners = [(test.nodeid, test.calls) for test in report.tests]
    owners += [(f"fixture {fixture.name}", fixture.calls) for fixture in report.fixtures]
    for name, calls in [*owners, ("outside tests", report.outside_tests)]:
        for call in calls:
            for leg in call.legs:
                near = _near_cliff(name, call, leg, card, on)
                if near is not None:
                    yield near


def _near_cliff(name: str, call: Call, leg: PricedLeg, card: RateCard, on: date) -> _Near | None:
    tokens = leg.usage.prompt_tokens if leg.band_tokens is None else leg.band_tokens
    try:
        cliff = card.cliff(leg.model, on=on, prompt_tokens=tokens, speed=call.context.speed)
        if cliff is None or tokens < _NEAR * cliff.above:
            return None
        here = card.price_leg(leg, call.context, on=on)
        beyond = card.price_leg(replace(leg, band_tokens=cliff.above + 1), call.context, on=on)
    except UnknownModelError:
        return None
    return _Near(
        beyond.usd - here.usd,
        f"{name}: a prompt of {tokens:,} tokens is {cliff.above - tokens:,} under the band of "
        f"{leg.model}; above {cliff.above:,} the request costs {format_usd(beyond.usd)} "
        f"instead of {format_usd(here.usd)}",
    )

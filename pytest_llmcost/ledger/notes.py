"""Cliffs: prompts just under the length from which every token of the request costs more.

Data flow: a Report's calls and the RateCard -> `cliff_notes` -> sentences for the summary.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from msgspec.structs import replace

from pytest_llmcost.call import Call, PricedSamplingCall
from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.ledger.ledger import Ledger
from pytest_llmcost.ledger.totals import spenders_of
from pytest_llmcost.money import EXACT, format_usd
from pytest_llmcost.prices.rate_card import RateCard

_NEAR = Decimal("0.9")
"""From this share of a threshold on, a prompt is worth a note."""
_MOST_NOTES = 5


class _Near(NamedTuple):
    rise_usd: Decimal
    note: str


def length_band_notes(ledger: Ledger, card: RateCard, on: date) -> tuple[str, ...]:
    """Say which prompts are within 10% under a length band, and what crossing it costs.

    The most expensive crossings first, at most five; the rest are counted.
    """
    found = sorted(set(_near_bands(ledger, card, on)), key=lambda near: (-near.rise_usd, near.note))
    notes = [near.note for near in found[:_MOST_NOTES]]
    if len(found) > _MOST_NOTES:
        notes.append(f"{len(found) - _MOST_NOTES} more prompts are just under a length band")
    return tuple(notes)


def _near_bands(ledger: Ledger, card: RateCard, on: date) -> Iterator[_Near]:
    owners = [(test.nodeid, test.calls) for test in ledger.tests]
    owners += [(f"fixture {fixture.name}", fixture.calls) for fixture in ledger.fixtures]
    for name, calls in [*owners, ("outside tests", ledger.outside_tests)]:
        for call in calls:
            for sampling in call.sampling_calls:
                near = _near_band(name, call, sampling, card, on)
                if near is not None:
                    yield near


def _near_band(
    name: str, call: Call, sampling: PricedSamplingCall, card: RateCard, on: date
) -> _Near | None:
    tokens = sampling.usage.prompt_tokens if sampling.band_tokens is None else sampling.band_tokens
    try:
        next_band = card.next_band(
            sampling.model, on=on, prompt_tokens=tokens, speed=call.context.speed
        )
        if next_band is None or tokens < _NEAR * next_band.above:
            return None
        here = card.price_sampling(sampling, call.context, on=on)
        beyond = card.price_sampling(
            replace(sampling, band_tokens=next_band.above + 1), call.context, on=on
        )
    except UnknownModelError:
        return None
    return _Near(
        beyond.usd - here.usd,
        f"{name}: a prompt of {tokens:,} tokens is {next_band.above - tokens:,} under the band of "
        f"{sampling.model}; above {next_band.above:,} the request costs {format_usd(beyond.usd)} "
        f"instead of {format_usd(here.usd)}",
    )


_MOST_NAMES = 3
_MILLION = 6


def task_budget_notes(ledger: Ledger, card: RateCard, *, on: date) -> Iterator[str]:
    """Yield a sentence for each task budget that a run's payloads state, with who states it.

    The tokens are thinking, tool calls, their results and text together, over a whole task; what
    they cost at most is all of them as output, which is the dearest kind.
    """
    who: dict[tuple[str, int], dict[str, None]] = {}
    for _, name, _, calls in spenders_of(ledger):
        for call in calls:
            payload = ledger.payloads.get(call.fingerprint or "")
            if payload is not None and payload.task_budget is not None:
                key = (payload.model, payload.task_budget)
                who.setdefault(key, {})[name.partition("[")[0]] = None
    for (model, tokens), names in sorted(who.items()):
        yield _note(model, tokens, [*names], card, on)


def _note(model: str, tokens: int, names: list[str], card: RateCard, on: date) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    usd = _as_output(model, tokens, card, on)
    price = "" if usd is None else f"; all of it as output of {model} would be {format_usd(usd)}"
    return (
        f"task budget of {tokens:,} tokens in {shown}{more}: advisory, nothing enforces it, so it "
        f"bounds no price{price}"
    )


def _as_output(model: str, tokens: int, card: RateCard, on: date) -> Decimal | None:
    try:
        rate = card.rates(model, on=on).output
    except UnknownModelError:
        return None
    return EXACT.scaleb(EXACT.multiply(rate, tokens), -_MILLION)

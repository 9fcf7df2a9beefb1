"""The pages on cached prompts and on other models: their arithmetic and tables are right."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from pytest_llmcost.compare.model_support import features_of
from pytest_llmcost.counting.segments import calls_until_it_pays
from pytest_llmcost.money import format_usd
from pytest_llmcost.prices.bill import price_request
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.prices.usage import SamplingCall, Terms, Usage

DOCS = Path(__file__).resolve().parents[2] / "docs" / "how-to"
MODEL = "claude-opus-4-7"
ON = date(2026, 11, 22)


def usd(usage: Usage) -> Decimal:
    card = shipped_card()
    return price_request(card, [SamplingCall(model=MODEL, usage=usage)], Terms(), on=ON).usd


INPUT = Decimal(5)
FACTORS = {"5 minutes": Decimal("1.25"), "an hour": Decimal(2), "not cached": Decimal(1)}
"""Of the documentation: what a write costs, as a multiple of input; a read costs a tenth."""


def by_formula(name: str, *, warm: bool) -> Decimal:
    factor = FACTORS[name] if not warm or name == "not cached" else Decimal("0.1")
    return (2_000 * INPUT + 18_000 * INPUT * factor) / 10**6


def by_card(name: str, *, warm: bool) -> Decimal:
    if name == "not cached":
        return usd(Usage(input_tokens=20_000))
    if warm:
        return usd(Usage(input_tokens=2_000, cache_read_tokens=18_000))
    kind = {"5 minutes": "cache_write_5m_tokens", "an hour": "cache_write_1h_tokens"}[name]
    return usd(Usage(input_tokens=2_000, **{kind: 18_000}))


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("warm", [False, True])
def test_the_card_agrees_with_the_documentation_s_formula(name: str, *, warm: bool) -> None:
    assert by_card(name, warm=warm) == by_formula(name, warm=warm)


def test_the_worked_examples_are_worked_right() -> None:
    rows = [("the first call (cold)", 1, 0), ("each later call (warm)", 0, 1)]
    rows.append(("ten calls, one of them cold", 1, 9))
    lines = ["| | 5 minutes | an hour | not cached |", "|---|---:|---:|---:|"]
    for title, cold, warm in rows:
        sums = [
            cold * by_card(name, warm=False) + warm * by_card(name, warm=True) for name in FACTORS
        ]
        lines.append(f"| {title} | {' | '.join(map(format_usd, sums))} |")
    pays = [
        calls_until_it_pays(
            cold_usd=by_card(name, warm=False),
            warm_usd=by_card(name, warm=True),
            none_usd=by_card("not cached", warm=False),
        )
        for name in ("5 minutes", "an hour")
    ]
    lines.append(f"| cheaper than no caching from | {pays[0]} calls | {pays[1]} calls | |")
    assert "\n".join(lines) in (DOCS / "cached-prompts.md").read_text(encoding="utf-8")


def test_the_table_of_prices_is_the_cards() -> None:
    rates = shipped_card().rates(MODEL, on=ON)
    text = (DOCS / "cached-prompts.md").read_text(encoding="utf-8")
    for title, rate in (
        ("input", rates.usd["input"]),
        ("write, kept for 5 minutes", rates.usd["cache_write_5m"]),
        ("write, kept for an hour", rates.usd["cache_write_1h"]),
        ("read", rates.usd["cache_read"]),
    ):
        factor = f"{(rate / rates.usd['input']).normalize():f}"
        assert f"| {title} | {factor} | ${rate:.2f} |" in text
    assert f"| output | | ${rates.usd['output']:.2f} |" in text


REJECTED = {
    "`thinking` with a fixed budget (`enabled`)": "thinking.enabled",
    "`thinking` `adaptive`": "thinking.adaptive",
    "forced `tool_choice` (`any`, `tool`)": "tool_choice.forced",
    "`temperature`, `top_p`, `top_k`": "sampling",
    "a prefilled answer": "prefill",
    "`task_budget`": "task_budget",
    "`inference_geo`": "inference_geo",
    "`thinking` `disabled`": "thinking.disabled",
}


def test_the_page_names_every_feature_that_the_card_knows() -> None:
    text = (DOCS / "switch-the-model.md").read_text(encoding="utf-8")
    assert all(f"| {title} |" in text for title in REJECTED)
    assert {*REJECTED.values(), "thinking.disabled.xhigh"} == set(features_of({}))
    rejecting = {model for model, entry in shipped_card().models.items() if "tools." in str(entry)}
    assert rejecting == {
        "claude-fable-5-2", "claude-mythos-5-2", "claude-opus-5-5", "claude-opus-5",
        "claude-haiku-5-5",
    }  # fmt: skip

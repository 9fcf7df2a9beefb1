"""What another model rejects of a payload."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from pytest_llmcost.compare.model_support import (
    Rejections,
    features_of,
    find_rejections,
    has_fast_mode,
)
from pytest_llmcost.prices.rate_card import shipped_card

NOV = date(2026, 11, 22)
PLAIN: dict[str, Any] = {
    "model": "claude-opus-4-6",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hi"}],
}
FORCED = {"tools": [{"name": "find", "input_schema": {}}], "tool_choice": {"type": "any"}}
PREFILLED = {"messages": [*PLAIN["messages"], {"role": "assistant", "content": "{"}]}


def rejections(model: str, on: date = NOV, **more: Any) -> Rejections:
    return find_rejections({**PLAIN, **more}, model, shipped_card(), on=on)


@pytest.mark.parametrize("model", shipped_card().models)
def test_every_model_takes_a_plain_payload(model: str) -> None:
    assert rejections(model) == Rejections()


@pytest.mark.parametrize("model", shipped_card().models)
def test_the_card_names_only_features_that_are_known(model: str) -> None:
    names = shipped_card().models[model].rejects
    assert {name for name in names if not name.startswith("tools.")} <= set(features_of({}))
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("model", "payload", "named"),
    [
        ("claude-opus-5-5", FORCED, 'tool_choice "any"'),
        ("claude-sonnet-5-5", FORCED, 'tool_choice "any"'),
        ("claude-fable-5-1", {**FORCED, "tool_choice": {"type": "tool", "name": "find"}},
         'tool_choice "tool"'),
        ("claude-opus-4-7", {"thinking": {"type": "enabled", "budget_tokens": 2048}},
         'thinking "enabled"'),
        ("claude-opus-5-5", {"thinking": {"type": "disabled"}}, 'thinking "disabled"'),
        ("claude-opus-5", {"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}},
         'thinking "disabled" with effort "max"'),
        ("claude-sonnet-4-5-20250929", {"thinking": {"type": "adaptive"}}, 'thinking "adaptive"'),
        ("claude-opus-4-6", PREFILLED, "prefill (the last message is the assistant's)"),
        ("claude-sonnet-5", {"output_config": {"task_budget": {"total": 20_000}}},
         "output_config.task_budget"),
        ("claude-opus-5-5", {"tools": [{"type": "computer_20251124", "name": "computer"}]},
         "tool computer_20251124"),
        ("claude-opus-5", {"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]},
         "tool web_fetch_20250910"),
        ("claude-sonnet-5-5", {"speed": "fast"}, 'speed "fast"'),
        ("claude-opus-4-7", {"speed": "fast"}, 'speed "fast"'),
    ],
)  # fmt: skip
def test_what_would_have_to_change_is_named(
    model: str, payload: dict[str, Any], named: str
) -> None:
    assert rejections(model, **payload) == Rejections(blocking=(named,))


@pytest.mark.parametrize(
    ("model", "payload"),
    [
        ("claude-opus-5", FORCED),
        ("claude-opus-5-5", {**FORCED, "tool_choice": {"type": "auto"}}),
        ("claude-opus-5", {"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}),
        ("claude-opus-4-5-20251101", PREFILLED),
        ("claude-opus-4-7", {"thinking": {"type": "adaptive"}}),
        ("claude-opus-4-7", {"output_config": {"task_budget": {"total": 20_000}}}),
        ("claude-opus-4-8", {"speed": "fast"}),
        ("claude-opus-5-5", {"tools": [{"name": "web_fetch", "input_schema": {}}]}),
        ("claude-unheard-of", {"temperature": 0}),
    ],
)
def test_what_a_model_takes_is_not_named(model: str, payload: dict[str, Any]) -> None:
    assert rejections(model, **payload) == Rejections()


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"temperature": 0}, ("temperature",)),
        ({"temperature": 1.0}, ()),
        ({"top_p": 0.9, "top_k": 5}, ("top_p", "top_k")),
        ({"top_p": 1}, ()),
        ({"temperature": None}, ()),
    ],
)
def test_sampling_settings_cost_nothing_so_the_rest_can_be_priced(
    setting: dict[str, Any], named: tuple[str, ...]
) -> None:
    assert rejections("claude-opus-4-7", **setting) == Rejections(harmless=named)
    assert rejections("claude-opus-4-6", **setting) == Rejections()


def test_a_place_of_inference_is_rejected_by_models_that_have_none() -> None:
    assert rejections("claude-haiku-4-5-20251001", inference_geo="us").harmless == (
        "inference_geo",
    )
    assert rejections("claude-haiku-5-5", inference_geo="us") == Rejections()


def test_fast_mode_is_rejected_from_the_day_it_ended() -> None:
    card = shipped_card()
    assert has_fast_mode(card, "claude-opus-4-8", date(2026, 11, 29))
    assert not has_fast_mode(card, "claude-opus-4-8", date(2026, 11, 30))
    assert not has_fast_mode(card, "claude-sonnet-5", NOV)


@pytest.mark.parametrize(
    "odd",
    [
        {"thinking": "off"},
        {"tools": "none", "tool_choice": "any"},
        {"messages": []},
        {"messages": ["hi"]},
        {"tools": ["find"]},
        {"output_config": None},
    ],
)
def test_a_payload_that_makes_no_sense_is_left_to_the_api(odd: dict[str, Any]) -> None:
    assert rejections("claude-opus-5-5", **odd) == Rejections()

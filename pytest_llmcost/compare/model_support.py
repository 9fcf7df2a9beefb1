"""What of a payload another model rejects: settings that must change before one can switch.

The rate card lists names of features for each model; what each name means is said here.

Source: the migration guides under https://platform.claude.com/docs/en/models, and
https://platform.claude.com/docs/en/build-with-claude/task-budgets, read 2026-11-22.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import NamedTuple

from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.json_values import JsonValue
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.prices.usage import mappings

_HARMLESS = frozenset({"sampling", "inference_geo"})
"""`count_tokens` takes neither, so the count is the same without them."""


class Rejections(NamedTuple):
    """What a model rejects of a payload, in words."""

    blocking: tuple[str, ...] = ()
    """Without these the prompt would be another one, so its cost on the model is unknown."""
    harmless: tuple[str, ...] = ()
    """Settings without tokens; the rest of the payload is priced without them."""


def find_rejections(
    body: Mapping[str, JsonValue], model: str, card: RateCard, *, on: date
) -> Rejections:
    """Name what a model, by its exact id, rejects of a payload; the API may reject more."""
    blocking: list[str] = []
    harmless: list[str] = []
    features, entry = features_of(body), card.models.get(model)
    tools = [str(tool.get("type")) for tool in mappings(body.get("tools"))]
    for name in entry.rejects if entry else ():
        kind = name.removeprefix("tools.")
        if kind != name:
            blocking += [f"tool {each}" for each in tools if f"{each}_".startswith(f"{kind}_")]
        # A price file may name features of a later version.
        (harmless if name in _HARMLESS else blocking).extend(features.get(name, ()))
    if body.get("speed") == "fast" and not has_fast_mode(card, model, on):
        blocking.append('speed "fast"')
    return Rejections(tuple(blocking), tuple(harmless))


def has_fast_mode(card: RateCard, model: str, on: date) -> bool:
    """Return whether a model runs in fast mode on a day; where it has ended, it is an error."""
    try:
        return all(rates.ended_on is None for rates in card.bands(model, on=on, speed="fast"))
    except UnknownModelError:
        return False


def features_of(body: Mapping[str, JsonValue]) -> dict[str, list[str]]:
    """Return what a payload has of each feature that `rejects` may name, besides its tools."""
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    parts = (body.get("thinking"), body.get("output_config"), body.get("tool_choice"), last)
    thinking, output, choice, message = (
        part if isinstance(part, Mapping) else {} for part in parts
    )
    kind, effort, chosen = thinking.get("type"), output.get("effort"), choice.get("type")
    is_disabled, is_prefilled = kind == "disabled", message.get("role") == "assistant"
    # Default values are accepted.
    sampling = [key for key in ("temperature", "top_p") if body.get(key) not in (None, 1)]
    sampling += ["top_k"] if body.get("top_k") is not None else []
    return {
        "inference_geo": ["inference_geo"] if body.get("inference_geo") else [],
        "prefill": ["prefill (the last message is the assistant's)"] if is_prefilled else [],
        "sampling": sampling,
        "task_budget": ["output_config.task_budget"] if output.get("task_budget") else [],
        "thinking.adaptive": ['thinking "adaptive"'] if kind == "adaptive" else [],
        "thinking.disabled": ['thinking "disabled"'] if is_disabled else [],
        "thinking.disabled.xhigh": [f'thinking "disabled" with effort "{effort}"']
        if is_disabled and effort in ("xhigh", "max")
        else [],
        "thinking.enabled": ['thinking "enabled"'] if kind == "enabled" else [],
        "tool_choice.forced": [f'tool_choice "{chosen}"'] if chosen in ("any", "tool") else [],
    }

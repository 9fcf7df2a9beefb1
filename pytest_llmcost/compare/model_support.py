"""What of a payload another model rejects: settings that must change before one can switch.

The rate card lists names of features for each model; what each name means is said here.

Source: the migration guides under https://platform.claude.com/docs/en/models, and
https://platform.claude.com/docs/en/build-with-claude/task-budgets, read 2026-11-22.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, NamedTuple

from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.json_values import JsonValue
from pytest_llmcost.prices.rate_card import RateCard

Body = Mapping[str, Any]


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
    entry = card.models.get(model)
    for name in entry.rejects if entry else ():
        found = harmless if name in _HARMLESS else blocking
        if name.startswith("tools."):
            kind, tools = name.removeprefix("tools."), body.get("tools")
            types = [
                str(tool.get("type")) if isinstance(tool, Mapping) else ""
                for tool in (tools if isinstance(tools, list) else ())
            ]
            found += [f"tool {each}" for each in types if f"{each}_".startswith(f"{kind}_")]
        elif name in FEATURES:  # a price file may name features of a later version
            found += FEATURES[name](body)
    if body.get("speed") == "fast" and not has_fast_mode(card, model, on):
        blocking.append('speed "fast"')
    return Rejections(tuple(blocking), tuple(harmless))


def has_fast_mode(card: RateCard, model: str, on: date) -> bool:
    """Return whether a model runs in fast mode on a day; where it has ended, it is an error."""
    try:
        return all(rates.ended_on is None for rates in card.bands(model, on=on, speed="fast"))
    except UnknownModelError:
        return False


def _sampling(body: Body) -> list[str]:
    # Default values are accepted.
    settings = [key for key in ("temperature", "top_p") if body.get(key) not in (None, 1)]
    return settings + ["top_k"] * (body.get("top_k") is not None)


def _thinking(kind: str, efforts: tuple[str, ...] = ()) -> Callable[[Body], list[str]]:
    def find(body: Body) -> list[str]:
        effort = _part(body, "output_config").get("effort")
        if _part(body, "thinking").get("type") != kind or (efforts and effort not in efforts):
            return []
        return [f'thinking "{kind}"' + (f' with effort "{effort}"' if efforts else "")]

    return find


def _forced_choice(body: Body) -> list[str]:
    kind = _part(body, "tool_choice").get("type")
    return [f'tool_choice "{kind}"'] if kind in ("any", "tool") else []


def _prefill(body: Body) -> list[str]:
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    is_prefill = isinstance(last, Mapping) and last.get("role") == "assistant"
    return ["prefill (the last message is the assistant's)"] * is_prefill


def _part(body: Body, key: str) -> Mapping[str, Any]:
    part = body.get(key)
    return part if isinstance(part, Mapping) else {}


FEATURES: Mapping[str, Callable[[Body], list[str]]] = {
    "inference_geo": lambda body: ["inference_geo"] if body.get("inference_geo") else [],
    "prefill": _prefill,
    "sampling": _sampling,
    "task_budget": lambda body: (
        ["output_config.task_budget"] if _part(body, "output_config").get("task_budget") else []
    ),
    "thinking.adaptive": _thinking("adaptive"),
    "thinking.disabled": _thinking("disabled"),
    "thinking.disabled.xhigh": _thinking("disabled", ("xhigh", "max")),
    "thinking.enabled": _thinking("enabled"),
    "tool_choice.forced": _forced_choice,
}
"""What a rate card's `rejects` may name, besides `tools.` and a type or its beginning."""

_HARMLESS = frozenset({"sampling", "inference_geo"})
"""`count_tokens` takes neither, so the count is the same without them."""

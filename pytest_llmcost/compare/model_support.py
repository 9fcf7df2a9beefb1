"""What of a payload another model rejects: settings that must change before one can switch.

Data flow: a payload's body and the names that the rate card lists for a model -> Rejections.

Source: the migration guides under https://platform.claude.com/docs/en/models, and
https://platform.claude.com/docs/en/build-with-claude/task-budgets, read 2026-11-22.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from typing import Any, NamedTuple

from pytest_llmcost.errors import UnknownModelError
from pytest_llmcost.json_values import JsonValue
from pytest_llmcost.prices.rate_card import RateCard

Body = Mapping[str, Any]


class Rejections(NamedTuple):
    """What a model rejects of a payload, in words."""

    blocking: tuple[str, ...] = ()
    """Without these the prompt would be another one: what it costs there is unknown."""
    harmless: tuple[str, ...] = ()
    """Settings without tokens; once they are gone the rest costs what is said."""


def find_rejections(
    body: Mapping[str, JsonValue], model: str, card: RateCard, *, on: date
) -> Rejections:
    """Name what a model is known to reject of a payload; the API may reject more.

    Args:
        body: The payload.
        model: A model's exact id.
        card: Says what each model rejects, and which have a fast mode.
        on: The day of the switch.
    """
    blocking: list[str] = []
    harmless: list[str] = []
    entry = card.models.get(model)
    for name in entry.rejects if entry else ():
        found = harmless if name in _HARMLESS else blocking
        found += _named(name, body)
    if body.get("speed") == "fast" and not has_fast_mode(card, model, on):
        blocking.append('speed "fast"')
    return Rejections(tuple(blocking), tuple(harmless))


def has_fast_mode(card: RateCard, model: str, on: date) -> bool:
    """Tell whether a model runs in fast mode on a day; one that has ended is an error."""
    try:
        return all(rates.ended_on is None for rates in card.bands(model, on=on, speed="fast"))
    except UnknownModelError:
        return False


def _named(name: str, body: Body) -> Iterable[str]:
    if name.startswith("tools."):
        return _tools(body, name.removeprefix("tools."))
    return FEATURES[name](body) if name in FEATURES else ()


def _sampling(body: Body) -> Iterator[str]:
    """Only values that are not the default are rejected."""
    for key in ("temperature", "top_p"):
        if body.get(key) not in (None, 1):
            yield key
    if body.get("top_k") is not None:
        yield "top_k"


def _geography(body: Body) -> Iterator[str]:
    if body.get("inference_geo"):
        yield "inference_geo"


def _task_budget(body: Body) -> Iterator[str]:
    if _part(body, "output_config").get("task_budget"):
        yield "output_config.task_budget"


def _thinking(kind: str) -> Callable[[Body], Iterator[str]]:
    def find(body: Body) -> Iterator[str]:
        if _part(body, "thinking").get("type") == kind:
            yield f'thinking "{kind}"'

    return find


def _thinking_off_with_effort(body: Body) -> Iterator[str]:
    effort = _part(body, "output_config").get("effort")
    if effort in ("xhigh", "max") and _part(body, "thinking").get("type") == "disabled":
        yield f'thinking "disabled" with effort "{effort}"'


def _forced_choice(body: Body) -> Iterator[str]:
    kind = _part(body, "tool_choice").get("type")
    if kind in ("any", "tool"):
        yield f'tool_choice "{kind}"'


def _prefill(body: Body) -> Iterator[str]:
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(last, Mapping) and last.get("role") == "assistant":
        yield "prefill (the last message is the assistant's)"


def _tools(body: Body, kind: str) -> Iterator[str]:
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list) else []:
        found = str(tool.get("type")) if isinstance(tool, Mapping) else ""
        if found == kind or found.startswith(f"{kind}_"):
            yield f"tool {found}"


def _part(body: Body, key: str) -> Mapping[str, Any]:
    part = body.get(key)
    return part if isinstance(part, Mapping) else {}


FEATURES: Mapping[str, Callable[[Body], Iterator[str]]] = {
    "inference_geo": _geography,
    "prefill": _prefill,
    "sampling": _sampling,
    "task_budget": _task_budget,
    "thinking.adaptive": _thinking("adaptive"),
    "thinking.disabled": _thinking("disabled"),
    "thinking.disabled.xhigh": _thinking_off_with_effort,
    "thinking.enabled": _thinking("enabled"),
    "tool_choice.forced": _forced_choice,
}
"""What a rate card's `rejects` may name, besides `tools.` and a type or its beginning."""

_HARMLESS = frozenset({"sampling", "inference_geo"})
"""`count_tokens` takes neither, so the count is the same without them."""

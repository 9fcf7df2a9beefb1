"""What to count to know what caching a prompt costs: the payload cut at its breakpoints.

Data flow: Payload -> `plan_caching` -> CachePlan, the payloads to count -> `split_prompt`.

Each cut is counted from the beginning of the prompt, never by itself, for tokens join across
borders; a segment is the difference between two prefixes, so that segments add up to the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pytest_llmcost.metering.breakpoints import Breakpoint, Place, find_breakpoints
from pytest_llmcost.metering.json_value import JsonValue
from pytest_llmcost.metering.payload import Payload, read_payload

_PLACEHOLDER: Mapping[str, JsonValue] = {"role": "user", "content": "."}
"""A prompt needs a message. This one closes a cut that has none, or ends with an answer, and is
counted alone as well, to be taken off."""

_MESSAGE_SETTINGS = ("thinking", "output_config", "output_format", "context_management")
"""Hidden prompt behind tools and system: the cache of those two outlives a change of them."""


class Cut(NamedTuple):
    """A prefix of the prompt, as a payload that can be counted."""

    point: Breakpoint
    payload: Payload
    closed: bool
    """With the placeholder behind it, which counts for nothing."""
    exact: bool = True
    """False where open tool calls had to be answered, which counts for a few tokens."""


class CachePlan(NamedTuple):
    """What must be counted to know what caching a payload costs."""

    whole: Payload
    cuts: tuple[Cut, ...]
    placeholder: Payload

    @property
    def payloads(self) -> tuple[Payload, ...]:
        """All that must be counted, the whole first, each once."""
        needed = [self.whole, *(cut.payload for cut in self.cuts)]
        if any(cut.closed for cut in self.cuts):
            needed.append(self.placeholder)
        return tuple({one.fingerprint: one for one in needed}.values())


def plan_caching(
    payload: Payload, *, read: Callable[[Mapping[str, Any]], Payload] | None = None
) -> CachePlan:
    """Cut a payload at its breakpoints.

    Args:
        payload: What would be sent.
        read: Makes a Payload of a cut's body; `read_payload` with the payload's own model
            and betas unless given.

    Raises:
        PayloadError: breakpoints that the API would refuse.
    """

    def read_here(body: Mapping[str, Any]) -> Payload:
        return read_payload(body, betas=payload.betas, resolve=lambda _: payload.model)

    read = read or read_here
    points = find_breakpoints(payload.body)
    cuts = tuple(_cut(payload, point, read) for point in points)
    return CachePlan(payload, cuts, read({"model": payload.body["model"], "messages": [_ph()]}))


def _cut(payload: Payload, point: Breakpoint, read: Callable[[Mapping[str, Any]], Payload]) -> Cut:
    body, place = payload.body, point.place
    if _is_last(body, place):
        return Cut(point, payload, closed=False)
    kept = {"model": body["model"], **_tools_of(body, place)}
    if place.group != "tools" and "system" in body:
        kept["system"] = _system_of(body["system"], place)
    if place.group != "messages":
        return Cut(point, read({**kept, "messages": [_ph()]}), closed=True)
    kept |= {key: body[key] for key in _MESSAGE_SETTINGS if key in body}
    turns, closed, exact = _close(_turns_of(body["messages"], place))
    return Cut(point, read({**kept, "messages": turns}), closed, exact)


def _ph() -> dict[str, JsonValue]:
    return dict(_PLACEHOLDER)


def _is_last(body: Mapping[str, JsonValue], place: Place) -> bool:
    """Whether nothing of the prompt comes after this block."""
    messages = body.get("messages") or []
    if place.group != "messages" or place.number != len(messages) - 1:
        return False
    return place.block is None or place.block == len(messages[-1]["content"]) - 1


def _tools_of(body: Mapping[str, JsonValue], place: Place) -> dict[str, JsonValue]:
    tools = body.get("tools") or []
    kept = tools[: place.number + 1] if place.group == "tools" else tools
    if not kept:
        return {}
    found: dict[str, JsonValue] = {"tools": _plain(kept)}
    for key in ("tool_choice", "mcp_servers"):
        if body.get(key) is not None:
            found[key] = body[key]
    chosen = (body.get("tool_choice") or {}).get("name")
    if chosen and chosen not in [tool.get("name") for tool in kept]:
        found["tool_choice"] = {"type": "any"}  # forced, too: the same hidden prompt
    return found


def _system_of(system: JsonValue, place: Place) -> JsonValue:
    if place.group == "system" and isinstance(system, list):
        return _plain(system[: place.number + 1])
    return _plain(system)


def _turns_of(messages: list[JsonValue], place: Place) -> list[JsonValue]:
    *before, last = messages[: place.number + 1]
    if place.block is not None:
        last = {**last, "content": last["content"][: place.block + 1]}
    return [_plain(turn) for turn in (*before, last)]


def _plain(value: JsonValue) -> JsonValue:
    """Without breakpoints, which count for nothing: moving one needs no new count."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key != "cache_control"}
    return value


def _close(turns: list[JsonValue]) -> tuple[list[JsonValue], bool, bool]:
    """Make a cut conversation one that the API takes: also, is it closed, is it exact."""
    last = turns[-1]
    if last["role"] == "assistant":
        open_calls = _ids(last, "tool_use", "id")
        if not open_calls:
            return [*turns, _ph()], True, True
        return [*turns, {"role": "user", "content": _answers(open_calls)}], True, False
    asked = _ids(turns[-2], "tool_use", "id") if len(turns) > 1 else []
    given = _ids(last, "tool_result", "tool_use_id")
    missing = [name for name in asked if name not in given]
    if not missing:
        return turns, False, True
    content = last["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [*turns[:-1], {**last, "content": [*blocks, *_answers(missing)]}], False, False


def _ids(turn: Mapping[str, Any], kind: str, key: str) -> list[str]:
    content = turn["content"]
    blocks = content if isinstance(content, list) else []
    return [block[key] for block in blocks if block.get("type") == kind]


def _answers(names: list[str]) -> list[JsonValue]:
    return [{"type": "tool_result", "tool_use_id": name} for name in names]

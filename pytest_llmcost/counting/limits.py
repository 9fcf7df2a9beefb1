"""Where a payload's prompt is cached: its `cache_control` breakpoints, in the prompt's order.

Data flow: a payload's body -> `find_breakpoints` -> Breakpoints, tools before system before
messages. What the API would refuse is an error here, before anything is counted.

Source: https://platform.claude.com/docs/en/build-with-claude/prompt-caching, read 2026-08-22.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast

from pytest_llmcost.counting.payload import sampling_tools
from pytest_llmcost.errors import PayloadError
from pytest_llmcost.json_values import JsonValue

Ttl = Literal["5m", "1h"]
MOST_BREAKPOINTS = 4
_NEVER_CACHED = ("thinking", "redacted_thinking")


class Place(NamedTuple):
    """A block of the prompt: the tool, the block of the system prompt, or the message's block."""

    group: Literal["tools", "system", "messages"]
    number: int
    block: int | None = None
    """Within a message; None where the message is one text."""

    def __str__(self) -> str:
        within = f".content.{self.block}" if self.block is not None else ""
        return f"{self.group}.{self.number}{within}"


class Breakpoint(NamedTuple):
    """The prompt is cached up to and including the block at `place`."""

    place: Place
    ttl: Ttl = "5m"
    automatic: bool = False
    """From the payload's own top-level `cache_control`."""


def find_breakpoints(body: Mapping[str, JsonValue]) -> tuple[Breakpoint, ...]:
    """Return a payload's breakpoints in the prompt's order, the automatic one included.

    Raises:
        PayloadError: more than four, an hour's after one of five minutes, or an unknown life.
    """
    blocks = list(_blocks(body))
    found = [
        Breakpoint(place, _ttl(control, f"{place}.cache_control"))
        for place, block in blocks
        for control in _controls(block)
    ]
    if automatic := body.get("cache_control"):
        found = _with_automatic(found, blocks, _ttl(automatic, "cache_control"))
    if len(found) > MOST_BREAKPOINTS:
        places = ", ".join(str(point.place) for point in found)
        raise PayloadError(
            f"{len(found)} cache breakpoints ({places}); the API takes {MOST_BREAKPOINTS}, the "
            "automatic one included",
            path=f"{found[MOST_BREAKPOINTS].place}.cache_control",
        )
    for before, after in pairwise(found):
        if (before.ttl, after.ttl) == ("5m", "1h"):
            raise PayloadError(
                f"the breakpoint at {after.place} lives 1h and comes after the one at "
                f"{before.place}, which lives 5m; the API wants the longer life first "
                "(tools, then system, then messages)",
                path=f"{after.place}.cache_control.ttl",
            )
    return tuple(found)


def _blocks(body: Mapping[str, JsonValue]) -> Iterator[tuple[Place, JsonValue]]:
    for index, tool in enumerate(_list(body.get("tools"))):
        yield Place("tools", index), tool
    for index, block in enumerate(_texts(body.get("system"))):
        yield Place("system", index), block
    for index, message in enumerate(_list(body.get("messages"))):
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            yield Place("messages", index), {"type": "text", "text": content}
        for number, block in enumerate(_list(content)):
            yield Place("messages", index, number), block


def _list(value: JsonValue) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _texts(system: JsonValue) -> Sequence[Any]:
    return [{"type": "text", "text": system}] if isinstance(system, str) else _list(system)


def _controls(block: JsonValue) -> Iterator[Mapping[str, Any]]:
    """A block's own breakpoint, and those on blocks inside of it, which end with it."""
    if isinstance(block, dict):
        for inner in _list(block.get("content")):
            yield from _controls(inner)
        if block.get("cache_control"):
            yield block["cache_control"]


def _ttl(control: JsonValue, path: str) -> Ttl:
    ttl = control.get("ttl") or "5m" if isinstance(control, dict) else None
    if ttl not in ("5m", "1h"):
        raise PayloadError(
            f'{path} lives {ttl!r}; expected {{"type": "ephemeral"}} with ttl "5m" or "1h"',
            path=path,
        )
    return cast("Ttl", ttl)


def _with_automatic(
    found: list[Breakpoint], blocks: list[tuple[Place, JsonValue]], ttl: Ttl
) -> list[Breakpoint]:
    """Add the breakpoint that the API sets on the last block that can be cached."""
    places = [place for place, block in blocks if _can_be_cached(block)]
    if not places:
        return found
    for point in found:
        if point.place == places[-1]:
            return found  # its own is there already
    return sorted([*found, Breakpoint(places[-1], ttl, automatic=True)], key=_order)


def _can_be_cached(block: JsonValue) -> bool:
    if not isinstance(block, dict) or block.get("type") in _NEVER_CACHED:
        return False
    return block.get("type") != "text" or bool(block.get("text"))


def _order(point: Breakpoint) -> tuple[int, int, int]:
    group, number, block = point.place
    return ("tools", "system", "messages").index(group), number, -1 if block is None else block


_MORE_CALLS = ("fallbacks", "compaction", "context_management", "container")
"""With these one request may be several sampling calls, or another model's."""


def longest_reply(body: Mapping[str, JsonValue]) -> int | None:
    """Return the most output tokens that one request can be billed; None where nothing bounds it.

    `max_tokens`, thinking included, bounds one sampling call. What runs on the server makes
    several of them.
    """
    most = body.get("max_tokens")
    if not isinstance(most, int) or isinstance(most, bool) or most < 0:
        return None
    lists = (body.get("tools"), body.get("mcp_servers"))
    if not all(each is None or isinstance(each, list) for each in lists):
        return None
    if any(sampling_tools(body)) or any(body.get(key) for key in _MORE_CALLS):
        return None
    return most


def task_budget_of(body: Mapping[str, JsonValue]) -> int | None:
    """Return the tokens that the model is told to keep to, over the whole loop of a task.

    Advisory: nothing enforces it, and usage does not show it.

    Source: https://platform.claude.com/docs/en/build-with-claude/task-budgets, read 2026-11-22.
    """
    config = body.get("output_config")
    budget: Any = config.get("task_budget") if isinstance(config, Mapping) else None
    if not isinstance(budget, Mapping):
        return None
    tokens = budget.get("remaining", budget.get("total"))
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) else None


def count_breakpoints(body: Mapping[str, JsonValue]) -> int:
    """Return how many cached prefixes a prompt asks for; none where the API would refuse them."""
    try:
        return len(find_breakpoints(body))
    except PayloadError:
        return 0

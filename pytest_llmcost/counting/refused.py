"""When `count_tokens` refuses a part that `create` takes: count without it, and say so.

Data flow: a body and the API's message (HTTP 400) -> `leave_out` -> Trimmed, or nothing where
the message names no part that only counting refuses; then the refusal is the user's to read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pytest_llmcost.counting.payload import (
    runs_elsewhere,
    tool_name,
)
from pytest_llmcost.json_values import JsonValue
from pytest_llmcost.money import read_digits

_REFUSING = re.compile(
    r"not (?:yet |currently )?(?:supported|permitted|allowed|available|accepted)|unsupported"
    r"|does not match any of the expected tags|unexpected value",
    re.IGNORECASE,
)
_PATH = re.compile(r"(?P<path>[A-Za-z_]+(?:\.\w+)*)\s*:")
_COUNTING = re.compile(r"count_tokens|token counting|counting tokens", re.IGNORECASE)
_NEEDED = frozenset({"messages", "model", "system", "tools"})
_FETCHED_SOURCES = frozenset({"url", "file"})
_STAND_IN: Mapping[str, JsonValue] = {"type": "text", "text": "."}
"""Keeps a turn from being empty; one token, and less than anything it replaces."""


class Trimmed(NamedTuple):
    """A payload without what was refused."""

    body: dict[str, JsonValue]
    betas: tuple[str, ...]
    left_out: str
    """Which part, as a path in the payload."""


def leave_out(
    body: Mapping[str, JsonValue], betas: tuple[str, ...], message: str
) -> Trimmed | None:
    """Take out the one part that a refusal names, if `create` would take it.

    Parts are optional keys of the body, tools that run on the server, blocks whose source is
    fetched by the server or that tell of a server tool, and betas. A custom tool with a broken
    schema, say, stays: `create` would refuse it as well, and the user shall read why.

    Example:
        >>> tools = [{"type": "web_search_20250305", "name": "web_search"}]
        >>> said = "Server tools are not supported in count_tokens: web_search_20250305."
        >>> leave_out({"tools": tools}, (), said).left_out
        'tools.web_search'
    """
    segments = _named_path(message)
    if _REFUSING.search(message):
        for trimmed in (
            _without_tool(body, segments, message),
            _without_key(body, segments, message),
        ):
            if trimmed is not None:
                return Trimmed(trimmed[0], betas, trimmed[1])
        for beta in betas:
            if beta in message:
                kept = tuple(name for name in betas if name != beta)
                return Trimmed(dict(body), kept, f"betas.{beta}")
    block = _without_block(body, segments, message)
    return Trimmed(block[0], betas, block[1]) if block else None


def _named_path(message: str) -> list[str]:
    match = _PATH.match(message)
    return match["path"].split(".") if match else []


_Found = tuple[dict[str, JsonValue], str] | None


def _without_tool(body: Mapping[str, JsonValue], path: list[str], message: str) -> _Found:
    tools = body.get("tools") or []
    for index, tool in enumerate(tools):
        if not runs_elsewhere(tool):
            continue
        if path[:2] == ["tools", str(index)] or _names(message, tool):
            kept = [*tools[:index], *tools[index + 1 :]]
            return _with_tools(body, kept), f"tools.{tool_name(tool, index)}"
    return None


def _names(message: str, tool: Mapping[str, Any]) -> bool:
    return re.search(rf"(?<!\w){re.escape(str(tool['type']))}(?!\w)", message) is not None


def _with_tools(body: Mapping[str, JsonValue], tools: list[JsonValue]) -> dict[str, JsonValue]:
    """The body with these tools alone; a choice among tools goes with the last of them."""
    trimmed = {**body, "tools": tools}
    chosen = (body.get("tool_choice") or {}).get("name")
    names = [tool.get("name") for tool in tools if isinstance(tool, dict)]
    if not tools or (chosen and chosen not in names):
        trimmed.pop("tool_choice", None)
    if not tools:
        del trimmed["tools"]
    return trimmed


def _without_key(body: Mapping[str, JsonValue], path: list[str], message: str) -> _Found:
    optional = [key for key in body if key not in _NEEDED]
    named = path[:1] if len(path) == 1 or path[:1] == ["mcp_servers"] else []
    if not path and _COUNTING.search(message):
        named = [key for key in optional if re.search(rf"\b{re.escape(key)}\b", message)][:1]
    if not named or named[0] not in optional:
        return None
    return {key: value for key, value in body.items() if key != named[0]}, named[0]


def _without_block(body: Mapping[str, JsonValue], path: list[str], message: str) -> _Found:
    """Take out the block at `messages.I.content.J` (or, in a tool's result, `...content.K`)."""
    if len(path) < 4 or path[0] != "messages" or path[2] != "content":
        return None
    try:
        message_at, block_at = int(path[1]), int(path[3])
        turn = body["messages"][message_at]
        block = turn["content"][block_at]
        inner = _inner_index(path[4:], block)
        blamed = block if inner is None else block["content"][inner]
    except (ValueError, IndexError, KeyError, TypeError, AttributeError):
        return None  # it names a place that the payload does not have
    if not _only_counting_refuses(blamed, message):
        return None
    if inner is None:
        content = _cut(turn["content"], block_at)
    else:
        content = list(turn["content"])
        content[block_at] = {**block, "content": _cut(block["content"], inner)}
    messages = list(body["messages"])
    messages[message_at] = {**turn, "content": content}
    place = f"messages.{message_at}.content.{block_at}"
    place += f".content.{inner}" if inner is not None else ""
    return {**body, "messages": messages}, f"{place} ({_kind(blamed)})"


def _inner_index(rest: list[str], block: Mapping[str, Any]) -> int | None:
    if block.get("type") != "tool_result" or "content" not in rest:
        return None
    after = rest[rest.index("content") + 1 :]
    return read_digits(after[0]) if after else None


def _only_counting_refuses(block: Mapping[str, Any], message: str) -> bool:
    if _is_fetched(block):
        return _REFUSING.search(message) is not None
    kind = str(block.get("type"))
    return kind in ("server_tool_use", "mcp_tool_use", "container_upload") or (
        kind.endswith("_tool_result") and kind != "tool_result"
    )


def _is_fetched(block: Mapping[str, Any]) -> bool:
    source = block.get("source")
    return isinstance(source, dict) and source.get("type") in _FETCHED_SOURCES


def _kind(block: Mapping[str, Any]) -> str:
    kind = str(block.get("type"))
    return f"{kind} from {block['source']['type']}" if _is_fetched(block) else kind


def _cut(blocks: list[JsonValue], index: int) -> list[JsonValue]:
    kept = [*blocks[:index], *blocks[index + 1 :]]
    return kept or [dict(_STAND_IN)]

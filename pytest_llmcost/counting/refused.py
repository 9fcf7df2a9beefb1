"""What `count_tokens` refuses although `messages.create` takes it: count without it, and say so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pytest_llmcost.counting.payload import is_server_tool, tool_name
from pytest_llmcost.counting.prompt import as_list
from pytest_llmcost.json_values import JsonValue

_REFUSING = re.compile(
    r"not (?:yet |currently )?(?:supported|permitted|allowed|available|accepted)|unsupported"
    r"|does not match any of the expected tags|unexpected value",
    re.IGNORECASE,
)
_PATH = re.compile(r"(?P<path>[A-Za-z_]+(?:\.\w+)*)\s*:")
_NEEDED = frozenset({"messages", "model", "system", "tools"})
_STAND_IN: Mapping[str, JsonValue] = {"type": "text", "text": "."}
"""Keeps a turn from being empty; one token, and less than anything it replaces."""


class Trimmed(NamedTuple):
    """A payload without what was refused."""

    body: dict[str, JsonValue]
    left_out: str
    """Which part, as a path in the payload."""


def leave_out(body: Mapping[str, JsonValue], message: str) -> Trimmed | None:
    """Take out the one part that a refusal (400) names, if `create` would take it.

    Such parts are tools that run on the server, optional keys of the body, and blocks whose
    source is fetched by the server or that belong to a server tool. Anything else stays: `create`
    would refuse a custom tool with a broken schema as well, and the user is to read why.

    Example:
        >>> tools = [{"type": "web_search_20250305", "name": "web_search"}]
        >>> said = "Server tools are not supported in count_tokens: web_search_20250305."
        >>> leave_out({"tools": tools}, said).left_out
        'tools.web_search'
    """
    match = _PATH.match(message)
    path = match["path"].split(".") if match else []
    if path[:1] == ["messages"]:
        return _without_block(body, path, message)
    if not _REFUSING.search(message):
        return None
    for index, tool in enumerate(as_list(body.get("tools"))):
        named = is_server_tool(tool) and re.search(rf"(?<!\w){re.escape(tool['type'])}\b", message)
        if named or (path[:2] == ["tools", str(index)] and is_server_tool(tool)):
            return _without_tool(body, index)
    if path[:1] == ["mcp_servers"] or len(path) == 1:
        key = path[0]
        if key in body.keys() - _NEEDED:
            return Trimmed({name: body[name] for name in body if name != key}, key)
    return None


def _without_tool(body: Mapping[str, JsonValue], index: int) -> Trimmed:
    """Take out a tool; a choice among tools goes with the tool it names, or with the last one."""
    tools = body["tools"]
    kept = [*tools[:index], *tools[index + 1 :]]
    trimmed = {**body, "tools": kept}
    chosen = (body.get("tool_choice") or {}).get("name")
    if not kept or (chosen and chosen not in [each.get("name") for each in kept]):
        trimmed.pop("tool_choice", None)
    if not kept:
        del trimmed["tools"]
    return Trimmed(trimmed, f"tools.{tool_name(tools[index], index)}")


def _without_block(body: Mapping[str, JsonValue], path: list[str], message: str) -> Trimmed | None:
    """Take out the block at `messages.I.content.J`."""
    try:
        turn_at, block_at = int(path[1]), int(path[3])
        turn = body["messages"][turn_at]
        content = turn[path[2]]
        kind, source = content[block_at]["type"], content[block_at].get("source") or {}
        is_fetched = source.get("type") in ("url", "file")
    except (ValueError, IndexError, KeyError, TypeError, AttributeError):
        return None  # it names a place that the payload does not have
    if is_fetched and _REFUSING.search(message):
        kind = f"{kind} from {source['type']}"
    elif kind == "tool_result" or not kind.endswith(
        ("_tool_result", "server_tool_use", "mcp_tool_use", "container_upload")
    ):
        return None
    kept = [*content[:block_at], *content[block_at + 1 :]] or [dict(_STAND_IN)]
    messages: list[Any] = list(body["messages"])
    messages[turn_at] = {**turn, "content": kept}
    place = f"messages.{turn_at}.content.{block_at}"
    return Trimmed({**body, "messages": messages}, f"{place} ({kind})")

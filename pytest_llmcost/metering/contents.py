"""Contents: what the blocks of a response, and of its request, tell about the bill.

Data flow: `content` of a response, the request's payload -> what was declined, searched, run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from pytest_llmcost.metering.usagedata import text_at
from pytest_llmcost.pricing.cardfile import CodeExecution

Blocks = Sequence[Mapping[str, object]]

_LOOPING = ("server_tool_use", "mcp_tool_use")
_CODE_TOOLS = ("code_execution", "bash_code_execution", "text_editor_code_execution")
_DATED_TOOL = re.compile(r"(?P<name>[a-z_]+)_(?P<date>\d{8})")
_FILLINGS = {"text": ("text",), "thinking": ("thinking", "signature"), "compaction": ("content",)}
"""Blocks that may be empty, and where what they say would stand."""


class Fallback(NamedTuple):
    """One change of model inside a response, and what the declining model had said by then."""

    declined: str | None
    serving: str | None
    category: str | None
    spoke: bool
    """Whether any output of the declining model stands before it."""


def blocks_of(body: Mapping[str, object]) -> Blocks:
    """Return the content blocks of a message; what a recorder put in their place counts as text."""
    content = body.get("content")
    if isinstance(content, (list, tuple)):
        return [block for block in content if isinstance(block, Mapping)]
    return [{"type": "text", "text": content}] if content else []


def fallbacks_of(blocks: Blocks) -> list[Fallback]:
    """Return the changes of model in the order in which they happened."""
    found = []
    spoke = False
    for block in blocks:
        if block.get("type") != "fallback":
            spoke = spoke or says_something(block)
            continue
        names = (_part(block, "from").get("model"), _part(block, "to").get("model"))
        declined, serving = (name if isinstance(name, str) else None for name in names)
        category = text_at(_part(block, "trigger"), "category")
        found.append(Fallback(declined, serving, category, spoke))
        spoke = False
    return found


def last_words(blocks: Blocks) -> Blocks:
    """Return what the serving model itself said: the blocks behind the last change of model."""
    changes = [index for index, block in enumerate(blocks) if block.get("type") == "fallback"]
    return blocks[changes[-1] + 1 :] if changes else blocks


def says_something(block: Mapping[str, object]) -> bool:
    """Tell whether a block is output: every one but those of text that hold none."""
    fillings = _FILLINGS.get(str(block.get("type")))
    return fillings is None or any(block.get(key) for key in fillings)


def only_resumes_code(blocks: Blocks) -> bool:
    """Tell whether an answer only hands on the tool calls of code that has run on.

    The model was not sampled for it, so its usage is nothing but zeros.

    Source: recorded traffic of anthropics/anthropic-sdk-python and vercel/ai, and
    https://platform.claude.com/docs/en/agents-and-tools/tool-use/programmatic-tool-calling
    """
    return bool(blocks) and all(
        block.get("type") == "tool_use"
        and (text_at(_part(block, "caller"), "type") or "").startswith("code_execution")
        for block in blocks
    )


def advisor_calls(blocks: Blocks) -> int:
    """Count the advisor calls that gave advice; one that failed is not billed."""
    asked = sum(_is_tool_use(block, ("advisor",)) for block in blocks)
    answers = [block for block in blocks if block.get("type") == "advisor_tool_result"]
    kinds = [text_at(_part(block, "content"), "type") or "" for block in answers]
    failed = sum(kind.endswith("_error") for kind in kinds)
    return max(asked, len(answers)) - failed


def has_server_loop(blocks: Blocks, usage: Mapping[str, object]) -> bool:
    """Tell whether the response may sum up several sampling calls."""
    used = usage.get("server_tool_use")
    counted = isinstance(used, Mapping) and any(used.values())
    return counted or any(block.get("type") in _LOOPING for block in blocks)


def runs_code(blocks: Blocks, request: Mapping[str, object] | None) -> bool:
    """Tell whether a container may have run: code was executed, or files were attached to it."""
    if any(
        _is_tool_use(block, _CODE_TOOLS)
        or str(block.get("type")).endswith("code_execution_tool_result")
        for block in blocks
    ):
        return True
    if request is None or not any(kind.startswith("code_execution_") for kind in _tools(request)):
        return False
    return any(block.get("type") == "container_upload" for block in _sent_blocks(request))


def is_code_free(request: Mapping[str, object] | None, terms: CodeExecution | None) -> bool:
    """Tell whether the request's other tools make container time free.

    Source: https://platform.claude.com/docs/en/about-claude/pricing, read 2026-10-08
    """
    if request is None or terms is None:
        return False
    return any(_is_as_new(kind, free) for kind in _tools(request) for free in terms.free_beside)


def _is_as_new(kind: str, known: str) -> bool:
    """Tell whether a tool is of the same name as another and not older."""
    tool, other = _DATED_TOOL.fullmatch(kind), _DATED_TOOL.fullmatch(known)
    return (
        tool is not None
        and other is not None
        and tool["name"] == other["name"]
        and tool["date"] >= other["date"]
    )


def runs_server_tools(request: Mapping[str, object]) -> bool:
    """Tell whether a request may make the API sample more than once, or with another model."""
    more = ("mcp_servers", "fallbacks", "context_management", "compaction", "container")
    return any(request.get(key) for key in more) or any(
        kind != "custom" for kind in _tools(request)
    )


def read_lifetime(request: Mapping[str, object]) -> Literal["5m", "1h"] | None:
    """Return how long all cache entries live that a request asks for; None where they differ."""
    lifetimes = {str(mark.get("ttl") or "5m") for mark in _cache_marks(request)}
    if lifetimes == {"1h"}:
        return "1h"
    return "5m" if lifetimes == {"5m"} else None


def _cache_marks(value: object) -> Iterator[Mapping[str, object]]:
    if isinstance(value, Mapping):
        mark = value.get("cache_control")
        if isinstance(mark, Mapping) and mark.get("type") == "ephemeral":
            yield mark
        for part in value.values():
            yield from _cache_marks(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _cache_marks(part)


def _tools(request: Mapping[str, object]) -> Iterator[str]:
    for tool in _list(request.get("tools")):
        if isinstance(tool, Mapping):
            yield str(tool.get("type") or "custom")


def _sent_blocks(request: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    for message in _list(request.get("messages")):
        if isinstance(message, Mapping):
            yield from (b for b in _list(message.get("content")) if isinstance(b, Mapping))


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else ()


def _part(block: Mapping[str, object], key: str) -> Mapping[str, object]:
    part = block.get(key)
    return part if isinstance(part, Mapping) else {}


def _is_tool_use(block: Mapping[str, object], names: Sequence[str]) -> bool:
    return block.get("type") == "server_tool_use" and block.get("name") in names

"""What the API refuses, in its own words and order. Each rule gives the message, or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from standin.models import Model, find_model
from standin.prompt import breakpoints, lay_out

_COUNT = {
    "messages", "model", "cache_control", "output_config", "output_format", "speed", "system",
    "thinking", "tool_choice", "tools",
}  # fmt: skip
_COUNT_BETA = _COUNT | {"billing_policy", "compaction", "context_management", "mcp_servers"}
_CREATE = _COUNT | {
    "max_tokens", "container", "diagnostics", "inference_geo", "metadata", "service_tier",
    "stop_sequences", "stream", "temperature", "top_p", "top_k",
}  # fmt: skip
_CREATE_BETA = (
    _CREATE | _COUNT_BETA | {"fallback_credit_token", "fallbacks", "thread", "context_hint"}
)
_SERVER_TOOLS = ("web_search_", "web_fetch_", "code_execution_", "tool_search_tool_", "advisor_")


def check_count(body: Mapping[str, Any], *, beta: bool, refused: Iterable[str]) -> str | None:
    """Why `count_tokens` refuses this body. `refused` may hold `server_tools`, `url_sources`,
    a tool's type, or a key of the body.
    """
    allowed = _COUNT_BETA if beta else _COUNT
    return next(iter(_count_complaints(body, allowed, set(refused))), None)


def check_create(body: Mapping[str, Any], *, beta: bool) -> str | None:
    """Why `messages` refuses this body."""
    return next(iter(_create_complaints(body, _CREATE_BETA if beta else _CREATE)), None)


def _count_complaints(
    body: Mapping[str, Any], allowed: set[str], refused: set[str]
) -> Iterator[str]:
    yield from _shape(body, ("messages", "model"), allowed - refused)
    yield from _refused_tools(body, refused)
    if "url_sources" in refused:
        yield from _url_sources(body)
    yield from _conversation(body)


def _create_complaints(body: Mapping[str, Any], allowed: set[str]) -> Iterator[str]:
    yield from _shape(body, ("max_tokens", "messages", "model"), allowed)
    yield from _conversation(body)


def _shape(body: Mapping[str, Any], needed: Iterable[str], allowed: set[str]) -> Iterator[str]:
    for key in needed:
        if key not in body:
            yield f"{key}: Field required"
    for key in body:
        if key not in allowed:
            yield f"{key}: Extra inputs are not permitted"
    if not body["messages"]:
        yield "messages: at least one message is required"


def _refused_tools(body: Mapping[str, Any], refused: set[str]) -> Iterator[str]:
    for tool in body.get("tools") or []:
        kind = tool.get("type") or "custom"
        server = "server_tools" in refused and kind.startswith(_SERVER_TOOLS)
        if server or kind in refused:
            yield (
                f"Server tools are not supported in the count_tokens endpoint: {kind}. "
                "Use the /v1/messages endpoint instead."
            )


def _url_sources(body: Mapping[str, Any]) -> Iterator[str]:
    for path, part in _parts(body):
        if (part.get("source") or {}).get("type") == "url":
            yield f"{path}.{part['type']}.source.base64.data: URL sources are not supported"


def _conversation(body: Mapping[str, Any]) -> Iterator[str]:
    model = find_model(body["model"])
    if model is None:
        return
    yield from _content(body)
    yield from _tool_calls(body["messages"])
    yield from _tool_choice(body)
    if body["messages"][-1]["role"] == "assistant" and not model.prefill:
        yield (
            "This model does not support assistant message prefill. "
            "The conversation must end with a user message."
        )
    yield from _caching(body, model)


def _content(body: Mapping[str, Any]) -> Iterator[str]:
    for index, message in enumerate(body["messages"]):
        if message.get("role") not in ("user", "assistant"):
            yield f"messages.{index}.role: Input should be 'user' or 'assistant'"
        if not message.get("content"):
            yield f"messages.{index}: all messages must have non-empty content"
    for path, part in _parts(body):
        if part.get("type") == "text" and not part["text"]:
            yield f"{path}: text content blocks must be non-empty"
    if body["messages"][0]["role"] != "user":
        yield 'messages: first message must use the "user" role'


def _tool_calls(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for index, message in enumerate(messages):
        called = _ids(message, "tool_use", "id")
        given = (
            _ids(messages[index + 1], "tool_result", "tool_use_id")
            if messages[index + 1 :]
            else set()
        )
        if missing := sorted(called - given):
            yield (
                f"messages.{index}: `tool_use` ids were found without `tool_result` blocks "
                f"immediately after: {', '.join(missing)}. Each `tool_use` block must have a "
                "corresponding `tool_result` block in the next message."
            )
        before = _ids(messages[index - 1], "tool_use", "id") if index else set()
        for stray in sorted(_ids(message, "tool_result", "tool_use_id") - before):
            yield (
                f"messages.{index}.content.0: unexpected `tool_use_id` found in `tool_result` "
                f"blocks: {stray}. Each `tool_result` block must have a corresponding `tool_use` "
                "block in the previous message."
            )


def _tool_choice(body: Mapping[str, Any]) -> Iterator[str]:
    choice, tools = body.get("tool_choice"), body.get("tools") or []
    if choice and not tools:
        yield "tool_choice: tool_choice may only be specified while providing tools"
    name = (choice or {}).get("name")
    if name and name not in [tool.get("name") for tool in tools]:
        yield f"tool_choice: Tool '{name}' not found in provided tools"


def _caching(body: Mapping[str, Any], model: Model) -> Iterator[str]:
    points = breakpoints(body, lay_out(body, model))
    if len(points) > 4:
        yield (f"A maximum of 4 blocks with cache_control may be provided. Found {len(points)}.")
    lives = [point.seconds for point in points]
    if lives != sorted(lives, reverse=True):
        yield (
            "cache_control.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' "
            "cache_control block. Note that blocks are processed in the following order: "
            "`tools`, `system`, `messages`."
        )


def _parts(body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for index, message in enumerate(body["messages"]):
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else []):
            yield f"messages.{index}.content.{place}", part


def _ids(message: Mapping[str, Any], kind: str, key: str) -> set[str]:
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return {part[key] for part in parts if part.get("type") == kind}

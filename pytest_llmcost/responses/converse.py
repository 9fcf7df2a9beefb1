"""Bedrock's Converse and OpenAI's chat completions, said in the form of the Messages API.

Both carry the same messages and the same usage under other names. What has no equal there
is kept under its own name, so that a changed prompt is noticed, and named as what cannot be
counted.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html and
https://platform.claude.com/docs/en/api/openai-sdk, read 2026-11-25.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_llmcost.prices.usage import is_quantity, mapping, mappings, text_of
from pytest_llmcost.responses.endpoints import Form

_Body = Mapping[str, Any]
_COUNTS = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "inputTokenCount": "input_tokens",
    "outputTokenCount": "output_tokens",
    # Some responses state both names of the same count.
    "cacheReadInputTokenCount": "cache_read_input_tokens",
    "cacheReadInputTokens": "cache_read_input_tokens",
    "cacheWriteInputTokenCount": "cache_creation_input_tokens",
    "cacheWriteInputTokens": "cache_creation_input_tokens",
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
}
"""Converse's names and those of a Bedrock stream's metrics, then OpenAI's; as in the Messages API,
Bedrock's input is what neither cache holds."""
_INFERENCE = {
    "maxTokens": "max_tokens",
    "temperature": "temperature",
    "topP": "top_p",
    "stopSequences": "stop_sequences",
}
_NO_PROMPT = ("requestMetadata", "additionalModelResponseFieldPaths")


# What is sent


def to_payload(body: _Body, form: Form) -> tuple[_Body, str | None]:
    """Return a request in the Messages API's form, and why that cannot be counted, if it cannot.

    Example:
        >>> to_payload({"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}, "converse")[0]
        {'messages': [{'role': 'user', 'content': [{'type': 'text', 'text': 'Hi'}]}]}
    """
    if form == "chat":
        return body, "count_tokens does not take OpenAI's form of a request"
    if form == "messages":
        return body, None
    left: list[str] = []
    payload: dict[str, Any] = {}
    rest = {key: value for key, value in body.items() if key not in _NO_PROMPT}
    if isinstance(system := rest.pop("system", None), list):
        payload["system"] = _blocks(system, left)
    if isinstance(turns := rest.pop("messages", None), list):
        payload["messages"] = [
            {"role": turn.get("role"), "content": _blocks(turn.get("content"), left)}
            for turn in mappings(turns)
        ]
    config = mapping(rest.pop("toolConfig", None))
    if isinstance(config.get("tools"), list):
        payload["tools"] = _blocks(config["tools"], left)
    for kind, choice in mapping(config.get("toolChoice")).items():
        payload["tool_choice"] = {"type": kind, **mapping(choice)}
    for key, value in mapping(rest.pop("inferenceConfig", None)).items():
        payload[_INFERENCE.get(key, key)] = value
    payload.update(mapping(rest.pop("additionalModelRequestFields", None)))
    payload.update(rest)
    left += rest
    return payload, f"count_tokens does not know Converse's {left[0]}" if left else None


def _blocks(blocks: object, left: list[str]) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    for block in mappings(blocks):
        for kind, value in block.items():
            if kind != "cachePoint":
                said.append(_block(kind, value, left))
            elif said:  # it stands behind what it marks
                ttl = mapping(value).get("ttl")
                mark = {"type": "ephemeral", "ttl": ttl} if ttl else {"type": "ephemeral"}
                said[-1]["cache_control"] = mark
    return said


def _block(kind: str, value: Any, left: list[str]) -> dict[str, Any]:
    """Return one block as the Messages API has it, or as it is if that knows no such block."""
    part = mapping(value)
    source = mapping(part.get("source"))
    thought = mapping(part.get("reasoningText"))
    if kind == "text":
        return {"type": "text", "text": value}
    if kind == "json":
        # How Bedrock writes it for the model is not documented.
        return {"type": "text", "text": json.dumps(value, separators=(",", ":"))}
    if kind == "image" and "bytes" in source:
        media = f"image/{part.get('format')}"
        data = {"type": "base64", "media_type": media, "data": source["bytes"]}
        return {"type": "image", "source": data}
    if kind == "toolUse":
        return {
            "type": "tool_use",
            "id": part.get("toolUseId"),
            "name": part.get("name"),
            "input": part.get("input"),
        }
    if kind == "toolResult":
        return {
            "type": "tool_result",
            "tool_use_id": part.get("toolUseId"),
            "content": _blocks(part.get("content"), left),
            **({"is_error": True} if part.get("status") == "error" else {}),
        }
    if kind == "reasoningContent" and thought:
        said, signature = thought.get("text"), thought.get("signature")
        return {"type": "thinking", "thinking": said, "signature": signature}
    if kind == "toolSpec":
        tool = {key: each for key, each in part.items() if key != "inputSchema"}
        return {**tool, "input_schema": mapping(part.get("inputSchema")).get("json")}
    left.append(kind)
    return {"type": kind, kind: value}


# What comes back


def to_message(body: _Body) -> _Body | None:
    """Return a response of Converse or of chat completions as a message; None for any other.

    Example:
        >>> to_message({"usage": {"inputTokens": 3, "outputTokens": 5}})["usage"]
        {'input_tokens': 3, 'output_tokens': 5}
    """
    usage = mapping(body.get("usage"))
    if "prompt_tokens" in usage:
        # Without caches: this route has none. Source: the page named above.
        return {
            "id": body.get("id"),
            "type": "message",
            "model": body.get("model"),
            "content": [{"type": "text", "text": "x"}],  # only whether there is any matters
            "stop_reason": _stop_reason(body),
            "usage": _usage(body),
        }
    if "inputTokens" not in usage:
        return None
    message = mapping(mapping(body.get("output")).get("message"))
    return {
        "type": "message",
        "content": _blocks(message.get("content"), []),
        "stop_reason": body.get("stopReason"),
        "usage": _usage(body),
    }


def to_events(payload: _Body) -> Iterator[_Body]:
    """Yield what one event of a Converse stream, or chunk of a chat, is in a message's stream."""
    usage, delta = mapping(payload.get("usage")), mapping(payload.get("delta"))
    index = payload.get("contentBlockIndex")
    if payload.get("object") == "chat.completion.chunk":
        opened = {"id": payload.get("id"), "model": payload.get("model"), "type": "message"}
        yield {"type": "message_start", "message": opened}
        ended = {"stop_reason": _stop_reason(payload)}
        yield {"type": "message_delta", "delta": ended, "usage": _usage(payload)}
    elif "role" in payload:
        yield {"type": "message_start", "message": {"type": "message"}}
    elif index is not None and ("start" in payload or delta):
        # Text comes without a start. Only whether there is any matters.
        block = {"type": "text", "text": "x"}
        yield {"type": "content_block_start", "index": index, "content_block": block}
    elif "stopReason" in payload:
        yield {"type": "message_delta", "delta": {"stop_reason": payload["stopReason"]}}
    elif usage:
        yield {"type": "message_delta", "usage": _usage(payload)}
        yield {"type": "message_stop"}


def _stop_reason(body: _Body) -> Any:
    """Return why a chat's one choice has ended, in the Messages API's word."""
    reasons = (choice.get("finish_reason") for choice in mappings(body.get("choices")))
    reason = next(filter(None, reasons), None)
    return "max_tokens" if reason == "length" else reason


def counts_of(stated: object) -> dict[str, Any]:
    """Return counts by their names in the Messages API; nothing if they are not known by others."""
    usage = mapping(stated)
    return {name: usage[key] for key, name in _COUNTS.items() if usage.get(key) is not None}


def _usage(body: _Body) -> dict[str, Any]:
    usage = mapping(body.get("usage"))
    said = counts_of(usage)
    details = usage.get("cacheDetails")
    if isinstance(details, list) and details:
        split: dict[str, Any] = {}
        for each in map(mapping, details):
            name = f"ephemeral_{each.get('ttl')}_input_tokens"
            before, more = split.get(name, 0), each.get("inputTokens") or 0
            if is_quantity(before):  # otherwise it stays as it is, to be refused
                split[name] = before + more if is_quantity(more) else more
        said["cache_creation"] = split
    # Another count of tokens may cost something, and is said to be unknown.
    odd = {key for key in usage if key.endswith(("Tokens", "TokenCount"))} - {*_COUNTS}
    said |= {f"{key}_tokens": usage[key] for key in odd - {"totalTokens"}}
    inside = mapping(usage.get("prompt_tokens_details"))
    said |= {f"{key}_prompt_tokens": value for key, value in inside.items()}
    if tier := text_of(mapping(body.get("serviceTier")).get("type")):
        said["service_tier"] = tier
    if latency := text_of(mapping(body.get("performanceConfig")).get("latency")):
        said["speed"] = latency if latency == "standard" else f"latency-{latency}"
    return said

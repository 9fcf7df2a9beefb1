"""Bedrock's four routes to a model: InvokeModel and Converse, whole and as AWS event frames."""

from __future__ import annotations

import json
import re
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from standin.answers import Answer, answer_json

ROUTE = re.compile(r"/model/(.+)/(invoke|converse)(-with-response-stream|-stream)?$")
_MODEL = re.compile(r".*anthropic\.(.+?)(?:-v\d(?::\d)?)?$")


def answer_bedrock(
    route: re.Match[str], body: Mapping[str, Any], create: Callable[[dict[str, Any]], Answer]
) -> Answer:
    """Answer a request of one of the routes with what `create` answers its Messages form."""
    model, verb, streams = route.groups()
    named = _MODEL.match(model)
    asked = {"model": named[1] if named else model, "stream": bool(streams)}
    asked |= _messages_form(body) if verb == "converse" else dict(body)
    asked.pop("anthropic_version", None)
    answer = create(asked)
    if answer.status != 200:
        return answer
    if not streams:
        message = json.loads(answer.chunks[0])
        return answer_json(message if verb == "invoke" else _converse(message))
    events = [json.loads(each.partition(b"data: ")[2]) for each in answer.chunks]
    said = _chunks(events) if verb == "invoke" else _converse_events(events)
    frames = tuple(frame(name, payload) for name, payload in said)
    return Answer(200, frames, content_type="application/vnd.amazon.eventstream")


def _messages_form(body: Mapping[str, Any]) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "max_tokens": body.get("inferenceConfig", {}).get("maxTokens", 1_000),
        "messages": [
            {"role": turn["role"], "content": _content(turn["content"])}
            for turn in body["messages"]
        ],
    }
    if "system" in body:
        asked["system"] = _content(body["system"])
    return asked


def _content(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    for block in blocks:
        if "cachePoint" in block:
            said[-1]["cache_control"] = {"type": "ephemeral"}
        else:
            said.append({"type": "text", "text": block["text"]})
    return said


def _converse_usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    read, written = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
    return {
        "inputTokens": usage["input_tokens"],
        "outputTokens": usage["output_tokens"],
        "cacheReadInputTokens": read,
        "cacheWriteInputTokens": written,
        "totalTokens": usage["input_tokens"] + read + written + usage["output_tokens"],
    }


def _converse(message: Mapping[str, Any]) -> dict[str, Any]:
    content = [{"text": part["text"]} for part in message["content"]]
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": message["stop_reason"],
        "usage": _converse_usage(message["usage"]),
        "metrics": {"latencyMs": 1},
    }


def _chunks(events: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for each in events:
        yield "chunk", {"bytes": b64encode(json.dumps(each).encode()).decode()}


def _converse_events(events: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "messageStart", {"role": "assistant"}
    for each in events:
        if each["type"] == "content_block_delta":
            text = {"text": each["delta"]["text"]}
            yield "contentBlockDelta", {"contentBlockIndex": each["index"], "delta": text}
        elif each["type"] == "content_block_stop":
            yield "contentBlockStop", {"contentBlockIndex": each["index"]}
        elif each["type"] == "message_delta":
            yield "messageStop", {"stopReason": each["delta"]["stop_reason"]}
            usage = _converse_usage(each["usage"])
            yield "metadata", {"usage": usage, "metrics": {"latencyMs": 1}}


def frame(name: str, payload: Mapping[str, Any]) -> bytes:
    """One event in the frames of AWS: prelude, headers, payload, checksums."""
    named = {
        ":event-type": name,
        ":content-type": "application/json",
        ":message-type": "event",
    }
    headers = b"".join(
        struct.pack("!B", len(key)) + key.encode() + b"\x07" + struct.pack("!H", len(value))
        + value.encode()
        for key, value in named.items()
    )  # fmt: skip
    body = json.dumps(payload).encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(body), len(headers))
    head = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + body
    return head + struct.pack("!I", zlib.crc32(head))

"""From a request's body to the answer: counts, messages, streams, errors. No sockets in here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from standin.cache import PromptCache
from standin.models import Model, find_model
from standin.prompt import count_blocks, count_text, lay_out
from standin.rules import check_count, check_create

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


@dataclass(frozen=True)
class Answer:
    """An HTTP response; a body of several chunks is streamed chunk by chunk."""

    status: int = 200
    chunks: Sequence[bytes] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


def answer_json(body: object, status: int = 200, **headers: str) -> Answer:
    """A response with a JSON body; header names are given with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, (json.dumps(body).encode(),), named)


def answer_error(status: int, message: str, **headers: str) -> Answer:
    """A response in the API's error shape."""
    error = {"type": _KINDS.get(status, "api_error"), "message": message}
    body = {"type": "error", "error": error, "request_id": "req_standin"}
    return answer_json(body, status, **headers)


@dataclass(frozen=True)
class Reply:
    """What the model says. Without an output count the words are counted."""

    content: Sequence[Mapping[str, Any]] = ({"type": "text", "text": "Understood."},)
    stop_reason: str = "end_turn"
    model: str | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    """Laid over the usage that the stand-in works out itself."""


def answer_count(body: Mapping[str, Any], *, beta: bool, refused: Sequence[str]) -> Answer:
    """`POST /v1/messages/count_tokens`."""
    if message := check_count(body, beta=beta, refused=refused):
        return answer_error(400, message)
    model = find_model(body["model"])
    if model is None:
        return answer_error(404, f"model: {body['model']}")
    return answer_json({"input_tokens": count_blocks(lay_out(body, model), model)})


def answer_message(
    body: Mapping[str, Any], *, beta: bool, reply: Reply, cache: PromptCache, number: int
) -> Answer:
    """`POST /v1/messages`, as JSON or as a stream."""
    message = check_create(body, beta=beta)
    if message:
        return answer_error(400, message)
    model = find_model(body["model"])
    if model is None:
        return answer_error(404, f"model: {body['model']}")
    said = build_message(body, model, reply, cache, number)
    if body.get("stream"):
        return Answer(200, tuple(stream_events(said)), content_type="text/event-stream")
    return answer_json(said)


def build_message(
    body: Mapping[str, Any], model: Model, reply: Reply, cache: PromptCache, number: int
) -> dict[str, Any]:
    """A whole message with its usage, cut at `max_tokens`."""
    output = sum(count_text(_words(part), model) for part in reply.content)
    cut = output > body["max_tokens"]
    usage = {
        **cache.bill(body, model).usage(),
        "output_tokens": min(output, body["max_tokens"]),
        "service_tier": "standard",
        "inference_geo": body.get("inference_geo") or "global",
    }
    if body.get("speed"):
        usage["speed"] = body["speed"]
    return {
        "id": f"msg_standin_{number:04}",
        "type": "message",
        "role": "assistant",
        "model": reply.model or model.id,
        "content": [dict(part) for part in reply.content],
        "stop_reason": "max_tokens" if cut else reply.stop_reason,
        "stop_sequence": None,
        "usage": {**usage, **reply.usage},
    }


def _words(part: Mapping[str, Any]) -> str:
    said = part.get("text") or part.get("thinking")
    return said if isinstance(said, str) else json.dumps(part.get("input") or {})


def stream_events(message: Mapping[str, Any]) -> Iterator[bytes]:
    """The server-sent events that build up a message; totals come with `message_delta`."""
    usage = dict(message["usage"])
    final = {key: usage[key] for key in usage if key.endswith("_tokens")}
    start = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    yield _event("message_start", message=start)
    yield _event("ping")
    for index, part in enumerate(message["content"]):
        yield from _part_events(index, part)
    stop = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield _event("message_delta", delta=stop, usage=final)
    yield _event("message_stop")


def _part_events(index: int, part: Mapping[str, Any]) -> Iterator[bytes]:
    kind = part["type"]
    field_name, delta_name = {
        "text": ("text", "text_delta"),
        "thinking": ("thinking", "thinking_delta"),
    }.get(kind, ("input", "input_json_delta"))
    empty: object = {} if field_name == "input" else ""
    yield _event("content_block_start", index=index, content_block={**part, field_name: empty})
    said = part.get(field_name, "")
    text = said if isinstance(said, str) else json.dumps(said)
    key = "partial_json" if field_name == "input" else field_name
    for place in range(0, len(text), 8):
        delta = {"type": delta_name, key: text[place : place + 8]}
        yield _event("content_block_delta", index=index, delta=delta)
    yield _event("content_block_stop", index=index)


def _event(name: str, **data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()

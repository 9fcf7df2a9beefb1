"""Anthropic's `/v1/chat/completions`, which OpenAI's SDK speaks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from standin.answers import Answer, answer_json


def answer_chat(body: Mapping[str, Any], create: Callable[[dict[str, Any]], Answer]) -> Answer:
    """Answer with what `create` answers the same conversation in the form of the Messages API."""
    turns = [turn for turn in body["messages"] if turn["role"] != "system"]
    asked = {"model": body["model"], "max_tokens": body.get("max_tokens", 100), "messages": turns}
    answer = create(asked)
    if answer.status != 200:
        return answer
    message = json.loads(answer.chunks[0])
    if not body.get("stream"):
        said = {"role": "assistant", "content": message["content"][0]["text"]}
        choice = {"index": 0, "message": said, "finish_reason": "stop"}
        named = {"id": message["id"], "model": message["model"], "object": "chat.completion"}
        return answer_json({**named, "choices": [choice], "usage": _usage(message)})
    return Answer(200, tuple(_chunks(body, message)), content_type="text/event-stream")


def _usage(message: Mapping[str, Any]) -> dict[str, int]:
    sent, said = message["usage"]["input_tokens"], message["usage"]["output_tokens"]
    return {"prompt_tokens": sent, "completion_tokens": said, "total_tokens": sent + said}


def _chunks(body: Mapping[str, Any], message: Mapping[str, Any]) -> Iterator[bytes]:
    named = {"id": message["id"], "model": message["model"], "object": "chat.completion.chunk"}

    def chunk(choices: list[Any], usage: object = None) -> bytes:
        return f"data: {json.dumps({**named, 'choices': choices, 'usage': usage})}\n\n".encode()

    text = message["content"][0]["text"]
    yield chunk([{"index": 0, "delta": {"content": text}, "finish_reason": None}])
    yield chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    if body.get("stream_options", {}).get("include_usage"):
        yield chunk([], _usage(message))
    yield b"data: [DONE]\n\n"

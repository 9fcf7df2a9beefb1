"""A request's body as the flat list of blocks that is tokenized, counted and cached.

The order is the API's: tools, system, messages. Text of neighbouring blocks is joined before it
is cut into tokens, so that counting parts and adding them up gives too much: the whole is less
than its parts. Frames of turns, images and hidden prompts are borders that join nothing.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from standin.models import Model

TURN_TOKENS = 4
"""The frame around one turn of the conversation."""
THINKING_TOKENS = 29
IMAGE_TOKENS = 1_500
_RUN = re.compile(r"\w+|\s+|[^\w\s]+")


@dataclass(frozen=True)
class Block:
    """A piece of the prompt; `tokens` instead of text is a border of fixed size."""

    text: str = ""
    tokens: int | None = None
    cache_control: Mapping[str, Any] | None = None
    cacheable: bool = False
    """Whether an automatic breakpoint may sit here."""
    kind: str = ""
    """Its type, if it is a block of the request and no border."""


def count_blocks(blocks: Iterable[Block], model: Model) -> int:
    """How many tokens these blocks are, read as one prompt from the beginning."""
    total, joined = 0, ""
    for block in blocks:
        if block.tokens is None:
            joined += block.text
        else:
            total += count_text(joined, model) + block.tokens
            joined = ""
    return total + count_text(joined, model)


def count_text(text: str, model: Model) -> int:
    """Tokens of a text: each run of letters, blanks or signs, cut into pieces."""
    return _count_text(text, model.letters_per_token)


@functools.lru_cache(1_000)  # a long prefix is counted again with each prompt that has it
def _count_text(text: str, size: int) -> int:
    return sum(-(-len(run) // size) for run in _RUN.findall(text))


def lay_out(body: Mapping[str, Any], model: Model) -> list[Block]:
    """The whole prompt, ending with the tokens that open the answer."""
    blocks = [*_tools(body, model), *_system(body), *_settings(body), *_messages(body)]
    return [*blocks, Block(tokens=model.opening_tokens)]


def _tools(body: Mapping[str, Any], model: Model) -> Iterator[Block]:
    tools = body.get("tools") or []
    if not tools:
        return
    forced = (body.get("tool_choice") or {}).get("type") in ("any", "tool")
    yield Block(tokens=model.tool_prompt_tokens[forced])
    for tool in tools:
        yield _block(tool, json.dumps(_bare(tool), sort_keys=True))
    yield Block(tokens=0)


def _system(body: Mapping[str, Any]) -> Iterator[Block]:
    system = body.get("system") or []
    for part in [{"text": system}] if isinstance(system, str) else system:
        yield _block(part, part["text"])


def _settings(body: Mapping[str, Any]) -> Iterator[Block]:
    thinking = (body.get("thinking") or {}).get("type")
    yield Block(tokens=THINKING_TOKENS if thinking in ("enabled", "adaptive") else 0)
    schema = (body.get("output_config") or {}).get("format")
    if schema:
        yield Block(text=json.dumps(schema, sort_keys=True))


def _messages(body: Mapping[str, Any]) -> Iterator[Block]:
    before = None
    for message in body["messages"]:
        if message["role"] != before:
            yield Block(tokens=TURN_TOKENS)
        before = message["role"]
        content = message["content"]
        parts: Sequence[Mapping[str, Any]] = (
            [{"type": "text", "text": content}] if isinstance(content, str) else content
        )
        for part in parts:
            yield from _part(part)


def _part(part: Mapping[str, Any]) -> Iterator[Block]:
    kind = part.get("type")
    if kind == "text":
        yield _block(part, part["text"])
    elif kind == "image":
        mark = part.get("cache_control")
        yield Block(tokens=IMAGE_TOKENS, cache_control=mark, cacheable=True, kind="image")
    elif kind in ("thinking", "redacted_thinking"):
        yield Block(text=part.get("thinking") or part.get("data") or "", kind="thinking")
    else:
        yield Block(tokens=1)
        yield _block(part, _inner_text(part))


def _inner_text(part: Mapping[str, Any]) -> str:
    if part.get("type") == "tool_use":
        return f"{part['name']}{json.dumps(part['input'], sort_keys=True)}"
    content = part.get("content", "")
    return content if isinstance(content, str) else json.dumps(_bare(part), sort_keys=True)


def _block(part: Mapping[str, Any], text: str) -> Block:
    mark, kind = part.get("cache_control"), part.get("type") or "text"
    return Block(text=text, cache_control=mark, cacheable=bool(text), kind=kind)


def _bare(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key != "cache_control"}


@dataclass(frozen=True)
class Breakpoint:
    """Where a cached prefix ends: behind block `index`, kept for `seconds`."""

    index: int
    seconds: int


def breakpoints(body: Mapping[str, Any], blocks: Sequence[Block]) -> list[Breakpoint]:
    """All breakpoints in the prompt's order, the automatic one included."""
    found = {
        index: _seconds(block.cache_control)
        for index, block in enumerate(blocks)
        if block.cache_control is not None
    }
    if automatic := body.get("cache_control"):
        last = max((index for index, block in enumerate(blocks) if block.cacheable), default=None)
        if last is not None:
            found.setdefault(last, _seconds(automatic))
    return [Breakpoint(index, seconds) for index, seconds in sorted(found.items())]


def _seconds(cache_control: Mapping[str, Any]) -> int:
    return 3_600 if cache_control.get("ttl") == "1h" else 300

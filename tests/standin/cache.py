"""The prompt cache: what a request reads, what it writes, and for how long it stays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from standin.models import Model
from standin.prompt import Block, Breakpoint, breakpoints, count_blocks, lay_out

LOOK_BACK_BLOCKS = 20


@dataclass(frozen=True)
class Billed:
    """The four kinds of input tokens of one request; together they are the whole prompt."""

    input_tokens: int
    write_5m_tokens: int = 0
    write_1h_tokens: int = 0
    read_tokens: int = 0

    def usage(self) -> dict[str, Any]:
        """As a response's `usage` states it."""
        return {
            "input_tokens": self.input_tokens,
            "cache_creation_input_tokens": self.write_5m_tokens + self.write_1h_tokens,
            "cache_read_input_tokens": self.read_tokens,
            "cache_creation": {
                "ephemeral_5m_input_tokens": self.write_5m_tokens,
                "ephemeral_1h_input_tokens": self.write_1h_tokens,
            },
        }


@dataclass
class PromptCache:
    """Prefixes by their hash, apart by model and speed, each with its end of life."""

    now: Callable[[], float]
    _ends: dict[str, tuple[float, int]] = field(default_factory=dict)

    def bill(self, body: Mapping[str, Any], model: Model) -> Billed:
        """Read the longest live prefix, write the others, and say what that costs."""
        blocks = lay_out(body, model)
        points = [
            point
            for point in breakpoints(body, blocks)
            if count_blocks(blocks[: point.index + 1], model) >= model.min_cacheable_tokens
        ]
        hit = self._longest_hit(body, blocks, points, model)
        done = count_blocks(blocks[: hit + 1], model)
        read, writes = done, {300: 0, 3_600: 0}
        for point in points:
            self._keep(_hash(body, blocks[: point.index + 1], model), point.seconds)
            if point.index > hit:
                upto = count_blocks(blocks[: point.index + 1], model)
                writes[point.seconds] += upto - done
                done = upto
        whole = count_blocks(blocks, model)
        return Billed(whole - done, writes[300], writes[3_600], read)

    def _longest_hit(
        self,
        body: Mapping[str, Any],
        blocks: list[Block],
        points: list[Breakpoint],
        model: Model,
    ) -> int:
        for point in reversed(points):
            for index in _look_back(blocks, point.index):
                key = _hash(body, blocks[: index + 1], model)
                end, seconds = self._ends.get(key, (0.0, 0))
                if end > self.now():
                    self._keep(key, seconds)
                    return index
        return -1

    def _keep(self, key: str, seconds: int) -> None:
        self._ends[key] = (self.now() + seconds, seconds)


def _look_back(blocks: list[Block], index: int) -> Iterator[int]:
    """Go back over 20 blocks, of which a run of tool calls, or of their results, is one."""
    seen, before = 0, ""
    for at in range(index, -1, -1):
        kind = blocks[at].kind
        if not kind:
            continue
        seen += kind != before or kind not in ("tool_use", "tool_result")
        before = kind
        if seen > LOOK_BACK_BLOCKS:
            return
        yield at


def _hash(body: Mapping[str, Any], blocks: list[Block], model: Model) -> str:
    whose = [model.id, body.get("speed") or "standard"]
    text = json.dumps([whose, [(block.text, block.tokens) for block in blocks]])
    return hashlib.sha256(text.encode()).hexdigest()

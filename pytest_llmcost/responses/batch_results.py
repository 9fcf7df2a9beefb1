"""A batch's results, one JSON line each, read as they pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from pytest_llmcost.json_values import decode_json
from pytest_llmcost.responses.stream import reduce_block

_LARGEST_LINE = 64 * 1024 * 1024
_OUTCOMES = ("succeeded", "errored", "canceled", "expired")


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one request of a batch; only those that succeeded are billed."""

    custom_id: str
    outcome: Literal["succeeded", "errored", "canceled", "expired", "unreadable"]
    body: Mapping[str, object] | None = None
    """The message, its content reduced to what a bill depends on."""


class BatchResultsReader:
    """Reads JSON Lines cut anywhere; lines that are no result are ignored.

    Shape: `{"custom_id", "result": {"type", "message": {...}}}` a line, in any order.

    Source: https://platform.claude.com/docs/en/build-with-claude/batch-processing
    """

    def __init__(self) -> None:
        self._tail = bytearray()
        self._results: list[BatchResult] = []

    def feed(self, chunk: bytes) -> None:
        """Read the lines that have become whole."""
        head, newline, rest = chunk.rpartition(b"\n")
        if newline:
            lines = bytes(self._tail) + head
            self._tail.clear()
            self._read(lines)
        if len(self._tail) <= _LARGEST_LINE:
            self._tail += rest

    def close(self) -> None:
        """Read a last line without its end."""
        lines = bytes(self._tail)
        self._tail.clear()
        self._read(lines)

    def drain(self) -> list[BatchResult]:
        """Return the results read since the last time."""
        results, self._results = self._results, []
        return results

    def _read(self, lines: bytes) -> None:
        for line in lines.splitlines():
            if (result := _parse_result(decode_json(line))) is not None:
                self._results.append(result)


def _parse_result(line: object) -> BatchResult | None:
    if not isinstance(line, dict):
        return None
    custom_id, result = line.get("custom_id"), line.get("result")
    if not isinstance(custom_id, str) or not isinstance(result, dict):
        return None
    outcome, message = result.get("type"), result.get("message")
    if outcome == "succeeded" and isinstance(message, dict):
        content = message.get("content")
        blocks = content if isinstance(content, list) else []
        reduced = [reduce_block(block) for block in blocks if isinstance(block, dict)]
        body = {**message, "content": reduced}
        return BatchResult(custom_id=custom_id, outcome="succeeded", body=body)
    if outcome in _OUTCOMES[1:]:
        return BatchResult(custom_id=custom_id, outcome=outcome)
    return BatchResult(custom_id=custom_id, outcome="unreadable")

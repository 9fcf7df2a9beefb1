"""What a recorded count costs: `llmcost.count` of 17 KB, beside `json.dumps` and SHA-256 of it.

The count is that of a test with the fixture, from the count cassette beside it: the payload is
read, fingerprinted, looked up, priced and recorded. Of one that is cached, what its breakpoints
cache is compared with the calls before, too.

Blocks of both alternate, so that a machine which gets busy slows down both; the ratio is that of
the fastest quarter of each.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from .figures import Figure

TIMES = 5
TEST = """
from types import SimpleNamespace
import pytest

@pytest.fixture
def llmcost_client():
    counted = SimpleNamespace(input_tokens=4_200)
    return SimpleNamespace(messages=SimpleNamespace(count_tokens=lambda **asked: counted))

def test_count(llmcost, measure):
    measure(llmcost.count)
"""


def text(words: int) -> str:
    return " ".join(f"word{number % 97}" for number in range(words))


def make_payload() -> dict[str, Any]:
    """An agent's: long instructions, tools, and a few turns that use them."""
    properties = {f"field_{at}": {"type": "string", "description": text(8)} for at in range(4)}
    schema = {"type": "object", "properties": properties, "required": ["field_0"]}
    tools = [
        {"name": f"tool_{at}", "description": text(30), "input_schema": schema} for at in range(8)
    ]
    turns: list[dict[str, Any]] = []
    for at in range(4):
        use = {"type": "tool_use", "id": f"toolu_{at}", "name": "tool_1", "input": {"field_0": "x"}}
        result = {"type": "tool_result", "tool_use_id": f"toolu_{at}", "content": text(60)}
        turns += [
            {"role": "user", "content": [{"type": "text", "text": text(40)}]},
            {"role": "assistant", "content": [{"type": "text", "text": text(30)}, use]},
            {"role": "user", "content": [result]},
        ]
    system = [{"type": "text", "text": text(940)}]
    return {"model": "claude-opus-4-7", "max_tokens": 1_000, "system": system, "tools": tools,
            "messages": turns}  # fmt: skip


def make_cached() -> dict[str, Any]:
    """The same with three breakpoints."""
    payload, mark = make_payload(), {"cache_control": {"type": "ephemeral"}}
    for block in (
        payload["tools"][-1],
        payload["system"][-1],
        payload["messages"][-1]["content"][-1],
    ):
        block |= mark
    return payload


class Bench:
    """A plugin that measures inside of a test."""

    def __init__(self, payload: dict[str, Any], blocks: int) -> None:
        self.blocks = blocks
        self.payload = payload
        self.ratio = 0.0

    @pytest.fixture
    def measure(self) -> Callable[[Callable[..., object]], None]:
        return self._measure

    def _measure(self, count: Callable[..., object]) -> None:
        def plain() -> None:
            sha256(json.dumps(self.payload).encode()).hexdigest()

        def counted() -> None:
            count(self.payload, output_tokens=5)

        counted()
        of_plain, of_count = [], []
        for _ in range(self.blocks):
            of_plain.append(seconds(plain))
            of_count.append(seconds(counted))
        self.ratio = fastest(of_count) / fastest(of_plain)


def seconds(call: Callable[[], None]) -> float:
    started = time.process_time()  # of this process alone, whatever else the machine does
    for _ in range(TIMES):
        call()
    return time.process_time() - started


def fastest(timings: list[float]) -> float:
    quarter = sorted(timings)[: max(1, len(timings) // 4)]
    return sum(quarter) / len(quarter)


def measure(quick: bool) -> list[Figure]:
    """Compare inside of a test, in this process."""
    blocks = 20 if quick else 60
    plain, cached = Bench(make_payload(), blocks), Bench(make_cached(), blocks)
    for bench in (plain, cached):
        run_in_a_test(bench)
    return [
        Figure("a recorded count : json.dumps and SHA-256", plain.ratio, target=2.5),
        Figure(
            "a recorded count with three breakpoints : json.dumps and SHA-256",
            cached.ratio,
            target=5.5,
        ),
    ]


def run_in_a_test(bench: Bench) -> None:
    """Record the count, then measure it as it is replayed."""
    with tempfile.TemporaryDirectory() as folder:
        test = Path(folder) / "test_count.py"
        test.write_text(TEST, encoding="utf-8")
        options = ["-q", "-p", "no:cacheprovider", "-p", "pytest_llmcost.plugin"]
        alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        with mock.patch.dict(os.environ, alone), contextlib.redirect_stdout(io.StringIO()) as said:
            for mode in ("once", "none"):
                sys.modules.pop(test.stem, None)  # of the folder before
                given = [*options, f"--rootdir={folder}", f"--llmcost-record-mode={mode}"]
                status = pytest.main([*given, str(test)], plugins=[bench])
                assert status == 0, said.getvalue()

"""How far one thing travels through the package: files entered, and crossings between them.

Prints a line for each of four flows, counted warm with a profile hook:

    python tests/tools/flows.py

A crossing is a call from one of the package's files into another one, or the return from it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pytest_llmcost

PACKAGE = str(Path(pytest_llmcost.__file__).parent)

FLOWS = {
    "count": "llmcost.count with a recorded count",
    "stream": "a streamed reply of six events",
    "price": "llmcost price cut.sse",
    "compare": "llmcost compare of four calls",
}


class Counter:
    """Counts the files entered and the crossings between them while it is active."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.crossings = 0
        self._stack: list[str] = []

    def __enter__(self) -> Counter:
        sys.setprofile(self._hook)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.setprofile(None)

    def _hook(self, frame: FrameType, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if not file.startswith(PACKAGE):
            return
        if event == "call":
            self.files.add(file)
            if self._stack and self._stack[-1] != file:
                self.crossings += 1
            self._stack.append(file)
        elif event == "return" and self._stack:
            left = self._stack.pop()
            self.crossings += bool(self._stack) and self._stack[-1] != left


def measure(action: Callable[[], object]) -> Counter:
    """Run an action twice, and count the second time."""
    action()
    with Counter() as counter:
        action()
    return counter


PAYLOAD = {
    "model": "claude-opus-4-7",
    "max_tokens": 100,
    "system": "Be brief.",
    "messages": [{"role": "user", "content": "Hello"}],
}

TEST = """
import anthropic, httpx, httpx2, pytest
from flows import PAYLOAD, EVENTS, found, measure

MODULE = httpx2 if int(anthropic.__version__.split(".")[0]) else httpx

def test_count(llmcost):
    found["count"] = measure(lambda: llmcost.count(PAYLOAD, output_tokens=5))

def test_stream(llmcost):
    def answer(request):
        headers = {"content-type": "text/event-stream"}
        return MODULE.Response(200, headers=headers, stream=Chunks())
    class Chunks(MODULE.SyncByteStream):
        def __iter__(self):
            yield from EVENTS
    client = anthropic.Anthropic(
        api_key="none", http_client=MODULE.Client(transport=MODULE.MockTransport(answer))
    )
    def ask():
        with client.messages.stream(**PAYLOAD) as stream:
            stream.get_final_message()
        llmcost.calls
    found["stream"] = measure(ask)
"""

_USAGE = {"input_tokens": 20, "output_tokens": 1}
_MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-4-7",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": _USAGE,
}
_EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": _MESSAGE},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 7},
    },
    {"type": "message_stop"},
]
EVENTS = [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in _EVENTS]

found: dict[str, Counter] = {}


def in_a_test(folder: Path) -> None:
    """Measure what happens inside of a test; its count is recorded by the stand-in first."""
    from standin import StandIn

    sys.modules["flows"] = sys.modules[__name__]
    (folder / "test_flows.py").write_text(textwrap.dedent(TEST), encoding="utf-8")
    plugins = ["-p", "pytest_llmcost.plugin", "-p", "pytest_recording.plugin"]
    options = ["-q", "-p", "no:cacheprovider", *plugins, f"--rootdir={folder}"]
    with StandIn() as api, contextlib.redirect_stdout(io.StringIO()):
        os.environ |= {"ANTHROPIC_BASE_URL": api.url, "ANTHROPIC_API_KEY": "any"}
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        pytest.main([*options, "--llmcost-record-mode=once", str(folder)])
        ledgers = [f"--llmcost-report={folder / name}.json" for name in ("base", "head")]
        status = pytest.main([*options, *ledgers, str(folder)])
    assert status == 0, f"the flows could not be measured: pytest ended with {status}"


def at_the_command_line(folder: Path) -> None:
    """Measure two commands."""
    from pytest_llmcost.cli.main import main

    (folder / "cut.sse").write_bytes(b"".join(EVENTS[:-2]))
    ledgers = [str(folder / f"{name}.json") for name in ("base", "head")]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found["price"] = measure(lambda: main(["price", str(folder / "cut.sse")]))
        found["compare"] = measure(lambda: main(["compare", *ledgers]))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    with tempfile.TemporaryDirectory() as scratch:
        in_a_test(Path(scratch))
        at_the_command_line(Path(scratch))
    for name, title in FLOWS.items():
        counter = found[name]
        sys.stdout.write(f"{title}: {len(counter.files)} files, {counter.crossings} crossings\n")

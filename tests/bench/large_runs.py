"""Time, memory and ledger of runs with very many counts and very many captured calls."""

from __future__ import annotations

import tempfile
from pathlib import Path

from standin import StandIn

from .figures import Cost, Figure, pytest_command, pytest_options, run

COUNTING = """
import pytest

@pytest.mark.parametrize("number", range({tests}))
def test_count({fixture}number):
    {body}
"""
COUNT = (
    'llmcost.count(model="claude-opus-4-7", max_tokens=9,'
    ' messages=[{"role": "user", "content": "Why is the sky blue?"}])'
)
SENDING = """
import httpx
import pytest

MESSAGE = {{
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-7",
    "content": [{{"type": "text", "text": "Hello"}}], "stop_reason": "end_turn",
    "usage": {{"input_tokens": 25, "output_tokens": 11}},
}}
BODY = {{"model": "claude-opus-4-7", "max_tokens": 9,
        "messages": [{{"role": "user", "content": "Hi"}}]}}

@pytest.mark.parametrize("number", range({tests}))
def test_calls(number):
    answer = httpx.MockTransport(lambda request: httpx.Response(200, json=MESSAGE))
    with httpx.Client(transport=answer) as client:
        for _ in range(100):
            client.post("https://api.anthropic.com/v1/messages", json=BODY)
"""


def measure(quick: bool) -> list[Figure]:
    """Run each suite at its size and at half of it, which shows whether it grows linearly."""
    few = 10 if quick else 1
    with tempfile.TemporaryDirectory() as name, StandIn() as api:
        folder = Path(name)
        env = {"ANTHROPIC_BASE_URL": api.url, "ANTHROPIC_API_KEY": "key-for-the-stand-in"}
        return [*_counts(folder, 10_000 // few, env), *_calls(folder, 1_000 // few, env)]


def _counts(folder: Path, tests: int, env: dict[str, str]) -> list[Figure]:
    costs: dict[tuple[str, int], Cost] = {}
    for size in (tests // 2, tests):
        suite = folder / f"counts-{size}"
        suite.mkdir()
        for fixture, body, plugin in (("", "pass", "no:llmcost"), ("llmcost, ", COUNT, "llmcost")):
            text = COUNTING.format(tests=size, fixture=fixture, body=body)
            (suite / "test_count.py").write_text(text, encoding="utf-8")
            command = pytest_command(suite, "-p", plugin)
            if fixture:
                run([*command, "--llmcost-record-mode=once"], env=env)
                command.append(f"--llmcost-report={suite / 'ledger.json'}")
            costs[fixture, size] = run(command, env=env)
    half, whole = (costs["llmcost, ", size] for size in (tests // 2, tests))
    memory = whole.peak_mb - costs["", tests].peak_mb
    ledger = (folder / f"counts-{tests}" / "ledger.json").stat().st_size
    what = f"{tests:,} tests with a count each"
    return [
        Figure(f"{what}, time", whole.cpu_seconds, "s"),
        Figure(f"{what}, time : half of them", whole.cpu_seconds / half.cpu_seconds, target=2.2),
        Figure(f"{what}, memory over plain pytest", memory, "MB", 60),
        Figure(f"{what}, ledger", ledger / 1e6, "MB"),
    ]


def _calls(folder: Path, tests: int, env: dict[str, str]) -> list[Figure]:
    costs = []
    for size in (tests // 2, tests):
        suite = folder / f"calls-{size}"
        suite.mkdir()
        (suite / "test_calls.py").write_text(SENDING.format(tests=size), encoding="utf-8")
        costs.append(run(pytest_command(suite, *pytest_options("llmcost")), env=env))
    half, whole = costs
    what = f"{tests * 100:,} captured calls"
    return [
        Figure(f"{what}, time", whole.cpu_seconds, "s"),
        Figure(f"{what}, time : half of them", whole.cpu_seconds / half.cpu_seconds, target=2.2),
        Figure(f"{what}, memory", whole.peak_mb, "MB"),
    ]

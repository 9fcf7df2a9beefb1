"""300 tests that count a 17 KB payload from its cassette, and the same tests through the SDK.

The latter send the payload, and pytest-recording replays the answer. Both are whole processes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from standin import StandIn

from .figures import Figure, in_turn, pytest_command, pytest_options, run

COUNTING = """
import pytest
from prompt import PAYLOAD

@pytest.mark.parametrize("number", range({tests}))
def test_prompt(llmcost, number):
    assert llmcost.count(PAYLOAD).input_tokens > 1000
"""
SENDING = """
import anthropic
import pytest
from prompt import PAYLOAD

# One for all tests: a client of its own would cost each test more than all else.
client = anthropic.Anthropic(max_retries=0)

@pytest.mark.vcr
@pytest.mark.parametrize("number", range({tests}))
def test_prompt(number):
    assert client.messages.create(**PAYLOAD).usage.input_tokens > 1000
"""
PROMPT = """
TEXT = "A bicycle shop sells parts, repairs brakes and answers letters. " * 53
PAYLOAD = {
    "model": "claude-opus-4-7", "max_tokens": 100, "system": TEXT * 4,
    "messages": [{"role": "user", "content": TEXT}],
}
"""


def measure(quick: bool) -> list[Figure]:
    """Record both suites once, then compare replays."""
    tests = 60 if quick else 300
    with tempfile.TemporaryDirectory() as name, StandIn() as api:
        env = {"ANTHROPIC_BASE_URL": api.url, "ANTHROPIC_API_KEY": "key-for-the-stand-in"}
        suites = {
            "counting": (COUNTING, "--llmcost-record-mode=once", ("llmcost",)),
            "sending": (SENDING, "--record-mode=once", ("recording",)),
        }
        commands = []
        for folder_name, (text, recording, plugins) in suites.items():
            folder = Path(name, folder_name)
            folder.mkdir()
            (folder / "prompt.py").write_text(PROMPT, encoding="utf-8")
            (folder / "test_prompt.py").write_text(text.format(tests=tests), encoding="utf-8")
            command = pytest_command(folder, *pytest_options(*plugins))
            run([*command, recording], env=env)
            commands.append(command)
        counting, sending = commands
        least = in_turn(
            lambda: run(counting, env=env).cpu_seconds,
            lambda: run(sending, env=env).cpu_seconds,
            rounds=1 if quick else 3,
        )
    what = f"{tests} tests that count 17 KB, faster than through the SDK, replayed"
    return [Figure(what, least[1] / least[0], "times", 4, at_least=True)]

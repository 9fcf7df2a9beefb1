"""What Bedrock's streaming route says in its last frame alone is part of the price."""

from __future__ import annotations

import json
import struct
import zlib
from base64 import b64encode
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import Project

from pytest_llmcost.cli.main import main

START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": [],
        "usage": {"input_tokens": 3, "output_tokens": 1},
    },
}
FINAL = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn", "stop_sequence": None},
    "usage": {"output_tokens": 12},
}
METRICS = "amazon-bedrock-invocationMetrics"
CACHED = Decimal("0.04740975")
"""3 at $3, 25,490 at $0.30, 10,553 at $3.75 and 12 at $15 per million; writes of five minutes."""


def metrics(**counts: int) -> dict[str, Any]:
    stated = {"inputTokenCount": 3, "outputTokenCount": 12, "invocationLatency": 900, **counts}
    return {"type": "message_stop", METRICS: stated}


def header(name: str, value: str) -> bytes:
    text = value.encode()
    return bytes([len(name)]) + name.encode() + struct.pack("!BH", 7, len(text)) + text


def frame(event: dict[str, Any]) -> bytes:
    encoded = b64encode(json.dumps(event).encode()).decode()
    payload = json.dumps({"bytes": encoded, "p": "abc"}).encode()
    headers = b"".join(
        header(*each)
        for each in (
            (":event-type", "chunk"),
            (":content-type", "application/json"),
            (":message-type", "event"),
        )
    )
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    body = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    return body + struct.pack("!I", zlib.crc32(body))


def stream(stop: dict[str, Any], final: dict[str, Any] = FINAL) -> bytes:
    return b"".join(frame(event) for event in (START, final, stop))


CACHE_COUNTS = {
    "metrics": metrics(cacheReadInputTokenCount=25490, cacheWriteInputTokenCount=10553),
    "usage of the stop": {
        "type": "message_stop",
        "usage": {
            "input_tokens": 3,
            "output_tokens": 12,
            "cache_read_input_tokens": 25490,
            "cache_creation_input_tokens": 10553,
        },
    },
}


@pytest.mark.parametrize("place", CACHE_COUNTS)
def test_cache_counts_of_the_last_frame_are_priced_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(stream(CACHE_COUNTS[place]))
    main(["price", str(path), "--on=2026-11-22", "--format=json"])
    (row,) = json.loads(capsys.readouterr().out)
    usage = row["usage"]
    assert usage["cache_read_tokens"] == 25490
    assert usage["cache_write_5m_tokens"] + usage["cache_write_1h_tokens"] == 10553
    # Without an endpoint in the file a regional tenth may come on top.
    assert CACHED <= Decimal(row["usd"]) <= CACHED * Decimal("1.1")


APP = """
    from pathlib import Path
    import httpx
    from pytest_llmcost import max_cost

    NAME = "global.anthropic.claude-sonnet-4-5-20250929-v1:0"
    URL = "https://bedrock-runtime.us-east-1.amazonaws.com/model"

    def answer(request):
        return httpx.Response(
            200, headers={"content-type": "application/vnd.amazon.eventstream"},
            content=Path("frames.bin").read_bytes())

    def ask():
        with httpx.Client(transport=httpx.MockTransport(answer)) as client:
            client.post(f"{URL}/{NAME}/invoke-with-response-stream",
                        json={"anthropic_version": "bedrock-2023-05-31", "max_tokens": 99,
                              "messages": [{"role": "user", "content": "hi"}]})
"""


def run(project: Project, frames: bytes, limit: str) -> tuple[pytest.RunResult, Any]:
    text = f"""
        from app import *

        @max_cost("{limit}")
        def test_it():
            ask()
    """
    project.write(app=APP, test_app=text)
    (project.path / "frames.bin").write_bytes(frames)
    result = project.run("--llmcost-report=ledger.json")
    (test,) = project.ledger()["tests"]
    return result, test


@pytest.mark.parametrize("place", CACHE_COUNTS)
def test_cache_counts_of_the_last_frame_break_a_budget(project: Project, place: str) -> None:
    result, test = run(project, stream(CACHE_COUNTS[place]), "$0.01")
    result.assert_outcomes(failed=1)
    assert test["verdict"]["state"] == "exceeded"
    (call,) = test["calls"]
    assert call["usage"]["cache_read_tokens"] == 25490
    assert Decimal(call["usd_low"]) <= CACHED <= Decimal(call["usd_high"])


def test_where_two_places_disagree_the_price_is_at_least_the_lower_one(project: Project) -> None:
    counts = {"cache_read_input_tokens": 1000, "cache_creation_input_tokens": 0}
    final = {**FINAL, "usage": {"output_tokens": 12, **counts}}
    stop = metrics(cacheReadInputTokenCount=25490, cacheWriteInputTokenCount=0)
    result, test = run(project, stream(stop, final), "$0.001")
    result.assert_outcomes(failed=1)
    (call,) = test["calls"]
    assert test["verdict"]["state"] == "unverified"
    assert (call["usd_low"], call["usd_high"]) == ("0.000489", None)
    assert call["caveats"] == ["usage-disagrees: cache_read_input_tokens"]


def test_a_smaller_figure_there_does_not_replace_the_cumulative_one(project: Project) -> None:
    final = {**FINAL, "usage": {"output_tokens": 1200}}
    _, test = run(project, stream(metrics(outputTokenCount=12), final), "$1")
    (call,) = test["calls"]
    assert call["usage"]["output_tokens"] == 1200


def test_without_the_last_frame_nothing_bounds_the_price(project: Project) -> None:
    result, test = run(project, frame(START) + frame(FINAL), "$1")
    result.assert_outcomes(failed=1)
    (call,) = test["calls"]
    assert call["caveats"] == ["truncated-stream"]
    assert (call["usd_low"], call["usd_high"]) == ("0", None)


def test_figures_that_agree_are_exact(project: Project) -> None:
    result, test = run(project, stream(metrics()), "$0.000189")
    result.assert_outcomes(passed=1)
    (call,) = test["calls"]
    assert (call["usd"], call["usd_low"], call["usd_high"]) == ("0.000189",) * 3

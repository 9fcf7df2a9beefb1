"""A project that replays a hand-made cassette: what was recorded, and what is sent today.

What was recorded is written down by the test; the calls go to the API's own address, where only
the cassette answers. Counts, where a test asks for them, come from the stand-in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import yaml
from conftest import Project
from standin.cache import Billed, PromptCache
from standin.models import find_model

URL = "https://api.anthropic.com/v1/messages"
VERSION = {"anthropic-version": "2023-06-01"}
MODEL = "claude-sonnet-4-6"
OUTPUT = 10
"""Tokens of every recorded reply."""

APP = """
    import json
    from pathlib import Path

    import httpx2
    import pytest
    from pytest_llmcost import max_cost

    SENT = json.loads(Path(__file__).with_name("sent.json").read_text(encoding="utf-8"))
"""
TEST = """
    @pytest.mark.vcr
    @max_cost("$100")
    def test_{name}():
        for body, headers in SENT[{name!r}]:
            response = httpx2.post({url!r}, json=body, headers=headers)
            assert response.status_code == 200
"""
CONFTEST = """
    import pytest

    @pytest.fixture(scope="session", autouse=True)
    def counting_client(llmcost_client):
        return llmcost_client
"""


DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # Python's own took a sixth of a test


class Exchange(NamedTuple):
    """What was recorded, and what is sent in its place today."""

    recorded: Mapping[str, Any]
    sent: Mapping[str, Any]
    usage: Mapping[str, Any] = {"input_tokens": 10, "output_tokens": OUTPUT}
    """As the recorded reply states it."""
    recorded_headers: Mapping[str, str] = VERSION
    sent_headers: Mapping[str, str] = VERSION


def write_project(project: Project, **tests: Sequence[Exchange]) -> None:
    """Write a test of each name, with its cassette."""
    sent = {
        name: [(each.sent, {**each.sent_headers, "x-api-key": "none"}) for each in exchanges]
        for name, exchanges in tests.items()
    }
    parts = [TEST.format(name=name, url=URL) for name in tests]
    project.write(conftest=CONFTEST, test_app="".join([APP, *parts]))
    (project.path / "sent.json").write_text(json.dumps(sent), encoding="utf-8")
    for name, exchanges in tests.items():
        cassette = project.path / "cassettes" / "test_app" / f"test_{name}.yaml"
        cassette.parent.mkdir(parents=True, exist_ok=True)
        played = {"version": 1, "interactions": [_interaction(each) for each in exchanges]}
        cassette.write_text(yaml.dump(played, Dumper=DUMPER), encoding="utf-8")


def _interaction(exchange: Exchange) -> dict[str, Any]:
    reply = {
        "id": "msg_1", "type": "message", "role": "assistant",
        "model": exchange.recorded["model"], "content": [{"type": "text", "text": "Yes."}],
        "stop_reason": "end_turn", "stop_sequence": None, "usage": dict(exchange.usage),
    }  # fmt: skip
    return {
        "request": {
            "method": "POST",
            "uri": URL,
            "headers": {name: [value] for name, value in exchange.recorded_headers.items()},
            # As httpx writes it, so that what did not change is the same byte for byte.
            "body": json.dumps(exchange.recorded, ensure_ascii=False, separators=(",", ":")),
        },
        "response": {
            "status": {"code": 200, "message": "OK"},
            "headers": {"content-type": ["application/json"]},
            "body": {"string": json.dumps(reply)},
        },
    }


def replay(project: Project, *args: str) -> dict[str, dict[str, Any]]:
    """Replay offline; return the ledger's rows by the names of the tests."""
    project.run("--llmcost-report=ledger.json", *args, plugins=("recording",))
    rows = project.ledger()["tests"]
    return {row["nodeid"].rpartition("::test_")[2]: row for row in rows}


def count_and_replay(project: Project, *args: str) -> dict[str, dict[str, Any]]:
    """Make the counts that the messages advise, then replay."""
    project.run("--llmcost-record-mode=new_episodes", plugins=("recording",))
    return replay(project, *args)


class Cache:
    """What the stand-in's prompt cache would bill for bodies sent one after the other."""

    def __init__(self) -> None:
        self._cache = PromptCache(lambda: 0.0)

    def bill(self, body: Mapping[str, Any]) -> Billed:
        """Bill the next request; it finds what those before it have written."""
        model = find_model(body["model"])
        assert model is not None
        return self._cache.bill(body, model)

    def usage(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the usage that the next request's reply states."""
        return {**self.bill(body).usage(), "output_tokens": OUTPUT}


def cold(body: Mapping[str, Any]) -> Billed:
    """What a request is billed that finds nothing in the cache."""
    return Cache().bill(body)


def warm(body: Mapping[str, Any]) -> Billed:
    """What a request is billed that was sent before."""
    cache = Cache()
    cache.bill(body)
    return cache.bill(body)


def usd(*billed: Billed) -> Decimal:
    """The list price of calls with these kinds of input and the recorded output."""
    return sum(map(_usd, billed), Decimal(0))


def _usd(billed: Billed) -> Decimal:
    rates = {
        "input_tokens": "3",
        "write_5m_tokens": "3.75",
        "write_1h_tokens": "6",
        "read_tokens": "0.30",
    }
    amount = sum(
        (Decimal(rate) * int(getattr(billed, kind)) for kind, rate in rates.items()), Decimal(0)
    )
    return (amount + OUTPUT * Decimal(15)) / 10**6

"""A run of the real plugin against a Messages API, reconciled with what that API answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from conftest import Project
from standin import StandIn
from standin_admin import ADMIN_KEY, Booked, Organisation, serve

from pytest_llmcost.cli.main import main

APP = """
    import json
    from datetime import datetime, timezone

    import anthropic
    import pytest

    DOCUMENT = [{"type": "text", "text": "fact " * 20_000, "cache_control": {"type": "ephemeral"}}]

    def keep(message):
        with open("answers.jsonl", "a") as answers:
            at = datetime.now(timezone.utc).isoformat()
            answers.write(json.dumps({"at": at, **message.model_dump(mode="json")}) + "\\n")

    def payload(words, model, **more):
        messages = [{"role": "user", "content": "word " * words}]
        return {"model": model, "max_tokens": 100, "messages": messages, **more}

    def ask(words=10, model="claude-opus-4-7", **more):
        return anthropic.Anthropic().messages.create(**payload(words, model, **more))

    def ask_in_a_stream(words=10, model="claude-opus-4-7", **more):
        with anthropic.Anthropic().messages.stream(**payload(words, model, **more)) as stream:
            return stream.get_final_message()
"""
TESTS = """
    @pytest.fixture(scope="session")
    def primed():
        keep(ask(system=DOCUMENT))

    def test_plain():
        keep(ask(words=1000))

    def test_cached(primed):
        keep(ask(system=DOCUMENT))

    def test_streamed(primed):
        keep(ask_in_a_stream(system=DOCUMENT))

    @pytest.mark.parametrize("words", [10, 200])
    def test_another_model(words):
        keep(ask(words, model="claude-haiku-4-5"))

    @pytest.mark.vcr
    def test_recorded():
        ask(words=77)
"""
USD_PER_MTOK = {
    "claude-opus-4-7": ("5", "6.25", "10", "0.5", "25"),
    "claude-haiku-4-5-20251001": ("1", "1.25", "2", "0.1", "5"),
}
"""Input, 5-minute and 1-hour write, read, output.

Source: https://platform.claude.com/docs/en/about-claude/pricing, read 2026-10-08
"""


@pytest.fixture
def organisation() -> Iterator[Organisation]:
    with serve(Organisation()) as served:
        yield served


def book(answer: dict[str, Any]) -> Booked:
    """Bill what the API said in its answer, at prices of this test's own."""
    usage = answer["usage"]
    split = usage.get("cache_creation") or {}
    tokens = {
        "uncached_input_tokens": usage["input_tokens"],
        "ephemeral_5m_input_tokens": split.get("ephemeral_5m_input_tokens", 0),
        "ephemeral_1h_input_tokens": split.get("ephemeral_1h_input_tokens", 0),
        "cache_read_input_tokens": usage.get("cache_read_input_tokens") or 0,
        "output_tokens": usage["output_tokens"],
    }
    rates = USD_PER_MTOK[answer["model"]]
    cents = sum(Decimal(rate) * n for rate, n in zip(rates, tokens.values(), strict=True)) / 10_000
    at = datetime.fromisoformat(answer["at"])
    return Booked(at=at, model=answer["model"], cents=f"{cents:f}", **tokens)


def test_runs_agree_with_the_bill_to_the_token_and_the_cent(
    project: Project,
    standin: StandIn,
    organisation: Organisation,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project.online(standin).write(test_app=APP + TESTS)
    project.run("--record-mode=once", "-k", "recorded", plugins=("recording",))
    for number in range(2):
        result = project.run(f"--llmcost-report=ledger-{number}.json", plugins=("recording",))
        result.assert_outcomes(passed=6)
    assert len(standin.requests) == 1 + 2 * 6

    answers = (project.path / "answers.jsonl").read_text().splitlines()
    organisation.booked = [book(json.loads(line)) for line in answers]
    monkeypatch.setenv("ANTHROPIC_ADMIN_KEY", ADMIN_KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", organisation.base_url)
    ledgers = [str(project.path / f"ledger-{number}.json") for number in range(2)]
    command = ["reconcile", *ledgers, "--api-key-id", "apikey_ci"]

    capsys.readouterr()
    assert main([*command, "--whole-days", "--format", "json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["live_calls"], outcome["replayed_calls"]) == (12, 2)
    billed = sum(Decimal(each.cents) for each in organisation.booked) / 100
    assert Decimal(outcome["live_usd"]) == billed > Decimal("0.1")
    assert {line["category"] for line in outcome["usage"]} == {
        "input_tokens",
        "cache_write_5m_tokens",
        "cache_read_tokens",
        "output_tokens",
    }
    for line in outcome["usage"]:
        assert line["ledger"] == line["reported"] > 0
    for line in outcome["cost"]:
        assert line["ledger_usd"] == line["reported_usd"]

    assert main(["merge", *ledgers]) == 2  # one suite twice is no suite in two shards
    organisation.booked = organisation.booked[1:]
    assert main(command) == 1
    assert "late data" in capsys.readouterr().out

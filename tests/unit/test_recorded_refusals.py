"""A payload that a model does not take: recorded like a count, so that offline says the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from standin import StandIn, fault

from pytest_llmcost.counting.api_error import explain_refusal
from pytest_llmcost.counting.cassette import (
    Count,
    CountCassette,
    Entry,
    read_entries,
    write_entries,
)
from pytest_llmcost.counting.client import Asker, Counter, Job, count_all
from pytest_llmcost.counting.payload import Payload, read_payload
from pytest_llmcost.counting.record_mode import MODES
from pytest_llmcost.errors import CountCassetteError, CountError

anthropic = pytest.importorskip("anthropic")

ASKER = Asker("test_one")
SAID = 'tool_choice: "any" is not supported by this model'
KEPT = "tool_choice: [...]"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test_one.llmcost.yaml"


@pytest.fixture
def counter(standin: StandIn) -> Iterator[Counter]:
    with anthropic.Anthropic(base_url=standin.url, api_key="any") as client:
        yield Counter(lambda: client)


def payload(text: str = "hi") -> Payload:
    return read_payload(
        {"model": "claude-opus-4-7", "messages": [{"role": "user", "content": text}]}
    )


def refusal_of(said: str) -> Entry:
    return Entry.of(payload(), Count(refused=said), ASKER.name)


def test_what_is_written_is_read(path: Path) -> None:
    refusal = refusal_of(KEPT)
    write_entries(path, [refusal])
    assert read_entries(path) == {refusal.fingerprint: refusal}
    assert "code: 400" in path.read_text()


def test_a_recorded_refusal_is_told_without_the_apis_words_and_asks_nobody(
    path: Path, standin: StandIn, counter: Counter
) -> None:
    standin.script(fault(400, SAID))
    (live,) = count_all(
        counter, [Job(payload(), CountCassette(path), MODES["new_episodes"], ASKER)]
    )
    assert isinstance(live, CountError)
    assert SAID in str(live)
    assert live.refusal == KEPT
    write_entries(path, [refusal_of(KEPT)])
    asked = len(standin.requests)
    for mode in ("none", "new_episodes"):
        with pytest.raises(CountError) as recorded:
            counter.count(Job(payload(), CountCassette(path), MODES[mode], ASKER))
        assert str(recorded.value) == live.for_files
    assert len(standin.requests) == asked


def test_asking_for_everything_anew_asks_again(
    path: Path, standin: StandIn, counter: Counter
) -> None:
    write_entries(path, [refusal_of(SAID)])
    count = counter.count(Job(payload(), CountCassette(path), MODES["all"], ASKER))
    assert count.input_tokens > 0
    assert read_entries(path)[payload().fingerprint].refused is None


@pytest.mark.parametrize(
    "said",
    [
        "Your credit balance is too low to access the Anthropic API.",
        "This organization has been disabled.",
        "Not for this key (org: 123e4567).",
        "You have reached your specified API usage limits.",
    ],
)
def test_an_account_in_trouble_is_no_refusal_of_the_payload(said: str) -> None:
    assert explain_refusal(said, "claude-opus-4-7").refusal is None
    assert explain_refusal(said, "claude-opus-4-7").status == 400


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("max_tokens: 64000 > 32000, the maximum of m", "max_tokens: 64000 > 32000"),
        ("prompt is too long: 9 tokens > 8 maximum", "prompt is too long: 9 tokens > 8"),
        ("messages.0.content: 'my prompt' is wrong", "messages.0.content: [...]"),
        ("my prompt: is wrong", "[...]"),
        ("my_prompt: is wrong", "[...]"),
    ],
)
def test_of_a_refusal_its_place_and_its_numbers_are_kept(said: str, kept: str) -> None:
    error = explain_refusal(said, "claude-opus-4-7")
    assert error.refusal == kept
    assert explain_refusal(kept, "claude-opus-4-7").refusal == kept
    assert "my prompt" not in error.for_files


@pytest.mark.parametrize("body", ["{}", '{"error": {}}', '{"input_tokens": 3}'])
def test_a_damaged_refusal_is_named(path: Path, body: str) -> None:
    write_entries(path, [refusal_of("no")])
    text = path.read_text()
    start = text.index("'{") if "'{" in text else text.index('"{')
    end = text.index("\n", start)
    path.write_text(f"{text[:start]}'{body}'{text[end:]}")
    with pytest.raises(CountCassetteError, match="interaction 1: "):
        read_entries(path)

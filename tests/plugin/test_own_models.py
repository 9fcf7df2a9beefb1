"""A model of one's own price file has its own ids and its own premiums, wherever it is met."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Project

from pytest_llmcost.cli.main import main

PRICES = """
[models.acme-large]
bedrock = "anthropic.acme-large-v1:0"
vertex = "acme-large"
regional = 1.1
rates = [{ from = 2026-01-01, input = 10, cache_write_5m = 12.5, cache_write_1h = 20,
           cache_read = 1, output = 50 }]
"""
USD = {
    "us.anthropic.acme-large-v1:0": "0.011",
    "eu.anthropic.acme-large-v1:0": "0.011",
    "anthropic.acme-large-v1:0": "0.011",
    "global.anthropic.acme-large-v1:0": "0.01",
}
"""1,000 tokens at $10 per million, with a tenth more but at the global endpoint."""
REGIONAL = [name for name in USD if not name.startswith("global.")]
APP = """
    import httpx
    import pytest
    from pytest_llmcost import max_cost

    REPLY = {{"id": "msg_1", "type": "message", "role": "assistant", "model": {said!r},
             "content": [], "stop_reason": "end_turn",
             "usage": {{"input_tokens": 1000, "output_tokens": 0}}}}

    def mock(request):
        return httpx.Response(200, json=REPLY)

    @max_cost("{limit}")
    def test_it(llmcost):
        {body}
"""
CAPTURED = """with httpx.Client(transport=httpx.MockTransport(mock)) as client:
            client.post("https://bedrock-runtime.us-east-1.amazonaws.com/model/{name}/invoke",
                        json={{"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9,
                              "messages": [{{"role": "user", "content": "hi"}}]}})"""
GATEWAY = """with httpx.Client(transport=httpx.MockTransport(mock)) as client:
            client.post("https://{host}/v1/messages",
                        json={{"model": {name!r}, "max_tokens": 9,
                              "messages": [{{"role": "user", "content": "hi"}}]}})"""
HOW = {
    "captured at a gateway": GATEWAY.replace("{host}", "gateway.example"),
    "captured at Bedrock's Messages API": GATEWAY.replace(
        "{host}", "bedrock-mantle.us-east-1.api.aws/anthropic"
    ),
    "captured at Bedrock's runtime": GATEWAY.replace(
        "{host}", "bedrock-runtime.us-east-1.amazonaws.com/anthropic"
    ),
    "captured": CAPTURED,
    "captured, with its id quoted": CAPTURED.replace("{name}", "{quoted}"),
    "a message is declared": "llmcost.record(REPLY)",
    "a usage is declared": "llmcost.record(REPLY['usage'], model={name!r})",
}


def run(project: Project, name: str, limit: str) -> tuple[pytest.RunResult, dict[str, Any]]:
    """Run a test for each way; return what is said of each."""
    modules = {f"test_{number}": how for number, how in enumerate(HOW)}
    for module, how in modules.items():
        body = HOW[how].format(name=name, quoted=name.replace(":", "%3A"))
        said = "acme-large" if how.startswith("captured") else name
        project.write(**{module: APP.format(said=said, body=body, limit=limit)})
    (project.path / "prices.toml").write_text(PRICES)
    result = project.run("--llmcost-prices=prices.toml", "--llmcost-report=ledger.json")
    found = {modules[row["nodeid"].partition(".")[0]]: row for row in project.ledger()["tests"]}
    assert found.keys() == HOW.keys()
    return result, found


@pytest.mark.parametrize("name", REGIONAL)
def test_a_regional_id_has_the_premium(project: Project, name: str) -> None:
    result, found = run(project, name, "$0.0105")
    result.assert_outcomes(failed=len(HOW))
    for how, test in found.items():
        assert (test["usd"], test["verdict"]["state"]) == (USD[name], "exceeded"), how
        (call,) = test["calls"]
        assert call["model"] == "acme-large", how
        assert (call["usd_low"], call["usd_high"]) == ("0.011", "0.011"), how


def test_the_global_id_has_none(project: Project) -> None:
    name = "global.anthropic.acme-large-v1:0"
    result, found = run(project, name, "$0.0105")
    result.assert_outcomes(passed=len(HOW))
    for how, test in found.items():
        assert (test["usd"], test["verdict"]["state"]) == (USD[name], "within"), how


def price(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: object
) -> tuple[str, str, list[str]]:
    prices, path = tmp_path / "prices.toml", tmp_path / "file.json"
    prices.write_text(PRICES)
    path.write_text(json.dumps(file))
    assert main(["price", str(path), f"--prices={prices}", "--on=2026-11-22", "--format=json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    return row["model"], row["usd"], row["caveats"]


def response(name: str) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": name,
        "content": [],
        "usage": {"input_tokens": 1000, "output_tokens": 0},
    }


@pytest.mark.parametrize("name", USD)
def test_the_command_prices_a_response_of_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert price(tmp_path, capsys, response(name)) == ("acme-large", USD[name], [])


@pytest.mark.parametrize("name", USD)
def test_the_command_prices_a_recording_by_what_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    asked = {"model": name, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    recorded = {
        "request": {
            "method": "POST",
            "uri": "https://gateway.example/v1/messages",
            "headers": {},
            "body": json.dumps(asked),
        },
        "response": {
            "status": {"code": 200, "message": "OK"},
            "headers": {"content-type": ["application/json"]},
            "body": {"string": json.dumps(response("acme-large"))},
        },
    }
    cassette = {"version": 1, "interactions": [recorded]}
    assert price(tmp_path, capsys, cassette) == ("acme-large", USD[name], [])


ALIASED = """
    import httpx
    import pytest
    from pytest_llmcost import max_cost

    REPLY = {"id": "msg_1", "type": "message", "role": "assistant", "model": "acme/small",
             "content": [], "stop_reason": "end_turn",
             "usage": {"input_tokens": 1000, "output_tokens": 1}}

    def ask():
        mock = httpx.MockTransport(lambda request: httpx.Response(200, json=REPLY))
        with httpx.Client(transport=mock) as client:
            client.post("https://gateway.example/v1/messages",
                        json={"model": "acme/small", "max_tokens": 9,
                              "messages": [{"role": "user", "content": "hi"}]})

    @pytest.fixture(scope="module")
    def primed():
        ask()

    @max_cost(models="acme/small")
    def test_it(primed):
        ask()
"""


def test_an_alias_of_ones_own_price_file_allows_its_model(project: Project) -> None:
    (project.path / "prices.toml").write_text(
        '[models.claude-haiku-4-5-20251001]\naliases = ["acme/small", "acme/other"]\n'
        '[models.claude-opus-4-7]\naliases = ["acme/large"]\n',
        encoding="utf-8",
    )
    project.write(test_app=ALIASED)
    args = ("--llmcost-prices=prices.toml", "--llmcost-report=ledger.json")
    project.run(*args, "--llmcost-allowed-models=acme/other").assert_outcomes(passed=1)
    merge = ["merge", str(project.path / "ledger.json"), "-o", str(project.path / "all.json")]
    assert main(merge) == 0
    result = project.run(*args, "--llmcost-allowed-models=acme/large")
    result.assert_outcomes(passed=1, failed=1)  # of the run, for the fixture
    result.stdout.fnmatch_lines(["FAILED --llmcost-allowed-models - claude-haiku-4-5-20251001 *"])
    assert main(merge) == 1

"""pytest-xdist: however many workers, the same tests, verdicts, totals and exit status."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from conftest import Project
from standin import StandIn

XDIST = ("xdist",)
SUITE = """
    import os
    import httpx
    import pytest
    from pytest_llmcost import max_cost

    URL = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
    HEADERS = {"x-api-key": "any", "anthropic-version": "2023-06-01"}

    def ask(words=10):
        reply = httpx.post(URL, headers=HEADERS, json={
            "model": "claude-opus-4-7", "max_tokens": 10,
            "messages": [{"role": "user", "content": "word " * words}]})
        assert reply.status_code == 200

    @pytest.fixture(scope="session")
    def primed():
        ask(500)
        yield
        ask(300)

    @pytest.mark.xdist_group("first")
    @pytest.mark.parametrize("words", [1, 10, 100, 1000])
    def test_sized(words, primed):
        ask(words)

    @max_cost("$0.0000001", calls=1)
    @pytest.mark.xdist_group("second@home")
    def test_dear(primed):
        ask()

    @max_cost("$1")
    def test_idle(primed):
        pass

    class TestGrouped:
        @max_cost("$1")
        def test_cheap(self, primed, llmcost):
            ask()
            llmcost.record({"input_tokens": 7, "output_tokens": 3}, model="claude-opus-4-7")
            with llmcost.budget("$0.0000001"):
                ask(3)

        def test_skipped(self):
            pytest.skip("not today")

    @pytest.mark.xfail
    @max_cost("$0")
    def test_expected():
        ask()
"""
WAYS = {
    "scopes": ("-n2", "--dist=loadscope"),
    "more workers than tests, but a limit": ("-n8", "--maxprocesses=1"),
}
PLAIN = ("--llmcost-report=ledger.json", "--llmcost-max-suite=$0.0001", "--llmcost-max-test=$1")


@pytest.fixture
def suite(project: Project, standin: StandIn) -> Project:
    return project.online(standin).write(test_app=SUITE, conftest="")


def reported(ledger: dict[str, Any]) -> dict[str, Any]:
    """What has to be the same in every run of the same tests."""
    totals = {key: value for key, value in ledger["totals"].items() if not key.startswith("live")}
    for model in totals["by_model"].values():
        model.pop("live_usd")
        model.pop("calls")
    totals.pop("calls")
    return {
        "tests": [without_times(test) for test in ledger["tests"]],
        "verdicts": ledger["verdicts"],
        "complete": ledger["complete"],
        "price_date": ledger["price_date"],
        "rate_card": ledger["rate_card"],
        "exit_status": ledger["run"]["exit_status"],
        "has_tests": ledger["run"]["has_tests"],
        "payloads": ledger["payloads"],
        "usd": totals["usd"],
    }


def without_times(test: dict[str, Any]) -> dict[str, Any]:
    calls = [{key: value for key, value in call.items() if key != "at"} for call in test["calls"]]
    return {**test, "calls": calls}


@pytest.fixture
def plain(suite: Project) -> dict[str, Any]:
    result = suite.run(*PLAIN)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    return suite.ledger()


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_running_tells_the_same(
    suite: Project, plain: dict[str, Any], way: str
) -> None:
    result = suite.run(*PLAIN, *WAYS[way], plugins=XDIST)
    result.assert_outcomes(passed=4, failed=4, skipped=1, xfailed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    ledger = suite.ledger()
    assert reported(ledger) == reported(plain)
    assert {test["nodeid"] for test in ledger["tests"]} >= {
        "test_app.py::test_dear",
        "test_app.py::test_sized[1000]",
    }
    set_ups = len(ledger["fixtures"])
    assert set_ups == len({fixture["worker"] for fixture in ledger["fixtures"]}) <= 2
    shared = Decimal(ledger["fixtures"][0]["usd"])
    live = Decimal(ledger["totals"]["live_usd"])
    assert live == Decimal(plain["totals"]["live_usd"]) + (set_ups - 1) * shared
    if set_ups > 1:
        result.stdout.fnmatch_lines(
            ["  primed (session fixture of test_app.py, most expensive of 2)*"]
        )
    result.stdout.fnmatch_lines(["✗ * over the * suite budget *"])


CRASHES = (
    SUITE
    + """
    def test_crashes(primed):
        ask(20)
        os.kill(os.getpid(), {signal})
"""
)


def test_a_worker_that_may_not_be_replaced_ends_the_run(suite: Project) -> None:
    suite.write(test_app=CRASHES.replace("{signal}", "9"))
    result = suite.run(*PLAIN, "-n1", "--max-worker-restart=0", plugins=XDIST)
    assert result.ret != pytest.ExitCode.OK
    assert "worker-crashed" in suite.ledger()["incomplete"]


def test_a_wrong_marker_reads_the_same(suite: Project) -> None:
    suite.write(test_bad="from pytest_llmcost import max_cost\n\n@max_cost\ndef test_bad(): pass\n")
    alone, together = suite.run(), suite.run("-n2", plugins=XDIST)
    lines = {line for line in alone.outlines if "max_cost: takes" in line}
    assert lines == {line for line in together.outlines if "max_cost: takes" in line}
    assert "test_bad.py::test_bad: test_bad.py:3: max_cost: takes an amount" in min(lines)


COUNTING = """
    import pytest

    @pytest.mark.default_cassette("shared")
    @pytest.mark.parametrize("number", range(8))
    def test_counted(llmcost, number):
        llmcost.count(model="claude-opus-4-7", messages=[
            {"role": "user", "content": "word " * (number + 1)}])
"""


LIGHT_CLIENT = """
    import os
    from types import SimpleNamespace

    import httpx
    import pytest

    def count_tokens(**payload):
        reply = httpx.post(
            os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages/count_tokens", json=payload,
            headers={"x-api-key": "any", "anthropic-version": "2023-06-01"})
        return SimpleNamespace(**reply.json())

    @pytest.fixture(scope="session")
    def llmcost_client():
        return SimpleNamespace(messages=SimpleNamespace(count_tokens=count_tokens))
"""
"""A client that takes no two seconds of processor time to import."""


def test_two_workers_write_one_count_cassette_at_once(
    project: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.online(standin).write(
        test_app=COUNTING,
        pytest_ini="[pytest]\nmarkers = default_cassette",
        conftest=LIGHT_CLIENT,
    )
    result = project.run("-n2", "--llmcost-record-mode=once", plugins=XDIST)
    result.assert_outcomes(passed=8)
    path = project.path / "cassettes/test_app/shared.llmcost.yaml"
    together = path.read_bytes()
    path.unlink()
    project.record().assert_outcomes(passed=8)
    assert path.read_bytes() == together
    assert len(standin.counted) == 16


def test_the_command_of_a_miss_has_no_group_in_it(project: Project, standin: StandIn) -> None:
    project.write(
        test_app="""
    import pytest

    @pytest.mark.xdist_group("a@b")
    def test_counted(llmcost):
        llmcost.count(model="claude-opus-4-7", messages=[{"role": "user", "content": "Hi"}])
    """
    )
    result = project.run("-n1", "--dist=loadgroup", plugins=XDIST)
    result.stdout.fnmatch_lines(
        ["  count it (free) *pytest test_app.py::test_counted --llmcost-record-mode=*"]
    )


def test_turned_off_it_is_off_in_workers_too(suite: Project) -> None:
    result = suite.run("--no-llmcost", "-n2", plugins=XDIST)
    result.assert_outcomes(passed=7, skipped=1, xpassed=1)
    result.stdout.no_fnmatch_line("*what the Claude calls cost*")


def test_workers_say_nothing_where_nothing_is_counted(project: Project) -> None:
    project.write(test_app="def test_plain(): pass")
    result = project.run("-n2", plugins=XDIST)
    assert result.ret == pytest.ExitCode.OK
    assert not any("llmcost" in line for line in result.outlines if "plugins:" not in line)


def test_calls_outside_of_tests_in_workers_are_gathered(suite: Project) -> None:
    suite.write(conftest=SUITE.partition("    @pytest.fixture")[0] + "\n    ask(77)\n")
    suite.run(*PLAIN, "-n2", plugins=XDIST)
    ledger = suite.ledger()
    assert len(ledger["outside_tests"]) == 3  # the controller's and each worker's
    assert json.dumps(ledger["outside_tests"]).count('"live": true') == 3

"""Reruns, repeats and random order: every attempt is in the ledger, numbered and judged."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import Project

RERUNS = {
    "rerunfailures": (("rerunfailures",), ("--reruns=2",)),
    "flaky": (("flaky",), ("--force-flaky", "--max-runs=3", "--min-passes=1")),
}
SPENDS = """
    import pathlib
    import pytest
    from pytest_llmcost import max_cost

    def runs(name):
        path = pathlib.Path(name)
        number = int(path.read_text()) + 1 if path.exists() else 1
        path.write_text(str(number))
        return number

    def spend(llmcost, tokens=1000):
        llmcost.record({"input_tokens": tokens, "output_tokens": 0}, model="claude-opus-4-7")
"""


def attempts(ledger: dict[str, Any]) -> list[tuple[str, int, str, str, str | None]]:
    return [
        (
            test["nodeid"].rpartition("::")[2],
            test["attempt"],
            test["outcome"],
            test["usd"],
            test["verdict"] and test["verdict"]["state"],
        )
        for test in ledger["tests"]
    ]


def properties(project: Project) -> dict[str, list[list[tuple[str, str]]]]:
    """Our properties of each attempt, which pytest writes down as a case of its own."""
    found: dict[str, list[list[tuple[str, str]]]] = {}
    for case in ElementTree.parse(project.path / "junit.xml").getroot().iter("testcase"):
        reported = [(each.get("name", ""), each.get("value", "")) for each in case.iter("property")]
        found.setdefault(case.get("name", ""), []).append(reported)
    return found


@pytest.mark.parametrize("plugin", RERUNS)
def test_every_attempt_is_in_the_ledger_and_in_the_spend_and_junit_has_the_last(
    project: Project, plugin: str
) -> None:
    plugins, flags = RERUNS[plugin]
    project.write(
        test_app=SPENDS
        + """
    def test_third_time(llmcost):
        spend(llmcost)
        assert runs("third") == 3

    @max_cost("$0.004")
    def test_dear_at_first(llmcost):
        spend(llmcost, 1000 if runs("dear") == 1 else 500)

    @max_cost("$0.004")
    def test_always_dear(llmcost):
        spend(llmcost)

    def test_idle():
        pass
    """
    )
    result = project.run(
        "--llmcost-report=ledger.json", "--junitxml=junit.xml", *flags, plugins=plugins
    )
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["failed"]) == (3, 1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    ledger = project.ledger()
    assert attempts(ledger) == [
        ("test_always_dear", 1, "failed", "0.005", "exceeded"),
        ("test_always_dear", 2, "failed", "0.005", "exceeded"),
        ("test_always_dear", 3, "failed", "0.005", "exceeded"),
        ("test_dear_at_first", 1, "failed", "0.005", "exceeded"),
        ("test_dear_at_first", 2, "passed", "0.0025", "within"),
        ("test_third_time", 1, "failed", "0.005", None),
        ("test_third_time", 2, "failed", "0.005", None),
        ("test_third_time", 3, "passed", "0.005", None),
    ]
    assert ledger["totals"]["usd"] == "0.0375"
    assert ledger["complete"] is True
    cases = properties(project)
    assert cases["test_idle"] == [[]]
    assert dict(cases["test_dear_at_first"][-1])["llmcost_usd"] == "0.0025"
    assert dict(cases["test_third_time"][-1])["llmcost_calls"] == "1"
    for reported in [each for attempts_reported in cases.values() for each in attempts_reported]:
        assert len(reported) == len(dict(reported))
    result.stdout.fnmatch_lines(["*test_third_time (3 attempts, last) *"])


def test_a_ceiling_applies_to_each_attempt_and_not_to_their_sum(project: Project) -> None:
    project.write(
        test_app=SPENDS
        + """
    @max_cost("$0.005", calls=1)
    def test_third_time(llmcost):
        spend(llmcost)
        assert runs("third") == 3
    """
    )
    result = project.run("--reruns=2", plugins=("rerunfailures",))
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.OK


def test_what_teardown_spends_belongs_to_its_attempt(project: Project) -> None:
    project.write(
        test_app=SPENDS
        + """
    @pytest.fixture
    def late(llmcost):
        spend(llmcost)
        yield
        spend(llmcost, 3000)

    @max_cost("$0.03")
    def test_twice(late, llmcost):
        spend(llmcost, 2000)
        assert runs("twice") == 2
    """
    )
    project.run("--reruns=1", "--llmcost-report=ledger.json", plugins=("rerunfailures",))
    tests = project.ledger()["tests"]
    assert [[call["phase"] for call in test["calls"]] for test in tests] == [
        ["setup", "call", "teardown"]
    ] * 2
    assert [test["usd"] for test in tests] == ["0.03", "0.03"]


def test_repeats_are_tests_of_their_own(project: Project) -> None:
    project.write(
        test_app=SPENDS
        + """
    @max_cost("$0.005")
    def test_it(llmcost):
        spend(llmcost)
    """
    )
    project.run("--count=3", "--llmcost-report=ledger.json", plugins=("repeat",))
    found = attempts(project.ledger())
    assert [(name, number, state) for name, number, _, _, state in found] == [
        (f"test_it[{number}-3]", 1, "within") for number in (1, 2, 3)
    ]


def test_a_fixture_that_is_set_up_again_for_a_rerun_owns_both(project: Project) -> None:
    project.write(
        test_app=SPENDS
        + """
    class TestIt:
        @pytest.fixture(autouse=True, scope="class")
        def primed(self):
            runs("primed")

        def test_twice(self, llmcost):
            spend(llmcost)
            assert runs("twice") == 2
    """
    )
    result = project.run("--reruns=1", "--llmcost-report=ledger.json", plugins=("rerunfailures",))
    result.assert_outcomes(passed=1)
    assert [test["attempt"] for test in project.ledger()["tests"]] == [1, 2]


def test_the_order_of_tests_never_shows(project: Project) -> None:
    project.write(
        test_app=SPENDS
        + """
    @pytest.mark.parametrize("tokens", range(1, 9))
    def test_it(llmcost, tokens):
        spend(llmcost, tokens)
    """
    )
    project.run("--llmcost-report=ledger.json")
    plain = project.ledger()
    for seed in ("1", "2"):
        project.run("-p", "randomly", f"--randomly-seed={seed}", "--llmcost-report=ledger.json")
        ledger = project.ledger()
        assert {**ledger, "run": None} == {**plain, "run": None}
        assert list(ledger) == list(plain)


def test_a_test_that_a_worker_died_in_is_run_again(project: Project) -> None:
    """The attempt that died is lost whole: rerunfailures logs no phase before the last."""
    project.write(
        test_app=SPENDS
        + """
    import os

    def test_dies_once(llmcost):
        spend(llmcost)
        if runs("died") == 1:
            os._exit(1)
        spend(llmcost, 2000)
    """
    )
    project.run(
        "--reruns=1", "-n1", "--llmcost-report=ledger.json", plugins=("rerunfailures", "xdist")
    )
    ledger = project.ledger()
    assert "worker-crashed" in ledger["incomplete"]
    assert [(name, usd) for name, _, _, usd, _ in attempts(ledger)] == [("test_dies_once", "0.015")]

"""A suite that spends in every way, by one process and by two: the whole ledger is the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from spending_suite import APP, EVERYTHING, Ran, run_suite, without_workers, write_files
from standin import StandIn

XDIST = ("xdist",)
MODES: dict[str, tuple[str, ...]] = {
    "loaded and not used": (),
    "two workers": ("-n2",),
    "loadgroup": ("-n2", "--dist=loadgroup"),
    "worksteal": ("-n2", "--dist=worksteal"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("everything")
    write_files(path, EVERYTHING)
    return path


@pytest.fixture(scope="module")
def alone(folder: Path) -> tuple[Ran, dict[str, Any]]:
    """The suite without xdist: what every other way to run it is held to."""
    ran = run_suite(folder, "--llmcost-max-suite=$0.01")
    return ran, ran.ledger()


class TestEveryWayToDistribute:
    def test_has_a_suite_that_spends_in_every_way(self, alone: tuple[Ran, dict[str, Any]]) -> None:
        ran, ledger = alone
        assert ran.status == pytest.ExitCode.TESTS_FAILED
        states = {each["verdict"]["state"] for each in ledger["tests"] if each["verdict"]}
        assert states == {"within", "exceeded", "unverified"}
        outcomes = {each["outcome"] for each in ledger["tests"]}
        assert outcomes == {"passed", "failed", "error", "xfailed"}
        assert {row["scope"] for row in ledger["fixtures"]} == {"session", "module", "class"}
        assert [each["state"] for each in ledger["verdicts"]] == ["exceeded", "within", "exceeded"]
        assert (ledger["complete"], ledger["totals"]["unpriced_calls"]) == (True, 1)

    @pytest.mark.parametrize("mode", MODES)
    def test_tells_the_same(
        self, folder: Path, alone: tuple[Ran, dict[str, Any]], mode: str
    ) -> None:
        ran = run_suite(folder, "--llmcost-max-suite=$0.01", *MODES[mode], plugins=XDIST)
        before, expected = alone
        assert ran.status == before.status, ran.out
        ledger = ran.ledger()
        assert ledger["run"]["workers"] == (2 if MODES[mode] else 0)
        assert without_workers(ledger) == without_workers(expected)
        for start in ("FAILED|ERROR", "total|suite|place|  no price|incomplete"):
            assert sorted(map(cut_group, ran.lines(start))) == before.lines(start)

    def test_counts_what_each_worker_runs_anew_as_a_further_attempt(
        self, folder: Path, alone: tuple[Ran, dict[str, Any]]
    ) -> None:
        ran = run_suite(folder, "-n2", "--dist=each", plugins=XDIST)
        ledger, before = ran.ledger(), alone[1]
        assert ran.status == pytest.ExitCode.TESTS_FAILED
        expected = [{**row, "attempt": number} for row in before["tests"] for number in (1, 2)]
        assert ledger["tests"] == expected
        assert without_workers(ledger)["fixtures"] == without_workers(before)["fixtures"]
        assert len(ledger["fixtures"]) == 2 * len(before["fixtures"])
        in_tests = sum(Decimal(row["usd"] or 0) for row in before["tests"])
        assert Decimal(ledger["totals"]["usd"]) == Decimal(before["totals"]["usd"]) + in_tests


def test_hears_workers_that_another_plugin_has_asked_for_late(tmp_path: Path) -> None:
    late = """
        import pytest

        @pytest.hookimpl(trylast=True)
        def pytest_configure(config):
            if not hasattr(config, "workerinput"):
                config.option.dist, config.option.tx = "load", ["popen"]
    """
    test = "from app import ask\n\ndef test_it(): ask(1000)\n"
    write_files(tmp_path, {"app.py": APP, "late.py": late, "test_it.py": test})
    ran = run_suite(tmp_path, "--llmcost-max-suite=$0.001", plugins=("late", *XDIST))
    assert ran.status == pytest.ExitCode.TESTS_FAILED, ran.out
    ledger = ran.ledger()
    assert (ledger["run"]["workers"], len(ledger["tests"])) == (1, 1)


def cut_group(line: str) -> str:
    """A line as it is without loadgroup, which hangs its groups behind the tests' ids."""
    return re.sub("@(refunds_slow|refunds|x@y)(?= - )", "", line)


# Live, and with everything turned on that writes or tells

SHARED = {
    "app.py": APP,
    "conftest.py": """
        import os
        import pytest
        from app import ask_live

        WORKER = os.environ.get("PYTEST_XDIST_WORKER")
        if WORKER:  # another machine's environment
            os.environ["PYTEST_LLMCOST_PRICE_DATE"] = "2026-02-01"

        def note(name, text):
            with open(name, "a") as notes:
                notes.write(text + "\\n")

        def pytest_llmcost_report(report, config):
            note("reports.txt", WORKER or "controller")

        def pytest_llmcost_call(call, item):
            note("calls.txt", WORKER or "controller")

        @pytest.fixture(scope="session")
        def shared():
            ask_live(1000)
            yield
            ask_live(500)
    """,
    "test_shared.py": """
        import pytest
        from app import ask_live, meet
        from pytest_llmcost import max_cost

        @pytest.fixture(scope="module")
        def primed(shared):
            ask_live(100)

        @max_cost("$1")
        @pytest.mark.parametrize("words", [1, 2])
        def test_together(primed, words, record_property):
            record_property("words", words)
            meet()
            ask_live(words)
    """,
    "prices.toml": """
        [[models.claude-opus-4-7.rates]]
        from = 2026-01-01
        input = 1000
        output = 25
        cache_read = 1
        cache_write_5m = 10
        cache_write_1h = 10
        [[models.claude-opus-4-7.rates]]
        from = 2026-11-01
        input = 10
    """,
}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ran, Ran]]:
    """A suite of live calls by one process, and by two with everything that is written."""
    path = tmp_path_factory.mktemp("shared")
    write_files(path, SHARED)
    with StandIn() as api:
        env = {"ANTHROPIC_BASE_URL": api.url, "PYTEST_LLMCOST_PRICE_DATE": "2026-11-15"}
        prices = "--llmcost-prices=prices.toml"
        alone = run_suite(path, prices, "--llmcost-report=base.json", env=env)
        for name in ("reports.txt", "calls.txt"):
            (path / name).unlink()
        args = (
            *(prices, f"--llmcost-max-suite={alone.ledger()['totals']['usd']}"),
            *("--llmcost-baseline=base.json", "--llmcost-max-increase=0%"),
            *("--llmcost-report=cost.md", "--junitxml=junit.xml", "-ojunit_family=legacy"),
        )
        github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(path / "summary.md")}
        yield alone, run_suite(path, *args, "-n2", plugins=XDIST, env={**env, **github})


class TestTwoWorkers:
    def test_count_a_shared_fixture_once_and_pay_for_it_twice(self, both: tuple[Ran, Ran]) -> None:
        alone, ran = both
        assert (alone.status, ran.status) == (0, 0), ran.out
        ledger, before = ran.ledger(), ran.ledger("base.json")
        totals = ledger["totals"]
        assert totals["usd"] == before["totals"]["usd"] == before["totals"]["live_usd"]
        in_fixtures = sum(Decimal(row["usd"]) for row in before["fixtures"])
        assert Decimal(totals["live_usd"]) == Decimal(totals["usd"]) + in_fixtures
        assert totals["calls"] == before["totals"]["calls"] == 5
        (verdict,) = ledger["verdicts"]
        assert (verdict["state"], verdict["actual"]) == ("within", totals["usd"])

    def test_say_so(self, both: tuple[Ran, Ran]) -> None:
        _, ran = both
        assert len(ran.lines(r"  shared \(session fixture, most expensive of 2\)")) == 1
        assert len(ran.lines(r"  primed \(module fixture of \S+, most expensive of 2\)")) == 1
        written = (ran.path / "cost.md").read_text()
        assert written.count("most expensive of 2") == 2

    def test_add_nothing_to_a_baseline_that_one_process_made(self, both: tuple[Ran, Ran]) -> None:
        comparison = both[1].ledger()["comparison"]
        assert (comparison["change_usd"], comparison["unchanged"]) == ("0", 4)
        assert [each["state"] for each in comparison["verdicts"]] == ["within"]

    def test_price_on_the_controller_s_date(self, both: tuple[Ran, Ran]) -> None:
        ledger = both[1].ledger()
        assert ledger["price_date"] == "2026-11-15"
        for row in ledger["tests"]:
            (call,) = row["calls"]
            usage = call["usage"]
            usd_per_mtok = 10 * usage["input_tokens"] + 25 * usage["output_tokens"]
            assert Decimal(call["usd"]) * 1_000_000 == usd_per_mtok

    def test_tell_of_each_call_where_it_was_made_and_of_the_report_on_the_controller(
        self, both: tuple[Ran, Ran]
    ) -> None:
        path = both[1].path
        assert (path / "reports.txt").read_text().split() == ["controller"]
        calls = (path / "calls.txt").read_text().split()
        assert sorted(calls) == ["gw0"] * 4 + ["gw1"] * 4

    def test_write_one_job_summary(self, both: tuple[Ran, Ran]) -> None:
        summary = (both[1].path / "summary.md").read_text()
        assert summary.count("<!-- pytest-llmcost -->") == summary.count("\n### ") == 1

    def test_leave_junit_s_properties_whole(self, both: tuple[Ran, Ran]) -> None:
        (suite,) = ElementTree.parse(both[1].path / "junit.xml").getroot()
        cases = {case.attrib["name"]: properties(case) for case in suite.iter("testcase")}
        for row in both[1].ledger()["tests"]:
            words = row["nodeid"][-2]
            tokens = str(row["calls"][0]["usage"]["input_tokens"])
            assert cases[f"test_together[{words}]"] == [
                *[("words", words), ("llmcost_usd", row["usd"]), ("llmcost_calls", "1")],
                *[("llmcost_input_tokens", tokens), ("llmcost_output_tokens", "5")],
                *[("llmcost_limit_usd", "1"), ("llmcost_verdict", "within")],
            ]
        whole = dict(properties(suite))
        assert whole["llmcost_usd"] == both[1].ledger()["totals"]["usd"]
        assert len(whole) == len(properties(suite))


def properties(element: ElementTree.Element) -> list[tuple[str, str]]:
    found = element.findall("properties/property")
    return [(each.attrib["name"], each.attrib["value"]) for each in found]


# Runs that do not end as they should

UNLUCKY = {
    "app.py": APP,
    "pytest.ini": "[pytest]\nmarkers = xdist_group",
    "conftest.py": """
        import os
        import pytest
        from app import ask

        @pytest.fixture(scope="module")
        def model():
            ask(1000)
            yield
            ask(1001)

        @pytest.fixture
        def early(model):
            ask(100)
            yield
            ask(101)
    """,
    "test_unlucky.py": """
        import os
        import signal
        import pytest
        from app import ask
        from pytest_llmcost import max_cost

        HOW = os.environ.get("HOW")

        @pytest.mark.parametrize("words", [1, 2, 3, 4])
        def test_other(early, words):
            ask(words)

        @pytest.mark.xdist_group("x@y")
        @max_cost("$1")
        def test_killed(early):
            ask(20)
            if HOW == "crash":
                os.kill(os.getpid(), signal.SIGKILL)

        @max_cost("$1")
        def test_gone(early):
            ask(21)
            if HOW == "crash":
                os._exit(0)

        def test_stops(early):
            ask(22)
            assert HOW != "fail"
            if HOW == "interrupt":
                raise KeyboardInterrupt
    """,
}


@pytest.fixture(scope="module")
def unlucky(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder of tests that may end badly, and their ledger when they do not."""
    path = tmp_path_factory.mktemp("unlucky")
    write_files(path, UNLUCKY)
    ran = run_suite(path)
    assert ran.status == 0, ran.out
    return path, ran.ledger()


def test_a_worker_that_dies_takes_the_phase_in_flight_with_it_and_no_more(
    unlucky: tuple[Path, dict[str, Any]],
) -> None:
    path, before = unlucky
    ran = run_suite(path, "-n2", plugins=XDIST, env={"HOW": "crash"})
    assert ran.status == pytest.ExitCode.TESTS_FAILED
    ledger = ran.ledger()
    assert (ledger["complete"], ledger["incomplete"]) == (False, ["worker-crashed"])
    expected = [cut_off(row) for row in before["tests"]]
    assert ledger["tests"] == expected, ran.out
    # Whether a set-up of the fixture lived to be torn down depends on who had which test.
    in_fixture = max(Decimal(row["usd"]) for row in ledger["fixtures"])
    in_tests = sum(Decimal(row["usd"]) for row in expected)
    assert Decimal(ledger["totals"]["usd"]) == in_tests + in_fixture


BUDGETS = ("--llmcost-max-suite=$1", "-o", "llmcost_budgets=test_unlucky.py = $1")


@pytest.mark.parametrize("how", ["crash", "interrupt"])
def test_what_a_run_that_has_lost_calls_cost_has_no_upper_bound(
    unlucky: tuple[Path, dict[str, Any]], how: str
) -> None:
    path, _ = unlucky
    ran = run_suite(path, "-n1", *BUDGETS, plugins=XDIST, env={"HOW": how})
    ledger = ran.ledger()
    assert ledger["lost_calls"] == ["worker-crashed" if how == "crash" else "interrupted"]
    assert [each["state"] for each in ledger["verdicts"]] == ["unverified"] * 2
    assert [each["high"] for each in ledger["verdicts"]] == [None] * 2
    assert all(each["reasons"] for each in ledger["verdicts"])
    # What is known can still be too much.
    low = ("--llmcost-max-suite=$0.000001",)
    (verdict,) = run_suite(path, "-n1", *low, plugins=XDIST, env={"HOW": how}).ledger()["verdicts"]
    assert verdict["state"] == "exceeded"


@pytest.mark.parametrize(
    "args",
    [("-x",), ("-n1", "-x"), ("-n2", "--maxfail=1"), ("-k", "stops"), ("-n1", "-k", "stops")],
)
def test_a_run_that_only_left_tests_out_is_judged_by_what_ran(
    unlucky: tuple[Path, dict[str, Any]], args: tuple[str, ...]
) -> None:
    ran = run_suite(unlucky[0], *args, *BUDGETS, plugins=XDIST, env={"HOW": "fail"})
    ledger = ran.ledger()
    assert ledger["lost_calls"] == []
    assert [each["state"] for each in ledger["verdicts"]] == ["within"] * 2


def cut_off(row: dict[str, Any]) -> dict[str, Any]:
    """What a test that takes its worker down leaves behind: what its set-up had spent."""
    if "test_other" in row["nodeid"] or "test_stops" in row["nodeid"]:
        return row
    calls = [call for call in row["calls"] if call["phase"] == "setup"]
    return {
        **row,
        **{"calls": calls, "usd": calls[0]["usd"], "outcome": "failed", "verdict": None},
    }


def test_a_test_that_took_its_worker_down_has_failed_also_in_a_group(
    unlucky: tuple[Path, dict[str, Any]],
) -> None:
    args = ("-n1", "--dist=loadgroup", "--max-worker-restart=0", "-k", "killed")
    ledger = run_suite(unlucky[0], *args, plugins=XDIST, env={"HOW": "crash"}).ledger()
    (row,) = ledger["tests"]
    assert (row["nodeid"], row["outcome"]) == ("test_unlucky.py::test_killed", "failed")
    assert "worker-crashed" in ledger["incomplete"]


@pytest.mark.parametrize("dist", ["load", "loadgroup"])
def test_a_test_that_a_crashed_worker_never_told_of_has_failed_beside_the_baseline(
    tmp_path: Path, dist: str
) -> None:
    suite = """
        import os
        import pytest
        from app import ask

        HOW = os.environ.get("HOW")

        @pytest.mark.xdist_group("x@y")
        def test_fails_before_it_calls():
            assert HOW != "crash"
            ask(1)

        @pytest.mark.xdist_group("x@y")
        def test_killed_before_it_calls():
            if HOW == "crash":
                os._exit(0)
            ask(2)

        def test_same():
            ask(3)
    """
    write_files(tmp_path, {"app.py": UNLUCKY["app.py"], "test_app.py": suite})
    run_suite(tmp_path, "--llmcost-baseline=base.json", "--llmcost-update-baseline")
    args = ("-n1", f"--dist={dist}", "--max-worker-restart=0", "--llmcost-baseline=base.json")
    comparison = run_suite(tmp_path, *args, plugins=XDIST, env={"HOW": "crash"}).ledger()[
        "comparison"
    ]
    names = ("test_fails_before_it_calls", "test_killed_before_it_calls")
    assert comparison["failed"] == [f"test_app.py::{name}" for name in names]


def test_a_test_that_passes_when_it_is_run_again_has_not_failed_beside_the_baseline(
    tmp_path: Path,
) -> None:
    suite = """
        import os
        from app import ask

        ATTEMPTS = []

        def test_parts(subtests):
            ATTEMPTS.append(1)
            with subtests.test("one"):
                assert os.environ.get("HOW") != "fail" or len(ATTEMPTS) == 2
            if "HOW" not in os.environ:
                ask(1)
    """
    write_files(tmp_path, {"app.py": UNLUCKY["app.py"], "test_app.py": suite})
    run_suite(tmp_path, "--llmcost-baseline=base.json", "--llmcost-update-baseline")
    args = ("-n1", "--reruns=1", "--llmcost-baseline=base.json")
    ran = run_suite(tmp_path, *args, plugins=(*XDIST, "rerunfailures"), env={"HOW": "fail"})
    assert "1 rerun" in ran.out
    assert ran.ledger()["comparison"]["failed"] == []


def test_an_interrupted_worker_is_booked_once_though_xdist_tells_of_it_twice(
    unlucky: tuple[Path, dict[str, Any]],
) -> None:
    path, before = unlucky
    ran = run_suite(path, "-n1", plugins=XDIST, env={"HOW": "interrupt"})
    assert ran.status == pytest.ExitCode.INTERRUPTED
    ledger = ran.ledger()
    assert "interrupted" in ledger["incomplete"]
    assert [row["usd"] for row in ledger["tests"]] == [row["usd"] for row in before["tests"]]
    assert without_workers(ledger)["fixtures"] == without_workers(before)["fixtures"]
    bounds = {"is_least": True, "live_is_least": True}
    assert ledger["totals"] == {**before["totals"], **bounds}


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "one worker"])
def test_a_run_that_stops_has_all_that_was_spent_until_then_and_on_the_way_out(
    unlucky: tuple[Path, dict[str, Any]], workers: tuple[str, ...]
) -> None:
    path, before = unlucky
    args = ("-x", "test_unlucky.py::test_stops", "test_unlucky.py::test_killed", *workers)
    ran = run_suite(path, *args, plugins=XDIST, env={"HOW": "fail"})
    ledger = ran.ledger()
    assert ledger["incomplete"] == ["interrupted", "selected", "stopped"]
    (row,) = ledger["tests"]
    assert (row["outcome"], len(row["calls"])) == ("failed", 3)
    assert without_workers(ledger)["fixtures"] == without_workers(before)["fixtures"]

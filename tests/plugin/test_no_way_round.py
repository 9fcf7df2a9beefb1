"""What a test or its fixtures may do on the way, and that no ceiling is got round by it."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Project
from spending_suite import SPENDS


def verdict_of(project: Project) -> dict[str, Any]:
    (test,) = project.ledger()["tests"]
    verdict: dict[str, Any] = test["verdict"]
    return verdict


@pytest.mark.parametrize("way_out", ['pytest.skip("late")', 'pytest.xfail("late")'])
def test_what_a_teardown_spends_counts_though_it_skips(project: Project, way_out: str) -> None:
    project.write(
        test_app=f"""{SPENDS}
    @pytest.fixture
    def late(llmcost):
        yield
        spend(llmcost, 5)
        {way_out}

    @max_cost("$0.01")
    def test_early(llmcost, late):
        spend(llmcost)
    """
    )
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["ERROR test_app.py::test_early - $0.03 > $0.01 budget*"])
    assert verdict_of(project)["state"] == "exceeded"


def test_a_skip_in_a_teardown_stays_one_within_the_ceiling(project: Project) -> None:
    project.write(
        test_app=f"""{SPENDS}
    @pytest.fixture
    def late(llmcost):
        yield
        pytest.skip("late")

    @max_cost("$0.01")
    def test_early(llmcost, late):
        spend(llmcost)
    """
    )
    project.run().assert_outcomes(passed=1, skipped=1)


def test_a_teardown_that_fails_by_itself_stores_the_new_verdict(project: Project) -> None:
    project.write(
        test_app=f"""{SPENDS}
    @pytest.fixture
    def late(llmcost):
        yield
        spend(llmcost, 5)
        raise RuntimeError("by itself")

    @max_cost("$0.01")
    def test_early(llmcost, late):
        spend(llmcost)
    """
    )
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["ERROR test_app.py::test_early - RuntimeError: by itself"])
    assert (verdict_of(project)["state"], verdict_of(project)["actual"]) == ("exceeded", "0.03")


@pytest.mark.parametrize(
    "body",
    [
        """with pytest.raises(ValueError):
            with llmcost.budget("$0.001"):
                spend(llmcost)
                raise ValueError""",
        """try:
            with llmcost.budget("$0.001"):
                spend(llmcost)
        except BaseException:
            pass""",
    ],
)
@pytest.mark.parametrize("ceiling", ["", '@max_cost("$1")'])
def test_a_broken_block_fails_its_test_whatever_becomes_of_its_error(
    project: Project, body: str, ceiling: str
) -> None:
    project.write(
        test_app=f"""{SPENDS}
    {ceiling}
    def test_block(llmcost):
        {body}
    """
    )
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["FAILED *::test_block - $0.005 > $0.001 budget*"])
    (test,) = project.ledger()["tests"]
    assert [block["state"] for block in test["blocks"]] == ["exceeded"]


@pytest.mark.parametrize("ceiling", ["", '@max_cost("$1")'], ids=["alone", "ceiling"])
def test_a_block_that_a_thread_ends_after_its_test_fails_the_run(
    project: Project, ceiling: str
) -> None:
    project.write(
        test_app=f"""{SPENDS}
    from threading import Event, Thread
    SPENT, GO = Event(), Event()

    {ceiling}
    def test_block(llmcost):
        def late():
            with pytest.raises(pytest.fail.Exception), llmcost.budget("$0.001"):
                spend(llmcost)
                SPENT.set()
                GO.wait(10)
        global thread
        thread = Thread(target=late)
        thread.start()
        SPENT.wait(10)

    def test_next():
        GO.set()
        thread.join()
    """
    )
    result = project.run("--llmcost-report=ledger.json")
    result.assert_outcomes(passed=2, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*::test_block exceeded its budget too late to fail*"])


def test_a_block_that_raises_within_its_ceiling_is_noted_and_fails_nothing(
    project: Project,
) -> None:
    project.write(
        test_app=f"""{SPENDS}
    def test_block(llmcost):
        with pytest.raises(ValueError):
            with llmcost.budget("$1"):
                spend(llmcost)
                raise ValueError
    """
    )
    project.run("--llmcost-report=ledger.json").assert_outcomes(passed=1)
    (test,) = project.ledger()["tests"]
    assert [block["state"] for block in test["blocks"]] == ["within"]


def test_a_block_goes_on_when_one_inside_it_that_spent_as_much_is_through(
    project: Project,
) -> None:
    project.write(
        test_app=f"""{SPENDS}
    def test_block(llmcost):
        with llmcost.budget("$0.001"):
            with llmcost.budget("$0.001"):
                pass
            spend(llmcost)
    """
    )
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["* over the * budget set at test_app.py:12"])


def test_all_that_a_test_broke_is_named_money_first(project: Project) -> None:
    project.write(
        test_app=f"""{SPENDS}
    @max_cost("$0.001", input_tokens=900, output_tokens=3, calls=1)
    def test_much(llmcost):
        spend(llmcost, 2)
    """
    )
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "$0.01 is $0.009 (900 %) over the $0.001 budget set at test_app.py:11",
            "",
            "  largest of 2 *",
            "  also *2,000 input tokens are 1,100 (122 %) over the budget of 900 input tokens",
            "  also *2 calls are 1 (100 %) over the budget of 1 call",
        ],
    )
    result.stdout.no_fnmatch_line("*also*output tokens*")


@pytest.mark.parametrize("limit", [0, 3])
def test_a_ceiling_on_calls_is_kept_by_making_none(project: Project, limit: int) -> None:
    project.write(
        test_app=f"""{SPENDS}
    @max_cost(calls={limit})
    def test_none():
        pass

    @max_cost(calls=0)
    def test_one(llmcost):
        spend(llmcost)

    @max_cost("$1", calls={limit})
    def test_money_wants_a_call():
        pass
    """
    )
    result = project.run()
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["FAILED *::test_one - 1 > 0 calls"])


def test_long_parameters_that_begin_the_same_are_different_fixtures(project: Project) -> None:
    project.write(
        test_app=f"""{SPENDS}
    LONG = "You are a helpful assistant of the support desk, and " * 3

    @pytest.fixture(scope="module", params=[LONG + "brief.", LONG + "wordy."], ids=["a", "b"])
    def reply(request):
        from pytest_llmcost.plugin.session import KEY
        from pytest_llmcost.plugin.fixture import LlmCost
        spend(LlmCost(request.config.stash[KEY], request.node))

    def test_one(reply):
        pass
    """
    )
    project.run("--llmcost-report=ledger.json").assert_outcomes(passed=2)
    params = {row["param"] for row in project.ledger()["fixtures"]}
    assert len(params) == 2
    assert all(len(param) < 120 for param in params)


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("--llmcost-max-increase=10%", "--llmcost-max-increase"),
        ("--llmcost-max-test-increase=10%", "--llmcost-max-test-increase"),
        ("--llmcost-update-baseline", "--llmcost-update-baseline"),
        ("--llmcost-vanished=fail", "--llmcost-vanished"),
    ],
)
def test_a_comparison_with_nothing_is_a_usage_error(
    project: Project, given: str, origin: str
) -> None:
    project.write(test_app="def test_nothing(): pass")
    result = project.run(given)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {origin}: needs a baseline*--llmcost-baseline=PATH"])


@pytest.mark.parametrize("name", ["baseline", "history"])
def test_a_report_never_replaces_what_a_run_is_compared_with(project: Project, name: str) -> None:
    project.write(test_app="def test_nothing(): pass")
    (project.path / "old.json").write_text("{}")
    result = project.run(f"--llmcost-{name}=old.json", "--llmcost-report=./old.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    message = f"ERROR: --llmcost-report: old.json is the file of --llmcost-{name}, which it would*"
    result.stderr.fnmatch_lines([message])
    assert (project.path / "old.json").read_text() == "{}"


def test_an_ini_file_may_limit_what_only_ci_compares(project: Project) -> None:
    project.write(
        test_app="def test_nothing(): pass",
        pytest_ini="[pytest]\nllmcost_max_increase = 10%\n",
    )
    project.run().assert_outcomes(passed=1)


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_what_passes_unverified_is_reported(project: Project, quiet: tuple[str, ...]) -> None:
    project.write(
        test_app=f"""{SPENDS}
    @max_cost("$1")
    def test_one():
        pass

    @max_cost("$1")
    def test_other(llmcost):
        spend(llmcost)
    """
    )
    result = project.run("--llmcost-unverified=warn", *quiet)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["1 test passed with an unverified budget (llmcost_unverified=warn)"]
    )
    result = project.run("--llmcost-unverified=warn", *quiet, "-k", "other")
    result.stdout.no_fnmatch_line("*unverified budget*")


def test_no_baseline_is_made_of_a_test_that_a_missing_count_ended(project: Project) -> None:
    project.write(
        test_app=f"""{SPENDS}
    @max_cost("$1")
    def test_missing(llmcost):
        llmcost.count(model="claude-opus-4-7", messages=[{{"role": "user", "content": "Hi"}}])
        spend(llmcost)
    """
    )
    result = project.run("--llmcost-baseline=base.json", "--llmcost-update-baseline")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["not written: base.json: *"])
    assert not (project.path / "base.json").exists()

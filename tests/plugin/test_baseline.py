"""A run against an earlier one: what is added, what may be added, what is accepted."""

from __future__ import annotations

from decimal import Decimal

import pytest
from conftest import Project
from standin import StandIn

APP = """
    import pytest

    def payload(words):
        return {{
            "model": "claude-opus-4-7", "max_tokens": 10, "system": "Be brief. " * {system},
            "messages": [{{"role": "user", "content": "word " * words}}],
        }}

    @pytest.mark.parametrize("words", [10, 20])
    def test_each(llmcost, words):
        llmcost.count(payload(words), output_tokens=5)

    def test_other(llmcost):
        llmcost.count(payload(30), output_tokens=5)
    {more}
"""
RECORD = "--llmcost-record-mode=new_episodes"
NEW_TEST = """
    def test_new(llmcost):
        llmcost.count(payload(3000), output_tokens=5)
"""


def write_app(project: Project, system: int = 100, more: str = "") -> None:
    project.write(test_app=APP.format(system=system, more=more))


@pytest.fixture
def accepted(project: Project, standin: StandIn) -> Project:
    """A project with a baseline of its own."""
    project.online(standin)
    write_app(project)
    result = project.run(RECORD, "--llmcost-baseline=base.json", "--llmcost-update-baseline")
    result.assert_outcomes(passed=3)
    return project


def compare(project: Project, *args: str) -> pytest.RunResult:
    return project.run(
        RECORD, "--llmcost-baseline=base.json", "--llmcost-report=ledger.json", *args
    )


def test_an_equal_run_adds_nothing(accepted: Project) -> None:
    result = compare(accepted, "--llmcost-max-increase=0%", "--llmcost-max-test-increase=$0")
    assert result.ret == pytest.ExitCode.OK
    comparison = accepted.ledger()["comparison"]
    assert (comparison["change_usd"], comparison["unchanged"]) == ("0", 3)


def test_a_grown_prompt_fails_the_run_though_every_test_passes_and_names_what_grew(
    accepted: Project,
) -> None:
    write_app(accepted, system=200)
    result = compare(accepted, "--llmcost-max-increase=10%")
    result.assert_outcomes(passed=3)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.re_match_lines(
        [
            r"against the baseline \+\$0\.\d+: \$0\.\d+ -> \$0\.\d+",
            r"  \+\$0\.\d+ test_app\.py::test_each\[10\]: \+\d+ input, system",
            r"increase exceeded: added cost \$0\.\d+ > \$0\.\d+ max_increase 10% .*",
        ]
    )
    assert Decimal(accepted.ledger()["comparison"]["change_usd"]) > 0


def test_each_limit_breaks_by_itself(accepted: Project) -> None:
    write_app(accepted, system=101)
    assert compare(accepted, "--llmcost-max-increase=50%").ret == pytest.ExitCode.OK
    broken = compare(accepted, "--llmcost-max-increase=50%", "--llmcost-max-increase=$0.0000001")
    assert broken.ret == pytest.ExitCode.TESTS_FAILED
    test_limit = compare(accepted, "--llmcost-max-test-increase=$0.0000001")
    assert test_limit.ret == pytest.ExitCode.TESTS_FAILED


def test_a_new_test_counts_for_the_suite_and_not_as_a_grown_test(accepted: Project) -> None:
    write_app(accepted, more=NEW_TEST)
    assert compare(accepted, "--llmcost-max-test-increase=0%").ret == pytest.ExitCode.OK
    broken = compare(accepted, "--llmcost-max-increase=10%")
    assert broken.ret == pytest.ExitCode.TESTS_FAILED
    broken.stdout.fnmatch_lines(["  +$* test_app.py::test_new: new"])


def test_the_accepting_run_passes_and_its_figures_are_the_new_baseline(accepted: Project) -> None:
    write_app(accepted, system=200)
    result = compare(accepted, "--llmcost-max-increase=0%", "--llmcost-update-baseline")
    assert result.ret == pytest.ExitCode.OK
    assert compare(accepted, "--llmcost-max-increase=0%").ret == pytest.ExitCode.OK


def test_a_partial_run_is_compared_over_what_ran_and_accepts_nothing(accepted: Project) -> None:
    before = (accepted.path / "base.json").read_bytes()
    result = compare(accepted, "-k", "other", "--llmcost-max-increase=0%")
    assert result.ret == pytest.ExitCode.OK
    ledger = accepted.ledger()
    assert (ledger["complete"], ledger["incomplete"]) == (False, ["deselected"])
    assert ledger["comparison"]["unchanged"] == 1
    refused = compare(accepted, "-k", "other", "--llmcost-update-baseline")
    assert refused.ret == pytest.ExitCode.TESTS_FAILED
    refused.stdout.fnmatch_lines(["not written: *base.json: is left as it was*deselected*"])
    assert (accepted.path / "base.json").read_bytes() == before


def test_a_run_with_a_failing_test_accepts_nothing(accepted: Project) -> None:
    before = (accepted.path / "base.json").read_bytes()
    write_app(
        accepted,
        more="""
    def test_broken(llmcost):
        llmcost.count(payload(5), output_tokens=5)
        assert False
    """,
    )
    result = compare(accepted, "--llmcost-update-baseline")
    result.stdout.fnmatch_lines(["not written: *is left as it was, for *::test_broken failed*"])
    assert (accepted.path / "base.json").read_bytes() == before


@pytest.mark.parametrize(
    ("testpaths", "args", "is_whole"),
    [
        ("", ["."], True),
        ("tests", [], True),
        ("tests", ["tests"], True),
        ("tests", ["."], True),
        ("tests", ["tests/deep"], False),
        ("tests", ["tests/test_top.py"], False),
        ("tests other", ["tests"], False),
    ],
)
def test_what_is_less_than_the_test_paths_is_a_part(
    project: Project, testpaths: str, args: list[str], is_whole: bool
) -> None:
    test = "def test_nothing(): pass"
    project.write(tests__test_top=test, tests__deep__test_deep=test, other__test_other=test)
    project.write(pytest_ini=f"[pytest]\ntestpaths = {testpaths}\n")
    project.run("--llmcost-report=ledger.json", "--import-mode=importlib", *args)
    assert project.ledger()["complete"] is is_whole


def test_a_baseline_that_is_not_there_is_a_usage_error_unless_it_is_being_made(
    project: Project,
) -> None:
    project.write(test_app="def test_nothing(): pass")
    missing = project.run("--llmcost-baseline=base.json")
    assert missing.ret == pytest.ExitCode.USAGE_ERROR
    made = project.run("--llmcost-baseline=base.json", "--llmcost-update-baseline")
    assert made.ret == pytest.ExitCode.OK
    (project.path / "base.json").write_text('{"schema": "pytest-llmcost/2"}', encoding="utf-8")
    newer = project.run("--llmcost-baseline=base.json")
    assert newer.ret == pytest.ExitCode.USAGE_ERROR
    newer.stderr.fnmatch_lines(["*base.json*newer than pytest-llmcost/1*"])

"""The end of a run: ceilings over several tests, exit statuses, what is printed and written."""

from __future__ import annotations

import os
import re
from decimal import Context, Decimal, Inexact, localcontext

import pytest
from conftest import Project
from spending_suite import SPENDS
from standin import StandIn

TWO = (
    SPENDS
    + """
    def test_one(llmcost):
        spend(llmcost)

    def test_two(llmcost):
        spend(llmcost)
"""
)
"""A cent in all."""
CALLS_ON_IMPORT = """
    import anthropic

    anthropic.Anthropic().messages.create(
        model="claude-opus-4-7", max_tokens=10, messages=[{"role": "user", "content": "Hi"}])
"""


@pytest.mark.parametrize(
    ("limit", "state", "status"),
    [
        ("$0.01", "within", pytest.ExitCode.OK),
        ("$0.009999999", "exceeded", pytest.ExitCode.TESTS_FAILED),
        ("$0.010000001", "within", pytest.ExitCode.OK),
        ("0", "exceeded", pytest.ExitCode.TESTS_FAILED),
    ],
)
def test_a_suite_may_spend_its_ceiling_and_not_a_nanodollar_more(
    project: Project, limit: str, state: str, status: pytest.ExitCode
) -> None:
    project.write(test_app=TWO)
    result = project.run(f"--llmcost-max-suite={limit}", "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=2, failed=int(status))
    assert result.ret == status
    result.stdout.fnmatch_lines(
        [f"{'✗ *over' if status else '✓ * within'} the * suite budget set by --llmcost-max-suite*"]
    )
    ledger = project.ledger()
    (verdict,) = ledger["verdicts"]
    assert (verdict["state"], ledger["run"]["exit_status"]) == (state, status)
    assert (ledger["complete"], ledger["incomplete"]) == (True, [])


@pytest.mark.parametrize("quiet", ["-q", "-qq"])
def test_quietly_it_is_a_line_and_one_for_each_broken_budget(project: Project, quiet: str) -> None:
    project.write(test_app=TWO)
    result = project.run(quiet, "--llmcost-max-suite=0.001")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert [line for line in result.outlines if "llmcost" in line or "$" in line] == [
        "llmcost: cost $0.01 > $0.001 max_suite (+900 %), 1 budget exceeded",
        "FAILED --llmcost-max-suite - cost $0.01 > $0.001 max_suite (+900 %)",
    ]


def test_a_line_of_the_short_summary_has_the_colours_of_pytests_own(project: Project) -> None:
    project.write(test_app=TWO)
    result = project.run("--llmcost-max-suite=0.001", "--color=yes")
    red, bold, end = "\x1b[31m", "\x1b[1m", "\x1b[0m"
    line = f"{red}FAILED{end}{bold} --llmcost-max-suite{end} - cost $0.01 > $0.001"
    assert line in result.stdout.str()


@pytest.mark.parametrize(
    ("end", "state"),
    [("raise KeyboardInterrupt", "unverified"), ("pytest.exit('enough')", "within")],
)
def test_only_an_interrupt_leaves_open_what_was_spent_in_all(
    project: Project, end: str, state: str
) -> None:
    project.write(test_app=f"{TWO}\n    def test_three(): {end}\n")
    project.run("--llmcost-max-suite=$1", "--llmcost-report=ledger.json")
    (verdict,) = project.ledger()["verdicts"]
    assert (verdict["state"], verdict["low"]) == (state, "0.01")


def test_without_a_terminal_the_exit_status_and_the_file_still_tell(project: Project) -> None:
    project.write(test_app=TWO)
    result = project.run(
        "-p", "no:terminal", "--llmcost-max-suite=0.001", "--llmcost-report=ledger.json"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.stdout.str() == ""
    assert project.ledger()["verdicts"][0]["state"] == "exceeded"


ENDINGS = {
    "interrupted": (
        "def test_three(): raise KeyboardInterrupt",
        [],
        pytest.ExitCode.INTERRUPTED,
        ["interrupted"],
    ),
    "exit": (
        "def test_three(): pytest.exit('enough')",
        [],
        pytest.ExitCode.INTERRUPTED,
        ["interrupted"],
    ),
    "exit with a status": (
        "def test_three(): pytest.exit('enough', returncode=7)",
        [],
        7,
        ["interrupted"],
    ),
    "stopped at the first failure": (
        "def test_three(): assert 0\n    def test_four(): pass",
        ["-x"],
        pytest.ExitCode.TESTS_FAILED,
        ["interrupted", "stopped"],
    ),
    "deselected": (
        "def test_three(): pass",
        ["-k", "not three"],
        pytest.ExitCode.TESTS_FAILED,
        ["deselected"],
    ),
    "selected": (
        "def test_three(): pass",
        ["test_app.py::test_one", "test_app.py::test_two"],
        pytest.ExitCode.TESTS_FAILED,
        ["selected"],
    ),
    "a file": ("", ["test_app.py"], pytest.ExitCode.TESTS_FAILED, ["selected"]),
    "failed by itself": (
        "def test_three(): assert 0",
        [],
        pytest.ExitCode.TESTS_FAILED,
        [],
    ),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_a_broken_ceiling_only_ever_turns_success_into_failure(project: Project, how: str) -> None:
    more, args, status, incomplete = ENDINGS[how]
    project.write(test_app=f"{TWO}\n    {more}\n")
    result = project.run("--llmcost-max-suite=0.001", "--llmcost-report=ledger.json", *args)
    assert result.ret == status
    ledger = project.ledger()
    assert ledger["run"]["exit_status"] == status
    assert ledger["incomplete"] == incomplete
    assert ledger["totals"]["usd"] == "0.01"
    assert [each["state"] for each in ledger["verdicts"]] == ["exceeded"]


@pytest.mark.parametrize("skipped", ["", "import pytest; pytest.skip(allow_module_level=True)"])
def test_a_run_without_tests_fails_by_what_it_exceeded_and_not_by_what_was_not_run(
    project: Project, standin: StandIn, skipped: str
) -> None:
    project.online(standin).write(
        conftest=CALLS_ON_IMPORT, **{"test_skipped": skipped} if skipped else {}
    )
    budgets = ["--llmcost-report=ledger.json", "-o", "llmcost_budgets=test_skipped.py = $1"]
    result = project.run(*budgets)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result = project.run("--llmcost-max-suite=0.000001", *budgets)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.ledger()["run"]["exit_status"] == pytest.ExitCode.TESTS_FAILED
    (call,) = project.ledger()["outside_tests"]
    assert call["live"] is True
    result.stdout.fnmatch_lines(["  outside tests *", "✗ * over the * suite budget *"])


def test_collection_errors_keep_their_status_and_the_run_is_not_complete(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=TWO, test_bad=CALLS_ON_IMPORT + "    import nothing_such"
    )
    args = ["--llmcost-max-suite=0.000001", "--llmcost-report=ledger.json"]
    result = project.run(*args)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    ledger = project.ledger()
    assert ledger["incomplete"] == ledger["lost_calls"] == ["collection-errors"]
    assert len(ledger["outside_tests"]) == 1
    assert not ledger["run"]["has_tests"]
    result = project.run(*args, "--continue-on-collection-errors")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.ledger()["run"]["has_tests"]
    assert project.ledger()["incomplete"] == ["collection-errors"]


@pytest.mark.parametrize("first", [(), ("-x",)])
def test_no_test_ran_if_there_were_collection_errors(
    project: Project, first: tuple[str, ...]
) -> None:
    project.write(test_app=TWO, test_bad="import nothing_such")
    project.run("--llmcost-report=ledger.json", "--llmcost-history=history.jsonl", *first)
    assert not project.ledger()["run"]["has_tests"]
    assert project.ledger()["lost_calls"] == ["collection-errors"]
    assert not (project.path / "history.jsonl").exists()


def test_a_collection_error_is_why_the_suites_budget_is_not_checked(project: Project) -> None:
    project.write(test_app=TWO, test_bad="import nothing_such")
    result = project.run("--llmcost-max-suite=$1")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        [
            "? cannot check the $1.00 suite budget set by --llmcost-max-suite: tests were not run",
            "  tests were not run because of errors during collection",
            "  fix these, then run again",
            "FAILED --llmcost-max-suite - not checked: $1.00 suite budget, tests were not run",
        ]
    )
    result.stdout.no_fnmatch_line("*the run was interrupted*")


def test_a_usage_error_keeps_its_status(project: Project, standin: StandIn) -> None:
    project.online(standin).write(conftest=CALLS_ON_IMPORT)
    result = project.run("nowhere.py", "--llmcost-max-suite=0.000001")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_an_internal_error_keeps_its_status_and_the_report_is_written(project: Project) -> None:
    project.write(
        test_app=TWO,
        conftest="""
    def pytest_runtest_logfinish(nodeid):
        if nodeid.endswith("two"):
            raise RuntimeError("a plugin's own")
    """,
    )
    result = project.run("--llmcost-max-suite=0.001", "--llmcost-report=ledger.json")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert project.ledger()["incomplete"] == ["interrupted"]


@pytest.mark.parametrize(
    ("ending", "status"),
    [
        ('pytest.exit("no key today", returncode=0)', pytest.ExitCode.OK),
        ('raise pytest.UsageError("no key today")', pytest.ExitCode.USAGE_ERROR),
        ('raise RuntimeError("a plugin\'s own")', pytest.ExitCode.INTERNAL_ERROR),
    ],
)
def test_a_run_that_ends_before_its_first_test_is_not_complete(
    project: Project, ending: str, status: pytest.ExitCode
) -> None:
    project.write(test_app=TWO)
    project.run("--llmcost-baseline=base.json", "--llmcost-update-baseline")
    project.write(
        conftest=f"""
    import pytest

    def pytest_collection_modifyitems():
        {ending}
    """
    )
    args = ("--llmcost-baseline=base.json", "--llmcost-vanished=fail")
    result = project.run(*args, "--llmcost-report=ledger.json")
    assert result.ret == status
    assert project.ledger()["incomplete"] == ["interrupted"]


@pytest.mark.parametrize("how", ["--fixtures", "--fixtures-per-test", "--cache-show"])
def test_what_only_shows_something_leaves_the_files_of_the_last_run_alone(
    project: Project, how: str
) -> None:
    project.write(
        test_app=TWO,
        pytest_ini="""
    [pytest]
    llmcost_report = ledger.json
    llmcost_baseline = base.json
    llmcost_history = history.jsonl
    llmcost_vanished = fail
    llmcost_max_suite = $1
    """,
    )
    project.run("--llmcost-update-baseline")
    files = [project.path / name for name in ("ledger.json", "base.json", "history.jsonl")]
    before = [file.read_bytes() for file in files]
    result = project.run(how, "-p", "cacheprovider")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*suite budget*")
    result.stdout.no_fnmatch_line("*FAILED*")
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize("how", ["--collect-only", "--setup-plan", "--setup-only"])
def test_nothing_is_judged_that_does_not_run(project: Project, how: str) -> None:
    project.write(
        test_app=SPENDS
        + """
    @max_cost("$1")
    def test_one(llmcost):
        spend(llmcost)
    """
    )
    result = project.run(how, "--llmcost-max-suite=0", "--llmcost-report=ledger.json")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*exceeded*")
    result.stdout.no_fnmatch_line("*unverified*")
    if how == "--collect-only":
        assert not (project.path / "ledger.json").exists()


def test_a_suite_without_any_use_prints_and_writes_nothing_of_ours(project: Project) -> None:
    project.write(test_app="def test_plain(): pass")
    for args in ([], ["-v"], ["-q"], ["-rA"]):
        result = project.run(*args)
        assert result.ret == pytest.ExitCode.OK
        lines = [line for line in result.outlines if not line.startswith("plugins:")]
        assert not any("llmcost" in line or "$" in line for line in lines)


@pytest.mark.parametrize("setting", ["--llmcost-max-test=$1", "--llmcost-max-suite=$1"])
def test_a_ceiling_in_the_settings_prints_nothing_where_nothing_is_counted(
    project: Project, setting: str
) -> None:
    project.write(test_app="def test_plain(): pass")
    for quiet in ([], ["-q"]):
        result = project.run(setting, *quiet)
        assert result.ret == pytest.ExitCode.OK
        lines = [line for line in result.outlines if not line.startswith("plugins:")]
        assert not any("llmcost" in line or "$" in line for line in lines)


def test_an_empty_suite_has_an_empty_report(project: Project) -> None:
    result = project.run("--llmcost-report=out/deep/ledger.json")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    ledger = project.ledger("out/deep/ledger.json")
    assert (ledger["totals"]["calls"], ledger["tests"], ledger["complete"]) == (0, [], True)


def test_a_report_that_cannot_be_written_fails_the_run_and_says_why(project: Project) -> None:
    project.write(test_app=TWO)
    (project.path / "file").write_text("in the way")
    for quiet in ([], ["-q"]):
        result = project.run(
            "--llmcost-report=file/ledger.json", "--llmcost-report=good.json", *quiet
        )
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        said = [line for line in result.outlines if line.startswith("not written: ")]
        assert len(said) == 1
        assert "file/ledger.json" in said[0]
        assert project.ledger("good.json")["totals"]["usd"] == "0.01"


def test_max_test_is_the_ceiling_of_tests_without_a_marker(project: Project) -> None:
    project.write(
        test_app=SPENDS
        + """
    def test_dear(llmcost):
        spend(llmcost, 2)

    def test_cheap(llmcost):
        spend(llmcost)

    def test_idle():
        pass

    @max_cost("$1")
    def test_marked(llmcost):
        spend(llmcost, 3)

    @max_cost(calls=9)
    def test_marked_for_calls_alone(llmcost):
        spend(llmcost, 3)
    """
    )
    result = project.run("--llmcost-max-test=$0.005", "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(
        [
            "* budget set by --llmcost-max-test",
            "FAILED test_app.py::test_dear - $0.01 > $0.005 budget*",
            "FAILED test_app.py::test_marked_for_calls_alone - $0.015 > $0.005 budget*",
        ]
    )
    verdicts = {each["nodeid"]: each["verdict"]["state"] for each in project.ledger()["tests"]}
    assert verdicts["test_app.py::test_cheap"] == "within"
    assert "test_app.py::test_idle" not in verdicts


def test_places_have_ceilings_on_the_sum_of_what_matches(project: Project) -> None:
    project.write(
        pytest_ini="""
    [pytest]
    llmcost_budgets =
        agents/** = $0.01
        **/test_more.py = $1
        nothing/** = $0.01
    """,
        agents__test_app=TWO,
        agents__test_more=TWO.replace("test_two", "test_three"),
        test_other=TWO,
    )
    result = project.run("--llmcost-report=ledger.json", "--import-mode=importlib")
    result.assert_outcomes(passed=6, failed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    verdicts = {each["pattern"]: each for each in project.ledger()["verdicts"]}
    assert [verdicts[key]["state"] for key in ("agents/**", "**/test_more.py", "nothing/**")] == [
        "exceeded",
        "within",
        "unverified",
    ]
    assert verdicts["agents/**"]["actual"] == "0.02"
    assert verdicts["agents/**"]["origin"] == "llmcost_budgets"


@pytest.mark.parametrize(
    ("limit", "share", "near"),
    [("$0.01", "100%", True), ("$0.01", "50%", True), ("$0.011", "100%", False)],
)
def test_a_warning_threshold_shows_but_never_fails(
    project: Project, limit: str, share: str, near: bool
) -> None:
    project.write(test_app=TWO)
    result = project.run(
        f"--llmcost-max-suite={limit}", f"--llmcost-warn-at={share}", "--color=yes"
    )
    assert result.ret == pytest.ExitCode.OK
    (line,) = (line for line in result.outlines if f"within the {limit} suite budget" in line)
    assert ("\x1b[33m" in line) == near


NEAR = (
    SPENDS
    + """
    @max_cost("$0.01")
    def test_near(llmcost):
        spend(llmcost)
        with llmcost.budget("$0.005"):
            spend(llmcost)

    @max_cost("$1", calls=1, input_tokens=1_200)
    def test_near_in_tokens(llmcost):
        spend(llmcost)

    @max_cost("$1", calls=1)
    def test_as_many_calls_as_allowed(llmcost):
        spend(llmcost)
"""
)


def test_every_report_agrees_on_a_test_that_has_nearly_reached_its_budget(
    project: Project,
) -> None:
    project.write(test_app=NEAR)
    options = ("--llmcost-report=ledger.json", "--llmcost-report=cost.md")
    result = project.run("--llmcost-warn-at=80%", *options)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["! test_near * 100%", "! test_near_in_tokens *1,200 input*83%"])
    result.stdout.no_fnmatch_line("! test_as_many*")
    _, row, _ = project.ledger()["tests"]
    assert [each["warn_at"] for each in (row["verdict"], *row["blocks"])] == ["0.8", "0.8"]
    comment = (project.path / "cost.md").read_text(encoding="utf-8")
    assert "\n2 near the limit · 1 within budget\n" in comment
    assert set(re.findall(r"- ⚠️ <code>test_app.py::(\w+)", comment)) == {
        "test_near",
        "test_near_in_tokens",
    }


UNVERIFIED = (
    SPENDS
    + """
    @max_cost("$1")
    def test_unknown(llmcost):
        llmcost.record(USAGE, model="claude-opus-99")
"""
)


def test_an_unverified_ceiling_fails_and_can_be_softened_and_an_exceeded_one_not(
    project: Project,
) -> None:
    project.write(test_app=UNVERIFIED)
    result = project.run("--llmcost-max-suite=$1")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["[?] cannot check the * suite budget *", "  no price for model 'claude-opus-99'*"]
    )
    result = project.run("--llmcost-max-suite=$1", "--llmcost-unverified=warn")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["[?] test_unknown *[?]", "[?] cannot check the * suite budget *"])
    project.write(test_app=UNVERIFIED + "        spend(llmcost, 300)\n")
    result = project.run("--llmcost-max-suite=$1", "--llmcost-unverified=warn")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["✗ at least $1.50 is $0.50 (50 %) over the $1.00 suite budget *"])


@pytest.mark.parametrize(
    ("option", "is_listed"),
    [("--llmcost-max-suite=$0.001", True), ("--llmcost-report=test_app.py/ledger.json", False)],
)
def test_a_run_that_fails_by_itself_does_not_end_in_green(
    project: Project, option: str, is_listed: bool
) -> None:
    project.write(test_app=TWO)
    result = project.run("--color=yes", option)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    red, last = "\x1b[31m", result.stdout.lines[-1]
    assert last.startswith(red), last
    assert result.parseoutcomes() == {"failed": 1, "passed": 2}
    assert any(f"{red}FAILED" in line for line in result.stdout.lines) is is_listed


def test_what_reads_the_failed_reports_at_the_very_end_finds_a_report_of_the_run(
    project: Project,
) -> None:
    project.write(
        test_app=TWO,
        conftest="""
            def pytest_unconfigure(config):
                terminal = config.pluginmanager.get_plugin("terminalreporter")
                for report in terminal.stats["failed"]:
                    terminal.write_line(f"{report.nodeid}, {report.when}: {report.longreprtext}")
        """,
    )
    result = project.run("--llmcost-max-suite=$0.001")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["llmcost, call: FAILED --llmcost-max-suite - cost $0.01 > *"])


@pytest.mark.parametrize("hook", ["unconfigure", "terminal_summary"])
def test_what_is_spent_after_the_summary_and_fails_the_run_is_said_as_well(
    project: Project, standin: StandIn, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    (project.path / "summary.md").write_bytes(b"An earlier step\n")
    late = CALLS_ON_IMPORT.replace("\n    ", "\n        ")
    project.online(standin).write(conftest=f"    def pytest_{hook}():{late}", test_app=TWO)
    with localcontext(Context(prec=1, traps=[Inexact])):  # as a test may leave it
        result = project.run("--llmcost-max-suite=$0.01")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    late = "llmcost: cost $0.01* > $0.01 *, 1 budget exceeded, *(calls ended after the summary, *"
    failed = "FAILED --llmcost-max-suite - cost $0.01* > *"
    result.stdout.fnmatch_lines(["*= 2 passed in *", late, failed])
    summary = (project.path / "summary.md").read_text("utf-8")
    assert re.findall("^###? .|^An .*", summary, re.M) == ["An earlier step", "### ❌"]
    # Also where nothing was spent before, and where there is no terminal, and so no summary.
    project.write(test_app="def test_free(): pass")
    result = project.run("--llmcost-max-suite=$0")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["FAILED --llmcost-max-suite - *"])
    result = project.run("--llmcost-max-suite=$0", "-p", "no:terminal")
    assert (result.ret == pytest.ExitCode.TESTS_FAILED) is (hook == "unconfigure")
    assert result.stderr.str() == ""
    result = project.run()
    assert (result.ret, result.stderr.str()) == (pytest.ExitCode.OK, "")


def test_the_summary_and_the_file_name_the_same_figures(project: Project) -> None:
    project.write(test_app=TWO)
    result = project.run("--llmcost-max-suite=0.009", "--llmcost-report=ledger.json", "-v")
    totals = project.ledger()["totals"]
    assert Decimal(totals["usd"]) == Decimal("0.01")
    result.stdout.fnmatch_lines(
        ["$0.01 at list price, 2 calls", "✗ $0.01 is * over the * suite budget *"]
    )


def test_last_failed_runs_are_not_complete(project: Project) -> None:
    project.write(test_app=TWO, test_bad="def test_bad(): assert 0")
    with_cache = ["-p", "cacheprovider", "--llmcost-report=ledger.json"]
    project.run(*with_cache)
    assert project.ledger()["complete"] is True
    project.write(test_bad="def test_bad(): pass")
    result = project.run(*with_cache, "--lf")
    result.assert_outcomes(passed=1)
    assert project.ledger()["incomplete"] == ["selected"]


@pytest.mark.parametrize(
    ("args", "complete"),
    [
        ([], True),
        (["tests"], True),
        (["."], True),
        (["tests/unit"], False),
        (["tests/unit", "tests/other"], True),
        (["tests", "--ignore=tests/unit"], False),
        (["tests", "--deselect=tests/unit/test_app.py::test_one"], False),
        (["tests", "--ignore-glob=*other*"], False),
    ],
)
@pytest.mark.parametrize("is_in_environment", [False, True])
def test_a_run_over_a_part_of_the_test_paths_is_not_complete(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    complete: bool,
    is_in_environment: bool,
) -> None:
    project.write(
        pytest_ini="[pytest]\ntestpaths = tests/unit tests/other",
        tests__unit__test_app=TWO,
        tests__other__test_other="def test_other(): pass",
    )
    if is_in_environment:
        monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(args))
        args = []
    project.run("--llmcost-report=ledger.json", *args)
    assert project.ledger()["complete"] is complete


def test_what_the_suite_itself_ignores_leaves_it_whole(project: Project) -> None:
    project.write(
        pytest_ini="[pytest]\naddopts = --ignore=test_slow.py --ignore-glob=*old*",
        test_app=TWO,
        test_slow=TWO,
    )
    project.run("--llmcost-report=ledger.json").assert_outcomes(passed=2)
    assert project.ledger()["complete"] is True


IGNORES = """
    def pytest_ignore_collect(collection_path):
        return True if collection_path.match("{}") else None
"""


@pytest.mark.parametrize(
    ("plugin", "left_out", "incomplete"),
    [
        ("shard", "tests/test_other.py", ["deselected"]),
        ("shard", "tests", ["deselected"]),
        ("conftest", "tests/test_other.py", []),
        # In a folder in which nobody looks for tests, as hypothesis' own.
        ("shard", ".cases", []),
        # What the suite leaves out by itself.
        ("shard", "build", []),
        ("shard", "nothing", []),
    ],
)
def test_a_run_from_which_a_plugin_leaves_files_out_is_not_complete(
    project: Project, plugin: str, left_out: str, incomplete: list[str]
) -> None:
    project.pytester.syspathinsert()
    project.write(
        pytest_ini="[pytest]\nnorecursedirs = build",
        test_app=TWO,
        tests__test_other=TWO,
        build__test_built=TWO,
        **{".cases__test_case": TWO, "shard": "", plugin: IGNORES.format(left_out)},
    )
    project.run("--llmcost-report=ledger.json", "-p", "shard")
    assert project.ledger()["incomplete"] == incomplete


def test_leaving_early_with_status_0_does_not_get_round_the_suite_s_ceiling(
    project: Project,
) -> None:
    project.write(
        test_app=TWO
        + """
    def test_zz_exit():
        pytest.exit("done early", returncode=0)
    """
    )
    assert project.run("--llmcost-max-suite=$1").ret == pytest.ExitCode.OK
    assert project.run("--llmcost-max-suite=0.001").ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(
    ("workspace", "file"), [("..", "{folder}/test_app.py"), ("/elsewhere/shop", "test_app.py")]
)
def test_an_annotation_names_its_file_as_the_repository_does_as_far_as_that_is_known(
    project: Project, monkeypatch: pytest.MonkeyPatch, workspace: str, file: str
) -> None:
    """In a container of its own, the folder that GitHub names is another one or none at all."""
    project.write(test_app=TWO, pytest_ini="[pytest]\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.setenv("GITHUB_WORKSPACE", os.path.normpath(project.path / workspace))
    result = project.run("--llmcost-max-test=0.001")
    expected = file.format(folder=project.path.name)
    assert result.stdout.str().count(f"::error file={expected},line=") == 2

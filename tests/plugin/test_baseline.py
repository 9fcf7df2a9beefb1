"""A run against an earlier one: what is added, what may be added, what is accepted."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

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
REMOVES = """
    def test_removes():
        __import__("pathlib").Path("base.json").unlink()
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


def test_a_baseline_that_is_gone_by_the_end_is_the_one_of_the_beginning(
    accepted: Project,
) -> None:
    write_app(accepted, more=REMOVES)
    result = compare(accepted, "--llmcost-max-increase=0%")
    assert result.ret == pytest.ExitCode.OK
    assert accepted.ledger()["comparison"]["unchanged"] == 3


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_a_run_that_writes_the_baseline_says_so_and_no_other(
    accepted: Project, quiet: tuple[str, ...]
) -> None:
    result = compare(accepted, "--llmcost-update-baseline", *quiet)
    (line,) = [line for line in result.outlines if "written to" in line]
    assert re.fullmatch(r"baseline written to base\.json: \$0\.01\d+, 3 tests", line)
    for args in ((), ("--llmcost-update-baseline", "-k", "other")):
        compare(accepted, *args, *quiet).stdout.no_fnmatch_line("baseline written*")


@pytest.mark.parametrize(
    ("ci", "event", "commit"),
    [
        ({"GITHUB_SHA": "9f8e7d6"}, {"pull_request": {"head": {"sha": "1a2b3c4"}}}, "1a2b3c4"),
        ({"GITHUB_SHA": "9f8e7d6"}, {"head_commit": None}, "9f8e7d6"),
        ({"GITHUB_SHA": "9f8e7d6"}, None, "9f8e7d6"),
        ({"CI_COMMIT_SHA": "0a1b2c3"}, None, "0a1b2c3"),
        ({"BUILDKITE_COMMIT": "0a1b2c3"}, None, "0a1b2c3"),
        ({}, None, ""),
    ],
)
def test_a_run_knows_its_commit_and_a_comparison_that_of_the_baseline_and_so_does_the_history(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    ci: Mapping[str, str],
    event: Any,
    commit: str,
) -> None:
    for name, value in ci.items():
        monkeypatch.setenv(name, value)
    if event is not None:
        (project.path / "event.json").write_text(json.dumps(event))
        monkeypatch.setenv("GITHUB_EVENT_PATH", "event.json")
    project.write(test_app="def test_nothing(): pass")
    project.run("--llmcost-baseline=base.json", "--llmcost-update-baseline")
    compare(project, "--llmcost-history=history.jsonl").assert_outcomes(passed=1)
    ledger = project.ledger()
    assert (ledger["run"]["commit"], ledger["comparison"]["base_commit"]) == (commit, commit)
    of_history = json.loads((project.path / "history.jsonl").read_text())["commit"]
    assert of_history == (commit or None)


def test_a_grown_prompt_fails_the_run_though_every_test_passes_and_names_what_grew(
    accepted: Project,
) -> None:
    write_app(accepted, system=200)
    result = compare(accepted, "--llmcost-max-increase=10%")
    result.assert_outcomes(passed=3, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.re_match_lines(
        [
            r"\+\$0\.\d+ against the baseline \(\+.*\): \$0\.\d+ → \$0\.\d+, .*",
            r"  system changed in 3 tests: \+1,800 input tokens",
            r"  test_each\[10\] +\$0\.\d+ +\$0\.\d+ +\+\$0\.\d+",
            r"    \+600 input",
            r"✗ \+\$0\.\d+ is \$0\.\d+ .* over the \$0\.\d+ \(10 %\) increase limit set .*",
            r"FAILED --llmcost-max-increase - \+\$0\.\d+ > \$0\.\d+ \(10 %\) increase limit "
            r"\(\+\d+ %\)",
        ]
    )
    assert Decimal(accepted.ledger()["comparison"]["change_usd"]) > 0


def reproduce(project: Project) -> list[str]:
    """The arguments of the command in the comment that reproduces the run."""
    lines = (project.path / "cost.md").read_text().splitlines()
    (command,) = (line for line in lines if line.startswith("pytest ") and "price-date" in line)
    return shlex.split(command)[1:]


@pytest.mark.parametrize(
    ("limit", "failed"), [("--llmcost-max-increase=10%", 1), ("--llmcost-max-test-increase=$0", 3)]
)
def test_the_command_of_the_comment_fails_as_a_run_that_only_added_too_much(
    accepted: Project, limit: str, failed: int
) -> None:
    write_app(accepted, system=200)
    result = compare(accepted, "--llmcost-report=cost.md", limit)
    result.assert_outcomes(passed=3, failed=failed)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    arguments = reproduce(accepted)
    assert arguments[-2:] == ["--llmcost-baseline=base.json", limit]
    again = accepted.run(*arguments)
    again.assert_outcomes(passed=3, failed=failed)
    assert again.ret == pytest.ExitCode.TESTS_FAILED
    assert accepted.run(*arguments[:-1]).ret == pytest.ExitCode.OK, "the limit alone failed it"


def test_the_comment_says_how_to_fetch_the_baseline(accepted: Project) -> None:
    fetch = "--llmcost-baseline-fetch=gh run download 1 --name llmcost"
    compare(accepted, "--llmcost-report=cost.md", fetch)
    comment = (accepted.path / "cost.md").read_text()
    assert "\n# base.json is the baseline\ngh run download 1 --name llmcost\npytest " in comment


def test_prompts_that_are_not_counted_yet_show_no_saved_tokens(accepted: Project) -> None:
    write_app(accepted, system=200)
    result = accepted.run("--llmcost-baseline=base.json", "--llmcost-report=ledger.json")
    result.stdout.fnmatch_lines(["? against the baseline: *", "  system changed in 3 tests"])
    comparison = accepted.ledger()["comparison"]
    assert (comparison["change_usd"], comparison.get("tokens", {})) == (None, {})
    assert not any(change.get("tokens") for change in comparison["changes"])


def test_a_missing_baseline_names_the_command_that_writes_it(project: Project) -> None:
    project.write(test_app="def test_nothing(): pass")
    result = project.run("--llmcost-baseline=base.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    command = "pytest --llmcost-update-baseline"
    said = f"*base.json: the baseline does not exist; write it with: {command}"
    result.stderr.fnmatch_lines([f"{said} --llmcost-baseline=base.json"])
    project.write(pytest_ini="[pytest]\nllmcost_baseline = base.json\n")
    project.run().stderr.fnmatch_lines([said])


def test_a_total_with_a_prompt_that_is_not_counted_yet_is_a_lower_bound(accepted: Project) -> None:
    write_app(accepted, more=NEW_TEST)
    result = accepted.run("--llmcost-baseline=base.json", "--llmcost-report=ledger.json")
    assert accepted.ledger()["comparison"]["failed"] == [], "its cost is unknown, not too low"
    result.stdout.fnmatch_lines(["? against the baseline: $0.* → at least $0.*, 3 unchanged"])


def test_the_accepting_run_passes_and_its_figures_are_the_new_baseline(accepted: Project) -> None:
    write_app(accepted, system=200)
    result = compare(accepted, "--llmcost-max-increase=0%", "--llmcost-update-baseline")
    assert result.ret == pytest.ExitCode.OK
    assert compare(accepted, "--llmcost-max-increase=0%").ret == pytest.ExitCode.OK


@pytest.mark.parametrize("where", ["empty", "gone.py"])
def test_a_run_that_finds_no_tests_is_no_baseline_and_no_history(
    accepted: Project, where: str
) -> None:
    base = (accepted.path / "base.json").read_bytes()
    (accepted.path / "empty").mkdir()
    how = ("--llmcost-update-baseline", "--llmcost-history=history.jsonl")
    result = accepted.run(where, "--llmcost-baseline=base.json", *how)
    assert result.ret != 0
    assert "base.json: no test ran" in "".join([*result.outlines, *result.errlines])
    assert (accepted.path / "base.json").read_bytes() == base
    assert not (accepted.path / "history.jsonl").exists()


def test_a_partial_run_is_compared_over_what_ran_and_accepts_nothing(accepted: Project) -> None:
    before = (accepted.path / "base.json").read_bytes()
    result = compare(accepted, "-k", "other", "--llmcost-max-increase=0%")
    assert result.ret == pytest.ExitCode.OK
    ledger = accepted.ledger()
    assert (ledger["complete"], ledger["incomplete"]) == (False, ["deselected"])
    assert ledger["comparison"]["unchanged"] == 1
    refused = compare(accepted, "-k", "other", "--llmcost-update-baseline")
    assert refused.ret == pytest.ExitCode.TESTS_FAILED
    refused.stdout.fnmatch_lines(["not written: *base.json: this run is not complete (deselected*"])
    assert (accepted.path / "base.json").read_bytes() == before


@pytest.mark.parametrize(
    "test",
    [
        "(llmcost): llmcost.count(payload(5), output_tokens=5); assert False",
        "(llmcost): assert False",
        "(no_such_fixture): pass",
    ],
)
def test_a_run_with_a_failing_test_accepts_nothing(accepted: Project, test: str) -> None:
    before = (accepted.path / "base.json").read_bytes()
    write_app(accepted, more=f"def test_broken{test}")
    result = compare(accepted, "--llmcost-update-baseline")
    result.stdout.fnmatch_lines(["not written: *base.json: *::test_broken failed*"])
    assert (accepted.path / "base.json").read_bytes() == before


def test_what_a_test_cost_until_it_failed_is_not_said_to_be_what_merging_saves(
    project: Project,
) -> None:
    text = """
        import pytest
        from pytest_llmcost import max_cost

        def spend(llmcost, input_tokens):
            usage = {{"input_tokens": input_tokens, "output_tokens": 1}}
            llmcost.record(usage, model="claude-opus-4-7")

        @pytest.fixture
        def ready():
            assert {holds}

        def test_set_up(ready, llmcost): spend(llmcost, 1000)

        def test_half(llmcost):
            spend(llmcost, 1000)
            assert {holds}
            spend(llmcost, 1000)

        @max_cost("$1")
        def test_over(llmcost): spend(llmcost, {over})
    """
    project.write(test_app=text.format(holds=True, over=100))
    project.run("--llmcost-baseline=base.json", "--llmcost-update-baseline")
    project.write(test_app=text.format(holds=False, over=1_000_000))
    result = compare(project, "--llmcost-report=cost.md")
    result.assert_outcomes(failed=2, errors=1)
    failed = ["test_app.py::test_half", "test_app.py::test_set_up"]
    assert project.ledger()["comparison"]["failed"] == failed, "by its budget is at its cost"
    said = "2 tests failed and may cost more when they pass: test_app.py::test_half,"
    result.stdout.fnmatch_lines([f"*{said}*"])
    comment = (project.path / "cost.md").read_text(encoding="utf-8")
    assert f"- {said}" in comment
    assert re.search(
        r"^### ❌ Merging adds \$\S+ \(\S+ %\) in a run with 2 failed tests ·", comment, re.M
    )


@pytest.mark.parametrize("args", [["--setup-plan"], ["--setup-only"], ["test_misspelt.py"]])
def test_a_run_in_which_no_test_runs_accepts_nothing(accepted: Project, args: list[str]) -> None:
    before = (accepted.path / "base.json").read_bytes()
    compare(accepted, *args, "--llmcost-update-baseline")
    assert "selected" in accepted.ledger()["incomplete"]
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
        ("tests", ["-otestpaths=tests/deep"], False),
        ("tests", ["--override-ini=python_files=test_top.py"], False),
        ("tests", ["-oaddopts=-k top"], False),
        ("tests\naddopts = -k top", ["-oaddopts="], True),
        ("tests", ["-o", "xfail_strict=true"], True),
        ("tests\naddopts = -o python_functions=test_n*", [], True),
        ("", ["--keep-duplicates", "tests", "tests"], False),
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


def test_a_baseline_of_a_newer_version_is_a_usage_error(project: Project) -> None:
    (project.path / "base.json").write_text('{"schema": "pytest-llmcost/2"}', encoding="utf-8")
    newer = project.run("--llmcost-baseline=base.json")
    assert newer.ret == pytest.ExitCode.USAGE_ERROR
    newer.stderr.fnmatch_lines(["*base.json*newer than pytest-llmcost/1*"])


KEEPING = """
    import os

    import pytest
    from pytest_llmcost.plugin.fixture import LlmCost
    from pytest_llmcost.plugin.session import KEY

    DONE = os.environ.get("HOW", "passes") == "passes"

    def spend(llmcost, tokens):
        usage = {"input_tokens": tokens, "output_tokens": 0}
        llmcost.record(usage, model="claude-opus-4-7")

    @pytest.fixture(scope="module")
    def shared(request):
        spend(LlmCost(request.config.stash[KEY], request.node), 700)

    def test_other(llmcost):
        spend(llmcost, 300 if DONE else 400)
"""
ENDINGS = {
    "skips at once": "if not DONE: pytest.skip()",
    "skips after a part": "spend(llmcost, 10); DONE or pytest.skip()",
    "fails at once": "assert DONE",
    "fails after a part": "spend(llmcost, 10); assert DONE",
}
WAYS = {"alone": (), "xdist": ("-n2",)}


def rows(project: Project) -> dict[str, Decimal]:
    ledger = project.ledger("base.json")
    found = {test["nodeid"].rpartition("::")[2]: test["usd"] for test in ledger["tests"]}
    found |= {fixture["name"]: fixture["usd"] for fixture in ledger["fixtures"]}
    assert Decimal(ledger["totals"]["usd"]) == sum(map(Decimal, found.values()))
    return {name: Decimal(usd) for name, usd in found.items()}


def run_keeping(
    project: Project, monkeypatch: pytest.MonkeyPatch, way: str, *args: str, how: str = "passes"
) -> pytest.RunResult:
    monkeypatch.setenv("HOW", how)
    plugins = ("xdist",) if WAYS[way] else ()
    return project.run("--llmcost-baseline=base.json", *WAYS[way], *args, plugins=plugins)


@pytest.mark.parametrize("way", WAYS)
def test_a_test_that_does_not_pass_keeps_its_rows_in_the_baseline(
    project: Project, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    tests = {f"test_it_{how.replace(' ', '_')}": code for how, code in ENDINGS.items()}
    source = KEEPING
    for name, code in tests.items():
        source += f"""
    def {name}(llmcost, shared):
        {code}
        spend(llmcost, 500)
"""
    source += """
    def test_gone(llmcost):
        spend(llmcost, 100)
    """
    project.write(test_app=source)
    assert run_keeping(project, monkeypatch, way, "--llmcost-update-baseline").ret == 0
    before = rows(project)
    project.write(test_app=source.partition("def test_gone")[0])
    result = run_keeping(project, monkeypatch, way, "--llmcost-update-baseline", how="ends")
    result.stdout.no_fnmatch_line("not written*")
    assert rows(project) == {
        **{name: before[name] for name in ("shared", *tests)},
        "test_other": Decimal("0.002"),
    }
    again = run_keeping(project, monkeypatch, way, "--llmcost-max-increase=0%")
    assert again.ret == pytest.ExitCode.OK
    kept = (project.path / "base.json").read_bytes()
    refused = run_keeping(project, monkeypatch, way, "-k", "it", "--llmcost-update-baseline")
    refused.stdout.fnmatch_lines(["not written: *base.json: this run is not complete (*"])
    assert (project.path / "base.json").read_bytes() == kept


SKIPPED_WHOLE = {
    "a fixture": """
    @pytest.fixture(autouse=True)
    def _needs():
        if not DONE: pytest.skip()
    """,
    "a marker": "pytestmark = pytest.mark.skipif(not DONE, reason='no key')",
    "a module": "if not DONE: pytest.skip('no key', allow_module_level=True)",
    "an import": "if not DONE: pytest.importorskip('no_such_module')",
    "a session fixture": """
    @pytest.fixture(autouse=True, scope="session")
    def _needs():
        if not DONE: pytest.skip()
    """,
}


@pytest.mark.parametrize("what", SKIPPED_WHOLE)
def test_tests_that_are_skipped_together_keep_their_rows_and_their_fixtures(
    project: Project, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    source = f"""{KEEPING}
    {SKIPPED_WHOLE[what]}
    def test_it(llmcost, shared):
        spend(llmcost, 500)
    """
    project.write(test_app=source, test_second=KEEPING.replace("test_other", "test_second"))
    run_keeping(project, monkeypatch, "alone", "--llmcost-update-baseline")
    before = rows(project)
    run_keeping(project, monkeypatch, "alone", "--llmcost-update-baseline", how="skips")
    assert rows(project) == {**before, "test_second": Decimal("0.002")}


def test_a_test_that_passes_in_the_end_or_fails_as_expected_has_new_rows(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write(
        test_app=f"""{KEEPING}
    ATTEMPTS = []

    def test_flaky(llmcost):
        spend(llmcost, 100 if DONE else 200)
        ATTEMPTS.append(1)
        assert DONE or len(ATTEMPTS) == 2

    def test_parts(llmcost, subtests):
        spend(llmcost, 100 if DONE else 200)
        with subtests.test("skipped"):
            pytest.skip()

    @pytest.fixture
    def late():
        yield
        pytest.skip()

    def test_late(llmcost, late):
        spend(llmcost, 100 if DONE else 200)

    @pytest.mark.xfail
    def test_known(llmcost):
        spend(llmcost, 100 if DONE else 200)
        assert False
    """
    )
    run_keeping(project, monkeypatch, "alone", "--llmcost-update-baseline")
    update = ("--llmcost-baseline=base.json", "--llmcost-update-baseline", "--reruns=1")
    monkeypatch.setenv("HOW", "otherwise")
    assert project.run(*update, plugins=("rerunfailures",)).ret == pytest.ExitCode.OK
    tests = project.ledger("base.json")["tests"]
    usd = {test["nodeid"].rpartition("::")[2]: test["usd"] for test in tests}
    changed = ("test_flaky", "test_known", "test_late", "test_parts")
    assert usd == {**dict.fromkeys(changed, "0.001"), "test_other": "0.002"}

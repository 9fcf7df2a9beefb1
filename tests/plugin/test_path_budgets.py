"""Ceilings by place: how a glob may be written, and what becomes of one that matches nothing."""

from __future__ import annotations

import re

import pytest
from conftest import Project

SPENDS = """
    def spend(llmcost):  # half a cent
        llmcost.record({"input_tokens": 1000, "output_tokens": 0}, model="claude-opus-4-7")

    def test_one(llmcost):
        spend(llmcost)

    class TestMore:
        def test_two(self, llmcost):
            spend(llmcost)
"""
INI = """
    [pytest]
    addopts = --import-mode=importlib
    markers = xdist_group
    llmcost_budgets =
"""
WAYS = {
    "alone": ((), ()),
    "xdist": (("-n2",), ("xdist",)),
    "groups": (("-n1", "--dist=loadgroup"), ("xdist",)),
    "quiet": (("-p", "no:terminal"), ()),
}


def make(project: Project, *lines: str, limit: str = "$1") -> None:
    project.write(
        pytest_ini=INI + "".join(f"        {line} = {limit}\n" for line in lines),
        test_a=SPENDS + "    import pytest\n    pytestmark = pytest.mark.xdist_group('g')\n",
        tests__agents__test_b=SPENDS,
        tests__agents__helper="",
        tests__data__sample="",
    )


def state(project: Project, *args: str, plugins: tuple[str, ...] = ()) -> tuple[str, int]:
    """The state that each line has, and the status of the run."""
    result = project.run("--llmcost-report=ledger.json", *args, plugins=plugins)
    ini = (project.path / "pytest.ini").read_text(encoding="utf-8")
    verdicts = project.ledger()["verdicts"]
    assert len(verdicts) == len(re.findall("^    .* = ", ini, re.M)), verdicts
    (state,) = {each["state"] for each in verdicts}
    return state, int(result.ret)


TYPOS = [
    "tests/typo/**",
    "tests/typo",
    "**/typo/**",
    "tests/agents/test_typo.py",
    "tests/agents/*_typo.py::test_one",
    "tests/data/**",
    "tests/agents/helper.py",
    "tests/agents/../test_typo.py",
    "../**",
    "../other/test_a.py",
    "/**",
]


@pytest.mark.parametrize("way", WAYS)
def test_a_glob_that_matches_no_test_is_unverified(project: Project, way: str) -> None:
    make(project, TYPOS[0], "test_a.py::test_typo")
    args, plugins = WAYS[way]
    assert state(project, *args, plugins=plugins) == ("unverified", 1)
    assert project.ledger()["notes"] == []
    assert state(project, *args, "--llmcost-unverified=warn", plugins=plugins)[1] == 0


@pytest.mark.parametrize(
    "selection", [(), ("-k", "two"), ("test_a.py",), ("test_a.py::test_one",)], ids=str
)
def test_a_glob_that_matches_nothing_is_unverified_in_a_partial_run_too(
    project: Project, selection: tuple[str, ...]
) -> None:
    make(project, *TYPOS)
    assert state(project, *selection) == ("unverified", 1)


@pytest.mark.parametrize("way", ["alone", "xdist"])
def test_a_glob_for_tests_that_were_not_selected_is_kept(project: Project, way: str) -> None:
    make(
        project,
        "tests/agents/**",
        "tests/agents",
        "tests/agents/",
        "**/test_b.py",
        "tests/agents/test_b.py::TestMore",
        "tests/agents/test_?.py::*::test_two",
        "tests/**::test_one",
        "tests/**test_one",
        "tests/*/*two",
        "**two*",
    )
    args, plugins = WAYS[way]
    assert state(project, *args, "test_a.py", plugins=plugins) == ("within", 0)
    if way == "alone":
        assert state(project, "test_a.py::test_one") == ("within", 0)
        deselected = "--deselect=tests/agents/test_b.py"
        assert state(project, deselected) == ("within", 0)


def test_a_glob_for_tests_that_passed_the_last_time_is_kept(project: Project) -> None:
    make(project, "test_a.py::test_one")
    project.write(test_a=SPENDS + "    def test_three(): assert 0\n")
    with_cache = ("-p", "cacheprovider")
    assert state(project, *with_cache)[0] == "within"
    assert state(project, *with_cache, "--lf") == ("within", 1)


def test_a_glob_for_tests_of_another_plugin_is_kept(project: Project) -> None:
    make(project, "tests/docs/**")
    guide = project.path / "tests" / "docs" / "guide.md"
    guide.parent.mkdir()
    guide.write_text(">>> 1\n1\n", encoding="utf-8")
    assert state(project, "test_a.py")[0] == "unverified"
    assert state(project, "test_a.py", "--doctest-glob=*.md") == ("within", 0)


@pytest.mark.parametrize("way", WAYS)
def test_a_path_from_here_holds(project: Project, way: str) -> None:
    make(project, "./test_a.py::TestMore", limit="$0.001")
    args, plugins = WAYS[way]
    assert state(project, *args, plugins=plugins) == ("exceeded", 1)


def test_other_spellings_of_a_path_hold(project: Project) -> None:
    make(
        project,
        "tests\\agents\\test_b.py",
        "tests\\agents\\**",
        "tests//agents/",
        ".",
        "./",
        "././**",
        ".\\test_a.py",
        "typo/../test_a.py",
        "tests\\agents\\..\\**/test_b.py",
        "tests/..",
        limit="$0.001",
    )
    assert state(project) == ("exceeded", 1)


@pytest.mark.parametrize("name", ["live", "allowed_models"])
@pytest.mark.parametrize("way", WAYS)
def test_a_line_of_another_setting_for_a_path_without_tests_fails_the_run_too(
    project: Project, name: str, way: str
) -> None:
    """Without any call as well, for the next one would be under no rule."""
    value = {"live": "fail", "allowed_models": "claude-*"}[name]
    ini = f"[pytest]\nllmcost_{name} =\n    {value}\n    {{path}} = {value}\n"
    project.write(pytest_ini=ini.format(path="tests/typo/**"), test_a="def test_a(): pass\n")
    args, plugins = WAYS[way]
    result = project.run(*args, plugins=plugins)
    assert result.ret == 1
    if way != "quiet":
        gate = {"live": "rule against live requests", "allowed_models": "list of allowed models"}
        result.stdout.fnmatch_lines(
            [
                f"[?] cannot check the {gate[name]} for tests/typo/[*][*] set by llmcost_{name}:*",
                f"FAILED llmcost_{name} - not checked: {gate[name]} for tests/typo/[*][*], no test "
                "matches it",
            ]
        )
    assert project.run(*args, "--llmcost-unverified=warn", plugins=plugins).ret == 0


@pytest.mark.parametrize(
    "line",
    [
        "live = tests/../test_a.py = fail",
        "live = tests/typo/** = off",
        "allowed_models = tests/../test_a.py = claude-*",
    ],
)
def test_a_line_for_a_path_that_has_tests_or_takes_a_rule_away_fails_nothing(
    project: Project, line: str
) -> None:
    project.write(pytest_ini=f"[pytest]\nllmcost_{line}\n", test_a="def test_a(): pass\n")
    result = project.run()
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*llmcost_*")


def test_what_is_missing_is_told(project: Project) -> None:
    make(project, "tests/typo/**")
    result = project.run()
    result.stdout.fnmatch_lines(
        [
            "[?] cannot check the $1.00 budget for tests/typo/[*][*] *: no test matches it;*",
            "  pytest --collect-only -q",
        ]
    )


def test_a_glob_for_a_shared_fixture_alone_is_judged(project: Project) -> None:
    make(project, "tests/agents/warm", limit="$0.001")
    project.write(
        tests__agents__conftest="""
    import pytest
    from pytest_llmcost.plugin.fixture import LlmCost
    from pytest_llmcost.plugin.session import KEY

    @pytest.fixture(scope="session", autouse=True)
    def warm(request):
        LlmCost(request.config.stash[KEY], request.node).record(
            {"input_tokens": 1000, "output_tokens": 0}, model="claude-opus-4-7")
    """
    )
    assert state(project) == ("exceeded", 1)

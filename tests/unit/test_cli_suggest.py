from __future__ import annotations

import contextlib
import io
import re
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import tomli
from conftest import Project
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from sample_reports import CARD, a_fixture, a_test, make_budget, make_call, make_report

from pytest_llmcost.budgets.budget import judge_calls
from pytest_llmcost.budgets.path_globs import matches, parse_path_budget
from pytest_llmcost.cli.main import main
from pytest_llmcost.ledger.builder import LedgerBuilder
from pytest_llmcost.ledger.ledger import Ledger, write_ledger
from pytest_llmcost.ledger.totals import amounts_of


@pytest.fixture
def spent() -> dict[Any, Any]:
    return {
        a_test("t/a.py::test_one[x/y]"): [make_call("0.0298")],
        a_test("t/a.py::test_one[z]"): [make_call("0.01"), make_call("0.01")],
        a_test("t/b.py::test_two"): [make_call("0.1")],
        a_test("t/b.py::test_idle"): [],
        a_fixture(node="t/b.py"): [make_call("0.05")],
    }


@pytest.fixture(autouse=True)
def _in_a_project_with_an_ini_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pytest.ini").touch()
    monkeypatch.chdir(tmp_path)


def suggest(path: Path, spent: dict[Any, Any], *args: str) -> int:
    write_ledger(passed(spent), path / "ledger.json")
    return main(["suggest", str(path / "ledger.json"), *args])


def passed(spent: dict[Any, Any], **fields: Any) -> Ledger:
    ledger = make_report(spent, **fields)
    return replace(ledger, tests=tuple(replace(row, outcome="passed") for row in ledger.tests))


def test_it_proposes_a_marker_for_each_test_and_a_line_for_each_file(
    tmp_path: Path, spent: dict[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert suggest(tmp_path, spent) == 0
    assert capsys.readouterr().out.splitlines() == [
        '@max_cost("$0.038")  # t/a.py::test_one costs $0.0298',
        '@max_cost("$0.13")  # t/b.py::test_two costs $0.10',
        "",
        "llmcost_budgets =",
        "    t/a.py = $0.063",
        "    t/b.py = $0.19",
    ]


def test_in_a_project_with_pyproject_toml_the_lines_are_toml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pytest.ini").unlink()
    spent: dict[Any, Any] = {a_test('a"b.py::test'): [make_call("0.01")]}
    write_ledger(passed(spent, cache_state="warm"), tmp_path / "warm.json")
    assert main(["suggest", "warm.json"]) == 0
    settings = capsys.readouterr().out.partition("\n\n")[2]
    assert tomli.loads(settings) == {
        "llmcost_budgets": ['a"b.py = $0.013'],
        "llmcost_cache": "warm",
    }


@pytest.mark.parametrize("headroom", ["0%", "25%", "300%"])
def test_what_it_proposes_is_kept_today(
    tmp_path: Path, spent: dict[Any, Any], capsys: pytest.CaptureFixture[str], headroom: str
) -> None:
    suggest(tmp_path, spent, "--headroom", headroom)
    for line in capsys.readouterr().out.splitlines()[-2:]:
        budget = parse_path_budget(line, "ini")
        assert budget.limit >= (amounts_of(make_report(spent), budget.pattern).usd or Decimal(0))


def test_of_an_unknown_cost_it_says_so_and_proposes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert suggest(tmp_path, {a_test("t.py::test"): [make_call(None)]}) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "t.py::test: no budget, because its cost is unknown" in err


def test_a_cost_is_shown_as_exactly_as_the_budget_above_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suggest(tmp_path, {a_test("t.py::test_a"): [make_call("0.000676")]}, "--headroom=0%")
    first = capsys.readouterr().out.splitlines()[0]
    assert first == '@max_cost("$0.00068")  # t.py::test_a costs $0.000676'


def test_a_wrong_headroom_is_an_error(tmp_path: Path, spent: dict[Any, Any]) -> None:
    assert suggest(tmp_path, spent, "--headroom=lots") == 2


def test_a_folder_may_have_brackets_in_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodeids = [f"dir [x]/test_{name}.py::test[{case}]" for name in "ab" for case in "12"]
    assert suggest(tmp_path, {a_test(nodeid): [make_call("0.01")] for nodeid in nodeids}) == 0
    out = capsys.readouterr().out
    assert '@max_cost("$0.013")  # dir [x]/test_a.py::test costs $0.01' in out
    assert len(out.splitlines()) == 6
    budget = parse_path_budget(out.splitlines()[-1], "ini")
    assert [matches(budget.pattern or "", nodeid) for nodeid in nodeids] == [False] * 2 + [True] * 2


def test_of_a_test_that_stopped_halfway_it_proposes_nothing_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tight = make_budget("0.001")
    command = judged(
        tmp_path / "a.json",
        ("t/a.py::test_fails", "0.01", None, "failed"),
        ("t/a.py::test_passes", "0.01", None),
        ("t/b.py::test_over", "0.01", tight, "failed"),  # by its budget, after its end
        ("t/c.py::test_skips[1]", "0.01", None),
        ("t/c.py::test_skips[2]", "0.01", None, "skipped"),
        ("t/d.py::test_is_interrupted", "0.01", None, ""),
    )[:-1]
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        '@max_cost("$0.013")  # t/a.py::test_passes costs $0.01',
        '@max_cost("$0.013")  # t/b.py::test_over costs $0.01',
        "",
        "llmcost_budgets =",
        "    t/b.py = $0.013",
        "    t/c.py = $0.025",
    ]
    why = "no budget, because a test is expected to fail, was skipped, or did not run to its end"
    tests = ("t/a.py::test_fails", "t/c.py::test_skips", "t/d.py::test_is_interrupted")
    names = (*tests, "t/a.py", "t/d.py")
    assert err.splitlines() == [f"llmcost: {name}: {why}" for name in names]


def test_what_it_proposes_states_the_cache_state_that_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spent: dict[Any, Any] = {a_test("t.py::test"): [make_call("0.01")]}
    write_ledger(passed(spent, cache_state="warm"), tmp_path / "warm.json")
    assert main(["suggest", str(tmp_path / "warm.json")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        '@max_cost("$0.013", cache="warm")  # t.py::test costs $0.01',
        "",
        "llmcost_budgets =",
        "    t.py = $0.013",
        "llmcost_cache = warm",
    ]


@pytest.mark.parametrize("state", ["hot", 'warm"); print("x', "\x1b[2J"])
def test_a_ledger_s_unknown_cache_state_gets_into_no_proposal(
    state: str, tmp_path: Path, spent: dict[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    write_ledger(make_report(spent, cache_state=state), tmp_path / "ledger.json")
    assert main(["suggest", str(tmp_path / "ledger.json")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Invalid enum value" in err
    assert "`$.cache_state`" in err
    assert "\x1b" not in err


def test_what_it_proposes_is_kept_under_a_class_of_another_cache_state(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = """
        from pytest_llmcost import max_cost

        @max_cost("$1", cache="cold")
        class TestCold:
            #
            def test_reads(self, llmcost):
                usage = {"input_tokens": 1, "output_tokens": 1, "cache_read_input_tokens": 9000}
                llmcost.record(usage, model="claude-opus-4-7")
    """
    project.write(test_app=suite)
    project.run("--llmcost-report=ledger.json").assert_outcomes(passed=1)
    capsys.readouterr()
    assert main(["suggest", str(project.path / "ledger.json")]) == 0
    marker = capsys.readouterr().out.partition("  #")[0]
    project.write(test_app=suite.replace("#", marker))
    project.run().assert_outcomes(passed=1)


def judged(path: Path, *tests: Any, **how: Any) -> list[str]:
    """Write a run of tests with what they cost and their budget; return the command for it."""
    ledger = LedgerBuilder()
    for nodeid, usd, budget, *outcome in tests:
        calls = [make_call(usd)] if usd else []
        for call in calls:
            ledger.add(a_test(nodeid), call)
        verdict = judge_calls(budget, calls) if budget else None
        ledger.judge(a_test(nodeid), outcome=(outcome or ["passed"])[0], verdict=verdict)
    write_ledger(ledger.ledger(price_date="2026-11-22", rate_card=CARD, **how), path)
    return ["suggest", str(path), "--ratchet"]


def test_the_ratchet_names_budgets_with_more_headroom_than_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide, shared = make_budget("0.05"), make_budget("1", origin="llmcost_max_test")
    tokens = make_budget("1000", kind="input_tokens", origin="t.py:10")
    command = judged(
        tmp_path / "a.json",
        ("t.py::test_a", "0.02", wide),
        ("t.py::test_b", "0.02", shared),
        ("t.py::test_c", "0.7", shared),
        ("t.py::test_d", "0.01", tokens),
        budgets=[
            parse_path_budget("t.py = $0.75", "llmcost_budgets"),
            parse_path_budget("** = $9", "llmcost_budgets"),
        ],
    )
    assert main(command) == 1
    assert capsys.readouterr().out.splitlines() == [
        "llmcost_budgets: lower $9.00 for ** to $0.94 (used: $0.75)",
        "llmcost_max_test: lower $1.00 to $0.88 (used: $0.70)",
        "t.py:3: lower $0.05 to $0.025 (used: $0.02)",
        "t.py:10: lower 1,000 input tokens to 130 input tokens (used: 100 input tokens)",
    ]
    assert main([*command, "--headroom=2000%"]) == 0
    assert capsys.readouterr().out == ""


def test_the_ratchet_leaves_alone_what_is_unknown_unused_broken_or_partly_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = [parse_path_budget("t.py = $9", "llmcost_budgets")]
    shared = make_budget("0.05", origin="llmcost_max_test")
    command = judged(
        tmp_path / "a.json",
        ("t.py::test_a", "0.01", shared),
        ("t.py::test_b", "0.06", shared),  # over it: what the others leave is no headroom
        ("t.py::test_c", "", make_budget("1", origin="t.py:20")),
        ("t.py::test_d", "0.01", make_budget("0.0125", origin="t.py:30")),
        budgets=path,
        incomplete=["deselected"],
    )
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "partial run (deselected)" in err


def test_the_ratchet_lowers_no_budget_that_may_limit_what_did_not_run_to_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, cases = make_budget("1", required=True), make_budget("1", origin="t.py:20", required=True)
    of_class = make_budget("1", origin="t.py:30")
    tests = [
        ("t.py::test_own", "0.01", own),
        ("t.py::test_cases[1]", "0.01", cases),
        ("t.py::TestClass::test", "0.01", of_class),
    ]
    lowered = "t.py:3: lower $1.00 to $0.013 (used: $0.01)"
    suite = {"budgets": [make_budget("9", scope="suite", origin="max_suite")]}
    for rest, how in (
        ([], {"incomplete": ["selected"]}),
        (
            [
                ("t.py::test_cases[2]", "0.001", cases, "skipped"),
                ("t.py::TestClass::test_failed", "0.001", of_class, "failed"),
            ],
            {},
        ),
    ):
        assert main(judged(tmp_path / "a.json", *tests, *rest, **suite, **how)) == 1
        out, err = capsys.readouterr()
        assert out.splitlines() == [lowered]
        why = "because tests that it may limit did not run, or not to their end"
        for kept in ("max_suite: $9.00", "t.py:20: $1.00", "t.py:30: $1.00"):
            assert f"{kept} stays, {why}" in err
    assert main(judged(tmp_path / "a.json", *tests, **suite)) == 1
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_the_ratchet_lowers_a_marker_of_one_test_also_after_a_run_of_a_part(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write(
        test_app="""
        from pytest_llmcost import max_cost

        @max_cost("$1")
        def test_it(llmcost):
            llmcost.record({"input_tokens": 1000, "output_tokens": 1}, model="claude-opus-4-7")

        def test_other():
            pass
        """
    )
    project.run("--llmcost-report=ledger.json", "test_app.py::test_it")
    capsys.readouterr()
    assert main(["suggest", str(project.path / "ledger.json"), "--ratchet"]) == 1
    assert capsys.readouterr().out.startswith("test_app.py:4: lower $1.00 to ")


def test_the_ratchet_lowers_no_budget_of_which_a_case_is_skipped(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write(
        test_app="""
        import pytest
        from pytest_llmcost import max_cost

        @max_cost("$1")
        @pytest.mark.parametrize("n", [1, pytest.param(1000, marks=pytest.mark.skip)])
        def test_cases(llmcost, n):
            llmcost.record({"input_tokens": n, "output_tokens": 1}, model="claude-opus-4-7")
        """
    )
    for workers in ((), ("-n1",)):
        plugins = ("xdist",) if workers else ()
        project.run("--llmcost-report=ledger.json", *workers, plugins=plugins)
        capsys.readouterr()
        assert main(["suggest", str(project.path / "ledger.json"), "--ratchet"]) == 0
        out, err = capsys.readouterr()
        assert (out, "$1.00 stays, because" in err) == ("", True)
        assert main(["suggest", str(project.path / "ledger.json")]) == 1
        assert "@max_cost" not in capsys.readouterr().out


@pytest.mark.parametrize("has_spent", [False, True])
def test_the_ratchet_lowers_no_budget_of_paths_that_may_limit_a_skipped_test(
    has_spent: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A test that spent something before it was skipped has a row."""
    lines = [parse_path_budget(f"{path} = $9", "llmcost_budgets") for path in ("a/**", "b/**")]
    suite = make_budget("9", scope="suite", origin="max_suite")
    late = [("b/t.py::test_skips", "0.001", None, "skipped")] if has_spent else []
    command = judged(
        tmp_path / "a.json",
        ("a/t.py::test_a", "0.01", None),
        ("b/t.py::test_b", "0.01", None),
        *late,
        budgets=[*lines, suite],
        skipped=() if has_spent else ("b/t.py::test_skips",),
    )
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert out == "llmcost_budgets: lower $9.00 for a/** to $0.013 (used: $0.01)\n"
    assert "max_suite: $9.00 stays" in err
    assert "$9.00 for b/** stays" in err


@pytest.mark.parametrize("fails", ["in the test", "in a fixture"])
def test_the_ratchet_lowers_no_shared_budget_after_a_run_that_failed(
    project: Project, capsys: pytest.CaptureFixture[str], fails: str
) -> None:
    """A test that fails before its first call has no row."""
    project.write(
        test_app=f"""
        import pytest
        from pytest_llmcost import max_cost

        def spend(llmcost, tokens):
            usage = {{"input_tokens": tokens, "output_tokens": 1}}
            llmcost.record(usage, model="claude-opus-4-7")

        @pytest.fixture
        def ready():
            assert {fails != "in a fixture"}

        @max_cost("$1")
        def test_own(llmcost): spend(llmcost, 1000)

        def test_other(llmcost): spend(llmcost, 1000)

        def test_fails(ready, llmcost):
            assert {fails != "in the test"}
            spend(llmcost, 100_000)
        """
    )
    budgets = ("--llmcost-max-suite=$2", "-ollmcost_max_test=$0.60", "-ollmcost_budgets=** = $3")
    assert project.run("--llmcost-report=ledger.json", *budgets).ret == 1
    capsys.readouterr()
    assert main(["suggest", str(project.path / "ledger.json"), "--ratchet"]) == 1
    out, err = capsys.readouterr()
    assert [line.partition(" to ")[0] for line in out.splitlines()] == [
        "test_app.py:13: lower $1.00"
    ]
    why, *stays = err.splitlines()
    assert "(exit status 1); tests that failed before their first call may not be in" in why
    assert [line.partition(":")[2].partition(" stays")[0] for line in stays] == [
        " --llmcost-max-suite: $2.00",
        " llmcost_budgets: $3.00 for **",
        " llmcost_max_test: $0.60",
    ]
    assert main(["suggest", str(project.path / "ledger.json")]) == 0
    assert capsys.readouterr().err.splitlines() == [why]


def test_the_ratchet_lowers_each_part_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (make_budget("1000", kind="parts", part=part) for part in ("tools", "system"))
    ledger, owner = LedgerBuilder(), a_test("t.py::test")
    call = make_call("0.01", fingerprint="1:a")
    ledger.add(owner, call)
    parts = {"1:a": {"tools": 100, "system": 200}}
    first, second = (judge_calls(each, [call], parts=parts) for each in (one, other))
    ledger.judge(owner, outcome="passed", verdict=first, blocks=[second])
    write_ledger(ledger.ledger(price_date="2026-11-22", rate_card=CARD), tmp_path / "a.json")
    assert main(["suggest", str(tmp_path / "a.json"), "--ratchet"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "t.py:3: lower 1,000 tokens of system to 250 tokens of system (used: 200 tokens of system)",
        "t.py:3: lower 1,000 tokens of tools to 130 tokens of tools (used: 100 tokens of tools)",
    ]


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 300))
def test_the_ratchet_never_proposes_more_or_what_today_would_not_keep(
    used: int, limit: int, headroom: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as out:
        usd, most = (str(Decimal(each).scaleb(-4)) for each in (used, limit))
        command = judged(Path(folder) / "a.json", ("t.py::test", usd, make_budget(most)))
        status = main([*command, f"--headroom={headroom}%"])
    if status:
        lowered = Decimal(re.findall(r" to \$([\d,.]+)", out.getvalue())[0].replace(",", ""))
        assert Decimal(usd) <= lowered < Decimal(most)
    else:
        assert (
            Decimal(most) <= Decimal(usd) * (100 + headroom) / 100 * Decimal("1.1") or used > limit
        )

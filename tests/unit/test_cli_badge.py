"""A run's total as a badge, and its figures for a tool that draws trends."""

from __future__ import annotations

import io
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sample_reports import a_test, judged, make_call, make_report, suite_budget

from pytest_llmcost.cli.main import main
from pytest_llmcost.ledger.ledger import Comparison, Ledger, RunRecord, TestRow, write_ledger
from pytest_llmcost.reports.markdown import render_markdown


def badge(ledger: Ledger, folder: Path, *options: str) -> Any:
    write_ledger(ledger, folder / "cost.json")
    out = folder / "out" / "badge.json"
    assert main(["badge", str(folder / "cost.json"), "-o", str(out), *options]) == 0
    return json.loads(out.read_bytes(), parse_float=Decimal)


def a_run(usd: str | None = "1.25", limit: str = "2", **fields: Any) -> Ledger:
    calls = [make_call("0.5"), make_call(usd)]
    return make_report({a_test("t.py::a"): calls}, budgets=[suite_budget(limit)], **fields)


def test_a_badge_has_what_shields_io_requires(tmp_path: Path) -> None:
    assert badge(a_run(), tmp_path, "--label=cost") == {
        "schemaVersion": 1,
        "label": "cost",
        "message": "$1.75",
        "color": "brightgreen",
    }


@pytest.mark.parametrize(
    ("ledger", "message", "color"),
    [
        (a_run(limit="1"), "$1.75", "red"),
        (a_run(None), "at least $0.50", "orange"),
        (make_report({a_test("t.py::a"): [make_call(None)]}), "?", "orange"),
        (a_run(incomplete=["deselected"]), "$1.75", "orange"),
        (a_run(run=RunRecord(exit_status=1)), "$1.75", "orange"),
        (a_run(limit="1", run=RunRecord(exit_status=1)), "$1.75", "red"),
        (judged(make_report({a_test("t.py::a"): [make_call("2")]}), "1"), "$2.00", "red"),
        (make_report({}), "$0.00", "brightgreen"),
    ],
)
def test_its_colour_is_the_state_of_the_budgets_and_the_run(
    ledger: Ledger, message: str, color: str, tmp_path: Path
) -> None:
    reported = badge(ledger, tmp_path)
    assert (reported["message"], reported["color"]) == (message, color)


@pytest.mark.parametrize("options", [["-o", "-"], []])
def test_without_a_file_or_with_a_dash_it_is_printed(
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_ledger(a_run(), tmp_path / "cost.json")
    assert main(["badge", "cost.json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["message"] == "$1.75"
    assert [each.name for each in tmp_path.iterdir()] == ["cost.json"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes and devices of POSIX")
def test_a_pipe_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    write_ledger(a_run(), tmp_path / "cost.json")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert main(["badge", str(tmp_path / "cost.json"), "-o", str(pipe)]) == 0
        assert json.loads(os.read(reader, 1_000))["message"] == "$1.75"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_the_list_for_benchmark_action_has_the_total_and_each_test(tmp_path: Path) -> None:
    tiny = "0.000000123456789012345678"
    ledger = make_report(
        {
            a_test("t.py::a"): [make_call("9")],
            a_test("t.py::a", attempt=2): [make_call(tiny)],
            a_test("t.py::b"): [make_call("1"), make_call(None)],
            a_test("t.py::c"): [make_call(None)],
        }
    )
    without_calls = TestRow(nodeid="t.py::d", outcome="failed", usd=Decimal(0))
    ledger = replace(ledger, tests=(*ledger.tests, without_calls))
    total, *tests = badge(ledger, tmp_path, "--format=benchmark-action")
    assert total == {
        "name": "total",
        "unit": "USD",
        "value": ledger.totals.usd,
        "extra": "a lower bound",
    }
    assert tests == [
        {"name": "t.py::a", "unit": "USD", "value": Decimal(tiny)},
        {"name": "t.py::b", "unit": "USD", "value": 1, "extra": "a lower bound"},
    ]


def test_a_run_without_any_known_cost_is_an_empty_list(tmp_path: Path) -> None:
    ledger = make_report({a_test("t.py::a"): [make_call(None)]})
    assert badge(ledger, tmp_path, "--format=benchmark-action") == []


def outputs(ledger: Ledger, capsys: pytest.CaptureFixture[str], folder: Path) -> dict[str, str]:
    write_ledger(ledger, folder / "cost.json")
    assert main(["badge", str(folder / "cost.json"), "--format=github-output"]) == 0
    return dict(line.split("=", 1) for line in capsys.readouterr().out.splitlines())


def test_a_step_of_github_actions_hands_on_exact_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = Comparison(
        base_usd=Decimal("1.5"), head_usd=Decimal("1.75"), change_usd=Decimal("0.25")
    )
    assert outputs(replace(a_run(limit="1"), comparison=change), capsys, tmp_path) == {
        "total-usd": "1.75",
        "change-usd": "0.25",
        "change-percent": "16.7",
        "passed": "false",
        "exceeded": "1",
        "title": "Merging adds $0.25 (+17 %) per run of the suite · 1 budget exceeded",
    }


@pytest.mark.parametrize(
    ("base", "head", "change"),
    [("0", "1.75", "1.75"), ("0", None, ""), ("1.5", None, ""), (None, "1.75", "")],
)
def test_what_has_no_share_of_the_baseline_states_none(
    base: str | None,
    head: str | None,
    change: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, now, more = (Decimal(each) if each else None for each in (base, head, change))
    comparison = Comparison(base_usd=before, head_usd=now, change_usd=more)
    reported = outputs(replace(a_run(), comparison=comparison), capsys, tmp_path)
    assert (reported["change-usd"], reported["change-percent"]) == (change, "")


@pytest.mark.parametrize(("status", "passed"), [(0, "true"), (1, "false"), (5, "false")])
def test_a_run_has_passed_only_if_its_tests_have(
    status: int, passed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = make_report(
        {a_test("t.py::a"): [make_call("0.5")]},
        budgets=[suite_budget("1")],
        run=RunRecord(exit_status=status),
    )
    assert outputs(ledger, capsys, tmp_path)["passed"] == passed
    assert ("### ✅ " in render_markdown(ledger)) == (passed == "true")


def test_a_shell_on_windows_reads_the_lines_without_a_carriage_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ledger(a_run(limit="1"), tmp_path / "cost.json")
    printed = io.BytesIO()
    # As Python opens a pipe there.
    stdout = io.TextIOWrapper(printed, encoding="cp1252", newline="\r\n")
    monkeypatch.setattr("sys.stdout", stdout)
    assert main(["badge", str(tmp_path / "cost.json"), "--format=github-output"]) == 0
    assert b"\npassed=false\n" in printed.getvalue()


@pytest.mark.parametrize(("unverified", "passed"), [("fail", "false"), ("warn", "true")])
def test_what_is_not_known_is_empty_and_never_zero(
    unverified: str, passed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = make_report(
        {a_test("t.py::a"): [make_call(None)]}, budgets=[suite_budget("1")], unverified=unverified
    )
    assert outputs(ledger, capsys, tmp_path) == {
        "total-usd": "",
        "change-usd": "",
        "change-percent": "",
        "passed": passed,
        "exceeded": "0",
        "title": "The suite costs an unknown amount · 1 budget could not be checked",
    }


@pytest.mark.parametrize(
    ("outcome", "status", "passed"), [("skipped", 0, "true"), ("failed", 1, "false")]
)
def test_a_run_passes_with_a_skipped_test_whose_budget_could_not_be_checked(
    outcome: str, status: int, passed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunRecord(exit_status=status)
    ledger = judged(make_report({a_test("t.py::a"): [make_call(None)]}, run=run), "1", outcome)
    assert outputs(ledger, capsys, tmp_path)["passed"] == passed

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_reports import CARD, a_fixture, a_test, make_budget, make_call, make_report

from pytest_llmcost.budgets.budget import judge_calls
from pytest_llmcost.budgets.path_globs import parse_path_budget
from pytest_llmcost.cli.main import main
from pytest_llmcost.ledger.builder import LedgerBuilder
from pytest_llmcost.ledger.ledger_file import write_ledger
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


def suggest(path: Path, spent: dict[Any, Any], *args: str) -> int:
    write_ledger(make_report(spent), path / "ledger.json")
    return main(["suggest", str(path / "ledger.json"), *args])


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


def test_a_wrong_headroom_is_an_error(tmp_path: Path, spent: dict[Any, Any]) -> None:
    assert suggest(tmp_path, spent, "--headroom=lots") == 2


def judged(path: Path, *tests: tuple[str, str, Any], **how: Any) -> list[str]:
    """Write a run of tests with what they cost and their budget; return the command for it."""
    ledger = LedgerBuilder()
    for nodeid, usd, budget in tests:
        calls = [make_call(usd)] if usd else []
        for call in calls:
            ledger.add(a_test(nodeid), call)
        ledger.judge(a_test(nodeid), outcome="passed", verdict=judge_calls(budget, calls))
    write_ledger(ledger.ledger(price_date="2026-11-22", rate_card=CARD, **how), path)
    return ["suggest", str(path), "--ratchet"]


def test_the_ratchet_names_budgets_with_more_headroom_than_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide, shared = make_budget("0.05"), make_budget("1", origin="llmcost_max_test")
    tokens = make_budget("1000", kind="input_tokens", origin="t.py:9")
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
        "t.py:9: lower 1,000 input tokens to 130 input tokens (used: 100 input tokens)",
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

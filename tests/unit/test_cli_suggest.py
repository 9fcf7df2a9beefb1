from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sample_reports import a_fixture, a_test, make_call, make_report

from pytest_llmcost.budgets.path_globs import parse_path_budget
from pytest_llmcost.cli.main import main
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

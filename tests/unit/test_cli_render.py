"""Reports that are drawn again from a ledger are those that the run wrote."""

from __future__ import annotations

import re
from decimal import Decimal
from html import unescape
from pathlib import Path

import pytest
from conftest import Project
from msgspec.structs import replace
from sample_reports import a_test, make_call, make_report, suite_budget
from sample_run import sample_run
from standin import StandIn

from pytest_llmcost.cli.main import main
from pytest_llmcost.ledger.ledger import Change, Comparison, read_ledger, write_ledger
from pytest_llmcost.ledger.run_history import append_run, run_of
from pytest_llmcost.reports.markdown import render_markdown

TESTS = """
    import pytest

    @pytest.mark.parametrize("number", range(12))
    def test_counts(llmcost, number):
        text = "word " * number + "end"
        llmcost.count(model="claude-sonnet-5-5", messages=[{"role": "user", "content": text}])

    @pytest.mark.max_cost("$0.0000001")
    def test_is_over(llmcost):
        llmcost.count(model="claude-opus-4-7", messages=[{"role": "user", "content": "Hello"}])
"""


SUFFIXES = ("json", "md", "html")


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    report = make_report({a_test("t.py::a"): [make_call("1.25")]}, budgets=[suite_budget("2")])
    write_ledger(report, tmp_path / "cost.json")
    return str(tmp_path / "cost.json")


def test_it_draws_what_the_run_wrote(
    project: Project, standin: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    project.online(standin).write(test_app=TESTS)
    result = project.record(*(f"--llmcost-report=cost.{each}" for each in SUFFIXES))
    printed = result.stdout.str()
    summary = re.search(r"=+ llmcost =+\n(.*?)\n=+ ", printed, re.DOTALL)
    assert summary
    capsys.readouterr()
    outputs = [f"--output=again.{each}" for each in SUFFIXES]
    assert main(["render", "cost.json", *outputs, "-o", "-"]) == 0
    drawn = capsys.readouterr().out
    assert "✗" in drawn
    assert drawn.rstrip("\n") == summary[1].rstrip("\n")
    for suffix in SUFFIXES:
        again, first = (project.path / f"{name}.{suffix}" for name in ("again", "cost"))
        assert again.read_bytes() == first.read_bytes()


def test_it_names_tokens_in_the_order_in_which_the_run_named_them(tmp_path: Path) -> None:
    tokens = {"input_tokens": 5, "cache_read_tokens": 7, "output_tokens": -2}
    change = Change(name="t.py::a", status="changed", usd=None, tokens=tokens)
    report = make_report({a_test("t.py::a"): [make_call("1.25")]})
    report = replace(report, comparison=Comparison(changes=(change,)))
    write_ledger(report, tmp_path / "cost.json")
    drawn = render_markdown(read_ledger(tmp_path / "cost.json"))
    assert "+5 input, +7 cache read, -2 output" in unescape(drawn)
    assert drawn == render_markdown(report)


def test_without_an_output_it_prints_the_summary(
    ledger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", ledger]) == 0
    out = capsys.readouterr().out
    assert "$1.25 at list price, 1 call" in out
    assert "$1.25 is within the $2.00 suite budget" in out


def test_the_number_of_rows_can_be_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ledger(sample_run(), tmp_path / "cost.json")
    main(["render", str(tmp_path / "cost.json"), "--rows=1"])
    few = capsys.readouterr().out
    main(["render", str(tmp_path / "cost.json"), "--llmcost-rows=0"])
    assert " more, " in few
    assert " more, " not in capsys.readouterr().out
    assert main(["render", str(tmp_path / "cost.json"), "--rows=-1"]) == 2
    assert "--rows: '-1' is not a whole number" in capsys.readouterr().err


def test_a_run_without_calls_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ledger(make_report({}), tmp_path / "cost.json")
    assert main(["render", str(tmp_path / "cost.json")]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "has no Claude calls" in err


def test_it_draws_a_history_on_the_page_and_names_its_bad_lines(
    ledger: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    history, page = tmp_path / "history.jsonl", tmp_path / "cost.html"
    for usd in ("1", "1.25"):
        append_run(history, replace(run_of(read_ledger(ledger)), usd=Decimal(usd)))
    assert main(["render", ledger, f"--history={history}", "-o", str(page)]) == 0
    assert "From run to run" in page.read_text()
    history.write_text(f"no run\n{history.read_text()}")
    assert main(["render", ledger, "--llmcost-history=~/history.jsonl", "-o", str(page)]) == 1
    assert "history.jsonl:1: left out" in capsys.readouterr().err
    assert "From run to run" in page.read_text()


def test_a_history_needs_a_page_to_be_drawn_on_and_a_file(
    ledger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", ledger, "--history=history.jsonl"]) == 2
    assert "add -o cost.html" in capsys.readouterr().err
    page = str(tmp_path / "cost.html")
    assert main(["render", ledger, f"--history={tmp_path / 'none'}", "-o", page]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_an_unknown_form_exits_with_2_before_anything_is_written(
    ledger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comment = tmp_path / "cost.md"
    assert main(["render", ledger, "-o", str(comment), "-o", "cost.txt"]) == 2
    assert "'cost.txt' has no known suffix" in capsys.readouterr().err
    assert not comment.exists()


def test_what_is_no_ledger_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err

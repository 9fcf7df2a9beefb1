"""`--llmcost-history` and `llmcost history`: a line for each run, and what became dearer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from hypothesis import given
from hypothesis import strategies as st
from sample_reports import OUTSIDE, a_fixture, a_test, make_call, make_report
from spending_suite import EVERYTHING, run_suite, write_files

from pytest_llmcost.cli.main import main
from pytest_llmcost.errors import LedgerError
from pytest_llmcost.ledger.ledger import Ledger, write_ledger
from pytest_llmcost.ledger.run_history import SCHEMA, Run, append_run, average, read_history, run_of
from pytest_llmcost.reports.plain_text import usd_cell

HISTORY = "--llmcost-history=history.jsonl"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]


def a_run(usd: str | None, **fields: Any) -> Run:
    amount = None if usd is None else Decimal(usd)
    whole: dict[str, Any] = {"at": "2026-11-20T10:00:00Z", "price_date": "2026-11-20", "calls": 3}
    return Run(**{"schema": SCHEMA, "usd": amount, **whole, **fields})


def test_every_run_appends_one_line_alone_and_with_workers_without_a_key(tmp_path: Path) -> None:
    write_files(tmp_path, EVERYTHING)
    env = {"CI_COMMIT_SHA": "1a2b3c4d5e6f"}
    alone = run_suite(tmp_path, HISTORY, env=env)
    run_suite(tmp_path, HISTORY, "-n2", plugins=("xdist",), env=env)
    first, second = lines(tmp_path)
    assert {**first, "at": ""} == {**second, "at": ""}
    assert (first["commit"], first["incomplete"]) == ("1a2b3c4d5e6f", [])
    totals = alone.ledger()["totals"]
    assert (first["usd"], first["calls"]) == (totals["usd"], totals["calls"])
    models = {name: each["usd"] for name, each in totals["by_model"].items()}
    # The ledger spells half a character out.
    assert {name.encode("utf-8", "backslashreplace").decode(): usd
            for name, usd in first["by_model"].items()} == models  # fmt: skip
    # A session fixture that the root's conftest defines belongs to no path.
    assert set(first["by_path"]) == {"", "tests/agents/test_agents.py", "tests/test_triage.py"}
    assert sum(map(Decimal, first["by_path"].values())) == Decimal(totals["usd"])


def test_a_suite_that_does_not_ask_for_it_writes_nothing_and_a_part_of_one_says_so(
    tmp_path: Path,
) -> None:
    write_files(tmp_path, EVERYTHING)
    run_suite(tmp_path)
    assert not (tmp_path / "history.jsonl").exists()
    run_suite(tmp_path, HISTORY, "-k", "test_agent")
    run_suite(tmp_path, HISTORY, "--collect-only")
    (line,) = lines(tmp_path)
    assert (line["incomplete"], line["commit"]) == (["deselected"], None)


def test_what_another_plugin_spends_at_the_very_end_replaces_the_line(tmp_path: Path) -> None:
    late = """
        import pytest
        from app import ask

        @pytest.hookimpl(trylast=True)
        def pytest_unconfigure(config):
            ask(77)

        @pytest.hookimpl(tryfirst=True)
        def pytest_sessionfinish():
            ask(78)
    """
    test = {"tests/test_a.py": "from app import ask\ndef test_a(): ask(1)\n"}
    write_files(tmp_path, {"app.py": EVERYTHING["app.py"], "conftest.py": late, **test})
    ran = run_suite(tmp_path, HISTORY, "--llmcost-max-suite=$0.0001")
    (line,) = lines(tmp_path)
    assert line["usd"] == ran.ledger()["totals"]["usd"]
    said = next(each for each in ran.out.splitlines() if "calls ended after the summary" in each)
    total = usd_cell(Decimal(line["usd"]))
    assert said.startswith(f"llmcost: cost {total} > $0.0001 max_suite (+")
    assert ran.out.count("FAILED --llmcost-max-suite") == 1


def test_the_page_of_a_run_draws_the_history_that_ends_with_it(tmp_path: Path) -> None:
    write_files(tmp_path, EVERYTHING)
    page = tmp_path / "cost.html"
    report = f"--llmcost-report={page}"
    run_suite(tmp_path, HISTORY, report)
    assert "From run to run" not in page.read_text(), "one run is no line"
    run_suite(tmp_path, HISTORY, report)
    text = page.read_text()
    last = lines(tmp_path)[-1]
    usd = usd_cell(Decimal(last["usd"]), is_least=last["is_least"])
    assert f"to {last['at'].replace('T', ' ').removesuffix('Z')} ({usd})" in text
    assert text.count('class="run this"') == 1
    run_suite(tmp_path, report)
    assert "From run to run" not in page.read_text(), "it was not asked for"


def test_runs_in_parallel_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "history.jsonl"
    code = f"""
from pathlib import Path
from pytest_llmcost.ledger.run_history import SCHEMA, Run, append_run
for number in range(50):
    names = {{f"tests/test_{{each}}.py": None for each in range(200)}}
    append_run(Path({str(path)!r}), Run(schema=SCHEMA, at="", price_date="", calls=number, usd=None,
        by_path=names))
"""
    with ThreadPoolExecutor(3) as pool:
        done = list(
            pool.map(lambda _: subprocess.run([sys.executable, "-c", code], check=True), range(3))
        )
    assert len(done) == 3
    runs, problem = read_history(path)
    assert problem is None
    assert sorted(run.calls for run in runs) == sorted([*range(50)] * 3)


def test_a_history_that_cannot_be_written_fails_the_run_and_says_so(project: Project) -> None:
    project.write(test_app="def test_a(llmcost): llmcost.record({'input_tokens': 1}, model='x')\n")
    result = project.run("--llmcost-history=test_app.py/history.jsonl")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["not written: test_app.py/history.jsonl: cannot be written (*)"])


@pytest.mark.parametrize("name", ["/dev/full", "folder", "pipe"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="pipes and devices of POSIX")
def test_a_history_that_is_no_file_is_an_error_before_any_test_runs(
    project: Project, name: str
) -> None:
    project.write(test_app="def test_a(llmcost): llmcost.record({'input_tokens': 1}, model='x')\n")
    (project.path / "folder").mkdir()
    os.mkfifo(project.path / "pipe")
    result = project.run_apart(f"--llmcost-history={name}", timeout=30)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --llmcost-history: {name} is no regular file, *"])


@pytest.mark.parametrize(
    "words", [["history", "/dev/full"], ["render", "l", "-o", "p.html", "--history=/dev/full"]]
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="devices of POSIX")
def test_a_device_is_no_history_to_read(words: list[str], tmp_path: Path) -> None:
    write_ledger(Ledger(), tmp_path / "l")
    command = [sys.executable, "-m", "pytest_llmcost.cli.main", *words]
    how: dict[str, Any] = {"capture_output": True, "text": True, "cwd": tmp_path, "timeout": 30}
    done = subprocess.run(command, check=False, **how)
    assert done.returncode == 2
    assert done.stderr.startswith("llmcost: /dev/full: is a device")


def test_a_history_that_the_system_does_not_look_at_is_an_error_that_names_it() -> None:
    """As one in a folder that is not for us; at the end of a run it would be a traceback."""
    with pytest.raises(LedgerError, match=r"^aaa.*too long"):
        read_history(Path("a" * 300))


def test_a_line_that_was_cut_does_not_take_the_next_one_with_it(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"schema": "pytest-llmc')
    append_run(path, a_run("1"))
    runs, problem = read_history(path)
    assert [run.usd for run in runs] == [1]
    assert (problem or "").startswith(f"{path}:1: left out, not a run of pytest-llmcost (")


def line_of(**fields: object) -> str:
    return json.dumps(
        {"schema": SCHEMA, "price_date": "", "at": "", "calls": 1, "usd": "1", **fields}
    )


@pytest.mark.parametrize(
    "line",
    [
        *("{}", "[]", "null", "\udcff", "[" * 100_000),
        line_of(schema="pytest-llmcost-history/2"),
        *(line_of(usd=usd) for usd in ("NaN", "-1", "1E+99999", "1E-99999", "much")),
        line_of(by_tag={"a": "NaN"}),
        line_of(by_path=[]),
        line_of(calls=-1),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(
    tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "history.jsonl"
    append_run(path, a_run("1"))
    with path.open("ab") as file:
        file.write(line.encode("utf-8", "surrogateescape") + b"\n\n")
    append_run(path, a_run("2"))
    assert main(["history", str(path)]) == 1
    out, err = capsys.readouterr()
    assert f"{path.name}:2: left out" in err
    assert "+$1.00 (+100 %) against the run before: $1.00 → $2.00" in out


def test_a_file_that_is_no_history_is_one_error_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ledger.json"
    path.write_text("\n" + json.dumps({"schema": "pytest-llmcost/1", "tests": [1] * 30}, indent=1))
    assert main(["history", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"llmcost: {path}:2: not a run of pytest-llmcost (Expecting property name enclosed in "
        "double quotes: line 1 column 2 (char 1)); give the file of pytest --llmcost-history"
    ]
    # A run that was appended to it by mistake is shown, and the other lines are one problem.
    append_run(path, a_run("1"))
    assert main(["history", str(path)]) == 1
    out, err = capsys.readouterr()
    assert "$1.00" in out
    (line,) = err.splitlines()
    assert f"{path}:2: left out, not a run of pytest-llmcost (" in line
    assert line.endswith("; so are 34 more")


def test_a_file_without_a_run_says_what_adds_one_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path := tmp_path / "my runs.jsonl").touch()
    assert main(["history", str(path)]) == 0
    assert capsys.readouterr().err.endswith(f"add one: pytest --llmcost-history='{path}'\n")


def test_a_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    assert main(["history", str(tmp_path / "none.jsonl")]) == 2
    with pytest.raises(LedgerError, match="cannot be read"):
        read_history(tmp_path)


def test_it_draws_the_last_runs_and_compares_the_last_with_those_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "history.jsonl"
    model, judge = {"claude-opus-4-7": Decimal("0.1")}, {"judge": Decimal("0.05")}
    append_run(path, a_run("9"))
    append_run(path, a_run("0.1", by_model=model, by_path={"t/a.py": Decimal("0.1")}))
    append_run(path, a_run("0.01", incomplete=("deselected",)))
    append_run(path, a_run("0.2", by_model=model, by_path={"t/a.py": Decimal("0.2")}))
    last = a_run("0.3", commit="1a2b3c4d5e6f", by_model=model, by_tag=judge,
                 by_path={"t/a.py": Decimal("0.15"), "": Decimal("0.15")})  # fmt: skip
    append_run(path, last)
    assert main(["history", str(path), "-n", "2"]) == 0
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "run                  commit   calls     cost",
        "2026-11-20 10:00:00               3  $0.2000  ████████████████",
        "2026-11-20 10:00:00  1a2b3c4      3  $0.3000  ████████████████████████",
        "",
        "+$0.15 (+100 %) against the average of the 2 runs before: $0.15 → $0.30",
        "  by tag: judge +$0.05",
        "  by path: outside test files +$0.15",
    ]


@pytest.mark.parametrize(
    ("before", "last", "said"),
    [
        ([], a_run("1"), "no earlier run of the whole suite"),
        ([a_run("1", incomplete=("x",))], a_run("1"), "no earlier run of the whole suite"),
        ([a_run("1")], a_run("1", incomplete=("x",)), "the last run is a partial one"),
        ([a_run(None)], a_run("1"), "no earlier run of the whole suite with a known cost"),
        (
            [a_run("1"), a_run("9", is_least=True), a_run(None)],
            a_run("2"),
            "+$1.00 (+100 %) against the run before: $1.00",
        ),
        ([a_run("1")], a_run("1", is_least=True), "the cost of some calls is unknown"),
        ([a_run("1")], a_run("1"), "±$0.00 against the run before"),
    ],
)
def test_it_compares_only_what_is_comparable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], before: list[Run], last: Run, said: str
) -> None:
    for run in (*before, last):
        append_run(tmp_path / "history.jsonl", run)
    assert main(["history", str(tmp_path / "history.jsonl")]) == 0
    assert said in capsys.readouterr().out


def test_runs_are_in_the_order_of_their_time_whatever_that_of_their_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "history.jsonl"  # as Git merges two branches that both appended to it
    append_run(path, a_run("2", at="2026-11-22T10:00:00Z"))
    append_run(path, a_run("1"))
    assert main(["history", str(path)]) == 0
    assert "+$1.00 (+100 %) against the run before" in capsys.readouterr().out


def test_a_share_that_is_unknown_in_one_run_has_no_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "history.jsonl"
    append_run(path, a_run("1", by_model={"claude-opus-4-7": None}))
    append_run(path, a_run("1", by_model={"claude-opus-4-7": Decimal(1)}))
    assert main(["history", str(path)]) == 0
    assert "by model" not in capsys.readouterr().out


amounts = st.none() | st.decimals("0", "1000", places=6)


@given(st.lists(amounts, min_size=1, max_size=5))
def test_an_average_lies_between_and_is_unknown_if_a_cost_is(usds: list[Decimal | None]) -> None:
    mean = average(usds)
    known = [usd for usd in usds if usd is not None]
    assert (mean is None) == (len(known) < len(usds))
    assert mean is None or min(known) <= mean <= max(known)


def test_paths_add_up_to_the_run_and_shared_fixtures_count_once() -> None:
    spent: dict[Any, Any] = {
        a_test("t/a.py::test"): [make_call("1", tags=("judge",))],
        a_fixture(node="t/a.py"): [make_call("2")],
        a_fixture("other", baseid="t", worker="gw0"): [make_call("4")],
        a_fixture("other", baseid="t", worker="gw1"): [make_call("3")],
        OUTSIDE: [make_call(None)],
    }
    run = run_of(make_report(spent))
    assert run.by_path == {"t/a.py": 3, "t": 4, "": None}
    assert run.usd == 7
    assert run.is_least
    assert run.by_tag == {"judge": 1}

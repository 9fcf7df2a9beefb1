from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace
from sample_reports import a_test, judged, make_budget, make_call, make_report, suite_budget

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import judge
from pytest_llmcost.cli.main import main
from pytest_llmcost.ledger.ledger import Ledger, RunRecord, read_ledger, write_ledger


def shard(number: int, usd: str | None = "0.5", *, limit: str | None = None) -> Ledger:
    budgets = [suite_budget(limit)] if limit else []
    return make_report({a_test(f"t{number}.py::test_a"): [make_call(usd)]}, budgets=budgets)


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    for number in range(3):
        write_ledger(shard(number, limit="2"), tmp_path / f"shard-{number}.json")
    return [str(tmp_path / f"shard-{number}.json") for number in range(3)]


def test_shards_are_added_up_into_one_file(
    shards: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "all" / "all.json"
    assert main(["merge", *shards, "-o", str(path)]) == 0
    assert read_ledger(path).totals.usd == Decimal("1.5")
    assert capsys.readouterr().out == (
        f"merged 3 ledgers into {path}: 3 test attempts, 3 calls, $1.50 at list price, "
        "$0.00 spent live\n"
        "$1.50 is within the $2.00 suite budget set by --llmcost-max-suite (75 % used)\n"
    )


def test_what_a_ledger_says_cannot_move_the_cursor_in_an_error(
    shards: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ledger(replace(shard(3), price_date="a\x1b[2J\nb"), tmp_path / "other.json")
    assert main(["merge", str(tmp_path / "other.json"), *shards]) == 2
    err = capsys.readouterr().err
    assert "other.json has a\\x1b[2J" in err
    assert "\x1b" not in err


def test_what_a_ledger_says_cannot_move_the_cursor_in_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = make_report({a_test("t.py::test_a[\x1b[2J]"): [make_call("1")]})
    path = tmp_path / "shard.json"
    write_ledger(judged(report, "0.5"), path)
    assert main(["merge", str(path), "-o", str(tmp_path / "all.json")]) == 1
    out = capsys.readouterr().out
    assert "t.py::test_a[\\x1b[2J]: " in out
    assert "\x1b" not in out


def test_without_a_file_the_ledger_is_the_output(
    shards: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", *shards]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["totals"]["usd"] == "1.5"
    assert err.startswith("llmcost: merged 3 ledgers: ")


@pytest.mark.parametrize(("limit", "status"), [("$1.50", 0), ("$1.499999", 1), ("1", 1)])
def test_the_suite_is_judged_anew(
    shards: list[str], tmp_path: Path, limit: str, status: int
) -> None:
    path = tmp_path / "all.json"
    assert main(["merge", *shards, "-o", str(path), "--max-suite", limit]) == status
    [verdict] = read_ledger(path).verdicts
    assert verdict.state == ("exceeded" if status else "within")


def test_a_suite_that_cannot_be_verified_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, usd in enumerate(["0.5", None]):
        write_ledger(shard(number, usd), tmp_path / f"{number}.json")
    paths = [str(tmp_path / f"{number}.json") for number in range(2)]
    assert main(["merge", *paths, "-o", str(tmp_path / "all.json"), "--max-suite", "9"]) == 1
    out = capsys.readouterr().out
    assert "at least $0.50" in out
    assert "cannot check the $9.00 suite budget set by --max-suite" in out


@pytest.mark.parametrize(("setting", "status"), [("fail", 1), ("warn", 0)])
def test_the_setting_of_the_runs_decides_whether_what_could_not_be_checked_fails(
    tmp_path: Path, setting: str, status: int
) -> None:
    for number, usd in enumerate(["0.5", None]):
        report = replace(
            shard(number, usd, limit="9"),
            unverified=setting,
            run=RunRecord(exit_status=0),
        )
        write_ledger(report, tmp_path / f"{number}.json")
    paths, path = [str(tmp_path / f"{number}.json") for number in range(2)], tmp_path / "all.json"
    assert main(["merge", *paths, "-o", str(path)]) == status
    merged = read_ledger(path)
    assert (merged.unverified, merged.verdicts[0].state) == (setting, "unverified")
    assert merged.run.exit_status == status
    # What is exceeded fails, whatever the setting.
    assert main(["merge", *paths, "-o", str(path), "--max-suite", "0.4"]) == 1


def test_a_suite_of_which_nothing_is_known_has_no_price(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ledger(shard(0, None), tmp_path / "0.json")
    assert main(["merge", str(tmp_path / "0.json"), "-o", str(tmp_path / "all.json")]) == 0
    assert ": 1 test attempt, 1 call, ? at list price, $0.00 spent live" in capsys.readouterr().out


def test_one_attempt_in_two_shards_is_an_error_that_names_both(
    shards: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", shards[0], shards[0]]) == 2
    assert shards[0] in capsys.readouterr().err


def test_an_incomplete_suite_says_so_unless_the_shards_are_the_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = make_report({a_test("t.py::a"): [make_call("1")]}, incomplete=("deselected",))
    write_ledger(report, tmp_path / "part.json")
    path = str(tmp_path / "all.json")
    main(["merge", str(tmp_path / "part.json"), "-o", path])
    assert "partial run (deselected)" in capsys.readouterr().out
    main(["merge", str(tmp_path / "part.json"), "-o", path, "--whole"])
    assert "partial run" not in capsys.readouterr().out


def test_a_file_of_an_unknown_form_exits_with_2_before_anything_is_written(
    shards: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = ["-o", str(tmp_path / "all.json"), "-o", "all.txt"]
    assert main(["merge", *shards, *outputs]) == 2
    assert "'all.txt' has no known suffix" in capsys.readouterr().err
    assert not (tmp_path / "all.json").exists()


@pytest.mark.parametrize("limit", ["much", "-1"])
def test_a_limit_that_is_none_exits_with_2(
    shards: list[str], limit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", *shards, f"--max-suite={limit}"]) == 2
    assert f"llmcost: --max-suite: '{limit}' is not an amount of money" in capsys.readouterr().err


def test_a_comment_may_be_written_beside_the_ledger(
    shards: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, comment = tmp_path / "all.json", tmp_path / "cost.md"
    assert main(["merge", *shards, "-o", str(ledger), "-o", str(comment)]) == 0
    assert read_ledger(ledger).totals.usd == Decimal("1.5")
    assert "The suite costs $1.50 of $2.00 · within its budget" in comment.read_text(
        encoding="utf-8"
    )
    assert f"into {ledger}, {comment}:" in capsys.readouterr().out


@pytest.mark.parametrize("why", ["interrupted", "stopped", "worker-crashed"])
def test_a_suite_with_a_shard_that_did_not_run_to_its_end_is_not_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    lost = [why] if why == "worker-crashed" else []
    report = make_report({a_test("t.py::a"): [make_call("1")]}, incomplete=[why], lost_calls=lost)
    write_ledger(report, tmp_path / "part.json")
    merge = ["merge", str(tmp_path / "part.json"), "-o", str(tmp_path / "all.json")]
    assert main(merge) == 0
    assert main([*merge, "--whole"]) == 1
    assert f"partial run ({why})" in capsys.readouterr().out
    assert main([*merge, "--max-suite=9"]) == bool(lost)


@pytest.mark.parametrize(
    ("outcome", "limit", "usd", "status"),
    [
        ("failed", "0.5", "1", 1),
        ("passed", "0.5", "1", 1),
        ("skipped", "0.5", "1", 1),
        ("xfailed", "0.5", "1", 0),
        ("failed", "2", None, 1),
        ("error", "2", None, 1),
        ("passed", "2", None, 0),  # llmcost_unverified = warn
        ("failed", "2", "1", 0),  # by something else than its budget
    ],
)
@pytest.mark.parametrize("as_block", [False, True])
def test_a_test_that_failed_its_budget_in_a_shard_fails_the_merge(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    outcome: str,
    limit: str,
    usd: str | None,
    status: int,
    as_block: bool,
) -> None:
    calls = [make_call(usd)]
    verdict = judge(make_budget(limit), Amounts.of(calls))
    reported = {"blocks": (verdict,)} if as_block else {"verdict": verdict}
    report = make_report({a_test("t.py::a"): calls})
    report = replace(report, tests=(replace(report.tests[0], outcome=outcome, **reported),))
    write_ledger(report, tmp_path / "part.json")
    args = ["merge", str(tmp_path / "part.json"), "-o", str(tmp_path / "all.json"), "--whole"]
    assert main(args) == status
    assert ("t.py::a: " in capsys.readouterr().out) is bool(status)


def test_a_rerun_that_kept_its_budget_makes_up_for_the_attempt_before(tmp_path: Path) -> None:
    calls = [make_call("1")]
    report = make_report({a_test("t.py::a"): calls, a_test("t.py::a", attempt=2): calls})
    (first, _), (_, second) = judged(report, "0.5", "failed").tests, report.tests
    tests = (first, replace(second, outcome="passed"))
    write_ledger(replace(report, tests=tests), tmp_path / "part.json")
    assert main(["merge", str(tmp_path / "part.json"), "-o", str(tmp_path / "all.json")]) == 0

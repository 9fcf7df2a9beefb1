from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from sample_reports import MODEL, a_test, make_call, make_report

from pytest_llmcost.cli.main import COMMANDS, main
from pytest_llmcost.ledger.ledger import write_ledger

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"


def llmcost(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest_llmcost.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_it_knows_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"llmcost {version('pytest-llmcost')}\n"


def test_the_version_is_shown_without_loading_what_a_command_needs() -> None:
    code = (
        "import sys; before = {*sys.modules}\n"
        "from pytest_llmcost.cli.main import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: pass\n"
        "print(*{*sys.modules} - before, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "pytest_llmcost.cli.main" in loaded
    assert loaded.isdisjoint({"msgspec", "yaml", "tomli", "decimal", "pytest_llmcost.money"})


def test_the_page_on_commands_names_every_one() -> None:
    rows = re.findall(r"^\| `llmcost (\w+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: llmcost {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["buy"], ["rates", "--colour"]])
def test_bad_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: llmcost")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["price", ""], "file"),
        (["cassettes", "--check", ""], "--check"),
        (["rates", "--diff="], "--diff"),
        (["reconcile", "ledger.json", "--usage", " "], "--usage"),
    ],
)
def test_an_empty_value_is_neither_this_folder_nor_the_absence_of_an_option(
    arguments: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    why = "an unset shell variable expands to an empty string"
    assert capsys.readouterr() == ("", f"llmcost: {name}: is empty ({why})\n")


def test_an_error_of_ours_is_one_message_and_exits_with_2() -> None:
    done = llmcost("rates", "claude-opus-9")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("llmcost: no price for model 'claude-opus-9'")
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_accident() -> None:
    script = f"{sys.executable} -m pytest_llmcost.cli.main rates | head -n 1"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("model")
    assert done.stderr == ""


def test_a_closed_pipe_at_once_is_no_accident() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest_llmcost.cli.main", "rates"],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_that_cannot_be_written_is_one_line_and_exits_with_2() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pytest_llmcost.cli.main", "rates"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    message = "llmcost: the output cannot be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (2, message)
    script = f"{sys.executable} -m pytest_llmcost.cli.main rates claude-opus-9 2>/dev/full"
    assert subprocess.run(["sh", "-c", script], check=False).returncode == 2


@pytest.mark.parametrize(
    ("closed", "arguments", "status", "shown"),
    [
        (">&-", "rates", 0, ""),
        (">&- 2>&-", "rates claude-opus-9", 2, ""),
        ("2>&-", "rates claude-opus-9", 2, ""),
        (">&-", "rates claude-opus-9", 2, "llmcost: no price for model 'claude-opus-9'"),
        ("<&-", "price -", 1, "llmcost: -: the file is empty"),
    ],
)
def test_a_stream_that_is_closed_is_no_accident(
    closed: str, arguments: str, status: int, shown: str
) -> None:
    script = f"{sys.executable} -m pytest_llmcost.cli.main {arguments} {closed}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith(shown) if shown else not done.stderr


def test_what_the_encoding_of_the_output_lacks_is_written_in_ascii(tmp_path: Path) -> None:
    usage = {"input_tokens": 10, "output_tokens": 5}
    path = tmp_path / "answer.json"
    path.write_text(json.dumps({"model": "ä→🚲", "usage": usage}))
    history = Path(__file__).parents[2] / "docs/examples/trend/history.jsonl"
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    priced, shown = llmcost("price", str(path), env=env), llmcost("history", str(history), env=env)
    assert (priced.returncode, shown.returncode) == (1, 0)
    assert r"#0 \xe4->\U0001f6b2 (unknown-model)" in priced.stdout
    assert "$0.1072 -> $0.1463" in shown.stdout


@pytest.mark.parametrize(
    "arguments", [["merge"], ["badge", "--format=benchmark-action"], ["compare", "--format=md"]]
)
def test_what_is_for_programs_is_utf_8_whatever_the_locale(
    arguments: list[str], tmp_path: Path
) -> None:
    path = str(tmp_path / "cost.json")
    write_ledger(make_report({a_test("t.py::test_ä"): [make_call("1")]}), path)
    command, *options = arguments
    paths = [path, path] if command == "compare" else [path]
    env = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = llmcost(command, *paths, *options, env=env, encoding="utf-8")
    assert done.stderr.startswith("llmcost: merged" if command == "merge" else "")
    assert ("—" if command == "compare" else "t.py::test_ä") in done.stdout


def test_an_interrupt_ends_it_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupting:
        @property
        def buffer(self) -> object:
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Interrupting())
    assert main(["price", "-"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_command_imports_no_other_one() -> None:
    code = f"""
import os, sys
from pytest_llmcost.cli.main import main
for command in {[*COMMANDS]}:
    if not os.fork():
        try: main([command, "--help"])
        except SystemExit: pass
        print(*(name for name in sys.modules if name.startswith("pytest_llmcost.cli.")))
        break
    os.wait()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("pytest_llmcost.cli")]
    loaded = [{name.rpartition(".")[2] for name in line.split()} for line in lines]
    assert [each & set(COMMANDS) for each in loaded] == [{command} for command in COMMANDS]


def test_it_loads_neither_pytest_nor_a_client_nor_vcr(tmp_path: Path) -> None:
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"type": "message", "model": MODEL, "usage": usage}
    (tmp_path / "r.json").write_text(json.dumps(message))
    code = (
        "import sys; from pytest_llmcost.cli.main import main; "
        f"main(['price', {str(tmp_path / 'r.json')!r}]); main(['rates']); "
        "print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stderr.replace("'", '"')))
    assert loaded.isdisjoint({"pytest", "_pytest", "anthropic", "httpx", "httpx2", "vcr", "yaml"})

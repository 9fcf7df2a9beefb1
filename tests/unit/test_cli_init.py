"""`llmcost init`: settings are shown, then written, and nothing else changes."""

from __future__ import annotations

import re
import subprocess
import textwrap
from pathlib import Path

import pytest
import tomli
from iniconfig import IniConfig
from warm_python import warm_python

from pytest_llmcost.cli.main import main

TOML = """\
# What the prompts of the whole suite may cost together. Set your own limit.
llmcost_max_suite = "$1.00"
# What a change may add, in a run with --llmcost-baseline.
llmcost_max_increase = ["10%"]
"""
INI = TOML.replace('"', "").replace("[10%]", "10%")
NEXT = """
Next:

  pytest --llmcost-record-mode=rewrite   # count the prompts: free, needs ANTHROPIC_API_KEY
  pytest                                 # check the budgets: offline, needs no key
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def load(path: Path) -> str:
    return path.read_bytes().decode()


def test_the_lines_are_shown_before_they_are_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(folder / "pyproject.toml", "[tool.pytest.ini_options]\naddopts = '-q'\n")
    assert main(["init"]) == 0
    shown = f"pyproject.toml, after line 1:\n\n{indented(TOML)}\n"
    hint = "Nothing is written yet. To write these lines: llmcost init --write\n"
    assert capsys.readouterr().out == f"{shown}{hint}{NEXT}"
    assert load(path) == "[tool.pytest.ini_options]\naddopts = '-q'\n"
    assert main(["init", "--write"]) == 0
    assert capsys.readouterr().out == f"{shown}wrote 4 lines to pyproject.toml\n{NEXT}"
    assert load(path) == f"[tool.pytest.ini_options]\n{TOML}addopts = '-q'\n"


def indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())


@pytest.mark.parametrize(
    ("name", "text", "written"),
    [
        # Every form of the file that pytest reads.
        ("pytest.ini", "[pytest]\ntestpaths = t\n", f"[pytest]\n{INI}testpaths = t\n"),
        ("pytest.ini", "", f"[pytest]\n{INI}"),
        (".pytest.ini", "[pytest]\n", f"[pytest]\n{INI}"),
        ("tox.ini", "[tox]\na=1\n[pytest]\n\n", f"[tox]\na=1\n[pytest]\n{INI}\n"),
        ("setup.cfg", "[a]\n[tool:pytest] # x\n", f"[a]\n[tool:pytest] # x\n{INI}"),
        ("pyproject.toml", "", f"[tool.pytest.ini_options]\n{TOML}"),
        (
            "pyproject.toml",
            "[project]\nname = 'a'",
            f"[project]\nname = 'a'\n\n[tool.pytest.ini_options]\n{TOML}",
        ),
        # Without a last newline, with a comment, a table below.
        (
            "pyproject.toml",
            "[tool.pytest.ini_options] # here",
            f"[tool.pytest.ini_options] # here\n{TOML}",
        ),
        (
            "pyproject.toml",
            "[tool.pytest.ini_options]\n[tool.b]\nc = 1\n",
            f"[tool.pytest.ini_options]\n{TOML}[tool.b]\nc = 1\n",
        ),
        # Windows' ends of lines stay.
        ("pytest.ini", "[pytest]\r\na = b\r\n", f"[pytest]\r\n{INI}a = b\r\n"),
        # What looks like the header is in a comment.
        (
            "pyproject.toml",
            "#[tool.pytest.ini_options]\n",
            f"#[tool.pytest.ini_options]\n\n[tool.pytest.ini_options]\n{TOML}",
        ),
        # An indented line of an ini file goes on with the value above it.
        (
            "pytest.ini",
            "[a]\nb =\n  [pytest]\n[pytest]\n",
            f"[a]\nb =\n  [pytest]\n[pytest]\n{INI}",
        ),
    ],
)
def test_only_the_lines_are_added_to_the_file_that_pytest_reads(
    folder: Path, name: str, text: str, written: str
) -> None:
    path = save(folder / name, text)
    assert main(["init", "--write"]) == 0
    end = "\r\n" if "\r\n" in text else "\n"
    assert load(path) == written.replace("\r\n", "\n").replace("\n", end)
    assert [each.name for each in folder.iterdir()] == [name]


@pytest.mark.parametrize("native", ["[tool.pytest]\naddopts = ['-q']\n", None])
def test_native_toml_of_pytest_9_is_read_as_pytest_reads_it(
    folder: Path, native: str | None
) -> None:
    if int(pytest.__version__.partition(".")[0]) < 9:
        pytest.skip("since pytest 9")
    name, text = ("pyproject.toml", native) if native else ("pytest.toml", "[pytest]\n")
    path = save(folder / name, text)
    assert main(["init", "--write"]) == 0
    assert load(path) == text.replace("]\n", f"]\n{TOML}", 1)


def test_the_file_is_chosen_as_pytest_chooses(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {
        "pyproject.toml": "[tool.pytest.ini_options]\n",
        "tox.ini": "[pytest]\n",
        "sub/pyproject.toml": "[project]\nname = 'a'\n",
        "sub/setup.cfg": "[metadata]\n",
        "sub/tox.ini": "[tox]\n",
    }.items():
        save(folder / name, text)
    monkeypatch.chdir(folder / "sub")
    assert main(["init", "--write"]) == 0
    assert TOML in load(folder / "pyproject.toml")
    save(folder / "pytest.ini", "")
    assert main(["init", "--write"]) == 0
    assert INI in load(folder / "pytest.ini")
    assert load(folder / "tox.ini") == "[pytest]\n"


@pytest.mark.parametrize(("there", "made"), [(None, "pyproject.toml"), ("setup.py", "pytest.ini")])
def test_a_project_without_settings_gets_a_file(folder: Path, there: str | None, made: str) -> None:
    if there:
        save(folder / there, "")
    assert main(["init", "--write"]) == 0
    assert "llmcost_max_suite" in load(folder / made)


def test_what_is_set_already_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "[pytest]\n# ours\nllmcost_max_suite=$7\n"
    path = save(folder / "pytest.ini", text)
    assert main(["init", "--write"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("pytest.ini already sets llmcost_max_suite; it stays as it is\n")
    assert "wrote 2 lines to pytest.ini" in out
    before = IniConfig("pytest.ini", text).sections["pytest"]
    after = IniConfig("pytest.ini", load(path)).sections["pytest"]
    assert after == {**before, "llmcost_max_increase": "10%"}
    once = load(path)
    assert main(["init", "--write"]) == 0
    assert load(path) == once
    assert "wrote" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "[project]\nname = 'a'\n[tool]\npytest.ini_options.addopts = '-q'\n",
        "tool = {pytest = {ini_options = {}}}\n",
        "# 1\n[tool.pytest]\nini_options = {addopts = '-q'}\n",
        "[tool.'pytest'.ini_options]\n",
        'x = """\n[tool.pytest.ini_options]\n"""\n[tool.pytest.ini_options]\ny = 1\n',
    ],
)
def test_a_table_in_another_form_is_left_to_the_user(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = save(folder / "pyproject.toml", text)
    line = next(n for n, each in enumerate(text.splitlines(), 1) if "ini_options" in each)
    assert main(["init", "--write"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"llmcost: pyproject.toml, line {line}: cannot add lines to ")
    assert err.endswith(indented(TOML))
    assert load(path) == text
    tomli.loads(text)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("pyproject.toml", b"a = 1\nb = \n", "pyproject.toml is not valid TOML: .*line 2"),
        ("pyproject.toml", b"a = 1\n# \xff\n", "pyproject.toml, line 2: is not UTF-8"),
        ("pytest.ini", b"[pytest]\na = 1\na = 2\n", "pytest.ini, line 3: duplicate name 'a'"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_the_line(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes, message: str
) -> None:
    (folder / name).write_bytes(data)
    assert main(["init", "--write"]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert (folder / name).read_bytes() == data


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("setup.cfg", "[tool:pytest]\naddopts = -p llmcost\n"),
        ("pyproject.toml", '[tool.pytest.ini_options]\naddopts = "-p llmcost"\n'),
    ],
)
def test_pytest_reads_what_was_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    save(folder / name, text)
    code = """
        def test_settings(pytestconfig):
            assert pytestconfig.getini("llmcost_max_suite") == "$1.00"
            assert pytestconfig.getini("llmcost_max_increase") == ["10%"]
    """
    save(folder / "test_a.py", textwrap.dedent(code))
    assert main(["init", "--write"]) == 0
    command = [warm_python(), "-m", "pytest", "--strict-config", "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

"""What README and docs show is true: their code runs, their options exist, their output is real."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import Project
from standin import StandIn

from pytest_llmcost.settings import OPTIONS, Option

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
TABLE_START, TABLE_END = "<!-- table: options -->\n", "<!-- end of table -->"


class Block(NamedTuple):
    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match["language"] in languages:
                line = text.count("\n", 0, match.start()) + 1
                yield Block(page.name, line, match["language"], match["code"])


@pytest.mark.parametrize("block", list(blocks("python")), ids=str)
def test_python_in_the_documentation_runs(project: Project, standin: StandIn, block: Block) -> None:
    """Tests are collected, hooks are used by a test that counts, fixtures and the rest run."""
    if "def test_" in block.code:
        project.write(test_page=block.code)
        plugins = ("recording",) if "mark.vcr" in block.code else ()
        result = project.run("--collect-only", "-q", "--strict-markers", plugins=plugins)
        assert result.ret == pytest.ExitCode.OK, result.stdout.str()
        return
    if "def pytest_llmcost_" in block.code:
        (project.path / "company-prices.toml").write_text(_company_prices(), encoding="utf-8")
        project.write(conftest=block.code, test_page=COUNTING)
        project.online(standin).record().assert_outcomes(passed=1)
        return
    exec(compile(block.code, str(block), "exec"), {})


COUNTING = """
    from pytest_llmcost import max_cost

    @max_cost("$1")
    def test_counting(llmcost):
        llmcost.count(
            model="claude-opus-4-7", system="Today is 2026-11-22",
            messages=[{"role": "user", "content": "Why is the sky blue?"}])
"""


def _company_prices() -> str:
    """The first price file that the documentation shows."""
    return next(block.code for block in blocks("toml") if block.page == "prices.md")


@pytest.mark.parametrize("block", list(blocks("ini")), ids=str)
def test_settings_in_the_documentation_are_accepted(project: Project, block: Block) -> None:
    code = block.code if "llmcost" in block.code else block.code + "llmcost_rows = 5\n"
    tests = ("test_page", "tests__test_triage", "tests__agents__test_agents")
    project.write(pytest_ini=code, **dict.fromkeys(tests, "def test_nothing(): pass"))
    result = project.run("--strict-config")
    assert result.ret == pytest.ExitCode.OK, result.stdout.str() + result.stderr.str()


def _options_table() -> str:
    rows = "".join(f"| {_names(option)} | {option.help} |\n" for option in OPTIONS)
    return f"| flag, ini key, environment variable | what it does |\n|---|---|\n{rows}"


def _names(option: Option) -> str:
    value = "" if option.switch or not option.metavar else f"={option.metavar}"
    flag = f"`{option.flag}{value}`<br>".replace("|", "\\|") if option.flag else ""
    return f"{flag}`{option.ini}`<br>`{option.env}`"


def test_the_table_of_options_is_the_table_of_options() -> None:
    text = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    shown = text.partition(TABLE_START)[2].partition(TABLE_END)[0]
    assert shown == _options_table()


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_readme_shows_what_the_example_prints(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = ROOT / "docs" / "examples" / "triage"
    shutil.copytree(example, project.path / "triage-example")
    monkeypatch.chdir(project.path / "triage-example")
    monkeypatch.setenv("COLUMNS", "80")
    result = project.run_apart("--color=no")
    assert result.ret == pytest.ExitCode.OK
    printed = result.stdout.str().partition("=\ntest ")[2].partition("\n====")[0]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.partition("<!-- output: docs/examples/triage -->")[2].partition("=\ntest ")[2]
    assert shown.partition("\n```")[0] == printed

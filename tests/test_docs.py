"""What README and docs show is true: code runs, options exist, output is real, links lead on."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from conftest import Project
from doc_pages import (
    DOCS,
    IMAGES,
    PAGES,
    PICTURES,
    ROOT,
    TABLES,
    Block,
    Walk,
    blocks,
    blocks_of,
    name_of,
    plain,
    tables_of,
)
from standin import StandIn

from pytest_llmcost.capture import transports
from pytest_llmcost.capture.request import CapturedRequest
from pytest_llmcost.capture.transports import aiohttp, http_client, httpx, urllib3
from pytest_llmcost.prices.caveats import CAVEATS
from pytest_llmcost.settings import OPTIONS

UPDATE = "run: python tests/tools/update_docs.py"


def walked(page: Path) -> bool:
    """Whether a page has blocks that say what they should hold."""
    return any(block.kind not in ("", "needs") for block in blocks_of(page))


@pytest.mark.parametrize("page", [page for page in PAGES if walked(page)], ids=name_of)
def test_what_a_page_shows_is_what_happens(tmp_path: Path, standin: StandIn, page: Path) -> None:
    """Every file is written, every command run in order, every output compared."""
    walk = Walk(tmp_path, standin.url)
    for block in blocks_of(page):
        assert plain(block.code) == plain(walk.real_code(block)), f"{block}: {UPDATE}"


def test_a_table_is_made_from_the_code() -> None:
    shown = {name: rows for page in PAGES for name, rows in tables_of(page)}
    assert set(shown) == set(TABLES)
    for name, rows in shown.items():
        assert rows == TABLES[name](), f"the table {name} differs; {UPDATE}"


def test_the_page_on_caveats_explains_only_caveats_that_exist() -> None:
    text = (DOCS / "caveats.md").read_text(encoding="utf-8").partition("## More about")[2]
    explained = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", text))
    assert explained
    assert explained <= set(CAVEATS)


def loose(*languages: str) -> list[Block]:
    """Blocks that no walk has run."""
    return [block for block in blocks(*languages) if block.kind in ("", "needs")]


@pytest.mark.parametrize("block", loose("python"), ids=str)
def test_python_in_the_documentation_runs(project: Project, standin: StandIn, block: Block) -> None:
    """Tests are collected, hooks are used by a test that counts, fixtures and the rest run."""
    if block.kind == "needs" and find_spec(block.argument) is None:
        pytest.skip(f"{block.argument} is not installed")
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
    return next(block.code for block in blocks("toml") if block.page.name == "prices.md")


SETTINGS = [block for block in loose("ini", "toml") if "pytest" in block.code.partition("\n")[0]]


@pytest.mark.parametrize("block", SETTINGS, ids=str)
def test_settings_in_the_documentation_are_accepted(project: Project, block: Block) -> None:
    # The first of a page must do in any project; further ones may show folders as an example.
    is_first = block == next(each for each in SETTINGS if each.page == block.page)
    folders = () if is_first else ("tests__test_triage", "tests__agents__test_agents")
    tests = ("test_page", *folders)
    project.write(**dict.fromkeys(tests, "def test_nothing(): pass"))
    name = "pytest.ini" if block.language == "ini" else "pyproject.toml"
    (project.path / name).write_text(block.code, encoding="utf-8")
    # A baseline that does not exist yet is only accepted by the run that writes it.
    first = ("--llmcost-update-baseline",) if "llmcost_baseline" in block.code else ()
    result = project.run("--strict-config", *first)
    assert result.ret == pytest.ExitCode.OK, result.stdout.str() + result.stderr.str()


def test_every_option_that_a_page_names_exists() -> None:
    flags = {option.flag for option in OPTIONS} | {"--llmcost-prices"}
    keys = {option.ini for option in OPTIONS}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert set(re.findall(r"--(?:no-)?llmcost[a-z-]*[a-z]", text)) <= flags, page
        assert set(re.findall(r"\b(llmcost_[a-z_]+)(?= = )", text)) <= keys, page
        assert not re.findall(r"--llmcost-[a-z-]+ [\w$'\"]+\.(?:json|md|toml)", text), page


def test_every_command_with_its_prompt_is_run() -> None:
    """A block that is only to be read is `sh`, without a prompt."""
    assert [str(block) for block in loose("console")] == []


# Links and navigation


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{name_of(page)} links to {link}"


def navigation(node: object) -> Iterator[str]:
    """Every page of the navigation."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, (list, dict)):
        for child in node.values() if isinstance(node, dict) else node:
            yield from navigation(child)


def test_the_navigation_has_every_page_once() -> None:
    site: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(navigation(site["nav"])) == sorted(
        name_of(page) for page in PAGES if DOCS in page.parents
    )


# Messages


def fixed_texts() -> str:
    """All text in the package's code, without what is filled in."""
    found = []
    for path in (ROOT / "pytest_llmcost").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_the_page_on_messages_quotes_what_the_code_says() -> None:
    text = (DOCS / "messages.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^### `(.+)`$", text, re.MULTILINE)
    for first in re.findall(r"^\| (`.+?`) \|", text, re.MULTILINE):
        quoted += re.findall(r"`(.+?)`", first)
    pieces = {piece.strip() for message in quoted for piece in message.split("…")}
    said = fixed_texts()
    assert len(pieces) > 30
    unknown = {piece for piece in pieces if piece not in said}
    assert unknown == set(), "no message has these words; correct docs/messages.md"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_of_the_terminal_shows_what_the_page_says(name: str, theme: str) -> None:
    page, end = PICTURES[name]
    (block,) = (block for block in blocks_of(page) if block.argument.endswith(end))
    drawn = ElementTree.parse(IMAGES / f"{name}-{theme}.svg").iter(
        "{http://www.w3.org/2000/svg}text"
    )
    lines: dict[float, str] = {}
    for text in drawn:
        at = float(text.attrib["y"])
        lines[at] = lines.get(at, "") + (text.text or "")
    shown = [" ".join(line.split()) for line in lines.values()]
    said = [" ".join(line.split()) for line in block.code.splitlines()]
    assert [each for each in shown if each] == [each for each in said if each], (
        "run: python tests/tools/draw_terminal.py"
    )


# The house


def test_the_picture_of_the_house_is_drawn_from_the_imports() -> None:
    command = "tests/tools/draw_house.py"
    picture = ROOT / "docs" / "house.svg"
    drawn = subprocess.run(
        [sys.executable, str(ROOT / command), "--print"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert drawn.stdout == picture.read_text(encoding="utf-8"), f"run: python {command}"


def test_contributing_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = re.findall(r"(?<![\w./])(?:tests|pytest_llmcost|docs)/[\w/-]+(?:\.\w+)?", text)
    assert len(names) > 15
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_contributing_names_what_a_transport_calls_as_it_is_called() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`captured\.(\w+)", text))
    assert {"leave", "answered", "passing"} <= names <= {*dir(CapturedRequest)}
    libraries = [aiohttp, http_client, httpx, urllib3]
    ours = [each for each in vars(transports).values() if inspect.isfunction(each)]
    shared = {
        each.__name__
        for each in ours
        if each.__module__ == transports.__name__
        and all(hasattr(library, each.__name__) for library in libraries)
    }
    assert {"begin", "passed_on"} <= shared <= {*re.findall(r"`(\w+)", text)}


def test_the_page_on_architecture_names_files_that_exist() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for row in re.findall(r"^\| .+ \|$", text, re.MULTILINE):
        for name in re.findall(r"`([\w/]+(?:\.py|\.toml|/))`", row):
            homes = (ROOT, ROOT / "pytest_llmcost")
            assert any((home / name).exists() for home in homes), name

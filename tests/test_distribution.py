"""What is uploaded holds what it should, and says of itself what is true."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
import tomli

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ANY_CACHE = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and a source distribution of what is here."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def files_below(folder: str) -> set[str]:
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    paths = (path.relative_to(ROOT) for path in found if path.suffix != ".pyc")
    return {path.as_posix() for path in paths if ANY_CACHE.isdisjoint(path.parts)}


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    own = {name for name in names if ".dist-info/" not in name}
    assert own == files_below("pytest_llmcost")
    assert {"pytest_llmcost/py.typed", "pytest_llmcost/prices/anthropic.toml"} <= own
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_source_distribution_holds_what_its_tests_and_pages_need(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    tops = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"}
    tops |= {"mkdocs.yml", ".pre-commit-hooks.yaml"}
    assert tops <= names
    folders = ("pytest_llmcost", "tests", "docs", ".github")
    wanted = {path for folder in folders for path in files_below(folder)}
    assert wanted <= names
    # .gitignore: without it, a build from the archive would take caches along.
    assert names - wanted - tops == {"PKG-INFO", ".gitignore"}


def metadata(built: Path) -> Message:
    (wheel,) = built.glob("*.whl")
    opened = zipfile.ZipFile(wheel)
    (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(opened.read(name))


def test_the_metadata_leads_to_the_source_and_the_pages(built: Path) -> None:
    links = dict(text.split(", ") for text in metadata(built).get_all("Project-URL", []))
    assert set(links) == {"Documentation", "Source", "Issues", "Changelog", "Security"}
    for link in links.values():
        below = re.search(r"/blob/main/(.+)", link)
        assert below is None or (ROOT / below[1]).exists(), link


def test_the_description_s_links_and_pictures_are_found_from_the_package_index(built: Path) -> None:
    text = metadata(built).get_payload()
    targets = re.findall(r'(?:\]\(|src=")([^")]+)', str(text))
    in_repository = [each for each in targets if "/OWNER/" in each]
    assert len(in_repository) > 30
    for target in targets:
        assert target.startswith(("https://", "#")), target
    for target in in_repository:
        path = re.sub(".*/(blob|raw)/main/", "", target.partition("#")[0])
        assert (ROOT / path).exists(), target


def test_every_python_from_the_lowest_on_is_named_without_a_gap() -> None:
    named = re.findall(r":: 3\.(\d+)", "\n".join(PROJECT["classifiers"]))
    lowest = int(PROJECT["requires-python"].removeprefix(">=3."))
    assert [int(each) for each in named] == list(range(lowest, lowest + len(named)))

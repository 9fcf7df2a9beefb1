"""What the pages on the command show is what it prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pytest_llmcost.cli.main import main

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOLDERS = {"price.md": "examples/recorded", "reconcile.md": "examples/bill"}
BLOCKS = re.compile(r"```console\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"\$ llmcost ([^\n]+)\n(.*?)(?=\n\$ |\Z)", re.DOTALL)
CARD_DATES = re.compile(r"(rate card |checked on )[\d-]+")


def shown() -> list[tuple[str, str, str]]:
    """Every command of a console block: its page, the command, and what follows it."""
    return [
        (page, command, output)
        for page in FOLDERS
        for block in BLOCKS.findall((DOCS / page).read_text(encoding="utf-8"))
        for command, output in COMMANDS.findall(block)
    ]


def plain(text: str) -> str:
    """Leave out what a new rate card changes without changing a price."""
    return CARD_DATES.sub(r"\1...", text).strip()


@pytest.mark.parametrize(("page", "command", "output"), shown())
def test_a_page_shows_what_the_command_prints(
    page: str,
    command: str,
    output: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(DOCS / FOLDERS[page])
    main(shlex.split(command))
    assert plain("".join(capsys.readouterr())) == plain(output)


def test_the_pages_show_every_form() -> None:
    commands = [command for _, command, _ in shown()]
    assert len(commands) == 7

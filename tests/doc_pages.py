"""The pages of the documentation, and what their examples really print.

A comment before a fenced block says what the block is; the same walk tests the pages and, for
`tests/tools/update_docs.py`, writes them:

    <!-- file: PATH -->        write the block to a file of the page's scratch project
    <!-- run -->               run its `$ ` lines there; `run: 1` expects that exit status, and
                               `run: 1 without a key` has no ANTHROPIC_API_KEY
    <!-- output: SECTION -->   what the last run printed: `failures`, `keys`, `llmcost`, `short`
    <!-- console: FOLDER -->   `$ llmcost ...` lines with their output, run in a folder of docs/
    <!-- example: FOLDER -->   the table that the example in this folder prints
    <!-- shown: PAGE NAME -->  the same as `<!-- output: SECTION as NAME -->` on another page
    <!-- needs: MODULE -->     a block that is read only where the module is installed

`<!-- table: NAME -->` begins a table made from the code, up to `<!-- end of table -->`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.figures import kept_figures
from clean_environment import clean_environment
from warm_python import warm_bin

from pytest_llmcost.amounts import COUNT_COMMAND
from pytest_llmcost.cli.main import main
from pytest_llmcost.prices.caveats import CAVEATS
from pytest_llmcost.settings import OPTIONS, Option

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
IMAGES = DOCS / "images"
PICTURES = {"over-budget": (DOCS / "start.md", " as red"), "table": (ROOT / "README.md", "triage")}
"""Of the terminal: the page, and how the comment before the block ends whose output it shows."""
NOT_PAGES = DOCS / "examples"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(page for page in sorted(DOCS.rglob("*.md")) if NOT_PAGES not in page.parents),
]
_BLOCK = re.compile(
    r"(?P<head>(?:<!-- (?P<kind>\w+)(?:: (?P<argument>.*?))? -->\n+)?```(?P<language>\w+)\n)"
    r"(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_TABLE = re.compile(
    r"(?P<start><!-- table: (?P<name>[\w ]+) -->\n+)(?P<rows>.*?)(?=\n*<!-- end of table -->)", re.S
)
_RULE = re.compile(r"=+ (.+?) =+")
_COLORS = re.compile(r"\x1b\[[\d;]*m")
_CHANGING = re.compile(r"(rate card |checked on |updated )[\d-]+|( in )\d+\.\d+s")


class Block(NamedTuple):
    """One fenced block of a page."""

    page: Path
    line: int
    kind: str
    argument: str
    language: str
    code: str

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    """The name of a page in test ids: its path within docs/, or the file's."""
    return page.relative_to(DOCS if DOCS in page.parents else ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [_block(page, text, match) for match in _BLOCK.finditer(text)]


def _block(page: Path, text: str, match: re.Match[str]) -> Block:
    line = text.count("\n", 0, match.start("code")) + 1
    known = [match[name] or "" for name in ("kind", "argument", "language", "code")]
    return Block(page, line, *known)


def blocks(*languages: str) -> Iterator[Block]:
    """Yield all blocks of the documentation in one of these languages."""
    for page in PAGES:
        yield from (block for block in blocks_of(page) if block.language in languages)


def plain(text: str) -> str:
    """Leave out what changes without any change of this project: durations and the card's date."""
    return _CHANGING.sub(r"\1\2...", text).strip()


# What the blocks should hold


class Walk:
    """One page's examples, done in order in a scratch folder, as a reader would do them."""

    def __init__(self, folder: Path, api_url: str, color: str = "no") -> None:
        """Use a folder that is empty, and the stand-in API at this address."""
        self.folder = folder
        self._color = color
        self._api_url = api_url
        self._printed = ""

    def real_code(self, block: Block) -> str:
        """Do what the block is about, and return what it should hold."""
        if block.kind == "file":
            return self._write(block)
        if block.kind == "run":
            return self._run(block)
        if block.kind == "output":
            return sections(self._printed, block.argument)
        if block.kind == "console":
            return real_console(block.code, DOCS / block.argument)
        if block.kind == "example":
            return self._example(DOCS / block.argument)
        if block.kind == "shown":
            return named_output(*block.argument.split())
        return block.code

    def _write(self, block: Block) -> str:
        path = self.folder / block.argument
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code, encoding="utf-8")
        return block.code

    def _run(self, block: Block) -> str:
        status, _, how = block.argument.partition(" ")
        for command in re.findall(r"^\$ (.+)$", block.code, re.MULTILINE):
            done = self._do(command, self.folder, has_key=how != "without a key")
            self._printed = done.stdout
            printed = f"{block}: {command}\n{done.stdout}{done.stderr}"
            assert done.returncode == int(status or 0), printed
        return block.code

    def _do(
        self, command: str, folder: Path, *, has_key: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=_environment(self._api_url, has_key=has_key, color=self._color),
            capture_output=True,
            encoding="utf-8",
            timeout=300,
        )

    def _example(self, source: Path) -> str:
        folder = self.folder / source.name
        shutil.copytree(source, folder)
        done = self._do("pytest", folder, has_key=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return sections(done.stdout, "llmcost")


def _environment(api_url: str, *, has_key: bool, color: str) -> dict[str, str]:
    """Nothing of ours from outside; only the plugins that a newcomer has; one day's prices."""
    env = clean_environment()
    env["PATH"] = f"{warm_bin()}{os.pathsep}{env['PATH']}"
    env["COLUMNS"] = "80"
    env["PYTHONDONTWRITEBYTECODE"] = "1"  # a file may be written twice within a second
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    env["PYTEST_ADDOPTS"] = f"-p llmcost -p recording -p no:cacheprovider --color={color}"
    env["PYTEST_LLMCOST_PRICE_DATE"] = "2026-11-22"
    env["ANTHROPIC_BASE_URL"] = api_url
    if has_key:
        env["ANTHROPIC_API_KEY"] = "key-1-for-the-stand-in"
    return env


_TITLES = {
    "failures": "FAILURES",
    "keys": "llmcost: keys in cassettes",
    "llmcost": "llmcost",
    "short": "short test summary info",
}


def sections(printed: str, wanted: str) -> str:
    """Return some sections of what pytest printed; `failures` is without its rule."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in printed.splitlines():
        rule = _RULE.fullmatch(_COLORS.sub("", line))
        if rule:
            name = next((name for name, title in _TITLES.items() if rule[1].startswith(title)), "")
            lines = found.setdefault(name, [])
            if name == "failures":
                continue
        lines.append(line.rstrip())
    names = wanted.partition(" as ")[0].split()
    assert all(found.get(name) for name in names), f"no {names} in:\n{printed}"
    return "\n\n".join("\n".join(found[name]).strip("\n") for name in names) + "\n"


def named_output(page: str, name: str) -> str:
    """Return the block that another page calls by this name."""
    (block,) = (block for block in blocks_of(DOCS / page) if block.argument.endswith(f" as {name}"))
    return block.code


def real_console(code: str, folder: Path) -> str:
    """Return the block's commands, each with what `llmcost` prints in that folder."""
    shown = []
    for command in re.findall(r"^\$ llmcost (.+)$", code, re.MULTILINE):
        printed = io.StringIO()
        with (
            _inside(folder),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            main(shlex.split(command))
        shown.append(f"$ llmcost {command}\n{printed.getvalue()}")
    return "\n".join(shown)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


# Tables made from the code


def options_table() -> str:
    """Every option with its three names."""
    rows = [f"| {_option_names(option)} | {option.help} |" for option in OPTIONS]
    return "\n".join(["| flag, ini key, environment variable | what it does |", "|---|---|", *rows])


def _option_names(option: Option) -> str:
    value = f"={option.metavar}" if option.metavar else ""
    flag = f"`{option.flag}{value}`<br>".replace("|", "\\|") if option.flag else ""
    return f"{flag}`{option.ini}`<br>`{option.env}`"


def caveats_table(*, by_card: bool) -> str:
    """Every caveat with its direction, its words in a message, and what settles it."""
    lines = ["| caveat | true cost | what a message says | what settles it |", "|---|---|---|---|"]
    for name, rule in CAVEATS.items():
        if rule.by_card is by_card:
            remedy = rule.remedy.replace("{command}", COUNT_COMMAND)
            cells = (f"`{name}`", rule.direction, *map(_as_sentence, (rule.meaning, remedy)))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


_CODE = re.compile(r'pytest --\S+|--[\w=-]+|llmcost\.\w+\([^)]*\)|\b[a-z]+_\w+=?|(?:\w+=)?"\w+"')


def _as_sentence(text: str) -> str:
    """Make a sentence of a part of a message, with code as code."""
    marked = _CODE.sub(r"`\g<0>`", text)
    return f"{marked[0].upper()}{marked[1:]}." if marked else ""


def figures_table() -> str:
    """The figures of the last release, each with its target."""
    rows = [f"| {each.what} | {each.shown()} | {each.goal()} |" for each in kept_figures()]
    return "\n".join(["| what | figure | target |", "|---|---|---|", *rows])


TABLES: Mapping[str, Callable[[], str]] = {
    "options": options_table,
    "caveats of usage": partial(caveats_table, by_card=False),
    "caveats of prices": partial(caveats_table, by_card=True),
    "figures": figures_table,
}
"""Each table by the name that its page uses."""


def tables_of(page: Path) -> list[tuple[str, str]]:
    """Return the tables of a page that are made from the code: name and rows."""
    text = page.read_text(encoding="utf-8")
    return [(match["name"], match["rows"]) for match in _TABLE.finditer(text)]


# Writing


def rewritten(page: Path, walk: Walk) -> str:
    """Return the page's text with every block and table as it should be."""
    text = page.read_text(encoding="utf-8")

    def with_code(match: re.Match[str]) -> str:
        block = _block(page, text, match)
        real = walk.real_code(block)
        return match["head"] + (block.code if plain(real) == plain(block.code) else real) + "```"

    written = _BLOCK.sub(with_code, text)
    return _TABLE.sub(lambda match: match["start"] + TABLES[match["name"]](), written)

"""Show the settings for a first budget, and write them where pytest's settings are."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pytest_llmcost.cli.console import Console
from pytest_llmcost.errors import SettingsError
from pytest_llmcost.files import show_path
from pytest_llmcost.ledger.ledger_file import write_file
from pytest_llmcost.reports.numbers import format_count

_PYPROJECT = ("tool", "pytest", "ini_options")
_FILES = ("pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
"""Where pytest looks, the first one wins; pytest 9 has these and two before."""
_SETTINGS: dict[str, tuple[str | list[str], str]] = {
    "llmcost_max_suite": (
        "$1.00",
        "What the prompts of the whole suite may cost together. Set your own limit.",
    ),
    "llmcost_max_increase": (["10%"], "What a change may add, in a run with --llmcost-baseline."),
}
"""Values and comments by key."""
_NEXT = """
Next:

  pytest --llmcost-record-mode=rewrite   # count the prompts: free, needs ANTHROPIC_API_KEY
  pytest                                 # check the budgets: offline, needs no key"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--write", "--yes", action="store_true", help="write the lines; without it, only show them"
    )


def run(arguments: Namespace, console: Console) -> int:
    """Show the lines that are missing; write them if that was asked for."""
    path, table = find_table(Path.cwd())
    text = _read(path)
    name, known = show_path(path), _lookup(_parse(path, text), table) or {}
    for key in (key for key in _SETTINGS if key in known):
        console.print(f"{name} already sets {key}; it stays as it is")
    missing = [key for key in _SETTINGS if key not in known]
    if missing:
        text, number, added = _add(path, table, text, missing)
        where = f", after line {number}" if number else ""
        console.print("\n".join([f"{name}{where}:", "", *(f"  {each}" for each in added), ""]))
        if arguments.write:
            write_file(path, [text.encode()])
            console.print(f"wrote {format_count(len(added), 'line')} to {name}")
        else:
            console.print("Nothing is written yet. To write these lines: llmcost init --write")
    console.print(_NEXT)
    return 0


def _add(
    path: Path, table: Sequence[str], text: str, keys: Sequence[str]
) -> tuple[str, int, list[str]]:
    """Return the text with the lines, the number of the line before them, and what was added.

    The lines go below the table's header, or to the end with a new one. A text that looks like
    the header may stand elsewhere, for example in a string. Therefore each candidate is parsed,
    and must differ by the new settings alone.

    Raises:
        SettingsError: there is no safe way.
    """
    values, block = {}, []
    for key in keys:
        value, comment = _SETTINGS[key]
        shown = json.dumps(value)
        if path.suffix != ".toml":
            value = shown = value if isinstance(value, str) else " ".join(value)
        values[key] = value
        block += [f"# {comment}", f"{key} = {shown}"]
    expected = node = _parse(path, text)
    for key in table:
        node = node.setdefault(key, {}) if isinstance(node, dict) else None
    header = f"[{'.'.join(table)}]"
    candidates = []
    if isinstance(node, dict):  # else something else has the table's name
        node.update(values)
        words = r"[ \t]*\.[ \t]*".join(map(re.escape, table))
        line = re.compile(rf"^[ \t]*\[[ \t]*{words}[ \t]*\].*(\n|\Z)", re.M)
        candidates = [(match.end(), block) for match in line.finditer(text)]
        candidates.append((len(text), [*([""] if text.strip() else []), header, *block]))
    end = "\r\n" if "\r\n" in text else "\n"
    for at, added in candidates:
        before = text[:at]
        if before and not before.endswith("\n"):
            before += end
        changed = f"{before}{end.join(added)}{end}{text[at:]}"
        with suppress(SettingsError):
            if _parse(path, changed) == expected:
                return changed, before.count("\n"), added
    number = text.count("\n", 0, max(text.find(table[-1]), 0)) + 1
    raise SettingsError(
        f"{show_path(path)}, line {number}: cannot add lines to {header} safely, because of the "
        "way it is written. Nothing was changed. Add these settings by hand:\n\n"
        + "\n".join(f"  {each}" for each in block)
    )


def find_table(here: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the file and the table in it that pytest reads if it is started here, or a new one."""
    is_new = int(version("pytest").partition(".")[0]) >= 9
    names = ("pytest.toml", ".pytest.toml", *_FILES) if is_new else _FILES
    without_settings: list[Path] = []
    for path in (folder / name for folder in (here, *here.parents) for name in names):
        if not path.is_file():
            continue
        document = _parse(path, _read(path))
        if path.name == "pyproject.toml":
            own = _lookup(document, _PYPROJECT[:2]) or {}
            if "ini_options" in own:
                return path, _PYPROJECT
            if own and is_new:  # of native TOML types
                return path, _PYPROJECT[:2]
            without_settings.append(path)
        else:
            section = "tool:pytest" if path.name == "setup.cfg" else "pytest"
            # A file with pytest's name is in use even if it is empty.
            if section in document or path.stem.endswith("pytest"):
                return path, (section,)
    if without_settings:
        return without_settings[0], _PYPROJECT
    # A pyproject.toml changes how a project that has none is built.
    if any((here / name).exists() for name in ("setup.py", "setup.cfg")):
        return here / "pytest.ini", ("pytest",)
    return here / "pyproject.toml", _PYPROJECT


def _read(path: Path) -> str:
    """Return the text of a settings file as it is; empty if there is none yet."""
    try:
        return path.read_bytes().decode()  # with the ends of its lines
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{show_path(path)}, line {line}: is not UTF-8") from None
    except OSError as error:
        raise SettingsError(f"{show_path(path)} cannot be read: {error.strerror}") from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    """Read the whole file as pytest does; an error names the line."""
    import iniconfig
    import tomli

    try:
        if path.suffix == ".toml":
            return tomli.loads(text)
        sections = iniconfig.IniConfig(str(path), text.replace("\r\n", "\n")).sections
        return {name: dict(section) for name, section in sections.items()}
    except tomli.TOMLDecodeError as error:
        raise SettingsError(f"{show_path(path)} is not valid TOML: {error}") from None
    except iniconfig.ParseError as error:
        raise SettingsError(f"{show_path(path)}, line {error.lineno + 1}: {error.msg}") from None


def _lookup(document: Any, table: Sequence[str]) -> dict[str, Any] | None:
    """Return a table of a document; None if there is none, or something else in its place."""
    for key in table:
        document = document.get(key) if isinstance(document, dict) else None
    return document if isinstance(document, dict) else None

"""Show the settings for a first budget, and write them where pytest's settings are."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from pytest_llmcost.cli.console import Console
from pytest_llmcost.errors import SettingsError
from pytest_llmcost.files import show_path, write_atomic
from pytest_llmcost.reports.tables import format_count

_SETTINGS: dict[str, tuple[str | list[str], str]] = {
    "llmcost_max_suite": (
        "$1.00",
        "What the prompts of the whole suite may cost together. Set your own limit.",
    ),
    "llmcost_max_increase": (["10%"], "What a change may add, in a run with --llmcost-baseline."),
}
"""Values and comments by key."""
_PYPROJECT = ("tool", "pytest", "ini_options")
_NAMES = ("pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
"""Where pytest looks, the first one wins; pytest 9 has these and two before."""
_NEXT = """
Next:

  pytest --llmcost-record-mode=rewrite   # count the prompts: free, needs ANTHROPIC_API_KEY
  pytest                                 # check the budgets: offline, needs no key"""


class _Place(NamedTuple):
    """A settings file and the table in it, as the keys that lead there."""

    path: Path
    table: tuple[str, ...]
    text: str = ""

    @property
    def is_toml(self) -> bool:
        return self.path.suffix == ".toml"

    @property
    def header(self) -> str:
        return f"[{'.'.join(self.table)}]"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--write", "--yes", action="store_true", help="write the lines; without it, only show them"
    )


def run(arguments: Namespace, console: Console) -> int:
    """Show the lines that are missing; write them if that was asked for."""
    place = _find_place(Path.cwd())
    name, known = show_path(place.path), _lookup(_parse(place), place.table) or {}
    for key in (key for key in _SETTINGS if key in known):
        console.print(f"{name} already sets {key}; it stays as it is")
    missing = [key for key in _SETTINGS if key not in known]
    if missing:
        text, number, added = _add(place, missing)
        where = f", after line {number}" if number else ""
        console.print("\n".join([f"{name}{where}:", "", *(f"  {each}" for each in added), ""]))
        if arguments.write:
            _write(place.path, text)
            console.print(f"wrote {format_count(len(added), 'line')} to {name}")
        else:
            console.print("Nothing is written yet. To write these lines: llmcost init --write")
    console.print(_NEXT)
    return 0


def _find_place(here: Path) -> _Place:
    """Return the table that pytest reads if it is started here, or the one to make."""
    is_new = int(version("pytest").partition(".")[0]) >= 9
    names = ("pytest.toml", ".pytest.toml", *_NAMES) if is_new else _NAMES
    without_settings: list[_Place] = []
    for path in (folder / name for folder in (here, *here.parents) for name in names):
        if not path.is_file():
            continue
        place = _Place(path, _PYPROJECT, _read(path))
        document = _parse(place)
        if path.name == "pyproject.toml":
            own = _lookup(document, _PYPROJECT[:2]) or {}
            if "ini_options" in own:
                return place
            if own and is_new:  # of native TOML types
                return place._replace(table=_PYPROJECT[:2])
            without_settings.append(place)
        else:
            section = "tool:pytest" if path.name == "setup.cfg" else "pytest"
            # A file with pytest's name is in use even if it is empty.
            if section in document or path.stem.endswith("pytest"):
                return place._replace(table=(section,))
    if without_settings:
        return without_settings[0]
    # A pyproject.toml changes how a project that has none is built.
    if any((here / name).exists() for name in ("setup.py", "setup.cfg")):
        return _Place(here / "pytest.ini", ("pytest",))
    return _Place(here / "pyproject.toml", _PYPROJECT)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()  # as it is, also the ends of its lines
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{show_path(path)}, line {line}: is not UTF-8") from None
    except OSError as error:
        raise SettingsError(f"{show_path(path)} cannot be read: {error.strerror}") from None


def _parse(place: _Place) -> dict[str, Any]:
    """Read the whole file as pytest does.

    Raises:
        SettingsError: it is not valid; names the line.
    """
    import iniconfig
    import tomli

    try:
        if place.is_toml:
            return tomli.loads(place.text)
        data = place.text.replace("\r\n", "\n")
        sections = iniconfig.IniConfig(str(place.path), data).sections
        return {name: dict(section) for name, section in sections.items()}
    except tomli.TOMLDecodeError as error:
        raise SettingsError(f"{show_path(place.path)} is not valid TOML: {error}") from None
    except iniconfig.ParseError as error:
        where = f"{show_path(place.path)}, line {error.lineno + 1}"
        raise SettingsError(f"{where}: {error.msg}") from None


def _lookup(document: Any, table: Sequence[str]) -> dict[str, Any] | None:
    for key in table:
        document = document.get(key) if isinstance(document, dict) else None
    return document if isinstance(document, dict) else None


def _add(place: _Place, keys: Sequence[str]) -> tuple[str, int, list[str]]:
    """Return the text with the lines, the number of the line before them, and what was added.

    A text that looks like the table's header may stand elsewhere, for example in a string.
    Therefore each candidate is parsed, and must differ by the new settings alone.

    Raises:
        SettingsError: there is no safe way.
    """
    end = "\r\n" if "\r\n" in place.text else "\n"
    block = []
    for key in keys:
        value = json.dumps(_SETTINGS[key][0]) if place.is_toml else _ini_value(key)
        block += [f"# {_SETTINGS[key][1]}", f"{key} = {value}"]
    expected = _expected(place, keys)
    for at, added in _candidates(place, block):
        before = place.text[:at]
        if before and not before.endswith("\n"):
            before += end
        text = f"{before}{end.join(added)}{end}{place.text[at:]}"
        try:
            if _parse(place._replace(text=text)) == expected:
                return text, before.count("\n"), added
        except SettingsError:
            continue
    name, word = show_path(place.path), place.table[-1]
    number = place.text.count("\n", 0, max(place.text.find(word), 0)) + 1
    raise SettingsError(
        f"{name}, line {number}: cannot add lines to {place.header} safely, because of the way it "
        "is written. Nothing was changed. Add these settings by hand:\n\n"
        + "\n".join(f"  {each}" for each in block)
    )


def _candidates(place: _Place, block: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield offsets where the lines may go: below the table's header, or at the end with one."""
    keys = r"[ \t]*\.[ \t]*".join(map(re.escape, place.table))
    header = re.compile(
        rf"^[ \t]*\[[ \t]*{keys}[ \t]*\][ \t]*([#;][^\n]*)?\r?(\n|\Z)", re.MULTILINE
    )
    for match in header.finditer(place.text):
        yield match.end(), block
    yield len(place.text), [*([""] if place.text.strip() else []), place.header, *block]


def _expected(place: _Place, keys: Sequence[str]) -> dict[str, Any] | None:
    """Return what the file should hold; None if the table's place is taken by something else."""
    document = node = _parse(place)
    for name in place.table:
        node = node.setdefault(name, {})
        if not isinstance(node, dict):
            return None
    node.update({key: _SETTINGS[key][0] if place.is_toml else _ini_value(key) for key in keys})
    return document


def _ini_value(key: str) -> str:
    value = _SETTINGS[key][0]
    return value if isinstance(value, str) else " ".join(value)


def _write(path: Path, text: str) -> None:
    try:
        write_atomic(path, [text.encode()])
    except OSError as error:
        raise SettingsError(
            f"{show_path(path)} cannot be written: {error.strerror}; nothing was changed"
        ) from None

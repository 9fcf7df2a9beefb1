"""The file that holds pytest's settings: which one it is, and what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pytest_llmcost.errors import SettingsError
from pytest_llmcost.files import show_path

_PYPROJECT = ("tool", "pytest", "ini_options")
_FILES = ("pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
"""Where pytest looks, the first one wins; pytest 9 has these and two before."""


def find_table(here: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the file and the table in it that pytest reads if it is started here, or a new one."""
    is_new = int(version("pytest").partition(".")[0]) >= 9
    names = ("pytest.toml", ".pytest.toml", *_FILES) if is_new else _FILES
    without_settings: list[Path] = []
    for path in (folder / name for folder in (here, *here.parents) for name in names):
        if not path.is_file():
            continue
        document = parse(path, read(path))
        if path.name == "pyproject.toml":
            own = lookup(document, _PYPROJECT[:2]) or {}
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


def read(path: Path) -> str:
    """Return the text of a settings file as it is; empty if there is none yet."""
    try:
        return path.read_bytes().decode()  # with the ends of its lines
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{show_path(path)}, line {line}: is not UTF-8") from None


def parse(path: Path, text: str) -> dict[str, Any]:
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


def lookup(document: Any, table: Sequence[str]) -> dict[str, Any] | None:
    """Return a table of a document; None if there is none, or something else in its place."""
    for key in table:
        document = document.get(key) if isinstance(document, dict) else None
    return document if isinstance(document, dict) else None

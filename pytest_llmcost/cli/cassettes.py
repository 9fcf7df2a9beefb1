"""Search cassettes for what looks like a key: in headers, queries and bodies.

Exit status 1 if there is one. No key is ever printed.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from pytest_llmcost.cli import console
from pytest_llmcost.credentials import keys_in_cassette
from pytest_llmcost.errors import SettingsError
from pytest_llmcost.files import files_below, show_path
from pytest_llmcost.reports.plain_text import format_count
from pytest_llmcost.reports.run_wording import describe_keys

_SUFFIXES = (".har", ".json", ".yaml", ".yml")
_START = b"interactions:"
"""Of VCR's YAML, which may be in a file of any name."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    what = "folders of cassettes, or single files; searched with all that is in them"
    parser.add_argument("--check", nargs="+", required=True, metavar="DIR", help=what)


def run(arguments: Namespace) -> int:
    """Print each cassette that holds a key, and how to keep keys out of it."""
    paths: set[Path] = set()
    for name in arguments.check:
        is_file = Path(name).is_file()
        inside = [Path(name)] if is_file else [*filter(_is_cassette, files_below(Path(name)))]
        if not inside:
            raise SettingsError(f"{name} holds no cassette; name a folder of cassettes")
        paths.update(inside)
    searched = {show_path(path): keys_in_cassette(path) for path in sorted(paths)}
    found = {path: where for path, where in searched.items() if where}
    if not found:
        console.write(f"no keys in {format_count(len(searched), 'file')}")
        return 0
    console.write("\n".join(describe_keys(found)))
    return 1


def _is_cassette(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.name.removesuffix(".gz").endswith(_SUFFIXES):
        return True
    with path.open("rb") as file:
        return file.read(len(_START)) == _START

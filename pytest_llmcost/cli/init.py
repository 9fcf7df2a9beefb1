"""Show the settings for a first budget, and write them where pytest's settings are."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pytest_llmcost.cli import console
from pytest_llmcost.cli.settings_file import find_table, lookup, parse, read
from pytest_llmcost.errors import SettingsError
from pytest_llmcost.files import show_path
from pytest_llmcost.ledger.ledger import write_file
from pytest_llmcost.reports.plain_text import format_count

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


def run(arguments: Namespace) -> int:
    """Show the lines that are missing; write them if that was asked for."""
    path, table = find_table(Path.cwd())
    text = read(path)
    name, known = show_path(path), lookup(parse(path, text), table) or {}
    for key in (key for key in _SETTINGS if key in known):
        console.write(f"{name} already sets {key}; it stays as it is")
    missing = [key for key in _SETTINGS if key not in known]
    if missing:
        text, number, added = _add(path, table, text, missing)
        where = f", after line {number}" if number else ""
        console.write("\n".join([f"{name}{where}:", "", *(f"  {each}" for each in added), ""]))
        if arguments.write:
            write_file(path, [text.encode()])
            console.write(f"wrote {format_count(len(added), 'line')} to {name}")
        else:
            console.write("Nothing is written yet. To write these lines: llmcost init --write")
    console.write(_NEXT)
    return 0


def _add(
    path: Path, table: Sequence[str], text: str, keys: Sequence[str]
) -> tuple[str, int, list[str]]:
    """Return the text with the lines, the number of the line before them, and what was added.

    The lines go below the table's header, or to the end with a new one. The header may be written
    in another way, or stand in a string, so it is an error if the table does not have them then.
    """
    expected, block = lookup(parse(path, text), table) or {}, []
    for key in keys:
        value, comment = _SETTINGS[key]
        shown = json.dumps(value)
        if path.suffix != ".toml":
            value = shown = value if isinstance(value, str) else " ".join(value)
        expected[key] = value
        block += [f"# {comment}", f"{key} = {shown}"]
    header = f"[{'.'.join(table)}]"
    found = re.search(rf"^{re.escape(header)}.*\n?", text, re.M)
    at = found.end() if found else len(text)
    added = block if found else [*([""] if text.strip() else []), header, *block]
    end = "\r\n" if "\r\n" in text else "\n"
    before = text[:at]
    if before and not before.endswith("\n"):
        before += end
    changed = f"{before}{end.join(added)}{end}{text[at:]}"
    with suppress(SettingsError):
        if lookup(parse(path, changed), table) == expected:
            return changed, before.count("\n"), added
    number = text.count("\n", 0, max(text.find(table[-1]), 0)) + 1
    raise SettingsError(
        f"{show_path(path)}, line {number}: cannot add lines to {header} safely, because of the "
        "way it is written. Nothing was changed. Add these settings by hand:\n\n"
        + "\n".join(f"  {each}" for each in block)
    )

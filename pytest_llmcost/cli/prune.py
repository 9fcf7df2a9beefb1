"""Remove recorded counts that no test asks for any more.

pytest collects the tests first, in the current folder and with your settings. A count is removed
if none of the tests that asked for it exists. When in doubt it stays.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from pytest_llmcost.cli.console import Console
from pytest_llmcost.counting.cassette import CountCassette, Entry
from pytest_llmcost.errors import CountCassetteError, SettingsError
from pytest_llmcost.files import show_path
from pytest_llmcost.reports.tables import format_count

_SUFFIX = ".llmcost.yaml"
_SCOPES = ("session", "package", "module", "class")
_COLLECT = ("-m", "pytest", "--collect-only", "-q")
_NOTHING_TO_RUN = 5
"""The exit status of pytest also if all tests are deselected."""
_TAIL = 15
"""Lines of pytest's output that are shown if it fails."""


class _Collected(msgspec.Struct):
    """What pytest has collected: node ids, relative to the rootdir."""

    rootdir: str
    tests: set[str]
    files: set[str]
    skipped: set[str]


class _Pruned(NamedTuple):
    """What became of one file."""

    counts: int
    dead: list[Entry]
    unsure: set[str]
    """Askers of which it is unknown whether they exist."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "folder",
        nargs="*",
        metavar="DIR",
        help="where to look for count cassettes (default: everywhere under pytest's rootdir)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only list; remove nothing")


def run(arguments: Namespace, console: Console) -> int:
    """List and remove; return 0 if all went well, whether something was removed or not."""
    for folder in arguments.folder:
        if not Path(folder).is_dir():
            raise SettingsError(f"{folder} is not a folder; name one that holds count cassettes")
    collected = _collect()
    folders = [Path(folder) for folder in arguments.folder] or [Path(collected.rootdir)]
    verb = "would remove" if arguments.dry_run else "removed"
    removed = files = kept = 0
    unsure: set[str] = set()
    for path in sorted({each for folder in folders for each in _cassettes(folder.resolve())}):
        try:
            cassette = CountCassette.load(path)
        except CountCassetteError as error:
            console.note(f"left alone: {error}")
            continue
        pruned = _prune(cassette, collected, dry_run=arguments.dry_run)
        removed += len(pruned.dead)
        kept += pruned.counts - len(pruned.dead)
        unsure |= pruned.unsure
        if pruned.dead:
            is_whole = len(pruned.dead) == pruned.counts
            files += is_whole
            console.print(f"{verb} {show_path(path)}{'' if is_whole else ', in part'}")
        for entry in pruned.dead:
            console.print(f"  {_describe(entry)}")
    if unsure:
        console.print(
            "These test files are skipped, or pytest does not collect them here, so their counts "
            "stay:"
        )
        for asker in sorted({asker.partition("::")[0] for asker in unsure}):
            console.print(f"  {asker}")
    console.print(
        f"{verb} {format_count(removed, 'count')} and {format_count(files, 'whole file')}; "
        f"{format_count(kept, 'count')} {'stays' if kept == 1 else 'stay'}"
    )
    return 0


def _describe(entry: Entry) -> str:
    tokens = "refused by the API" if entry.refused else f"{entry.input_tokens:,} input tokens"
    return f"{tokens}, {entry.model}, asked for by {', '.join(entry.asked_by)}"


def _cassettes(folder: Path) -> Iterator[Path]:
    """Yield count cassettes of a folder; not those of hidden folders and environments."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name != "node_modules"
            and not Path(parent, name, "pyvenv.cfg").exists()
        ]
        yield from (Path(parent, name) for name in names if name.endswith(_SUFFIX))


def _prune(cassette: CountCassette, collected: _Collected, *, dry_run: bool) -> _Pruned:
    """Find the dead counts of a file, and take them out if allowed to."""
    entries = cassette.entries.values()
    askers = {asker for entry in entries for asker in entry.asked_by}
    exists = {asker: _exists(asker, cassette.path, collected) for asker in askers}
    dead = [
        entry
        for entry in entries
        if entry.asked_by and all(exists[asker] is False for asker in entry.asked_by)
    ]
    pruned = _Pruned(len(entries), dead, {asker for asker in askers if exists[asker] is None})
    if dead and not dry_run:
        living = {entry.fingerprint for entry in entries} - {each.fingerprint for each in dead}
        for asker in askers:
            cassette.prune(asker, living)
        cassette.save()
    return pruned


def _exists(asker: str, cassette: Path, collected: _Collected) -> bool | None:
    """Return whether a test or fixture still exists; None if that cannot be known."""
    path, is_node, _ = asker.partition("::")
    if asker in collected.tests or not is_node:
        return True
    # An id is relative to the rootdir of the run that recorded, which may be another one.
    homes = (*cassette.parents, Path(collected.rootdir))
    home = next((folder for folder in homes if (folder / path).exists()), None)
    if home is None:
        return False
    if cassette.name.partition(".")[0] in _SCOPES:  # pytest does not list fixtures
        return True
    above = (asker[:at] for at, letter in enumerate(asker) if letter in ":/")
    is_skipped = not collected.skipped.isdisjoint(above)
    was_searched = path in collected.files and home.samefile(collected.rootdir)
    return False if was_searched and not is_skipped else None


def _collect() -> _Collected:
    """Have pytest collect the tests, in a process of its own.

    Raises:
        SettingsError: collection failed, so which tests exist is unknown.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "collected.json"
        plugin = ("-p", "pytest_llmcost.plugin.collected", f"--llmcost-write-collected={answer}")
        done = subprocess.run(
            [sys.executable, *_COLLECT, *plugin],
            env={**os.environ, "PYTEST_LLMCOST_DISABLED": "1"},  # a missing baseline is no obstacle
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode in (0, _NOTHING_TO_RUN) and answer.exists():
            collected = msgspec.json.decode(answer.read_bytes(), type=_Collected)
            if collected.tests:
                return collected
    said = "\n".join(f"  {line}" for line in done.stdout.strip().splitlines()[-_TAIL:])
    raise SettingsError(
        f"nothing was removed: pytest could not collect the tests in {Path.cwd()} (exit status "
        f"{done.returncode}), so it is unknown which counts they ask for:\n\n{said}\n\n"
        f"Repair that, then run again. To see it: {shlex.join([sys.executable, *_COLLECT])}"
    )

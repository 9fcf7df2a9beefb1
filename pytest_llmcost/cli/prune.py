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
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

import msgspec

from pytest_llmcost.cli import console
from pytest_llmcost.counting.cassette import CountCassette
from pytest_llmcost.errors import CountCassetteError, SettingsError
from pytest_llmcost.files import show_path
from pytest_llmcost.reports.plain_text import format_count

_SCOPES = ("session", "package", "module", "class")
_COLLECT = ("-m", "pytest", "--collect-only", "-q")


class _Collected(msgspec.Struct):
    """What pytest has collected: node ids, relative to the rootdir."""

    rootdir: str
    tests: set[str]
    files: set[str]
    skipped: set[str]


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    where = "where to look for count cassettes (default: everywhere under pytest's rootdir)"
    parser.add_argument("folder", nargs="*", metavar="DIR", help=where)
    parser.add_argument("--dry-run", action="store_true", help="only list; remove nothing")


def run(arguments: Namespace) -> int:
    """List and remove; return 0 if all went well, whether something was removed or not."""
    for folder in arguments.folder:
        if not Path(folder).is_dir():
            raise SettingsError(f"{folder} is not a folder; name one that holds count cassettes")
    collected = _collect()
    folders = [Path(folder).resolve() for folder in arguments.folder or [collected.rootdir]]
    verb = "would remove" if arguments.dry_run else "removed"
    removed = files = kept = 0
    unsure: set[str] = set()
    for path in sorted({each for folder in folders for each in _cassettes(folder)}):
        try:
            cassette = CountCassette(path)
        except CountCassetteError as error:
            console.note(f"left alone: {error}")
            continue
        entries = list(cassette.entries.values())
        askers = {asker for entry in entries for asker in entry.asked_by}
        exists = {asker: _exists(asker, path, collected) for asker in askers}
        unsure |= {asker.partition("::")[0] for asker in askers if exists[asker] is None}
        gone = {asker for asker in askers if exists[asker] is False}
        dead = [each for each in entries if each.asked_by and gone.issuperset(each.asked_by)]
        removed += len(dead)
        kept += len(entries) - len(dead)
        if not dead:
            continue
        if not arguments.dry_run:
            living = cassette.entries.keys() - {each.fingerprint for each in dead}
            for asker in askers:
                cassette.prune(asker, living)
            cassette.save()
            with suppress(OSError):  # a folder that is not empty stays, and so do those above it
                for parent in takewhile(lambda each: each not in folders, path.parents):
                    parent.rmdir()
        is_whole = len(dead) == len(entries)
        files += is_whole
        lines = [f"{verb} {show_path(path)}{'' if is_whole else ', in part'}"]
        for entry in dead:
            tokens = f"{entry.input_tokens:,} input tokens"
            what = "refused by the API" if entry.refused else tokens
            lines.append(f"  {what}, {entry.model}, asked for by {', '.join(entry.asked_by)}")
        console.write_lines(lines)
    if unsure:
        why = "are skipped, or pytest does not collect them here, so their counts stay"
        console.write_lines([f"These test files {why}:", *(f"  {each}" for each in sorted(unsure))])
    console.write(
        f"{verb} {format_count(removed, 'count')} and {format_count(files, 'whole file')}; "
        f"{format_count(kept, 'count')} {'stays' if kept == 1 else 'stay'}"
    )
    return 0


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
        yield from (Path(parent, name) for name in names if name.endswith(".llmcost.yaml"))


def _exists(asker: str, cassette: Path, collected: _Collected) -> bool | None:
    """Return whether a test or fixture still exists; None if that cannot be known."""
    path, is_node, _ = asker.partition("::")
    if asker in collected.tests or not is_node:
        return True
    # Moved or renamed with its cassettes: is the test now in the file that their folder is named
    # after, or in one of the old name?
    names = (f"{cassette.parent.name}.py", path.rpartition("/")[2])
    files = (each / name for name in names for each in cassette.parents)
    file = next(filter(Path.is_file, files), None)
    moved = Path(os.path.relpath(file, collected.rootdir)).as_posix() if file else path
    if moved + asker[len(path) :] in collected.tests:
        return True
    # An id is relative to the rootdir of the run that recorded, which may be another one.
    homes = (*cassette.parents, Path(collected.rootdir))
    home = next((folder for folder in homes if (folder / path).exists()), None)
    if home is None:
        if file is None:
            return False
        home, asker, path = Path(collected.rootdir), moved + asker[len(path) :], moved
    if cassette.name.partition(".")[0] in _SCOPES:  # pytest does not list fixtures
        return True
    above = (asker[:at] for at, letter in enumerate(asker) if letter in ":/")
    is_skipped = not collected.skipped.isdisjoint(above)
    was_searched = path in collected.files and home.samefile(collected.rootdir)
    return False if was_searched and not is_skipped else None


def _collect() -> _Collected:
    """Have pytest collect the tests, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "collected.json"
        plugin = ("-p", "pytest_llmcost.plugin.collected", f"--llmcost-write-collected={answer}")
        done = subprocess.run(
            [sys.executable, *_COLLECT, *plugin],
            env={
                **os.environ,
                "PYTEST_LLMCOST_DISABLED": "1",  # a missing baseline is no obstacle
                "PYTHONWARNINGS": "ignore",  # of plugins at start-up: no reason for a failure
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode in (0, 5) and answer.exists():  # 5 also if all tests are deselected
            collected = msgspec.json.decode(answer.read_bytes(), type=_Collected)
            if collected.tests:
                return collected
    said = "\n".join(f"  {line}" for line in done.stdout.strip().splitlines()[-15:])
    raise SettingsError(
        f"nothing was removed: pytest could not collect the tests in {Path.cwd()} (exit status "
        f"{done.returncode}), so it is unknown which counts they ask for:\n\n{said}\n\n"
        "Repair that, or change to the folder in which you start pytest, then run again. To see it:"
        f" {shlex.join([sys.executable, *_COLLECT])}"
    )

"""Measure how fast and how small the plugin is: `python -m tests.bench [--quick] [name ...]`.

Each module of this folder that has a function `measure(quick) -> list[Figure]` is a benchmark.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from importlib import import_module
from pathlib import Path

# The stand-in API and the tests' other tools are imported from tests/, as pytest does it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from .figures import KEPT, Figure, keep, kept_figures, table

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if "\ndef measure(" in path.read_text())


def main() -> int:
    """Print one table; the status is 1 if a target is missed and that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds")
    parser.add_argument("--strict", action="store_true", help="status 1 if a target is missed")
    parser.add_argument("--save", action="store_true", help="keep as the figures of the release")
    given = parser.parse_args()
    unknown = set(given.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark is named {', '.join(sorted(unknown))}")
    if given.save and given.quick:
        parser.error("--save keeps full figures; remove --quick")
    if shutil.which("valgrind") is None:
        parser.error("overhead is counted in instructions by valgrind, which is not installed")
    figures: list[Figure] = []
    for name in given.names or NAMES:
        say(f"{name} ...")
        figures += import_module(f"tests.bench.{name}").measure(given.quick)
    before = {each.what: each.value for each in kept_figures()} if KEPT.exists() else {}
    sys.stdout.write(table(figures, before) + "\n")
    if given.save:
        keep(figures)
    return int(given.strict and any(each.missed for each in figures))


def say(line: str) -> None:
    """Print progress apart from the table."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())

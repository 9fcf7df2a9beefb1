"""What the plugin adds to a suite that does not use it: 2,000 empty tests, with and without it.

    python tests/bench/plugin_overhead.py [--tests 2000] [--rounds 7]

Both runs are processes of their own, taken in turn so that a busy machine slows both; the
figures are processor time, of which the least is the least disturbed.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

PER_FILE = 100
# Every other installed plugin would only blur the ratio.
OTHERS = [each.name for each in entry_points(group="pytest11") if each.name != "llmcost"]


def write_suite(folder: Path, tests: int) -> None:
    """Write that many empty tests, a hundred to a file."""
    for number in range(0, tests, PER_FILE):
        names = range(number, min(number + PER_FILE, tests))
        text = "".join(f"def test_{name}(): pass\n" for name in names)
        (folder / f"test_{number}.py").write_text(text, encoding="utf-8")


def seconds(folder: Path, *options: str) -> float:
    """Return the processor time of one run."""
    off = [flag for name in ("cacheprovider", *OTHERS) for flag in ("-p", f"no:{name}")]
    command = [sys.executable, "-m", "pytest", "-q", *off, *options, str(folder)]
    # As for a user, modules are compiled once, whatever is forbidden where this runs.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print both figures side by side, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("options", nargs="*", help="further options of the run with the plugin")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_suite(folder, args.tests)
        without, with_plugin = [], []
        for _ in range(args.rounds + 1):
            without.append(seconds(folder, "-p", "no:llmcost"))
            with_plugin.append(seconds(folder, *args.options))
    # The first round of each compiles.
    least, least_with = min(without[1:]), min(with_plugin[1:])
    lines = [
        f"{args.tests:,} empty tests, least of {args.rounds} rounds, processor time",
        f"  -p no:llmcost  {least:7.3f} s",
        f"  with it        {least_with:7.3f} s   ratio {least_with / least:.3f}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

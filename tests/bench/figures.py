"""What a benchmark returns, how a process is measured, and the table of all figures.

A machine that is busy slows both sides of a ratio, so the two things that a ratio compares run in
turn, and the least disturbed run of each counts.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from pathlib import Path

from clean_environment import clean_environment

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(__file__).with_name("figures.json")
"""The figures of the last release."""


@dataclass(frozen=True)
class Figure:
    """One measured number, and the number that it should not exceed (or fall below)."""

    what: str
    value: float
    unit: str = "x"
    target: float | None = None
    at_least: bool = False

    @property
    def missed(self) -> bool:
        """Whether there is a target and the figure misses it."""
        if self.target is None:
            return False
        return self.value < self.target if self.at_least else self.value > self.target

    def shown(self, value: float | None = None) -> str:
        """Return a value in the unit of this figure, by default its own."""
        value = self.value if value is None else value
        number = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        return f"{value:.3f}x" if self.unit == "x" else f"{number} {self.unit}"

    def goal(self) -> str:
        """Return the target in words, or nothing."""
        if self.target is None:
            return ""
        return f"{'at least' if self.at_least else 'at most'} {self.target:g} {self.unit}".replace(
            " x", "x"
        )


def table(figures: Iterable[Figure], before: Mapping[str, float]) -> str:
    """Return a plain table: what, figure, target, figure of the last release."""
    rows = [("what", "figure", "target", "last release")]
    for each in figures:
        goal = each.goal() + (" MISSED" if each.missed else "")
        last = each.shown(before[each.what]) if each.what in before else ""
        rows.append((each.what, each.shown(), goal, last))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def kept_figures() -> list[Figure]:
    """Return the figures of the last release."""
    return [Figure(**each) for each in json.loads(KEPT.read_text(encoding="utf-8"))["figures"]]


def keep(figures: Iterable[Figure]) -> None:
    """Write figures as those of the release; others that are kept already stay."""
    news = {each.what: each for each in figures}
    old = kept_figures() if KEPT.exists() else []
    merged = [news.pop(each.what, each) for each in old] + list(news.values())
    text = json.dumps({"figures": [asdict(each) for each in merged]}, indent=1)
    KEPT.write_text(text + "\n", encoding="utf-8")


# Processes


@dataclass(frozen=True)
class Cost:
    """What a finished process took."""

    cpu_seconds: float
    peak_mb: float
    printed: str


_LAUNCHER = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(f"\\n{used.ru_utime + used.ru_stime} {used.ru_maxrss / 1024}")
sys.exit(status)
"""
# Linux starts the peak of a new process at the size of the one that launched it, so a small process
# stands between this one and what is measured.


def run(command: Sequence[str], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its successful end and return what it took."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", _LAUNCHER, *command],
        cwd=cwd,
        env=_environment(env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
    printed, _, used = done.stdout.strip().rpartition("\n")
    cpu_seconds, peak_mb = map(float, used.split())
    return Cost(cpu_seconds, peak_mb, printed)


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """Nothing of ours from outside; modules are compiled once; hashing is the same each time."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    fixed = {"PYTHONHASHSEED": "0", "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return {**clean_environment(), **fixed, **more}


def pytest_command(folder: Path, *options: str) -> list[str]:
    """Return the command of a quiet run with just the plugins that the options name."""
    quiet = ["-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    return [sys.executable, "-m", "pytest", *quiet, *options, str(folder)]


def pytest_options(*plugins: str) -> list[str]:
    """Return `-p` for each plugin."""
    known = {each.name for each in entry_points(group="pytest11")}
    assert known.issuperset(plugins), f"not installed: {set(plugins) - known}"
    return [text for name in plugins for text in ("-p", name)]


def instructions(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> float:
    """Return how many instructions a command executes, which does not depend on the machine."""
    tool = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    found = re.search(r"I\s+refs:\s+([\d,]+)", run([*tool, *command], env=env).printed)
    assert found
    return float(found[1].replace(",", ""))


def in_turn(*sides: Callable[[], float], rounds: int) -> list[float]:
    """Measure all sides once per round and return the least of each; the first round warms up."""
    measured = [[side() for side in sides] for _ in range(rounds + 1)][1:]
    return [min(column) for column in zip(*measured, strict=True)]

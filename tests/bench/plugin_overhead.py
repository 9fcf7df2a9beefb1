"""What the plugin adds to a suite that does not use it: 2,000 empty tests, with and without it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from .figures import Figure, instructions, pytest_command, run

PER_FILE = 100
SUITES = (("empty tests", "", 1.02), ("empty tests, httpx imported", "import httpx\n", 1.03))


def measure(quick: bool) -> list[Figure]:
    """Compare whole processes; in a quick run the suite is a quarter as long."""
    tests = 500 if quick else 2000
    return [
        Figure(f"{tests:,} {what}, plugin on : off", _ratio(head, tests), target=target)
        for what, head, target in SUITES
    ]


def _ratio(head: str, tests: int) -> float:
    with tempfile.TemporaryDirectory() as name:
        suite = Path(name, "suite")  # pytest would search what is compiled, too
        write_suite(suite, tests, head)
        env = {"PYTHONPYCACHEPREFIX": str(Path(name, "compiled"))}
        # pytest searches the entry points once in every run that loads plugins by itself, and here
        # for each `-p`; so both sides have one, and the other one names a module without hooks.
        both = ("-p", "bench.full_collections")
        without = pytest_command(suite, *both, "-p", "no:llmcost", "-p", "keyword")
        with_plugin = pytest_command(suite, *both, "-p", "llmcost")
        # Instructions do not differ between runs, once all is compiled.
        for command in (without, with_plugin):
            run(command, env=env)
        return instructions(with_plugin, env=env) / instructions(without, env=env)


def write_suite(folder: Path, tests: int, head: str = "") -> None:
    """Write that many empty tests, a hundred to a file."""
    folder.mkdir()
    for number in range(0, tests, PER_FILE):
        names = range(number, min(number + PER_FILE, tests))
        text = head + "".join(f"def test_{name}(): pass\n" for name in names)
        (folder / f"test_{number}.py").write_text(text, encoding="utf-8")

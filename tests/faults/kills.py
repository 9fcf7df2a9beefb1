"""Kill runs at random moments while they record: `python -m tests.faults.kills --times 200`.

Half of the runs have one process, half have two workers. After each kill:

* every count cassette and the ledger can be read: nothing is half written;
* no count has gone that was in a file before, and every test that had finished has its counts;
* the same command, run once more, ends well and leaves the files of a run that was never killed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from clean_environment import clean_environment
from standin import StandIn

from pytest_llmcost.counting.cassette import read_entries
from pytest_llmcost.ledger.ledger import read_ledger

TESTS, PAYLOADS = 12, 4
ROOT = Path(__file__).resolve().parents[2]
SUITE = f"""
    import pytest

    @pytest.mark.parametrize("number", range({TESTS}))
    def test_count(llmcost, number):
        for words in range({PAYLOADS}):
            message = {{"role": "user", "content": "word " * (10 * number + words + 1)}}
            llmcost.count(model="claude-opus-4-7", max_tokens=9, messages=[message])
"""
CONFTEST = """
    import os

    if "PYTEST_XDIST_WORKER" not in os.environ:
        os.setpgrp()  # to be killed with its workers, also if another process stands for it
        with open("group.txt", "w") as file:
            file.write(str(os.getpid()))

    def pytest_runtest_logfinish(nodeid):
        # One short write, which a kill cannot cut in two.
        log = os.open("finished.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, f"{nodeid}\\n".encode())
        os.close(log)
"""


@dataclass
class Outcome:
    """What all kills together have done."""

    killed: int = 0
    too_late: int = 0
    counts_kept: int = 0
    drafts: int = 0
    faults: list[str] = field(default_factory=list)


def counts_in(folder: Path) -> dict[str, dict[str, int | None]]:
    """Return the tokens by file and fingerprint; a damaged file is an error."""
    return {
        path.name: {name: entry.input_tokens for name, entry in read_entries(path).items()}
        for path in sorted(folder.rglob("*.llmcost.yaml"))
    }


@contextmanager
def started(
    folder: Path, api: StandIn, mode: str, workers: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a run that records, in a group of its own, which can be killed at once."""
    plugins = ["-p", "llmcost", *(["-p", "xdist", "-n", str(workers)] if workers else [])]
    quiet = ["-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    recording = [f"--llmcost-record-mode={mode}", "--llmcost-report=ledger.json"]
    env = {
        **clean_environment(),
        "ANTHROPIC_BASE_URL": api.url,
        "ANTHROPIC_API_KEY": "key-for-the-stand-in",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *quiet, *plugins, *recording],
        cwd=folder,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            group = int((folder / "group.txt").read_text(encoding="utf-8"))
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(group, signal.SIGKILL)
        process.wait()


def kill_once(
    folder: Path, api: StandIn, chance: random.Random, workers: int, seconds: float
) -> bool:
    """Kill a run some time after its first count; return whether it was still alive."""
    seen = len(api.requests)
    is_whole = sum(map(len, counts_in(folder).values())) == TESTS * PAYLOADS
    mode = chance.choice(("all", "rewrite") if is_whole else ("new_episodes", "all", "rewrite"))
    with started(folder, api, mode, workers) as process:
        while len(api.requests) == seen and process.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, seconds))
        return process.poll() is None


def faults_of(folder: Path, before: Mapping[str, Mapping[str, object]]) -> Iterator[str]:
    """Yield what a kill has damaged or lost."""
    now = counts_in(folder)
    for name, counts in before.items():
        if not counts.items() <= now.get(name, {}).items():
            yield f"{name} has lost counts: {counts} -> {now.get(name)}"
    finished = folder / "finished.txt"
    for nodeid in set(finished.read_text(encoding="utf-8").split()) if finished.exists() else ():
        name = f"{nodeid.partition('::')[2]}.llmcost.yaml"
        if len(now.get(name, {})) < PAYLOADS:
            yield f"{nodeid} had finished, and {name} has only {now.get(name)}"
    if (folder / "ledger.json").exists():
        read_ledger(folder / "ledger.json")


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return the count cassettes as they are."""
    return {path.name: path.read_bytes() for path in folder.rglob("*.llmcost.yaml")}


def complete(folder: Path, api: StandIn, workers: int) -> float:
    """Let a run end; return how long it took from its first count on."""
    seen = len(api.requests)
    with started(folder, api, "rewrite", workers) as process:
        while len(api.requests) == seen and process.poll() is None:
            time.sleep(0.002)
        begun = time.monotonic()
        status = process.wait(timeout=300)
    assert status == 0, f"a run that nothing disturbs ends with {status}"
    return time.monotonic() - begun


def write_suite(folder: Path) -> Path:
    """Write the tests that count."""
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (folder / "conftest.py").write_text(textwrap.dedent(CONFTEST), encoding="utf-8")
    (folder / "test_counts.py").write_text(textwrap.dedent(SUITE), encoding="utf-8")
    return folder


def kill_often(times: int, seed: int, folder: Path, workers: int, *, every: int = 10) -> Outcome:
    """Kill runs in one folder, which is emptied after some of them.

    How long a run takes is measured anew with each folder, for a machine may become faster.
    """
    chance, outcome, number = random.Random(seed), Outcome(), 0
    with StandIn() as api:
        whole = write_suite(folder / f"whole-{workers}")
        seconds = complete(whole, api, workers)
        suite = folder / f"killed-{workers}"
        while outcome.killed < times:
            if number % every == 0:
                suite = write_suite(folder / f"killed-{workers}-{number}")
            (suite / "finished.txt").unlink(missing_ok=True)
            before = counts_in(suite)
            if kill_once(suite, api, chance, workers, seconds):
                outcome.killed += 1
            else:
                outcome.too_late += 1
            outcome.faults += [f"kill {number}: {fault}" for fault in faults_of(suite, before)]
            outcome.counts_kept += sum(map(len, counts_in(suite).values()))
            number += 1
            if number % every == 0 or outcome.killed == times:
                outcome.drafts += len([*suite.rglob("*.tmp")])
                seconds = complete(suite, api, workers)
                if bytes_of(suite) != bytes_of(whole):
                    outcome.faults.append(f"kill {number}: the next run leaves other files")
    return outcome


def main() -> int:
    """Print what was found; the status is 1 for any fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kills", description=__doc__)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory() as name:
        for workers in (0, 2):
            outcome = kill_often(given.times // 2, given.seed, Path(name), workers)
            faults += len(outcome.faults)
            sys.stdout.write(
                f"{workers or 1} process{'es' if workers else ''}, seed {given.seed}: "
                f"{outcome.killed} killed, {outcome.too_late} had ended; {outcome.counts_kept:,} "
                f"counts read afterwards, {outcome.drafts} drafts left, "
                f"{len(outcome.faults)} faults\n"
            )
            sys.stdout.write("".join(f"  {fault}\n" for fault in outcome.faults))
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())

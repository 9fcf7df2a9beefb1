"""What a run leaves behind when it is killed, when the disk is full, and beside another run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Project
from faults.kills import bytes_of, complete, counts_in, kill_often, write_suite
from standin import StandIn
from warm_python import warm_python

from pytest_llmcost.ledger.ledger import read_ledger

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="process groups and limits of POSIX")
COUNTS = """
    import pytest

    @pytest.mark.parametrize("words", range(1, 9))
    def test_count(llmcost, words):
        message = {"role": "user", "content": "word " * words}
        llmcost.count(model="claude-opus-4-7", max_tokens=9, messages=[message])
"""
FULL_DISK = """
    import os, resource

    def pytest_collection_finish(session):
        # What would fill the disk fails as on a full one: what fits has been written already.
        size = int(os.environ["MOST_BYTES"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
"""


@pytest.fixture(autouse=True)
def _warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", warm_python())


def fill_disk(project: Project, monkeypatch: pytest.MonkeyPatch, *, most_bytes: int) -> None:
    """Let the next run write so many bytes to a file; Python would cut its own caches there."""
    monkeypatch.setenv("MOST_BYTES", str(most_bytes))
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)  # whose file would not fit either
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    project.write(conftest=FULL_DISK)


@POSIX
def test_a_killed_run_leaves_whole_files_and_loses_no_count(tmp_path: Path) -> None:
    """`python -m tests.faults.kills --times 200` does it often, and with workers."""
    outcome = kill_often(2, 7, tmp_path, workers=0)
    assert outcome.killed == 2
    assert outcome.faults == []


@POSIX
def test_two_runs_at_once_write_the_files_of_one(tmp_path: Path) -> None:
    with StandIn() as api:
        alone = write_suite(tmp_path / "alone")
        complete(alone, api, 0)
        shared = write_suite(tmp_path / "shared")
        with ThreadPoolExecutor(2) as pool:
            for _ in pool.map(lambda _: complete(shared, api, 0), range(2)):
                pass  # a failure of either is one of the test
    assert bytes_of(shared) == bytes_of(alone)
    read_ledger(shared / "ledger.json")


@POSIX
def test_a_full_disk_leaves_the_old_ledger_and_fails_the_run(
    project: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.online(standin).write(test_app=COUNTS)
    project.record("--llmcost-report=ledger.json").assert_outcomes(passed=8)
    before = (project.path / "ledger.json").read_bytes()
    fill_disk(project, monkeypatch, most_bytes=2000)
    # What it prints goes to a pipe, which has no limit.
    given = ["-p", "llmcost", "-p", "no:cacheprovider", "--llmcost-report=ledger.json"]
    command = [sys.executable, "-m", "pytest", *given]
    result = subprocess.run(command, cwd=project.path, capture_output=True, text=True)
    assert "ledger.json: cannot be written (File too large)" in result.stdout
    assert result.returncode == pytest.ExitCode.TESTS_FAILED
    assert (project.path / "ledger.json").read_bytes() == before
    assert [*project.path.glob(".*.tmp")] == []


@POSIX
def test_a_full_disk_fails_the_tests_whose_counts_cannot_be_kept(
    project: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.online(standin).write(test_app=COUNTS)
    project.record().assert_outcomes(passed=8)
    before = counts_in(project.path)
    fill_disk(project, monkeypatch, most_bytes=100)
    project.write(test_more=COUNTS)
    # What it prints goes to a pipe, which has no limit.
    given = ["-p", "llmcost", "-p", "no:cacheprovider", "--llmcost-record-mode=once"]
    command = [sys.executable, "-m", "pytest", *given]
    printed = subprocess.run(command, cwd=project.path, capture_output=True, text=True).stdout
    assert "8 failed, 8 passed, 8 errors" in printed  # those of test_app.py need no disk
    assert re.search(r"cannot be written: [^\n]*File too large", printed)
    assert counts_in(project.path) == before
    assert [*project.path.rglob("*.tmp")] == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="users and permissions of POSIX")
def test_a_read_only_folder_replays_and_fails_what_would_be_recorded(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(test_app=COUNTS)
    project.record().assert_outcomes(passed=8)
    (folder,) = (project.path / "cassettes").iterdir()
    for each in folder.iterdir():
        each.chmod(0o444)
    folder.chmod(0o555)
    try:
        project.run().assert_outcomes(passed=8)
        if os.geteuid() == 0:
            return  # may write everywhere
        project.write(test_app=COUNTS.replace("range(1, 9)", "range(1, 10)"))
        project.run("--llmcost-record-mode=once").assert_outcomes(passed=9, errors=1)
    finally:
        folder.chmod(0o755)

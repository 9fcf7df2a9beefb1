"""Files that cannot be locked, read or written: an error of the test concerned, and a ledger."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import Project
from standin import StandIn

CONFTEST = """
    import pytest

    @pytest.fixture(scope="module")
    def wide(llmcost_client):
        pass
"""
TEST = """
    import pytest
    from pytest_llmcost import max_cost

    def ask(llmcost, text="x"):
        llmcost.count(model="claude-opus-4-7", messages=[{"role": "user", "content": text}])

    @max_cost("$1")
    def test_one(llmcost):
        ask(llmcost)

    def test_caught(llmcost):
        with pytest.raises(Exception):
            ask(llmcost, "y")

    def test_other():
        pass
"""


def block_locks(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = project.path / "temporary"
    folder.mkdir()
    (folder / f"pytest-llmcost-{os.getuid()}").touch()
    monkeypatch.setenv("TMPDIR", str(folder))


def block_folder(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.path / "cassettes").touch()


def block_reading(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("test_one", "test_caught"):
        Path(project.path, "cassettes", "test_app", f"{name}.llmcost.yaml").mkdir(parents=True)


@pytest.mark.parametrize("block", [block_locks, block_folder, block_reading])
@pytest.mark.parametrize("model", [(), ("--llmcost-model=claude-haiku-4-5",)])
def test_it_is_an_error_of_the_test_and_the_run_goes_on(
    project: Project,
    standin: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    block: object,
    model: tuple[str, ...],
) -> None:
    project.online(standin).write(conftest=CONFTEST, test_app=TEST)
    assert callable(block)
    block(project, monkeypatch)
    result = project.run_apart(
        "--llmcost-record-mode=new_episodes", "--llmcost-report=ledger.json", *model, timeout=300
    )
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    outcomes = result.parseoutcomes()
    assert (outcomes["failed"], outcomes["passed"]) == (1, 2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    tests = [test["nodeid"] for test in project.ledger()["tests"]]
    assert tests == ["test_app.py::test_caught", "test_app.py::test_one"]

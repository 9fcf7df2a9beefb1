"""Tests whose files are fake until their last fixture has ended, as pyfakefs and mocks have it."""

from __future__ import annotations

import pytest
from conftest import Project
from standin import StandIn

FAKES = """
    import pathlib
    import sys
    import types
    import pytest

    sys.modules["pyfakefs"] = types.ModuleType("pyfakefs")

    @pytest.fixture
    def mocked(monkeypatch):
        def open(*given, **more):
            raise FileNotFoundError("nothing here")

        monkeypatch.setattr(pathlib.Path, "open", open)
        monkeypatch.setattr("builtins.open", open)

    @pytest.fixture
    def fs(mocked):
        before = {*sys.modules}
        yield
        for name in {*sys.modules} - before:  # as pyfakefs does
            del sys.modules[name]
"""
# Without the SDK, which takes ten times as long to import as all that is loaded for a call.
ASKS = """
    import os
    import httpx
    import pytest

    @pytest.fixture
    def client():
        head = {"anthropic-version": "2023-06-01", "x-api-key": "any"}
        with httpx.Client(base_url=os.environ["ANTHROPIC_BASE_URL"], headers=head) as client:
            yield client

    def ask(client):
        message = {"role": "user", "content": "Hi"}
        body = {"model": "claude-opus-4-7", "max_tokens": 50, "messages": [message]}
        assert client.post("/v1/messages", json=body).is_success
"""


@pytest.mark.parametrize("fixture", ["mocked", "fs"])
def test_a_call_is_priced_although_there_are_no_files(
    project: Project, standin: StandIn, fixture: str
) -> None:
    project.online(standin).write(
        conftest=FAKES,
        test_app=f"""{ASKS}
    def test_it(client, {fixture}):
        ask(client)

    def test_after(client):
        ask(client)
    """,
    )
    # In a new process, where the first call is what reads the rates, and all that it takes. pytest
    # does this with each plugin that it finds by itself.
    project.write(early='import pytest; pytest.register_assert_rewrite("pytest_llmcost")')
    args = ("-p", "early", "-p", "llmcost", "--llmcost-report=ledger.json")
    result = project.pytester.runpytest_subprocess(*args, "--llmcost-max-suite=$1")
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.OK
    ledger = project.ledger()
    assert len({row["usd"] for row in ledger["tests"]}) == 1
    assert [verdict["state"] for verdict in ledger["verdicts"]] == ["within"]


def test_a_suite_that_loads_no_client_pays_nothing_for_its_fake_files(project: Project) -> None:
    project.write(
        conftest=FAKES,
        test_app="""
    import sys

    def test_it(fs):
        assert not {"msgspec", "yaml", "jinja2"} & sys.modules.keys()
    """,
    )
    project.pytester.runpytest_subprocess("-p", "llmcost").assert_outcomes(passed=1)


def test_counts_are_recorded_in_real_files(project: Project, standin: StandIn) -> None:
    pytest.importorskip("pyfakefs")
    project.online(standin).write(
        test_app="""
    import httpx

    def test_it(fs, llmcost):
        llmcost.count(model="claude-opus-4-7", messages=[{"role": "user", "content": "Hi"}])
    """
    )
    for mode in ("rewrite", "none"):
        result = project.run_apart(
            f"--llmcost-record-mode={mode}", plugins=("pyfakefs.pytest_plugin",)
        )
        result.assert_outcomes(passed=1)

"""A child that is forked while the tests run may spend, and cannot do so without a trace."""

from __future__ import annotations

import os
from typing import Any

import pytest
from conftest import Project
from spending_suite import APP

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

KINDS = {
    "os.fork": """
        import os
        from app import ask

        def test_forks():
            ask(1)
            child = os.fork()
            if child == 0:
                try:
                    ask(200)
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
    """,
    "multiprocessing": """
        import multiprocessing
        from app import ask

        def test_forks():
            ask(1)
            child = multiprocessing.get_context("fork").Process(target=ask, args=(200,))
            child.start()
            child.join()
            assert child.exitcode == 0
    """,
    "a pool of processes": """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        from app import ask

        def test_forks():
            with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
                pool.submit(ask, 200).result()
    """,
    "a fixture": """
        import multiprocessing
        import pytest
        from app import ask

        @pytest.fixture(scope="module")
        def server():
            child = multiprocessing.get_context("fork").Process(target=ask, args=(200,))
            child.start()
            yield
            child.join()

        def test_forks(server):
            ask(1)
    """,
    "each test in a child of its own": """
        from app import ask

        def test_forks():
            ask(200)
    """,
}
"""In each of them a child spends $0.00125 of a budget of $0.001."""
EACH_TEST_FORKED = """
    import os
    import pickle
    from _pytest.runner import runtestprotocol

    def pytest_runtest_protocol(item, nextitem):
        '''As pytest-forked does it.'''
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
            with open(write, "wb") as pipe:
                pickle.dump([report._to_json() for report in reports], pipe)
            os._exit(0)
        os.close(write)
        with open(read, "rb") as pipe:
            told = pickle.load(pipe)
        os.waitpid(child, 0)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in told:
            read_back = item.ihook.pytest_report_from_serializable(
                config=item.config, data={**report, "$report_type": "TestReport"})
            item.ihook.pytest_runtest_logreport(report=read_back)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True
"""


def run(project: Project, test_app: str, **files: str) -> tuple[pytest.RunResult, dict[str, Any]]:
    project.write(app=APP, test_app=test_app, **files)
    result = project.run_apart(
        # Python 3.12 warns of a fork beside threads, which is not what is tried here.
        *("-W", "ignore::DeprecationWarning"),
        *("--llmcost-max-suite=$0.001", "--llmcost-report=ledger.json"),
    )
    result.assert_outcomes(passed=1)
    return result, project.ledger()


@pytest.mark.parametrize("kind", KINDS)
def test_a_suite_whose_child_has_broken_its_budget_does_not_pass(
    project: Project, kind: str
) -> None:
    files = {"conftest": EACH_TEST_FORKED} if kind.startswith("each") else {}
    result, ledger = run(project, KINDS[kind], **files)
    (verdict,) = ledger["verdicts"]
    # Exceeded, where the calls of the child have come back.
    assert verdict["state"] in ("unverified", "exceeded")
    assert result.ret == ledger["run"]["exit_status"] == pytest.ExitCode.TESTS_FAILED


def test_a_child_that_did_not_come_back_leaves_the_run_without_an_upper_bound(
    project: Project,
) -> None:
    text = """
        import os
        import signal
        from app import ask

        def test_forks():
            ask(1)
            child = os.fork()
            if child == 0:
                ask(1)
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(child, 0)
    """
    result, ledger = run(project, text)
    (verdict,) = ledger["verdicts"]
    assert (verdict["state"], verdict["high"]) == ("unverified", None)
    assert not ledger["complete"]
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*fork*"])


def test_a_child_of_a_worker_is_seen_too(project: Project) -> None:
    pytest.importorskip("xdist")
    project.write(app=APP, test_app=KINDS["os.fork"])
    result = project.run_apart(
        *("-W", "ignore::DeprecationWarning", "-n1"),
        *("--llmcost-max-suite=$0.001", "--llmcost-report=ledger.json"),
        plugins=("xdist.plugin",),
    )
    assert project.ledger()["lost_calls"] == ["forked-child"]
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_another_program_is_no_forked_child(project: Project) -> None:
    text = """
        import subprocess
        import sys
        from app import ask

        def test_starts_a_program():
            ask(1)
            subprocess.run([sys.executable, "-S", "-c", ""], check=True)
    """
    result, ledger = run(project, text)
    assert [verdict["state"] for verdict in ledger["verdicts"]] == ["within"]
    assert (ledger["complete"], result.ret) == (True, pytest.ExitCode.OK)


def test_a_child_that_has_nothing_to_send_with_has_lost_nothing(project: Project) -> None:
    text = """
        import os

        def test_forks():
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
    """
    result, ledger = run(project, text)
    assert [verdict["state"] for verdict in ledger["verdicts"]] == ["within"]
    assert (ledger["complete"], result.ret) == (True, pytest.ExitCode.OK)

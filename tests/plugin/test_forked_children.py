"""Children of the tests, forked or spawned, may spend: their calls come back to the test."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from typing import Any

import httpx2
import pytest
from capture_kit import ASKED, JSON_BODY, URL, capturing, client_of, respond
from conftest import Project
from spending_suite import APP
from standin import StandIn, Step

from pytest_llmcost.capture.children import packed

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
            reported = pickle.load(pipe)
        os.waitpid(child, 0)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in reported:
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
    result.assert_outcomes(passed=1, failed=int(result.ret))
    return result, project.ledger()


@pytest.mark.parametrize("kind", KINDS)
def test_a_suite_whose_child_has_broken_its_budget_does_not_pass(
    project: Project, kind: str
) -> None:
    files = {"conftest": EACH_TEST_FORKED} if kind.startswith("each") else {}
    result, ledger = run(project, KINDS[kind], **files)
    (verdict,) = ledger["verdicts"]
    assert (verdict["state"], ledger["lost_calls"]) == ("exceeded", [])
    assert result.ret == ledger["run"]["exit_status"] == pytest.ExitCode.TESTS_FAILED
    assert ledger["run"]["has_tests"]


def test_a_child_that_did_not_come_back_leaves_the_run_without_an_upper_bound(
    project: Project,
) -> None:
    text = """
        import os
        import signal
        import app
        from app import ask

        def test_forks():
            ask(1)
            child = os.fork()
            if child == 0:
                ask(1)  # comes back
                app.answer = lambda request: os.kill(os.getpid(), signal.SIGKILL)
                ask(1)
            os.waitpid(child, 0)
    """
    result, ledger = run(project, text)
    (verdict,) = ledger["verdicts"]
    assert (verdict["state"], verdict["high"]) == ("unverified", None)
    assert not ledger["complete"]
    assert ledger["lost_calls"] == ["forked-child"]
    assert ledger["totals"]["calls"] == 2
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*fork*"])


@pytest.mark.parametrize("budget", ["marker", "max-test=$1", "max-call=$1"])
def test_a_test_that_sent_by_a_lost_child_alone_says_so(project: Project, budget: str) -> None:
    marker = '@max_cost("$1")' if budget == "marker" else ""
    project.write(
        app=APP,
        test_app=f"""
        import os
        import app
        from pytest_llmcost import max_cost

        {marker}
        def test_forks():
            child = os.fork()
            if child == 0:
                app.answer = lambda request: os._exit(1)
                app.ask(1)
            os.waitpid(child, 0)
        """,
    )
    args = () if marker else (f"--llmcost-{budget}",)
    result = project.run_apart("-W", "ignore::DeprecationWarning", *args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*a child process ended while it called Claude*"])
    result.stdout.no_fnmatch_line("*no Claude call was seen*")


@pytest.mark.parametrize("budget", ["marker", "max-test=$1"])
def test_calls_of_a_child_whose_way_back_cannot_be_made_are_lost(
    project: Project, budget: str
) -> None:
    marker = '@max_cost("$1")' if budget == "marker" else ""
    project.write(
        app=APP,
        test_app=f"""
        import os
        import tempfile
        import app
        from pytest_llmcost import max_cost

        {marker}
        def test_forks(monkeypatch):
            with monkeypatch.context() as patch:
                patch.setattr(tempfile, "gettempdir", lambda: 1 / 0)
                child = os.fork()
            if child == 0:
                app.ask(1)
                os._exit(0)
            os.waitpid(child, 0)
        """,
    )
    args = () if marker else (f"--llmcost-{budget}",)
    result = project.run_apart("-W", "ignore", "--llmcost-report=ledger.json", *args)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert project.ledger()["lost_calls"] == ["internal-error"]


def test_a_child_of_a_worker_is_seen_too(project: Project) -> None:
    pytest.importorskip("xdist")
    project.write(app=APP, test_app=KINDS["os.fork"])
    result = project.run_apart(
        *("-W", "ignore::DeprecationWarning", "-n1"),
        *("--llmcost-max-suite=$0.001", "--llmcost-report=ledger.json"),
        plugins=("xdist.plugin",),
    )
    assert project.ledger()["lost_calls"] == []
    (row,) = project.ledger()["tests"]
    assert sorted(call["usage"]["input_tokens"] for call in row["calls"]) == [1, 200]
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


OWNED = """
    import multiprocessing
    import sys
    from app import ask, ask_live
    from pytest_llmcost import max_cost

    multiprocessing.set_executable(PYTHON or sys.executable)

    def start(method, target, *args):
        child = multiprocessing.get_context(method).Process(target=target, args=args)
        child.start()
        child.join()
        assert child.exitcode == EXIT

    @max_cost("$0.0001")
    def test_first():
        start(METHOD, TARGET, 200)

    @max_cost(calls=0)
    def test_second():
        pass
"""


def owned(method: str, target: str = "ask", status: int = 0, python: str = "") -> str:
    filled = OWNED.replace("METHOD", repr(method)).replace("TARGET", target)
    return filled.replace("EXIT", str(status)).replace("PYTHON", repr(python))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("target", ["ask", "ask_live"])
def test_a_child_s_calls_are_of_the_test_that_started_it(
    project: Project, standin: StandIn, method: str, target: str
) -> None:
    # In the Python of other tests everything is imported before a child begins to follow.
    python = sys.executable if target == "ask_live" else ""
    project.online(standin).write(app=APP, test_app=owned(method, target, python=python))
    ignored = ("-W", "ignore::DeprecationWarning")
    result = project.run_apart(*ignored, "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1, failed=1)
    first, second = project.ledger()["tests"]
    (call,) = first["calls"]
    evidence, live = ("mocked", False) if target == "ask" else ("billed", True)
    assert (call["evidence"], call["live"], call["phase"]) == (evidence, live, "call")
    assert (first["verdict"]["state"], second["verdict"]["state"]) == ("exceeded", "within")
    assert project.ledger()["lost_calls"] == []


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_that_is_started_in_the_system_s_own_way_is_seen(
    project: Project, method: str
) -> None:
    """The way differs by system and Python: since 3.14 it is `forkserver` on Linux."""
    project.write(
        app=APP,
        test_app=f"""
        import multiprocessing
        from app import ask

        class Asking(multiprocessing.Process):
            def run(self):
                ask(300)

        def test_children():
            multiprocessing.set_executable({sys.executable!r})  # with nothing imported
            multiprocessing.set_start_method({method!r})
            for child in (multiprocessing.Process(target=ask, args=(200,)), Asking()):
                child.start()
                child.join()
                assert child.exitcode == 0
        """,
    )
    ignored = ("-W", "ignore::DeprecationWarning")
    project.run_apart(*ignored, "--llmcost-report=ledger.json").assert_outcomes(passed=1)
    (test,) = project.ledger()["tests"]
    assert sorted(call["usage"]["input_tokens"] for call in test["calls"]) == [200, 300]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_a_spawned_child_is_seen_and_under_the_cap(
    project: Project, standin: StandIn, method: str
) -> None:
    project.online(standin).write(
        app=APP,
        test_app=f"""
        import multiprocessing
        from app import ask_live

        def start(method, target, *args):
            child = multiprocessing.get_context(method).Process(target=target, args=args)
            child.start()
            child.join()

        def parent(words):
            start({method!r}, ask_live, words)

        def test_small():
            start("spawn", parent, 10)

        def test_large():
            start("spawn", parent, 2_000)
        """,
    )
    ignored = ("-W", "ignore::DeprecationWarning")
    result = project.run_apart(*ignored, "--llmcost-max-live=$0.01", "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1, failed=1)
    large, small = project.ledger()["tests"]
    assert [each["evidence"] for each in small["calls"]] == ["billed"]
    assert [each["evidence"] for each in large["calls"]] == ["refused"]
    assert (project.ledger()["lost_calls"], len(standin.requests)) == ([], 1)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_call_has_the_tags_that_are_open_in_its_child_and_in_those_above(
    project: Project, method: str
) -> None:
    project.write(
        app=APP,
        test_app=f"""
        import multiprocessing
        from app import ask
        from pytest_llmcost import tag

        def start(target):
            child = multiprocessing.get_context({method!r}).Process(target=target)
            child.start()
            child.join()

        def grandchild():
            with tag("judge"):
                ask(200)

        def child():
            ask(1)
            with tag("eval"):
                start(grandchild)

        def test_children():
            with tag("suite"):
                start(child)
        """,
    )
    budget = ("--override-ini=llmcost_budgets=tag:judge = $0.001", "--llmcost-report=ledger.json")
    result = project.run_apart("-W", "ignore::DeprecationWarning", *budget)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (test,) = project.ledger()["tests"]
    assert sorted(each["tags"] for each in test["calls"]) == [["eval", "judge", "suite"], ["suite"]]


@pytest.mark.parametrize("pool", ["ThreadPool(1)", "get_context('fork').Pool(1)"])
def test_a_pool_of_multiprocessing_does_not_wait_for_what_the_cap_refused(
    project: Project, standin: StandIn, pool: str
) -> None:
    project.online(standin).write(
        app=APP,
        test_app=f"""
        from multiprocessing import get_context
        from multiprocessing.pool import ThreadPool
        from app import ask_live

        def test_large():
            with {pool} as pool:
                asked = pool.map_async(ask_live, [2_000])
                asked.get(timeout=10)
        """,
    )
    ignored = ("-W", "ignore::DeprecationWarning")
    result = project.run_apart(*ignored, "--llmcost-max-live=$0.01")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *left of the $0.01 cap on live spend *"])
    result.stdout.no_fnmatch_line("E *TimeoutError*")
    assert standin.requests == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_of_processes_and_a_block_s_budget(project: Project, method: str) -> None:
    project.write(
        app=APP,
        test_app=f"""
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        from app import ask

        def test_pool(llmcost):
            context = multiprocessing.get_context({method!r})
            with ProcessPoolExecutor(2, context) as pool:
                with llmcost.budget("$1"):
                    list(pool.map(ask, [1, 2, 3]))
                assert len(llmcost.calls) == 3
                list(pool.map(ask, [4]))
            assert sorted(call.usage.input_tokens for call in llmcost.calls) == [1, 2, 3, 4]
        """,
    )
    project.run_apart("-W", "ignore::DeprecationWarning").assert_outcomes(passed=1)


def test_a_call_that_is_looked_at_in_the_child_while_it_is_under_way_comes_back_once(
    project: Project,
) -> None:
    """As by another thread of the child, where a block ends."""
    project.write(
        app=APP,
        test_app="""
        import os
        import httpx
        from app import answer, send

        def test_forks(llmcost):
            def look(request):
                llmcost.calls
                return answer(request)

            child = os.fork()
            if child == 0:
                try:
                    with httpx.Client(transport=httpx.MockTransport(look)) as client:
                        send(client, "https://api.anthropic.com", 200, "claude-opus-4-7")
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            (call,) = llmcost.calls
            assert (call.usage.input_tokens, call.caveats) == (200, ())
        """,
    )
    result = project.run_apart("-W", "ignore::DeprecationWarning", "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1)
    assert project.ledger()["lost_calls"] == []


def test_a_response_that_is_open_at_the_fork_is_the_parents_alone(project: Project) -> None:
    """The child has a copy of it, which it may read on."""
    project.write(
        app=APP,
        test_app="""
        import os
        import httpx
        from app import answer

        class Slow(httpx.BaseTransport):
            def handle_request(self, request):
                return httpx.Response(200, stream=Body(answer(request).content))

        class Body(httpx.SyncByteStream):
            def __init__(self, content):
                self.content = content

            def __iter__(self):
                yield self.content[:9]
                yield self.content[9:]

        def test_forks(llmcost):
            body = {"model": "claude-opus-4-7", "max_tokens": 10,
                    "messages": [{"role": "user", "content": "word"}]}
            url = "https://api.anthropic.com/v1/messages"
            with httpx.Client(transport=Slow()) as client:
                with client.stream("POST", url, json=body) as response:
                    pieces = response.iter_raw()
                    next(pieces)
                    child = os.fork()
                    if child == 0:
                        try:
                            list(pieces)
                        finally:
                            os._exit(0)
                    os.waitpid(child, 0)
                    list(pieces)
            (call,) = llmcost.calls
            assert (call.usage.input_tokens, call.caveats) == (1, ())
        """,
    )
    result = project.run_apart("-W", "ignore::DeprecationWarning", "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1)
    assert project.ledger()["lost_calls"] == []


def test_what_a_child_sends_back_holds_no_key() -> None:
    keys = {"x-api-key": "the-secret", "authorization": "the-secret", "Anthropic-Beta": "b"}
    client = client_of(httpx2, respond(httpx2, JSON_BODY, kind="application/json"))
    with capturing() as purse:
        client.post(URL, json=ASKED, headers=keys)
    data = pickle.dumps(packed(purse.seen[0]))
    assert b"the-secret" not in data
    assert pickle.loads(data).betas == ("b",)


def test_neither_does_what_it_sends_back_of_a_request_of_aiohttp_that_got_no_answer(
    standin: StandIn,
) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    standin.script(Step(cut_after_bytes=0))
    url = f"{standin.url}/model/anthropic.claude-opus-4-7/invoke"
    headers = {"authorization": "the-secret", "amz-sdk-request": "attempt=2; max=4"}

    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await session.post(url, json=ASKED, headers=headers)

    with capturing() as purse:
        asyncio.run(ask())
        purse.capture.settle()
    data = pickle.dumps(packed(purse.seen[0]))
    assert b"the-secret" not in data
    assert pickle.loads(data).attempts == 2


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_are_under_the_cap_on_live_spend(
    project: Project, standin: StandIn, method: str
) -> None:
    project.online(standin).write(app=APP, test_app=owned(method, "ask_live", 1))
    ignored = ("-W", "ignore::DeprecationWarning")
    result = project.run_apart(*ignored, "--llmcost-max-live=0", "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_first - 1 request refused by *"])
    assert standin.requests == []


BESIDE_A_THREAD = """
    import encodings.idna  # or Python's sockets import it, in the thread, while the fork begins
    import faulthandler
    import os
    import sys
    import threading
    from app import ask_live

    has_begun, has_forked = threading.Event(), threading.Event()

    def stay():
        '''Called in the thread: go on once the child is forked, or if the fork waits for us.'''
        has_begun.set()
        while not has_forked.wait(0.01):
            at = sys._current_frames()[threading.main_thread().ident].f_code
            if (at.co_filename, at.co_name) == ("<frozen importlib._bootstrap>", "acquire"):
                break

    def fork_beside(work, in_child):
        def begin():
            try:
                work()
            finally:
                has_begun.set()

        thread = threading.Thread(target=begin)
        thread.start()
        assert has_begun.wait(60)
        child = os.fork()
        if child == 0:
            faulthandler.dump_traceback_later(20, exit=True)
            try:
                in_child()
                os._exit(0)
            finally:
                os._exit(1)
        has_forked.set()
        _, status = os.waitpid(child, 0)
        thread.join()
        assert status == 0
"""
"""A thread is in the midst of something when a child is forked, which has no such thread."""


@pytest.mark.parametrize(
    "imported",
    [
        "pytest_llmcost.plugin.calls",
        "pytest_llmcost.ledger.builder",
        "msgspec",
        "encodings.ascii",
        "filelock._native",  # from here on it lets no thread go on that imports it beside a fork
    ],
)
def test_neither_a_child_nor_a_fork_waits_forever_for_what_another_thread_imports(
    project: Project, standin: StandIn, imported: str
) -> None:
    """Most of the plugin, and what it needs, is imported for the first request."""
    project.online(standin).write(
        app=APP,
        beside=BESIDE_A_THREAD,
        test_app=f"""
        import sys
        from importlib import import_module
        from importlib.machinery import PathFinder
        from app import ask_live
        from beside import fork_beside, stay

        class Slow:
            def find_spec(self, name, path=None, target=None):
                if name == {imported!r}:
                    spec = PathFinder.find_spec(name, path)
                    # Not here, where Python holds the lock of all imports, and of a fork.
                    spec.loader.create_module = lambda spec: stay()
                    return spec

        def test_forks():
            sys.meta_path.insert(0, Slow())
            fork_beside(lambda: import_module({imported!r}), lambda: ask_live(1))
        """,
    )
    # Not in the Python of other tests, which begins with everything imported.
    given = ("-p", "llmcost", "-W", "ignore::DeprecationWarning", "--llmcost-max-live=$1")
    project.pytester.runpytest_subprocess(*given, timeout=60).assert_outcomes(passed=1)


def test_a_child_does_not_wait_for_a_thread_of_its_parent_that_records_a_call(
    project: Project,
) -> None:
    project.write(
        app=APP,
        beside=BESIDE_A_THREAD,
        conftest="""
        def pytest_llmcost_call(call):
            if call.usage.input_tokens == 200:
                from beside import stay
                stay()
        """,
        test_app="""
        from app import ask
        from beside import fork_beside

        def test_forks(llmcost):
            def record():
                ask(200)
                return llmcost.calls

            def in_child():
                assert llmcost.calls == ()
                ask(1)

            fork_beside(record, in_child)
            assert len(llmcost.calls) == 2
        """,
    )
    result = project.run_apart("-W", "ignore::DeprecationWarning", timeout=60)
    result.assert_outcomes(passed=1)


def test_a_child_that_sends_nothing_loads_nothing(project: Project) -> None:
    """With a child for each test, each of them would load it anew."""
    project.write(
        test_app="""
        import os
        import sys

        def test_forks():
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)

        def test_after():
            assert "pytest_llmcost.plugin.verdicts" not in sys.modules
        """,
    )
    # Not in the Python of other tests, which begins with everything imported.
    project.pytester.runpytest_subprocess("-p", "llmcost").assert_outcomes(passed=2)


STRAYS = {
    "call": "def test_forks():\n    fork()",
    "setup": "@pytest.fixture\ndef forked():\n    fork()\n\ndef test_forks(forked): pass",
    "teardown": (
        "@pytest.fixture\ndef forked():\n    yield\n    fork()\n\ndef test_forks(forked): pass"
    ),
    "unittest": (
        "import unittest\n\nclass TestIt(unittest.TestCase):\n    def test_forks(self): fork()"
    ),
}


@pytest.mark.parametrize("phase", STRAYS)
def test_a_child_that_expects_an_exception_alone_does_not_go_on_as_a_second_pytest(
    project: Project, standin: StandIn, phase: str
) -> None:
    """The refusal passes its `except`, and pytest in the child would go on beside its parent."""
    project.online(standin).write(
        app=APP
        + """
    def fork():
        child = os.fork()
        if child == 0:
            try:
                ask_live(1)
                os._exit(0)
            except Exception:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 1
    """,
        test_app=f"import pytest\nfrom app import fork\n\n{STRAYS[phase]}\n"
        + """
def test_runs_once():
    with open("runs.txt", "a") as file:
        file.write("x")
""",
    )
    ignored = ("-W", "ignore::DeprecationWarning")
    result = project.run_apart(*ignored, "--llmcost-max-live=0")
    result.stdout.fnmatch_lines(["* test_app.py::*test_forks - 1 request refused by the live cap*"])
    assert (project.path / "runs.txt").read_text() == "x"
    assert standin.requests == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_share_what_is_left_of_the_cap_on_live_spend(
    project: Project, standin: StandIn, method: str
) -> None:
    """Each may cost $0.006 and costs next to nothing: without settling the second does not fit."""
    project.online(standin).write(
        app=APP,
        test_app=f"""
        import multiprocessing
        import app

        def ask(words):
            context = multiprocessing.get_context({method!r})
            child = context.Process(target=app.ask_live, args=(words,))
            child.start()
            child.join()

        def test_one_after_the_other():
            for _ in range(3):
                ask(10)

        def test_too_large():
            ask(2_000)
        """,
    )
    ignored = ("-W", "ignore::DeprecationWarning")
    result = project.run_apart(*ignored, "--llmcost-max-live=$0.01", "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_too_large - 1 request refused by *"])
    assert len(standin.requests) == 3
    first, second = project.ledger()["tests"]
    assert [each["evidence"] for each in first["calls"]] == ["billed"] * 3
    assert [each["evidence"] for each in second["calls"]] == ["refused"]


def test_the_files_of_children_are_gone_after_the_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project.path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    project.write(app=APP, test_app=owned("fork"))
    project.run_apart("-W", "ignore::DeprecationWarning").assert_outcomes(passed=1, failed=1)
    assert list(folder.glob("pytest-llmcost-run-*")) == []


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "xdist"])
def test_pytest_forked_brings_calls_verdicts_and_fixtures_back(
    project: Project, workers: tuple[str, ...]
) -> None:
    pytest.importorskip("pytest_forked")
    if pytest.version_tuple >= (9,):
        pytest.skip("pytest-forked cannot send the reports of pytest 9 back")
    project.write(
        app=APP,
        test_app="""
        import pytest
        from app import ask
        from pytest_llmcost import max_cost

        @pytest.fixture(scope="module")
        def primed():
            ask(7)

        @max_cost("$0.0001")
        def test_large(primed):
            ask(200)

        @max_cost("$1")
        def test_small(primed):
            ask(1)

        def test_silent():
            pass
        """,
    )
    result = project.run_apart(
        *("-W", "ignore::DeprecationWarning", "--forked", "--llmcost-report=ledger.json"),
        *workers,
        plugins=("pytest_forked", *(("xdist.plugin",) if workers else ())),
    )
    result.assert_outcomes(passed=2, failed=1)
    ledger = project.ledger()
    rows = {row["nodeid"].partition("::")[2]: row for row in ledger["tests"]}
    assert {name: (row["outcome"], row["verdict"]["state"]) for name, row in rows.items()} == {
        "test_large": ("failed", "exceeded"),
        "test_small": ("passed", "within"),
    }
    assert [row["calls"][0]["usage"]["input_tokens"] for row in ledger["fixtures"]] == [7, 7]
    assert ledger["lost_calls"] == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "xdist"])
def test_a_child_of_a_conftest_that_is_imported_is_seen(
    project: Project, method: str, workers: tuple[str, ...]
) -> None:
    project.write(
        app=APP,
        conftest=f"""
        import multiprocessing
        import os
        from app import ask
        from pytest_llmcost.plugin.session import KEY

        def pytest_sessionfinish(session):
            with open("folders.txt", "a") as file:
                print(session.config.stash[KEY].run_folder, file=file)

        if "PYTEST_XDIST_WORKER" in os.environ or {not workers}:
            child = multiprocessing.get_context({method!r}).Process(target=ask, args=(200,))
            child.start()
            child.join()
            assert child.exitcode == 0
        """,
        test_app="def test_it(): pass",
    )
    ignored = ("-W", "ignore::DeprecationWarning")
    plugins = ("xdist",) if workers else ()
    project.run_apart(*ignored, *workers, "--llmcost-report=ledger.json", plugins=plugins)
    ledger = project.ledger()
    assert [call["usage"]["input_tokens"] for call in ledger["outside_tests"]] == [200]
    assert ledger["lost_calls"] == []
    # What is shared by all processes, for example what is left of the cap, is in one folder.
    folders = (project.path / "folders.txt").read_text().split()
    assert len(folders) == 1 + len(workers)
    assert len({*folders}) == 1
    assert not os.path.exists(folders[0])

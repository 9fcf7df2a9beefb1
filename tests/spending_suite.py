"""A user's suite that spends in every way there is, and a way to run it apart from the others.

Nothing in it is live but `ask_live`; the answers are made where they are asked for.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest import unraisableexception
from _pytest.pytester import SysModulesSnapshot, SysPathsSnapshot
from clean_environment import clean_environment
from warm_python import warm_python

SPENDS = """
    import pytest
    from pytest_llmcost import max_cost

    USAGE = {"input_tokens": 1000, "output_tokens": 0}  # half a cent

    def spend(llmcost, times=1):
        for _ in range(times):
            llmcost.record(USAGE, model="claude-opus-4-7")
"""
APP = """
    import json
    import os
    import time
    from pathlib import Path

    import httpx

    def ask(words, model="claude-opus-4-7"):
        with httpx.Client(transport=httpx.MockTransport(answer)) as client:
            send(client, "https://api.anthropic.com", words, model)

    def ask_live(words):
        with httpx.Client() as client:
            send(client, os.environ["ANTHROPIC_BASE_URL"], words, "claude-opus-4-7")

    def send(client, url, words, model):
        message = {"role": "user", "content": "word " * words}
        body = {"model": model, "max_tokens": 10, "messages": [message]}
        head = {"anthropic-version": "2023-06-01", "x-api-key": "any"}
        client.post(f"{url}/v1/messages", content=json.dumps(body), headers=head)

    def answer(request):
        body = json.loads(request.content)
        words = len(body["messages"][0]["content"].split())
        usage = {"input_tokens": words, "output_tokens": 10}
        return httpx.Response(200, content=json.dumps({
            "id": "msg", "type": "message", "role": "assistant", "model": body["model"],
            "content": [], "stop_reason": "end_turn", "usage": usage}))

    def meet():
        '''Wait until both workers are here, so that each has its part of the work.'''
        worker = os.environ.get("PYTEST_XDIST_WORKER")
        if worker is not None:
            Path(f"here.{worker}").touch()
            until = time.monotonic() + 120
            while len(list(Path().glob("here.*"))) < 2 and time.monotonic() < until:
                time.sleep(0.01)
"""

EVERYTHING = {
    "app.py": APP,
    "pytest.ini": """
        [pytest]
        testpaths = tests
        markers = xdist_group
        llmcost_budgets =
            tests/test_triage.py = $0.001
            tests/agents/** = $1
    """,
    "conftest.py": """
        import pytest
        from app import ask

        @pytest.fixture(scope="session")
        def warm():
            ask(500)
            yield
            ask(501)

        @pytest.fixture(scope="session", params=["small", "large"])
        def engine(request):
            return request.param

        @pytest.fixture(scope="session")
        def primed(engine):
            ask(600 if engine == "small" else 700)
    """,
    "tests/agents/test_agents.py": """
        import pytest
        from app import ask

        @pytest.mark.parametrize("words", [11, 12, 13])
        def test_agent(primed, warm, words):
            ask(words)
    """,
    "tests/test_triage.py": """
        import unittest

        import pytest
        from app import ask
        from pytest_llmcost import max_cost

        @pytest.fixture(scope="module")
        def model(warm):
            ask(300)
            yield
            ask(301)

        @pytest.mark.parametrize("words", [1, 2, 3, 4], ids=["a@b", "b|c", "c", "d"])
        def test_ticket(model, words):
            ask(words)

        @pytest.fixture(scope="class")
        def account():
            ask(200)

        @pytest.mark.xdist_group("refunds")
        class TestRefunds:
            @max_cost("$0.0001")
            def test_dear(self, account):
                ask(40)

            @pytest.mark.xdist_group(name="slow")
            @max_cost("$1", calls=1, input_tokens="1k")
            def test_within(self, account):
                ask(41)

        @pytest.mark.xdist_group("x@y")
        @max_cost("$1")
        def test_silent(model):
            pass

        @max_cost("$0.0001")
        @pytest.mark.xfail(strict=True)
        def test_known_to_be_dear():
            ask(42)

        @pytest.fixture
        def late():
            yield
            ask(43)

        @max_cost("$0.0005")
        def test_late(late):
            ask(1)

        def test_blocks(llmcost):
            with llmcost.budget("$0.01"):
                ask(44)
            with llmcost.budget("$0.0001", reason="a small step"):
                ask(45)

        class TestOld(unittest.TestCase):
            @max_cost("$0.0001")
            def test_old(self):
                ask(46)

            def test_parts(self):
                with self.subTest("one"):
                    ask(47)
                    self.fail("in a part")

        @max_cost("$1", reason="half a \\udcff is none")
        def test_half_a_character():
            ask(48, model="claude-\\ud800")

        def test_stated(llmcost):
            llmcost.record({"input_tokens": 5, "output_tokens": 5}, model="x", usd="0.00001")

        @pytest.fixture
        def broken(model):
            ask(49)
            raise LookupError("nothing there")

        @max_cost("$1")
        def test_broken(broken):
            pass

        @max_cost("$1")
        @pytest.mark.skip
        def test_skipped():
            pass
    """,
}


@dataclass(frozen=True)
class Ran:
    """What became of a run."""

    path: Path
    status: int
    out: str

    def ledger(self, name: str = "ledger.json") -> dict[str, Any]:
        """Read a report that the run wrote."""
        parsed: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        return parsed

    def lines(self, start: str) -> list[str]:
        """Return the lines that begin like this, sorted."""
        return sorted(line for line in self.out.splitlines() if re.match(start, line))


def write_files(path: Path, files: Mapping[str, str]) -> None:
    """Write files; their text may be indented."""
    for name, text in files.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(text), encoding="utf-8")


def run_suite(
    path: Path, *args: str, plugins: tuple[str, ...] = (), env: Mapping[str, str] | None = None
) -> Ran:
    """Run the suite in a folder, with our plugin and those named alone, and write `ledger.json`.

    In this process, which is fast, unless it has workers.
    """
    loaded = [each for name in ("llmcost", *plugins) for each in ("-p", name)]
    given = [*loaded, "-p", "no:cacheprovider", "--llmcost-report=ledger.json", *args]
    environment = {**_clean_environment(), **(env or {})}
    (path / "ledger.json").unlink(missing_ok=True)
    for left in path.glob("here.*"):
        left.unlink()
    if "xdist" not in given:
        return _run_here(path, given, environment)
    done = subprocess.run(
        [warm_python(), "-m", "pytest", *given],
        cwd=path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
    )
    return Ran(path, done.returncode, done.stdout + done.stderr)


class _LeaveGarbage:
    """Spare five searches for garbage at the end of a run, as pytester does."""

    def pytest_configure(self, config: pytest.Config) -> None:
        if key := getattr(unraisableexception, "gc_collect_iterations_key", None):
            config.stash[key] = 0


def _run_here(path: Path, args: list[str], env: Mapping[str, str]) -> Ran:
    """Run pytest as pytester does, in a folder and an environment of its own."""
    out = io.StringIO()
    modules, paths = SysModulesSnapshot(), SysPathsSnapshot()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(out):
        patch.chdir(path)
        for name in os.environ.keys() - env:
            patch.delenv(name)
        for name, value in env.items():
            patch.setenv(name, value)
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.syspath_prepend(path)  # as `python -m pytest` does
        try:
            status = pytest.main(args, plugins=[_LeaveGarbage()])
        finally:
            modules.restore()
            paths.restore()
    return Ran(path, int(status), out.getvalue())


def _clean_environment() -> dict[str, str]:
    """Nothing of ours, and no compiled files, which a test that is written twice might run."""
    added = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**clean_environment(), **added, "COLUMNS": "200"}


def without_workers(ledger: Mapping[str, Any]) -> dict[str, Any]:
    """What a ledger holds but for when, by how many and by which workers it was made."""
    set_ups = [json.dumps({**row, "worker": None}, sort_keys=True) for row in ledger["fixtures"]]
    fixtures = [json.loads(row) for row in dict.fromkeys(set_ups)]
    return {**ledger, "run": None, "fixtures": sorted(fixtures, key=json.dumps)}

"""Shared by all tests: pytester with only the plugins a test names, and the stand-in API."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import certifi
import pytest
from _pytest.assertion.rewrite import AssertionRewritingHook
from clean_environment import clean_environment
from standin import StandIn
from warm_python import load_everything, warm_bin, warm_python

pytest_plugins = ["pytester"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A script that runs the tests in the background makes them ignore interrupts; some send one.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before hypothesis looks for the profile that an option names
def pytest_configure(config: pytest.Config) -> None:
    """In-process runs forget what they import; C extensions do not survive that, and it is slow.

    The process that waits for workers of xdist runs no test, and the workers wait for it.
    """
    # What no test is needs no assertion rewritten, which is slow.
    rewriting = [each for each in sys.meta_path if isinstance(each, AssertionRewritingHook)]
    sys.meta_path[:] = [each for each in sys.meta_path if each not in rewriting]
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        os.environ["WARM_BIN"] = str(warm_bin())
        if config.option.dist == "load":
            # Each worker begins with half of the files, so that what a module shares is seldom made
            # twice, and none waits at the end for what was dealt out to the other one.
            config.option.dist = "worksteal"
    else:
        gc.disable()  # until the tests are collected: all that is made stays
        load_everything()
    from hypothesis import HealthCheck, settings

    sys.meta_path[:0] = rewriting
    # Before a release: pytest --hypothesis-profile=release
    settings.register_profile("quick", max_examples=30, deadline=None)
    settings.register_profile(
        "release", max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck)
    )
    settings.load_profile("quick")


def pytest_collection_finish() -> None:
    """What is there by now stays; each search for garbage would go through all of it.

    A run in a test makes more objects than there may be between two searches, and few circles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every client reads the certificates of all authorities first, 30 ms that loopback spares."""
    first, end, _ = certifi.contents().partition("-----END CERTIFICATE-----\n")
    path = tmp_path_factory.mktemp("authority") / "one.pem"
    path.write_text(first + end, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ.keys() - clean_environment():
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_count_outlives_its_test() -> Iterator[None]:
    """A count that was given up ends in its own time, and what it leaves is no other test's."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("llmcost-count"):
            thread.join(10)


@pytest.fixture
def soon() -> Iterator[None]:
    """Fail what would take minutes if its time grew with a square; a busy machine takes no part."""

    def end(number: int, frame: object) -> None:
        pytest.fail("20 s of processor time were not enough")

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, 20)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """A Messages API of our own on loopback, deterministic and scriptable."""
    with StandIn() as server:
        yield server


class Project:
    """A scratch project of a user, run by pytest with just the plugins that a test names."""

    def __init__(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        self._written_at = time.time()

    def write(self, **files: str) -> Project:
        """Write files; `test_app` is `test_app.py`, `pytest_ini` is `pytest.ini`."""
        for name, text in files.items():
            file_name = "pytest.ini" if name == "pytest_ini" else f"{name.replace('__', '/')}.py"
            path = self.path / file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
            # Written twice in a second, with the same size, it would run as it was first.
            self._written_at += 1
            os.utime(path, (self._written_at, self._written_at))
        return self

    def online(self, standin: StandIn) -> Project:
        """Give the project a key, and the stand-in as the API."""
        self._monkeypatch.setenv("ANTHROPIC_BASE_URL", standin.url)
        self._monkeypatch.setenv("ANTHROPIC_API_KEY", "key-for-the-stand-in")
        return self

    def run(self, *args: str, plugins: tuple[str, ...] = ()) -> pytest.RunResult:
        """Run pytest in this process, which is fast; workers of xdist have their own."""
        if "xdist" in plugins:
            self._monkeypatch.setattr(sys, "executable", warm_python())
        arguments = _arguments(args, plugins)
        return self.pytester.runpytest_inprocess(*arguments, no_reraise_ctrlc=True)

    def run_apart(
        self, *args: str, plugins: tuple[str, ...] = (), timeout: float | None = None
    ) -> pytest.RunResult:
        """Run pytest in a process of its own, which has so many seconds to end."""
        self._monkeypatch.setattr(sys, "executable", warm_python())
        return self.pytester.runpytest_subprocess(*_arguments(args, plugins), timeout=timeout)

    def record(self, *args: str, **how: tuple[str, ...]) -> pytest.RunResult:
        """Run once with permission to count, and check that this worked."""
        result = self.run("--llmcost-record-mode=once", *args, **how)
        assert "errors" not in result.parseoutcomes(), result.stdout.str()
        return result

    def ledger(self, name: str = "ledger.json") -> dict[str, Any]:
        """Read a report that a run wrote."""
        parsed: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        return parsed


def _arguments(args: tuple[str, ...], plugins: tuple[str, ...]) -> list[str]:
    loaded = [each for name in ("llmcost", *plugins) for each in ("-p", name)]
    return [*loaded, "-p", "no:cacheprovider", *args]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A scratch project without network, key or neighbours."""
    return Project(pytester, monkeypatch)


def calls_of(project: Project) -> list[dict[str, Any]]:
    """Return the calls of all tests in the ledger of the last run."""
    return [call for test in project.ledger()["tests"] for call in test["calls"]]


@pytest.fixture
def online(project: Project, standin: StandIn) -> Project:
    """A scratch project whose API is the stand-in."""
    return project.online(standin)

"""Write down which tests exist, for `llmcost prune`: loaded by `-p` in a run that only collects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

_FLAG = "--llmcost-write-collected"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare where to write."""
    parser.addoption(_FLAG, dest="llmcost_write_collected", help="Where `llmcost prune` reads.")


@pytest.hookimpl(tryfirst=True)  # before pytest's own, which runs the session
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Collect whole files, whatever `addopts` selects; register what writes."""
    config.option.lf = False  # it makes files look as if they had no tests
    config.args = [argument.partition("::")[0] for argument in config.args]
    config.pluginmanager.register(_Collected(Path(config.getoption("llmcost_write_collected"))))


class _Collected:
    """The node ids of a run, taken before anything can deselect a test."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, set[str]] = {"tests": set(), "files": set(), "skipped": set()}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Keep a test, also one that is deselected later."""
        self._found["tests"].add(item.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep what was searched for tests, and what skipped itself."""
        self._found["files" if report.passed else "skipped"].add(str(report.nodeid))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Write all of it, with names that a conftest has given to tests."""
        self._found["tests"].update(item.nodeid for item in session.items)
        found = {name: sorted(nodeids) for name, nodeids in self._found.items()}
        collected = {"rootdir": str(session.config.rootpath), **found}
        self._path.write_text(json.dumps(collected), encoding="utf-8")

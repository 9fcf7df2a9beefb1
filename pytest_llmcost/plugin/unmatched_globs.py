"""Path budgets that limit nothing, because a folder was renamed or a name is misspelt.

Decided where the tests are collected, in a worker under xdist, before any test is deselected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

import pytest

from pytest_llmcost.budgets.path_globs import folder_of, matches, may_hold_in
from pytest_llmcost.plugin.marker import budgets_of_run
from pytest_llmcost.plugin.owners import nodeid_of
from pytest_llmcost.settings import Settings


def unmatched_globs(
    settings: Settings, session: pytest.Session, items: Sequence[pytest.Item]
) -> Iterator[str]:
    """Yield the globs that match neither a collected test nor a test file that was left out."""
    nodeids = {nodeid_of(item) for item in items}
    config = session.config
    is_partial = config.getoption("lf", False) or any("::" in arg for arg in config.args)
    # A file that was collected in part, or not at all, may have other tests that match.
    whole = set() if is_partial else {nodeid.partition("::")[0] for nodeid in nodeids}
    for pattern in {budget.pattern for budget in budgets_of_run(settings) if budget.pattern}:
        if not any(matches(pattern, nodeid) for nodeid in nodeids):
            files = _test_files(session, pattern)
            if not any(matches(pattern, each) or each not in whole for each in files):
                yield pattern


def _test_files(session: pytest.Session, pattern: str) -> Iterator[str]:
    """Yield the test files, as pytest and its plugins see them, in which a glob may hold."""
    root = session.config.rootpath
    skipped: list[str] = session.config.getini("norecursedirs")
    for folder, folders, files in os.walk(root / folder_of(pattern)):
        folders[:] = [name for name in folders if not any(fnmatch(name, each) for each in skipped)]
        for name in files:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if may_hold_in(pattern, relative) and session.gethookproxy(path).pytest_collect_file(
                file_path=path, parent=session
            ):
                yield relative

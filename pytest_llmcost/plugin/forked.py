"""Tests that run in forked children, as with pytest-forked: what their reports bring back."""

from __future__ import annotations

import json
import os
import weakref
from typing import Any

import pytest

from pytest_llmcost.plugin.session import SETS, Session

_NAME = "llmcost-forked"


def watch_forks(session: Session) -> None:
    """Watch reports from the first fork on: in other runs the hook would take longer than it may.

    Python keeps what it calls at a fork for good, so that must not keep the session.
    """
    watched = weakref.ref(session)

    def after_fork() -> None:
        session = watched()
        if session is not None and not session.config.pluginmanager.has_plugin(_NAME):
            session.config.pluginmanager.register(ForkedReports(session), _NAME)

    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_parent=after_fork)


class ForkedReports:
    """The hook of a session that has forked."""

    def __init__(self, session: Session) -> None:
        """Take what reports bring to a session."""
        self.session = session

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take what the report of a test that ran in a forked child brings from there."""
        if "llmcost_child" in vars(report):
            absorb_child(self.session, report)


def put_on_report(session: Session, report: pytest.TestReport) -> None:
    """Let the report of a test that runs in a forked child, as pytest-forked's, bring the news."""
    news: dict[str, Any] = {name: sorted(getattr(session, name)) for name in SETS}
    news |= {"pid": os.getpid(), "ledger": None}
    if session.has_spending:
        news["ledger"] = session.ledger.take_fragment()
    report.llmcost_child = json.dumps(news)  # type: ignore[attr-defined]


def absorb_child(session: Session, report: pytest.TestReport) -> None:
    """Take it off the report, in the process that forked the child."""
    news = json.loads(vars(report).pop("llmcost_child"))
    # Numbered, for a process id would differ in every run.
    names = session.forked_children
    name = names.setdefault(news["pid"], f"{session.worker or ''}fork{len(names) + 1}")
    if news["ledger"] is not None:
        session.ledger.absorb(news["ledger"], worker=name, is_child=True)
        session.changes += 1
    for each in SETS:
        getattr(session, each).update(news[each])
    if report.when == "teardown":
        session.forked_test_is_back(news["pid"])

"""Tests that run in forked children, as with pytest-forked: what their reports bring back."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from pytest_llmcost.plugin.session import SETS, Session


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

"""GitHub Actions: annotations on the lines of the tests, and the job's summary.

Source: https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pytest_llmcost.ledger.ledger import Ledger, TestRow
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.markdown import render_markdown
from pytest_llmcost.reports.wording import Mark, marks_of, not_counted, sentence

MOST_ANNOTATIONS = 10
"""GitHub shows ten errors of a step, and drops the rest."""

_SUMMARY_BYTES = 1_000_000
"""A step's summary may have 1 MiB; above that GitHub drops it whole."""
_TITLES = {"exceeded": "LLM cost over budget", "unverified": "LLM cost could not be checked"}


def render_job_summary(ledger: Ledger, *, used_bytes: int = 0) -> str:
    """Render the job's summary into the room that earlier writers to the file have left."""
    return render_markdown(ledger, most_bytes=_SUMMARY_BYTES - used_bytes)


def render_annotations(
    ledger: Ledger, *, unverified: Literal["fail", "warn"] = "fail", root: str = ""
) -> list[str]:
    """Render the broken budgets as workflow commands, the most expensive first, at most ten.

    Budgets over the whole run come first. Tests that all lack a count share one annotation, on the
    first of them. `root` is pytest's root folder relative to the repository's, for example
    `services/api`.
    """

    def urgency(mark: Mark) -> tuple[bool, bool, bool, Decimal, str]:
        verdict = mark.verdict
        level = _level(mark, unverified)
        return level != "error", bool(mark.path), verdict.kind != "usd", -verdict.low, mark.name

    cause = not_counted(ledger)
    marks = [mark for mark in marks_of(ledger) if mark.verdict.state != "within"]
    if cause is not None:
        marks = [mark for mark in marks if not _is_in(mark, cause.nodeids)]
    commands = [
        _command(_level(mark, unverified), mark.verdict.state, _text(mark), mark, root)
        for mark in sorted(marks, key=urgency)
    ]
    if cause is not None:
        first = cause.tests[0]
        level = "error" if unverified == "fail" else "warning"
        text = "\n".join(cause.lines())
        commands.insert(0, _command(level, "unverified", text, first, root))
    return commands[:MOST_ANNOTATIONS]


def _is_in(mark: Mark, nodeids: frozenset[str]) -> bool:
    return mark.verdict.state == "unverified" and mark.name in nodeids


def _level(mark: Mark, unverified: str) -> str:
    return "error" if mark.verdict.state == "exceeded" or unverified == "fail" else "warning"


def _text(mark: Mark) -> str:
    verdict = mark.verdict
    name = f"{clean(mark.name)}: " if mark.name else ""
    reasons = verdict.reasons if verdict.state == "unverified" else ()
    return "\n".join([f"{name}{sentence(verdict)}", *reasons])


def _command(level: str, state: str, text: str, where: Mark | TestRow, root: str) -> str:
    message = "\n".join(clean(each, 500) for each in text.split("\n"))
    properties = {"title": _TITLES[state]}
    if where.path:
        path = f"{root.rstrip('/')}/{where.path}" if root.strip("./") else where.path
        properties |= {"file": path, "line": str(where.line or 1)}
    listed = ",".join(f"{key}={_escape_property(properties[key])}" for key in sorted(properties))
    return f"::{level} {listed}::{_escape(message)}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape(text).replace(":", "%3A").replace(",", "%2C")

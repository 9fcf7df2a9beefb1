"""GitHub Actions: annotations on the lines of the tests, and the job's summary.

Source: https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from pytest_llmcost.ledger.ledger import Ledger, TestRow
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.markdown import render_markdown
from pytest_llmcost.reports.run_wording import Mark, marks_of, not_counted
from pytest_llmcost.reports.wording import sentence

MOST_ANNOTATIONS = 10
"""GitHub shows ten errors of a step, and drops the rest."""
_SUMMARY_BYTES = 1_000_000
"""A step's summary may have 1 MiB; above that GitHub drops it whole."""
_TITLES = {"exceeded": "LLM cost over budget", "unverified": "LLM cost could not be checked"}


def render_job_summary(ledger: Ledger, *, used_bytes: int = 0) -> str:
    """Render the job's summary into the room that earlier writers to the file have left."""
    return render_markdown(ledger, most_bytes=_SUMMARY_BYTES - used_bytes)


def render_annotations(ledger: Ledger, *, root: str = "") -> list[str]:
    """Render the broken budgets as workflow commands, the most expensive first, at most ten.

    Budgets over the whole run come first. Tests that all lack a count share one annotation, on the
    first of them. `root` is pytest's root folder relative to the repository's, for example
    `services/api`.
    """
    is_hard = ledger.unverified == "fail"
    levels = {"exceeded": "error", "unverified": "error" if is_hard else "warning"}
    cause = not_counted(ledger)
    commands = []
    if cause.tests:
        first = next(iter(cause.tests.values()))
        commands.append(_command(levels["unverified"], "unverified", cause.lines(), first, root))

    # Warnings last, then what concerns single tests, then what is no money.
    def urgency(mark: Mark) -> tuple[bool, bool, bool, Decimal, str]:
        verdict, is_warning = mark.verdict, levels[mark.verdict.state] != "error"
        return is_warning, bool(mark.path), verdict.kind != "usd", -verdict.low, mark.name

    marks = [
        mark
        for mark in marks_of(ledger)
        if mark.verdict.state != "within" and not cause.explains(mark.name, mark.verdict.state)
    ]
    for mark in sorted(marks, key=urgency)[: MOST_ANNOTATIONS - len(commands)]:
        verdict, state = mark.verdict, mark.verdict.state
        name = f"{clean(mark.name)}: " if mark.name else ""
        reasons = cause.open_reasons(verdict.reasons) if state == "unverified" else ()
        lines = [f"{name}{sentence(verdict)}", *reasons]
        commands.append(_command(levels[state], state, lines, mark, root))
    return commands


def _command(level: str, state: str, lines: Iterable[str], where: Mark | TestRow, root: str) -> str:
    properties = {"title": _TITLES[state]}
    if where.path:
        path = f"{root.rstrip('/')}/{where.path}" if root.strip("./") else where.path
        properties |= {"file": path, "line": str(where.line or 1)}
    # A comma or a colon would end a property; an end of line ends any command.
    listed = ",".join(
        f"{key}={_escape(properties[key]).replace(':', '%3A').replace(',', '%2C')}"
        for key in sorted(properties)
    )
    return f"::{level} {listed}::{_escape(chr(10).join(clean(each, 500) for each in lines))}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

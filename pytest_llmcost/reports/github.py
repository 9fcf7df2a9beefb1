"""GitHub Actions: annotations on the lines of the tests, and the job's summary.

Source: https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from pytest_llmcost.ledger.ledger import Ledger
from pytest_llmcost.reports.markdown import render_markdown
from pytest_llmcost.reports.plain_text import clean
from pytest_llmcost.reports.run_wording import Finding, findings

MOST_ANNOTATIONS = 10
"""GitHub shows ten errors of a step, and drops the rest."""
_SUMMARY_BYTES = 1_000_000
"""A step's summary may have 1 MiB; above that GitHub drops it whole."""
_TITLES = {"exceeded": "LLM cost over budget", "unverified": "LLM cost could not be checked"}
_BROKEN_RULE = "LLM cost rule broken"


def render_job_summary(ledger: Ledger, *, used_bytes: int = 0) -> str:
    """Render the job's summary into the room that earlier writers to the file have left."""
    return render_markdown(ledger, most_bytes=_SUMMARY_BYTES - used_bytes)


def render_annotations(ledger: Ledger, *, root: str = "") -> list[str]:
    """Render the broken budgets as workflow commands, the most expensive first, at most ten.

    Budgets over the whole run come before those of tests. Tests that all lack a count share one
    annotation, on the first of them. `root` is pytest's root folder relative to the repository's,
    for example `services/api`.
    """
    is_hard = ledger.unverified == "fail"
    levels = {"exceeded": "error", "unverified": "error" if is_hard else "warning"}
    found = [each for each in findings(ledger) if each.state in levels]
    return [_command(levels[each.state], each, root) for each in found[:MOST_ANNOTATIONS]]


def _command(level: str, found: Finding, root: str) -> str:
    is_rule = found.state == "exceeded" and found.verdict is not None and found.verdict.is_rule
    properties = {"title": _BROKEN_RULE if is_rule else _TITLES[found.state]}
    if found.path:
        path = f"{root.rstrip('/')}/{found.path}" if root.strip("./") else found.path
        properties |= {"file": path, "line": str(found.line or 1)}
    name = f"{clean(found.name)}: " if found.name else ""
    lines = (f"{name}{found.text}", *found.more)
    # A comma or a colon would end a property; an end of line ends any command.
    listed = ",".join(
        f"{key}={_escape(properties[key]).replace(':', '%3A').replace(',', '%2C')}"
        for key in sorted(properties)
    )
    return f"::{level} {listed}::{_escape(chr(10).join(clean(each, 500) for each in lines))}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")

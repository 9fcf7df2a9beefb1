"""GitHub Actions: annotations on the lines of the tests, and the job's summary.

Data flow: Report -> `render_annotations` -> workflow commands for standard output;
Report -> `render_job_summary` -> Markdown for the file that GITHUB_STEP_SUMMARY names.
Source: https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.ledger.ledger import Ledger
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.markdown import render_markdown
from pytest_llmcost.reports.wording import Mark, marks_of, render_headline

MOST_ANNOTATIONS = 10
"""GitHub shows ten errors of a step, and drops the rest."""

_SUMMARY_BYTES = 1_000_000
"""A step's summary may have 1 MiB; above that GitHub drops it whole."""


def render_job_summary(ledger: Ledger, *, used_bytes: int = 0) -> str:
    """Render the job's summary into the room that earlier writers to the file have left."""
    return render_markdown(ledger, most_bytes=_SUMMARY_BYTES - used_bytes)


def render_annotations(
    ledger: Ledger, *, unverified: Literal["fail", "warn"] = "fail", root: str = ""
) -> list[str]:
    """Render the broken ceilings as workflow commands, the dearest first, at most ten.

    Those over the whole run come before all others. `root` is pytest's root folder relative to
    the repository's, `services/api` say; unverified ceilings are warnings where they do not fail.
    """
    broken = [mark for mark in marks_of(ledger) if mark.verdict.state != "within"]
    return [
        _command(mark, "error" if _is_error(mark.verdict, unverified) else "warning", root)
        for mark in sorted(broken, key=lambda mark: _urgency(mark, unverified))[:MOST_ANNOTATIONS]
    ]


def _is_error(verdict: Verdict, unverified: str) -> bool:
    return verdict.state == "exceeded" or unverified == "fail"


def _urgency(mark: Mark, unverified: str) -> tuple[bool, bool, bool, Decimal, str]:
    verdict = mark.verdict
    return (
        not _is_error(verdict, unverified),
        bool(mark.path),
        verdict.kind != "usd",
        -verdict.low,
        mark.name,
    )


def _command(mark: Mark, level: str, root: str) -> str:
    verdict = mark.verdict
    about = " ".join(filter(None, (mark.words, clean(mark.name))))
    text = f"{about}: {render_headline(verdict)}"
    if verdict.origin:
        text += f" ({verdict.origin})"
    reasons = verdict.reasons if verdict.state == "unverified" else ()
    message = "\n".join(clean(each, 500) for each in (text, *reasons))
    properties = {"title": f"LLM cost {verdict.state}"}
    if mark.path:
        properties["file"] = f"{root.rstrip('/')}/{mark.path}" if root.strip("./") else mark.path
        properties["line"] = str(mark.line or 1)
    stated = ",".join(f"{key}={_escape_property(properties[key])}" for key in sorted(properties))
    return f"::{level} {stated}::{_escape(message)}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape(text).replace(":", "%3A").replace(",", "%2C")

"""Write a run's total as a badge, or its figures for a tool that draws their trend, or for CI."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.cli import console
from pytest_llmcost.ledger.ledger import Comparison, Ledger, read_ledger, write_file
from pytest_llmcost.money import plain_usd
from pytest_llmcost.reports.comparisons import change_of
from pytest_llmcost.reports.markdown import describe_run
from pytest_llmcost.reports.plain_text import clean
from pytest_llmcost.reports.run_wording import (
    describe_budgets,
    describe_total,
    last_attempts,
    marks_of,
    marks_of_run,
)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("ledger", type=read_ledger, help="a JSON ledger written with --llmcost-report")
    where = "where to write (default: -, which prints it)"
    add("-o", "--output", default="-", metavar="FILE", help=where)
    add("--label", default="prompts", help="the left side of the badge (default: %(default)s)")
    add(
        "--format",
        choices=("shields", "benchmark-action", "github-output"),
        default="shields",
        help="a badge for shields.io's endpoint, the list that benchmark-action reads as "
        "customSmallerIsBetter, or lines for $GITHUB_OUTPUT (default: %(default)s)",
    )


def run(arguments: Namespace) -> int:
    """Write or print the figures."""
    ledger = arguments.ledger
    if arguments.format == "github-output":
        text = "".join(f"{name}={value}\n" for name, value in _outputs(ledger).items()).encode()
    else:
        is_badge = arguments.format == "shields"
        value = _badge(ledger, arguments.label) if is_badge else list(_trend(ledger))
        text = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    if arguments.output == "-":
        console.write_document(text.decode().rstrip("\n"))
    else:
        write_file(arguments.output, [text])
    return 0


def _badge(ledger: Ledger, label: str) -> dict[str, Any]:
    """Return the badge: the total as in every report, in the colour of the budgets and the run.

    Source: the schema at https://shields.io/badges/endpoint-badge (2026-11-25)
    """
    is_sure = not ledger.run.exit_status and ledger.complete and not ledger.totals.is_least
    of_broken = {"exceeded": "red", "unverified": "orange"}
    state, _ = describe_budgets(ledger)
    color = of_broken.get(state, "brightgreen" if is_sure else "orange")
    message = describe_total(ledger)
    return {"schemaVersion": 1, "label": clean(label), "message": message, "color": color}


def _trend(ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Yield the total and the last attempt of each test; what has no price at all is left out.

    Source: `BenchmarkResult` in src/extract.ts of benchmark-action/github-action-benchmark, and
    "customSmallerIsBetter" in its README (2026-11-25)
    """
    figures = [("total", ledger.totals.usd, ledger.totals.is_least)]
    figures += [
        (clean(test.nodeid, 2_000), test.usd, Amounts.of(test.calls).is_least)
        for test in last_attempts(ledger.tests)
        if test.calls
    ]
    for name, usd, is_lower in figures:
        if usd is not None:
            # A number is written digit by digit, because a float may not hold all of them.
            point = {"name": name, "unit": "USD", "value": msgspec.Raw(plain_usd(usd).encode())}
            yield {**point, "extra": "a lower bound"} if is_lower else point


def _outputs(ledger: Ledger) -> dict[str, str]:
    """Return what a step of GitHub Actions hands on; empty is what is not known."""
    comparison = ledger.comparison if ledger.run.has_tests else None
    comparison = comparison or Comparison(base_usd=None, head_usd=None)
    base, change, share = comparison.base_usd, change_of(comparison), ""
    if base and change is not None and not comparison.base_is_least:
        share = str((change * 100 / base).quantize(Decimal("0.1")))
    # What a test breaks has failed it, unless it was skipped, and is in the status of the run.
    is_broken = any(mark.verdict.fails(ledger.unverified) for mark in marks_of_run(ledger))
    return {
        "total-usd": "" if ledger.totals.usd is None else plain_usd(ledger.totals.usd),
        "change-usd": "" if change is None else plain_usd(change),
        "change-percent": share,
        "passed": str(not (is_broken or ledger.run.exit_status)).lower(),
        "exceeded": str(sum(mark.verdict.state == "exceeded" for mark in marks_of(ledger))),
        "title": describe_run(ledger),
    }

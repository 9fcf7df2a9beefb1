"""Compare a ledger with an earlier one: what grew, by how much, and whether it may."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from msgspec.structs import replace

from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.budgets.increase import IncreaseLimit, parse_increase
from pytest_llmcost.cli.options import (
    Console,
    add_output_option,
    add_prices_option,
    read_card,
    read_output_paths,
    write_output,
)
from pytest_llmcost.compare.baseline import compare
from pytest_llmcost.ledger.ledger import Change, Comparison
from pytest_llmcost.ledger.ledger_file import read_ledger, to_json
from pytest_llmcost.money import format_usd
from pytest_llmcost.reports.comparisons import format_signed
from pytest_llmcost.reports.markdown import render_markdown
from pytest_llmcost.reports.tables import render_table
from pytest_llmcost.reports.wording import render_headline

_HEADS = ("changed", "before", "now", "difference", "what differs")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("base", help="the earlier ledger")
    parser.add_argument("head", help="the ledger to judge")
    add_limit = parser.add_argument
    add_limit(
        "--max-increase",
        action="append",
        default=[],
        metavar="LIMIT",
        help="most that the run may add, 10%% or $0.05; of several, either breaks",
    )
    add_limit(
        "--max-test-increase",
        action="append",
        default=[],
        metavar="LIMIT",
        help="most that any single test may add",
    )
    parser.add_argument(
        "--format",
        choices=("text", "json", "md"),
        default="text",
        help="md is the ledger to judge as a pull-request comment, with what it changes",
    )
    add_output_option(parser, "the ledger to judge, with the comparison in it")
    add_prices_option(parser)


def run(arguments: Namespace, console: Console) -> int:
    """Compare, print, and return 1 when an increase is exceeded or unverified."""
    paths = read_output_paths(arguments)
    head = read_ledger(arguments.head)
    comparison = compare(
        read_ledger(arguments.base),
        head,
        read_card(arguments.prices),
        limits=_limits(arguments.max_increase, "max_increase"),
        test_limits=_limits(arguments.max_test_increase, "max_test_increase"),
    )
    if arguments.format == "json":
        console.print(json.dumps(to_json(comparison), indent=2))
    elif arguments.format == "md":
        console.print(render_markdown(replace(head, comparison=comparison)).rstrip("\n"))
    else:
        console.print("\n".join(_render(comparison)))
    for path in paths:
        write_output(replace(head, comparison=comparison), path)
    return 1 if any(verdict.state != "within" for verdict in _verdicts(comparison)) else 0


def _limits(texts: list[str], label: str) -> list[IncreaseLimit]:
    origin = f"--{label.replace('_', '-')}"
    return [parse_increase(text, origin=origin, label=label) for text in texts]


def _verdicts(comparison: Comparison) -> Iterator[Verdict]:
    yield from comparison.verdicts
    for change in comparison.changes:
        yield from change.verdicts


def _render(comparison: Comparison) -> Iterator[str]:
    base, head = comparison.base_usd, comparison.head_usd
    share = ""
    if base and head is not None and comparison.change_usd:
        share = f" ({(head - base) / base:+.1%})"
    yield (
        f"{format_signed(comparison.change_usd)}{share}: {format_usd(base)} before, "
        f"{format_usd(head)} now, {comparison.unchanged:,} unchanged"
    )
    if comparison.price_change_usd:
        yield (
            f"prices alone: {format_signed(comparison.price_change_usd)} since "
            f"{comparison.base_price_date}, for the same calls; left out above"
        )
    if comparison.changes:
        rows = [_row(change) for change in comparison.changes]
        yield from ("", render_table(_HEADS, rows, notes=1), "")
    for verdict in comparison.verdicts:
        yield _verdict(verdict, "suite")
    for change in comparison.changes:
        yield from (_verdict(verdict, change.name) for verdict in change.verdicts)
    yield from comparison.notes


def _verdict(verdict: Verdict, name: str) -> str:
    reasons = f" ({'; '.join(verdict.reasons)})" if verdict.state == "unverified" else ""
    return f"{name}: increase {verdict.state}, {render_headline(verdict)}{reasons}"


def _row(change: Change) -> list[str]:
    return [
        change.name,
        "-" if change.status == "new" else format_usd(change.base_usd),
        "-" if change.status == "removed" else format_usd(change.head_usd),
        format_signed(change.usd),
        ", ".join(_what_differs(change)),
    ]


def _what_differs(change: Change) -> Iterator[str]:
    if change.status != "changed":
        yield change.status
        return
    for category, tokens in change.tokens.items():
        yield f"{category.removesuffix('_tokens')} {tokens:+,}"
    if change.calls:
        yield f"calls {change.calls:+,}"
    yield from change.parts

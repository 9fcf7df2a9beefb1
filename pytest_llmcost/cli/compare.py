"""Compare a ledger with an earlier one: what grew, by how much, and whether it may."""

from __future__ import annotations

import json
import shutil
from argparse import ArgumentParser, Namespace
from typing import Any

from msgspec.structs import replace

from pytest_llmcost.budgets.increase import IncreaseLimit, parse_increase
from pytest_llmcost.cli.console import (
    Console,
    add_output_option,
    add_prices_option,
    read_card,
    read_output_paths,
    write_output,
)
from pytest_llmcost.compare.baseline import compare
from pytest_llmcost.ledger.ledger import Comparison, Ledger
from pytest_llmcost.ledger.ledger_file import read_ledger, to_json
from pytest_llmcost.reports.comparisons import render_comparison
from pytest_llmcost.reports.markdown import render_markdown
from pytest_llmcost.reports.terminal import render_verdicts


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("base", help="the earlier ledger")
    add("head", help="the ledger to judge")
    limit: dict[str, Any] = {"action": "append", "default": [], "metavar": "LIMIT"}
    add(
        "--max-increase",
        **limit,
        help="the most that the run may add, 10%% or $0.05; if repeated, all of them hold",
    )
    add("--max-test-increase", **limit, help="the most that any single test may add")
    add(
        "--format",
        choices=("text", "json", "md"),
        default="text",
        help="md is the ledger to judge as a pull-request comment, with what it changes",
    )
    add_output_option(parser, "the ledger to judge, with the comparison in it")
    add_prices_option(parser)


def run(arguments: Namespace, console: Console) -> int:
    """Compare, print, and return 1 if an increase is exceeded or could not be checked."""
    paths = read_output_paths(arguments)
    head = read_ledger(arguments.head)
    comparison = compare(
        read_ledger(arguments.base),
        head,
        read_card(arguments.prices),
        limits=_limits(arguments.max_increase, "max_increase"),
        test_limits=_limits(arguments.max_test_increase, "max_test_increase"),
    )
    compared = replace(head, comparison=comparison)
    if arguments.format == "json":
        console.print(json.dumps(to_json(comparison), indent=2))
    elif arguments.format == "md":
        console.print(render_markdown(compared).rstrip("\n"))
    else:
        console.print(_render(comparison))
    for path in paths:
        write_output(compared, path)
    verdicts = [
        *comparison.verdicts,
        *(each for row in comparison.changes for each in row.verdicts),
    ]
    return 1 if any(verdict.state != "within" for verdict in verdicts) else 0


def _limits(texts: list[str], label: str) -> list[IncreaseLimit]:
    origin = f"--{label.replace('_', '-')}"
    return [parse_increase(text, origin=origin, label=label) for text in texts]


def _render(comparison: Comparison) -> str:
    width = shutil.get_terminal_size().columns
    lines = render_comparison(comparison, width, most=0)
    verdicts = render_verdicts(Ledger(comparison=comparison), width)
    return "\n".join(line.text for line in [*lines, *verdicts])

"""Suggest budgets that today's run would keep: a marker for each test, a line for each file.

Nothing is written to your files.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from decimal import Decimal

from pytest_llmcost.amounts import Amounts, most
from pytest_llmcost.cli.console import Console
from pytest_llmcost.ledger.ledger import Ledger
from pytest_llmcost.ledger.ledger_file import read_ledger
from pytest_llmcost.ledger.totals import amounts_of
from pytest_llmcost.money import EXACT, format_whole_usd, parse_percent
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.wording import dollars, round_up


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("ledger", help="the ledger of a run, from --llmcost-report=ledger.json")
    parser.add_argument(
        "--headroom",
        default="25%",
        metavar="PERCENT",
        help="how much a budget is above today's cost (default: 25%%)",
    )


def run(arguments: Namespace, console: Console) -> int:
    """Print the budgets, and return 1 if a cost is unknown, so that one is missing."""
    factor = EXACT.add(parse_percent(arguments.headroom), Decimal(1))
    ledger = read_ledger(arguments.ledger)
    tests: dict[str, list[Amounts]] = {}
    for test in ledger.tests:
        if test.calls:  # a marker on a test is for all of its cases
            tests.setdefault(test.nodeid.partition("[")[0], []).append(Amounts.of(test.calls))
    unknown = [
        *_print_markers({name: most(found) for name, found in tests.items()}, factor, console),
        *_print_paths(ledger, {name.partition("::")[0] for name in tests}, factor, console),
    ]
    for name in unknown:
        console.note(f"{clean(name)}: no budget, because its cost is unknown")
    return 1 if unknown else 0


def _print_markers(tests: dict[str, Amounts], factor: Decimal, console: Console) -> list[str]:
    unknown = []
    for name, spent in sorted(tests.items()):
        limit = _limit(spent, factor)
        if limit is None:
            unknown.append(name)
            continue
        today = f"# {clean(name)} costs {dollars(spent['usd'].high)}"
        console.print(f'@max_cost("{limit}")  {today}')
    return unknown


def _print_paths(
    ledger: Ledger, paths: Iterable[str], factor: Decimal, console: Console
) -> list[str]:
    unknown, lines = [], []
    for path in sorted(paths):
        limit = _limit(amounts_of(ledger, path), factor)
        if limit is None:
            unknown.append(path)
        else:
            lines.append(f"    {clean(path)} = {limit}")
    if lines:
        console.print("\n".join(["", "llmcost_budgets =", *lines]))
    return unknown


def _limit(spent: Amounts, factor: Decimal) -> str | None:
    """Write a round budget above the most that it may have cost; None if that is unknown."""
    high = spent["usd"].high
    if high is None:
        return None
    return format_whole_usd(round_up(EXACT.multiply(high, factor), -9)).replace(",", "")

"""Suggest budgets that today's run would keep: a marker for each test, a line for each file.

Nothing is written to your files.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from decimal import Decimal

from pytest_llmcost.amounts import Amounts, most
from pytest_llmcost.cli.console import Console
from pytest_llmcost.ledger.ledger_file import read_ledger
from pytest_llmcost.ledger.totals import amounts_of
from pytest_llmcost.money import EXACT, format_whole_usd, parse_percent
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.wording import dollars, round_up


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("ledger", type=read_ledger, help="the ledger of a run, from --llmcost-report=ledger.json")
    add(
        "--headroom",
        type=parse_percent,
        default="25%",
        metavar="PERCENT",
        help="how much a budget is above today's cost (default: 25%%)",
    )


def run(arguments: Namespace, console: Console) -> int:
    """Print the budgets, and return 1 if a cost is unknown, so that one is missing."""
    ledger, factor = arguments.ledger, EXACT.add(arguments.headroom, Decimal(1))
    unknown = []

    def limit(name: str, amounts: Amounts) -> str | None:
        """Write a round budget above the most that it may have cost."""
        high = amounts["usd"].high
        if high is None:
            unknown.append(name)
            return None
        return format_whole_usd(round_up(EXACT.multiply(high, factor), -9)).replace(",", "")

    tests: dict[str, list[Amounts]] = {}
    for test in ledger.tests:
        if test.calls:  # a marker on a test is for all of its cases
            tests.setdefault(test.nodeid.partition("[")[0], []).append(Amounts.of(test.calls))
    for name, cases in sorted(tests.items()):
        amounts = most(cases)
        if budget := limit(name, amounts):
            today = f"{clean(name)} costs {dollars(amounts['usd'].high)}"
            console.print(f'@max_cost("{budget}")  # {today}')
    lines = [
        f"    {clean(path)} = {budget}"
        for path in sorted({name.partition("::")[0] for name in tests})
        if (budget := limit(path, amounts_of(ledger, path)))
    ]
    if lines:
        console.print("\n".join(["", "llmcost_budgets =", *lines]))
    for name in unknown:
        console.note(f"{clean(name)}: no budget, because its cost is unknown")
    return 1 if unknown else 0

"""Suggest budgets that today's run would keep: a marker for each test, a line for each file.

With `--ratchet` it names the budgets that could be lower. Nothing is written to your files.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from decimal import Decimal
from itertools import chain

from msgspec.structs import replace

from pytest_llmcost.amounts import Amounts, most
from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.cli.console import Console
from pytest_llmcost.ledger.ledger import Ledger, own_verdicts
from pytest_llmcost.ledger.ledger_file import read_ledger
from pytest_llmcost.ledger.totals import amounts_of
from pytest_llmcost.money import EXACT, format_whole_usd, parse_percent
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.numbers import dollars, round_up
from pytest_llmcost.reports.run_wording import describe_partial
from pytest_llmcost.reports.wording import limit_of


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
    add(
        "--ratchet",
        action="store_true",
        help="instead name the budgets that have more headroom than that, and what to lower them "
        "to; exit status 1 if there are any",
    )


def run(arguments: Namespace, console: Console) -> int:
    """Print the budgets, and return 1 if a cost is unknown, so that one is missing."""
    ledger, factor = arguments.ledger, EXACT.add(arguments.headroom, Decimal(1))
    if arguments.ratchet:
        return _ratchet(ledger, lambda spent: EXACT.multiply(spent, factor), console)
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


def _ratchet(ledger: Ledger, add_headroom: Callable[[Decimal], Decimal], console: Console) -> int:
    """Print the budgets that could be lower, and return 1 if there are any.

    A budget may limit many tests one by one: the one that spent most keeps its headroom, and a
    budget that any of them did not keep stays as it is.
    """
    of_run = ledger.verdicts if ledger.complete else ()
    if not ledger.complete:
        console.note(f"{describe_partial(ledger)}; those of the suite and of paths are left out")
    groups: dict[tuple[object, ...], list[Verdict]] = {}
    for verdict in chain(of_run, *map(own_verdicts, ledger.tests)):
        if verdict.limit:  # neither an allowed model nor a budget of nothing
            key = (verdict.origin, verdict.kind, verdict.pattern, verdict.limit)
            groups.setdefault(key, []).append(verdict)
    lines = []
    for group in groups.values():
        first, spent = group[0], max(verdict.high or Decimal(0) for verdict in group)
        # What nothing was spent against may be there for a test that was skipped.
        if not spent or any(verdict.state != "within" for verdict in group):
            continue
        limit = round_up(add_headroom(spent), -9 if first.quantity == "usd" else 0)
        if limit < first.limit:
            now, then, used = (
                limit_of(replace(first, limit=each)) for each in (first.limit, limit, spent)
            )
            about = f" for {first.pattern}" if first.pattern else ""
            lines.append(clean(f"{first.origin}: lower {now}{about} to {then} (used: {used})"))
    for line in sorted(lines):
        console.print(line)
    return 1 if lines else 0

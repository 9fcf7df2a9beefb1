"""Compare a ledger with an earlier one: what grew, by how much, and whether it may."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from itertools import chain
from pathlib import Path

from msgspec.structs import replace

from pytest_llmcost.budgets.budget import IncreaseLimit, parse_increase
from pytest_llmcost.cli import console
from pytest_llmcost.compare.baseline import compare, naming_baseline
from pytest_llmcost.ledger.ledger import Ledger, read_ledger, to_json
from pytest_llmcost.reports.comparisons import render_comparison
from pytest_llmcost.reports.markdown import render_markdown
from pytest_llmcost.reports.plain_text import as_text
from pytest_llmcost.reports.report_file import write_report
from pytest_llmcost.reports.terminal import render_verdicts


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("base", type=Path, help="the earlier ledger")
    add("head", type=read_ledger, help="the ledger to judge")
    console.add_settings(parser, "max_increase", "max_test_increase", "vanished", "baseline_fetch")
    what = "md is the ledger to judge as a pull-request comment, with what it changes"
    add("--format", choices=("text", "json", "md"), default="text", help=what)
    console.add_output(parser, "the ledger to judge, with the comparison in it")
    console.add_prices(parser)


def run(arguments: Namespace) -> int:
    """Compare, print, and return 1 if an increase is exceeded or could not be checked.

    With `llmcost_unverified = warn` in the run that is judged, the latter does not fail.
    """

    def increases(name: str) -> list[IncreaseLimit]:
        origin, texts = f"--{name.replace('_', '-')}", getattr(arguments, name)
        return [parse_increase(text, origin=origin, label=name) for text in texts]

    comparison = compare(
        read_ledger(arguments.base),
        arguments.head,
        console.read_card(arguments),
        limits=increases("max_increase"),
        test_limits=increases("max_test_increase"),
        vanished=arguments.vanished,
        vanished_origin="--vanished",
    )
    comparison = naming_baseline(comparison, arguments.base, arguments.baseline_fetch or "")
    compared = replace(arguments.head, comparison=comparison)
    alone = Ledger(comparison=comparison)
    of_changes = (change.verdicts for change in comparison.changes)
    verdicts = [*comparison.verdicts, *chain.from_iterable(of_changes)]
    if arguments.format == "json":
        console.write_json(to_json(comparison))
    elif arguments.format == "md":
        console.write_document(render_markdown(compared).rstrip("\n"))
    else:
        screen = console.screen()
        judged = render_verdicts(alone, screen) if verdicts else ()
        console.write(as_text(chain(render_comparison(comparison, screen, most=0), judged)))
    for path in arguments.output:
        write_report(compared, path)
    return 1 if any(verdict.fails(arguments.head.unverified) for verdict in verdicts) else 0

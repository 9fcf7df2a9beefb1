"""Add up the ledgers of one suite's shards, and judge the suite as a whole."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from pytest_llmcost.budgets.budget import Budget, Verdict
from pytest_llmcost.cli.console import Console, add_output_option, read_output_paths, write_output
from pytest_llmcost.ledger.ledger import Ledger, TestRow, own_verdicts
from pytest_llmcost.ledger.ledger_file import read_ledger, render_json
from pytest_llmcost.ledger.shards import merge_ledgers
from pytest_llmcost.money import parse_usd
from pytest_llmcost.reports.tables import format_count
from pytest_llmcost.reports.wording import describe_partial, describe_total, dollars, sentence


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("shard", nargs="+", help="a JSON report of --llmcost-report")
    add_output_option(parser, "the merged ledger")
    parser.add_argument(
        "--max-suite",
        metavar="USD",
        help="the budget of the whole suite (default: the one that all shards have)",
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="the shards together are the whole suite, whatever each of them left out",
    )


def run(arguments: Namespace, console: Console) -> int:
    """Merge, write and judge; return 1 if a budget is exceeded or could not be checked.

    A suite is not whole if one of its shards lost calls.
    """
    limit = None if arguments.max_suite is None else _budget(arguments.max_suite)
    paths = read_output_paths(arguments)
    shards = ((path, read_ledger(path)) for path in arguments.shard)
    ledger = merge_ledgers(shards, max_suite=limit, is_whole=arguments.whole)
    for path in paths:
        write_output(ledger, path)
    if paths:
        console.print(_describe(ledger, arguments))
    else:
        console.print(render_json(ledger).decode().rstrip("\n"))
        console.note(_describe(ledger, arguments))
    is_broken = any(each.fails(ledger.unverified) for each in ledger.verdicts)
    has_lost = arguments.whole and bool(ledger.lost_calls)
    return 1 if is_broken or has_lost or any(_broken_tests(ledger)) else 0


def _budget(text: str) -> Budget:
    return Budget(scope="suite", limit=parse_usd(text), origin="--max-suite", label="max_suite")


def _broken_tests(ledger: Ledger) -> Iterator[tuple[TestRow, Verdict]]:
    """Yield the tests that failed by a budget of their own; of reruns the last attempt counts.

    A test may have passed although its budget could not be checked (`llmcost_unverified = warn`).
    """
    last = {test.nodeid: test for test in ledger.tests}  # sorted by attempt
    for test in last.values():
        failed = test.outcome in ("failed", "error")
        for verdict in own_verdicts(test):
            is_hard = verdict.state == "exceeded" and test.outcome != "xfailed"
            if is_hard or (failed and verdict.state == "unverified"):
                yield test, verdict
                break


def _describe(ledger: Ledger, arguments: Namespace) -> str:
    totals = ledger.totals
    into = f" into {', '.join(arguments.output)}" if arguments.output else ""
    line = (
        f"merged {format_count(len(arguments.shard), 'ledger')}{into}: "
        f"{format_count(len(ledger.tests), 'test attempt')}, "
        f"{format_count(totals.calls, 'call')}, {describe_total(ledger)} at list price, "
        f"{dollars(totals.live_usd)} spent live"
    )
    return "\n".join([line, *_verdict_lines(ledger)])


def _verdict_lines(ledger: Ledger) -> Iterator[str]:
    for verdict in ledger.verdicts:
        yield sentence(verdict)
        yield from (f"  {reason}" for reason in verdict.reasons)
    for test, verdict in _broken_tests(ledger):
        yield f"{test.nodeid}: {sentence(verdict)}"
    if not ledger.complete:
        yield describe_partial(ledger)

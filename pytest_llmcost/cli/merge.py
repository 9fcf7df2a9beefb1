"""Add up the ledgers of one suite's shards, and judge the suite as a whole."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pytest_llmcost.budgets.budget import Budget
from pytest_llmcost.cli import console
from pytest_llmcost.compare.other_model import with_other_models
from pytest_llmcost.ledger.ledger import own_verdicts, read_ledger, render_json
from pytest_llmcost.ledger.shards import merge_ledgers
from pytest_llmcost.reports.plain_text import format_count
from pytest_llmcost.reports.report_file import write_report
from pytest_llmcost.reports.run_wording import (
    describe_live,
    describe_partial,
    describe_total,
    last_attempts,
    run_advice,
)
from pytest_llmcost.reports.wording import sentence


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("shard", nargs="+", help="a JSON report of --llmcost-report")
    console.add_output(parser, "the merged ledger")
    what = "the budget of the whole suite (default: the one that all shards have)"
    console.add_settings(parser, "max_suite", help=what)
    what = "the shards together are the whole suite, whatever each of them left out"
    parser.add_argument("--whole", action="store_true", help=what)
    what = "TOML file with the shards' own prices, for their sum on other models; repeatable"
    console.add_settings(parser, "prices", action="append", default=[], help=what)


def run(arguments: Namespace) -> int:
    """Merge, write and judge; return 1 if a budget is exceeded or could not be checked.

    A suite is not whole if one of its shards was interrupted, stopped, or lost calls.
    """
    usd, limit = arguments.max_suite, None
    if usd is not None:
        limit = Budget(scope="suite", limit=usd, origin="--max-suite", label="max_suite")
    shards = ((path, read_ledger(path)) for path in arguments.shard)
    ledger = merge_ledgers(shards, max_suite=limit, is_whole=arguments.whole)
    if models := [other.model for other in ledger.other_models]:
        ledger = with_other_models(ledger, models, console.read_card(arguments))
    broken = []
    for test in last_attempts(ledger.tests):  # of reruns the last attempt counts
        # It may have passed although a budget could not be checked: `llmcost_unverified = warn`.
        is_failed = test.outcome in ("failed", "error")
        fatal = ("exceeded", "unverified") if is_failed else ("exceeded",)
        verdicts = [each for each in own_verdicts(test) if each.state in fatal]
        if verdicts and test.outcome != "xfailed":
            broken.append(f"{test.nodeid}: {sentence(verdicts[0])}")
    for path in arguments.output:
        write_report(ledger, path)
    into = f" into {', '.join(map(str, arguments.output))}" if arguments.output else ""
    lines = [
        f"merged {format_count(len(arguments.shard), 'ledger')}{into}: "
        f"{format_count(len(ledger.tests), 'test attempt')}, "
        f"{format_count(ledger.totals.calls, 'call')}, {describe_total(ledger)} at list price, "
        f"{describe_live(ledger)} spent live"
    ]
    for verdict in ledger.verdicts:
        more = filter(None, [*map(str, verdict.reasons), run_advice(verdict, ledger)])
        lines += [sentence(verdict), *(f"  {each}" for each in more)]
    lines += broken if ledger.complete else [*broken, describe_partial(ledger)]
    if arguments.output:
        console.write_lines(lines)
    else:
        console.write_document(render_json(ledger).decode().rstrip("\n"))
        console.note(*lines)
    is_broken = any(each.fails(ledger.unverified) for each in ledger.verdicts)
    is_not_whole = arguments.whole and not ledger.complete
    return 1 if is_broken or is_not_whole or broken else 0

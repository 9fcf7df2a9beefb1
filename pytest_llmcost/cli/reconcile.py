"""Compare ledgers with the usage and cost that Anthropic reports for the organisation.

Asks the Usage & Cost Admin API with the key in ANTHROPIC_ADMIN_KEY, or reads saved answers.
"""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from pytest_llmcost.cli.console import Console, add_prices_option, read_card
from pytest_llmcost.errors import ReconcileError, SettingsError
from pytest_llmcost.ledger.ledger import Ledger
from pytest_llmcost.ledger.ledger_file import read_ledger
from pytest_llmcost.money import parse_percent
from pytest_llmcost.reconcile.admin_api import AdminApi, TooManyRequests
from pytest_llmcost.reconcile.bill_report import render
from pytest_llmcost.reconcile.matching import (
    FRESH_AFTER,
    Reconciliation,
    last_call_at,
    live_calls,
    make_query,
    reconcile,
)
from pytest_llmcost.reconcile.usage_report import CostRow, Filters, UsageRow, read_saved_pages

_PAUSE = timedelta(minutes=1)
"""The API asks for no more than one request a minute.

Source: https://platform.claude.com/docs/en/manage-claude/usage-cost-api (2026-08-22)
"""
_PATIENCE = timedelta(minutes=20)


@dataclass(frozen=True)
class Clock:
    """The time and how to wait; tests have their own."""

    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    sleep: Callable[[float], None] = time.sleep


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    ids: dict[str, Any] = {"action": "append", "default": [], "metavar": "ID"}
    add("ledger", nargs="+", help="a JSON ledger written with --llmcost-report")
    add("--api-key-id", **ids, help="compare usage of this API key only; repeatable")
    add("--workspace-id", **ids, help="compare usage of this workspace only, or `default`")
    add(
        "--tolerance",
        type=parse_percent,
        default="0%",
        metavar="PERCENT",
        help="allowed difference (default: 0%%)",
    )
    add("--whole-days", action="store_true", help="the ledgers have all traffic of their UTC days")
    add("--wait", action="store_true", help="ask again, once a minute, until late data is there")
    add("--usage", metavar="FILE", help="saved answers of usage_report/messages; no network")
    add("--cost", metavar="FILE", help="saved answers of cost_report, with --usage")
    add("--format", choices=("text", "md", "json"), default="text")
    add_prices_option(parser)


def run(arguments: Namespace, console: Console, clock: Clock = Clock()) -> int:
    """Compare, print the outcome, and return 0 if both sides agree and 1 if they differ."""
    if arguments.cost and not arguments.usage:
        raise SettingsError("--cost FILE needs --usage FILE")
    if arguments.wait and arguments.usage:
        raise SettingsError("--wait asks the API again, but --usage FILE is no request; remove one")
    card = read_card(arguments)
    ledgers: dict[str, Ledger] = {}
    for path in arguments.ledger:
        ledger = read_ledger(path)
        for other, known in ledgers.items():
            if (known.run, known.totals) == (ledger.run, ledger.totals):  # calls would count twice
                raise ReconcileError(f"{path} is the same run as {other}; name each run once")
        ledgers[path] = ledger
    runs = list(ledgers.values())
    query = make_query(
        runs,
        filters=Filters(
            api_key_ids=tuple(arguments.api_key_id), workspace_ids=tuple(arguments.workspace_id)
        ),
        tolerance=arguments.tolerance,
        whole_days=arguments.whole_days,
    )
    if arguments.usage:
        usage = read_saved_pages(arguments.usage, UsageRow)
        cost = read_saved_pages(arguments.cost, CostRow) if arguments.cost else None
        outcome = reconcile(runs, query, usage, cost, card=card, asked_at=None)
    else:
        api = AdminApi(os.environ)

        def ask() -> Reconciliation:
            console.note(f"asking {api.host} for usage and cost")
            usage = api.usage(query.windows, query.bucket_width, query.filters)
            cost = api.cost(query.windows)
            return reconcile(runs, query, usage, cost, card=card, asked_at=clock.now())

        last = last_call_at(live_calls(*runs))
        due = last + FRESH_AFTER if last else clock.now()
        outcome = _ask_until_complete(ask, due, console, clock) if arguments.wait else ask()
    show = console.print if arguments.format == "text" else console.print_document
    show(render(outcome, arguments.format))
    return 0 if outcome.state == "agrees" else 1


def _ask_until_complete(
    ask: Callable[[], Reconciliation], due: datetime, console: Console, clock: Clock
) -> Reconciliation:
    """Ask when the data is due, then every minute until it is complete or patience ends."""
    deadline = max(due, clock.now()) + _PATIENCE
    reason = "usage takes about 5 min to appear"
    while True:
        # In steps of a minute, so that a CI log shows progress.
        while (left := due - clock.now()) > timedelta(0):
            console.note(f"{reason}; asking again in {left.total_seconds():.0f} s")
            clock.sleep(min(left, _PAUSE).total_seconds())
        is_last = clock.now() + _PAUSE > deadline
        try:
            outcome = ask()
        except TooManyRequests:
            if is_last:
                raise
            reason = "too many requests"
        else:
            if is_last or not outcome.is_short:
                return outcome
            reason = "some usage in the ledgers is not reported yet"
        due = clock.now() + _PAUSE

"""`llmcost reconcile`: ledgers against the organisation's usage and cost.

Asks the Usage & Cost Admin API, or reads answers saved earlier; nothing else of the package
touches a network outside of pytest.
"""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from pytest_llmcost.cli.options import Console, add_prices_option, read_card
from pytest_llmcost.errors import ReconcileError, SettingsError
from pytest_llmcost.ledger.ledger import Ledger
from pytest_llmcost.ledger.ledger_file import read_ledger
from pytest_llmcost.money import parse_percent
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.reconcile.admin_api import AdminApi, AskedTooOften, Filters
from pytest_llmcost.reconcile.matching import (
    FRESH_AFTER,
    Plan,
    Reconciliation,
    is_short,
    last_call_at,
    plan,
    reconcile,
)
from pytest_llmcost.reconcile.render import render
from pytest_llmcost.reconcile.usage_report import Bucket, CostRow, Row, UsageRow, read_saved_pages

_PAUSE = timedelta(minutes=1)
"""The API asks for no more than one question a minute.

Source: https://platform.claude.com/docs/en/manage-claude/usage-cost-api (2026-08-22)
"""
_PATIENCE = timedelta(minutes=20)


@dataclass(frozen=True)
class Clock:
    """The time, and waiting for it to pass."""

    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    sleep: Callable[[float], None] = time.sleep


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("ledger", nargs="+", help="a JSON report of --llmcost-report")
    add = parser.add_argument
    add("--api-key-id", action="append", default=[], metavar="ID", help="the runs' own API key")
    add("--workspace-id", action="append", default=[], metavar="ID", help="id, or `default`")
    add(
        "--tolerance", default="0%", metavar="N%%", help="how far apart tokens may be (default 0%%)"
    )
    add("--whole-days", action="store_true", help="the ledgers hold all of their UTC days' traffic")
    add("--wait", action="store_true", help="ask again, once a minute, until late data is there")
    add("--usage", metavar="FILE", help="saved answers of usage_report/messages; asks nobody")
    add("--cost", metavar="FILE", help="saved answers of cost_report")
    add("--format", choices=("text", "md", "json"), default="text")
    add_prices_option(parser)


def run(arguments: Namespace, console: Console, clock: Clock = Clock()) -> int:
    """Compare, print, and return 0 when they agree and 1 when not."""
    if arguments.cost and not arguments.usage:
        raise SettingsError("--cost FILE goes with --usage FILE; usage is what decides")
    card = read_card(arguments.prices)
    what = plan(
        _read_ledgers(arguments.ledger),
        card,
        filters=Filters(
            api_key_ids=tuple(arguments.api_key_id), workspace_ids=tuple(arguments.workspace_id)
        ),
        tolerance=parse_percent(arguments.tolerance),
        whole_days=arguments.whole_days,
    )
    if arguments.usage:
        outcome = _from_files(what, card, arguments.usage, arguments.cost)
    else:
        asking = _Asking(what, card, AdminApi(os.environ), console, clock)
        outcome = asking.until_complete() if arguments.wait else asking.once()
    console.print(render(outcome, arguments.format))
    return 0 if outcome.state == "agrees" else 1


def _read_ledgers(paths: Sequence[str]) -> list[Ledger]:
    """Read the ledgers, each run once: twice, its calls would be booked twice."""
    seen: dict[tuple[object, ...], str] = {}
    reports = []
    for path in paths:
        ledger = read_ledger(path)
        key = (ledger.run.started_at, ledger.run.finished_at, repr(ledger.totals))
        if key in seen:
            raise ReconcileError(f"{path} is the same run as {seen[key]}; name each run once")
        seen[key] = path
        reports.append(ledger)
    return reports


def _from_files(what: Plan, card: RateCard, usage: str, cost: str | None) -> Reconciliation:
    return reconcile(
        what,
        _read(usage, UsageRow),
        _read(cost, CostRow) if cost else None,
        card=card,
        asked_at=None,
    )


def _read(path: str, row: type[Row]) -> tuple[Bucket[Row], ...]:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ReconcileError(f"{path}: cannot be read ({error.strerror or error})") from None
    return read_saved_pages(data, row, source=path)


@dataclass(frozen=True)
class _Asking:
    """One comparison with the API; asks for cost only once usage is complete."""

    what: Plan
    card: RateCard
    api: AdminApi
    console: Console
    clock: Clock

    def once(self) -> Reconciliation:
        """Ask now."""
        return self._ask()

    def until_complete(self) -> Reconciliation:
        """Ask once the data should be there, then every minute until it is, or patience ends."""
        last = last_call_at(self.what.calls)
        due = last + FRESH_AFTER if last else self.clock.now()
        deadline = max(due, self.clock.now()) + _PATIENCE
        self._wait_until(due, "usage takes about 5 min to appear")
        while True:
            try:
                outcome = self._ask()
            except AskedTooOften:
                if self.clock.now() + _PAUSE > deadline:
                    raise
                reason = "asked too often"
            else:
                if not is_short(outcome) or self.clock.now() + _PAUSE > deadline:
                    return outcome
                reason = "usage that the ledgers have is not reported yet"
            self._wait_until(self.clock.now() + _PAUSE, reason)

    def _ask(self) -> Reconciliation:
        terms = self.what.terms
        self.console.note(f"asking {self.api.host} for usage and cost")
        usage = self.api.usage(terms.windows, terms.bucket_width, terms.filters)
        cost = self.api.cost(terms.windows)
        return reconcile(self.what, usage, cost, card=self.card, asked_at=self.clock.now())

    def _wait_until(self, due: datetime, reason: str) -> None:
        """Sleep in steps of a minute at most, and say each time how long it will be."""
        while (left := due - self.clock.now()) > timedelta(0):
            self.console.note(f"{reason}; asking again in {left.total_seconds():.0f} s")
            self.clock.sleep(min(left, _PAUSE).total_seconds())

"""Compare ledgers with the usage and cost that Anthropic reports for the organisation.

Asks the Usage & Cost Admin API with the key in ANTHROPIC_ADMIN_KEY, or reads saved answers.
"""

from __future__ import annotations

import json
import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from pytest_llmcost.cli import console
from pytest_llmcost.errors import ReconcileError, SettingsError
from pytest_llmcost.ledger.ledger import read_ledger, to_json
from pytest_llmcost.money import format_usd, parse_percent, plain_usd
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.reconcile.admin_api import (
    AdminApi,
    CostRow,
    Filters,
    TooManyRequests,
    UsageRow,
    read_saved_pages,
)
from pytest_llmcost.reconcile.matching import (
    FRESH_AFTER,
    CostLine,
    Query,
    Reconciliation,
    UsageLine,
    last_call_at,
    live_calls,
    reconcile,
    with_windows,
)
from pytest_llmcost.reports.markdown import markdown_row, markdown_table, prose
from pytest_llmcost.reports.plain_text import clean, format_count, signed

_PAUSE = timedelta(minutes=1)
"""The API asks for no more than one request a minute; the source is that of `FRESH_AFTER`."""
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
    share = "allowed difference (default: 0%%)"
    add("--tolerance", type=parse_percent, default="0%", metavar="PERCENT", help=share)
    add("--whole-days", action="store_true", help="the ledgers have all traffic of their UTC days")
    add("--wait", action="store_true", help="ask again, once a minute, until late data is there")
    add("--usage", metavar="FILE", help="saved answers of usage_report/messages; no network")
    add("--cost", metavar="FILE", help="saved answers of cost_report, with --usage")
    add("--format", choices=("text", "md", "json"), default="text")
    console.add_prices(parser)


def run(arguments: Namespace, clock: Clock = Clock()) -> int:
    """Compare, print the outcome, and return 0 if both sides agree and 1 if they differ."""
    if arguments.cost and not arguments.usage:
        raise SettingsError("--cost FILE needs --usage FILE")
    if arguments.whole_days and arguments.usage and not arguments.cost:
        raise SettingsError("--whole-days checks the cost as well; add --cost FILE")
    card, runs = console.read_card(arguments), [*map(read_ledger, arguments.ledger)]
    names = [(each.run, each.totals) for each in runs]
    for path, name in zip(arguments.ledger, names, strict=True):
        if names.count(name) > 1:  # a copy, whose calls would count twice
            raise ReconcileError(f"{path} is the same run as another one; name each run once")
    filters = Filters(
        api_key_ids=tuple(arguments.api_key_id), workspace_ids=tuple(arguments.workspace_id)
    )
    days, tolerance = arguments.whole_days, arguments.tolerance
    query = with_windows(Query(filters=filters, tolerance=tolerance, whole_days=days), runs)
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
        outcome = _ask_until_complete(ask, due, clock) if arguments.wait else ask()
    show = console.write if arguments.format == "text" else console.write_document
    show(_render(outcome, arguments.format))
    return 0 if outcome.state == "agrees" else 1


def _ask_until_complete(
    ask: Callable[[], Reconciliation], due: datetime, clock: Clock
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


def _render(outcome: Reconciliation, form: str) -> str:
    """Write it as `text`, `md` or `json`."""
    if form == "json":
        return json.dumps(to_json(outcome), indent=2)
    priced = f"{format_usd(outcome.live_usd)} at the list prices of their dates"
    if outcome.unpriced_calls:
        priced = f"at least {priced} ({outcome.unpriced_calls:,} without a price)"
    calls = format_count(outcome.live_calls, "live call")
    headline = f"{calls} in {format_count(outcome.ledgers, 'ledger')}, {priced}"
    query = outcome.terms
    spans = ", ".join(
        f"{each.starting_at:%Y-%m-%d %H:%M} to {each.ending_at:%Y-%m-%d %H:%M}"
        for each in query.windows
    )
    keys = ", ".join(query.filters.api_key_ids) or "all API keys"
    workspaces = ", ".join(query.filters.workspace_ids) or "all workspaces"
    tolerance = f"tolerance {plain_usd(query.tolerance * 100)}%"
    asked = f"{spans} UTC in buckets of {query.bucket_width}; {keys}; {workspaces}; {tolerance}"
    numbers = ("ledger:", "reported:", "difference:")  # a colon marks a column of them
    tables = [(["model", "category", *numbers], [_usage_row(line) for line in outcome.usage])]
    if outcome.cost:
        tables.append((["cost", *numbers], [_cost_row(line) for line in outcome.cost]))
    if form == "text":
        parts = [f"{outcome.state}: {headline}\n{asked}"]
        parts += [console.draw_table(heads, rows) for heads, rows in tables]
        for title, lines in _lists(outcome):
            parts.append("\n  - ".join([f"{title}:", *(clean(line, 1_000) for line in lines)]))
        return "\n\n".join(parts)
    mark = "✅" if outcome.state == "agrees" else "❌"
    parts = [f"### {mark} The bill {outcome.state}", f"{headline}.", prose(asked)]
    for heads, rows in tables:
        # Numbers are ours; names are not, and could be markup.
        cells = [markdown_row(*map(prose, row[:-3]), *row[-3:]) for row in rows]
        parts.append("\n".join(markdown_table(heads, cells)))
    for title, lines in _lists(outcome):
        parts += [f"**{title}**", "\n".join(f"- {prose(line)}" for line in lines)]
    return "\n\n".join(parts)


def _usage_row(line: UsageLine) -> list[str]:
    difference = line.reported - line.ledger
    shown = f"{difference:+,}" if difference else "0"
    figures = [f"{line.ledger:,}", f"{line.reported:,}", shown if line.agrees else f"{shown} !"]
    return [clean(line.model), line.category, *figures]


def _cost_row(line: CostLine) -> list[str]:
    item, ours, theirs = clean(line.item), line.ledger_usd, line.reported_usd
    mark = " !" if line.decides and not line.agrees else ""
    if ours is None:
        return [item, "-", format_usd(theirs), f"-{mark}"]
    difference = signed(theirs - ours) + mark
    if ours == theirs:
        return [item, format_usd(ours), format_usd(theirs), difference]
    # Different amounts get as many digits as it takes to see that they differ.
    figures = [format_usd(ours, against=theirs), format_usd(theirs, against=ours)]
    return [item, *figures, difference]


def _lists(outcome: Reconciliation) -> Iterator[tuple[str, Sequence[str]]]:
    apart = []
    for each in outcome.not_comparable:
        usage = each.usage or Usage()
        size = f"{usage.prompt_tokens:,} prompt and {usage.output_tokens:,} output tokens"
        if each.calls is not None:
            size = format_count(each.calls, "live call")
        elif each.usd is not None:
            size = format_usd(each.usd)
        apart.append(f"{each.source}: {size}, {each.what}")
    lists = {
        "not comparable": apart,
        "likely reasons": outcome.likely_reasons,
        "notes": outcome.notes,
    }
    yield from ((title, lines) for title, lines in lists.items() if lines)

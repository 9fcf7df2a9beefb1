"""Suggest budgets that today's run would keep: a marker for each test, a line for each file.

With `--ratchet` it names the budgets that could be lower. Nothing is written to your files.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path

from msgspec.structs import replace

from pytest_llmcost.amounts import Amounts, most
from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.budgets.path_globs import matches
from pytest_llmcost.cli import console
from pytest_llmcost.cli.settings_file import find_table
from pytest_llmcost.ledger.ledger import (
    Ledger,
    TestRow,
    failed_otherwise,
    function_of,
    own_verdicts,
    read_ledger,
)
from pytest_llmcost.ledger.totals import amounts_of
from pytest_llmcost.money import parse_percent, parse_usd, read_digits
from pytest_llmcost.reports.plain_text import clean, dollars, round_up, write_round_usd
from pytest_llmcost.reports.run_wording import describe_partial, last_attempts
from pytest_llmcost.reports.wording import limit_of


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("ledger", type=read_ledger, help="the ledger of a run, from --llmcost-report=ledger.json")
    above = "how much a budget is above today's cost (default: 25%%)"
    add("--headroom", type=parse_percent, default="25%", metavar="PERCENT", help=above)
    add(
        "--ratchet",
        action="store_true",
        help="instead name the budgets that have more headroom than that, and what to lower them "
        "to; exit status 1 if there are any",
    )


def run(arguments: Namespace) -> int:
    """Print the budgets; return 1 if one is missing, because its cost is unknown or not whole."""
    ledger, factor = arguments.ledger, arguments.headroom + 1
    if not ledger.complete:
        console.note(describe_partial(ledger))
    if ledger.run.exit_status:
        status = f"the run failed (exit status {ledger.run.exit_status})"
        console.note(
            f"{status}; tests that failed before their first call may not be in the ledger"
        )
    if arguments.ratchet:
        return _ratchet(ledger, factor)
    missing, last = [], last_attempts(ledger.tests)
    # A marker on a test is for all of its cases.
    stopped = {function_of(test.nodeid) for test in last if _is_stopped(test)}
    stopped |= set(map(function_of, ledger.skipped))
    stopped |= {_file_of(test.nodeid) for test in last if _is_cut(test)}

    def limit(name: str, amounts: Amounts) -> str | None:
        """Write a round budget above the most that it may have cost."""
        high = amounts["usd"].high
        if high is None or name in stopped:
            why = "a test is expected to fail, was skipped, or did not run to its end"
            why = "its cost is unknown" if high is None else why
            missing.append(f"{clean(name)}: no budget, because {why}")
            return None
        return write_round_usd(high * factor)

    tests: dict[str, list[TestRow]] = {}
    for test in ledger.tests:
        if test.calls:
            tests.setdefault(function_of(test.nodeid), []).append(test)
    for name, cases in sorted(tests.items()):
        amounts = most([Amounts.of(test.calls) for test in cases])
        if budget := limit(name, amounts):
            cache = f', cache="{ledger.cache_state}"' if _needs_cache(ledger, cases) else ""
            cost = dollars(amounts["usd"].high, against=parse_usd(budget))
            console.write(f'@max_cost("{budget}"{cache})  # {clean(name)} costs {cost}')
    lines = [
        f"{clean(path)} = {budget}"
        for path in sorted(set(map(_file_of, tests)))
        if (budget := limit(path, amounts_of(ledger, path)))
    ]
    if lines:
        cache = "" if ledger.cache_state == "as-billed" else ledger.cache_state
        console.write("\n".join(["", *_settings(lines, cache)]))
    for text in missing:
        console.note(text)
    return 1 if missing else 0


def _settings(lines: Iterable[str], cache: str) -> Iterator[str]:
    """Write path budgets and a cache state as the file wants them that pytest reads here."""
    if find_table(Path.cwd())[0].suffix == ".toml":
        texts = [f"    {json.dumps(line, ensure_ascii=False)}," for line in lines]
        yield from ("llmcost_budgets = [", *texts, "]")
        yield from [f'llmcost_cache = "{cache}"'] if cache else []
    else:
        yield from ("llmcost_budgets =", *(f"    {line}" for line in lines))
        yield from [f"llmcost_cache = {cache}"] if cache else []


def _file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _is_stopped(test: TestRow) -> bool:
    """Whether a test did not run to its end, so that it will cost more when it does."""
    return test.outcome in ("skipped", "xfailed") or _is_cut(test)


def _is_cut(test: TestRow) -> bool:
    """Whether it ended by an error, or with the run."""
    return not test.outcome or failed_otherwise(test)


def _needs_cache(ledger: Ledger, cases: Iterable[TestRow]) -> bool:
    """Whether a marker must state the cache state, because another one would hold without."""
    return ledger.cache_state != "as-billed" or any(
        verdict.kind == "usd" and verdict.scope == "test" and verdict.high != high
        for test in cases
        for verdict in own_verdicts(test)
        for high in [Amounts.of(test.calls)["usd"].high]
    )


def _ratchet(ledger: Ledger, factor: Decimal) -> int:
    """Print the budgets that could be lower, and return 1 if there are any.

    A budget may limit many tests one by one: the one that spent most keeps its headroom, and a
    budget that any of them did not keep, or that may limit others which did not run, stays as it
    is.
    """
    last = last_attempts(ledger.tests)
    stopped = {test.nodeid for test in last if _is_stopped(test)}
    # A test that failed before its first call has no row; only the exit status tells of it.
    is_whole = ledger.complete and not (ledger.run.exit_status or any(map(_is_cut, last)))
    skipped = {*ledger.skipped, *(test.nodeid for test in last if test.outcome == "skipped")}
    left_out: set[object] = set()
    groups: dict[object, list[Verdict]] = {}
    found = [("", verdict) for verdict in ledger.verdicts]
    found += [(test.nodeid, each) for test in ledger.tests for each in own_verdicts(test)]
    for nodeid, verdict in found:
        if verdict.limit:  # neither an allowed model nor a budget of nothing
            key = (verdict.origin, verdict.subject, verdict.pattern, verdict.limit)
            groups.setdefault(key, []).append(verdict)
            is_of_one = verdict.required and nodeid == function_of(nodeid)
            # A marker on a class or a module is for what is in its file.
            path = _file_of(nodeid) or (verdict.scope == "path" and verdict.pattern) or "**"
            is_of_all = is_whole and not any(matches(path, each) for each in skipped)
            if nodeid in stopped or not (is_of_one or is_of_all):
                left_out.add(key)
    lines = list[tuple[str, int, str]]()
    for what, group in groups.items():
        first, spent = group[0], max(verdict.high or Decimal(0) for verdict in group)
        is_kept = all(verdict.state == "within" for verdict in group)
        limit = round_up(spent * factor, is_usd=first.quantity == "usd")
        # What nothing was spent against may be there for a test that was skipped.
        if spent and is_kept and limit < first.limit:
            now, plain = limit_of(first), replace(first, cache_state=None)
            then, used = (limit_of(replace(plain, limit=each)) for each in (limit, spent))
            about = f" for {first.pattern}" if first.pattern else ""
            if what in left_out:
                why = "tests that it may limit did not run, or not to their end"
                console.note(clean(f"{first.origin}: {now}{about} stays, because {why}"))
            else:
                path, _, line = first.origin.rpartition(":")
                text = clean(f"{first.origin}: lower {now}{about} to {then} (used: {used})")
                lines.append((path, read_digits(line) or 0, text))
    if lines:
        console.write("\n".join(text for *_, text in sorted(lines)))
    return 1 if lines else 0

"""The sentences about a whole run: what fails it, what several tests have in common."""

from __future__ import annotations

import os.path
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import NamedTuple

from pytest_llmcost.amounts import NOT_COUNTED, Amounts, Reason
from pytest_llmcost.budgets.budget import Verdict, describe_breaks
from pytest_llmcost.credentials import how_to_filter
from pytest_llmcost.ledger.ledger import Comparison, Ledger, TestRow, calls_of, own_verdicts
from pytest_llmcost.ledger.totals import (
    amounts_of,
    command_to_count,
    counted_calls,
    is_live,
    spenders_of,
)
from pytest_llmcost.reports import wording
from pytest_llmcost.reports.plain_text import (
    clean,
    dollars,
    first_of,
    format_count,
    write_round_usd,
)

_MOST_SHOWN = 3
"""Breaks, and causes of cache misses, in the one line that a summary has for each."""


def broken_prefixes(ledger: Ledger) -> str:
    """Say which calls break a cached prefix, the most expensive first; empty if none is worth it.

    Where that fails tests, their verdicts say it.
    """
    if ledger.stable_prefix != "warn":
        return ""
    said = {
        ("test", test.nodeid, test.attempt)
        for test in ledger.tests
        if any(each.kind == "stable_prefix" and each.found for each in own_verdicts(test))
    }
    found = []
    for spender in spenders_of(ledger):
        calls = [call for call in spender.calls if call.broken_prefix is not None]
        usd = [call.broken_prefix.usd for call in calls if call.broken_prefix is not None]
        if calls and (spender.kind, spender.name, spender.attempt) not in said:
            found.append((-sum(filter(None, usd), Decimal(0)), spender.name, calls))
    if not found:
        return ""
    _, name, calls = min(found, key=lambda each: each[:2])
    number = sum(len(calls) for _, _, calls in found)
    more = f", and {format_count(number - len(calls), 'call')} elsewhere" if len(found) > 1 else ""
    where = ", ".join(describe_breaks(calls)[:_MOST_SHOWN])
    return f"{wording.breaking(number)}: {name}: {where}{more} (llmcost_stable_prefix)"


def cache_misses(ledger: Ledger) -> str:
    """Say which cache misses the API itself explains, sorted; empty if there are none."""
    caveats = (each for call in counted_calls(ledger) for each in call.caveats)
    details = Counter(each.detail for each in caveats if each.name == "cache-miss")
    if ledger.stable_prefix == "off" or not details:
        return ""
    shown = [f"{clean(text)}{f' ({n:,} calls)' if n > 1 else ''}" for text, n in details.items()]
    return f"cache misses that the API explains: {first_of(sorted(shown), _MOST_SHOWN, joint='; ')}"


def notes_of(ledger: Ledger) -> Iterator[str]:
    """Yield what else a reader should know, first why a total is not exact."""
    yield from _why_not_exact(ledger)
    yield from filter(None, (broken_prefixes(ledger), cache_misses(ledger)))
    yield from ledger.notes


def _why_not_exact(ledger: Ledger) -> Iterator[str]:
    """Say within which bounds a total lies, and each reason, unless an open budget says them.

    A test that only warns has no failure that could.
    """
    usd, is_hard = amounts_of(ledger)["usd"], ledger.unverified == "fail"
    are_said = any(
        each.verdict.state == "unverified" and each.verdict.reasons and (is_hard or not each.name)
        for each in marks_of(ledger)
    )
    if are_said or usd.low == usd.high:
        return
    about = f"the cost of a run is {describe_bounds(ledger) or 'unknown'}"
    for reason in not_counted(ledger).open_reasons(usd.reasons.explain(command_to_count(ledger))):
        yield f"{about}: {reason}"
        about = "another reason"


def describe_bounds(ledger: Ledger, *, live: bool = False, against: Decimal | None = None) -> str:
    """Say within which bounds the cost of a run, or of its live calls, lies; empty if unknown."""
    live_calls = (call for call in calls_of(ledger) if is_live(call))
    usd = (Amounts.of(live_calls) if live else amounts_of(ledger))["usd"]
    low, high = usd.low, None if ledger.lost_calls else usd.high
    if high is None:
        return f"at least {dollars(low, against=against)}" if low else ""
    bounds = f"between {dollars(low, against=high)} and {dollars(high, against=low)}"
    return bounds if low != high else dollars(low, against=against)


def suite_budget(ledger: Ledger) -> Verdict | None:
    """Return what became of the budget in dollars of the whole suite."""
    verdicts = (each for each in ledger.verdicts if each.scope == "suite" and each.kind == "usd")
    return next(verdicts, None)


def describe_total(ledger: Ledger) -> str:
    """Write the list price of a run."""
    return dollars(ledger.totals.usd, is_least=ledger.totals.is_least)


def describe_live(ledger: Ledger) -> str:
    """Write what a run itself has spent."""
    return dollars(ledger.totals.live_usd, is_least=ledger.totals.live_is_least)


def describe_prices(ledger: Ledger) -> str:
    """Say of which day the prices are, and of which file beside the shipped card."""
    own = ledger.rate_card.own
    return f"prices of {ledger.price_date}{f' with {own}' if own else ''}"


def describe_partial(ledger: Ledger) -> str:
    """Say that a run left tests out, and why; empty if it did not."""
    if not ledger.incomplete:
        return ""
    why = ", ".join(ledger.incomplete)
    return f"partial run ({why}): totals and budgets cover only the tests that ran"


class Mark(NamedTuple):
    """A verdict, and the test, fixture or file that it is about."""

    verdict: Verdict
    name: str = ""
    """Empty if it is about several tests: its sentence names the path or the tag."""
    path: str = ""
    line: int | None = None


def marks_of(ledger: Ledger) -> Iterator[Mark]:
    """Yield the budgets over the run, increases, and those of each test's last attempt.

    A broken budget that is expected, under `xfail`, is left out.
    """
    yield from marks_of_run(ledger)
    for test in last_attempts(ledger.tests):
        if test.outcome != "xfailed":
            for verdict in own_verdicts(test):
                yield Mark(verdict, test.nodeid, test.path, test.line)


def count_states(ledger: Ledger) -> dict[str, int]:
    """Count them by state, in the order of `wording.SIGNS`."""
    counts = Counter(wording.state_of(mark.verdict) for mark in marks_of(ledger))
    return {state: counts[state] for state in wording.SIGNS}


def describe_broken(ledger: Ledger) -> tuple[str, str]:
    """Return the worst state in which a run's budgets and rules fail, and say how many do."""
    counts = Counter((each.state, each.is_rule) for each, *_ in marks_of(ledger))
    budgets, rules = counts["exceeded", False], counts["exceeded", True]
    said = [f"{format_count(budgets, 'budget')} exceeded"] if budgets else []
    said += [f"{format_count(rules, 'rule')} broken"] if rules else []
    state = "exceeded" if said else ""
    if unverified := counts["unverified", False] + counts["unverified", True]:
        noun = "budget" if counts["unverified", False] else "rule"
        all_unverified = f"{format_count(unverified, noun)} could not be checked"
        said.append(f"{unverified:,} not checked" if said else all_unverified)
    return state or ("unverified" if said else ""), ", ".join(said)


def describe_budgets(ledger: Ledger) -> tuple[str, str]:
    """Return the worst state of a run's budgets, say how many are in it, and what else failed.

    The state is empty if there is no budget or no test, and if the budgets are kept but the run
    failed: what a failed test costs is not what it will cost.
    """
    state, text = describe_broken(ledger)
    if state:
        failed = sum(
            test.outcome in ("failed", "error")
            and not any(each.fails(ledger.unverified) for each in own_verdicts(test))
            and not any(call.is_uncounted for call in test.calls)  # which probably ended it
            for test in last_attempts(ledger.tests)
        )
        if failed and not (ledger.comparison or Comparison()).failed:  # which names them
            text += f", and {format_count(failed, 'test')} failed for another reason"
        return state, text
    if not ledger.run.has_tests:
        return "", "no test ran"
    *_, near, within = count_states(ledger).values()
    kept = near + within
    which = {0: "", 1: "within its budget", 2: "within both budgets"}
    text = which.get(kept, f"within all {kept:,} budgets")
    if ledger.run.exit_status:
        return "", f"{text}, but the run failed" if kept else "the run failed"
    return "within" if kept else "", text


def marks_of_run(ledger: Ledger) -> Iterator[Mark]:
    """Yield the budgets over several tests, and increases: what fails a run by itself."""
    yield from map(Mark, ledger.verdicts)
    comparison = ledger.comparison or Comparison()
    yield from map(Mark, comparison.verdicts)
    for change in comparison.changes:
        for verdict in change.verdicts:
            yield Mark(verdict, change.name, change.path, change.line)


def last_attempts(tests: Iterable[TestRow]) -> list[TestRow]:
    """Return the last attempt of each test, which decides whether it passed."""
    last = {test.nodeid: test for test in sorted(tests, key=lambda each: each.attempt)}
    return [last[nodeid] for nodeid in sorted(last)]


def run_failures(ledger: Ledger) -> Iterator[str]:
    """Yield a line for each budget that fails a run by itself, as pytest has one for each test."""
    for verdict, name, *_ in marks_of_run(ledger):
        if verdict.fails(ledger.unverified):
            yield f"FAILED {clean(name or verdict.origin)} - {wording.short_sentence(verdict)}"


def run_advice(verdict: Verdict, ledger: Ledger) -> str:
    """Say what to do about an exceeded budget over several tests; empty of any other one."""
    if verdict.state != "exceeded" or verdict.scope in ("test", "block"):
        return ""
    comparison, accept = ledger.comparison or Comparison(), "pytest --llmcost-update-baseline"
    if path := clean(comparison.base_path, 200):
        accept += f" --llmcost-baseline={shlex.quote(path)}"
    is_fetched = comparison.base_fetch  # from where no change can write it
    if verdict.kind == "vanished":
        # By the name of who forbids it: that of `llmcost compare` is no option of pytest.
        pardon = f"let it pass: {clean(verdict.origin)}=warn"
        how = pardon if is_fetched else f"accept it: {accept}"
        return f"bring back what vanished, or {how}"
    if verdict.scope == "increase":
        more = f", raise the limit, or accept it in a baseline of the repository: {accept}"
        return f"reduce it{', or raise the limit' if is_fetched else more}"
    if verdict.kind != "usd" or verdict.high is None:
        return ""
    # Of a part of the tests no number can be made that all of them keep.
    enough = f" to {write_round_usd(verdict.high)}" if ledger.complete else ""
    return f"if the price is right, raise the budget{enough}"


def describe_keys(found: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Name files that hold what looks like a key, and say how to keep keys out of them."""
    for path, where in found.items():
        yield f"{clean(path)}: what looks like a key is in {', '.join(where)}"
    yield ""
    yield from how_to_filter(chain.from_iterable(found.values()))
    yield "Then record these files again. Revoke a key that has been committed or uploaded."


_MOST_FILES = 3
"""With more of them, a command that counts the whole suite is the better one to read."""


class NotCounted(NamedTuple):
    """Several tests that fail for one cause, their prompts are not counted; or none."""

    tests: Mapping[str, TestRow]
    """Each by its node id."""
    lines: Sequence[str]
    """How many they are, what changed in them, and the command that counts them all."""
    is_in_vain: bool
    """Whether every prompt of the run that is not counted differs in every run."""

    def explains(self, name: str, state: str) -> bool:
        """Whether it is all that is to be said of a budget of a test."""
        return state in ("unverified", "failed") and name in self.tests

    def open_reasons(self, reasons: Iterable[Reason]) -> Iterator[Reason]:
        """Leave out the reason that these tests share, for it is named for all of them."""
        for reason in reasons:
            if not (self.tests and reason.name in NOT_COUNTED):
                yield wording.without_vain(reason, is_in_vain=self.is_in_vain)


def not_counted(ledger: Ledger, root: str = "") -> NotCounted:
    """Find the tests that share this cause; none if they are not several.

    `root` is the way to pytest's root folder from where the command is to be typed.
    """
    tests, parts, volatile, files = dict[str, TestRow](), Counter[str](), 0, set[str]()
    for test in last_attempts(ledger.tests):
        lacking = [call for call in test.calls if wording.lacks_count(call)]
        if not all(call.has_caveat("volatile") for call in lacking):
            files.add(test.nodeid.partition("::")[0])  # a count helps, also without a budget
        states = {each.state for each in own_verdicts(test)}
        if not states and test.outcome == "failed":  # by the missing count itself
            states = {"unverified"}
        if lacking and "unverified" in states and test.outcome != "xfailed":
            tests[test.nodeid] = test
            volatile += any(call.has_caveat("volatile") for call in lacking)
            parts.update(wording.all_changed_parts(lacking))
    is_in_vain, number = wording.counts_in_vain(calls_of(ledger)), len(tests)
    if number < 2:
        return NotCounted({}, (), is_in_vain)
    every_one = "both" if number == 2 else f"all {number:,}"

    def of_tests(some: int) -> str:
        return every_one if some == number else f"{some:,}"

    why = f"their prompts {'changed and ' if parts else ''}are not counted yet"
    lines = [f"{format_count(number, 'test')} cannot be checked: {why}."]
    if parts:
        most_frequent = sorted(parts, key=lambda part: (-parts[part], part))
        named = [f"{part} in {of_tests(parts[part])}" for part in most_frequent]
        also = f"; differs in every run in {of_tests(volatile)}: see the failures"
        changed = first_of(named, wording.MOST_PARTS)
        lines.append(f"changed: {changed}{also if volatile else ''}")
    if not is_in_vain:  # otherwise the counts would be missing again in the next run
        shared = [call for fixture in ledger.fixtures for call in fixture.calls]
        paths = sorted(os.path.normpath(f"{root or '.'}/{file}") for file in files)
        needs_all = any(map(wording.lacks_count, (*shared, *ledger.outside_tests)))
        if needs_all or len(paths) > _MOST_FILES:
            paths.clear()
        command = command_to_count(ledger, shlex.join(["pytest", *paths]))
        lines.append(f"count them all (free): {command}")
    return NotCounted(tests, lines, is_in_vain)


class Finding(NamedTuple):
    """What every report says of one budget, or of a cause that several tests share."""

    state: str
    """A key of `wording.SIGNS`."""
    text: str
    more: Sequence[str]
    """What to do, or why it could not be checked and what settles that, a line each."""
    name: str = ""
    """As in `Mark`."""
    path: str = ""
    line: int | None = None
    verdict: Verdict | None = None
    """None of a cause."""

    @property
    def is_of_run(self) -> bool:
        """Whether it is about a budget that no test fails by."""
        return self.verdict is not None and self.verdict.scope not in ("test", "block")


def findings(ledger: Ledger) -> list[Finding]:
    """Return what is to be said of budgets, the broken ones first, and of these those of the run.

    Budgets of single tests that are kept with room to spare are left out.
    """
    cause, said, found = not_counted(ledger), set[Reason | str](), list[Finding]()
    if cause.tests:
        first, *rest = cause.lines
        test = next(iter(cause.tests.values()))
        found.append(Finding("unverified", first, rest, path=test.path, line=test.line))

    def order(mark: Mark) -> tuple[bool, bool, Decimal, str]:
        verdict = mark.verdict
        return bool(mark.name), verdict.kind != "usd", -verdict.low, mark.name

    for verdict, name, path, line in sorted(marks_of(ledger), key=order):
        state = wording.state_of(verdict)
        if (name and state == "within") or cause.explains(name, state):
            continue
        advice, reasons = run_advice(verdict, ledger), list[Reason]()
        if state == "unverified":
            reasons += cause.open_reasons(verdict.reasons)
        new = Finding(state, wording.sentence(verdict), (), name, path, line, verdict)
        if new.is_of_run:
            # Several may be open for one reason, and one command accepts all tests that grew.
            reasons = [each for each in reasons if each not in said]
            advice = "" if name and advice in said else advice
            said.update((advice, *reasons))
        lines = (advice, *(text for each in reasons for text in (each.what, each.remedy)))
        found.append(new._replace(more=[*filter(None, lines)]))
    return sorted(found, key=lambda each: [*wording.SIGNS].index(each.state))

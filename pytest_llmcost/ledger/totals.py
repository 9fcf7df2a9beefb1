"""What a whole run, a path, or one owner in it comes to.

A fixture that several workers or shards set up counts once, by its most expensive set-up; only
the live spend has all of them, because each was paid for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import reduce
from itertools import chain
from operator import attrgetter, itemgetter, lt
from typing import TypeVar

import msgspec
from msgspec.structs import asdict, replace

from pytest_llmcost.amounts import NOT_COUNTED, Amounts, most
from pytest_llmcost.budgets.budget import (
    Budget,
    Find,
    PartTokens,
    Verdict,
    concerned,
    judge,
    judge_calls,
)
from pytest_llmcost.budgets.path_globs import TAG, fixture_names, matches, rule_for
from pytest_llmcost.call import Call
from pytest_llmcost.counting.segments import REST, is_part_of
from pytest_llmcost.ledger.ledger import (
    FixtureRow,
    Ledger,
    ModelTotals,
    OwnerKind,
    TestRow,
    Totals,
    calls_of,
    fixture_name,
)
from pytest_llmcost.money import EXACT

_Row = TypeVar("_Row", TestRow, FixtureRow)
_PHASES = (None, "setup", "call", "teardown")
_ZERO = Decimal(0)

fixture_key = attrgetter("name", "scope", "baseid", "node", "param")
"""What set-ups of the same fixture in several processes have in common."""

_LINES: Mapping[str, Callable[[Ledger], Sequence[str]]] = {
    "live": attrgetter("live"),
    "models": attrgetter("allowed_models"),
}
"""The rules that may be others for each path -> the lines of their setting."""


def command_to_count(ledger: Ledger, run: str = "pytest") -> str:
    """Return the command that counts what is not counted yet.

    Prompts of mocks are counted on demand alone, and cached prefixes for a cold or a warm cache;
    the ledger does not say where that was set.
    """
    words = [run, "--llmcost-record-mode=rewrite"]
    if ledger.cache_state in ("cold", "warm"):
        words.append(f"--llmcost-cache={ledger.cache_state}")
    is_of_mock = any(
        call.evidence == "mocked" and call.has_caveat(*NOT_COUNTED) for call in calls_of(ledger)
    )
    return " ".join([*words, "--llmcost-mocks=count"] if is_of_mock else words)


def closed(ledger: Ledger, budgets: Iterable[Budget] = (), find: Find | None = None) -> Ledger:
    """Sort a ledger, add up its rows, and judge the budgets over several tests."""
    names = ("incomplete", "lost_calls", "skipped", "notes")
    ordered = {name: tuple(sorted(set(getattr(ledger, name)))) for name in names}
    ledger = replace(ledger, complete=not ledger.incomplete, **ordered)
    (ledger, whole), verdicts, budgets = summed(ledger), [], tuple(budgets)
    command = command_to_count(ledger)
    globs = [each.pattern or "" for each in budgets if each.scope == "path" and not each.is_gate]
    for budget in budgets:
        if not budget.is_gate:
            amounts = whole if budget.pattern is None else amounts_of(ledger, budget.pattern)
            amounts = amounts.with_lost_calls(ledger.lost_calls)
            verdicts.append(judge(budget, amounts, count_command=command))
            continue
        # A gate judges only the calls that no test made and fails by.
        rows: Iterable[FixtureRow] = ledger.fixtures
        if budget.kind == "unbudgeted":
            rows = [row for row in rows if not any(_is_of(glob, row) for glob in globs)]
        elif budget.kind in _LINES:
            rows = [row for row in rows if _holds_for(budget, ledger, row)]
        if not budget.is_per_call:  # the largest is that of all set-ups, whatever each of them cost
            rows = map(most_expensive, shared_fixtures(rows))
        shared = [(fixture_name(row), row.calls) for row in rows]
        if budget.pattern is None:
            shared.append(("outside tests", ledger.outside_tests))
        calls = chain.from_iterable(calls for _, calls in shared)
        verdict = judge_calls(
            budget, calls, find=find, parts=parts_of(ledger), count_command=command
        )
        if budget.kind in ("unbudgeted", "live"):
            found = sorted({name for name, calls in shared if concerned(budget, calls)})
            verdict = replace(verdict, found=tuple(found))
        verdicts += [] if verdict.state == "within" else [verdict]

    def order(verdict: Verdict) -> tuple[bool, str, str, Decimal, str]:
        pattern = verdict.pattern or verdict.part or ""
        return verdict.scope != "suite", pattern, verdict.kind, verdict.limit, verdict.origin

    return replace(ledger, verdicts=tuple(sorted(verdicts, key=order)))


def _holds_for(budget: Budget, ledger: Ledger, row: FixtureRow) -> bool:
    """Whether a rule is the one for a shared fixture: of the last line that matches it."""
    glob, values = rule_for(_LINES[budget.kind](ledger), *_names_of(row))
    return glob == (budget.pattern or "") and (budget.kind != "live" or values[-1:] == ["fail"])


def parts_of(ledger: Ledger) -> PartTokens:
    """Return the tokens of the parts of each payload, as far as they are counted."""
    return {key: facts.parts_tokens for key, facts in ledger.payloads.items()}


def largest_prompt(calls: Iterable[Call], parts: PartTokens) -> dict[str, int]:
    """Return the parts of the largest of the prompts that are counted by part, if there is one.

    A part that has parts of its own is there only through these.
    """
    known = [
        {
            name: tokens
            for name, tokens in found.items()
            if tokens and not any(is_part_of(each, name) for each in found.keys() - {name})
        }
        for call in calls
        if REST in (found := parts.get(call.fingerprint or "", {}))
    ]
    return max(known, key=lambda each: sum(each.values()), default={})


def summed(ledger: Ledger) -> tuple[Ledger, Amounts]:
    """Sort the rows of a ledger and add them up; return it, and what the whole run comes to.

    The order is one that no thread, worker or shard can change.
    """

    def by_fixture(row: FixtureRow) -> tuple[str, ...]:
        return *(text or "" for text in fixture_key(row)), row.worker or "", repr(row.calls)

    tests = sorted(map(_with_sorted_calls, ledger.tests), key=attrgetter("nodeid", "attempt"))
    ledger = replace(
        ledger,
        tests=tuple(tests),
        fixtures=tuple(sorted(map(_with_sorted_calls, ledger.fixtures), key=by_fixture)),
        outside_tests=_sorted_calls(ledger.outside_tests),
    )
    by_model, whole = _by_model(counted_calls(ledger))
    bounds = by_model
    if len(shared_fixtures(ledger.fixtures)) < len(ledger.fixtures):  # set up more than once
        # The set-up that counts is the most expensive one as far as is known.
        whole, (bounds, _) = amounts_of(ledger), _by_model(calls_of(ledger))
    live_calls = [call for call in calls_of(ledger) if is_live(call)]
    live, spent = _by_model(live_calls)
    nothing, lost = Amounts(), ledger.lost_calls
    totals = Totals(
        **asdict(_share_of(whole.with_lost_calls(lost), spent.with_lost_calls(lost))),
        unpriced_calls=whole.unpriced,
        by_model={
            model: _share_of(
                by_model.get(model, nothing), live.get(model, nothing), bounds[model].is_least
            )
            for model in sorted({*by_model, *live})
        },
        by_tag={
            tag: _share_of(
                amounts_of(ledger, TAG + tag),
                Amounts.of(call for call in live_calls if tag in call.tags),
            )
            for tag in sorted({tag for call in calls_of(ledger) for tag in call.tags})
        },
    )
    return replace(ledger, totals=totals), whole


def _by_model(calls: Iterable[Call]) -> tuple[dict[str, Amounts], Amounts]:
    """Add up calls by model and altogether; nearly every call has one model, and is read once."""
    alone: defaultdict[str, list[Call]] = defaultdict(list)
    shared: list[Call] = []
    for call in calls:
        passes = call.sampling_calls
        is_alone = len(passes) == 1 and passes[0].model == call.model
        (alone[call.model] if is_alone else shared).append(call)
    sums = {model: Amounts.of(found) for model, found in alone.items()}
    whole = sum(sums.values(), Amounts.of(shared))
    for model, share in chain.from_iterable(map(_shares, shared)):
        sums[model] = sums.get(model, Amounts()) + Amounts.of([share])
    return sums, whole


def _share_of(amounts: Amounts, live: Amounts, is_least: bool = False) -> ModelTotals:
    return ModelTotals(
        usd=amounts.usd,
        is_least=is_least or amounts.is_least,
        live_usd=live.usd,
        live_is_least=live.is_least,
        by_category=amounts.by_category,
        calls=amounts.calls,
        usage=amounts.usage,
    )


def _with_sorted_calls(row: _Row) -> _Row:
    calls = _sorted_calls(row.calls)
    return row if calls is row.calls else replace(row, calls=calls)


def _sorted_calls(calls: tuple[Call, ...]) -> tuple[Call, ...]:
    """Sort by phase, then by payload, then by all the rest, which seldom is looked at."""
    keys = [(_PHASES.index(call.phase), call.fingerprint or "") for call in calls]
    if all(map(lt, keys, keys[1:])):
        return calls
    ordered = sorted(zip(keys, map(repr, calls), calls, strict=True), key=itemgetter(0, 1))
    return tuple(call for _, _, call in ordered)


def shared_fixtures(fixtures: Iterable[FixtureRow]) -> list[list[FixtureRow]]:
    """Group the rows of each fixture, one for each worker or shard that set it up."""
    groups: dict[tuple[str | None, ...], list[FixtureRow]] = {}
    for row in fixtures:
        groups.setdefault(fixture_key(row), []).append(row)
    return list(groups.values())


def most_expensive(rows: Sequence[FixtureRow]) -> FixtureRow:
    """Return the row that stands for all set-ups of a fixture; of equals the first."""

    def expense(row: FixtureRow) -> tuple[Decimal, int]:
        amounts = Amounts.of(row.calls)
        return amounts.priced_usd, amounts.unpriced

    return rows[0] if len(rows) == 1 else max(rows, key=expense)


class Spender(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a test, a shared fixture's most expensive set-up, or the calls outside."""

    kind: OwnerKind
    name: str
    attempt: int = 1
    path: str = ""
    line: int | None = None
    key: tuple[str | None, ...]
    """What stays the same from run to run; all attempts of a test have the same."""
    calls: tuple[Call, ...]


def spenders_of(ledger: Ledger) -> list[Spender]:
    """Return each owner in a run with the calls that count, a test's last attempt last."""
    spenders = [
        Spender(
            kind="test",
            name=test.nodeid,
            attempt=test.attempt,
            path=test.path,
            line=test.line,
            key=("test", test.nodeid),
            calls=test.calls,
        )
        for test in sorted(ledger.tests, key=attrgetter("nodeid", "attempt"))
    ]
    for group in shared_fixtures(ledger.fixtures):
        row = most_expensive(group)
        key = ("fixture", *fixture_key(row))
        spenders.append(Spender(kind="fixture", name=fixture_name(row), key=key, calls=row.calls))
    if calls := ledger.outside_tests:
        name = "outside tests"
        spenders.append(Spender(kind="outside", name=name, key=("outside",), calls=calls))
    return spenders


def counted_calls(ledger: Ledger) -> Iterator[Call]:
    """Return the calls that count: of a fixture that several workers set up, one set-up's."""
    set_ups = map(most_expensive, shared_fixtures(ledger.fixtures))
    rows = chain[TestRow | FixtureRow](ledger.tests, set_ups)
    return chain(chain.from_iterable(row.calls for row in rows), ledger.outside_tests)


def amounts_of(ledger: Ledger, pattern: str | None = None) -> Amounts:
    """Add up a run, or the part of it that a glob over node ids or `tag:...` names."""
    tag, glob = None, pattern
    if pattern is not None and pattern.startswith(TAG):
        tag, glob = pattern.removeprefix(TAG), None

    def chosen(calls: Iterable[Call]) -> Iterable[Call]:
        return calls if tag is None else (call for call in calls if tag in call.tags)

    tests = (row.calls for row in ledger.tests if glob is None or matches(glob, row.nodeid))
    outside = ledger.outside_tests if glob is None else ()
    total = Amounts.of(chosen(chain(chain.from_iterable(tests), outside)))
    for group in shared_fixtures(ledger.fixtures):
        if glob is None or _is_of(glob, group[0]):
            total += most([Amounts.of(chosen(row.calls)) for row in group])
    return total


def _is_of(pattern: str, row: FixtureRow) -> bool:
    return any(matches(pattern, name) for name in _names_of(row))


def _names_of(row: TestRow | FixtureRow) -> tuple[str, ...]:
    """Return the names by which the lines of a setting may match an owner."""
    if isinstance(row, TestRow):
        return (row.nodeid,)
    return fixture_names(row.name, row.node or row.baseid)


def is_live(call: Call) -> bool:
    """Whether a call went over the network in its run, or may have."""
    return call.live is not False


def live_spenders(ledger: Ledger, mode: str | None = None) -> list[tuple[str, Amounts]]:
    """Return who sent live calls, attempts and set-ups added up, the most expensive first.

    With a mode, only those for which `llmcost_live` has it.
    """
    calls: defaultdict[str, list[Call]] = defaultdict(list)
    rows = [(test.nodeid, test.calls, _names_of(test)) for test in ledger.tests]
    rows += [(fixture_name(row), row.calls, _names_of(row)) for row in ledger.fixtures]
    for name, made, names in [*rows, ("outside tests", ledger.outside_tests, ())]:
        if mode is None or rule_for(ledger.live, *names)[1][-1:] == [mode]:
            calls[name] += filter(is_live, made)
    amounts = [(name, Amounts.of(made)) for name, made in calls.items() if made]
    return sorted(amounts, key=lambda each: (-each[1].priced_usd, -each[1].unpriced, each[0]))


def _shares(call: Call) -> Iterator[tuple[str, Call]]:
    """Split a call into what each of its models did and costs; the shares add up to the call.

    The call's own model comes last and takes the rest, such as a price that the test stated.
    """
    others = dict.fromkeys(each.model for each in call.sampling_calls if each.model != call.model)
    if not others:
        yield call.model, call
        return
    rest = call.usd_low if call.usd is None else call.usd
    for model in (*others, call.model):
        own = tuple(each for each in call.sampling_calls if each.model == model)
        usd = rest
        if model != call.model:
            # A caveat may have lowered the bound of the call as a whole.
            usd = min(reduce(EXACT.add, (each.usd or _ZERO for each in own)), rest)
        rest = EXACT.subtract(rest, usd)
        if own or usd:
            best = None if call.usd is None else usd
            yield model, replace(call, sampling_calls=own, usd=best, usd_low=usd)

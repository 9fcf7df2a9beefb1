"""A run against an earlier one; a change of prices is kept apart from one of prompts.

Owners are paired by their keys, and what is the same in both runs, call by call, cancels out.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from datetime import date
from decimal import Decimal
from functools import partial, reduce
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

from msgspec.structs import asdict, replace

from pytest_llmcost.amounts import Amounts, Range
from pytest_llmcost.budgets.budget import Budget, IncreaseLimit, Verdict, decide, judge_increase
from pytest_llmcost.call import Call, reprice
from pytest_llmcost.compare.repriced import in_column
from pytest_llmcost.counting.payload import changed_parts
from pytest_llmcost.errors import LedgerError
from pytest_llmcost.ledger.ledger import (
    BeforeAndAfter,
    Change,
    ChangedPrefix,
    Comparison,
    FixtureRow,
    How,
    Ledger,
    PartChange,
    PayloadFacts,
    Status,
    TestRow,
    Vanished,
    failed_otherwise,
    own_verdicts,
    write_ledger,
)
from pytest_llmcost.ledger.totals import (
    Spender,
    fixture_key,
    largest_prompt,
    parts_of,
    spenders_of,
    summed,
)
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.bill import USD_OF
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.prices.usage import WRITTEN

_ZERO = Decimal(0)
_MOST_CANDIDATES = 100
"""How many of the payloads that are left are compared with a new one to find the most similar."""

Spenders = Mapping[tuple[str | None, ...], Spender]


def write_baseline(ledger: Ledger, path: str | os.PathLike[str]) -> None:
    """Write a run as the baseline of later ones, without its own comparison.

    Raises:
        LedgerError: the run is a partial one, or the file cannot be written.
    """
    if not ledger.complete:
        raise LedgerError(
            f"{path}: this run is not complete ({', '.join(ledger.incomplete)}); only a whole "
            "run can be a baseline"
        )
    write_ledger(replace(ledger, comparison=None), path)


def naming_baseline(comparison: Comparison, path: Path, fetch: str) -> Comparison:
    """Say where the baseline was read, and which command fetches it to there, if one does."""
    fetch = fetch.replace("{folder}", shlex.quote(path.parent.as_posix()))
    return replace(comparison, base_path=path.as_posix(), base_fetch=fetch)


def keep_rows(ledger: Ledger, old: Ledger, not_passed: Iterable[str], card: RateCard) -> Ledger:
    """Return a run in which tests that did not pass have the rows of an older one, if it has any.

    `not_passed` are node ids, also of modules and classes that were skipped whole. A shared
    fixture that was not set up stays if one of these tests may use it, because no other test
    asked for it. The old rows are priced anew, like the run's own.
    """
    nodes = {*not_passed}
    tests = [test for test in old.tests if nodes & _around(test.nodeid)]
    kept, known = {test.nodeid for test in tests}, set(map(fixture_key, ledger.fixtures))
    fixtures = [
        row
        for row in old.fixtures
        for owner in [row.node or row.baseid]
        if fixture_key(row) not in known
        and any(node in _around(owner) or owner in _around(node) for node in nodes)
    ]

    price = pricing(ledger, card)

    def priced(row: _Row) -> _Row:
        calls = tuple(map(price, row.calls))
        return replace(row, calls=calls, usd=Amounts.of(calls).usd)

    new = (test for test in ledger.tests if test.nodeid not in kept)
    rows = chain[TestRow | FixtureRow](tests, fixtures)
    sent = {call.fingerprint for row in rows for call in row.calls}
    payloads = {key: facts for key, facts in old.payloads.items() if key in sent}
    kept_too = replace(
        ledger,
        payloads={**payloads, **ledger.payloads},
        tests=(*map(priced, tests), *new),
        fixtures=(*ledger.fixtures, *map(priced, fixtures)),
    )
    return summed(kept_too)[0]


_Row = TypeVar("_Row", TestRow, FixtureRow)


def pricing(ledger: Ledger, card: RateCard) -> Callable[[Call], Call]:
    """Return what prices a call anew, on the date and in the cache state of a ledger."""
    try:
        on = date.fromisoformat(ledger.price_date)
    except ValueError:
        raise LedgerError(
            f"the ledger's price_date is {ledger.price_date!r}, no date such as 2026-11-22"
        ) from None
    return partial(reprice, card=card, on=on, cache_state=ledger.cache_state)


def spenders_by(card: RateCard, ledger: Ledger) -> tuple[list[Spender], list[str]]:
    """Return each owner in a run with its calls at a card's prices, and a note if those are new."""
    spenders = spenders_of(ledger)
    if ledger.rate_card.sha256 == card.sha256:
        return spenders, []
    price, own = pricing(ledger, card), ledger.rate_card.own
    more = f"; for those of {own}, give --prices" if own and "+" not in card.version else ""
    note = (
        f"the run was priced with the rate card {ledger.rate_card.version}; both sides are "
        f"compared at the prices of {card.version}{more}"
    )
    return [replace(each, calls=tuple(map(price, each.calls))) for each in spenders], [note]


def compare(
    base: Ledger,
    head: Ledger,
    card: RateCard,
    *,
    limits: Iterable[IncreaseLimit] = (),
    test_limits: Iterable[IncreaseLimit] = (),
    vanished: Literal["off", "warn", "fail"] = "off",
    vanished_origin: str = "llmcost_vanished",
    fates: Fates | None = None,
) -> Comparison:
    """Compare a run with an earlier one, both at the prices of the run's date.

    Reruns count once, by the last attempt; a fixture that several workers set up counts once, by
    the most expensive set-up. In a partial run only the tests and fixtures that ran are compared.
    `limits` are for the run, in which a new test is an increase; `test_limits` are for each test
    that both runs have. `vanished` says whether guards that are gone are named, and fail the run.

    Raises:
        LedgerError: the run does not say on which date it was priced.
    """
    # Attempts of a test have the same key, and the last one comes last.
    spenders, repriced = spenders_by(card, head)
    now: Spenders = {each.key: each for each in spenders}
    then: Spenders = {each.key: each for each in spenders_of(base)}
    if not head.complete:
        now = {key: spender for key, spender in now.items() if spender.kind != "outside"}
        then = {key: spender for key, spender in then.items() if key in now}
    # The same card may be read by another rule in another version.
    terms = (base.generator, base.price_date, base.cache_state, base.rate_card.sha256)
    is_priced_alike = terms == (head.generator, head.price_date, head.cache_state, card.sha256)
    before, price = then, pricing(head, card)
    if not is_priced_alike:
        before = {key: replace(it, calls=tuple(map(price, it.calls))) for key, it in then.items()}
    found = list(_changes(before, now, base, head, tuple(test_limits), fates))
    whole = sum((added for added, _ in found), Amounts()).with_lost_calls(head.lost_calls)
    if base.lost_calls:
        whole -= Amounts().with_lost_calls(base.lost_calls)
    changes = [change for _, change in found if change is not None]

    def order(change: Change) -> tuple[bool, Decimal, str, str]:
        return change.usd is not None, -(change.usd or _ZERO), change.kind, change.name

    would_be, is_now = _whole(before, base), _whole(now, head)
    was = would_be if before is then else _whole(then, base)
    costs, bounds = _costs(would_be, is_now), whole["usd"]
    then_usd, base_usd, price_change = was.usd, costs["base_usd"], None
    if then_usd is not None and base_usd is not None and was.unpriced == would_be.unpriced:
        price_change = EXACT.subtract(base_usd, then_usd)
    verdicts = [judge_increase(limit, would_be, whole) for limit in limits]
    gone = () if vanished == "off" else tuple(find_vanished(base, head, fates))
    if gone and vanished == "fail":
        verdicts.append(judge_vanished(len(gone), vanished_origin))
    return Comparison(
        base_price_date=base.price_date,
        base_rate_card=base.rate_card.version,
        base_commit=base.run.commit,
        base_cache_state="" if base.cache_state == head.cache_state else base.cache_state,
        partial=not head.complete,
        failed=tuple(sorted(_failed(base, head, fates))),
        base_usd_then=then_usd,
        **costs,
        price_change_usd=price_change,
        change_usd=bounds.best,
        low_usd=bounds.low,
        high_usd=bounds.high,
        tokens=_differing_tokens(whole),
        unchanged=len({*before, *now}) - len(changes),
        by_tag=_changed_tags(before, now, (base, head)),
        changes=tuple(sorted(changes, key=order)),
        prefixes=_changed_prefixes(then, now, base, head, card),
        vanished=gone,
        parts=tuple(_part_changes(then, now, base, head)),
        verdicts=tuple(verdicts),
        notes=(*_notes(base, head), *repriced),
    )


def _changes(
    before: Spenders,
    now: Spenders,
    base: Ledger,
    head: Ledger,
    test_limits: tuple[IncreaseLimit, ...],
    fates: Fates | None,
) -> Iterator[tuple[Amounts, Change | None]]:
    """Yield what each owner whose calls differ adds, and a row for it unless the sum is nothing."""
    skipped = {test.nodeid for test in head.tests if test.outcome == "skipped"}
    is_skipped = fates.is_skipped if fates else skipped.__contains__
    for key in sorted({**before, **now}, key=str):
        owner = now.get(key) or before[key]
        absent = replace(owner, calls=())
        old, new = before.get(key, absent), now.get(key, absent)
        lost, gained = _differing_calls(old, new)
        if not lost and not gained:
            continue
        added = Amounts.of(gained) - Amounts.of(lost)
        tokens = _differing_tokens(added)
        if added.usd == 0 and not tokens and not added.calls:
            yield added, None
            continue
        status: Status = "new" if old is absent else "changed"
        if new is absent:
            status = why_without_calls(owner.name, fates if owner.kind == "test" else None)
        elif not new.calls:  # it has a budget, and so a row
            status = "skipped" if is_skipped(owner.name) else "no calls"
        spent, spends = Amounts.of(old.calls), Amounts.of(new.calls)
        # A new test has nothing to add to, so it counts for the run alone.
        is_common = owner.kind == "test" and old is not absent and new is not absent
        yield (
            added,
            Change(
                kind=owner.kind,
                name=owner.name,
                path=owner.path,
                line=owner.line,
                status=status,
                **_costs(spent, spends),
                usd=added.usd,
                tokens=tokens,
                calls=added.calls,
                parts=_differing_parts(lost, gained, base, head),
                verdicts=tuple(
                    judge_increase(each, spent, added) for each in test_limits if is_common
                ),
            ),
        )


def _whole(spenders: Spenders, ledger: Ledger) -> Amounts:
    calls = [call for spender in spenders.values() for call in spender.calls]
    return Amounts.of(calls).with_lost_calls(ledger.lost_calls)


def _differing_calls(old: Spender, new: Spender) -> list[list[Call]]:
    """Return the calls of both sides without those that are the same in both runs."""
    sides = [[(_identity(call), call) for call in spender.calls] for spender in (old, new)]
    before, after = (Counter(same for same, _ in side if same) for side in sides)
    differing = []
    for side in sides:
        common, rest = before & after, []
        for identity, call in side:
            if identity is not None and common[identity]:
                common[identity] -= 1
            else:
                rest.append(call)
        differing.append(rest)
    return differing


def _identity(call: Call) -> Call | None:
    """Return what a replayed call is in two runs; None for one that may be made anew each time."""
    if call.live is not False or call.fingerprint is None:
        return None
    facts = dict.fromkeys(("phase", "at", "max_tokens", "before", "broken_prefix"))
    return replace(call, tags=(), stream=False, attempts=1, **facts)


def _differing_parts(
    lost: Iterable[Call], gained: Iterable[Call], base: Ledger, head: Ledger
) -> tuple[str, ...]:
    """Return what differs between each new payload and the most similar one before it."""
    old, new = (
        [each for call in calls if (each := ledger.payloads.get(call.fingerprint or ""))]
        for calls, ledger in ((lost, base), (gained, head))
    )
    parts: dict[str, None] = {}
    for payload in new[: len(old)]:
        similar = _most_similar(payload, old[:_MOST_CANDIDATES])
        old.remove(similar)
        parts.update(dict.fromkeys(_changed_parts(similar, payload)))
    return tuple(parts)


def _changed_parts(old: PayloadFacts, new: PayloadFacts) -> list[str]:
    """Return what differs but for the order of tools: in a file the parts are sorted."""
    return changed_parts(*(dict(sorted(each.parts.items())) for each in (old, new)))


def _costs(before: Amounts, now: Amounts) -> dict[str, Any]:
    return {
        "base_usd": before.usd,
        "head_usd": now.usd,
        "base_is_least": before.is_least,
        "head_is_least": now.is_least,
    }


def _failed(base: Ledger, head: Ledger, fates: Fates | None) -> Iterator[str]:
    """Yield the tests that failed by something else than a budget, perhaps before their calls.

    Of one that failed for want of a count the reports say so, and what it adds is unknown.
    """
    now = {test.nodeid: test for test in head.tests}  # of several attempts the last one
    for name, test in now.items():
        if _has_failed(test) and not any(call.is_uncounted for call in test.calls):
            yield name
    if fates:
        without_row = {test.nodeid for test in base.tests} - now.keys()
        yield from without_row & (fates.not_passed - fates.skipped)


def _has_failed(test: TestRow) -> bool:
    return test.outcome != "passed" and failed_otherwise(test)


def _changed_tags(
    before: Spenders, now: Spenders, ledgers: tuple[Ledger, Ledger]
) -> dict[str, BeforeAndAfter]:
    found: dict[str, tuple[list[Call], list[Call]]] = {}
    for side, spenders in enumerate((before, now)):
        for spender in spenders.values():
            for call in spender.calls:
                for tag in call.tags:
                    found.setdefault(tag, ([], []))[side].append(call)
    lost = [each.lost_calls for each in ledgers]
    sums = {tag: map(Amounts.with_lost_calls, map(Amounts.of, found[tag]), lost) for tag in found}
    tags = {tag: BeforeAndAfter(**_costs(*sides)) for tag, sides in sorted(sums.items())}
    return {tag: each for tag, each in tags.items() if each.base_usd != each.head_usd}


def _part_changes(
    before: Spenders, now: Spenders, base: Ledger, head: Ledger
) -> Iterator[PartChange]:
    """Yield the parts of each owner's largest prompt, the largest part first."""
    if not any(facts.parts_tokens for facts in head.payloads.values()):
        return
    old_parts, new_parts = parts_of(base), parts_of(head)
    for key in sorted(now, key=str):
        name, new = now[key].name, largest_prompt(now[key].calls, new_parts)
        old = largest_prompt(before[key].calls, old_parts) if new and key in before else {}
        for part in sorted({*old, *new}, key=lambda each: (-new.get(each, 0), each)):
            then = old.get(part, 0) if old else None
            yield PartChange(name=name, part=part, before=then, after=new.get(part, 0))


def _differing_tokens(change: Amounts) -> dict[str, int]:
    """Return the differences by billing category; none where either side is not counted."""
    return {
        name: number
        for name, number in asdict(change.usage).items()
        if number
        and change["output_tokens" if name == "output_tokens" else "input_tokens"].best is not None
    }


def _notes(base: Ledger, head: Ledger) -> Iterator[str]:
    if not base.complete:
        yield (
            f"the baseline is a partial run ({', '.join(base.incomplete)}); what it left out "
            "counts as new"
        )
    last = {test.nodeid: test for test in base.tests}
    if failed := sum(map(_has_failed, last.values())):
        tests = f"{failed:,} of {len(last):,}"
        yield f"tests failed in the baseline ({tests}); what they did not come to counts as new"
    if not head.complete:
        yield f"a partial run ({', '.join(head.incomplete)}); only what ran is compared"


def _most_similar(payload: PayloadFacts, others: Iterable[PayloadFacts]) -> PayloadFacts:
    """Return the one that has most parts in common: of several turns, the one of its length."""

    def alike(other: PayloadFacts) -> tuple[int, int]:
        same = len(other.parts.items() & payload.parts.items()) + (other.model == payload.model)
        return same, -abs(len(other.parts) - len(payload.parts))

    return max(others, key=alike)


def _changed_prefixes(
    before: Spenders, now: Spenders, base: Ledger, head: Ledger, card: RateCard
) -> tuple[ChangedPrefix, ...]:
    """Return the cached prefixes of a run that its baseline has not, the most expensive first.

    A prefix that several tests share is one. Of several turns the longest counts,
    because it holds the others. What a new test caches is new, and what an old one caches for the
    first time, or behind what it cached before, is too.
    """
    on = date.fromisoformat(head.price_date)
    known = {each for facts in base.payloads.values() for each in facts.prefixes.values()}
    found: dict[frozenset[str], ChangedPrefix] = {}
    for key, spender in now.items():
        old = [facts for _, facts in _facts_of(before.get(key), base)]
        longest: dict[str, tuple[int, frozenset[str], ChangedPrefix]] = {}
        for call, facts in _facts_of(spender, head):
            new = {path: each for path, each in facts.prefixes.items() if each not in known}
            like = [each for each in old if each.model == facts.model]
            if not new or not like:
                continue
            similar = _most_similar(facts, like)
            if {*similar.prefixes.values()} <= {*facts.prefixes.values()}:
                continue  # it has only got longer
            cold, tokens, usd = in_column(call, "cold", head.payloads, card, on=on), None, None
            if not isinstance(cold, str) and len(cold.sampling_calls) == 1:
                written = cold.sampling_calls[0].by_category
                tokens = cold.sampling_calls[0].usage.cached_tokens or None
                costs = (getattr(written, USD_OF[name]) for name in WRITTEN.values())
                usd = reduce(EXACT.add, costs) or None
            differing = _changed_parts(similar, facts)
            if not any(path.startswith("messages") for path in new):
                differing = [each for each in differing if each.startswith(("system", "tools"))]
            change = ChangedPrefix(
                name=spender.name,
                parts=tuple(differing) or ("the order of tools or keys",),
                tokens=tokens,
                usd=usd,
                is_most=len(new) < len(facts.prefixes),
            )
            size = (tokens or 0, frozenset(new.values()), change)
            longest[facts.model] = max(longest.get(facts.model, size), size, key=lambda it: it[0])
        for _, digests, change in longest.values():
            first = found.get(digests, change)
            found[digests] = replace(first, owners=first.owners + (digests in found))
    return tuple(sorted(found.values(), key=lambda each: (-(each.usd or Decimal(0)), each.name)))


def _facts_of(spender: Spender | None, ledger: Ledger) -> Iterator[tuple[Call, PayloadFacts]]:
    for call in spender.calls if spender else ():
        facts = ledger.payloads.get(call.fingerprint or "")
        if facts is not None and facts.prefixes:
            yield call, facts


class Fates(NamedTuple):
    """What a run knows of its tests that its ledger does not hold."""

    is_searched: Callable[[str], bool]
    """Whether a test would have been found if it still existed."""
    selected: Set[str] = frozenset()
    """All tests that were to run."""
    skipped: Set[str] = frozenset()
    """Tests, and modules and classes that were skipped whole."""
    not_passed: Set[str] = frozenset()
    """The same, and those that failed: one that ended early shows no budget."""
    deselected: Set[str] = frozenset()
    """Tests that no run has any more, because the ini file deselects them."""

    def is_skipped(self, nodeid: str) -> bool:
        """Whether a test was skipped, or what it is in."""
        return not self.skipped.isdisjoint(_around(nodeid))


def _around(nodeid: str) -> set[str]:
    """Return the ids of a test and of all that it is in; the empty one is the whole run."""
    return {"", nodeid, *(nodeid[:at] for at, each in enumerate(nodeid) if each in ":/")}


def why_without_calls(nodeid: str, fates: Fates | None) -> Status:
    """Say what is known of a test of the baseline that has no call in a whole run."""
    if fates is None:
        return "no calls"
    if fates.is_skipped(nodeid):
        return "skipped"
    return "no calls" if nodeid in fates.selected else "removed"


def find_vanished(base: Ledger, head: Ledger, fates: Fates | None = None) -> Iterator[Vanished]:
    """Yield the tests with a budget or calls that are gone, and those that lost their budget.

    A part of a suite shows only what is wrong in it: what it left out is not gone. A test of
    another name that sends the same prompts is the same guard, of one test alone.
    """
    before, now = ({test.nodeid: test for test in each.tests} for each in (base, head))
    renamed: dict[tuple[str, ...], list[TestRow]] = {}
    for name, test in now.items():
        if name not in before:
            renamed.setdefault(_prompts(test), []).append(test)
    for nodeid, test in before.items():
        budgets = [each for each in own_verdicts(test) if each.scope == "test" and _is_stated(each)]
        if test.outcome == "skipped" or not (budgets or test.calls):
            continue
        row, how = now.get(nodeid), cast("How | None", None)
        # `pytest.xfail(...)` ends a body like a skip, perhaps as it did in the baseline.
        is_alike = row and row.outcome == test.outcome and (row.calls or not test.calls)
        if fates and fates.is_skipped(nodeid) and not is_alike:
            how = "skipped"
        elif fates and not fates.not_passed.isdisjoint(_around(nodeid)):
            continue
        elif fates and nodeid in fates.deselected:
            how = "deselected"
        elif row is None and head.complete:
            prompts = _prompts(test)
            if fates and nodeid in fates.selected:
                how = "without its budget" if budgets else None
            elif prompts and (alike := renamed.get(prompts)):
                had = _subjects(test)
                row = min(alike, key=lambda each: len(had ^ _subjects(each)))
                alike.remove(row)
            elif fates is None or fates.is_searched(nodeid):
                how = "deleted or renamed" if fates else "not in this run"
        if budgets and how is None and row and row.outcome in ("passed", "xpassed"):
            # A flag hides the same setting of the ini file, which may still be there.
            hidden = {(each.label, each.subject) for each in own_verdicts(row)}
            left = [each for each in budgets if each.subject not in _subjects(row)]
            budgets = [each for each in left if (each.label, each.subject) not in hidden]
            how = "without its budget" if budgets else None
        if how is not None:
            spent = Amounts.of(test.calls)
            yield Vanished(
                name=nodeid,
                how=how,
                base_usd=spent.usd,
                base_calls=spent.calls,
                base_is_least=spent.is_least,
                verdict=budgets[0] if budgets else None,
            )


def _is_stated(budget: Budget) -> bool:
    """Whether a budget is one of the suite's own files, and not of how it was once started."""
    return budget.kind != "unbudgeted" and not budget.origin.startswith(("--", "PYTEST_"))


def _subjects(test: TestRow) -> set[object]:
    """Return what the suite's own budgets of a test limit."""
    return {verdict.subject for verdict in own_verdicts(test) if _is_stated(verdict)}


def _prompts(test: TestRow) -> tuple[str, ...]:
    """Return what a test sends; empty if it is unknown of a call."""
    prompts = tuple(sorted(filter(None, (call.fingerprint for call in test.calls))))
    return prompts if len(prompts) == len(test.calls) else ()


def judge_vanished(number: int, origin: str) -> Verdict:
    """Return the verdict that fails a run by guards that vanished."""
    label = "vanished fail"
    budget = Budget(scope="increase", kind="vanished", limit=Decimal(0), origin=origin, label=label)
    return decide(budget, Range.exactly(number), budget.limit, budget.limit)

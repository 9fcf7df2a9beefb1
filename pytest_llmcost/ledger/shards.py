"""Merge: any number of shards' ledgers into the one that a single run would have written.

Data flow: (file, Report) pairs -> `merge_reports` -> Report, its ceilings decided anew. The
order of the shards never shows in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from pytest_llmcost.budgets.budget import Budget, Verdict
from pytest_llmcost.call import Call
from pytest_llmcost.errors import LedgerError
from pytest_llmcost.ledger.ledger import (
    CardId,
    FixtureRow,
    Ledger,
    OtherModel,
    PayloadFacts,
    RunRecord,
    TestRow,
    merge_other_models,
)
from pytest_llmcost.ledger.totals import decide, sort_rows, sum_totals
from pytest_llmcost.money import plain_usd

NOT_COMPARED = (
    "the shards' comparisons with a baseline do not add up; compare the merged ledger: "
    "llmcost compare"
)


@dataclass
class _Pile:
    """The shards so far, with the file that each test and each ceiling came from."""

    first: tuple[str, Ledger] | None = None
    generator: dict[str, set[str]] = field(default_factory=dict)
    runs: list[RunRecord] = field(default_factory=list)
    incomplete: set[str] = field(default_factory=set)
    lost_calls: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    notes: set[str] = field(default_factory=set)
    ceilings: dict[tuple[str, str, str], list[tuple[str, Verdict]]] = field(default_factory=dict)
    payloads: dict[str, PayloadFacts] = field(default_factory=dict)
    other_models: list[Sequence[OtherModel]] = field(default_factory=list)
    tests: dict[tuple[str, int], tuple[str, TestRow]] = field(default_factory=dict)
    fixtures: list[FixtureRow] = field(default_factory=list)
    outside: list[Call] = field(default_factory=list)


def merge_ledgers(
    shards: Iterable[tuple[str, Ledger]],
    *,
    max_suite: Budget | None = None,
    is_whole: bool = False,
) -> Ledger:
    """Add up the ledgers of one suite's shards, each with the name of its file.

    The suite is judged by `max_suite`, else by the ceiling that the shards have in common; so is
    each place. `is_whole` says that the shards together are the whole suite: what each left to
    the others then counts as run.

    Raises:
        LedgerError: no shard at all; one attempt of a test in two of them; shards of different
            prices or ceilings. Names the files.
    """
    pile = _Pile()
    for source, ledger in shards:
        _check_same_prices(pile, source, ledger)
        _add_rows(pile, source, ledger)
        _add_facts(pile, source, ledger)
    if pile.first is None:
        raise LedgerError("there is nothing to merge; name at least one ledger")
    if is_whole:
        pile.incomplete -= {"deselected", "selected"}
    return _close(pile, pile.first[1], _budgets(pile, max_suite))


def _check_same_prices(pile: _Pile, source: str, ledger: Ledger) -> None:
    if pile.first is None:
        pile.first = (source, ledger)
    first, other = pile.first
    asked: tuple[tuple[str, Callable[[Ledger], str]], ...] = (
        ("price date", lambda each: each.price_date),
        ("cache state", lambda each: each.cache_state),
        ("rate card", lambda each: _describe_card(each.rate_card)),
    )
    for name, read in asked:
        if read(ledger) != read(other):
            raise LedgerError(
                f"shards must have the same {name}: {first} has {read(other)}, {source} has "
                f"{read(ledger)}; run all shards with the same settings"
            )


def _describe_card(card: CardId) -> str:
    return f"{card.version} (sha256 {card.sha256[:12]})"


def _add_rows(pile: _Pile, source: str, ledger: Ledger) -> None:
    for test in ledger.tests:
        key = (test.nodeid, test.attempt)
        if key in pile.tests:
            raise LedgerError(
                f"attempt {test.attempt} of {test.nodeid} is both in {pile.tests[key][0]} and in "
                f"{source}; each test belongs in one shard, and each shard is merged once"
            )
        pile.tests[key] = (source, test)
    pile.fixtures += ledger.fixtures
    pile.outside += ledger.outside_tests


def _add_facts(pile: _Pile, source: str, ledger: Ledger) -> None:
    pile.runs.append(ledger.run)
    pile.incomplete.update(ledger.incomplete)
    pile.lost_calls.update(ledger.lost_calls)
    pile.sources.update(ledger.rate_card.sources)
    pile.notes.update(ledger.notes)
    if ledger.comparison is not None:
        pile.notes.add(NOT_COMPARED)
    for name, versions in ledger.generator.items():
        pile.generator.setdefault(name, set()).update(versions.split(", "))
    for fingerprint, payload in ledger.payloads.items():
        known = pile.payloads.setdefault(fingerprint, payload)
        if known != payload:
            pile.payloads[fingerprint] = known.joined(payload)
    pile.other_models.append(ledger.other_models)
    for verdict in ledger.verdicts:
        key = (verdict.scope, verdict.kind, verdict.pattern or "")
        pile.ceilings.setdefault(key, []).append((source, verdict))


def _budgets(pile: _Pile, max_suite: Budget | None) -> list[Budget]:
    budgets = [] if max_suite is None else [max_suite]
    for _, stated in sorted(pile.ceilings.items()):
        verdict = stated[0][1]
        if max_suite is None or (verdict.scope, verdict.kind) != ("suite", max_suite.kind):
            budgets.append(_common_budget(stated))
    return budgets


def _common_budget(stated: Sequence[tuple[str, Verdict]]) -> Budget:
    """Make a ceiling out of the verdicts that shards gave on it; they agree on the limit."""
    (first, verdict), *others = stated
    for source, other in others:
        if other.limit != verdict.limit:
            raise LedgerError(
                f"shards must have the same ceiling for {_describe(verdict)}: {first} has "
                f"{plain_usd(verdict.limit)}, {source} has {plain_usd(other.limit)}; run all "
                f"shards with the same settings{_OR_GIVE_IT if verdict.scope == 'suite' else ''}"
            )
    chosen = min((each for _, each in stated), key=lambda each: (each.origin, repr(each)))
    return Budget(
        scope=chosen.scope,
        kind=chosen.kind,
        limit=chosen.limit,
        origin=chosen.origin,
        label=chosen.label,
        reason=chosen.reason,
        pattern=chosen.pattern,
        idle=all(each.saw_nothing for _, each in stated),
        warn_at=chosen.warn_at,
    )


_OR_GIVE_IT = ", or give merge the limit: --max-suite"


def _describe(verdict: Verdict) -> str:
    return f"the place {verdict.pattern}" if verdict.pattern else f"the {verdict.scope}"


def _close(pile: _Pile, first: Ledger, budgets: Iterable[Budget]) -> Ledger:
    rows = sort_rows((row for _, row in pile.tests.values()), pile.fixtures, pile.outside)
    verdicts = decide(budgets, rows, lost_calls=pile.lost_calls)
    return Ledger(
        generator={
            name: ", ".join(sorted(pile.generator[name])) for name in sorted(pile.generator)
        },
        run=_merge_runs(pile.runs, is_broken=any(each.state != "within" for each in verdicts)),
        complete=not pile.incomplete,
        incomplete=tuple(sorted(pile.incomplete)),
        lost_calls=tuple(sorted(pile.lost_calls)),
        price_date=first.price_date,
        cache_state=first.cache_state,
        rate_card=replace(first.rate_card, sources=tuple(sorted(pile.sources))),
        totals=sum_totals(rows),
        verdicts=verdicts,
        payloads={key: pile.payloads[key] for key in sorted(pile.payloads)},
        tests=tuple(rows.tests),
        fixtures=tuple(rows.fixtures),
        outside_tests=tuple(rows.outside),
        other_models=merge_other_models(pile.other_models),
        notes=tuple(sorted(pile.notes)),
    )


def _merge_runs(runs: Sequence[RunRecord], *, is_broken: bool) -> RunRecord:
    """Span all runs; the worst exit status, where one shard without tests says nothing."""
    statuses = [run.exit_status for run in runs if run.exit_status is not None]
    statuses = [each for each in statuses if each != _NO_TESTS] or statuses
    worst = max(statuses, default=None)
    return RunRecord(
        started_at=min((run.started_at for run in runs if run.started_at), default=None),
        finished_at=max((run.finished_at for run in runs if run.finished_at), default=None),
        exit_status=max(worst or 0, 1) if is_broken else worst,
        workers=sum(run.workers for run in runs),
    )


_NO_TESTS = 5
"""pytest's exit status when it found none."""

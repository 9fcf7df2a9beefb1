"""Any number of shards' ledgers added up to the one that a single run would have written.

The order of the shards never shows in the result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any

from msgspec.structs import force_setattr, replace

from pytest_llmcost.budgets.budget import Budget, Verdict
from pytest_llmcost.errors import LedgerError
from pytest_llmcost.ledger.ledger import (
    Ledger,
    OtherModel,
    PayloadFacts,
    RunRecord,
    calls_of,
)
from pytest_llmcost.ledger.notes import missing_notes, mock_notes
from pytest_llmcost.ledger.totals import closed
from pytest_llmcost.money import plain_usd
from pytest_llmcost.prices.usage import Terms

NOT_COMPARED = (
    "the shards' comparisons with a baseline do not add up; compare the merged ledger: "
    "llmcost compare"
)
_NO_TESTS = 5
"""pytest's exit status when it found no tests."""


def merge_ledgers(
    shards: Iterable[tuple[str, Ledger]], *, max_suite: Budget | None = None, is_whole: bool = False
) -> Ledger:
    """Add up the ledgers of one suite's shards, at least one, each with the name of its file.

    The suite is judged by `max_suite`, or else by the budget that the shards have in common; so
    is each path. `is_whole` states that the shards together are the whole suite: what each of
    them left to the others counts as run. Of other models it has the names alone: their
    figures need prices, so `compare/other_model.py` adds them, as to a run.

    Raises:
        LedgerError: one attempt of a test in two of them; shards of different commits, prices,
            settings or budgets. Names the files.
    """
    seen: list[tuple[str, Ledger]] = []
    first: tuple[str, Ledger] | None = None
    """With which all others are compared: the first that says its commit, or else the first."""
    payloads: dict[str, PayloadFacts] = {}
    shared: defaultdict[type, dict[Any, Any]] = defaultdict(dict)
    alike = shared[PayloadFacts]
    for source, ledger in shards:
        _check_alike(*(first or (source, ledger)), source, ledger)
        _share(ledger, shared)
        for fingerprint, payload in ledger.payloads.items():
            known = payloads.get(fingerprint)
            if known != payload:
                payload = payload if known is None else known.joined(payload)
                like = alike.setdefault(payload.model, payload)
                payloads[fingerprint] = like if like == payload else payload
        # What a shard misses may be in another one.
        missing = {*missing_notes(ledger)}
        notes = tuple(note for note in ledger.notes if note not in missing)
        seen.append((source, replace(ledger, payloads={}, notes=notes)))
        if first is None or (ledger.run.commit and not first[1].run.commit):
            first = seen[-1]
    attempts: dict[tuple[str, int], str] = {}
    for source, test in ((source, test) for source, ledger in seen for test in ledger.tests):
        if (key := (test.nodeid, test.attempt)) in attempts:
            raise LedgerError(
                f"attempt {test.attempt} of {test.nodeid} is both in {attempts[key]} and in "
                f"{source}; each test belongs in one shard, and each shard is merged once"
            )
        attempts[key] = source
    attempts.clear()  # a long run has many
    every = [ledger for _, ledger in seen]
    models = {other.model for each in every for other in each.other_models}
    incomplete = {why for each in every for why in each.incomplete}
    if is_whole:
        incomplete -= {"deselected", "selected"}
    versions: dict[str, set[str]] = {}  # a merged shard names several
    for name, found in (pair for each in every for pair in each.generator.items()):
        versions.setdefault(name, set()).update(found.split(", "))
    cards = {each.rate_card.sources for each in every}
    sources = cards.pop() if len(cards) == 1 else tuple(sorted(set(chain(*cards))))
    merged = closed(
        replace(
            every[0],  # all that was found to be alike
            generator={name: ", ".join(sorted(versions[name])) for name in sorted(versions)},
            incomplete=tuple(incomplete),
            rate_card=replace(every[0].rate_card, sources=sources),
            comparison=None,
            payloads=payloads,
            other_models=tuple(OtherModel(model=model) for model in sorted(models)),
            **{
                name: tuple(chain.from_iterable(getattr(each, name) for each in every))
                for name in ("lost_calls", "skipped", "tests", "fixtures", "outside_tests")
            },
        ),
        _budgets(seen, max_suite),
    )
    runs = [each.run for each in every]
    statuses = [run.exit_status for run in runs if run.exit_status is not None]
    worst = max([each for each in statuses if each != _NO_TESTS] or statuses, default=None)
    is_broken = any(each.fails(merged.unverified) for each in merged.verdicts)
    commits = {run.commit for run in runs}
    run = RunRecord(
        started_at=min((run.started_at for run in runs if run.started_at), default=None),
        finished_at=max((run.finished_at for run in runs if run.finished_at), default=None),
        exit_status=max(worst or 0, 1) if is_broken else worst,
        has_tests=any(run.has_tests for run in runs),
        workers=sum(run.workers for run in runs),
        commit=commits.pop() if len(commits) == 1 else "",
    )
    # Of the shards the notes that hold for all of them; the one with a number is of the sum.
    noted = {note for each in every for note in each.notes}
    of_mocks = noted & {note for each in every for note in mock_notes(each)}
    held = {*(noted - of_mocks), *missing_notes(merged), *(mock_notes(merged) if of_mocks else ())}
    if any(each.comparison is not None for each in every):
        held.add(NOT_COMPARED)
    return replace(merged, run=run, notes=tuple(sorted(held)))


def _share(ledger: Ledger, shared: defaultdict[type, dict[Any, Any]]) -> None:
    """Let equal values be one object: nearly all that a long ledger holds, it holds many times."""
    texts, terms, amounts, numbers = (shared[kind] for kind in (str, Terms, Decimal, int))
    fingerprints = {key: key for key in ledger.payloads}
    for test in ledger.tests:
        force_setattr(test, "path", texts.setdefault(test.path, test.path))
    for call in calls_of(ledger):
        if call.fingerprint is not None:
            force_setattr(call, "fingerprint", fingerprints.get(call.fingerprint, call.fingerprint))
        force_setattr(call, "model", texts.setdefault(call.model, call.model))
        force_setattr(call, "context", terms.setdefault(call.context, call.context))
        force_setattr(call, "usd", amounts.setdefault(call.usd, call.usd))
        if call.usd_low == call.usd:
            force_setattr(call, "usd_low", call.usd)
        if call.usd_high == call.usd:
            force_setattr(call, "usd_high", call.usd)
        for sampling in call.sampling_calls:
            if sampling.model == call.model:
                force_setattr(sampling, "model", call.model)
            if sampling.usage == call.usage:
                force_setattr(sampling, "usage", call.usage)
            if sampling.usd == call.usd:
                force_setattr(sampling, "usd", call.usd)
        usage = call.usage
        tokens, reply = usage.input_tokens, usage.output_tokens  # the other kinds are often 0
        force_setattr(usage, "input_tokens", numbers.setdefault(tokens, tokens))
        force_setattr(usage, "output_tokens", numbers.setdefault(reply, reply))


def _check_alike(first: str, one: Ledger, source: str, two: Ledger) -> None:
    """Refuse shards whose figures cannot be added up, or whose verdicts mean different things."""
    ours, theirs = (
        {
            # Where CI says it.
            "commit": each.run.commit or one.run.commit or two.run.commit,
            "price date": each.price_date,
            "cache state": each.cache_state,
            "rate card": f"{each.rate_card.version} (sha256 {each.rate_card.sha256[:12]})",
            "llmcost_unverified": each.unverified,
            "llmcost_stable_prefix": each.stable_prefix,
            "llmcost_allowed_models": ", ".join(each.allowed_models) or "every model",
            "llmcost_live": ", ".join(each.live) or "off",
        }
        for each in (one, two)
    )
    for name in ours:
        if ours[name] != theirs[name]:
            raise LedgerError(
                f"shards must have the same {name}: {first} has {ours[name]}, {source} has "
                f"{theirs[name]}; run all shards of one commit with the same settings"
            )


def _budgets(shards: Sequence[tuple[str, Ledger]], max_suite: Budget | None) -> list[Budget]:
    """Return the budgets over several tests; the verdicts of the shards hold them."""
    # By what it limits and by shard; a path may have two lines, of which both hold.
    stated: dict[tuple[str, str, str], dict[str, dict[Decimal, Verdict]]] = {}
    for source, facts in shards:
        for verdict in facts.verdicts:  # sorted: of equal limits the same one comes first
            key = (verdict.scope, verdict.kind, verdict.pattern or verdict.part or "")
            stated.setdefault(key, {}).setdefault(source, {}).setdefault(verdict.limit, verdict)
    if max_suite is not None:
        stated.pop(("suite", max_suite.kind, ""), None)
    budgets: list[Budget] = [] if max_suite is None else [max_suite]
    for (scope, _, pattern), by_shard in sorted(stated.items()):
        (first, limits), *others = by_shard.items()
        for source, other in others:
            if other.keys() != limits.keys():
                about = "the suite" if scope == "suite" else pattern
                ours, theirs = (", ".join(map(plain_usd, sorted(each))) for each in (limits, other))
                raise LedgerError(
                    f"shards must have the same budget for {about}: {first} has {ours}, {source} "
                    f"has {theirs}; run all shards with the same settings"
                    f"{', or give merge the limit: --max-suite' if scope == 'suite' else ''}"
                )
        for limit in limits:
            alike = [each[limit] for each in by_shard.values()]
            # A path is without any test only if it is so in every shard.
            is_idle = len(alike) == len(shards) and all(each.idle for each in alike)
            chosen = min(alike, key=lambda each: (each.origin, repr(each)))
            found = {name for each in alike for name in each.found}
            budgets.append(replace(chosen, idle=is_idle, found=tuple(sorted(found))))
    return budgets

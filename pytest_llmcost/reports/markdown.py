"""A run as a pull-request comment or job summary: what merging would do first, details folded.

In sight are one headline, one line of counts, what fails the run as a whole, and a row for each
test that failed or changed. Everything else is folded.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.ledger.ledger import Change, Ledger, PartChange, TestRow, own_verdicts
from pytest_llmcost.money import plain_usd
from pytest_llmcost.reports.comparisons import (
    cells_of,
    change_of,
    count_vanished,
    describe_facts,
    describe_vanished,
    growth_of,
    other_model_section,
    shared_parts,
    what_differs,
)
from pytest_llmcost.reports.escape import clean, code, prose
from pytest_llmcost.reports.numbers import (
    REFUSED,
    dollars,
    format_count,
    short_commit,
    signed,
    usd_cell,
)
from pytest_llmcost.reports.rows import (
    OUTSIDE,
    Row,
    Share,
    categories_of,
    models_of,
    part_growth,
    parts_by_owner,
    row_of,
    rows_of,
    share_of,
    tags_of,
    token_cells,
)
from pytest_llmcost.reports.run_wording import (
    NotCounted,
    describe_live,
    describe_partial,
    describe_prices,
    describe_total,
    is_least,
    last_attempts,
    marks_by_state,
    marks_of,
    marks_of_run,
    new_reasons,
    not_counted,
    notes_of,
    own_prices,
    suite_budget,
)
from pytest_llmcost.reports.tables import markdown_row, markdown_table
from pytest_llmcost.reports.wording import (
    BROKEN,
    all_changed_parts,
    is_not_counted,
    limit_of,
    list_parts,
    sentence,
    short_sentence,
    urgency,
    what_is_unknown,
    worst_of,
)

MARKER = "<!-- pytest-llmcost -->"
"""The first line, by which a workflow finds the comment that it is to update."""

COMMENT_BYTES = 65_000
"""A comment on GitHub may have 65,536 characters."""

_Item = TypeVar("_Item")
_SIGNS = {"exceeded": "❌", "unverified": "❓", "near": "⚠️", "within": "✅"}
_FIXED_BYTES = 4_000
"""What heading, totals, the command and the heads of tables take at most."""
_MOST_REASONS = 3
_MOST_ROWS = 20
"""In sight; a longer table nobody reads, and it pushes the rest of the page away."""
_COMMAND_BYTES = 600
"""Of the tests in a command; above that, one that runs their files is the better one to read."""
_AMOUNTS = ("max_suite", "max_test", "max_call", "max_worst")
"""Options that a command repeats where no file sets them."""
_SAYING_SO = 100
"""What the line takes that says how much was left out."""


def render_markdown(ledger: Ledger, *, most_bytes: int = COMMENT_BYTES) -> str:
    """Render a run in at most so many bytes; a line says how much was left out for that.

    Empty when there is not even room for the verdict.
    """
    room = _Room(most_bytes - _FIXED_BYTES)
    if room.left < _FIXED_BYTES:
        return ""
    owners, cause, comparison = _Owner.all_of(ledger), not_counted(ledger), ledger.comparison
    of_run, of_tests = _verdicts(ledger, cause)
    heads: Sequence[str] = ("test", "cost:", "budget:", "what changed")
    vanished: Iterable[str] = ()
    if comparison:
        heads = ("test", "before:", "after:", "change:", "budget:", "what changed")
        vanished = describe_vanished(comparison)
        of_run += map(_item, (*describe_facts(comparison), *comparison.notes))
    elif ledger.incomplete:
        of_run.append(_item(describe_partial(ledger)))
    failed_or_changed = list(_failed_or_changed(ledger, owners, cause))

    # What matters most takes its room first, wherever it then stands.
    of_run = room.fit(of_run, 3)
    first = room.fit(failed_or_changed[:_MOST_ROWS], 2, heads=heads)
    if first and comparison and comparison.changes:
        change_usd = f"{signed(change_of(comparison), form=usd_cell)}{growth_of(comparison)}"
        budget = _budget(suite_budget(ledger))
        first.append(markdown_row("total", *cells_of(comparison), change_usd, budget, ""))
    more = room.fit(failed_or_changed[_MOST_ROWS:], 2, heads=heads)
    of_tests = room.fit(of_tests, 3)
    footnotes = room.fit(notes_of(ledger), 4, _item)
    gone = room.fit(vanished, 4, _item)
    usd, is_lower = ledger.totals.usd, is_least(ledger)
    itemised = [each for each in categories_of(ledger.totals) if each.usd is not None]
    lines = [markdown_row(each.name, *each.cells(usd, is_least=is_lower)) for each in itemised]
    lines += [markdown_row("total", "", usd_cell(usd, is_least=is_lower), "")] if itemised else []
    categories = room.fit(lines, 4, heads=("category", "tokens:", "cost:", "share:"))
    models = room.fit(models_of(ledger)[:50], 4, _share, heads=("model", *_SHARE_HEADS))
    tags = room.fit(tags_of(ledger), 4, _share, heads=("tag", *_SHARE_HEADS))
    changes = chain.from_iterable(parts_by_owner(ledger).values())
    part_heads = ("test", "part", "before:", "tokens:", "change:")
    parts = room.fit(changes, 2, _part, heads=part_heads)
    others = [
        (f"On {code(other.model)}", room.fit(other_model_section(other), 2))
        for other in ledger.other_models
    ]
    rows = room.fit(rows_of(ledger), 1, _row, heads=_HEADS)
    calls = format_count(ledger.totals.calls, "call")
    folds = [
        (f"{len(failed_or_changed) - _MOST_ROWS:,} more that failed or changed", more),
        ("Each budget, and where it is set", of_tests),
        *others,
        (f"All tests: {describe_total(ledger)} at list price, {calls}", rows),
        ("What is in the prompts", parts),
        ("By token category", categories),
        ("By model", models),
        ("By tag", tags),
        ("Reproduce locally", _commands(ledger, owners)),
    ]

    marks = marks_by_state(ledger)
    sign = _SIGNS["within"] if any(marks.values()) and not ledger.run.exit_status else ""
    sign = next((_SIGNS[each] for each in BROKEN if marks[each]), sign)
    lines = [MARKER, " ".join(filter(None, ("###", sign, describe_run(ledger))))]
    for section in ([_counts(ledger, owners)], of_run, first):
        lines += ["", *section] if any(section) else []
    for title, section in folds:
        if section:
            lines += ["", f"<details><summary>{title}</summary>", "", *section, "", "</details>"]
    lines += ["", f"<sub>{_terms(ledger)}.</sub>"]
    # The footnotes: the guards that vanished, and what concerns the run as a whole.
    if gone:
        lines += ["", "¹ Guards of the baseline that vanished:", "", *gone]
    lines += ["", *footnotes] if footnotes else []
    return "\n".join(lines) + "\n"


class _Room:
    """The bytes that are left for what comes next."""

    def __init__(self, left: int) -> None:
        self.left = left

    def fit(
        self,
        items: Iterable[_Item],
        share: int,
        write: Callable[[_Item], str] = str,
        *,
        heads: Sequence[str] = (),
    ) -> list[str]:
        """Write the items that fit into one part in so many of what is left; rows under heads."""
        items, used, kept = list(items), 0, []
        for number, item in enumerate(items):
            line = write(item)
            # GitHub counts characters, of which there are never more than bytes.
            size = len(line.encode()) + 1
            if used + size > self.left // share - _SAYING_SO:
                out = len(items) - number
                start = "|" if line.startswith("|") else "-"
                kept.append(f"{start} … {out:,} more left out; the JSON report has all")
                used += _SAYING_SO
                break
            used += size
            kept.append(line)
        self.left -= used
        return markdown_table(heads, kept) if heads and kept else kept


def _item(text: str) -> str:
    return f"- {prose(text)}"


# What merging would do


def describe_run(ledger: Ledger) -> str:
    """Say what merging adds, or without a baseline what the suite costs; then what is broken."""
    if not ledger.run.has_tests:
        return "No test ran, so nothing is known of what merging costs"
    if comparison := ledger.comparison:
        change = change_of(comparison)
        what, where = "the suite", "per run of the suite"
        if comparison.partial or comparison.failed:
            tests = format_count(len(comparison.failed), "failed test")
            what = "the tests that ran" if comparison.partial else f"a run with {tests}"
            where = f"in {what}"
        if change is None:
            text = f"Merging adds an unknown amount {where}"
        elif not change:
            text = f"Merging does not change the cost of {what}"
        else:
            amount = f"{dollars(abs(change))}{growth_of(comparison)}"
            text = f"Merging {'adds' if change > 0 else 'saves'} {amount} {where}"
    else:
        usd, budget = ledger.totals.usd, suite_budget(ledger)
        text = "The tests that ran cost" if ledger.incomplete else "The suite costs"
        if usd is None:
            text += " an unknown amount"
        else:
            limit = budget.limit if budget else None
            text += f" {dollars(usd, is_least=is_least(ledger), against=limit)}"
            text += f" of {limit_of(budget)}" if budget else ""
    exceeded, unverified, near, within = map(len, marks_by_state(ledger).values())
    if exceeded:
        more = f", {unverified:,} not checked" if unverified else ""
        return f"{text} · {format_count(exceeded, 'budget')} exceeded{more}"
    if unverified:
        return f"{text} · {format_count(unverified, 'budget')} could not be checked"
    kept = near + within
    which = {1: "its budget", 2: "both budgets"}.get(kept, f"all {kept:,} budgets")
    return f"{text} · within {which}" if kept else text


class _Owner(NamedTuple):
    """A test with its last attempt, or what else changed."""

    name: str
    test: TestRow | None
    change: Change | None
    verdict: Verdict | None
    """The worst on it; one that is expected, under `xfail`, is none."""

    @property
    def state(self) -> str:
        """What became of it, a key of `_WORDS`."""
        verdict, change = self.verdict, self.change
        if verdict and verdict.state != "within":
            return verdict.state
        if change and change.status == "changed" and change.usd != 0:
            usd = change.usd
            return "unknown" if usd is None else "grew" if usd > 0 else "shrank"
        if change:
            return change.status
        if verdict is None:
            is_expected = self.test is not None and self.test.outcome == "xfailed"
            return "expected" if is_expected else "unlimited"
        return "near" if verdict.is_near else "within"

    @staticmethod
    def all_of(ledger: Ledger) -> list[_Owner]:
        """Return what failed, then what changed, then the rest."""
        tests = {each.nodeid: each for each in last_attempts(ledger.tests)}
        pairs: list[tuple[TestRow | None, Change | None]] = [
            (tests.pop(each.name, None) if each.kind == "test" else None, each)
            for each in (ledger.comparison.changes if ledger.comparison else ())
        ]
        found = []
        for test, change in (*pairs, *((test, None) for test in tests.values())):
            verdicts = list(own_verdicts(test)) if test and test.outcome != "xfailed" else []
            verdicts += change.verdicts if change else ()
            worst = worst_of(verdicts) or next(iter(verdicts), None)
            name = change.name if change else test.nodeid if test else ""
            found.append(_Owner(name, test, change, worst))
        return sorted(found, key=lambda each: urgency(each.state))


_WORDS = {
    "exceeded": "exceeded",
    "unverified": "not checked",
    "unknown": "of unknown change",
    "new": "new",
    "grew": "grew",
    "shrank": "shrank",
    "changed": "changed at the same cost",
    "removed": "removed",
    "skipped": "skipped",
    "no calls": "without calls",
    "near": "near the limit",
    "within": "within budget",
    "expected": "expected to fail",
    "unlimited": "without a budget",
    "unchanged": "unchanged",
}


def _counts(ledger: Ledger, owners: Sequence[_Owner]) -> str:
    """Count tests and shared fixtures by what became of them, each once; name the commits."""
    counts = Counter(each.state for each in owners)
    base = ""
    if comparison := ledger.comparison:
        # Beside a baseline, what is kept and has not changed is counted as unchanged.
        counts["within"] = counts["expected"] = counts["unlimited"] = 0
        named = sum(each.change is None and counts[each.state] > 0 for each in owners)
        counts["unchanged"] = max(0, comparison.unchanged - named)
        base = f"against {short_commit(comparison.base_commit) or 'the baseline'}"
    states = [f"{counts[each]:,} {word}" for each, word in _WORDS.items() if counts[each]]
    text = " · ".join(filter(None, (*states, count_vanished(comparison))))
    commits = " ".join(filter(None, (short_commit(ledger.run.commit), base)))
    return " — ".join(filter(None, (text, commits)))


def _verdicts(ledger: Ledger, cause: NotCounted | None) -> tuple[list[str], list[str]]:
    """Return what is broken or nearly so of the run as a whole, and the other verdicts."""
    of_run: list[str] = []
    of_tests: list[str] = []
    said: set[str] = set()
    if cause:
        first, *rest = map(prose, cause.lines())
        of_run += [f"- {_SIGNS['unverified']} {first}", *(f"  - {text}" for text in rest)]
    for state, marks in marks_by_state(ledger).items():
        for mark in marks:
            if (mark.name and state == "within") or (cause and cause.explains(mark.name, state)):
                continue
            name = f"{code(mark.name)}: " if mark.name else ""
            lines = [f"- {_SIGNS[state]} {name}{prose(sentence(mark.verdict))}"]
            if state == "unverified":
                reasons = new_reasons(mark.verdict, cause, set() if mark.name else said)
                lines += [f"  - {prose(each)}" for each in reasons[:_MOST_REASONS]]
            found = of_tests if mark.name or state == "within" else of_run
            found += lines
    return of_run, of_tests


def _failed_or_changed(
    ledger: Ledger, owners: Iterable[_Owner], cause: NotCounted | None
) -> Iterator[str]:
    """Yield a row for each, but for those that failed by a cause that is named once for all."""
    comparison = ledger.comparison
    shared = shared_parts(comparison) if comparison else {}
    for owner in owners:
        test, change, verdict = owner.test, owner.change, owner.verdict
        is_named = cause is not None and cause.explains(owner.name, owner.state)
        if not change and (is_named or owner.state not in BROKEN):
            continue
        phrases, parts = what_differs(change, shared) if change else ([], [])
        if test and not parts:
            parts = sorted(all_changed_parts(test.calls))
        sign = _SIGNS.get(owner.state, _SIGNS["near"] if verdict and verdict.is_near else "")
        file, _, name = owner.name.partition("::")
        where = f"<br><sub>{prose(file)}</sub>" if name else ""  # beside it, no figure has room
        cells = [f"{sign} {code(name or file)}{where}".strip()]
        if change:
            is_there = change.status in ("new", "changed")
            grown = growth_of(change) if is_there else ""
            cells += [*cells_of(change), f"{signed(change.usd, form=usd_cell)}{grown}"]
        elif test:
            row = row_of(test)
            how = "unchanged" if row.usd is not None else "?"
            cells += ["", row.cost_cell(), how] if comparison else [row.cost_cell()]
        what = [", ".join([*map(prose, phrases), *list_parts(parts, code)])]
        if verdict and verdict.state == "unverified":
            what.append(what_is_unknown(verdict))
        yield markdown_row(*cells, _budget(verdict), "; ".join(filter(None, what)))


def _budget(verdict: Verdict | None) -> str:
    """Write how much of a budget is used."""
    if verdict is None:
        return ""
    if verdict.kind in ("models", "unbudgeted"):
        return prose(short_sentence(verdict))
    limit = f"{limit_of(verdict)}{' increase' if verdict.scope == 'increase' else ''}"
    return f"{share_of(verdict)} of {limit}" if verdict.limit else limit


def _commands(ledger: Ledger, owners: Iterable[_Owner]) -> list[str]:
    """Return a block with the command that runs what failed, or all, as the run was judged."""
    failed = [each for each in owners if each.test and each.state in BROKEN]
    names = [each.name for each in failed]
    files = sorted({name.partition("::")[0] for name in names})
    command = "pytest"
    for some in (files, names):
        found = shlex.join(["pytest", *some])
        # What is invisible could do in a shell what its reader does not see.
        if found.isprintable() and len(found.encode()) <= _COMMAND_BYTES:
            command = found
    lines = []
    if any(each.verdict and is_not_counted(each.verdict) for each in failed):
        lines = [
            "# count what is not counted yet (free)",
            f"{command} --llmcost-record-mode=rewrite",
        ]
    if own := own_prices(ledger):
        lines.append(f"# at the prices of {clean(own, 100)} (llmcost_prices)")
    comparison = ledger.comparison
    of_run = (mark.verdict for mark in marks_of_run(ledger) if not mark.name)
    # A budget of the suite, or on what it adds, needs all tests.
    if any(verdict.fails(ledger.unverified) for verdict in of_run):
        command = "pytest"
    if ledger.price_date:
        command += _option("price_date", clean(ledger.price_date, 20))
    if ledger.cache_state != "as-billed":
        command += _option("cache", clean(ledger.cache_state, 40))
    options = [
        _option(verdict.label, f"${plain_usd(verdict.limit)}")
        for verdict in (mark.verdict for mark in marks_of(ledger))
        if verdict.label in _AMOUNTS and not verdict.origin.startswith("llmcost_")
    ]
    if comparison and comparison.base_path:
        path = shlex.quote(clean(comparison.base_path, 200))
        commit = short_commit(comparison.base_commit)
        lines.append(f"# {path} is the baseline{commit and f', measured at {commit}'}")
        if comparison.base_fetch:
            lines.append(clean(comparison.base_fetch, 500))
        command += f" --llmcost-baseline={path}"
        # The limits by which the run was judged, each once.
        of_tests = (each for change in comparison.changes for each in change.verdicts)
        for verdict in (*comparison.verdicts, *of_tests):
            name, _, text = verdict.label.partition(" ")
            if verdict.kind == "vanished":
                options.append(" --llmcost-vanished=fail")
            elif name in ("max_increase", "max_test_increase"):
                options.append(_option(name, clean(text, 40)))
    lines.append(command + "".join(dict.fromkeys(options)))
    # Longer than any row of backticks in it, so that no name can end the block.
    fence = "`" * max(3, 1 + max(map(len, re.findall("`*", "\n".join(lines)))))
    return [f"{fence}sh", *lines, fence]


def _option(name: str, value: str) -> str:
    return f" --llmcost-{name.replace('_', '-')}={shlex.quote(value)}"


def _terms(ledger: Ledger) -> str:
    """Say at which prices, how much is unknown, and what the run itself has spent."""
    text = prose(describe_prices(ledger), most=100).replace("p", "P", 1)
    if ledger.cache_state != "as-billed":
        text += f", cache priced {prose(ledger.cache_state, most=40)}"
    totals = ledger.totals
    if totals.unpriced_calls:
        calls = format_count(totals.calls, "call")
        text += f" · {totals.unpriced_calls:,} of {calls} of unknown cost"
    return f"{text} · {describe_live(ledger)} spent live in this run"


_TOKEN_HEADS = ("calls:", "input:", "cache written:", "cache read:", "output:")
_HEADS = ("test", "cost:", "budget:", "used:", *_TOKEN_HEADS)
_SHARE_HEADS = ("cost:", *_TOKEN_HEADS)


def _row(row: Row) -> str:
    verdict, spent = row.verdict, row.spent
    against = verdict.limit if verdict and verdict.kind == "usd" else None
    sign = f"{_SIGNS[row.mark]} " if row.mark else ""
    name = code(row.name if row.group in (OUTSIDE, row.name) else f"{row.group}::{row.name}")
    return markdown_row(
        f"{sign}{name}",
        REFUSED if row.is_refused else dollars(row.usd, is_least=spent.is_least, against=against),
        prose(row.limit),
        row.used,
        f"{spent.calls:,}",
        *row.token_cells,
    )


def _share(share: Share) -> str:
    total = share.total
    usd = dollars(total.usd, is_least=share.is_least)
    tokens = token_cells(total.usage, is_least=share.is_least)
    return markdown_row(code(share.name), usd, f"{total.calls:,}", *tokens)


def _part(each: PartChange) -> str:
    before = "" if each.before is None else f"{each.before:,}"
    grown = part_growth(each)
    return markdown_row(code(each.name), code(each.part), before, f"{each.after:,}", grown)

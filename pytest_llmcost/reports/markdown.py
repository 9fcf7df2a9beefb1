"""A run as a pull-request comment or job summary: what merging would do first, details folded.

In sight are one headline, one line of counts, what fails the run as a whole, and a row for each
test that failed or changed. Everything else is folded.
"""

from __future__ import annotations

import re
import shlex
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, starmap
from operator import attrgetter
from typing import NamedTuple, TypeVar

from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.ledger.ledger import Change, Ledger, ModelTotals, OtherModel, PartChange
from pytest_llmcost.ledger.totals import command_to_count
from pytest_llmcost.money import plain_usd
from pytest_llmcost.reports import comparisons, plain_text, rows, run_wording, wording
from pytest_llmcost.reports.gates import GATES
from pytest_llmcost.reports.plain_text import MOST_CHARACTERS, clean

MARKER = "<!-- pytest-llmcost -->"
"""The first line, by which a workflow finds the comment that it is to update."""

COMMENT_BYTES = 65_000
"""A comment on GitHub may have 65,536 characters."""

_Item = TypeVar("_Item")
_SIGNS = {"exceeded": "❌", "unverified": "❓", "near": "⚠️", "within": "✅"}
_FIXED_BYTES = 4_000
"""What heading, totals, the command and the heads of tables take at most."""
_MOST_LINES = 6
"""Below a budget that is broken."""
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
    owners, comparison = _Owner.all_of(ledger), ledger.comparison
    cause = run_wording.not_counted(ledger)
    of_run, of_tests = _verdicts(ledger)
    heads: Sequence[str] = ("test", "cost:", "budget:", "what changed")
    vanished: Iterable[str] = ()
    if comparison:
        heads = ("test", "before:", "after:", "change:", "budget:", "what changed")
        vanished = comparisons.describe_vanished(comparison)
        of_run += map(_item, (*comparisons.describe_facts(comparison), *comparison.notes))
    elif ledger.incomplete:
        of_run.append(_item(run_wording.describe_partial(ledger)))
    failed_or_changed = list(_failed_or_changed(ledger, owners, cause))

    sign = _SIGNS.get(run_wording.describe_budgets(ledger)[0], "")
    lines = [MARKER, " ".join(filter(None, ("###", sign, describe_run(ledger))))]
    of_run = room.fit(of_run, 3)
    first = room.fit(failed_or_changed[:_MOST_ROWS], 2, heads=heads)
    if first and comparison and comparison.changes:
        cells = comparisons.cells_of(comparison, with_share=True)
        first.append(markdown_row("total", *cells, _budget(run_wording.suite_budget(ledger)), ""))
    for section in ([_counts(ledger, owners)], of_run, first):
        lines += ["", *section] if any(section) else []

    # They stand last, but matter more than what is folded, and so take their room before it.
    footnotes = room.fit(run_wording.notes_of(ledger), 4, _item)
    gone = room.fit(vanished, 4, _item)

    def fold(title: str, section: Sequence[str]) -> None:
        if section:
            head = f"<details><summary>{title}</summary>"
            lines.extend(["", head, "", *section, "", "</details>"])

    more = failed_or_changed[_MOST_ROWS:]
    fold(f"{len(more):,} more that failed or changed", room.fit(more, 2, heads=heads))
    fold("Each budget, and where it is set", room.fit(of_tests, 3))
    heads = ("category", "tokens:", "cost:", "share:")
    fold("By token category", room.fit(_categories(ledger), 4, heads=heads))
    heads = ("cost:", *_TOKEN_HEADS)
    models, tags = rows.by_cost(ledger.totals.by_model)[:50], [*ledger.totals.by_tag.items()]
    fold("By model", room.fit(models, 4, _share, heads=("model", *heads)))
    fold("By tag", room.fit(tags, 4, _share, heads=("tag", *heads)))
    parts = chain.from_iterable(comparisons.parts_by_owner(ledger).values())
    fold("What is in the prompts", room.fit(parts, 2, _part, heads=("test", "part", "size")))
    for other in ledger.other_models:
        fold(f"On {code(other.model)}", room.fit(_other_model(other), 2))
    calls = plain_text.format_count(ledger.totals.calls, "call")
    title = f"All tests: {run_wording.describe_total(ledger)} at list price, {calls}"
    heads = ("test", "cost:", "budget:", "used:", *_TOKEN_HEADS)
    fold(title, room.fit(rows.rows_of(ledger), 1, _row, heads=heads))
    fold("Reproduce locally", _commands(ledger, owners, cause))
    lines += ["", f"<sub>{_terms(ledger)}.</sub>"]
    # What concerns the run as a whole stands first: below the other list it would be part of it.
    lines += ["", *footnotes] if footnotes else []
    if gone:
        lines += ["", "¹ Guards of the baseline that vanished:", "", *gone]
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
    state, budgets = run_wording.describe_budgets(ledger)
    if not ledger.run.has_tests:
        text, budgets = "No test ran, so nothing is known of what merging costs", state and budgets
    elif comparison := ledger.comparison:
        change = comparisons.change_of(comparison)
        what, where = "the suite", "per run of the suite"
        if comparison.partial or comparison.failed:
            tests = plain_text.format_count(len(comparison.failed), "failed test")
            what = "the tests that ran" if comparison.partial else f"a run with {tests}"
            where = f"in {what}"
        if change is None:
            text = f"Merging adds an unknown amount {where}"
        elif not change:
            text = f"Merging does not change the cost of {what}"
        else:
            amount = f"{plain_text.dollars(abs(change))}{comparisons.growth_of(comparison)}"
            text = f"Merging {'adds' if change > 0 else 'saves'} {amount} {where}"
    else:
        budget = run_wording.suite_budget(ledger)
        text = "The tests that ran cost" if ledger.incomplete else "The suite costs"
        shown = run_wording.describe_bounds(ledger, against=budget.limit if budget else None)
        of = f" of {wording.limit_of(budget)}" if budget else ""
        text += f" {shown}{of}" if shown else " an unknown amount"
    return " · ".join(filter(None, (text, budgets)))


class _Owner(NamedTuple):
    """A test with its last attempt, or what else changed."""

    name: str
    row: rows.Row | None
    change: Change | None
    verdict: Verdict | None
    """The worst on it; one that is expected, under `xfail`, is none."""

    @property
    def state(self) -> str:
        """What became of it, a key of `_WORDS`."""
        verdict, change = self.verdict, self.change
        if verdict and verdict.state != "within":
            return verdict.state
        if self.row and self.row.outcome in ("failed", "error"):
            return "failed"
        if change and change.status == "changed" and change.usd != 0:
            return "unknown" if change.usd is None else "grew" if change.usd > 0 else "shrank"
        if change:
            return change.status
        if self.row and self.row.outcome == "xfailed":
            return "expected"
        return wording.state_of(verdict) if verdict else "unlimited"

    @staticmethod
    def all_of(ledger: Ledger) -> list[_Owner]:
        """Return what failed, then what changed, then the rest."""
        last = (row for row in rows.attempts_of(ledger) if row.is_last)
        tests = {row.owner: row for row in sorted(last, key=attrgetter("owner"))}
        pairs: list[tuple[rows.Row | None, Change | None]] = [
            (tests.pop(each.name, None) if each.kind == "test" else None, each)
            for each in (ledger.comparison.changes if ledger.comparison else ())
        ]
        found = []
        for row, change in (*pairs, *((row, None) for row in tests.values())):
            verdicts = [*row.verdicts] if row and row.outcome != "xfailed" else []
            verdicts += change.verdicts if change else ()
            worst = wording.worst_of(verdicts) or next(iter(verdicts), None)
            name = change.name if change else row.owner if row else ""
            found.append(_Owner(name, row, change, worst))
        return sorted(found, key=lambda each: (not each.is_failed, wording.urgency(each.state)))

    @property
    def is_failed(self) -> bool:
        """Whether it failed, by a budget or otherwise."""
        return self.state in (*wording.BROKEN, "failed")


_WORDS = {
    "exceeded": "exceeded",
    "rule": "against a rule",
    "unverified": "not checked",
    "failed": "failed",
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
        base = f"against {plain_text.short_commit(comparison.base_commit) or 'the baseline'}"
    broken = (each.verdict for each in owners if each.verdict and each.state == "exceeded")
    counts["rule"] = sum(verdict.is_rule for verdict in broken)
    counts["exceeded"] -= counts["rule"]
    states = [f"{counts[each]:,} {word}" for each, word in _WORDS.items() if counts[each]]
    text = " · ".join(filter(None, (*states, comparisons.count_vanished(comparison))))
    commits = " ".join(filter(None, (plain_text.short_commit(ledger.run.commit), base)))
    return " — ".join(filter(None, (text, commits)))


def _verdicts(ledger: Ledger) -> tuple[list[str], list[str]]:
    """Return what is broken or nearly so of the run as a whole, and the other verdicts."""
    of_run, of_tests = list[str](), list[str]()
    for each in run_wording.findings(ledger):
        name = f"{code(each.name)}: " if each.name else ""
        found = of_tests if each.name or each.state == "within" else of_run
        lines = [f"- {_SIGNS[each.state]} {name}{prose(each.text)}"]
        lines += [f"  - {prose(text)}" for text in each.more[:_MOST_LINES]]
        found.append("\n".join(lines))  # as one item: what is left out is counted in budgets
    return of_run, of_tests


def _failed_or_changed(
    ledger: Ledger, owners: Iterable[_Owner], cause: run_wording.NotCounted
) -> Iterator[str]:
    """Yield a row for each, but for those that failed by a cause that is named once for all."""
    comparison = ledger.comparison
    shared = comparisons.shared_parts(comparison) if comparison else {}
    for owner in owners:
        row, change, verdict = owner.row, owner.change, owner.verdict
        is_named = cause.explains(owner.name, owner.state)
        if not change and (is_named or not owner.is_failed):
            continue
        what = comparisons.what_differs(change, shared) if change else ""
        if row and not what:
            parts = sorted(wording.all_changed_parts(row.calls))
            what = plain_text.first_of(parts, wording.MOST_PARTS)
        if owner.state == "failed":
            what = "; ".join(filter(None, ("failed", what)))
        sign = _SIGNS.get(owner.state, _SIGNS["near"] if verdict and verdict.is_near else "")
        file, _, name = owner.name.partition("::")
        where = f"<br><sub>{prose(file)}</sub>" if name else ""  # beside it, no figure has room
        cells = [f"{sign} {code(name or file)}{where}".strip()]
        if change:
            cells += comparisons.cells_of(change, with_share=True)
        elif row:
            cost, is_known = row.cost_cell(), row.usd is not None
            before = (cost, cost, "unchanged") if is_known else ("", cost, "?")
            cells += before if comparison else [cost]
        if verdict and verdict.state == "unverified":
            what = "; ".join(filter(None, (what, wording.what_is_unknown(verdict))))
        yield markdown_row(*cells, _budget(verdict), prose(what))


def _budget(verdict: Verdict | None) -> str:
    """Write how much of a budget is used, or how a gate is broken."""
    if verdict is None:
        return ""
    if verdict.kind in GATES and verdict.state == "exceeded":
        return prose(wording.short_sentence(verdict))
    limit = f"{wording.limit_of(verdict)}{' increase' if verdict.scope == 'increase' else ''}"
    return prose(f"{rows.share_of(verdict)} of {limit}" if verdict.limit else limit)


def _commands(ledger: Ledger, owners: Iterable[_Owner], cause: run_wording.NotCounted) -> list[str]:
    """Return a block with the command that runs what failed, or all, as the run was judged."""
    command = _run_tests(each.name for each in owners if each.row and each.is_failed)
    lines = []
    if uncounted := _uncounted(ledger, cause):
        # What is open for the run as a whole, or for a shared fixture, needs all tests.
        names = sorted(uncounted) if uncounted <= {each.nodeid for each in ledger.tests} else ()
        lines.append("# count what is not counted yet (free)")
        lines.append(command_to_count(ledger, _run_tests(names)))
    if own := ledger.rate_card.own:
        lines.append(f"# at the prices of {clean(own, 100)} (llmcost_prices)")
    comparison = ledger.comparison
    of_run = (mark.verdict for mark in run_wording.marks_of_run(ledger) if not mark.name)
    # A budget of the suite, or on what it adds, needs all tests.
    if any(verdict.fails(ledger.unverified) for verdict in of_run):
        command = "pytest"
    if ledger.price_date:
        command += _option("price_date", clean(ledger.price_date, 20))
    if ledger.cache_state != "as-billed":
        command += _option("cache", clean(ledger.cache_state, 40))
    base = comparison.base_path if comparison else ""
    if comparison and base:
        path = shlex.quote(clean(base, 200))
        commit = plain_text.short_commit(comparison.base_commit)
        lines.append(f"# {path} is the baseline{commit and f', measured at {commit}'}")
        if comparison.base_fetch:
            lines.append(clean(comparison.base_fetch, 500))
        command += f" --llmcost-baseline={path}"
    # The limits by which the run was judged, each once; of what is no amount, who set it.
    options, others = dict[str, None](), dict[str, None]()
    for verdict in (mark.verdict for mark in run_wording.marks_of(ledger)):
        name, _, text = verdict.label.partition(" ")
        if name in _AMOUNTS and not verdict.origin.startswith("llmcost_"):
            options[_option(name, f"${plain_usd(verdict.limit)}")] = None
        elif base and name in ("max_increase", "max_test_increase", "vanished"):
            options[_option(name, clean(text, 40))] = None
        elif verdict.scope != "increase" and verdict.origin.startswith(("--", "PYTEST_")):
            others[clean(verdict.origin, 60)] = None
    if others:
        lines.append(f"# set {', '.join(others)} as in CI")
    lines.append(command + "".join(options))
    # Longer than any row of backticks in it, so that no name can end the block.
    fence = "`" * max(3, 1 + max(map(len, re.findall("`*", "\n".join(lines)))))
    return [f"{fence}sh", *lines, fence]


def _run_tests(names: Iterable[str]) -> str:
    """Return the command that runs these tests, or if they are many their files, or all."""
    names = list(names)
    files = sorted({name.partition("::")[0] for name in names})
    for some in (names, files):
        found = shlex.join(["pytest", *some])
        # What is invisible could do in a shell what its reader does not see.
        if found.isprintable() and len(found.encode()) <= _COMMAND_BYTES:
            return found
    return "pytest"


def _uncounted(ledger: Ledger, cause: run_wording.NotCounted) -> set[str]:
    """Name the tests and fixtures that wait for a count; an empty name is the run as a whole."""
    names = set() if cause.is_in_vain else set(cause.tests)
    for verdict, name, *_ in run_wording.marks_of(ledger):
        reasons = verdict.reasons if verdict.state == "unverified" else ()
        advice = [wording.without_vain(each, is_in_vain=cause.is_in_vain) for each in reasons]
        if any(each.needs_count and each.remedy for each in advice):
            names.add(name)
    return names


def _option(name: str, value: str) -> str:
    return f" --llmcost-{name.replace('_', '-')}={shlex.quote(value)}"


def _categories(ledger: Ledger) -> Iterator[str]:
    usd, is_least = ledger.totals.usd, ledger.totals.is_least
    found = [each for each in rows.categories_of(ledger.totals) if each.usd is not None]
    for each in found:
        yield markdown_row(each.name, *each.cells(usd, is_least=is_least))
    if found:
        yield markdown_row("total", "", plain_text.usd_cell(usd, is_least=is_least), "")


def _other_model(other: OtherModel) -> Iterator[str]:
    """Yield the lines of a Markdown section: the whole in a sentence, remarks, a row for each."""
    text = "Unknown: none of the calls could be compared"
    now, then = other.usd, other.usd_then
    if now is not None and then is not None:
        change = f"**{plain_text.signed(then - now)}**{plain_text.grown_by(now, then)}"
        is_least = other.unbounded_calls > 0  # of those without a figure it says so itself
        sides = " → ".join(plain_text.dollars(usd, is_least=is_least) for usd in (now, then))
        calls = plain_text.format_count(other.calls, "call")
        text = f"{change}: {sides} for {calls}, {comparisons.SAME_PROMPTS}"
        if other.unknown_calls:
            text += f"; {plain_text.format_count(other.unknown_calls, 'call')} without a figure"
    yield f"{text}."
    if remarks := [f"- {prose(text)}" for text in comparisons.other_model_remarks(other)]:
        yield from ("", *remarks)
    if other.rows:
        heads = ("test", *comparisons.OTHER_MODEL_HEADS)
        folded = comparisons.fold_other_model(other.rows)
        cells = ((code(name), *comparisons.other_model_cells(each)) for name, each in folded)
        yield from ("", *markdown_table(heads, starmap(markdown_row, cells)))


def _terms(ledger: Ledger) -> str:
    """Say at which prices, how much is unknown, and what the run itself has spent."""
    text = prose(run_wording.describe_prices(ledger), most=100).replace("p", "P", 1)
    if ledger.cache_state != "as-billed":
        text += f", cache priced {prose(ledger.cache_state, most=40)}"
    totals = ledger.totals
    if totals.unpriced_calls:
        calls = plain_text.format_count(totals.calls, "call")
        text += f" · {totals.unpriced_calls:,} of {calls} of unknown cost"
    return f"{text} · {run_wording.describe_live(ledger)} spent live in this run"


_TOKEN_HEADS = tuple(f"{head}:" for head in ("calls", *rows.TOKEN_HEADS))


def _row(row: rows.Row) -> str:
    verdict, spent = row.verdict, row.spent
    against = verdict.limit if verdict and verdict.kind == "usd" else None
    sign = f"{_SIGNS[row.mark]} " if row.mark else ""
    name = code(row.name if row.group in (rows.OUTSIDE, row.name) else f"{row.group}::{row.name}")
    usd = plain_text.dollars(row.usd, is_least=spent.is_least, against=against)
    budget = (prose(wording.limit_of(verdict)), rows.share_of(verdict))
    cost = plain_text.REFUSED if row.is_refused else usd
    return markdown_row(f"{sign}{name}", cost, *budget, f"{spent.calls:,}", *row.token_cells)


def _share(share: tuple[str, ModelTotals]) -> str:
    name, total = share
    usd = plain_text.usd_cell(total.usd, is_least=total.is_least)
    tokens = rows.token_cells(total.usage, is_least=total.is_least)
    return markdown_row(code(name), usd, f"{total.calls:,}", *tokens)


def _part(each: PartChange) -> str:
    figure = comparisons.describe_part(each.before, each.after)
    return markdown_row(code(each.name), code(each.part), prose(figure))


# Foreign text, made harmless: what could mean something is written as a character reference, which
# Markdown never reads as markup

_UNBROKEN = re.compile(r"(\S{40})(?=\S)")
"""Where a long name may be broken, so that the figures in its table stay in sight."""
_NAMED = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_REFERENCES = {each: _NAMED.get(each, f"&#{ord(each)};") for each in string.punctuation}
_JOINED = {"@": "&#64;&#8203;", "#": "&#35;&#8203;"}
"""With a space of no width behind, no forge takes them for a mention or a reference."""


def _table(harmless: str, **others: str) -> dict[int, str]:
    kept = {each: text for each, text in _REFERENCES.items() if each not in harmless}
    return str.maketrans({**kept, **others})


_IN_CODE = _table("_/.:,=-")
_IN_PROSE = _table("_/.:,;=()?'%$>-", **_JOINED)

_LEFT_OVER = re.compile(r"(?<![^\W_])_|_(?![^\W_])|(?<=:)/|(?<=www)\.|\$(?!\d)", re.IGNORECASE)
"""What means something by its place alone: emphasis, addresses, formulas."""
_EMAIL = re.compile(r"&#64;(?=[\w-]*\.)")
"""In code, too, GitHub makes a link of `a@b.c`. Any other name is left as it is, to be copied."""


def code(text: str) -> str:
    """Write a name as code, in a table cell or a sentence of Markdown.

    Example:
        >>> code("t.py::test_a[x|y]")
        '<code>t.py::test_a&#91;x&#124;y&#93;</code>'
    """
    shown = _UNBROKEN.sub("\\1\0", clean(text))  # which is printable
    written = _EMAIL.sub(_JOINED["@"], _escape(shown, _IN_CODE))
    return f"<code>{written.replace(chr(0), '<wbr>')}</code>"


def prose(text: str, most: int = MOST_CHARACTERS) -> str:
    """Write a sentence with foreign parts as plain text of Markdown.

    Example:
        >>> prose("ask @team, cost $1 > $0.50")
        'ask &#64;&#8203;team, cost $1 > $0.50'
    """
    return _escape(clean(text, most), _IN_PROSE)


def _escape(text: str, table: dict[int, str]) -> str:
    return _LEFT_OVER.sub(lambda match: _REFERENCES[match[0]], text.translate(table))


def markdown_row(*cells: str) -> str:
    """Write one row of a Markdown table, of cells that are escaped already."""
    return f"| {' | '.join(cells)} |"


def markdown_table(heads: Sequence[str], rows: Iterable[str]) -> list[str]:
    """Put heads over rows; a head that ends in a colon is over numbers, as in `text_table`."""
    rule = markdown_row(*("---:" if head.endswith(":") else "---" for head in heads))
    return [markdown_row(*(head.removesuffix(":") for head in heads)), rule, *rows]

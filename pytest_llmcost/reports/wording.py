"""Every sentence about budgets and calls, and the form of every number that people read.

Plain text, also for terminals without Unicode. It must not know where the text is shown: Markdown
escapes it, the terminal adds marks and colours.
"""

from __future__ import annotations

import json
import os.path
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from itertools import chain
from typing import NamedTuple

from msgspec.structs import replace

from pytest_llmcost.amounts import COUNT_COMMAND, Amounts, Kind
from pytest_llmcost.budgets.budget import PartTokens, Verdict, concerned, describe_breaks
from pytest_llmcost.call import Call
from pytest_llmcost.counting.payload import describe_changes
from pytest_llmcost.counting.segments import FIXED, REST, is_part_of
from pytest_llmcost.credentials import how_to_filter
from pytest_llmcost.errors import CountMissingError
from pytest_llmcost.ledger.ledger import Comparison, Ledger, TestRow, own_verdicts
from pytest_llmcost.ledger.totals import amounts_of, counted_calls, largest_prompt, spenders_of
from pytest_llmcost.money import EXACT, format_usd, format_whole_usd
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.tables import format_count

UNKNOWN = "?"
"""What is not known, in every table and file; never zero."""

_NOUNS: dict[Kind, str] = {
    "usd": "cost",
    "input_tokens": "input token",
    "uncached_input_tokens": "uncached input token",
    "output_tokens": "output token",
    "calls": "call",
}

_NAMES_OF_GATES = {
    "unbudgeted": "none",
    "live": "not live",
    "refused": "live cap",
    "stable_prefix": "stable prefix",
    "vanished": "none",
}
"""What stands for a limit that is no number."""

# Numbers


def dollars(usd: Decimal | None, *, is_least: bool = False, against: Decimal | None = None) -> str:
    """Write an amount within a sentence: `$0.0312`, `at least $0.0312`, `?`.

    Example:
        >>> dollars(Decimal("0.5"), is_least=True)
        'at least $0.50'
    """
    if usd is None:
        return UNKNOWN
    shown = format_usd(usd, against=against)
    return f"at least {shown}" if is_least else shown


def signed(usd: Decimal | None) -> str:
    """Write a difference with its sign: `+$0.05`, `-$0.05`, `±$0.00`, `?`."""
    if usd is None:
        return UNKNOWN
    sign = "-" if usd < 0 else "+" if usd else "±"
    return f"{sign}{format_usd(abs(usd))}"


def percent(part: Decimal, whole: Decimal) -> str:
    """Write how much one amount is of another.

    Example:
        >>> percent(Decimal("0.0013"), Decimal("0.01"))
        '13 %'
    """
    share = EXACT.divide(EXACT.multiply(abs(part), 100), whole)
    if not share or share >= Decimal("0.95"):
        return f"{share.quantize(Decimal(1)):,} %"
    return f"{share.quantize(Decimal('0.1'))} %" if share >= Decimal("0.05") else "under 0.1 %"


def growth(before: Decimal | int | None, after: Decimal | int | None) -> str:
    """Write by how much something grew; `=` if it is exactly equal, nothing if that is unknown.

    Example:
        >>> growth(1_000, 1_310)
        '+31 %'
    """
    if before is None or after is None or (not before and after):
        return ""
    if before == after:
        return "="
    change = EXACT.subtract(Decimal(after), Decimal(before))
    return f"{'+' if change > 0 else '-'}{percent(change, Decimal(before))}"


def grown_by(before: Decimal | int | None, after: Decimal | int | None) -> str:
    """Write by how much something grew in brackets, ` (+31 %)`; nothing if it did not."""
    grown = growth(before, after)
    return f" ({grown})" if grown not in ("", "=") else ""


def round_up(spent: Decimal, least: int) -> Decimal:
    """Round an amount up to two digits, at least of this power of ten."""
    # Two digits: enough to stay close, few enough to read as a budget and not as a measurement.
    step = Decimal(1).scaleb(max(spent.adjusted() - 1, least))
    return EXACT.multiply((spent / step).to_integral_value(ROUND_CEILING), step)


def _amount(kind: Kind, amount: Decimal, *, against: Decimal | None = None) -> str:
    return format_usd(amount, against=against) if kind == "usd" else f"{int(amount):,}"


def limit_of(verdict: Verdict) -> str:
    """Write a limit with all its digits; a rounded one might seem kept when it is not."""
    if verdict.kind == "models":
        return clean(", ".join(verdict.models))
    if verdict.kind in _NAMES_OF_GATES:
        return _NAMES_OF_GATES[verdict.kind]
    if verdict.part is not None:
        return f"{format_count(int(verdict.limit), 'token')} of {clean(verdict.part)}"
    per_call = " per call" if verdict.is_per_call else ""
    if verdict.quantity == "usd":
        at_worst = " at worst" if verdict.kind == "worst" else ""
        return format_whole_usd(verdict.limit) + per_call + at_worst
    return format_count(int(verdict.limit), _NOUNS[verdict.quantity]) + per_call


# Budgets


def used_of(verdict: Verdict) -> Decimal | None:
    """Return how much of its limit is used; None if that could not be checked."""
    if verdict.state == "unverified":
        return None
    is_kept = verdict.state == "within" and verdict.high is not None
    return verdict.high if is_kept else verdict.low


def sentence(verdict: Verdict) -> str:
    """Say what became of a budget, the amount first, and where it was set.

    Example: `$0.0113 is $0.0013 (13 %) over the $0.01 budget set at tests/test_rag.py:12`.
    """
    kind, limit, set_at = verdict.quantity, verdict.limit, _set_at(verdict)
    calls = format_count(int(verdict.low), "call")
    if verdict.kind == "models":
        allowed = f"the allowed models {limit_of(verdict)}{set_at}"
        found = clean(", ".join(verdict.found))
        found = f"{calls} of {found}, not one" if found else "all calls are"
        return f"{found} of {allowed}"
    if verdict.kind == "unbudgeted":
        found = calls if verdict.low else "no call"
        return f"{found} without a budget; {verdict.origin} requires one"
    if verdict.kind == "refused" and verdict.state != "unverified":
        return f"{short_sentence(verdict)}{set_at}"
    if verdict.kind == "live" and verdict.state != "unverified":
        if not verdict.low:
            return "no request went live"
        return f"{format_count(int(verdict.low), 'request')} went live, against the rule{set_at}"
    if verdict.kind == "stable_prefix":
        required = f"a stable prefix is required{set_at.removeprefix(' set')}"
        if not verdict.found:
            return f"no call breaks a cached prefix; {required}"
        found = clean(", ".join(verdict.found))
        return f"{_breaking(int(verdict.low))}: {found}; {required}"
    if verdict.kind == "vanished":
        return f"{short_sentence(verdict)}; {verdict.origin} forbids it"
    budget = f"the {_budget(verdict)}{set_at}"
    if verdict.state == "unverified":
        return f"cannot check {budget}: {what_is_unknown(verdict)}"
    is_over = verdict.state == "exceeded"
    amount = verdict.low if is_over or verdict.high is None else verdict.high
    if kind == "usd":
        sign = "+" if verdict.scope == "increase" and amount >= 0 else ""
        what = f"{sign}{format_usd(amount, against=limit)} is"
    else:
        noun = "token" if verdict.part is not None else _NOUNS[kind]
        what = f"{format_count(int(amount), noun)} {'is' if amount == 1 else 'are'}"
    if not is_over:
        return f"{what} within {budget}{f' ({percent(amount, limit)} used)' if limit else ''}"
    over = EXACT.subtract(amount, limit)
    share = f" ({percent(over, limit)})" if limit else ""
    return f"{_least(verdict)}{what} {_amount(kind, over)}{share} over {budget}"


def short_sentence(verdict: Verdict) -> str:
    """Say what became of a budget in so few words that pytest's short summary has room for it.

    Examples: `$0.0113 > $0.01 budget (+13 %)`, `cost $0.0225 <= $0.03 max_suite`.
    """
    limit = limit_of(verdict)
    if verdict.kind == "models":
        found = clean(", ".join(verdict.found))
        return f"{found} is not allowed" if found else f"models: {limit}"
    if verdict.kind == "unbudgeted":
        return f"{format_count(int(verdict.low), 'call')} without a budget"
    if verdict.kind == "refused" and verdict.state != "unverified":
        number = format_count(int(verdict.low), "request") if verdict.low else "no request"
        return f"{number} refused by the live cap"
    if verdict.kind == "live" and verdict.state != "unverified":
        return sentence(replace(verdict, origin="", reason=None)).partition(",")[0]
    if verdict.kind == "stable_prefix":
        found = clean(", ".join(verdict.found))
        return f"cached prefix broken: {found}" if found else limit
    if verdict.kind == "vanished":
        return f"{format_count(int(verdict.low), 'guard')} of the baseline vanished"
    budget = _budget(verdict) if verdict.kind in ("usd", "worst") else limit
    if verdict.state == "unverified":
        if is_not_counted(verdict):
            return f"not counted yet: {budget}"
        return f"not checked: {budget}, {what_is_unknown(verdict)}"
    is_over = verdict.state == "exceeded"
    before = ""
    if verdict.scope == "suite" and verdict.kind == "usd":  # no test's name is beside it
        before, budget = "cost ", f"{limit} max_suite"
    low = _amount(verdict.quantity, verdict.low, against=verdict.limit)
    more = grown_by(verdict.limit, verdict.low) if is_over else ""
    return f"{before}{_least(verdict)}{low} {'>' if is_over else '<='} {budget}{more}"


def _least(verdict: Verdict) -> str:
    return "" if verdict.actual == verdict.low else "at least "


def _budget(verdict: Verdict) -> str:
    """Name a budget with its limit."""
    noun, of, limit = "budget", "", limit_of(verdict)
    if not verdict.is_gate:
        nouns = {"suite": "suite budget", "increase": "increase limit"}
        noun = nouns.get(verdict.scope, "budget")
        of = f" for {verdict.pattern}" if verdict.pattern else ""
    if verdict.kind == "worst":
        limit, noun = format_whole_usd(verdict.limit), "worst-case budget"
    is_usd = verdict.kind in ("usd", "worst")
    return f"{limit} {noun}{of}" if is_usd else f"{noun} of {limit}{of}"


def _set_at(verdict: Verdict) -> str:
    """Say where a budget was set, and the user's reason for it."""
    text = ""
    if verdict.origin:  # a line of a file, or the option, variable or key
        at = "at" if ":" in verdict.origin or ".py" in verdict.origin else "by"
        text = f" set {at} {verdict.origin}"
    return f"{text} ({verdict.reason})" if verdict.reason else text


def what_is_unknown(verdict: Verdict) -> str:
    """Say in a few words why a budget could not be checked."""
    if is_not_counted(verdict):
        return "a prompt is not counted yet"
    if verdict.saw_nothing:
        return "no test matches it" if verdict.pattern else "no Claude call was seen"
    if route := next(filter(None, map(_UNMETERED.search, verdict.reasons)), None):
        return f"{route[1]} is not metered"
    kind = verdict.quantity
    what = {"usd": "the cost", "calls": "the number of calls"}.get(kind)
    what = what or f"the number of {_NOUNS[kind]}s"
    what = "the worst case" if verdict.kind == "worst" else what
    what += " of the largest call" if verdict.is_per_call else ""
    if verdict.part is not None:
        what = f"the size of {clean(verdict.part)}"
    low = _amount(kind, verdict.low, against=verdict.limit)
    if verdict.high is not None:
        high = _amount(kind, verdict.high, against=verdict.limit)
        return f"{what} is between {low} and {high}"
    return f"{what} is at least {low}, the rest is unknown" if verdict.low else f"{what} is unknown"


COUNT_IT = "count it (free): "
"""How the sentences of the caveats `stale` and `uncounted` introduce their command."""
_LACKS_COUNT = ("stale", "uncounted")
_UNMETERED = re.compile(r"a route to Claude that is not metered \(([^,)]+)")
"""How the sentence of the caveat `unmetered-route` names the route."""


def is_not_counted(verdict: Verdict) -> bool:
    """Whether a count, which is free, may be all that a verdict lacks."""
    return verdict.state == "unverified" and any(COUNT_IT in each for each in verdict.reasons)


def counts_in_vain(calls: Iterable[Call]) -> bool:
    """Whether every prompt that is not counted differs in every run, so that a count is no use."""
    lacking = [call for call in calls if call.has_caveat(*_LACKS_COUNT)]
    return bool(lacking) and all(call.has_caveat("volatile") for call in lacking)


def split_reason(reason: str) -> tuple[str, str]:
    """Split a reason into what is wrong, and what to do about it where that is known."""
    what, _, remedy = reason.rpartition("; ")
    if not what or what.count("(") != what.count(")"):  # a semicolon inside a detail
        return reason, ""
    return what, remedy


# A test's failure


def render_failure(
    verdict: Verdict,
    calls: Sequence[Call],
    others: Sequence[Verdict] = (),
    parts: PartTokens | None = None,
    excerpts: Sequence[str] = (),
) -> str:
    """Explain a broken budget of a test in a few lines that need no traceback.

    The others are further budgets that the test broke, a line each; `parts` is what is known of
    the parts of its prompts; excerpts are of the prompts, for a terminal alone.
    """
    parts = parts or {}
    facts = [*_prompt_facts(calls), *_call_facts(verdict, calls, parts)]
    if largest := describe_parts(calls, parts):
        facts.append(("largest parts", largest))
    facts += _open_facts(verdict, calls)
    facts += [("differs", clean(excerpt)) for excerpt in excerpts]
    for each in others:
        is_same = each.origin == verdict.origin
        facts.append(("also", sentence(replace(each, origin="", reason=None) if is_same else each)))
    advice = _advice(verdict, calls)
    return "\n".join([sentence(verdict), *_aligned(facts), *(["", advice] if advice else [])])


def render_missing_count(
    error: CountMissingError, verdict: Verdict | None, asked_at: str
) -> tuple[str, str]:
    """Explain a count that a test asked for and that is not recorded; return a short form, too."""
    changed = describe_changes(error.changed)
    what = f"{error.what} not counted yet"
    short = f"not counted yet{f': {changed} changed' if changed else ''}"
    if verdict is not None and verdict.state == "unverified":
        what = f"cannot check the {_budget(verdict)}{_set_at(verdict)}: {what}"
        short = short_sentence(verdict)
    facts = [("asked for at", asked_at)] if asked_at else []
    facts += [("recorded", f"{error.before:,} input tokens")] if error.before is not None else []
    facts += [("changed", f"{changed} (since it was counted)")] if changed else []
    if error.suspicious:
        facts.append(("possible cause", f"may differ in every run: {error.suspicious}"))
        facts.append(("if so, remove it", _BY_HOOK))
    facts.append(("count it (free)", error.command))
    return "\n".join([what, *_aligned(facts)]), short


_BY_HOOK = "in the hook pytest_llmcost_normalize_payload, for comparisons alone"


def _aligned(facts: Sequence[tuple[str, str]]) -> list[str]:
    return ["", *(f"  {label:<16}  {text}" for label, text in facts)] if facts else []


def _prompt_facts(calls: Sequence[Call]) -> Iterator[tuple[str, str]]:
    """Say how the prompts have changed since they were recorded."""
    grown = _recounted(calls)
    before = sum(call.before.input_tokens for call in grown if call.before)
    now = sum(call.billed_usage.prompt_tokens for call in grown)
    if grown:
        text = f"{before:,} -> {now:,} input tokens{grown_by(before, now)}"
        costs = [call.before.usd for call in grown if call.before and call.before.usd is not None]
        if len(costs) == len(grown):
            text += f", {dollars(sum(costs, Decimal(0)))} -> {dollars(Amounts.of(grown).usd)}"
        verb = "grew" if now > before else "shrank" if now < before else "changed"
        yield f"the prompt {verb}" if len(grown) == 1 else f"{len(grown)} prompts {verb}", text
    changed = [call for call in calls if changed_parts(call)]
    for call in changed:
        if call.before is not None and not call.sampling_calls:
            tokens = f"{call.before.input_tokens:,} input tokens"
            yield "recorded", f"{tokens}, {dollars(call.before.usd)}"
    for parts in sorted({changed_parts(call) for call in changed}):
        is_only = changed == grown and len(changed) == 1 and ", " not in parts
        since = f"{now - before:+,} tokens" if is_only else "since it was recorded"
        yield "changed", f"{parts} ({since})"
    volatile = {each.detail for call in calls for each in call.caveats if each.name == "volatile"}
    if volatile:
        yield "cause", f"differs in every run: {'; '.join(sorted(volatile))}"
        yield "remove it", _BY_HOOK


def _recounted(calls: Iterable[Call]) -> list[Call]:
    return [call for call in calls if call.before is not None and call.sampling_calls]


_GATED: Mapping[str, str] = {
    "models": "not allowed",
    "unbudgeted": "no budget for",
    "live": "went live",
    "stable_prefix": "not read",
    "refused": "not sent",
}
_MOST_CALLS = 3
"""How many calls that break a gate a failure lists."""


def _call_facts(
    verdict: Verdict, calls: Sequence[Call], parts: PartTokens
) -> Iterator[tuple[str, str]]:
    """Show the calls that break a gate, or else the largest one."""
    if verdict.state != "exceeded":
        return
    of_all = f"largest of {len(calls)}" if len(calls) > 1 else "the call"
    if verdict.is_gate:
        for call in concerned(verdict, calls, parts)[:_MOST_CALLS]:
            label = of_all if verdict.is_per_call else _GATED[verdict.kind]
            yield label, describe_call(call)
    elif verdict.kind == "worst":
        longest = max(calls, key=lambda call: call.max_tokens or 0)
        yield (
            "longest reply",
            f"max_tokens of {longest.max_tokens or 0:,}: {describe_call(longest)}",
        )
    elif calls:

        def size(call: Call) -> tuple[Decimal, int]:
            usage = call.billed_usage
            return call.usd_low, usage.prompt_tokens + usage.output_tokens

        largest = max(calls, key=size)
        if [largest] != _recounted(calls):  # which the line on the prompt's growth shows
            yield of_all, describe_call(largest)


def _open_facts(verdict: Verdict, calls: Sequence[Call]) -> Iterator[tuple[str, str]]:
    """Say what is unknown, and how to settle it."""
    is_in_vain = counts_in_vain(calls)
    for what, remedy in map(split_reason, verdict.reasons):
        if not remedy.startswith(COUNT_IT):
            yield "unknown", what
            if remedy:
                yield "to settle it", remedy
        elif not is_in_vain:
            yield "count it (free)", remedy.removeprefix(COUNT_IT)


def changed_parts(call: Call) -> str:
    """Name the parts of a prompt that changed since it was recorded; empty if none did."""
    for each in call.caveats:
        if each.name in ("changed-prompt", "stale"):
            return each.detail
        if each.name == "not-recounted":  # what follows is why
            return each.detail.rpartition(": ")[0]
        if each.name == "uncounted" and each.detail.startswith("changed: "):
            return each.detail.removeprefix("changed: ")
    return ""


_LARGEST_PARTS = 3


def describe_parts(calls: Iterable[Call], parts: PartTokens) -> str:
    """Name the three largest parts: `system 3,412; tools.find 890; messages.2 (document) 702`."""
    found = largest_prompt(calls, parts)
    own = found.keys() - {FIXED, REST}  # what the API adds cannot be shortened
    largest = sorted(own, key=lambda name: (-found[name], name))[:_LARGEST_PARTS]
    return "; ".join(f"{show_part(name, found)} {found[name]:,}" for name in largest)


def show_part(name: str, names: Iterable[str]) -> str:
    """Write a part's name without what the names of the other parts make needless.

    Example:
        >>> show_part("system.0", ["system.0"]), show_part("messages.2.document", [])
        ('system', 'messages.2 (document)')
    """
    group, _, rest = name.partition(".")
    if group == "system" and sum(is_part_of(each, group) for each in names) == 1:
        return group
    number, dot, kind = rest.partition(".")
    if group == "messages" and dot:
        return f"{group}.{number} ({kind})"
    return clean(name)


def describe_call(call: Call) -> str:
    """Describe a call in a line: `claude-opus-4-7, 8,120 input + 412 output tokens, $0.0298`."""
    model, usage = clean(call.model), call.billed_usage
    if not call.sampling_calls and call.usd is None:
        return f"{model}: {'not counted yet' if call.has_caveat(*_LACKS_COUNT) else 'cost unknown'}"
    tokens = f"{usage.prompt_tokens:,} input"
    written = usage.cache_write_5m_tokens + usage.cache_write_1h_tokens
    cached = {"written to cache": written, "read from cache": usage.cache_read_tokens}
    details = ", ".join(f"{number:,} {what}" for what, number in cached.items() if number)
    tokens += f" ({details})" if details else ""
    tokens += f" + {usage.output_tokens:,} output" if usage.output_tokens else ""
    searches = usage.web_search_requests
    tokens += f" tokens + {format_count(searches, 'web search request')}" if searches else " tokens"
    price = "cost unknown" if call.usd is None else format_usd(call.usd)
    evidence = "" if call.evidence == "billed" else f" ({call.evidence})"
    return f"{model}, {tokens}, {price}{evidence}"


def _advice(verdict: Verdict, calls: Sequence[Call]) -> str:
    """Say what to do, if possible with a new budget: a round one that the test keeps."""
    if verdict.kind == "unbudgeted":
        cost = Amounts.of(calls).usd
        amount = format_whole_usd(round_up(cost, -9)) if cost else "$0.05"
        return (
            f'Give the test a budget, for example @max_cost("{amount}"), or set llmcost_max_test '
            "or a path in llmcost_budgets."
        )
    if verdict.saw_nothing:
        return (
            "Pass the payload to llmcost.count(...) or the response to llmcost.record(...), or "
            "remove the marker."
        )
    if verdict.state != "exceeded":
        return ""
    if verdict.kind == "stable_prefix":
        return (
            "Move what changes from call to call behind the last cache_control, and keep tools, "
            "keys and settings the same."
        )
    if verdict.kind == "models":
        return "Call an allowed model, or allow this one where the list is set."
    if verdict.kind == "refused":
        return (
            "Replay the request, lower its max_tokens, or raise the cap: a request is sent only if "
            "its worst case fits into what is left."
        )
    if verdict.kind == "live":
        return (
            "Record a cassette, or allow this test to go live: @max_cost(live=True). The address "
            "of a stand-in that spends nothing belongs in llmcost_stand_ins."
        )
    quantity = verdict.quantity
    savings = {
        "output_tokens": "Shorten the reply",
        "calls": "Make fewer calls",
        "uncached_input_tokens": "Let more of the prompt be read from the cache",
    }
    save = savings.get(quantity, "Shorten the prompt")
    save = "Lower max_tokens, shorten the prompt" if verdict.kind == "worst" else save
    if verdict.actual is None:
        return f"{save}, or raise the budget if the price is right."
    limit = round_up(verdict.actual, -9 if quantity == "usd" else 0)
    if verdict.part is not None:
        budget = f"@max_cost(parts={{{json.dumps(verdict.part)}: {int(limit):_}}})"
        return f"Shorten it, or accept it with a new budget: {budget}"
    budget = f"@max_cost({verdict.kind}={int(limit):_})"
    if quantity == "usd":
        name = "llmcost.budget" if verdict.scope == "block" else "@max_cost"
        key = "" if verdict.kind == "usd" else f"{verdict.kind}="
        budget = f'{name}({key}"{format_whole_usd(limit).replace(",", "")}")'
    return f"{save}, or accept the price with a new budget: {budget}"


def render_section(calls: Sequence[Call], verdict: Verdict | None) -> str:
    """Say what a test cost that failed by itself: each call, and what became of its budget."""
    lines = [describe_call(call) for call in calls]
    return "\n".join([*lines, *([sentence(verdict)] if verdict is not None else [])])


# A run


def broken_prefixes(ledger: Ledger) -> str:
    """Say which calls break a cached prefix, the most expensive first; empty if none is worth it.

    Where that fails tests, their verdicts say it.
    """
    if ledger.stable_prefix != "warn":
        return ""
    found = []
    for spender in spenders_of(ledger):
        calls = [call for call in spender.calls if call.broken_prefix is not None]
        usd = [call.broken_prefix.usd for call in calls if call.broken_prefix is not None]
        if calls:
            found.append((-sum(filter(None, usd), Decimal(0)), spender.name, calls))
    if not found:
        return ""
    _, name, calls = min(found, key=lambda each: each[:2])
    number = sum(len(calls) for _, _, calls in found)
    more = f", and {format_count(number - len(calls), 'call')} elsewhere" if len(found) > 1 else ""
    places = ", ".join(describe_breaks(calls)[:_MOST_CALLS])
    return f"{_breaking(number)}: {name}: {places}{more} (llmcost_stable_prefix)"


def cache_misses(ledger: Ledger) -> str:
    """Say which cache misses the API itself explains, sorted; empty if there are none."""
    caveats = (each for call in counted_calls(ledger) for each in call.caveats)
    details = Counter(each.detail for each in caveats if each.name == "cache-miss")
    if ledger.stable_prefix == "off" or not details:
        return ""
    shown = [f"{clean(text)}{f' ({n:,} calls)' if n > 1 else ''}" for text, n in details.items()]
    more = f" and {len(shown) - _MOST_CALLS:,} more" if len(shown) > _MOST_CALLS else ""
    return f"cache misses that the API explains: {'; '.join(sorted(shown)[:_MOST_CALLS])}{more}"


def _breaking(number: int) -> str:
    breaking = "1 call breaks" if number == 1 else f"{number:,} calls break"
    return f"{breaking} the cached prefix of an earlier one"


def is_least(amounts: Amounts) -> bool:
    """Whether some calls may have cost more than their list price."""
    return bool(amounts.unpriced) or amounts["usd"].high is None


def describe_total(ledger: Ledger) -> str:
    """Write the list price of a run."""
    return dollars(ledger.totals.usd, is_least=is_least(amounts_of(ledger)))


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
    """Empty for the budget of a suite or a path, whose sentence names it."""
    path: str = ""
    line: int | None = None

    @property
    def is_of_run(self) -> bool:
        """Whether it is about several tests, so that no test fails by it."""
        return self.verdict.scope in ("suite", "path", "tag", "increase")


def marks_of(ledger: Ledger) -> Iterator[Mark]:
    """Yield the budgets over the run, increases, and those of each test's last attempt.

    A broken budget that is expected, under `xfail`, is left out.
    """
    yield from marks_of_run(ledger)
    for test in last_attempts(ledger.tests):
        if test.outcome != "xfailed":
            for verdict in own_verdicts(test):
                yield Mark(verdict, test.nodeid, test.path, test.line)


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
    for mark in marks_of_run(ledger):
        verdict = mark.verdict
        if verdict.fails(ledger.unverified):
            yield f"FAILED {clean(mark.name or verdict.origin)} - {short_sentence(verdict)}"


def describe_keys(found: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Name files that hold what looks like a key, and say how to keep keys out of them."""
    for path, where in found.items():
        yield f"{clean(path)}: what looks like a key is in {', '.join(where)}"
    yield ""
    yield "Keep keys out with this fixture in conftest.py, or with the same options of vcr.VCR:"
    yield ""
    for line in how_to_filter(chain.from_iterable(found.values())):
        yield f"    {line}".rstrip()
    yield ""
    yield "Then record these files again. Revoke a key that has been committed or uploaded."


_MOST_PARTS = 6
_MOST_FILES = 3
"""With more of them, a command that counts the whole suite is the better one to read."""


class NotCounted(NamedTuple):
    """Tests that fail for one cause: their prompts are not counted."""

    tests: tuple[TestRow, ...]
    parts: tuple[tuple[str, int], ...]
    """Each changed part with the number of tests in which it changed, the most frequent first."""
    volatile: int = 0
    """In how many tests a prompt differs in every run, so that a count will be missing again."""

    @property
    def nodeids(self) -> frozenset[str]:
        """The tests' ids."""
        return frozenset(test.nodeid for test in self.tests)

    def lines(self, root: str = "") -> Iterator[str]:
        """Say how many tests, what changed in them, and the command that counts them all.

        `root` is the way to pytest's root folder from where the command is to be typed.
        """
        number = len(self.tests)
        why = f"their prompts {'changed and ' if self.parts else ''}are not counted yet"
        yield f"{format_count(number, 'test')} cannot be checked: {why}."
        shown = self.parts[:_MOST_PARTS]
        every_one = "both" if number == 2 else f"all {number:,}"

        def of_tests(some: int) -> str:
            return every_one if some == number else f"{some:,}"

        changed = [f"{part} in {of_tests(each)}" for part, each in shown]
        if len(self.parts) > len(shown):
            changed.append(f"{len(self.parts) - len(shown):,} more parts")
        volatile = f"; differs in every run in {of_tests(self.volatile)}: see the failures"
        if changed:
            yield f"changed: {', '.join(changed)}{volatile if self.volatile else ''}"
        if self.volatile < number:  # otherwise the counts would be missing again in the next run
            base = root or "."
            files = {test.nodeid.partition("::")[0] for test in self.tests}
            paths = sorted({os.path.normpath(f"{base}/{file}") for file in files})
            first, *rest = shlex.split(COUNT_COMMAND)
            words = [first, *(paths if len(paths) <= _MOST_FILES else []), *rest]
            yield f"count them all (free): {shlex.join(words)}"


def not_counted(ledger: Ledger) -> NotCounted | None:
    """Find the tests that share this cause; None if they are not several."""
    tests, volatile = [], 0
    parts: Counter[str] = Counter()
    for test in last_attempts(ledger.tests):
        lacking = [call for call in test.calls if call.has_caveat(*_LACKS_COUNT)]
        states = {each.state for each in own_verdicts(test)}
        if not states and test.outcome == "failed":  # by the missing count itself
            states = {"unverified"}
        if lacking and "unverified" in states and test.outcome != "xfailed":
            tests.append(test)
            volatile += any(call.has_caveat("volatile") for call in lacking)
            changed = {part for call in lacking for part in changed_parts(call).split(", ")}
            parts.update(changed - {""})
    if len(tests) < 2:
        return None
    most_frequent = sorted(parts.items(), key=lambda each: (-each[1], each))
    return NotCounted(tuple(tests), tuple(most_frequent), volatile)

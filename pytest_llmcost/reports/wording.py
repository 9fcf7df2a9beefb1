"""The sentences about one budget and its calls: what a failing test says.

Plain text, also for terminals without Unicode. It must not know where the text is shown: Markdown
escapes it, the terminal adds marks and colours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from msgspec.structs import replace

from pytest_llmcost.amounts import NOT_COUNTED, Amounts, Kind, Reason
from pytest_llmcost.budgets.budget import PartTokens, Verdict, concerned
from pytest_llmcost.call import Call
from pytest_llmcost.counting.payload import describe_changes
from pytest_llmcost.counting.segments import FIXED, REST, is_part_of
from pytest_llmcost.errors import CountError, CountMissingError
from pytest_llmcost.ledger.totals import largest_prompt
from pytest_llmcost.money import format_share, format_usd, format_whole_usd
from pytest_llmcost.prices.usage import FEES
from pytest_llmcost.reports.gates import GATES
from pytest_llmcost.reports.plain_text import (
    REFUSED,
    clean,
    dollars,
    format_count,
    grown_by,
    percent,
    round_up,
    write_round_usd,
)

# Budgets


def _noun(kind: Kind) -> str:
    return kind.removesuffix("s").replace("_", " ")


def limit_of(verdict: Verdict | None) -> str:
    """Write a limit with all its digits; a rounded one might seem kept when it is not."""
    if verdict is None:
        return ""
    if verdict.kind in GATES:
        return GATES[verdict.kind].limit.format(allowed=clean(", ".join(verdict.models)))
    if verdict.part is not None:
        return f"{format_count(int(verdict.limit), 'token')} of {clean(verdict.part)}"
    per_call = " per call" if verdict.is_per_call else ""
    if verdict.quantity == "usd":
        state = f" {verdict.cache_state}" if verdict.cache_state else ""
        state = " at worst" if verdict.kind == "worst" else state
        return format_whole_usd(verdict.limit) + per_call + state
    return format_count(int(verdict.limit), _noun(verdict.quantity)) + per_call


SIGNS = {"exceeded": "✗", "unverified": "?", "near": "!", "within": "✓"}
"""Of each state, the worst first, in a terminal and on a page."""
BROKEN = ("exceeded", "unverified")
"""The states of which a test or a run may fail."""


def state_of(verdict: Verdict) -> str:
    """Return `exceeded`, `unverified`, `near` or `within`, the first one the worst."""
    return "near" if verdict.is_near else verdict.state


def worst_of(verdicts: Iterable[Verdict]) -> Verdict | None:
    """Return the first in the worst state; None if all are within, and none nearly reached."""
    marked = [each for each in verdicts if state_of(each) != "within"]
    return min(marked, key=lambda each: [*SIGNS].index(state_of(each)), default=None)


def urgency(state: str) -> int:
    """Rank a state, or the mark of a row: what is broken first."""
    return BROKEN.index(state) if state in BROKEN else len(BROKEN)


def figure_of(verdict: Verdict) -> tuple[Decimal, str]:
    """Return the amount that decides a verdict, and `at least` or `at most` if it is a bound."""
    amount, bound = verdict.low, "at least "
    if verdict.state == "within" and verdict.high is not None:
        amount, bound = verdict.high, "at most "
    return amount, "" if verdict.actual == amount else bound


_CORRECT_PATH = "; correct its path. This lists the paths of all tests: pytest --collect-only -q"


def sentence(verdict: Verdict) -> str:
    """Say what became of a budget, the amount first, and where it was set.

    Example: `$0.0113 is $0.0013 (13 %) over the $0.01 budget set at tests/test_rag.py:12`.
    """
    kind, limit, set_at = verdict.quantity, verdict.limit, _set_at(verdict)
    budget = f"the {_budget(verdict)}{set_at}"
    if verdict.state == "unverified":
        remedy = _CORRECT_PATH if verdict.saw_nothing and verdict.pattern else ""
        return f"cannot check {budget}: {what_is_unknown(verdict)}{remedy}"
    # A gate counts the calls that break it, so it is kept by none.
    if gate := GATES.get(verdict.kind):
        return _fill((not verdict.low and gate.kept) or gate.broken, verdict)
    amount, bound = figure_of(verdict)
    if kind == "usd":
        what = f"{bound}{_plus(verdict, amount)}{format_usd(amount, against=limit)} is"
    else:
        noun = "token" if verdict.part is not None else _noun(kind)
        what = f"{bound}{format_count(int(amount), noun)} {'is' if amount == 1 else 'are'}"
    if verdict.state != "exceeded":
        used = format_share(amount, limit).replace("%", " %")
        return f"{what} within {budget}{f' ({used} used)' if limit else ''}"
    share = f" ({percent(amount - limit, limit)})" if limit else ""
    return f"{what} {_amount(kind, amount - limit)}{share} over {budget}"


def short_sentence(verdict: Verdict) -> str:
    """Say what became of a budget in so few words that pytest's short summary has room for it.

    Examples: `$0.0113 > $0.01 budget (+13 %)`, `cost $0.0225 <= $0.03 max_suite`.
    """
    gate, limit = GATES.get(verdict.kind), limit_of(verdict)
    budget = _budget(verdict) if gate or verdict.kind in ("usd", "worst") else limit
    if verdict.state == "unverified":
        if is_not_counted(verdict):
            return f"not counted yet: {budget}"
        return f"not checked: {budget}, {what_is_unknown(verdict)}"
    if gate:  # of one that is kept nothing is said in short
        return _fill(gate.short_broken, verdict)
    before = ""
    if verdict.scope == "suite" and verdict.kind == "usd":  # no test's name is beside it
        before, budget = "cost ", f"{limit} max_suite"
    amount, bound = figure_of(verdict)
    shown = _plus(verdict, amount) + _amount(verdict.quantity, amount, against=verdict.limit)
    is_over = verdict.state == "exceeded"
    more = grown_by(verdict.limit, amount) if is_over else ""
    return f"{before}{bound}{shown} {'>' if is_over else '<='} {budget}{more}"


def _fill(template: str, verdict: Verdict, **more: str) -> str:
    """Fill in what a gate's words say of a verdict."""
    number, set_at = int(verdict.low), _set_at(verdict)
    of_models = verdict.kind == "models"
    found = clean(", ".join(show_model(each) if of_models else each for each in verdict.found))
    return template.format(
        allowed=limit_of(verdict),
        found=found,
        owners=f": {found}" if found else "",
        set_at=set_at,
        at=set_at.removeprefix(" set"),
        origin=verdict.origin,
        calls=format_count(number, "call"),
        requests=format_count(number, "request"),
        guards=format_count(number, "guard"),
        breaking=breaking(number),
        **more,
    )


def show_model(name: str) -> str:
    """Write a model's name, or that neither request nor response states it."""
    return "an unknown model" if name == "unknown" else clean(name)


def breaking(number: int) -> str:
    """Say how many calls break a cached prefix."""
    verb = "1 call breaks" if number == 1 else f"{number:,} calls break"
    return f"{verb} the cached prefix of an earlier one"


def _plus(verdict: Verdict, amount: Decimal) -> str:
    """Return the sign of what was added to a baseline, unless it is negative and has one."""
    return "+" if verdict.scope == "increase" and amount >= 0 else ""


def _amount(kind: Kind, amount: Decimal, *, against: Decimal | None = None) -> str:
    return format_usd(amount, against=against) if kind == "usd" else f"{int(amount):,}"


def _budget(verdict: Verdict) -> str:
    """Name a budget with its limit, or a gate."""
    of = f" for {verdict.pattern}" if verdict.pattern else ""
    if verdict.kind in GATES:
        return GATES[verdict.kind].name + of
    if verdict.kind == "worst":
        return f"{format_whole_usd(verdict.limit)} worst-case budget{of}"
    nouns = {"suite": "suite budget", "increase": "increase limit"}
    noun = "budget" if verdict.is_gate else nouns.get(verdict.scope, "budget")
    noun = f"cache {noun}" if verdict.cache_state and verdict.kind == "usd" else noun
    limit = limit_of(verdict)
    if verdict.scope == "increase" and verdict.label.endswith("%"):  # which the user wrote
        limit += f" ({verdict.label.partition(' ')[2].rstrip(' %')} %)"
    return f"{limit} {noun}{of}" if verdict.kind == "usd" else f"{noun} of {limit}{of}"


def _set_at(verdict: Verdict) -> str:
    """Say where a budget was set, and the user's reason for it."""
    text = ""
    if verdict.origin:  # a line of a file, or the option, variable or key
        at = "at" if ":" in verdict.origin or ".py" in verdict.origin else "by"
        text = f" set {at} {clean(verdict.origin)}"
    return f"{text} ({clean(verdict.reason)})" if verdict.reason else text


def what_is_unknown(verdict: Verdict) -> str:
    """Say in a few words why a budget could not be checked."""
    if is_not_counted(verdict):
        return "a prompt is not counted yet"
    if verdict.saw_nothing:
        return "no test matches it" if verdict.pattern else "no Claude call was seen"
    reasons = {each.name: each.what for each in verdict.reasons}
    if "count-failed" in reasons:
        return "a prompt could not be counted"
    if "collection-errors" in reasons:
        return "tests were not run"
    if route := re.search(r"\(([^,)]+)", reasons.get("unmetered-route", "")):
        return f"{route[1]} is not metered"
    kind = verdict.quantity
    what = "the increase" if verdict.scope == "increase" else "the cost"
    what = what if kind == "usd" else f"the number of {_noun(kind)}s"
    if verdict.kind == "worst":
        what = "the worst case"
    elif verdict.part is not None:
        what = f"the size of {clean(verdict.part)}"
    elif verdict.is_per_call:
        what += " of the largest call"
    low = _amount(kind, verdict.low, against=verdict.limit)
    if verdict.high is not None:
        high = _amount(kind, verdict.high, against=verdict.limit)
        if low == high:  # both are on one side of the limit, and differ in a later digit
            low = _amount(kind, verdict.low, against=verdict.high)
            high = _amount(kind, verdict.high, against=verdict.low)
        return f"{what} is between {low} and {high}"
    return f"{what} is at least {low}, the rest is unknown" if verdict.low else f"{what} is unknown"


def is_not_counted(verdict: Verdict) -> bool:
    """Whether a count, which is free, may be all that a verdict lacks."""
    return verdict.state == "unverified" and any(each.needs_count for each in verdict.reasons)


def lacks_count(call: Call) -> bool:
    """Whether all that a call lacks is a count."""
    return call.has_caveat(*NOT_COUNTED)


def counts_in_vain(calls: Iterable[Call]) -> bool:
    """Whether every prompt that is not counted differs in every run, so that a count is no use."""
    lacking = [call for call in calls if lacks_count(call)]
    return bool(lacking) and all(call.has_caveat("volatile") for call in lacking)


def without_vain(reason: Reason, *, is_in_vain: bool) -> Reason:
    """Leave out the advice to count what differs in every run: it would be missing again."""
    return replace(reason, remedy="") if is_in_vain and reason.name in NOT_COUNTED else reason


# A test's failure


def render_failure(
    verdict: Verdict,
    calls: Sequence[Call],
    others: Sequence[Verdict] = (),
    parts: PartTokens | None = None,
) -> str:
    """Explain a broken budget of a test in a few lines that need no traceback.

    The others are further budgets that the test broke, a line each; `parts` is what is known of
    the parts of its prompts.
    """
    parts = parts or {}
    facts = [*_prompt_facts(calls), *_call_facts(verdict, calls, parts)]
    facts.append(("largest parts", describe_parts(calls, parts)))
    is_in_vain = counts_in_vain(calls)
    for why in dict.fromkeys(why for each in (verdict, *others) for why in each.reasons):
        if not why.needs_count:
            facts += [("unknown", why.what), ("to settle it", why.remedy)]
        elif not is_in_vain:
            facts.append(("count it (free)", why.remedy.partition(": ")[2]))
    for each in others:
        is_same = each.origin == verdict.origin
        facts.append(("also", sentence(replace(each, origin="", reason=None) if is_same else each)))
    advice = _advice(verdict, calls, others)
    return "\n".join([sentence(verdict), *_aligned(facts), *(["", advice] if advice else [])])


def render_missing_count(
    error: CountError, verdict: Verdict | None, asked_at: str
) -> tuple[str, str]:
    """Explain a count that a test asked for and did not get; return a short form, too."""
    facts = [("asked for at", asked_at)]
    if isinstance(error, CountMissingError):
        what, changed = f"{error.what} not counted yet", describe_changes(error.changed)
        short = f"not counted yet{f': {changed} changed' if changed else ''}"
        suspicious, before = error.suspicious, error.before
        facts += [
            ("recorded", error.empty if before is None else f"{before:,} input tokens"),
            ("changed", changed and f"{changed} (since it was counted)"),
            ("possible cause", suspicious and f"may differ in every run: {suspicious}"),
            ("if so, remove it", suspicious and _BY_HOOK),
            ("count it (free)", error.command),
        ]
    else:
        what, short = "a prompt could not be counted", str(error)
        cause, _, remedy = short.rpartition("; ")
        if not cause or cause.count("(") != cause.count(")"):  # a semicolon inside a detail
            cause, remedy = short, ""
        facts += [("cause", cause), ("to settle it", remedy)]
    if verdict is not None and verdict.state == "unverified":
        what = f"cannot check the {_budget(verdict)}{_set_at(verdict)}: {what}"
        short = short_sentence(verdict) if isinstance(error, CountMissingError) else short
    return "\n".join([what, *_aligned(facts)]), short


_BY_HOOK = "in the hook pytest_llmcost_normalize_payload, for comparisons alone"


def _aligned(facts: Iterable[tuple[str, str]]) -> list[str]:
    """Write a line for each fact that is not empty, below an empty line."""
    lines = [f"  {label:<16}  {text}" for label, text in facts if text]
    return ["", *lines] if lines else []


def _prompt_facts(calls: Sequence[Call]) -> Iterator[tuple[str, str]]:
    """Say how the prompts have changed since they were recorded."""
    grown = _recounted(calls)
    before, usd = _as_recorded(grown)
    now = sum(call.billed_usage.prompt_tokens for call in grown)
    if grown:
        text = f"{before:,} -> {now:,} input tokens{grown_by(before, now)}"
        text += "" if usd is None else f", {dollars(usd)} -> {dollars(Amounts.of(grown).usd)}"
        verb = "grew" if now > before else "shrank"
        what = f"the prompt {verb}" if len(grown) == 1 else f"{len(grown)} prompts {verb}"
        # Of the same length, perhaps in max_tokens alone, which is not of the prompt.
        yield what if now != before else "request changed", text
    changed = [call for call in calls if changed_parts(call)]
    if lacking := [call for call in changed if call.before and not call.sampling_calls]:
        tokens, usd = _as_recorded(lacking)
        of = f" of {len(lacking):,} calls" if len(lacking) > 1 else ""
        yield "recorded", f"{tokens:,} input tokens{of}, {dollars(usd)}"
    for parts in sorted({changed_parts(call) for call in changed}):
        # Only if one part of one prompt changed is all growth that part's.
        is_only = changed == grown and len(changed) == 1 and ", " not in parts and now != before
        since = f"{now - before:+,} tokens" if is_only else "since it was recorded"
        yield "changed", f"{parts} ({since})"
    details = {each.detail for call in calls for each in call.caveats if each.name == "volatile"}
    volatile = "; ".join(sorted(details))
    yield "cause", volatile and f"differs in every run: {volatile}"
    yield "remove it", volatile and _BY_HOOK


def _as_recorded(calls: Iterable[Call]) -> tuple[int, Decimal | None]:
    """Return the input tokens that calls were recorded with, and what they cost then."""
    recorded = [call.before for call in calls if call.before is not None]
    usd = [each.usd for each in recorded if each.usd is not None]
    is_known = len(usd) == len(recorded)
    return sum(each.input_tokens for each in recorded), sum(usd, Decimal(0)) if is_known else None


def _recounted(calls: Iterable[Call]) -> list[Call]:
    return [call for call in calls if call.before is not None and call.sampling_calls]


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
            label = of_all if verdict.is_per_call else GATES[verdict.kind].label
            yield label, describe_call(call)
    elif verdict.kind == "worst":
        longest = max(calls, key=lambda call: call.max_tokens or 0)
        reply = f"max_tokens of {longest.max_tokens or 0:,}"
        yield "longest reply", f"{reply}: {describe_call(longest)}"
    elif calls:

        def size(call: Call) -> tuple[Decimal, int]:
            usage = call.billed_usage
            return call.usd_low, usage.prompt_tokens + usage.output_tokens

        largest = max(calls, key=size)
        if [largest] != _recounted(calls):  # which the line on the prompt's growth shows
            yield of_all, describe_call(largest)


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


def all_changed_parts(calls: Iterable[Call]) -> set[str]:
    """Return each part that changed in the prompt of any of the calls."""
    return {part for call in calls for part in changed_parts(call).split(", ") if part}


_LARGEST_PARTS = 3
MOST_PARTS = 6
"""How many parts that changed are named."""


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
    model, usage = show_model(call.model), call.billed_usage
    why = "".join(f": {clean(each.detail)}" for each in call.caveats if each.name == "live-cap")
    if call.evidence == REFUSED:
        return f"{model}, {REFUSED}{why}"
    if not call.sampling_calls and call.usd is None:
        return f"{model}: {'not counted yet' if lacks_count(call) else 'cost unknown'}"
    tokens = f"{usage.prompt_tokens:,} input"
    cached = {"written to cache": usage.written_tokens, "read from cache": usage.cache_read_tokens}
    details = ", ".join(f"{number:,} {what}" for what, number in cached.items() if number)
    tokens += f" ({details})" if details else ""
    tokens += f" + {usage.output_tokens:,} output" if usage.output_tokens else ""
    uses = [(name[:-1].replace("_", " "), n) for name, n in usage.only(FEES).items() if n]
    tokens = " + ".join([f"{tokens} tokens", *(format_count(n, name) for name, n in uses)])
    tokens = tokens if call.sampling_calls else "tokens unknown"  # only its price was stated
    price = "cost unknown" if call.usd is None else format_usd(call.usd)
    evidence = "" if call.evidence == "billed" else f" ({call.evidence})"
    return f"{model}, {tokens}, {price}{evidence}{why}"


def _advice(verdict: Verdict, calls: Sequence[Call], others: Sequence[Verdict]) -> str:
    """Say what to do, if possible with a new budget: a round one that the test keeps.

    It has a new limit for each of the others that the same marker sets, too.
    """
    if verdict.saw_nothing:
        return (
            "Pass the payload to llmcost.count(...) or the response to llmcost.record(...), or "
            "remove the marker. Calls of a shared fixture count for the fixture, not for the test."
        )
    if verdict.state != "exceeded":
        return ""
    if verdict.kind in GATES:
        spent = Amounts.of(calls)["usd"]
        cost = spent.high or spent.low
        budget = write_round_usd(cost) if cost else "$0.05"
        if "unknown" in verdict.found:
            return "State which model was called: llmcost.record(..., model=...)."
        is_marker = verdict.label == "max_cost"  # which no option lifts
        recording = "; this run still fails" if is_marker else " --llmcost-live=off"
        return _fill(GATES[verdict.kind].advice, verdict, budget=budget, recording=recording)
    is_usd = verdict.quantity == "usd"
    savings = {
        "worst": "Lower max_tokens, shorten the prompt",
        "output_tokens": "Shorten the reply",
        "call_output_tokens": "Shorten the reply",
        "calls": "Make fewer calls",
        "uncached_input_tokens": "Let more of the prompt be read from the cache",
    }
    whole = Amounts.of(concerned(verdict, calls) if verdict.is_per_call else calls)
    is_of_replies = is_usd and whole.by_category.output_usd * 2 > whole.priced_usd
    most = "Shorten the reply" if is_of_replies and not _recounted(calls) else "Shorten the prompt"
    save = savings.get(verdict.kind, most)
    if is_usd and "model" in all_changed_parts(calls):
        save = f"Keep the model, {save[0].lower()}{save[1:]}"
    if verdict.high is None:  # of a lower bound no number can be made that the test keeps
        return f"{save}, or raise the budget if the price is right."
    what = "the price" if is_usd else "it"
    if verdict.part is not None:
        save = "Shorten it"
    broken = [verdict]
    for each in others:
        if each.state == "exceeded" and each.kind not in GATES and each.origin == verdict.origin:
            broken.append(each)
    name = "llmcost.budget" if verdict.scope == "block" else "@max_cost"
    return f"{save}, or accept {what} with a new budget: {name}({_new_limits(broken)})"


def _new_limits(verdicts: Iterable[Verdict]) -> str:
    """Write round limits that the test keeps, as the arguments of one budget."""
    limits, parts, state = list[str](), list[str](), ""
    for each in verdicts:
        if each.high is None:
            continue
        limit = f"{int(round_up(each.high, is_usd=False)):_}"
        if each.quantity == "usd":
            limit = f'"{write_round_usd(each.high)}"'
        if each.part is not None:
            parts.append(f"{json.dumps(each.part)}: {limit}")
        elif each.kind == "usd":
            limits.insert(0, limit)
        else:
            limits.append(f"{each.kind}={limit}")
        if each.cache_state and each.scope != "block":
            state = f'cache="{each.cache_state}"'
    if parts:
        limits.append(f"parts={{{', '.join(parts)}}}")
    return ", ".join([*limits, state] if state else limits)


def render_section(calls: Sequence[Call], verdict: Verdict | None) -> str:
    """Say what a test cost that failed by itself: each call, and what became of its budget."""
    lines = [describe_call(call) for call in calls]
    return "\n".join([*lines, *([sentence(verdict)] if verdict is not None else [])])

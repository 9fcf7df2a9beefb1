"""The words of a broken ceiling: the numbers, where it was set, the largest call, what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

from pytest_llmcost.amounts import Kind
from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.call import Call
from pytest_llmcost.ledger.ledger import Comparison, Ledger, TestRow, own_verdicts
from pytest_llmcost.money import format_usd, format_whole_usd
from pytest_llmcost.reports.escape import clean

_NOUNS: dict[Kind, str] = {
    "usd": "cost",
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
    "calls": "calls",
}


def format_amount(kind: Kind, amount: Decimal, *, against: Decimal | None = None) -> str:
    """Write a quantity of any kind for a person: `$0.0312`, `8,120`."""
    return format_usd(amount, against=against) if kind == "usd" else f"{int(amount):,}"


def format_limit(verdict: Verdict) -> str:
    """Write a ceiling with every digit it has; rounded, amounts might seem on its other side."""
    if verdict.kind == "usd":
        return format_whole_usd(verdict.limit)
    return format_amount(verdict.kind, verdict.limit)


def render_headline(verdict: Verdict) -> str:
    """Say a verdict in one line that begins with the numbers, short enough for 80 columns.

    Example: `cost $0.0312 > $0.02 max_cost`.
    """
    limit = format_limit(verdict)
    noun = "added cost" if verdict.scope == "increase" else _NOUNS[verdict.kind]
    if verdict.state == "exceeded":
        prefix = "" if verdict.actual == verdict.low else "at least "
        low = format_amount(verdict.kind, verdict.low, against=verdict.limit)
        return f"{noun} {prefix}{low} > {limit} {verdict.label}"
    if verdict.state == "within":
        high = format_amount(verdict.kind, verdict.high or verdict.low, against=verdict.limit)
        return f"{noun} {high} <= {limit} {verdict.label}"
    return f"{noun} unverified against {limit} {verdict.label}: {_known(verdict)}"


def _known(verdict: Verdict) -> str:
    if verdict.high is not None:
        low = format_amount(verdict.kind, verdict.low, against=verdict.limit)
        high = format_amount(verdict.kind, verdict.high, against=verdict.limit)
        return f"between {low} and {high}"
    if verdict.low:
        low = format_amount(verdict.kind, verdict.low, against=verdict.limit)
        return f"at least {low}, the rest unknown"
    if not verdict.saw_nothing:
        return "unknown"
    return "no test matches it" if verdict.pattern else "no call was seen"


def render_failure(verdict: Verdict, calls: Sequence[Call], others: Sequence[Verdict] = ()) -> str:
    """Say why a ceiling failed a test, in a few lines that need no traceback.

    The others are further ceilings that it broke, a line each.
    """
    lines = [render_headline(verdict), f"ceiling set {_where(verdict)}{_stated_reason(verdict)}"]
    lines += [f"also {render_headline(each)}, set {_where(each)}" for each in others]
    largest = max(calls, key=_weight, default=None)
    if largest is not None:
        out_of = f" (of {len(calls)})" if len(calls) > 1 else ""
        lines.append(f"largest call{out_of}: {render_call(largest)}")
    lines += _changed_prompts(calls)
    lines += verdict.reasons
    lines.append(_advice(verdict))
    return "\n".join(line for line in lines if line)


def _changed_prompts(calls: Sequence[Call]) -> list[str]:
    """Name what grew: the very thing that a replayed reply hides."""
    details = {
        text.detail for call in calls for text in call.caveats if text.name == "changed-prompt"
    }
    return [f"changed since the reply was recorded: {each}" for each in sorted(details)]


def _where(verdict: Verdict) -> str:
    """A place in a file, or the option, variable or key that sets it."""
    return f"{'at' if ':' in verdict.origin or '.py' in verdict.origin else 'by'} {verdict.origin}"


def _stated_reason(verdict: Verdict) -> str:
    return f" ({verdict.reason})" if verdict.reason else ""


def _weight(call: Call) -> tuple[Decimal, int]:
    usage = call.billed_usage
    return (call.usd_low, usage.prompt_tokens + usage.output_tokens)


def render_call(call: Call) -> str:
    """Describe a call in a line: `claude-opus-4-7, 8,120 in + 412 out = $0.0298`."""
    usage = call.billed_usage
    is_known = bool(call.sampling_calls) or call.usd is not None
    tokens = f"{usage.prompt_tokens:,} in" if is_known else "tokens unknown"
    if usage.cached_tokens:
        tokens += f" ({usage.cached_tokens:,} cached)"
    if usage.output_tokens:
        tokens += f" + {usage.output_tokens:,} out"
    if usage.web_search_requests:
        tokens += f" + {usage.web_search_requests:,} searches"
    price = "no price" if call.usd is None else format_usd(call.usd)
    evidence = "" if call.evidence == "billed" else f" ({call.evidence})"
    return f"{clean(call.model)}, {tokens} = {price}{evidence}"


def _advice(verdict: Verdict) -> str:
    if verdict.state == "exceeded":
        return "Shorten the prompt, or raise the ceiling if the price is right."
    if not verdict.reasons:
        return (
            "The test made no Claude call that was seen. Hand the payload to llmcost.count(...) or "
            "the response to llmcost.record(...), or take the ceiling away."
        )
    return ""


def render_section(calls: Sequence[Call], verdict: Verdict | None) -> str:
    """Say what a test cost that failed by itself: each call, and how its ceiling stands."""
    lines = [render_call(call) for call in calls]
    if verdict is not None:
        lines.append(f"{verdict.state}: {render_headline(verdict)} ({verdict.origin})")
    return "\n".join(lines)


class Mark(NamedTuple):
    """A verdict and what it is about, in our words and in a name that is not ours."""

    verdict: Verdict
    words: str = ""
    name: str = ""
    path: str = ""
    line: int | None = None


def marks_of(ledger: Ledger) -> Iterator[Mark]:
    """Yield the ceilings over the run, increases, and those of each test's last attempt.

    A breach that is expected, under `xfail`, is none.
    """
    yield from marks_of_run(ledger)
    for test in _last_attempts(ledger.tests):
        if test.outcome != "xfailed":
            for verdict in own_verdicts(test):
                yield Mark(verdict, "", test.nodeid, test.path, test.line)


def marks_of_run(ledger: Ledger) -> Iterator[Mark]:
    """Yield the ceilings over several tests, and increases: what fails a run by itself."""
    for verdict in ledger.verdicts:
        yield Mark(verdict, verdict.scope, verdict.pattern or "")
    comparison = ledger.comparison or Comparison()
    yield from (Mark(verdict, "increase") for verdict in comparison.verdicts)
    for change in comparison.changes:
        for verdict in change.verdicts:
            yield Mark(verdict, "increase of", change.name, change.path, change.line)


def _last_attempts(tests: Iterable[TestRow]) -> list[TestRow]:
    last: dict[str, TestRow] = {}
    for test in sorted(tests, key=lambda each: each.attempt):
        last[test.nodeid] = test
    return [last[nodeid] for nodeid in sorted(last)]

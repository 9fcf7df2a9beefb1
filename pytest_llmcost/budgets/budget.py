"""Doubts: how far a call's figures can be off, and what would settle each of them.

Data flow: Call -> `bounds_of` one quantity, `doubts_of` it -> Doubts -> sentences for people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Literal

import msgspec

from pytest_llmcost.call import Call
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.caveats import CAVEATS, Caveat

Kind = Literal["usd", "input_tokens", "output_tokens", "calls"]

COUNT_COMMAND = "pytest --llmcost-record-mode=new_episodes"
"""What counts changed prompts and records the counts; free, for it sends `count_tokens` alone."""

_UNEXPLAINED = "what a call cost is unknown; state it with llmcost.record(...)"


def bounds_of(call: Call, kind: Kind) -> tuple[Decimal, Decimal | None, Decimal | None]:
    """Return the least, the best and the greatest figure of one quantity of a call."""
    if kind == "usd":
        return call.usd_low, call.usd, call.usd_high
    if kind == "calls":
        return Decimal(1), Decimal(1), Decimal(1)
    usage = call.billed_usage
    tokens = Decimal(usage.prompt_tokens if kind == "input_tokens" else usage.output_tokens)
    doubts = [each for each in _caveats(call) if _concerns(each, kind)]
    if not call.sampling_calls or any(each.may_be_lower for each in doubts):
        return Decimal(0), None, None
    lost = call.lost_usage
    if lost is not None and all(each.name == "lost-answer" for each in doubts):
        each = lost.prompt_tokens if kind == "input_tokens" else lost.output_tokens
        return tokens, tokens, tokens + (call.lost_attempts or 0) * each
    return tokens, tokens, None if doubts else tokens


def doubts_of(call: Call, kind: Kind) -> Iterator[str]:
    """Name what keeps one quantity of a call from being exact: caveats with their details."""
    low, best, high = bounds_of(call, kind)
    if best is not None and low == best == high:
        return
    yield from [each for each in _caveats(call) if _concerns(each, kind)] or [Caveat("")]


def _caveats(call: Call) -> tuple[Caveat, ...]:
    if call.evidence == "stale" and not call.has_caveat("stale"):
        return (Caveat("stale"), *call.caveats)
    return call.caveats


def _concerns(caveat: Caveat, kind: Kind) -> bool:
    """Whether a caveat puts a quantity in doubt."""
    if kind == "usd":
        return caveat.rule.direction != "none"
    return kind in caveat.rule.tokens


class Doubts:
    """Caveats of many calls by name, in constant memory: how many, and one detail of each."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, str, str]] = {}

    def add(self, caveat: str) -> None:
        """Note one caveat of one call, `name` or `name: detail`."""
        name, _, detail = caveat.partition(":")
        self._note(name, 1, detail.strip(), detail.strip())

    def update(self, other: Doubts) -> None:
        """Note all that another collection has seen."""
        for name, (number, first, last) in other._seen.items():
            self._note(name, number, first, last)

    def _note(self, name: str, number: int, first: str, last: str) -> None:
        # The least and the greatest detail, so that the order of calls never shows.
        seen, least, greatest = self._seen.get(name, (0, first, last))
        self._seen[name] = (seen + number, min(least, first), max(greatest, last))

    def explain(self, count_command: str = COUNT_COMMAND) -> tuple[str, ...]:
        """Write each as a sentence that says what would settle it; sorted, each once."""
        return tuple(
            sorted(_sentence(name, *seen, count_command) for name, seen in self._seen.items())
        )


def _sentence(name: str, number: int, detail: str, other: str, command: str) -> str:
    if name == "unknown-model" and detail:
        text = detail  # the error itself, which names the nearest models and the remedy
    else:
        shown = f" ({detail}{', ...' if other != detail else ''})" if detail or other else ""
        rule = CAVEATS.get(name)
        template = (rule.sentence if rule else name + "{detail}") if name else _UNEXPLAINED
        text = template.replace("{command}", command).replace("{detail}", shown)
    return f"{text} ({number:,} calls)" if number > 1 else text


Scope = Literal["suite", "test", "block", "path", "increase"]
State = Literal["within", "exceeded", "unverified"]


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """A ceiling on one quantity, and where it was set."""

    scope: Scope
    kind: Kind = "usd"
    limit: Decimal
    origin: str
    """`file:line`, or the flag, variable or ini key it comes from."""
    required: bool = False
    """A marker on the test itself: seeing no call at all is then `unverified`."""
    label: str = "max_cost"
    """What the user called it: the marker, option or ini key."""
    reason: str | None = None
    pattern: str | None = None
    """Of a place: the glob over node ids whose sum is limited."""
    idle: bool = False
    """Of a place: no test matches the glob, so what it is to limit is unknown."""
    warn_at: Decimal | None = None
    """The share of the limit from which reports warn; it never fails anything."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a budget. `low` and `high` bound the true value; high None is unbounded."""

    scope: Scope
    kind: Kind
    limit: Decimal
    actual: Decimal | None
    """The best figure; None where some of it is unknown."""
    low: Decimal
    high: Decimal | None
    state: State
    reasons: tuple[str, ...] = ()
    """Why it is not exact, each once, sorted; an unverified one without any saw no call."""
    origin: str
    label: str = "max_cost"
    reason: str | None = None
    """The reason that the user gave for the ceiling."""
    pattern: str | None = None
    warn_at: Decimal | None = None

    @property
    def is_near(self) -> bool:
        """Within the limit, but at or over the share of it from which the user wants a warning."""
        if self.state != "within" or self.warn_at is None or not self.high:
            return False
        return self.high >= EXACT.multiply(self.limit, self.warn_at)

    @property
    def saw_nothing(self) -> bool:
        """Unverified because nothing was there to limit: no call, or no test for a place."""
        return self.state == "unverified" and self.high is None and not self.reasons


class Spend(msgspec.Struct, frozen=True, kw_only=True):
    """A quantity with its bounds, over any number of calls."""

    actual: Decimal | None
    low: Decimal
    high: Decimal | None
    reasons: tuple[str, ...] = ()


class Tally:
    """A running sum of one quantity with its bounds and doubts; `Spend` is what comes out."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.low = Decimal(0)
        self.actual: Decimal | None = Decimal(0)
        self.high: Decimal | None = Decimal(0)
        self.doubts = Doubts()

    def add(self, call: Call) -> None:
        """Count one call in; an unknown part makes the sum's high bound unknown for good."""
        self._add_bounds(*bounds_of(call, self.kind))
        for doubt in doubts_of(call, self.kind):
            self.doubts.add(doubt)

    def add_all(self, calls: Iterable[Call]) -> Tally:
        """Count all calls in, and return the tally itself."""
        for call in calls:
            self.add(call)
        return self

    def add_most_expensive(self, rivals: Iterable[Tally]) -> None:
        """Count in the dearest of several tallies of the same thing, bound by bound."""
        rivals = list(rivals)
        self._add_bounds(
            max(each.low for each in rivals),
            _most(each.actual for each in rivals),
            _most(each.high for each in rivals),
        )
        for each in rivals:
            self.doubts.update(each.doubts)

    def _add_bounds(self, low: Decimal, actual: Decimal | None, high: Decimal | None) -> None:
        self.low = EXACT.add(self.low, low)
        self.actual = _sum_known(self.actual, actual)
        self.high = _sum_known(self.high, high)

    def spend(self, count_command: str = COUNT_COMMAND) -> Spend:
        """Close the sum; the command is what the reasons name to count a changed prompt."""
        reasons = self.doubts.explain(count_command)
        return Spend(actual=self.actual, low=self.low, high=self.high, reasons=reasons)


def _sum_known(left: Decimal | None, right: Decimal | None) -> Decimal | None:
    return None if left is None or right is None else EXACT.add(left, right)


def _most(amounts: Iterable[Decimal | None]) -> Decimal | None:
    known = []
    for amount in amounts:
        if amount is None:
            return None
        known.append(amount)
    return max(known)


def spend_of(calls: Iterable[Call], kind: Kind, *, count_command: str = COUNT_COMMAND) -> Spend:
    """Sum one quantity over calls, with bounds; an unknown part makes the high bound unknown.

    Tokens are those of every leg one pays for, the whole prompt for `input_tokens`, caches
    included. The command is the one that the reasons give for counting a changed prompt; a
    test's own id in it makes it ready to paste.
    """
    return Tally(kind).add_all(calls).spend(count_command)


def check(budget: Budget, spend: Spend, *, saw_calls: bool = True) -> Verdict:
    """Judge a spend: low above the limit is exceeded, high within it is within, else unverified.

    The limit itself passes. A required budget that saw no call is unverified, and has no
    reasons: nothing is known at all. One on the number of calls is kept by making none. So is
    one of a place that no test matches.
    """
    saw_no_call = budget.required and not saw_calls and budget.kind != "calls"
    if saw_no_call or (budget.idle and not spend.high and spend.actual == 0):
        spend = Spend(actual=None, low=Decimal(0), high=None)
    return judge(budget, spend, state_of(budget.limit, spend))


def state_of(limit: Decimal, spend: Spend) -> State:
    """Say how a spend stands to a limit; the one place that compares the two."""
    if spend.low > limit:
        return "exceeded"
    if spend.high is not None and spend.high <= limit:
        return "within"
    return "unverified"


def judge(budget: Budget, spend: Spend, state: State) -> Verdict:
    """Join a budget, what was spent and how that stands to it into a verdict."""
    return Verdict(
        scope=budget.scope,
        kind=budget.kind,
        limit=budget.limit,
        actual=spend.actual,
        low=spend.low,
        high=spend.high,
        state=state,
        reasons=spend.reasons,
        origin=budget.origin,
        label=budget.label,
        reason=budget.reason,
        pattern=budget.pattern,
        warn_at=budget.warn_at,
    )


def is_uncounted(call: Call) -> bool:
    """Whether it stands for a count that failed."""
    return not call.sampling_calls and call.has_caveat("uncounted")


def settled(calls: Iterable[Call]) -> tuple[Call, ...]:
    """Leave out counts of a payload that was sent too, for one is the forecast of the other.

    Of one fingerprint, n counts and m sends are max(n, m) calls, in whatever order they came:
    all that were sent, and the dearest of the counts that are left over. A count that failed
    stands for its payload only as long as nothing else does. Give it the calls of one owner,
    such as one attempt of a test.
    """
    calls = _without_settled_failures(tuple(calls))
    sent = Counter(
        call.fingerprint for call in calls if call.fingerprint and call.evidence != "counted"
    )
    if not sent:
        return calls
    fulfilled = set(_fulfilled(calls, sent))
    return tuple(call for place, call in enumerate(calls) if place not in fulfilled)


def _without_settled_failures(calls: tuple[Call, ...]) -> tuple[Call, ...]:
    """Leave out counts that failed where the payload was counted or sent, or failed before."""
    failed = [is_uncounted(call) for call in calls]
    if not any(failed):
        return calls
    known = {call.fingerprint for call, failure in zip(calls, failed, strict=True) if not failure}
    kept = []
    for call, failure in zip(calls, failed, strict=True):
        if failure and call.fingerprint in known:
            continue
        kept.append(call)
        known.add(call.fingerprint)
    return tuple(kept)


def _fulfilled(calls: Sequence[Call], sent: Mapping[str, int]) -> Iterator[int]:
    """Yield the places of the counts that sends make up for, the cheapest of each payload."""
    counts: dict[str, list[tuple[bool, Decimal, int]]] = {}
    for place, call in enumerate(calls):
        fingerprint = call.fingerprint or ""
        if call.evidence == "counted" and fingerprint in sent:
            price = (call.usd is None, call.usd or Decimal(0), place)
            counts.setdefault(fingerprint, []).append(price)
    for fingerprint, prices in counts.items():
        yield from (place for _, _, place in sorted(prices)[: sent[fingerprint]])

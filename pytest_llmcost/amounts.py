"""What any number of calls come to, with bounds, and the reasons why it is not exact.

This is the only way to add up calls. It knows calls and caveats, and must know neither whose
calls they are nor what was allowed.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import reduce
from types import MappingProxyType
from typing import Literal, get_args

import msgspec
from msgspec.structs import asdict, astuple, replace

from pytest_llmcost.call import Call
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.bill import ByCategory
from pytest_llmcost.prices.caveats import CAVEATS, Caveat, TokenKind
from pytest_llmcost.prices.usage import PROMPT, SamplingCall, Usage

Kind = Literal["usd", TokenKind, "calls"]
"""What can be limited."""

COUNT_COMMAND = "pytest --llmcost-record-mode=rewrite"
"""Counts changed prompts and records the counts; free, because it only asks `count_tokens`."""

NOT_COUNTED = ("stale", "uncounted")
"""The caveats of calls that only lack a count."""

_ZERO = Decimal(0)

_UNEXPLAINED = Caveat("unexplained")
_ONLY_COST = Caveat("only-cost")
_ONLY_TOTAL = Caveat("only-total")
_WORDS: Mapping[str, tuple[str, str]] = {
    **{name: (rule.what, rule.remedy) for name, rule in CAVEATS.items()},
    "unexplained": ("what a call cost is unknown", "state it with llmcost.record(...)"),
    "only-cost": (
        "the test stated what a call cost, but not all its tokens (total_cost_usd states none)",
        "record the usage of each reply instead, or drop the budget on tokens",
    ),
    "only-total": (
        "total_cost_usd says what an agent cost, and not how often it called Claude",
        "record the usage of each reply instead, or drop the budget on calls",
    ),
    "uncounted-part": ("{part} of a prompt is not counted", CAVEATS["uncounted"].remedy),
    "unseen-part": ("how large {part} is in a prompt is unknown, as the prompt was not seen", ""),
    "worker-crashed": (
        "a pytest-xdist worker crashed, and the calls that it had not reported yet are unknown",
        "see why it crashed, then run again",
    ),
    "interrupted": ("the run was interrupted, and calls under way are unknown", "run again"),
    "collection-errors": (
        "tests were not run because of errors during collection",
        "fix these, then run again",
    ),
    "forked-child": (
        "a child process ended while it called Claude, and what that cost is unknown",
        "let it wait for its answers, or state it with llmcost.record(...)",
    ),
    "internal-error": (
        "a call could not be recorded because of an interrupt, or of the internal error that the "
        "summary names",
        "state its cost with llmcost.record(...)",
    ),
}
"""What is wrong and what settles it: of caveats, of parts of prompts, of calls that were lost."""


class Reason(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a figure is not exact, and what would settle it."""

    name: str
    """The caveat's, or why calls were lost: it stays the same, whatever the sentence says."""
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what

    @property
    def needs_count(self) -> bool:
        """Whether a count, which is free, settles it."""
        return self.name in (*NOT_COUNTED, "uncounted-part")


class Reasons(dict[tuple[str, str], tuple[int, str, str]]):
    """Why a sum is not exact: caveats of many calls by name, in constant memory.

    By what stands before the sentence, and the name of a `Reason`: how many calls have it, and the
    first and the last of their details in alphabetical order, so that the order of the calls never
    shows.
    """

    def note(self, caveats: Iterable[Caveat]) -> None:
        """Add the caveats of one call."""
        for caveat in caveats:
            self._join(("", caveat.name), 1, caveat.detail, caveat.detail)

    def _join(self, key: tuple[str, str], number: int, first: str, last: str) -> None:
        seen, least, greatest = self.get(key, (0, first, last))
        self[key] = (seen + number, min(least, first), max(greatest, last))

    def joined(self, other: Reasons) -> Reasons:
        """Return the reasons of both."""
        both = Reasons(self)
        for key, seen in other.items():
            both._join(key, *seen)
        return both

    def explain(self, count_command: str = COUNT_COMMAND) -> tuple[Reason, ...]:
        """Write each in words, with what would settle it; sorted."""
        reasons = []
        for (side, name), (number, first, last) in self.items():
            often = f" ({number:,} calls)" if number > 1 else ""
            shown = f" ({first or last}{', ...' if last != first else ''})" if last else ""
            what, remedy = _WORDS.get(name, (name + shown, ""))
            if name == "unknown-model" and first:
                what, remedy = first, ""  # the error itself says what to add
                often = often if first == last else f" ({number:,} calls of several models)"
            what = what.replace("{detail}", shown).replace("{part}", first)
            remedy = remedy.replace("{command}", count_command)
            reasons.append(Reason(name=name, what=f"{side}{what}{often}", remedy=remedy))
        return tuple(sorted(reasons, key=str))


NO_REASONS = Reasons()


class Range(msgspec.Struct, frozen=True):
    """A quantity: the least that it can be, the best figure and the most; None is unknown."""

    low: Decimal | None = _ZERO
    best: Decimal | None = _ZERO
    high: Decimal | None = _ZERO
    reasons: Reasons = NO_REASONS

    def combined(self, other: Range, how: Callable[[Decimal, Decimal], Decimal]) -> Range:
        """Combine each bound with the other's; it is unknown where either is."""
        pairs = ((self.low, other.low), (self.best, other.best), (self.high, other.high))
        low, best, high = (None if a is None or b is None else how(a, b) for a, b in pairs)
        return Range(low, best, high, self.reasons.joined(other.reasons))

    def __add__(self, other: Range) -> Range:
        return self.combined(other, EXACT.add)

    def __sub__(self, baseline: Range) -> Range:
        low, best, high = (
            each and each.copy_negate() for each in (baseline.high, baseline.best, baseline.low)
        )
        seen = {("in the baseline: ", name): seen for (_, name), seen in baseline.reasons.items()}
        return self + Range(low, best, high, Reasons(seen))

    @staticmethod
    def exactly(number: int) -> Range:
        """Return the range of a quantity that is known."""
        exact = Decimal(number)
        return Range(exact, exact, exact)


_NOTHING: Mapping[Kind, Range] = MappingProxyType({kind: Range() for kind in get_args(Kind)})


class Amounts(msgspec.Struct, frozen=True, kw_only=True):
    """What some calls come to. `amounts[kind]` is what a limit is compared with.

    `Amounts()` is nothing at all. The difference of two has signed quantities, and its money is
    unknown where that of either is not exact.
    """

    calls: int = 0
    usage: Usage = Usage()
    """The tokens that are paid for, in all sampling calls."""
    priced_usd: Decimal = _ZERO
    """The list prices; of a call without one, what it costs at least."""
    by_category: ByCategory = ByCategory()
    """The same by what it is for."""
    unpriced: int = 0
    """Calls whose list price is unknown."""
    ranges: Mapping[Kind, Range] = _NOTHING

    def __getitem__(self, kind: Kind) -> Range:
        return self.ranges[kind]

    @property
    def usd(self) -> Decimal | None:
        """The list price; at least that where some have none, and None where nothing is known."""
        return self.priced_usd if self.priced_usd or not self.unpriced else None

    @property
    def is_least(self) -> bool:
        """Whether some calls may have cost more than their list price."""
        return self["usd"].high is None

    @staticmethod
    def of(calls: Iterable[Call]) -> Amounts:
        """Add up calls.

        Tokens are those of every sampling call that is paid for; `input_tokens` is the whole
        prompt, caches included, and `uncached_input_tokens` all of it that is not read from them.
        """
        add = EXACT.add  # never rounds, whatever the caller's own decimal context
        number = unpriced = 0
        used = (0,) * len(Usage.__struct_fields__)
        priced = low = _ZERO
        high: Decimal | None = _ZERO
        categories: dict[str, Decimal] = {}
        money = Reasons()
        inexact: defaultdict[Kind, Range] = defaultdict(Range)  # by how much
        # Noted in place: to join them call by call takes quadratic time if each has its own.
        reasons: defaultdict[Kind, Reasons] = defaultdict(Reasons)
        for call in calls:
            number += 1
            usd, usd_low, usd_high = call.usd, call.usd_low, call.usd_high
            known = usd_low if usd is None else usd
            priced = add(priced, known)
            low = add(low, usd_low)
            high = None if high is None or usd_high is None else add(high, usd_high)
            unpriced += usd is None
            for name, part in _by_category(call, known):
                categories[name] = add(categories.get(name, _ZERO), part)
            # The tokens of a refusal before any output that is not billed are free.
            paid = [each for each in call.sampling_calls if each.refusal is None or each.usd != 0]
            for each in paid:  # far faster than to add usage to usage
                used = tuple(map(operator.add, used, astuple(each.usage)))
            caveats = call.caveats
            why_stale = ("stale", "not-recounted", "count-failed")
            if call.evidence == "stale" and not call.has_caveat(*why_stale):
                caveats = (Caveat("stale"), *caveats)
            about_tokens = [each for each in caveats if each.rule.tokens] if caveats else ()
            if about_tokens or not call.sampling_calls:
                for kind, by, why in _inexact_tokens(call, paid, about_tokens):
                    inexact[kind] += by
                    reasons[kind].note(why)
            if not usd_low == usd == usd_high:
                found = [each for each in caveats if each.rule.direction != "none"]
                money.note(found or [_UNEXPLAINED])
        usage = Usage(*used)
        ranges: dict[Kind, Range] = {"usd": Range(low, None if unpriced else priced, high, money)}
        for kind, fields in _FIELDS_OF.items():
            ranges[kind] = Range.exactly(sum([getattr(usage, name) for name in fields]))
        ranges["calls"] = Range.exactly(number)
        for kind, by in inexact.items():  # seldom, and most sums are of few calls
            ranges[kind] += replace(by, reasons=reasons[kind])
        return Amounts(
            calls=number,
            usage=usage,
            priced_usd=priced,
            by_category=ByCategory(**categories),
            unpriced=unpriced,
            ranges=ranges,
        )

    def with_lost_calls(self, why: Iterable[str]) -> Amounts:
        """Take off the upper bounds if calls were made that are not in it, and give the reason."""
        known = (each if each in _WORDS else f"calls were lost ({each})" for each in why)
        reasons = Reasons({("", each): (1, "", "") for each in known})
        if not reasons:
            return self
        lost = Range(_ZERO, None, None, reasons)
        return replace(self, ranges={kind: spent + lost for kind, spent in self.ranges.items()})

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            calls=self.calls + other.calls,
            usage=self.usage + other.usage,
            priced_usd=EXACT.add(self.priced_usd, other.priced_usd),
            by_category=self.by_category + other.by_category,
            unpriced=self.unpriced + other.unpriced,
            ranges={kind: spent + other.ranges[kind] for kind, spent in self.ranges.items()},
        )

    def __sub__(self, baseline: Amounts) -> Amounts:
        """Return what this has more than the baseline, negative where it has less."""
        ranges = {kind: spent - baseline.ranges[kind] for kind, spent in self.ranges.items()}
        return Amounts(
            calls=self.calls - baseline.calls,
            usage=Usage(*map(operator.sub, astuple(self.usage), astuple(baseline.usage))),
            priced_usd=ranges["usd"].best or _ZERO,
            by_category=self.by_category - baseline.by_category,
            unpriced=self.unpriced + baseline.unpriced,
            ranges=ranges,
        )


def _by_category(call: Call, known: Decimal) -> list[tuple[str, Decimal]]:
    """Split what is known of a call's price by what it is for; none of the parts is zero."""
    if not known or call.declared_usd is not None:
        return [("declared_usd", known)] if known else []
    parts, whole = [], _ZERO
    for sampling in call.sampling_calls:
        for name, usd in asdict(sampling.by_category).items():
            if usd:
                parts.append((name, usd))
                whole = EXACT.add(whole, usd)
    # Without a price, it may cost less than its passes do.
    return parts if whole == known else [("unknown_usd", known)]


_FIELDS_OF: Mapping[TokenKind, tuple[str, ...]] = {
    "input_tokens": PROMPT,
    "uncached_input_tokens": tuple(name for name in PROMPT if name != "cache_read_tokens"),
    "output_tokens": ("output_tokens",),
}


def _inexact_tokens(
    call: Call, paid: Sequence[SamplingCall], about_tokens: Sequence[Caveat]
) -> Iterator[tuple[Kind, Range, Sequence[Caveat]]]:
    """Yield by how much a call with caveats about tokens, or no usage, is inexact, and why."""
    if any(each.name == "declared-price" and each.detail for each in call.caveats):
        yield "calls", Range(high=None), [_ONLY_TOTAL]  # an agent's result, of one call or many
    stated = [each.usage for each in paid]
    least = [each.usage if each.usage_low is None else each.usage_low for each in paid]
    most = [each.most_usage for each in paid]
    # Attempts without an answer may be billed, at worst with the longest reply.
    lost, attempts = call.lost_usage or Usage(), call.lost_attempts or 0
    bounded = call.bounded
    for kind, fields in _FIELDS_OF.items():

        def of(usages: Iterable[Usage], fields: tuple[str, ...] = fields) -> int:
            return sum(getattr(usage, name) for usage in usages for name in fields)

        found = [each for each in about_tokens if kind in each.rule.tokens]
        loose = [each for each in found if each.name not in bounded]
        if not call.sampling_calls or any(each.may_be_lower for each in loose):
            why = _UNEXPLAINED if call.declared_usd is None else _ONLY_COST
            yield kind, Range(Decimal(-of(stated)), None, None), found or about_tokens or [why]
            continue
        low = Decimal(of(least) - of(stated))
        high = None if loose else Decimal(of(most) + attempts * of([lost]) - of(stated))
        # A stream that was cut may have ended in a free refusal.
        yield kind, Range(low, _ZERO, high), found or (about_tokens if low else ())


def most(alternatives: Sequence[Amounts]) -> Amounts:
    """Return what stands for several alternatives, such as set-ups of one fixture in two workers.

    Each bound is the highest of all. Calls and tokens are those of the most expensive one.
    """
    first = max(alternatives, key=lambda each: (each.priced_usd, each.unpriced))

    def highest(one: Range, other: Range) -> Range:
        return one.combined(other, max)

    ranges = {kind: reduce(highest, [each[kind] for each in alternatives]) for kind in first.ranges}
    return replace(first, unpriced=max(each.unpriced for each in alternatives), ranges=ranges)

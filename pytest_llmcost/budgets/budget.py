"""A budget, what became of it, and the only comparison of the two.

A gate is a budget that chooses which calls count; the comparison is the one of all budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

import msgspec
from msgspec.structs import replace

from pytest_llmcost.amounts import COUNT_COMMAND, Amounts, Kind, Range, Reason, Reasons, most
from pytest_llmcost.call import Call
from pytest_llmcost.json_values import written
from pytest_llmcost.money import EXACT, format_usd, parse_share_or_usd
from pytest_llmcost.prices.bill import CacheState
from pytest_llmcost.prices.model_names import Resolved

Scope = Literal["suite", "test", "block", "path", "tag", "increase"]
State = Literal["within", "unverified", "exceeded"]
"""The worst one last."""
PerCall = Literal["call_usd", "call_input_tokens", "call_output_tokens", "parts"]
Rule = Literal["models", "unbudgeted", "live", "refused", "stable_prefix", "vanished"]
Limited = Literal[Kind, "worst", PerCall, Rule]
"""What a budget can limit: a sum over calls, as they are or at their worst, or, with a gate, the
largest call or the largest prompt by one of its parts, or how often a rule is broken."""
PartTokens: TypeAlias = Mapping[str, Mapping[str, int]]
"""The fingerprint of a payload -> the tokens of its parts, as far as they are counted."""
_NO_PARTS: PartTokens = MappingProxyType({})
Find: TypeAlias = Callable[[str], Resolved | None]
"""Which model a name stands for; the aliases of a user's price file are in the run's card alone."""

_QUANTITIES: Mapping[str, Kind] = {
    **{kind: kind for kind in get_args(Kind)},
    "worst": "usd",
    "call_usd": "usd",
    "call_input_tokens": "input_tokens",
    "call_output_tokens": "output_tokens",
    "parts": "input_tokens",
}


class Budget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A limit on one quantity, and where it was set."""

    scope: Scope
    kind: Limited = written("usd")
    limit: Decimal
    origin: str
    """`file:line`, or the flag, variable or ini key it comes from."""
    required: bool = False
    """Set by a marker on the test itself: without any request an amount cannot be checked."""
    label: str = written("max_cost")
    """The name that the user knows it by: the marker, option or ini key; of those on what differs
    from the baseline with their value, `max_increase 10%`."""
    reason: str | None = None
    """Why the limit is what it is, in the user's words."""
    pattern: str | None = None
    """Of a path budget: the glob over node ids whose sum is limited; of a tag's, `tag:judge`."""
    idle: bool = False
    """Of a path budget: no test matches the glob, so what it limits is unknown."""
    warn_at: Decimal | None = None
    """The share of the limit from which reports warn; it never fails anything."""
    models: tuple[str, ...] = written(())
    """Of a budget of the kind `models`: allowed ids and aliases, and globs over exact ids."""
    part: str | None = None
    """Of a budget of the kind `parts`: the part of the prompt that is limited."""
    cache_state: CacheState | None = None
    """Of a test: in which state of the cache its calls count, if not in that of the run."""

    @property
    def subject(self) -> tuple[Limited, str | None]:
        """What it limits: of several budgets of a test on the same, the nearest one holds."""
        return self.kind, self.part

    @property
    def quantity(self) -> Kind:
        """What its figures are of; those of a rule are of the calls that break it."""
        return _QUANTITIES.get(self.kind, "calls")

    @property
    def is_per_call(self) -> bool:
        """Whether it limits the largest single call."""
        return self.kind in get_args(PerCall)

    @property
    def is_rule(self) -> bool:
        """Whether it limits no amount."""
        return self.kind in get_args(Rule)

    @property
    def is_gate(self) -> bool:
        """Whether it is about single calls, so that a sum of calls cannot be judged by it."""
        return self.is_per_call or self.is_rule


class Verdict(Budget, frozen=True, kw_only=True):
    """A budget and what became of it; the true value lies between `low` and `high`."""

    actual: Decimal | None
    """The best figure; null where some of it is unknown."""
    low: Decimal
    high: Decimal | None
    """Null where nothing bounds it."""
    state: State
    reasons: tuple[Reason, ...] = written(())
    """Why it is not exact, each once, sorted. Unverified without any: there was nothing to limit,
    no request, or no test of the path."""
    found: tuple[str, ...] = written(())
    """Of a rule, what breaks it, sorted: models by their exact ids; where prefixes broke, and what
    that costs per call; whether calls were refused by the live cap, or sent past it; the shared
    fixtures that called, and `outside tests`."""

    @property
    def is_near(self) -> bool:
        """Whether it is kept, but has reached the share of the limit from which to warn.

        Not of calls: a test that makes as many as it may does not grow.
        """
        if self.state != "within" or self.quantity == "calls":
            return False
        if self.warn_at is None or not self.high:
            return False
        return self.high >= EXACT.multiply(self.limit, self.warn_at)

    @property
    def saw_nothing(self) -> bool:
        """Unverified because there was nothing to limit: no request, or no test of the path."""
        return self.state == "unverified" and self.high is None and not self.reasons

    def fails(self, unverified: Literal["fail", "warn"] = "fail") -> bool:
        """Return whether it fails the test or the run, under the setting `llmcost_unverified`."""
        return self.state == "exceeded" or (self.state == "unverified" and unverified == "fail")


def judge_calls(
    budget: Budget,
    calls: Iterable[Call],
    *,
    find: Find | None = None,
    parts: PartTokens = _NO_PARTS,
    has_requests: bool = False,
    live_requests: int = 0,
    lost_calls: Iterable[str] = (),
    count_command: str = COUNT_COMMAND,
) -> Verdict:
    """Judge any budget over the calls of one owner; a gate chooses which of them count.

    `find` knows the aliases among allowed models; a `Verdict` that is judged anew needs none.
    `has_requests` says whether the owner has sent a request, even one that cannot have been
    billed, `live_requests` how many of them went over the network, and `lost_calls` why calls are
    missing.
    """
    calls = tuple(calls)
    counting = concerned(budget, calls, parts, find)
    amounts = Amounts.of(counting)
    if budget.is_per_call:  # the largest is unknown if one of them is
        amounts = most([_amounts_of(budget, each, parts) for each in calls] or [amounts])
    if budget.kind == "live":  # a request that was refused with 401 is no call, but went out
        number = Range.exactly(max(len(counting), live_requests))
        amounts = replace(amounts, ranges={**amounts.ranges, "calls": number})
    verdict = judge(
        budget,
        amounts.with_lost_calls(lost_calls),
        has_requests=has_requests,
        count_command=count_command,
    )
    _, found = _breaking(budget, counting, find)
    return replace(verdict, found=tuple(sorted(found)))


def concerned(
    budget: Budget,
    calls: Sequence[Call],
    parts: PartTokens = _NO_PARTS,
    find: Find | None = None,
) -> Sequence[Call]:
    """Return the calls that count against a budget: of a gate the forbidden or largest."""
    if budget.is_per_call:
        kind = budget.quantity
        amounts = [(_amounts_of(budget, each, parts)[kind].low or 0, each) for each in calls]
        return [call for _, call in sorted(amounts, key=lambda each: -each[0])[:1]]
    return _breaking(budget, calls, find)[0]


def _breaking(
    budget: Budget, calls: Sequence[Call], find: Find | None
) -> tuple[Sequence[Call], Iterable[str]]:
    """Return the calls that break a rule, and what its verdict names of them."""
    if budget.kind == "models":
        foreign = _foreign(budget, calls, find)
        return [call for call in calls if foreign.intersection(_models_of(call))], foreign
    if budget.kind == "live":
        return [call for call in calls if call.live is not False], ()
    if budget.kind == "stable_prefix":
        calls = [call for call in calls if call.broken_prefix is not None]
        return calls, describe_breaks(calls)
    if budget.kind == "refused":
        calls = [call for call in calls if call.has_caveat("live-cap")]
        past, refused = "sent past the live cap", "refused by the live cap"
        return calls, {refused if each.evidence == "refused" else past for each in calls}
    return calls, ()


def describe_breaks(calls: Iterable[Call]) -> list[str]:
    """Return where prefixes broke, each place once, with what that costs per call at most."""
    found: dict[str, Decimal] = {}
    for broken in filter(None, (call.broken_prefix for call in calls)):
        found[broken.path] = max(found.get(broken.path, Decimal(0)), broken.usd or Decimal(0))
    return [f"{at} (+{format_usd(usd)} per call)" if usd else at for at, usd in found.items()]


def _amounts_of(budget: Budget, call: Call, parts: PartTokens) -> Amounts:
    """Return what one call comes to, as the budget sees it: perhaps a part of its prompt alone."""
    amounts = Amounts.of([call])
    whole, number = amounts[budget.quantity], amounts["calls"]
    if number.high is None:  # an agent's result: one of its calls may be all of it, or little
        whole = Range(best=None, high=whole.high, reasons=number.reasons)
        amounts = replace(amounts, ranges={**amounts.ranges, budget.quantity: whole})
    if budget.kind != "parts" or budget.part is None:
        return amounts
    tokens = parts.get(call.fingerprint or "", {}).get(budget.part)
    why = ("", "unseen-part" if call.fingerprint is None else "uncounted-part")
    unknown = Reasons({why: (1, budget.part, budget.part)})
    reasons = whole.reasons if call.has_caveat("left-out") else unknown
    # No part is larger than its prompt; what a mock states is not of the prompt that is sent.
    high = None if call.evidence == "mocked" else whole.high
    spent = Range(best=None, high=high, reasons=reasons)
    if tokens is not None:
        spent = Range.exactly(tokens)
    return replace(amounts, ranges={**amounts.ranges, budget.quantity: spent})


def _models_of(call: Call) -> Sequence[str]:
    """Return the models of a call; fallbacks and advisors have their own."""
    return call.model, *(each.model for each in call.sampling_calls)


def _foreign(budget: Budget, calls: Iterable[Call], find: Find | None) -> set[str]:
    """Return the models of calls that a budget does not allow."""
    models = {name for call in calls for name in _models_of(call)}
    if isinstance(budget, Verdict):  # the run that judged knew all aliases
        return models.intersection(budget.found)
    # A call has its model's exact id, so an alias, which is no glob, would never match.
    known = {glob: find(glob) if find else None for glob in budget.models}
    allowed = [found.model if found else glob for glob, found in known.items()]
    return {name for name in models if not any(fnmatchcase(name, glob) for glob in allowed)}


def judge(
    budget: Budget,
    amounts: Amounts,
    *,
    has_requests: bool = False,
    count_command: str = COUNT_COMMAND,
) -> Verdict:
    """Compare a budget with what was spent; spending exactly the limit keeps it.

    A required budget without any request is unverified and has no reasons, because nothing is
    known at all. One on the number of calls, and a gate that only a call can break, is kept by
    making none. A budget of a path that no test matches is unverified, too. The command is what
    the reasons name for counting a changed prompt.
    """
    spent = amounts[budget.quantity]
    saw_request = has_requests or amounts.calls > 0
    saw_no_request = budget.required and not saw_request and budget.quantity != "calls"
    if saw_no_request or (budget.idle and not spent.high and spent.best == 0):
        spent = Range(best=None, high=None, reasons=spent.reasons)
    return decide(budget, spent, budget.limit, budget.limit, count_command)


def decide(
    budget: Budget,
    spent: Range,
    least: Decimal | None,
    most: Decimal | None,
    count_command: str = COUNT_COMMAND,
) -> Verdict:
    """Compare what was spent with a limit that itself lies between two bounds."""
    low = Decimal(0) if spent.low is None else spent.low
    state: State = "unverified"
    if most is not None and low > most:
        state = "exceeded"
    elif least is not None and spent.high is not None and spent.high <= least:
        state = "within"
    return Verdict(
        **{name: getattr(budget, name) for name in Budget.__struct_fields__},
        actual=spent.best,
        low=low,
        high=spent.high,
        state=state,
        reasons=spent.reasons.explain(count_command),
    )


class IncreaseLimit(Budget, frozen=True, kw_only=True):
    """How much a run, or a test, may add to its baseline: `limit`, or a share of the baseline."""

    share: Decimal | None = None

    def of(self, base: Decimal | None) -> Decimal | None:
        """Return what may be added to a baseline; None where that depends on what is unknown."""
        if not self.share:
            return self.limit
        return None if base is None else EXACT.multiply(base, self.share)


def parse_increase(
    text: str, *, origin: str = "", label: str = "max_increase", warn_at: Decimal | None = None
) -> IncreaseLimit:
    """Read a limit on an increase, `10%` or `$0.05`.

    Raises:
        SettingsError: when it is neither.
    """
    share, usd = parse_share_or_usd(text)
    return IncreaseLimit(
        scope="increase",
        limit=usd or Decimal(0),
        share=share,
        origin=origin,
        label=f"{label} {text.strip()}",
        warn_at=warn_at,
    )


def judge_increase(allowed: IncreaseLimit, base: Amounts, change: Amounts) -> Verdict:
    """Judge what was added to a baseline; what was saved is an increase below zero.

    A share is one of the baseline's cost at today's prices. Where that is not exact, the limit
    lies between two bounds: the increase is exceeded above the higher one, and within the
    budget up to the lower one.
    """
    before = base["usd"]
    least, most = allowed.of(before.low), allowed.of(before.high)
    limit = least if before.best is None else allowed.of(before.best)
    return decide(replace(allowed, limit=limit or Decimal(0)), change["usd"], least, most)

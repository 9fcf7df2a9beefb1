"""CachedPrompt: a prompt by what is cached of it, and whether that pays.

Data flow: CachePlan and the counts of its payloads -> `split_prompt` -> CachedPrompt: segments,
and the usage of a first, a later and an uncached call -> prices -> `calls_until_it_pays`.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Literal

import msgspec

from pytest_llmcost.metering.breakpoints import Ttl
from pytest_llmcost.metering.cacheplan import CachePlan
from pytest_llmcost.pricing.usage import Usage


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens between two breakpoints, or behind the last."""

    upto: str
    """The block it ends with; `end` for what comes behind the last breakpoint."""
    tokens: int
    ttl: Ttl | None = None
    """How long it stays cached; None where it is not cached."""


class CachedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt by what is cached of it, and what its calls use."""

    segments: tuple[Segment, ...]
    """In the prompt's order; together they are the whole prompt."""
    notes: tuple[str, ...] = ()
    """What is not cached and why, and what is only nearly exact."""

    @property
    def input_tokens(self) -> int:
        """The whole prompt."""
        return sum(segment.tokens for segment in self.segments)

    @property
    def cold(self) -> Usage:
        """The first call: everything that is cached is written."""
        return Usage(
            input_tokens=self._tokens(None),
            cache_write_5m_tokens=self._tokens("5m"),
            cache_write_1h_tokens=self._tokens("1h"),
        )

    @property
    def warm(self) -> Usage:
        """Each later call within the life of the cache: everything cached is read."""
        plain = self._tokens(None)
        return Usage(input_tokens=plain, cache_read_tokens=self.input_tokens - plain)

    @property
    def none(self) -> Usage:
        """A call without caching."""
        return Usage(input_tokens=self.input_tokens)

    def usage(self, basis: Literal["cold", "warm", "none"]) -> Usage:
        """The usage of a call on one of the three bases."""
        return {"cold": self.cold, "warm": self.warm, "none": self.none}[basis]

    def _tokens(self, ttl: Ttl | None) -> int:
        return sum(segment.tokens for segment in self.segments if segment.ttl == ttl)


def split_prompt(
    plan: CachePlan,
    counts: Mapping[str, int],
    *,
    min_cacheable_tokens: int | None,
    opening_tokens: int = 0,
) -> CachedPrompt:
    """Tell a prompt's segments apart, from the counts of a plan's payloads.

    Args:
        plan: From `plan_caching`.
        counts: Fingerprint -> tokens, for every one of `plan.payloads`.
        min_cacheable_tokens: The model's; a shorter prefix is silently not cached.
        opening_tokens: The tokens that open the answer, see `opening_tokens_of`.
    """
    whole = counts[plan.whole.fingerprint]
    closing = counts.get(plan.placeholder.fingerprint, 0)
    ends: list[int] = []
    for cut in plan.cuts:
        prefix = counts[cut.payload.fingerprint] - (closing if cut.closed else opening_tokens)
        ends.append(min(max(prefix, ends[-1] if ends else 0), whole))
    lives = _lives(plan, ends, min_cacheable_tokens)
    starts = [0, *ends]
    segments = [
        Segment(upto=str(cut.point.place), tokens=end - start, ttl=ttl)
        for cut, start, end, ttl in zip(plan.cuts, starts, ends, lives, strict=False)
    ]
    rest = Segment(upto="end", tokens=whole - starts[-1])
    return CachedPrompt(
        segments=(*segments, rest), notes=tuple(_notes(plan, ends, min_cacheable_tokens))
    )


def _lives(plan: CachePlan, ends: list[int], least: int | None) -> list[Ttl | None]:
    """How long each segment lives: a prefix too short is cached with the next longer one."""
    lives: list[Ttl | None] = []
    ttl: Ttl | None = None
    for cut, end in zip(reversed(plan.cuts), reversed(ends), strict=True):
        if end and end >= (least or 0):
            ttl = cut.point.ttl
        lives.append(ttl)
    return lives[::-1]


def _notes(plan: CachePlan, ends: list[int], least: int | None) -> list[str]:
    notes = []
    for cut, end in zip(plan.cuts, ends, strict=True):
        if least is not None and end < least:
            notes.append(
                f"the prefix up to {cut.point.place} is {end:,} tokens, and "
                f"{plan.whole.model} caches none shorter than {least:,}"
            )
        if not cut.exact:
            notes.append(f"up to {cut.point.place} is a few tokens too many: open tool calls")
    if plan.cuts and least is None:
        notes.append(f"how short a prefix {plan.whole.model} still caches is not known")
    return notes


def opening_tokens_of(model: str, tokenizer: str | None) -> int:
    """How many tokens open the answer: billed as input even if all of the prompt is cached.

    Counting cannot tell them from the prompt's last message.

    Source: the usage of 41 calls with a fully cached prompt in other projects' public
    recordings, 2024-06 to 2026-08; nowhere documented.
    """
    if model.startswith("claude-3"):
        return 4
    return 2 if tokenizer == "opus-4-7" else 3


def calls_until_it_pays(*, cold_usd: Decimal, warm_usd: Decimal, none_usd: Decimal) -> int | None:
    """The number of calls from which caching is cheaper than not caching; None if it never is.

    One cold call, then warm ones. With Opus 4.7's prices and all cached for five minutes:

    Example:
        >>> prices = {"cold_usd": "6.25", "warm_usd": "0.50", "none_usd": "5"}
        >>> calls_until_it_pays(**{name: Decimal(usd) for name, usd in prices.items()})
        2
    """
    if cold_usd < none_usd:
        return 1
    saved = none_usd - warm_usd
    if saved <= 0:
        return None
    return int((cold_usd - warm_usd) // saved) + 1

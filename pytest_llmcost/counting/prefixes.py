"""Cached prefixes from call to call: whether a later one can still be read, and where it broke.

A prefix is read from the cache only while it is the same byte for byte, the order of keys included.
Knows no prices, no answers, and not whose calls they are.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from hashlib import sha256
from itertools import count
from typing import NamedTuple

from pytest_llmcost.counting.payload import BlockPath, CachedValue, Payload
from pytest_llmcost.counting.segments import CachedPrompt
from pytest_llmcost.counting.volatile import LONGEST, skeleton
from pytest_llmcost.json_values import JsonValue, canonical

_EXCERPT, _BEFORE = 40, 12
"""Characters of a prompt that a report may show, and how many of them stand before the break."""
_RECENT = 50
"""Calls among which the turn before is looked for."""
_LOOK_BACK = 20
"""How many blocks the API goes back from a breakpoint, itself the first, to find what was written.

Source: https://platform.claude.com/docs/en/build-with-claude/prompt-caching (2026-09-23)
"""


class Break(NamedTuple):
    """Where the prefix of a call stops being one that an earlier call has left in the cache."""

    part: str
    """The block, or the setting, that differs first; or what lies too far back."""
    character: int | None
    """The first one that differs, from 1; None if it is no text that differs."""
    excerpt: str
    """What stands there now; the only text of a prompt that leaves this module, for `-vv` alone."""


class PrefixGroup:
    """Calls of one model whose first cached block is the same, but for clocks and random ids."""

    def __init__(self) -> None:
        self.written: dict[str, int | None] = {}
        """By digest, the tokens of the prefixes that its calls have written; None if unknown."""
        self.last: dict[str, list[CachedValue]] = {}
        """The last prefix with each first message; the last one of all stands last."""
        self.ends: Counter[str] = Counter()
        """By digest, how many of its calls end there, without another that has gone on from it."""
        self.volatile: dict[str, BlockPath] = {}
        """The first block found to differ by a clock or a random id: under the first message if it
        is in one, otherwise under the empty text, for all."""

    def is_next_turn(self, values: list[CachedValue]) -> bool:
        """Whether a call goes on from a message that an earlier one has ended with, as noted here.

        The same question, asked several times at once, has several answers to go on from.
        """
        ends = [each.prefix for each in values if each.tier == "messages"]
        earlier = next((each for each in reversed(ends) if self.ends[each]), None)
        if earlier is None or earlier == ends[-1]:
            return False
        end = next(each.order for each in values if each.prefix == earlier)
        later = (each for each in values if each.path is not None and each.order > end)
        answers = {each.order[1] for each in later if each.value[0] == "assistant"}
        is_next = len(answers) <= 1
        self.ends[earlier] -= is_next
        return is_next

    def find_break(
        self, before: list[CachedValue], values: list[CachedValue], at: int, opening: str
    ) -> Break:
        """Tell how the first values that differ do, and note a block that does so in every run."""
        old, new = before[at], values[at]
        was, now = ({each.name for each in side} for side in (before, values))
        if old.name not in now and new.name in was:  # removed; the new one has moved up
            return Break(old.name, None, "")
        if old.path is None or new.path is None:  # a setting that was set, changed or removed
            return Break(new.name, None, "")
        where = opening if new.tier == "messages" else ""
        if where not in self.volatile and _is_volatile(old, new):
            self.volatile[where] = new.path
        return _first_difference(old.value[1], new.value[1], new.name)


class Readable(NamedTuple):
    """How much of a call's prefix the cache can hold, by the other calls of its group."""

    group: PrefixGroup
    opening: str
    """The first message, but for clocks and random ids, as a digest; empty for none."""
    breakpoints: tuple[tuple[BlockPath, str], ...]
    """Each with the digest of all up to there."""
    written: tuple[str, BlockPath | None]
    """The digest of the longest part of it that an earlier call has written, empty for none, and
    the last of its own breakpoints in there."""
    broken: Break | None = None
    """Where it breaks the prefix of an earlier call, if it does."""
    lost: str = ""
    """The digest of the prefix that it breaks."""

    @property
    def volatile(self) -> BlockPath | None:
        """The first block of it that no two runs have in common, as far as that is known."""
        found = self.group.volatile
        return found.get("") or found.get(self.opening)

    @property
    def is_limited(self) -> bool:
        """Whether not all of it is taken for written by an earlier run."""
        return self.broken is not None or self.volatile is not None

    @property
    def upto(self) -> str | None:
        """The last breakpoint up to which it can be read if it is limited; None for none."""
        volatile = self.volatile
        read = [
            each
            for each, _ in self.breakpoints
            if each == self.written[1] or (volatile and each.order < volatile.order)
        ]
        return str(read[-1]) if read else None

    def read_tokens(self, prompt: CachedPrompt) -> int:
        """Return how much of the counted prompt can be read if it is limited."""
        # An earlier call may have written up to where this one has no breakpoint.
        return max(prompt.tokens_to(self.upto), self.group.written.get(self.written[0]) or 0)

    def loses_nothing(self, least: int | None) -> bool:
        """Whether what it breaks was not cached, as the model caches no less than `least`."""
        tokens = self.group.written.get(self.lost)
        return tokens is not None and tokens < (least or 1)

    def learn(self, prompt: CachedPrompt | None, cached_tokens: int) -> None:
        """Note what the call has written, for those that follow; without a count as billed."""
        for path, digest in self.breakpoints[-1:] if prompt is None else self.breakpoints:
            tokens = cached_tokens if prompt is None else prompt.tokens_to(str(path))
            self.group.written[digest] = max(tokens, self.group.written.get(digest) or 0)


class CachedPrefixes:
    """What the calls of one owner have left in the cache so far.

    Two agents in one test have different system prompts and are two groups, unless the next turn of
    a dialogue has the prompt of the turn before, edited. Two questions to one agent have
    different first messages: they share what stands before these, and no more. A group may go on
    from an earlier turn with another message, and from the same turn as often as it was sent; it
    must not change old ones.
    """

    def __init__(self) -> None:
        self._groups: dict[str, PrefixGroup] = {}
        self._turns: deque[tuple[list[str], CachedValue, PrefixGroup]] = deque(maxlen=_RECENT)

    def note(self, payload: Payload) -> Readable | None:
        """Add a call; return how much of its prefix can be read; None if nothing is cached."""
        if not payload.breakpoints:
            return None
        values = payload.cached_values  # as sent, also where a user's hook leaves something out
        blocks = [each for each in values if each.path is not None]
        group = self._group_of(payload, blocks)
        message = next((each for each in blocks if each.tier == "messages"), None)
        opening = "" if message is None else _blanked(message)
        like = opening if opening in group.last else next(reversed(group.last), opening)
        before = group.last.get(like, [])
        pairs = enumerate(zip(before, values, strict=False))
        at = next((at for at, (old, new) in pairs if old.prefix != new.prefix), None)
        numbers = {each.path: number for number, each in enumerate(values, 1)}
        own = [each.path for each in payload.breakpoints]
        written = [number for number, each in enumerate(values, 1) if each.prefix in group.written]
        longest = max(written, default=0)
        most = last_reached(values, written, [numbers[path] for path in own])
        within = [path for path in own if numbers[path] <= most]
        readable = Readable(
            group=group,
            opening=opening,
            breakpoints=tuple((path, values[numbers[path] - 1].prefix) for path in own),
            written=(values[most - 1].prefix if most else "", within[-1] if within else None),
        )
        goes_on = False
        if at is not None and all(each.tier == "messages" for each in values[at:]):
            # Another question, or another last message behind what was written.
            here, last = values[at].path, own[-1]
            is_last = here is not None and here.number == last.number
            goes_on = like != opening or (message in values[:longest] and is_last)
        goes_on = goes_on or group.is_next_turn(values)
        if at is not None and not goes_on and longest <= at:
            broken = group.find_break(before, values, at, opening)
            readable = readable._replace(broken=broken, lost=before[-1].prefix)
        elif most < longest:
            part = f"{_LOOK_BACK} or more blocks after {values[longest - 1].name}"
            lost = values[longest - 1].prefix
            readable = readable._replace(broken=Break(part, None, ""), lost=lost)
        for _, digest in readable.breakpoints:
            group.written.setdefault(digest, None)
        group.last.pop(opening, None)
        group.last[opening] = values
        group.ends[values[-1].prefix] += 1
        return readable

    def _group_of(self, payload: Payload, blocks: list[CachedValue]) -> PrefixGroup:
        """Return the group of a call: that of its first block, or of the turn that it goes on from.

        A turn has an edit in its first block then; of it there are the digests of its messages.
        """
        # A system prompt tells agents apart better than a tool, which several may have.
        first = next((each for each in blocks if each.tier == "system"), blocks[0])
        key = f"{payload.model} {_blanked(first)}"
        parts = payload.parts.items()
        turn = [digest for name, digest in parts if name.partition(".")[0] in ("model", "messages")]
        if key not in self._groups:
            earlier = (
                group
                for before, block, group in reversed(self._turns)
                if len(before) < len(turn) and turn[: len(before)] == before
                if _is_edited(block, first)
            )
            self._groups[key] = next(earlier, None) or PrefixGroup()
        self._turns.append((turn, first, self._groups[key]))
        return self._groups[key]


def _is_edited(old: CachedValue, new: CachedValue) -> bool:
    """Whether more than half of a block is that of the other, and so of the same agent."""
    one, other = (canonical(each.value, sort_keys=False).decode() for each in (old, new))
    same = _same_characters(one, other) + _same_characters(one[::-1], other[::-1])
    return 2 * same > max(len(one), len(other))


def last_reached(values: Sequence[CachedValue], written: list[int], ends: list[int]) -> int:
    """Return the last written prefix that the API finds from one of the breakpoints; 0 for none.

    Each is the number of its last value. A run of tool calls, or of results, is one step back.
    """
    steps, number, before = [0], 0, ""
    for each in values:
        if each.path is not None:
            block = each.value[1]
            kind = str(block.get("type")) if isinstance(block, dict) else ""
            number += kind != before or kind not in ("tool_use", "tool_result")
            before = kind
        steps.append(number)
    spans = [(steps[end] - _LOOK_BACK, end) for end in ends]
    reached = (at for at in written if any(far < steps[at] and at <= end for far, end in spans))
    return max(reached, default=0)


def _is_volatile(old: CachedValue, new: CachedValue) -> bool:
    """Whether two blocks differ in nothing but clocks and random ids, also in the order of keys."""
    texts = [canonical(each.value, sort_keys=False).decode() for each in (old, new)]
    return max(map(len, texts)) <= LONGEST and skeleton(texts[0]) == skeleton(texts[1])


def _blanked(block: CachedValue) -> str:
    """Return what a block has in common with itself at another time, as a digest."""
    return sha256(skeleton(canonical(block.value).decode()[:LONGEST]).encode()).hexdigest()


def _first_difference(old: JsonValue, new: JsonValue, path: str) -> Break:
    """Return where the first text differs, or the path of a value that does and is no text."""
    if isinstance(old, str) and isinstance(new, str):
        same = _same_characters(old, new)
        start = max(0, same - _BEFORE)
        return Break(path, same + 1, new[start : start + _EXCERPT])
    inner: Iterable[tuple[object, JsonValue, JsonValue]] = ()
    if isinstance(old, dict) and isinstance(new, dict) and [*old] == [*new]:
        inner = zip(new, old.values(), new.values(), strict=True)
    elif isinstance(old, list) and isinstance(new, list):
        inner = zip(count(), old, new, strict=False)
    for key, one, other in inner:
        if canonical(one, sort_keys=False) != canonical(other, sort_keys=False):
            is_itself = key in ("content", "text")
            return _first_difference(one, other, path if is_itself else f"{path}.{key}")
    return Break(path, None, "")


def _same_characters(old: str, new: str) -> int:
    pairs = enumerate(zip(old, new, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(old), len(new)))

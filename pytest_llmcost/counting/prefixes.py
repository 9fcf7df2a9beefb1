"""Cached prefixes from call to call: whether a later one can still be read, and where it broke.

A prefix is read from the cache only while it is the same byte for byte, the order of keys included.
Knows no prices, no answers, and not whose calls they are.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from pytest_llmcost.counting.payload import CachedValue, Payload
from pytest_llmcost.counting.volatile import LONGEST, skeleton
from pytest_llmcost.json_values import JsonValue, canonical

_EXCERPT, _BEFORE = 40, 12
"""Characters of a prompt that a report may show, and how many of them stand before the break."""


class Break(NamedTuple):
    """Where the prefix of a call stops being one that an earlier call has left in the cache."""

    part: str
    """The block, or the setting, that differs first."""
    character: int | None
    """The first one that differs, from 1; None if it is no text that differs."""
    excerpt: str
    """What stands there now; the only text of a prompt that leaves this module, for `-vv` alone."""
    readable: str | None
    """The last breakpoint of the call up to which it can be read; None for none."""


class _Conversation(NamedTuple):
    """Calls of one model whose first cached block is the same, but for clocks and random ids."""

    written: set[str]
    """Digests of the prefixes that its calls have left in the cache."""
    last: dict[str, list[CachedValue]]
    """The last prefix with each first message; the last one of all stands last."""


class CachedPrefixes:
    """What the calls of one owner have left in the cache so far.

    Two agents in one test have different system prompts and are two conversations. Two questions
    to one agent have different first messages: they share what stands before these, and no more.
    A conversation may go on from an earlier turn with another message; it must not change old ones.
    """

    def __init__(self) -> None:
        self._conversations: dict[str, _Conversation] = {}

    def note(self, payload: Payload) -> Break | None:
        """Add a call; return where it breaks the prefix of its conversation, if it does."""
        if not payload.breakpoints:
            return None
        # As sent, also where a user's hook leaves something out of comparisons.
        values = list(payload.cached_values(payload.breakpoints[-1].place, payload.body))
        blocks = [each for each in values if each.place is not None]
        if not blocks:
            return None
        # A system prompt tells agents apart better than a tool, which several may have.
        first = next((each for each in blocks if each.tier == "system"), blocks[0])
        key = f"{payload.model} {_blanked(first)}"
        known = self._conversations.setdefault(key, _Conversation(set(), {}))
        message = next((each for each in blocks if each.tier == "messages"), None)
        opening = "" if message is None else _blanked(message)
        like = opening if opening in known.last else next(reversed(known.last), opening)
        before = known.last.get(like, [])
        pairs = enumerate(zip(before, values, strict=False))
        at = next((at for at, (old, new) in pairs if old.prefix != new.prefix), None)
        own = {each.place for each in payload.breakpoints}
        ends = {number: each for number, each in enumerate(values, 1) if each.place in own}
        read = [number for number, each in enumerate(values, 1) if each.prefix in known.written]
        most = max(read, default=0)
        known.written.update(each.prefix for each in ends.values())
        known.last.pop(opening, None)
        known.last[opening] = values
        if at is None or most > at:
            return None
        if all(each.tier == "messages" for each in values[at:]):
            here, last = values[at].place, values[-1].place
            is_last = here is not None and last is not None and here.number == last.number
            if like != opening or (message in values[:most] and is_last):
                return None
        readable = [str(end.place) for number, end in ends.items() if number <= most]
        old, new, upto = before[at], values[at], readable[-1] if readable else None
        if old.place is None or new.place is None:  # a setting that was set, changed or removed
            return Break(new.name if new.place is None else old.name, None, "", upto)
        return Break(*_first_difference(old.value[1], new.value[1], new.name), upto)


def _blanked(block: CachedValue) -> str:
    """Return what a block has in common with itself at another time, as a digest."""
    return _skeleton_digest(canonical(block.value).decode()[:LONGEST])


@lru_cache(maxsize=32)  # most tests of a suite have the same system prompt
def _skeleton_digest(text: str) -> str:
    return sha256(skeleton(text).encode()).hexdigest()


def _first_difference(old: JsonValue, new: JsonValue, path: str) -> tuple[str, int | None, str]:
    """Return the path of the first text that differs, its first such character, and an excerpt."""
    if isinstance(old, dict) and isinstance(new, dict) and [*old] == [*new]:
        for key, value in new.items():
            if not _is_same(old[key], value):
                inner = path if key in ("content", "text") else f"{path}.{key}"
                return _first_difference(old[key], value, inner)
    if isinstance(old, list) and isinstance(new, list):
        for index, (one, other) in enumerate(zip(old, new, strict=False)):
            if not _is_same(one, other):
                return _first_difference(one, other, f"{path}.{index}")
    if isinstance(old, str) and isinstance(new, str):
        pairs = enumerate(zip(old, new, strict=False))
        same = next((at for at, (a, b) in pairs if a != b), min(len(old), len(new)))
        start = max(0, same - _BEFORE)
        return path, same + 1, new[start : start + _EXCERPT]
    return path, None, ""


def _is_same(one: JsonValue, other: JsonValue) -> bool:
    return canonical(one, sort_keys=False) == canonical(other, sort_keys=False)

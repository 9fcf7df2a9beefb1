"""What is in a prompt: the payload cut at points, its breakpoints or parts, each cut counted.

Each cut is counted from the beginning of the prompt, never by itself, for tokens join across
borders; a segment is the difference between two prefixes, so that segments add up to the whole.
Knows no prices, and not where counts come from.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from pytest_llmcost.counting.cassette import Count
from pytest_llmcost.counting.payload import (
    THINKING,
    WITH_MESSAGES,
    WITH_TOOLS,
    BlockPath,
    Breakpoint,
    Payload,
    as_blocks,
    as_list,
    joined_turns,
    tool_names,
)
from pytest_llmcost.errors import PayloadError
from pytest_llmcost.json_values import JsonValue
from pytest_llmcost.money import EXACT
from pytest_llmcost.prices.price_file import ModelEntry
from pytest_llmcost.prices.usage import WRITTEN, Lifetime, Usage

PromptState = Literal["cold", "warm", "none"]
ReadCut = Callable[[Mapping[str, Any]], Payload]
"""Makes a payload of a cut's body, with the betas of the payload that is cut."""
_PLACEHOLDER: JsonValue = [{"role": "user", "content": "."}]
"""A prompt needs a message. This one closes a cut that has no message, or ends with an answer; it
is counted alone as well, and subtracted."""


class Cut(NamedTuple):
    """A prefix of the prompt, as a payload that can be counted."""

    point: Breakpoint
    payload: Payload
    closed: bool
    """With the placeholder behind it, which counts for nothing."""
    exact: bool = True
    """False if open tool calls had to be answered, which counts for a few tokens."""


class Plan(NamedTuple):
    """What must be counted to know how long some prefixes of a payload are."""

    whole: Payload
    cuts: tuple[Cut, ...]
    """Of a caching plan the whole, then one at each breakpoint; else one at each part's border."""
    placeholder: Payload
    spans: tuple[tuple[tuple[str, ...], Cut, Cut], ...] = ()
    """In the prompt's order: the parts that a span belongs to, the cut before it and at its end."""
    fixed: tuple[Cut, ...] = ()
    """With one tool and with two, if the fixed prompt must be kept apart from the first tool."""

    @property
    def payloads(self) -> tuple[Payload, ...]:
        """All that must be counted, each once."""
        needed = [cut.payload for cut in self.cuts]
        if len({cut.closed for cut in self.cuts}) > 1:  # otherwise it cancels out
            needed.append(self.placeholder)
        return tuple({one.fingerprint: one for one in needed}.values())


def plan_caching(
    payload: Payload, *, points: Sequence[Breakpoint] | None = None, read: ReadCut
) -> Plan:
    """Cut a payload at points in the prompt's order, at its own breakpoints unless given."""
    end = Breakpoint(BlockPath("messages", len(as_list(payload.body.get("messages")))))
    points = payload.breakpoints if points is None else points
    cuts = [Cut(end, payload, closed=False), *(_cut(payload, each, read) for each in points)]
    return Plan(payload, tuple(cuts), _placeholder(payload, read))


def _placeholder(payload: Payload, read: ReadCut) -> Payload:
    return read({"model": payload.body["model"], "messages": _PLACEHOLDER})


def _cut(payload: Payload, point: Breakpoint, read: ReadCut) -> Cut:
    body, (group, number, block) = payload.body, point.path
    messages = body.get("messages") or []
    if group == "messages" and number >= len(messages) - 1:
        content = messages[-1]["content"]
        if number == len(messages) or isinstance(content, str) or block == len(content) - 1:
            return Cut(point, payload, closed=False)  # nothing of the prompt comes after it
    kept = {"model": body["model"]}
    tools = body.get("tools") or []
    if group == "tools":
        tools = tools[: number + 1]
    if tools:
        kept["tools"] = _unmarked(tools)
        kept |= {key: value for key, value in body.items() if key in WITH_TOOLS and value}
        chosen = (body.get("tool_choice") or {}).get("name")
        if chosen and chosen not in [tool.get("name") for tool in tools]:
            kept["tool_choice"] = {"type": "any"}  # forced, too: the same hidden prompt
    if group != "tools" and "system" in body:
        system = body["system"]
        is_cut = group == "system" and isinstance(system, list)
        kept["system"] = _unmarked(system[: number + 1] if is_cut else system)
    if group == "messages":
        kept |= {key: value for key, value in body.items() if key in WITH_MESSAGES}
    if group != "messages" or number < 0:
        return Cut(point, read({**kept, "messages": _PLACEHOLDER}), closed=True)
    *turns, last = messages[: number + 1]
    if isinstance(last["content"], list) and block is not None:
        last = {**last, "content": last["content"][: block + 1]}
    turns, closed, exact = _close(_unmarked([*turns, last]))
    return Cut(point, read({**kept, "messages": turns}), closed, exact)


def _unmarked(value: JsonValue) -> JsonValue:
    """Remove breakpoints, which count for nothing: moving one needs no new count."""
    if isinstance(value, list):
        return [_unmarked(item) for item in value]
    if isinstance(value, dict):
        return {key: _unmarked(item) for key, item in value.items() if key != "cache_control"}
    return value


def _close(turns: list[JsonValue]) -> tuple[list[JsonValue], bool, bool]:
    """Make cut messages ones that the API takes; also return whether closed, and exact."""
    # It refuses a tool_use without its tool_result at the beginning of the next message, and a
    # prompt that ends with an answer.
    closed = turns[-1]["role"] == "assistant"
    *before, last = [*turns, {"role": "user", "content": []}] if closed else turns
    asked = [name for turn in before[-1:] for name in _ids(turn, "tool_use", "id")]
    answered = _ids(last, "tool_result", "tool_use_id")
    open_calls = [name for name in asked if name not in answered]
    if open_calls:
        answers = [{"type": "tool_result", "tool_use_id": name} for name in open_calls]
        last = {**last, "content": [*as_blocks(last["content"]), *answers]}
    elif closed:
        (last,) = _PLACEHOLDER
    return [*before, last], closed, not open_calls


def _ids(turn: Mapping[str, Any], kind: str, key: str) -> list[str]:
    return [block[key] for block in as_list(turn["content"]) if block.get("type") == kind]


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens between two breakpoints, or behind the last."""

    upto: str
    """The block it ends with; `end` for what comes behind the last breakpoint."""
    tokens: int
    ttl: Lifetime | None = None
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

    def usage(self, cache_state: PromptState, *, most_read: int | None = None) -> Usage:
        """Return the usage of a call in a state of the cache.

        `cold` is the first call, which writes everything that is cached; `warm` each later one
        within the life of the cache, which reads it, or so many tokens of it; `none` a call
        without caching.
        """
        tokens = dict.fromkeys(("input_tokens", *WRITTEN.values()), 0)
        left = self.input_tokens if most_read is None else most_read
        read = 0
        for segment in self.segments:
            ttl = segment.ttl if cache_state != "none" else None
            hit = min(left - read, segment.tokens) if cache_state == "warm" and ttl else 0
            read += hit
            tokens[WRITTEN[ttl] if ttl else "input_tokens"] += segment.tokens - hit
        return Usage(**tokens, cache_read_tokens=read)

    def tokens_to(self, upto: str | None) -> int:
        """Return the tokens up to and including the segment of this name; 0 for none."""
        names = [segment.upto for segment in self.segments]
        last = names.index(upto) + 1 if upto in names else 0
        return sum(segment.tokens for segment in self.segments[:last])


def _prefix_tokens(cut: Cut, plan: Plan, counts: Mapping[str, Count], opening_tokens: int) -> int:
    """Return how long a prefix is without what closes it."""
    tokens = counts[cut.payload.fingerprint].input_tokens
    if not cut.closed:
        return tokens - opening_tokens
    placeholder = counts.get(plan.placeholder.fingerprint)  # not there where it cancels out
    return tokens if placeholder is None else tokens - placeholder.input_tokens


def split_prompt(plan: Plan, counts: Mapping[str, Count], about: ModelEntry) -> CachedPrompt:
    """Return a prompt's segments, from the counts of all `plan.payloads` by fingerprint.

    A prefix below the model's `min_cacheable_tokens` is silently not cached.
    """
    least, model = about.min_cacheable_tokens, plan.whole.model
    opening_tokens = opening_tokens_of(model, about.tokenizer)
    whole = counts[plan.whole.fingerprint].input_tokens
    segments, notes, begin = list[Segment](), list[str](), 0
    cuts = plan.cuts[1:]
    for cut in cuts:
        end = min(max(_prefix_tokens(cut, plan, counts, opening_tokens), begin), whole)
        ttl = cut.point.ttl if end and end >= (least or 0) else None
        segments.append(Segment(upto=str(cut.point.path), tokens=end - begin, ttl=ttl))
        begin = end
        if least is not None and end < least:
            notes.append(
                f"the prefix up to {cut.point.path} is {end:,} tokens, and {model} caches none "
                f"shorter than {least:,}"
            )
        if not cut.exact:
            notes.append(f"up to {cut.point.path} is a few tokens too many: open tool calls")
    # A prefix that is too short is cached with the next longer one.
    for at in range(len(segments) - 2, -1, -1):
        segments[at] = replace(segments[at], ttl=segments[at].ttl or segments[at + 1].ttl)
    segments.append(Segment(upto="end", tokens=whole - begin))
    if cuts and least is None:
        notes.append(f"how short a prefix {model} still caches is not known")
    return CachedPrompt(segments=tuple(segments), notes=tuple(notes))


def opening_tokens_of(model: str, tokenizer: str | None) -> int:
    """Return how many tokens open the answer: billed as input even if all of it is cached.

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
    saved = EXACT.subtract(none_usd, warm_usd)
    if saved <= 0:
        return None
    return int(EXACT.divide_int(EXACT.subtract(cold_usd, warm_usd), saved)) + 1


REST = "rest"
"""The part that is neither tools, system nor messages: the prompt behind settings, such as thinking
and output formats, and the tokens that open the answer."""
FIXED = "tools.(fixed)"
"""The prompt that the API adds if there are any tools; in the sum of all tools, but of no single
one, so that their order changes no tool's tokens."""
_BEFORE_ALL, _FIXED, _SETTINGS = (
    BlockPath("tools", -1),
    BlockPath("tools", -1, 0),
    BlockPath("messages", -1),
)
"""Cuts before the first block, before the first tool, and before the first message."""
_TOOLS: JsonValue = [{"name": name, "input_schema": {"type": "object"}} for name in "ab"]
"""One tool has the fixed prompt in front of it; two show how much of it is the tool itself."""


@dataclass(frozen=True, eq=False)
class PromptParts(Mapping[str, int]):
    """The tokens of a prompt by part, in the prompt's order; together they are the whole prompt.

    `parts["tools"]` is the sum of all tools, although only the single ones are iterated over. If
    only some parts were counted, it holds these.
    """

    tokens: Mapping[str, int]
    notes: tuple[str, ...] = ()
    """What is only nearly exact, and what `count_tokens` rejects and is therefore left out."""
    left_out: frozenset[str] = frozenset()
    """The parts that are too low, because something of them is left out."""

    def __getitem__(self, name: str) -> int:
        if name in self.tokens:
            return self.tokens[name]
        found = [tokens for each, tokens in self.tokens.items() if is_part_of(each, name)]
        if not found:
            raise KeyError(name)
        return sum(found)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def total(self) -> int:
        """The whole prompt."""
        return sum(self.tokens.values())


def is_part_of(name: str, other: str) -> bool:
    """Whether a part is another one, or a part of it.

    Example:
        >>> is_part_of("tools.find", "tools"), is_part_of("tools.find_all", "tools.find")
        (True, False)
        >>> is_part_of("tools.find.all", "tools.find")  # another tool
        False
    """
    return name == other or (name.startswith(f"{other}.") and not other.startswith("tools."))


def plan_parts(payload: Payload, names: Sequence[str] | None = None, *, read: ReadCut) -> Plan:
    """Cut a payload at the borders of the parts that are named, or of all.

    Raises:
        PayloadError: it has no messages that the API would take.
    """
    messages = payload.body.get("messages")
    if not messages or not isinstance(messages, list):
        raise PayloadError("the payload has no messages; add messages=", path="messages")
    for index, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, (str, list)) or not content:
            raise PayloadError("a message has no content", path=f"messages.{index}")
    spans: list[tuple[tuple[str, ...], BlockPath, BlockPath]] = []
    begin = _BEFORE_ALL
    for leaf, end in (*_leaves(payload), (REST, BlockPath("messages", len(messages)))):
        parts = (leaf,) if names is None else tuple(n for n in names if is_part_of(leaf, n))
        if spans and spans[-1][0] == parts:
            begin = spans.pop()[1]
        spans.append((parts, begin, end))
        begin = end
    spans = [each for each in spans if each[0]]
    paths = dict.fromkeys(path for _, *ends in spans for path in ends)
    cuts = {path: _cut(payload, Breakpoint(path), read) for path in paths}
    fixed: tuple[Cut, ...] = ()
    if _FIXED in cuts:
        kept = {key: payload.body[key] for key in ("model", "tool_choice") if key in payload.body}
        tools = replace(payload, body={**kept, "tools": _TOOLS})
        fixed = tuple(_cut(tools, Breakpoint(BlockPath("tools", at)), read) for at in (0, 1))
        cuts[_FIXED] = fixed[0]
    between = tuple((parts, cuts[begin], cuts[end]) for parts, begin, end in spans)
    return Plan(payload, (*cuts.values(), *fixed), _placeholder(payload, read), between, fixed)


def _leaves(payload: Payload) -> Iterator[tuple[str, BlockPath]]:
    """Yield each block of a prompt with the name of the smallest part that it belongs to."""
    prompt = payload.prompt
    tools, starts = tool_names(prompt.tools), [*joined_turns(prompt.messages)]
    if tools:
        yield FIXED, _FIXED
    is_before_messages = any(payload.body.get(key) for key in WITH_MESSAGES)
    for path, block in prompt.blocks():
        if path.group != "messages":
            yield tools[path.number] if path.group == "tools" else str(path), path
            continue
        if is_before_messages:
            yield REST, _SETTINGS
            is_before_messages = False
        kind = str(block.get("type")) if isinstance(block, dict) else "text"
        # No request may end with thinking, so that it counts with the block behind it.
        if kind not in THINKING:
            turn = bisect_right(starts, path.number) - 1
            yield f"messages.{turn}.{kind}", path


def split_parts(plan: Plan, counts: Mapping[str, Count], about: ModelEntry) -> PromptParts:
    """Return the tokens of a plan's parts, from the counts of its payloads by fingerprint."""
    opening_tokens = opening_tokens_of(plan.whole.model, about.tokenizer)
    tool, whole = 0, None
    if any(not cut.closed for _, *cuts in plan.spans for cut in cuts):
        # Otherwise all ends are alike too long, also one that is the same as the whole prompt.
        whole = counts.get(plan.whole.fingerprint)
    if plan.fixed:
        one, two = (counts[cut.payload.fingerprint].input_tokens for cut in plan.fixed)
        tool = two - one
    tokens: dict[str, int] = {}
    notes, incomplete, reached = [], set[str](), 0
    for names, *cuts in plan.spans:
        low, high = (
            _prefix_tokens(cut, plan, counts, opening_tokens)
            - (tool if plan.fixed and cut is plan.fixed[0] else 0)
            for cut in cuts
        )
        # A cut with open tool calls may be a few tokens too long, even longer than the whole.
        low = max(low, reached)
        reached = max(
            low, high if whole is None else min(high, whole.input_tokens - opening_tokens)
        )
        for name in names:
            tokens[name] = tokens.get(name, 0) + reached - low
        before, behind = (set(counts[cut.payload.fingerprint].left_out) for cut in cuts)
        if behind - before:
            incomplete.update(names)
            notes.append(f"count_tokens rejects {', '.join(sorted(behind - before))}; left out")
        if not all(cut.exact for cut in cuts):
            notes.append(f"{', '.join(names)} is only nearly exact: open tool calls")
    if REST in tokens:
        tokens[REST] = tokens.pop(REST) + opening_tokens  # as the last one
    return PromptParts(tokens, tuple(notes), frozenset(incomplete))

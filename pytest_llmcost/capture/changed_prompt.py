"""A replayed reply whose prompt has changed: what it uses for the prompt that is sent now.

Pure: it says what has to be counted and what the counts mean. Who counts, and where counts are
recorded, is the plugin's. Knows no prices.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from msgspec.structs import replace

from pytest_llmcost.counting.payload import (
    BlockPath,
    Payload,
    as_list,
    changed_parts,
    describe_changes,
)
from pytest_llmcost.counting.prefixes import last_reached
from pytest_llmcost.counting.segments import CachedPrompt, Plan, ReadCut, plan_caching
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import FEES, LONGEST, WRITTEN, Usage, reply_limit
from pytest_llmcost.responses.message import Answer

_END = BlockPath("messages", sys.maxsize)
Marks: TypeAlias = Sequence[tuple[str, str]]
"""The digest of each cached prefix with its lifetime, the longest last."""


class CacheUse(NamedTuple):
    """What one call leaves in the cache: in its recording, and now."""

    then: Marks
    read_then: int
    tokens_then: int
    """Read and written."""
    now: Marks = ()
    """Empty also if the call is gone."""
    tokens_now: int = 0
    strand: object = None
    """Whose calls follow one another: that of its `Replay`."""
    source: object = None
    """Its recorded request: that of several calls if the cassette repeats itself."""


def obstacle_to_recount(answer: Answer) -> str | None:
    """Return why a count of the prompt does not give a reply's new cost; None where it does."""
    if len(answer.ids) > 1:
        return "the recorded answer holds several messages"
    sampling = answer.sampling_calls[0] if len(answer.sampling_calls) == 1 else None
    is_one = sampling is not None and sampling.kind == "message" and not sampling.sums_calls
    if sampling is None or not is_one or any(sampling.usage.only(FEES).values()):
        return "the recorded answer took several sampling calls"
    return "the recorded answer is a refusal" if sampling.refusal is not None else None


class ReplayedReply(NamedTuple):
    """A recorded reply, with the prompt that is sent now and the one that was sent then."""

    answer: Answer
    sent: Payload
    recorded: Payload
    least_cacheable: int | None = None
    """Shorter prefixes are silently not cached; None if that is unknown of the model."""
    strand: object = None
    """Whose calls follow one another: that of its `Replay`."""
    source: object = None
    """The one recorded request that is read as `recorded`."""

    def is_as_billed(self) -> bool:
        """Whether the reply stands as it was billed: same prompt, and the same use of the cache.

        A cached prefix must be the same byte for byte, so that a reordered key makes another one.
        Of a prompt that is too short to be cached, the marks need only be at the same places.
        """
        sent, recorded = self.sent, self.recorded
        if not sent.has_prompt_of(recorded) or self.cut_to() is not None:
            return False
        if not self.answer.usage.cached_tokens and sent.breakpoints in ((), recorded.breakpoints):
            return True
        return marks_of(sent) == marks_of(recorded)

    def cut_to(self) -> int | None:
        """Return the `max_tokens` that a reply of this length is cut to now; None if it is not."""
        then, now = reply_limit(self.recorded.body), reply_limit(self.sent.body)
        if now is None or (then is not None and then <= now) or obstacle_to_recount(self.answer):
            return None
        return now if now < self.answer.usage.output_tokens else None

    def plan(self, read: ReadCut) -> Plan | None:
        """Return what must be counted to know what the prompt uses now; None where nothing must.

        The whole prompt, and each cached prefix if the recorded cache tokens do not hold any more.
        Nothing where the prompt is the same and only the use of the cache has changed.
        """
        keeps_tokens = not self.sent.breakpoints or self._keeps_cached_tokens()
        if keeps_tokens and self.sent.has_prompt_of(self.recorded):
            return None
        points = () if keeps_tokens else self.sent.breakpoints
        return plan_caching(self.sent, points=points, read=read)

    def recount(
        self,
        prompt: CachedPrompt | None,
        *,
        earlier: Sequence[CacheUse] = (),
        caveats: Iterable[str] = (),
        tokenizer: Callable[[str], str | None],
    ) -> Answer:
        """Return what the reply uses for the prompt that is sent now.

        Its input is the count of the new prompt, split by what the cache does with it now; its
        output is that of the recorded reply, cut to `max_tokens`. The model, and with it the rates,
        are those of what is sent now. `prompt` holds the counts of `plan`, `earlier` what earlier
        calls of the same owner left in the cache, `caveats` what makes the counts bounds;
        `tokenizer` names the one of a model.
        """
        answer, sent, recorded, *_ = self
        (sampling,) = answer.sampling_calls
        model = answer.model if sent.model == recorded.model else sent.model
        usage, least = self._usage_now(sampling.usage, prompt, earlier)
        kept = (each for each in answer.caveats if each.name != "cache-miss")  # of the recording
        notes = {*kept, *caveats, *self.reply_caveats(tokenizer)}
        notes.add(f"changed-prompt: {self.describe_parts()}")
        if prompt is not None and sent.breakpoints:
            notes.update(f"cache-notes: {each}" for each in prompt.notes)
        if least is not None:
            last = sent.prefixes[-1]
            changes = changed_parts(recorded.prefix_to(last.path).parts, last.parts)
            notes.add(f"changed-cache: {describe_changes(changes) or 'the cached prefix'}")
        low = least if sampling.usage_low is None else sampling.usage_low
        # What was asked for in another way than then is priced as it is asked for now.
        terms, geography = answer.terms, sent.body.get("inference_geo")
        if geography != recorded.body.get("inference_geo"):
            geography = geography if isinstance(geography, str) else None
            terms = replace(terms, inference_geo=geography)
        if sent.body.get("speed") == "fast" != recorded.body.get("speed"):
            terms = replace(terms, speed="asked-fast")  # it may be asked for and not given
        elif terms.speed in ("fast", "asked-fast") and sent.body.get("speed") != "fast":
            terms = replace(terms, speed="standard")
        return replace(
            answer,
            model=model,
            usage=usage,
            sampling_calls=(replace(sampling, model=model, usage=usage, usage_low=low),),
            terms=terms,
            caveats=sorted_caveats(notes),
            before=answer,
        )

    def without_figures(self, obstacle: str | None, failed: str = "") -> Answer:
        """Make an unknown of the reply, if its prompt has changed and is not recounted.

        It keeps no sampling calls: yesterday's price would be taken for today's. The obstacle says
        why a count does not help; None if there is no count yet, or it was tried and `failed`, a
        caveat.
        """
        parts = self.describe_parts()
        texts = [f"not-recounted: {parts}: {obstacle}" if obstacle else f"stale: {parts}"]
        if failed:
            texts = [f"changed-prompt: {parts}", failed]
        caveats = sorted_caveats([*self.answer.caveats, *texts])
        return replace(self.answer, sampling_calls=(), caveats=caveats, before=self.answer)

    def describe_parts(self) -> str:
        """Name the parts that differ from the recorded payload."""
        changes = changed_parts(self.recorded.parts, self.sent.parts)
        if self.cut_to() is not None:
            changes.append("max_tokens")
        turn = "the payload" if self.sent.continues is None else "an earlier turn of its thread"
        return describe_changes(changes) or turn

    def use_of_the_cache(self, now: Usage) -> CacheUse:
        """Return what it leaves in the cache, for later calls."""
        then = self.answer.usage
        return CacheUse(
            marks_of(self.recorded) if then.cached_tokens else (),
            then.cache_read_tokens,
            then.cached_tokens,
            marks_of(self.sent) if now.cached_tokens else (),
            now.cached_tokens,
            self.strand,
            self.source,
        )

    def with_cache_in_doubt(self, now: Answer, others: Sequence[CacheUse]) -> Answer:
        """Return what it uses now, with two bounds where the cache may hold more or less for it.

        What it reads and writes is certain if the other calls write now as far into its prompt as
        those of the recording did. If they do not come as far, it may write what it reads; if they
        come farther, it may read what it writes. What no recorded call wrote was there before, and
        stays. The others are the earlier calls of its test, and recordings that are not sent now.
        """
        is_lost, is_new = self._changes_in_the_cache(now.usage, others)
        if not (is_lost or is_new):
            return now
        # Those that live longer must precede the others, and what is read is at the front.
        written = WRITTEN[self.sent.breakpoints[0].ttl]
        may_be_written = ("cache_read_tokens",) if is_lost else ()
        may_be_read = WRITTEN.values() if is_new else ()
        calls = tuple(
            replace(
                each,
                usage=_moved(each.usage, may_be_written, written),
                usage_low=_moved(each.usage_low or each.usage, may_be_read, "cache_read_tokens"),
            )
            for each in now.sampling_calls
        )
        usage, caveats = _moved(now.usage, may_be_written, written), now.caveats
        if not any(each.name == "changed-cache" for each in caveats):
            change = f"earlier calls write {'less' if is_lost else 'more'} of it now"
            caveats = sorted_caveats([*caveats, f"changed-cache: {change}"])
        return replace(now, usage=usage, sampling_calls=calls, caveats=caveats)

    def reply_caveats(self, tokenizer: Callable[[str], str | None]) -> set[str]:
        """Return in which ways the recorded reply is not the one that would come now."""
        answer, sent, recorded, *_ = self
        caveats = set()
        if sent.model != recorded.model:
            then, now = tokenizer(recorded.model), tokenizer(sent.model)
            if then is None or then != now:
                caveats.add(f"other-tokenizer: recorded with {recorded.model}")
        if answer.stop_reason == "max_tokens":
            most_then, most = reply_limit(recorded.body), reply_limit(sent.body)
            if most_then is None or most is None or most > most_then:
                caveats.add(f"cut-reply: by max_tokens {most_then}, now {most}")
        if answer.stop_reason == "stop_sequence":
            stops, kept = (as_list(each.body.get("stop_sequences")) for each in (recorded, sent))
            gone = [text for text in stops if text not in kept]
            if gone:
                caveats.add(f"cut-reply: by one of stop_sequences, now without {gone[0]!r}")
        return caveats

    # What the cache does with the prompt

    def _usage_now(
        self, then: Usage, prompt: CachedPrompt | None, earlier: Sequence[CacheUse]
    ) -> tuple[Usage, Usage | None]:
        """Return the usage now; and the least it may be, where a read may be a write."""
        sent, total = self.sent, then.prompt_tokens if prompt is None else prompt.input_tokens
        kept = then.only(("output_tokens", *FEES))
        if (most := self.cut_to()) is not None:
            kept["output_tokens"] = most
        # Without a mark in either payload something between here and the API caches by itself.
        is_cached_by_others = not (sent.breakpoints or self.recorded.breakpoints) and (
            0 < then.cached_tokens <= total
        )
        if not sent.breakpoints or self._keeps_cached_tokens():
            # An unchanged prefix keeps its recorded tokens; the rest of the count comes after it.
            cached = then if sent.breakpoints or is_cached_by_others else Usage()
            usage = Usage(
                input_tokens=max(0, total - cached.cached_tokens),
                cache_read_tokens=cached.cache_read_tokens,
                **cached.only(WRITTEN.values()),
                **kept,
            )
            return usage, None
        assert prompt is not None
        read, is_known = self._tokens_read(then.cache_read_tokens, prompt, earlier)
        usage = replace(prompt.usage("warm", most_read=read), **kept)
        least = replace(prompt.usage("warm"), **kept)
        return usage, None if is_known or least == usage else least

    def _tokens_read(
        self, read: int, prompt: CachedPrompt, earlier: Sequence[CacheUse]
    ) -> tuple[int, bool]:
        """Return how many tokens are certainly read from the cache now, and whether that is all."""
        if not read:
            return 0, True
        # What earlier calls had in the cache for this one, and have there now.
        had = _Found(
            self.recorded, [each.then if read <= each.tokens_then else () for each in earlier]
        )
        here = _Found(self.sent, [each.now for each in earlier])
        sure = _Found(self.sent, self._surely_left(earlier))
        tokens = {
            each.now[-1][0]: each.tokens_now
            for each in earlier
            if each.now and each.tokens_then == read
        }
        tokens |= {each.digest: prompt.tokens_to(str(each.path)) for each in self.sent.prefixes}
        found = tokens.get(sure.longest[0].digest, 0) if had.longest and sure.longest else 0
        if found >= max(1, self.least_cacheable or 0) and sure.reaches(had):
            return found, sure.upto == here.upto
        marked = {each.digest for each in self.recorded.prefixes}
        for own in reversed(self.sent.prefixes):
            end = prompt.tokens_to(str(own.path))
            # Where neither a mark nor a read ended, nothing in the cache is known to end.
            is_entry = own.digest in marked and end >= (self.least_cacheable or 0)
            if self.recorded.begins_with(own) and (end >= read or is_entry):
                return min(end, read), end >= read
        return 0, False

    def _changes_in_the_cache(self, now: Usage, others: Sequence[CacheUse]) -> tuple[bool, bool]:
        """Return whether less of it, and whether more of it, is in the cache than there was."""
        written = [each.then if self._read_from(each) else () for each in others]
        # If it used none then, its marks were too short, and so were those of others up to there.
        # A recording that is played again was not there before itself.
        is_used = self.answer.usage.cached_tokens > 0
        left = [each.then for each in others if is_used and each.source is not self.source]
        then, here = _Found(self.recorded, left), _Found(self.sent, [each.now for each in others])
        sure = _Found(self.sent, self._surely_left(others))
        is_lost = now.cache_read_tokens > 0 and not sure.reaches(_Found(self.recorded, written))
        known = (others[each.call].tokens_now for each in here.longest)
        is_new = now.written_tokens > 0 and now.cache_read_tokens not in known
        return is_lost, is_new and not then.reaches(here)

    def _surely_left(self, others: Sequence[CacheUse]) -> list[Marks]:
        """Return what others leave now, as far as they are known to be answered before it.

        Those of a thread, another task or the same batch may be sent at the same time, unless it
        read in the recording what they wrote.
        """
        return [
            each.now if each.strand == self.strand or self._read_from(each) else ()
            for each in others
        ]

    def _read_from(self, other: CacheUse) -> bool:
        """Whether it read in the recording what another call wrote, as far as tokens tell."""
        return other.read_then < self.answer.usage.cache_read_tokens <= other.tokens_then

    def _keeps_cached_tokens(self) -> bool:
        """Whether it caches the same prefixes for the same lifetimes, so that their tokens hold."""
        return bool(self.sent.breakpoints) and marks_of(self.sent) == marks_of(self.recorded)


def marks_of(payload: Payload | None) -> Marks:
    """Return each cached prefix with its lifetime; none if the payload could not be read."""
    if payload is None:
        return ()
    return [
        (prefix.digest, point.ttl)
        for prefix, point in zip(payload.prefixes, payload.breakpoints, strict=True)
    ]


def _moved(usage: Usage, names: Iterable[str], to: str) -> Usage:
    """Return a usage with some of its quantities counted as another one."""
    moved = usage.only(names)
    more = {to: getattr(usage, to) + sum(moved.values())}
    return replace(usage, **dict.fromkeys(moved, 0), **more)


class _Entry(NamedTuple):
    digest: str
    ttl: str
    call: int
    """The number of the call that leaves it."""


class _Found:
    """What of a prompt the API finds in the cache, by what other calls leave there."""

    def __init__(self, payload: Payload, left: Sequence[Marks]) -> None:
        values = payload.prefix_to(_END).values
        self._numbers = numbers = {each.prefix: at for at, each in enumerate(values, 1)}
        entries = [
            _Entry(*mark, call)
            for call, marks in enumerate(left)
            for mark in marks
            if mark[0] in numbers
        ]
        ends = [numbers[digest] for digest, _ in marks_of(payload)]
        self.upto = upto = last_reached(values, [numbers[each.digest] for each in entries], ends)
        self._entries = [each for each in entries if numbers[each.digest] <= upto]
        self.longest = [each for each in entries if numbers[each.digest] == upto]

    def reaches(self, other: _Found) -> bool:
        """Whether as much is found as of another version of the prompt, for as long.

        If the text up to there is the same, something as long; otherwise something of one call.
        """
        return not other.longest or any(
            mine.ttl in (its.ttl, LONGEST)
            and (
                self._numbers[mine.digest] >= self._numbers[its.digest]
                if its.digest in self._numbers
                else mine.call == its.call
            )
            for its in other.longest
            for mine in self._entries
        )

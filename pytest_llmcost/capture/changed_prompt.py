"""A replayed reply whose prompt has changed: what it uses for the prompt that is sent now.

Pure: it says what has to be counted and what the counts mean. Who counts, and where counts are
recorded, is the plugin's. Knows no prices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from msgspec.structs import replace

from pytest_llmcost.counting.payload import Payload, Prefix, changed_parts, describe_changes
from pytest_llmcost.counting.prompt import as_list
from pytest_llmcost.counting.segments import CachedPrompt, CachePlan, plan_caching
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.responses.message import Answer


class CachedPrefix(NamedTuple):
    """What one call left in the cache: in its recording, and now."""

    recorded: Prefix
    recorded_tokens: int
    now: Prefix
    tokens: int


def obstacle_to_recount(answer: Answer) -> str | None:
    """Return why a count of the prompt does not give a reply's new cost; None where it does."""
    if len(answer.ids) > 1:
        return "the recorded answer holds several messages"
    sampling = answer.sampling_calls[0] if len(answer.sampling_calls) == 1 else None
    is_one = sampling is not None and sampling.kind == "message" and not sampling.sums_calls
    if sampling is None or not is_one or sampling.usage.web_search_requests:
        return "the recorded answer took several sampling calls"
    return "the recorded answer is a refusal" if sampling.refusal is not None else None


def is_as_recorded(answer: Answer, *, sent: Payload, recorded: Payload) -> bool:
    """Whether a reply stands as it was billed: same prompt, and nothing else for the cache.

    Where the marks stand within one prompt does not matter, but their lifetimes do; and a cached
    prefix must be the same byte for byte, so that a reordered key makes another one.
    """
    if not _is_same_prompt(sent, recorded):
        return False
    if not answer.usage.cached_tokens and not sent.breakpoints:
        return True
    marked_then = (sent.prefix_to(each.place) for each in recorded.breakpoints)
    return {*_lives(sent)} == {*_lives(recorded)} and all(
        _is_unchanged(prefix, recorded) for prefix in (*sent.prefixes, *marked_then)
    )


def plan_recount(
    sent: Payload, recorded: Payload, *, read: Callable[[Mapping[str, Any]], Payload]
) -> CachePlan | None:
    """Return what must be counted to know what a changed prompt uses; None where nothing must.

    The whole prompt, and each cached prefix if the recorded cache tokens do not hold any more.
    Nothing where the prompt is the same and only the use of the cache has changed. `read` makes a
    payload of a cut's body.
    """
    keeps_tokens = not sent.breakpoints or _keeps_cached_tokens(sent, recorded)
    if keeps_tokens and _is_same_prompt(sent, recorded):
        return None
    return plan_caching(sent, points=() if keeps_tokens else sent.breakpoints, read=read)


def recount(
    answer: Answer,
    prompt: CachedPrompt | None,
    *,
    sent: Payload,
    recorded: Payload,
    earlier: Sequence[CachedPrefix] = (),
    caveats: Iterable[str] = (),
    tokenizer: Callable[[str], str | None],
) -> Answer:
    """Return what the recorded reply uses for the prompt that is sent now.

    Its input is the count of the new prompt, split by what the cache does with it now; its output
    is that of the recorded reply. The model, and with it the rates, are those of what is sent now.
    `prompt` holds the counts of `plan_recount`, `earlier` what earlier calls of the same owner left
    in the cache, `caveats` what makes the counts bounds; `tokenizer` names the one of a model.
    """
    (sampling,) = answer.sampling_calls
    model = answer.model if sent.model == recorded.model else sent.model
    usage, least = _usage_now(sampling.usage, prompt, sent, recorded, earlier)
    kept = (each for each in answer.caveats if each.name != "cache-miss")  # of the recording
    notes = {*kept, *caveats, *reply_caveats(answer, sent, recorded, tokenizer)}
    notes.add(f"changed-prompt: {describe_parts(sent, recorded)}")
    if least is not None:
        last = sent.prefixes[-1]
        changes = changed_parts(recorded.prefix_to(last.place).parts, last.parts)
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


def without_figures(
    answer: Answer, obstacle: str | None, *, sent: Payload, recorded: Payload, failed: str = ""
) -> Answer:
    """Make an unknown of a reply whose prompt has changed and is not recounted.

    It keeps no sampling calls: yesterday's price would be taken for today's. The obstacle says why
    a count does not help; None if there is no count yet, or it was tried and `failed`, a caveat.
    """
    parts = describe_parts(sent, recorded)
    texts = [f"not-recounted: {parts}: {obstacle}" if obstacle else f"stale: {parts}"]
    if failed:
        texts = [f"changed-prompt: {parts}", failed]
    caveats = sorted_caveats([*answer.caveats, *texts])
    return replace(answer, sampling_calls=(), caveats=caveats, before=answer)


def describe_parts(sent: Payload, recorded: Payload) -> str:
    """Name the parts that differ from the recorded payload."""
    return describe_changes(changed_parts(recorded.parts, sent.parts)) or "the payload"


def left_in_the_cache(
    then: Usage, now: Usage, *, sent: Payload, recorded: Payload
) -> CachedPrefix | None:
    """Return what a call left in the cache, for later calls; None where it caches nothing."""
    if not sent.breakpoints or not recorded.breakpoints:
        return None
    return CachedPrefix(
        recorded.prefixes[-1], then.cached_tokens, sent.prefixes[-1], now.cached_tokens
    )


def reply_caveats(
    answer: Answer,
    sent: Payload,
    recorded: Payload,
    tokenizer: Callable[[str], str | None],
) -> set[str]:
    """Return in which ways the recorded reply is not the one that would come now."""
    caveats = set()
    if sent.model != recorded.model:
        then, now = tokenizer(recorded.model), tokenizer(sent.model)
        if then is None or then != now:
            caveats.add(f"other-tokenizer: recorded with {recorded.model}")
    if answer.stop_reason == "max_tokens":
        then_most, now_most = recorded.body.get("max_tokens"), sent.body.get("max_tokens")
        if not (isinstance(then_most, int) and isinstance(now_most, int) and now_most <= then_most):
            caveats.add(f"cut-reply: by max_tokens {then_most}, now {now_most}")
    if answer.stop_reason == "stop_sequence":
        stops, kept = (as_list(each.body.get("stop_sequences")) for each in (recorded, sent))
        gone = [text for text in stops if text not in kept]
        if gone:
            caveats.add(f"cut-reply: by one of stop_sequences, now without {gone[0]!r}")
    return caveats


# What the cache does with the prompt


def _usage_now(
    then: Usage,
    prompt: CachedPrompt | None,
    sent: Payload,
    recorded: Payload,
    earlier: Sequence[CachedPrefix],
) -> tuple[Usage, Usage | None]:
    """Return the usage now; and the least it may be, where a read may be a write."""
    total = then.prompt_tokens if prompt is None else prompt.input_tokens
    output = {"output_tokens": then.output_tokens, "web_search_requests": then.web_search_requests}
    # Without a mark in either payload something between here and the API caches by itself.
    is_cached_by_others = not (sent.breakpoints or recorded.breakpoints) and (
        0 < then.cached_tokens <= total
    )
    if not sent.breakpoints and not is_cached_by_others:
        return Usage(input_tokens=total, **output), None
    if is_cached_by_others or _keeps_cached_tokens(sent, recorded):
        # An unchanged prefix keeps its recorded tokens; the rest of the count comes after it.
        short, long = then.cache_write_5m_tokens, then.cache_write_1h_tokens
        if len({*_lives(sent)}) == 1:
            written = short + long
            short, long = (written, 0) if _lives(sent)[0] == "5m" else (0, written)
        usage = Usage(
            input_tokens=max(0, total - then.cached_tokens),
            cache_read_tokens=then.cache_read_tokens,
            cache_write_5m_tokens=short,
            cache_write_1h_tokens=long,
            **output,
        )
        return usage, None
    assert prompt is not None
    read, is_known = _tokens_read(then, prompt, sent, recorded, earlier)
    usage = replace(prompt.usage("warm", most_read=read), **output)
    return usage, None if is_known else replace(prompt.usage("warm"), **output)


def _tokens_read(
    then: Usage,
    prompt: CachedPrompt,
    sent: Payload,
    recorded: Payload,
    earlier: Sequence[CachedPrefix],
) -> tuple[int, bool]:
    """Return how many tokens are certainly read from the cache now, and whether that is all."""
    read = then.cache_read_tokens
    if not read:
        return 0, True  # the cache was empty when this was recorded
    for prefix in reversed(earlier):
        # What an earlier call of this owner wrote in the recording, and writes now.
        is_read = prefix.recorded_tokens == read and _is_unchanged(prefix.recorded, recorded)
        if is_read and _is_unchanged(prefix.now, sent):
            return prefix.tokens, True
    sizes = (segment.tokens for segment in prompt.segments)
    ends = dict(zip((each.upto for each in prompt.segments), accumulate(sizes), strict=True))
    for own in reversed(sent.prefixes):
        if _is_unchanged(own, recorded):
            end = ends.get(str(own.place), 0)
            return (read, True) if end >= read else (end, False)
    return 0, False


def _is_same_prompt(sent: Payload, recorded: Payload) -> bool:
    names = (sent.parts.keys() | recorded.parts.keys()) - {"cache_control"}
    return all(sent.parts.get(name) == recorded.parts.get(name) for name in names)


def _keeps_cached_tokens(sent: Payload, recorded: Payload) -> bool:
    """Whether the last cached prefix is the recorded one, so that its tokens hold."""
    if not sent.breakpoints or not recorded.breakpoints:
        return False
    if sent.breakpoints[-1].place != recorded.breakpoints[-1].place:
        return False
    # Several new lifetimes share out what was written in a way that only counts can tell.
    is_shared_out = len({*_lives(sent)}) > 1 and _lives(sent) != _lives(recorded)
    return not is_shared_out and _is_unchanged(sent.prefixes[-1], recorded)


def _lives(payload: Payload) -> list[str]:
    return [each.ttl for each in payload.breakpoints]


def _is_unchanged(prefix: Prefix, other: Payload) -> bool:
    return other.prefix_to(prefix.place).digest == prefix.digest

"""A replayed reply whose prompt has changed: what it uses for the prompt that is sent now.

Pure: it says what has to be counted and what the counts mean. Who counts, and where counts are
recorded, is the plugin's. Knows no prices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from pytest_llmcost.counting.payload import Payload, Prefix, changed_parts, describe_changes
from pytest_llmcost.counting.segments import CachedPrompt, CachePlan, plan_caching
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.usage import Terms, Usage
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
    if len(answer.sampling_calls) != 1 or answer.sampling_calls[0].kind != "message":
        return "the recorded answer took several sampling calls"
    (sampling,) = answer.sampling_calls
    if sampling.sums_calls or sampling.usage.web_search_requests:
        return "the recorded answer took several sampling calls"
    if sampling.refusal is not None:
        return "the recorded answer is a refusal"
    return None


def is_as_recorded(answer: Answer, *, sent: Payload, recorded: Payload) -> bool:
    """Whether a reply stands as it was billed: same prompt, and nothing else for the cache.

    Where the marks stand within one prompt does not matter, but their lifetimes do; and a cached
    prefix must be the same byte for byte, so that a reordered key makes another one.
    """
    if not _is_same_prompt(sent, recorded):
        return False
    if not answer.usage.cached_tokens and not sent.breakpoints:
        return True
    same_lives = {each.ttl for each in sent.breakpoints} == {
        each.ttl for each in recorded.breakpoints
    }
    return same_lives and all(
        _is_unchanged(prefix, recorded) for prefix in (*sent.prefixes, *_marked_in(sent, recorded))
    )


def plan_recount(
    sent: Payload, recorded: Payload, *, read: Callable[[Mapping[str, Any]], Payload]
) -> CachePlan | None:
    """Return what must be counted to know what a changed prompt uses; None where nothing must.

    The whole prompt, and each cached prefix if the recorded cache tokens do not hold any more.
    Nothing where the prompt is the same and only the use of the cache has changed.

    Args:
        sent: The payload sent now.
        recorded: The payload that the response was recorded for.
        read: Makes a Payload of a cut's body.
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

    Args:
        answer: What the replayed response said.
        prompt: The counts of `plan_recount`; None where it plans none.
        sent: The payload sent now.
        recorded: The payload that the response was recorded for.
        earlier: What earlier calls of the same owner left in the cache.
        caveats: What makes the counts bounds.
        tokenizer: Model -> name of its tokenizer, None where it is unknown.
    """
    (sampling,) = answer.sampling_calls
    model = answer.model if sent.model == recorded.model else sent.model
    usage, least = _usage_now(sampling.usage, prompt, sent, recorded, earlier)
    notes = {*answer.caveats, *caveats, *reply_caveats(answer, sent, recorded, tokenizer)}
    notes.add(f"changed-prompt: {describe_parts(sent, recorded)}")
    if least is not None:
        notes.add(f"changed-cache: {_where(sent, recorded)}")
    if sent.body.get("speed") == "fast" != recorded.body.get("speed"):
        notes.add("unknown-speed")  # fast may be asked for and not given
    return replace(
        answer,
        model=model,
        usage=usage,
        sampling_calls=(replace(sampling, model=model, usage=usage, usage_low=least),),
        terms=_terms_now(answer.terms, sent, recorded),
        caveats=sorted_caveats(notes),
        before=answer,
    )


def without_figures(answer: Answer, *, sent: Payload, recorded: Payload) -> Answer:
    """Make an unknown of a reply whose prompt has changed and cannot be recounted.

    It keeps no sampling calls: yesterday's price would be taken for today's.
    """
    obstacle = obstacle_to_recount(answer)
    parts = describe_parts(sent, recorded)
    text = f"not-recounted: {parts}: {obstacle}" if obstacle else f"stale: {parts}"
    caveats = sorted_caveats([*answer.caveats, text])
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
        lives = {each.ttl for each in sent.breakpoints}
        writes = {
            "cache_write_5m_tokens": then.cache_write_5m_tokens,
            "cache_write_1h_tokens": then.cache_write_1h_tokens,
        }
        if len(lives) == 1:
            writes = _written(sum(writes.values()), lives.pop())
        rest = max(0, total - then.cached_tokens)
        read = then.cache_read_tokens
        return Usage(input_tokens=rest, cache_read_tokens=read, **writes, **output), None
    assert prompt is not None
    least, is_known = _tokens_read(then, prompt, sent, recorded, earlier)
    usage = replace(_split(prompt, least), **output)
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
        if (
            prefix.recorded_tokens == read
            and recorded.prefix_to(prefix.recorded.place).digest == prefix.recorded.digest
            and sent.prefix_to(prefix.now.place).digest == prefix.now.digest
        ):
            return prefix.tokens, True
    ends = _ends(prompt)
    for own in reversed(sent.prefixes):
        if _is_unchanged(own, recorded):
            end = ends.get(str(own.place), 0)
            return (read, True) if end >= read else (end, False)
    return 0, False


def _split(prompt: CachedPrompt, read: int) -> Usage:
    """Return the prompt's usage when so many tokens from its beginning are read."""
    tokens = {None: 0, "5m": 0, "1h": 0}
    left = read
    for segment in prompt.segments:
        hit = min(left, segment.tokens) if segment.ttl else 0
        left -= hit
        tokens[segment.ttl] += segment.tokens - hit
    return Usage(
        input_tokens=tokens[None],
        cache_write_5m_tokens=tokens["5m"],
        cache_write_1h_tokens=tokens["1h"],
        cache_read_tokens=read - left,
    )


def _ends(prompt: CachedPrompt) -> Mapping[str, int]:
    """Return how many tokens there are up to each place, itself included."""
    ends, end = {}, 0
    for segment in prompt.segments:
        end += segment.tokens
        ends[segment.upto] = end
    return ends


def _written(tokens: int, ttl: str) -> dict[str, int]:
    return {f"cache_write_{life}_tokens": tokens if life == ttl else 0 for life in ("5m", "1h")}


def _is_same_prompt(sent: Payload, recorded: Payload) -> bool:
    return _unmarked_parts(sent) == _unmarked_parts(recorded)


def _unmarked_parts(payload: Payload) -> dict[str, str]:
    return {name: part for name, part in payload.parts.items() if name != "cache_control"}


def _keeps_cached_tokens(sent: Payload, recorded: Payload) -> bool:
    """Whether the last cached prefix is the recorded one, so that its tokens hold."""
    if not sent.breakpoints or not recorded.breakpoints:
        return False
    if sent.breakpoints[-1].place != recorded.breakpoints[-1].place:
        return False
    lives = {each.ttl for each in sent.breakpoints}
    same_lives = [each.ttl for each in sent.breakpoints] == [
        each.ttl for each in recorded.breakpoints
    ]
    # Several new lifetimes share out what was written in a way that only counts can tell.
    return _is_unchanged(sent.prefixes[-1], recorded) and (len(lives) == 1 or same_lives)


def _is_unchanged(prefix: Prefix, other: Payload) -> bool:
    return other.prefix_to(prefix.place).digest == prefix.digest


def _marked_in(sent: Payload, recorded: Payload) -> list[Prefix]:
    return [sent.prefix_to(each.place) for each in recorded.breakpoints]


def _where(sent: Payload, recorded: Payload) -> str:
    """Name what changed in the cached prefix."""
    last = sent.prefixes[-1]
    changes = changed_parts(recorded.prefix_to(last.place).parts, last.parts)
    return describe_changes(changes) or "the cached prefix"


# What the reply is to the prompt


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
        gone = [text for text in _stop_sequences(recorded) if text not in _stop_sequences(sent)]
        if gone:
            caveats.add(f"cut-reply: by one of stop_sequences, now without {gone[0]!r}")
    return caveats


def _stop_sequences(payload: Payload) -> list[object]:
    texts = payload.body.get("stop_sequences")
    return texts if isinstance(texts, list) else []


def _terms_now(terms: Terms, sent: Payload, recorded: Payload) -> Terms:
    """What was asked for in another way than then is priced as it is asked for now."""
    if sent.body.get("inference_geo") != recorded.body.get("inference_geo"):
        asked = sent.body.get("inference_geo")
        terms = replace(terms, inference_geo=asked if isinstance(asked, str) else None)
    if terms.speed == "fast" and sent.body.get("speed") != "fast":
        terms = replace(terms, speed="standard")
    return terms

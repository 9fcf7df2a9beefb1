"""A response body to an `Answer`: its sampling calls and what their price depends on.

Knows no rate card, price or date: what a model costs, and which refusals are billed, is the card's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from pytest_llmcost.errors import UsageDataError
from pytest_llmcost.json_values import prepare
from pytest_llmcost.prices.caveats import Caveat, sorted_caveats
from pytest_llmcost.prices.model_names import mask_account
from pytest_llmcost.prices.usage import (
    FEES,
    MOST_TOKENS,
    UNSEEN,
    WRITTEN,
    Lifetime,
    Platform,
    SamplingCall,
    SamplingKind,
    Terms,
    TokenCount,
    Usage,
    find_impossible,
    is_quantity,
    longest_lived,
    mapping,
    mappings,
    previous_message,
    read_sampling,
    text_of,
)
from pytest_llmcost.responses.endpoints import Endpoint, bedrock_platform
from pytest_llmcost.responses.stream import FILLINGS, StreamedMessage

_OF_BEDROCK = re.compile(r"anthropic\.|arn:aws")
"""In a name that a body has for a model, also behind a gateway's prefix."""
_KINDS: Mapping[str | None, SamplingKind] = {
    None: "message",  # a pass of the model itself if it is not stated
    "message": "message",
    "fallback_message": "message",
    "compaction": "compaction",
    "advisor_message": "advisor",
}
"""What each type of iteration is. Compactions and advisors come on top of the answer. Source:
https://platform.claude.com/docs/en/build-with-claude/compaction and
https://platform.claude.com/docs/en/agents-and-tools/tool-use/advisor-tool"""
_UNSPECIFIED = "unspecified"
"""The category of a refusal that states none."""
_LOOPING = ("server_tool_use", "mcp_tool_use")
_CODE_TOOLS = ("code_execution", "bash_code_execution", "text_editor_code_execution")
_NOTHING = Usage()
_LATENCY, _TIER = "x-amzn-bedrock-performanceconfig-latency", "x-amzn-bedrock-service-tier"
"""The headers in which Bedrock's InvokeModel asks for what Converse asks for in its body."""

_Body = Mapping[str, Any]


_WRITES = {name: f"ephemeral_{life}_input_tokens" for life, name in WRITTEN.items()}


class _Split(msgspec.Struct, frozen=True, rename=_WRITES):
    cache_write_5m_tokens: TokenCount | None = None
    cache_write_1h_tokens: TokenCount | None = None


class _ServerTools(msgspec.Struct, frozen=True):
    web_search_requests: TokenCount | None = None
    code_execution_requests: TokenCount | None = None


class _Stated(msgspec.Struct, frozen=True, kw_only=True):
    """The `usage` of a message, or one of its iterations, which have a type and a model.

    All but two may be null or missing. Source: the anthropic SDK's usage types, release 2.12.0.
    """

    input_tokens: TokenCount
    output_tokens: TokenCount
    cache_creation_input_tokens: TokenCount | None = None
    cache_read_input_tokens: TokenCount | None = None
    cache_creation: _Split | None = None
    server_tool_use: _ServerTools | None = None
    type: str | None = None
    model: str | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    iterations: list[_Stated] | None = None

    @property
    def usage(self) -> Usage:
        """The quantities by billing category."""
        split = self.cache_creation or _Split()
        stated = {name: getattr(split, name) or 0 for name in _WRITES}
        total = self.cache_creation_input_tokens
        # Writes beyond the split are 5-minute ones: a server tool's loop writes such breakpoints by
        # itself. Where the split says more than the total, the total wins: it comes at the end of
        # a stream, the split only at the start. Source:
        # https://platform.claude.com/docs/en/agents-and-tools/tool-use/tool-use-with-prompt-caching
        written = sum(stated.values()) if total is None else total
        tools = self.server_tool_use or _ServerTools()
        return Usage(
            input_tokens=self.input_tokens,
            **(longest_lived({**stated, WRITTEN["5m"]: written}, written) if written else {}),
            cache_read_tokens=self.cache_read_input_tokens or 0,
            output_tokens=self.output_tokens,
            **{name: getattr(tools, name) or 0 for name in FEES},
        )


prepare(_Stated)
_TOKENS = tuple(name for name in _Stated.__struct_fields__ if name.endswith("_tokens"))
_KNOWN_TOOLS = (*_ServerTools.__struct_fields__, "web_fetch_requests")  # which is free
_KNOWN_INSIDE = {"cache_creation": (*_WRITES.values(),), "server_tool_use": _KNOWN_TOOLS}
_KNOWN = {
    *_Stated.__struct_fields__,
    "output_tokens_details",  # divides up `output_tokens`
    "fallback_credit",  # one that was redeemed is inside the numbers
    *("cost", "cost_details"),  # what a gateway charges
}
"""Fields of a usage that no unknown price hangs on; of the objects in it, `_KNOWN_INSIDE`.

Sources: the anthropic SDK's usage types, release 2.14.0, and
https://openrouter.ai/docs/use-cases/usage-accounting, read 2026-11-27."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a response said it used, or what a count predicts; knows no rate card, price or date.

    Several messages in one body are one answer with all their sampling calls and ids.
    """

    model: str
    """As the response names it; the model that served, after a fallback."""
    asked_model: str | None = None
    """As the request, or its URL, names it."""
    ids: tuple[str, ...] = ()
    """Of the messages."""
    usage: Usage = Usage()
    """What the top level states, in our categories."""
    sampling_calls: tuple[SamplingCall, ...] = ()
    """What is paid for; without any, the cost is unknown or stated by the test."""
    terms: Terms = Terms()
    """What the price depends on besides model and tokens; those of the last message."""
    stream: bool = False
    stop_reason: str | None = None
    declared_usd: Decimal | None = None
    """A price that the test stated itself."""
    session_total: tuple[str, Decimal] | None = None
    """Of an agent's result: its session, and the running total of that."""
    code_beside: tuple[str, ...] | None = None
    """The tools of the request beside which a container may have run code; None if none ran."""
    caveats: tuple[Caveat, ...] = ()
    before: Answer | None = None
    """What it was as recorded, or counted, before the prompt changed."""


def read_answer(
    messages: Sequence[StreamedMessage],
    *,
    endpoint: Endpoint,
    payload: _Body | None,
    batch: bool | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Read what a body's messages state; several are one answer.

    `payload` is what was sent, `headers` those of the request, by their names in lower case;
    `batch` is whether it is a batch's result, if the response does not say so itself.

    Raises:
        UsageDataError: naming the path of what cannot be read, or what no request can have used.
    """
    asked = {**(headers or {}), **(payload or {})}
    named = model_of(endpoint, payload)
    platform = _platform_of(endpoint, named, [message.body.get("model") for message in messages])
    answers = [_read_message(message, asked, named, platform, batch) for message in messages]
    if len(answers) == 1:
        return answers[0]
    # Each message keeps its own model and length band.
    return replace(
        answers[-1],
        ids=tuple(each for answer in answers for each in answer.ids),
        usage=sum((answer.usage for answer in answers), Usage()),
        sampling_calls=tuple(each for answer in answers for each in answer.sampling_calls),
        # All have the same request, so the same tools; code ran if any of them says so.
        code_beside=next((a.code_beside for a in answers if a.code_beside is not None), None),
        caveats=sorted_caveats(caveat for answer in answers for caveat in answer.caveats),
    )


def unknown_answer(endpoint: Endpoint, payload: _Body | None, caveat: str) -> Answer:
    """Return an answer of which only the request is known: its cost is unknown, never $0."""
    model = model_of(endpoint, payload)
    return Answer(
        model=model or "unknown",
        asked_model=model,
        terms=Terms(platform=_platform_of(endpoint, model)),
        caveats=sorted_caveats([caveat]),
    )


def _platform_of(
    endpoint: Endpoint, asked: str | None, own: Iterable[object] = ()
) -> Platform | None:
    """Return the cloud of a request: as its URL says, or else the model's name in a body.

    `asked` is as the request names it, `own` as its responses do. Gateways, and Bedrock on
    Anthropic's own path, have the model, hence the region, in the body. A response may name it
    plainly, which says nothing of the region.
    """
    platform = endpoint.platform
    is_by_body = platform == "bedrock-unknown" and endpoint.model is None
    if platform is not None and not is_by_body:
        return platform
    spelled = (name for name in (asked, *own) if isinstance(name, str) and _OF_BEDROCK.search(name))
    name = next(spelled, asked if is_by_body else None)
    return bedrock_platform(name) if name else platform


def model_of(endpoint: Endpoint, payload: _Body | None) -> str | None:
    """Return the model that was asked for, from the URL or the body, without an account id."""
    asked = endpoint.model or (payload or {}).get("model")
    return mask_account(asked) if isinstance(asked, str) and asked else None


def _read_message(
    message: StreamedMessage,
    asked: _Body,
    named: str | None,
    platform: Platform | None,
    batch: bool | None,
) -> Answer:
    """Read what one message bills; the request that was `asked` says what it leaves open."""
    body, truncated = message.body, message.truncated
    texts, asked_texts = _texts(body), _texts(asked)
    raw = body.get("usage")
    if not raw:
        raise UsageDataError("the response has no usage", path="usage")
    tools, _, longest_reply = read_sampling(asked)
    stated, content = _decode(raw), _Content(body)
    top, passes = stated.usage, stated.iterations or []
    if message.withdrawn and not passes:  # a compaction may leave less; its passes say so
        what = "restated as 0 at the end of the stream, after more before"
        raise _unreadable(f"usage.{message.withdrawn}", what)
    all_stated = [top, *(each.usage for each in passes)]
    is_cached = any(each.cache_read_tokens or each.cache_write_5m_tokens for each in all_stated)
    lifetime = read_lifetime(asked) if is_cached else None
    written = top.cache_write_5m_tokens
    if written and lifetime and stated.cache_creation is None:
        # Bedrock's last frame has no split by lifetime, but the request asks for nothing else.
        top = replace(top, **{"cache_write_5m_tokens": 0, WRITTEN[lifetime]: written})

    own = texts.get("model") or named
    sampling = [each for each in passes if _KINDS.get(each.type) == "message"]
    start = _start_of_answer(sampling, top)
    declined, served = sampling[:start], sampling[start:]
    serving, requested = _models(named, own, declined, served, content.changes)
    usages = _usages_of_passes(served, top)
    disputed = message.disputed | (set() if usages else _sums_beyond(stated, served))
    # Foundry's deployments in fast mode have names of their own: the model's, then `-fast`.
    stated_speed = _speed(stated, asked, asked_texts, is_fast=named == f"{own}-fast")
    speed_of = partial(_speed_of, asked, own, stated_speed)
    speed = speed_of(serving)
    is_loop = content.loops or any((raw.get("server_tool_use") or {}).values())
    # An end that was not seen may be a refusal before any output, which may be free. After a change
    # of model the start's tokens are those of the other one. A model that spoke is billed anyway.
    is_open = truncated and (content.changes or not content.spoke)
    # Bedrock may state what the cache holds in the last event alone, so nothing bounds the prompt.
    is_bedrock = (platform or "").startswith("bedrock")
    sampling_calls = [
        SamplingCall(
            model=serving,
            usage=usage,
            usage_low=_NOTHING if is_open else None,
            sums_calls=not usages and (bool(served) or is_loop),
            refusal=_refusal(body, content),
            most_output_tokens=longest_reply if truncated and not is_bedrock else None,
        )
        for usage in usages or [top]
    ]
    answering = sampling_calls[0]
    for each in _beside(passes, declined, content.changes, requested):
        other = speed_of("" if each.kind == "advisor" else each.model) or "standard"
        is_same = other == (speed or "standard")
        sampling_calls.append(each if is_same else replace(each, speed=other))
    # A pass that used nothing is none. The answer itself stays, for it has had a prompt, unless it
    # was a compaction alone, on demand.
    kept = [
        replace(each, read_lifetime=lifetime) if each.usage.cache_read_tokens else each
        for each in sampling_calls
        if each.usage != _NOTHING or each.kind == "declined"
    ]
    if not any(each.kind in ("message", "compaction") for each in kept):
        kept.insert(0, replace(answering, kind="resumed") if content.resumes_code else answering)
    if (impossible := find_impossible(kept)) is not None:
        raise _unreadable("usage", impossible)

    kinds = tuple(str(tool.get("type") or "custom") for tool in tools)
    used = (each.server_tool_use for each in (stated, *passes))
    ran_code = content.runs_code or any(each and each.code_execution_requests for each in used)
    caveats = _caveats(raw, stated, body, content)
    caveats |= {f"usage-disagrees: {key}" for key in disputed}
    caveats |= {"truncated-stream"} if truncated else set()
    geography = asked_texts.get("inference_geo")
    return Answer(
        model=serving,
        asked_model=named,
        ids=(texts["id"],) if "id" in texts else (),
        stop_reason=texts.get("stop_reason"),
        usage=top,
        sampling_calls=tuple(kept),
        terms=Terms(
            service_tier="batch" if batch else _tier(stated, asked, asked_texts),
            speed=speed,
            # If only the request says where it ran, the premium may or may not be paid.
            inference_geo=stated.inference_geo or (f"asked-{geography}" if geography else None),
            platform=platform,
        ),
        code_beside=kinds if ran_code or _attaches_files(asked, kinds) else None,
        caveats=sorted_caveats(caveats) if caveats else (),
    )


def _models(
    named: str | None,
    own: str | None,
    declined: Sequence[_Stated],
    served: Sequence[_Stated],
    changes: Sequence[_ModelChange],
) -> tuple[str, str]:
    """Return the model that served and the one that was asked for.

    `named` is the request's, `own` the response's. After a fallback a stream's `message_start`
    still names the model that declined. Source:
    https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback
    """
    ends = [each.model for each in served if each.type == "fallback_message"]
    names = [own, *(each.serving for each in changes), *ends]
    serving = next(filter(None, reversed(names)), None)
    if not serving:
        raise _unreadable("model", "expected the model's name, got nothing")
    if not declined and not changes:
        return serving, serving
    # Without the request, its model is the first one that declined.
    first = [*(each.declined for each in changes[:1]), *(each.model for each in declined[:1])]
    return serving, next(filter(None, [named, *first, own]), serving)


def _refusal(body: _Body, content: _Content) -> str | None:
    """Return the category of a refusal before any output, whatever `output_tokens` is.

    Source: https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback
    """
    if body.get("stop_reason") != "refusal" or content.spoke:
        return None
    return text_of(mapping(body.get("stop_details")).get("category")) or _UNSPECIFIED


def _attaches_files(request: _Body, kinds: Sequence[str]) -> bool:
    """Return whether files are attached to a container, which is charged even if no code runs.

    Source: https://platform.claude.com/docs/en/about-claude/pricing, read 2026-10-08.
    """
    return any(kind.startswith("code_execution_") for kind in kinds) and any(
        block.get("type") == "container_upload"
        for message in mappings(request.get("messages"))
        for block in mappings(message.get("content"))
    )


def _texts(body: _Body) -> dict[str, str]:
    """Return those values of a body that are texts, and not empty."""
    return {key: each for key, each in body.items() if isinstance(each, str) and each}


def _tier(stated: _Stated, asked: _Body, texts: Mapping[str, str]) -> str | None:
    """Return the service tier that the response states, or else the one that was asked for.

    A body of InvokeModel states none of Bedrock's tiers, so the header comes first. Source:
    https://docs.aws.amazon.com/bedrock/latest/userguide/service-tiers-inference.html
    """
    tier = texts.get(_TIER) or stated.service_tier or None
    if tier is None and "serviceTier" in asked:
        tier = text_of(mapping(asked["serviceTier"]).get("type"))
    return "standard" if tier == "default" else tier


def _speed(stated: _Stated, asked: _Body, texts: Mapping[str, str], *, is_fast: bool) -> str | None:
    """Return the speed that the response states, or else one above the standard that was asked for.

    That may not have been given: beyond its quota Bedrock serves, and bills, at standard latency.
    Of the latency a body of InvokeModel states nothing, so the header comes first. Sources:
    https://platform.claude.com/docs/en/build-with-claude/fast-mode and
    https://docs.aws.amazon.com/bedrock/latest/userguide/latency-optimized-inference.html
    """
    latency = texts.get(_LATENCY)
    if stated.speed and latency in (None, "standard"):
        return stated.speed
    if not latency and "performanceConfig" in asked:
        latency = text_of(mapping(asked["performanceConfig"]).get("latency"))
    if latency not in (None, "standard"):
        return f"asked-latency-{latency}"
    speed = "fast" if is_fast else texts.get("speed")
    return None if speed in (None, "standard") else f"asked-{speed}"


def _speed_of(asked: _Body, own: str | None, stated: str | None, model: str) -> str | None:
    """Return the speed of a pass by its model; an advisor's is empty.

    The response states that of the model that it names: the one that served, but in a stream the
    one that declined first. For a fallback the request may ask for another speed; if it does not, a
    fast request is fast there if that model can be. Of an advisor that is documented nowhere.
    Source: BetaFallbackParam in anthropic 2.14.0, read 2026-11-27.
    """
    if model == own:
        return stated
    if model and stated and "fallbacks" not in asked:  # what was asked of the others is unknown
        return "inherited-fast"
    attempts = [{"speed": None, **asked}, *mappings(asked.get("fallbacks"))]
    speeds = [each["speed"] for each in attempts if each.get("model") == model and "speed" in each]
    how = "asked" if speeds else "inherited"
    if not speeds:  # a fallback has that of the request, an advisor perhaps that of any attempt
        answered = (stated or "").removeprefix("asked-")
        every = [answered, *(each.get("speed") for each in attempts)]
        speeds = [asked.get("speed")] if model else every
    faster = (each for each in map(text_of, speeds) if each not in (None, "standard"))
    return next((f"{how}-{each}" for each in faster), None)


def _unreadable(path: str, what: str) -> UsageDataError:
    return UsageDataError(f"{path}: {what}", path=path)


def _decode(raw: Any) -> _Stated:
    try:
        return msgspec.convert(raw, _Stated)
    except UnicodeEncodeError:
        raise _unreadable("usage", "holds half a surrogate pair") from None
    except RecursionError:  # a decoder may have more levels than Python code
        raise _unreadable("usage", "nested too deeply") from None
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        path = "usage" + where.removesuffix("`")
        if "missing required field" in what:
            path, what = f"{path}.{what.split('`')[1]}", "is missing"
        elif "got" not in what:  # out of range: msgspec says the limit alone
            for step in re.findall(r"\w+", where):
                raw = raw[int(step) if step.isdigit() else step]
            what += f", got {raw}" if abs(raw) <= MOST_TOKENS else ""
        raise _unreadable(path, what) from None


# The sampling calls. Each entry of `usage.iterations` is one pass of a model. Compactions and
# advisors are billed beside the answer. All others sampled it, model after model: those that
# declined, then the one that served, whose passes alone add up to the top level. Source:
# BetaFallbackBlock and BetaFallbackMessageIterationUsage in anthropic 2.14.0, read 2026-11-27.


def _merged(usage: Usage) -> Usage:
    """Take all cache writes for 5-minute ones, to compare what is stated of them as a whole."""
    return replace(usage, **{**dict.fromkeys(_WRITES, 0), WRITTEN["5m"]: usage.written_tokens})


def _start_of_answer(sampling: Sequence[_Stated], top: Usage) -> int:
    """Return the index of the first pass of the model that served."""
    ends = [index for index, each in enumerate(sampling) if each.type == "fallback_message"]
    if not ends:
        return 0
    tail = Usage(**top.only(FEES))
    for index in reversed(range(len(sampling))):
        tail += sampling[index].usage
        if _merged(tail) == _merged(top):
            return index
    return ends[-1]


def _usages_of_passes(served: Sequence[_Stated], top: Usage) -> list[Usage]:
    """Return the usage of each pass if all of them explain the top level, else nothing.

    Then they are the answer's calls, for each has a length band and a split by lifetime of its own;
    the top level's split is that of a stream's start, so of the first pass alone. After a
    compaction on demand the top level is all zero, so the passes are the bill. Source:
    https://platform.claude.com/docs/en/build-with-claude/compaction
    """
    if not served:
        return []
    usages, fees = [each.usage for each in served], Usage(**top.only(FEES))
    total = sum(usages, fees)
    are_split = all(each.cache_creation or not each.cache_creation_input_tokens for each in served)
    explains = top in (total, fees) or (are_split and _merged(total) == _merged(top))
    return [usages[0] + fees, *usages[1:]] if explains else []


def _sums_beyond(stated: _Stated, served: Sequence[_Stated]) -> set[str]:
    """Return the counts of which the passes add up to more than the top level states."""
    sums = {key: sum(getattr(each, key) or 0 for each in served) for key in _TOKENS}
    return {key for key, each in sums.items() if each > (getattr(stated, key) or 0)}


def _attempts(
    declined: Sequence[_Stated], changes: Sequence[_ModelChange]
) -> Iterator[tuple[_Stated, _ModelChange]]:
    """Yield each pass that was declined, with the change of model that ended its attempt.

    The passes of one model in a row, as of a server tool's loop, are one attempt. Its change names
    its model, or else no model of any pass: by an alias as in the request, or not at all. Passes
    that name no model take one change after the other. An attempt that only the content names has
    no usage.
    """
    left, models = list(changes), {each.model for each in declined}
    for model, passes in groupby(declined, key=lambda each: each.model):
        change = _ModelChange(None, None, UNSEEN)
        for index, each in enumerate(passes):
            if not index or not model:
                own = [other for other in left if other.declined == model]
                own = own or [other for other in left if other.declined not in models]
                change = own[0] if own else change
                left = [other for other in left if other is not change]
            yield each, change
    yield from ((_Stated(input_tokens=0, output_tokens=0), change) for change in left)


def _beside(
    passes: Sequence[_Stated],
    declined: Sequence[_Stated],
    changes: Sequence[_ModelChange],
    requested: str,
) -> Iterator[SamplingCall]:
    """Yield what is paid for beside the answer: compactions, advisors and declined attempts.

    If a model had said something before it declined, its attempt is billed like any other;
    otherwise its category decides.
    """
    for index, each in enumerate(passes):
        kind = _KINDS.get(each.type)
        if kind is None or kind == "message":
            continue  # one of the answer, or of a type that a caveat names
        if kind == "advisor" and not each.model:
            where = f"usage.iterations[{index}].model"
            raise _unreadable(where, "expected the advisor's model, got nothing")
        yield SamplingCall(kind=kind, model=each.model or requested, usage=each.usage)
    for each, change in _attempts(declined, changes):
        model = each.model or change.declined or requested
        yield SamplingCall(kind="declined", model=model, usage=each.usage, refusal=change.refusal)


def read_lifetime(request: _Body) -> Lifetime | None:
    """Return how long all cache entries live that a request asks for.

    None if they differ, or if the request, or what a thread holds of it, is unknown. One that asks
    for none may read what a server tool's loop or a gateway has written: for the API's default, 5
    minutes.
    """
    if previous_message(request) is not None:
        return None
    lifetimes = set()
    ahead: list[Any] = [request]
    while ahead:
        value = ahead.pop()
        inner = value
        if isinstance(value, dict):
            inner = value.values()
            # `caching` is of an advisor's prompt. Source: BetaAdvisorTool20260301Param in anthropic
            # 2.14.0, read 2026-11-27.
            for mark in (value.get("cache_control"), value.get("caching")):
                if isinstance(mark, dict) and mark.get("type") == "ephemeral":
                    lifetimes.add(str(mark.get("ttl") or "5m"))
        ahead += [each for each in inner if isinstance(each, (dict, list, tuple))]
    if not lifetimes and "messages" in request:
        return "5m"
    return next((each for each in WRITTEN if lifetimes == {each}), None)


def _caveats(raw: _Body, stated: _Stated, body: _Body, content: _Content) -> set[str]:
    kinds = [each.type for each in stated.iterations or ()]
    caveats = {f"unknown-usage: {each}" for each in unknown_quantities(raw)}
    caveats |= {f"unknown-usage: iterations of type {each}" for each in {*kinds}.difference(_KINDS)}
    used = [each.type for each in stated.iterations or () if each.usage]  # zeros state nothing
    if content.advice > used.count("advisor_message"):
        caveats.add("advisor-without-entry")
    if content.is_compacted and "compaction" not in used:
        caveats.add("usage-disagrees: compaction")
    # Why the prompt was not read from the cache, if the request asked for diagnostics; the two
    # reasons that are left out say that the API has nothing to compare with. Source:
    # https://platform.claude.com/docs/en/build-with-claude/cache-diagnostics
    diagnostics = body.get("diagnostics")
    reason = mapping(mapping(diagnostics).get("cache_miss_reason")) if diagnostics else {}
    kind = text_of(reason.get("type")) if reason else None
    if kind not in (None, "previous_message_not_found", "unavailable"):
        tokens = reason.get("cache_missed_input_tokens")
        shown = f", {tokens:,} tokens" if is_quantity(tokens) else ""
        caveats.add(f"cache-miss: {kind[:40]}{shown}")
    return caveats


def unknown_quantities(raw: _Body) -> Iterator[str]:
    """Name the quantities that no price is known for: each unknown field that holds a number."""
    for key, value in raw.items():
        if (known := _KNOWN_INSIDE.get(key)) is not None:
            inner = (value or {}).items()
            yield from (f"{key}.{each}" for each, n in inner if each not in known and _counts(n))
        elif key not in _KNOWN and _counts(value):
            yield key
    for index, entry in enumerate(raw.get("iterations") or ()):
        yield from (f"iterations[{index}].{each}" for each in unknown_quantities(entry))


def _counts(value: Any) -> bool:
    """Return whether a value holds a number other than 0."""
    if isinstance(value, (Mapping, list)):
        return any(map(_counts, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, (int, float)) and bool(value) and value is not True


# The content


class _ModelChange(NamedTuple):
    """One change of model inside a response: a `fallback` block."""

    declined: str | None
    serving: str | None
    refusal: str | None
    """Its category; None if some output of the declining model stands before it."""


class _Content:
    """What the content blocks of a message say about its bill."""

    def __init__(self, body: _Body) -> None:
        content = body.get("content")
        if content and not isinstance(content, (list, tuple)):
            # What a recorder put in place of the blocks counts as text.
            content = [{"type": "text", "text": content}]
        blocks = [(str(block.get("type")), block) for block in mappings(content)]
        kinds = {kind for kind, _ in blocks}
        self.changes: list[_ModelChange] = []
        self.spoke = False
        """Whether any output stands behind the last change of model."""
        for kind, block in blocks:
            if kind == "fallback":
                old, new = (text_of(mapping(block.get(key)).get("model")) for key in ("from", "to"))
                category = text_of(mapping(block.get("trigger")).get("category")) or _UNSPECIFIED
                self.changes.append(_ModelChange(old, new, None if self.spoke else category))
                self.spoke = False
            else:  # every block is output but those of text that hold none
                fillings = FILLINGS.get(kind)
                self.spoke |= fillings is None or any(map(block.get, fillings))
        self.is_compacted = any(
            each.get("content") for kind, each in blocks if kind == "compaction"
        )
        self.loops = not kinds.isdisjoint(_LOOPING)
        tools = [block.get("name") for kind, block in blocks if kind == "server_tool_use"]
        self.runs_code = any(tool in _CODE_TOOLS for tool in tools) or any(
            kind.endswith("code_execution_tool_result") for kind in kinds
        )
        # An answer that only hands on the tool calls of code that has run on: the model was not
        # sampled for it, so its usage is nothing but zeros. Source: recorded traffic of
        # anthropics/anthropic-sdk-python and vercel/ai, and
        # https://platform.claude.com/docs/en/agents-and-tools/tool-use/programmatic-tool-calling
        callers = [block.get("caller") for kind, block in blocks if kind == "tool_use"]
        by_code = [str(mapping(each).get("type")).startswith("code_execution") for each in callers]
        self.resumes_code = kinds == {"tool_use"} and all(by_code)
        results = [block.get("content") for kind, block in blocks if kind == "advisor_tool_result"]
        failed = [str(mapping(each).get("type")).endswith("_error") for each in results]
        self.advice = max(tools.count("advisor"), len(results)) - sum(failed)
        """How often an advisor answered. One that failed has not, and is not billed."""

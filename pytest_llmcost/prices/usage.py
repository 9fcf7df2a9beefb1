"""What a price depends on: token quantities by billing category, and the terms of a request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import add, attrgetter
from typing import Annotated, Any, Literal, TypeGuard, get_args

import msgspec
from msgspec.structs import astuple

from pytest_llmcost.json_values import written

Count = Annotated[int, msgspec.Meta(ge=0)]

MOST_TOKENS = 10**9
"""A thousand times the largest context window: no answer and no prompt has more."""
TokenCount = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]
PromptCount = Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)]
"""What `count_tokens` may say: no prompt is empty."""

SamplingKind = Literal["message", "compaction", "advisor", "declined", "resumed"]
"""`resumed`: code of an earlier answer ran on and called a tool; the model was not sampled."""
Platform = Literal[
    "bedrock",
    "bedrock-regional",
    "bedrock-gov",
    "bedrock-unknown",
    "vertex",
    "vertex-regional",
    "vertex-unknown",
    "foundry",
]
"""A cloud and its kind of endpoint; `-unknown` if nothing says whether it was a regional one."""
Lifetime = Literal["5m", "1h"]
"""How long a cache entry lives, the shortest first; a longer life costs more to write."""
LONGEST: Lifetime = get_args(Lifetime)[-1]
WRITTEN: dict[Lifetime, str] = {life: f"cache_write_{life}_tokens" for life in get_args(Lifetime)}
"""The field of `Usage` that holds what is written for each lifetime."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Quantities of one or many requests by billing category; adds up with `+` and `sum`.

    A field `*_tokens` has a rate, and each use that `*_requests` counts a fee.

    Source: https://platform.claude.com/docs/en/build-with-claude/prompt-caching
    """

    input_tokens: Count = 0
    """Uncached input alone, as in Anthropic's `usage`; cache writes and reads are not in it."""
    cache_write_5m_tokens: Count = 0
    cache_write_1h_tokens: Count = 0
    cache_read_tokens: Count = 0
    output_tokens: Count = 0
    """Thinking included."""
    web_search_requests: Count = 0
    """Searches that succeeded; failed ones are free."""

    @property
    def prompt_tokens(self) -> int:
        """The whole prompt: uncached input, cache writes and cache reads."""
        return sum(_prompt_of(self))

    @property
    def written_tokens(self) -> int:
        """Cache writes of every lifetime."""
        return sum(self.only(WRITTEN.values()).values())

    @property
    def cached_tokens(self) -> int:
        """Cache writes and reads together."""
        return self.written_tokens + self.cache_read_tokens

    def only(self, names: Iterable[str]) -> dict[str, int]:
        """Return some of its quantities by their names."""
        return {name: getattr(self, name) for name in names}

    def __add__(self, other: Usage) -> Usage:
        if not isinstance(other, Usage):
            return NotImplemented
        return Usage(*map(add, astuple(self), astuple(other)))

    def __radd__(self, other: Usage | int) -> Usage:
        return self if other == 0 else NotImplemented

    def __bool__(self) -> bool:
        return any(astuple(self))


TOKENS = tuple(name for name in Usage.__struct_fields__ if name.endswith("_tokens"))
FEES = tuple(name for name in Usage.__struct_fields__ if name not in TOKENS)
PROMPT = tuple(name for name in TOKENS if name != "output_tokens")
_prompt_of = attrgetter(*PROMPT)


def longest_lived(writes: Mapping[str, int], most: int) -> dict[str, int]:
    """Return of which cache writes so many tokens are, if those that live longest come first."""
    taken = {}
    for name in reversed(WRITTEN.values()):
        taken[name] = min(writes[name], most)
        most -= taken[name]
    return taken


class Terms(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the price of a request depends on besides its model and its tokens."""

    service_tier: str | None = None
    """`standard`, `priority` or `batch`, or one of Bedrock's, as the response says; as the request
    says if the response does not."""
    speed: str | None = None
    """`standard`, `fast` or, on Bedrock, `latency-optimized`, as the response says; `asked-fast` or
    `asked-latency-optimized` if only the request names it, `inherited-fast` if the request names it
    for another model, and this one, if it can be fast, may have been."""
    inference_geo: str | None = None
    """`us`, `global`, `not_available`, or nothing; `asked-us` if only the request names it."""
    platform: Platform | None = None
    """The cloud and whether the endpoint was a regional one; nothing is Anthropic's own API."""


UNSEEN = "no fallback block"
"""The category of a refusal of which the content, hence also what came before it, is unknown."""


class SamplingCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One pass of a model within a request, with a model and a length band of its own.

    The prices of its sampling calls add up to the price of a request. Most requests have one.
    """

    kind: SamplingKind = written("message")
    model: str
    usage: Usage
    usage_low: Usage | None = None
    """The least that it may have used, if the usage is not certain."""
    speed: str | None = None
    """As in `Terms`; None if it is that of the answer."""
    refusal: str | None = None
    """Refused before any output: the category, `unspecified` if the response gives none.
    Whether that is billed depends on the date."""
    sums_calls: bool = False
    """The usage is the sum of several sampling calls, so the band of each is unknown."""
    most_output_tokens: int | None = None
    """What the output may have come to, if the end of a stream was not seen."""
    read_lifetime: Lifetime | None = None
    """How long the cache entries live that it reads; None if unknown, or if lifetimes differ."""
    most_read_tokens: Count | None = None
    """The most of its prompt that even a warm cache holds; None if all that is cached."""
    may_cache: Lifetime | None = None
    """Any of its plain input may be written to the cache for so long, or read from it."""

    @property
    def most_usage(self) -> Usage:
        """The most that it may have used, as far as something bounds it."""
        output = max(self.usage.output_tokens, self.most_output_tokens or 0)
        return msgspec.structs.replace(self.usage, output_tokens=output)


def is_quantity(value: object, *, least: int = 0) -> TypeGuard[int]:
    """Return whether a value can be a number of tokens or searches; `true` is none."""
    return type(value) is int and least <= value <= MOST_TOKENS


_SEVERAL_CALLS = ("fallbacks", "compaction", "container")
_CLIENT_TOOLS = ("custom", "bash_", "browser_toolset_", "computer_", "memory_", "text_editor_")
"""How the types of tools begin that the client runs.

Source: the types of tools in anthropic 2.14.0, read 2026-11-26."""


def text_of(value: object) -> str | None:
    """Return a value if it is a text that is not empty."""
    return value if isinstance(value, str) and value else None


def mapping(value: object) -> Mapping[str, Any]:
    """Return a value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """Return what in a list is a mapping; nothing if it is no list."""
    listed = value if isinstance(value, (list, tuple)) else ()
    # All payloads are read on every run: to ask an abstract class takes far longer.
    return [each for each in listed if type(each) is dict or isinstance(each, Mapping)]


def reply_limit(request: Mapping[str, Any]) -> int | None:
    """Return the most output tokens of one sampling call, thinking included; None for no limit."""
    most = request.get("max_tokens")
    return most if is_quantity(most) else None


def may_run_on_server(tool: Mapping[str, Any]) -> bool:
    """Return whether a tool may make one request sample again, as all do that are not known."""
    return not str(tool.get("type") or "custom").startswith(_CLIENT_TOOLS)


HELD = "the server holds the rest of its prompt (thread)"


def previous_message(body: Mapping[str, Any]) -> str | None:
    """Return the id of the message after which a request goes on; None if it is a whole prompt.

    The server holds all that came before: it is billed, and `count_tokens` does not see it. The
    SDK's tool runner asks for that by default. Source: anthropic.types.beta.BetaMessageThreadParam
    and anthropic.lib.tools of anthropic 2.14.0, read 2026-11-27.
    """
    thread = body.get("thread")
    if not isinstance(thread, dict) or thread.get("type") != "continue":
        return None
    return str(thread.get("previous_message_id"))


def tools_of(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a request's tools.

    Its messages may define tools, too. Source: BetaToolChangeToolDefinitionParam in anthropic
    2.14.0, read 2026-11-26.
    """
    found = mappings(request.get("tools"))
    for message in mappings(request.get("messages")):
        for block in mappings(message.get("content")):
            if block.get("type") == "tool_addition":
                found += mappings([mapping(block.get("tool")).get("definition")])
    return found


def tool_name(tool: object, index: int) -> str:
    """Return what to call a tool: its name, its MCP server's, its type, or its number."""
    if isinstance(tool, dict):
        for key in ("name", "mcp_server_name", "type"):
            if isinstance(tool.get(key), str):
                return str(tool[key])
    return str(index)


def read_sampling(
    request: Mapping[str, Any],
) -> tuple[list[Mapping[str, Any]], dict[str, int], int | None]:
    """Return a request's tools, what may make it sample several times, and its longest reply.

    What may is named, also if it is unknown; the number is that of the prompt's tokens from which
    on it may. What bounds one sampling call bounds the reply; if there may be several, and in a
    thread, which may hold such tools, nothing does, which is None.
    """
    tools, managed = tools_of(request), request.get("context_management")
    names = [tool_name(tool, at) for at, tool in enumerate(tools) if may_run_on_server(tool)]
    names += filter(request.get, _SEVERAL_CALLS)
    names += [tool_name(each, at) for at, each in enumerate(mappings(request.get("mcp_servers")))]
    names += ["context_management"] if managed and "edits" not in mapping(managed) else []
    again = dict.fromkeys(names, 0)
    again |= _compactions(mappings(mapping(managed).get("edits")))
    is_one = not again and previous_message(request) is None
    return tools, again, reply_limit(request) if is_one else None


_TRIGGER = {"type": "input_tokens", "value": 150_000}


def _compactions(edits: list[Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    """Yield which edits compact a prompt, and from how many tokens on; 0 if that is unknown.

    To clear old tool results and thinking takes no model. What that clears, before or after, is not
    in a count, which triggers no compaction. Source:
    https://platform.claude.com/docs/en/build-with-claude/context-editing and .../compaction
    """
    for edit in edits:
        kind, trigger = str(edit.get("type")), mapping(edit.get("trigger") or _TRIGGER)
        tokens, known = trigger.get("value"), ("compact_20260112", "input_tokens", 1)
        if not kind.startswith("clear_"):
            is_known = (kind, trigger.get("type"), len(edits)) == known
            yield kind, tokens if is_known and is_quantity(tokens) else 0


def find_impossible(sampling_calls: Iterable[SamplingCall]) -> str | None:
    """Return what no request can have used among these sampling calls, or None.

    Every pass of the model has a prompt. Only three kinds may state no usage at all: one that was
    declined, one that was refused before any output, and one that did not sample the model.

    Gateways send usage of nothing but zeros; to take it for $0 would pass every budget.
    Source: anthropics/claude-code#10843 and getpaseo/paseo#4294, read 2026-11-25.
    """
    for sampling in sampling_calls:
        usage, model = sampling.usage, sampling.model
        prompt, quantities = sum(_prompt_of(usage)), astuple(usage)
        if prompt and sum(quantities) <= MOST_TOKENS:
            continue  # nearly always: a long ledger is read through here
        if not is_quantity(max(quantities)):
            return f"more than {MOST_TOKENS:,} tokens of {model}, which no request can use"
        is_silent = sampling.kind in ("declined", "resumed") or sampling.refusal is not None
        if not prompt and (usage or not is_silent):
            return (
                f"{usage.output_tokens:,} output tokens of {model} for a prompt of 0 tokens, "
                "but no prompt is empty"
            )
    return None

"""A payload, read once: what goes out, and everything that other code asks of it.

The API takes many spellings of one prompt: a text or a list of one text block, a default that is
set or not set. What is compared, fingerprinted and cut is the prompt in its one spelling, so two
payloads have one fingerprint if they are the same prompt at the same price. What is sent stays as
it was written. Knows no cassette, client or rate card.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from operator import attrgetter
from typing import Literal, NamedTuple, get_args

import msgspec

from pytest_llmcost.concurrency import cached_property
from pytest_llmcost.errors import PayloadError
from pytest_llmcost.json_values import JsonValue, canonical, digests, to_json_value
from pytest_llmcost.money import read_digits
from pytest_llmcost.prices.model_names import Resolved, mask_account
from pytest_llmcost.prices.usage import (
    Lifetime,
    previous_message,
    read_sampling,
    tool_name,
)

Tier = Literal["tools", "system", "messages"]
TIERS: tuple[Tier, ...] = ("tools", "system", "messages")
THINKING = ("thinking", "redacted_thinking")
"""Blocks with which no prompt ends, and no prefix that is cached."""

# Each key of a request's body, in one of these sets. What `count_tokens` may refuse, such as
# `mcp_servers`, is in the first three: it is tried, not presumed refused.
# Source: the parameters of both methods in anthropic 2.14.0, read 2026-11-26.
WITH_TOOLS = frozenset({"mcp_servers", "tool_choice"})
"""Hidden prompt beside the tools."""
WITH_MESSAGES = frozenset({"context_management", "output_config", "output_format", "thinking"})
"""Hidden prompt behind tools and system: the cache of those two outlives a change of them."""
COUNTED = WITH_TOOLS | WITH_MESSAGES | {
    *TIERS, "model", "billing_policy", "cache_control", "compaction", "speed",
}  # fmt: skip
"""All that `count_tokens` takes; those named here have no prompt that is hidden."""
NEEDS_BETA = frozenset({"billing_policy", "compaction", "context_management", "mcp_servers"})
"""Those of them that are taken on the beta route alone."""
HEADERS = {
    "user_profile_id": "anthropic-user-profile-id",
    "workspace_id": "anthropic-workspace-id",
}
"""Keywords that the SDK sends as headers: whose request it is, not what it costs."""
_WITHOUT_COST = frozenset({
    "anthropic_version", "betas", "diagnostics", "max_tokens", "metadata", "stop_sequences",
    "stream", "temperature", "top_k", "top_p", *HEADERS,
})  # fmt: skip
"""Changes neither the prompt's tokens nor a rate."""
KNOWN = COUNTED | _WITHOUT_COST | {
    "container", "fallback_credit_token", "fallbacks", "inference_geo", "service_tier", "thread",
}  # fmt: skip
"""The last ones are of `create` alone, no tokens of the prompt, and may change its price."""

_CITATIONS: JsonValue = {"enabled": False}
# Entries that mean the same as their absence: of a request, a tool, a block by its type, and so on.
# [API] is https://platform.claude.com/docs/en/api/messages/create; [SDK] anthropic.types of
# anthropic 2.14.0; read 2026-11-25. Beside these, null is absence wherever the SDK's types say
# Optional, which is in all of these objects; in a tool's schema and input null is a value.
DEFAULTS: dict[str, dict[str, JsonValue]] = {
    "request": {
        "service_tier": "auto",  # [API] defaults to auto
        "speed": "standard",  # https://platform.claude.com/docs/en/build-with-claude/fast-mode
        "tools": [],  # [SDK] MessageCreateParams.tools: an iterable
        "mcp_servers": [],  # [SDK] beta MessageCreateParams.mcp_servers
        "output_config": {},  # [SDK] OutputConfigParam: every key is optional
    },
    "tool": {
        "type": "custom",  # [SDK] ToolParam.type: Optional[Literal['custom']]
        "strict": False,  # [API] defaults to false
        "defer_loading": False,  # [API] defaults to false
        "citations": _CITATIONS,  # [SDK] WebFetchTool*: disabled by default
        "response_inclusion": "full",  # [SDK] WebSearchTool20260318Param: default
        "configs": {},  # [SDK] ComputerToolset20260801Param: {} is absent
    },
    "tool_choice": {"disable_parallel_tool_use": False},  # [SDK] ToolChoice*: false
    "tool_result": {"is_error": False},  # [API] defaults to false
    "document": {"citations": _CITATIONS},  # [API] off by default
    "search_result": {"citations": _CITATIONS},  # [API] off by default
    "cache_control": {"ttl": "5m"},  # [SDK] CacheControlEphemeralParam.ttl: defaults to 5m
}
_NESTING = frozenset({"cache_control", "content", "source"})
_OF_BLOCKS_OR_TEXT = ("tool_result", "content")
"""Blocks whose content may be a text; the second is a document's source."""
_SEVERAL_SPELLINGS = {kind: _NESTING | defaults.keys() for kind, defaults in DEFAULTS.items()}
"""The keys of a tool or a block by its kind, without which it is in its one spelling."""


class BlockPath(NamedTuple):
    """Where a block of the prompt stands: a tool, or a block of system prompt or message."""

    group: Tier
    number: int
    block: int | None = None
    """Within a message, also if that is one text; None outside of messages."""

    def __str__(self) -> str:
        within = f".content.{self.block}" if self.block is not None else ""
        return f"{self.group}.{self.number}{within}"

    @property
    def order(self) -> tuple[int, int, int]:
        """Its position in the prompt."""
        return TIERS.index(self.group), self.number, self.block or 0


_TOOL = partial(BlockPath, "tools")


class Breakpoint(NamedTuple):
    """The prompt is cached up to and including the block at `path`."""

    path: BlockPath
    ttl: Lifetime = "5m"


class Prompt(NamedTuple):
    """A payload's prompt in its one spelling, keys in the order in which they were sent."""

    tools: JsonValue
    """A list; what else a payload holds there is kept as it is."""
    system: JsonValue
    messages: JsonValue
    settings: dict[str, JsonValue]
    """All other entries of the payload that can change its cost."""
    marks: dict[BlockPath, JsonValue]
    """Each `cache_control`, in the prompt's order."""

    @property
    def breakpoints(self) -> tuple[Breakpoint, ...]:
        """Where the prompt is cached; a lifetime that does not exist is the API's to refuse."""
        marks = self.marks.items()
        lives = [(at, mark.get("ttl", "5m")) for at, mark in marks if isinstance(mark, dict)]
        return tuple(Breakpoint(at, ttl) for at, ttl in lives if ttl in get_args(Lifetime))

    def blocks(self) -> list[tuple[BlockPath, JsonValue]]:
        """Return every block of the prompt in order: tools, then system, then messages."""
        found = [(BlockPath("tools", at), tool) for at, tool in enumerate(as_list(self.tools))]
        found += [(BlockPath("system", at), block) for at, block in enumerate(as_list(self.system))]
        for at, message in enumerate(as_list(self.messages)):
            content = as_list(message.get("content")) if isinstance(message, dict) else []
            found += [(BlockPath("messages", at, number), it) for number, it in enumerate(content)]
        return found


def read_prompt(body: Mapping[str, JsonValue], model: str) -> Prompt:
    """Read a payload's prompt; `model` decides which settings are defaults."""
    marks: dict[BlockPath, JsonValue] = {}
    tools = _spelled(body.get("tools"), marks, _TOOL)
    system = _spelled(as_blocks(body.get("system")), marks, partial(BlockPath, "system"))
    messages = body.get("messages")
    if isinstance(messages, list):
        messages = [*messages]
        for index, message in enumerate(messages):
            if isinstance(message, dict) and "content" in message:
                content, at = as_blocks(message["content"]), partial(BlockPath, "messages", index)
                messages[index] = {**message, "content": _spelled(content, marks, at)}
    prompt = Prompt(tools, system, messages, _settings(body, model), marks)
    if automatic := body.get("cache_control"):
        # The API sets it on the last block that can be cached, as if it stood there.
        # https://platform.claude.com/docs/en/build-with-claude/prompt-caching
        for path in [path for path, block in prompt.blocks() if _can_be_cached(block)][-1:]:
            marks.setdefault(path, _without_defaults(automatic, "cache_control"))
        marks = dict(sorted(marks.items(), key=lambda mark: mark[0].order))
    return prompt._replace(marks=marks)


def as_list(value: JsonValue) -> list[JsonValue]:
    """Return a list, or an empty one for anything else that a payload holds in its place."""
    return value if isinstance(value, list) else []


def as_blocks(content: JsonValue) -> JsonValue:
    """A text is short for one text block: in messages, system, tool results and documents.

    Source: the API reference and the SDK's `Union[str, Iterable[...]]` of each.
    """
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _can_be_cached(block: JsonValue) -> bool:
    """Whether the API sets an automatic breakpoint here: not on thinking, nor an empty text."""
    if not isinstance(block, dict) or block.get("type") in THINKING:
        return False
    return block.get("type") != "text" or bool(block.get("text"))


def _spelled(
    values: JsonValue, marks: dict[BlockPath, JsonValue], path_of: Callable[[int], BlockPath]
) -> JsonValue:
    """Spell each of some tools or blocks, and note its breakpoint, at the place of its number."""
    if not isinstance(values, list):
        return values
    found = [*values]
    for at, value in enumerate(values):
        if not isinstance(value, dict):
            continue
        kind = "tool" if path_of is _TOOL else value.get("type")
        name = kind if isinstance(kind, str) else ""
        if not _SEVERAL_SPELLINGS.get(name, _NESTING).isdisjoint(value) or None in value.values():
            found[at] = _block(value, name, marks, path_of(at))
    return found


def _block(
    value: dict[str, JsonValue], kind: str, marks: dict[BlockPath, JsonValue], path: BlockPath
) -> JsonValue:
    found: dict[str, JsonValue] = _without_defaults(value, kind)
    mark = found.pop("cache_control", None)
    # A breakpoint inside of a block is one at its end, unless it has one of its own there.
    if "content" in found and kind != "tool":
        content = found["content"]
        content = as_blocks(content) if kind in _OF_BLOCKS_OR_TEXT else content
        found["content"] = _spelled(content, marks, lambda _: path)
    if isinstance(source := found.get("source"), dict) and "content" in source:
        (found["source"],) = _spelled([source], marks, lambda _: path)
    if mark is not None:
        marks[path] = _without_defaults(mark, "cache_control")
    return found


def _without_defaults(value: JsonValue, of: str) -> JsonValue:
    if not isinstance(value, dict):
        return value
    defaults = DEFAULTS.get(of, {})
    return {
        key: item
        for key, item in value.items()
        # By type, too: 0 is not false.
        if item is not None and (type(item), item) != (type(other := defaults.get(key)), other)
    }


_NO_SETTINGS = _WITHOUT_COST.union(TIERS, ("model", "cache_control"))
_THINKS_IF_ASKED = re.compile(r"claude-(3|[a-z]+-4)\b")
_THINKS_BY_ITSELF = re.compile(r"claude-([a-z]+-5|mythos-preview)\b")
_WITH_MODELS_DEFAULT = frozenset({"output_config", "output_format", "tool_choice", "thinking"})
_MEDIUM_EFFORT = re.compile(r"claude-(opus|haiku)-5-5\b")


def _settings(body: Mapping[str, JsonValue], model: str) -> dict[str, JsonValue]:
    """Spell what is neither tools, system nor messages."""
    settings: dict[str, JsonValue] = _without_defaults(
        {key: value for key, value in body.items() if key not in _NO_SETTINGS}, "request"
    )
    if isinstance(servers := settings.get("mcp_servers"), list):
        # A log-in token changes with every log-in, and belongs in no file, not even hashed.
        settings["mcp_servers"] = [
            {key: value for key, value in server.items() if key != "authorization_token"}
            if isinstance(server, dict)
            else server
            for server in servers
        ]
    if _WITH_MODELS_DEFAULT.isdisjoint(settings):
        return settings  # most of them, and all payloads are read on every run

    # Moved: https://platform.claude.com/docs/en/build-with-claude/structured-outputs
    config = settings.pop("output_config", None)
    if "output_format" in settings and (config is None or isinstance(config, dict)):
        config = {"format": settings.pop("output_format"), **(config or {})}
    # "Equivalent to not setting the parameter", by the model's own default:
    # https://platform.claude.com/docs/en/build-with-claude/effort
    effort = "medium" if _MEDIUM_EFFORT.match(model) else "high"
    if isinstance(config, dict) and config.get("effort") == effort:
        config = {**config, "effort": None}
    settings["output_config"] = config
    # `auto` is the default if there are tools, `none` if there are none:
    # https://platform.claude.com/docs/en/agents-and-tools/tool-use/define-tools
    choice = "auto" if body.get("tools") or body.get("mcp_servers") else "none"
    # Models of generations 3 and 4 think if asked to, later ones unless asked not to:
    # https://platform.claude.com/docs/en/build-with-claude/thinking
    thinking = "disabled" if _THINKS_IF_ASKED.match(model) else ""
    thinking = "adaptive" if _THINKS_BY_ITSELF.match(model) else thinking
    defaults = {
        "output_config": {},
        "tool_choice": {"type": choice},
        "thinking": {"type": thinking},
    }
    for key, default in defaults.items():
        value = _without_defaults(settings.pop(key, None), key)
        if value is not None and value != default:
            settings[key] = value
    return settings


_THINKING_IS_LAST = re.compile(r"claude-(3|[a-z]+-4(?!-[78]))")


def cache_settings(
    settings: Mapping[str, JsonValue], blocks: Iterable[JsonValue], model: str
) -> list[tuple[Tier, str, JsonValue]]:
    """Return what breaks the cache of a tier and of those behind it, beside its blocks.

    Source: https://platform.claude.com/docs/en/build-with-claude/prompt-caching, "What
    invalidates the cache"; for the format, .../structured-outputs; for effort, .../effort. Up to
    Claude 4.6 thinking and effort break the messages' cache alone (2026-03). Of later models the
    page no longer says which do, and .../thinking to take any for a new cache (2026-11).
    """
    config = settings.get("output_config")
    config = config if isinstance(config, dict) else {}
    used = set(_citations_or_images(blocks))
    with_thinking: Tier = "messages" if _THINKING_IS_LAST.match(model) else "tools"
    found: list[tuple[Tier, str, JsonValue]] = [
        ("tools", "mcp_servers", settings.get("mcp_servers")),
        ("messages", "tool_choice", settings.get("tool_choice")),
        (with_thinking, "thinking", settings.get("thinking")),
        (with_thinking, "output_config.effort", config.get("effort")),
        ("system", "speed", settings.get("speed")),
        ("system", "output_config.format", config.get("format")),
        ("system", "citations", "citations" in used or None),
        ("messages", "images", "images" in used or None),
    ]
    return [each for each in found if each[2] is not None]


def _citations_or_images(blocks: Iterable[JsonValue]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, dict):
            if block.get("type") == "image":
                yield "images"
            if isinstance(block.get("citations"), dict) and block["citations"].get("enabled"):
                yield "citations"
            yield from _citations_or_images(as_list(block.get("content")))


RECIPE = "2"
"""The fingerprint's version. If the recipe changes, raise it: recorded counts are then renewed."""

_DIGEST_DIGITS = 8


class CachedValue(NamedTuple):
    """A block, or a setting that breaks the cache, within a prefix."""

    tier: Tier
    path: BlockPath | None
    """None for a setting."""
    name: str
    """Of the part, as in `Payload.parts`."""
    value: JsonValue
    """Of a block `[role, block]`."""
    prefix: str = ""
    """The digest of all up to here."""

    @property
    def order(self) -> tuple[int, ...]:
        """Its position: the settings of a tier come before its blocks."""
        return (TIERS.index(self.tier),) if self.path is None else self.path.order


class Prefix(NamedTuple):
    """The prompt up to and including one block, as the cache sees it: byte by byte, unmarked."""

    path: BlockPath
    digest: str
    model: str
    values: Sequence[CachedValue]

    @property
    def parts(self) -> dict[str, bytes | str]:
        """The bytes of each block and setting in it by its path; see `changed_parts`."""
        parts = {each.name: canonical(each.value, sort_keys=False) for each in self.values}
        return {"model": self.model, **parts}


class Payload(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One payload in plain JSON, with everything that distinguishes it from another."""

    body: Mapping[str, JsonValue]
    """As it goes out in JSON, without `betas`; the model as it was asked for."""
    prompt: Prompt
    """That of the body in its one spelling."""
    model: str
    """The exact id if the name is known, otherwise the name."""
    betas: tuple[str, ...] = ()
    """Sorted, each once."""
    headers: Mapping[str, str] = {}
    """What the SDK sends as headers besides the betas."""
    fingerprint: str
    parts: Mapping[str, str]
    """Part -> digest, in the prompt's order: model, system, tools, messages, the rest."""
    breakpoints: tuple[Breakpoint, ...] = ()
    """Where the prompt is cached, in its order, the automatic breakpoint included."""
    compared: Prompt | None = None
    """What a user's hook has made of the prompt, by which two payloads are compared."""
    samples_again: Mapping[str, int] = {}
    """What may make the request sample several times; see `read_sampling`."""
    continues: str | None = None
    """The id of the message after which it goes on; see `previous_message`."""
    longest_reply: int | None = None
    """The most output tokens that it can be billed; None if nothing bounds them."""
    task_budget: int | None = None
    """The tokens that the model is asked to keep to, over the whole loop of a task.

    Advisory: nothing enforces it, and usage does not show it. Source:
    https://platform.claude.com/docs/en/build-with-claude/task-budgets, read 2026-11-22.
    """

    @property
    def values(self) -> dict[str, JsonValue]:
        """What the digests in `parts` are of, by the same names."""
        return dict(_parts(self.compared or self.prompt, self.model, self.betas))

    def has_prompt_of(self, other: Payload) -> bool:
        """Return whether the two are one prompt, wherever each is cached."""

        def unmarked(each: Payload) -> str:
            prompt = (each.compared or each.prompt)._replace(marks={})
            return _identify(prompt, each.model, each.betas)[0]

        return self.fingerprint == other.fingerprint or unmarked(self) == unmarked(other)

    @property
    def lifetime(self) -> Lifetime | None:
        """How long all its cache entries live; None if they differ, or there are none."""
        lifetimes = {each.ttl for each in self.breakpoints}
        return lifetimes.pop() if len(lifetimes) == 1 else None

    @property
    def prefixes(self) -> tuple[Prefix, ...]:
        """The cached prefixes, one for each breakpoint."""
        return tuple(self.prefix_to(each.path) for each in self.breakpoints)

    def prefix_to(self, path: BlockPath) -> Prefix:
        """Return the prefix that ends with a block, for comparison with another payload's."""
        values = _values_to(path, self._values_compared)
        return Prefix(path, values[-1].prefix if values else "", self.model, values)

    def begins_with(self, prefix: Prefix) -> bool:
        """Return whether it begins with a prefix of another payload, however that is split."""
        return any(each.prefix == prefix.digest for each in self._values_compared)

    @property
    def cached_values(self) -> list[CachedValue]:
        """What its longest cached prefix is made of, as sent, in the cache's order."""
        return _values_to(self.breakpoints[-1].path, self._values) if self.breakpoints else []

    @cached_property
    def _values(self) -> list[CachedValue]:
        return _values_of(self.prompt, self.model)

    @cached_property
    def _values_compared(self) -> list[CachedValue]:
        return self._values if self.compared is None else _values_of(self.compared, self.model)


def _values_of(prompt: Prompt, model: str) -> list[CachedValue]:
    """Return what the cache sees of a whole prompt, in its order."""
    blocks, names = prompt.blocks(), tool_names(prompt.tools)
    settings = cache_settings(prompt.settings, [block for _, block in blocks], model)
    values = [CachedValue(tier, None, name, value) for tier, name, value in settings]
    for at, block in blocks:
        role = prompt.messages[at.number].get("role") if at.group == "messages" else at.group
        name = names[at.number] if at.group == "tools" else str(at)
        values.append(CachedValue(at.group, at, name, [role, block]))
    found, whole = list[CachedValue](), sha256(model.encode())
    for each in sorted(values, key=lambda each: TIERS.index(each.tier)):  # settings come first
        # In the order of keys as sent: the cache has another prefix if they are reordered.
        encoded = canonical(each.value, sort_keys=False)
        whole.update(b"%d:%b" % (len(encoded), encoded))
        found.append(CachedValue(*each[:-1], whole.hexdigest()))
    return found


def _values_to(path: BlockPath, values: list[CachedValue]) -> list[CachedValue]:
    return values[: bisect_right(values, path.order, key=attrgetter("order"))]


def read_payload(
    payload: Mapping[str, object],
    *,
    betas: Iterable[str] = (),
    model: str | None = None,
    find: Callable[[str], Resolved | None] | None = None,
) -> Payload:
    """Read what a caller or a captured request would send; iterators in it are read once.

    Betas come from `betas`, which are those of the request's header, from the payload's own key
    (also Bedrock's `anthropic_beta`), and from `extra_headers`; `extra_body` is laid over the
    payload. `model` is given if the URL names it (Bedrock, Google Cloud); `find` is
    `RateCard.find`, without which a name stays as it is.

    Raises:
        PayloadError: it is not JSON, or names no model.
    """
    body = to_json_value(payload)
    if not isinstance(body, dict):
        raise PayloadError(
            f"a payload is a mapping of keywords, not {type(body).__name__}; pass model=, "
            "max_tokens= and messages=, as to messages.create",
            path="",
        )
    more, headers = body.pop("extra_body", None) or {}, body.pop("extra_headers", None) or {}
    for key, value in (("extra_body", more), ("extra_headers", headers)):
        if not isinstance(value, dict):
            raise PayloadError(f"{key} is a {type(value).__name__}, not a mapping", path=key)
    body |= more
    for key in ("timeout", "extra_query", "anthropic_version"):  # the last is of the clouds
        body.pop(key, None)
    named = [("betas", betas if isinstance(betas, str) else list(betas))]
    named += [(key, body.pop(key)) for key in ("betas", "anthropic_beta") if key in body]
    for key, value in headers.items():
        if key.lower() == "anthropic-beta":
            named.append(("extra_headers.anthropic-beta", value))
    found = set[str]()
    for path, value in named:
        names = value.split(",") if isinstance(value, str) else value or []
        if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
            raise PayloadError(f"{path} takes a list of names, got {names!r:.80}", path=path)
        found.update(map(str.strip, names))
    betas = tuple(sorted(found - {""}))
    asked = body.get("model") or model
    if not isinstance(asked, str):
        raise PayloadError("the payload names no model; add model=", path="model")
    body["model"] = asked
    owner = {HEADERS[key]: str(body.pop(key)) for key in HEADERS if body.get(key)}
    known = find(asked) if find is not None else None
    # What has no price can still be counted and compared.
    exact = mask_account(asked) if known is None else known.model
    prompt = read_prompt(body, exact)
    identity, parts = _identify(prompt, exact, betas)
    _, again, longest_reply = read_sampling(body)
    config = body.get("output_config")
    budget = config.get("task_budget") if isinstance(config, dict) else None
    left = isinstance(budget, dict) and (budget.get("remaining") or budget.get("total"))
    return Payload(
        body=body,
        prompt=prompt,
        model=exact,
        betas=betas,
        headers=owner,
        fingerprint=identity,
        parts=parts,
        breakpoints=prompt.breakpoints,
        samples_again=again,
        continues=previous_message(body),
        longest_reply=longest_reply,
        task_budget=left if type(left) is int else None,
    )


def fingerprint(payload: Mapping[str, JsonValue]) -> str:
    """Return the recipe's version and a SHA-256 over all of plain JSON that can change the cost.

    What `count_tokens` refuses is included, so that a new server tool is noticed; sampling
    settings, whose request it is, and the tokens that log in to MCP servers are not.

    Example:
        >>> one = fingerprint({"model": "m", "messages": [], "max_tokens": 9})
        >>> one == fingerprint({"messages": [], "model": "m"})
        True
    """
    model, betas = str(payload.get("model")), tuple(sorted({*as_list(payload.get("betas"))}))
    return _identify(read_prompt(payload, model), model, betas)[0]


def _identify(prompt: Prompt, model: str, betas: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """Return a fingerprint, which is made of the digests of the parts, and the short digests."""
    parts = _parts(prompt, model, betas)
    whole, short = "", dict[str, str]()
    for (name, _), digest in zip(parts, digests([value for _, value in parts]), strict=True):
        short[name] = short.get(name, "") + digest[:_DIGEST_DIGITS]  # two may have one name
        whole += f"{'messages' if name.startswith('messages.') else name}={digest};"
    return f"{RECIPE}:{sha256(whole.encode()).hexdigest()}", short


def _parts(prompt: Prompt, model: str, betas: tuple[str, ...]) -> list[tuple[str, JsonValue]]:
    """Return `model`, `system`, `tools.<name>`, `messages.<number>`, then the rest by name.

    A key of the body may be spelled like one of them, and both are part of the payload.
    """
    parts: list[tuple[str, JsonValue]] = [("model", model)]
    if prompt.system not in (None, []):
        parts.append(("system", prompt.system))
    if isinstance(prompt.tools, list):
        parts += zip(tool_names(prompt.tools), prompt.tools, strict=True)
    elif prompt.tools is not None:
        parts.append(("tools", prompt.tools))
    if isinstance(prompt.messages, list):
        # By their order: the numbers of messages that the API joins say nothing.
        turns = enumerate(joined_turns(prompt.messages).values())
        parts += ((f"messages.{number}", turn) for number, turn in turns)
    elif prompt.messages is not None:
        parts.append(("messages", prompt.messages))
    if betas:
        parts.append(("betas", betas))
    if prompt.marks:
        marks = [[str(path), mark] for path, mark in prompt.marks.items()]
        parts.append(("cache_control", marks))
    return [*parts, *sorted(prompt.settings.items())]


def joined_turns(messages: Iterable[JsonValue]) -> dict[int, JsonValue]:
    """Return the messages by their numbers, joined to one if the API joins them.

    Those are of one role, one after the other. Source:
    https://platform.claude.com/docs/en/api/messages/create, messages: "consecutive `user` or
    `assistant` turns in your request will be combined into a single turn".
    """
    turns: dict[int, JsonValue] = {}
    last = -1
    before: JsonValue = None
    for number, message in enumerate(messages):
        can_be = _can_be_joined(message) and _can_be_joined(before)
        if can_be and message["role"] == before["role"]:
            message = {**before, "content": [*before["content"], *message["content"]]}
        else:
            last = number
        before = turns[last] = message
    return turns


def _can_be_joined(message: JsonValue) -> bool:
    return (
        isinstance(message, dict)
        and message.keys() == {"role", "content"}
        and message["role"] in ("user", "assistant")
        and isinstance(message["content"], list)
    )


def tool_names(tools: JsonValue) -> list[str]:
    """Return the part's name of each tool."""
    return [f"tools.{tool_name(tool, index)}" for index, tool in enumerate(as_list(tools))]


_ORDER = ("model", "system", "tools", "messages")


def changed_parts(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Return what differs from the old payload to the new one, in words and in prompt order.

    Example:
        >>> changed_parts({"system": "a", "messages.1": "b"}, {"system": "c", "tools.find": "d"})
        ['system', 'tools.find (new)', 'messages.1 (removed)']
        >>> changed_parts({"tools.a": "1", "tools.b": "2"}, {"tools.b": "2", "tools.a": "1"})
        ['tools (order)']
    """

    def order(change: str) -> tuple[int, int]:
        group, _, rest = change.partition(" ")[0].partition(".")
        rank = _ORDER.index(group) if group in _ORDER else len(_ORDER)
        return rank, (read_digits(rest) or 0) if group == "messages" else 0

    changes = [
        name if name in old else f"{name} (new)" for name in new if old.get(name) != new[name]
    ]
    tools = {name for name in old if name in new and name.startswith("tools.")}
    if [*filter(tools.__contains__, old)] != [*filter(tools.__contains__, new)]:
        changes.append("tools (order)")
    return sorted([*changes, *(f"{name} (removed)" for name in old if name not in new)], key=order)


_MOST_CHANGES = 6


def describe_changes(changes: Sequence[str]) -> str:
    """Return the changed parts as one phrase, cut if it would get long."""
    shown, more = ", ".join(changes[:_MOST_CHANGES]), len(changes) - _MOST_CHANGES
    return f"{shown} and {more} more" if more > 0 else shown

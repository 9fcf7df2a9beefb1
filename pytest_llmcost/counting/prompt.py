"""A payload's prompt in its one spelling, and where it is cached.

The API takes many spellings of one prompt: a text or a list of one text block, a default that is
set or not set. What is compared, fingerprinted and cut is this form, in which equal prompts are
equal. What is sent stays as it was written. Knows nothing of counts, hashes and files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, cast, get_args

from pytest_llmcost.json_values import JsonValue
from pytest_llmcost.prices.usage import Lifetime

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
_SEVERAL_SPELLINGS = {kind: _NESTING | defaults.keys() for kind, defaults in DEFAULTS.items()}
"""The keys of a tool or a block by its kind, without which it is in its one spelling."""


class Place(NamedTuple):
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


class Breakpoint(NamedTuple):
    """The prompt is cached up to and including the block at `place`."""

    place: Place
    ttl: Lifetime = "5m"


class Prompt(NamedTuple):
    """A payload's prompt in its one spelling, keys in the order in which they were sent."""

    tools: JsonValue
    """A list; what else a payload holds there is kept as it is."""
    system: JsonValue
    messages: JsonValue
    settings: dict[str, JsonValue]
    """All other entries of the payload that can change its cost."""
    marks: dict[Place, JsonValue]
    """Each `cache_control`, in the prompt's order."""
    breakpoints: tuple[Breakpoint, ...]
    """Where the prompt is cached; a lifetime that does not exist is the API's to refuse."""

    def blocks(self) -> list[tuple[Place, JsonValue]]:
        """Return every block of the prompt in order: tools, then system, then messages."""
        found = [(Place("tools", at), tool) for at, tool in enumerate(as_list(self.tools))]
        found += [(Place("system", at), block) for at, block in enumerate(as_list(self.system))]
        for at, message in enumerate(as_list(self.messages)):
            content = as_list(message.get("content")) if isinstance(message, dict) else []
            found += [(Place("messages", at, number), it) for number, it in enumerate(content)]
        return found


def read_prompt(body: Mapping[str, JsonValue], model: str) -> Prompt:
    """Read a payload's prompt; `model` decides which settings are defaults."""
    marks: dict[Place, JsonValue] = {}
    tools, system = body.get("tools"), _as_blocks(body.get("system"))
    messages = body.get("messages")
    if isinstance(tools, list):
        tools = _spelled(tools, marks, "tools")
    if isinstance(system, list):
        system = _spelled(system, marks, "system")
    if isinstance(messages, list):
        messages = [*messages]
        for index, message in enumerate(messages):
            given = message.get("content") if isinstance(message, dict) else None
            content = _as_blocks(given)
            if isinstance(content, list):
                content = _spelled(content, marks, "messages", index)
                if content is not given:
                    messages[index] = {**message, "content": content}
    prompt = Prompt(tools, system, messages, _settings(body, model), marks, ())
    if automatic := body.get("cache_control"):
        # The API sets it on the last block that can be cached, as if it stood there.
        # https://platform.claude.com/docs/en/build-with-claude/prompt-caching
        for place in [place for place, block in prompt.blocks() if _can_be_cached(block)][-1:]:
            marks.setdefault(place, _without_defaults(automatic, "cache_control"))
            marks = dict(sorted(marks.items(), key=lambda mark: mark[0].order))
    points = []
    for place, mark in marks.items():
        ttl = mark.get("ttl", "5m") if isinstance(mark, dict) else None
        if ttl in get_args(Lifetime):
            points.append(Breakpoint(place, cast("Lifetime", ttl)))
    return prompt._replace(marks=marks, breakpoints=tuple(points)) if marks else prompt


def as_list(value: JsonValue) -> list[JsonValue]:
    """Return a list, or an empty one for anything else that a payload holds in its place."""
    return value if isinstance(value, list) else []


def _as_blocks(content: JsonValue) -> JsonValue:
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
    values: list[JsonValue],
    marks: dict[Place, JsonValue],
    group: Tier,
    number: int | None = None,
    within: Place | None = None,
) -> list[JsonValue]:
    """Spell tools or blocks, or those inside of a block; the list itself if it is spelled so.

    A breakpoint is noted at the end of its block, as are those inside of that.
    """
    found, is_tool = values, group == "tools"
    for at, value in enumerate(values):
        if not isinstance(value, dict):
            continue
        kind = "tool" if is_tool else value.get("type")
        name = kind if isinstance(kind, str) else ""
        if _SEVERAL_SPELLINGS.get(name, _NESTING).isdisjoint(value) and None not in value.values():
            continue  # most of them, and all payloads are read on every run
        place = within or (Place(group, at) if number is None else Place(group, number, at))
        if found is values:
            found = [*values]
        found[at] = _block(value, name, marks, place)
    return found


def _block(
    value: dict[str, JsonValue], kind: str, marks: dict[Place, JsonValue], place: Place
) -> JsonValue:
    found: dict[str, JsonValue] = {}
    for key, item in _without_defaults(value, kind).items():
        if key == "cache_control":
            marks[place] = _without_defaults(item, "cache_control")
            continue
        if key == "content" and place.group != "tools":
            if kind == "tool_result":
                item = _as_blocks(item)
            if isinstance(item, list):
                item = _spelled(item, marks, place.group, within=place)
        elif key == "source" and isinstance(item, dict) and "content" in item:
            source = {**item, "content": _as_blocks(item["content"])}
            (item,) = _spelled([source], marks, place.group, within=place)
        found[key] = item
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
) -> dict[Tier, dict[str, JsonValue]]:
    """Return what breaks the cache of a tier and of those behind it, beside its blocks; or None.

    Source: https://platform.claude.com/docs/en/build-with-claude/prompt-caching, "What
    invalidates the cache"; for the format, .../structured-outputs; for effort, .../effort. Up to
    Claude 4.6 thinking and effort break the messages' cache alone (2026-03). Of later models the
    page no longer says which do, and .../thinking to take any for a new cache (2026-11).
    """
    config = settings.get("output_config")
    config = config if isinstance(config, dict) else {}
    used = set(_citations_or_images(blocks))
    thinking = {"thinking": settings.get("thinking"), "output_config.effort": config.get("effort")}
    is_last = _THINKING_IS_LAST.match(model)
    return {
        "tools": {"mcp_servers": settings.get("mcp_servers"), **({} if is_last else thinking)},
        "system": {
            "speed": settings.get("speed"),
            "output_config.format": config.get("format"),
            "citations": "citations" in used or None,
        },
        "messages": {
            "tool_choice": settings.get("tool_choice"),
            **(thinking if is_last else {}),
            "images": "images" in used or None,
        },
    }


def _citations_or_images(blocks: Iterable[JsonValue]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, dict):
            if block.get("type") == "image":
                yield "images"
            if isinstance(block.get("citations"), dict) and block["citations"].get("enabled"):
                yield "citations"
            yield from _citations_or_images(as_list(block.get("content")))

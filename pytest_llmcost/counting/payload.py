"""A payload, read once: what goes out, and everything that other code asks of it.

Two payloads have one fingerprint if they are the same prompt at the same price, however they are
spelled. Knows no cassette, client or rate card.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from operator import attrgetter
from typing import NamedTuple

import msgspec

from pytest_llmcost.concurrency import cached_property
from pytest_llmcost.counting.prompt import (
    TIERS,
    Breakpoint,
    Place,
    Prompt,
    Tier,
    as_list,
    cache_settings,
    read_prompt,
)
from pytest_llmcost.errors import PayloadError
from pytest_llmcost.json_values import JsonValue, canonical, digests, to_json_value
from pytest_llmcost.money import read_digits
from pytest_llmcost.prices.model_names import Resolved, mask_account
from pytest_llmcost.prices.usage import Lifetime, mappings, tools_and_longest_reply

RECIPE = "2"
"""The fingerprint's version. If the recipe changes, raise it: recorded counts are then renewed."""

_HEADERS = {
    "user_profile_id": "anthropic-user-profile-id",
    "workspace_id": "anthropic-workspace-id",
}
"""Keywords that the SDK sends as headers: whose request it is, not what it costs."""
_NOT_PROMPT = frozenset(
    {
        "stream", "metadata", "diagnostics", "stop_sequences", "temperature", "top_p", "top_k",
        "max_tokens", "model", "betas", "anthropic_version", *_HEADERS,
    }
)  # fmt: skip
"""Changes neither the prompt's tokens nor a rate."""
_SAMPLING_TOOLS = (
    "web_search_", "web_fetch_", "code_execution_", "tool_search_tool_", "advisor_", "mcp_toolset",
)  # fmt: skip
_DIGEST_DIGITS = 8


class CachedValue(NamedTuple):
    """A block, or a setting that breaks the cache, within a prefix."""

    tier: Tier
    place: Place | None
    """None for a setting."""
    name: str
    """Of the part, as in `Payload.parts`."""
    value: JsonValue
    """Of a block `[role, block]`."""
    order: tuple[int, ...]
    """Its position: the settings of a tier come before its blocks."""
    prefix: str
    """The digest of all up to here."""


class Prefix(NamedTuple):
    """The prompt up to and including one block, as the cache sees it: byte by byte, unmarked."""

    place: Place
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
    sampling_tools: tuple[str, ...] = ()
    """The names of the tools that make one request sample several times, sorted."""
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

    @property
    def lifetime(self) -> Lifetime | None:
        """How long all its cache entries live; None if they differ, or there are none."""
        lifetimes = {each.ttl for each in self.breakpoints}
        return lifetimes.pop() if len(lifetimes) == 1 else None

    @property
    def prefixes(self) -> tuple[Prefix, ...]:
        """The cached prefixes, one for each breakpoint."""
        return tuple(self.prefix_to(each.place) for each in self.breakpoints)

    def prefix_to(self, place: Place) -> Prefix:
        """Return the prefix that ends with a block, for comparison with another payload's."""
        values = _values_to(place, self._values_compared)
        return Prefix(place, values[-1].prefix if values else "", self.model, values)

    @property
    def cached_values(self) -> list[CachedValue]:
        """What its longest cached prefix is made of, as sent, in the cache's order."""
        return _values_to(self.breakpoints[-1].place, self._values) if self.breakpoints else []

    @cached_property
    def _values(self) -> list[CachedValue]:
        return _values_of(self.prompt, self.model)

    @cached_property
    def _values_compared(self) -> list[CachedValue]:
        return self._values if self.compared is None else _values_of(self.compared, self.model)


def _values_of(prompt: Prompt, model: str) -> list[CachedValue]:
    """Return what the cache sees of a whole prompt, in its order."""
    found, whole = list[CachedValue](), sha256(model.encode())
    blocks, names = prompt.blocks(), tool_names(prompt.tools)
    settings = cache_settings(prompt.settings, [block for _, block in blocks], model)

    def add(tier: Tier, place: Place | None, name: str, value: JsonValue) -> None:
        # In the order of keys as sent: the cache has another prefix if they are reordered.
        encoded = canonical(value, sort_keys=False)
        whole.update(b"%d:%b" % (len(encoded), encoded))
        order = (TIERS.index(tier),) if place is None else place.order
        found.append(CachedValue(tier, place, name, value, order, whole.hexdigest()))

    for tier in TIERS:
        for name, setting in settings[tier].items():
            if setting is not None:
                add(tier, None, name, setting)
        for at, block in blocks:
            if at.group == tier:
                role = prompt.messages[at.number].get("role") if tier == "messages" else tier
                add(tier, at, names[at.number] if tier == "tools" else str(at), [role, block])
    return found


def _values_to(place: Place, values: list[CachedValue]) -> list[CachedValue]:
    return values[: bisect_right(values, place.order, key=attrgetter("order"))]


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
    owner = {_HEADERS[key]: str(body.pop(key)) for key in _HEADERS if body.get(key)}
    known = find(asked) if find is not None else None
    # What has no price can still be counted and compared.
    exact = mask_account(asked) if known is None else known.model
    prompt = read_prompt(body, exact)
    identity, parts = _identify(prompt, exact, betas)
    tools, longest_reply = tools_and_longest_reply(body)
    sampling_tools = {
        tool_name(tool, index)
        for index, tool in enumerate(tools)
        if str(tool.get("type")).startswith(_SAMPLING_TOOLS)
    }
    if "mcp_servers" in body:
        servers = mappings(body["mcp_servers"])
        sampling_tools |= {str(each.get("name", "mcp")) for each in servers}
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
        sampling_tools=tuple(sorted(sampling_tools)),
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
        short[name] = digest[:_DIGEST_DIGITS]
        # Messages are known by their order alone: what the API joins has other numbers.
        whole += f"{'messages' if name.startswith('messages.') else name}={digest};"
    return f"{RECIPE}:{sha256(whole.encode()).hexdigest()}", short


def _parts(prompt: Prompt, model: str, betas: tuple[str, ...]) -> list[tuple[str, JsonValue]]:
    """Return `model`, `system`, `tools.<name>`, `messages.<index>`, then the rest by name.

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
        turns = joined_turns(prompt.messages)
        parts += ((f"messages.{number}", turn) for number, turn in turns.items())
    elif prompt.messages is not None:
        parts.append(("messages", prompt.messages))
    if betas:
        parts.append(("betas", betas))
    if prompt.marks:
        marks = [[str(place), mark] for place, mark in prompt.marks.items()]
        parts.append(("cache_control", marks))
    for key in sorted(prompt.settings.keys() - _NOT_PROMPT):
        value = prompt.settings[key]
        if key == "mcp_servers" and isinstance(value, list):
            # A log-in token changes with every log-in, and belongs in no file, not even hashed.
            value = [
                {name: item for name, item in server.items() if name != "authorization_token"}
                if isinstance(server, dict)
                else server
                for server in value
            ]
        parts.append((key, value))
    return parts


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


def tool_name(tool: JsonValue, index: int) -> str:
    """Return what to call a tool: its name, its MCP server's, its type, or its number."""
    if isinstance(tool, dict):
        for key in ("name", "mcp_server_name", "type"):
            if isinstance(tool.get(key), str):
                return str(tool[key])
    return str(index)


_ORDER = ("model", "system", "tools", "messages")


def changed_parts(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Return what differs from the old payload to the new one, in words and in prompt order.

    Example:
        >>> changed_parts({"system": "a", "messages.1": "b"}, {"system": "c", "tools.find": "d"})
        ['system', 'tools.find (new)', 'messages.1 (removed)']
    """

    def place(change: str) -> tuple[int, int]:
        group, _, rest = change.partition(" ")[0].partition(".")
        rank = _ORDER.index(group) if group in _ORDER else len(_ORDER)
        return rank, (read_digits(rest) or 0) if group == "messages" else 0

    changes = [
        name if name in old else f"{name} (new)" for name in new if old.get(name) != new[name]
    ]
    return sorted([*changes, *(f"{name} (removed)" for name in old if name not in new)], key=place)


def describe_changes(changes: Sequence[str], most: int = 6) -> str:
    """Return the changed parts as one phrase, cut if it would get long.

    Example:
        >>> describe_changes(["system", "messages.0", "messages.1"], most=2)
        'system, messages.0 and 1 more'
    """
    shown = ", ".join(changes[:most])
    return f"{shown} and {len(changes) - most} more" if len(changes) > most else shown

"""What `count_tokens` takes of a payload, and what it is counted without.

Data flow: a payload's body -> `countable` -> the body to count and what nobody counted;
a refusal (HTTP 400) -> `leave_out` -> the body without what the refusal names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from pytest_llmcost.errors import PayloadError, UnknownModelError
from pytest_llmcost.json_values import JsonValue, canonical, to_json_value
from pytest_llmcost.money import read_digits
from pytest_llmcost.prices.model_names import mask_account

_ACCEPTED = frozenset(
    {
        "messages", "model", "cache_control", "output_config", "output_format", "speed", "system",
        "thinking", "tool_choice", "tools",
    }
)  # fmt: skip
NEEDS_BETA = frozenset({"billing_policy", "compaction", "context_management", "mcp_servers"})
"""Accepted on the beta route alone."""

_FOR_CREATE = frozenset(
    {
        "max_tokens", "container", "diagnostics", "inference_geo", "metadata", "service_tier",
        "stop_sequences", "stream", "temperature", "top_p", "top_k",
        "fallback_credit_token", "fallbacks", "thread",
        "anthropic_version", "anthropic_beta", "betas", "user_profile_id", "workspace_id",
    }
)  # fmt: skip
"""No tokens of the prompt: for `create` alone, or not part of the body."""


def countable(
    body: Mapping[str, JsonValue], *, beta: bool
) -> tuple[dict[str, JsonValue], tuple[str, ...]]:
    """Keep what `count_tokens` takes; also return the keys that nobody knows, sorted.

    Server tools, toolsets and `mcp_servers` are kept: they are tried, not presumed refused.

    Source: the parameters of count_tokens in anthropic 2.12.0, read 2026-11-22.
    """
    accepted = _ACCEPTED | NEEDS_BETA if beta else _ACCEPTED
    kept = {key: value for key, value in body.items() if key in accepted}
    unknown = body.keys() - _ACCEPTED - NEEDS_BETA - _FOR_CREATE
    return kept, tuple(sorted(unknown))


RECIPE = "1"
"""The fingerprint's version; a changed recipe is a new number, and old recordings are misses."""

_WITHOUT_EFFECT = frozenset(
    {
        "stream", "metadata", "diagnostics", "stop_sequences", "temperature", "top_p", "top_k",
        "max_tokens",
    }
)  # fmt: skip
"""Changes neither the prompt's tokens nor a rate."""

_HEADERS = {
    "user_profile_id": "anthropic-user-profile-id",
    "workspace_id": "anthropic-workspace-id",
}
"""Keywords that the SDK sends as headers: whose request it is, not what it costs."""

_NOT_PROMPT = _WITHOUT_EFFECT | _HEADERS.keys() | {"model", "betas", "anthropic_version"}
_DIGEST_DIGITS = 8


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """One payload in plain JSON, with everything that tells it from another."""

    body: Mapping[str, JsonValue]
    """As it goes out in JSON, without `betas`; the model as it was asked for."""
    model: str
    """The exact id where the name is known, else the name."""
    betas: tuple[str, ...] = ()
    """Sorted, each once."""
    headers: Mapping[str, str] = {}
    """What the SDK sends as headers besides the betas."""
    fingerprint: str
    parts: Mapping[str, str]
    """Part -> digest, in the prompt's order: model, system, tools, messages, the rest."""

    @property
    def needs_beta(self) -> bool:
        """Whether only the beta route takes it."""
        return bool(self.betas) or not NEEDS_BETA.isdisjoint(self.body)


def read_payload(
    payload: Mapping[str, object],
    *,
    betas: Iterable[str] = (),
    model: str | None = None,
    resolve: Callable[[str], str] | None = None,
) -> Payload:
    """Read what a caller or a captured request would send; iterators in it are read once.

    Betas come from `betas`, from the payload's own key (Bedrock's `anthropic_beta`, too), and
    from an `anthropic-beta` header in `extra_headers`. The SDK's request options are
    understood as the SDK does: `extra_body` is laid over the payload.

    Args:
        payload: What `messages.create` takes.
        betas: Beta names from the request's header.
        model: The model where the URL names it (Bedrock, Google Cloud).
        resolve: Name -> exact id, as `RateCard` does it; an unknown name stays as it is.

    Raises:
        PayloadError: when it is not JSON, or names no model.
    """
    body = _without_options(to_json_value(payload))
    found = _pop_betas(body, betas)
    asked = body.get("model") or model
    if not isinstance(asked, str):
        raise PayloadError("the payload names no model; add model=", path="model")
    body["model"] = asked
    headers = {_HEADERS[key]: str(body.pop(key)) for key in _HEADERS if body.get(key)}
    exact = _exact_model(asked, resolve)
    return Payload(
        body=body,
        model=exact,
        betas=found,
        headers=headers,
        fingerprint=fingerprint(body, betas=found, model=exact),
        parts=digest_parts(body, betas=found, model=exact),
    )


def _without_options(payload: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(payload, dict):
        raise PayloadError(
            f"a payload is a mapping of keywords, not {type(payload).__name__}", path=""
        )
    extra, headers = _pop_table(payload, "extra_body"), _pop_table(payload, "extra_headers")
    body = {key: payload[key] for key in payload if key not in ("timeout", "extra_query")} | extra
    named = {name.lower(): value for name, value in headers.items()}
    if "anthropic-beta" in named:
        told = _listed(named["anthropic-beta"], "extra_headers.anthropic-beta")
        body["betas"] = [*_listed(body.get("betas")), *told]
    return body


def _pop_table(payload: dict[str, JsonValue], key: str) -> dict[str, JsonValue]:
    table = payload.pop(key, None) or {}
    if not isinstance(table, dict):
        raise PayloadError(f"{key} is a {type(table).__name__}; it takes a mapping", path=key)
    return table


def _listed(betas: JsonValue, path: str = "betas") -> list[str]:
    """Names from a list, or from a header's text."""
    names = betas.split(",") if isinstance(betas, str) else betas or []
    if not isinstance(names, (list, tuple)) or not all(isinstance(each, str) for each in names):
        raise PayloadError(f"{path} takes a list of names, got {names!r:.80}", path=path)
    return [name.strip() for name in names]


def _pop_betas(body: dict[str, JsonValue], more: Iterable[str]) -> tuple[str, ...]:
    own = _listed(body.pop("betas", None))
    own += _listed(body.pop("anthropic_beta", None), "anthropic_beta")
    body.pop("anthropic_version", None)  # the clouds' version of the protocol
    return tuple(sorted({*own, *_listed(more if isinstance(more, str) else list(more))} - {""}))


def _exact_model(name: str, resolve: Callable[[str], str] | None) -> str:
    try:
        return resolve(name) if resolve else mask_account(name)
    except UnknownModelError:
        return mask_account(name)  # it has no price, but it can be counted and told apart


def fingerprint(
    payload: Mapping[str, JsonValue], *, betas: Iterable[str] = (), model: str | None = None
) -> str:
    """The recipe's version and a SHA-256 over all that can change tokens or price.

    Without `stream`, `metadata`, `diagnostics`, `stop_sequences`, sampling settings,
    `max_tokens`, what the SDK sends as headers of identity, and the tokens that log in to MCP
    servers. What `count_tokens` refuses is in it, so adding a server tool is seen.

    Args:
        payload: Plain JSON, as `to_json_value` gives it.
        betas: In any order.
        model: The exact id; without it the payload's own name counts.

    Example:
        >>> one = fingerprint({"model": "m", "messages": [], "max_tokens": 9})
        >>> one == fingerprint({"messages": [], "model": "m"})
        True
    """
    told_apart = dict(_prompt(payload))
    told_apart["model"] = model or payload.get("model")
    if names := sorted(set(betas) | set(payload.get("betas") or ())):
        told_apart["betas"] = names
    return f"{RECIPE}:{hashlib.sha256(canonical(told_apart)).hexdigest()}"


def _prompt(payload: Mapping[str, JsonValue]) -> Iterator[tuple[str, JsonValue]]:
    for key, value in payload.items():
        if key == "mcp_servers" and isinstance(value, list):
            value = [_without_token(server) for server in value]
        if key not in _NOT_PROMPT:
            yield key, value


def _without_token(server: JsonValue) -> JsonValue:
    """A log-in token changes with every log-in, and belongs in no file, not even hashed."""
    if not isinstance(server, dict):
        return server
    return {key: value for key, value in server.items() if key != "authorization_token"}


def digest_parts(
    payload: Mapping[str, JsonValue], *, betas: Iterable[str] = (), model: str | None = None
) -> dict[str, str]:
    """A short digest of each part, by which two payloads can be compared without their text.

    Shape: `model`, `system`, `tools.<name>`, `messages.<index>`, then every other key.
    """
    prompt = dict(_prompt(payload))
    parts: dict[str, JsonValue] = {"model": model or payload.get("model")}
    if "system" in prompt:
        parts["system"] = prompt.pop("system")
    parts |= _tool_parts(prompt.pop("tools", None))
    parts |= _message_parts(prompt.pop("messages", None))
    if names := sorted(set(betas) | set(payload.get("betas") or ())):
        parts["betas"] = names
    parts |= dict(sorted(prompt.items()))
    return {name: _digest(value) for name, value in parts.items()}


def _tool_parts(tools: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(tools, list):
        return {} if tools is None else {"tools": tools}
    parts: dict[str, JsonValue] = {}
    for index, tool in enumerate(tools):
        name = f"tools.{tool_name(tool, index)}"
        while name in parts:
            name += "'"
        parts[name] = tool
    return parts


def tool_name(tool: JsonValue, index: int) -> str:
    """What to call a tool: its name, its MCP server's, its type, or its place."""
    if isinstance(tool, dict):
        for key in ("name", "mcp_server_name", "type"):
            if isinstance(tool.get(key), str):
                return str(tool[key])
    return str(index)


def _message_parts(messages: JsonValue) -> dict[str, JsonValue]:
    if not isinstance(messages, list):
        return {} if messages is None else {"messages": messages}
    return {f"messages.{index}": message for index, message in enumerate(messages)}


def _digest(value: JsonValue) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()[:_DIGEST_DIGITS]


def changed_parts(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """What differs from the old payload to the new one, in words and in the prompt's order.

    Example:
        >>> changed_parts({"system": "a", "messages.1": "b"}, {"system": "c", "tools.find": "d"})
        ['system', 'tools.find (new)', 'messages.1 (removed)']
    """
    changes = [
        name if name in old else f"{name} (new)" for name in new if old.get(name) != new[name]
    ]
    gone = [f"{name} (removed)" for name in old if name not in new]
    return sorted(changes + gone, key=_place)


_ORDER = ("model", "system", "tools", "messages")


def _place(change: str) -> tuple[int, int]:
    group, _, rest = change.partition(" ")[0].partition(".")
    rank = _ORDER.index(group) if group in _ORDER else len(_ORDER)
    return rank, (read_digits(rest) or 0) if group == "messages" else 0


def describe_changes(changes: Sequence[str], most: int = 6) -> str:
    """The changed parts as one phrase, cut where it would get long.

    Example:
        >>> describe_changes(["system", "messages.0", "messages.1"], most=2)
        'system, messages.0 and 1 more'
    """
    shown = ", ".join(changes[:most])
    return f"{shown} and {len(changes) - most} more" if len(changes) > most else shown


def replace_model(payload: Payload, model: str, *, exact: str | None = None) -> Payload:
    """The same payload for another model, as a count for comparison needs it."""
    body: dict[str, Any] = {**payload.body, "model": model}
    other = read_payload(body, betas=payload.betas, resolve=lambda name: exact or name)
    return msgspec.structs.replace(other, headers=payload.headers)


_SAMPLING_TOOLS = (
    "web_search_", "web_fetch_", "code_execution_", "tool_search_tool_", "advisor_", "mcp_toolset",
)  # fmt: skip


def runs_elsewhere(tool: JsonValue) -> bool:
    """Whether Anthropic defines this tool, rather than the caller's own schema."""
    return isinstance(tool, dict) and (tool.get("type") or "custom") != "custom"


def sampling_tools(body: Mapping[str, JsonValue]) -> Iterator[str]:
    """Names of the tools that make one request sample several times."""
    for index, tool in enumerate(body.get("tools") or []):
        if runs_elsewhere(tool) and str(tool["type"]).startswith(_SAMPLING_TOOLS):
            yield tool_name(tool, index)
    for server in body.get("mcp_servers") or []:
        yield str(server.get("name", "mcp")) if isinstance(server, dict) else "mcp"

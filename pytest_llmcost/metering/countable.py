"""What `count_tokens` takes of a payload, and what it is counted without.

Data flow: a payload's body -> `countable` -> the body to count and what nobody counted;
a refusal (HTTP 400) -> `leave_out` -> the body without what the refusal names.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_llmcost.metering.json_value import JsonValue

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

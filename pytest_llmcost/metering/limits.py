"""What a payload itself says of how much its answer may be.

Data flow: a payload's body -> the longest reply, the task budget, the number of breakpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_llmcost.errors import PayloadError
from pytest_llmcost.metering.breakpoints import find_breakpoints
from pytest_llmcost.metering.json_value import JsonValue
from pytest_llmcost.metering.refusal import sampling_tools

_MORE_CALLS = ("fallbacks", "compaction", "context_management", "container")
"""With these one request may be several sampling calls, or another model's."""


def longest_reply(body: Mapping[str, JsonValue]) -> int | None:
    """Return the most output tokens that one request can be billed; None where nothing bounds it.

    `max_tokens`, thinking included, bounds one sampling call. What runs on the server makes
    several of them.
    """
    most = body.get("max_tokens")
    if not isinstance(most, int) or isinstance(most, bool) or most < 0:
        return None
    lists = (body.get("tools"), body.get("mcp_servers"))
    if not all(each is None or isinstance(each, list) for each in lists):
        return None
    if any(sampling_tools(body)) or any(body.get(key) for key in _MORE_CALLS):
        return None
    return most


def task_budget_of(body: Mapping[str, JsonValue]) -> int | None:
    """Return the tokens that the model is told to keep to, over the whole loop of a task.

    Advisory: nothing enforces it, and usage does not show it.

    Source: https://platform.claude.com/docs/en/build-with-claude/task-budgets, read 2026-11-22.
    """
    config = body.get("output_config")
    budget: Any = config.get("task_budget") if isinstance(config, Mapping) else None
    if not isinstance(budget, Mapping):
        return None
    tokens = budget.get("remaining", budget.get("total"))
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) else None


def count_breakpoints(body: Mapping[str, JsonValue]) -> int:
    """Return how many cached prefixes a prompt asks for; none where the API would refuse them."""
    try:
        return len(find_breakpoints(body))
    except PayloadError:
        return 0

"""Usage data: a response's numbers, checked one by one; errors name the dotted path.

Data flow: the `usage` of a response, or an entry of its `iterations` -> `read_usage` -> Usage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pytest_llmcost.errors import UsageDataError
from pytest_llmcost.pricing.usage import Usage

_SPLIT_KEYS = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
_TOOL_KEYS = ("web_search_requests", "web_fetch_requests", "code_execution_requests")


def read_usage(raw: Mapping[str, object], *, path: str = "usage") -> Usage:
    """Read one usage into billing categories.

    Cache writes that no lifetime is stated for are 5-minute ones. Where the split says more than
    the total, the total wins: extra writes of a server tool's loop are not in the split, and a
    stream's final total may be lower than the split of its start.

    Shape: Anthropic's `usage`; all but `input_tokens` and `output_tokens` may be null or missing.

    Raises:
        UsageDataError: naming the path of what is not a whole number of at least 0.

    Source: https://platform.claude.com/docs/en/build-with-claude/prompt-caching and the usage
    types of the SDK, release 2.12.0, read 2026-11-22.

    Example:
        >>> read_usage({"input_tokens": 3, "output_tokens": 5}).prompt_tokens
        3
    """
    split = mapping_at(raw, "cache_creation", path)
    split_path = f"{path}.cache_creation"
    short, long = (_optional_count(split, key, split_path) or 0 for key in _SPLIT_KEYS)
    total = _optional_count(raw, "cache_creation_input_tokens", path)
    written = short + long if total is None else total
    written_1h = min(long, written)
    tools = mapping_at(raw, "server_tool_use", path)
    searches = _optional_count(tools, "web_search_requests", f"{path}.server_tool_use")
    return Usage(
        input_tokens=_count(raw, "input_tokens", path),
        cache_write_5m_tokens=written - written_1h,
        cache_write_1h_tokens=written_1h,
        cache_read_tokens=_optional_count(raw, "cache_read_input_tokens", path) or 0,
        output_tokens=_count(raw, "output_tokens", path),
        web_search_requests=searches or 0,
    )


def unknown_quantities(raw: Mapping[str, object]) -> Iterator[str]:
    """Name the quantities that no price is known for: a new cache lifetime, a new server tool."""
    for table, known in (("cache_creation", _SPLIT_KEYS), ("server_tool_use", _TOOL_KEYS)):
        for key, value in mapping_at(raw, table, "usage").items():
            if key not in known and value:
                yield f"{table}.{key}"


def mapping_at(raw: Mapping[str, object], key: str, path: str) -> Mapping[str, object]:
    """Return the mapping at a key; an empty one where there is none."""
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _error(f"{path}.{key}", "an object", value)
    return value


def list_at(raw: Mapping[str, object], key: str, path: str) -> Sequence[object]:
    """Return the list at a key; an empty one where there is none."""
    value = raw.get(key)
    if not value:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _error(f"{path}.{key}", "a list", value)
    return value


def text_at(raw: Mapping[str, object], key: str) -> str | None:
    """Return the text at a key; nothing where there is none.

    Recorders in other languages write an empty object for a null.
    """
    value = raw.get(key)
    return value if isinstance(value, str) else None


def _count(raw: Mapping[str, object], key: str, path: str) -> int:
    count = _optional_count(raw, key, path)
    if count is None:
        raise _error(f"{path}.{key}", "a whole number >= 0", raw.get(key))
    return count


def _optional_count(raw: Mapping[str, object], key: str, path: str) -> int | None:
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _error(f"{path}.{key}", "a whole number >= 0", value)
    return value


def _error(path: str, expected: str, value: object) -> UsageDataError:
    shown = "nothing" if value is None else repr(value)
    return UsageDataError(f"{path}: expected {expected}, got {shown:.80}", path=path)

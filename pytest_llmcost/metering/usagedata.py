"""Usage data: a response's numbers, checked one by one; errors name the dotted path.

Data flow: the `usage` of a response, or an entry of its `iterations` -> `read_usage` -> Usage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pytest_llmcost.errors import UsageDataError
from pytest_llmcost.pricing.usage import Usage, is_quantity

_SPLIT_KEYS = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
_COUNT_KEYS = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)
_COUNTED = ("_tokens", "_requests")
"""How the names of quantities end."""
_EXPECTED = "a whole number from 0 to 10^9"
_TOOL_KEYS = ("web_search_requests", "web_fetch_requests", "code_execution_requests")


def read_usage(raw: Mapping[str, object], *, path: str = "usage") -> Usage:
    """Read one usage into billing categories.

    Cache writes that no lifetime is stated for are 5-minute ones. Where the split says more than
    the total, the total wins: extra writes of a server tool's loop are not in the split, and a
    stream's final total may be lower than the split of its start.

    Shape: Anthropic's `usage`; all but `input_tokens` and `output_tokens` may be null or missing.

    Raises:
        UsageDataError: naming the path of what is not a whole number from 0 to 10^9.

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
    """Name the quantities that no price is known for: a new cache lifetime, tool or kind of token.

    `output_tokens_details` only divides up `output_tokens`.
    """
    for key, value in raw.items():
        if value and key.endswith(_COUNTED) and key not in _COUNT_KEYS:
            yield key
    for table, known in (("cache_creation", _SPLIT_KEYS), ("server_tool_use", _TOOL_KEYS)):
        for key, value in mapping_at(raw, table, "usage").items():
            if key not in known and value:
                yield f"{table}.{key}"
    for index, entry in enumerate(list_at(raw, "iterations", "usage")):
        if isinstance(entry, Mapping):
            yield from (f"iterations[{index}].{each}" for each in unknown_quantities(entry))


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


def term_at(raw: Mapping[str, object], key: str) -> str | None:
    """Return what a usage says of the terms it is billed by: its tier, speed or geography.

    Raises:
        UsageDataError: for what is neither text nor nothing; the price may depend on it.
    """
    if raw.get(key) and not isinstance(raw[key], str):
        raise _error(f"usage.{key}", "text", raw[key])
    return text_at(raw, key) or None


def _count(raw: Mapping[str, object], key: str, path: str) -> int:
    count = _optional_count(raw, key, path)
    if count is None:
        raise _error(f"{path}.{key}", _EXPECTED, raw.get(key))
    return count


def _optional_count(raw: Mapping[str, object], key: str, path: str) -> int | None:
    value = raw.get(key)
    if value is None:
        return None
    if not is_quantity(value):
        raise _error(f"{path}.{key}", _EXPECTED, value)
    return value


def _error(path: str, expected: str, value: object) -> UsageDataError:
    try:
        shown = "nothing" if value is None else repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        shown = "a number with thousands of digits"
    return UsageDataError(f"{path}: expected {expected}, got {shown:.80}", path=path)

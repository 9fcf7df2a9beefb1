"""The Admin API's answers about usage and cost, typed: their pages, buckets and rows.

Knows no ledger and no network. Fields that are not compared are not declared and so ignored.

Source: https://platform.claude.com/docs/en/api/admin/usage_report/retrieve_messages and
https://platform.claude.com/docs/en/api/admin/cost_report/retrieve (2026-08-22). Since 2026-10-29
Anthropic calls this API legacy; it is supported, and the one that follows it is in beta.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from pytest_llmcost.errors import ReconcileError
from pytest_llmcost.prices.usage import Count, Usage

Width = Literal["1m", "1h", "1d"]
BUCKETS: dict[Width, tuple[timedelta, int]] = {
    "1m": (timedelta(minutes=1), 1440),
    "1h": (timedelta(hours=1), 168),
    "1d": (timedelta(days=1), 31),
}
"""The length of each width, and how many buckets one page holds at most."""
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_Instant = Annotated[datetime, msgspec.Meta(tz=True)]
DEFAULT_WORKSPACE = "default"
"""The user's name for the default workspace, whose id is null in the reports."""
_CENTS = re.compile(r"-?\d{1,30}(?:\.\d{1,30})?", re.ASCII)


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A span of time in UTC, without its last instant."""

    starting_at: _Instant
    ending_at: _Instant

    def meets(self, windows: Iterable[Window]) -> bool:
        """Whether a part of it lies in one of the windows."""
        return any(
            self.starting_at < each.ending_at and each.starting_at < self.ending_at
            for each in windows
        )


def cover(spans: Iterable[tuple[datetime, datetime]], width: Width) -> tuple[Window, ...]:
    """Widen the spans to whole buckets, both ends included, and join those that meet."""
    length, _ = BUCKETS[width]
    windows: list[Window] = []
    for start, end in sorted(spans):
        first = _EPOCH + (start - _EPOCH) // length * length
        after = _EPOCH + ((end - _EPOCH) // length + 1) * length
        if windows and first <= windows[-1].ending_at:
            last = windows.pop()
            first, after = last.starting_at, max(after, last.ending_at)
        windows.append(Window(starting_at=first, ending_at=after))
    return tuple(windows)


def days_of(windows: Iterable[Window]) -> tuple[Window, ...]:
    """Return the UTC days that the windows touch."""
    tick = timedelta(microseconds=1)  # a window that ends at midnight does not touch the next day
    return cover([(each.starting_at, each.ending_at - tick) for each in windows], "1d")


class CacheCreation(msgspec.Struct, frozen=True, kw_only=True):
    """Cache writes by lifetime."""

    ephemeral_5m_input_tokens: Count
    ephemeral_1h_input_tokens: Count


class ServerToolUse(msgspec.Struct, frozen=True, kw_only=True):
    """Server tools that have a fee of their own."""

    web_search_requests: Count = 0


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one bucket for one model, tier, key and workspace; null if not grouped by it."""

    uncached_input_tokens: Count
    cache_read_input_tokens: Count
    cache_creation: CacheCreation
    output_tokens: Count
    server_tool_use: ServerToolUse | None = None
    model: str | None = None
    service_tier: str | None = None
    api_key_id: str | None = None
    workspace_id: str | None = None

    @property
    def usage(self) -> Usage:
        """The row in our own categories."""
        tools = self.server_tool_use or ServerToolUse()
        return Usage(
            input_tokens=self.uncached_input_tokens,
            cache_write_5m_tokens=self.cache_creation.ephemeral_5m_input_tokens,
            cache_write_1h_tokens=self.cache_creation.ephemeral_1h_input_tokens,
            cache_read_tokens=self.cache_read_input_tokens,
            output_tokens=self.output_tokens,
            web_search_requests=tools.web_search_requests,
        )


class CostRow(msgspec.Struct, frozen=True, kw_only=True):
    """One item of a day's bill."""

    amount: str
    currency: str
    cost_type: str | None = None
    model: str | None = None
    service_tier: str | None = None
    description: str | None = None
    workspace_id: str | None = None

    @property
    def usd(self) -> Decimal:
        """The amount in US dollars; the API's is a decimal string of cents: "123.45" is $1.2345.

        Raises:
            ReconcileError: if it is not such a string, or not in US dollars.
        """
        if self.currency != "USD":
            raise ReconcileError(f"the cost report is in {self.currency!r}; list prices are in USD")
        if not _CENTS.fullmatch(self.amount):
            raise ReconcileError(
                f"amount: expected cents as a decimal string such as '123.45', got {self.amount!r}"
            )
        return Decimal(self.amount).scaleb(-2)


Row = TypeVar("Row", UsageRow, CostRow)


class Bucket(Window, Generic[Row], frozen=True, kw_only=True):
    """The rows of one span of time."""

    results: tuple[Row, ...]


class Page(msgspec.Struct, Generic[Row], frozen=True, kw_only=True):
    """One answer; if `has_more` is set, `next_page` is the token of the following one."""

    data: tuple[Bucket[Row], ...]
    has_more: bool = False
    next_page: str | None = None


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Whose usage is compared; without any id it is that of the whole organisation."""

    api_key_ids: tuple[str, ...] = ()
    workspace_ids: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.api_key_ids or self.workspace_ids)

    def keeps(self, row: UsageRow | CostRow) -> bool:
        """Whether to compare a row. The cost report has no API keys: only its workspace counts."""
        if self.workspace_ids and (row.workspace_id or DEFAULT_WORKSPACE) not in self.workspace_ids:
            return False
        key_ids = self.api_key_ids
        return isinstance(row, CostRow) or not key_ids or row.api_key_id in key_ids


def read_pages(data: bytes | str, row: type[Row], *, source: str) -> list[Page[Row]]:
    """Decode a single answer, a JSON list of them, or one after another.

    It is strict: a missing field is an error, never a zero.

    Raises:
        ReconcileError: with the source and msgspec's own message; also if there is no answer.
    """
    page: Any = Page[row]  # type: ignore[valid-type]
    pages: list[Page[Row]]
    try:
        if data.lstrip()[:1] in ("[", b"["):
            pages = msgspec.json.decode(data, type=list[page])
        else:
            pages = msgspec.json.Decoder(page).decode_lines(data)
    except (ValueError, RecursionError) as error:  # of msgspec, or it is not UTF-8
        raise ReconcileError(f"{source}: not answers of the Usage & Cost API: {error}") from None
    if not pages:
        raise ReconcileError(f"{source}: contains no answer of the Usage & Cost API")
    return pages


def read_saved_pages(source: str, row: type[Row]) -> tuple[Bucket[Row], ...]:
    """Read a file of saved answers.

    Raises:
        ReconcileError: if one is malformed, two overlap, or the last one is not the last page.
    """
    try:
        data = Path(source).read_bytes()
    except OSError as error:
        raise ReconcileError(f"{source}: cannot be read ({error.strerror or error})") from None
    pages = read_pages(data, row, source=source)
    if pages[-1].has_more:
        raise ReconcileError(
            f"{source}: the last of {len(pages)} saved answers has a next page; "
            "save the remaining pages in the same file"
        )
    buckets = sorted((each for page in pages for each in page.data), key=attrgetter("starting_at"))
    for one, other in pairwise(buckets):
        if other.starting_at < one.ending_at:
            raise ReconcileError(
                f"{source}: two saved buckets have the time of {other.starting_at:%Y-%m-%d %H:%M}, "
                "which would count twice; save each answer once"
            )
    return tuple(buckets)

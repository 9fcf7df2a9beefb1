"""What the organisation was billed: the Admin API's answers, typed, and cents made dollars.

Data flow: an answer's text, fetched or saved -> `read_usage_pages`, `read_cost_pages` -> buckets.

Source: https://platform.claude.com/docs/en/api/admin/usage_report/retrieve_messages and
https://platform.claude.com/docs/en/api/admin/cost_report/retrieve (2026-08-22).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Generic, TypeVar

import msgspec

from pytest_llmcost.errors import ReconcileError
from pytest_llmcost.prices.usage import Count, Usage
from pytest_llmcost.reconcile.windows import Window

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
_CENTS = re.compile(r"-?\d{1,30}(?:\.\d{1,30})?", re.ASCII)


class CacheCreation(msgspec.Struct, frozen=True, kw_only=True):
    """Cache writes by lifetime."""

    ephemeral_5m_input_tokens: Count
    ephemeral_1h_input_tokens: Count


class ServerToolUse(msgspec.Struct, frozen=True, kw_only=True):
    """Server tools that have a fee of their own."""

    web_search_requests: Count = 0


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one bucket under one combination of dimensions; null where not grouped by it."""

    uncached_input_tokens: Count
    cache_read_input_tokens: Count
    cache_creation: CacheCreation
    output_tokens: Count
    server_tool_use: ServerToolUse | None = None
    model: str | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    context_window: str | None = None
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
    """One item of a day's bill; its amount is in cents."""

    amount: str
    currency: str
    cost_type: str | None = None
    token_type: str | None = None
    model: str | None = None
    service_tier: str | None = None
    description: str | None = None
    workspace_id: str | None = None

    @property
    def usd(self) -> Decimal:
        """The amount in US dollars."""
        if self.currency != "USD":
            raise ReconcileError(
                f"the cost report is in {self.currency!r}, and list prices are in USD alone"
            )
        return usd_of_cents(self.amount)


Row = TypeVar("Row", UsageRow, CostRow)


class Bucket(msgspec.Struct, Generic[Row], frozen=True, kw_only=True):
    """The rows of one span of time."""

    starting_at: Instant
    ending_at: Instant
    results: tuple[Row, ...]

    def lies_in(self, windows: Sequence[Window]) -> bool:
        """Whether some part of it belongs to one of the windows."""
        span = Window(starting_at=self.starting_at, ending_at=self.ending_at)
        return any(span.overlaps(window) for window in windows)


class Page(msgspec.Struct, Generic[Row], frozen=True, kw_only=True):
    """One answer; `next_page` leads to the next one."""

    data: tuple[Bucket[Row], ...]
    has_more: bool = False
    next_page: str | None = None


def usd_of_cents(amount: str) -> Decimal:
    """Return dollars for the API's decimal string of cents; the only place where this happens.

    Units: cents in, US dollars out: "123.45" is $1.2345.

    Raises:
        ReconcileError: when it is not such a string.

    Source: https://platform.claude.com/docs/en/api/admin/cost_report/retrieve (2026-08-22)

    Example:
        >>> usd_of_cents("123.45")
        Decimal('1.2345')
    """
    if not _CENTS.fullmatch(amount):
        raise ReconcileError(
            f"amount: expected cents as a decimal string such as '123.45', got {amount!r}"
        )
    return Decimal(amount).scaleb(-2)


def read_page(text: str | bytes, row: type[Row], *, source: str) -> Page[Row]:
    """Decode one answer strictly; a missing or odd field is an error, never a zero.

    Raises:
        ReconcileError: naming the source, the dotted path, what was expected and what was got.
    """
    try:
        page: Page[Row] = msgspec.json.decode(text, type=Page[row])  # type: ignore[valid-type]
    except msgspec.DecodeError as error:
        raise ReconcileError(f"{source}: not an answer of the Usage & Cost API: {error}") from None
    return page


def read_saved_pages(text: bytes, row: type[Row], *, source: str) -> tuple[Bucket[Row], ...]:
    """Decode saved answers: one, a list of them, or one a line.

    Raises:
        ReconcileError: when one is malformed, or the last of them is not the last page.
    """
    pages = [
        read_page(part, row, source=f"{source}, page {number}")
        for number, part in enumerate(_parts(text, source), 1)
    ]
    if not pages or pages[-1].has_more:
        raise ReconcileError(
            f"{source}: the last of {len(pages)} saved answers says has_more; "
            "save the following pages into it, too (a list of answers, or one a line)"
        )
    return tuple(bucket for page in pages for bucket in page.data)


def _parts(text: bytes, source: str) -> list[bytes]:
    """The raw JSON of every saved answer; kept raw so that each is decoded once and strictly."""
    stripped = text.strip()
    try:
        if stripped.startswith(b"["):
            return [bytes(part) for part in msgspec.json.decode(stripped, type=list[msgspec.Raw])]
        lines = stripped.splitlines()
        if len(lines) > 1 and all(_is_json(line) for line in lines if line.strip()):
            return [line for line in lines if line.strip()]
    except msgspec.DecodeError as error:
        raise ReconcileError(f"{source}: not JSON: {error}") from None
    return [stripped]


def _is_json(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except msgspec.DecodeError:
        return False
    return True

"""The Usage & Cost Admin API: its answers, typed, and a client built on the anthropic SDK.

Fields that are not compared are not declared and so ignored. The SDK (2.12) has no resource for
these two reports, so its low-level `get` fetches the text. The Admin key is read from the
environment and sent as `x-api-key`; it must appear in no message, no exception and no file.

Source: https://platform.claude.com/docs/en/api/admin/usage_report/retrieve_messages and
https://platform.claude.com/docs/en/api/admin/cost_report/retrieve (2026-08-22). Since 2026-10-29
Anthropic calls this API legacy; it is supported, and the one that follows it is in beta.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from itertools import chain, count, pairwise
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec

from pytest_llmcost.errors import ReconcileError
from pytest_llmcost.prices.usage import FEES, Count, Usage

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
_Cents = Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,30}(\.[0-9]{1,30})?\Z")]
KEY_VARIABLE = "ANTHROPIC_ADMIN_KEY"
_WHERE_TO_GET_A_KEY = (
    "an admin of the organisation creates one in the Claude Console: Settings, Admin keys"
)
_REMEDIES = {
    400: "the API may no longer keep this time, or does not know an id",
    401: f"the key in {KEY_VARIABLE} is wrong, revoked or not an Admin key; {_WHERE_TO_GET_A_KEY}",
    403: f"the key in {KEY_VARIABLE} may not read usage and cost; use an Admin key of an "
    "organisation (individual accounts have none)",
    404: "this address does not have the Usage & Cost API; is ANTHROPIC_BASE_URL a gateway?",
    429: "too many requests; wait a minute, or use --wait",
}


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
            **{name: getattr(tools, name) for name in FEES},
        )


class CostRow(msgspec.Struct, frozen=True, kw_only=True):
    """One item of a day's bill."""

    amount: _Cents
    currency: Literal["USD"]
    cost_type: str | None = None
    model: str | None = None
    service_tier: str | None = None
    workspace_id: str | None = None

    @property
    def usd(self) -> Decimal:
        """The amount in US dollars; the API's is a decimal string of cents: "123.45" is $1.2345."""
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

    def keep(self, buckets: Iterable[Bucket[Row]], windows: Sequence[Window]) -> Iterator[Row]:
        """Yield the rows of the windows to compare; of cost, which has no keys, by workspace."""
        for row in (row for each in buckets if each.meets(windows) for row in each.results):
            workspace = row.workspace_id or DEFAULT_WORKSPACE
            is_kept = not self.workspace_ids or workspace in self.workspace_ids
            if isinstance(row, UsageRow) and self.api_key_ids:
                is_kept = is_kept and row.api_key_id in self.api_key_ids
            if is_kept:
                yield row


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
        OSError: it cannot be read.
        ReconcileError: if one is malformed, two overlap, or the last one is not the last page.
    """
    pages = read_pages(Path(source).read_bytes(), row, source=source)
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


class TooManyRequests(ReconcileError):
    """The API still answered 429 after the SDK's retries."""


class AdminApi:
    """Fetches usage and cost, one GET request a page."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Build the client from the environment's key and, as the SDK does, its base URL.

        Raises:
            ReconcileError: there is no key, none that can be sent, or the address would expose it.
        """
        from anthropic import Anthropic, Omit

        self._key = environment.get(KEY_VARIABLE, "").strip()
        if not re.fullmatch(r"[\x21-\x7e]+", self._key):  # else no header can hold it
            raise ReconcileError(
                f"no Admin key: set {KEY_VARIABLE} to one, without spaces and line breaks "
                f"({_WHERE_TO_GET_A_KEY}), or compare with saved answers: --usage FILE"
            )
        url = environment.get("ANTHROPIC_BASE_URL", "").strip() or "https://api.anthropic.com"
        try:
            target = urlsplit(url)
            scheme, host, _ = target.scheme, target.hostname, target.port
        except ValueError:
            scheme, host = "", None
        is_own_machine = host in ("localhost", "127.0.0.1", "::1") and scheme == "http"
        if not host or not (scheme == "https" or is_own_machine):
            # Without the address, which may contain a password.
            raise ReconcileError(
                "an Admin key is sent over https only; unset ANTHROPIC_BASE_URL or set it to an "
                "https address"
            )
        # SDK 2 sends a key as `Authorization: Bearer`, which these endpoints take for an OAuth
        # token. With an explicit key the SDK looks for no other credential.
        headers: dict[str, Any] = {
            "x-api-key": self._key,
            "Authorization": Omit(),
            "anthropic-version": "2023-06-01",
        }
        self._client = Anthropic(api_key=self._key, base_url=url, default_headers=headers)
        self.host = host
        """Where requests go to."""

    def usage(
        self, windows: Iterable[Window], width: Width, filters: Filters
    ) -> tuple[Bucket[UsageRow], ...]:
        """Return the usage in the windows."""
        # The default workspace has no id to filter by: fetch all, and filter the rows.
        needs_all = DEFAULT_WORKSPACE in filters.workspace_ids
        params = {
            "bucket_width": width,
            "group_by[]": ("model", "workspace_id", "api_key_id", "service_tier"),
            "api_key_ids[]": filters.api_key_ids,
            "workspace_ids[]": () if needs_all else filters.workspace_ids,
        }
        path = "/v1/organizations/usage_report/messages"
        return self._fetch(path, UsageRow, windows, width, params)

    def cost(self, windows: Iterable[Window]) -> tuple[Bucket[CostRow], ...]:
        """Return the cost of the windows' days; this report cannot be filtered by API key."""
        params = {"group_by[]": ["workspace_id", "description"]}
        path = "/v1/organizations/cost_report"
        return self._fetch(path, CostRow, days_of(windows), "1d", params)

    def _fetch(
        self,
        path: str,
        row: type[Row],
        windows: Iterable[Window],
        width: Width,
        params: Mapping[str, object],
    ) -> tuple[Bucket[Row], ...]:
        """Fetch every page of every window."""
        length, most = BUCKETS[width]
        found: list[Bucket[Row]] = []
        for window in windows:
            # One bucket more than needed, because `ending_at` may be exclusive.
            end = window.ending_at + length
            query = {
                **params,
                "starting_at": f"{window.starting_at:%Y-%m-%dT%H:%M:%SZ}",
                "ending_at": f"{end:%Y-%m-%dT%H:%M:%SZ}",
                "limit": min((end - window.starting_at) // length, most),
            }
            followed = set[str]()
            for number in count(1):
                source = f"{path}, page {number}"
                *_, last = pages = read_pages(self._get(path, query), row, source=source)
                buckets = chain.from_iterable(page.data for page in pages)
                found += [bucket for bucket in buckets if bucket.meets([window])]
                if not last.has_more:
                    break
                if not last.next_page or last.next_page in followed:
                    raise ReconcileError(f"{source}: has_more is set, but there is no next page")
                followed.add(last.next_page)
                query["page"] = last.next_page
        return tuple(found)

    def _get(self, path: str, query: Mapping[str, object]) -> str:
        """Fetch the text of one page."""
        from anthropic import AnthropicError, APIStatusError

        kind = ReconcileError
        try:
            return self._client.get(
                f"{path}?{urlencode(query, doseq=True)}",
                cast_to=str,
                options={"follow_redirects": False},
            )
        except APIStatusError as error:
            # A gateway's body may be a page of HTML; only the API's own words are repeated.
            detail = error.body.get("error") if isinstance(error.body, dict) else None
            message = detail.get("message") if isinstance(detail, dict) else None
            said = f' "{message}"' if message else ""
            remedy = _REMEDIES.get(error.status_code, "try again later")
            problem = f"{path} answered {error.status_code}{said}: {remedy}"
            if error.status_code == 429:
                kind = TooManyRequests
        except AnthropicError as error:
            cause = type(error.__cause__ or error).__name__
            problem = (
                f"could not reach {self.host} for {path} ({cause}); check the network and the "
                "proxy, or compare with saved answers: --usage FILE"
            )
        # Raised outside the handlers: an SDK exception holds the request and with it the key, and
        # must not become the context of ours.
        raise kind(problem.replace(self._key, "(the key)"))

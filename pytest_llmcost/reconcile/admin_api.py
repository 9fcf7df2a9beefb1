"""The Usage & Cost Admin API, asked through the anthropic SDK's client.

The SDK (2.12) has no resource for these two reports, so its low-level `get` fetches the text
and `bill` decodes it. The Admin key is read from the environment, goes out as `x-api-key`
and appears in no message, no exception and no file.

Data flow: windows -> one request a page -> buckets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import msgspec

from pytest_llmcost.errors import ReconcileError
from pytest_llmcost.reconcile.usage_report import Bucket, CostRow, Row, UsageRow, read_page
from pytest_llmcost.reconcile.windows import BUCKETS, Width, Window, whole_days

if TYPE_CHECKING:
    from anthropic import Anthropic, APIStatusError


KEY_VARIABLE = "ANTHROPIC_ADMIN_KEY"
DEFAULT_WORKSPACE = "default"
"""How the user names the workspace that the API shows as null."""
_API_VERSION = "2023-06-01"
"""The version whose schema the documentation of these endpoints shows."""
_SPEED_BETA = "fast-mode-2026-02-01"
"""Without it the usage report refuses to group by speed."""
_USAGE_PATH = "/v1/organizations/usage_report/messages"
_COST_PATH = "/v1/organizations/cost_report"
_USAGE_GROUPS = (
    "model",
    "workspace_id",
    "api_key_id",
    "service_tier",
    "speed",
    "inference_geo",
    "context_window",
)
_MOST_PAGES = 1000
_OWN_MACHINE = ("localhost", "127.0.0.1", "::1")
_HOME = "https://api.anthropic.com"
_ADMIN_PREFIX = "sk-ant-" + "admin"
_PLAIN_KEY = re.compile(r"sk-ant-(?!admin)")
_SENDABLE = re.compile(r"[\x21-\x7e]+")


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Whose usage is meant; nothing is the whole organisation's."""

    api_key_ids: tuple[str, ...] = ()
    workspace_ids: tuple[str, ...] = ()

    def keeps(self, row: UsageRow | CostRow) -> bool:
        """Whether a row belongs to them, as far as it says whose it is."""
        if self.workspace_ids and (row.workspace_id or DEFAULT_WORKSPACE) not in self.workspace_ids:
            return False
        if isinstance(row, CostRow) or not self.api_key_ids:
            return True
        return row.api_key_id in self.api_key_ids


def read_admin_key(environment: Mapping[str, str]) -> str:
    """Return the Admin key of the environment.

    Raises:
        ReconcileError: when there is none, or it cannot be one.
    """
    key = environment.get(KEY_VARIABLE, "").strip()
    if not key:
        raise ReconcileError(
            f"no Admin key: set {KEY_VARIABLE} (an organisation's admin makes one in the Claude "
            "Console under Settings, Admin keys), or reconcile saved answers with --usage FILE"
        )
    if not _SENDABLE.fullmatch(key):
        raise ReconcileError(
            f"{KEY_VARIABLE} holds {len(key)} characters that cannot all stand in a header; "
            "is there a line break or a quotation mark in it?"
        )
    if _PLAIN_KEY.match(key):
        raise ReconcileError(
            f"{KEY_VARIABLE} holds an ordinary API key; usage and cost need an Admin key, "
            f"which begins with {_ADMIN_PREFIX} (Claude Console, Settings, Admin keys)"
        )
    return key


class AskedTooOften(ReconcileError):
    """The API answered 429, and went on after the SDK's retries."""


class AdminApi:
    """Asks for usage and cost; one request a page, nothing else."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Build the client from the environment's key and, as the SDK does, its base URL."""
        self._key = read_admin_key(environment)
        self._client = _client(self._key, _base_url(environment))

    @property
    def host(self) -> str:
        """Where the requests go, to be shown before they do."""
        return str(self._client.base_url.host)

    def usage(
        self, windows: Sequence[Window], width: Width, filters: Filters
    ) -> tuple[Bucket[UsageRow], ...]:
        """Return the usage of the windows, grouped by everything that the report knows."""
        params: dict[str, object] = {"bucket_width": width, "group_by": list(_USAGE_GROUPS)}
        workspaces = [name for name in filters.workspace_ids if name != DEFAULT_WORKSPACE]
        if filters.api_key_ids:
            params["api_key_ids"] = list(filters.api_key_ids)
        if workspaces and len(workspaces) == len(filters.workspace_ids):
            params["workspace_ids"] = workspaces
        return self._all(_USAGE_PATH, UsageRow, windows, width, params)

    def cost(self, windows: Sequence[Window]) -> tuple[Bucket[CostRow], ...]:
        """Return the cost of the windows' days; this report knows no API keys."""
        params: dict[str, object] = {"group_by": ["workspace_id", "description"]}
        return self._all(_COST_PATH, CostRow, whole_days(windows), "1d", params)

    def _all(
        self,
        path: str,
        row: type[Row],
        windows: Sequence[Window],
        width: Width,
        params: Mapping[str, object],
    ) -> tuple[Bucket[Row], ...]:
        found: list[Bucket[Row]] = []
        for window in windows:
            found += self._window(path, row, window, width, params)
        return tuple(found)

    def _window(
        self,
        path: str,
        row: type[Row],
        window: Window,
        width: Width,
        params: Mapping[str, object],
    ) -> list[Bucket[Row]]:
        """Fetch every page; one bucket more than needed, for the end may be exclusive."""
        length, most = BUCKETS[width]
        wanted = (window.ending_at - window.starting_at) // length + 1
        query = {
            **params,
            "starting_at": _rfc3339(window.starting_at),
            "ending_at": _rfc3339(window.ending_at + length),
            "limit": min(wanted, most),
        }
        found: list[Bucket[Row]] = []
        for number in range(1, _MOST_PAGES + 1):
            source = f"{path}, page {number}"
            page = read_page(self._get(path, query), row, source=source)
            found += [bucket for bucket in page.data if bucket.lies_in([window])]
            if not page.has_more:
                return found
            if not page.next_page or page.next_page == query.get("page"):
                raise ReconcileError(f"{source}: says has_more, but names no further page")
            query["page"] = page.next_page
        raise ReconcileError(f"{path}: more than {_MOST_PAGES} pages; reconcile fewer ledgers")

    def _get(self, path: str, query: Mapping[str, object]) -> str:
        """Fetch one page's text.

        The error is raised outside the handler: an SDK exception holds the request and with
        it the key, and must not hang on ours as its context.
        """
        from anthropic import AnthropicError, APIStatusError, RateLimitError

        kind = ReconcileError
        try:
            return self._client.get(
                f"{path}?{_query(query)}", cast_to=str, options={"follow_redirects": False}
            )
        except APIStatusError as error:
            problem = _explain(error, path)
            if isinstance(error, RateLimitError):
                kind = AskedTooOften
        except AnthropicError as error:
            cause = type(error.__cause__ or error).__name__
            problem = (
                f"could not reach {self.host} for {path} ({cause}); is the network or a proxy "
                "in the way? Saved answers need none: --usage FILE"
            )
        raise kind(problem.replace(self._key, "(the key)"))


def _base_url(environment: Mapping[str, str]) -> str:
    """Return where to ask; the key never goes unencrypted to another machine.

    Raises:
        ReconcileError: when the address is none, or would show the key to the network.
    """
    url = environment.get("ANTHROPIC_BASE_URL", "").strip() or _HOME
    target = urlsplit(url)
    schemes = ("https", "http") if target.hostname in _OWN_MACHINE else ("https",)
    if not target.hostname or target.scheme not in schemes:
        raise ReconcileError(
            "an Admin key is sent over https alone, and ANTHROPIC_BASE_URL begins with "
            f"{target.scheme}://{target.hostname}; unset it, or give an https address"
        )
    return url


def _client(key: str, base_url: str) -> Anthropic:
    """Return an SDK client that sends the key as `x-api-key` and no `Authorization` header.

    SDK 2 sends keys as `Authorization: Bearer`, which these endpoints take for an OAuth token.
    Given a key it looks for no other credential in environment or profile.
    """
    from anthropic import Anthropic, Omit

    headers: dict[str, Any] = {
        "x-api-key": key,
        "Authorization": Omit(),
        "anthropic-version": _API_VERSION,
        "anthropic-beta": _SPEED_BETA,
    }
    return Anthropic(api_key=key, base_url=base_url, default_headers=headers)


def _query(parameters: Mapping[str, object]) -> str:
    """Write a query; SDK 2 puts the brackets behind a list's name itself, older ones do not."""
    named = {f"{k}[]" if isinstance(v, list) else k: v for k, v in parameters.items()}
    return urlencode(named, doseq=True)


def _rfc3339(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


_REMEDIES = {
    401: f"the key in {KEY_VARIABLE} is wrong, revoked or not an Admin key; make one in the "
    "Claude Console under Settings, Admin keys",
    403: f"the key in {KEY_VARIABLE} may not read usage and cost: it takes an Admin key of an "
    "organisation (individual accounts have none)",
    404: "this address does not speak the Usage & Cost API; is ANTHROPIC_BASE_URL a gateway?",
    429: "asked too often; wait a minute, or let --wait do so",
}


def _explain(error: APIStatusError, path: str) -> str:
    """Say what was refused, in the API's own words, and what to do."""
    said = _api_message(error.body)
    if error.status_code == 400:
        remedy = "a span outside what the API keeps, an unknown id, or a filter it does not know"
    else:
        remedy = _REMEDIES.get(error.status_code, "try again later")
    return f"{path} answered {error.status_code}{said}: {remedy}"


def _api_message(body: object) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return f' "{message}"' if isinstance(message, str) else ""

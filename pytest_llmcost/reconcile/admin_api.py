"""A client of the Usage & Cost Admin API, built on the anthropic SDK.

The SDK (2.12) has no resource for these two reports, so its low-level `get` fetches the text and
`usage_report` decodes it. The Admin key is read from the environment and sent as `x-api-key`; it
must appear in no message, no exception and no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from pytest_llmcost.errors import ReconcileError
from pytest_llmcost.reconcile.usage_report import (
    BUCKETS,
    DEFAULT_WORKSPACE,
    Bucket,
    CostRow,
    Filters,
    Row,
    UsageRow,
    Width,
    Window,
    days_of,
    read_pages,
)

KEY_VARIABLE = "ANTHROPIC_ADMIN_KEY"
_WRONG_KINDS = {"sk-ant-" + "api": "an ordinary API key", "sk-ant-" + "oat": "an OAuth token"}
"""What the reports do not take as `x-api-key`. They do take keys of people and service accounts.

Source: https://platform.claude.com/docs/manage-claude/admin-api, read 2026-11-26.
"""
_WHERE_TO_GET_A_KEY = (
    "an admin of the organisation creates one in the Claude Console: Settings, Admin keys"
)
_USAGE_PATH = "/v1/organizations/usage_report/messages"
_COST_PATH = "/v1/organizations/cost_report"
_MOST_PAGES = 1000
_OWN_MACHINE = ("localhost", "127.0.0.1", "::1")
_REMEDIES = {
    400: "the API may no longer keep this time, or does not know an id",
    401: f"the key in {KEY_VARIABLE} is wrong, revoked or not an Admin key; {_WHERE_TO_GET_A_KEY}",
    403: f"the key in {KEY_VARIABLE} may not read usage and cost; use an Admin key of an "
    "organisation (individual accounts have none)",
    404: "this address does not have the Usage & Cost API; is ANTHROPIC_BASE_URL a gateway?",
    429: "too many requests; wait a minute, or use --wait",
}


class TooManyRequests(ReconcileError):
    """The API still answered 429 after the SDK's retries."""


def read_admin_key(environment: Mapping[str, str]) -> str:
    """Return the Admin key from the environment.

    Raises:
        ReconcileError: if there is none, or if the text cannot be an Admin key.
    """
    key = environment.get(KEY_VARIABLE, "").strip()
    if not key:
        raise ReconcileError(
            f"no Admin key: set {KEY_VARIABLE} ({_WHERE_TO_GET_A_KEY}), or compare with saved "
            "answers: --usage FILE"
        )
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise ReconcileError(
            f"{KEY_VARIABLE} has characters that an HTTP header cannot contain; "
            "check it for line breaks, spaces and quotation marks"
        )
    for prefix, kind in _WRONG_KINDS.items():
        if key.startswith(prefix):
            raise ReconcileError(
                f"{KEY_VARIABLE} is {kind}; usage and cost need an Admin key "
                f"({_WHERE_TO_GET_A_KEY}), or a personal or service account key of the whole "
                "organisation"
            )
    return key


class AdminApi:
    """Fetches usage and cost, one GET request a page."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Build the client from the environment's key and, as the SDK does, its base URL.

        Raises:
            ReconcileError: there is no key, or the address would expose it.
        """
        from anthropic import Anthropic, Omit

        self._key = read_admin_key(environment)
        url = environment.get("ANTHROPIC_BASE_URL", "").strip() or "https://api.anthropic.com"
        target = urlsplit(url)
        schemes = ("https", "http") if target.hostname in _OWN_MACHINE else ("https",)
        if not target.hostname or target.scheme not in schemes:
            # The host alone: an address may contain a password.
            raise ReconcileError(
                "an Admin key is sent over https only, but ANTHROPIC_BASE_URL starts with "
                f"{target.scheme}://{target.hostname}; unset it or set an https address"
            )
        # SDK 2 sends a key as `Authorization: Bearer`, which these endpoints take for an OAuth
        # token. With an explicit key the SDK looks for no other credential.
        headers: dict[str, Any] = {
            "x-api-key": self._key,
            "Authorization": Omit(),
            "anthropic-version": "2023-06-01",
        }
        self._client = Anthropic(api_key=self._key, base_url=url, default_headers=headers)

    @property
    def host(self) -> str:
        """The host that requests go to."""
        return str(self._client.base_url.host)

    def usage(
        self, windows: Iterable[Window], width: Width, filters: Filters
    ) -> tuple[Bucket[UsageRow], ...]:
        """Return the usage in the windows."""
        groups = ["model", "workspace_id", "api_key_id", "service_tier"]
        params: dict[str, object] = {"bucket_width": width, "group_by[]": groups}
        if filters.api_key_ids:
            params["api_key_ids[]"] = filters.api_key_ids
        # The default workspace has no id to filter by: fetch all, and filter the rows.
        if filters.workspace_ids and DEFAULT_WORKSPACE not in filters.workspace_ids:
            params["workspace_ids[]"] = filters.workspace_ids
        return self._fetch(_USAGE_PATH, UsageRow, windows, width, params)

    def cost(self, windows: Iterable[Window]) -> tuple[Bucket[CostRow], ...]:
        """Return the cost of the windows' days; this report cannot be filtered by API key."""
        params = {"group_by[]": ["workspace_id", "description"]}
        return self._fetch(_COST_PATH, CostRow, days_of(windows), "1d", params)

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
            for number in range(1, _MOST_PAGES + 1):
                source = f"{path}, page {number}"
                page = read_pages(self._get(path, query), row, source=source)[0]
                found += [bucket for bucket in page.data if bucket.meets([window])]
                if not page.has_more:
                    break
                if not page.next_page or page.next_page == query.get("page"):
                    raise ReconcileError(f"{source}: has_more is set, but there is no next page")
                query["page"] = page.next_page
            else:
                raise ReconcileError(
                    f"{path}: more than {_MOST_PAGES} pages; reconcile fewer ledgers at a time"
                )
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

"""A stand-in for the Usage & Cost Admin API on loopback, as strict as its documentation.

Source: https://platform.claude.com/docs/en/api/admin/usage_report/retrieve_messages and
https://platform.claude.com/docs/en/api/admin/cost_report/retrieve (2026-08-22).

It holds requests as they were billed and answers like the real one: buckets, paging by limit and
`next_page`, filters, groups, its error shape, the Admin key in `x-api-key` and nowhere else.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

ADMIN_KEY = "sk-ant-" + "admin01-stand-in"
"""Put together so that nothing key-shaped stands in the repository."""
PLAIN_KEY = "not-an-admin-key"

LENGTHS = {"1m": timedelta(minutes=1), "1h": timedelta(hours=1), "1d": timedelta(days=1)}
LIMITS = {"1m": (60, 1440), "1h": (24, 168), "1d": (7, 31)}
USAGE_PATH = "/v1/organizations/usage_report/messages"
COST_PATH = "/v1/organizations/cost_report"
FILTERS = {"api_key_ids": "api_key_id", "workspace_ids": "workspace_id", "models": "model"}
USAGE_GROUPS = {"api_key_id", "model", "service_tier", "workspace_id"}
"""Those that the command asks for."""


@dataclass(frozen=True, kw_only=True)
class Booked:
    """One request as the organisation is billed for it."""

    at: datetime
    model: str | None
    uncached_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0
    output_tokens: int = 0
    web_search_requests: int = 0
    service_tier: str = "standard"
    api_key_id: str | None = "apikey_ci"
    workspace_id: str | None = None
    cents: str = "0"
    """What its tokens cost; the test states it, so that it does not come from our own card."""
    visible_after: int = 0
    """Shown from this many usage requests on: late data."""


@dataclass(frozen=True, kw_only=True)
class Charged:
    """A row of the cost report that is not about tokens."""

    at: datetime
    cost_type: str
    cents: str
    workspace_id: str | None = None
    currency: str = "USD"


class Refused(Exception):
    """An error answer in Anthropic's shape."""

    def __init__(self, status: int, kind: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.headers = status, kind, message, headers


@dataclass
class Organisation:
    """The state behind the endpoints, and what was asked of it."""

    booked: list[Booked] = field(default_factory=list)
    charged: list[Charged] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)
    """Given out first, one a request."""
    raw_answers: list[str] = field(default_factory=list)
    """Sent as they are, after the refusals."""
    keeps_since: datetime = datetime(2025, 1, 1, tzinfo=timezone.utc)
    requests: list[tuple[str, dict[str, list[str]], dict[str, str]]] = field(default_factory=list)
    base_url: str = ""

    @property
    def usage_requests(self) -> int:
        """First pages of usage that were asked for."""
        return sum(path == USAGE_PATH and "page" not in query for path, query, _ in self.requests)

    def answer(self, path: str, query: dict[str, list[str]], headers: dict[str, str]) -> str:
        """Answer a GET as the API does."""
        self.requests.append((path, query, headers))
        _check_key(headers)
        if self.refusals:
            raise self.refusals.pop(0)
        if self.raw_answers:
            return self.raw_answers.pop(0)
        if path == USAGE_PATH:
            return json.dumps(self._usage(query))
        if path == COST_PATH:
            return json.dumps(self._cost(query))
        raise Refused(404, "not_found_error", "Not found")

    def _usage(self, query: dict[str, list[str]]) -> dict[str, Any]:
        groups = set(query.pop("group_by[]", []))
        if groups - USAGE_GROUPS:
            raise _invalid(f"group_by: unknown {sorted(groups - USAGE_GROUPS)}")
        chosen = {FILTERS[name]: query.pop(f"{name}[]", None) for name in FILTERS}
        rows = [
            each
            for each in self.booked
            if each.visible_after < self.usage_requests
            and all(
                wanted is None or getattr(each, key) in wanted for key, wanted in chosen.items()
            )
        ]
        width = query.get("bucket_width", ["1d"])[0]
        return self._paged(query, width, lambda start, end: _usage_rows(rows, start, end, groups))

    def _cost(self, query: dict[str, list[str]]) -> dict[str, Any]:
        groups = set(query.pop("group_by[]", []))
        if groups - {"workspace_id", "description"}:
            raise _invalid(f"group_by: unknown {sorted(groups)}")
        return self._paged(query, "1d", lambda start, end: self._cost_rows(start, end))

    def _cost_rows(self, start: datetime, end: datetime) -> list[dict[str, Any]]:
        rows = [
            {**_token_cost(each), "workspace_id": each.workspace_id}
            for each in self.booked
            if start <= each.at < end and each.service_tier != "priority"
        ]
        return rows + [
            {
                "amount": each.cents,
                "currency": each.currency,
                "cost_type": each.cost_type,
                "token_type": None,
                "model": None,
                "service_tier": None,
                "description": f"{each.cost_type} usage",
                "workspace_id": each.workspace_id,
            }
            for each in self.charged
            if start <= each.at < end
        ]

    def _paged(self, query: dict[str, list[str]], width: str, rows: Any) -> dict[str, Any]:
        unknown = {*query} - {"starting_at", "ending_at", "bucket_width", "limit", "page"}
        if unknown or width not in LENGTHS:
            raise _invalid(f"unexpected query parameters: {sorted(unknown) or width}")
        length, (default, most) = LENGTHS[width], LIMITS[width]
        limit = int(query.get("limit", [str(default)])[0])
        if not 1 <= limit <= most:
            raise _invalid(f"limit: at most {most} for bucket_width {width}")
        first = _floor(_instant(query, "starting_at"), length)
        if first < self.keeps_since:
            raise _invalid(f"starting_at: data is kept since {self.keeps_since:%Y-%m-%d}")
        start = datetime.fromisoformat(query["page"][0][5:]) if "page" in query else first
        last = _instant(query, "ending_at")
        data: list[dict[str, Any]] = []
        while start + length <= last and len(data) < limit:
            data.append(_bucket(start, start + length, rows(start, start + length)))
            start += length
        more = start + length <= last
        page = f"page_{start.isoformat()}" if more else None
        return {"data": data, "has_more": more, "next_page": page}


def _check_key(headers: dict[str, str]) -> None:
    if "authorization" in headers:
        raise Refused(401, "authentication_error", "Invalid bearer token")
    key = headers.get("x-api-key")
    if key == PLAIN_KEY:
        raise Refused(403, "permission_error", "This key may not use the Admin API")
    if key != ADMIN_KEY:
        raise Refused(401, "authentication_error", f"invalid x-api-key {key}")


def _invalid(message: str) -> Refused:
    return Refused(400, "invalid_request_error", message)


def _instant(query: dict[str, list[str]], name: str) -> datetime:
    if name not in query:
        raise _invalid(f"{name}: Field required")
    return datetime.fromisoformat(query[name][0].replace("Z", "+00:00"))


def _floor(instant: datetime, length: timedelta) -> datetime:
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    return epoch + (instant - epoch) // length * length


def _bucket(start: datetime, end: datetime, results: list[dict[str, Any]]) -> dict[str, Any]:
    return {"starting_at": _text(start), "ending_at": _text(end), "results": results}


def _text(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def _usage_rows(
    booked: list[Booked], start: datetime, end: datetime, groups: set[str]
) -> list[dict[str, Any]]:
    sums: dict[tuple[str | None, ...], list[Booked]] = defaultdict(list)
    names = sorted(USAGE_GROUPS)
    for each in booked:
        if start <= each.at < end:
            sums[tuple(getattr(each, n) if n in groups else None for n in names)].append(each)
    return [{**dict(zip(names, key, strict=True)), **_sum(rows)} for key, rows in sums.items()]


def _sum(rows: list[Booked]) -> dict[str, Any]:
    return {
        "uncached_input_tokens": sum(row.uncached_input_tokens for row in rows),
        "cache_read_input_tokens": sum(row.cache_read_input_tokens for row in rows),
        "cache_creation": {
            "ephemeral_5m_input_tokens": sum(row.ephemeral_5m_input_tokens for row in rows),
            "ephemeral_1h_input_tokens": sum(row.ephemeral_1h_input_tokens for row in rows),
        },
        "output_tokens": sum(row.output_tokens for row in rows),
        "server_tool_use": {"web_search_requests": sum(row.web_search_requests for row in rows)},
    }


def _token_cost(row: Booked) -> dict[str, Any]:
    return {
        "amount": str(Decimal(row.cents)),
        "currency": "USD",
        "cost_type": "tokens",
        "token_type": "uncached_input_tokens",
        "model": row.model,
        "service_tier": row.service_tier,
        "description": f"{row.model} usage",
    }


class _Handler(BaseHTTPRequestHandler):
    organisation: Organisation

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            answer = self.organisation.answer(parts.path, parse_qs(parts.query), headers)
        except Refused as refused:
            error = {"type": refused.kind, "message": refused.message}
            # A gateway may say it in one word.
            body = json.dumps({"type": "error", "error": error if refused.kind else str(refused)})
            self._send(refused.status, body, refused.headers)
        else:
            self._send(200, answer, {})

    def _send(self, status: int, body: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output to themselves."""


@contextmanager
def serve(organisation: Organisation) -> Iterator[Organisation]:
    """Serve the organisation on a free port of loopback."""
    handler = type("Handler", (_Handler,), {"organisation": organisation})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    organisation.base_url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield organisation
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

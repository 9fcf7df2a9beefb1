"""Which request samples from Claude on a route that is not metered, so that its cost is unknown.

A path alone is no evidence: OpenAI and many others have `/v1/chat/completions`, too. So either the
host is Anthropic's, or the request names a Claude model.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from pytest_llmcost.json_values import decode_json
from pytest_llmcost.responses.endpoints import Endpoint, recognise

_HOST = "api.anthropic.com"
_SAMPLING = re.compile(r"/(?:chat/completions|completions|complete|responses)/?$")
"""Of the OpenAI-compatible API and of Anthropic's old text completions."""
_MESSAGES = re.compile(r"/v1/+messages/?$")
_CONVERSE = re.compile(r"/model/(?P<model>.+)/converse(?:-stream)?/?$")
_CLAUDE = re.compile(r"(?:^|[./~])(?:claude|anthropic)(?![a-z])", re.IGNORECASE)
"""In a model's name, also behind a vendor, a region or a gateway's prefix."""
_ENDS = ("completions", "completions/", "complete", "complete/", "responses", "responses/")


def find_unmetered(method: str, url: str, body: bytes) -> Endpoint | None:
    """Return the endpoint of a Claude call on a route that is not metered, or None.

    Example:
        >>> find_unmetered("POST", "https://api.anthropic.com/v1/complete", b"").route
        'api.anthropic.com/v1/complete'
        >>> find_unmetered("POST", "https://api.openai.com/v1/chat/completions", b"{}")
    """
    route = _route(method, url)
    if route is None:
        return None
    model = route.model if route.is_named_by_url else _model(body)
    is_claude = isinstance(model, str) and _CLAUDE.search(model) is not None
    if not route.is_anthropic and not is_claude:
        return None
    return Endpoint(
        kind="unmetered", model=model if isinstance(model, str) else None, route=route.shown
    )


class _Route(NamedTuple):
    """Where a request goes that may sample from Claude, as far as its URL says."""

    shown: str
    is_anthropic: bool
    is_named_by_url: bool = False
    model: str | None = None


@functools.lru_cache(maxsize=256)
def _route(method: str, url: str) -> _Route | None:
    is_known = _HOST in url or "/converse" in url or url.partition("?")[0].endswith(_ENDS)
    if not is_known or method.upper() != "POST" or recognise(method, url) is not None:
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    path, host = unquote(parts.path), parts.hostname or ""
    if converse := _CONVERSE.search(path):
        # The name may hold the number of an account.
        shown = f"{host}/model/.../{path.rstrip('/').rpartition('/')[2]}"
        return _Route(shown, host == _HOST, is_named_by_url=True, model=converse["model"])
    if _SAMPLING.search(path) or (host == _HOST and _MESSAGES.search(path)):
        return _Route(f"{host}{path}", host == _HOST)
    return None


def unread(endpoint: Endpoint, url: str) -> Endpoint | None:
    """Return a Claude endpoint as one whose answer nothing reads; None if it is none, or free.

    `/v1/messages` alone is no evidence: only a host of Anthropic's or a cloud's is.
    """
    if endpoint.kind not in ("messages", "batch_create", "unmetered"):
        return None
    parts = urlsplit(url)
    host, path = parts.hostname or "", unquote(parts.path).rstrip("/")
    if endpoint.route is None and endpoint.platform is None and host != _HOST:
        return None
    if "/model/" in path:
        path = f"/model/.../{path.rpartition('/')[2]}"
    return Endpoint(kind="unmetered", model=endpoint.model, route=endpoint.route or f"{host}{path}")


def _model(body: bytes) -> object:
    lowered = body.lower()  # much faster than to decode what is OpenAI's
    if b"claude" not in lowered and b"anthropic" not in lowered:
        return None
    value = decode_json(body)
    return value.get("model") if isinstance(value, dict) else None

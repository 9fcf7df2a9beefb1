"""Which request samples from Claude on a route that is not metered, so that its cost is unknown.

A path alone is no evidence: OpenAI and many others have `/v1/chat/completions`, too. So either the
host is Anthropic's, or the request names a Claude model.
"""

from __future__ import annotations

import re
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
_NAMED = re.compile(rb"claude|anthropic", re.IGNORECASE)
"""Somewhere in a body that is worth decoding."""
_ENDS = ("completions", "completions/", "complete", "complete/", "responses", "responses/")


def find_unmetered(method: str, url: str, body: bytes) -> Endpoint | None:
    """Return the endpoint of a Claude call on a route that is not metered, or None.

    Example:
        >>> find_unmetered("POST", "https://api.anthropic.com/v1/complete", b"").route
        'api.anthropic.com/v1/complete'
        >>> find_unmetered("POST", "https://api.openai.com/v1/chat/completions", b"{}")
    """
    is_anthropic = _HOST in url
    if not (is_anthropic or url.partition("?")[0].endswith(_ENDS) or "/converse" in url):
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if method.upper() != "POST" or recognise(method, url) is not None:
        return None
    path, host = unquote(parts.path), parts.hostname or ""
    route = f"{host}{path}"
    if converse := _CONVERSE.search(path):
        named: object = converse["model"]
        # The name may hold the number of an account.
        route = f"{host}/model/.../{path.rstrip('/').rpartition('/')[2]}"
    elif _SAMPLING.search(path):
        named = _model(body)
    elif host == _HOST and _MESSAGES.search(path):
        named = None
    else:
        return None
    is_claude = isinstance(named, str) and _CLAUDE.search(named) is not None
    if host != _HOST and not is_claude:
        return None
    model = named if isinstance(named, str) else None
    return Endpoint(kind="unmetered", model=model, route=route)


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
    if b'"model"' not in body or not _NAMED.search(body):
        return None
    value = decode_json(body)
    return value.get("model") if isinstance(value, dict) else None

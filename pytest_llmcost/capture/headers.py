"""Headers and bodies as libraries have them; of headers those that say something about the price.

No key is kept.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

HEADERS = (
    "anthropic-beta",
    "anthropic-version",
    "x-stainless-retry-count",
    "amz-sdk-request",
    "x-amzn-bedrock-performanceconfig-latency",
    "x-amzn-bedrock-service-tier",
)


def read_headers(given: Any) -> dict[str, str]:
    """Read the headers that are kept, from a library's own object or from a plain dictionary.

    Now, and not when they are asked for: a request is kept until its test is over, and all its
    headers with it take far more time and space.

    Example:
        >>> read_headers({"Anthropic-Beta": ["a", "b"], "x-api-key": "secret"})
        {'anthropic-beta': 'a,b'}
    """
    if not given:
        return {}
    if isinstance(given, dict):  # all others find names in any case
        given = {_text(key).lower(): value for key, value in given.items()}
    return {name: _text(value) for name in HEADERS if (value := given.get(name)) is not None}


def _text(value: object) -> str:
    """Return a name or a value; botocore has some in bytes, VCR lists of values."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def as_bytes(body: object) -> bytes:
    """Return a body as it is sent; of one that comes in pieces, and of none, nothing."""
    if isinstance(body, dict):  # what aiohttp was given as `json=`
        with suppress(TypeError, ValueError):
            body = json.dumps(body)
    if isinstance(body, str):
        return body.encode("utf-8", "surrogatepass")
    return bytes(body) if isinstance(body, (bytes, bytearray)) else b""

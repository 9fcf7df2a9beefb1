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
)


def read_headers(given: Any) -> dict[str, str]:
    """Read the headers that are kept, from a library's own object or from a plain dictionary.

    Now, and not when they are asked for: a request is kept until its test is over, and all its
    headers with it take far more time and space.

    Example:
        >>> read_headers({"Anthropic-Beta": ["a", "b"], "x-api-key": "secret"})
        {'anthropic-beta': 'a,b'}
    """
    found = {}
    if isinstance(given, dict):
        for key, value in given.items():
            name = key.lower() if type(key) is str else _text(key).lower()
            if name in HEADERS:
                found[name] = value if type(value) is str else _text(value)
    elif given:  # all others find names in any case
        for name in HEADERS:
            value = given.get(name)
            if value is not None:
                found[name] = value if type(value) is str else _text(value)
    return found


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

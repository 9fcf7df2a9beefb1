"""What looks like a credential: to black it out in messages, and to find it in cassettes.

No message ever holds one. Knows HTTP's headers and queries, and no library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pytest_llmcost.yaml_file import YamlError, load_yaml

_NAME = (
    r"(?:api[_ -]?key|access[_-]?key(?:[_-]?id)?|subscription-key|secret(?:[_-]?key)?|"
    r"(?:access|auth|bearer|id|refresh|security|session)[_-]?token|password|authorization|cookie|"
    r"x-amz-signature|x-amz-credential)"
)
_NAMED = re.compile(
    # `signature` and `credential` are words, too, unless an equals sign follows.
    rf"""(?P<name>(?:{_NAME}["'\\]*(?:\s*(?:=>|[:=])|(?<=["'])\s*,|%3[ad])|"""
    r"""\b(?:signature|credential)(?:=|%3d))"""
    r"""[\s\[(]*(?:\bb(?=["']))?["'\\]*"""
    r"""(?:(?:bearer|basic|digest|token|negotiate)\s+)?)"""
    r"""[^\s"'\\&,;<>)\]}]{4,}""",
    re.IGNORECASE,
)
"""A credential behind its name: in a header, a query, JSON, or a list of pairs."""
_SECRET = re.compile(
    r"\bsk-[\w-]{6,}|\bAIza[\w-]{8,}|\bya29\.[\w.-]+|\b(?:AKIA|ASIA)[A-Z0-9]{8,}|"
    r"\bgh[opsru]_\w{8,}|\beyJ[\w-]{8,}\.[\w.-]+|(?<=://)[^\s/@]+(?=@)|"
    r"(?i:bearer|x-api-key:?)\s+[\w.~+/=-]{8,}"
)
"""A credential that is known by its form alone."""
_KEY_HEADERS = (
    *("authorization", "x-api-key", "api-key", "x-goog-api-key", "x-amz-security-token"),
    *("proxy-authorization", "ocp-apim-subscription-key"),
)
_KEY_QUERIES = ("key", "api_key", "api-key", "x-amz-credential", "x-amz-security-token")
_SCHEME = re.compile(r"(?:bearer|basic|token)\s+", re.IGNORECASE)
_AWS = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}(?<!EXAMPLE)\b")
"""The id of an AWS key, which stands in every signature that was made with a real one."""
_ANYWHERE = re.compile(r"\bsk-ant-[\w-]{20,}|\bAIza[\w-]{30,}")
"""Keys that are known by their form, in bodies too."""
_PLACEHOLDER = re.compile(
    r"dummy|redact|filter|fake|mask|hidden|placeholder|example|test|mock|remove|scrub|saniti"
    r"|xxx|\*\*|\.\.\.|your|[<>{}\[\]]",
    re.IGNORECASE,
)
_LEAST, _SURE = 16, 60
"""A shorter value is no key; in one this long a placeholder's word is there by chance."""
_MOST_BYTES = 50_000_000


def without_keys(text: str) -> str:
    """Black out anything that looks like a credential."""
    return _SECRET.sub("[key]", _NAMED.sub(r"\g<name>[key]", text))


def looks_like_key(value: str) -> bool:
    """Return whether the value of a header or a query that carries credentials is a real one.

    Example:
        >>> looks_like_key("Bearer REDACTED"), looks_like_key("0123456789abcdef")
        (False, True)
    """
    if value.startswith("AWS4-"):
        return _AWS.search(value) is not None
    value = _SCHEME.sub("", value, count=1).strip()
    if len(value) < _LEAST or not any(each.isdigit() for each in value):
        return False
    return len(value) >= _SURE or _PLACEHOLDER.search(value) is None


def keys_in_cassette(path: Path) -> list[str]:
    """Return where a recorded file holds what looks like a credential: sorted, without its text.

    For example ``header `authorization` ``. A file that is not a cassette is searched for keys
    that are known by their form.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES)
    except OSError:  # removed since, or kept elsewhere by a persister of the user's
        return []
    text = data.decode("utf-8", "replace")
    found: set[str] = set()
    if any(name in text.lower() for name in (*_KEY_HEADERS, *_KEY_QUERIES)):
        try:
            found.update(_named_keys(load_yaml(text, any_tag=True)))
        except YamlError:
            # Damaged, or too large to be read as a whole: by its lines, as VCR writes them.
            found.update(
                f"header `{name}`"
                for name, value in re.findall(r'(?i)([\w-]+)"?:\s*(?:-\s*|\[\s*)?"?(.+)', text)
                if name.lower() in _KEY_HEADERS and looks_like_key(value.strip('",] '))
            )
    is_known = any(looks_like_key(each) for each in _ANYWHERE.findall(text))
    if is_known and not found:
        found.add("body or another header")
    return sorted(found)


def _named_keys(cassette: Any) -> Iterator[str]:
    interactions = cassette.get("interactions") if isinstance(cassette, Mapping) else None
    for each in interactions if isinstance(interactions, list) else ():
        for side in ("request", "response"):
            message = each.get(side) if isinstance(each, Mapping) else None
            if not isinstance(message, Mapping):
                continue
            headers = message.get("headers")
            for name, value in headers.items() if isinstance(headers, Mapping) else ():
                values = value if isinstance(value, list) else [value]
                if str(name).lower() in _KEY_HEADERS and any(map(looks_like_key, map(str, values))):
                    yield f"header `{str(name).lower()}`"
            for name, value in _query(message.get("uri") or message.get("url")):
                is_key = _AWS.search(value) if name.lower() == "x-amz-credential" else None
                if name.lower() in _KEY_QUERIES and (is_key or looks_like_key(value)):
                    yield f"query `{name}`"


def _query(url: object) -> list[tuple[str, str]]:
    try:
        return parse_qsl(urlsplit(str(url or "")).query)
    except ValueError:
        return []


def how_to_filter(found: Iterable[str]) -> list[str]:
    """Return the fixture `vcr_config` that keeps what was found out of a cassette, line by line."""
    names: dict[str, list[str]] = {"header": [], "query": []}
    for where in sorted(set(found)):
        kind, _, name = where.partition(" `")
        names.get(kind, []).append(name.rstrip("`"))
    options = []
    if names["header"] or not names["query"]:
        # The SDK sends its key in one or the other, by its version and by what the user gave it.
        headers = dict.fromkeys(["authorization", "x-api-key", *names["header"]])
        options.append(f'"filter_headers": [{", ".join(map(_quoted, headers))}]')
    if names["query"]:
        queries = ", ".join(map(_quoted, names["query"]))
        options.append(f'"filter_query_parameters": [{queries}]')
    return [
        "import pytest",
        "",
        '@pytest.fixture(scope="session")',
        "def vcr_config():",
        f"    return {{{', '.join(options)}}}",
    ]


def _quoted(text: str) -> str:
    return f'"{text}"'

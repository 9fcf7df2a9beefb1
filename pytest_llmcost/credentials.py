"""What looks like a credential: to black it out in messages, and to find it in cassettes.

No message ever holds one. Knows HTTP's headers, queries and bodies, and no library.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

from pytest_llmcost.yaml_file import YamlError, load_yaml

_NAME = (
    r"(?:api[_ -]?key|access[_-]?key(?:[_-]?id)?|subscription-key|secret(?:[_-]?key)?|"
    r"(?:access|auth(?:orization)?|bearer|id|refresh|security|session)[_-]?token|password|"
    r"authorization|cookie|x-amz-credential)"
)
"""Of what carries a credential: a header, or a field of a query, a form, JSON or XML."""
_SCHEME_NAME = r"(?:(?:bearer|basic|digest|token|negotiate)\s+)?"
_NAMED = re.compile(
    # `signature` and `credential` are words, too, unless an equals sign follows.
    rf"""(?P<name>(?:(?:{_NAME}|x-amz-signature)["'\\]*"""
    r"""(?:\s*(?:=>|[:=])|(?<=["'])\s*,|%3[ad]|>)|\b(?:signature|credential)(?:=|%3d))"""
    r"""[\s\[(]*(?:\bb(?=["']))?["'\\]*"""
    rf"""{_SCHEME_NAME})(?!{_SCHEME_NAME}\[key\])"""
    r"""[^\s"'\\&,;<>)\]}]{4,}""",
    re.IGNORECASE,
)
"""A credential behind its name, in a message of any library, that is not blacked out yet."""
_FORMS = (
    (r"\bsk-", r"[\w-]"),
    (r"\bAIza", r"[\w-]"),
    (r"\bya29\.", r"[\w.-]"),
    (r"\b(?:AKIA|ASIA)", "[A-Z0-9]"),
    (r"\bABSK", r"[\w+/=]"),
    (r"\bg(?:h[opsru]|ithub_pat)_", r"\w"),
)
"""How keys begin that are known by their form, and the characters of the rest: of Anthropic and
others, Google's, AWS's, Bedrock's, GitHub's."""
_SECRET = re.compile(
    "|".join(f"{start}{rest}{{6,}}" for start, rest in _FORMS)
    + r"|\beyJ[\w-]{8,}\.[\w.-]+|(?<=://)[^\s/@]+(?=@)|(?i:bearer|x-api-key:?)\s+[\w.~+/=-]{8,}"
)
"""A credential without its name, in a message."""
_ANYWHERE = re.compile(
    # A word such as `sk-learn-based-approach` has no long piece.
    "|".join(f"{start}{rest}{{0,40}}?[A-Za-z0-9]{{16}}{rest}*" for start, rest in _FORMS)
)
"""The same in a recording, where a text about keys is no key."""
_CARRIER = re.compile(rf"[\w.-]*(?:{_NAME}|(?<![a-z])auth|assertion)", re.IGNORECASE)
_FIELD = re.compile(
    rf"""(?:(?:["&?<]|\A)(?P<name>{_CARRIER.pattern})|[&?](?P<short>key|sig|token))"""
    r"""(?:"\s*:\s*"|=|>)(?P<value>(?:(?:bearer|basic|token)\s+)?[^\s"&<\\]+)""",
    re.IGNORECASE,
)
"""A field in a query, a form, JSON or XML; in prose and in code, what follows is no credential."""
_NO_USERS = re.compile(r"(?:expires|domain|path|__cf|_cfuvid|AWSALB|ARRAffinity)", re.IGNORECASE)
"""How the attributes of a cookie begin, and cookies of load balancers, which stand for no user."""
_USER = re.compile(
    r"""://(?![0-9a-f]{32}@[\w.-]*\bsentry\.[\w.:-]+/\d)"""
    r"""(?:[^\s/@:?#"',<>\\]*:)?([^\s/@?#"',<>\\]+)@"""
)
"""Who asks, in an address; a DSN of Sentry is public by design, unless it has a secret, too."""
_SCHEME = re.compile(r"[a-z]+\s+", re.IGNORECASE)
_BEARER = re.compile(r"bearer\s+[\w.~+/=-]+\s*\Z", re.IGNORECASE)
"""A credential under whatever name; in a text, and in `WWW-Authenticate`, more follows."""
_AWS = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b")
"""The id of an AWS key, which stands in every signature that was made with a real one."""
_PLACEHOLDER = re.compile(
    r"dummy|redact|filter|fake|mask|hidden|placeholder|example|test|mock|remove|scrub|saniti"
    r"|not.?used|xxx|\*\*|\.\.\.|your|[<>{}\[\]]",
    re.IGNORECASE,
)
_LEAST, _SURE = 16, 60
"""A shorter value is no key; in one this long a placeholder's word is there by chance."""
_MASKED = re.compile(r"x{8}|0{8}|\*{8}", re.IGNORECASE)
_MOST_BYTES = 50_000_000
_OPTIONS = {"header": "filter_headers", "query": "filter_query_parameters"}
"""Of VCR, for what is found where."""
_FIXTURE = """\
Keep keys out with this fixture in conftest.py, or with the same options of vcr.VCR:

    import pytest

    @pytest.fixture(scope="session")
    def vcr_config():
        return {{{}}}

"""
_HOOKS = """\
Keep what is in an address, a body or a response out with VCR's hooks (before_record_request,
before_record_response), or leave the whole host out (ignore_hosts).

"""


def without_keys(text: str) -> str:
    """Black out anything that looks like a credential."""
    return _SECRET.sub("[key]", _NAMED.sub(r"\g<name>[key]", text))


def looks_like_key(value: str) -> bool:
    """Return whether the value of a header or a field that carries credentials is a real one.

    Example:
        >>> looks_like_key("Bearer REDACTED"), looks_like_key("0123456789abcdef")
        (False, True)
    """
    if value.startswith("AWS4-") or value.endswith("/aws4_request"):
        return any(_PLACEHOLDER.search(each) is None for each in _AWS.findall(value))
    value = _SCHEME.sub("", value, count=1).strip()
    if len(value) < _LEAST or not any(each.isdigit() for each in value) or _MASKED.search(value):
        return False
    return len(value) >= _SURE or _PLACEHOLDER.search(value) is None


def keys_in_cassette(path: Path) -> list[str]:
    """Return where a recorded file holds what looks like a credential: sorted, without its text.

    For example ``header `authorization` ``. A file that is not a cassette is searched as well, and
    one that cannot be read is an OSError.
    """
    text = _text(path.read_bytes())
    try:
        return sorted(set(_search(load_yaml(text))))
    except YamlError:
        # Damaged, or too large to be read as a whole: by its lines, as VCR writes a header.
        lines = re.findall(r'(?<![\w-])([\w-]+)"?:[ \t]*(?:\n\s*-\s*|\[\s*)?"?([^\n",\]]+)', text)
        found = {f"header `{name.lower()}`" for name, value in lines if _carries_key(name, value)}
        return sorted(found) or ["body or another header"] * _has_key(text)


def _search(value: object, kind: str = "field", name: str = "", side: str = "") -> Iterator[str]:
    """Search what a recording holds under a name, of a header or of any other kind."""
    if isinstance(value, Mapping):
        if value.keys() >= {"name", "value"}:  # in an HTTP archive
            value = {**value, "value": None, _text(value["name"]): value["value"]}
        for key, inner in value.items():
            key = _text(key)
            inner_kind = {"headers": "header", "uri": "query", "url": "query"}.get(key, kind)
            inner_side = " of the response" if key == "response" else side
            yield from _search(inner, inner_kind, key, inner_side)
        return
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from _search(inner, kind, name, side)
        return
    text = _text(value)
    own = re.sub(r"[^\w.-]", "?", name.lower() if kind == "header" else name)
    if _carries_key(name, text) or (kind == "header" and _has_key(text)):
        yield f"{kind} `{own}`{side}"
    elif kind != "header":
        fields = [each for each in _FIELD.finditer(text) if looks_like_key(unquote(each["value"]))]
        yield from (f"{kind} `{each['name'] or each['short']}`{side}" for each in fields)
        if not fields and (_has_key(text) or any(map(looks_like_key, _USER.findall(text)))):
            yield "address" if kind == "query" else f"body{side}"


def _carries_key(name: str, value: str) -> bool:
    if _CARRIER.fullmatch(name) is None and _BEARER.match(value) is None:
        return False
    values = [value]
    if name.lower().endswith("cookie"):
        pairs = (each.strip().partition("=") for each in value.split(";"))
        values = [each for name, _, each in pairs if _NO_USERS.match(name) is None]
    return any(map(looks_like_key, values))


def _has_key(text: str) -> bool:
    return any(map(looks_like_key, _ANYWHERE.findall(text)))


def _text(value: object) -> str:
    """Return a text as it was sent: botocore has headers in bytes, and bodies may be packed."""
    if not isinstance(value, bytes):
        return str(value)
    if value.startswith(b"\x1f\x8b"):
        from gzip import GzipFile  # most runs unpack nothing

        packed, pieces, size = GzipFile(fileobj=BytesIO(value)), list[bytes](), 0
        with suppress(OSError, EOFError, zlib.error):  # damaged: what comes before that
            while size < _MOST_BYTES and (piece := packed.read1()):
                pieces.append(piece)
                size += len(piece)
        value = b"".join(pieces) or value
    return value.decode("utf-8", "replace")


def how_to_filter(found: Iterable[str]) -> list[str]:
    """Return the lines that keep what was found out of a cassette: a fixture, or what else can."""
    matches = [re.fullmatch(r"(header|query) `(.+)`", where) for where in sorted(set(found))]
    options = []
    for kind, option in _OPTIONS.items():
        names = [match[2] for match in matches if match and match[1] == kind]
        if names and kind == "header":
            # The SDK sends its key in one or the other, by its version and what the user gave it.
            names = [*dict.fromkeys(["authorization", "x-api-key", *names])]
        options += [f'"{option}": {json.dumps(names, ensure_ascii=False)}'] if names else []
    text = _FIXTURE.format(", ".join(options)) if options else ""
    return (text + _HOOKS * (None in matches)).splitlines()

"""What is wrapped in this process, and who follows the requests that pass there.

One file a library. Each turns what its library does into the same calls: `begin` when something is
sent, with `CURRENT` set meanwhile; then `note_failure`, or on the captured request `answered`,
`feed` for each piece of a body that is read later, and `close`. What has to read objects of a
library runs inside the captured request's `do`, which keeps its errors from the code under test.

This module is the one with state of the whole process. It is light, for an HTTP library may be
imported by a suite that never calls Claude, and it knows nothing of any library.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache, partial, wraps
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pytest_llmcost.capture.import_hook import ImportWatcher

if TYPE_CHECKING:
    from pytest_llmcost.capture.request import CapturedRequest

_CLIENTS = {
    "httpx": "httpx",
    "httpx2": "httpx",
    "pytest_httpx._httpx_mock": "httpx",
    "http.client": "http_client",
    "urllib3.connectionpool": "urllib3",
    "requests.adapters": "urllib3",
    "aiohttp.client_reqrep": "aiohttp",
    "botocore.hooks": "botocore",
    "aiobotocore.hooks": "botocore",
    "vcr.cassette": "recorders",
    "cassetter.cassette": "recorders",
    "multiprocessing.process": "processes",
    **{
        f"{library}.{way}.{file}": "httpx"
        for library in ("httpcore", "httpcore2")
        for way in ("_sync", "_async")
        for file in ("connection", "http_proxy", "socks_proxy")
    },
}
"""Library -> the file here whose `wrap(module)` wraps it as soon as it is imported."""
CURRENT: ContextVar[CapturedRequest | None] = ContextVar("pytest_llmcost_request", default=None)
"""The request that is being sent in this context; `being_sent` reads it."""

_ADDRESSES = (
    r"(?i)anthropic|claude|/model/|/messages|complet(?:e|ions)|responses"
    r"|batchPredictionJobs|model-invocation-job"
)
"""One of these is in every address of Claude, once its escapes are undone. Not compiled before the
first request: `re` keeps it then."""
RELAYS: set[int] = set()
"""Ports of relays of ours: a request to one is followed when the relay passes it on."""
_LOOPBACK = ("127.0.0.1", "localhost", "0.0.0.0")  # noqa: S104 - compared, and not listened on

Begin = Callable[
    [object, object, str, str, Any, object, "CapturedRequest | None"], "CapturedRequest | None"
]
"""As `Capture.begin`; returns None if what is about to be sent is no Claude call."""
Ticket = Callable[[], object]
"""What a spawned child calls to follow requests; pickled for it."""


class Follower:
    """Who follows what passes here."""

    def __init__(
        self, begin: Begin, saved: Callable[[str], None], ticket: Callable[[], Ticket | None]
    ) -> None:
        self.begin = begin
        """May be replaced, for a capture is made, with all that it imports, when it is needed."""
        self.saved = saved
        self.ticket = ticket


_followers: list[Follower] = []
"""They nest, as pytest does in the tests of plugins; the last one follows the request."""
_wrapped: list[tuple[type, str, object, object]] = []
"""Class, attribute, the original, our wrapper."""


def follow(
    begin: Begin,
    saved: Callable[[str], None] = lambda path: None,
    ticket: Callable[[], Ticket | None] = lambda: None,
) -> Follower:
    """Follow requests from now on: wrap what is imported now, and later what will be.

    `saved` is called with the path of each cassette that VCR writes; what `ticket` returns is given
    to each child that is spawned.
    """
    _WATCHER.install()
    follower = Follower(begin, saved, ticket)
    _followers.append(follower)  # at the end: another thread may send at once
    return follower


def unfollow(follower: Follower) -> None:
    """Stop following; the last follower restores the original methods.

    If another library wrapped ours, leave it in place, disabled.
    """
    _followers[:] = [each for each in _followers if each is not follower]
    if _followers:
        return
    for owner, name, original, wrapper in reversed(_wrapped):
        if vars(owner).get(name) is wrapper:
            setattr(owner, name, original)
    _wrapped.clear()
    _WATCHER.remove()


def may_follow() -> bool:
    """Whether anything is followed that may be sent: each library imports one of these two."""
    return bool(_followers) and any(name in sys.modules for name in ("http.client", "aiohttp"))


def begin(
    source: object,
    client: object,
    method: str,
    url: object,
    headers: Any,
    body: object,
) -> CapturedRequest | None:
    """Let the innermost follower follow a request, if it may be a Claude call.

    `source` is the library's own object for it, `client` who sends it. `headers` are None if
    `source` has them, or is them, and they may change until they are sent. Of a `body` that comes
    in pieces nothing is read.
    """
    if not _followers:
        return None
    address = claude_address(url)
    if address is None or (RELAYS and _is_to_relay(address)):
        return None
    outer = being_sent()  # which may be the same call, passed on
    if outer is not None and outer.source is source:
        return None  # a subclass has called the method of its base
    return _followers[-1].begin(source, client, method, address, headers, body, outer)


def being_sent() -> CapturedRequest | None:
    """Return the request that is being sent in this context.

    A task, and a thread of some Pythons, has a copy of the context in which it began, which keeps
    that request when it is long over.
    """
    current = CURRENT.get()
    return None if current is None or current.is_answered or current.is_over else current


def passed_on(body: object) -> CapturedRequest | None:
    """Return the request that is being sent in this context, if what is sent with it is this body.

    A library below its client sends the same one, perhaps written anew; one that comes in pieces is
    taken for it. What has another body is a call of its own: of a hook, of a gateway in this
    process, or of a transport that sends more than it was given.
    """
    outer = being_sent()
    if outer is None or outer.is_in_mock:
        return None
    return outer if outer.may_send(body) else None


@lru_cache(maxsize=256)
def claude_address(url: object) -> str | None:
    """Return the text of an address, or None if it cannot be one of Claude.

    Quickly, before anything is loaded to look closely: suites import these libraries that never
    call Claude. And libraries make the text anew each time.
    """
    text = str(url)
    return text if re.search(_ADDRESSES, unquote(text.partition("?")[0])) else None


def _is_to_relay(url: str) -> bool:
    with suppress(ValueError):  # a port that is none: its library says so
        parts = urlsplit(url)
        return parts.hostname in _LOOPBACK and parts.port in RELAYS
    return False


@lru_cache(maxsize=256)
def url_of(scheme: str, host: str, port: int | None, target: str) -> str:
    """Return the address of a request that a connection sends; that for a proxy is one already."""
    if not target.startswith("/"):
        return target
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"{scheme}://{host}{f':{port}' if port else ''}{target}"


def note_saved(path: str) -> None:
    """Note that VCR has written a cassette."""
    if _followers:
        _followers[-1].saved(path)


def ticket() -> Ticket | None:
    """Return what a spawned child is given."""
    return _followers[-1].ticket() if _followers else None


def wrap_method(owner: object, name: str, wrapper_of: Callable[[Any], Callable[..., Any]]) -> None:
    """Replace a method by a wrapper, once: two names of one library are one class."""
    original = vars(owner).get(name) if isinstance(owner, type) else None
    if original is None or any(original is ours for _, _, _, ours in _wrapped):
        return
    assert isinstance(owner, type)
    wrapper = wraps(original)(wrapper_of(original))
    setattr(owner, name, wrapper)
    _wrapped.append((owner, name, original, wrapper))


def _wrap(file: str, module: ModuleType) -> None:
    import_module(f"{__name__}.{file}").wrap(module)


_WATCHER = ImportWatcher({name: partial(_wrap, file) for name, file in _CLIENTS.items()})

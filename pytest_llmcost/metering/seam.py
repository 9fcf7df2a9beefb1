"""The seam: `send` of httpx and httpx2, where all of a process's Messages traffic passes.

Data flow: `Client.send(request)` -> `Ear.begin` -> the real `send` -> `Talk.failed` or
`Talk.answered`. Sessions may nest in one process; the innermost gets the calls.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any, Protocol

from pytest_llmcost.metering.imports import ImportWatcher
from pytest_llmcost.metering.library import Library, is_http_library
from pytest_llmcost.metering.replay import Replay, read_vcr_promise, read_vcr_replay
from pytest_llmcost.metering.talk import UNDER_WAY, Talk


class Ear(Protocol):
    """Who listens at the seam. Its method never raises."""

    def begin(self, client: Any, request: Any) -> Talk | None:
        """A request is about to be sent; None where it is no Claude call."""


class _Seam:
    """What is wrapped in this process, and who listens."""

    def __init__(self) -> None:
        self.ears: list[Ear] = []
        self.wrapped: list[tuple[type, str, object, object]] = []
        """Class, attribute, what was there, what we put there."""
        self.watcher = ImportWatcher(
            {
                "httpx": self.wrap_clients,
                "httpx2": self.wrap_clients,
                "vcr.cassette": self.wrap_vcr,
                "cassetter.cassette": self.wrap_cassetter,
            }
        )

    def wrap_clients(self, module: ModuleType) -> bool:
        if not is_http_library(module):
            return False
        library = Library(module)
        self.put(module.Client, "send", functools.partial(_wrap_send, library))
        self.put(module.AsyncClient, "send", functools.partial(_wrap_async_send, library))
        return True

    def wrap_vcr(self, module: ModuleType) -> bool:
        cassette = getattr(module, "Cassette", None)
        self.put(cassette, "can_play_response_for", _wrap_can_play)
        self.put(cassette, "play_response", _wrap_play_response)
        return cassette is not None

    def wrap_cassetter(self, module: ModuleType) -> bool:
        cassette = getattr(module, "Cassette", None)
        self.put(cassette, "match", _wrap_match)
        return cassette is not None

    def put(self, owner: object, name: str, wrap: Callable[[Any], object]) -> None:
        """Wrap once by identity: two names of one module are one class."""
        original = vars(owner).get(name) if isinstance(owner, type) else None
        if original is None or any(original is ours for _, _, _, ours in self.wrapped):
            return
        assert isinstance(owner, type)
        wrapper = wrap(original)
        setattr(owner, name, wrapper)
        self.wrapped.append((owner, name, original, wrapper))

    def remove(self) -> None:
        """Take out what is topmost; what somebody has wrapped in turn stays, and is deaf."""
        for owner, name, original, wrapper in reversed(self.wrapped):
            if vars(owner).get(name) is wrapper:
                setattr(owner, name, original)
        self.wrapped.clear()
        self.watcher.remove()


_seam = _Seam()


def open_seam(ear: Ear) -> None:
    """Listen: wrap what is imported now, and whatever will be; again only wraps what is new."""
    if ear not in _seam.ears:
        _seam.ears.append(ear)
    _seam.watcher.install()


def close_seam(ear: Ear) -> None:
    """Stop listening; the last one out takes the wrappers off."""
    if ear in _seam.ears:
        _seam.ears.remove(ear)
    if not _seam.ears:
        _seam.remove()


def _begin(client: Any, request: Any, outer: Talk | None) -> Talk | None:
    if not _seam.ears or request is None or (outer is not None and outer.request is request):
        return None  # nobody listens, or a second wrapper of ours sees the same request
    if _seam.watcher.incomplete:
        _seam.watcher.look_again()
    return _seam.ears[-1].begin(client, request)


def _wrap_send(library: Library, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def send(client: Any, request: Any = None, **options: Any) -> Any:
        __tracebackhide__ = True
        outer = UNDER_WAY.get()
        talk = _begin(client, request, outer)
        if talk is None:
            return original(client, request, **options)
        UNDER_WAY.set(talk)
        try:
            response = original(client, request, **options)
        except BaseException as error:
            talk.failed(error, library)
            raise
        finally:
            UNDER_WAY.set(outer)
        talk.answered(response, library)
        return response

    return send


def _wrap_async_send(
    library: Library, original: Callable[..., Awaitable[Any]]
) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(original)
    async def send(client: Any, request: Any = None, **options: Any) -> Any:
        __tracebackhide__ = True
        outer = UNDER_WAY.get()
        talk = _begin(client, request, outer)
        if talk is None:
            return await original(client, request, **options)
        UNDER_WAY.set(talk)
        try:
            response = await original(client, request, **options)
        except BaseException as error:
            talk.failed(error, library)
            raise
        finally:
            UNDER_WAY.set(outer)
        talk.answered(response, library)
        return response

    return send


def _wrap_can_play(original: Callable[..., Any]) -> Callable[..., Any]:
    """A cassette of a kind of its own may play its responses without telling us which."""

    @functools.wraps(original)
    def can_play_response_for(cassette: Any, request: Any) -> Any:
        __tracebackhide__ = True
        can_play = original(cassette, request)
        talk = UNDER_WAY.get()
        if talk is not None and can_play:
            talk.replayed(lambda sent: read_vcr_promise(request))
        return can_play

    return can_play_response_for


def _wrap_play_response(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def play_response(cassette: Any, request: Any) -> Any:
        __tracebackhide__ = True
        response = original(cassette, request)
        talk = UNDER_WAY.get()
        if talk is not None:
            talk.replayed(lambda sent: read_vcr_replay(cassette, request, response, sent))
        return response

    return play_response


def _wrap_match(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def match(cassette: Any, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        found = original(cassette, *args, **kwargs)
        talk = UNDER_WAY.get()
        if talk is not None:
            talk.replayed(lambda sent: Replay(obstacle="cassetter replayed it"))
        return found

    return match

"""Talk: one request on its way, known to whatever runs on its behalf.

A context variable is right here, unlike for the current test: it is set and put back by the very
`send` that is waiting, in the same thread or task.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from pytest_llmcost.metering.library import Library
from pytest_llmcost.metering.replay import Replay

UNDER_WAY: ContextVar[Talk | None] = ContextVar("pytest_llmcost_talk", default=None)


class Talk(Protocol):
    """One request on its way, and what becomes of it. Its methods never raise."""

    request: Any
    """The very object that was given to `send`."""

    def replayed(self, read: Callable[[bytes], Replay | None]) -> None:
        """A cassette plays a response; `read` takes the body sent now and tells what it knows."""

    def failed(self, error: BaseException, library: Library) -> None:
        """No response came."""

    def answered(self, response: Any, library: Library) -> None:
        """A response came, its body perhaps not read yet."""

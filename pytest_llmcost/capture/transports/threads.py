"""threading: a thread inherits nothing of ours, also where Python lets it inherit its context.

One of a pool serves many, and would keep what was open where it was first needed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import copy_context
from types import ModuleType
from typing import Any

from pytest_llmcost.capture.transports import wrap_method
from pytest_llmcost.concurrency import begin_thread


def wrap(module: ModuleType) -> None:
    """Wrap how a thread is started."""
    wrap_method(module.Thread, "start", _wrap_start)


def _wrap_start(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def start(thread: Any) -> Any:
        __tracebackhide__ = True
        if getattr(thread, "_context", thread) is None:  # private: no context was given for it
            thread._context = copy_context()
            thread._context.run(begin_thread)
        return original(thread)

    return start

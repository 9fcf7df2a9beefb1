"""multiprocessing: a spawned child is told where to write what it sends.

A process object is pickled for such a child, and our attribute with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pytest_llmcost.capture.transports import ticket, wrap_method


def wrap(module: ModuleType) -> None:
    """Wrap how a process is started."""
    wrap_method(module.BaseProcess, "start", _wrap_start)


def _wrap_start(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def start(process: Any) -> Any:
        __tracebackhide__ = True
        # A forked one inherits all that is wrapped.
        if getattr(type(process), "_start_method", None) in ("spawn", "forkserver"):
            vars(process)["_pytest_llmcost"] = ticket()
        try:
            return original(process)
        finally:
            vars(process).pop("_pytest_llmcost", None)

    return start

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


class _Given:
    """What has the child's ticket made when it is pickled.

    Not sooner: a forked child is not pickled, and inherits all that is wrapped. Whether it will be
    forked is settled in many ways, by the system's default too, which Python 3.14 has changed.
    """

    def __getstate__(self) -> dict[str, object]:
        return {"ticket": ticket()}


def _wrap_start(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def start(process: Any) -> Any:
        __tracebackhide__ = True
        vars(process)["_pytest_llmcost"] = _Given()
        try:
            return original(process)
        finally:
            vars(process).pop("_pytest_llmcost", None)

    return start

"""multiprocessing: a spawned child learns where to write what it sends.

A process object is pickled for it, and our attribute with it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from pytest_llmcost.capture.transports import Ticket, ticket, wrap_method


def wrap(module: ModuleType) -> None:
    """Wrap how a process is started."""
    wrap_method(module.BaseProcess, "start", _wrap_process)


class _Given:
    """Is pickled as the child's ticket, which is made then.

    Not sooner: a forked child is not pickled, and inherits all that is wrapped. Whether it will be
    forked is settled in many ways, by the system's default too, which Python 3.14 has changed.
    """

    def __reduce__(self) -> tuple[Ticket, tuple[()]]:
        return ticket() or _Given, ()


def _wrap_process(original: Callable[..., Any]) -> Callable[..., Any]:
    def start(process: Any) -> Any:
        __tracebackhide__ = True
        vars(process)["_pytest_llmcost"] = _Given()
        try:
            return original(process)
        finally:
            vars(process).pop("_pytest_llmcost", None)

    return start

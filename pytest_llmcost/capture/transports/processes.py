"""multiprocessing and threading: what begins there knows what is followed, and no more.

A spawned child learns where to write what it sends: a process object is pickled for it, and our
attribute with it. A thread inherits nothing of ours, also where Python lets it inherit its context:
one of a pool serves many, and would keep what was open where it was first needed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from types import ModuleType
from typing import Any

from pytest_llmcost.capture.transports import Ticket, ticket, wrap_method
from pytest_llmcost.concurrency import begin_thread


def wrap(module: ModuleType) -> None:
    """Wrap how a process is started, or a thread."""
    if module.__name__ == "threading":
        wrap_method(module.Thread, "start", _wrap_thread)
    else:
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


def _wrap_thread(original: Callable[..., Any]) -> Callable[..., Any]:
    def start(thread: Any) -> Any:
        __tracebackhide__ = True
        if getattr(thread, "_context", thread) is None:  # private: no context was given for it
            thread._context = copy_context()
            thread._context.run(begin_thread)
        return original(thread)

    return start

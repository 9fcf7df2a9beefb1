"""Forks and pools: what a fork calls, no lock in a child, an error for a pool.

Must not know what either is for. Loaded in every run, so it imports nothing heavy: Python keeps
what it calls at a fork, with everything that the module of it refers to, until the very end. If
that were pytest, or `typing`, which knows all that was made of its generics, every exit of Python
would tidy up the long way.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from functools import cached_property as cached_property
    from typing import Any
else:

    class cached_property:
        """A property that is worked out once for each object.

        Up to Python 3.11 that of functools has a lock that all objects share. A child that is
        forked while another thread holds it would wait forever.
        """

        def __init__(self, read: Callable[[Any], Any]) -> None:
            self._read = read
            self.__doc__ = read.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        def __get__(self, instance: object, owner: type | None = None) -> Any:
            if instance is None:
                return self  # of the class, as functools has it
            # Of threads that are here at once, all get what the first one sets.
            return vars(instance).setdefault(self._name, self._read(instance))


def answer_pool(error: BaseException) -> None:
    """Give an error to the pool of multiprocessing that runs the code here, if one does.

    A worker of a pool passes on an `Exception` alone. By any other error it dies, and whatever
    waits for its answer waits forever. The names are those of its loop, from Python 3.10 to 3.14.
    """
    pools, frame = sys.modules.get("multiprocessing.pool"), sys._getframe()
    while pools is not None and frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is pools.worker.__code__:
            worker = frame.f_locals
            worker["put"]((worker["job"], worker["i"], (False, error)))
            return


class AtFork:
    """What is called before each fork, and in the child, for as long as this object is kept."""

    def __init__(self, before: Callable[[], object], in_child: Callable[[], object]) -> None:
        self.before = before
        self.in_child = in_child
        _watching.add(self)


_watching: weakref.WeakSet[AtFork] = weakref.WeakSet()


def _before() -> None:
    for each in [*_watching]:
        each.before()


def _in_child() -> None:
    for each in [*_watching]:
        each.in_child()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before, after_in_child=_in_child)

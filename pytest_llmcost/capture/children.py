"""Forked children: whether one of them sent a request to Claude that this process cannot see."""

from __future__ import annotations

import mmap
import os


class Children:
    """A mark that is shared with all processes forked from this one after it was made.

    A child inherits what is wrapped, so it notices its own requests; what it knows of them is lost
    when it ends. A child that sends nothing leaves no mark.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._mark = mmap.mmap(-1, 1)  # anonymous, and shared across a fork

    def note(self) -> None:
        """Note that this process sends a request."""
        if os.getpid() != self._process:
            self._mark[0] = 1

    @property
    def have_sent(self) -> bool:
        """Whether any child has sent a request so far."""
        return self._mark[0] != 0

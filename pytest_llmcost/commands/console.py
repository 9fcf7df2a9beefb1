"""Console: where a command's output, notes and problems go."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TextIO


@dataclass(frozen=True)
class Console:
    """The standard streams, or those of a test."""

    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)

    def print(self, text: str) -> None:
        """Write a result."""
        self.out.write(text + "\n")

    def note(self, text: str) -> None:
        """Write what is no result: progress, a problem."""
        self.err.write(f"llmcost: {text}\n")
        self.err.flush()

"""How long it takes to import the plugin into a process that has imported pytest."""

from __future__ import annotations

import sys

from .figures import Figure, in_turn, run

PROBE = """
import time
import pytest
started = time.process_time()
import pytest_llmcost.plugin
print((time.process_time() - started) * 1000)
"""


def measure(quick: bool) -> list[Figure]:
    """Return the least of several processes of their own."""
    (least,) = in_turn(
        lambda: float(run([sys.executable, "-c", PROBE]).printed), rounds=5 if quick else 20
    )
    return [Figure("import of the plugin", least, "ms", 10)]

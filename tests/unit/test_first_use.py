"""The types of what is read are known before several threads read at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, sys, threading
from pytest_llmcost.prices.rate_card import shipped_card

def read_at_once():
    sys.setswitchinterval(0.000001)
    all_here = threading.Barrier(12)
    def read():
        all_here.wait()
        shipped_card()
    threads = [threading.Thread(target=read) for _ in range(12)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]

for _ in range(40):  # each in a process in which nothing was read before
    child = os.fork()
    if not child:
        read_at_once()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit("a process crashed")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
def test_threads_that_read_first_at_once_crash_no_process() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")

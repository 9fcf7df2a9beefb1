"""How long a browser takes to open the HTML page of a run with 10,000 tests."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from browser import browser, why_no_browser
from page_run import big_run

from pytest_llmcost.reports.html import render_html

from .figures import Figure, in_turn


def measure(quick: bool) -> list[Figure]:
    """Return the least of several openings, from the navigation to the end of the load event."""
    if reason := why_no_browser():
        sys.stderr.write(f"page_opening is skipped: {reason}\n")
        return []
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        page = Path(folder) / "cost.html"
        page.write_bytes(render_html(big_run()).encode())
        (least,) = in_turn(lambda: chromium.open(page), rounds=3 if quick else 10)
    return [Figure("10,000 tests open as a page in", least, "s", 2)]

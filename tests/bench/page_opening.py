"""How long a browser takes to open the HTML page of a run with 10,000 tests."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from browser import browser, why_no_browser
from page_run import big_run

from pytest_llmcost.reports.html import render_html

from .figures import Figure, in_turn

# The driver returns while the load event is still handled; until it has ended, its end is 0.
UNTIL_LOADED = """
const done = arguments[0];
(function look() {
  const end = performance.getEntriesByType("navigation")[0].loadEventEnd;
  if (end > 0) done(end); else setTimeout(look);
})();
"""


def measure(quick: bool) -> list[Figure]:
    """Return the least of several openings, from the navigation to the end of the load event."""
    if reason := why_no_browser():
        sys.stderr.write(f"page_opening is skipped: {reason}\n")
        return []
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        page = Path(folder) / "cost.html"
        page.write_bytes(render_html(big_run()).encode())

        def open_page() -> float:
            chromium.open(page)
            return float(chromium.driver.execute_async_script(UNTIL_LOADED)) / 1000

        (least,) = in_turn(open_page, rounds=3 if quick else 10)
    return [Figure("10,000 tests open as a page in", least, "s", 2)]

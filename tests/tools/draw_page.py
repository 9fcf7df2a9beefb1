"""Draw docs/images/page.webp: the page of a run, on a wide light screen and on a dark phone.

    python tests/tools/draw_page.py

Needs Chromium, ChromeDriver and selenium, as the tests of the page do.
"""

from __future__ import annotations

import sys
import tempfile
from base64 import b64encode
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from browser import browser
from page_run import page_history, page_run

from pytest_llmcost.reports.html import render_html

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "page.webp"
WIDE, PHONE, HEIGHT = 1000, 400, 1430


def main() -> None:
    """Take both pictures, and a third one of the two side by side."""
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        page = Path(folder) / "page.html"
        page.write_bytes(render_html(page_run(), page_history()).encode())
        taken = []
        for width, dark in ((WIDE, False), (PHONE, True)):
            chromium.look(width, dark=dark)
            chromium.open(page)
            data = b64encode(chromium.screenshot(HEIGHT)).decode()
            taken.append(f'<img width="{width}" src="data:image/png;base64,{data}">')
        page.write_text(f"<!doctype html><style>{_STYLE}</style>{''.join(taken)}", encoding="utf-8")
        chromium.look(WIDE + PHONE + 72)
        chromium.open(page)
        PICTURE.parent.mkdir(exist_ok=True)
        PICTURE.write_bytes(chromium.screenshot(HEIGHT + 48, form="webp"))


_STYLE = """
body { margin: 0; padding: 24px; display: flex; gap: 24px; background: #dfe3e8 }
img { flex: none; border-radius: 8px }
"""

if __name__ == "__main__":
    main()

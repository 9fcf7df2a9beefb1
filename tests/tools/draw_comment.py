"""Draw docs/images/comment.webp: the comment of a run, as GitHub shows it in a pull request.

    python tests/tools/draw_comment.py

Needs cmarkgfm, GitHub's own Markdown, and what `tests/tools/draw_page.py` needs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cmarkgfm  # type: ignore[import-untyped]
from browser import browser
from page_run import page_run

from pytest_llmcost.reports.markdown import render_markdown

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "comment.webp"
WIDTH = 920


def main() -> None:
    """Render the comment of the run that the page shows, too, and take a picture of it."""
    unsafe = cmarkgfm.Options.CMARK_OPT_UNSAFE  # GitHub keeps the few tags that a comment has
    html = cmarkgfm.github_flavored_markdown_to_html(render_markdown(page_run()), options=unsafe)
    for sign, drawn in _DRAWN.items():
        html = html.replace(sign, drawn)
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        page = Path(folder) / "comment.html"
        page.write_text(_PAGE.format(style=_STYLE, comment=html), encoding="utf-8")
        chromium.look(WIDTH, scale=1.5)
        chromium.open(page)
        height = chromium.run("return document.documentElement.scrollHeight")
        PICTURE.write_bytes(chromium.screenshot(height, form="webp"))


_DRAWN = {"❌": "<b class='over'>✖</b>", "❓": "<b class='unknown'>?</b>", "⚠️": "<b>!</b>"}
"""Instead of emoji, for which few machines without a screen have a font."""
_PAGE = """<!doctype html><meta charset="utf-8"><style>{style}</style>
<article><header><b>github-actions</b> bot commented</header><main>{comment}</main></article>"""
_STYLE = """
html { background: #fff; color: #1f2328; font: 14px/1.5 "Segoe UI", "DejaVu Sans", sans-serif }
body { margin: 16px }
article { border: 1px solid #d1d9e0; border-radius: 6px }
header { background: #f6f8fa; border-bottom: 1px solid #d1d9e0; padding: 8px 16px; color: #59636e }
header b { color: #1f2328 }
main { padding: 16px }
h3 { font-size: 1.25em; margin: 0 0 16px }
table { border-collapse: collapse; display: block; max-width: 100%; overflow: auto }
p, ul, table, details { margin: 0 0 16px }
sub { color: #59636e }
th, td { border: 1px solid #d1d9e0; padding: 6px 13px }
tr:nth-child(2n) { background: #f6f8fa }
.over { color: #d1242f }
.unknown { color: #cf222e; background: #ffebe9; border-radius: 50%; padding: 0 .4em }
code { background: #818b981f; border-radius: 6px; font-size: 85%; padding: .2em .4em;
  white-space: break-spaces }
"""

if __name__ == "__main__":
    main()

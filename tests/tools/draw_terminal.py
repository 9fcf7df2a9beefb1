"""Draw docs/images/: what a terminal shows of the pages' own examples, for light and dark pages.

    python tests/tools/draw_terminal.py

Runs the examples against the stand-in API, so it needs neither a key nor the network.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from doc_pages import IMAGES, PICTURES, Walk, blocks_of
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text
from standin import StandIn

_LIGHT_COLORS = ["#1f2328", "#cf222e", "#116329", "#7d4e00", "#0969da", "#8250df", "#1b7c83"]
_DARK_COLORS = ["#e6edf3", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf"]
THEMES = {
    "light": ("#ffffff", "#1f2328", _LIGHT_COLORS),
    "dark": ("#0d1117", "#e6edf3", _DARK_COLORS),
}
_FORMAT = """\
<svg class="{unique_id}" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<rect width="{width}" height="{height}" rx="8" fill="BACKGROUND"/>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect width="{width}" height="{height}"/></clipPath>{lines}</defs>
<g transform="translate(12, 12)" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g></svg>
"""
"""Rich's frame loads its font from the network; a picture in a repository may not."""


def screens() -> Iterator[tuple[str, str]]:
    """Yield the name of each picture and what the terminal shows, with its colours."""
    for name, (page, end) in PICTURES.items():
        with tempfile.TemporaryDirectory() as folder, StandIn() as api:
            walk = Walk(Path(folder), api.url, color="yes")
            for block in blocks_of(page):
                printed = walk.real_code(block)
                if block.argument.endswith(end):
                    yield name, printed
                    break


def pictures() -> dict[Path, str]:
    """Return each picture's path and its SVG."""
    return {
        IMAGES / f"{name}-{theme}.svg": draw(printed, theme, f"{name}-{theme}")
        for name, printed in screens()
        for theme in THEMES
    }


def draw(printed: str, theme: str, name: str) -> str:
    """Draw what was printed, escape codes for colours included."""
    background, foreground, colors = THEMES[theme]
    rgb = [_rgb(color) for color in colors]
    console = Console(width=80, record=True, file=StringIO(), force_terminal=True)
    console.print(Text.from_ansi(printed.rstrip()), soft_wrap=True)
    return console.export_svg(
        theme=TerminalTheme(_rgb(background), _rgb(foreground), [*rgb, _rgb(foreground)]),
        code_format=_FORMAT.replace("BACKGROUND", background),
        unique_id=name,
    )


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for path, svg in pictures().items():
        path.write_text(svg, encoding="utf-8", newline="\n")

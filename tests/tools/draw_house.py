"""Draw docs/house.svg: the rooms of the package, and who imports whom, read from the imports.

    python tests/tools/draw_house.py

A line is drawn where a room needs another one directly; a way over other rooms is not drawn twice.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "pytest_llmcost"
PICTURE = ROOT / "docs" / "house.svg"
FOUNDATION = {"errors", "money", "json_values", "files", "nesting", "yaml_file", "aws_arn"}
"""Small modules without pytest, HTTP and prices, which every room may use; drawn as one box."""
WIDTH, HEIGHT, ACROSS, DOWN = 132, 40, 24, 34
"""Of a box, and the gaps between boxes."""


def rooms() -> dict[str, set[str]]:
    """Return each room with the rooms that it imports, also inside functions."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        own = _room(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))
        if own == "__init__":
            continue  # the public names, loaded when asked for
        targets = found.setdefault(own, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                is_package = node.module == "pytest_llmcost"
                names = [f"{node.module}.{each.name}" for each in node.names]
                names = names if is_package else [node.module]
            elif isinstance(node, ast.Import):
                names = [each.name for each in node.names]
            targets |= {
                _room(name.split(".")[1]) for name in names if name.startswith("pytest_llmcost.")
            }
    known = set(found)
    return {room: (targets & known) - {room} for room, targets in found.items()}


def _room(name: str) -> str:
    return "foundation" if name in FOUNDATION else name


def direct(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Leave out of each room's imports those that it reaches over another one."""
    return {
        room: {
            target
            for target in targets
            if not any(target in _reached(graph, via) for via in targets - {target})
        }
        for room, targets in graph.items()
    }


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    ahead = [start]
    while ahead:
        news = graph[ahead.pop()] - found
        found |= news
        ahead += news
    return found


def floors(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the rooms from the top of the house to its bottom, a list for each floor."""
    height: dict[str, int] = {}
    while len(height) < len(graph):
        before = len(height)
        for room, targets in graph.items():
            if room not in height and targets <= set(height):
                height[room] = max((height[target] for target in targets), default=-1) + 1
        if len(height) == before:
            raise SystemExit(f"these rooms import each other: {sorted(set(graph) - set(height))}")
    top = max(height.values())
    return [sorted(room for room in graph if height[room] == floor) for floor in range(top, -1, -1)]


def drawing() -> str:
    """Return the picture."""
    graph = rooms()
    levels = floors(graph)
    width = max(map(len, levels)) * (WIDTH + ACROSS) + ACROSS
    height = len(levels) * (HEIGHT + DOWN) + DOWN
    at: dict[str, tuple[int, int]] = {}
    for floor, level in enumerate(levels):
        left = (width - len(level) * (WIDTH + ACROSS) + ACROSS) // 2
        for place, room in enumerate(level):
            at[room] = (left + place * (WIDTH + ACROSS), DOWN + floor * (HEIGHT + DOWN))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="15" text-anchor="middle">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for room, targets in sorted(direct(graph).items()):
        for target in sorted(targets):
            (x1, y1), (x2, y2) = at[room], at[target]
            ends = f'x1="{x1 + WIDTH // 2}" y1="{y1 + HEIGHT}" x2="{x2 + WIDTH // 2}" y2="{y2}"'
            lines.append(f'<line {ends} stroke="#9aa5b1"/>')
    for room, (x, y) in sorted(at.items()):
        box = f'x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"'
        lines.append(f'<rect {box} fill="#eef3fb" stroke="#4b6a9b"/>')
        lines.append(f'<text x="{x + WIDTH // 2}" y="{y + HEIGHT // 2 + 5}">{room}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    if "--print" in sys.argv:
        sys.stdout.write(drawing())
    else:
        PICTURE.write_text(drawing(), encoding="utf-8", newline="\n")

"""The house holds: who may import whom, and what loading the plugin costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_llmcost

PACKAGE = Path(pytest_llmcost.__file__).parent
ROOMS = ("errors", "pricing", "metering", "budgeting", "reporting", "plugin")
LEVELS = {room: level for level, room in enumerate(ROOMS)} | {
    "settings": 1.5,  # amounts come from pricing; no room below the plugin reads it
    "reconcile": 4.5,
    "hookspecs": 5,
    "cli": 5,
    "commands": 5,
}
HEAVY = ("anthropic", "httpx", "httpx2", "vcr", "wrapt", "yaml", "pydantic", "jinja2")
AT_HOME = {
    "anthropic": {"metering/counter.py", "reconcile/adminapi.py", "plugin/__init__.py"},
    "vcr": {"metering/cassette.py"},
}
"""Where alone these may be imported at all."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            yield node.module, node


def typing_only(tree: ast.AST) -> set[ast.AST]:
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            found.update(each for statement in node.body for each in ast.walk(statement))
    return found


def inside_functions(tree: ast.AST) -> set[ast.AST]:
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.update(each for statement in node.body for each in ast.walk(statement))
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down_the_house_and_heavy_ones_wait_inside_functions(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    room = room_of(path)
    for_types, deferred = typing_only(tree), inside_functions(tree)
    for name, node in imports(tree):
        if node in for_types:
            continue
        top = name.partition(".")[0]
        if top in HEAVY:
            assert node in deferred, f"{path}: {name} is imported on loading"
        if top in AT_HOME:
            home = path.relative_to(PACKAGE).as_posix()
            assert home in AT_HOME[top], f"{path} imports {name}"
        if top == "pytest":
            assert room in ("plugin", "hookspecs", "__init__"), f"{path} imports pytest"
        if name.startswith("pytest_llmcost.") and room != "__init__":
            target = name.split(".")[1]
            assert LEVELS[target] <= LEVELS[room], f"{path} imports {name} from above"


def test_every_room_is_in_the_order() -> None:
    assert {room_of(path) for path in modules()} - {"__init__", "__main__"} <= set(LEVELS)


def loaded_after(code: str) -> set[str]:
    script = textwrap.dedent(code) + "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_loading_the_plugin_loads_nothing_heavy() -> None:
    assert loaded_after("import pytest_llmcost.plugin").isdisjoint(HEAVY)


def test_a_suite_that_does_not_use_the_plugin_never_loads_anything_heavy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (tmp_path / "test_plain.py").write_text("def test_plain(): assert True\n")
    code = f"""
        import pytest
        arguments = ["-q", "-p", "llmcost", "-p", "no:cacheprovider", {str(tmp_path)!r}]
        assert pytest.main(arguments) == 0
    """
    modules = loaded_after(code)
    assert modules.isdisjoint(HEAVY)
    assert "pytest_llmcost.plugin" in modules

"""The house holds: who may import whom, and what loading the plugin costs."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import pytest_llmcost

PACKAGE = Path(pytest_llmcost.__file__).parent
BELOW = {
    "errors": "",
    "yaml_file": "",
    "money": "errors",
    "json_values": "errors",
    "concurrency": "",
    "credentials": "yaml_file",
    "files": "errors",
    "settings": "money counting",
    "prices": "money json_values files credentials",
    "responses": "prices",
    "counting": "prices concurrency",
    "call": "responses counting",
    "capture": "call",
    "amounts": "call",
    "budgets": "amounts",
    "ledger": "budgets",
    "compare": "ledger",
    "reports": "compare",
    "reconcile": "reports",
    "cli": "reconcile settings",
    "hookspecs": "reports",
    "plugin": "reports capture hookspecs settings",
}
"""Each room, and what is directly below it: it may import that, and all that is below that."""
HEAVY = ("anthropic", "httpx", "httpx2", "vcr", "wrapt", "yaml", "pydantic", "jinja2")
"""Imported inside functions alone."""
NOT_ON_LOADING = (*HEAVY, "msgspec")
AT_HOME = {
    "anthropic": {"counting/client.py", "reconcile/admin_api.py", "plugin/__init__.py"},
    "vcr": set(),
}
"""Where alone these may be imported at all."""
NOT_YET: set[tuple[str, str]] = set()
"""Modules that still import a room above or beside them; only ever shorter."""


class Import(NamedTuple):
    name: str
    node: ast.AST


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def home_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    return home_of(path).partition("/")[0].removesuffix(".py")


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in modules()}


@cache
def read(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[Import]:
    """Every import, wherever it stands; `from a import b` is of `a.b` where that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield Import(inner if inner in MODULES else node.module, node)


def typing_only(tree: ast.AST) -> set[ast.AST]:
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            found.update(each for statement in node.body for each in ast.walk(statement))
    return found


def inside_functions(tree: ast.AST) -> set[ast.AST]:
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if node not in found and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            found.update(each for statement in node.body for each in ast.walk(statement))
    return found


def all_below(room: str) -> set[str]:
    direct = BELOW[room].split()
    return {room, *direct, *(each for below in direct for each in all_below(below))}


@pytest.mark.parametrize("path", modules(), ids=home_of)
def test_heavy_imports_wait_inside_functions_and_stay_at_home(path: Path) -> None:
    tree = read(path)
    for_types, deferred = typing_only(tree), inside_functions(tree)
    for name, node in imports(tree):
        top = name.partition(".")[0]
        if node not in for_types:
            assert top not in HEAVY or node in deferred, f"{path}: {name} is imported on loading"
            assert home_of(path) in AT_HOME.get(top, {home_of(path)}), f"{path} imports {name}"
        if top in ("pytest", "_pytest"):
            assert room_of(path) in ("plugin", "hookspecs", "__init__"), f"{path} imports {name}"


def test_every_room_is_in_the_order() -> None:
    assert {room_of(path) for path in modules()} - {"__init__", "__main__"} <= set(BELOW)


def test_imports_go_down_the_house() -> None:
    """Also those inside functions, and those for types alone."""
    upward = set()
    for path in modules():
        if room_of(path) in ("__init__", "__main__"):
            continue
        for name, _ in imports(read(path)):
            if name.startswith("pytest_llmcost."):
                target = name.split(".")[1]
                if target not in all_below(room_of(path)):
                    upward.add((home_of(path), target))
    assert upward == NOT_YET, "shorten NOT_YET, and never add to it"


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Also through imports inside functions, and those for types alone."""
    graph = {
        name: {target for target, _ in imports(read(path)) if target in MODULES} - {name}
        for name, path in MODULES.items()
        if name != "pytest_llmcost"  # the public names, which are loaded when asked for
    }
    found = {home_of(MODULES[name]) for circle in circles(graph) for name in circle}
    assert found == set()


def circles(graph: Mapping[str, set[str]]) -> Iterator[frozenset[str]]:
    """Group the modules that can each reach all the others of the group."""
    reached = {name: reachable(graph, name) for name in graph}
    groups = {
        frozenset(other for other in reached[name] if name in reached.get(other, ()))
        for name in graph
    }
    yield from (group for group in groups if group)


def reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    ahead = [start]
    while ahead:
        news = graph.get(ahead.pop(), set()) - found
        found |= news
        ahead += news
    return found


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}
    assert set(circles(graph)) == {frozenset({"b", "c"})}


def loaded_after(code: str) -> set[str]:
    script = textwrap.dedent(code) + "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_loading_the_plugin_loads_nothing_heavy() -> None:
    assert loaded_after("import pytest_llmcost.plugin").isdisjoint(NOT_ON_LOADING)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """What is loaded after a suite that imports a library: each in a fork of a fresh Python."""
    code = """
        import json, os, pathlib, sys, pytest
        from _pytest.config import default_plugins
        for name in default_plugins:
            __import__(f"_pytest.{name}")
        for path in pathlib.Path().glob("*.py"):
            if not os.fork():
                status = pytest.main(["-q", "-p", "llmcost", "-p", "no:cacheprovider", str(path)])
                path.with_suffix(".json").write_text(json.dumps([status, *sorted(sys.modules)]))
                os._exit(0)
            os.wait()
    """
    folder = tmp_path_factory.mktemp("suites")
    for imported in IMPORTED:
        head = f"import {imported}\n" if imported else ""
        (folder / f"test_{imported}.py").write_text(f"{head}def test_plain(): assert True\n")
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    return {each: json.loads((folder / f"test_{each}.json").read_text()) for each in IMPORTED}


IMPORTED = ("", "httpx", "httpx2", "urllib3", "multiprocessing")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("imported", IMPORTED)
def test_a_suite_that_does_not_use_the_plugin_never_loads_anything_heavy(
    imported: str, loaded: dict[str, list[object]]
) -> None:
    status, *modules = loaded[imported]
    assert status == pytest.ExitCode.OK
    assert {*modules}.isdisjoint({*NOT_ON_LOADING} - {imported})
    assert "pytest_llmcost.plugin" in modules

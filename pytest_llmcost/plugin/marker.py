"""Budgets, as max_cost markers and settings state them, and paths of settings without a test."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from fnmatch import fnmatch
from functools import partial
from itertools import combinations
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from msgspec.structs import replace

from pytest_llmcost.budgets.budget import Budget, Limited, Scope
from pytest_llmcost.budgets.path_globs import (
    check_tag,
    matches,
    parse_path_budget,
    read_line,
    rule_for,
)
from pytest_llmcost.errors import SettingsError
from pytest_llmcost.files import path_in_project
from pytest_llmcost.money import format_whole_usd, show_value
from pytest_llmcost.plugin.options import ARGUMENTS, MARKER, TAG_MARKER
from pytest_llmcost.plugin.owners import location_of, nodeid_of
from pytest_llmcost.prices.bill import CacheState
from pytest_llmcost.settings import CACHE_STATES, Settings

if TYPE_CHECKING:
    import _pytest.nodes


class Limits(NamedTuple):
    """What limits one test: its budgets, money first, and the cache state that they use."""

    budgets: tuple[Budget, ...]
    cache: CacheState
    is_live_stated: bool
    """Whether a marker says if it may go live, so that `llmcost_live` says nothing of it."""


def limits_of(item: pytest.Item, settings: Settings) -> Limits:
    """Return a test's budgets: of each kind the one of the nearest marker, then the default.

    Raises:
        SettingsError: a wrong marker; the message names its place.
    """
    budgets: dict[tuple[Limited, str | None], Budget] = {}
    cache: CacheState | None = None
    for node, obj, mark in _nearest_first(item):
        own, state = _read_marker(mark, _where(node, obj), settings, is_own=node is item)
        for budget in own:
            budgets.setdefault(budget.subject, budget)
        cache = cache or state
    nodeid, is_live_stated = nodeid_of(item), ("live", None) in budgets
    for budget in _of_settings(settings, "test", nodeid):
        budgets.setdefault(budget.subject, budget)
    # `live=True` limits nothing: it takes the setting's gate away.
    finite = (each for each in budgets.values() if each.limit.is_finite())
    order = [*ARGUMENTS, "refused"]
    stated = sorted(finite, key=lambda each: order.index(each.kind))
    # A budget is one on an amount, of the test or of its path; rules and parts alone are none.
    if settings.require_budget and all(each.is_rule or each.part for each in stated):
        of_paths = _patterns(each for each in budgets_of_run(settings) if not each.is_gate)
        if not any(matches(pattern, nodeid) for pattern in of_paths):
            stated.insert(0, _budget(settings, "test", "require_budget", kind="unbudgeted"))
    if cache and cache != settings.cache:
        stated = [replace(each, cache_state=cache) for each in stated]
    return Limits(tuple(stated), cache or settings.cache, is_live_stated)


def check_markers(item: pytest.Item, settings: Settings) -> None:
    """Check the markers of a test when it is collected.

    Two markers on one function, class or module, or on the parameters of one test, must not set
    the same limit. Those that hooks and tests add are on no such object, so they may set any.

    Raises:
        SettingsError: a wrong marker, or two; the message names the place.
    """
    limits_of(item, settings)
    for mark in item.iter_markers(TAG_MARKER):
        try:
            if mark.kwargs:
                raise SettingsError(f"has no argument {next(iter(mark.kwargs))}=; it takes tags")
            for name in mark.args or [""]:
                check_tag(name)
        except SettingsError as error:
            raise SettingsError(f"{_where(item, None)}: {TAG_MARKER}: {error}") from None
    # Equal ones of two parametrisations are no contradiction.
    params = [mark for mark in _param_marks(item) if mark.name == MARKER]
    params = [mark for at, mark in enumerate(params) if mark not in params[:at]]
    marked = [(node, *each) for node in item.listchain() for each in _marked_objects(node)]
    for node, obj, marks in [(item, None, params), *marked]:
        for one, other in combinations(marks, 2):
            where = _where(node, obj)
            read = [_read_marker(mark, where, settings, is_own=False) for mark in (one, other)]
            mine, others = ({each.subject for each in budgets} for budgets, _ in read)
            if both := [f"{part} in parts" if part else kind for kind, part in mine & others]:
                raise SettingsError(
                    f"{where}: two max_cost markers set the same limit "
                    f"({', '.join(sorted(both))}): {_show(one)} and {_show(other)}; remove one "
                    "of them"
                )


def budgets_of_run(settings: Settings) -> list[Budget]:
    """Return the budgets over several tests: the suite's and those of paths.

    Raises:
        SettingsError: a wrong line in `llmcost_budgets`.
    """
    origin, warn_at = settings.origin("budgets"), settings.warn_at
    paths = [parse_path_budget(line, origin, warn_at=warn_at) for line in settings.budgets]
    # A gate for each path that has a line of its own; a test that breaks it fails by itself.
    for pattern, value in dict(map(read_line, settings.live)).items():
        if pattern and value != "off":  # which takes a rule away, so that none is lost
            paths.append(_budget(settings, "path", "live", kind="live", pattern=pattern))
    models: dict[str, list[str]] = {}
    for pattern, model in map(read_line, settings.allowed_models):
        models.setdefault(pattern, []).append(model)
    for pattern, names in models.items():
        if pattern:
            allowed = {"pattern": pattern, "models": tuple(names)}
            paths.append(_budget(settings, "path", "allowed_models", kind="models", **allowed))
    return [*_of_settings(settings, "suite"), *paths]


def _patterns(budgets: Iterable[Budget]) -> list[str]:
    """Return the globs of those that are for paths."""
    return [each.pattern for each in budgets if each.scope == "path" and each.pattern]


def _budget(settings: Settings, scope: Scope, name: str, **fields: Any) -> Budget:
    """Return the budget that a setting states; of one that is no amount, a rule for every call."""
    stated = getattr(settings, name)
    limit = Decimal(stated if type(stated) in (int, Decimal) else 0)
    usual = {"limit": limit, "label": name, "warn_at": settings.warn_at}
    return Budget(scope=scope, origin=settings.origin(name), **{**usual, **fields})


def _of_settings(settings: Settings, scope: Scope, *nodeid: str) -> Iterator[Budget]:
    """Yield the budgets of a test, or of the suite; its gates are on calls outside of tests."""
    budget = partial(_budget, settings, scope)
    if scope == "suite":
        if settings.max_suite is not None:
            yield budget("max_suite")
        elif settings.require_budget and settings.max_call is None:
            yield budget("require_budget", kind="unbudgeted")
    else:
        if settings.max_test is not None:
            yield budget("max_test")
        if settings.max_worst is not None:
            yield budget("max_worst", kind="worst")
    if rule_for(settings.live, *nodeid)[1][-1:] == ["fail"]:
        yield budget("live", kind="live")
    if settings.max_live is not None:
        cap = format_whole_usd(settings.max_live)
        yield budget("max_live", kind="refused", limit=Decimal(0), reason=cap)
    if settings.max_call is not None:
        yield budget("max_call", kind="call_usd")
    for part, limit in sorted(settings.max_parts, key=itemgetter(1)):  # of two, the lower one holds
        yield budget("max_parts", kind="parts", part=part, limit=Decimal(limit))
    if models := tuple(rule_for(settings.allowed_models, *nodeid)[1]):
        yield budget("allowed_models", kind="models", models=models)
    if settings.stable_prefix == "fail":
        yield budget("stable_prefix", kind="stable_prefix")


def _nearest_first(
    item: pytest.Item,
) -> Iterator[tuple[_pytest.nodes.Node, object, pytest.Mark]]:
    """Yield all markers of a test, each with its node and the object that it is on.

    A parameter's are nearer than the function's own; a class's are nearer than its bases', in
    the order of the MRO, where pytest has the bases first (pytest-dev/pytest#14329).
    """
    params = _param_marks(item)
    for node in reversed(item.listchain()):
        own = [mark for mark in node.own_markers if mark.name == MARKER]
        if not own:
            continue
        # By identity: several places may have equal markers.
        nearness: dict[int, tuple[int, object]] = {id(mark): (-1, None) for mark in params}
        # Not of items: that of unittest makes its instance anew if its `obj` is asked for after
        # the test.
        if isinstance(node, (pytest.Class, pytest.Module)):
            for number, (obj, marks) in enumerate(_marked_objects(node)):
                for mark in marks:
                    nearness.setdefault(id(mark), (number, obj))
        # One that a hook has added to the node is as near as one on the class.
        found = [(*nearness.get(id(mark), (0, None)), mark) for mark in own]
        yield from ((node, obj, mark) for _, obj, mark in sorted(found, key=itemgetter(0)))


def _param_marks(item: pytest.Item) -> Sequence[pytest.Mark]:
    """Return the markers of a test's parameters, those of all its parametrisations."""
    return getattr(getattr(item, "callspec", None), "marks", ())


def _marked_objects(node: _pytest.nodes.Node) -> Iterator[tuple[object, list[pytest.Mark]]]:
    """Yield a node's function, class or module, and a class's bases, each with its markers."""
    obj: Any = getattr(node, "obj", None)
    for marked in obj.__mro__ if inspect.isclass(obj) else (obj,):
        # Its own alone, for classes inherit the attribute.
        stated = getattr(marked, "__dict__", {}).get("pytestmark", [])
        listed = stated if isinstance(stated, list) else [stated]
        marks: list[Any] = [getattr(each, "mark", each) for each in listed]
        yield marked, [mark for mark in marks if getattr(mark, "name", None) == MARKER]


def _read_marker(
    mark: pytest.Mark, origin: str, settings: Settings, *, is_own: bool
) -> tuple[list[Budget], CacheState | None]:
    """Return the budgets that a marker sets, and the cache state if it names one."""
    stated, where = dict(mark.kwargs), "max_cost: "
    is_wrong = len(mark.args) > 1 or (mark.args and "usd" in stated)
    if mark.args:
        stated["usd"] = mark.args[0]
    reason, cache = stated.pop("reason", None), stated.pop("cache", None)
    unknown = sorted(stated.keys() - ARGUMENTS.keys())
    budgets = []
    try:
        if reason is not None and not isinstance(reason, str):
            raise SettingsError(f"reason={show_value(reason)} is not text")
        if cache is not None and cache not in CACHE_STATES:
            raise SettingsError(
                f"cache={show_value(cache)} is not one of {', '.join(CACHE_STATES)}"
            )
        if is_wrong or not stated or unknown:
            raise SettingsError(
                f"{f'has no argument {unknown[0]}=; it ' if unknown else ''}"
                'takes an amount such as "$0.05" and optionally '
                f"{', '.join(f'{kind}=' for kind in ARGUMENTS if kind != 'usd')}, "
                f"cache= and reason=; got {_show(mark)}"
            )
        for kind in (each for each in ARGUMENTS if each in stated):
            where = "max_cost: " if kind == "usd" else f"max_cost: {kind}="
            # None, perhaps from a variable that is not set, is an error: it would limit nothing.
            read = ARGUMENTS[kind](stated[kind])
            allowed: dict[str, Any] = {kind: read} if isinstance(read, tuple) else {}
            limits = read if isinstance(read, Mapping) else {None: 0 if allowed else read}
            for part, limit in limits.items():
                budget = Budget(
                    scope="test",
                    kind=kind,
                    limit=Decimal(limit),
                    part=part,
                    origin=origin,
                    required=is_own,
                    reason=reason,
                    warn_at=settings.warn_at,
                    **allowed,
                )
                budgets.append(budget)
    except SettingsError as error:
        raise SettingsError(f"{origin}: {where}{error}") from None
    return budgets, cache


def _show(mark: pytest.Mark) -> str:
    given = [show_value(arg) for arg in mark.args]
    given += [f"{name}={show_value(value)}" for name, value in mark.kwargs.items()]
    return f"max_cost({', '.join(given)})"


_PYTESTMARK = re.compile(r"pytestmark\b[^=]*=")


def _where(node: _pytest.nodes.Node, obj: object) -> str:
    """Return where a marker stands, `file:line` as far as it is known."""
    if isinstance(node, pytest.Item):
        shown, line = location_of(node)
        return shown if line is None else f"{shown}:{line}"
    path, suffix = node.path, ""
    marked = obj or getattr(node, "obj", None)
    if inspect.isclass(marked):
        suffix = f"::{marked.__name__}"
    with suppress(OSError, TypeError):
        if inspect.isclass(marked):
            suffix = f":{inspect.getsourcelines(marked)[1]}"
            path = Path(inspect.getsourcefile(marked) or path)
        elif inspect.ismodule(obj):  # by the text of its lines: to parse a module takes long
            lines = enumerate(inspect.getsourcelines(obj)[0], 1)
            found = [at for at, line in lines if _PYTESTMARK.match(line)]
            suffix = f":{found[0]}" if len(found) == 1 else ""
    return path_in_project(path, node.config.rootpath) + suffix


def unmatched_globs(
    settings: Settings, session: pytest.Session, items: Sequence[pytest.Item]
) -> Iterator[str]:
    """Yield the globs of settings that match neither a collected test nor a file that was left out.

    They limit nothing, because a folder was renamed or a name is misspelt.
    """
    nodeids = {nodeid_of(item) for item in items}
    config = session.config
    is_partial = config.getoption("lf", False) or any("::" in arg for arg in config.args)
    # A file that was collected in part, or not at all, may have other tests that match.
    whole = set() if is_partial else {nodeid.partition("::")[0] for nodeid in nodeids}
    for pattern in dict.fromkeys(_patterns(budgets_of_run(settings))):
        is_missing = not any(matches(pattern, nodeid) for nodeid in nodeids)
        if is_missing and whole.issuperset(_test_files(session, pattern)):
            yield pattern


def _test_files(session: pytest.Session, pattern: str) -> Iterator[str]:
    """Yield the test files, as pytest and its plugins see them, in which a glob may hold."""
    root = session.config.rootpath
    # Behind a wildcard may be the name of a test, unless it has a dot or a slash as paths have.
    path_glob = re.sub(r"(?<=\*)(?!\*)[^/.[]*(\[.*)?$", "", pattern.partition("::")[0])
    skipped: list[str] = session.config.getini("norecursedirs")
    folder = re.split(r"[*?]", path_glob)[0].rpartition("/")[0]
    top = Path(os.path.normpath(root / folder))
    if not top.is_relative_to(root):  # what was not collected there is not known to be a test
        return
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if not any(fnmatch(name, each) for each in skipped)]
        for path in (Path(folder, name) for name in files):
            relative = path.relative_to(root).as_posix()
            if matches(path_glob, relative) and session.gethookproxy(path).pytest_collect_file(
                file_path=path, parent=session
            ):
                yield relative

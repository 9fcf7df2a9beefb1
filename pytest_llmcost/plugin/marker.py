"""Ceilings: from max_cost on functions, classes and modules, and from settings, to Budgets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmcost.amounts import Kind
from pytest_llmcost.budgets.budget import Budget
from pytest_llmcost.budgets.path_globs import parse_path_budget
from pytest_llmcost.errors import SettingsError
from pytest_llmcost.money import parse_quantity, parse_usd
from pytest_llmcost.plugin.item_hooks import MARKER
from pytest_llmcost.prices.bill import CacheState
from pytest_llmcost.settings import CACHE_STATES, Settings

if TYPE_CHECKING:
    import _pytest.nodes


_PARSERS: dict[Kind, Callable[[object], Decimal]] = {
    "usd": parse_usd,
    "input_tokens": lambda value: Decimal(parse_quantity(value)),
    "output_tokens": lambda value: Decimal(parse_quantity(value)),
    "calls": lambda value: Decimal(parse_quantity(value)),
}


@dataclass(frozen=True)
class Ceilings:
    """All ceilings of one test, the decisive one (money) first, and the basis they use."""

    budgets: tuple[Budget, ...] = ()
    cache: CacheState | None = None


def ceilings_of(item: pytest.Item, settings: Settings) -> Ceilings:
    """Collect a test's ceilings: by quantity, the nearest marker that states it, then the default.

    Raises:
        SettingsError: a marker whose arguments make no sense; names the place.
    """
    limits: dict[Kind, Budget] = {}
    cache: CacheState | None = None
    for node, holder, mark in _nearest_first(item):
        origin = _origin(node, holder)
        stated = _read_mark(mark, origin, is_own=node is item, warn_at=settings.warn_at)
        for budget in stated.budgets:
            limits.setdefault(budget.kind, budget)
        cache = cache or stated.cache
    if "usd" not in limits and settings.max_test is not None:
        limits["usd"] = Budget(
            scope="test",
            limit=settings.max_test,
            origin=settings.origin("max_test"),
            label="max_test",
            warn_at=settings.warn_at,
        )
    return Ceilings(tuple(limits[kind] for kind in _PARSERS if kind in limits), cache)


def check_marks(item: pytest.Item) -> None:
    """Refuse two markers on one function, class or module that set the same quantity.

    This is for the time of collection. What parameters, hooks and tests add is on no object, so
    it may set what the object's own marker sets.

    Raises:
        SettingsError: there are two; names the place and both.
    """
    for node in item.listchain():
        for holder, marks in _marked_objects(node):
            for one, other in combinations(marks, 2):
                both = sorted(dict(_stated(one)).keys() & dict(_stated(other)).keys())
                if both:
                    raise SettingsError(
                        f"{_origin(node, holder)}: two max_cost markers set the same limit "
                        f"({', '.join(both)}): {_show(one)} and {_show(other)}; remove one of them"
                    )


def _nearest_first(
    item: pytest.Item,
) -> Iterator[tuple[_pytest.nodes.Node, object, pytest.Mark]]:
    """All markers of a test, each with its node and the object that the marker is on.

    A parameter's are nearer than the function's own; a class's are nearer than its bases', in
    the order of the MRO, where pytest has the bases first.
    """
    callspec = getattr(item, "callspec", None)
    params = () if callspec is None else tuple(callspec.marks)
    for node in reversed(item.listchain()):
        found: list[tuple[int, object, pytest.Mark]] = []
        # Not of an item: unittest's makes its instance anew where it is asked for after the end.
        classes = list(_marked_objects(node)) if isinstance(node, pytest.Class) else []
        for mark in node.own_markers:
            if mark.name == MARKER:
                # What a hook has added to the node is as near as what is on the class itself.
                distance = -1 if _is_among(mark, params) else 0
                holder: object = None
                for place, (cls, own) in enumerate(classes):
                    if _is_among(mark, own):
                        distance, holder = place, cls
                        break
                found.append((distance, holder, mark))
        yield from ((node, holder, mark) for _, holder, mark in sorted(found, key=itemgetter(0)))


def _is_among(mark: pytest.Mark, marks: Iterable[pytest.Mark]) -> bool:
    """Whether it is one of them, itself: equal marks may stand in several places."""
    return any(mark is each for each in marks)


def _marked_objects(node: _pytest.nodes.Node) -> Iterator[tuple[object, list[pytest.Mark]]]:
    """A node's function, class or module, and the class's bases, each with its own markers."""
    obj = getattr(node, "obj", None)
    marked: list[tuple[object, Any]]
    if inspect.isclass(obj):
        marked = [(cls, vars(cls).get("pytestmark", [])) for cls in obj.__mro__]
    else:
        marked = [(obj, getattr(obj, "pytestmark", []))]
    for holder, stated in marked:
        listed = stated if isinstance(stated, list) else [stated]
        marks: list[Any] = [getattr(each, "mark", each) for each in listed]
        yield holder, [mark for mark in marks if getattr(mark, "name", None) == MARKER]


def budgets_of(settings: Settings) -> list[Budget]:
    """The ceilings over several tests: the suite's and those of places.

    Raises:
        SettingsError: a line of `llmcost_budgets` that makes no sense.
    """
    origin = settings.origin("budgets")
    places = [
        parse_path_budget(line, origin, warn_at=settings.warn_at) for line in settings.budgets
    ]
    if settings.max_suite is None:
        return places
    suite = Budget(
        scope="suite",
        limit=settings.max_suite,
        origin=settings.origin("max_suite"),
        label="max_suite",
        warn_at=settings.warn_at,
    )
    return [suite, *places]


def _read_mark(
    mark: pytest.Mark, origin: str, *, is_own: bool, warn_at: Decimal | None = None
) -> Ceilings:
    try:
        stated = dict(_stated(mark))
        reason = _reason(mark)
        budgets = tuple(
            Budget(
                scope="test",
                kind=kind,
                limit=limit,
                origin=origin,
                required=is_own,
                reason=reason,
                warn_at=warn_at,
            )
            for kind, limit in stated.items()
        )
        return Ceilings(budgets, _cache(mark))
    except SettingsError as error:
        raise SettingsError(f"{origin}: max_cost: {error}") from None


def _stated(mark: pytest.Mark) -> Iterator[tuple[Kind, Decimal]]:
    allowed = {"usd", "input_tokens", "output_tokens", "calls", "reason", "cache"}
    amounts = dict(mark.kwargs)
    if len(mark.args) > 1 or (mark.args and "usd" in amounts) or set(amounts) - allowed:
        raise SettingsError(_usage(mark))
    if mark.args:
        amounts["usd"] = mark.args[0]
    if all(amounts.get(kind) is None for kind in _PARSERS):
        raise SettingsError(_usage(mark))
    for kind, parse in _PARSERS.items():
        if amounts.get(kind) is not None:
            yield kind, _named(kind, parse, amounts[kind])


def _named(kind: Kind, parse: Callable[[object], Decimal], value: object) -> Decimal:
    try:
        return parse(value)
    except SettingsError as error:
        raise SettingsError(str(error) if kind == "usd" else f"{kind}={error}") from None


def _usage(mark: pytest.Mark) -> str:
    return (
        'takes an amount such as "$0.05" and optionally input_tokens=, output_tokens=, calls=, '
        f"cache= and reason=; got {_show(mark)}"
    )


def _show(mark: pytest.Mark) -> str:
    given = [repr(arg) for arg in mark.args]
    given += [f"{name}={value!r}" for name, value in mark.kwargs.items()]
    return f"max_cost({', '.join(given)})"


def _reason(mark: pytest.Mark) -> str | None:
    reason = mark.kwargs.get("reason")
    if reason is not None and not isinstance(reason, str):
        raise SettingsError(f"reason={reason!r} is not text")
    return reason


def _cache(mark: pytest.Mark) -> CacheState | None:
    cache: CacheState | None = mark.kwargs.get("cache")
    if cache is not None and cache not in CACHE_STATES:
        raise SettingsError(f"cache={cache!r} is none of {', '.join(CACHE_STATES)}")
    return cache


def _origin(node: _pytest.nodes.Node, holder: object = None) -> str:
    """Where the marker stands, `file:line` as far as it can be told."""
    if isinstance(node, pytest.Item):
        path, line, _ = node.location
        return path if line is None else f"{path}:{line + 1}"
    holder = holder or getattr(node, "obj", None)
    if not inspect.isclass(holder):
        return _relative(node.path, node)
    try:
        path = _relative(Path(inspect.getsourcefile(holder) or node.path), node)
        return f"{path}:{inspect.getsourcelines(holder)[1]}"
    except (OSError, TypeError):
        return f"{_relative(node.path, node)}::{holder.__name__}"


def _relative(path: Path, node: _pytest.nodes.Node) -> str:
    root = node.config.rootpath
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)

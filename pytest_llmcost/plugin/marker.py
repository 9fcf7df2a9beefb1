"""Ceilings: from max_cost on functions, classes and modules, and from settings, to Budgets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_llmcost.budgeting.budget import Budget, Kind
from pytest_llmcost.budgeting.places import parse_place
from pytest_llmcost.errors import SettingsError
from pytest_llmcost.plugin.watch import MARKER
from pytest_llmcost.pricing.bill import Basis
from pytest_llmcost.pricing.money import parse_quantity, parse_usd
from pytest_llmcost.settings import CACHE_BASES, Settings

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
    cache: Basis | None = None


def ceilings_of(item: pytest.Item, settings: Settings) -> Ceilings:
    """Collect a test's ceilings: by quantity, the nearest marker that states it, then the default.

    Raises:
        SettingsError: a marker whose arguments make no sense; names the place.
    """
    limits: dict[Kind, Budget] = {}
    cache: Basis | None = None
    for node, mark in _nearest_first(item):
        stated = _read_mark(mark, node, is_own=node is item)
        for budget in stated.budgets:
            limits.setdefault(budget.kind, budget)
        cache = cache or stated.cache
    if "usd" not in limits and settings.max_test is not None:
        limits["usd"] = _default_ceiling(settings.max_test, settings.origin("max_test"))
    return Ceilings(tuple(limits[kind] for kind in _PARSERS if kind in limits), cache)


def _nearest_first(item: pytest.Item) -> list[tuple[_pytest.nodes.Node, pytest.Mark]]:
    """All markers of a test; those of its parameters are nearer than the function's own."""
    callspec = getattr(item, "callspec", None)
    params = () if callspec is None else tuple(callspec.marks)
    found = list(item.iter_markers_with_node(MARKER))
    return sorted(found, key=lambda each: not any(each[1] is mark for mark in params))


def budgets_of(settings: Settings) -> list[Budget]:
    """The ceilings over several tests: the suite's and those of places.

    Raises:
        SettingsError: a line of `llmcost_budgets` that makes no sense.
    """
    origin = settings.origin("budgets")
    places = [parse_place(line, origin, warn_at=settings.warn_at) for line in settings.budgets]
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


def _default_ceiling(limit: Decimal, origin: str) -> Budget:
    return Budget(scope="test", limit=limit, origin=origin, label="max_test")


def _read_mark(mark: pytest.Mark, node: _pytest.nodes.Node, *, is_own: bool) -> Ceilings:
    origin = _origin(node)
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
    given = [repr(arg) for arg in mark.args]
    given += [f"{name}={value!r}" for name, value in mark.kwargs.items()]
    return (
        'takes an amount such as "$0.05" and optionally input_tokens=, output_tokens=, calls=, '
        f"cache= and reason=; got max_cost({', '.join(given)})"
    )


def _reason(mark: pytest.Mark) -> str | None:
    reason = mark.kwargs.get("reason")
    if reason is not None and not isinstance(reason, str):
        raise SettingsError(f"reason={reason!r} is not text")
    return reason


def _cache(mark: pytest.Mark) -> Basis | None:
    cache: Basis | None = mark.kwargs.get("cache")
    if cache is not None and cache not in CACHE_BASES:
        raise SettingsError(f"cache={cache!r} is none of {', '.join(CACHE_BASES)}")
    return cache


def _origin(node: _pytest.nodes.Node) -> str:
    """Where the marker stands, `file:line` as far as it can be told."""
    if isinstance(node, pytest.Item):
        path, line, _ = node.location
        return path if line is None else f"{path}:{line + 1}"
    path = _relative(node)
    holder = getattr(node, "obj", None)
    if not inspect.isclass(holder):
        return path
    try:
        return f"{path}:{inspect.getsourcelines(holder)[1]}"
    except (OSError, TypeError):
        return f"{path}::{node.name}"


def _relative(node: _pytest.nodes.Node) -> str:
    path = Path(node.path)
    root = node.config.rootpath
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)

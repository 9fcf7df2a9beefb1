"""Tags: what a call is for, such as `judge`, so that totals and budgets can be by purpose.

A call has every tag that is open where it is sent, and those of its test's markers. All, not only
the innermost: a tag inside another must not take calls out of the outer one's budget.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from pytest_llmcost.errors import SettingsError


class _Open:
    """A tag from its beginning to its end; compared by identity."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held_by: Any = None
        """The fixture, wider than a function, that holds it open over its `yield`."""


_tags: ContextVar[tuple[_Open, ...]] = ContextVar("llmcost_tags")
_open: list[_Open] = []
"""Every tag that is open anywhere in this process."""


@contextmanager
def tag(name: str) -> Iterator[None]:
    """Tag the calls inside the block, also those of async tasks and threads that it starts.

    Raises:
        SettingsError: the name is empty, or could not stand in `llmcost_budgets`.
    """
    check_tag(name)
    opened = _Open(name)
    mine = (*_current(), opened)
    token = _tags.set(mine)
    _open.append(opened)
    try:
        yield
    finally:
        _open.remove(opened)
        now = _tags.get(mine)
        # An async fixture may be torn down in another context; its own has ended by then.
        with suppress(ValueError):
            _tags.reset(token)
            if now is not mine:  # fixtures do not always end in the reverse order
                _tags.set(tuple(each for each in now if each is not opened))


def _current() -> tuple[_Open, ...]:
    tags = _tags.get(None)
    if tags is not None or not _open:
        return tags or ()
    # A plain thread inherits no context. What is open elsewhere has most likely started it, and a
    # budget should rather see a call too many than miss one.
    is_main = threading.current_thread() is threading.main_thread()
    return () if is_main else tuple(_open)


def current_tags(uses: Callable[[Any], bool]) -> tuple[str, ...]:
    """Return the tags of what is sent now, by an owner that uses these fixtures and no others."""
    tags = _current()
    if not tags:  # as for most requests
        return ()
    return tuple(each.name for each in tags if each.held_by is None or uses(each.held_by))


@contextmanager
def holding_tags(fixture: object) -> Iterator[None]:
    """Let the tags that the block opens and leaves open be those of a fixture."""
    before = [*_open]
    try:
        yield
    finally:
        for each in _open:
            if each not in before:
                each.held_by = each.held_by or fixture


def check_tag(name: object) -> None:
    """Refuse what is no tag.

    Raises:
        SettingsError: it is no text, empty, or has blanks, a comma or an equals sign.
    """
    if (
        not isinstance(name, str)
        or not name
        or any(each.isspace() or each in ",=" for each in name)
    ):
        raise SettingsError(
            f"{name!r:.80} is not a tag; write a word without blanks, commas and equals signs, "
            'for example "judge"'
        )

"""Who sends a request, and in which tags and blocks: those that are open where it is sent.

A tag says what a call is for, such as `judge`, so that totals and budgets can be by purpose. A call
has all that are open, not only the innermost, and those of its test's markers: a tag inside
another must not take calls out of the outer one's budget.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pytest_llmcost.concurrency import context_var
from pytest_llmcost.errors import SettingsError
from pytest_llmcost.money import show_value
from pytest_llmcost.plugin.options import TAG_MARKER

if TYPE_CHECKING:
    from pytest_llmcost.call import Call, Phase
    from pytest_llmcost.plugin.owners import Owner

entered_blocks: ContextVar[tuple[list[Call], ...] | None] = context_var("llmcost_blocks")
"""The calls of each `budget(...)` block that was entered in this context."""


class Sender:
    """Who sends a request, and in which phase; capture gives it back with the answer."""

    # Written out, as those of owners: to make a NamedTuple takes long, in every run.
    def __init__(
        self,
        owner: Owner,
        phase: Phase | None = None,
        tags: tuple[str, ...] = (),
        blocks: Sequence[list[Call]] = (),
    ) -> None:
        self.owner = owner
        self.phase = phase
        self.tags = tags
        self.blocks = blocks

    def __eq__(self, other: object) -> bool:  # the next attempt of a request has an equal one
        return isinstance(other, Sender) and vars(self) == vars(other)

    def all_tags(self) -> tuple[str, ...]:
        """Return its tags and those of its test's markers by now, sorted."""
        item = self.owner.item
        marked = (mark.args for mark in item.iter_markers(TAG_MARKER)) if item else ()
        # A wrong one is an error when the test is collected.
        names = {name for args in marked for name in args if isinstance(name, str)}
        return tuple(sorted(names.union(self.tags)))


def sender_of(owner: Owner, phase: Phase | None) -> Sender:
    """Return the sender of what an owner sends here and now."""
    blocks = blocks_around(owner, phase) if owner.open_blocks else ()
    tags = _current()
    if not tags:  # as for most requests
        return Sender(owner, phase, (), blocks)
    # A fixture's tag is for those that use the fixture, and for no others.
    names = (each.name for each in tags if each.held_by is None or owner.uses(each.held_by))
    return Sender(owner, phase, tuple(names), blocks)


def blocks_around(owner: Owner, phase: Phase | None) -> tuple[list[Call], ...]:
    """Return the owner's blocks that a call counts for which is sent here and now.

    Tasks that run at once have blocks of their own. What is sent outside of any, for example
    by a plain thread, which inherits no context, counts for all that are open: a budget should
    rather see a call too many than miss one. An async fixture has a context of its own, too,
    so what it began holds for the test.
    """
    entered = {id(calls) for calls in entered_blocks.get() or ()}
    around = [*owner.open_blocks.values()]  # at once: other threads open and end blocks
    is_outside = all(id(calls) not in entered for calls, _ in around)
    return tuple(
        calls for calls, began in around if is_outside or id(calls) in entered or began != phase
    )


class _Open:
    """A tag from its beginning to its end; compared by identity."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.held_by: Any = None
        """The fixture, wider than a function, that holds it open over its `yield`."""
        self.is_of_thread = _is_plain_thread()


_tags: ContextVar[tuple[_Open, ...] | None] = context_var("llmcost_tags")
_open: list[_Open] = []
"""Every tag that is open anywhere in this process."""


@contextmanager
def tag(name: str) -> Iterator[None]:
    """Tag the calls inside the block, also those of async tasks and threads that it starts.

    Raises:
        SettingsError: the name is empty, or could not stand in `llmcost_budgets`.
    """
    check_tag(name)
    opened, before, around = _Open(name), _tags.get(), _current()
    if before is None:  # what other threads have opened is beside this one, not around it
        around = tuple(each for each in around if not each.is_of_thread)
    mine = (*around, opened)
    _tags.set(mine)
    _open.append(opened)
    try:
        yield
    finally:
        _open.remove(opened)
        now = _tags.get()  # of another context if an async fixture is torn down there
        if now is mine:
            _tags.set(before)
        elif now is not None:  # fixtures do not always end in the reverse order
            _tags.set(tuple(each for each in now if each is not opened))


def _current() -> tuple[_Open, ...]:
    tags = _tags.get()
    if tags is not None or not _open:
        return tags or ()
    # A plain thread inherits no context. What is open elsewhere has most likely started it, and a
    # budget should rather see a call too many than miss one.
    return tuple(_open) if _is_plain_thread() else ()


def _is_plain_thread() -> bool:
    return threading.current_thread() is not threading.main_thread()


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
    if not isinstance(name, str) or not re.fullmatch(r"[^\s,=]+", name):
        raise SettingsError(
            f"{show_value(name)} is not a tag; write a word without blanks, commas and equals "
            'signs, for example "judge"'
        )

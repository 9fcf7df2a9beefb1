"""Whose call it is: an attempt of a test, a fixture that several tests share, or neither.

Owners are made only once something is sent, counted or limited; they know nothing of prices. A tag
says what a call is for, such as `judge`, so that totals and budgets can be by purpose. A call has
all that are open where it is sent, not only the innermost, and those of its test's markers: a tag
inside another must not take calls out of the outer one's budget.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from hashlib import sha256
from itertools import takewhile
from operator import ne
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pytest_llmcost.concurrency import cached_property
from pytest_llmcost.plugin.options import TAG_MARKER

if TYPE_CHECKING:
    from decimal import Decimal

    import pytest

    from pytest_llmcost.budgets.budget import Verdict
    from pytest_llmcost.call import Call, Phase
    from pytest_llmcost.capture.changed_prompt import CacheUse
    from pytest_llmcost.ledger import builder
    from pytest_llmcost.plugin.warm_cache import RecordedCall, WarmCache

Ending: TypeAlias = Literal["whole", "skip", "xfail", "error"]
_LONGEST_PARAM = 80


class Owner:
    """Who has sent a request; compared by identity."""

    item: pytest.Item | None = None
    """The test, for the user's hooks; None for shared fixtures and outside of tests."""
    nodeid = ""
    """That of the test."""
    shared_name = "outside"
    """What names it in a way that a forked child shares."""
    is_over = False
    """Whether a test's teardown has ended; what it has sent may still get its answer."""

    def __init__(self) -> None:
        self.has_spent = False
        """Whether it has a call, a count or a block, and so is in the ledger."""
        self.has_requests = False
        """Whether it has sent a request that a budget is for, even a free one."""
        self.live_requests = 0
        """How many requests it sent over the network, or may have, even free ones."""
        self.has_lost_calls = False
        """Whether one of its calls could not be recorded."""
        self.is_whole = False
        """Whether it came to all that it asks for: it has not failed before its end."""
        self.blocks: list[tuple[Verdict, Sequence[Call]]] = []
        """Of its finished `budget(...)` blocks, with the calls that each is about."""
        self.open_blocks: dict[int, tuple[list[Call], Phase | None]] = {}
        """The calls of its blocks under way, by their identity, and the phase each began in."""
        self.recorded: list[RecordedCall] = []
        """Calls whose answer is not complete, or has an id by which the test may state it."""
        self.cache_uses: list[CacheUse] = []
        """What its replayed calls leave in the prompt cache, the oldest first."""
        self.warm_cache: WarmCache | None = None
        self.parts: dict[str, dict[str, int]] = {}
        """By fingerprint, the tokens of its payloads' parts that it needs and that are counted."""
        self.count_errors: dict[str, str] = {}
        """Why prompts could not be counted, in full, by what files may hold of it."""
        self.agent_totals: dict[str, tuple[Decimal, Call]] = {}
        """By the session of an agent: its last running total, and the call recorded for it."""

    @cached_property
    def key(self) -> builder.Owner:
        """Its name in the ledger."""
        from pytest_llmcost.ledger.builder import OUTSIDE

        return OUTSIDE


class TestAttempt(Owner):
    """One attempt of one test, and what came of it."""

    __test__ = False
    item: pytest.Item

    def __init__(self, item: pytest.Item, number: int) -> None:
        super().__init__()
        self.item = item
        self.nodeid = nodeid_of(item)
        self.number = number
        self.shared_name = f"{self.nodeid} #{number}"
        self.verdicts: list[Verdict] = []
        """On the budgets of the test, the worst first."""
        self.ending: Ending = "error"
        """How its body ended, or its set-up if it did not come to more."""
        self.broken: list[tuple[Verdict, Sequence[Call]]] = []
        """Those that fail it, of blocks too, with their calls; it may have failed by another."""
        self.is_failed_by_budget = False
        self.has_failed = False
        """Whether any of its reports has failed, including those of subtests."""

    @cached_property
    def key(self) -> builder.TestOwner:
        """Its name in the ledger."""
        from pytest_llmcost.ledger.builder import TestOwner

        path, line = location_of(self.item)
        return TestOwner(nodeid=self.nodeid, path=path, line=line, attempt=self.number)


class SharedFixture(Owner):
    """One set-up of a fixture wider than a function, and its teardown."""

    def __init__(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest, set_up: int
    ) -> None:
        super().__init__()
        self.shared_name = str(id(self))
        self.definition = fixturedef
        self._request = request
        self._set_up = set_up
        self.name: str = fixturedef.argname

    @cached_property
    def key(self) -> builder.FixtureOwner:
        """Its name in the ledger."""
        from pytest_llmcost.ledger.builder import FixtureOwner

        fixture, request = self.definition, self._request
        # Its own parameter, and those of fixtures that it needs: another one makes another fixture.
        params, callspec = [], getattr(getattr(request, "_pyfuncitem", None), "callspec", None)
        if hasattr(request, "param"):
            index = getattr(request, "param_index", "")
            params.append(_show_param(request.param, self.name, index))
        if callspec is not None:
            for name in sorted(_needed_by(fixture, request) & callspec.params.keys()):
                index = callspec.indices.get(name, "")
                params.append(f"{name}={_show_param(callspec.params[name], name, index)}")
        return FixtureOwner(
            name=self.name,
            scope=fixture.scope,
            baseid=fixture.baseid,
            node=request.node.nodeid,
            worker=worker_of(request.config),
            param=", ".join(params) or None,
            set_up=self._set_up,
        )


def worker_of(config: pytest.Config) -> str | None:
    """Return the name of this xdist worker; None in the process that owns the run."""
    workerinput = getattr(config, "workerinput", None)
    return None if workerinput is None else str(workerinput["workerid"])


def nodeid_of(item: pytest.Item) -> str:
    """Return a test's own id, without the group that xdist's loadgroup appends in workers."""
    if item.parent is not None and worker_of(item.config) is not None:
        own = f"{item.parent.nodeid}::{item.name}"
        if item.nodeid.startswith(f"{own}@"):
            return own
    return item.nodeid


def location_of(item: pytest.Item) -> tuple[str, int | None]:
    """Return the file and the line at which a test stands, as files hold it."""
    path, line, _ = item.location
    # What stands in a package is not the test: pytest-bdd makes a function of its own of each.
    # A package may have tests of its own, which `--pyargs` runs.
    if _is_in_package(Path(path)) and not _is_in_package(item.path):
        from pytest_llmcost.files import path_in_project

        return path_in_project(item.path, item.config.rootpath), None
    return path, None if line is None else line + 1


def _is_in_package(path: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


def _needed_by(fixture: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> set[str]:
    """Return the names of the fixtures that one asks for, and that these ask for."""
    # Private: pytest has no public way to tell what a fixture needs, nor which fixture of a name.
    # Those that the test asked for as it ran are among the first alone.
    asked_for = {name: [each] for name, each in [*getattr(request, "_fixture_defs", {}).items()]}
    known = {**asked_for, **getattr(request, "_arg2fixturedefs", {})}
    needed, waiting = set[Any](), [fixture]
    while waiting:
        each = waiting.pop()
        if each not in needed:
            needed.add(each)
            for name in each.argnames:  # its own name is that of the one that it overrides
                waiting += [*takewhile(partial(ne, each), known.get(name, ()))][-1:]
    return {each.argname for each in needed} - {fixture.argname}


def _show_param(param: object, name: str, index: object) -> str:
    """Return what tells parameters apart and is the same in every run, unlike an address."""
    if not isinstance(param, (str, int, float, bool, type(None))):
        return f"{name}{index}"
    text = repr(param)
    if len(text) <= _LONGEST_PARAM:
        return text
    digest = sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:12]
    return f"{text[:_LONGEST_PARAM]}... {digest}"


# Who sends, and in which tags and blocks

entered_blocks: ContextVar[tuple[list[Call], ...]] = ContextVar("llmcost_blocks", default=())
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
    return Sender(owner, phase, open_tags(), blocks)


def blocks_around(owner: Owner, phase: Phase | None) -> tuple[list[Call], ...]:
    """Return the owner's blocks that a call counts for which is sent here and now.

    Tasks that run at once have blocks of their own. What is sent outside of any, for example
    by a plain thread, which inherits no context, counts for all that are open: a budget should
    rather see a call too many than miss one. An async fixture has a context of its own, too,
    so what it began holds for the test.
    """
    entered = {id(calls) for calls in entered_blocks.get()}
    around = [*owner.open_blocks.values()]  # at once: other threads open and end blocks
    is_outside = all(id(calls) not in entered for calls, _ in around)
    return tuple(
        calls for calls, began in around if is_outside or id(calls) in entered or began != phase
    )


class _Open:
    """A tag from its beginning to its end; compared by identity."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_of_thread = _is_plain_thread()


_tags: ContextVar[tuple[_Open, ...] | None] = ContextVar("llmcost_tags", default=None)
_open: list[_Open] = []
"""Every tag that is open anywhere in this process."""


@contextmanager
def tag(name: str) -> Iterator[None]:
    """Tag the calls inside the block, also those of async tasks and threads that it starts.

    Raises:
        SettingsError: the name is empty, or could not stand in `llmcost_budgets`.
    """
    from pytest_llmcost.budgets.path_globs import check_tag

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


def open_tags() -> tuple[str, ...]:
    """Return the names of the tags that are open here and now."""
    return tuple(each.name for each in _current())


def _current() -> tuple[_Open, ...]:
    tags = _tags.get()
    if tags is not None or not _open:
        return tags or ()
    # A plain thread inherits no context. What is open elsewhere has most likely started it, and a
    # budget should rather see a call too many than miss one.
    return tuple(_open) if _is_plain_thread() else ()


def _is_plain_thread() -> bool:
    return threading.current_thread() is not threading.main_thread()

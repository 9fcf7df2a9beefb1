"""Whose call is it: the attempt of a test, a fixture that several tests share, or nobody.

In every run of every suite these are made for each test, so nothing here costs anything before
a call is made; then `owner` is what the ledger books under.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from decimal import Decimal

    from pytest_llmcost.budgets.budget import Verdict
    from pytest_llmcost.call import Call, Phase
    from pytest_llmcost.capture.changed_prompt import CachedPrefix
    from pytest_llmcost.ledger.builder import FixtureOwner, Owner, TestOwner


_LONGEST_PARAM = 80


class Holder:
    """Somebody who may send requests; compared by identity."""

    def __init__(self) -> None:
        """Begin with nothing spent."""
        self.is_touched = False
        """Whether it has a call, a count or a block: only then it is in the books."""
        self.has_requests = False
        """Whether it has sent a request that a budget is for, be it a free one."""

    @cached_property
    def blocks(self) -> list[Verdict]:
        """What became of `budget(...)` blocks that are through."""
        return []

    @cached_property
    def open_blocks(self) -> list[list[Call]]:
        """The calls of blocks under way."""
        return []

    @cached_property
    def sessions(self) -> dict[str, tuple[Decimal, Call]]:
        """The highest running total of each agent's session, and the call booked for it."""
        return {}

    @cached_property
    def cached_prefixes(self) -> list[CachedPrefix]:
        """What its replayed calls have left in the prompt cache, oldest first."""
        return []

    @cached_property
    def owner(self) -> Owner:
        """Who it is to the ledger."""
        from pytest_llmcost.ledger.builder import OUTSIDE

        return OUTSIDE


class Attempt(Holder):
    """One attempt of one test, and what came of it."""

    def __init__(self, item: pytest.Item, nodeid: str, number: int) -> None:
        """Begin with no verdict."""
        super().__init__()
        self.item = item
        self.nodeid = nodeid
        self.number = number
        self.verdict: Verdict | None = None
        """The decisive one of the test's ceilings, once they are judged."""
        self.others: Sequence[Verdict] = ()
        """Those of its other ceilings, the worst first."""
        self.is_skipped = False
        """Whether its set-up or body ended with a skip."""
        self.is_xfailed = False
        """Whether its set-up or body ended with `pytest.xfail()`."""
        self.has_failed = False
        """Whether any report said so, a subtest's too, whatever comes after."""

    @property
    def verdicts(self) -> list[Verdict]:
        """All that was judged so far, the decisive one first, blocks last."""
        decisive = () if self.verdict is None else (self.verdict,)
        return [*decisive, *self.others, *self.blocks]

    @cached_property
    def owner(self) -> TestOwner:
        """Who it is to the ledger."""
        from pytest_llmcost.ledger.builder import TestOwner

        path, line, _ = self.item.location
        return TestOwner(
            nodeid=self.nodeid,
            path=path,
            line=None if line is None else line + 1,
            attempt=self.number,
        )


class Shared(Holder):
    """A fixture wider than a function, from its set-up to its teardown."""

    def __init__(
        self,
        fixturedef: pytest.FixtureDef[Any],
        request: pytest.FixtureRequest,
        worker: str | None,
        set_up: int,
    ) -> None:
        """Speak for one set-up of a fixture, for the node that it is set up for."""
        super().__init__()
        self._fixture = fixturedef
        self._request = request
        self._worker = worker
        self._set_up = set_up

    @cached_property
    def owner(self) -> FixtureOwner:
        """Who it is to the ledger."""
        from pytest_llmcost.ledger.builder import FixtureOwner

        return FixtureOwner(
            name=self._fixture.argname,
            scope=self._fixture.scope,
            baseid=self._fixture.baseid,
            node=self._request.node.nodeid,
            worker=self._worker,
            param=", ".join(_params(self._fixture, self._request)) or None,
            set_up=self._set_up,
        )


def _params(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> Iterator[str]:
    """What a fixture is set up for: its own parameter, and those of the fixtures it needs.

    Another parameter makes another fixture; the same one over again is the same fixture.
    """
    if hasattr(request, "param"):
        yield _show_param(request.param, fixturedef.argname, getattr(request, "param_index", ""))
    item = getattr(request, "_pyfuncitem", None)
    callspec = getattr(item, "callspec", None)
    if callspec is not None:
        for name in _needs(fixturedef, item._fixtureinfo.name2fixturedefs):  # type: ignore[union-attr]
            if name in callspec.params:
                index = callspec.indices.get(name, "")
                yield f"{name}={_show_param(callspec.params[name], name, index)}"


def _needs(
    fixturedef: pytest.FixtureDef[Any], known: Mapping[str, Sequence[pytest.FixtureDef[Any]]]
) -> list[str]:
    """The names of all that a fixture asks for, and that what it asks for does."""
    found: set[str] = set()
    waiting = [fixturedef]
    while waiting:
        for name in set(waiting.pop().argnames) - {fixturedef.argname} - found:
            found.add(name)
            waiting += known.get(name, ())
    return sorted(found)


def _show_param(param: object, name: str, index: object) -> str:
    """What tells parameters apart, the same in every run: an object's address is not."""
    if isinstance(param, (str, int, float, bool, type(None))):
        return _shorten(repr(param))
    return f"{name}{index}"


def _shorten(text: str) -> str:
    """Cut a long text; what is cut still tells it apart from one that begins the same."""
    if len(text) <= _LONGEST_PARAM:
        return text
    digest = sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:12]
    return f"{text[:_LONGEST_PARAM]}... {digest}"


class Seat(NamedTuple):
    """Whose a request is, and when in their life it was sent."""

    holder: Holder
    phase: Phase | None = None
    item: pytest.Item | None = None
    """The test, for the user's hooks; None for shared fixtures and outside of tests."""

    @property
    def owner(self) -> Owner:
        """Who it is to the ledger."""
        return self.holder.owner


NOBODY = Seat(Holder())

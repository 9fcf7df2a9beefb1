"""Whose call it is: an attempt of a test, a fixture that several tests share, or neither.

Made only once something is sent, counted or limited. Owners know nothing of prices.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_llmcost.concurrency import cached_property

if TYPE_CHECKING:
    from decimal import Decimal

    from pytest_llmcost.budgets.budget import Verdict
    from pytest_llmcost.call import Call, Phase
    from pytest_llmcost.capture.changed_prompt import CachedPrefix
    from pytest_llmcost.ledger import builder
    from pytest_llmcost.plugin.warm_cache import RecordedCall, WarmCache

_LONGEST_PARAM = 80


class Owner:
    """Who has sent a request; compared by identity."""

    item: pytest.Item | None = None
    """The test, for the user's hooks; None for shared fixtures and outside of tests."""

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
        self.blocks: list[Verdict] = []
        """Of its finished `budget(...)` blocks."""
        self.open_blocks: dict[int, tuple[list[Call], Phase | None]] = {}
        """The calls of its blocks under way, by their identity, and the phase each began in."""
        self.unfinished: list[RecordedCall] = []
        """Calls that were recorded before their answers were complete, or without one."""
        self.cached_prefixes: list[CachedPrefix] = []
        """What its replayed calls have left in the prompt cache, the oldest first."""
        self.warm_cache: WarmCache | None = None
        self.parts: dict[str, dict[str, int]] = {}
        """By fingerprint, the tokens of its payloads' parts that it needs and that are counted."""
        self.agent_totals: dict[str, tuple[Decimal, Call]] = {}
        """By the session of an agent: its highest running total, and the call recorded for it."""

    @cached_property
    def key(self) -> builder.Owner:
        """Its name in the ledger."""
        from pytest_llmcost.ledger.builder import OUTSIDE

        return OUTSIDE

    def uses(self, fixture: SharedFixture) -> bool:
        """Return whether it has a fixture, itself or through another one."""
        return False


class TestAttempt(Owner):
    """One attempt of one test, and what came of it."""

    __test__ = False
    item: pytest.Item

    def __init__(self, item: pytest.Item, number: int) -> None:
        super().__init__()
        self.item = item
        self.nodeid = nodeid_of(item)
        self.number = number
        self.verdicts: list[Verdict] = []
        """On the budgets of the test, the worst first."""
        self.excuse: Literal["skip", "xfail"] | None = None
        """With what its set-up or body ended instead of a failure."""
        self.is_broken = False
        """Whether it breaks a budget, also if it has failed by something else."""
        self.is_failed_by_budget = False
        self.has_failed = False
        """Whether any of its reports has failed, including those of subtests."""
        self.is_over = False
        """Whether its teardown has ended; what it has sent may still get its answer."""

    @cached_property
    def key(self) -> builder.TestOwner:
        """Its name in the ledger."""
        from pytest_llmcost.ledger.builder import TestOwner

        path, line, _ = self.item.location
        line = None if line is None else line + 1
        return TestOwner(nodeid=self.nodeid, path=path, line=line, attempt=self.number)

    def uses(self, fixture: SharedFixture) -> bool:
        """Return whether the test has a fixture by now, also one that it asked for as it ran."""
        request = getattr(self.item, "_request", None)
        return fixture.name in getattr(request, "fixturenames", ())


class SharedFixture(Owner):
    """One set-up of a fixture wider than a function, and its teardown."""

    def __init__(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest, set_up: int
    ) -> None:
        super().__init__()
        self._fixture = fixturedef
        self._request = request
        self._set_up = set_up
        self.name: str = fixturedef.argname

    def uses(self, fixture: SharedFixture) -> bool:
        """Return whether it is the fixture, or needs it."""
        return fixture is self or fixture.name in _needed(self._fixture, self._request)

    @cached_property
    def key(self) -> builder.FixtureOwner:
        """Its name in the ledger."""
        from pytest_llmcost.ledger.builder import FixtureOwner

        fixture, request = self._fixture, self._request
        # Its own parameter, and those of fixtures that it needs: another one makes another fixture.
        params, callspec = [], getattr(getattr(request, "_pyfuncitem", None), "callspec", None)
        if hasattr(request, "param"):
            index = getattr(request, "param_index", "")
            params.append(_show_param(request.param, self.name, index))
        if callspec is not None:
            for name in sorted(_needed(fixture, request) & callspec.params.keys()):
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


def _needed(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> set[str]:
    """Return the names of the fixtures that a fixture asks for, and that these ask for."""
    item = getattr(request, "_pyfuncitem", None)
    known = {} if item is None else item._fixtureinfo.name2fixturedefs
    needed: set[str] = set()
    waiting = [fixturedef]
    while waiting:
        for name in set(waiting.pop().argnames) - {fixturedef.argname} - needed:
            needed.add(name)
            waiting += known.get(name, ())
    return needed


def _show_param(param: object, name: str, index: object) -> str:
    """Return what tells parameters apart and is the same in every run, unlike an address."""
    if not isinstance(param, (str, int, float, bool, type(None))):
        return f"{name}{index}"
    text = repr(param)
    if len(text) <= _LONGEST_PARAM:
        return text
    digest = sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:12]
    return f"{text[:_LONGEST_PARAM]}... {digest}"

"""The `llmcost` fixture: count a payload, state a cost, look at what the test has spent.

Data flow: payload -> `Run.count` -> a counted Call -> ledger -> `Counted`, what the test sees.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_llmcost.budgeting.budget import Budget, check, settled, spend_of
from pytest_llmcost.errors import LlmCostError, PriceError, SettingsError
from pytest_llmcost.metering.call import Call
from pytest_llmcost.metering.declared import read_declared
from pytest_llmcost.plugin.judging import broken
from pytest_llmcost.plugin.run import Run
from pytest_llmcost.pricing.money import parse_usd
from pytest_llmcost.pricing.usage import Usage

if TYPE_CHECKING:
    from pytest_llmcost.pricing.ratecard import Cost

OFF = "llmcost is off (--no-llmcost), so there is no figure to look at"
"""A test that looks at a figure is skipped then; one that only counts runs on."""


@dataclass(frozen=True)
class Counted:
    """What a payload costs, from a count of its tokens."""

    call: Call | None
    run: Run | None = field(default=None, repr=False, compare=False)

    @property
    def input_tokens(self) -> int:
        """The whole prompt in tokens, as `count_tokens` says."""
        return self._known().usage.prompt_tokens

    @property
    def fingerprint(self) -> str | None:
        """What tells this payload from others."""
        return self._known().fingerprint

    @property
    def evidence(self) -> str:
        """`counted`."""
        return self._known().evidence

    @property
    def caveats(self) -> tuple[str, ...]:
        """Why the figure is a bound, if it is one."""
        return self._known().caveats

    @property
    def cost(self) -> Cost:
        """The itemised bill, with its bounds.

        Raises:
            PriceError: the model has no price; the message names the nearest that have one.
        """
        call = self._known()
        assert self.run is not None
        return self.run.books.cost_of(call)

    @property
    def usd(self) -> Decimal:
        """The list price in US dollars.

        Raises:
            PriceError: the model has no price.
        """
        return self.cost.usd

    def _known(self) -> Call:
        if self.call is None:
            pytest.skip(OFF)
        return self.call


class LlmCost:
    """What a test may ask: made anew for every attempt of every test."""

    def __init__(self, run: Run | None, item: pytest.Item | None) -> None:
        """Speak for one test; without a run, everything is off."""
        self._run = run
        self._item = item

    def count(
        self,
        payload: Mapping[str, Any] | None = None,
        *,
        output_tokens: int | str | None = None,
        cache: Literal["cold", "warm", "none"] | None = None,
        **keywords: Any,
    ) -> Counted:
        """Count what one would send to `messages.create`, and price it.

        Args:
            payload: the keywords of `messages.create` as one mapping, or give them as keywords.
            output_tokens: how long the reply will be, in tokens, or `"max"` for the payload's
                `max_tokens`, the worst case; without it the input alone is priced.
            cache: price the prompt's cached prefixes as written (`cold`), as read (`warm`), or
                as plain input (`none`).
            keywords: the payload, where it is not given as a mapping.

        Raises:
            CountError: no recorded count and no permission to go online, or the API refused.
            PayloadError: the payload is not JSON; names the path inside it.
        """
        __tracebackhide__ = True
        if payload is not None and keywords:
            raise SettingsError("count takes a payload or keywords, not both")
        body = keywords if payload is None else payload
        if self._run is None or self._item is None:
            return Counted(None)
        return self._count(self._run, self._item, body, output_tokens)

    def _count(
        self, run: Run, item: pytest.Item, body: Mapping[str, Any], output_tokens: int | str | None
    ) -> Counted:
        from pytest_llmcost.plugin.counting import counted_call, read_normalised, read_output

        __tracebackhide__ = True
        seat = run.seat
        try:
            payload = read_normalised(run, body, item)
            output = read_output(payload, output_tokens)
            call = counted_call(run.books.counting.count(seat, payload), payload, output)
        except LlmCostError as error:
            # The message says it all; our own frames would only hide the line that asked.
            raise error.with_traceback(None) from None
        return Counted(run.books.book(seat, call, payload), run)

    async def acount(
        self,
        payload: Mapping[str, Any] | None = None,
        *,
        output_tokens: int | str | None = None,
        cache: Literal["cold", "warm", "none"] | None = None,
        **keywords: Any,
    ) -> Counted:
        """Count in a thread, so that an event loop goes on; everything else as `count`."""
        from anyio import to_thread  # comes with the SDK; asyncio and trio alike

        if self._run is not None and self._item is not None:
            # A fixture, such as the client, is set up in the thread that runs the tests alone.
            self._run.books.counting.make_ready(self._run.seat)
        return await to_thread.run_sync(
            lambda: self.count(payload, output_tokens=output_tokens, cache=cache, **keywords)
        )

    def record(
        self, response: Any, *, model: str | None = None, usd: object | None = None
    ) -> Counted:
        """State what a call cost that cannot be seen: a mocked SDK method, boto3, a subprocess.

        Args:
            response: an SDK `Message`, a usage object or mapping, or an agent's result with
                `total_cost_usd`.
            model: the model, where the response does not name it.
            usd: the price itself, where you know it better.

        Raises:
            UsageDataError: the response has no usage that can be read.
        """
        __tracebackhide__ = True
        if self._run is None or self._item is None:
            return Counted(None)
        try:
            stated = None if usd is None else parse_usd(usd)
            call = read_declared(response, model=model, usd=stated)
        except LlmCostError as error:
            raise error.with_traceback(None) from None
        return Counted(self._run.books.book(self._run.seat, call), self._run)

    @property
    def calls(self) -> tuple[Call, ...]:
        """The test's calls so far; a payload that was counted and then sent is one."""
        if self._run is None or self._item is None:
            return ()
        return tuple(self._run.books.calls_of(self._run.seat.holder))

    @property
    def usd(self) -> Decimal:
        """What the test has cost so far at list price.

        Raises:
            PriceError: a call has no price; the message says why.
        """
        unpriced = [call for call in self.calls if call.usd is None]
        if unpriced:
            raise PriceError(_why_unpriced(unpriced))
        return sum((call.usd for call in self.calls if call.usd is not None), Decimal(0))

    @property
    def usage(self) -> Usage:
        """The tokens of the test so far, of everything one pays for."""
        return sum((call.billed_usage for call in self.calls), Usage())

    @contextmanager
    def budget(self, limit: object, *, reason: str | None = None) -> Iterator[None]:
        """Give the calls inside the block a ceiling of their own.

        Args:
            limit: an amount, such as `"$0.01"`.
            reason: why this much, for whoever reads the failure.
        """
        amount = parse_usd(limit)
        run = self._run
        if run is None or self._item is None:
            yield
            return
        holder, booked = run.seat.holder, list[Call]()
        run.settle(holder)
        holder.open_blocks.append(booked)
        try:
            yield
            run.settle(holder)
        finally:
            holder.open_blocks.remove(booked)
        calls = settled(booked)
        origin = _caller()
        budget = Budget(scope="block", limit=amount, origin=origin, label="budget", reason=reason)
        command = run.count_command(self._item)
        verdict = check(budget, spend_of(calls, "usd", count_command=command))
        holder.is_touched = True
        holder.blocks.append(verdict)
        if run.books.is_broken(verdict):
            raise broken(verdict, calls)


def _caller() -> str:
    """Where the block stands: the first frame outside of this file and of contextlib."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename in (__file__, contextlib.__file__):
        frame = frame.f_back
    if frame is None:
        return "budget(...)"
    path = Path(frame.f_code.co_filename)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{shown}:{frame.f_lineno}"


def _why_unpriced(calls: list[Call]) -> str:
    caveats = sorted({caveat for call in calls for caveat in call.caveats})
    return "no price: " + ("; ".join(caveats) or "unknown")

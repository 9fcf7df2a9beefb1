"""Counted: what a test is told of a payload that it counts.

Data flow: a counted Call, and what of its prompt is cached -> `Counted` -> tokens, bills.
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
from msgspec.structs import replace

from pytest_llmcost.amounts import Amounts, settled
from pytest_llmcost.budgets.budget import Budget, judge
from pytest_llmcost.call import Call
from pytest_llmcost.errors import CountError, LlmCostError, PriceError, SettingsError
from pytest_llmcost.money import parse_usd
from pytest_llmcost.plugin.session import Session
from pytest_llmcost.plugin.verdicts import broken
from pytest_llmcost.prices.usage import Usage
from pytest_llmcost.responses.declared import read_declared

if TYPE_CHECKING:
    from pytest_llmcost.counting.segments import CachedPrompt, Segment
    from pytest_llmcost.prices.bill import Cost


OFF = "llmcost is off (--no-llmcost), so there is no figure to look at"
"""A test that looks at a figure is skipped then; one that only counts runs on."""


@dataclass(frozen=True)
class Counted:
    """What a payload costs, from a count of its tokens."""

    call: Call | None
    run: Session | None = field(default=None, repr=False, compare=False)
    prompt: CachedPrompt | None = field(default=None, repr=False, compare=False)
    """What of the prompt is cached, where `count(..., cache=...)` asked."""

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

    # With cache=

    @property
    def cold(self) -> Cost:
        """The bill of the first call, which writes everything that is cached.

        Raises:
            SettingsError: counted without `cache=`.
            PriceError: the model has no price.
        """
        return self._cost_of(self._cached().cold)

    @property
    def warm(self) -> Cost:
        """The bill of each later call within the life of the cache, which reads all of it.

        Raises:
            SettingsError: counted without `cache=`.
            PriceError: the model has no price.
        """
        return self._cost_of(self._cached().warm)

    @property
    def uncached(self) -> Cost:
        """The bill of a call without caching.

        Raises:
            SettingsError: counted without `cache=`.
            PriceError: the model has no price.
        """
        return self._cost_of(self._cached().none)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The tokens up to each breakpoint and behind the last; together the whole prompt.

        Raises:
            SettingsError: counted without `cache=`.
        """
        return self._cached().segments

    @property
    def cache_notes(self) -> tuple[str, ...]:
        """What is not cached and why: a prefix too short for the model, say.

        Raises:
            SettingsError: counted without `cache=`.
        """
        return self._cached().notes

    @property
    def calls_until_caching_pays(self) -> int | None:
        """The number of calls from which caching is the cheaper; None if it never is.

        Raises:
            SettingsError: counted without `cache=`.
            PriceError: the model has no price.
        """
        from pytest_llmcost.counting.segments import calls_until_it_pays

        return calls_until_it_pays(
            cold_usd=self.cold.usd, warm_usd=self.warm.usd, none_usd=self.uncached.usd
        )

    def _cached(self) -> CachedPrompt:
        self._known()
        if self.prompt is None:
            raise SettingsError(
                "the cached prefixes were not counted; say llmcost.count(..., "
                'cache="cold"), or "warm", or "none"'
            )
        return self.prompt

    def _cost_of(self, usage: Usage) -> Cost:
        call = self._known()
        assert self.run is not None
        (sampling,) = call.sampling_calls
        usage = replace(usage, output_tokens=sampling.usage.output_tokens)
        return self.run.books.bill([replace(sampling, usage=usage)], call.context)

    def _known(self) -> Call:
        if self.call is None:
            pytest.skip(OFF)
        return self.call


PricedState = Literal["cold", "warm", "none"]


class LlmCost:
    """What a test may ask: made anew for every attempt of every test."""

    def __init__(self, run: Session | None, item: pytest.Item | None) -> None:
        """Speak for one test; without a run, everything is off."""
        self._run = run
        self._item = item

    def count(
        self,
        payload: Mapping[str, Any] | None = None,
        *,
        output_tokens: int | str | None = None,
        cache: PricedState | None = None,
        **keywords: Any,
    ) -> Counted:
        """Count what one would send to `messages.create`, and price it.

        Args:
            payload: the keywords of `messages.create` as one mapping, or give them as keywords.
            output_tokens: how long the reply will be, in tokens, or `"max"` for the payload's
                `max_tokens`, the worst case; without it the input alone is priced.
            cache: count the prompt's cached prefixes too, and price them as written (`cold`), as
                read (`warm`), or as plain input (`none`); without it as the test's or the run's
                cache basis says, else as plain input.
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
        return self._count(self._run, self._item, body, output_tokens, cache)

    def _count(
        self,
        run: Session,
        item: pytest.Item,
        body: Mapping[str, Any],
        output_tokens: int | str | None,
        cache: PricedState | None,
    ) -> Counted:
        from pytest_llmcost.plugin.counts import (
            count_payload,
            counted_answer,
            read_normalised,
            read_output,
            uncounted_answer,
            with_cache_bounds,
        )

        __tracebackhide__ = True
        seat = run.seat
        try:
            payload = read_normalised(run, body, item)
            output = read_output(payload, output_tokens)
            try:
                whole, prompt, usage = count_payload(run, seat, payload, item, cache)
            except CountError as error:
                # Whoever catches it, or fails by it, has not made the payload free of charge.
                run.books.book(seat, uncounted_answer(payload, error), payload, evidence="counted")
                raise
            answer = counted_answer(whole, payload, output, usage)
            if usage is None:
                answer = with_cache_bounds(run, payload, answer)
        except LlmCostError as error:
            # The message says it all; our own frames would only hide the line that asked.
            raise error.with_traceback(None) from None
        return Counted(run.books.book(seat, answer, payload, evidence="counted"), run, prompt)

    async def acount(
        self,
        payload: Mapping[str, Any] | None = None,
        *,
        output_tokens: int | str | None = None,
        cache: PricedState | None = None,
        **keywords: Any,
    ) -> Counted:
        """Count in a thread, so that an event loop goes on; everything else as `count`."""
        from anyio import to_thread  # comes with the SDK; asyncio and trio alike

        if self._run is not None and self._item is not None:
            # A fixture, such as the client, is set up in the thread that runs the tests alone.
            with contextlib.suppress(CountError):  # counting meets it again, and books it
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
                `total_cost_usd`. Results with the same `session_id` state a running total, so only
                what the total has grown by within this test is added.
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
            answer = read_declared(response, model=model, usd=stated)
        except LlmCostError as error:
            raise error.with_traceback(None) from None
        return Counted(self._run.books.book_declared(self._run.seat, answer), self._run)

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
        origin = _caller()
        budget = Budget(
            scope="block",
            limit=amount,
            origin=origin,
            label="budget",
            reason=reason,
            warn_at=run.settings.warn_at,
        )
        try:
            yield
        finally:  # what a block has spent by the time it raises is spent
            run.settle(holder)
            # By identity: a block inside this one may hold the very same calls.
            holder.open_blocks[:] = [each for each in holder.open_blocks if each is not booked]
            calls = settled(booked)
            command = run.count_command(self._item)
            verdict = judge(budget, Amounts.of(calls), count_command=command)
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

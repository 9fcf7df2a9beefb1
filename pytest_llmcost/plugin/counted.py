"""Counted: what a test is told of a payload that it counts.

Data flow: a counted Call, and what of its prompt is cached -> `Counted` -> tokens, bills.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from pytest_llmcost.errors import SettingsError
from pytest_llmcost.metering.call import Call
from pytest_llmcost.plugin.run import Run
from pytest_llmcost.pricing.usage import Usage

if TYPE_CHECKING:
    from pytest_llmcost.metering.cachedprompt import CachedPrompt, Segment
    from pytest_llmcost.pricing.ratecard import Cost

OFF = "llmcost is off (--no-llmcost), so there is no figure to look at"
"""A test that looks at a figure is skipped then; one that only counts runs on."""


@dataclass(frozen=True)
class Counted:
    """What a payload costs, from a count of its tokens."""

    call: Call | None
    run: Run | None = field(default=None, repr=False, compare=False)
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
        from pytest_llmcost.metering.cachedprompt import calls_until_it_pays

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
        (leg,) = call.legs
        usage = replace(usage, output_tokens=leg.usage.output_tokens)
        return self.run.books.bill([replace(leg, usage=usage)], call.context)

    def _known(self) -> Call:
        if self.call is None:
            pytest.skip(OFF)
        return self.call

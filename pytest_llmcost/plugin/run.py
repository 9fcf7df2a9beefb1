"""Run: one pytest session's ledger, prices and owner; what the hooks and the fixture share.

Data flow: an Exchange from capture, or a count from the fixture -> `Meter` -> a priced Call ->
the ledger, under the owner that the hooks have set.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from msgspec.structs import replace

from pytest_llmcost.budgeting.budget import Verdict, settled
from pytest_llmcost.budgeting.ledger import (
    OUTSIDE,
    CardId,
    Ledger,
    Owner,
    read_report,
)
from pytest_llmcost.budgeting.ledger import Payload as LedgerPayload
from pytest_llmcost.metering.call import Call, Phase, price_call
from pytest_llmcost.plugin.marker import budgets_of
from pytest_llmcost.pricing.bill import Basis
from pytest_llmcost.pricing.caveats import caveat_name
from pytest_llmcost.settings import Settings

if TYPE_CHECKING:
    from pytest_llmcost.metering.capture import Capture
    from pytest_llmcost.metering.exchange import Exchange
    from pytest_llmcost.metering.payload import Payload
    from pytest_llmcost.plugin.counting import Counting
    from pytest_llmcost.pricing.ratecard import Cost, RateCard

KEY = pytest.StashKey["Run"]()
_RANK = ("within", "unverified", "exceeded")
_OPEN = frozenset({"truncated-stream", "lost-answer", "open-batch"})
"""Caveats of a call that may still turn out otherwise."""


class Seat(NamedTuple):
    """Whose a request is, and when in their life it was sent."""

    owner: Owner
    phase: Phase | None
    item: pytest.Item | None


NOBODY = Seat(OUTSIDE, None, None)


class Run:
    """What one session knows; hooks set `seat`, calls are booked under it."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        """Begin with an empty ledger; prices are read when the first call needs them."""
        self.config = config
        self.settings = settings
        self.ledger = Ledger()
        self.started_at = utc_now()
        self.workers = 0
        self.incomplete: set[str] = set()
        self.notes: set[str] = set()
        self.seat = NOBODY
        self.booked: list[Call] = []
        """The running attempt's calls as they came, for blocks inside of it."""
        self.blocks: list[Verdict] = []
        """The running attempt's `budget(...)` blocks that are through."""
        self.verdicts: dict[Owner, Verdict] = {}
        self.broken: set[Owner] = set()
        """Whoever failed by a ceiling, and so has a failure in our words."""
        self._outer: list[Seat] = []
        self._open: dict[int, tuple[Exchange, Owner, Call]] = {}
        """What was booked before it was complete, by the identity of its exchange."""
        self._capture: Capture | None = None

    def check_settings(self) -> None:
        """Read what the settings name, so that a mistake is told before a test is spent.

        Raises:
            LlmCostError: a price file, a baseline or a ceiling by place that makes no sense.
        """
        budgets_of(self.settings)
        baseline = self.settings.baseline
        if self.worker is None and baseline is not None and self.needs(baseline):
            read_report(baseline)
        if self.settings.prices is not None:
            _ = self.card
        for model in self.settings.model:
            self.exact_model(model)

    def needs(self, baseline: Path) -> bool:
        """Whether the baseline must be there; the run that is to write it can do without."""
        return baseline.exists() or not self.settings.update_baseline

    def tokenizer(self, model: str) -> str | None:
        """The name of a model's tokenizer; None where the card does not know it."""
        return self.card.tokenizer(model) if self.card.find(model) else None

    def listen(self) -> None:
        """See every Messages call of this process from now on."""
        from pytest_llmcost.metering.capture import Capture

        self._capture = Capture(self, clock=time.time)
        self._capture.install()

    @property
    def failures(self) -> Sequence[str]:
        """What capture failed to follow; the calls concerned are booked as unknown."""
        return () if self._capture is None else tuple(self._capture.failures)

    def stop_listening(self) -> None:
        """Leave the process as it was."""
        if self._capture is not None:
            self._capture.disable()
            self._capture = None

    @cached_property
    def counting(self) -> Counting:
        """The counter and the count cassettes; made when a first count is asked for."""
        from pytest_llmcost.plugin.counting import Counting

        return Counting(self)

    def exact_model(self, name: str) -> str:
        """A model's exact id.

        Raises:
            UnknownModelError: no row and no alias of the card has this name.
        """
        return self.card.resolve(name).model

    @property
    def worker(self) -> str | None:
        """The name of this xdist worker; None in the process that owns the run."""
        workerinput = getattr(self.config, "workerinput", None)
        return None if workerinput is None else str(workerinput["workerid"])

    @cached_property
    def price_date(self) -> date:
        """The one UTC date on which everything is priced; the controller's, in a worker."""
        sent = getattr(self.config, "workerinput", {}).get("llmcost")
        if sent is not None:
            return date.fromisoformat(sent["price_date"])
        return self.settings.price_date or datetime.now(timezone.utc).date()

    @cached_property
    def card(self) -> RateCard:
        """The prices: shipped, then the user's file, then what a plugin makes of them."""
        from pytest_llmcost.pricing.ratecard import shipped_card

        card = shipped_card()
        if self.settings.prices is not None:
            card = card.with_overrides(self.settings.prices)
        replaced = self.config.hook.pytest_llmcost_rate_card(config=self.config, card=card)
        return card if replaced is None else replaced

    @property
    def card_id(self) -> CardId:
        """Which prices these are, for the report."""
        card = self.card
        return CardId(version=card.version, sha256=card.sha256, sources=tuple(card.sources))

    def nodeid(self, item: pytest.Item) -> str:
        """A test's own id, without the group that xdist's loadgroup hangs behind it."""
        nodeid = item.nodeid
        is_grouped = self.worker is not None and nodeid.rfind("@") > nodeid.rfind("]")
        if is_grouped and self.config.getoption("dist", "no") == "loadgroup":
            return nodeid[: nodeid.rfind("@")]
        return nodeid

    def count_command(self, item: pytest.Item | None) -> str:
        """The command that counts what a test sends, and records it; free."""
        test = f" '{self.nodeid(item)}'" if item is not None else ""
        return f"pytest{test} --llmcost-record-mode=new_episodes"

    # Who is running

    def begin(self) -> None:
        """Forget the attempt before; one that is over is in the ledger."""
        self.booked, self.blocks = [], []

    def enter(self, seat: Seat) -> None:
        """Make someone the owner of what is sent from now on."""
        self._outer.append(self.seat)
        self.seat = seat

    def leave(self) -> None:
        """Book what the owner sent, and give the seat back to the one before."""
        self.drain()
        if self.seat.phase == "teardown" and "counting" in self.__dict__:
            self.counting.close(self.seat.owner)
        self.seat = self._outer.pop() if self._outer else NOBODY

    # What capture tells us

    def owner(self) -> Seat:
        """Whose the request is that is being sent now; asked from any thread or task."""
        return self.seat

    def saw(self, owner: object, exchange: Exchange) -> None:
        """Meter and book an exchange, or what has become of one that was booked as open."""
        from pytest_llmcost.plugin.exchanges import read_exchange

        assert isinstance(owner, Seat)
        if exchange.replaces is not None:
            self._take_back(exchange.replaces)
        call, payload = read_exchange(self, owner, exchange)
        if call is not None:
            booked = self.book(owner, call, payload)
            if _OPEN.intersection(map(caveat_name, booked.caveats)):
                self._open[id(exchange)] = (exchange, owner.owner, booked)

    def _take_back(self, exchange: Exchange) -> None:
        known = self._open.pop(id(exchange), None)
        if known is not None:
            _, owner, call = known
            self.ledger.withdraw(owner, call)
            if call in self.booked:
                self.booked.remove(call)

    def drain(self) -> None:
        """Book what is complete."""
        if self._capture is not None:
            self._capture.drain()

    def settle(self, owner: Owner | None = None) -> None:
        """Book what has been seen of an owner, or of everyone, the incomplete as unknown."""
        if self._capture is None:
            return
        if owner is None:
            self._capture.settle()
        else:
            self._capture.settle(lambda seat: isinstance(seat, Seat) and seat.owner == owner)

    def book(self, seat: Seat, call: Call, payload: Payload | None = None) -> Call:
        """Price a call and put it into the ledger."""
        call = replace(self.price(call), phase=seat.phase)
        if payload is None:
            self.ledger.add(seat.owner, call)
        else:
            known = LedgerPayload(model=payload.model, parts=payload.parts)
            self.ledger.add(seat.owner, call, known)
        if seat.owner == self.seat.owner:
            self.booked.append(call)
        self.config.hook.pytest_llmcost_call(call=call, item=seat.item)
        return call

    def price(self, call: Call, basis: Basis | None = None) -> Call:
        """Price a call on the run's date and basis, or on a basis of a marker's own."""
        return price_call(call, self.card, on=self.price_date, basis=basis or self.settings.cache)

    def cost_of(self, call: Call) -> Cost:
        """The itemised bill of a call.

        Raises:
            UnknownModelError: one of its models has no price on the run's date.
        """
        basis = self.settings.cache
        return self.card.price(call.legs, call.context, on=self.price_date, basis=basis)

    # What came of it

    def calls_of(self, owner: Owner, basis: Basis | None = None) -> Sequence[Call]:
        """An owner's calls so far, sent ones not counted twice; on another basis if asked."""
        self.settle(owner)
        calls = self.ledger.calls(owner)
        if basis is None or basis == self.settings.cache:
            return calls
        return settled(self.price(call, basis) for call in calls)

    def conclude(self, owner: Owner, verdicts: Iterable[Verdict]) -> Verdict | None:
        """Store a test's verdicts, the worst as the decisive one, and return that."""
        ranked = sorted(verdicts, key=lambda each: -_RANK.index(each.state))
        if not ranked:
            self.ledger.judge(owner, blocks=self.blocks)
            return None
        worst, *others = ranked
        self.verdicts[owner] = worst
        self.ledger.judge(owner, verdict=worst, blocks=[*others, *self.blocks])
        return worst

    def is_broken(self, verdict: Verdict) -> bool:
        """Whether a verdict fails what it is about; `unverified = warn` softens that one alone."""
        if verdict.state == "unverified":
            return self.settings.unverified == "fail"
        return verdict.state == "exceeded"


def utc_now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

"""What was sent against what was recorded: the outgrown cassette, seen and priced anew.

Data flow: Exchange -> fingerprint of what is sent now, and of what the cassette played -> the same:
`billed`; changed: counted anew, `recounted`; changed without a count: `stale`, unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from pytest_llmcost.budgets.budget import Verdict, settled
from pytest_llmcost.call import Call, price_call
from pytest_llmcost.capture.changed_prompt import recount, reply_caveats, stale
from pytest_llmcost.counting.limits import count_breakpoints, longest_reply, task_budget_of
from pytest_llmcost.counting.payload import Payload
from pytest_llmcost.errors import CountError, PayloadError
from pytest_llmcost.ledger.builder import LedgerBuilder
from pytest_llmcost.ledger.ledger import CardId
from pytest_llmcost.ledger.ledger import PayloadFacts as LedgerPayload
from pytest_llmcost.money import EXACT
from pytest_llmcost.plugin.counts import read_normalised
from pytest_llmcost.plugin.owners import Attempt, Holder, Seat
from pytest_llmcost.plugin.session import Session, checked_hook_result
from pytest_llmcost.prices.bill import CacheState, Cost
from pytest_llmcost.prices.caveats import caveat_name
from pytest_llmcost.prices.rate_card import RateCard, shipped_card
from pytest_llmcost.prices.usage import SamplingCall, Terms

if TYPE_CHECKING:
    from pytest_llmcost.capture.replay import Replay
    from pytest_llmcost.capture.request import Exchange
    from pytest_llmcost.counting.payload import Payload
    from pytest_llmcost.plugin.counts import Counting
    from pytest_llmcost.plugin.other_models import OtherModels
    from pytest_llmcost.plugin.owners import Seat
    from pytest_llmcost.plugin.session import Session


Metered = tuple[Call | None, Payload | None]


def read_exchange(run: Session, seat: Seat, exchange: Exchange) -> Metered:
    """Make a call of an exchange, with the payload that its fingerprint stands for."""
    call, replay = exchange.call, exchange.replay
    if call is None:
        return call, None
    payload = _read_sent(run, seat, exchange)
    if payload is not None:
        call = replace(call, fingerprint=payload.fingerprint)
    if replay is None or replay.is_same:
        return call, payload
    if payload is None:
        return _not_comparable(run, call, "what is sent now cannot be read"), None
    recorded = _read_recorded(run, seat, exchange, replay)
    if recorded is None:
        return _not_comparable(run, call, replay.obstacle or "nothing is known of it"), payload
    if recorded.fingerprint == payload.fingerprint:
        # The prompt is the same; a reply that was cut may be longer now.
        cut = reply_caveats(payload, recorded, exchange, run.books.tokenizer)
        return _with_caveats(call, *cut), payload
    return _outgrown(run, seat, exchange, call, payload, recorded), payload


def _read_sent(run: Session, seat: Seat, exchange: Exchange) -> Payload | None:
    if exchange.payload is None:
        return None
    how = {"betas": exchange.betas, "model": exchange.endpoint.model}
    try:
        return read_normalised(run, exchange.payload, seat.item, **how)
    except PayloadError:  # live, the API will have refused it, too
        return None


def _read_recorded(run: Session, seat: Seat, exchange: Exchange, replay: Replay) -> Payload | None:
    """Where the cassette hides its betas, they are taken for those of today."""
    if replay.body is None:
        return None
    betas = exchange.betas if replay.betas is None else replay.betas
    how = {"betas": betas, "model": replay.model or exchange.endpoint.model}
    try:
        return read_normalised(run, replay.body, seat.item, **how)
    except PayloadError:
        return None


def _not_comparable(run: Session, call: Call, obstacle: str) -> Call:
    run.notes.add(
        f"replayed replies cannot be checked against what is sent now: {obstacle}; keep the "
        "request's body in the cassette (see docs/capture.md)"
    )
    return _with_caveats(call, f"not-comparable: {obstacle}")


def _outgrown(
    run: Session, seat: Seat, exchange: Exchange, call: Call, payload: Payload, recorded: Payload
) -> Call:
    try:
        count = run.books.counting.count(seat, payload)
    except CountError:
        return stale(call, sent=payload, recorded=recorded)
    return recount(
        call,
        count,
        sent=payload,
        recorded=recorded,
        exchange=exchange,
        tokenizer=run.books.tokenizer,
    )


def _with_caveats(call: Call, *caveats: str) -> Call:
    return replace(call, caveats=tuple(sorted({*call.caveats, *caveats})))


_RANK = ("within", "unverified", "exceeded")
_OPEN = frozenset({"truncated-stream", "lost-answer", "open-batch"})
"""Caveats of a call that may still turn out otherwise."""


class _OpenCall(NamedTuple):
    exchange: Exchange
    call: Call
    holder: Holder
    blocks: list[list[Call]]
    """Those `budget(...)` blocks that it counts for."""


def describe(payload: Payload) -> LedgerPayload:
    """What the ledger holds of a payload from the start."""
    return LedgerPayload(
        model=payload.model,
        parts=payload.parts,
        task_budget=task_budget_of(payload.body),
        breakpoints=count_breakpoints(payload.body),
    )


class Books:
    """The ledger, and the prices that it is kept in."""

    def __init__(self, run: Session) -> None:
        """Begin empty; prices are read when the first call needs them."""
        self.run = run
        self.ledger = LedgerBuilder()
        self.changes = 0
        """How often something was booked in this process or taken back."""
        self._open: dict[int, _OpenCall] = {}
        """What was booked before it was complete, by the identity of its exchange."""

    @cached_property
    def counting(self) -> Counting:
        """The counter and the count cassettes; made when a first count is asked for."""
        from pytest_llmcost.plugin.counts import Counting

        return Counting(self.run)

    @cached_property
    def other_models(self) -> OtherModels | None:
        """The models of `--llmcost-model`; None without any."""
        if not self.run.settings.model:
            return None
        from pytest_llmcost.plugin.other_models import OtherModels

        return OtherModels(self)

    def put_away(self, holder: Holder) -> None:
        """Save what somebody has counted."""
        if "counting" in self.__dict__:
            self.counting.close(holder.owner)

    def put_all_away(self) -> None:
        """Save what everybody has counted."""
        if "counting" in self.__dict__:
            self.counting.close_all()

    # Prices

    @cached_property
    def card(self) -> RateCard:
        """The prices: shipped, then the user's file, then what a plugin makes of them."""
        card, name = shipped_card(), "pytest_llmcost_rate_card"
        if self.run.settings.prices is not None:
            card = card.with_overrides(self.run.settings.prices)
        replaced = self.run.hook(name)(config=self.run.config, card=card)
        if replaced is None:
            return card
        checked: RateCard = checked_hook_result(replaced, RateCard, name)
        return checked

    @property
    def card_id(self) -> CardId:
        """Which prices these are, for the report."""
        card = self.card
        return CardId(version=card.version, sha256=card.sha256, sources=tuple(card.sources))

    def exact_model(self, name: str) -> str:
        """A model's exact id.

        Raises:
            UnknownModelError: no row and no alias of the card has this name.
        """
        return self.card.resolve(name).model

    def tokenizer(self, model: str) -> str | None:
        """The name of a model's tokenizer; None where the card does not know it."""
        return self.card.tokenizer(model) if self.card.find(model) else None

    def price(self, call: Call, cache_state: CacheState | None = None) -> Call:
        """Price a call on the run's date and basis, or on a basis of a marker's own."""
        settings = self.run.settings
        return price_call(
            call, self.card, on=self.run.price_date, cache_state=cache_state or settings.cache
        )

    def cost_of(self, call: Call) -> Cost:
        """The itemised bill of a call.

        Raises:
            UnknownModelError: one of its models has no price on the run's date.
        """
        return self.bill(call.sampling_calls, call.context, cache_state=self.run.settings.cache)

    def bill(
        self,
        sampling_calls: Sequence[SamplingCall],
        context: Terms,
        cache_state: CacheState = "as-billed",
    ) -> Cost:
        """The itemised bill of a request's legs.

        Raises:
            UnknownModelError: one of the models has no price on the run's date.
        """
        return self.card.price(
            sampling_calls, context, on=self.run.price_date, cache_state=cache_state
        )

    # Calls

    def saw(self, seat: Seat, exchange: Exchange) -> None:
        """Meter and book an exchange, or what has become of one that was booked as open."""
        seat.holder.has_requests |= exchange.endpoint.kind != "count_tokens"
        blocks = self._take_back(exchange.replaces)
        if blocks is None:
            blocks = seat.holder.open_blocks
        call, payload = exchange.call, None
        with self.run.keeping_failures():
            call, payload = read_exchange(self.run, seat, exchange)
        if call is None:
            return
        booked = self._book(seat, call, payload, blocks)
        if _OPEN.intersection(map(caveat_name, booked.caveats)):
            self._open[id(exchange)] = _OpenCall(exchange, booked, seat.holder, [*blocks])
        with self.run.keeping_failures():
            self._tell(booked, seat)
            self._look_up(booked, seat, payload)

    def _take_back(self, replaced: Exchange | None) -> list[list[Call]] | None:
        """Take out what was said before; return the blocks that it counted for."""
        known = None if replaced is None else self._open.pop(id(replaced), None)
        if known is None:
            return None
        self.ledger.withdraw(known.holder.owner, known.call)
        self.changes += 1
        for block in known.blocks:
            block.remove(known.call)
        return known.blocks

    def book(self, seat: Seat, call: Call, payload: Payload | None = None) -> Call:
        """Price a call and put it into the ledger."""
        booked = self._book(seat, call, payload, seat.holder.open_blocks)
        self._tell(booked, seat)
        self._look_up(booked, seat, payload)
        return booked

    def book_declared(self, seat: Seat, call: Call, session: str | None) -> Call:
        """Book a stated call; of an agent's session only what its running total has grown by."""
        total = call.declared_usd
        if session is None or total is None:
            return self.book(seat, call)
        sessions = seat.holder.sessions
        so_far, last = sessions.get(session, (Decimal(0), None))
        if last is not None and total <= so_far:
            return last
        booked = self.book(seat, replace(call, declared_usd=EXACT.subtract(total, so_far)))
        sessions[session] = (total, booked)
        return booked

    def _book(
        self, seat: Seat, call: Call, payload: Payload | None, blocks: Iterable[list[Call]]
    ) -> Call:
        known = None
        if payload is not None:
            known = describe(payload)
            call = replace(call, max_tokens=longest_reply(payload.body))
        call = replace(self.price(call), phase=seat.phase)
        self.ledger.add(seat.owner, call, known)
        self.changes += 1
        seat.holder.is_touched = True
        for block in blocks:
            block.append(call)
        return call

    def _look_up(self, call: Call, seat: Seat, payload: Payload | None) -> None:
        if self.other_models is not None and payload is not None:
            self.other_models.look_up(seat, call, payload)

    def _tell(self, call: Call, seat: Seat) -> None:
        self.run.hook("pytest_llmcost_call")(call=call, item=seat.item)

    def calls_of(self, holder: Holder, cache_state: CacheState | None = None) -> Sequence[Call]:
        """Somebody's calls so far, sent ones not counted twice; on another basis if asked."""
        self.run.settle(holder)
        calls = self.ledger.calls(holder.owner)
        if cache_state is None or cache_state == self.run.settings.cache:
            return calls
        return settled(self.price(call, cache_state) for call in calls)

    # Verdicts

    def conclude(self, attempt: Attempt, verdicts: Iterable[Verdict]) -> Verdict | None:
        """Store a test's verdicts, the worst as the decisive one, and return that."""
        ranked = sorted(verdicts, key=lambda each: -_RANK.index(each.state))
        worst, others = (ranked[0], ranked[1:]) if ranked else (None, [])
        attempt.verdict, attempt.others = worst, others
        if worst is not None or attempt.blocks:
            self.ledger.judge(attempt.owner, verdict=worst, blocks=[*others, *attempt.blocks])
        return worst

    def is_broken(self, verdict: Verdict) -> bool:
        """Whether a verdict fails what it is about; `unverified = warn` softens that one alone."""
        if verdict.state == "unverified":
            return self.run.settings.unverified == "fail"
        return verdict.state == "exceeded"

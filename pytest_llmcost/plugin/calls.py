"""What was sent against what was recorded: the outgrown cassette, seen and priced anew.

What is sent now is compared with the recorded request: the same:
`billed`; changed: counted anew, `recounted`; changed without a count: `stale`, unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from pytest_llmcost.amounts import settled
from pytest_llmcost.budgets.budget import Verdict
from pytest_llmcost.call import Call, Evidence, price, reprice
from pytest_llmcost.capture.changed_prompt import (
    is_as_recorded,
    left_in_the_cache,
    obstacle_to_recount,
    plan_recount,
    recount,
    reply_caveats,
    without_figures,
)
from pytest_llmcost.counting.client import caveats_of
from pytest_llmcost.counting.payload import Payload
from pytest_llmcost.errors import CountError, PayloadError
from pytest_llmcost.ledger.builder import LedgerBuilder
from pytest_llmcost.ledger.ledger import CardId
from pytest_llmcost.ledger.ledger import PayloadFacts as LedgerPayload
from pytest_llmcost.money import EXACT
from pytest_llmcost.plugin.counts import read_normalised, split
from pytest_llmcost.plugin.owners import Attempt, Holder, Seat
from pytest_llmcost.plugin.session import Session, checked_hook_result
from pytest_llmcost.prices.bill import CacheState, Cost
from pytest_llmcost.prices.caveats import sorted_caveats
from pytest_llmcost.prices.rate_card import RateCard, shipped_card
from pytest_llmcost.prices.usage import SamplingCall, Terms
from pytest_llmcost.responses.message import Answer

if TYPE_CHECKING:
    from pytest_llmcost.capture.replay import Replay
    from pytest_llmcost.capture.request import CapturedRequest
    from pytest_llmcost.counting.payload import Payload
    from pytest_llmcost.counting.segments import CachedPrompt
    from pytest_llmcost.plugin.counts import Counting
    from pytest_llmcost.plugin.other_models import OtherModels
    from pytest_llmcost.plugin.owners import Seat
    from pytest_llmcost.plugin.session import Session


class Metered(NamedTuple):
    """A captured reply as it is to be priced."""

    answer: Answer
    evidence: Evidence = "billed"
    payload: Payload | None = None
    """What the fingerprint stands for; None where the request could not be read."""


def meter(run: Session, seat: Seat, request: CapturedRequest, answer: Answer) -> Metered:
    """Compare what was sent with what was recorded, and return what the reply uses now."""
    replay = request.replay
    payload = _read_sent(run, seat, request)
    if request.is_mocked:
        return _mocked(run, seat, answer, payload)
    if replay is None or replay.is_same:
        return Metered(answer, payload=payload)
    if payload is None:
        return Metered(_not_comparable(run, answer, "what is sent now cannot be read"))
    recorded = _read_recorded(run, seat, request, replay)
    if recorded is None:
        obstacle = replay.obstacle or "nothing is known of it"
        return Metered(_not_comparable(run, answer, obstacle), payload=payload)
    metered = _compared(run, seat, answer, payload, recorded)
    left = left_in_the_cache(answer.usage, metered.answer.usage, sent=payload, recorded=recorded)
    if left is not None and metered.evidence != "stale":
        seat.holder.cached_prefixes.append(left)
    return metered


def _compared(
    run: Session, seat: Seat, answer: Answer, payload: Payload, recorded: Payload
) -> Metered:
    """Return what a replayed reply uses for the payload that is sent now."""
    tokenizer = run.books.tokenizer
    if is_as_recorded(answer, sent=payload, recorded=recorded):
        # The prompt is the same; a reply that was cut may be longer now.
        cut = reply_caveats(answer, payload, recorded, tokenizer)
        return Metered(_with_caveats(answer, *cut), payload=payload)
    unknown = Metered(without_figures(answer, sent=payload, recorded=recorded), "stale", payload)
    if obstacle_to_recount(answer) is not None:
        return unknown

    def read_cut(body: Mapping[str, Any]) -> Payload:
        return read_normalised(run, body, seat.item, betas=payload.betas)

    plan = plan_recount(payload, recorded, read=read_cut)
    prompt: CachedPrompt | None = None
    caveats: tuple[str, ...] = ()
    try:
        if plan is not None:
            caveats = caveats_of(payload, run.books.counting.count(seat, payload))
            prompt = split(run, seat, plan)
    except CountError:
        return unknown  # not counted yet; the caveat says how to count it
    recounted = recount(
        answer,
        prompt,
        sent=payload,
        recorded=recorded,
        earlier=seat.holder.cached_prefixes,
        caveats=caveats,
        tokenizer=tokenizer,
    )
    return Metered(recounted, "recounted", payload)


def _mocked(run: Session, seat: Seat, answer: Answer, payload: Payload | None) -> Metered:
    """Trust a mock's figures, or take the input from a count, as `llmcost_mocks` says."""
    if run.settings.mocks == "trust" or not answer.sampling_calls:
        return Metered(answer, "mocked", payload)
    obstacle = "the request cannot be read" if payload is None else obstacle_to_recount(answer)
    if payload is not None and obstacle is None:
        try:
            count = run.books.counting.count(seat, payload)
        except CountError:
            obstacle = "the answer is a mock's"
        else:
            (sampling,) = answer.sampling_calls
            usage = sampling.usage
            # A count says nothing of the cache; what the mock reads or writes there is part of it.
            usage = replace(usage, input_tokens=max(0, count.input_tokens - usage.cached_tokens))
            counted = replace(answer, usage=usage, sampling_calls=(replace(sampling, usage=usage),))
            caveats = caveats_of(payload, count)
            return Metered(_with_caveats(counted, *caveats), "recounted", payload)
    unknown = replace(answer, sampling_calls=())
    return Metered(_with_caveats(unknown, f"uncounted: {obstacle}"), "mocked", payload)


def _read_sent(run: Session, seat: Seat, request: CapturedRequest) -> Payload | None:
    if request.payload is None:
        return None
    how = {"betas": request.betas, "model": request.endpoint.model}
    try:
        return read_normalised(run, request.payload, seat.item, **how)
    except PayloadError:  # live, the API will have refused it, too
        return None


def _read_recorded(
    run: Session, seat: Seat, request: CapturedRequest, replay: Replay
) -> Payload | None:
    """Where the cassette hides its betas, they are taken for those of today."""
    if replay.body is None:
        return None
    betas = request.betas if replay.betas is None else replay.betas
    how = {"betas": betas, "model": replay.model or request.endpoint.model}
    try:
        return read_normalised(run, replay.body, seat.item, **how)
    except PayloadError:
        return None


def _not_comparable(run: Session, answer: Answer, obstacle: str) -> Answer:
    run.notes.add(
        f"replayed replies cannot be checked against what is sent now: {obstacle}; keep the "
        "request's body in the cassette (see docs/how-it-works/changed-prompts.md)"
    )
    return _with_caveats(answer, f"not-comparable: {obstacle}")


def _with_caveats(answer: Answer, *caveats: str) -> Answer:
    return replace(answer, caveats=sorted_caveats([*answer.caveats, *caveats]))


_RANK = ("within", "unverified", "exceeded")
_OPEN = frozenset({"truncated-stream", "lost-answer", "open-batch"})
"""Caveats of a call that may still turn out otherwise."""


class _OpenCall(NamedTuple):
    request: CapturedRequest
    call: Call
    holder: Holder
    blocks: list[list[Call]]
    """Those `budget(...)` blocks that it counts for."""


def describe(payload: Payload) -> LedgerPayload:
    """What the ledger holds of a payload from the start."""
    return LedgerPayload(
        model=payload.model,
        parts=payload.parts,
        task_budget=payload.task_budget,
        breakpoints=len(payload.breakpoints),
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
        """What was booked before it was complete, by the identity of its request."""

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

    def in_cache_state(self, call: Call, cache_state: CacheState) -> Call:
        """Price a call again in the cache state that a marker asks for."""
        return reprice(call, self.card, on=self.run.price_date, cache_state=cache_state)

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

    def saw(self, seat: Seat, request: CapturedRequest) -> None:
        """Meter and book a request, or what has become of one that was booked as open."""
        seat.holder.has_requests |= request.endpoint.kind != "count_tokens"
        blocks = self._take_back(request.supersedes)
        if blocks is None:
            blocks = seat.holder.open_blocks
        if request.answer is None:
            return
        metered = Metered(request.answer)
        with self.run.keeping_failures():
            metered = meter(self.run, seat, request, request.answer)
        payload = metered.payload
        booked = self._book(
            seat,
            metered.answer,
            payload,
            blocks,
            evidence=metered.evidence,
            live=request.live,
            at=request.at,
            attempts=request.attempts,
            lost_attempts=request.lost_attempts,
        )
        if booked.has_caveat(*_OPEN):
            self._open[id(request)] = _OpenCall(request, booked, seat.holder, [*blocks])
        with self.run.keeping_failures():
            self._tell(booked, seat)
            self._look_up(booked, seat, payload)

    def _take_back(self, replaced: CapturedRequest | None) -> list[list[Call]] | None:
        """Take out what was said before; return the blocks that it counted for."""
        known = None if replaced is None else self._open.pop(id(replaced), None)
        if known is None:
            return None
        self.ledger.withdraw(known.holder.owner, known.call)
        self.changes += 1
        for block in known.blocks:
            block.remove(known.call)
        return known.blocks

    def book(
        self, seat: Seat, answer: Answer, payload: Payload | None = None, *, evidence: Evidence
    ) -> Call:
        """Price an answer and put it into the ledger."""
        booked = self._book(seat, answer, payload, seat.holder.open_blocks, evidence=evidence)
        self._tell(booked, seat)
        self._look_up(booked, seat, payload)
        return booked

    def book_declared(self, seat: Seat, answer: Answer) -> Call:
        """Book a stated call; of an agent's session only what its running total has grown by."""
        total, session = answer.declared_usd, answer.session_id
        if session is None or total is None:
            return self.book(seat, answer, evidence="declared")
        sessions = seat.holder.sessions
        so_far, last = sessions.get(session, (Decimal(0), None))
        if last is not None and total <= so_far:
            return last
        grown = replace(answer, declared_usd=EXACT.subtract(total, so_far))
        booked = self.book(seat, grown, evidence="declared")
        sessions[session] = (total, booked)
        return booked

    def _book(
        self,
        seat: Seat,
        answer: Answer,
        payload: Payload | None,
        blocks: Iterable[list[Call]],
        **facts: Any,
    ) -> Call:
        call = price(
            answer,
            self.card,
            on=self.run.price_date,
            cache_state=self.run.settings.cache,
            phase=seat.phase,
            fingerprint=payload.fingerprint if payload else None,
            max_tokens=payload.longest_reply if payload else None,
            **facts,
        )
        self.ledger.add(seat.owner, call, describe(payload) if payload else None)
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
        return settled(self.in_cache_state(call, cache_state) for call in calls)

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
        return verdict.fails(self.run.settings.unverified)

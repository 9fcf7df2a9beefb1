"""What was sent against what was recorded: the outgrown cassette, seen and priced anew.

Data flow: Exchange -> fingerprint of what is sent now, and of what the cassette played -> the same:
`billed`; changed: counted anew, `recounted`; changed without a count: `stale`, unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from pytest_llmcost.errors import CountError, PayloadError
from pytest_llmcost.metering.call import Call
from pytest_llmcost.metering.payload import Payload
from pytest_llmcost.metering.recount import recount, reply_caveats, stale
from pytest_llmcost.plugin.counting import read_normalised

if TYPE_CHECKING:
    from pytest_llmcost.metering.exchange import Exchange
    from pytest_llmcost.metering.replay import Replay
    from pytest_llmcost.plugin.run import Run
    from pytest_llmcost.plugin.seats import Seat

Metered = tuple[Call | None, Payload | None]


def read_exchange(run: Run, seat: Seat, exchange: Exchange) -> Metered:
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


def _read_sent(run: Run, seat: Seat, exchange: Exchange) -> Payload | None:
    if exchange.payload is None:
        return None
    how = {"betas": exchange.betas, "model": exchange.endpoint.model}
    try:
        return read_normalised(run, exchange.payload, seat.item, **how)
    except PayloadError:  # live, the API will have refused it, too
        return None


def _read_recorded(run: Run, seat: Seat, exchange: Exchange, replay: Replay) -> Payload | None:
    """Where the cassette hides its betas, they are taken for those of today."""
    if replay.body is None:
        return None
    betas = exchange.betas if replay.betas is None else replay.betas
    how = {"betas": betas, "model": replay.model or exchange.endpoint.model}
    try:
        return read_normalised(run, replay.body, seat.item, **how)
    except PayloadError:
        return None


def _not_comparable(run: Run, call: Call, obstacle: str) -> Call:
    run.notes.add(
        f"replayed replies cannot be checked against what is sent now: {obstacle}; keep the "
        "request's body in the cassette (see docs/capture.md)"
    )
    return _with_caveats(call, f"not-comparable: {obstacle}")


def _outgrown(
    run: Run, seat: Seat, exchange: Exchange, call: Call, payload: Payload, recorded: Payload
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

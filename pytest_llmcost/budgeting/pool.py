"""Pool: equal parts of the many calls of a ledger, kept once; it halves what a long one takes.

Used on values that have just been read and that nobody has seen yet.
"""

from __future__ import annotations

from typing import Any, TypeVar

from msgspec.structs import force_setattr

from pytest_llmcost.budgeting.report import FixtureRow, Payload, TestRow
from pytest_llmcost.metering.call import Call

_Row = TypeVar("_Row", TestRow, FixtureRow, Call)


_MAPPINGS = ("parts", "counts", "rejected", "dropped", "cached")
_NOTHING: dict[str, Any] = {}


class Pool:
    """Values seen so far, by themselves."""

    def __init__(self) -> None:
        self._seen: dict[Any, Any] = {}

    def share(self, row: _Row) -> _Row:
        """Make a row, or a call, refer to equal values that were seen before; return it."""
        if isinstance(row, Call):
            self._share_call(row)
            return row
        if isinstance(row, TestRow):
            self._reuse(row, "path")
            self._reuse(row, "outcome")
        for call in row.calls:
            self._share_call(call)
        return row

    def share_payload(self, payload: Payload) -> Payload:
        """Make a payload refer to equal names, digests and empty mappings seen before."""
        self._reuse(payload, "model")
        for name in _MAPPINGS:
            facts = getattr(payload, name)
            pooled = {key: self._seen.setdefault(fact, fact) for key, fact in facts.items()}
            force_setattr(payload, name, pooled or _NOTHING)
        return payload

    def _share_call(self, call: Call) -> None:
        self._reuse(call, "model")
        self._reuse(call, "context")
        for leg in call.legs:
            self._reuse(leg, "model")
            if leg.usage == call.usage:
                force_setattr(leg, "usage", call.usage)
            if leg.usd == call.usd:
                force_setattr(leg, "usd", call.usd)
        for name in ("usd_low", "usd_high"):
            if getattr(call, name) == call.usd:
                force_setattr(call, name, call.usd)

    def _reuse(self, owner: Any, name: str) -> None:
        value = getattr(owner, name)
        force_setattr(owner, name, self._seen.setdefault(value, value))

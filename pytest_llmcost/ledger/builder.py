"""Ledger: every call of a run with its owner, the one mutable value of the house.

Data flow: calls, outcomes and verdicts -> Ledger (on a worker: -> fragment -> the controller's
Ledger) -> `report` -> Report, frozen. Counts that were sent too are settled on the way out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import msgspec

from pytest_llmcost.budgets.budget import Budget, Verdict, settled
from pytest_llmcost.call import Call
from pytest_llmcost.ledger.ledger import (
    CardId,
    FixtureRow,
    Ledger,
    PayloadFacts,
    RunRecord,
    TestRow,
)
from pytest_llmcost.ledger.totals import Rows, decide, sort_rows, sum_totals, sum_usd
from pytest_llmcost.prices.caveats import decode_caveat, encode_caveat


class TestOwner(msgspec.Struct, frozen=True, kw_only=True, tag="test"):
    """One attempt of one test."""

    __test__ = False

    nodeid: str
    path: str = ""
    line: int | None = None
    """Counted from 1."""
    attempt: int = 1
    worker: str | None = None


class FixtureOwner(msgspec.Struct, frozen=True, kw_only=True, tag="fixture"):
    """One set-up of a fixture wider than a function, and its teardown, in one process."""

    name: str
    scope: str
    baseid: str = ""
    node: str = ""
    """The module, class or package it is set up for; empty for the whole session. Set-ups for
    the same node by several workers are one and the same; those for two modules are two."""
    param: str | None = None
    worker: str | None = None
    set_up: int = 1
    """Counts the set-ups in this process: a rerun or a shuffled order may need another."""


class Outside(msgspec.Struct, frozen=True, kw_only=True, tag="outside"):
    """Nobody: calls at import, in a plugin, between tests."""


Owner = TestOwner | FixtureOwner | Outside
OUTSIDE = Outside()


@dataclass
class _Account:
    """What one owner has spent so far, and how it went."""

    calls: list[Call] = field(default_factory=list)
    outcome: str = ""
    verdict: Verdict | None = None
    blocks: tuple[Verdict, ...] = ()
    sent: int = 0
    """How many of the calls have left with a fragment."""
    withdrawn: list[Call] = field(default_factory=list)
    """Calls that have left, and are to be taken back."""


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    """News of one owner, as they go from a worker to the controller."""

    owner: TestOwner | FixtureOwner | Outside
    calls: tuple[Call, ...] = ()
    withdrawn: tuple[Call, ...] = ()
    outcome: str = ""
    verdict: Verdict | None = None
    blocks: tuple[Verdict, ...] = ()


class _Fragment(msgspec.Struct, frozen=True, kw_only=True):
    """All news since the last fragment."""

    entries: tuple[_Entry, ...] = ()
    payloads: Mapping[str, PayloadFacts] = {}


class LedgerBuilder:
    """Calls by owner; safe to add to from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._accounts: dict[Owner, _Account] = {}
        self._payloads: dict[str, PayloadFacts] = {}
        self._news: dict[Owner, None] = {}
        self._new_payloads: dict[str, PayloadFacts] = {}

    def add(self, owner: Owner, call: Call, payload: PayloadFacts | None = None) -> None:
        """Book a priced call on its owner, with what its fingerprint stands for where known."""
        with self._lock:
            self._account(owner).calls.append(call)
            if payload is not None and call.fingerprint is not None:
                self._learn(call.fingerprint, payload)

    def learn(self, fingerprint: str, payload: PayloadFacts) -> None:
        """Note what has become known of a payload after its call was booked."""
        with self._lock:
            self._learn(fingerprint, payload)

    def _learn(self, fingerprint: str, payload: PayloadFacts) -> None:
        known = self._payloads.get(fingerprint, payload)
        joined = known if known == payload else known.joined(payload)
        self._payloads[fingerprint] = self._new_payloads[fingerprint] = joined

    def withdraw(self, owner: Owner, call: Call) -> None:
        """Take back a call that has turned out otherwise: a stream that went on, a batch."""
        with self._lock:
            account = self._account(owner)
            if call not in account.calls:
                return
            place = account.calls.index(call)
            del account.calls[place]
            if place < account.sent:
                account.sent -= 1
                account.withdrawn.append(call)

    def judge(
        self,
        owner: Owner,
        *,
        outcome: str = "",
        verdict: Verdict | None = None,
        blocks: Iterable[Verdict] = (),
    ) -> None:
        """Note a test's outcome and its verdicts; what is left out stays as it was."""
        with self._lock:
            account = self._account(owner)
            account.outcome = outcome or account.outcome
            account.verdict = verdict or account.verdict
            account.blocks = tuple(blocks) or account.blocks

    def _account(self, owner: Owner) -> _Account:
        self._news[owner] = None
        return self._accounts.setdefault(owner, _Account())

    def calls(self, owner: Owner) -> tuple[Call, ...]:
        """Return the calls of one owner so far, counts that were sent too settled."""
        with self._lock:
            account = self._accounts.get(owner)
            return settled(account.calls) if account else ()

    def __bool__(self) -> bool:
        return bool(self._accounts)

    def row(self, owner: TestOwner) -> TestRow:
        """Return how one attempt of a test stands so far."""
        with self._lock:
            return _test_row(owner, self._accounts.get(owner, _Account()))

    def take_fragment(self) -> dict[str, Any] | None:
        """Return all news since the last time, in builtins that cross processes; None for none."""
        with self._lock:
            entries = tuple(self._entry(owner) for owner in self._news)
            fragment = _Fragment(entries=entries, payloads=self._new_payloads)
            self._news, self._new_payloads = {}, {}
        if not entries and not fragment.payloads:
            return None
        builtins: dict[str, Any] = msgspec.to_builtins(
            fragment, str_keys=True, enc_hook=encode_caveat
        )
        return builtins

    def _entry(self, owner: Owner) -> _Entry:
        account = self._accounts[owner]
        unsent = tuple(account.calls[account.sent :])
        account.sent = len(account.calls)
        withdrawn, account.withdrawn = tuple(account.withdrawn), []
        return _Entry(
            owner=owner,
            calls=unsent,
            withdrawn=withdrawn,
            outcome=account.outcome,
            verdict=account.verdict,
            blocks=account.blocks,
        )

    def absorb(self, fragment: Mapping[str, Any], *, worker: str | None = None) -> None:
        """Book what another process sent; the worker's name tells equal attempts apart."""
        news = msgspec.convert(fragment, _Fragment, dec_hook=decode_caveat)
        for fingerprint, payload in news.payloads.items():
            self.learn(fingerprint, payload)
        for entry in news.entries:
            owner = entry.owner
            if not isinstance(owner, Outside):
                owner = msgspec.structs.replace(owner, worker=owner.worker or worker)
            for call in entry.withdrawn:
                self.withdraw(owner, call)
            for call in entry.calls:
                self.add(owner, call)
            self.judge(owner, outcome=entry.outcome, verdict=entry.verdict, blocks=entry.blocks)

    def fail_last(self, nodeid: str, *, worker: str) -> None:
        """Note that a worker died in a test; what it had told of it by then sounds better.

        xdist's name for the test may have the name of its group behind an `@`.
        """
        with self._lock:
            attempts = [
                owner
                for owner in self._accounts
                if isinstance(owner, TestOwner)
                and owner.worker == worker
                and f"{nodeid}@".startswith(f"{owner.nodeid}@")
            ]
            if attempts:
                self._accounts[max(attempts, key=lambda owner: owner.attempt)].outcome = "failed"

    def ledger(
        self,
        *,
        price_date: str,
        rate_card: CardId,
        run: RunRecord | None = None,
        generator: Mapping[str, str] | None = None,
        cache_state: str = "as-billed",
        incomplete: Iterable[str] = (),
        lost_calls: Iterable[str] = (),
        budgets: Iterable[Budget] = (),
        notes: Iterable[str] = (),
    ) -> Ledger:
        """Close the books: sorted rows, totals, and the verdicts of ceilings over several tests."""
        rows = self._rows()
        incomplete, lost_calls = tuple(sorted(set(incomplete))), tuple(sorted(set(lost_calls)))
        return Ledger(
            generator=generator or {},
            run=run or RunRecord(),
            complete=not incomplete,
            incomplete=incomplete,
            lost_calls=lost_calls,
            price_date=price_date,
            cache_state=cache_state,
            rate_card=rate_card,
            totals=sum_totals(rows),
            verdicts=decide(budgets, rows, lost_calls=lost_calls),
            payloads=self._known_payloads(),
            tests=tuple(rows.tests),
            fixtures=tuple(rows.fixtures),
            outside_tests=tuple(rows.outside),
            notes=tuple(sorted(set(notes))),
        )

    def _rows(self) -> Rows:
        with self._lock:
            accounts = dict(self._accounts)
        fixtures = [
            _fixture_row(owner, settled(account.calls))
            for owner, account in accounts.items()
            if isinstance(owner, FixtureOwner) and account.calls
        ]
        outside = accounts.get(OUTSIDE, _Account()).calls
        return sort_rows(_number(_test_rows(accounts)), fixtures, settled(outside))

    def _known_payloads(self) -> dict[str, PayloadFacts]:
        with self._lock:
            return {key: self._payloads[key] for key in sorted(self._payloads)}


def _test_rows(accounts: Mapping[Owner, _Account]) -> Iterator[tuple[TestOwner, TestRow]]:
    """Make the rows of the tests that have a call or a ceiling."""
    for owner, account in accounts.items():
        if not isinstance(owner, TestOwner):
            continue
        if account.calls or account.verdict or account.blocks:
            yield owner, _test_row(owner, account)


def _test_row(owner: TestOwner, account: _Account) -> TestRow:
    calls = settled(account.calls)
    return TestRow(
        nodeid=owner.nodeid,
        path=owner.path,
        line=owner.line,
        attempt=owner.attempt,
        outcome=account.outcome,
        usd=sum_usd(calls),
        verdict=account.verdict,
        blocks=account.blocks,
        calls=calls,
    )


def _number(rows: Iterable[tuple[TestOwner, TestRow]]) -> Iterator[TestRow]:
    """Number the attempts on: two workers that ran the same test both called theirs the first."""
    last: dict[str, int] = {}
    for _, row in sorted(rows, key=_attempt_key):
        attempt = max(row.attempt, last.get(row.nodeid, 0) + 1)
        last[row.nodeid] = attempt
        yield row if attempt == row.attempt else msgspec.structs.replace(row, attempt=attempt)


def _attempt_key(owned: tuple[TestOwner, TestRow]) -> tuple[str, int, int, str]:
    """Of equal attempts the one of the older worker first: gw10 took over where gw2 died."""
    owner, _ = owned
    worker = owner.worker or ""
    return owner.nodeid, owner.attempt, len(worker), worker


def _fixture_row(owner: FixtureOwner, calls: tuple[Call, ...]) -> FixtureRow:
    return FixtureRow(
        name=owner.name,
        scope=owner.scope,
        baseid=owner.baseid,
        node=owner.node,
        param=owner.param,
        worker=owner.worker,
        usd=sum_usd(calls),
        calls=calls,
    )

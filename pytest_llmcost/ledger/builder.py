"""Calls by owner while a run goes on, and what a worker sends of them to the controller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from itertools import chain
from operator import itemgetter
from threading import RLock
from typing import Any, TypeVar

import msgspec
from msgspec.structs import asdict, replace

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.budgets.budget import Budget, Find, Verdict
from pytest_llmcost.call import Call
from pytest_llmcost.ledger.ledger import FixtureRow, Ledger, PayloadFacts, TestRow
from pytest_llmcost.ledger.totals import closed
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
    """Calls that no test and no fixture makes: at import, in a plugin, between tests."""

    worker: str | None = None


Owner = TestOwner | FixtureOwner | Outside
OUTSIDE = Outside()
_Row = TypeVar("_Row", TestRow, FixtureRow)


class _Account(msgspec.Struct, kw_only=True):
    """What one owner has spent so far, and how it went."""

    owner: TestOwner | FixtureOwner | Outside
    calls: list[Call] = []
    outcome: str = ""
    verdict: Verdict | None = None
    blocks: tuple[Verdict, ...] = ()

    def row(self, kind: type[_Row]) -> _Row:
        calls = settled(self.calls)
        spent = {**asdict(self.owner), **asdict(self), "calls": calls, "usd": Amounts.of(calls).usd}
        return kind(**{name: spent[name] for name in kind.__struct_fields__})


class _Fragment(msgspec.Struct, frozen=True, kw_only=True):
    """The accounts that have changed since the last fragment, each as a whole."""

    accounts: list[_Account] = []
    payloads: Mapping[str, PayloadFacts] = {}


class LedgerBuilder:
    """Calls by owner; safe to add to from any thread."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._accounts: dict[Owner, _Account] = {}
        self._payloads: dict[str, PayloadFacts] = {}
        # What has changed since the last fragment, in the order of the changes.
        self._touched: dict[Owner, None] = {}
        self._learnt: dict[str, None] = {}

    def add(self, owner: Owner, call: Call, payload: PayloadFacts | None = None) -> None:
        """Record a call of an owner, and what its fingerprint stands for where that is known."""
        with self._lock:
            self._account(owner).calls.append(call)
            if payload is not None and call.fingerprint is not None:
                self.learn(call.fingerprint, payload)

    def learn(self, fingerprint: str, payload: PayloadFacts) -> None:
        """Add what has become known of a payload after its call was recorded."""
        with self._lock:
            known = self._payloads.get(fingerprint, payload)
            self._payloads[fingerprint] = known if known == payload else known.joined(payload)
            self._learnt[fingerprint] = None

    def replace(self, owner: Owner, call: Call, *by: Call) -> None:
        """Take back a call that has turned out otherwise: a stream that went on, a batch."""
        with self._lock:
            calls = self._account(owner).calls
            if call in calls:
                at = calls.index(call)
                calls[at : at + 1] = by

    def judge(
        self,
        owner: Owner,
        *,
        outcome: str = "",
        verdict: Verdict | None = None,
        blocks: Iterable[Verdict] = (),
    ) -> None:
        """Store a test's outcome and its verdicts; what is left out stays as it was."""
        with self._lock:
            account = self._account(owner)
            account.outcome = outcome or account.outcome
            account.verdict = verdict or account.verdict
            account.blocks = tuple(blocks) or account.blocks

    def _account(self, owner: Owner) -> _Account:
        self._touched[owner] = None
        return self._accounts.setdefault(owner, _Account(owner=owner))

    def calls(self, owner: Owner) -> tuple[Call, ...]:
        """Return the calls of one owner so far, without counts of what was sent too."""
        with self._lock:
            account = self._accounts.get(owner)
            return settled(account.calls) if account else ()

    def __bool__(self) -> bool:
        return bool(self._accounts)

    @property
    def payloads(self) -> Mapping[str, PayloadFacts]:
        """What each fingerprint stands for, as far as it is known by now."""
        return self._payloads

    def row(self, owner: TestOwner) -> TestRow:
        """Return how one attempt of a test stands so far."""
        with self._lock:
            return self._accounts.get(owner, _Account(owner=owner)).row(TestRow)

    def take_fragment(self) -> dict[str, Any] | None:
        """Return what has changed since the last time, in builtins that cross processes."""
        with self._lock:
            if not self._touched and not self._learnt:
                return None
            fragment = _Fragment(
                accounts=[self._accounts[owner] for owner in self._touched],
                payloads={key: self._payloads[key] for key in self._learnt},
            )
            self._touched, self._learnt = {}, {}
            builtins: dict[str, Any] = msgspec.to_builtins(
                fragment, str_keys=True, enc_hook=encode_caveat
            )
        return builtins

    def enter_child(self) -> None:
        """Begin anew in a forked child: what is known by now is the parent's to report."""
        self._lock = RLock()
        self._accounts, self._touched, self._learnt = {}, {}, {}

    def absorb(
        self, fragment: Mapping[str, Any], *, worker: str | None = None, is_child: bool = False
    ) -> None:
        """Take what another process sent; its name keeps equal owners of two workers apart.

        A child of a worker has the worker's name until it gets its own here.
        """
        news = msgspec.convert(fragment, _Fragment, dec_hook=decode_caveat)
        with self._lock:
            for fingerprint, payload in news.payloads.items():
                self.learn(fingerprint, payload)
            for account in news.accounts:
                owner = account.owner
                account.owner = replace(
                    owner, worker=worker if is_child else owner.worker or worker
                )
                self._accounts[account.owner] = account
                self._touched[account.owner] = None

    def fail_last(self, nodeid: str, *, worker: str) -> None:
        """Mark a test's last attempt as failed because its worker crashed in it.

        xdist appends the name of a test's group to its node id, after an `@`.
        """
        with self._lock:
            attempts = [
                (owner.attempt, account)
                for owner, account in self._accounts.items()
                if isinstance(owner, TestOwner)
                and owner.worker == worker
                and f"{nodeid}@".startswith(f"{owner.nodeid}@")
            ]
            if attempts:
                max(attempts, key=itemgetter(0))[1].outcome = "failed"

    def ledger(
        self, *, budgets: Iterable[Budget] = (), find: Find | None = None, **facts: Any
    ) -> Ledger:
        """Return the ledger of the run so far, with the verdicts on budgets over several tests.

        `facts` are those fields of `Ledger` that its rows do not tell.
        """
        with self._lock:
            accounts = list(self._accounts.values())
            payloads = dict(self._payloads)
        # Two workers that ran the same test both called theirs the first attempt. Of these the one
        # of the older worker comes first: gw10 took over where gw2 died.
        attempts = {
            (owner.nodeid, owner.attempt, len(owner.worker or ""), owner.worker or ""): account
            for account in accounts
            if isinstance(owner := account.owner, TestOwner)
            and (account.calls or account.verdict or account.blocks)
        }
        tests: list[TestRow] = []
        for key in sorted(attempts):
            row = attempts[key].row(TestRow)
            if tests and tests[-1].nodeid == row.nodeid and row.attempt <= tests[-1].attempt:
                row = replace(row, attempt=tests[-1].attempt + 1)
            tests.append(row)
        fixtures = [
            each for each in accounts if isinstance(each.owner, FixtureOwner) and each.calls
        ]
        outside = [each.calls for each in accounts if isinstance(each.owner, Outside)]
        ledger = Ledger(
            payloads=payloads,
            tests=tuple(tests),
            fixtures=tuple(each.row(FixtureRow) for each in fixtures),
            outside_tests=settled(chain.from_iterable(outside)),
            **facts,
        )
        return closed(ledger, budgets, find)


def settled(calls: Iterable[Call]) -> tuple[Call, ...]:
    """Leave out counts of a payload that was sent too: a count is the estimate of a request.

    Of one fingerprint, n counts and m requests are max(n, m) calls, in whatever order they came:
    all requests, and the most expensive of the counts that are left over. A failed count stands
    for its payload only while there is nothing else. The calls must be those of one owner, such
    as one attempt of a test.
    """
    calls = tuple(calls)
    if len(calls) < 2:
        return calls
    payloads: dict[str, list[int]] = {}
    for index, call in enumerate(calls):
        if call.fingerprint:
            payloads.setdefault(call.fingerprint, []).append(index)
    dropped: set[int] = set()
    for indices in payloads.values():
        if len(indices) > 1:
            counts = [index for index in indices if calls[index].evidence == "counted"]
            failed = [index for index in counts if calls[index].is_uncounted]
            rest = [index for index in indices if index not in failed]
            dropped.update(failed if rest else failed[1:])
            counts = [index for index in counts if index not in failed]
            counts.sort(
                key=lambda index: (calls[index].usd is None, calls[index].usd or Decimal(0))
            )
            dropped.update(counts[: len(rest) - len(counts)])
    return tuple(call for index, call in enumerate(calls) if index not in dropped)

"""The history of a suite: a file with one line of JSON for each run, which only ever grows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import reduce
from pathlib import Path

import msgspec
from msgspec.structs import asdict

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.errors import LedgerError
from pytest_llmcost.files import locked, write_atomic
from pytest_llmcost.ledger.ledger import Ledger, find_odd_amount
from pytest_llmcost.ledger.totals import spenders_of
from pytest_llmcost.money import EXACT, plain_usd
from pytest_llmcost.prices.usage import Count

SCHEMA = "pytest-llmcost-history/1"

Shares = Mapping[str, Decimal | None]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run; amounts are list prices, null where nothing is known."""

    schema: str
    at: str
    """When it ended, UTC."""
    commit: str | None = None
    incomplete: tuple[str, ...] = ()
    """Why it was not the whole suite."""
    price_date: str
    calls: Count
    usd: Decimal | None
    is_least: bool = False
    """Whether it may have cost more, because something is unknown."""
    by_model: Shares = {}
    by_tag: Shares = {}
    by_path: Shares = {}
    """By test file; what belongs to none is under the folder that shares it, or an empty name."""


def run_of(ledger: Ledger) -> Run:
    """Return what the history keeps of a run."""
    paths: dict[str, Amounts] = {}
    for spender in spenders_of(ledger):
        path = spender.name if spender.kind == "test" else ""
        if spender.kind == "fixture":
            *_, baseid, node, _ = spender.key
            path = node or baseid or ""
        path = path.partition("::")[0]
        paths[path] = paths.get(path, Amounts()) + Amounts.of(spender.calls)
    totals = ledger.totals
    return Run(
        schema=SCHEMA,
        at=ledger.run.finished_at or "",
        commit=ledger.run.commit or None,
        incomplete=ledger.incomplete,
        price_date=ledger.price_date,
        calls=totals.calls,
        usd=totals.usd,
        is_least=totals.is_least,
        by_model={name: total.usd for name, total in totals.by_model.items()},
        by_tag={name: total.usd for name, total in totals.by_tag.items()},
        by_path={path: amounts.usd for path, amounts in paths.items() if amounts.calls},
    )


def append_run(path: Path, run: Run, *, instead_of: Run | None = None) -> None:
    """Append a run, or replace what was appended of it before; other processes wait meanwhile.

    Raises:
        LedgerError: the file cannot be locked or written.
    """
    try:
        with locked(path):
            if instead_of is not None:
                text = path.read_bytes().replace(_line(instead_of), _line(run))
                write_atomic(path, [text])
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b") as file:
                file.seek(max(file.seek(0, 2) - 1, 0))
                # A line that was cut must not take the next one with it.
                is_cut = file.read(1) not in (b"", b"\n")
                file.write(b"\n" * is_cut + _line(run))
    except OSError as error:
        raise LedgerError(f"{path}: cannot be written ({error.strerror or error})") from None


def _line(run: Run) -> bytes:
    # ASCII: a node id may have half a character in it.
    return json.dumps(asdict(run), default=plain_usd, sort_keys=True).encode() + b"\n"


def read_history(path: Path) -> tuple[list[Run], str | None]:
    """Return the runs of a history, the newest one last, and what is wrong with its other lines.

    Raises:
        LedgerError: the file cannot be read, or is something else.
    """
    try:
        if path.is_char_device():  # reading it may never end
            raise LedgerError(f"{path}: is a device; give the file of pytest --llmcost-history")
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read ({error.strerror or error})") from None
    runs, bad = [], []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                run = msgspec.convert(json.loads(line), Run)
                if run.schema != SCHEMA:
                    raise ValueError(f"its schema is {run.schema!r:.80}, not {SCHEMA}")
                if odd := find_odd_amount(run):
                    raise ValueError(f"{odd} is not an amount of money")
                runs.append(run)
            except (ValueError, RecursionError) as error:
                bad.append((number, error))
    runs.sort(key=lambda run: run.at)  # Git merges the lines of two branches in any order
    if not bad:
        return runs, None
    number, first = bad[0]
    problem = f"not a run of pytest-llmcost ({first})"
    if not runs:
        raise LedgerError(f"{path}:{number}: {problem}; give the file of pytest --llmcost-history")
    more = f"; so are {len(bad) - 1:,} more" if len(bad) > 1 else ""
    return runs, f"{path}:{number}: left out, {problem}{more}"


def average(amounts: Sequence[Decimal | None]) -> Decimal | None:
    """Return the average of at least one amount; None if one of them is unknown."""
    known = [usd for usd in amounts if usd is not None]
    if len(known) < len(amounts):
        return None
    return EXACT.divide(reduce(EXACT.add, known), len(known))

"""What merging costs: time and peak memory for many calls in many shards, read from disk.

Each size runs in a process of its own, which reads the shards, merges them and writes the result,
as `llmcost merge` does.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from pytest_llmcost.budgets.budget import Budget
from pytest_llmcost.call import Call, PricedSamplingCall
from pytest_llmcost.ledger.builder import LedgerBuilder, TestOwner
from pytest_llmcost.ledger.ledger import CardId, Ledger, PayloadFacts, read_ledger, write_ledger
from pytest_llmcost.ledger.shards import merge_ledgers
from pytest_llmcost.prices.usage import Usage

from .figures import Figure, run

CALLS_PER_TEST = 4


def make_shards(folder: Path, calls: int, shards: int) -> None:
    """Write shards with calls whose ids, tokens and amounts are all different."""
    chance = random.Random(7)
    budget = Budget(scope="suite", limit=Decimal(1_000_000), origin="--llmcost-max-suite")
    for shard in range(shards):
        ledger = LedgerBuilder()
        for number in range(calls // shards):
            test = number // CALLS_PER_TEST
            nodeid = f"tests/agents/test_{shard % 50}.py::test_case[{shard}-{test}]"
            call = make_call(chance)
            payload = PayloadFacts(
                model=call.model, parts={"system": "0a1b2c3d", "messages.0": "4e5f"}
            )
            ledger.add(TestOwner(nodeid=nodeid, path="t.py", line=test), call, payload)
        report = ledger.ledger(price_date="2026-11-22", rate_card=CardId(), budgets=[budget])
        write_ledger(report, folder / f"shard-{shard}.json")


def make_call(chance: random.Random) -> Call:
    usage = Usage(
        input_tokens=chance.randrange(50_000),
        cache_read_tokens=chance.randrange(50_000),
        output_tokens=chance.randrange(5_000),
    )
    usd = Decimal(usage.input_tokens * 5 + usage.output_tokens * 25).scaleb(-6)
    model = chance.choice(("claude-opus-4-7", "claude-haiku-5-5"))
    return Call(
        model=model,
        fingerprint=f"1:{chance.getrandbits(256):064x}",
        evidence="billed",
        phase="call",
        usage=usage,
        sampling_calls=(PricedSamplingCall(model=model, usage=usage, usd=usd),),
        usd=usd,
        usd_low=usd,
        usd_high=usd,
    )


def merge(folder: Path) -> None:
    """Merge a folder's shards."""
    write_ledger(merge_ledgers(_read(folder)), folder / "all.json")


def _read(folder: Path) -> Iterator[tuple[str, Ledger]]:
    for path in sorted(folder.glob("shard-*.json")):
        yield path.name, read_ledger(path)


def measure(quick: bool) -> list[Figure]:
    """Measure each size in a process of its own; a quick run leaves the million out."""
    found = []
    for calls, seconds, megabytes in ((100_000, 3, 150), (1_000_000, 30, 800)):
        if quick and calls > 100_000:
            continue
        with tempfile.TemporaryDirectory() as folder:
            make_shards(Path(folder), calls, 1000)
            cost = run([sys.executable, "-m", "tests.bench.merge_shards", folder])
        what = f"merge {calls:,} calls of 1,000 shards"
        found += [
            Figure(f"{what}, time", cost.cpu_seconds, "s", seconds),
            Figure(f"{what}, memory", cost.peak_mb, "MB", megabytes),
        ]
    return found


if __name__ == "__main__":
    merge(Path(sys.argv[1]))

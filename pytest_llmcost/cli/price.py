"""What recorded responses cost: cassettes, Messages responses, event streams, batch results."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path

from pytest_llmcost.call import Call, price
from pytest_llmcost.cli.options import (
    Console,
    add_date_option,
    add_prices_option,
    read_card,
    read_date,
)
from pytest_llmcost.errors import RecordingError
from pytest_llmcost.ledger.ledger_file import to_json
from pytest_llmcost.money import format_usd
from pytest_llmcost.prices.rate_card import RateCard
from pytest_llmcost.reports.escape import clean
from pytest_llmcost.reports.tables import format_count, render_table
from pytest_llmcost.responses.recorded_files import MOST_BYTES, Found, read_calls, read_recordings

_HEADS = ("source", "model", "input", "cached", "output", "USD", "")
_STANDARD_INPUT = "-"
_MOST_CHARACTERS = 2_000
"""Of a problem; a name in it may be without end."""


_FREE = Call(model="", evidence="billed", usd=Decimal(0))

_Row = tuple[Found, Call | None]
"""What a file holds, with its price; None if it costs nothing."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("file", nargs="+", help="a recorded file; - is standard input")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    add_date_option(parser)
    add_prices_option(parser)


def run(arguments: Namespace, console: Console) -> int:
    """Price and print everything that can be; return 1 if something could not."""
    card, on = read_card(arguments.prices), read_date(arguments.on)
    rows: list[_Row] = []
    problems: list[str] = []
    for path in arguments.file:
        try:
            recordings = read_recordings(_bytes(path), path)
        except RecordingError as error:
            problems.append(str(error))
            continue
        for found in (each for recorded in recordings for each in read_calls(recorded)):
            if found.problem:
                problems.append(f"{found.source}: {found.problem}")
            else:
                answer = found.answer
                rows.append((found, None if answer is None else price(answer, card, on=on)))
    for found, call in rows:
        if call is not None and call.usd is None:
            problems.append(f"{found.source}: {'; '.join(call.caveats) or 'no price'}")
    is_json = arguments.format == "json"
    console.print(_render_json(rows) if is_json else _render_text(rows, card, on))
    for problem in problems:
        console.note(clean(problem, _MOST_CHARACTERS))
    return 1 if problems else 0


def _bytes(path: str) -> bytes:
    try:
        if path == _STANDARD_INPUT:
            return sys.stdin.buffer.read(MOST_BYTES + 1)
        with Path(path).open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read ({error.strerror or error})") from None


def _render_json(rows: Iterable[_Row]) -> str:
    """One object a call, with the ledger's names; what is free has no sampling calls."""
    return json.dumps([to_json(_object(*row)) for row in rows], indent=2)


def _object(found: Found, call: Call | None) -> dict[str, object]:
    model = call.model if call else found.model
    call = call or _FREE
    return {
        "source": found.source,
        "model": model,
        "usage": call.usage,
        "sampling_calls": call.sampling_calls,
        "context": call.context,
        "usd": call.usd,
        "caveats": call.caveats,
    }


def _render_text(rows: Sequence[_Row], card: RateCard, on: date) -> str:
    if not rows:
        return "no Claude call found"
    table = render_table(_HEADS, [_cells(*row) for row in rows], names=2, notes=1)
    calls = [call for _, call in rows if call]
    total = sum((call.usd for call in calls if call.usd is not None), Decimal(0))
    unpriced = sum(call.usd is None for call in calls)
    least = "at least " if any(map(_is_least, calls)) else ""
    counts = [format_count(len(calls), "call")]
    counts += [f"{unpriced:,} without a price"] if unpriced else []
    counts += [f"{len(rows) - len(calls):,} free"] if len(rows) > len(calls) else []
    footer = (
        f"total {least}{format_usd(total)} at list price for {', '.join(counts)}; "
        f"prices of {on}, rate card {card.version}"
    )
    return f"{table}\n\n{footer}"


def _cells(found: Found, call: Call | None) -> list[str]:
    if call is None:
        free = clean(found.free or "")
        return [clean(found.source), clean(found.model or "-"), "", "", "", "free", free]
    usage = call.billed_usage
    usd = "?" if call.usd is None else f"{format_usd(call.usd)}{'+' if _is_least(call) else ''}"
    return [
        clean(found.source),
        clean(call.model),
        f"{usage.prompt_tokens:,}",
        f"{usage.cached_tokens:,}",
        f"{usage.output_tokens:,}",
        usd,
        ", ".join(dict.fromkeys(caveat.name for caveat in call.caveats)),
    ]


def _is_least(call: Call) -> bool:
    """Return whether the true cost may be higher than the price, or is unknown."""
    return call.usd is None or call.usd_high is None or call.usd_high > call.usd

"""What recorded responses cost: cassettes, Messages responses, event streams, batch results."""

from __future__ import annotations

import json
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path

from pytest_llmcost.call import Call, price
from pytest_llmcost.cli.console import (
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
from pytest_llmcost.reports.tables import (
    GroupedRow,
    format_count,
    render_groups,
    usd_cell,
    wrap,
)
from pytest_llmcost.responses.recorded_files import MOST_BYTES, Found, read_calls, read_recordings

_HEADS = ("input", "read", "written", "output", "cost")
_SUFFIXES = (".har", ".json", ".jsonl", ".sse", ".yaml", ".yml")
"""Of the files in a folder that are read."""
_STANDARD_INPUT = "-"
_MOST_CHARACTERS = 2_000
"""Of a problem; a name in it may be without end."""


_FREE = Call(model="", evidence="billed", usd=Decimal(0))

_Row = tuple[Found, Call | None]
"""What a file holds, with its price; None if it costs nothing."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "file", nargs="+", help="a recorded file, or a folder of them; - is standard input"
    )
    parser.add_argument(
        "--by",
        choices=("call", "file", "model"),
        default="call",
        help="a row for each call (default), or the sum of each file or model",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")
    add_date_option(parser)
    add_prices_option(parser)


def run(arguments: Namespace, console: Console) -> int:
    """Price and print everything that can be; return 1 if something could not."""
    card, on = read_card(arguments.prices), read_date(arguments.on)
    rows: list[_Row] = []
    problems: list[str] = []
    for path in _files(arguments.file):
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
    console.print(_render_json(rows) if is_json else _render_text(rows, card, on, arguments.by))
    for problem in problems:
        console.note(clean(problem, _MOST_CHARACTERS))
    return 1 if problems else 0


def _files(paths: Iterable[str]) -> Iterator[str]:
    """Yield the files, and in place of a folder the recordings in it, but no recorded counts."""
    for path in paths:
        if path == _STANDARD_INPUT or not Path(path).is_dir():
            yield path
            continue
        for each in sorted(Path(path).rglob("*")):
            is_recording = each.name.removesuffix(".gz").endswith(_SUFFIXES)
            if is_recording and ".llmcost." not in each.name and each.is_file():
                yield str(each)


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


def _render_text(rows: Sequence[_Row], card: RateCard, on: date, by: str) -> str:
    if not rows:
        return "no Claude call found"
    width = shutil.get_terminal_size().columns
    table = _grouped(rows, width) if by == "call" else _summed(rows, by, width)
    calls = [call for _, call in rows if call]
    unpriced = sum(call.usd is None for call in calls)
    counts = [format_count(len(calls), "call")]
    counts += [f"{unpriced:,} without a price"] if unpriced else []
    counts += [f"{len(rows) - len(calls):,} free"] if len(rows) > len(calls) else []
    least = "at least " if any(map(_is_least, calls)) else ""
    footer = (
        f"total {least}{format_usd(_sum(calls))} at list price for {', '.join(counts)}; "
        f"prices of {on}, rate card {card.version}"
    )
    return "\n".join([table, "", *wrap(footer, width)])


def _grouped(rows: Sequence[_Row], width: int) -> str:
    """Render the calls of each file under its name, in the order of the file."""
    lines = []
    for found, call in rows:
        path, _, number = found.source.rpartition("#")
        model = clean((call.model if call else found.model) or "-")
        # A caveat's name is enough here: its detail is on standard error, or in the JSON.
        why = [each.name for each in call.caveats] if call else [clean(found.free or "")]
        remark = f" ({', '.join(dict.fromkeys(why))})" if any(why) else ""
        cells = _cells([call]) if call else ["", "", "", "", "free"]
        lines.append(
            GroupedRow(_shorten(clean(path), width), f"  #{number} {model}{remark}", cells)
        )
    return "\n".join(line.text for line in render_groups(_HEADS, lines, width))


def _summed(rows: Sequence[_Row], by: str, width: int) -> str:
    """Render one row for each file or model, the most expensive first."""
    groups: dict[str, list[Call]] = {}
    for found, call in rows:
        path = clean(found.source.rpartition("#")[0])
        name = path if by == "file" else clean((call.model if call else found.model) or "-")
        groups.setdefault(name, []).extend([call] if call else [])
    ordered = sorted(groups.items(), key=lambda each: _sum(each[1]), reverse=True)
    cells = [[f"{len(calls):,}", *_cells(calls)] for _, calls in ordered]
    numbers = [max(map(len, column)) for column in zip(("calls", *_HEADS), *cells, strict=True)]
    room = width - sum(numbers) - 2 * len(numbers)
    lines = [
        GroupedRow(by, f"  {_shorten(name, room - 2)}", row)
        for (name, _), row in zip(ordered, cells, strict=True)
    ]
    return "\n".join(line.text for line in render_groups(("calls", *_HEADS), lines, width))


def _shorten(path: str, room: int) -> str:
    """Leave out the first folders of a path that is too long; its name stays whole."""
    folders = path.split("/")
    for first in range(len(folders)):
        short = "/".join([*(["..."] if first else []), *folders[first:]])
        if len(short) <= room:
            return short
    return folders[-1]


def _cells(calls: Sequence[Call]) -> list[str]:
    usages = [call.billed_usage for call in calls]
    tokens = (
        sum(each.prompt_tokens for each in usages),
        sum(each.cache_read_tokens for each in usages),
        sum(each.cached_tokens - each.cache_read_tokens for each in usages),
        sum(each.output_tokens for each in usages),
    )
    is_known = not calls or any(call.usd is not None for call in calls)
    cost = usd_cell(_sum(calls) if is_known else None, is_least=any(map(_is_least, calls)))
    return [*(f"{each:,}" for each in tokens), cost]


def _sum(calls: Iterable[Call]) -> Decimal:
    return sum((call.usd for call in calls if call.usd is not None), Decimal(0))


def _is_least(call: Call) -> bool:
    """Return whether the true cost may be higher than the price, or is unknown."""
    return call.usd is None or call.usd_high is None or call.usd_high > call.usd

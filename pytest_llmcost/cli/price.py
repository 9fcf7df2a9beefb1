"""What recorded responses cost: cassettes, Messages responses, event streams, batch results."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from functools import reduce
from itertools import chain
from operator import add
from pathlib import Path
from typing import NamedTuple

from pytest_llmcost.amounts import Amounts
from pytest_llmcost.call import Call, price
from pytest_llmcost.cli import console
from pytest_llmcost.errors import RecordingError, SettingsError
from pytest_llmcost.files import files_below
from pytest_llmcost.ledger.ledger import to_json
from pytest_llmcost.reports.plain_text import (
    Line,
    Screen,
    TableRow,
    as_text,
    clean,
    dollars,
    format_count,
    text_table,
    usd_cell,
    wrap,
)
from pytest_llmcost.responses.recorded_files import MOST_BYTES, Found, read_calls, read_recordings

_HEADS = ("input:", "read:", "written:", "output:", "cost:")
_SUFFIXES = (".json", ".jsonl", ".sse", ".yaml", ".yml")
"""Of the files in a folder that are read."""
_FIELDS = ("usage", "sampling_calls", "context", "usd", "usd_low", "usd_high", "caveats")
_FREE = Call(model="", evidence="billed", usd=Decimal(0), usd_high=Decimal(0))


class _Row(NamedTuple):
    """One answer in a file, with its price."""

    found: Found
    call: Call
    spent: Amounts

    @property
    def model(self) -> str | None:
        """As the price names it, or the file."""
        return self.call.model or self.found.model


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "file", nargs="+", help="a recorded file, or a folder of them; - is standard input"
    )
    what = "a row for each call (default), or the sum of each file or model"
    parser.add_argument("--by", choices=("call", "file", "model"), default="call", help=what)
    parser.add_argument("--format", choices=("text", "json"), default="text")
    console.add_prices(parser, with_date=True)


def run(arguments: Namespace) -> int:
    """Price and print everything that can be; return 1 if something could not."""
    if arguments.by != "call" and arguments.format == "json":
        raise SettingsError(f"--by={arguments.by} adds up in text only; JSON lists each call")
    card, on = console.read_card(arguments), arguments.on
    rows: list[_Row] = []
    problems: list[str] = []
    # A file that is named twice, or is in a folder that is named as well, is priced once.
    for path in {os.path.realpath(each): each for each in _files(arguments.file)}.values():
        try:
            with sys.stdin.buffer if path == "-" else Path(path).open("rb") as file:
                recordings = read_recordings(file.read(MOST_BYTES + 1), path)
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror or error})")
            continue
        except RecordingError as error:
            problems.append(str(error))
            continue
        for found in read_calls(recordings):
            if found.problem:
                problems.append(f"{found.source}: {found.problem}")
            else:
                call = _FREE if found.answer is None else price(found.answer, card, on=on)
                rows.append(_Row(found, call, Amounts.of(() if call is _FREE else [call])))
                if call.usd is None:
                    problems.append(f"{found.source}: {'; '.join(call.caveats) or 'no price'}")
    if arguments.format == "json":  # with the ledger's names
        objects = [
            {"source": row.found.source, "model": row.model}
            | {name: getattr(row.call, name) for name in _FIELDS}
            for row in rows
        ]
        console.write_json(to_json(objects))
    elif rows:
        by, screen = arguments.by, console.screen()
        table = _by_call(rows, screen) if by == "call" else _sums(rows, by, screen)
        footer = wrap(f"{_total(rows)}; prices of {on}, rate card {card.version}", screen)
        console.write(as_text(chain(table, [Line("")], footer)))
    elif not problems:
        console.write("no Claude call found")
    for problem in problems:
        console.note(problem)
    return 1 if problems else 0


def _files(paths: Iterable[str]) -> Iterator[str]:
    """Yield the files, and in place of a folder the recordings in it, but no recorded counts."""
    for path in paths:
        if path == "-" or not os.path.isdir(path):
            yield path
            continue
        for each in files_below(Path(path)):
            is_recording = each.name.removesuffix(".gz").endswith(_SUFFIXES)
            if is_recording and ".llmcost." not in each.name and each.is_file():
                yield str(each)


def _total(rows: Sequence[_Row]) -> str:
    total = reduce(add, (row.spent for row in rows))
    counts = [format_count(total.calls, "call")]
    counts += [f"{total.unpriced:,} without a price"] if total.unpriced else []
    counts += [f"{len(rows) - total.calls:,} free"] if len(rows) > total.calls else []
    spent = dollars(total.priced_usd, is_least=_is_least(total))
    return f"total {spent} at list price for {', '.join(counts)}"


def _by_call(rows: Iterable[_Row], screen: Screen) -> Iterator[Line]:
    """Render the calls of each file under its name, in the order of the file."""
    table = []
    for row in rows:
        path, _, number = row.found.source.rpartition("#")
        # A caveat's name is enough here: its detail is on standard error, or in the JSON.
        why = [each.name for each in row.call.caveats] or [clean(row.found.free or "")]
        remark = f" ({', '.join(dict.fromkeys(why))})" if any(why) else ""
        cells = [f"  #{number} {clean(row.model or '-')}{remark}", *_cells(row.spent)]
        table.append(TableRow(cells, clean(path)))
    return text_table(["", *_HEADS], table, screen)


def _sums(rows: Iterable[_Row], by: str, screen: Screen) -> Iterator[Line]:
    """Render one row for each file or model, the most expensive first."""
    sums: defaultdict[str, Amounts] = defaultdict(Amounts)
    for row in rows:
        name = row.found.source.rpartition("#")[0] if by == "file" else row.model
        sums[clean(name or "-")] += row.spent
    heads = (by, "calls:", *_HEADS)
    cells = {name: [f"{sums[name].calls:,}", *_cells(sums[name])] for name in sums}
    names = sorted(sums, key=lambda each: -sums[each].priced_usd)
    table = [TableRow([f"  {each}", *cells[each]]) for each in names]
    return text_table(heads, table, screen)


def _cells(amounts: Amounts) -> list[str]:
    if not amounts.calls:
        return ["", "", "", "", "free"]
    usage = amounts.usage
    cached = (usage.cache_read_tokens, usage.written_tokens)
    tokens = (usage.prompt_tokens, *cached, usage.output_tokens)
    is_unread = amounts.unpriced and not usage
    shown = ("?" if is_unread else f"{each:,}" for each in tokens)
    return [*shown, usd_cell(amounts.usd, is_least=_is_least(amounts))]


def _is_least(amounts: Amounts) -> bool:
    """Return whether the true cost may be higher than the price, or is unknown."""
    high = amounts.ranges["usd"].high
    return bool(amounts.unpriced) or high is None or high > amounts.priced_usd

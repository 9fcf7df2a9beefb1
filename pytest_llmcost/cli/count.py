"""Count the tokens of prompt files, and check a limit before they are committed.

A text is counted as one message of the user. A JSON file holds what `messages.create` takes, a
list of messages, or a list of tools. Counts are recorded beside the files and read from there;
only a --record-mode that records sends something, and it sends `count_tokens`, which is free.
"""

from __future__ import annotations

import json
import shlex
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from pytest_llmcost.cli import console
from pytest_llmcost.counting.cassette import CountCassette
from pytest_llmcost.counting.client import Asker, Counter, Job, make_client, unknown_keys
from pytest_llmcost.counting.payload import Payload, read_payload
from pytest_llmcost.counting.record_mode import MODES
from pytest_llmcost.errors import CountError, PayloadError
from pytest_llmcost.money import parse_quantity
from pytest_llmcost.prices.rate_card import shipped_card
from pytest_llmcost.reports.plain_text import clean, token_cell

_FOLDER = "llmcost-counts"


class _Row(NamedTuple):
    """A file, and what became of it, with the names of `--format json`."""

    file: str
    model: str | None = None
    input_tokens: int | None = None
    left_out: tuple[str, ...] = ()
    """What is not in the number, so that it is a lower bound."""
    max_input_tokens: int | None = None
    state: Literal["counted", "within", "exceeded", "unverified", "unknown"] = "unknown"
    problem: str | None = None


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the command line."""
    add = parser.add_argument
    add("file", nargs="+", help="a text, or with the suffix .json a payload, messages or tools")
    add("--model", help="the model to count for; a payload may name its own")
    what = f"what may be counted and written to {_FOLDER} beside the file (default: none)"
    modes = "|".join(MODES)
    console.add_settings(parser, "record_mode", default="none", metavar=modes, help=what)
    most = "the most that each file may have, 3k"
    add("--max-input-tokens", type=parse_quantity, metavar="TOKENS", help=most)
    console.add_settings(parser, "count_timeout")
    add("--format", choices=("text", "json"), default="text")


def run(arguments: Namespace) -> int:
    """Count and print; return 2 if a file was not counted, 1 if one has too many tokens."""
    # The shell's `prompts/*` names the recorded counts, too.
    files = [each for each in arguments.file if Path(each).name != _FOLDER] or arguments.file
    with ExitStack() as clients:
        counter = Counter(
            lambda: clients.enter_context(cast("Any", make_client())),
            seconds=arguments.count_timeout,
            waiting=lambda line: console.note(line.removeprefix("llmcost: ")),
            in_tests=False,
        )
        rows = [_count(file, arguments, counter) for file in files]
    if arguments.format == "json":
        console.write_json([row._asdict() for row in rows])
    else:
        table = []
        for file, model, number, left_out, *_ in rows:
            tokens = "?" if number is None else token_cell(number, is_least=bool(left_out))
            table.append([file, model or "-", tokens])
        console.write(console.draw_table(("file", "model", "input tokens:"), table))
    for row in rows:
        if row.problem:
            console.note(f"{row.file}: {row.problem}")
    states = {row.state for row in rows}
    return 2 if "unknown" in states else 0 if states <= {"counted", "within"} else 1


def _count(file: str, arguments: Namespace, counter: Counter) -> _Row:
    path, limit = Path(file), arguments.max_input_tokens
    row = _Row(file, max_input_tokens=limit)
    try:
        payload = _read(path, arguments.model)
        row = row._replace(model=payload.model)
        name = f"./{file}" if file.startswith("-") else file  # which is no option
        options = (f"--model={arguments.model}",) if arguments.model else ()
        command = shlex.join(["llmcost", "count", name, *options, "--record-mode=rewrite"])
        # Its own name is independent of the folder that the command is called in.
        asker = Asker(clean(f"{path.name} for {payload.model}"), command)
        cassette = CountCassette(path.parent / _FOLDER / f"{path.name}.llmcost.yaml")
        is_new = not cassette.has_recorded(asker.name)
        mode = MODES[arguments.record_mode].for_asker(is_new=is_new)
        count = counter.count(Job(payload, cassette, mode, asker))
        if mode.prunes:
            cassette.prune(asker.name, {payload.fingerprint})
        cassette.save()
    except (PayloadError, CountError) as error:
        likely = shipped_card().likely(row.model) if row.model else None
        hint = f"did you mean the model {likely}? " if likely else ""
        return row._replace(problem=f"{hint}{error}")
    tokens, left_out = count.input_tokens, (*count.left_out, *unknown_keys(payload))
    row = row._replace(input_tokens=tokens, left_out=left_out, state="within")
    if limit is None:
        return row._replace(state="counted")
    shown = f"{limit:,} set by --max-input-tokens"
    if tokens > limit:
        least = "at least " if left_out else ""
        then = count.before and f"{count.before.input_tokens:,}"
        before = f" (it had {then} when last recorded)" if then else ""
        more = f"{tokens - limit:,} more than the limit of {shown}{before}"
        return row._replace(state="exceeded", problem=f"{least}{tokens:,} input tokens are {more}")
    if left_out:
        why = f"the count leaves out {', '.join(left_out)}"
        return row._replace(state="unverified", problem=f"cannot check the limit of {shown}: {why}")
    return row


def _read(path: Path, model: str | None) -> Payload:
    """Read the prompt in a file, with the given model if there is one."""
    try:
        text = path.read_text("utf-8-sig")  # all ends of lines are read alike
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise PayloadError(f"cannot be read ({why})", path="") from None
    if not text.strip():
        raise PayloadError("is empty, so there is nothing to count", path="")
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
    if path.suffix.lower() == ".json":
        body["messages"][0]["content"] = "."  # the API counts no prompt without a message
        body |= _part_of_a_body(text)
    if model is not None:
        body["model"] = model
    if not body.get("model"):
        raise PayloadError("names no model; add --model, for example claude-sonnet-5-5", path="")
    return read_payload(body, find=shipped_card().find)


def _part_of_a_body(text: str) -> dict[str, Any]:
    """Return what a JSON file holds of a payload."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PayloadError(f"is not JSON ({error})", path="") from None
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        if all("role" in each for each in value):
            return {"messages": value}
        if all("name" in each or "type" in each for each in value):
            return {"tools": value}
    if isinstance(value, dict) and not value.keys().isdisjoint({"messages", "system", "tools"}):
        return value
    what = "what messages.create takes, a list of messages, or a list of tools"
    raise PayloadError(f"is no prompt: a JSON file holds {what}", path="")

"""Whatever a file or a response holds: it is read, or refused with an error of our own.

Real documents are damaged at a few places. `--hypothesis-profile=release` tries 20,000 of each.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import runpy
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from one_message import read_usage

from pytest_llmcost.cli.main import main
from pytest_llmcost.counting.cassette import read_entries
from pytest_llmcost.errors import LlmCostError
from pytest_llmcost.ledger.ledger import parse_ledger
from pytest_llmcost.plugin.marker import budgets_of_run
from pytest_llmcost.prices.price_file import read_card_file
from pytest_llmcost.responses.recorded_files import read_calls, read_recordings
from pytest_llmcost.responses.stream import Reader
from pytest_llmcost.settings import resolve

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
PIECES = [
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b":",
        b",",
        b"\n",
        b"\n\n",
        b"- ",
        b"\x00",
        b"\xff",
        b"\\ud800",
        b"\\u001b",
    ),
    *(b"null", b"true", b"-1", b"0", b"1e400", b"NaN", b"9" * 30, b"0.1", b'"x"', b"&a ", b"*a"),
    *(b"claude-opus-4-7", b"1969-12-31", b"2026-11-22", b"input_tokens", b"usd"),
]
"""What a parser may stumble over."""


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A document with up to four places replaced, cut or doubled."""
    data = whole
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 2, 5, 20, 200]))
        piece = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=6), st.just(b"2")))
        again = data[start : start + length] if draw(st.booleans()) else b""
        data = data[:start] + piece + again + data[start + length :]
    return data


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.sampled_from(["", "0", "1e999", "claude-opus-4-7", "2026-02-30", "input_tokens", "1" * 40]),
    st.text(max_size=4),
    st.lists(st.integers(-1, 2), max_size=2),
    st.dictionaries(st.sampled_from(["type", "usage", "model", "0"]), st.none(), max_size=2),
)


@st.composite
def retyped(draw: st.DrawFn, whole: bytes) -> bytes:
    """A JSON document with one value replaced, or left out."""
    document = json.loads(whole)
    node: Any = {"": document}
    key: Any = ""
    while isinstance(node[key], (dict, list)) and node[key] and draw(st.integers(0, 4)):
        node = node[key]
        key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
    if draw(st.booleans()) and key != "":
        del node[key]
    elif key != "":
        node[key] = draw(VALUES)
    return json.dumps(document).encode()


def changed(whole: bytes) -> st.SearchStrategy[bytes]:
    try:
        json.loads(whole)
    except ValueError:
        return damaged(whole)
    return damaged(whole) | retyped(whole)


def read_cassette(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    read_entries(path)


def read_prices(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    read_card_file(path)


def read_recorded(data: bytes, path: Path) -> None:
    read_calls(read_recordings(data, path.name))


def read_response_usage(data: bytes, path: Path) -> None:
    with contextlib.suppress(ValueError):
        usage = json.loads(data)
        if isinstance(usage, dict):
            read_usage(usage)


def read_stream(data: bytes, path: Path) -> None:
    reader = Reader()
    reader.feed(b"event: any\n\n" + data[:50])
    reader.feed(data[50:])
    reader.close()


def read_frames(data: bytes, path: Path) -> None:
    """As the payload of a whole frame, and as the frames themselves."""
    for chunk in (frame(data), data):
        reader = Reader()
        reader.feed(frame(FRAME) + chunk)
        reader.close()


def read_batch(data: bytes, path: Path) -> None:
    reader = Reader(of_batch=True)
    reader.feed(data)
    reader.close()


def command(*words: str, name: str = "document") -> Callable[[bytes, Path], object]:
    """A command that is given the document where `{}` stands; it prints nothing invisible."""

    def run(data: bytes, path: Path) -> None:
        document = path.parent / name
        document.write_bytes(data)
        printed = io.TextIOWrapper(io.BytesIO(), "utf-8")
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            assert main([word.format(document) for word in words]) in (0, 1, 2)
        printed.seek(0)
        assert all(map(str.isprintable, printed.read().split("\n")))

    return run


def run_init(data: bytes, path: Path) -> None:
    """In a folder of its own, whose settings file is the document."""
    folder, here = path.parent / "project", Path.cwd()
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    try:
        command("init", name="project/pyproject.toml")(data, path)
    finally:
        os.chdir(here)


def read_settings(data: bytes, path: Path) -> None:
    """Each line is a name and what an environment variable has: any bytes but NUL."""
    for line in os.fsdecode(data.replace(b"\0", b"")).split("\n"):
        name, _, text = line.partition(" ")
        with contextlib.suppress(LlmCostError):
            budgets_of_run(resolve({}, {f"PYTEST_LLMCOST_{name}": text}, {}, path))


def frame(payload: bytes) -> bytes:
    """One frame of an AWS event stream."""
    headers = b"".join(
        struct.pack("!B", len(name)) + name + struct.pack("!BH", 7, len(value)) + value
        for name, value in ((b":event-type", b"chunk"), (b":content-type", b"application/json"))
    )
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    body = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    return body + struct.pack("!I", zlib.crc32(body))


USAGE = {
    "input_tokens": 9, "output_tokens": 5, "cache_read_input_tokens": 3, "service_tier": "standard",
    "cache_creation_input_tokens": 7, "inference_geo": "us",
    "server_tool_use": {"web_search_requests": 2},
    "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4},
    "iterations": [{"type": "message", "input_tokens": 9, "output_tokens": 5}],
}  # fmt: skip
MESSAGE = {"id": "m", "type": "message", "model": "claude-opus-4-7", "content": [], "usage": USAGE}
EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": MESSAGE},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "é"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
]
STREAM = "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in EVENTS).encode()
FRAME = json.dumps({"bytes": base64.b64encode(json.dumps(EVENTS[0]).encode()).decode()}).encode()
PROMPT = {
    "model": "claude-opus-4-7", "max_tokens": 9, "tool_choice": {"type": "auto"},
    "system": [{"type": "text", "text": "é", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "tools": [{"name": "find", "input_schema": {"type": "object", "properties": {"x": {}}}}],
    "messages": [
        {"role": "user", "content": "Find it."},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "find"}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "x"}]},
    ],
    "thinking": {"type": "enabled", "budget_tokens": 2000}, "output_config": {"effort": "low"},
}  # fmt: skip
SETTINGS = b"""\
MAX_SUITE $1,000.00
MAX_TEST 2.5c
BUDGETS tests/agents/**::test_a* = $0.50,tag:judge = 2c
MAX_PARTS tools.find = 3k,system=1.5M
ALLOWED_MODELS tests/** = claude-haiku-*
LIVE tests/live/** = off
STAND_INS http://[::1]:8080/v1
WARN_AT 12.5 %
COUNT_TIMEOUT 0.5
PRICE_DATE 2026-11-22
REPORT ledger.json,page.html
MAX_INCREASE 10%,$0.05
REQUIRE_BUDGET yes
PER 10k
COLUMNS worst"""
COUNTS = EXAMPLES / "triage/tests/cassettes/test_triage"
LEDGER = str(EXAMPLES / "bill/ledger.json")
READERS: dict[str, tuple[Callable[[bytes, Path], object], bytes]] = {
    "count cassette": (
        read_cassette,
        (COUNTS / "test_a_whole_mailbox_is_too_expensive.llmcost.yaml").read_bytes(),
    ),
    "ledger": (
        lambda data, path: parse_ledger(data, path.name),
        (EXAMPLES / "bill/ledger.json").read_bytes(),
    ),
    "price file": (read_prices, (EXAMPLES / "recorded/discount.toml").read_bytes()),
    "cassette": (read_recorded, (EXAMPLES / "recorded/summarise.yaml").read_bytes()),
    "recorded stream": (read_recorded, (EXAMPLES / "recorded/cut.sse").read_bytes()),
    "recorded response": (read_recorded, json.dumps(MESSAGE).encode()),
    "batch results": (read_batch, (EXAMPLES / "recorded/results.jsonl").read_bytes()),
    "usage": (read_response_usage, json.dumps(USAGE).encode()),
    "stream": (read_stream, STREAM),
    "event frames": (read_frames, FRAME),
    "settings": (read_settings, SETTINGS),
    "llmcost init": (run_init, (EXAMPLES / "triage/pyproject.toml").read_bytes()),
    "llmcost price": (command("price", "{}"), json.dumps(MESSAGE).encode()),
    "llmcost count": (command("count", "{}", name="a.json"), json.dumps(PROMPT).encode()),
    "llmcost history": (command("history", "{}"), (EXAMPLES / "trend/history.jsonl").read_bytes()),
    "llmcost reconcile --usage": (
        command("reconcile", LEDGER, "--usage={}"),
        (EXAMPLES / "bill/usage.json").read_bytes(),
    ),
    "llmcost reconcile --cost": (
        command("reconcile", LEDGER, f"--usage={EXAMPLES / 'bill/usage.json'}", "--cost={}"),
        (EXAMPLES / "bill/cost.json").read_bytes(),
    ),
    **{
        f"llmcost {words[0]}": (command(*words), Path(LEDGER).read_bytes())
        for words in (
            ("render", "{}"),
            ("merge", "{}", "--output={}.json"),  # a ledger that is printed is as it is
            ("suggest", "{}"),
            ("badge", "{}"),
            ("compare", "{}", LEDGER),
            ("reconcile", "{}", f"--usage={EXAMPLES / 'bill/usage.json'}"),
        )
    },
}


def test_the_number_of_examples_that_was_asked_for_holds_when_tests_import_conftest() -> None:
    asked_for = settings.default
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "conftest.py"))
    assert settings.default is asked_for


@pytest.mark.parametrize("name", READERS)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the first text is slow
@given(data=st.data())
def test_a_damaged_document_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    read, whole = READERS[name]
    document = data.draw(changed(whole), label="document")
    with contextlib.suppress(LlmCostError):
        read(document, tmp_path_factory.getbasetemp() / "document")


@settings(deadline=None)
@given(data=st.data())
def test_a_damaged_count_cassette_is_read_by_its_form_as_it_is_as_yaml(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    document = data.draw(damaged(READERS["count cassette"][1]), label="document")
    path = tmp_path_factory.getbasetemp() / "document"

    def read(written: bytes) -> object:
        path.write_bytes(written)
        try:
            return read_entries(path)
        except LlmCostError:
            return None

    # As it is never written, with a comment.
    assert read(document) == read(document + b"\n# read as YAML\n")

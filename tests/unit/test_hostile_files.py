"""Files that would hang a run, fill its memory or crash a parser are refused by name."""

from __future__ import annotations

import gzip
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml
from hand_made_cassettes import DUMPER
from warm_python import warm_python

from pytest_llmcost.cli import main
from pytest_llmcost.counting.cassette import read_entries
from pytest_llmcost.errors import CountCassetteError, RateCardError, RecordingError
from pytest_llmcost.prices.price_file import read_card_file
from pytest_llmcost.responses.recorded_files import read_recordings
from pytest_llmcost.yaml_file import MOST_BYTES, YamlError, load_yaml

URL = "https://api.anthropic.com/v1/messages"
MB = 1_000_000


def expanding(first: str, layer: str) -> str:
    """Nine layers, each of nine aliases of the one below: 9^10 values in a few hundred bytes."""
    lines = [f"a0: &a0 {first}"]
    for each in range(1, 10):
        lines.append(f"a{each}: &a{each} " + layer % ", ".join([f"*a{each - 1}"] * 9))
    return "\n".join([*lines, "interactions: *a9"])


def cassette(body: bytes, encoding: str) -> bytes:
    response = {
        "status": {"code": 200},
        "headers": {"content-encoding": encoding},
        "body": body,
    }
    request = {"method": "POST", "uri": URL, "body": "{}"}
    recorded = {"interactions": [{"request": request, "response": response}]}
    written: bytes = yaml.dump(recorded, Dumper=DUMPER, encoding="utf-8")
    return written


def ending_in_itself() -> bytes:
    packed = b'{"usage": {}}'
    for _ in range(20):
        packed = gzip.compress(packed)
    return packed


@cache
def zeros() -> bytes:
    return gzip.compress(b"0" * 200 * MB, 1)


@cache
def lists() -> bytes:
    return gzip.compress(b"[" + b"[]," * 30 * MB + b"[]]", 1)


BOMBS: dict[str, Callable[[], bytes]] = {
    "lists of aliases": lambda: expanding("[a, b]", "[%s]").encode(),
    "maps of aliases": lambda: expanding("{a: b}", "{x: [%s]}").encode(),
    "merge keys": lambda: expanding("{a: b}", "{<<: [%s]}").encode(),
    "one long text": lambda: b"a: &a " + b"x" * MB + b"\nusage: [" + b"*a, " * 200 + b"]",
    "gzip": lambda: gzip.compress(b'{"usage": "') + zeros() + gzip.compress(b'"}'),
    "gzip in gzip": lambda: gzip.compress(zeros()),
    "gzip without end": ending_in_itself,
    "a body in gzip": lambda: cassette(zeros(), "gzip"),
    "a deflated body": lambda: cassette(zlib.compress(b"0" * 200 * MB, 1), "deflate"),
    "lists in gzip": lists,
    "lists in a body": lambda: cassette(lists(), "gzip"),
    "YAML of 21 MB": lambda: b"a: " + b"x" * 21 * MB,
    "YAML of many values": lambda: b"a: [" + b"a, " * 600_000 + b"]",
}

MEASURED = """
import re, sys
from pathlib import Path
from pytest_llmcost.cli.main import main
status = main(["price", sys.argv[1], "--on", "2026-11-22"])
most = re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())
print(status, int(most[1]) // 1_000)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_soon_and_within_500_mb(
    make: Callable[[], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_bytes(make())
    done = subprocess.run(
        [warm_python(), "-c", MEASURED, path], capture_output=True, text=True, timeout=300
    )
    status, megabytes = map(int, done.stdout.split()[-2:])
    assert status == 1, done.stderr
    assert "bomb.yaml" in done.stderr
    assert "Traceback" not in done.stderr
    assert megabytes < 500


@pytest.mark.parametrize("name", ["lists of aliases", "maps of aliases", "merge keys"])
def test_a_count_cassette_that_expands_without_end_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "counts.llmcost.yaml"
    path.write_bytes(BOMBS[name]())
    with pytest.raises(
        CountCassetteError, match=r"counts.*line \d+ is not YAML \(more than 500,000"
    ):
        read_entries(path)


def test_a_large_count_cassette_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "counts.llmcost.yaml"
    path.write_bytes(b"a: " + b"x" * MOST_BYTES)
    with pytest.raises(CountCassetteError, match=r"larger than 20,000,000 bytes"):
        read_entries(path)


ODD = {
    "bool": "!!bool zz",
    "timestamp": "!!timestamp x",
    "date": "2026-11-22",
    "no date": "2001-99-99",
    "set": "!!set {a, b}",
    "list as set": "!!set [a]",
    "pairs": "!!pairs [a: 1, a: 2]",
    "omap": "!!omap {a: 1}",
    "circular list": "&c [*c]",
    "circular map": "&c {a: [*c]}",
    "digits": "9" * 5_000,
    "negative digits": "-" + "9" * 5_000,
    "hexadecimal": "0x" + "f" * 5_000,
    "amount": "1" + "0" * 40,
    "float": "1.0e+40",
    "no int": "!!int a",
    "empty int": "!!int ''",
    "no float": "!!float x",
    "not a number": ".nan",
    "infinity": "-.inf",
    "bytes": "!!binary YQ==",
    "bytes as key": "{!!binary YQ==: 1}",
    "no bytes": "!!binary é",
    "list as key": "{? [a] : b}",
    "merge of a number": "{<<: 3}",
    "undefined alias": "*x",
    "anchor twice": "[&a 1, &a 2]",
    "value": "=",
    "a Python name": "!!python/name:os.system x",
    "half a surrogate pair": '"\\ud800"',
    "deep lists": "[" * 900 + "]" * 900,
    "deeper lists": "[" * 100_000,
    "deep items": "- " * 5_000,
    "deep keys": "? " * 5_000,
    "deep maps": "{a: " * 100_000,
}

PLACES = {
    "alone": "%s",
    "key": "{%s: 1, usage: {}}",
    "tokens": "{type: message, model: claude-opus-4-6, id: %s, usage: {input_tokens: %s}}",
    "usage": "{type: message, model: %s, usage: %s, content: %s, stop_reason: %s}",
    "interaction": "interactions: [{request: {method: %s, uri: %s}, response: {body: %s}}]",
    "parsed": (
        "interactions: [{request: {method: POST, uri: '" + URL + "', body: {max_tokens: %s}},"
        " response: {status: {code: %s}, headers: {content-type: %s, content-encoding: %s},"
        " body: {model: %s, usage: {input_tokens: %s, iterations: %s}, content: %s}}}]"
    ),
    "event": "[{type: message_start, message: {usage: {input_tokens: %s}}, x: %s}]",
}


def at(place: str, value: str) -> str:
    first, *rest = place.split("%s")
    # An anchor may be defined once only.
    return first + "".join((value if not at else "1") + each for at, each in enumerate(rest))


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_an_odd_value_is_no_traceback_wherever_it_stands(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, place in PLACES.items():
        for text in {place.replace("%s", value), at(place, value)}:
            path = tmp_path / "odd.yaml"
            path.write_text(text, encoding="utf-8")
            assert main.main(["price", str(path), "--on", "2026-11-22"]) in (0, 1), name
            capsys.readouterr()
            with pytest.raises(CountCassetteError):
                read_entries(path)


def test_dates_and_sets_are_read_as_what_was_written() -> None:
    assert load_yaml("{when: 2026-11-22, at: !!timestamp 2026-11-22, set: !!set {a, b}}") == {
        "when": "2026-11-22",
        "at": "2026-11-22",
        "set": {"a": None, "b": None},
    }


def test_aliases_of_ordinary_files_are_followed() -> None:
    text = "{base: &b {x: [1, 2]}, again: *b, merged: {<<: *b, y: 3}}"
    assert load_yaml(text) == {
        "base": {"x": [1, 2]},
        "again": {"x": [1, 2]},
        "merged": {"x": [1, 2], "y": 3},
    }


@pytest.mark.parametrize("levels", [3, 100, 200])
def test_ordinary_nesting_is_read(levels: int) -> None:
    value: object = []
    for _ in range(levels - 1):
        value = [value]
    assert load_yaml("[" * levels + "]" * levels) == value
    assert load_yaml("- " * levels + "[]") == [value]


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 5_000, "- " * 5_000, "? " * 5_000])
def test_absurd_nesting_is_an_error_and_not_the_end_of_the_process(text: str) -> None:
    with pytest.raises(YamlError, match=r"nest"):
        load_yaml(text)


@pytest.mark.parametrize(
    "number",
    ["9" * 5_000, "1e400", "1" + "0" * 40, "-7", "NaN", "[" * 990, "[" * 4_000, "[" * 1_000_000],
    ids=lambda each: f"{each[:6]} {len(each)}",
)
def test_an_odd_number_in_json_is_no_traceback(
    number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number += "]" * number.count("[")
    usage = f'{{"type": "message", "model": "m", "usage": {{"input_tokens": {number}}}}}'
    path = tmp_path / "odd.json"
    path.write_text(usage)
    assert main.main(["price", str(path)]) == 1
    path.write_text(
        f'{{"interactions": [{{"response": {{"status": {number}, "body": {usage}}}}}]}}'
    )
    assert main.main(["price", str(path)]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err


def test_a_file_above_100_mb_is_refused() -> None:
    with pytest.raises(RecordingError, match="f: unpacks to more than 100,000,000 bytes"):
        read_recordings(b"[" + b" " * 100 * MB + b"]", "f")


def test_bodies_that_unpack_to_100_mb_together_are_refused() -> None:
    [one] = yaml.safe_load(cassette(gzip.compress(b"0" * 30 * MB, 1), "gzip"))["interactions"]
    data = yaml.safe_dump({"interactions": [one] * 3}).encode()
    assert len(read_recordings(data, "f")) == 3
    data = yaml.safe_dump({"interactions": [one] * 4}).encode()
    with pytest.raises(RecordingError, match="f: unpacks to more than 100,000,000 bytes"):
        read_recordings(data, "f")


def test_a_body_that_brotli_unpacks_to_more_than_100_mb_is_refused() -> None:
    packed = pytest.importorskip("brotli").compress(b"0" * 101 * MB, quality=1)
    with pytest.raises(RecordingError, match="f: unpacks to more than 100,000,000 bytes"):
        read_recordings(cassette(packed, "br"), "f")


NUMBERS = ["9" * 5_000, "0x" + "f" * 5_000, "1" + "0" * 40, "1e40", "1e99999999999999999999", "inf"]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "place",
    [
        "batch_factor = %s",
        "version = %s",
        "models = %s",
        "[models.claude-opus-5]\nmin_cacheable_tokens = [%s]",
        "[models.claude-opus-5]\nregional = %s",
        "[models.claude-opus-5]\nrates = [{ from = 2026-01-01, output = %s }]",
        "[models.claude-opus-5]\nrates = [{ from = %s, output = 1 }]",
    ],
)
def test_an_odd_number_in_a_price_file_is_an_error_that_names_it(
    place: str, number: str, tmp_path: Path
) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(place % number)
    with pytest.raises(RateCardError, match=r"prices\.toml") as caught:
        read_card_file(path)
    assert len(str(caught.value)) < 500


def test_a_large_price_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_bytes(b"#" * (MB + 1))
    with pytest.raises(RateCardError, match=r"prices\.toml: larger than 1,000,000 bytes"):
        read_card_file(path)

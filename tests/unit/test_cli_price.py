from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from recorded_traffic import RESPONSES_PATH, needs_traffic, recorded_lines

from pytest_llmcost.cli.main import main

CASSETTES_PATH = RESPONSES_PATH.parent / "cassettes"
ON = ("--on", "2026-11-22")
MODEL = "claude-opus-4-7"

Run = Callable[..., SimpleNamespace]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> SimpleNamespace:
        status = main(["price", *map(str, arguments)])
        out, err = capsys.readouterr()
        return SimpleNamespace(status=status, out=out, err=err)

    return run


def message(model: str = MODEL, **usage: Any) -> dict[str, Any]:
    counts = {"input_tokens": 1000, "output_tokens": 100, **usage}
    return {"id": "msg_1", "type": "message", "model": model, "content": [], "usage": counts}


def write(path: Path, value: object) -> Path:
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return path


def cassette(*exchanges: tuple[str, int, object]) -> dict[str, Any]:
    return {
        "interactions": [
            {
                "request": {
                    "method": "GET" if url.endswith("results") else "POST",
                    "uri": f"https://api.anthropic.com/v1/{url}",
                    "body": json.dumps({"model": MODEL}),
                },
                "response": {
                    "status": {"code": status},
                    "headers": {},
                    "body": {"string": body if isinstance(body, str) else json.dumps(body)},
                },
            }
            for url, status, body in exchanges
        ]
    }


def test_a_row_has_exactly_the_ledgers_names_and_plain_amounts(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "r.json", message())
    done = run(path, *ON, "--format", "json")
    usage = {
        "input_tokens": 1000,
        "cache_write_5m_tokens": 0,
        "cache_write_1h_tokens": 0,
        "cache_read_tokens": 0,
        "output_tokens": 100,
        "web_search_requests": 0,
    }
    assert json.loads(done.out) == [
        {
            "source": f"{path}#0",
            "model": MODEL,
            "usage": usage,
            "sampling_calls": [
                {
                    "kind": "message",
                    "model": MODEL,
                    "usage": usage,
                    "usd": "0.0075",
                    "by_category": {"input_usd": "0.005", "output_usd": "0.0025"},
                }
            ],
            "context": {
                "service_tier": None,
                "speed": None,
                "inference_geo": None,
                "platform": None,
            },
            "usd": "0.0075",
            "usd_low": "0.0075",
            "usd_high": "0.0075",
            "caveats": [],
        }
    ]
    assert (done.status, done.err) == (0, "")


def test_of_a_folder_all_recordings_are_priced_and_nothing_else(run: Run, tmp_path: Path) -> None:
    deep = tmp_path / "tests" / "cassettes"
    deep.mkdir(parents=True)
    write(deep / "small.json", message(input_tokens=10))
    write(deep / "large.json", [message(), message("claude-haiku-4-5") | {"id": "msg_2"}])
    (deep / "large.llmcost.yaml").write_text("counts of our own, no recording")
    (deep / "notes.txt").write_text("no recording either")
    (deep / "gone.json").symlink_to("nowhere")
    done = run(tmp_path, *ON, "--by", "model")
    assert (done.status, done.err) == (0, "")
    rows = [line.split() for line in done.out.splitlines()[1:3]]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        (MODEL, "2", "$0.0100"),
        ("claude-haiku-4-5-20251001", "1", "$0.0015"),
    ]


def test_no_line_is_wider_than_the_terminal_unless_a_name_is(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "/".join(["a_folder_of_thirty_characters_"] * 5)
    folder.mkdir(parents=True)
    other = message("claude-fable-9") | {"id": "msg_2"}
    write(folder / "r.json", [message(input_tokens=10**8), other])
    for width in (60, 80, 140):
        monkeypatch.setenv("COLUMNS", str(width))
        for by in ("call", "file", "model"):
            lines = run(".", *ON, "--by", by).out.splitlines()
            assert max(len(line) for line in lines if "a_folder_" not in line) <= width
            assert any("100,00" in line for line in lines)  # no number is broken
    path = write(folder / "whole.json", message())
    assert run(path, *ON).out.startswith(f"{path}\n")


def test_a_file_that_is_named_twice_is_priced_once(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "answer.json", message())
    (tmp_path / "latest.json").symlink_to(path)
    done = run(path, tmp_path, tmp_path / ".." / tmp_path.name / path.name, "--by=model")
    assert "for 1 call;" in done.out


def test_sums_are_text_alone(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "answer.json", message())
    done = run(path, "--by=model", "--format=json")
    assert (done.status, done.out) == (2, "")
    assert "--by=model adds up in text only" in done.err


def test_what_cannot_be_priced_is_listed_and_the_rest_still_printed(
    run: Run, tmp_path: Path
) -> None:
    good = write(tmp_path / "good.json", message())
    bad = write(tmp_path / "bad.json", cassette(("messages", 200, {"id": "msg_1", "text": "hi"})))
    odd = write(tmp_path / "odd.json", message("claude-fable-9"))
    wrong = write(tmp_path / "wrong.json", message(output_tokens="7"))
    none = write(tmp_path / "none.json", b"hello")
    missing = tmp_path / "missing.json"
    done = run(bad, none, odd, missing, wrong, good, *ON, "--format", "json")
    assert done.status == 1
    assert [(each["model"], each["usd"]) for each in json.loads(done.out)] == [
        ("claude-fable-9", None),
        (MODEL, "0.0075"),
    ]
    problems = done.err.splitlines()
    assert f"llmcost: {bad}#0: the response has no usage" in done.err
    assert f"llmcost: {none}: neither a cassette nor" in done.err
    assert f"llmcost: {odd}#0: unknown-model: no price for model 'claude-fable-9'" in done.err
    assert f"llmcost: {missing}: cannot be read (No such file" in done.err
    assert f"llmcost: {wrong}#0: " in done.err
    assert "output_tokens" in done.err
    assert len(problems) == 5


def test_an_unpriced_call_makes_the_total_a_lower_bound(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "r.json", [message(), message("claude-fable-9") | {"id": "msg_2"}])
    done = run(path, *ON)
    assert "total at least $0.0075 at list price for 2 calls, 1 without a price" in done.out


@pytest.mark.parametrize(("on", "usd"), [("2026-10-06", "0.2"), ("2026-10-07", "0.1")])
def test_prices_are_those_of_the_day(run: Run, tmp_path: Path, on: str, usd: str) -> None:
    usage = {"input_tokens": 0, "output_tokens": 0, "cache_read_input_tokens": 1_000_000}
    path = write(tmp_path / "r.json", message("claude-sonnet-5-5", **usage))
    [row] = json.loads(run(path, "--on", on, "--format", "json").out)
    assert row["usd"] == usd


def test_prices_of_ones_own_are_laid_over_the_shipped_ones(run: Run, tmp_path: Path) -> None:
    prices = tmp_path / "mine.toml"
    prices.write_text("[models.claude-opus-4-7]\nrates = [{ from = 2026-01-01, factor = 0.5 }]\n")
    path = write(tmp_path / "r.json", message())
    [row] = json.loads(run(path, *ON, "--prices", prices, "--format", "json").out)
    assert row["usd"] == "0.00375"


def test_standard_input_is_a_file_like_any_other(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    data = gzip.compress(json.dumps(message()).encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    [row] = json.loads(run("-", *ON, "--format", "json").out)
    assert (row["source"], row["usd"]) == ("-#0", "0.0075")


EVENTS = [
    {"type": "message_start", "message": message(output_tokens=1)},
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 40}},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 100},
    },
    {"type": "message_stop"},
]


def stream(events: list[Any]) -> bytes:
    return "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events).encode()


def test_a_streams_deltas_are_cumulative_and_never_added(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "s.sse", stream(EVENTS))
    [row] = json.loads(run(path, *ON, "--format", "json").out)
    assert (row["usage"]["output_tokens"], row["usd"]) == (100, "0.0075")


def test_a_stream_that_was_cut_off_says_so(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "s.txt", stream(EVENTS[:1]))
    done = run(path, *ON)
    assert "truncated-stream" in done.out
    [row] = json.loads(run(path, *ON, "--format", "json").out)
    assert (row["usd_low"], row["usd_high"]) == ("0", None)


def test_an_error_is_free_whatever_its_status(run: Run, tmp_path: Path) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    streamed = write(tmp_path / "s.sse", stream([error]))
    recorded = write(tmp_path / "c.json", cassette(("messages", 200, error)))
    done = run(streamed, recorded, *ON)
    assert (done.status, done.err) == (0, "")
    assert done.out.count("free\n") == 2
    assert done.out.count("(overloaded_error)") == 2


def exchange(url: str, request: object, response: object) -> dict[str, Any]:
    made = cassette(("messages", 200, response))
    made["interactions"][0]["request"] |= {"uri": url, "body": json.dumps(request)}
    return made


@pytest.mark.parametrize(
    ("url", "model", "rows"),
    [
        ("https://api.anthropic.com/v1/complete", "claude-2.1", 1),
        ("https://openrouter.ai/api/v1/chat/completions", "anthropic/claude-sonnet-4.5", 1),
        ("https://openrouter.ai/api/v1/chat/completions", "openai/gpt-5", 0),
        (
            "https://us-east5-aiplatform.googleapis.com/v1/projects/p/locations/us-east5/batchPredictionJobs",
            "publishers/anthropic/models/claude-sonnet-4-6",
            1,
        ),
    ],
)
def test_a_claude_call_on_a_route_that_is_not_metered_has_no_price(
    run: Run, tmp_path: Path, url: str, model: str, rows: int
) -> None:
    content = exchange(url, {"model": model}, {"id": "x"})
    done = run(write(tmp_path / "c.json", content), *ON)
    assert done.status == rows
    assert done.out.count("?") == 5 * rows  # tokens and cost
    assert ("unmetered-route: " in done.err) is bool(rows)


PROMPT = "arn:aws:bedrock:us-east-1:123456789012:prompt/ABCDEFGHIJ:1"
PROVISIONED = "arn:aws:bedrock:us-east-1:123456789012:provisioned-model/abc"


@pytest.mark.parametrize(
    ("arn", "verb", "response", "said"),
    [
        (PROMPT, "converse", {"usage": {"inputTokens": 9, "outputTokens": 9}}, "unknown-model"),
        (PROVISIONED, "invoke", message("claude-sonnet-4-5-20250929"), "unknown-endpoint"),
        (PROVISIONED, "invoke", {"generation": "Hi"}, "no Claude call found"),
        (PROVISIONED, "invoke", {"usage": {"inputTokens": 9}}, "no Claude call found"),
        (PROVISIONED, "invoke", {"usage": {"prompt_tokens": 9}}, "no Claude call found"),
    ],
)
def test_the_reply_tells_what_an_arn_that_names_no_model_runs(
    run: Run, tmp_path: Path, arn: str, verb: str, response: object, said: str
) -> None:
    host = "https://bedrock-runtime.us-east-1.amazonaws.com"
    content = exchange(f"{host}/model/{quote(arn, safe='')}/{verb}", {"a": 1}, response)
    done = run(write(tmp_path / "c.json", content), *ON)
    assert said in done.out
    assert done.status == (said == "unknown-model")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "no usage in 0 bytes"),
        ("{", "no usage in 1 bytes"),
        ('{"a": 1}', "no usage in 8 bytes"),
    ],
)
def test_a_recorded_answer_without_a_usage_is_a_problem(
    run: Run, tmp_path: Path, body: str, said: str
) -> None:
    done = run(write(tmp_path / "c.json", cassette(("messages", 200, body))), *ON)
    assert done.status == 1
    assert said in done.err


def batch_line(kind: str, **result: Any) -> dict[str, Any]:
    return {"custom_id": kind, "result": {"type": kind, **result}}


BATCH = [
    batch_line("succeeded", message=message(service_tier="batch")),
    batch_line("errored", error={}),
    batch_line("expired"),
]


def test_batch_results_cost_half_and_only_where_they_succeeded(run: Run, tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(line) for line in BATCH).encode()
    rows = json.loads(run(write(tmp_path / "b.jsonl", lines), *ON, "--format", "json").out)
    for name in ("usd", "usd_low", "usd_high"):
        assert [row[name] for row in rows] == ["0.00375", "0", "0"]


def test_a_cassettes_batch_results_are_rows_of_one_source(run: Run, tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(line) for line in BATCH)
    data = cassette(
        ("messages/batches", 200, {"id": "msgbatch_1", "processing_status": "in_progress"}),
        ("messages/batches/msgbatch_1/results", 200, lines),
    )
    path = write(tmp_path / "c.json", data)
    rows = json.loads(run(path, *ON, "--format", "json").out)
    assert [row["source"] for row in rows] == [f"{path}#1"] * 3
    assert rows[0]["usd"] == "0.00375"


def test_a_batch_result_that_cannot_be_read_is_a_problem(run: Run, tmp_path: Path) -> None:
    done = run(write(tmp_path / "b.jsonl", batch_line("succeeded", message="?")), *ON)
    assert done.status == 1
    assert "batch result 'succeeded' cannot be read" in done.err


SOUND = json.dumps(BATCH[0])


@pytest.mark.parametrize(
    ("body", "sound"), [("", 0), ("<html></html>", 0), (f"{SOUND}\n{SOUND[:99]}", 1)]
)
def test_results_of_a_batch_that_cannot_be_read_are_a_problem(
    run: Run, tmp_path: Path, body: str, sound: int
) -> None:
    data = cassette(("messages/batches/msgbatch_1/results", 200, body))
    done = run(write(tmp_path / "c.json", data), *ON, "--format=json")
    assert done.status == 1
    assert "#0: not every result of the batch can be read" in done.err
    assert len(json.loads(done.out)) == sound


def test_results_of_a_batch_may_be_kept_as_a_parsed_list(run: Run, tmp_path: Path) -> None:
    data = cassette(("messages/batches/msgbatch_1/results", 200, ""))
    data["interactions"][0]["response"] |= {"parsed_body": BATCH}
    rows = json.loads(run(write(tmp_path / "c.json", data), *ON, "--format=json").out)
    assert [row["usd"] for row in rows] == ["0.00375", "0", "0"]


def test_a_cassette_without_claude_is_nothing_to_price_and_no_problem(
    run: Run, tmp_path: Path
) -> None:
    done = run(write(tmp_path / "c.json", cassette(("models", 200, {}))), *ON)
    assert (done.status, done.out) == (0, "no Claude call found\n")


def test_of_a_file_that_cannot_be_read_it_does_not_say_that_it_has_no_call(
    run: Run, tmp_path: Path
) -> None:
    done = run(tmp_path / "missing.json", *ON)
    assert (done.status, done.out) == (1, "")
    assert "missing.json: cannot be read" in done.err
    done = run("a\nb.json", *ON)
    assert done.err.startswith("llmcost: a b.json: cannot be read")


def test_a_body_that_cannot_be_decoded_is_a_problem_of_its_own(run: Run, tmp_path: Path) -> None:
    data = cassette(("messages", 200, message()), ("messages", 200, message()))
    data["interactions"][0]["response"]["body"] = {"base64_string": "e30="}
    done = run(write(tmp_path / "c.json", data), *ON, "--format", "json")
    assert done.status == 1
    assert "#0: the response has no usage in 25 bytes; is it a Messages" in done.err
    assert len(json.loads(done.out)) == 1


@pytest.mark.parametrize(
    ("arguments", "said"), [((), "required"), (("f", "--format", "xml"), "invalid choice")]
)
def test_bad_usage_exits_with_2(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["price", *arguments])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--on", "tomorrow", "'tomorrow' is not a date"),
        ("--prices", "nowhere.toml", "nowhere.toml"),
    ],
)
def test_a_bad_value_exits_with_2(run: Run, option: str, value: str, said: str) -> None:
    done = run("f", option, value)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("llmcost: ")
    assert said in done.err


@needs_traffic
def test_public_cassettes_cost_what_they_should_call_by_call(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CASSETTES_PATH)
    files = sorted(path.relative_to(CASSETTES_PATH) for path in CASSETTES_PATH.rglob("*.yaml"))
    assert len(files) == 154
    done = run(*files, *ON, "--format", "json")
    costs: dict[str, list[str | None]] = {}
    for row in json.loads(done.out):
        costs.setdefault(row["source"], []).append(row["usd"])
    names = {path.as_posix() for path in files}
    lines = [line for line in recorded_lines() if line["id"].partition("#")[0] in names]
    priced = [line for line in lines if line["list_usd"] is not None]
    for line in priced:
        assert sum(Decimal(usd or "NaN") for usd in costs[line["id"]]) == Decimal(
            str(line["list_usd"])
        ), line["id"]
    assert (len(lines), len(priced)) == (200, 187)
    # The others name models that no card ever had: Claude 2 and 3 Sonnet.
    unpriced = [line["id"] for line in lines if line["list_usd"] is None]
    assert all(costs[name] == [None] for name in unpriced)
    assert done.status == 1


@needs_traffic
def test_every_public_response_costs_what_it_should_from_a_cassette_of_its_own(
    run: Run, tmp_path: Path
) -> None:
    lines: dict[str, list[dict[str, Any]]] = {"text.json": [], "bytes.yaml": []}
    for line in recorded_lines():
        lines["bytes.yaml" if line["body"] is None else "text.json"].append(line)
    for name, dump in (("text.json", json.dumps), ("bytes.yaml", yaml.safe_dump)):
        exchanges = {"interactions": [recorded(line) for line in lines[name]]}
        write(tmp_path / name, dump(exchanges).encode())
    rows = json.loads(run(*(tmp_path / name for name in lines), *ON, "--format", "json").out)
    costs: dict[str, list[str | None]] = {}
    for row in rows:
        costs.setdefault(row["source"].rpartition("/")[2], []).append(row["usd"])
    priced = {
        f"{name}#{number}": line
        for name in lines
        for number, line in enumerate(lines[name])
        if line["list_usd"] is not None
    }
    assert len(priced) == 684
    for source, line in priced.items():
        assert sum(Decimal(usd or "NaN") for usd in costs[source]) == Decimal(
            str(line["list_usd"])
        ), line["id"]


def recorded(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the traffic as one exchange of a cassette."""
    host, path = line["host"] or "api.anthropic.com", line["path"] or "/v1/messages"
    body = base64.b64decode(line["body_base64"]) if line["body"] is None else line["body"]
    method = "GET" if line["endpoint"] == "batches_results" else "POST"
    return {
        "request": {
            "method": method,
            "uri": f"https://{host}{path}",
            "parsed_body": line["request"],
        },
        "response": {
            "status": {"code": line["status"]},
            "headers": {"content-type": [line["content_type"]]},
            "body": body,
        },
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_models_name_never_reaches_the_terminal_or_breaks_the_output(
    tmp_path: Path, run: Run, form: str
) -> None:
    path = write(tmp_path / "odd.json", message("claude\x1b[31m\n::error::\ud800"))
    result = run(path, *ON, "--format", form)
    assert result.status == 1
    for text in (result.out, result.err):
        assert text.replace("\n", "").isprintable()
        assert "\n::error" not in text
        assert text.encode()
    assert r"claude\x1b[31m\n::error::\ud800" in result.err


def test_more_tokens_than_anyone_is_billed_for_are_no_price(tmp_path: Path, run: Run) -> None:
    path = write(tmp_path / "huge.json", message(input_tokens=10**150))
    result = run(path, *ON)
    assert result.status == 1
    assert "usage.input_tokens: Expected `int` <= 1000000000" in result.err


@pytest.mark.parametrize("format", ["json", "text"])
def test_an_aws_account_is_not_printed(run: Run, tmp_path: Path, format: str) -> None:
    profile = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"
    done = run(write(tmp_path / "r.json", message(profile)), *ON, "--format", format)
    assert "123456789012" not in done.out + done.err
    assert "us-east-1:ACCOUNT:application-inference-profile/abc" in done.out + done.err


@pytest.mark.parametrize(
    ("header", "value", "caveat"),
    [
        ("PerformanceConfig-Latency", "optimized", "unknown-speed: claude-3-5-haiku-20241022"),
        ("Service-Tier", "priority", "unknown-tier: priority"),
    ],
)
def test_a_header_that_asks_bedrock_for_more_makes_the_price_a_bound(
    run: Run, tmp_path: Path, header: str, value: str, caveat: str
) -> None:
    model = "us.anthropic.claude-3-5-haiku-20241022-v1:0"
    url = f"https://bedrock-runtime.us-east-2.amazonaws.com/model/{model}/invoke"
    # What the reply states is Anthropic's speed and tier, not Bedrock's.
    reply = message("claude-3-5-haiku-20241022", speed="standard", service_tier="standard")
    content = cassette(("messages", 200, reply))
    request = content["interactions"][0]["request"]
    request |= {"uri": url, "headers": {f"X-Amzn-Bedrock-{header}": [value]}}
    done = run(write(tmp_path / "a.yaml", content), *ON, "--format", "json")
    (found,) = json.loads(done.out)
    assert found["usd_high"] is None
    assert caveat in found["caveats"]

"""Prompt files are counted through the real SDK against the stand-in, and then without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from standin import StandIn, fault, rate_limited

from pytest_llmcost.cli.main import main
from pytest_llmcost.counting.cassette import read_entries

MODEL = "claude-sonnet-5-5"
FIND = {"name": "find", "input_schema": {"type": "object"}}
HELLO = {"role": "user", "content": "Hello there"}


@pytest.fixture
def prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("prompts/system.md")
    path.parent.mkdir()
    path.write_text("You sort mail.\n")
    return path


@pytest.fixture
def online(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", standin.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key-for-the-stand-in")
    return standin


def count(*arguments: object) -> int:
    return main(["count", *map(str, arguments)])


def record(*arguments: object, mode: str = "rewrite") -> int:
    return count(*arguments, f"--record-mode={mode}")


def cassette_of(path: Path) -> Path:
    return path.parent / "llmcost-counts" / f"{path.name}.llmcost.yaml"


def reported(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_recorded_count_is_read_offline(
    prompt: Path, online: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record(prompt, f"--model={MODEL}") == 0
    first = capsys.readouterr()
    online.stop()
    assert count(prompt, f"--model={MODEL}") == 0
    assert capsys.readouterr() == first
    assert "prompts/system.md" in first.out
    [entry] = read_entries(cassette_of(prompt)).values()
    assert entry.asked_by == (f"system.md for {MODEL}",)
    assert "sort mail" not in cassette_of(prompt).read_text()
    assert len(online.counted) == 1


def test_the_folder_of_the_counts_may_be_named_beside_the_files(
    prompt: Path, online: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record(prompt, f"--model={MODEL}") == 0
    folder = cassette_of(prompt).parent
    assert count(*sorted(prompt.parent.iterdir()), f"--model={MODEL}") == 0
    assert count(folder, f"--model={MODEL}") == 2
    assert "llmcost-counts: cannot be read (Is a directory)" in capsys.readouterr().err


def test_other_line_ends_are_the_same_prompt(prompt: Path, online: StandIn) -> None:
    prompt.write_bytes(b"You sort mail.\nAnswer briefly.\n")
    assert record(prompt, f"--model={MODEL}") == 0
    online.stop()
    prompt.write_bytes(b"You sort mail.\r\nAnswer briefly.\r\n")
    assert count(prompt, f"--model={MODEL}") == 0


def test_without_a_count_it_says_how_to_record_one_and_sends_nothing(
    prompt: Path, online: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    assert count(prompt, f"--model={MODEL}") == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[1].split() == ["prompts/system.md", MODEL, "?"]
    command = f"llmcost count prompts/system.md --model={MODEL} --record-mode=rewrite"
    assert err == (
        f"llmcost: prompts/system.md: this prompt is not counted yet for {MODEL}: "
        f"prompts/llmcost-counts/system.md.llmcost.yaml holds no counts yet. "
        f"Count it (free): {command}\n"
    )
    assert not online.counted
    assert not cassette_of(prompt).exists()


def test_a_misspelt_model_is_told(prompt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert count(prompt, "--model=claude-opus-47") == 2
    assert "did you mean the model claude-opus-4-7? this prompt" in capsys.readouterr().err


def test_the_command_for_a_name_that_looks_like_an_option_works(
    prompt: Path, online: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt.rename("-n.md")
    assert count(f"--model={MODEL}", "--", "-n.md") == 2
    command = capsys.readouterr().err.rpartition("Count it (free): llmcost ")[2]
    assert main(command.split()) == 0


def test_a_prompt_that_outgrew_its_limit_fails(
    prompt: Path, online: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    record(prompt, f"--model={MODEL}", "--format=json")
    [first] = reported(capsys)
    limit = f"--max-input-tokens={first['input_tokens']}"
    assert count(prompt, f"--model={MODEL}", limit) == 0  # exactly the limit passes
    prompt.write_text("You sort mail. " * 50)
    assert count(prompt, f"--model={MODEL}", limit) == 2
    assert "since the nearest count in prompts/" in capsys.readouterr().err
    assert record(prompt, f"--model={MODEL}", limit, "--format=json") == 1
    out, err = capsys.readouterr()
    [row] = json.loads(out)
    assert (row["state"], row["problem"] in err) == ("exceeded", True)
    assert f" more than the limit of {first['input_tokens']} set by --max-input-tokens" in err
    assert f"(it had {first['input_tokens']} when last recorded)" in err
    assert count(prompt, f"--model={MODEL}", "--max-input-tokens=3k") == 0
    assert len(read_entries(cassette_of(prompt))) == 1


@pytest.mark.parametrize(
    ("content", "sent"),
    [
        ({"model": MODEL, "max_tokens": 9, "messages": [HELLO]}, {"messages": [HELLO]}),
        ([HELLO], {"messages": [HELLO]}),
        ([FIND], {"tools": [FIND]}),
        ({"tools": [FIND], "system": "Sort."}, {"tools": [FIND], "system": "Sort."}),
    ],
)
def test_json_is_a_payload_messages_or_tools(
    content: Any, sent: dict[str, Any], prompt: Path, online: StandIn
) -> None:
    path = prompt.with_name("prompt.json")
    path.write_text(json.dumps(content))
    has_model = isinstance(content, dict) and "model" in content
    assert record(path, *([] if has_model else [f"--model={MODEL}"])) == 0
    [seen] = online.counted
    body = json.loads(seen.body) if isinstance(seen.body, (bytes, str)) else seen.body
    assert sent.items() <= body.items()
    assert body["model"] == MODEL
    assert body["messages"]


def test_one_file_is_counted_for_several_models(prompt: Path, online: StandIn) -> None:
    record(prompt, f"--model={MODEL}")
    record(prompt, "--model=claude-opus-4-7")
    assert len(read_entries(cassette_of(prompt))) == 2
    assert count(prompt, f"--model={MODEL}") == 0
    assert count(prompt, "--model=claude-opus-4-7") == 0


@pytest.mark.parametrize(
    ("mode", "status", "asked", "kept"),
    [("once", 2, 1, 1), ("new_episodes", 0, 2, 2), ("all", 0, 2, 2), ("rewrite", 0, 2, 1)],
)
def test_the_modes_are_those_of_tests(
    mode: str, status: int, asked: int, kept: int, prompt: Path, online: StandIn
) -> None:
    assert record(prompt, f"--model={MODEL}", mode=mode) == 0
    prompt.write_text("You sort letters.")
    assert record(prompt, f"--model={MODEL}", mode=mode) == status
    assert len(online.counted) == asked
    assert len(read_entries(cassette_of(prompt))) == kept


def test_a_lower_bound_cannot_pass_a_limit(
    prompt: Path, online: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    path = prompt.with_name("prompt.json")
    path.write_text(json.dumps({"model": MODEL, "messages": [HELLO], "new_thing": 1}))
    assert record(path) == 0
    assert count(path, "--max-input-tokens=3k") == 1
    assert "cannot check the limit of 3,000" in capsys.readouterr().err
    assert count(path, "--max-input-tokens=1") == 1
    err = capsys.readouterr().err
    assert "at least " in err
    assert "more than the limit of 1 set by --max-input-tokens\n" in err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.md", b" \n", "is empty"),
        ("a.md", b"\xff", "it is not UTF-8"),
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"[" * 100_000, "is not JSON"),
        ("a.json", b'{"tool": 1}', "is no prompt"),
        ("a.json", b"[1]", "is no prompt"),
        ("a.json", b"1", "is no prompt"),
        ("a.json", b'[{"role": "user", "content": "\\ud800"}]', "half a surrogate pair"),
        ("none.md", None, "No such file"),
        (".", None, "cannot be read (Is a directory)"),
    ],
)
def test_what_is_no_prompt_exits_with_2(
    name: str, content: bytes | None, said: str, prompt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    assert count(name, f"--model={MODEL}", "--format=json") == 2
    out, err = capsys.readouterr()
    assert f"llmcost: {name}: " in err
    assert said in err
    [row] = json.loads(out)
    assert (row["state"], row["input_tokens"]) == ("unknown", None)


def test_a_name_that_is_not_utf_8_can_be_counted(prompt: Path, online: StandIn) -> None:
    name = os.fsdecode(b"\xff.md")
    Path(name).write_text("Hello")
    assert record(name, f"--model={MODEL}") == 0
    assert count(name, f"--model={MODEL}") == 0


def test_a_text_needs_a_model(prompt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert count(prompt) == 2
    assert "names no model; add --model" in capsys.readouterr().err


def test_a_limit_that_is_no_number_exits_with_2(
    prompt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert count(prompt, f"--model={MODEL}", "--max-input-tokens=much") == 2
    assert "is not a whole number" in capsys.readouterr().err


@pytest.mark.parametrize("status", [401, 403, 404])
def test_an_error_of_the_api_says_what_helps_on_the_command_line(
    status: int, prompt: Path, online: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    online.script(fault(status))
    assert record(prompt, f"--model={MODEL}") == 2
    err = capsys.readouterr().err
    assert f"failed with status {status}" in err
    assert "fixture" not in err


def test_a_count_takes_no_longer_than_allowed(
    prompt: Path, online: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    online.script(rate_limited("30"))
    assert record(prompt, f"--model={MODEL}", "--count-timeout=20") == 2
    assert "waits for 20 s at most (--llmcost-count-timeout)" in capsys.readouterr().err
    assert count(prompt, "--count-timeout=never") == 2
    assert "'never' is not a number of seconds" in capsys.readouterr().err


def test_reading_a_recorded_count_loads_neither_pytest_nor_a_client(
    prompt: Path, online: StandIn
) -> None:
    record(prompt, f"--model={MODEL}")
    code = (
        "import sys; from pytest_llmcost.cli.main import main; "
        f"assert main(['count', {str(prompt)!r}, '--model={MODEL}']) == 0; "
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"pytest", "anthropic", "httpx", "vcr"}.isdisjoint(done.stderr.split())


def test_the_hook_for_pre_commit_calls_the_command() -> None:
    root = Path(__file__).resolve().parents[2]
    [hook] = yaml.safe_load((root / ".pre-commit-hooks.yaml").read_text())
    assert hook["entry"] == "llmcost count"
    assert {"id", "name", "language", "files"} <= hook.keys()

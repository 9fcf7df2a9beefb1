"""`--llmcost-model`: the same prompts counted for another model, from the tests' own cassettes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from decimal import Decimal
from typing import Any

import pytest
from conftest import Project
from standin import StandIn, Step, fault
from warm_python import warm_python

PAYLOAD = """
    import anthropic
    import pytest
    from pytest_llmcost import max_cost

    def send(text):
        with anthropic.Anthropic() as client:
            client.messages.create(**payload(text))

    def payload(text="word", model="claude-opus-4-6", **more):
        content = f"Sort this ticket, please: {text} " * 40
        messages = [{"role": "user", "content": content}]
        return {"model": model, "max_tokens": 100, "messages": messages, **more}
"""
COUNTED = (
    PAYLOAD
    + """
    @pytest.mark.parametrize("text", ["bell", "brake"])
    def test_counted(llmcost, text):
        llmcost.count(payload(text), output_tokens=20)

    def test_sent():
        send("sent")
"""
)
NEW = "--llmcost-model=claude-opus-4-7"
REPORT = "--llmcost-report=ledger.json"
COUNT = "--llmcost-record-mode=new_episodes"


def other_models(project: Project) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = project.ledger()["other_models"]
    return found


def test_a_run_is_counted_again_for_another_model_then_against_now(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(test_app=COUNTED)
    result = project.run(COUNT, NEW, REPORT)
    result.assert_outcomes(passed=3)
    (other,) = other_models(project)
    assert other["model"] == "claude-opus-4-7"
    assert (other["calls"], other["unknown_calls"], other["missing"]) == (3, 0, 0)
    assert other["input_tokens_then"] > other["input_tokens"], "the tokenizer cuts finer"
    assert {row["name"] for row in other["rows"]} == {
        "test_app.py::test_counted[bell]",
        "test_app.py::test_counted[brake]",
        "test_app.py::test_sent",
    }
    bodies = [one.body for one in standin.counted]
    assert (
        sorted(body["model"] for body in bodies)
        == ["claude-opus-4-6"] * 2 + ["claude-opus-4-7"] * 3
    )
    sums = {
        body["model"]: sum(
            json.loads(counted_by(standin, other))
            for other in bodies
            if other["model"] == body["model"]
        )
        for body in bodies
    }
    assert other["input_tokens_then"] == sums["claude-opus-4-7"]
    then = Decimal(other["input_tokens_then"]) * 5 / 10**6
    output = sum(
        call["usage"]["output_tokens"]
        for test in project.ledger()["tests"]
        for call in test["calls"]
    )
    assert Decimal(other["usd_then"]) == then + Decimal(output) * 25 / 10**6
    result.stdout.fnmatch_lines(
        [
            "on claude-opus-4-7: the same prompts counted for it, output as it is now",
            "test_app.py * input * then * cost * then*",
            "  test_counted (2 cases) *+*%*",
            "total *+*%*",
            "claude-opus-4-7 has another tokenizer than claude-opus-4-6: *",
        ]
    )


def counted_by(standin: StandIn, body: dict[str, Any]) -> str:
    from standin.models import find_model
    from standin.prompt import count_blocks, lay_out

    model = find_model(body["model"])
    assert model is not None
    return str(count_blocks(lay_out(body, model), model))


def test_offline_gives_the_same_figures_and_asks_nobody(project: Project, standin: StandIn) -> None:
    tests = COUNTED.replace("def test_sent", "def not_test_sent")
    project.online(standin).write(test_app=tests)
    project.run(COUNT, NEW, REPORT).assert_outcomes(passed=2)
    live, asked = other_models(project), len(standin.requests)
    project.run(NEW, REPORT).assert_outcomes(passed=2)
    assert other_models(project) == live
    assert len(standin.requests) == asked


def test_two_models_cost_no_more_requests_than_twice_the_payloads_and_the_base(
    project: Project, standin: StandIn
) -> None:
    tests = (
        COUNTED
        + """
    def test_the_same_again(llmcost):
        llmcost.count(payload("bell"))
        llmcost.count(payload("bell"), output_tokens="max")
    """
    )
    project.online(standin).write(test_app=tests)
    project.run(
        COUNT, NEW, "--llmcost-model", "claude-haiku-4-5", "--llmcost-model",
        "claude-haiku-4-5-20251001", REPORT,
    ).assert_outcomes(passed=4)  # fmt: skip
    assert len(standin.counted) == 3 * 2 + 2
    assert [other["model"] for other in other_models(project)] == [
        "claude-haiku-4-5-20251001",
        "claude-opus-4-7",
    ]
    assert all(other["calls"] == 5 for other in other_models(project))


def test_what_is_missing_is_listed_with_the_one_command_that_counts_it_all(
    project: Project, standin: StandIn
) -> None:
    tests = COUNTED.replace("def test_sent", "def not_test_sent")
    project.online(standin).write(test_app=tests)
    project.record()
    asked = len(standin.requests)
    result = project.run(NEW, REPORT, "--llmcost-record-mode=none")
    result.assert_outcomes(passed=2)
    assert len(standin.requests) == asked
    (other,) = other_models(project)
    assert (other["calls"], other["unknown_calls"], other["missing"]) == (0, 2, 2)
    assert other["usd_then"] is None
    output = result.stdout.str()
    assert "no figure: its prompt is not counted for claude-opus-4-7" in output
    lines = iter(output.splitlines())
    next(line for line in lines if line.startswith("prompts not counted yet: 2 for claude-opus-"))
    command = next(lines)
    assert "--llmcost-record-mode=none" not in command
    project.run(*command.split()[1:]).assert_outcomes(passed=2)
    project.run(NEW, REPORT).assert_outcomes(passed=2)
    assert other_models(project)[0]["calls"] == 2


def test_models_from_the_ini_file_are_in_the_command(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app=PAYLOAD + "    def test_counted(llmcost): llmcost.count(payload())\n",
        pytest_ini="[pytest]\nllmcost_model =\n    claude-opus-4-7\n",
    )
    project.record()
    (project.path / "cassettes").rename(project.path / "elsewhere")
    project.run("--llmcost-record-mode=once", "-p", "no:llmcost")
    (project.path / "elsewhere").rename(project.path / "cassettes")
    result = project.run("--llmcost-model=claude-haiku-5-5")
    result.stdout.fnmatch_lines(["prompts not counted yet: 1 for claude-haiku-5-5;*"])


FEATURES = (
    PAYLOAD
    + """
    TOOLS = [{"name": "find", "input_schema": {"type": "object"}}]

    def test_forced(llmcost):
        llmcost.count(payload(tools=TOOLS, tool_choice={"type": "any"}))

    def test_prefilled(llmcost):
        messages = [*payload()["messages"], {"role": "assistant", "content": "{"}]
        llmcost.count(payload(model="claude-haiku-4-5", messages=messages))

    def test_sampled(llmcost):
        llmcost.count(payload(temperature=0))
"""
)


def test_what_a_model_is_known_to_reject_is_named_instead_of_priced(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(test_app=FEATURES)
    result = project.run(COUNT, "--llmcost-model=claude-opus-5-5", REPORT)
    result.assert_outcomes(passed=3)
    (other,) = other_models(project)
    assert other["rejected"] == {
        "prefill (the last message is the assistant's)": 1,
        'tool_choice "any"': 1,
    }
    assert other["dropped"] == {"temperature": 1}
    rows = {row["name"].partition("::")[2]: row for row in other["rows"]}
    assert rows["test_forced"]["usd_then"] is None
    assert rows["test_prefilled"]["usd_then"] is None
    assert rows["test_sampled"]["usd_then"] is not None
    asked = [one.body for one in standin.counted if one.body["model"] == "claude-opus-5-5"]
    assert len(asked) == 1, "what is known needs no request"
    result.stdout.fnmatch_lines(
        [
            'no figure: claude-opus-5-5 rejects tool_choice "any" (test_app.py::test_forced)',
            "claude-opus-5-5 rejects temperature: 1 payload priced without it",
        ]
    )


def test_what_only_the_api_knows_is_recorded_and_offline_says_the_same(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    def test_one(llmcost):
        llmcost.count(payload())

    def test_two(llmcost):
        llmcost.count(payload())
    """
    )
    project.record()
    standin.script(fault(400, "messages.0: this model takes no tickets"))
    result = project.run(COUNT, NEW, REPORT)
    result.assert_outcomes(passed=2)
    assert "takes no tickets" in " ".join(str(result.stdout).split())
    assert "tickets" not in json.dumps(project.ledger())
    live, asked = other_models(project), len(standin.requests)
    assert live[0]["rejected"] == {"the payload: messages.0: [...]": 1}
    assert live[0]["usd_then"] is None
    assert asked == 2, "asked once for both tests"
    for mode in ("none", "new_episodes"):
        project.run(f"--llmcost-record-mode={mode}", NEW, REPORT).assert_outcomes(passed=2)
        assert other_models(project) == live
    assert len(standin.requests) == asked


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "two workers"])
def test_an_account_in_trouble_is_noted_and_not_recorded(
    project: Project, standin: StandIn, workers: tuple[str, ...]
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD + "    def test_one(llmcost): llmcost.count(payload())\n"
    )
    project.record()
    standin.script(fault(400, "Your credit balance is too low"))
    result = project.run(COUNT, NEW, REPORT, *workers, plugins=("xdist",))
    result.assert_outcomes(passed=1)
    assert other_models(project)[0]["missing"] == 1
    assert "credit" not in json.dumps(project.ledger())
    result.stdout.fnmatch_lines(
        ["not counted for claude-opus-4-7: *", "*credit balance is too low*"]
    )
    project.run(COUNT, NEW, REPORT).assert_outcomes(passed=1)
    assert other_models(project)[0]["calls"] == 1


def test_workers_give_the_same_figures(project: Project, standin: StandIn) -> None:
    project.online(standin).write(test_app=COUNTED)
    project.run_apart(COUNT, NEW, REPORT).assert_outcomes(passed=3)
    alone = other_models(project)
    project.run_apart(NEW, REPORT, COUNT, "-n2", plugins=("xdist.plugin",)).assert_outcomes(
        passed=3
    )
    assert other_models(project) == alone


def test_workers_count_what_is_missing_too(project: Project, standin: StandIn) -> None:
    project.online(standin).write(test_app=COUNTED)
    project.run_apart(COUNT, NEW, REPORT, "-n2", plugins=("xdist.plugin",)).assert_outcomes(
        passed=3
    )
    (other,) = other_models(project)
    assert (other["calls"], other["missing"]) == (3, 0)
    standin.stop()
    tests = COUNTED.replace("def test_sent", "def not_test_sent")
    project.write(test_app=tests)
    project.run(NEW, REPORT).assert_outcomes(passed=2)
    assert other_models(project)[0]["calls"] == 2


def test_many_are_counted_at_once(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    @pytest.mark.parametrize("number", range(24))
    def test_one(llmcost, number):
        llmcost.count(payload(f"ticket {number}"))
    """
    )
    project.record()
    standin.most_at_once = 0
    are_some = Step(until=lambda: standin.most_at_once > 3)
    standin.script(Step(), *[are_some] * 23)  # the first one goes alone
    project.run(COUNT, NEW, REPORT).assert_outcomes(passed=24)
    assert standin.most_at_once <= 8
    assert other_models(project)[0]["calls"] == 24


def test_the_users_client_counts_even_if_it_is_closed_with_the_session(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        conftest="""
    import anthropic
    import pytest

    @pytest.fixture(scope="session")
    def llmcost_client():
        with anthropic.Anthropic(default_headers={"x-mine": "yes"}) as client:
            yield client
    """,
        test_app=PAYLOAD + "    def test_one(llmcost): llmcost.count(payload())\n",
    )
    project.run(COUNT, NEW, REPORT).assert_outcomes(passed=1)
    assert other_models(project)[0]["calls"] == 1
    assert [one.headers.get("x-mine") for one in standin.counted] == ["yes", "yes"]


def test_what_differs_on_purpose_is_normalised_for_the_other_model_too(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        conftest="""
    import re

    def pytest_llmcost_normalize_payload(payload, item):
        return {**payload, "system": re.sub("at .*", "at some time", payload["system"])}
    """,
        test_app=PAYLOAD
        + """
    import time

    def test_one(llmcost):
        llmcost.count(payload(system=f"It is at {time.time_ns()}"))
    """,
    )
    project.run(COUNT, NEW, REPORT).assert_outcomes(passed=1)
    asked = len(standin.requests)
    project.run(NEW, REPORT).assert_outcomes(passed=1)
    assert other_models(project)[0]["calls"] == 1
    assert len(standin.requests) == asked


def test_a_call_made_in_a_teardown_is_counted_too(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    @pytest.fixture(scope="session", autouse=True)
    def late():
        yield
        send("late")

    @pytest.fixture
    def farewell():
        yield
        send("farewell")

    def test_one(farewell):
        send("now")
    """
    )
    project.run(COUNT, NEW, REPORT).assert_outcomes(passed=1)
    (other,) = other_models(project)
    assert (other["calls"], other["unknown_calls"]) == (3, 0)
    project.run(NEW, REPORT).assert_outcomes(passed=1)
    assert other_models(project)[0]["calls"] == 3


def test_a_call_that_may_cost_more_is_a_lower_bound_on_the_other_model_too(
    project: Project, standin: StandIn
) -> None:
    text = """
    def test_one(llmcost):
        llmcost.count(payload(tools=[{"type": "web_search_20250305", "name": "web_search"}]))
    """
    project.online(standin).write(test_app=PAYLOAD + text)
    result = project.run(COUNT, NEW, REPORT, "--llmcost-report=cost.md")
    (other,) = other_models(project)
    assert (other["calls"], other["unbounded_calls"]) == (1, 1)
    rows = [line for line in result.outlines if re.match("  test_one |total ", line)]
    costs, both, total = (re.findall(r"\S*\$\S+", row) for row in rows)
    assert (costs, total) == (both[:1], both)
    assert all(each.startswith("≥") for each in both)
    comment = (project.path / "cost.md").read_text(encoding="utf-8")
    assert re.search(r"\): at least \$[\d.]+ → at least \$[\d.]+ for 1 call, the same", comment)


def test_the_comment_shows_it(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        test_app=PAYLOAD + "    def test_one(llmcost): llmcost.count(payload())\n"
    )
    project.run(COUNT, NEW, "--llmcost-report=cost.md").assert_outcomes(passed=1)
    assert (
        "<summary>On <code>claude-opus-4-7</code></summary>"
        in (project.path / "cost.md").read_text()
    )


MANY = (
    PAYLOAD
    + """
    @pytest.mark.parametrize("number", range(40))
    def test_one(llmcost, number):
        llmcost.count(payload(f"ticket {number}"))
    """
)


def recorded(project: Project, model: str) -> int:
    files = (project.path / "cassettes").rglob("*.llmcost.yaml")
    return sum(f'"model": "{model}"' in file.read_text() for file in files)


def test_an_interrupt_keeps_what_was_counted_and_the_next_run_counts_the_rest(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        conftest="""
    import os, pathlib

    def pytest_configure():
        pathlib.Path("pid").write_text(str(os.getpid()))
    """,
        test_app=MANY,
    )
    project.record()
    is_interrupted = threading.Event()
    held = Step(until=is_interrupted.is_set, delay_seconds=0.2)
    standin.script(Step(), *[held] * 16)  # the first one goes alone, others not by more than eight

    def interrupt() -> None:
        # What is in flight is waited for.
        while sum(one.body["model"] == "claude-opus-4-7" for one in standin.counted) < 3:
            time.sleep(0.01)
        os.kill(int((project.path / "pid").read_text()), signal.SIGINT)
        is_interrupted.set()

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    result = project.run_apart(COUNT, NEW, REPORT)
    thread.join()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    kept = recorded(project, "claude-opus-4-7")
    assert 0 < kept < 40
    assert kept == sum(one.body["model"] == "claude-opus-4-7" for one in standin.counted)
    missing = f"prompts not counted yet: {40 - kept} for claude-opus-4-7; *"
    result.stdout.fnmatch_lines([missing])
    project.run(COUNT, NEW, REPORT).assert_outcomes(passed=40)
    assert other_models(project)[0]["calls"] == 40
    asked = [one for one in standin.counted if one.body["model"] == "claude-opus-4-7"]
    assert len(asked) == 40, "nothing was counted twice"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_a_terminal_shows_a_counter_and_a_file_does_not(project: Project, standin: StandIn) -> None:
    import pty

    project.online(standin).write(test_app=MANY)
    project.record()
    command = [warm_python(), "-m", "pytest", "-p", "llmcost", COUNT, NEW]
    ours, theirs = pty.openpty()
    done = subprocess.run(command, cwd=project.path, stdout=theirs, stderr=theirs, check=False)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(ours, 1 << 16):
            shown += chunk
    os.close(ours)
    assert done.returncode == 0
    assert re.search(rb"\rllmcost: counted \d+/40(, \d+/s(, \d+ s left)?)? \[ *\d+%\]", shown)
    assert b"llmcost: counted 40/40" in shown
    project.run_apart("--llmcost-record-mode=all", NEW).stdout.no_fnmatch_line("*counted*/40*")


def test_everything_anew_and_rewriting_keep_one_count_for_each_model(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(test_app=COUNTED.replace("def test_sent", "def not_test_sent"))
    for mode in ("once", "all", "rewrite"):
        before = len(standin.counted)
        project.run(f"--llmcost-record-mode={mode}", NEW, REPORT).assert_outcomes(passed=2)
        assert other_models(project)[0]["calls"] == 2
        assert len(standin.counted) - before == 4
        assert recorded(project, "claude-opus-4-7") == 2
        assert recorded(project, "claude-opus-4-6") == 2
    project.run("--llmcost-record-mode=rewrite").assert_outcomes(passed=2)
    assert recorded(project, "claude-opus-4-7") == 0, "nobody asks for them any more"
    project.run("--llmcost-record-mode=once", NEW, REPORT).assert_outcomes(passed=2)
    assert other_models(project)[0]["missing"] == 2, "once is once for a test"


def test_a_test_that_forbids_connections_does_not_keep_the_rest_from_being_counted(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    def test_one(llmcost):
        llmcost.count(payload())

    @pytest.mark.block_network
    def test_last():
        pass
    """
    )
    project.run(COUNT, NEW, REPORT, plugins=("recording",)).assert_outcomes(passed=2)
    assert other_models(project)[0]["calls"] == 1


def test_without_recording_it_is_counted_and_nothing_is_written(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD + "    def test_one(llmcost): llmcost.count(payload())\n"
    )
    result = project.run("--disable-recording", NEW, REPORT, plugins=("recording",))
    result.assert_outcomes(passed=1)
    assert other_models(project)[0]["calls"] == 1
    assert not (project.path / "cassettes").exists()


def test_a_client_that_cannot_count_is_told_and_fails_no_test(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        conftest="""
    import pytest

    @pytest.fixture(scope="session")
    def llmcost_client():
        return object()
    """,
        test_app=PAYLOAD + "    def test_sent(): send('now')\n",
    )
    result = project.run(COUNT, NEW, REPORT)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["not counted for claude-opus-4-7: *no messages.count_tokens*"])
    assert other_models(project)[0]["missing"] == 1


def test_a_part_that_only_counting_refuses_leaves_a_billed_call_unknown(
    project: Project, standin: StandIn
) -> None:
    standin.refused = ["server_tools"]
    project.online(standin).write(
        test_app=PAYLOAD
        + """
    SEARCH = [{"type": "web_search_20250305", "name": "web_search"}]

    def test_sent():
        with anthropic.Anthropic() as client:
            client.messages.create(**payload(tools=SEARCH))

    def test_counted(llmcost):
        llmcost.count(payload(tools=SEARCH), output_tokens=1)
    """
    )
    for mode in ("new_episodes", "none"):
        project.run(f"--llmcost-record-mode={mode}", NEW, REPORT).assert_outcomes(passed=2)
        rows = {row["name"].partition("::")[2]: row for row in other_models(project)[0]["rows"]}
        assert rows["test_sent"]["reasons"] == ["its prompt is counted without tools.web_search"]
        assert rows["test_counted"]["usd_then"] is not None, "both sides leave it out"


def test_an_api_out_of_reach_is_told_and_the_run_goes_on(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        test_app=PAYLOAD + "    def test_one(llmcost): llmcost.count(payload())\n"
    )
    project.record()
    standin.stop()
    result = project.run(COUNT, NEW, REPORT)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["not counted for claude-opus-4-7: no answer from 127.0.0.1 *"])
    assert other_models(project)[0]["missing"] == 1

"""Parts of a prompt: counted, limited, shown; the same offline, across workers and in shards."""

from __future__ import annotations

import pytest
from conftest import Project
from standin import StandIn, fault

from pytest_llmcost.cli.main import main

SUITE = """
    import pytest
    from pytest_llmcost import max_cost

    def tool(name, words=20):
        schema = {"type": "object", "description": "word " * words}
        return {"name": name, "input_schema": schema}

    def payload(rules=50, tools=("find", "ask"), words=10):
        return {"model": "claude-haiku-4-5", "max_tokens": 100,
                "tools": [tool(name) for name in tools], "system": "rule " * rules,
                "messages": [{"role": "user", "content": "word " * words}]}
"""
XDIST = ("xdist",)
JSON = "--llmcost-report=ledger.json"


def test_the_parts_of_a_prompt_are_a_mapping_that_adds_up(
    online: Project, standin: StandIn
) -> None:
    online.write(
        test_app=SUITE
        + """
    def test_parts(llmcost):
        parts = llmcost.parts(payload())
        assert [*parts] == ["tools.(fixed)", "tools.find", "tools.ask", "system.0",
                            "messages.0.text", "rest"]
        single = ("tools.(fixed)", "tools.find", "tools.ask")
        assert parts["tools"] == sum(parts[name] for name in single)
        assert parts == llmcost.parts(**payload())
        assert sum(parts.values()) == parts.total == llmcost.count(payload()).input_tokens
    """
    )
    online.record().assert_outcomes(passed=1)
    assert len(standin.counted) == 7  # before the prompt, behind each block, two for (fixed)
    online.run().assert_outcomes(passed=1)
    assert len(standin.counted) == 7
    online.run("--no-llmcost").assert_outcomes(skipped=1)
    online.write(test_app=SUITE + "    def test_new(llmcost): llmcost.parts(payload(rules=9))\n")
    result = online.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "the parts of a prompt are not counted yet",
            "  count it (free)   pytest test_app.py::test_new --llmcost-record-mode=rewrite",
        ]
    )


BUDGETS = """
    @max_cost(parts={"tools": "3k", "tools.find": 20, "system": "2k"})
    def test_tool(llmcost):
        llmcost.count(payload(tools=["ask"]))
        llmcost.count(payload())

    @max_cost("$1", parts={"tools": 1_000, "system": 1_000})
    def test_kept(llmcost):
        llmcost.count(payload())

    def test_free(llmcost):
        llmcost.count(payload(rules=2))

    def test_system(llmcost):
        llmcost.count(payload(rules=3_000))

    def test_idle():
        pass
"""


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_the_largest_of_each_part_decides(online: Project, workers: tuple[str, ...]) -> None:
    online.write(
        test_app=SUITE + BUDGETS, pytest_ini="[pytest]\nllmcost_max_parts =\n  system = 1000\n"
    )
    plugins = XDIST if workers else ()
    result = online.record(JSON, *workers, plugins=plugins)
    for _ in range(2):
        result.assert_outcomes(passed=3, failed=2)
        result.stdout.re_match_lines_random(
            [
                r"\d+ tokens are \d+ \(.* %\) over the budget of 20 tokens of tools\.find set at "
                r"test_app.py:\d+",
                r"  largest of 2 +claude-haiku-4-5-20251001, \d+ input tokens, .*",
                r'Shorten it, or accept it with a new budget: @max_cost\(parts=\{"tools.find": \d+',
                r"[\d,]+ tokens are .* over the budget of 1,000 tokens of system set by "
                r"llmcost_max_parts",
                r"FAILED test_app.py::test_tool - \d+ > 20 tokens of tools\.find \(\+.* %\)",
                r"FAILED test_app.py::test_system - [\d,]+ > 1,000 tokens of system \(.*\)",
            ]
        )
        rows = {row["nodeid"].partition("::")[2]: row for row in online.ledger()["tests"]}
        assert rows["test_tool"]["verdict"]["part"] == "tools.find"
        assert [each["part"] for each in rows["test_tool"]["blocks"]] == ["tools", "system"]
        assert rows["test_kept"]["verdict"]["state"] == "within"
        assert "part" not in rows["test_kept"]["verdict"]
        result = online.run(JSON, *workers, plugins=plugins)  # offline, from what was recorded


def test_a_budget_of_the_tools_needs_two_counts_more_than_the_prompt(
    online: Project, standin: StandIn
) -> None:
    body = (
        '\n    @max_cost(parts={"tools": "3k"})\n    def test(llmcost): llmcost.count(payload())\n'
    )
    online.write(test_app=SUITE + body)
    online.record().assert_outcomes(passed=1)
    assert len(standin.counted) == 3


def test_a_harmless_change_of_another_part_keeps_the_budget_and_needs_no_count_of_the_tools(
    online: Project, standin: StandIn
) -> None:
    body = (
        '\n    @max_cost(parts={"tools": 640})\n    def test(llmcost): llmcost.count(payload(%s))\n'
    )
    online.write(test_app=SUITE + body % "")
    online.record().assert_outcomes(passed=1)
    online.write(test_app=SUITE + body % "words=9_000")
    before = len(standin.counted)
    online.run("--llmcost-record-mode=new_episodes").assert_outcomes(passed=1)
    assert len(standin.counted) == before + 1  # the prompt itself
    online.write(test_app=SUITE + body % "tools=['find', 'ask', 'more']")
    online.run("--llmcost-record-mode=new_episodes").assert_outcomes(failed=1)


def test_a_part_that_is_not_counted_cannot_be_checked_and_names_the_command(
    online: Project,
) -> None:
    online.write(test_app=SUITE + "\n    def test_a(llmcost): llmcost.count(payload())\n")
    online.record().assert_outcomes(passed=1)
    online.write(
        test_app=SUITE
        + '\n    @max_cost(parts={"system": 199})\n'
        + "    def test_a(llmcost): llmcost.count(payload())\n"
    )
    result = online.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "cannot check the budget of 199 tokens of system set at test_app.py:*: a prompt is not "
            "counted yet",
            "  count it (free)   pytest test_app.py::test_a --llmcost-record-mode=rewrite",
            "FAILED test_app.py::test_a - not counted yet: 199 tokens of system",
        ]
    )
    online.run("--llmcost-record-mode=rewrite").assert_outcomes(passed=1)
    online.run().assert_outcomes(passed=1)


def test_a_call_whose_prompt_was_not_seen_cannot_be_checked(online: Project) -> None:
    online.write(
        test_app=SUITE
        + """
    @max_cost(parts={"tools": 1})
    def test_a(llmcost):
        llmcost.record({"input_tokens": 5, "output_tokens": 5}, model="claude-opus-4-7")
    """
    )
    result = online.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*how large tools is in a prompt is unknown, as the prompt was*"])


def test_a_captured_call_has_parts_too(online: Project) -> None:
    online.write(
        test_app=SUITE
        + """
    import os, httpx

    def send(**how):
        return httpx.post(os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages",
                          headers={"x-api-key": "any", "anthropic-version": "2023-06-01"},
                          json=payload(**how))

    @max_cost(parts={"system": 100})
    def test_a():
        send(rules=5)
        send(rules=500)

    @pytest.fixture(scope="module")
    def primed():
        send(rules=2_000)

    def test_primed(primed):
        pass
    """
    )
    env = ("-o", "llmcost_max_parts=system = 1k\ntools.gone = 5")
    result = online.record("--llmcost-mocks=count", *env)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.re_match_lines_random(
        [
            r"[\d,]+ tokens are \d+ .* over the budget of 100 tokens of system set at .*",
            r"FAILED llmcost_max_parts - [\d,]+ > 1,000 tokens of system \(.*\)",
        ]
    )


def test_shards_are_judged_together(online: Project, capsys: pytest.CaptureFixture[str]) -> None:
    online.write(
        test_app=SUITE + BUDGETS, pytest_ini="[pytest]\nllmcost_max_parts =\n  system = 1000\n"
    )
    online.record(JSON, "--llmcost-parts")
    whole = online.ledger()
    for shard in ("tool", "kept or free or system or idle"):
        name = shard.partition(" ")[0]
        online.run(f"--llmcost-report={name}.json", "--llmcost-parts", "-k", shard)
    names = [str(online.path / f"{each}.json") for each in ("tool", "kept")]
    status = main(["merge", "--whole", *names, "-o", str(online.path / "merged.json")])
    assert status == 1, capsys.readouterr().out
    merged = online.ledger("merged.json")
    assert merged["tests"] == whole["tests"]
    assert merged["payloads"] == whole["payloads"]


def test_a_misspelt_tool_is_a_note_that_names_the_right_one(online: Project) -> None:
    online.write(
        test_app=SUITE
        + """
    @max_cost(parts={"tools.fnd": 20})
    def test_a(llmcost):
        llmcost.count(payload())

    @max_cost(parts={"tools.cut": 20})
    def test_other(llmcost):
        llmcost.count(payload())

    @max_cost(parts={"tools": 1_000, "tools.ask": 1_000})
    def test_b(llmcost):
        llmcost.count(payload(tools=()))
        llmcost.count(payload())

    @max_cost(parts={"tools.find": 20})
    def test_c():
        pytest.skip("no server to ask")
    """
    )
    result = online.record()
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "no prompt has tools.cut, which test_app.py:* limits",
            "no prompt has tools.fnd, which test_app.py:*limits; did you mean tools.find?",
        ]
    )
    result.stdout.no_fnmatch_line("*which*tools.ask*")
    result.stdout.no_fnmatch_line("*no prompt has tools.find*")  # its test was to send one


SHOWN = """
    @max_cost("$0.0001")
    def test_a(llmcost):
        llmcost.count(payload(rules=RULES))
"""


def test_the_largest_parts_are_shown_and_all_of_them_reported_against_a_baseline(
    online: Project,
) -> None:
    online.write(test_app=SUITE + SHOWN.replace("RULES", "50"))
    online.record("--llmcost-parts", "--llmcost-report=base.json")
    tokens = [facts["parts_tokens"] for facts in online.ledger("base.json")["payloads"].values()]
    assert [*tokens[0]] == [
        "messages.0.text", "rest", "system.0", "tools.(fixed)", "tools.ask", "tools.find"
    ]  # fmt: skip
    online.write(test_app=SUITE + SHOWN.replace("RULES", "100"))
    result = online.run(
        *("--llmcost-record-mode=rewrite", "--llmcost-parts", "--llmcost-baseline=base.json"),
        *("--llmcost-report=report.md", JSON),
    )
    result.stdout.re_match_lines(
        [
            r"  largest parts     system 200; tools\.ask 70; tools\.find 70",
            r".*test_a .*",
            r"    system 200; tools\.ask 70; tools\.find 70",
        ]
    )
    (system,) = [
        each for each in online.ledger()["comparison"]["parts"] if each["part"] == "system.0"
    ]
    assert (system["before"], system["after"]) == (100, 200)
    comment = (online.path / "report.md").read_text(encoding="utf-8")
    name = "<code>test_app.py::test_a</code>"
    assert f"| {name} | <code>system.0</code> | 100 → 200 tokens (&#43;100 %) |" in comment
    assert f"| {name} | <code>tools.find</code> | 70 tokens (unchanged) |" in comment


def test_parts_that_are_not_counted_yet_are_a_note_with_the_command(online: Project) -> None:
    online.write(test_app=SUITE + SHOWN.replace("RULES", "5").replace("0.0001", "1"))
    online.record().assert_outcomes(passed=1)
    result = online.run("--llmcost-parts")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "parts of prompts not counted yet; count them all, free:",
            "* --llmcost-parts --llmcost-record-mode=new_episodes",
        ]
    )
    online.run("--llmcost-parts", "--llmcost-record-mode=new_episodes")
    online.run("--llmcost-parts").stdout.no_fnmatch_line("*not counted yet*")


def test_parts_whose_count_has_failed_say_why(online: Project, standin: StandIn) -> None:
    online.write(test_app=SUITE + SHOWN.replace("RULES", "5").replace("0.0001", "1"))
    online.record().assert_outcomes(passed=1)
    asked = len(standin.counted)
    standin.script(*[fault(503, "busy", retry_after="0")] * 100)
    result = online.run("--llmcost-parts", "--llmcost-record-mode=new_episodes")
    result.stdout.fnmatch_lines(["parts of a prompt were not counted: *failed with status 503*"])
    assert len(standin.counted) < asked + 100


WRONG_PARTS = {
    "parts={}": "parts={} is not a mapping of parts to tokens",
    "parts='tools'": "parts='tools' is not a mapping of parts to tokens",
    "parts={'tool': 3}": "parts='tool' is not a part of a prompt; write system, tools, *",
    "parts={'tools.': 3}": "parts='tools.' is not a part of a prompt",
    "parts={3: 3}": "parts=3 is not a part of a prompt",
    "parts={'tools': 'x'}": "parts='x'",
}


def test_a_wrong_part_in_a_marker_is_a_collection_error(project: Project) -> None:
    for number, marker in enumerate(WRONG_PARTS):
        text = f"{SUITE}\n    @max_cost({marker})\n    def test_a(): pass\n"
        project.write(**{f"test_{number}": text})
    result = project.run()
    result.assert_outcomes(errors=len(WRONG_PARTS))
    for number, words in enumerate(WRONG_PARTS.values()):
        result.stdout.fnmatch_lines([f"*test_{number}.py:*: max_cost: {words}*"])


@pytest.mark.parametrize("line", ["tools", "tools = ", "tool = 3", "tools = -1"])
def test_a_wrong_line_in_the_settings_is_an_error_before_any_test(
    project: Project, line: str
) -> None:
    project.write(test_app=SUITE, pytest_ini=f"[pytest]\nllmcost_max_parts =\n    {line}\n")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*llmcost_max_parts: *"])


def test_the_part_of_a_replayed_request_is_the_one_that_is_sent_now(
    online: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(rules: int) -> None:
        online.write(
            test_app=SUITE
            + f"""
    import anthropic

    @pytest.fixture(scope="session")
    def vcr_config():
        return {{"filter_headers": ["authorization", "x-api-key"]}}

    @pytest.mark.vcr
    @max_cost(parts={{"system": 100}})
    def test_a():
        anthropic.Anthropic().messages.create(**payload(rules={rules}))
    """
        )

    def replay(*args: str) -> pytest.RunResult:
        return online.run(*args, plugins=("recording",))

    write(rules=50)
    replay("--record-mode=once").assert_outcomes(passed=1)
    write(rules=60)
    result = replay()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "cannot check the budget of 100 tokens of system *: a prompt is not counted yet",
            "  changed           system (since it was recorded)",
        ]
    )
    replay("--llmcost-record-mode=rewrite").assert_outcomes(failed=1)
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "for the replay")
    seen = len(standin.requests)
    result = replay()
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_a - 120 > 100 tokens of system*"])
    assert len(standin.requests) == seen
    write(rules=50)
    replay("--llmcost-record-mode=rewrite").assert_outcomes(passed=1)


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_workers_show_the_parts_and_name_the_command_that_counts_them(
    online: Project, workers: tuple[str, ...]
) -> None:
    plugins = XDIST if workers else ()
    online.write(test_app=SUITE + BUDGETS.replace('"tools.find": 20, ', ""))
    online.record(*workers, plugins=plugins).assert_outcomes(passed=5)
    result = online.run("--llmcost-parts", *workers, plugins=plugins)
    result.assert_outcomes(passed=5)  # the parts with a budget are counted
    result.stdout.fnmatch_lines(["*--llmcost-parts*--llmcost-record-mode=new_episodes"])
    result = online.run(
        "--llmcost-parts", "--llmcost-record-mode=new_episodes", *workers, plugins=plugins
    )
    result.stdout.no_fnmatch_line("*not counted yet*")
    result = online.run("--llmcost-parts", *workers, plugins=plugins)
    result.stdout.fnmatch_lines(["    system 6,000; tools.ask 70; tools.find 70"])

"""One question has one answer: exit status, terminal, comment, JUnit and ledger agree."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import redirect_stdout
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import Project
from standin import StandIn

from pytest_llmcost.cli.main import main

APP = """
    import threading
    import httpx
    import pytest
    from pytest_llmcost import max_cost

    URL = "https://api.anthropic.com/v1/messages"
    BODY = {"model": "claude-opus-4-7", "max_tokens": 100,
            "messages": [{"role": "user", "content": "hi"}]}

    def spend(llmcost, input_tokens=1000):
        usage = {"input_tokens": input_tokens, "output_tokens": 0}  # $5 per million
        llmcost.record(usage, model="claude-opus-4-7")

    def reply(usage):
        return httpx.Response(200, json={
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-7",
            "content": [], "stop_reason": "end_turn", **({"usage": usage} if usage else {})})

    def send(handler):
        with httpx.Client(transport=httpx.MockTransport(handler)) as client:
            return client.post(URL, json=BODY)

    def call(input_tokens):
        send(lambda request: reply({"input_tokens": input_tokens, "output_tokens": 0}))

    def unreadable():
        '''An answer that does not say what it used.'''
        send(lambda request: reply(None))
"""
REPORTS = ("--llmcost-report=ledger.json", "--llmcost-report=cost.md", "--junitxml=junit.xml")


def run(project: Project, test_app: str, *args: str, **files: str) -> pytest.RunResult:
    project.write(app=APP, test_app=test_app, **files)
    return project.run(*REPORTS, *args)


def name_of(test: dict[str, Any]) -> str:
    return str(test["nodeid"]).split("::")[1]


def rows_of(project: Project) -> dict[str, dict[str, Any]]:
    return {name_of(test): test for test in project.ledger()["tests"]}


def junit_of(project: Project, name: str) -> dict[str, str]:
    tree = ElementTree.parse(project.path / "junit.xml")
    (case,) = (each for each in tree.findall(".//testcase") if each.get("name") == name)
    return {each.get("name", ""): each.get("value", "") for each in case.iter("property")}


def names_in(lines: Iterable[str], pattern: str) -> set[str]:
    return {found[1] for line in lines if (found := re.search(pattern, line))}


def comment_of(project: Project) -> list[str]:
    return (project.path / "cost.md").read_text(encoding="utf-8").splitlines()


class TestWarnings:
    """From which share of its budget a test is nearly over it."""

    @pytest.mark.parametrize("by", ["marker", "option"])
    def test_terminal_comment_and_ledger_warn_of_the_same_tests(
        self, project: Project, by: str
    ) -> None:
        marker = '@max_cost("$0.01")' if by == "marker" else ""
        args = () if by == "marker" else ("--llmcost-max-test=$0.01",)
        text = "\n".join(
            ["from app import *"]
            + [
                f"{marker}\ndef test_{tokens}(llmcost): spend(llmcost, {tokens})\n"
                for tokens in (1000, 1598, 1600, 1800, 2000)
            ]
        )
        result = run(project, text, "--llmcost-warn-at=80%", *args)
        result.assert_outcomes(passed=5)
        near = {"test_1600", "test_1800", "test_2000"}
        assert terminal_warns(result) == near
        assert ledger_warns(project) == near
        assert comment_warns(project) == near

    def test_they_agree_where_the_cost_is_between_two_bounds(self, project: Project) -> None:
        text = """
            import json
            from app import *

            @max_cost("$0.01")
            def test_between():
                '''1,000 tokens are read for certain, and up to 100 are written: 50 % to 75 %.'''
                message = {**reply({"input_tokens": 1000, "output_tokens": 1}).json()}
                event = json.dumps({"type": "message_start", "message": message})
                send(lambda request: httpx.Response(
                    200, headers={"content-type": "text/event-stream"},
                    content=f"event: message_start\\ndata: {event}\\n\\n".encode()))
        """
        for share, expected in (("45%", [1, 1, 1]), ("60%", None), ("80%", [0, 0, 0])):
            result = run(project, text, f"--llmcost-warn-at={share}")
            result.assert_outcomes(passed=1)
            warnings = [terminal_warns(result), comment_warns(project), ledger_warns(project)]
            warned = [len(each) for each in warnings]
            assert warned == (expected or [warned[0]] * 3)


def terminal_warns(result: pytest.RunResult) -> set[str]:
    return names_in(result.outlines, r"^! (test_\S+) ")


def comment_warns(project: Project) -> set[str]:
    return names_in(comment_of(project), r"^\| ⚠️ <code>\S*::(test_\S+)</code> ")


def ledger_warns(project: Project) -> set[str]:
    near = set()
    for name, test in rows_of(project).items():
        verdict = test["verdict"]
        warn_at = verdict.get("warn_at")
        if warn_at is None or verdict["state"] != "within":
            continue
        if Decimal(verdict["high"]) >= Decimal(warn_at) * Decimal(verdict["limit"]):
            near.add(name)
    return near


LATE_SPEND = """
    import pytest
    from app import call

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish():
        call(100_000)
"""
LATE_STATUS = """
    import pytest

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(session):
        session.exitstatus = 9
"""
FORGIVING = """
    import pytest

    @pytest.hookimpl(HOW)
    def pytest_sessionfinish(session):
        FORGIVE
"""
ENDINGS: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "spent when the session finishes": (
        "def test_a(): call(100)",
        {"conftest": LATE_SPEND},
        ("--llmcost-max-suite=$0.01",),
    ),
    "exit over the suite's budget": (
        "def test_a():\n    call(100_000)\n    pytest.exit('enough', returncode=0)",
        {},
        ("--llmcost-max-suite=$0.01",),
    ),
    "exit in another test": (
        "def test_a(): call(100_000)\ndef test_b(): pytest.exit('enough', returncode=0)",
        {},
        ("--llmcost-max-suite=$0.01",),
    ),
    "a status that another plugin sets": (
        "def test_a(): call(100)",
        {"conftest": LATE_STATUS},
        ("--llmcost-max-suite=$0.01",),
    ),
    "exit when the session finishes": (
        "def test_a(): call(100_000)",
        {"conftest": FORGIVING.replace("FORGIVE", "pytest.exit('fine', 0)").replace("HOW", "")},
        ("--llmcost-max-suite=$0.01",),
    ),
    "a status that another plugin forgives": (
        "def test_a(): call(100_000)",
        {"conftest": FORGIVING.replace("FORGIVE", "session.exitstatus = 0").replace("HOW", "")},
        ("--llmcost-max-suite=$0.01",),
    ),
    "a status that another plugin forgives last": (
        "def test_a(): call(100_000)",
        {
            "conftest": FORGIVING.replace("FORGIVE", "yield; session.exitstatus = 0").replace(
                "HOW", "wrapper=True, tryfirst=True"
            )
        },
        ("--llmcost-max-suite=$0.01",),
    ),
    "spent by a wrapper when the session finishes": (
        "def test_a(): call(100)",
        {
            "conftest": "    from app import call\n"
            + FORGIVING.replace("FORGIVE", "yield; call(100_000)").replace(
                "HOW", "wrapper=True, tryfirst=True"
            )
        },
        ("--llmcost-max-suite=$0.01",),
    ),
    "a baseline that cannot be written": (
        "def test_a(): call(100)",
        {},
        ("--llmcost-baseline=app.py/base.json", "--llmcost-update-baseline"),
    ),
    "a report that cannot be written": (
        "def test_a(): call(100)",
        {},
        ("--llmcost-report=app.py/cost.md",),
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_ledger_has_the_exit_status_that_pytest_ends_with(
    project: Project, ending: str
) -> None:
    test, files, args = ENDINGS[ending]
    result = run(project, f"from app import *\n{test}\n", *args, **files)
    assert project.ledger()["run"]["exit_status"] == result.ret != 0


LATE_CALLS = {
    "a thread that ends in the next test": """
        from app import *

        SENT, GO = threading.Event(), threading.Event()

        def wait_and_answer(request):
            SENT.set()
            GO.wait(20)
            return reply({"input_tokens": 10_000, "output_tokens": 0})

        THREAD = threading.Thread(target=send, args=(wait_and_answer,))

        MARKER
        def test_starts():
            THREAD.start()
            SENT.wait(20)

        def test_waits():
            GO.set()
            THREAD.join()
    """,
    "a stream that the next test reads": """
        import json
        from app import *

        def stream():
            message = reply({"input_tokens": 10_000, "output_tokens": 0}).json()
            for event in (
                {"type": "message_start", "message": message},
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"},
                 "usage": {"output_tokens": 0}},
                {"type": "message_stop"},
            ):
                yield f"event: {event['type']}\\ndata: {json.dumps(event)}\\n\\n".encode()

        def answer(request):
            return httpx.Response(
                200, headers={"content-type": "text/event-stream"}, content=stream())

        CLIENT = httpx.Client(transport=httpx.MockTransport(answer))
        OPEN = []

        MARKER
        def test_starts():
            request = CLIENT.build_request("POST", URL, json={**BODY, "stream": True})
            OPEN.append(CLIENT.send(request, stream=True))

        def test_reads():
            OPEN.pop().read()
            CLIENT.close()
    """,
}


@pytest.mark.parametrize("limit", ["$0.01", "$1", None])
@pytest.mark.parametrize("kind", LATE_CALLS)
def test_a_call_that_ends_after_its_test_is_told_alike_everywhere(
    project: Project, kind: str, limit: str | None
) -> None:
    marker = f'@max_cost("{limit}")' if limit else ""
    result = run(project, LATE_CALLS[kind].replace("MARKER", marker), "--llmcost-max-suite=$1")
    row, reported = rows_of(project)["test_starts"], junit_of(project, "test_starts")
    usd = "?" if any(call["usd"] is None for call in row["calls"]) else row["usd"]
    assert (reported["llmcost_usd"], reported["llmcost_calls"]) == (usd, str(len(row["calls"])))
    if limit is None:
        return
    verdict = row["verdict"]
    assert reported["llmcost_verdict"] == verdict["state"]
    if verdict["actual"] is not None:
        assert verdict["actual"] == row["usd"]
    # Ten thousand tokens at $5 per million; whoever judges before they are known cannot verify.
    broken = limit == "$0.01"
    assert verdict["state"] in (("exceeded", "unverified") if broken else ("within", "unverified"))
    if broken:
        assert result.ret == project.ledger()["run"]["exit_status"] == 1


UNKNOWN = "what is unknown is shown as zero"
UNREADABLE = """
    from app import *

    @pytest.mark.parametrize("number", range(12))
    def test_known(number):
        call(1000)

    def test_unknown():
        unreadable()
"""


class TestUnknown:
    """What is unknown is a question mark, never a zero."""

    def test_in_the_table_of_tests_and_of_models(self, project: Project) -> None:
        result = run(project, UNREADABLE, "-k", "test_unknown")
        result.stdout.re_match_lines([r"  test_unknown +1 +\? +\? +\?$"])
        (row,) = (line for line in comment_of(project) if "test_unknown</code>" in line)
        assert "| 1 | ? | ? | ? | ? |" in row
        assert no_zero_money(result.outlines)
        assert no_zero_money(comment_of(project))

    def test_by_model(self, project: Project) -> None:
        text = """
            from app import *

            def test_both(llmcost):
                call(1000)
                unreadable()
                llmcost.record(
                    {"input_tokens": 5, "output_tokens": 5}, model="claude-acme", usd="0.01")

            def test_other_model():
                with httpx.Client(transport=httpx.MockTransport(lambda request: reply(None))) as it:
                    it.post(URL, json={**BODY, "model": "claude-haiku-4-5"})
        """
        result = run(project, text)
        result.stdout.re_match_lines([r".* claude-haiku-4-5-20251001 \?$"])
        (row,) = (
            line for line in comment_of(project) if "<code>claude-haiku-4-5-20251001</code>" in line
        )
        assert row.startswith("| <code>claude-haiku-4-5-20251001</code> | ? | 1 | ? | ? | ? | ? |")

    def test_in_the_line_of_the_rows_that_are_left_out(self, project: Project) -> None:
        result = run(project, UNREADABLE, "--llmcost-rows=1")
        (line,) = (line for line in result.outlines if "1 more" in line)
        assert "?" in line
        assert no_zero_money([line])

    def test_in_junit(self, project: Project) -> None:
        run(project, UNREADABLE)
        reported = junit_of(project, "test_unknown")
        assert (reported["llmcost_usd"], reported["llmcost_calls"]) == ("?", "1")
        assert (reported["llmcost_input_tokens"], reported["llmcost_output_tokens"]) == ("?", "?")
        assert junit_of(project, "test_known[0]")["llmcost_usd"] == "0.005"

    @pytest.mark.parametrize(
        ("before", "now"),
        [("call(1000)", "unreadable()"), ("unreadable()", "call(1000)")],
        ids=["not known any more", "known now"],
    )
    def test_beside_a_baseline(self, project: Project, before: str, now: str) -> None:
        result = compared(project, before, now)
        figures = {"call(1000)": "$0.0050", "unreadable()": "?"}
        assert any(
            f"test_it</code><br><sub>test_app.py</sub> | {figures[before]} | {figures[now]} |"
            in line
            for line in comment_of(project)
        )
        for lines in (comment_of(project), result.outlines, compare_command()):
            assert no_zero_money(lines)

    def test_unknown_against_unknown(self, project: Project) -> None:
        result = compared(project, "unreadable()", "unreadable()")
        for lines in (comment_of(project), result.outlines, compare_command()):
            assert no_zero_money(lines)


def compared(project: Project, before: str, now: str) -> pytest.RunResult:
    text = "from app import *\ndef test_it(): {}\n"
    baseline = "--llmcost-report=base.json"
    run(project, text.format(before), baseline).assert_outcomes(passed=1)
    result = run(project, text.format(now), "--llmcost-baseline=base.json")
    result.assert_outcomes(passed=1)
    return result


def compare_command() -> list[str]:
    path = "compared.txt"
    with open(path, "w") as out, redirect_stdout(out):
        main(["compare", "base.json", "ledger.json"])
    with open(path) as text:
        return text.read().splitlines()


def no_zero_money(lines: Iterable[str]) -> bool:
    """Whether no line says of a cost that it is nothing; nothing spent live is known."""
    return not any(
        re.search(r"\$0\.0+(?!\d)", re.sub(r"\S+ spent live", "", line)) for line in lines
    )


class TestMerge:
    """The shards have the setting with them."""

    @pytest.mark.parametrize("by", ["option", "ini", "environment"])
    def test_an_unverified_suite_warns_where_the_runs_have_warned(
        self, project: Project, monkeypatch: pytest.MonkeyPatch, by: str
    ) -> None:
        args = ("--llmcost-unverified=warn",) if by == "option" else ()
        ini = "llmcost_unverified = warn" if by == "ini" else ""
        if by == "environment":
            monkeypatch.setenv("PYTEST_LLMCOST_UNVERIFIED", "warn")
        shards = run_shards(project, ini, *args)
        monkeypatch.delenv("PYTEST_LLMCOST_UNVERIFIED", raising=False)
        assert main(["merge", *shards, "-o", "all.json", "--whole"]) == 0
        (verdict,) = project.ledger("all.json")["verdicts"]
        assert verdict["state"] == "unverified"
        # What is added up is a ledger again, and may be added up further.
        assert main(["merge", "all.json", "-o", "again.json"]) == 0
        # A budget of the whole alone is judged as the shards' own.
        assert main(["merge", *shards, "-o", "all.json", "--whole", "--max-suite=$2"]) == 0

    def test_what_is_exceeded_fails_all_the_same(self, project: Project) -> None:
        shards = run_shards(project, "llmcost_unverified = warn")
        assert main(["merge", *shards, "-o", "all.json", "--max-suite=$0.001"]) == 1

    def test_where_the_runs_have_failed_it_fails(self, project: Project) -> None:
        assert main(["merge", *run_shards(project, "", status=1), "-o", "all.json"]) == 1


def run_shards(project: Project, ini: str, *args: str, status: int = 0) -> list[str]:
    project.write(
        app=APP,
        test_one="from app import *\ndef test_one(): call(1000)\n",
        test_two="from app import *\ndef test_two(): unreadable()\n",
        pytest_ini=f"[pytest]\nllmcost_max_suite = $1\n{ini}\n",
    )
    first = project.run("test_one.py", "--llmcost-report=one.json", *args)
    second = project.run("test_two.py", "--llmcost-report=two.json", *args)
    assert (first.ret, second.ret) == (0, status)
    return ["one.json", "two.json"]


EVERY_FIGURE = """
    import pytest

    def payload(system):
        return {{"model": "claude-opus-4-7", "max_tokens": 10, "system": system,
                 "messages": [{{"role": "user", "content": "Where is my order?"}}]}}

    def test_counted(llmcost):
        llmcost.count(payload("Be brief. " * {times}), output_tokens=50)

    def test_cached(llmcost):
        usage = {{
            "input_tokens": 1000, "output_tokens": 321, "cache_read_input_tokens": 40_000,
            "cache_creation_input_tokens": 3000,
            "cache_creation": {{
                "ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 2000}},
            "server_tool_use": {{"web_search_requests": 3}},
        }}
        llmcost.record(usage, model="claude-opus-4-7")

    def test_stated(llmcost):
        llmcost.record({{"input_tokens": 5, "output_tokens": 5}}, model="acme", usd="0.0123")
"""


class TestEveryReport:
    """The same run in every form that it has."""

    @pytest.fixture
    def ledger(self, project: Project, standin: StandIn) -> dict[str, Any]:
        args = ("--llmcost-parts", "--llmcost-record-mode=rewrite", "--llmcost-history=h.jsonl")
        base = ("--llmcost-baseline=base.json",)
        project.online(standin).write(test_app=EVERY_FIGURE.format(times=100))
        project.run(*args, *base, "--llmcost-update-baseline").assert_outcomes(passed=3)
        project.write(test_app=EVERY_FIGURE.format(times=150))
        page = "--llmcost-report=cost.html"
        project.run(*REPORTS, page, *args, *base).assert_outcomes(passed=3)
        return project.ledger()

    def test_has_the_same_total(
        self, project: Project, ledger: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        total = ledger["totals"]["usd"]
        shown = f"${Decimal(total):.4f}"
        assert main(["badge", "ledger.json"]) == 0
        badge = json.loads(capsys.readouterr().out)["message"]
        assert main(["badge", "ledger.json", "--format=benchmark-action"]) == 0
        trend = json.loads(capsys.readouterr().out, parse_float=Decimal)
        assert main(["render", "ledger.json"]) == 0
        assert badge in capsys.readouterr().out
        page = (project.path / "cost.html").read_text(encoding="utf-8")
        comment = "\n".join(comment_of(project))
        line = json.loads((project.path / "h.jsonl").read_text().splitlines()[-1])
        suite = ElementTree.parse(project.path / "junit.xml").find(".//properties")
        assert suite is not None
        junit = {each.get("name"): each.get("value") for each in suite}
        assert (line["usd"], junit["llmcost_usd"]) == (total, total)
        assert (trend[0]["name"], trend[0]["value"]) == ("total", Decimal(total))
        assert badge in (shown, f"${Decimal(total):.2f}")
        assert f"<title>{badge} · llmcost</title>" in page
        assert f"({shown})" in page, "the line of the history ends with it"
        assert f"| total |  | {shown} |  |" in comment
        assert f"All tests: {badge} at list price" in comment

    def test_has_the_same_amount_in_each_category(
        self, project: Project, ledger: dict[str, Any]
    ) -> None:
        totals = ledger["totals"]
        found = totals["by_category"]
        assert set(found) == {
            *("input_usd", "cache_write_5m_usd", "cache_write_1h_usd", "cache_read_usd"),
            *("output_usd", "web_search_usd", "declared_usd"),
        }
        assert sum(map(Decimal, found.values())) == Decimal(totals["usd"])
        assert Decimal(found["web_search_usd"]) == Decimal("0.03")
        assert found["declared_usd"] == "0.0123"
        page = (project.path / "cost.html").read_text(encoding="utf-8")
        for name, usd in found.items():
            shown = f"${Decimal(usd):.4f}"
            tokens = totals["usage"].get(name.replace("_usd", "_tokens"))
            cells = "" if tokens is None else f"{tokens:,}"
            assert any(f" | {cells} | {shown} | " in line for line in comment_of(project)), name
            assert f'<td class="number">{cells}</td><td class="number">{shown}</td>' in page

    def test_has_the_same_parts_before_and_after(
        self, project: Project, ledger: dict[str, Any]
    ) -> None:
        parts = {each["part"]: each for each in ledger["comparison"]["parts"]}
        system = parts["system.0"]
        assert system["after"] > system["before"] > 100
        page = (project.path / "cost.html").read_text(encoding="utf-8")
        growth = f"{system['before']:,} → {system['after']:,} tokens"
        assert growth.replace("→", "\\u2192") in page
        row = f"<code>system.0</code> | {growth} "
        assert any(row in line for line in comment_of(project))

"""Tags: what calls are for, in totals, reports and budgets, whoever sends them."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Project
from spending_suite import APP, run_suite, without_workers, write_files
from standin import StandIn

from pytest_llmcost.cli.main import main
from pytest_llmcost.ledger.ledger import read_ledger
from pytest_llmcost.ledger.totals import amounts_of

SUITE = {
    "app.py": APP,
    "conftest.py": """
        import pytest
        from app import ask
        from pytest_llmcost import tag

        @pytest.fixture
        def judge(llmcost):
            with llmcost.tag("judge"):
                yield

        @pytest.fixture(scope="session")
        def corpus():
            with tag("setup"):
                ask(1000)
            ask(1)
    """,
    "tests/test_tags.py": """
        import asyncio
        import threading
        from concurrent.futures import ThreadPoolExecutor

        import pytest
        from app import ask, meet
        from pytest_llmcost import tag

        @pytest.mark.parametrize("words", [10, 11])
        def test_by_fixture(judge, words):
            meet()
            ask(words)

        @pytest.mark.llmcost_tag("judge", "slow")
        class TestMarked:
            def test_one(self, corpus):
                meet()
                ask(20)

            @pytest.mark.llmcost_tag("retry")
            def test_two(self, corpus):
                ask(30)

        def test_nested(llmcost):
            with llmcost.tag("judge"):
                with tag("retry"):
                    ask(40)
                with tag("judge"):
                    ask(41)
            ask(42)

        def test_tasks():
            async def judged(is_in_thread):
                with tag("judge"):
                    await asyncio.sleep(0)
                    ask(50)
                    await asyncio.to_thread(ask, 51)
                    is_in_thread.set()
                    await asyncio.sleep(0)

            async def other(is_in_thread):
                ask(52)
                await is_in_thread.wait()  # the ledgers are compared with their order
                ask(53)

            async def both():
                is_in_thread = asyncio.Event()
                await asyncio.gather(judged(is_in_thread), other(is_in_thread))

            asyncio.run(both())

        def test_threads():
            with tag("judge"), ThreadPoolExecutor(1) as pool:
                list(pool.map(ask, [60, 61]))
            thread = threading.Thread(target=ask, args=(62,))
            thread.start()
            thread.join()

        def test_threads_with_tags_of_their_own():
            barrier = threading.Barrier(2)

            def work(name, words):
                barrier.wait()
                with tag(name), tag(f"in-{name}"):
                    barrier.wait()
                    ask(words)
                    barrier.wait()

            with tag("whole"), ThreadPoolExecutor(2) as pool:
                list(pool.map(work, ["left", "right"], [80, 81]))

        def test_plain(corpus):
            ask(70)
    """,
}
JUDGED = {10, 11, 20, 30, 40, 41, 50, 51, 60, 61}


def test_calls_have_all_their_tags_alone_with_workers_and_in_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path, SUITE)
    ran = run_suite(tmp_path, "--llmcost-report=whole.json")
    assert ran.status == 0, ran.out
    ledger = ran.ledger()
    tags: dict[str, set[int]] = {}
    for row in [*ledger["tests"], *ledger["fixtures"]]:
        for call in row["calls"]:
            for tag in call.get("tags", ()):
                tags.setdefault(tag, set()).add(call["usage"]["input_tokens"])
    inner = {"whole": {80, 81}, "left": {80}, "right": {81}, "in-left": {80}, "in-right": {81}}
    outer = {"judge": JUDGED, "slow": {20, 30}, "retry": {30, 40}, "setup": {1000}}
    assert tags == {**outer, **inner}
    by_tag = ledger["totals"]["by_tag"]
    assert by_tag["judge"]["calls"] == len(JUDGED)
    assert by_tag["judge"]["usage"]["input_tokens"] == sum(JUDGED)
    assert "by tag: in-left $0.0" in ran.out

    workers = run_suite(tmp_path, "-n2", plugins=("xdist",))
    assert without_workers(workers.ledger()) == without_workers(ledger)

    shards = []
    for number, chosen in enumerate(("fixture or Marked", "not (fixture or Marked)")):
        run_suite(tmp_path, "-k", chosen, f"--llmcost-report=shard{number}.json")
        shards.append(str(tmp_path / f"shard{number}.json"))
    merged = str(tmp_path / "merged.json")
    assert main(["merge", "--whole", *shards, "-o", merged]) == 0, capsys.readouterr().err
    assert read_ledger(merged).totals.by_tag == read_ledger(tmp_path / "whole.json").totals.by_tag


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "xdist"])
def test_a_budget_by_tag_counts_every_call_of_the_tag_and_no_other(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    write_files(tmp_path, SUITE)
    plugins = ("xdist",) if workers else ()
    run_suite(tmp_path)
    amounts = amounts_of(read_ledger(tmp_path / "ledger.json"), "tag:judge")
    for limit, status in ((amounts.priced_usd, 0), (amounts.priced_usd / 2, 1)):
        budgets = f"tag:judge = {limit:f}, tag:setup = $1"
        ran = run_suite(
            tmp_path, *workers, plugins=plugins, env={"PYTEST_LLMCOST_BUDGETS": budgets}
        )
        assert ran.status == status, ran.out
        scopes = [(each["scope"], each["pattern"]) for each in ran.ledger()["verdicts"]]
        assert scopes == [("tag", "tag:judge"), ("tag", "tag:setup")]
    assert "budget for tag:judge set by PYTEST_LLMCOST_BUDGETS" in ran.out
    assert "FAILED test" not in ran.out


def test_shards_agree_on_a_budget_by_tag_which_holds_for_their_sum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path, SUITE)
    shards = [str(tmp_path / f"{name}.json") for name in "ab"]
    env = {"PYTEST_LLMCOST_BUDGETS": "tag:judge = 0.004"}
    for path, chosen in zip(shards, ("fixture or Marked", "not (fixture or Marked)"), strict=True):
        ran = run_suite(tmp_path, "-k", chosen, f"--llmcost-report={path}", env=env)
        assert ran.status == 0, ran.out
    assert main(["merge", *shards]) == 1
    assert "over the $0.004 budget for tag:judge" in capsys.readouterr().err
    run_suite(tmp_path, f"--llmcost-report={shards[1]}", "-k", "plain",
              env={"PYTEST_LLMCOST_BUDGETS": "tag:judge = 9"})  # fmt: skip
    assert main(["merge", *shards]) == 2
    assert "the same budget for tag:judge: " in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["", "async "])
def test_an_async_test_has_the_tags_of_its_fixtures(tmp_path: Path, kind: str) -> None:
    test = f"""
        import pytest
        from app import ask
        from pytest_llmcost import tag

        @pytest.fixture
        {kind}def judge(anyio_backend):
            with tag("judge"):
                yield

        @pytest.mark.anyio
        async def test_one(judge):
            ask(1)

        @pytest.mark.anyio
        async def test_two(anyio_backend):
            ask(2)
    """
    write_files(tmp_path, {"app.py": APP, "test_async.py": test})
    ran = run_suite(tmp_path, plugins=("anyio",))
    tests = ran.ledger()["tests"]
    tags = {(row["nodeid"].partition("[")[0], *row["calls"][0].get("tags", ())) for row in tests}
    assert tags == {("test_async.py::test_one", "judge"), ("test_async.py::test_two",)}, ran.out


def test_a_thread_of_a_pool_has_what_is_open_when_it_sends(project: Project) -> None:
    project.write(
        app=APP,
        test_app="""
        from concurrent.futures import ThreadPoolExecutor
        from app import ask

        def test_tags(llmcost):
            with ThreadPoolExecutor(1) as pool:
                for name in ("one", "two"):
                    with llmcost.tag(name):
                        pool.submit(ask, 1).result()
            assert [call.tags for call in llmcost.calls] == [("one",), ("two",)]

        def test_blocks(llmcost):
            with ThreadPoolExecutor(1) as pool, llmcost.budget("$1"):
                pool.submit(ask, 1).result()
                with llmcost.budget("$0.001"):
                    pool.submit(ask, 200).result()
        """,
    )
    result = project.run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_blocks - $0.0012 > $0.001 budget *"])


HELD = """
    import threading

    import pytest
    from app import ask
    from pytest_llmcost import tag

    @pytest.fixture(scope="session")
    def judge():
        ask(1000)
        with tag("judge"):
            ask(1001)
            yield
            ask(1002)
        ask(1003)

    @pytest.fixture(scope="module")
    def based(judge):
        pass

    @pytest.fixture(scope="module")
    def server():
        may_end, has_begun = threading.Event(), threading.Event()

        def serve():
            with tag("server"):
                has_begun.set()
                may_end.wait()

        thread = threading.Thread(target=serve)
        thread.start()
        has_begun.wait()
        yield
        may_end.set()
        thread.join()

    def test_first(judge): pass
    def test_second(based): pass
    def test_other(): ask(1)
    def test_server(server): ask(2)

    def test_by_name(request):
        with tag("test"):
            with pytest.raises(pytest.fail.Exception):
                request.getfixturevalue("judge")
            ask(3)
        ask(4)
"""


def test_a_tag_that_a_wider_fixture_leaves_open_is_an_error_and_no_other_test_s(
    tmp_path: Path,
) -> None:
    write_files(tmp_path, {"app.py": APP, "test_held.py": HELD})
    ran = run_suite(tmp_path)
    message = 'the session fixture judge leaves tag("judge") open; give it function scope, mark '
    assert (ran.status, ran.out.count(f"\n{message}")) == (1, 2), ran.out
    assert "3 passed, 2 errors" in ran.out
    ledger = ran.ledger()
    rows = [*ledger["tests"], *ledger["fixtures"]]
    calls = [call for row in rows for call in row["calls"]]
    tags = {call["usage"]["input_tokens"]: call.get("tags", []) for call in calls}
    of_fixture = {1000: [], 1001: ["judge"], 1002: ["judge"], 1003: []}
    assert tags == {1: [], 2: [], 3: ["test"], 4: []} | of_fixture


SMALL = """
    import pytest
    from pytest_llmcost import max_cost

    def payload(words=10):
        return {"model": "claude-haiku-4-5", "max_tokens": 100,
                "messages": [{"role": "user", "content": "word " * words}]}

    @pytest.mark.llmcost_tag("judge")
    def test_judge(llmcost):
        llmcost.count(payload(%d))

    def test_other(llmcost):
        with llmcost.tag("answer"):
            llmcost.count(payload(300))
"""


def test_the_comparison_and_the_comment_have_totals_by_tag_and_need_no_key(
    project: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.online(standin).write(test_app=SMALL % 10)
    project.record("--llmcost-report=base.json")
    project.write(test_app=SMALL % 500)
    project.run("--llmcost-record-mode=rewrite").assert_outcomes(passed=2)
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name)
    reports = ("--llmcost-report=comment.md", "--llmcost-report=ledger.json")
    result = project.run("--llmcost-baseline=base.json", *reports)
    result.assert_outcomes(passed=2)
    result.stdout.re_match_lines(
        [r"by tag: answer \$0.*, judge \$0.*", r"  tag judge: \$0.* → \$0"]
    )
    assert "tag answer:" not in result.stdout.str()
    assert list(project.ledger()["comparison"]["by_tag"]) == ["judge"]
    comment = (project.path / "comment.md").read_text(encoding="utf-8")
    assert "- tag judge: $0." in comment
    assert "<summary>By tag</summary>" in comment
    # Another tag on the same prompts is no change of the run.
    project.write(test_app=(SMALL % 500).replace('"judge"', '"grader"'))
    project.run("--llmcost-baseline=ledger.json", "--llmcost-report=renamed.json")
    renamed = project.ledger("renamed.json")["comparison"]
    assert (renamed["changes"], sorted(renamed["by_tag"])) == ([], ["grader", "judge"])


def test_a_budget_for_a_tag_that_no_call_has_is_noted_in_a_whole_run_and_in_its_shards_sum(
    project: Project, standin: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    project.online(standin).write(test_app=SMALL % 10)
    budget = ("-o", "llmcost_budgets=tag:jugde = $1")
    result = project.record(*budget)
    assert result.ret == 0
    line = "no call has the tag of the budget for tag:jugde; did you mean tag:judge?"
    result.stdout.fnmatch_lines([line])
    shards = []
    for name in ("judge", "other"):
        shards.append(str(project.path / f"{name}.json"))
        part = project.run(*budget, "-k", name, f"--llmcost-report={shards[-1]}")
        assert "no call has the tag" not in part.stdout.str()
    merged = str(project.path / "merged.json")
    assert main(["merge", *shards, "-o", merged]) == 0
    assert not any("no call has" in note for note in read_ledger(merged).notes)
    assert main(["merge", "--whole", *shards, "-o", merged]) == 0
    assert line in read_ledger(merged).notes
    capsys.readouterr()
    assert main(["render", merged]) == 0
    assert line in capsys.readouterr().out


def test_a_tag_of_another_shard_is_there_and_one_like_no_other_is_named_beside_all(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(test_app=SMALL % 10, test_more=SMALL % 11)
    project.record()
    budgets = ("-o", "llmcost_budgets=tag:judge = $1\n tag:agent = $1")
    result = project.run(*budgets)
    result.stdout.fnmatch_lines(
        ["no call has the tag of the budget for tag:agent; the tags of the run are answer,*"]
    )
    # Each shard takes itself for a whole run, because a plugin or a script has divided the suite.
    project.write(
        conftest="""
        import os

        def pytest_collection_modifyitems(items):
            items[:] = [each for each in items if os.environ["PART"] in each.name]
    """
    )
    shards = []
    for part in ("judge", "other"):
        shards.append(str(project.path / f"{part}.json"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PART", part)
            project.run(*budgets, f"--llmcost-report={shards[-1]}")
    assert any("for tag:judge" in note for note in read_ledger(shards[1]).notes)
    merged = str(project.path / "merged.json")
    assert main(["merge", *shards, "-o", merged]) == 0
    notes = [each for each in read_ledger(merged).notes if "has the tag" in each]
    assert notes == [
        "no call has the tag of the budget for tag:agent; the tags of the run are answer, judge"
    ]


@pytest.mark.parametrize("name", ["", " judge", "a b", "a,b", "a=b"])
def test_a_budget_is_for_a_tag_that_a_call_can_have(project: Project, name: str) -> None:
    project.write(test_app="def test_a(): pass")
    result = project.run("-o", f"llmcost_budgets=tag:{name} = $1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: llmcost_budgets: *"])
    if name:
        result.stderr.fnmatch_lines([f"ERROR: llmcost_budgets: *: {name!r} is not a tag; *"])


def test_a_tag_is_no_path(tmp_path: Path) -> None:
    test = """
        from app import ask
        from pytest_llmcost import tag

        def test_a():
            with tag("a//b\\\\c"):
                ask(1000)
    """
    write_files(tmp_path, {"app.py": APP, "test_a.py": test})
    env = {"PYTEST_LLMCOST_BUDGETS": "tag:a//b\\c = $0.001"}
    assert run_suite(tmp_path, env=env).status == 1


@pytest.mark.parametrize("name", ["", "a b", "a,b", "a=b", "3"])
def test_a_wrong_tag_is_an_error_that_says_where(project: Project, name: str) -> None:
    given = name if name == "3" else repr(name)
    project.write(
        test_app=f"""
    import pytest
    from pytest_llmcost import tag

    @pytest.mark.llmcost_tag({given})
    def test_marked(): pass
    """,
        test_block=f"""
    from pytest_llmcost import tag

    def test_block():
        with tag({given}): pass
    """,
    )
    result = project.run("--strict-markers", "--continue-on-collection-errors")
    result.assert_outcomes(errors=1, failed=1)
    result.stdout.fnmatch_lines(["*test_app.py:*: llmcost_tag: * is not a tag; *"])
    result.stdout.fnmatch_lines(["*SettingsError: * is not a tag; *"])


def test_a_keyword_of_the_tag_marker_is_an_error(project: Project) -> None:
    project.write(
        test_app="""
    import pytest

    @pytest.mark.llmcost_tag("judge", name="slow")
    def test_marked(): pass
    """
    )
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_app.py:*: llmcost_tag: has no argument name=; *"])

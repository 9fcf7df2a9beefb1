"""Our hooks entered again while we count, report or make the client: every run ends."""

from __future__ import annotations

import pytest
from conftest import Project
from standin import StandIn

SECONDS = 240
"""What hangs takes longer: the main thread waits for the others for 300."""
APP = """
    import anthropic

    def ask(*texts):
        with anthropic.Anthropic(max_retries=0) as client:
            for text in texts:
                client.messages.create(
                    model="claude-opus-4-7", max_tokens=50,
                    messages=[{"role": "user", "content": text}])
"""
TEST = """
    import pytest
    from app import ask
    from pytest_llmcost import max_cost

    @pytest.mark.vcr
    @max_cost("$0.05")
    def test_two(llmcost):
        ask("first prompt%s", "second prompt%s")
"""
VCR = """
    import pytest

    @pytest.fixture(scope="session")
    def vcr_config():
        return {"filter_headers": ["authorization", "x-api-key"]}
"""
CLIENT = """
    @pytest.fixture(scope="session")
    def llmcost_client():
        import anthropic
        with anthropic.Anthropic() as client:
            yield client
"""


@pytest.fixture
def changed(project: Project, standin: StandIn) -> Project:
    """A project whose two prompts have both changed since their replies were recorded."""
    project.online(standin).write(app=APP, conftest=VCR, test_app=TEST.replace("%s", ""))
    result = project.run("--record-mode=once", plugins=("recording",))
    result.assert_outcomes(passed=1)
    return project.write(test_app=TEST.replace("%s", ", changed"))


def count(project: Project, *args: str, plugins: tuple[str, ...] = ()) -> pytest.RunResult:
    options = ("--llmcost-record-mode=new_episodes", "--llmcost-report=ledger.json", *args)
    return project.run_apart(*options, plugins=("recording", *plugins), timeout=SECONDS)


def evidence(project: Project) -> list[str]:
    (test,) = project.ledger()["tests"]
    return [call["evidence"] for call in test["calls"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_two_changed_prompts_are_counted_with_a_client_made_in_between(
    changed: Project, workers: int
) -> None:
    changed.write(conftest=VCR + CLIENT)
    args, plugins = (("-n2",), ("xdist",)) if workers else ((), ())
    count(changed, *args, plugins=plugins).assert_outcomes(passed=1)
    assert evidence(changed) == ["recounted", "recounted"]


def test_a_client_whose_making_sends_a_request_counts_and_the_request_is_booked(
    changed: Project,
) -> None:
    changed.write(
        conftest=VCR + CLIENT.replace("yield", "import app; app.ask('warm up'); yield"),
        test_app=TEST.replace("@pytest.mark.vcr", "")
        .replace("%s", "")
        .replace("ask(", "llmcost.count(model='claude-opus-4-7', messages=MESSAGES); ask(")
        .replace("@max_cost", "MESSAGES = [{'role': 'user', 'content': 'Hello'}]\n\n    @max_cost"),
    )
    count(changed).assert_outcomes(passed=1)
    assert sorted(evidence(changed)) == ["billed", "billed", "counted"]
    (fixture,) = changed.ledger()["fixtures"]
    assert (fixture["name"], fixture["calls"][0]["evidence"]) == ("llmcost_client", "billed")


@pytest.mark.parametrize("first", ["", "llmcost.count(model='claude-opus-4-7', messages=TURNS)"])
def test_a_client_whose_making_sends_a_changed_prompt_leaves_none_uncounted(
    changed: Project, first: str
) -> None:
    sending = CLIENT.replace("yield", "import app; app.ask('third prompt'); yield")
    changed.write(
        conftest=VCR + sending,
        test_app=f"""
            import pytest
            from app import ask

            TURNS = [{{"role": "user", "content": "x"}}]

            @pytest.mark.vcr(allow_playback_repeats=True)
            def test_two(llmcost):
                {first}
                ask("first prompt, changed", "second prompt, changed")
        """,
    )
    count(changed).assert_outcomes(passed=1)
    assert evidence(changed).count("recounted") == 2
    (fixture,) = changed.ledger()["fixtures"]
    assert fixture["calls"][0]["evidence"] == "recounted"


def test_a_client_that_counts_while_it_is_made_is_a_clear_error(changed: Project) -> None:
    changed.write(
        conftest=VCR
        + """
    @pytest.fixture
    def llmcost_client(llmcost):
        import anthropic
        llmcost.count(model="claude-opus-4-7", messages=[{"role": "user", "content": "x"}])
        return anthropic.Anthropic()
    """,
        test_app=TEST.replace("ask(", "llmcost.count(model='claude-opus-4-7', messages=[]); ask("),
    )
    result = count(changed, "--llmcost-count-timeout=0.2")
    result.assert_outcomes(failed=1)
    assert "the fixture must neither count nor wait for this thread" in result.stdout.str()


def test_a_client_whose_requests_count_is_a_clear_error(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        conftest="""
            import anthropic, pytest

            @pytest.fixture
            def llmcost_client(llmcost):
                def count(request):
                    llmcost.count(model="claude-opus-4-7", messages=MESSAGES)
                http_client = anthropic.DefaultHttpxClient(event_hooks={"request": [count]})
                with anthropic.Anthropic(http_client=http_client, max_retries=0) as client:
                    yield client

            MESSAGES = [{"role": "user", "content": "x"}]
        """,
        test_app="""
            def test_it(llmcost):
                llmcost.count(model="claude-opus-4-7", messages=[{"role": "user", "content": "x"}])
        """,
    )
    result = count(project)
    result.assert_outcomes(failed=1)
    assert "counts while it is sending a count" in result.stdout.str()


def test_a_skip_in_the_client_fails_the_count_and_loses_no_call(changed: Project) -> None:
    changed.write(
        conftest=VCR
        + """
    @pytest.fixture(scope="session")
    def llmcost_client():
        pytest.skip("no key here")
    """
    )
    count(changed).assert_outcomes(failed=1)
    assert evidence(changed) == ["stale", "stale"]


HOOKS = {
    "counts": """
        llmcost = item.funcargs["llmcost"]
        if call.evidence != "counted":
            llmcost.count(model="claude-opus-4-7", messages=[{"role": "user", "content": "x"}])
    """,
    "looks at what was spent": """
        assert item.funcargs["llmcost"].usage.output_tokens > 0
    """,
    "has a block": """
        with item.funcargs["llmcost"].budget("$1"):
            pass
    """,
    "waits for a thread that sends": """
        in_a_thread(lambda: app.ask("first prompt, changed"))
    """,
    "waits for a thread that counts": """
        if call.evidence != "counted":
            llmcost = item.funcargs["llmcost"]
            in_a_thread(lambda: llmcost.count(
                model="claude-opus-4-7", messages=[{"role": "user", "content": "x"}]))
    """,
    "waits for a thread that looks": """
        if len(seen) == 1:  # each takes our longest wait
            in_a_thread(lambda: item.funcargs["llmcost"].calls)
    """,
    "waits for a thread whose request is lost": """
        in_a_thread(lose)
    """,
}


@pytest.mark.parametrize("kind", HOOKS)
def test_a_hook_may_do_what_a_test_does(changed: Project, kind: str) -> None:
    changed.write(
        conftest=VCR
        + CLIENT
        + """
    import threading
    import app
    from pytest_llmcost.plugin import session

    session.SHORT_WAIT = 0.5  # which two of the hooks wait for in full

    def in_a_thread(work):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    def lose():
        import httpx
        def fail(request):
            raise httpx.ReadTimeout("too late")
        with httpx.Client(transport=httpx.MockTransport(fail)) as client:
            try:
                client.post("https://api.anthropic.com/v1/messages", json={"model": "m"})
            except httpx.ReadTimeout:
                pass

    seen = []

    def pytest_llmcost_call(call, item):
        if len(seen) > 3:
            return
        seen.append(call)
"""
        + HOOKS[kind]
    )
    result = count(changed)
    assert "INTERNALERROR" not in result.stdout.str()
    assert result.ret in (0, 1), result.stdout.str()
    assert evidence(changed).count("recounted") >= 2


def test_what_another_thread_spends_while_the_client_is_made_is_not_the_clients(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        conftest="""
            import pytest, threading

            is_making, is_recorded = threading.Event(), threading.Event()

            @pytest.fixture(scope="session")
            def llmcost_client():
                import anthropic
                is_making.set()
                assert is_recorded.wait(20)
                with anthropic.Anthropic() as client:
                    yield client
        """,
        test_app="""
            import threading
            from conftest import is_making, is_recorded

            def test_it(llmcost):
                def spend():
                    is_making.wait(20)
                    llmcost.record({"input_tokens": 9, "output_tokens": 1},
                                   model="claude-opus-4-7")
                    is_recorded.set()

                thread = threading.Thread(target=spend)
                thread.start()
                llmcost.count(model="claude-opus-4-7",
                              messages=[{"role": "user", "content": "x"}])
                thread.join()
        """,
    )
    count(project).assert_outcomes(passed=1)
    assert evidence(project) == ["declared", "counted"]


def test_threads_that_send_changed_prompts_and_look_at_once_all_come_to_an_end(
    changed: Project,
) -> None:
    changed.write(
        conftest=VCR + CLIENT,
        test_app="""
            import pytest, threading
            from app import ask
            from pytest_llmcost import max_cost

            @pytest.mark.vcr(allow_playback_repeats=True)
            @max_cost("$1")
            def test_two(llmcost):
                ask("first prompt, changed")

                def look(number):
                    llmcost.count(model="claude-opus-4-7",
                                  messages=[{"role": "user", "content": str(number)}])
                    with llmcost.budget("$1"):
                        assert llmcost.calls

                threads = [threading.Thread(target=look, args=(n,)) for n in range(6)]
                for thread in threads: thread.start()
                for thread in threads: thread.join()
        """,
    )
    count(changed).assert_outcomes(passed=1)
    assert sorted(evidence(changed)) == ["counted"] * 6 + ["recounted"]


def test_threads_that_count_at_once_have_one_cassette_and_make_no_fixture_at_once(
    project: Project, standin: StandIn
) -> None:
    project.online(standin).write(
        conftest="""
            import time, pytest

            @pytest.fixture
            def default_cassette_name():
                time.sleep(0.1)  # until the other threads are there, too
                return "ours"
        """,
        test_app="""
            from concurrent.futures import ThreadPoolExecutor

            def test_it(llmcost):
                def count(number):
                    llmcost.count(model="claude-opus-4-7",
                                  messages=[{"role": "user", "content": str(number)}])

                with ThreadPoolExecutor(8) as pool:
                    list(pool.map(count, range(8)))
        """,
    )
    count(project).assert_outcomes(passed=1)
    project.run("--llmcost-record-mode=none").assert_outcomes(passed=1)

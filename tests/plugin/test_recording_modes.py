"""Who may go online and what is recorded where: our modes, pytest-recording's, and the files."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
import yaml
from conftest import Project
from spending_suite import APP
from standin import StandIn

COUNTS = """
    import os
    import pytest

    def payload(words=None):
        words = words or int(os.environ.get("WORDS", "100"))
        return {
            "model": "claude-opus-4-7",
            "max_tokens": 100,
            "system": "You are brief.",
            "messages": [{"role": "user", "content": "secretword " * words}],
        }
"""
ONE = (
    COUNTS
    + """
    def test_one(llmcost):
        llmcost.count(payload())
"""
)
FILE = "cassettes/test_app/test_one.llmcost.yaml"


def entries(project: Project, name: str = FILE) -> list[dict[str, object]]:
    """What a count cassette holds, as VCR's own reader sees it."""
    document = yaml.safe_load((project.path / name).read_text(encoding="utf-8"))
    return [yaml.safe_load(each["request"]["body"]) for each in document["interactions"]]


def tokens(project: Project, name: str = FILE) -> list[str]:
    document = yaml.safe_load((project.path / name).read_text(encoding="utf-8"))
    return [each["response"]["body"]["string"] for each in document["interactions"]]


def keys(standin: StandIn) -> set[str]:
    """The keys that counts were asked for with, wherever the SDK puts them."""
    return {
        each.headers.get("x-api-key") or each.headers["authorization"].removeprefix("Bearer ")
        for each in standin.counted
    }


def cassettes(project: Project) -> set[str]:
    return {path.relative_to(project.path).as_posix() for path in project.path.rglob("*.yaml")}


# Modes of our own


def test_mode_none_never_goes_out_even_with_a_key(online: Project, standin: StandIn) -> None:
    online.write(test_app=ONE)
    for args in ([], ["--llmcost-record-mode=none"]):
        result = online.run(*args)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                "a prompt is not counted yet",
                "  count it (free) * pytest test_app.py::test_one --llmcost-record-mode=rewrite",
            ]
        )
    assert standin.requests == []
    assert cassettes(online) == set()


@pytest.mark.parametrize(
    ("mode", "changed", "asks", "kept"),
    [
        ("none", False, 0, 1),
        ("once", False, 0, 1),
        ("new_episodes", False, 0, 1),
        ("all", False, 1, 1),
        ("rewrite", False, 1, 1),
        ("new_episodes", True, 1, 2),
        ("all", True, 1, 2),
        ("rewrite", True, 1, 1),
    ],
)
def test_each_mode_asks_and_keeps_as_it_says(
    online: Project,
    standin: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    changed: bool,
    asks: int,
    kept: int,
) -> None:
    online.write(test_app=ONE)
    online.record().assert_outcomes(passed=1)
    assert len(standin.counted) == 1
    before = (online.path / FILE).read_bytes()
    if changed:
        monkeypatch.setenv("WORDS", "200")
    online.run(f"--llmcost-record-mode={mode}").assert_outcomes(passed=1)
    assert len(standin.counted) == 1 + asks
    assert len(entries(online)) == kept
    assert ((online.path / FILE).read_bytes() == before) == (not changed)


@pytest.mark.parametrize("mode", ["none", "once"])
def test_a_changed_prompt_is_a_miss_and_the_printed_command_repairs_it(
    online: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    online.write(test_app=ONE)
    online.record()
    monkeypatch.setenv("WORDS", "200")
    result = online.run(f"--llmcost-record-mode={mode}")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "  changed           messages.0 (since it was counted)" in text
    run_command(online, text).assert_outcomes(passed=1)
    online.run().assert_outcomes(passed=1)
    assert len(standin.counted) == 2


def run_command(project: Project, text: str) -> pytest.RunResult:
    """Paste the command that a failure prints, as a shell would take it apart."""
    (command,) = {
        line.partition("(free) ")[2]
        for line in text.splitlines()
        if line.startswith("  count it (free) ")
    }
    program, *args = shlex.split(command)
    assert program == "pytest"
    return project.run(*args)


AWKWARD = (
    COUNTS
    + """
    class TestIt:
        @pytest.mark.parametrize("case", ["it's", "a b", 'say "no"', "x[1]", "$HOME;ls", "a::b/c"])
        def test_case(self, llmcost, case):
            llmcost.count({**payload(), "system": case})
"""
)


def test_the_printed_command_can_be_pasted_whatever_a_test_is_called(
    online: Project, standin: StandIn
) -> None:
    online.write(**{"some dir__test_app": AWKWARD})
    result = online.run("-k", "it or say or ls")
    commands = {
        line.partition("(free) ")[2]
        for line in result.outlines
        if line.startswith("  count it (free) ")
    }
    failed = result.parseoutcomes()["failed"]
    assert len(commands) == failed > 0
    for command in sorted(commands):
        online.run(*shlex.split(command)[1:]).assert_outcomes(passed=1)
    online.run().assert_outcomes(passed=failed, failed=6 - failed)


def test_from_another_folder_the_command_names_the_test_from_there(
    online: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    online.write(pytest_ini="[pytest]\n", sub__test_app=ONE, other__test_x="def test_x(): pass")
    monkeypatch.chdir(online.path / "sub")
    result = online.run()
    result.stdout.fnmatch_lines(
        ["  count it (free) *pytest test_app.py::test_one --llmcost-record-mode=rewrite"]
    )
    run_command(online, result.stdout.str()).assert_outcomes(passed=1)
    monkeypatch.chdir(online.path / "other")
    online.run("../sub").assert_outcomes(passed=1)
    assert cassettes(online) == {f"sub/{FILE}"}
    (online.path / "sub" / FILE).unlink()
    result = online.run("../sub")
    run_command(online, result.stdout.str()).assert_outcomes(passed=1)
    assert cassettes(online) == {f"sub/{FILE}"}


def test_outside_of_the_rootdir_the_command_names_the_test_where_it_is(online: Project) -> None:
    online.write(suite__test_app=ONE)
    (online.path / "settings").mkdir()
    (online.path / "settings" / "pytest.ini").write_text("[pytest]\n")
    arguments = ("-c", "settings/pytest.ini", "suite")
    online.run(*arguments).stdout.fnmatch_lines(
        ["*count it (free) * pytest suite/test_app.py::test_one --llmcost-record-mode=rewrite"]
    )
    online.run(*arguments, "--llmcost-max-test=$1").stdout.fnmatch_lines(
        ["*count it (free) * pytest suite/test_app.py::test_one --llmcost-record-mode=rewrite"]
    )


def test_recording_twice_gives_the_same_bytes_and_no_secret(
    online: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-" + "ant-api03-hidden")
    online.write(
        test_app=ONE,
        conftest="""
    import anthropic
    import pytest

    @pytest.fixture(scope="session")
    def llmcost_client():
        return anthropic.Anthropic(
            default_headers={"cookie": "session=hidden", "authorization": "Bearer hidden"})
    """,
    )
    online.record()
    first = (online.path / FILE).read_bytes()
    (online.path / FILE).unlink()
    online.record()
    assert (online.path / FILE).read_bytes() == first
    for secret in (b"hidden", b"secretword", b"127.0.0.1", b"req_", b"org-", b"You are brief"):
        assert secret not in first
    assert online.run().parseoutcomes() == {"passed": 1}


def test_once_lets_a_second_attempt_count_what_the_first_did_not_come_to(
    online: Project, standin: StandIn
) -> None:
    online.write(
        test_app=COUNTS
        + """
    SEEN = []

    def test_flaky(llmcost):
        llmcost.count(payload(10))
        SEEN.append(1)
        assert len(SEEN) > 1
        llmcost.count(payload(20))
    """
    )
    result = online.record("--reruns=1", plugins=("rerunfailures",))
    assert result.parseoutcomes() == {"passed": 1, "rerun": 1}
    assert len(entries(online, "cassettes/test_app/test_flaky.llmcost.yaml")) == 2


@pytest.mark.parametrize("mode", ["once", "new_episodes", "all", "rewrite"])
def test_a_failing_test_keeps_what_it_has_counted(
    online: Project, standin: StandIn, mode: str
) -> None:
    online.write(test_app=ONE + "        assert 0\n")
    online.run(f"--llmcost-record-mode={mode}").assert_outcomes(failed=1)
    assert len(entries(online)) == 1


# Files


def test_classes_parameters_and_long_names_have_the_file_that_pytest_recording_would_choose(
    online: Project, standin: StandIn
) -> None:
    online.write(
        test_app=COUNTS
        + """
    import anthropic

    class TestBoth:
        @pytest.mark.vcr
        @pytest.mark.parametrize("case", ["a/b", pytest.param(1, id="x" * 300), "q?"])
        def test_case(self, llmcost, case):
            llmcost.count(payload())
            anthropic.Anthropic().messages.create(**payload())
    """
    )
    result = online.run("--record-mode=once", plugins=("recording",))
    result.assert_outcomes(passed=3)
    folder = online.path / "cassettes" / "test_app"
    counts = {path.name.removesuffix(".llmcost.yaml") for path in folder.glob("*.llmcost.yaml")}
    assert "TestBoth.test_case[a-b]" in counts
    theirs = {path.stem for path in folder.glob("*.yaml") if ".llmcost" not in path.name}
    short = {name for name in theirs if len(name) < 200}
    assert short <= counts
    assert len(counts) == 3
    online.run(plugins=("recording",)).assert_outcomes(passed=3)


def test_folders_and_names_are_overridden_by_pytest_recording_s_own_fixtures_and_marker(
    online: Project, standin: StandIn
) -> None:
    online.write(
        pytest_ini="[pytest]\nmarkers = default_cassette",
        test_app=COUNTS
        + """
    @pytest.fixture(scope="module")
    def vcr_cassette_dir(request):
        return str(request.path.parent / "tapes")

    @pytest.mark.default_cassette("shared")
    def test_marked(llmcost):
        llmcost.count(payload(10))

    @pytest.mark.default_cassette("shared")
    def test_marked_too(llmcost):
        llmcost.count(payload(10))
        llmcost.count(payload(20))

    class TestNamed:
        @pytest.fixture
        def default_cassette_name(self):
            return "sub/named"

        def test_it(self, llmcost):
            llmcost.count(payload(30))
    """,
    )
    for plugins in ((), ("recording",)):
        online.record(plugins=plugins).assert_outcomes(passed=3)
        assert cassettes(online) == {"tapes/shared.llmcost.yaml", "tapes/sub/named.llmcost.yaml"}
    askers = {str(each["asked_by"]) for each in entries(online, "tapes/shared.llmcost.yaml")}
    assert askers == {
        "['test_app.py::test_marked', 'test_app.py::test_marked_too']",
        "['test_app.py::test_marked_too']",
    }


def test_rewriting_a_shared_cassette_prunes_only_what_the_asker_let_go(
    online: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    online.write(
        pytest_ini="[pytest]\nmarkers = default_cassette",
        test_app=COUNTS
        + """
    pytestmark = pytest.mark.default_cassette("shared")

    def test_one(llmcost):
        llmcost.count(payload())

    def test_two(llmcost):
        llmcost.count(payload(7))
    """,
    )
    shared = "cassettes/test_app/shared.llmcost.yaml"
    online.record()
    monkeypatch.setenv("WORDS", "11")
    online.run("--llmcost-record-mode=rewrite", "-k", "one").assert_outcomes(passed=1, deselected=1)
    assert len(entries(online, shared)) == 2
    online.run().assert_outcomes(passed=2)


ENDS_EARLY = {
    "error": "raise RuntimeError('too soon')",
    "skip": "pytest.skip('not today')",
    "interrupt": "raise KeyboardInterrupt",
    "fixture": "pass",
}


@pytest.mark.parametrize("how", ENDS_EARLY)
def test_rewriting_keeps_what_a_test_that_ended_early_did_not_come_to(
    online: Project, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    online.write(
        test_app=COUNTS
        + f"""
    def ends_early(way):
        if os.environ.get("HOW") == way:
            raise RuntimeError("too soon")

    @pytest.fixture
    def given(llmcost):
        llmcost.count(payload(20))
        ends_early("fixture")
        llmcost.count(payload(21))
        yield
        llmcost.count(payload(22))

    def test_one(given, llmcost):
        llmcost.count(payload(24))
        if os.environ.get("HOW") == {how!r}:
            {ENDS_EARLY[how]}
        llmcost.count(payload(25))
    """,
    )
    online.record().assert_outcomes(passed=1)
    before = (online.path / FILE).read_bytes()
    monkeypatch.setenv("HOW", how)
    online.run("--llmcost-record-mode=rewrite")
    assert (online.path / FILE).read_bytes() == before


@pytest.mark.parametrize("phase", ["setup", "teardown"])
def test_rewriting_keeps_what_a_shared_fixture_that_failed_did_not_come_to(
    online: Project, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    online.write(
        app=APP,
        test_app="""
    import os
    import pytest
    import vcr
    from app import ask_live

    @pytest.fixture(scope="module")
    def primed():
        with vcr.use_cassette("primed.yaml", match_on=["method"]):
            ask_live(int(os.environ["WORDS"]))
            assert os.environ.get("FAILS") != "setup"
            yield
            assert os.environ.get("FAILS") != "teardown"
            ask_live(int(os.environ["WORDS"]) + 1)

    def test_one(primed):
        pass
    """,
    )
    monkeypatch.setenv("WORDS", "10")
    online.run().assert_outcomes(passed=1)
    monkeypatch.setenv("WORDS", "100")
    online.run("--llmcost-record-mode=rewrite").assert_outcomes(passed=1)
    counts = "cassettes/test_app/module.primed.llmcost.yaml"
    assert len(entries(online, counts)) == 2
    monkeypatch.setenv("FAILS", phase)
    assert online.run("--llmcost-record-mode=rewrite").parseoutcomes()["errors"] == 1
    assert len(entries(online, counts)) == 2


@pytest.mark.parametrize("option", ["--llmcost-record-mode=rewrite", "--record-mode=rewrite"])
def test_rewriting_drops_the_counts_of_a_test_that_asks_for_none_any_more(
    online: Project, option: str
) -> None:
    online.write(test_app=ONE)
    online.record().assert_outcomes(passed=1)
    online.write(test_app="def test_one():\n    pass")
    online.run().assert_outcomes(passed=1)
    assert cassettes(online) == {FILE}
    online.run(option, plugins=("recording",)).assert_outcomes(passed=1)
    assert cassettes(online) == set()


def test_rewriting_drops_the_counts_of_prompts_that_are_as_recorded_again(
    online: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    online.write(
        app=APP,
        test_app="""
    import os
    import pytest
    import vcr
    from app import ask_live

    def ask(name):
        with vcr.use_cassette(name, match_on=["method"]):
            ask_live(int(os.environ["WORDS"]))

    @pytest.fixture(scope="module")
    def primed():
        ask("primed.yaml")

    def test_one(primed):
        ask("one.yaml")
    """,
    )
    counts = {FILE, "cassettes/test_app/module.primed.llmcost.yaml"}
    for words, kept in (("10", set()), ("100", counts), ("10", set())):
        monkeypatch.setenv("WORDS", words)
        online.run("--llmcost-record-mode=rewrite").assert_outcomes(passed=1)
        assert cassettes(online) - {"one.yaml", "primed.yaml"} == kept


def test_rewriting_drops_what_a_test_over_its_budget_no_longer_asks_for(
    online: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    online.write(test_app=ONE)
    online.record()
    monkeypatch.setenv("WORDS", "11")
    online.run("--llmcost-record-mode=rewrite", "--llmcost-max-test=0").assert_outcomes(failed=1)
    assert len(entries(online)) == 1


def test_counts_of_another_version_s_recipe_are_renewed_by_the_command(online: Project) -> None:
    online.write(test_app=ONE)
    online.record()
    path = online.path / FILE
    path.write_text(path.read_text().replace('"2:', '"3:'))
    result = online.run()
    result.stdout.fnmatch_lines(
        [
            "a prompt is not counted yet",
            "  count it (free) * pytest test_app.py::test_one --llmcost-record-mode=rewrite",
        ]
    )
    run_command(online, result.stdout.str()).assert_outcomes(passed=1)
    assert len(entries(online)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("just text", "*test_one.llmcost.yaml*"),
        ("interactions: [", "*test_one.llmcost.yaml*"),
        ("interactions: [{request: {}, response: {}}]\nversion: 1", "*test_one.llmcost.yaml*"),
    ],
)
def test_a_damaged_count_cassette_is_an_error_and_stays_as_it_is(
    online: Project, standin: StandIn, text: str, message: str
) -> None:
    online.write(test_app=ONE)
    path = online.path / FILE
    path.parent.mkdir(parents=True)
    path.write_text(text)
    for mode in ("none", "once", "all", "rewrite"):
        result = online.run(f"--llmcost-record-mode={mode}")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines([f"  cause *{message}"])
        assert path.read_text() == text
        result.stdout.fnmatch_lines(["  asked for at *test_app.py:*"])
    online.write(test_app="def test_one():\n    pass")
    online.run().assert_outcomes(passed=1)
    result = online.run("--llmcost-record-mode=rewrite")
    result.stdout.fnmatch_lines([f"counts were not saved: {message}; restore it, or *"])
    assert standin.requests == []


# pytest-recording's modes

MARKED = (
    COUNTS
    + """
    @pytest.mark.vcr{arguments}
    def test_one(llmcost):
        llmcost.count(payload())
"""
)


@pytest.mark.parametrize(
    ("arguments", "config", "args", "goes_out"),
    [
        ("", "", [], False),
        ("", "", ["--record-mode=once"], True),
        ("", "", ["--record-mode=rewrite"], True),
        ("(record_mode='new_episodes')", "", [], True),
        ("(record_mode='once')", "", ["--record-mode=none"], False),
        ("", "{'record_mode': 'all'}", [], True),
        ("", "{'record_mode': RecordMode.ONCE}", [], True),
        ("(record_mode='none')", "{'record_mode': 'all'}", [], False),
        ("(record_mode='none')", "", ["--llmcost-record-mode=once"], True),
        ("(record_mode='all')", "", ["--llmcost-record-mode=none"], False),
    ],
)
def test_without_our_flag_counts_follow_pytest_recording(
    online: Project,
    standin: StandIn,
    arguments: str,
    config: str,
    args: list[str],
    goes_out: bool,
) -> None:
    override = f"""
    from vcr.record_mode import RecordMode

    @pytest.fixture
    def vcr_config():
        return {config}
    """
    app = MARKED.replace("{arguments}", arguments)
    online.write(test_app=app + (override if config else ""))
    result = online.run(*args, plugins=("recording",))
    result.assert_outcomes(passed=goes_out, failed=not goes_out)
    assert len(standin.counted) == goes_out
    assert ((online.path / FILE).exists()) == goes_out


def test_a_test_without_the_vcr_marker_does_not_follow_vcr_config(
    online: Project, standin: StandIn
) -> None:
    online.write(
        test_app=ONE,
        conftest="""
    import pytest

    @pytest.fixture
    def vcr_config():
        return {"record_mode": "all"}
    """,
    )
    online.run(plugins=("recording",)).assert_outcomes(failed=1)
    assert standin.requests == []


def test_disable_recording_counts_live_and_leaves_the_files_alone(
    online: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    online.write(test_app=ONE)
    online.record()
    before = (online.path / FILE).read_bytes()
    monkeypatch.setenv("WORDS", "200")
    result = online.run("--disable-recording", "--llmcost-report=l.json", plugins=("recording",))
    result.assert_outcomes(passed=1)
    assert len(standin.counted) == 2
    assert (online.path / FILE).read_bytes() == before
    assert online.ledger("l.json")["totals"]["live_usd"] == "0"


def test_disable_recording_sends_nothing_if_the_mode_is_set_to_none(
    online: Project, standin: StandIn
) -> None:
    online.write(test_app=ONE)
    options = ("--disable-recording", "--llmcost-record-mode=none")
    result = online.run(*options, plugins=("recording",))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*a prompt is not counted yet*"])
    assert standin.requests == []


def test_everything_works_without_pytest_recording(online: Project, standin: StandIn) -> None:
    online.write(test_app=ONE)
    online.record("-p", "no:recording").assert_outcomes(passed=1)
    online.run("-p", "no:recording").assert_outcomes(passed=1)
    assert len(standin.counted) == 1


# The user's own cassette

BOTH = (
    COUNTS
    + """
    import anthropic

    @pytest.fixture(scope="module")
    def vcr_config():
        return {"filter_headers": ["x-api-key"]}

    @pytest.mark.vcr
    def test_one(llmcost, vcr):
        before = llmcost.count(payload())
        reply = anthropic.Anthropic(max_retries=0).messages.create(**payload())
        after = llmcost.count(payload(7))
        assert reply.usage.output_tokens
        print("plays", vcr.play_count, "of", len(vcr))
"""
)


def test_the_user_s_cassette_gets_no_request_of_ours_and_keeps_its_play_counts(
    online: Project, standin: StandIn
) -> None:
    online.write(test_app=BOTH)
    online.run("--record-mode=once", plugins=("recording",)).assert_outcomes(passed=1)
    theirs = online.path / "cassettes/test_app/test_one.yaml"
    recorded = yaml.safe_load(theirs.read_text())
    assert [each["request"]["uri"].rpartition("/")[2] for each in recorded["interactions"]] == [
        "messages"
    ]
    before = theirs.read_bytes()
    result = online.run("-s", plugins=("recording",))
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*plays 1 of 1*"])
    # counting anew beside a cassette in mode none, which would refuse a request that it sees
    result = online.run("-s", "--llmcost-record-mode=all", plugins=("recording",))
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*plays 1 of 1*"])
    assert theirs.read_bytes() == before


@pytest.mark.parametrize("mode", ["once", "new_episodes", "all", "rewrite"])
def test_recording_both_at_once_leaves_our_counts_out_of_theirs(
    online: Project, standin: StandIn, mode: str
) -> None:
    online.write(test_app=BOTH)
    for _ in range(2):
        result = online.run(f"--record-mode={mode}", plugins=("recording",))
        result.assert_outcomes(passed=1)
    text = (online.path / "cassettes/test_app/test_one.yaml").read_text()
    assert "count_tokens" not in text
    assert len(entries(online)) == 2


# A network that is blocked


@pytest.mark.parametrize(
    ("plugin", "flag"), [("recording", "--block-network"), ("socket", "--disable-socket")]
)
def test_a_blocked_network_is_told_apart_from_a_broken_one(
    online: Project, standin: StandIn, plugin: str, flag: str
) -> None:
    online.write(test_app=ONE)
    result = online.run(flag, "--llmcost-record-mode=once", plugins=(plugin,))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["  cause *forbids connections*"])
    assert standin.requests == []
    online.record()
    online.run(flag, plugins=(plugin,)).assert_outcomes(passed=1)


def test_a_missing_key_a_refused_payload_and_a_limit_are_told(
    project: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write(test_app=ONE.replace('"model": "claude-opus-4-7"', '"model": "claude-nope-1"'))
    result = project.run("--llmcost-record-mode=once")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["  to settle it *ANTHROPIC_API_KEY*"])
    project.online(standin)
    result = project.run("--llmcost-record-mode=once")
    result.assert_outcomes(failed=1)
    assert "Traceback" not in result.stdout.str()


# The user's client


def test_the_user_s_client_counts_and_is_made_only_when_needed(
    online: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = os.environ["ANTHROPIC_BASE_URL"]
    monkeypatch.delenv("ANTHROPIC_BASE_URL")
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    online.write(
        test_app=ONE + "\n    def test_two(llmcost):\n        llmcost.count(payload(3))\n",
        conftest=f"""
    import pathlib
    import pytest

    @pytest.fixture(scope="session")
    def llmcost_client():
        import anthropic
        pathlib.Path("made").write_text("x")
        with anthropic.Anthropic(base_url="{url}", api_key="mine") as client:
            yield client
        pathlib.Path("closed").write_text("x")
    """,
    )
    online.record().assert_outcomes(passed=2)
    made = online.path / "made"
    assert made.exists()
    assert (online.path / "closed").exists()
    assert keys(standin) == {"mine"}
    made.unlink()
    online.run().assert_outcomes(passed=2)
    assert not made.exists()


def test_a_shared_fixture_s_recount_uses_the_user_s_client_too(
    online: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first count of a run may be a session fixture's, whose prompt outgrew its cassette."""
    url = os.environ["ANTHROPIC_BASE_URL"]
    online.write(
        conftest=f"""
    import anthropic
    import os
    import pytest
    import vcr

    def client(key):
        return anthropic.Anthropic(base_url="{url}", api_key=key)

    @pytest.fixture(scope="session")
    def llmcost_client():
        return client("mine")

    @pytest.fixture(scope="session")
    def primed():
        words = int(os.environ.get("WORDS", "100"))
        with vcr.use_cassette("primed.yaml", record_mode=os.environ.get("VCR", "none"),
                              match_on=["method", "path"], filter_headers=["x-api-key"]):
            return client("theirs").messages.create(
                model="claude-opus-4-7", max_tokens=10,
                messages=[{{"role": "user", "content": "word " * words}}])
    """,
        test_app="def test_one(primed): pass",
    )
    monkeypatch.setenv("VCR", "once")
    online.run().assert_outcomes(passed=1)
    monkeypatch.setenv("VCR", "none")
    monkeypatch.setenv("WORDS", "500")
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    result = online.run("--llmcost-record-mode=once", "--llmcost-report=l.json")
    result.assert_outcomes(passed=1)
    (fixture,) = online.ledger("l.json")["fixtures"]
    assert [call["evidence"] for call in fixture["calls"]] == ["recounted"]
    assert keys(standin) == {"mine"}
    assert "cassettes/session.primed.llmcost.yaml" in cassettes(online)
    result = online.run("--llmcost-report=l.json")
    (fixture,) = online.ledger("l.json")["fixtures"]
    assert [call["evidence"] for call in fixture["calls"]] == ["recounted"]


def test_what_differs_on_purpose_is_normalised_in_look_up_and_record(
    online: Project, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    online.write(
        test_app=COUNTS
        + """
    def test_one(llmcost):
        llmcost.count({**payload(), "system": f"Today is {os.environ['DAY']}. Be brief."})
    """,
        conftest="""
    import re

    def pytest_llmcost_normalize_payload(payload, item):
        assert item.name == "test_one"
        return {**payload, "system": re.sub(r"Today is \\w+", "Today is", payload["system"])}
    """,
    )
    monkeypatch.setenv("DAY", "monday")
    online.record().assert_outcomes(passed=1)
    assert standin.counted[0].body["system"] == "Today is monday. Be brief."
    monkeypatch.setenv("DAY", "tuesday")
    online.run().assert_outcomes(passed=1)
    assert len(standin.counted) == 1


def test_a_user_s_folder_may_be_read_only_as_long_as_nothing_is_recorded(
    online: Project, standin: StandIn
) -> None:
    online.write(test_app=ONE)
    online.record()
    files = {path: path.stat().st_mtime_ns for path in Path(online.path).rglob("*.yaml")}
    online.run("--llmcost-record-mode=once").assert_outcomes(passed=1)
    assert {path: path.stat().st_mtime_ns for path in files} == files

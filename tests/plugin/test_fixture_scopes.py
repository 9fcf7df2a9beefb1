"""Who owns what is spent: fixtures of every scope, set up, torn down, failing, async, nested."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from conftest import Project
from standin import StandIn

ASK = """
    import os
    import httpx
    import pytest
    from pytest_llmcost import max_cost

    URL = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
    HEADERS = {"x-api-key": "any", "anthropic-version": "2023-06-01"}

    def body(words=1):
        return {"model": "claude-opus-4-7", "max_tokens": 10,
                "messages": [{"role": "user", "content": "word " * words}]}

    def ask(words=1):
        assert httpx.post(URL, headers=HEADERS, json=body(words)).status_code == 200

    async def aask(words=1):
        async with httpx.AsyncClient() as client:
            reply = await client.post(URL, headers=HEADERS, json=body(words))
        assert reply.status_code == 200
"""


def run(project: Project, *args: str, plugins: tuple[str, ...] = ()) -> dict[str, Any]:
    project.run("--llmcost-report=ledger.json", *args, plugins=plugins)
    return project.ledger()


def owned(ledger: dict[str, Any]) -> dict[str, list[str]]:
    """The phases of the calls of every owner, by a short name of it."""
    found = {
        test["nodeid"].rpartition("::")[2]: [call["phase"] for call in test["calls"]]
        for test in ledger["tests"]
    }
    for fixture in ledger["fixtures"]:
        place = fixture["node"].rpartition("/")[2] or "session"
        name = " ".join(filter(None, [fixture["name"], place, fixture.get("param")]))
        assert name not in found
        found[name] = [call["phase"] for call in fixture["calls"]]
    found["nobody"] = [call["phase"] for call in ledger["outside_tests"]]
    return found


ALL_THREE = ["setup", "teardown"]


def test_every_scope_owns_its_set_up_and_its_teardown(online: Project) -> None:
    (online.path / "pkg").mkdir()
    (online.path / "pkg" / "__init__.py").touch()
    online.write(
        pytest_ini="[pytest]\npythonpath = .",
        pkg__conftest=ASK
        + """
    @pytest.fixture(scope="session")
    def of_session():
        ask(1)
        yield
        ask(2)

    @pytest.fixture(scope="package")
    def of_package(of_session):
        ask(3)
        yield
        ask(4)

    @pytest.fixture(scope="module")
    def of_module(of_package, request):
        request.addfinalizer(lambda: ask(6))
        ask(5)

    @pytest.fixture(scope="class")
    def of_class(of_module):
        ask(7)
        yield
        ask(8)

    @pytest.fixture
    def of_function(of_class):
        ask(9)
        yield
        ask(10)
    """,
        pkg__test_a="""
    from pkg.conftest import ask

    class TestIt:
        def test_one(self, of_function):
            ask(11)

        def test_two(self, of_function):
            pass
    """,
        pkg__test_b="def test_three(of_module): pass",
    )
    assert owned(run(online)) == {
        "test_one": ["setup", "call", "teardown"],
        "test_two": ["setup", "teardown"],
        "of_session session": ALL_THREE,
        "of_package pkg": ALL_THREE,
        "of_module test_a.py": ALL_THREE,
        "of_module test_b.py": ALL_THREE,
        "of_class test_a.py::TestIt": ALL_THREE,
        "nobody": [],
    }


def test_parametrised_fixtures_are_told_apart_and_switched_in_the_midst_of_a_test_s_set_up(
    online: Project,
) -> None:
    online.write(
        test_app=ASK
        + """
    class Thing:
        pass

    @pytest.fixture(scope="module", params=["a", 2, Thing(), "x" * 99])
    def wide(request):
        ask(1)
        yield request.param
        ask(2)

    @pytest.fixture
    def narrow(wide):
        ask(3)

    def test_one(narrow):
        ask(4)

    def test_two(wide):
        pass
    """
    )
    first, second = run(online), run(online)
    long = f"'{'x' * 79}... {sha256(repr('x' * 99).encode()).hexdigest()[:12]}"
    assert owned(first) == {
        **{f"test_one[{case}]": ["setup", "call"] for case in ("a", "2", "wide2", "x" * 99)},
        **{f"wide test_app.py {case}": ALL_THREE for case in ("'a'", "2", "wide2", long)},
        "nobody": [],
    }
    assert owned(first) == owned(second)


def test_a_fixture_asked_for_at_run_time_owns_its_set_up_and_the_test_goes_on(
    online: Project,
) -> None:
    online.write(
        test_app=ASK
        + """
    @pytest.fixture(scope="module")
    def wide():
        ask(1)
        yield
        ask(2)

    @pytest.fixture(scope="session")
    def wider(request):
        ask(3)
        request.getfixturevalue("widest")
        ask(4)

    @pytest.fixture(scope="session")
    def widest():
        ask(5)

    def test_one(request):
        ask(6)
        request.getfixturevalue("wide")
        ask(7)
        request.getfixturevalue("wider")
        ask(8)
    """
    )
    assert owned(run(online)) == {
        "test_one": ["call", "call", "call"],
        "wide test_app.py": ALL_THREE,
        "wider session": ["setup", "setup"],
        "widest session": ["setup"],
        "nobody": [],
    }


def test_what_a_factory_is_to_clean_up_belongs_to_its_fixture_and_not_to_the_last_test(
    online: Project,
) -> None:
    online.write(
        test_app=ASK
        + """
    @pytest.fixture(scope="module", params=["a", "b"])
    def make(request):
        def make(words):
            ask(words)
            request.addfinalizer(lambda: ask(words))

        yield make
        ask(9)

    @pytest.fixture(scope="module")
    def needs_it(make):
        yield
        ask(8)

    @pytest.fixture
    def of_test(make):
        make(3)
        yield
        ask(7)

    def test_one(make):
        make(1)
        make(2)

    def test_last(make, needs_it, of_test):
        pass
    """,
    )
    assert owned(run(online)) == {
        "test_one[a]": ["call", "call"],
        "test_one[b]": ["call", "call"],
        "test_last[a]": ALL_THREE,
        "test_last[b]": ALL_THREE,
        "make test_app.py 'a'": ["teardown"] * 4,
        "make test_app.py 'b'": ["teardown"] * 4,
        "needs_it test_app.py make='a'": ["teardown"],
        "needs_it test_app.py make='b'": ["teardown"],
        "nobody": [],
    }


def test_what_fails_on_its_way_in_or_out_leaves_the_owners_in_order(online: Project) -> None:
    online.write(
        test_app=ASK
        + """
    @pytest.fixture(scope="module")
    def broken():
        ask(1)
        raise ValueError("on purpose")

    @pytest.fixture(scope="class")
    def breaks_late():
        ask(2)
        yield
        ask(3)
        raise ValueError("on purpose")

    def test_never(broken):
        ask(4)

    def test_never_too(broken):
        ask(4)

    class TestIt:
        def test_one(self, breaks_late):
            ask(5)

    def test_after():
        ask(6)
    """
    )
    ledger = run(online)
    assert owned(ledger) == {
        "test_one": ["call"],
        "test_after": ["call"],
        "broken test_app.py": ["setup"],
        "breaks_late test_app.py::TestIt": ALL_THREE,
        "nobody": [],
    }
    (one,) = (test for test in ledger["tests"] if test["nodeid"].endswith("test_one"))
    assert one["outcome"] == "error"


def test_xunit_and_unittest_set_ups_are_fixtures_too(online: Project) -> None:
    online.write(
        test_app=ASK
        + """
    import unittest

    def setup_module():
        ask(1)

    def teardown_module():
        ask(2)

    def setup_function():
        ask(3)

    class TestOld(unittest.TestCase):
        @classmethod
        def setUpClass(cls):
            ask(4)

        @classmethod
        def tearDownClass(cls):
            ask(5)

        def setUp(self):
            ask(6)

        def tearDown(self):
            ask(7)

        @max_cost("$1", calls=3)
        def test_old(self):
            ask(8)

    class TestPlain:
        def setup_method(self):
            ask(9)

        @classmethod
        def setup_class(cls):
            ask(10)

        def test_plain(self):
            pass

    def test_function():
        pass
    """
    )
    ledger = run(online)
    wide = {
        (each["scope"], each["node"]): [call["phase"] for call in each["calls"]]
        for each in ledger["fixtures"]
    }
    assert wide == {
        ("module", "test_app.py"): ALL_THREE,
        ("class", "test_app.py::TestOld"): ALL_THREE,
        ("class", "test_app.py::TestPlain"): ["setup"],
    }
    tests = {key: value for key, value in owned(ledger).items() if key.startswith("test_")}
    assert tests == {
        "test_old": ["call", "call", "call"],
        "test_plain": ["setup"],
        "test_function": ["setup"],
    }


def test_async_fixtures_of_pytest_asyncio(online: Project) -> None:
    online.write(
        pytest_ini="[pytest]\nasyncio_default_fixture_loop_scope = function",
        test_app=ASK
        + """
    import pytest_asyncio

    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def wide():
        await aask(1)
        yield
        await aask(2)

    @pytest_asyncio.fixture(loop_scope="module")
    async def narrow(wide):
        await aask(3)
        yield
        await aask(4)

    @pytest.mark.asyncio(loop_scope="module")
    async def test_one(narrow):
        await aask(5)

    @pytest.mark.asyncio(loop_scope="module")
    async def test_two(wide):
        await aask(6)
    """,
    )
    found = owned(run(online, plugins=("asyncio",)))
    assert {key: value for key, value in found.items() if value} == {
        "test_one": ["setup", "call", "teardown"],
        "test_two": ["call"],
        "wide test_app.py": ALL_THREE,
    }


def test_async_fixtures_of_anyio(online: Project) -> None:
    online.write(
        test_app=ASK
        + """
    pytestmark = pytest.mark.anyio

    @pytest.fixture(scope="module", params=["asyncio", "trio"])
    def anyio_backend(request):
        return request.param

    @pytest.fixture(scope="module")
    async def wide(anyio_backend):
        await aask(1)
        yield
        await aask(2)

    @pytest.fixture
    async def narrow(wide):
        await aask(3)
        yield
        await aask(4)

    async def test_one(narrow):
        await aask(5)
    """
    )
    found = owned(run(online, plugins=("anyio",)))
    assert {key: value for key, value in found.items() if value} == {
        "test_one[asyncio]": ["setup", "call", "teardown"],
        "test_one[trio]": ["setup", "call", "teardown"],
        "wide test_app.py anyio_backend='asyncio'": ALL_THREE,
        "wide test_app.py anyio_backend='trio'": ALL_THREE,
    }


def test_a_session_inside_a_test_gets_its_own_calls_and_the_outer_one_is_unharmed(
    online: Project,
) -> None:
    online.write(
        conftest="pytest_plugins = ['pytester']",
        test_app=ASK
        + """
    INNER = '''
    import os
    import httpx
    from pytest_llmcost import max_cost

    def ask():
        assert httpx.post(
            os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages",
            headers={"x-api-key": "any", "anthropic-version": "2023-06-01"},
            json={"model": "claude-opus-4-7", "max_tokens": 10,
                  "messages": [{"role": "user", "content": "inner"}]}).status_code == 200

    @max_cost("$0.0000001")
    def test_inner():
        ask()
        ask()
    '''

    @max_cost("$1", calls=2)
    def test_outer(pytester, llmcost):
        ask(1)
        pytester.makepyfile(INNER)
        result = pytester.runpytest_inprocess(
            "-p", "llmcost", "-p", "no:cacheprovider", "--llmcost-max-suite=$0.0000001")
        result.assert_outcomes(failed=2)
        result.stdout.fnmatch_lines(["$* at list price, 2 calls*", "✗ * over the * suite budget *"])
        ask(2)
        assert len(llmcost.calls) == 2

    @max_cost("$1", calls=1)
    def test_after():
        ask(3)
    """,
    )
    ledger = run(online, "-s")
    assert owned(ledger) == {
        "test_outer": ["call", "call"],
        "test_after": ["call"],
        "nobody": [],
    }
    assert {test["outcome"] for test in ledger["tests"]} == {"passed"}


def test_what_a_plugin_sends_between_tests_is_nobody_s(online: Project) -> None:
    online.write(
        conftest=ASK
        + """
    def pytest_runtest_logfinish(nodeid):
        ask(1)

    def pytest_sessionfinish():
        ask(2)
    """,
        test_app="def test_one(): pass\n\ndef test_two(): pass\n",
    )
    assert owned(run(online)) == {"nobody": [None, None, None]}


def test_what_the_last_fixtures_spend_after_an_interrupt_is_in_the_report(online: Project) -> None:
    online.write(
        test_app=ASK
        + """
    @pytest.fixture(scope="session")
    def wide():
        ask(1)
        yield
        ask(2)

    @pytest.fixture
    def narrow():
        yield
        ask(3)

    def test_one(wide, narrow):
        raise KeyboardInterrupt
    """
    )
    result = online.run("--llmcost-report=ledger.json", "--llmcost-max-suite=0")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    ledger = online.ledger()
    assert owned(ledger) == {"test_one": ["call"], "wide session": ALL_THREE, "nobody": []}
    result.stdout.fnmatch_lines(
        ["at least $* at list price, 3 calls*", "✗ * over the * suite budget *"]
    )


def test_a_finalizer_that_fails_shows_its_own_frames_alone(project: Project) -> None:
    project.write(
        conftest="""
    import pytest

    @pytest.fixture(scope="module")
    def divide(request):
        return lambda: request.addfinalizer(lambda: 1 / 0)
    """,
        test_app="def test_one(divide): divide()",
    )
    result = project.run()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*ZeroDivisionError*"])
    result.stdout.no_fnmatch_line("*pytest_llmcost*")


LATE = (
    ASK
    + """
    import vcr

    @pytest.fixture(scope="session")
    def llmcost_client():
        import anthropic
        with anthropic.Anthropic(api_key="mine") as client:
            yield client

    @pytest.fixture(scope="session")
    def farewell({request}):
        yield
        with vcr.use_cassette("farewell.yaml", match_on=["path"],
                              record_mode=os.environ["VCR"]):
            ask(int(os.environ["WORDS"]))
"""
)


@pytest.mark.parametrize(("request_", "evidence"), [("llmcost_client", "recounted"), ("", "stale")])
def test_what_a_session_fixture_sends_last_of_all_is_counted_by_a_client_that_is_there(
    online: Project,
    standin: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    request_: str,
    evidence: str,
) -> None:
    """Pytest makes no fixture any more when it tears the session down."""
    conftest = LATE.replace("{request}", request_)
    online.write(conftest=conftest, test_app="def test_one(farewell): pass")
    monkeypatch.setenv("VCR", "once")
    monkeypatch.setenv("WORDS", "10")
    run(online)
    monkeypatch.setenv("VCR", "none")
    monkeypatch.setenv("WORDS", "100")
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    result = online.run("--llmcost-record-mode=once", "--llmcost-report=ledger.json")
    result.assert_outcomes(passed=1)
    (fixture,) = online.ledger()["fixtures"]
    assert [call["evidence"] for call in fixture["calls"]] == [evidence]
    asked = [each.headers.get("authorization") for each in standin.counted]
    assert asked == (["Bearer mine"] if evidence == "recounted" else [])

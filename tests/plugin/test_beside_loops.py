"""Beside pytest-asyncio, anyio and unittest's own loop: calls belong to the test that runs."""

from __future__ import annotations

import pytest
from conftest import Project
from standin import StandIn

STRICT = ("-W", "error", "-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
"""Warnings are errors, but for the one that runs in one process bring about themselves."""

APP = """
    import anthropic

    ASKED = {"model": "claude-opus-4-7", "max_tokens": 9,
             "messages": [{"role": "user", "content": "Hi"}]}

    async def ask():
        async with anthropic.AsyncAnthropic(max_retries=0) as client:
            await client.messages.create(**ASKED)
            async for _ in await client.messages.create(**ASKED, stream=True):
                pass
"""


def check(project: Project, *args: str, plugins: tuple[str, ...] = (), tests: int) -> None:
    result = project.run(*STRICT, "--llmcost-report=ledger.json", *args, plugins=plugins)
    result.assert_outcomes(passed=tests)
    rows = project.ledger()["tests"]
    assert [len(row["calls"]) for row in rows] == [2] * tests
    assert {call["phase"] for row in rows for call in row["calls"]} == {"call"}
    assert {call["live"] for row in rows for call in row["calls"]} == {True}
    assert project.ledger()["outside_tests"] == []


@pytest.mark.parametrize("scope", ["function", "module"])
def test_pytest_asyncio(project: Project, standin: StandIn, scope: str) -> None:
    pytest.importorskip("pytest_asyncio")
    project.online(standin).write(
        app=APP,
        test_app=f"""
        import asyncio
        import pytest
        from app import ask
        from pytest_llmcost import max_cost

        pytestmark = pytest.mark.asyncio(loop_scope="{scope}")

        @max_cost("$1", calls=2)
        async def test_one():
            await ask()

        @max_cost("$1", calls=2)
        async def test_two():
            await asyncio.create_task(ask())
        """,
    )
    settings = ("-o", "asyncio_default_fixture_loop_scope=function")
    check(project, *settings, plugins=("asyncio",), tests=2)


def test_anyio_on_both_loops(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        app=APP,
        test_app="""
        import anyio
        import pytest
        from app import ask
        from pytest_llmcost import max_cost

        @pytest.fixture(params=["asyncio", "trio"])
        def anyio_backend(request):
            return request.param

        @pytest.mark.anyio
        @max_cost("$1", calls=2)
        async def test_one(anyio_backend):
            async with anyio.create_task_group() as group:
                group.start_soon(ask)
        """,
    )
    check(project, plugins=("anyio",), tests=2)


def test_unittest_s_own_loop(project: Project, standin: StandIn) -> None:
    project.online(standin).write(
        app=APP,
        test_app="""
        import unittest
        from app import ask
        from pytest_llmcost import max_cost

        class TestAsk(unittest.IsolatedAsyncioTestCase):
            @max_cost("$1", calls=2)
            async def test_one(self):
                await ask()
        """,
    )
    check(project, tests=1)

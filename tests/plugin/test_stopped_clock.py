"""Tests for which a fixture has stopped the clock, as freezegun does it."""

from __future__ import annotations

import pytest
from conftest import Project
from standin import StandIn

STOPS = """
    import datetime
    import sys
    import time
    import pytest

    class IsReal(type):
        def __instancecheck__(cls, value):
            return isinstance(value, cls.real)

    class Date(datetime.date, metaclass=IsReal):
        real = datetime.date

        @classmethod
        def today(cls):
            return cls(2026, 5, 1)

    class Datetime(datetime.datetime, metaclass=IsReal):
        real = datetime.datetime

        @classmethod
        def now(cls, tz=None):
            return cls(2026, 5, 1, tzinfo=tz)

    INSTEAD = {
        id(datetime.date): Date,
        id(datetime.datetime): Datetime,
        id(time.time): lambda: 1777593600.0,
    }

    @pytest.fixture(autouse=True)
    def stopped():
        found = [
            (module, name, value)
            for module in [*sys.modules.values()]
            if module.__name__ != __name__
            for name, value in [*vars(module).items()]
            if id(value) in INSTEAD
        ]
        for module, name, value in found:
            setattr(module, name, INSTEAD[id(value)])
        yield
        for module, name, value in found:
            setattr(module, name, value)
"""
# Without the SDK, which takes ten times as long to import as all that is loaded for a call.
ASKS = """
    import os
    import httpx
    import pytest

    def test_it():
        message = {"role": "user", "content": "Hi"}
        body = {"model": "claude-opus-4-7", "max_tokens": 50, "messages": [message]}
        head = {"anthropic-version": "2023-06-01", "x-api-key": "any"}
        url = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
        assert httpx.post(url, json=body, headers=head).is_success
"""


@pytest.mark.parametrize("mark", ["", "pytestmark = pytest.mark.max_cost('$1')"])
def test_a_call_is_priced_as_of_the_day_of_the_run_and_was_made_when_it_was_made(
    project: Project, standin: StandIn, mark: str
) -> None:
    project.online(standin).write(conftest=STOPS, test_app=f"{ASKS}\n    {mark}\n")
    # In a new process, where the first call is what reads the rates, and all that it takes.
    args = ("-p", "llmcost", "--llmcost-report=ledger.json", "--llmcost-max-suite=$1")
    result = project.pytester.runpytest_subprocess(*args)
    result.assert_outcomes(passed=1)
    ledger = project.ledger()
    (call,) = ledger["tests"][0]["calls"]
    day = ledger["run"]["started_at"][:10]
    assert day > "2026-05-01"
    assert (ledger["price_date"], call["at"][:10], call["caveats"]) == (day, day, [])

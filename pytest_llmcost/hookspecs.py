"""Hooks that other plugins and the initial conftest may implement.

They count only from plugins and from conftests that pytest loads at its start (the rootdir's and
those of the folders named on the command line), because prices and payloads of a run must not
depend on which folder is collected first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import pytest

    from pytest_llmcost.call import Call
    from pytest_llmcost.ledger.ledger import Ledger
    from pytest_llmcost.prices.rate_card import RateCard

hookspec = pluggy.HookspecMarker("pytest")


@hookspec(firstresult=True)
def pytest_llmcost_rate_card(config: pytest.Config, card: RateCard) -> RateCard | None:
    """Replace the prices of the run, once per process, before the first call is priced.

    `card` is the shipped one, with the rows of `--llmcost-prices` already in. Return the card to
    use, or None to leave it to the next plugin.

    Example::

        def pytest_llmcost_rate_card(config, card):
            return card.with_overrides(company_price_file())
    """


@hookspec(firstresult=True)
def pytest_llmcost_normalize_payload(
    payload: Mapping[str, Any], item: pytest.Item | None
) -> Mapping[str, Any] | None:
    """Take out of a payload what differs on purpose between runs: dates, ids, paths.

    The result stands in for the payload wherever two are compared and where a count is looked up
    or recorded; what is sent to `count_tokens` is the payload itself. Called for the payload sent
    now, for the one in the cassette, and for parts of them that are counted by themselves and may
    lack any key but `model` and `messages`.

    `payload` is as sent to `messages.create` by the test `item`, which is None outside of tests. Do
    not change it: return another one, or None to leave it to the next plugin.

    Example::

        def pytest_llmcost_normalize_payload(payload, item):
            system = payload.get("system")
            if not isinstance(system, str):
                return None
            return {**payload, "system": re.sub(r"Today is .*", "Today is", system)}
    """


def pytest_llmcost_call(call: Call, item: pytest.Item | None) -> None:
    """Observe a call with its usage, price, bounds and caveats, in the process that made it.

    One that was still under way when a budget was checked is passed again when it has ended.

    `item` is the test that made it, or None for shared fixtures and outside of tests.

    Example::

        def pytest_llmcost_call(call, item):
            logging.getLogger("cost").info("%s %s", call.model, call.usd)
    """


def pytest_llmcost_report(report: Ledger, config: pytest.Config) -> None:
    """Observe the finished run, once, as the ledger file holds it; never in an xdist worker.

    Example::

        def pytest_llmcost_report(report, config):
            upload(report.totals.usd)
    """

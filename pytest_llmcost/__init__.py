"""pytest-llmcost: a price on every prompt, and a budget that fails the test.

Everything here is loaded when first asked for, so that importing the package, which pytest
does in every run of every suite where it is installed, costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from pytest_llmcost.budgets.budget import Budget, Verdict
    from pytest_llmcost.call import Call
    from pytest_llmcost.errors import LiveCapError, LlmCostError
    from pytest_llmcost.ledger.ledger import Ledger
    from pytest_llmcost.plugin.fixture import Counted, LlmCost
    from pytest_llmcost.plugin.owners import tag
    from pytest_llmcost.prices.bill import Cost
    from pytest_llmcost.prices.rate_card import RateCard, Rates
    from pytest_llmcost.prices.usage import Usage

    max_cost: pytest.MarkDecorator
    __version__: str

__all__ = [
    "Budget",
    "Call",
    "Cost",
    "Counted",
    "Ledger",
    "LiveCapError",
    "LlmCost",
    "LlmCostError",
    "RateCard",
    "Rates",
    "Usage",
    "Verdict",
    "__version__",
    "max_cost",
    "tag",
]

_HOMES = {
    "Budget": "budgets.budget",
    "Call": "call",
    "Cost": "prices.bill",
    "Counted": "plugin.fixture",
    "Ledger": "ledger.ledger",
    "LiveCapError": "errors",
    "LlmCost": "plugin.fixture",
    "LlmCostError": "errors",
    "RateCard": "prices.rate_card",
    "Rates": "prices.rate_card",
    "Usage": "prices.usage",
    "Verdict": "budgets.budget",
    "tag": "plugin.owners",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name == "max_cost":
        import pytest

        return pytest.mark.max_cost
    if name == "__version__":
        from importlib.metadata import version

        return version("pytest-llmcost")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Load the plugin under its own name where pytest is given that of the package.

    As with `-p pytest_llmcost` or in `pytest_plugins`; otherwise no budget would hold.
    """
    plugin = import_module(f"{__name__}.plugin")
    if not pluginmanager.is_registered(plugin):
        pluginmanager.register(plugin, "llmcost")

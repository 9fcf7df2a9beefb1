"""pytest-llmcost: a price on every prompt, and a ceiling that fails the test.

Everything here is loaded when first asked for, so that importing the package, which pytest
does in every run of every suite where it is installed, costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from pytest_llmcost.budgeting.budget import Budget, Verdict
    from pytest_llmcost.budgeting.ledger import Report
    from pytest_llmcost.errors import LlmCostError
    from pytest_llmcost.metering.call import Call
    from pytest_llmcost.plugin.counted import Counted
    from pytest_llmcost.plugin.fixture import LlmCost
    from pytest_llmcost.pricing.ratecard import Cost, RateCard, Rates
    from pytest_llmcost.pricing.usage import Usage

    max_cost: pytest.MarkDecorator
    __version__: str

__all__ = [
    "Budget",
    "Call",
    "Cost",
    "Counted",
    "LlmCost",
    "LlmCostError",
    "RateCard",
    "Rates",
    "Report",
    "Usage",
    "Verdict",
    "__version__",
    "max_cost",
]

_HOMES = {
    "Budget": "budgeting.budget",
    "Call": "metering.call",
    "Cost": "pricing.ratecard",
    "Counted": "plugin.counted",
    "LlmCost": "plugin.fixture",
    "LlmCostError": "errors",
    "RateCard": "pricing.ratecard",
    "Rates": "pricing.ratecard",
    "Report": "budgeting.ledger",
    "Usage": "pricing.usage",
    "Verdict": "budgeting.budget",
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

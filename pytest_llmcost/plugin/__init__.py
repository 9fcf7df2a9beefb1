"""The entry point: options, marker, fixtures, and the hooks of a run.

Loaded in every run of every suite where the package is installed, so it imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llmcost import hookspecs
from pytest_llmcost.errors import LlmCostError
from pytest_llmcost.plugin.options import add_options, read_settings
from pytest_llmcost.plugin.run import KEY, Run
from pytest_llmcost.plugin.suite import Suite
from pytest_llmcost.plugin.watch import MARKER_HELP, Watch
from pytest_llmcost.plugin.workers import Controller, Worker

if TYPE_CHECKING:
    import anthropic

    from pytest_llmcost.plugin.fixture import LlmCost

__all__ = [
    "llmcost",
    "llmcost_client",
    "pytest_addhooks",
    "pytest_addoption",
    "pytest_configure",
    "pytest_unconfigure",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare flags and ini keys."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that other plugins may implement."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Begin a run, unless it is turned off; the marker is known either way."""
    config.addinivalue_line("markers", MARKER_HELP)
    settings = read_settings(config)
    if settings.disabled:
        return
    run = Run(config, settings)
    try:
        run.check_settings()
    except LlmCostError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[KEY] = run
    run.listen()
    register = config.pluginmanager.register
    watch = Watch(run)
    register(watch, "llmcost-watch")
    if run.worker is None:
        register(Controller(run), "llmcost-controller")
        register(Suite(run), "llmcost-suite")
    else:
        register(Worker(run), "llmcost-worker")
    watch.is_started = True


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop listening; a session around this one gets its calls back."""
    run = config.stash.get(KEY, None)
    if run is not None:
        run.stop_listening()


@pytest.fixture
def llmcost(request: pytest.FixtureRequest) -> LlmCost:
    """Count and price what a test would send to Claude: `llmcost.count(payload)`."""
    from pytest_llmcost.plugin.fixture import LlmCost

    return LlmCost(request.config.stash.get(KEY, None), request.node)


@pytest.fixture(scope="session")
def llmcost_client() -> anthropic.Anthropic:
    """The client that counts tokens, made only when a count must go out.

    Override it in a conftest for a gateway, Foundry or Vertex; it must be a synchronous one.
    """
    import anthropic

    return anthropic.Anthropic()

"""The entry point: options, marker, fixtures, and the hooks of a run.

Loaded in every run of every suite where the package is installed, so it imports nothing heavy.
"""

from __future__ import annotations

import pytest

from pytest_llmcost import hookspecs
from pytest_llmcost.errors import LlmCostError
from pytest_llmcost.plugin.fixture import llmcost, llmcost_client
from pytest_llmcost.plugin.marker import HELP
from pytest_llmcost.plugin.options import add_options, read_settings
from pytest_llmcost.plugin.run import KEY, Run
from pytest_llmcost.plugin.suite import Suite
from pytest_llmcost.plugin.watch import Watch
from pytest_llmcost.plugin.workers import Controller, Worker

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
    config.addinivalue_line("markers", HELP)
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
    register(Watch(run), "llmcost-watch")
    if run.worker is None:
        register(Controller(run), "llmcost-controller")
        register(Suite(run), "llmcost-suite")
    else:
        register(Worker(run), "llmcost-worker")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop listening; a session around this one gets its calls back."""
    run = config.stash.get(KEY, None)
    if run is not None:
        run.stop_listening()

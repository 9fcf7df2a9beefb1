"""The entry point: options, marker, fixtures, and the hooks of a run.

Loaded in every run of every suite where the package is installed, so it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from pytest_llmcost import hookspecs
from pytest_llmcost.errors import LlmCostError
from pytest_llmcost.plugin.item_hooks import MARKER_HELP, Watch
from pytest_llmcost.plugin.options import add_options, check_rootdir, read_settings
from pytest_llmcost.plugin.session import KEY, Session
from pytest_llmcost.plugin.session_hooks import Suite
from pytest_llmcost.plugin.xdist import Controller, Worker

if TYPE_CHECKING:
    import anthropic

    from pytest_llmcost.plugin.fixture import LlmCost


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare flags and ini keys."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that other plugins may implement."""
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Listen before a conftest is imported, for it may send requests right then."""
    _begin(early_config)


def _begin(config: pytest.Config) -> Session:
    """Make the run and listen; a session around this one gets its calls back at the end."""
    run = config.stash[KEY] = Session(config)
    run.listen()
    config.add_cleanup(run.stop_listening)
    return run


def pytest_configure(config: pytest.Config) -> None:
    """Settle the options of the run, or turn it off; the marker is known either way."""
    config.addinivalue_line("markers", MARKER_HELP)
    run = config.stash.get(KEY, None) or _begin(config)
    run.settings = settings = read_settings(config)
    if settings.disabled:
        del config.stash[KEY]
        run.stop_listening()
        return
    if run.worker is None:
        check_rootdir(config)
    try:
        run.check_settings()
    except LlmCostError as error:
        raise pytest.UsageError(str(error)) from None
    register = config.pluginmanager.register
    watch = Watch(run)
    register(watch, "llmcost-watch")
    if run.worker is None:
        register(Controller(run), "llmcost-controller")
        register(Suite(run), "llmcost-suite")
    else:
        register(Worker(run), "llmcost-worker")
    if settings.model:
        from pytest_llmcost.plugin.other_models import CountAtTheEnd

        register(CountAtTheEnd(run), "llmcost-other-models")
    watch.is_started = True


@pytest.fixture
def llmcost(request: pytest.FixtureRequest) -> LlmCost:
    """Count and price what a test would send to Claude: `llmcost.count(payload)`."""
    from pytest_llmcost.plugin.fixture import LlmCost

    return LlmCost(request.config.stash.get(KEY, None), request.node)


@pytest.fixture(scope="session")
def llmcost_client() -> Iterator[anthropic.Anthropic]:
    """The client that counts tokens, made only when a count must go out.

    Override it in a conftest for a gateway, Foundry or Vertex; it must be a synchronous one.
    """
    import anthropic

    with anthropic.Anthropic() as client:
        yield client

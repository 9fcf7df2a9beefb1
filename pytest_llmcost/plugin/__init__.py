"""The entry point: options, marker, fixtures, and the hooks of a session.

Loaded in every run of every suite where the package is installed, so it imports nothing heavy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmcost import hookspecs
from pytest_llmcost.capture.transports import follow, unfollow
from pytest_llmcost.errors import LlmCostError
from pytest_llmcost.plugin.child_processes import ChildProcesses
from pytest_llmcost.plugin.item_hooks import ItemHooks, watch_reports
from pytest_llmcost.plugin.options import MARKERS, add_options, check_rootdir, read_settings
from pytest_llmcost.plugin.session import KEY, Session, check_settings
from pytest_llmcost.plugin.session_hooks import SessionHooks

if TYPE_CHECKING:
    import anthropic

    from pytest_llmcost.capture.relay import Relay
    from pytest_llmcost.capture.request import CapturedRequest
    from pytest_llmcost.plugin.fixture import LlmCost


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare flags and ini keys."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that other plugins may implement."""
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Begin to capture before a conftest is imported, because it may send requests."""
    has_plugin = early_config.pluginmanager.has_plugin
    if has_plugin("vcr") and has_plugin("recording"):
        raise pytest.UsageError(
            "pytest-vcr cannot run beside pytest-recording, which pytest-llmcost installs; "
            "add -p no:recording to addopts; token counts stay at the same paths"
        )
    # Python itself loads us and our files, most of them in the midst of a test. pytest's loader,
    # by which it rewrites the `assert` of plugins, would go by what a test puts in place of `open`.
    # Private; if it is gone, such a test fails at its first request.
    loader = early_config.pluginmanager.rewrite_hook
    getattr(loader, "_must_rewrite", {""}).discard("pytest_llmcost")
    session = _begin(early_config)
    session.options_of_plugins.update(vars(early_config.known_args_namespace))


def _begin(config: pytest.Config) -> Session:
    """Make the session and capture; a session around this one gets its calls back at the end."""
    session = config.stash[KEY] = Session(config)
    session.children = children = ChildProcesses(session)

    def begin(*sent: Any) -> CapturedRequest | None:
        """Make the capture, and all that it imports, for the first request."""
        from pytest_llmcost.plugin.calls import capture_of

        follower.begin = capture_of(session).begin
        return follower.begin(*sent)

    follower = follow(begin, children.note_saved, children.ticket)
    session.stop_following = partial(unfollow, follower)
    config.add_cleanup(session.stop_following)
    return session


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Hold what a conftest sends while it is configured, which is before us, to the settings."""
    session = config.stash.get(KEY, None)
    try:
        if session is not None and not (settings := read_settings(config)).disabled:
            session.settings = settings
            if settings.max_live is not None:
                _ = session.card  # a mistake in it is an error before a conftest sends
            _limit_capture(session)
    except LlmCostError as error:
        raise pytest.UsageError(str(error)) from None


def _limit_capture(session: Session) -> None:
    if session.worker is not None:
        # That of children of a conftest, from before xdist said which one the run shares.
        vars(session).pop("run_folder", None)
    if session.capture is not None:  # made for what a conftest has sent, without the settings
        from pytest_llmcost.plugin.calls import limits_on_capture

        session.capture.limit(*limits_on_capture(session))


def pytest_configure(config: pytest.Config) -> None:
    """Settle the options of the run, or turn the plugin off; the markers are known either way."""
    for text in MARKERS:
        config.addinivalue_line("markers", text)
    session = config.stash.get(KEY, None) or _begin(config)
    try:
        session.settings = settings = read_settings(config)
        if settings.disabled:
            del config.stash[KEY]
            session.stop_following()
            return
        if session.worker is None:
            check_rootdir(config)
        vars(session).pop("card", None)  # a hook of prices may need what a conftest has configured
        check_settings(session)
        _limit_capture(session)
    except LlmCostError as error:
        raise pytest.UsageError(str(error)) from None
    register = config.pluginmanager.register
    register(ItemHooks(session), "llmcost-items")
    if session.worker is None:
        register(SessionHooks(session), "llmcost-session")
    # With xdist, also if no workers are asked for yet: a plugin that is configured later may do so.
    if session.worker is not None or hasattr(config.option, "numprocesses"):
        from pytest_llmcost.plugin.xdist import Controller, Worker

        side = Controller if session.worker is None else Worker
        register(side(session), "llmcost-xdist")
    if settings.baseline is not None:
        watch_reports(session)  # a test that does not pass keeps its row of the baseline
    if settings.model:
        from pytest_llmcost.plugin.other_models import OtherModels

        register(OtherModels(session), "llmcost-other-models")
    session.is_configured = True


def __dir__() -> list[str]:
    """Show hooks and fixtures alone, for pytest inspects each name of a plugin, in every run."""
    return [name for name in globals() if name.startswith(("pytest_", "llmcost"))]


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


@pytest.fixture(scope="session")
def llmcost_relay() -> Iterator[Relay]:
    """An endpoint for other processes: its `url` is for their `ANTHROPIC_BASE_URL`.

    What they send is passed on to `ANTHROPIC_BASE_URL` of the tests, otherwise to Anthropic's API,
    and is metered as requests of the running test.
    """
    from pytest_llmcost.capture.relay import Relay

    relay = Relay(os.environ.get("ANTHROPIC_BASE_URL") or "https://api.anthropic.com")
    relay.start()
    yield relay
    relay.stop()

"""Plugins that cannot run beside pytest-recording, which pytest-llmcost installs.

Without this, pytest ends in an internal error that names neither us nor the remedy.
"""

from __future__ import annotations

import importlib.util
import os

import pytest


def check_coming(pluginmanager: pytest.PytestPluginManager) -> None:
    """Refuse cassetter before it is loaded: it or pytest-recording fails while it is.

    If both are loaded before us, we are not asked any more.

    Raises:
        pytest.UsageError: pytest is about to load both.
    """
    if importlib.util.find_spec("cassetter") is None:  # cheap; entry points are not
        return
    names = ("recording", "cassetter")
    is_blocked = any(map(pluginmanager.is_blocked, names))
    if is_blocked or all(map(pluginmanager.has_plugin, names)) or not _autoloads(pluginmanager):
        return
    from importlib.metadata import entry_points

    if {each.name for each in entry_points(group="pytest11")}.issuperset(names):
        raise _refusal("cassetter", "both define --record-mode")


def _autoloads(pluginmanager: pytest.PytestPluginManager) -> bool:
    known = getattr(pluginmanager.get_plugin("pytestconfig"), "known_args_namespace", None)
    is_off = getattr(known, "disable_plugin_autoload", False)
    return not is_off and not os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD")


def check_loaded(pluginmanager: pytest.PytestPluginManager) -> None:
    """Refuse pytest-vcr: pytest-recording raises beside it as soon as it is configured.

    Raises:
        pytest.UsageError: both are loaded.
    """
    if pluginmanager.has_plugin("recording") and pluginmanager.has_plugin("vcr"):
        raise _refusal("pytest-vcr", "pytest-recording raises an error")


def _refusal(rival: str, why: str) -> pytest.UsageError:
    return pytest.UsageError(
        f"{rival} cannot run beside pytest-recording, which pytest-llmcost installs ({why}); "
        "add -p no:recording to addopts; token counts stay at the same paths"
    )

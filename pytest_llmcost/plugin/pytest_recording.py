"""What pytest-recording says of a test: its cassette folder, its name, its record mode.

Works without pytest-recording too, on the same defaults, so that `-p no:recording`, which
pytest-vcr and cassetter need, changes no path.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llmcost.counting.record_mode import LIVE, MODES, RecordMode

if TYPE_CHECKING:
    from pytest_llmcost.settings import Settings

_SUFFIX = ".llmcost.yaml"
_LONGEST_NAME = 255
"""Bytes; that of nearly every file system."""


def record_mode(item: pytest.Item | None, config: pytest.Config, settings: Settings) -> RecordMode:
    """Return how counts of a test are recorded: our setting, pytest-recording's mode, or `none`."""
    if config.getoption("disable_recording", False) and settings.record_mode != "none":
        return LIVE
    mode: Any = settings.record_mode or config.getoption("record_mode", None)
    # The mode of the vcr marker or of `vcr_config` applies to tests with that marker alone.
    marks = [] if item is None else list(item.iter_markers("vcr"))
    for mark in marks:
        mode = mode or mark.kwargs.get("record_mode")
    if not mode and item is not None and marks:
        vcr_config = _fixture_value(item, "vcr_config")
        mode = vcr_config.get("record_mode") if isinstance(vcr_config, Mapping) else None
    # VCR takes its enumeration as well as a plain string.
    return MODES.get(str(getattr(mode, "value", mode)).lower(), MODES["none"])


def cassette_path(item: pytest.Item) -> Path:
    """Return the count cassette of a test, beside the test's own cassette."""
    # pytest-vcr's own folder is not that of pytest-recording: only what a user overrides moves
    # counts, for people without pytest-vcr must find them as well.
    manager = getattr(item.session, "_fixturemanager", None)  # private
    node: Any = item if pytest.version_tuple >= (8, 1) else item.nodeid  # as pytest 8.0 wants it
    found = (manager.getfixturedefs("vcr_cassette_dir", node) if manager is not None else ()) or ()
    is_pytest_vcrs = [each.func.__module__ for each in found][-1:] == ["pytest_vcr"]
    folder = None if is_pytest_vcrs else _fixture_value(item, "vcr_cassette_dir")
    name = _fixture_value(item, "default_cassette_name")
    marker = item.get_closest_marker("default_cassette")
    if not name and marker is not None and marker.args:
        name = marker.args[0]
    if not name:
        test_class = getattr(item, "cls", None)
        name = f"{test_class.__name__}.{item.name}" if test_class else item.name
        # The characters that pytest-recording takes out, so that both agree on the name.
        name = name.translate({ord(character): "-" for character in r"<>?%*:|\"'/\\"})
    folder = folder or item.path.parent / "cassettes" / item.path.stem
    return item.config.invocation_params.dir / str(folder) / _file_name(str(name))


def fixture_cassette_path(config: pytest.Config, baseid: str, scope: str, name: str) -> Path:
    """Return the count cassette of a fixture wider than a function, under its defining node."""
    base = config.rootpath / baseid.partition("::")[0]
    folder = base.parent / "cassettes" / base.stem if base.suffix == ".py" else base / "cassettes"
    return folder / _file_name(f"{scope}.{name}")


def _file_name(name: str) -> str:
    """Return a name that a file system takes; a longer one ends in its digest, as recording's."""
    folder, slash, last = name.rpartition("/")
    if len(os.fsencode(last + _SUFFIX)) > _LONGEST_NAME:
        digest = hashlib.sha256(os.fsencode(last)).hexdigest()[:32]
        room = _LONGEST_NAME - len(f"...{digest}{_SUFFIX}")
        last = os.fsencode(last)[:room].decode(errors="ignore") + f"...{digest}"
    return f"{folder}{slash}{last}{_SUFFIX}"


def _fixture_value(item: pytest.Item, name: str) -> Any:
    """Return the value of a fixture in this test; None where it does not exist.

    Only an item's own request can ask for a fixture that the test does not name, and only a
    fixture honours a user's override in a conftest.
    """
    request = getattr(item, "_request", None)
    with warnings.catch_warnings():
        # pytest 9 warns of it in a teardown, where the user cannot ask in our place.
        warnings.filterwarnings("ignore", r"Calling request\.getfixturevalue")
        try:
            # Of a test that is over, whose answer came late, pytest has made it False.
            return request.getfixturevalue(name) if request else None
        except pytest.FixtureLookupError:
            return None

"""What pytest-recording says of a test: its cassette folder, its name, its record mode.

Everything here works without pytest-recording too, on the same defaults, so that
`-p no:recording` (beside pytest-vcr or cassetter) changes no path.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_llmcost.settings import Settings

SUFFIX = ".llmcost.yaml"
_LONGEST_NAME = 255
"""Bytes; that of nearly every file system."""
LIVE = "live"
"""The mode of `--disable-recording`: count over the network, read and write no cassette."""


def record_mode(item: pytest.Item | None, config: pytest.Config, settings: Settings) -> str:
    """How counts of a test are recorded: our flag, else pytest-recording's mode, else `none`."""
    if config.getoption("disable_recording", False):
        return LIVE
    if settings.record_mode is not None:
        return settings.record_mode
    flag = config.getoption("record_mode", None)
    if flag:
        return str(flag)
    return _marked_mode(item) if item is not None else "none"


def _marked_mode(item: pytest.Item) -> str:
    """The vcr marker's or `vcr_config`'s mode, which apply to tests marked with vcr alone."""
    marks = list(item.iter_markers("vcr"))
    for mark in marks:
        if "record_mode" in mark.kwargs:
            return _mode_name(mark.kwargs["record_mode"])
    if not marks:
        return "none"
    vcr_config = fixture_value(item, "vcr_config")
    if isinstance(vcr_config, Mapping) and vcr_config.get("record_mode"):
        return _mode_name(vcr_config["record_mode"])
    return "none"


def _mode_name(mode: object) -> str:
    """VCR takes its enumeration as well as a plain string."""
    return str(getattr(mode, "value", mode)).lower()


def cassette_path(item: pytest.Item) -> Path:
    """The count cassette of a test, beside the test's own cassette."""
    is_ours = not _is_pytest_vcrs(item, "vcr_cassette_dir")
    folder = (fixture_value(item, "vcr_cassette_dir") if is_ours else None) or _default_folder(item)
    name = fixture_value(item, "default_cassette_name") or _default_name(item)
    path = Path(str(folder)) / _file_name(str(name))
    return path if path.is_absolute() else item.config.invocation_params.dir / path


def fixture_cassette_path(config: pytest.Config, baseid: str, scope: str, name: str) -> Path:
    """The count cassette of a fixture wider than a function, under the node that defines it."""
    base = config.rootpath / baseid.partition("::")[0]
    folder = base.parent / "cassettes" / base.stem if base.suffix == ".py" else base / "cassettes"
    return folder / _file_name(f"{scope}.{name}")


def _file_name(name: str) -> str:
    """A name that a file system takes; a longer one ends in its digest, as pytest-recording's."""
    folder, slash, last = name.rpartition("/")
    if len(os.fsencode(last + SUFFIX)) > _LONGEST_NAME:
        digest = hashlib.sha256(os.fsencode(last)).hexdigest()[:32]
        room = _LONGEST_NAME - len(f"...{digest}{SUFFIX}")
        last = os.fsencode(last)[:room].decode(errors="ignore") + f"...{digest}"
    return f"{folder}{slash}{last}{SUFFIX}"


def fixture_value(item: pytest.Item, name: str) -> Any:
    """The value of a fixture in this test; None where it does not exist.

    Only an item's own request can ask for a fixture that the test does not name, and only a
    fixture honours a user's override in a conftest.
    """
    request = getattr(item, "_request", None)
    if request is None:
        return None
    try:
        return request.getfixturevalue(name)
    except pytest.FixtureLookupError:
        return None


def _is_pytest_vcrs(item: pytest.Item, name: str) -> bool:
    """Whether a fixture is pytest-vcr's own, whose folder is not that of pytest-recording.

    Only what a user overrides moves counts: people without pytest-vcr must find them as well.
    """
    manager = getattr(item.session, "_fixturemanager", None)
    found = (manager.getfixturedefs(name, item) if manager is not None else None) or ()
    return [each.func.__module__ for each in found][-1:] == ["pytest_vcr"]


def _default_folder(item: pytest.Item) -> Path:
    return item.path.parent / "cassettes" / item.path.stem


def _default_name(item: pytest.Item) -> str:
    marker = item.get_closest_marker("default_cassette")
    if marker is not None and marker.args:
        return str(marker.args[0])
    test_class = getattr(item, "cls", None)
    name = f"{test_class.__name__}.{item.name}" if test_class else item.name
    # The characters that pytest-recording takes out, so that both agree on the name.
    return name.translate({ord(character): "-" for character in r"<>?%*:|\"'/\\"})

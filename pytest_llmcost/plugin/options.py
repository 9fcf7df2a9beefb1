"""The options table as pytest's flags and ini keys, and back as Settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_llmcost.errors import SettingsError
from pytest_llmcost.settings import OPTIONS, Option, Settings, resolve


def add_options(parser: pytest.Parser) -> None:
    """Declare every flag and ini key; all default to None, so that unset is told from set."""
    group = parser.getgroup("llmcost", "cost of Claude calls (pytest-llmcost)")
    for option in OPTIONS:
        if option.flag:
            _add_flag(group, option)
        if option.repeatable:
            parser.addini(option.ini, option.help, type="linelist", default=[])
        else:  # an unset string reads as None: a default would look like a value that was set
            parser.addini(option.ini, option.help, type="string", default=None)


def _add_flag(group: pytest.OptionGroup, option: Option) -> None:
    assert option.flag is not None
    text = option.help.replace("%", "%%")  # argparse formats it, other than an ini key's
    if option.switch:
        group.addoption(option.flag, dest=option.ini, action="store_true", default=None, help=text)
    else:
        group.addoption(
            option.flag,
            dest=option.ini,
            action="append" if option.repeatable else "store",
            default=None,
            metavar=option.metavar,
            help=text,
        )


def read_settings(config: pytest.Config) -> Settings:
    """Settle all options of this run.

    Raises:
        pytest.UsageError: a value that makes no sense, naming the flag, variable or ini key.
    """
    flags = {option.name: config.getoption(option.ini, None) for option in OPTIONS}
    ini_folder = config.inipath.parent if config.inipath else config.rootpath
    try:
        ini = {option.name: _ini(config, option) for option in OPTIONS}
        return resolve(flags, os.environ, ini, Path(ini_folder))
    except SettingsError as error:
        raise pytest.UsageError(str(error)) from None


def _ini(config: pytest.Config, option: Option) -> str | list[str] | None:
    try:
        value: str | list[str] | None = config.getini(option.ini)
    except (TypeError, pytest.UsageError) as error:
        # pytest's native TOML table is strictly typed: `llmcost_max_test = 0.02` is no string.
        how = '["...", "..."], a list of texts' if option.repeatable else '"...", in quotes'
        message = f"{option.ini}: {error}; write it as {option.ini} = {how}"
        raise SettingsError(message) from None
    return value

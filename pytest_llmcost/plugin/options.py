"""The options and the marker as pytest knows them: flags and ini keys, and back as Settings."""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.config.findpaths import determine_setup

from pytest_llmcost.errors import SettingsError
from pytest_llmcost.money import parse_quantity, parse_usd, show_value
from pytest_llmcost.settings import OPTIONS, Settings, parse_glob, parse_part, resolve

if TYPE_CHECKING:
    from pytest_llmcost.budgets.budget import Limited

MARKER, TAG_MARKER = "max_cost", "llmcost_tag"


def _parse_models(value: object) -> tuple[str, ...]:
    globs = [value] if isinstance(value, str) else value
    given = globs if isinstance(globs, (list, tuple)) else ()
    if not given or not all(isinstance(glob, str) for glob in given):
        raise SettingsError(
            f'{show_value(value)} is not a list of model ids or globs; write ["claude-haiku-*"]'
        )
    return tuple(map(parse_glob, given))


def _parse_live(value: object) -> float:
    if not isinstance(value, bool):
        raise SettingsError(f"{show_value(value)} is neither True nor False")
    return float("inf") if value else 0


def _parse_stable_prefix(value: object) -> int:
    if value is not True:
        raise SettingsError(
            f"{show_value(value)} is not True; leave it out, or see llmcost_stable_prefix"
        )
    return 0


def _parse_parts(value: object) -> dict[str, int]:
    if not isinstance(value, Mapping) or not value:
        raise SettingsError(
            f'{show_value(value)} is not a mapping of parts to tokens; write {{"tools": "3k"}}'
        )
    return {parse_part(name): parse_quantity(limit) for name, limit in value.items()}


ARGUMENTS: Mapping[Limited, Callable[[object], Any]] = {
    "usd": parse_usd,
    "worst": parse_usd,
    "input_tokens": parse_quantity,
    "uncached_input_tokens": parse_quantity,
    "output_tokens": parse_quantity,
    "calls": parse_quantity,
    "call_usd": parse_usd,
    "call_input_tokens": parse_quantity,
    "call_output_tokens": parse_quantity,
    "parts": _parse_parts,
    "models": _parse_models,
    "live": _parse_live,
    "stable_prefix": _parse_stable_prefix,
}
"""What the marker limits, by its arguments: a number, names that are allowed, numbers by part."""
MARKERS = (
    f"max_cost(usd, *, {', '.join(f'{name}=None' for name in list(ARGUMENTS)[1:])}, cache=None, "
    'reason=""): '
    'fail the test if its Claude calls cost more than usd ("$0.02", "2c", 0.02), or use more '
    'tokens or calls ("8k") than allowed, in all, in one call or in a part of a prompt '
    '({"tools": "3k"}), are of other models, or live. (pytest-llmcost)',
    "llmcost_tag(*tags): tag the Claude calls of the test, for totals and budgets by tag. "
    "(pytest-llmcost)",
)
"""As `pytest --markers` shows them."""


def add_options(parser: pytest.Parser) -> None:
    """Declare every flag and ini key; all default to None, to tell unset from set."""
    group = parser.getgroup("llmcost", "cost of Claude calls (pytest-llmcost)")
    for option in OPTIONS:
        if option.flag:
            how: dict[str, Any] = {"action": "store_true"}
            if option.metavar is not None:
                action = "append" if option.repeatable else "store"
                how = {"action": action, "metavar": option.metavar}
            text = option.help.replace("%", "%%")  # argparse formats it, unlike an ini key's
            group.addoption(option.flag, dest=option.ini, default=None, help=text, **how)
        if option.repeatable:
            # Not a list: that is what pytest makes of a key without a value.
            parser.addini(option.ini, option.help, type="linelist", default=())
        else:
            parser.addini(option.ini, option.help, type="string", default=None)


def read_settings(config: pytest.Config) -> Settings:
    """Settle all options of this run.

    Raises:
        SettingsError: a wrong value; the message names the flag, variable or ini key.
    """
    flags = {option.name: config.getoption(option.ini, None) for option in OPTIONS}
    ini_folder = config.inipath.parent if config.inipath else config.rootpath
    ini: dict[str, str | list[str] | None] = {}
    for option in OPTIONS:
        try:
            ini[option.name] = config.getini(option.ini)
        except (TypeError, pytest.UsageError) as error:
            # pytest's native TOML table is strictly typed: `llmcost_max_test = 0.02` is no string.
            how = '["...", "..."], a list of texts' if option.repeatable else '"...", in quotes'
            message = f"{option.ini}: {error}; write it as {option.ini} = {how}"
            raise SettingsError(message) from None
    return resolve(flags, os.environ, ini, Path(ini_folder))


def check_rootdir(config: pytest.Config) -> None:
    """Refuse the value of an option that pytest took for the path of a test.

    pytest looks for its rootdir before it knows any plugin's options. In `--llmcost-report PATH`
    an existing PATH is then an argument, and may lead to another rootdir and ini file: all ini
    settings of the project would silently be lost.
    Source: https://github.com/pytest-dev/pytest/issues/5610

    Raises:
        pytest.UsageError: the rootdir or the ini file would be another one without our values.
    """
    here = config.invocation_params.dir
    args = [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *config.invocation_params.args]
    ours: dict[str, str] = {}
    for option in OPTIONS:
        stated = None if option.metavar is None else config.getoption(option.ini, None)
        for value in [stated] if isinstance(stated, str) else stated or ():
            if value in args and os.path.exists(here / value):
                ours[value] = f"{option.flag}={value}"
    if not ours:
        return
    is_stated = config.args_source is config.ArgsSource.ARGS
    given = {
        "inifile": config.option.inifilename,
        "override_ini": config.option.override_ini,
        "args": config.args if is_stated else [],  # now that all options are known
        "rootdir_cmd_arg": config.option.rootdir or None,
        "invocation_dir": here,
    }
    accepted = inspect.signature(determine_setup).parameters  # not the same in all versions
    known = {name: value for name, value in given.items() if name in accepted}
    rootdir, inifile, *_ = determine_setup(**known)
    if (config.rootpath, config.inipath) != (rootdir, inifile):
        raise pytest.UsageError(
            f"pytest took {', '.join(ours)} for the path of a test, and so it uses "
            f"{config.inipath or f'no ini file (rootdir {config.rootpath})'} instead of "
            f"{inifile or f'no ini file (rootdir {rootdir})'}; write {' '.join(ours.values())}"
        )

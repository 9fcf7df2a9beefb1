"""The command that messages tell the user to paste, to count what is not counted yet."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence

import pytest

_RECORD_MODE = "--llmcost-record-mode"


def count_command(config: pytest.Config, nodeid: str) -> str:
    """Return the command that counts all that a test sends, and drops its other counts; free."""
    return _count_command("rewrite", count_target(config, nodeid))


def count_command_of_run(config: pytest.Config, options: Sequence[str]) -> str:
    """Return the command that repeats this run with permission to count, and these options."""
    words = [*_without_mode(config.invocation_params.args), *options]
    return _count_command("new_episodes", *words)


def count_target(config: pytest.Config, nodeid: str) -> str:
    """Return what to give to pytest, in the folder where it was started, to run a test."""
    path, separator, names = nodeid.partition("::")
    here = config.invocation_params.dir
    return os.path.relpath(config.rootpath / path, here) + separator + names


def _count_command(mode: str, *words: str) -> str:
    return f"{shlex.join(['pytest', *words])} {_RECORD_MODE}={mode}"


def _without_mode(args: Sequence[object]) -> Iterator[str]:
    words = iter(map(str, args))
    for word in words:
        if word == _RECORD_MODE:
            next(words, None)
        elif word != "--disable-recording" and not word.startswith(f"{_RECORD_MODE}="):
            yield word

"""The `llmcost` command: prices of recorded files, ledgers, the bill, settings, recorded counts.

It must not import pytest or `plugin/`, and imports a subcommand only when that is called. Exit
status: 0 all is well; 1 a budget is broken, figures differ, or something has no price; 2 the
command or its input is wrong.
"""

from __future__ import annotations

import os
import sys
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from pytest_llmcost.errors import LlmCostError, SettingsError

COMMANDS = {
    "init": "show the settings for a first budget, or write them",
    "price": "price recorded responses and cassettes",
    "rates": "show what models cost",
    "merge": "add up the ledgers of several shards",
    "suggest": "propose budgets that a run would keep",
    "compare": "compare a ledger with an earlier one",
    "render": "draw the reports of a run again",
    "history": "show the trend of a suite's cost",
    "badge": "write a run's total as a badge, or for a trend",
    "count": "count the tokens of prompt files",
    "cassettes": "search cassettes for keys",
    "prune": "remove recorded counts of tests that no longer exist",
    "reconcile": "compare ledgers with the organisation's bill",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    words = sys.argv[1:] if argv is None else argv
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed (`>&-`): nothing is shown, as by `print`
            number = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))
    try:
        # Options are parsed by our own parsers, which raise our own errors.
        arguments = _parser(words).parse_args(words)
        from decimal import localcontext

        from pytest_llmcost.money import EXACT

        with localcontext(EXACT):
            status: int = arguments.command.run(arguments)
        sys.stdout.flush()
        return status
    except LlmCostError as error:
        problem = str(error)
    except KeyboardInterrupt:
        return 130  # as a shell reports Ctrl-C
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
        if error.filename is None:  # of standard output
            # Keep Python from complaining about it once more on exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):
                return 1  # the reader has gone (`| head`)
            problem = f"the output cannot be written ({error.strerror})"
    from pytest_llmcost.cli.console import note

    note(*problem.split("\n"))
    return 2


class _Parser(ArgumentParser):
    """Names the option in errors about its value, as argparse does in its own."""

    def _get_value(self, action: Action, arg_string: str) -> Any:
        # Private: argparse reads each value by it.
        name = (*action.option_strings, action.dest)[0]
        # A badge may have no label; the rest of the line is the subcommand's to read.
        if not arg_string.strip() and name not in ("--label", SUPPRESS):
            why = "an unset shell variable expands to an empty string"
            raise SettingsError(f"{name}: is empty ({why})")
        try:
            return super()._get_value(action, arg_string)
        except SettingsError as error:
            raise SettingsError(f"{name}: {error}") from None


def _parser(words: Sequence[str]) -> ArgumentParser:
    parser = _Parser(prog="llmcost", description="What Claude API calls cost.")
    # Looked up only when asked for: reading package metadata is slow.
    number = import_module("pytest_llmcost").__version__ if "--version" in words else ""
    parser.add_argument("--version", action="version", version=f"llmcost {number}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, purpose in COMMANDS.items():
        if name == next(iter(words), None):
            module = import_module(f"pytest_llmcost.cli.{name}")
            command = commands.add_parser(name, help=purpose, description=module.__doc__)
            command.set_defaults(command=module)
            module.add_arguments(command)
        else:
            commands.add_parser(name, help=purpose)
    return parser


if __name__ == "__main__":
    sys.exit(main())

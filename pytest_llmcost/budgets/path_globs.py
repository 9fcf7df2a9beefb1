"""Budgets of paths: `tests/agents/** = $0.50`, a glob over node ids and its limit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache

from pytest_llmcost.budgets.budget import Budget
from pytest_llmcost.errors import SettingsError
from pytest_llmcost.money import parse_usd

_WILDCARD = re.compile(r"\*\*|\*|\?")
_PIECE = re.compile(r"\*\*|.", re.DOTALL)
_MEANINGS = {"**": ".*", "*": "[^/]*", "?": "[^/]"}


def parse_path_budget(line: str, origin: str, *, warn_at: Decimal | None = None) -> Budget:
    """Read a line `glob = amount` into a budget on the sum of what the glob matches.

    Raises:
        SettingsError: without a glob or an amount that makes sense; names the origin.
    """
    pattern, found, amount = line.rpartition("=")
    pattern = _normalised(pattern.strip())
    if not found or not pattern:
        raise SettingsError(
            f"{origin}: {line.strip()!r} is no `glob = amount`; write `tests/agents/** = $0.50`"
        )
    try:
        limit = parse_usd(amount.strip())
    except SettingsError as error:
        raise SettingsError(f"{origin}: {line.strip()!r}: {error}") from None
    return Budget(
        scope="path", limit=limit, origin=origin, label=pattern, pattern=pattern, warn_at=warn_at
    )


def _normalised(pattern: str) -> str:
    """Write the path of a glob as node ids have it: without `./`, and with no backslash."""
    path = _path_of(pattern)
    parts = path.replace("\\", "/").split("/")
    edges = (0, len(parts) - 1)
    kept = [part for at, part in enumerate(parts) if part != "." and (part or at in edges)]
    written = "/".join(kept) or ("**" if path else "")
    return written + pattern[len(path) :]


def _path_of(pattern: str) -> str:
    """The part of a glob that names files; what follows, a test or its parameters, is no path."""
    return pattern.partition("::" if "::" in pattern else "[")[0]


def matches(pattern: str, nodeid: str) -> bool:
    """Return whether a glob holds for a node id, `path/to/test_file.py::Class::test[param]`.

    `**` stands for anything, `*` and `?` for anything but `/`; brackets are themselves. What
    names a file, a class or a test also holds for all that is in it, and without a wildcard
    what names a folder does.

    Example:
        >>> matches("tests/*/test_triage.py", "tests/agents/test_triage.py::test_a[x/y]")
        True
    """
    return _compiled(pattern).match(nodeid) is not None


def may_hold_in(pattern: str, path: str) -> bool:
    """Return whether a glob may hold for a test of a file, whatever tests are in it.

    Example:
        >>> may_hold_in("tests/**::test_a*", "tests/agents/test_triage.py")
        True
        >>> may_hold_in("tests/agent/**", "tests/agents/test_triage.py")
        False
    """
    if matches(pattern, path):
        return True
    beginnings = _beginnings(pattern)
    return beginnings is not None and beginnings.fullmatch(f"{path}::") is not None


@lru_cache(maxsize=256)
def _beginnings(pattern: str) -> re.Pattern[str] | None:
    """Whatever a match may begin with, the rest being the name of a class or a test.

    A rest with a dot or a slash before its parameters is the end of a path, not such a name.
    """
    path = _path_of(pattern)
    latest = max(path.rfind("/"), path.rfind(".")) + 1
    pieces, ends = list(_pieces(pattern)), list[int]()
    length = 0
    for number, (text, _) in enumerate(pieces, start=1):
        length += len(text)
        if length >= latest:
            ends.append(number)
    found = ("".join(regex for _, regex in pieces[:end]) for end in ends)
    return re.compile("|".join(found), re.DOTALL) if ends else None


def folder_of(pattern: str) -> str:
    """The folder in which everything is that a glob can match; empty for the root.

    Example:
        >>> folder_of("tests/agents/test_*.py::test_a")
        'tests/agents'
    """
    path = _path_of(pattern)
    wildcard = _WILDCARD.search(path)
    return path[: wildcard.start() if wildcard else None].rpartition("/")[0]


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    inner = "::|\\[" if _WILDCARD.search(pattern) else "/|::|\\["
    if pattern.endswith("/"):
        pattern += "**"
    whole = "".join(regex for _, regex in _pieces(pattern))
    return re.compile(whole + f"(?:\\Z|(?={inner}))", re.DOTALL)


def _pieces(pattern: str) -> Iterator[tuple[str, str]]:
    """Yield each wildcard and each other character of a glob, with the expression for it."""
    for piece in _PIECE.findall(pattern):
        yield piece, _MEANINGS.get(piece) or re.escape(piece)


def fixture_matches(pattern: str, name: str, node: str) -> bool:
    """Return whether a glob holds for a shared fixture, by its name and the node it belongs to.

    Example:
        A session fixture of `tests/agents/conftest.py` is `tests/agents/<its name>`, one of a
        module is `tests/agents/test_triage.py::<its name>`.
    """
    joints = ("::", "/") if node else ("",)
    return any(matches(pattern, f"{node}{joint}{name}") for joint in joints)

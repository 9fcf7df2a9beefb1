"""Lines for paths: `tests/agents/** = $0.50`, a glob over node ids and what is set for it.

Beside budgets of paths stand those of tags: `tag:judge = $0.10`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from posixpath import normpath

from pytest_llmcost.budgets.budget import Budget
from pytest_llmcost.errors import SettingsError
from pytest_llmcost.money import parse_usd, show_value

TAG = "tag:"
_PIECE = re.compile(r"\*\*|.", re.DOTALL)
_MEANINGS = {"**": ".*", "*": "[^/]*", "?": "[^/]"}


def parse_path_budget(line: str, origin: str, *, warn_at: Decimal | None = None) -> Budget:
    """Read a line `glob = amount` into a budget on the sum of what the glob matches, or a tag has.

    Raises:
        SettingsError: without a glob or an amount that makes sense; names the origin.
    """
    pattern, amount = read_line(line)
    if not pattern:
        raise SettingsError(
            f"{origin}: {line.strip()!r} is not `path = amount`; write `tests/agents/** = $0.50`"
        )
    try:
        if pattern.startswith(TAG):
            check_tag(pattern.removeprefix(TAG))
        limit = parse_usd(amount)
    except SettingsError as error:
        raise SettingsError(f"{origin}: {line.strip()!r}: {error}") from None
    return Budget(
        scope="tag" if pattern.startswith(TAG) else "path",
        limit=limit,
        origin=origin,
        label=pattern,
        pattern=pattern,
        warn_at=warn_at,
    )


def check_tag(name: object) -> None:
    """Refuse what is no tag.

    Raises:
        SettingsError: it is no text, empty, or has blanks, a comma or an equals sign.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[^\s,=]+", name):
        raise SettingsError(
            f"{show_value(name)} is not a tag; write a word without blanks, commas and equals "
            'signs, for example "judge"'
        )


def read_line(line: str) -> tuple[str, str]:
    """Split a line `glob = value`; one for all other tests has an empty glob."""
    left, _, value = line.rpartition("=")
    glob = left.strip()
    path = glob.partition("::")[0]
    if path and not glob.startswith(TAG):
        # As node ids have it: without a backslash, `./` and `folder/..`.
        name = normpath(path.replace("\\", "/"))
        end = "/" if path[-1] in "/\\" else ""
        glob = ("**" if name == "." else name + end) + glob[len(path) :]
    return glob, value.strip()


def rule_for(lines: Iterable[str], *names: str) -> tuple[str, list[str]]:
    """Return the last glob that matches a test or shared fixture, and what its lines state.

    `names` are a test's node id, or all names of a fixture; calls outside of both have none. Lines
    without a glob, wherever they stand, hold where no glob matches.
    """
    read = [read_line(line) for line in lines]
    matching = [glob for glob, _ in read if glob and any(matches(glob, name) for name in names)]
    last = matching[-1] if matching else ""
    return last, [value for glob, value in read if glob == last]


def matches(pattern: str, nodeid: str) -> bool:
    """Return whether a glob holds for a node id, `path/to/test_file.py::Class::test[param]`.

    `**` stands for anything, `*` and `?` for anything but a path's `/`; brackets are themselves.
    What names a file, a class or a test also holds for all that is in it, and without a wildcard
    what names a folder does.

    Example:
        >>> matches("tests/*/test_triage.py", "tests/agents/test_triage.py::test_a[x/y]")
        True
    """
    return _compiled(pattern).match(_with_slashes_of_path(nodeid)) is not None


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    inner = "::|\\[" if {"*", "?"}.intersection(pattern) else "/|::|\\["
    glob = _with_slashes_of_path(pattern + "**" if pattern.endswith("/") else pattern)
    whole = "".join(_MEANINGS.get(each) or re.escape(each) for each in _PIECE.findall(glob))
    return re.compile(whole + f"(?:\\Z|(?={inner}))", re.DOTALL)


def _with_slashes_of_path(text: str) -> str:
    """Put another character in the place of each slash in parameters, which ends no folder."""
    path, joint, names = text.partition("::")
    return path + joint + names.replace("/", "\0")


def fixture_names(name: str, node: str) -> tuple[str, ...]:
    """Return the names by which a glob may match a shared fixture of a node.

    Example:
        A session fixture of `tests/agents/conftest.py` is `tests/agents/<its name>`, one of a
        module is `tests/agents/test_triage.py::<its name>`.
    """
    return (f"{node}::{name}", f"{node}/{name}") if node else (name,)

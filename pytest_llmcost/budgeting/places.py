"""Ceilings by place: `tests/agents/** = $0.50`, a glob over node ids and its limit.

Data flow: an ini line -> `parse_place` -> Budget with a pattern -> `matches` node ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache

from pytest_llmcost.budgeting.budget import Budget
from pytest_llmcost.budgeting.report import FixtureRow
from pytest_llmcost.errors import SettingsError
from pytest_llmcost.pricing.money import parse_usd

_WILDCARD = re.compile(r"\*\*|\*|\?")
_MEANINGS = {"**": ".*", "*": "[^/]*", "?": "[^/]"}


def parse_place(line: str, origin: str, *, warn_at: Decimal | None = None) -> Budget:
    """Read a line `glob = amount` into a budget on the sum of what the glob matches.

    Raises:
        SettingsError: without a glob or an amount that makes sense; names the origin.
    """
    pattern, found, amount = line.rpartition("=")
    pattern = pattern.strip()
    if not found or not pattern:
        raise SettingsError(f"{origin}: {line.strip()!r} is no `glob = amount`; {_EXAMPLE}")
    try:
        limit = parse_usd(amount.strip())
    except SettingsError as error:
        raise SettingsError(f"{origin}: {line.strip()!r}: {error}") from None
    return Budget(
        scope="place", limit=limit, origin=origin, label=pattern, pattern=pattern, warn_at=warn_at
    )


_EXAMPLE = "write `tests/agents/** = $0.50`"


def matches(pattern: str, nodeid: str) -> bool:
    """Whether a glob holds for a node id, `path/to/test_file.py::Class::test[param]`.

    `**` stands for anything, `*` and `?` for anything but `/`; brackets are themselves. What
    names a file, a class or a test also holds for all that is in it, and without a wildcard
    what names a folder does.

    Example:
        >>> matches("tests/*/test_triage.py", "tests/agents/test_triage.py::test_a[x/y]")
        True
    """
    return _compiled(pattern).match(nodeid) is not None


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    inner = "::|\\[" if _WILDCARD.search(pattern) else "/|::|\\["
    if pattern.endswith("/"):
        pattern += "**"
    return re.compile("".join(_pieces(pattern)) + f"(?:\\Z|(?={inner}))", re.DOTALL)


def _pieces(pattern: str) -> Iterator[str]:
    done = 0
    for wildcard in _WILDCARD.finditer(pattern):
        yield re.escape(pattern[done : wildcard.start()])
        yield _MEANINGS[wildcard.group()]
        done = wildcard.end()
    yield re.escape(pattern[done:])


def fixture_matches(pattern: str, fixture: FixtureRow) -> bool:
    """Whether a glob holds for a shared fixture, by the node it is for, else defined under.

    Example:
        A session fixture of `tests/agents/conftest.py` is `tests/agents/<its name>`, one of a
        module is `tests/agents/test_triage.py::<its name>`.
    """
    node = fixture.node or fixture.baseid
    joints = ("::", "/") if node else ("",)
    return any(matches(pattern, f"{node}{joint}{fixture.name}") for joint in joints)

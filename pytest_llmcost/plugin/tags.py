"""Tags: what a call is for, such as `judge`, so that totals and budgets can be by purpose.

A call has every tag that is open where it is sent, and those of its test's markers. All, not only
the innermost: a tag inside another must not take calls out of the outer one's budget.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from pytest_llmcost.errors import SettingsError

_tags: ContextVar[tuple[str, ...]] = ContextVar("llmcost_tags")
_open: list[str] = []
"""Every tag that is open anywhere in this process."""


@contextmanager
def tag(name: str) -> Iterator[None]:
    """Tag the calls inside the block, also those of async tasks and threads that it starts.

    Raises:
        SettingsError: the name is empty, or could not stand in `llmcost_budgets`.
    """
    check_tag(name)
    token = _tags.set((*current_tags(), name))
    _open.append(name)
    try:
        yield
    finally:
        _open.remove(name)
        # An async fixture may be torn down in another context; its own has ended by then.
        with suppress(ValueError):
            _tags.reset(token)


def current_tags() -> tuple[str, ...]:
    """Return the tags of what is sent now."""
    tags = _tags.get(None)
    if tags is not None:
        return tags
    # A plain thread inherits no context. What is open elsewhere has most likely started it, and a
    # budget should rather see a call too many than miss one.
    is_main = threading.current_thread() is threading.main_thread()
    return () if is_main else tuple(_open)


def check_tag(name: object) -> None:
    """Refuse what is no tag.

    Raises:
        SettingsError: it is no text, empty, or has blanks, a comma or an equals sign.
    """
    if (
        not isinstance(name, str)
        or not name
        or any(each.isspace() or each in ",=" for each in name)
    ):
        raise SettingsError(
            f"{name!r:.80} is not a tag; write a word without blanks, commas and equals signs, "
            'for example "judge"'
        )

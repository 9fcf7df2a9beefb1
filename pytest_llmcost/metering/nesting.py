"""Nesting: YAML so deep that loading it would end the whole process, found before it is loaded.

libyaml's loader goes down one level of the C stack for each level of the text, without a limit;
reading the text's events does not.
"""

from __future__ import annotations

import re
from typing import Any

MOST_LEVELS = 1_000
"""Deeper than any recording; a tenth of what a thread's stack takes."""
_LONG_LINE = re.compile(rf"^.{{{MOST_LEVELS // 2}}}", re.MULTILINE)
_LONG_LINE_OF_BYTES = re.compile(_LONG_LINE.pattern.encode(), re.MULTILINE)


def find_too_deep(text: str | bytes) -> int | None:
    """Return the line on which YAML nests too deeply; nothing where it does not, or is no YAML."""
    if not _may_be_deep(text):
        return None
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MOST_LEVELS:
                mark: Any = event.start_mark
                return int(mark.line) + 1
    except (yaml.YAMLError, ValueError):
        return None  # whoever loads it says what is wrong
    return None


def _may_be_deep(text: str | bytes) -> bool:
    """A level takes a bracket, or a column more; a list may stand in its key's own column."""
    if isinstance(text, bytes):
        opened = text.count(b"[") + text.count(b"{")
        is_wide = _LONG_LINE_OF_BYTES.search(text) is not None
    else:
        opened = text.count("[") + text.count("{")
        is_wide = _LONG_LINE.search(text) is not None
    return opened > MOST_LEVELS // 2 or is_wide

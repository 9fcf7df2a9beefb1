"""Escape: foreign text, such as the name of a test, made harmless in Markdown and HTML.

A name may hold anything: pipes, backticks, tags, mentions, escape sequences. What could mean
something is written as a character reference, which Markdown never reads as markup.
"""

from __future__ import annotations

import re
import string
import unicodedata

MOST_CHARACTERS = 300
"""Of a name or a sentence; more than anyone reads."""
MOST_WITH_COMMAND = 2_000
"""Of a sentence that may hold a command, which is of no use when it is cut."""

_UNBROKEN = re.compile(r"(\S{40})(?=\S)")
"""Where a long name may be broken, so that the figures in its table stay in sight."""
_SPACE = re.compile(r"\s+")
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_NAMED = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_REFERENCES = {each: _NAMED.get(each, f"&#{ord(each)};") for each in string.punctuation}
_JOINED = {"@": "&#64;&#8203;", "#": "&#35;&#8203;"}
"""With a space of no width behind, no forge takes them for a mention or a reference."""


def _table(harmless: str, **others: str) -> dict[int, str]:
    kept = {each: text for each, text in _REFERENCES.items() if each not in harmless}
    return str.maketrans({**kept, **others})


_IN_CODE = _table("_/.:,=-")
_IN_PROSE = _table("_/.:,;=()?'%$>-", **_JOINED)

_LEFT_OVER = re.compile(r"(?<![^\W_])_|_(?![^\W_])|(?<=:)/|(?<=www)\.|\$(?!\d)", re.IGNORECASE)
"""What means something by its place alone: emphasis, addresses, formulas."""
_EMAIL = re.compile(r"&#64;(?=[\w-]*\.)")
"""In code, too, GitHub makes a link of `a@b.c`. Any other name is left as it is, to be copied."""


def clean(text: str, most: int = MOST_CHARACTERS) -> str:
    r"""Put text on one line, show what is invisible (`\x1b`), and cut what is too long.

    The end is kept: by it alone the names of two tests may differ.

    Example:
        >>> clean("a\tb\x1b[31m"), clean("test_a[a very long prompt-1]", 20)
        ('a b\\x1b[31m', 'test_a[a ve...mpt-1]')
    """
    line = text if len(text) <= most else f"{text[:most]}...{text[-most:]}"
    if not line.isprintable():
        line = "".join(
            each.encode("unicode_escape").decode()
            if unicodedata.category(each) in _INVISIBLE
            else each
            for each in _SPACE.sub(" ", line)
        ).strip()
    end = most // 3
    return line if len(line) <= most else f"{line[: most - end - 3]}...{line[-end:]}"


def code(text: str) -> str:
    """Write a name as code, in a table cell or a sentence of Markdown.

    Example:
        >>> code("t.py::test_a[x|y]")
        '<code>t.py::test_a&#91;x&#124;y&#93;</code>'
    """
    shown = _UNBROKEN.sub("\\1\0", clean(text))  # which is printable
    written = _EMAIL.sub(_JOINED["@"], _escape(shown, _IN_CODE))
    return f"<code>{written.replace(chr(0), '<wbr>')}</code>"


def prose(text: str, most: int = MOST_CHARACTERS) -> str:
    """Write a sentence with foreign parts as plain text of Markdown.

    Example:
        >>> prose("ask @team, cost $1 > $0.50")
        'ask &#64;&#8203;team, cost $1 > $0.50'
    """
    return _escape(clean(text, most), _IN_PROSE)


def _escape(text: str, table: dict[int, str]) -> str:
    return _LEFT_OVER.sub(lambda match: _REFERENCES[match[0]], text.translate(table))

"""How counts are recorded: what each mode allows, in one table.

The names are pytest-recording's. Imports nothing, because settings list the names.
"""

from __future__ import annotations


class RecordMode:
    """What counting may do with a cassette, and with the API."""

    reads: bool = False
    """A recorded count is used."""
    asks: bool = False
    """The API may be asked for what is not recorded, or not read."""
    writes: bool = False
    prunes: bool = False
    """What its asker no longer asks for is removed."""
    is_once: bool = False
    """Asks and writes only for an asker of whom nothing is recorded yet."""

    def __init__(self, **allowed: bool) -> None:  # a NamedTuple takes long to make, in every run
        vars(self).update(allowed)

    def for_asker(self, *, is_new: bool) -> RecordMode:
        """Return what it comes to for an asker, who is new if nothing of it is recorded."""
        return self if is_new or not self.is_once else MODES["none"]


MODES = {
    "none": RecordMode(reads=True),
    "once": RecordMode(reads=True, asks=True, writes=True, is_once=True),
    "new_episodes": RecordMode(reads=True, asks=True, writes=True),
    "all": RecordMode(asks=True, writes=True),
    "rewrite": RecordMode(asks=True, writes=True, prunes=True),
}
LIVE = RecordMode(asks=True)
"""`--disable-recording`: count over the network, read and write no cassette."""

"""Child processes: what they send comes back in files, which the process of the tests reads.

A forked child inherits what is wrapped, and a ticket makes one that multiprocessing spawns do the
same. A child that is about to send leaves a file of its own; it removes that when all it has sent
has come back. What is left of such files tells of calls that are lost.
"""

from __future__ import annotations

import mmap
import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pytest_llmcost.capture.request import CapturedRequest

_SEEN, _LOST = 1, 2


class Children:
    """The children of one process, and on their side the way back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Where they write; made by the first."""
        self._mark = mmap.mmap(-1, 1)  # anonymous, and shared across a fork
        self._number = 0
        self._has_failed = False

    @property
    def have_sent(self) -> bool:
        """Whether any child has sent a request so far, or was spawned and may have."""
        return self._mark[0] != 0

    def may_send(self) -> None:
        """Note that a child is spawned, which shares no memory."""
        self._mark[0] = self._mark[0] or _SEEN

    def is_lost(self, token: str = "") -> bool:
        """Whether what a child has sent, for one owner or for any, has not come back."""
        if not self.have_sent or self._mark[0] == _LOST:
            return self._mark[0] == _LOST
        return any(self.folder.glob(f"*-{_digest(token) if token else '*'}.open"))

    def take(self) -> Iterator[tuple[str | None, Any]]:
        """Yield what has come back, each once: whose it is, None for the run's, and what."""
        if not self.have_sent:
            return
        for path in sorted(self.folder.glob("*.sent"), key=lambda each: each.name):
            data = path.read_bytes()
            path.unlink()
            yield pickle.loads(data)  # noqa: S301 - by our children, in a folder that is ours alone

    # In a child

    def note(self, token: str) -> None:
        """Note that this process sends a request of an owner."""
        try:
            self._make_folder()
            (self.folder / f"{os.getpid()}-{_digest(token)}.open").touch()
        except OSError:
            self._mark[0] = _LOST

    def _make_folder(self) -> None:
        for folder in (self.folder.parent, self.folder):
            folder.mkdir(mode=0o700, exist_ok=True)
        self._mark[0] = self._mark[0] or _SEEN

    def send(self, token: str | None, news: Any) -> None:
        """Send something back, of an owner or, for None, of the run."""
        try:
            self._make_folder()
            self._number += 1
            name = f"{time.time_ns():020}-{os.getpid()}-{self._number}"
            draft = self.folder / f"{name}.tmp"
            draft.write_bytes(pickle.dumps((token, news)))
            draft.rename(draft.with_suffix(".sent"))
        except Exception:  # noqa: BLE001 - whatever it is, the call is lost and the child goes on
            self._has_failed = True

    def all_back(self, pid: int | None = None) -> None:
        """Note that nothing of this child, or of another one, is under way."""
        if not self._has_failed:
            for path in self.folder.glob(f"{pid or os.getpid()}-*.open"):
                path.unlink(missing_ok=True)


def _digest(token: str) -> str:
    return sha256(token.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def packed(request: CapturedRequest) -> CapturedRequest:
    """Return a request as it can leave its process: what it used, and nothing of any library."""
    library = ("source", "client", "decoder", "_reader", "_recorded")
    process = ("owner", "over", "cap", "outer", "error", "supersedes")
    left = dict.fromkeys((*library, *process))
    return request.variant(**left, headers=request.headers, play=request.replay, _unread=b"")


class Inheritance(NamedTuple):
    """What a spawned child is given, so that it follows requests and sends them back."""

    folder: str
    token: str
    phase: str | None
    tags: tuple[str, ...]
    """Those that were open where it was started."""
    open_tags: bytes
    """The plugin's function that returns those of the child itself, pickled as the cap is."""
    cap: bytes | None
    """The plugin's cap on live spend, pickled: it is large, and read when it is needed."""
    stand_ins: tuple[str, ...]
    relays: tuple[int, ...]

    def follow(self) -> None:
        """Begin to follow requests, in the child."""
        from pytest_llmcost.capture.transports import RELAYS, follow

        RELAYS.update(self.relays)
        children, made = Children(Path(self.folder)), list[Any]()

        def begin(*sent: Any) -> CapturedRequest | None:  # as late as in the process of the tests
            from pytest_llmcost.capture.capture import Capture

            open_tags = pickle.loads(self.open_tags)  # noqa: S301 - our parent's

            def sender() -> tuple[str, ...]:
                children.note(self.token)
                return (*self.tags, *open_tags())

            def report(request: CapturedRequest) -> None:
                how = (self.phase, request.owner)
                children.send(self.token, (None, how, packed(request)))

            capture = Capture(owner=sender, report=report, clock=time.time)
            cap = None if self.cap is None else pickle.loads(self.cap)  # noqa: S301 - our parent's
            capture.limit(self.stand_ins, cap)
            capture.when_idle = children.all_back
            made.append(capture)  # several threads may come here at once: all take the first
            follower.begin = made[0].begin
            return follower.begin(*sent)

        with suppress(Exception):  # what cannot be followed must not end the child
            follower = follow(begin, partial(children.send, None), self._of_child)

    def _of_child(self) -> Callable[[], None]:
        """Return what a child of this child is given."""
        here = pickle.loads(self.open_tags)()  # noqa: S301 - our parent's
        return self._replace(tags=(*self.tags, *here)).follow

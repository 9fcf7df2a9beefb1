"""Files that several processes write: changed under a lock, and replaced at once.

Readers see the old file or the new one, never a part. Knows nothing of what the files hold.
"""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK_SECONDS = 60.0


class LockError(OSError):
    """A file cannot be locked; the text goes on after the file's name."""


def show_path(path: Path) -> str:
    """Return the path as a person types it: relative if it is below the working directory."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def path_in_project(path: Path, root: Path) -> str:
    """Return a path as files hold it: relative to the rootdir, or the name alone outside of it."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def files_below(folder: Path) -> list[Path]:
    """Return all that is in a folder and below it and is no folder itself, sorted.

    Raises:
        OSError: a folder cannot be read, so that not all is known.
    """

    def fail(error: OSError) -> None:
        raise error

    found = os.walk(folder, onerror=fail)
    return sorted(Path(parent, name) for parent, _, names in found for name in names)


def write_atomic(path: Path, chunks: Iterable[bytes]) -> None:
    """Replace a file by one that is complete; missing folders are made.

    A link is followed, and the permissions of an existing file are kept. A device or a pipe, such
    as /dev/stdout, is written to.

    Raises:
        OSError: it cannot be written; the old file is then still there.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            file.writelines(chunks)
        return
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the file, because a rename is atomic only within one file system.
    # Not by `os.urandom`, of which a test may have put a mock in place that counts what it gives.
    draft = target.with_name(f".{random.SystemRandom().getrandbits(64):016x}.llmcost.tmp")
    try:
        with draft.open("xb") as file:
            file.writelines(chunks)
        with suppress(FileNotFoundError):
            draft.chmod(target.stat().st_mode)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes off a file.

    The lock is the operating system's, on a file in the temporary folder, so that nothing lies
    beside the user's file and the lock of a process that died is free.

    Raises:
        LockError: the file cannot be locked.
    """
    import filelock

    user = getattr(os, "getuid", lambda: "user")()  # there is none on Windows
    folder = Path(tempfile.gettempdir()) / f"pytest-llmcost-{user}"
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    lock = filelock.FileLock(folder / f"{name}.lock")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        # Another user may have made it in /tmp, with links that opening a lock would follow.
        if user != "user" and folder.lstat().st_uid != user:
            raise PermissionError(f"{folder} is not yours")
        lock.acquire(timeout=LOCK_SECONDS)
    except filelock.Timeout as timeout:
        raise LockError(
            f"has been locked by another process for more than {LOCK_SECONDS:g} s "
            f"({timeout.lock_file}); end that process, then run again"
        ) from None
    except (OSError, NotImplementedError) as error:  # the latter if there are no locks at all
        raise LockError(
            f"cannot be locked: {error}. The lock is a file in the temporary folder; make that "
            "writable, or set TMPDIR to another one"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # closing the file frees it as well
            lock.release()

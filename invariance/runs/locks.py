"""Locks of files that tell who holds them, also to those who only look."""

import fcntl
import os
import socket
import time
from pathlib import Path

UNREADABLE = "somebody (its lock cannot be read)"

_TRIES, _APART = 5, 0.05
"""Somebody who only looks holds a lock for an instant."""


def lock(path: Path) -> int | None:
    """Take the lock of a file and write who holds it; None if somebody else does.

    The lock ends with the process, however that ends. On a shared file system it holds between machines where `flock`
    does (NFS 4 does so by itself).

    Args:
        path: the file; made if it is not there.

    Returns:
        The open file's descriptor, whose closing gives the lock up.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if _taken(descriptor):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, me().encode())
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


class SharedLock:
    """One lock that holds many files, so that a process needs one open file for all.

    Each file becomes another name of one file that this process has locked. Where a disk has no such names, files are
    locked one by one.
    """

    def __init__(self) -> None:
        self._held: list[int] = []
        self._named: Path | None = None

    def take(self, path: Path) -> int | None:
        """Take the lock of a file as `lock` does; the descriptor stays this lock's to close.

        Args:
            path: the file; made if it is not there.
        """
        for _ in range(_TRIES):
            if (here := next((one for one in self._held if still_there(one, path)), None)) is not None:
                return here
            own = lock(path)  # nobody else holds it
            if own is None:
                return None
            if still_there(own, path):
                try:
                    self._name(path)
                except OSError:
                    self._held.append(own)
                    continue
            os.close(own)  # somebody may have shared it meanwhile
        return None

    def _name(self, path: Path) -> None:
        """Make a file another name of the one that is locked, which is made at first."""
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        if self._named is not None:
            os.link(self._named, temporary)
        elif (made := lock(temporary)) is not None:
            self._held.append(made)
        os.replace(temporary, path)
        self._named = path

    def close(self) -> None:
        """Give up the lock of all files."""
        for one in self._held:
            os.close(one)
        self._held, self._named = [], None


def _taken(descriptor: int) -> bool:
    for left in reversed(range(_TRIES)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if left:
                time.sleep(_APART)
    return False


def still_there(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that a path names now: neither deleted nor replaced since it was opened."""
    try:
        now, held = os.stat(path), os.fstat(descriptor)
    except OSError:  # of an open file, too, where another machine deleted it
        return False
    return (held.st_dev, held.st_ino) == (now.st_dev, now.st_ino)


def others_at(path: Path) -> str:
    """Who else than this process holds the lock of a file, as `holder` names them; empty if nobody does."""
    who = holder(path)
    return "" if who is None or who == me() else who


def holder(path: Path) -> str | None:
    """Who holds the lock of a file, as "process 17 on host"; None if nobody does. Nothing is written.

    Of a lock that this user may not look at it is not known whether anybody holds it: it counts as held (`UNREADABLE`),
    so that nobody takes for left what another user works at.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return UNREADABLE
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 200).decode(errors="replace") or "another process"
    except OSError:
        return UNREADABLE
    finally:
        os.close(descriptor)
    return None


def me() -> str:
    """This process, as locks name it."""
    return f"process {os.getpid()} on {socket.gethostname()}"

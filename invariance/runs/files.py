"""Files that are whole or absent: written beside their target, flushed to the disk, then renamed into place."""

import errno
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from invariance.errors import UserError

DONE = "done.json"
"""The marker of a finished run, written last of all."""

RESULTS, BEGUN = "results.json", "parts/begun.json"
"""What results from Python are of, in the folder that keeps them; and while they are unfinished, beside their parts."""

_DISK_ERRORS = {
    errno.ENOENT: "its folder is not there and cannot be made",
    errno.EROFS: "it is on a read-only file system",
    errno.EACCES: "it may not be written to",
    errno.EPERM: "it may not be written to",
    errno.ENOSPC: "its disk is full",
    errno.EDQUOT: "its disk quota is used up",
    errno.ENAMETOOLONG: "its name is too long",
    errno.EFBIG: "the file would be larger than allowed",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.ENOLCK: "its file system keeps no locks",
    errno.EISDIR: "a folder stands where a file is needed",
}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what a disk refuses (full, read-only, forbidden) while writing `path` into one line for the user.

    Raises:
        UserError: for the refusals a user can mend; other errors of the operating system pass unchanged.
    """
    try:
        yield
    except OSError as error:
        refusal = disk_refusal(error, path)
        if refusal is None:
            raise
        raise UserError(refusal) from error


def disk_refusal(error: OSError, path: Path | None = None) -> str | None:
    """One line for a refusal of the disk that a user can mend; None for other errors of the operating system.

    Args:
        error: what was raised.
        path: the file that was written; None: the one that the error names.
    """
    reason = _DISK_ERRORS.get(error.errno or 0)
    where = path if path is not None else error.filename or "a file"
    return f"cannot write {where}: {reason}; make room or choose another place, then repeat" if reason else None


@contextmanager
def atomic_path(path: Path, aside: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed and renamed to `path`, on an error removed.

    A reader sees the old file or the new one, never a part. The temporary file stands in the target's own folder, so
    that the rename never crosses a file system.

    Args:
        path: the target.
        aside: in the same folder, where the file that stood at `path` goes; None: nowhere. At every moment a whole
            file is at one of the two.

    Raises:
        UserError: if the disk is full, read-only or forbidden.
    """
    temporary = _temporary(path)
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            _replace(temporary, path, aside)
            sync_folder(path.parent)
    finally:
        with suppress(NotADirectoryError):
            temporary.unlink(missing_ok=True)


def _replace(temporary: Path, path: Path, aside: Path | None) -> None:
    if aside is None or not path.exists():
        os.replace(temporary, path)
        return
    held = _temporary(aside)
    try:
        os.link(path, held)
    except OSError:  # a file system without hard links
        os.replace(path, aside)
        os.replace(temporary, path)
    else:  # what stands at `aside` is given up last, so that no kill leaves one file alone
        os.replace(temporary, path)
        os.replace(held, aside)


def _temporary(path: Path) -> Path:
    # containers that share a file system have processes of the same number
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def remove_temporaries(folder: Path) -> None:
    """Remove what processes that were killed left half-written in `folder`; none may be writing there now."""
    for path in folder.glob(".*.[0-9]*.tmp"):  # as `_temporary` names them
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

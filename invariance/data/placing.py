"""How the folder of prepared data appears: one process builds it beside its place, under a lock, and renames it."""

import fcntl
import glob
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from invariance.runs.files import sync_folder


def put(temporary: Path, directory: Path) -> None:
    """Let a folder appear whole, in the place of an older one."""
    old = directory.with_name(f".{directory.name}.old")
    if directory.is_dir():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(directory, old)
    os.rename(temporary, directory)
    sync_folder(directory.parent)
    shutil.rmtree(old, ignore_errors=True)


def temporary_of(directory: Path) -> Path:
    """Where a folder is built, beside its place."""
    return directory.with_name(f".{directory.name}.tmp")


def remove_stale(directory: Path) -> None:
    """Remove what kills left of the same settings over a source that has changed since, unless it is worked on."""
    prefix = directory.name.rpartition("-")[0]
    for left in directory.parent.glob(f".{glob.escape(prefix)}-*.tmp"):
        lock = left.with_suffix(".lock")
        if lock.stem == f".{directory.name}":
            continue
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(left, ignore_errors=True)
            lock.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for it; it is removed afterwards."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that prepares {path.parent.name}", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            current = os.stat(path).st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            current = False
        if current:
            break
        os.close(descriptor)  # its last holder removed it while we waited
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        with suppress(OSError):  # empty where a mistake was found before anything was decoded
            path.parent.rmdir()

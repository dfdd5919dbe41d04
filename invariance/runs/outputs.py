"""Places for results, looked at before the work that makes them."""

import argparse
import os
from pathlib import Path

from invariance.errors import UserError


def require_writable(path: Path, key: str, *, is_file: bool = False) -> None:
    """Refuse a place that cannot be written, before work whose results go there.

    Args:
        path: the folder, or the file, which need not be there yet.
        key: the key that names it.
        is_file: whether it is a file.

    Raises:
        UserError: naming the place, and what stands in the way.
    """
    if is_file and path.is_dir():
        raise UserError(f"{key}={path}: a folder stands where a file is to be written; name a file in it")
    folder = path.absolute().parent if is_file else path.absolute()
    try:
        there = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
        if not there.is_dir():
            raise UserError(f"{key}={path}: {there} is no folder; choose another place")
    except OSError as error:  # a link to itself
        raise UserError(f"{key}={path}: {error.strerror}; choose another place") from error
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        raise UserError(f"{key}={path}: the disk of {there} is read-only; choose another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{key}={path}: this user may not write in {there}; choose another place, or get the right to")


def output_file(text: str) -> Path:
    """A file of results that a script is given as an argument, for `argparse`'s `type=`.

    Raises:
        argparse.ArgumentTypeError: where it could not be written.
    """
    try:
        require_writable(path := Path(text), "PATH", is_file=True)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return path

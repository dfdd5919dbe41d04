"""Folders and files that a configuration names."""

import os
from pathlib import Path

from invariance.errors import UserError, shown

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes that file systems take."""


def path_of(value: str) -> str:
    """A path that a file system can have.

    Raises:
        UserError: for one that is empty, not UTF-8, or too long.
    """
    if not value:
        raise ValueError("it is empty")
    try:
        held = value.encode()
    except UnicodeEncodeError:
        raise ValueError("its name is not UTF-8; choose another folder") from None
    if value.startswith("~") and os.path.expanduser(value) == value:
        raise ValueError("there is no such user's home folder")
    if b"\0" in held:
        raise ValueError("a name holds no NUL")
    if len(held) > LONGEST_PATH or any(len(part) > LONGEST_NAME for part in held.split(b"/")):
        raise ValueError(f"it is too long: {LONGEST_NAME} bytes a name and {LONGEST_PATH} in all")
    return value


def folder(value: object, key: str) -> Path:
    """A folder named in the configuration, with ~ and $VARIABLES expanded.

    Raises:
        UserError: if it is not a path.
    """
    if not isinstance(value, str) or not value:
        raise UserError(f"{key}={value!r} is not a folder; give a path")
    expanded = os.path.expandvars(value)
    try:
        path_of(expanded)
    except ValueError as error:
        raise UserError(f"{key}={shown(value)}: {error}") from error
    return Path(expanded).expanduser()

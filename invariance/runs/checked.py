"""Files that tell what they hold and carry a hash of it: read back as they were written, or made again, said once."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from invariance.runs.files import atomic_path, write_text

_HASH = "xxh3"


class DamagedFile(Exception):
    """A file that is not what was written, or not what is wanted; its text says how, in a few words."""


def digest(*parts: Any) -> str:  # noqa: ANN401 - whatever has a buffer
    """XXH3 of 128 bits, hexadecimal, over bytes one after another: of accidents, not of attacks."""
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(part)
    return state.hexdigest()


def write_part(path: Path, about: Mapping[str, Any], content: bytes) -> None:
    """Write bytes atomically, behind a line that tells what they are and their hash.

    Args:
        path: the file.
        about: what the content was made from, plain data.
        content: the content.

    Raises:
        UserError: if the disk refuses.
    """
    told = _canonical(about)
    head = json.dumps({"about": json.loads(told), _HASH: digest(told, content)}, ensure_ascii=False)
    with atomic_path(path) as temporary:
        temporary.write_bytes(head.encode() + b"\n" + content)


def read_part(path: Path, about: Mapping[str, Any]) -> bytes | None:
    """The content of a file of `write_part`; None if there is none.

    Args:
        path: the file.
        about: what it must have been made from.

    Raises:
        Damaged: if it cannot be read, is not as it was written, or was made from something else.
    """
    try:
        head, _, content = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedFile(error.strerror or "it cannot be read") from error
    facts = _parsed(head)
    told = _canonical(facts.get("about"))
    if facts.get(_HASH) != digest(told, content):
        raise DamagedFile("it is not as it was written")
    if told != _canonical(about):
        raise DamagedFile("it is of something else")
    return content


def write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with its own hash as its last value.

    Raises:
        UserError: if the disk refuses.
    """
    held = {**facts, _HASH: digest(_canonical(facts))}
    write_text(path, json.dumps(held, indent=1, ensure_ascii=False) + "\n")


def read_facts(path: Path) -> tuple[dict[str, Any], bool]:
    """A JSON object, and whether it carries its hash, which then was found right.

    Raises:
        Damaged: if it is no JSON object or not as it was written.
        OSError: if it cannot be read.
    """
    facts = _parsed(path.read_bytes())
    written = facts.pop(_HASH, None)
    if written is not None and written != digest(_canonical(facts)):
        raise DamagedFile("it is not as it was written")
    return facts, written is not None


def made_again(path: Path, why: DamagedFile | str) -> None:
    """Tell that what a file held is computed once more."""
    print(f"{path} is not used ({why}): it is computed again", file=sys.stderr, flush=True)


def _canonical(facts: object) -> bytes:
    return json.dumps(facts, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedFile("it is not as it was written") from error
    if not isinstance(facts, dict):
        raise DamagedFile("it is not as it was written")
    return facts

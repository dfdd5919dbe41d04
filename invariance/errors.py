"""The one exception for mistakes that a user can mend, and the hint that goes with many of them."""

import difflib
import math
from collections.abc import Iterable

LONGEST = 200
"""Characters of a value that a message shows."""


class UserError(ValueError):
    """A mistake the user can mend. Its text is one line: what is wrong (with the value), where, and what to do.

    The commands print it without a traceback and exit with status 2; in a notebook it is an ordinary `ValueError`.
    What is not printable in the values and file names of its text is escaped, so that it stays one line.
    """

    def __init__(self, text: str) -> None:
        super().__init__("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text))


class Busy(UserError):
    """Another process is at the same work: nothing is wrong, and the same command later goes on or finds it done."""

    remedy = "; wait for it to end, then repeat"
    """The end of its text, for those who have nobody who waits and repeats for them."""


class UnfitImages(UserError):
    """A transformation that does not take these images, where others do: gray ones that are to change their hue."""


class BrokenImage(Exception):
    """A file that gives no image; its text says why, to follow the file's name."""


def nearest_word(word: str, known: Iterable[str]) -> str | None:
    """The known word nearest to `word`, or None where none is near."""
    near = difflib.get_close_matches(str(word), list(known), 1, 0.5)
    return near[0] if near else None


def nearest(word: str, known: Iterable[str]) -> str:
    """«; did you mean 'x'?» for the known word nearest to `word`, or nothing where none is near."""
    near = nearest_word(word, known)
    return f"; did you mean {near!r}?" if near else ""


def shown(value: object) -> str:
    """A value in a message, cut where it is long."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**LONGEST:
        return f"a number of {math.floor(math.log10(abs(value))) + 1} digits"  # Python writes none that is longer
    try:
        text = repr(value)
    except ValueError:  # a list with such a number in it
        text = f"a {type(value).__name__} with a number of thousands of digits"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"

"""Names as a person reads them: compared without case, Unicode form, blanks and what cannot be seen."""

import re
import unicodedata
from collections.abc import Iterable

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_WORDS = (*_SPLITS, "eval", "evaluation", "holdout")
# what stands beside a split's name where a folder is a split: "test_images", "train2017", "valset"
_BESIDE = "image images img imgs data dataset set split files pictures photos samples".split()


def read_as(name: str) -> str:
    """What two names have in common that a person reads alike: case, Unicode form, blanks, what cannot be seen."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    seen = "".join(c if not unicodedata.category(c).startswith("C") or c in "\t\n\r" else "" for c in text)
    return " ".join(seen.split())


def read_alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Two of the names that read the same, if any do."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(read_as(name), name)
        if other != name:
            return other, name
    return None


def shown(name: str) -> str:
    """A name for a line of text: what cannot be printed is escaped."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def split_named(name: str) -> str | None:
    """The split (train, val or test) that a folder's name says: exactly that word, or its long form."""
    return _SPLITS.get(read_as(name))


def names_a_split(name: str, loosely: bool = False) -> bool:
    """Whether a name is near that of a split: test_images, train2017, valset, eval.

    Args:
        name: of a folder.
        loosely: whether any split's word in it will do, as beside folders that are splits; without them "train_station"
            may be a class.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    words = re.findall(r"[^\W\d_]+", read_as(spaced))
    found = [word for word in words if _is_split_word(word)]
    return bool(found) and (loosely or all(word in found or word in _BESIDE or len(word) == 1 for word in words))


def _is_split_word(word: str) -> bool:
    if word in _WORDS:
        return True
    ends = ("train", "val", "valid", "test", "dev", "eval")
    return any(word.startswith(a) and word.removeprefix(a) in (*ends, *_BESIDE) for a in ends)

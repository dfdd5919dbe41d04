"""RVL-CDIP as it is downloaded (Sec. 5.5)."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from invariance.data.archive import safe_path
from invariance.data.archives import open_tree
from invariance.data.left_out import HIDDEN, UNEXPECTED, LeftOut
from invariance.data.magic import is_image
from invariance.data.sources.base import Listing, Splits, file_hash
from invariance.data.sources.official import Official, small_file
from invariance.data.sources.trees import FolderTree, Stamp, Tree
from invariance.errors import UserError


class RVLCDIP(Official):
    """RVL-CDIP: 400,000 scanned pages in gray, 16 classes; 320,000 train, 40,000 val, 40,000 test.

    From `rvl-cdip.tar.gz` as downloaded (or as a plain tar), with its own lists of labels or `labels_only.tar.gz` or
    `labels/` beside it; or extracted: `images/` and `labels/{train,val,test}.txt`, with lines "path class".
    """

    name = "rvl_cdip"
    _what = "the folder that holds rvl-cdip.tar.gz, or images/ and labels/"
    MD5 = {
        "rvl-cdip.tar.gz": "d641dd4866145316a1ed628b420d8b6c",
        "labels_only.tar.gz": "9d22cb1eea526a806de8f492baaa2a57",
    }
    """Sums that others report; the authors publish none."""
    CLASSES = [
        "letter",
        "form",
        "email",
        "handwritten",
        "advertisement",
        "scientific report",
        "scientific publication",
        "specification",
        "file folder",
        "news article",
        "budget",
        "invoice",
        "presentation",
        "questionnaire",
        "resume",
        "memo",
    ]
    SIZES = {"train": 320_000, "val": 40_000, "test": 40_000}
    _lists = ("train.txt", "val.txt", "test.txt")
    BROKEN = "imagese/e/j/e/eje42e00/2500126531_2500126536.tif"
    REMARK = (
        "about 12 % of RVL-CDIP's labels are wrong, and many pages stand in more than one split as (near) duplicates"
    )

    def splits(self, progress: bool = False) -> Splits:
        """The classes and the three splits.

        Raises:
            UserError: if a part is absent or damaged, or a line of the lists is wrong.
        """
        odd = []
        for name, known in self.MD5.items() if self.verify else ():
            if (path := self.root / name).is_file() and (digest := file_hash(path, "md5", progress)) != known:
                odd.append(f"{name} has MD5 {digest}, not {known} as others report")
        found = super().splits(progress)
        return replace(found, remarks=[*odd, *found.remarks])

    def _trees(self) -> list[Tree]:
        return [tree for tree in (self._images, self._labels) if tree is not None]

    @cached_property
    def _images(self) -> Tree:
        path = self._part("images", "rvl-cdip.tar.gz", "rvl-cdip.tar", "images")
        if path is None:
            raise UserError(f"{self.root} holds no images; {self._what} is expected, data.root being its top")
        return open_tree(path)

    @cached_property
    def _labels(self) -> Tree | None:
        """Lists of labels beside the images; None where they are in the images' archive."""
        path = self._part("labels", "labels", "labels_only.tar.gz")
        return None if path is None else open_tree(path)

    def _list_of(self, split: str) -> tuple[str, bytes]:
        tree = self._labels if self._labels is not None else self._images
        for path in (f"{split}.txt", f"labels/{split}.txt", f"rvl-cdip/labels/{split}.txt"):
            if tree.stamp(path) is not None:
                return tree.where(path), small_file(tree, path)
        raise UserError(f"{tree.path} holds no labels/{split}.txt; add labels_only.tar.gz or labels/ to {self.root}")

    @cached_property
    def _splits(self) -> Splits:
        folder = next((name for name in ("images", "rvl-cdip/images") if name in self._folders()), None)
        prefix = "" if isinstance(self._images, FolderTree) or folder is None else folder + "/"
        seen: dict[str, str] = {}
        left = LeftOut()
        files = dict(self._images.walk(left))
        listings = {
            split: self._listing(prefix, *self._entries(split, seen), files) for split in ("train", "val", "test")
        }
        self._leave(files, {prefix + name for name in seen}, left)
        for label, name in enumerate(self.CLASSES):
            if not (listings["train"].labels == label).any():
                raise UserError(f"labels/train.txt has no image of class {label} ({name})")
        short = [
            f"labels/{split}.txt names {len(listings[split]):,} images, not the official {count:,}"
            for split, count in self.SIZES.items()
            if len(listings[split]) != count
        ]
        known = frozenset({prefix + self.BROKEN, f"images/{self.BROKEN}"})
        return Splits(self.CLASSES, listings, remarks=[self.REMARK, *short], known_broken=known, left_out=left)

    def _leave(self, files: Mapping[str, Stamp], listed: Collection[str], left: LeftOut) -> None:
        """Count the pages that no list names, and what is neither a page nor a list."""
        for name in files:
            last = name.rpartition("/")[2]
            if name not in listed and last not in self._lists:
                why = "that no list of labels names" if is_image(last) else UNEXPECTED
                left.add(f"{self._images.path.name}/{name}", HIDDEN if last.startswith(".") else why)
        if self._labels is not None:
            for name, _ in self._labels.walk(left):
                if name.rpartition("/")[2] not in self._lists:
                    left.add(f"{self._labels.path.name}/{name}", UNEXPECTED)
        self._leave_beside(left)

    def _folders(self) -> Iterator[str]:
        for name in self._images.folders():
            yield name
            yield from (f"{name}/{inner}" for inner in self._images.folders(name))

    def _entries(self, split: str, seen: dict[str, str]) -> tuple[list[str], list[int]]:
        """Paths and classes of a split's list; `seen` says where each path was first.

        Raises:
            UserError: for the first line that is wrong.
        """
        where, data = self._list_of(split)
        names, labels = [], []
        for number, line in enumerate(data.decode("utf-8-sig", "surrogateescape").splitlines(), 1):
            here = f"{where} line {number}"
            if not line:
                raise UserError(f"{here} is empty")
            path, _, label = line.rpartition(" ")
            if not path or not label.isdecimal():
                raise UserError(f"{here}: {line[:80]!r} is not «path class»")
            if int(label) >= len(self.CLASSES):
                raise UserError(f"{here}: class {label} is beyond 0 to {len(self.CLASSES) - 1}")
            path = safe_path(Path(where), path)
            if path in seen:
                raise UserError(f"{here}: {path} stands in {seen[path]} already")
            seen[path] = f"{split}.txt line {number}"
            names.append(path)
            labels.append(int(label))
        if not names:
            raise UserError(f"{where} is empty")
        return names, labels

    def _listing(self, prefix: str, names: list[str], labels: list[int], files: Mapping[str, Stamp]) -> Listing:
        tree = self._images
        if isinstance(tree, FolderTree):
            stamps = [files.get(name) or tree.stamp(name) or (0, 0) for name in names]
            listed = [f"images/{name}" for name in names]
            return Listing(listed, np.array(labels, np.int64), lambda i: tree.read(names[i]), stamps)
        return Listing.of_tree(tree, [prefix + name for name in names], np.array(labels, np.int64))

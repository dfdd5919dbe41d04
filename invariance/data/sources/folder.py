"""Images in a folder or an archive, as `<split>/<class>/*` or `<class>/*`."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from invariance.data.archives import open_tree
from invariance.data.image_files import ARCHIVES
from invariance.data.sources.base import (
    SPLITS,
    Splits,
    check_split_arguments,
    existing_root,
    stratified,
    tree_digest,
    tree_stamps,
)
from invariance.data.sources.layout import WHAT, Layout, below
from invariance.data.sources.trees import FolderTree, Stamp, Tree
from invariance.errors import UserError


class Folder:
    """Images in one folder for each class: `<root>/<split>/<class>/*`, or `<root>/<class>/*`, splits then being drawn.

    The root may be a tar (compressed or not) or zip archive with this inside, which is never unpacked; one folder
    around everything in it does not count.

    Splits are named train, val and test (or training; valid, validation, dev; testing). Names are compared as a person
    reads them, and a folder that looks like a split and is none is refused. Without any of these folders, val and test
    are drawn from each class with a seed; with train but without val, val is drawn from train; test may be absent.
    Files are images by their suffix, or else by their content; what is left out is counted and kept with the data.

    Args:
        root: the folder or archive.
        exclude: names of classes, or of folders beside the splits, to leave out.
        split_seed: seed of drawn splits.
        val_fraction: share of each class (of train's, if that is a folder) that becomes val where val is drawn.
        test_fraction: share of each class that becomes test where all splits are drawn; 0 for none.

    Raises:
        UserError: if an argument makes no sense.
    """

    def __init__(
        self,
        root: str | None,
        exclude: Sequence[str] = (),
        split_seed: int = 0,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
    ) -> None:
        if root is None or not isinstance(root, str | Path) or not str(root):
            existing_root(root, WHAT)
        if isinstance(exclude, str) or not all(isinstance(name, str) for name in exclude or ()):
            raise UserError(f"data.exclude={exclude!r}: give a list of classes, as data.exclude=[BACKGROUND_Google]")
        check_split_arguments(split_seed, val_fraction, test_fraction)
        self.root = Path(str(root)).expanduser().absolute()
        self.exclude = sorted(exclude or ())
        self.split_seed, self.val_fraction, self.test_fraction = split_seed, val_fraction, test_fraction

    @property
    def name(self) -> str:
        """The folder's own name, or the archive's, made fit for a folder of runs."""
        own = self.root.resolve().name
        for suffix in ARCHIVES:
            own = own.removesuffix(suffix)
        fit = "".join(c if c.isalnum() or c in "_.-" else "_" for c in own)
        return fit.lstrip(".-") or "folder"

    @property
    def settings(self) -> dict[str, Any]:
        """What decides which images, in which splits."""
        return {
            "root": str(self.root.resolve()),
            "exclude": self.exclude,
            "split_seed": self.split_seed,
            "val_fraction": self.val_fraction,
            "test_fraction": self.test_fraction,
        }

    @cached_property
    def _tree(self) -> Tree:
        return open_tree(existing_root(str(self.root), WHAT))

    def stamps(self) -> dict[str, Stamp] | None:
        """The images' sizes and times, or the archive's; None if the root is not there."""
        return tree_stamps(self._tree, self.splits) if self.root.exists() else None

    def watched(self, now: Mapping[str, Stamp]) -> dict[str, Stamp]:
        """Stamps of the folders; none of an archive."""
        return dict(self._tree.looked_into) if isinstance(self._tree, FolderTree) else {}

    def digest(self, name: str, progress: bool = False) -> str:
        """Hash of an image, or of the archive, as it is now."""
        return tree_digest(self._tree, name, progress)

    def splits(self, progress: bool = False) -> Splits:
        """The classes, the splits, and the files left out.

        Raises:
            UserError: if the root is absent or holds no such layout, one class, an empty class, or no train split.
        """
        self._tree.index(progress)
        return self._splits

    @cached_property
    def _splits(self) -> Splits:
        layout = Layout(self._tree, self.exclude)
        top = layout.top()
        given = layout.given(top)
        layout.check_exclude(top, given)
        if not given:
            return self._drawn(layout, top)
        train = below(top, given["train"])
        classes = layout.classes(train)
        found = {split: layout.read(below(top, name), train, classes) for split, name in given.items()}
        splits = {split: layout.listing(part) for split, part in found.items()}
        if "val" not in splits:
            everything = splits["train"]
            parts = stratified(everything.labels, classes, {"val": self.val_fraction}, self.split_seed)
            splits |= {split: everything.take(indices) for split, indices in parts.items()}
        rest = layout.leave_beside(top, given)
        ignored = [f"{name}/" for name in rest] + [name for part in found.values() for name in part.ignored]
        kept = {split: splits[split] for split in SPLITS if split in splits}
        return Splits(classes, kept, ignored, left_out=layout.left_out)

    def _drawn(self, layout: Layout, top: str) -> Splits:
        classes = layout.classes(top)
        found = layout.read(top, top, classes)
        everything = layout.listing(found)
        fractions = {"val": self.val_fraction, "test": self.test_fraction}
        parts = stratified(everything.labels, classes, fractions, self.split_seed)
        splits = {split: everything.take(indices) for split, indices in parts.items()}
        return Splits(classes, splits, found.ignored, left_out=layout.left_out)

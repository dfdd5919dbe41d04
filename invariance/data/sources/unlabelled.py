"""Images without labels, or whose labels do not matter, for measuring networks across data sets (Sec. B.2)."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from invariance.data.archives import open_tree
from invariance.data.image_files import ARCHIVES, image_files
from invariance.data.left_out import LeftOut
from invariance.data.sources.base import Listing, Splits, check_split_arguments, existing_root, tree_digest, tree_stamps
from invariance.data.sources.trees import FolderTree, Stamp, Tree
from invariance.errors import UserError
from invariance.seeds import derive

_WHAT = "a folder or archive of images, in folders or not"


class Unlabelled:
    """All images in a folder or archive, however deep, their folders taken for nothing: no classes, and no train split.

    Maps are fitted on val and results reported on test, both drawn with a seed.

    Args:
        root: the folder or archive.
        split_seed: seed of the draw.
        val_fraction: share of the images that maps are fitted on.

    Raises:
        UserError: if an argument makes no sense.
    """

    name = "unlabelled"

    def __init__(self, root: str | None, split_seed: int = 0, val_fraction: float = 0.5) -> None:
        check_split_arguments(split_seed, val_fraction)
        if not isinstance(root, str | Path) or not str(root):
            existing_root(root, _WHAT)
        self.root = Path(str(root)).expanduser().absolute()
        self.split_seed, self.val_fraction = split_seed, val_fraction

    @property
    def settings(self) -> dict[str, Any]:
        """What decides which images, in which splits."""
        return {"root": str(self.root.resolve()), "split_seed": self.split_seed, "val_fraction": self.val_fraction}

    @cached_property
    def _tree(self) -> Tree:
        return open_tree(existing_root(str(self.root), _WHAT))

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
        """No classes, and the splits val and test.

        Raises:
            UserError: if the root is absent or holds fewer than two images.
        """
        self._tree.index(progress)
        return self._splits

    @cached_property
    def _splits(self) -> Splits:
        left = LeftOut()
        files = dict(sorted(self._tree.walk(left)))
        images = image_files(self._tree, "", files, left)
        names = list(images)
        if len(names) < 2:
            archives = [name for name in files if name.lower().endswith(ARCHIVES)]
            hint = f"; name its archive, as data.root={self.root / archives[0]}" if archives else ""
            raise UserError(f"{self.root} holds {len(names)} images; two or more are needed{hint}")
        everything = Listing.of_tree(self._tree, names, np.full(len(names), -1, np.int64), list(images.values()))
        drawn = np.random.default_rng(derive(self.split_seed, "split", "all")).permutation(len(names))
        count = min(max(1, round(self.val_fraction * len(names))), len(names) - 1)
        parts = {"val": np.sort(drawn[:count]), "test": np.sort(drawn[count:])}
        ignored = [name for name in files if name not in images]
        return Splits([], {split: everything.take(part) for split, part in parts.items()}, ignored, left_out=left)

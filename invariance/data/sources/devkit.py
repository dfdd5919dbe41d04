"""The development kit of ILSVRC-2012: its classes, and the labels of its validation images."""

import io
from functools import cached_property

from invariance.data.sources.official import small_file
from invariance.data.sources.trees import Tree
from invariance.errors import UserError

META, TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"


class Devkit:
    """The devkit, as its archive or extracted.

    Args:
        tree: the folder or archive.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    @cached_property
    def synsets(self) -> dict[int, str]:
        """The wnid of every class that has no other below it, by its number.

        Raises:
            UserError: if the list is absent or cannot be read.
        """
        from scipy.io import loadmat  # takes a second, and a set that is prepared needs none

        where, data = self._file(META)
        try:
            table = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
            return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in table if int(row["num_children"]) == 0}
        except Exception as error:  # noqa: BLE001 - a scrambled MAT file raises anything
            why = " ".join(str(error).split())
            raise UserError(f"{where} cannot be read ({why}); download the devkit again") from error

    def ground_truth(self, images: int) -> list[str]:
        """The wnid of every validation image, in the order of their numbers.

        Args:
            images: how many there are.

        Raises:
            UserError: if the list is absent, names what is no class, or has another length.
        """
        where, data = self._file(TRUTH)
        wnids = []
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            text = line.strip()
            if not text.isdecimal() or int(text) not in self.synsets:
                raise UserError(f"{where} line {number}: {line[:40]!r} is no class from 1 to {len(self.synsets)}")
            wnids.append(self.synsets[int(text)])
        if len(wnids) != images:
            raise UserError(f"{where} has {len(wnids):,} lines, not {images:,}; extract the devkit again")
        return wnids

    def _file(self, name: str) -> tuple[str, bytes]:
        for folder in ("data", "ILSVRC2012_devkit_t12/data"):
            path = f"{folder}/{name}"
            if self.tree.stamp(path) is not None:
                return self.tree.where(path), small_file(self.tree, path)
        raise UserError(f"{self.tree.path} holds no data/{name}; download the devkit again")

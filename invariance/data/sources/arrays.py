"""Data sets that come as arrays: scikit-learn's digits, Fashion-MNIST, CIFAR-10."""

import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invariance.data.decode import Pixels
from invariance.data.sources.base import SPLITS, Listing, Splits, check_split_arguments, existing_root, stratified
from invariance.data.sources.trees import Stamp
from invariance.errors import UserError
from invariance.seeds import derive

# what numpy's and torchvision's readers raise for files that are absent, cut off or scrambled
_DAMAGE = (
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    IndexError,
    AssertionError,
    zlib.error,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)
_FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
Labelled = tuple[Pixels, NDArray[np.int64]]


def _listing(prefix: str, images: Pixels, labels: NDArray[np.int64]) -> Listing:
    return Listing([f"{prefix}/{i:05d}" for i in range(len(images))], labels, lambda i: images[i])


class Digits:
    """scikit-learn's handwritten digits: 1,797 gray images of 8×8, part of the package, split with a seed.

    Args:
        split_seed: seed of the splits.
        val_fraction: share of each class that becomes val.
        test_fraction: share of each class that becomes test; 0 for none.

    Raises:
        UserError: if an argument makes no sense.
    """

    name = "digits"

    def __init__(self, split_seed: int = 0, val_fraction: float = 0.2, test_fraction: float = 0.2) -> None:
        check_split_arguments(split_seed, val_fraction, test_fraction)
        self.settings: dict[str, Any] = {
            "split_seed": split_seed,
            "val_fraction": val_fraction,
            "test_fraction": test_fraction,
        }

    def stamps(self) -> dict[str, Stamp]:
        """None to watch."""
        return {}

    def digest(self, name: str, progress: bool = False) -> str:
        """There are no files to ask for."""
        raise KeyError(name)

    def splits(self, progress: bool = False) -> Splits:
        """The ten classes, the splits drawn, and nothing left out."""
        from sklearn.datasets import load_digits  # takes seconds, and a set that is prepared needs none

        images, labels = load_digits(return_X_y=True)
        pixels = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        everything = _listing("digits", pixels, labels.astype(np.int64))
        classes = [str(digit) for digit in range(10)]
        fractions = {"val": self.settings["val_fraction"], "test": self.settings["test_fraction"]}
        parts = stratified(everything.labels, classes, fractions, self.settings["split_seed"])
        return Splits(classes, {split: everything.take(indices) for split, indices in parts.items()})


class Photos:
    """Square tiles of the two photographs that are part of scikit-learn, without labels, for trying Sec. B.2 anywhere.

    Args:
        tile: side of a tile in pixels; tiles do not overlap.
        split_seed: seed of the draw of val and test.
        val_fraction: share of the tiles that maps are fitted on.

    Raises:
        UserError: if an argument makes no sense.
    """

    name = "photos"

    def __init__(self, tile: int = 32, split_seed: int = 0, val_fraction: float = 0.5) -> None:
        check_split_arguments(split_seed, val_fraction)
        if isinstance(tile, bool) or not isinstance(tile, int) or not 8 <= tile <= 200:
            raise UserError(f"data.tile={tile!r}: give a whole number of pixels from 8 to 200")
        self.settings: dict[str, Any] = {"tile": tile, "split_seed": split_seed, "val_fraction": val_fraction}

    def stamps(self) -> dict[str, Stamp]:
        """None to watch."""
        return {}

    def digest(self, name: str, progress: bool = False) -> str:
        """There are no files to ask for."""
        raise KeyError(name)

    def splits(self, progress: bool = False) -> Splits:
        """No classes, and the splits val and test."""
        from sklearn.datasets import load_sample_images  # takes seconds, as above

        tile = self.settings["tile"]
        tiles = np.concatenate([_tiles(np.asarray(photo), tile) for photo in load_sample_images().images])
        everything = _listing("photos", tiles, np.full(len(tiles), -1, np.int64))
        drawn = np.random.default_rng(derive(self.settings["split_seed"], "split", "all")).permutation(len(tiles))
        count = min(max(1, round(self.settings["val_fraction"] * len(tiles))), len(tiles) - 1)
        parts = {"val": np.sort(drawn[:count]), "test": np.sort(drawn[count:])}
        return Splits([], {split: everything.take(part) for split, part in parts.items()})


def _tiles(photo: Pixels, side: int) -> Pixels:
    """All whole tiles of a photograph (H, W, 3), in scan order: (n, side, side, 3)."""
    rows, columns = photo.shape[0] // side, photo.shape[1] // side
    cut = photo[: rows * side, : columns * side].reshape(rows, side, columns, side, 3)
    return cut.swapaxes(1, 2).reshape(-1, side, side, 3)


class _TrainTest:
    """A data set of torchvision's with an official train and test split; val is drawn from train."""

    name = ""
    classes: list[str]

    def __init__(
        self, root: str | None, download: bool = False, split_seed: int = 0, val_fraction: float = 1 / 6
    ) -> None:
        """Check the arguments; the data are looked for when they are prepared.

        Args:
            root: the folder that holds, or with `download` receives, the data set.
            download: whether to fetch it when it is not there.
            split_seed: seed of the draw of val from train.
            val_fraction: share of train's classes that becomes val.

        Raises:
            UserError: if an argument makes no sense.
        """
        check_split_arguments(split_seed, val_fraction)
        if not isinstance(download, bool):
            raise UserError(f"data.download={download!r}: give true or false")
        self.root, self.download = root, download
        self.settings: dict[str, Any] = {"split_seed": split_seed, "val_fraction": val_fraction}

    def stamps(self) -> dict[str, Stamp]:
        """None to watch."""
        return {}

    def digest(self, name: str, progress: bool = False) -> str:
        """There are no files to ask for."""
        raise KeyError(name)

    def splits(self, progress: bool = False) -> Splits:
        """The ten classes, train, val and test, and nothing left out.

        Raises:
            UserError: if the data set is not there, damaged, or cannot be downloaded.
        """
        loaded = {split: self._load(self._folder(), split == "train") for split in ("train", "test")}
        splits = {split: _listing(split, *arrays) for split, arrays in loaded.items()}
        train = splits["train"]
        parts = stratified(
            train.labels, self.classes, {"val": self.settings["val_fraction"]}, self.settings["split_seed"]
        )
        splits |= {split: train.take(indices) for split, indices in parts.items()}
        return Splits(self.classes, {split: splits[split] for split in SPLITS})

    def _folder(self) -> Path:
        if self.download and isinstance(self.root, str) and self.root:
            return Path(self.root).expanduser()
        return existing_root(
            self.root, f"the folder that holds {self.name} (data.download=true puts it there)", archives=False
        )

    def _load(self, root: Path, train: bool) -> Labelled:
        from torchvision import datasets  # takes seconds, and a set that is prepared needs none

        kind = getattr(datasets, type(self).__name__)
        try:
            held = kind(root, train=train, download=self.download)
        except _DAMAGE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            remedy = "check the network, or put the files there by hand" if self.download else "add data.download=true"
            raise UserError(f"{self.name} cannot be read from {root} ({reason}); {remedy}") from error
        return np.asarray(held.data), np.asarray(held.targets, dtype=np.int64)


class FashionMNIST(_TrainTest):
    """Fashion-MNIST: 70,000 gray images of 28×28, in torchvision's layout or as Keras' `fashion_mnist.npz`."""

    name = "fashion_mnist"
    classes = _FASHION

    def _load(self, root: Path, train: bool) -> Labelled:
        path = root / "fashion_mnist.npz"
        if not path.is_file():
            return super()._load(root, train)
        part = "train" if train else "test"
        try:
            with np.load(path, allow_pickle=False) as held:
                images, labels = held[f"x_{part}"], held[f"y_{part}"].astype(np.int64).reshape(-1)
        except _DAMAGE as error:
            raise UserError(f"{path} cannot be read ({error}); expected x_train, y_train, x_test, y_test") from error
        if images.dtype != np.uint8 or images.ndim != 3 or len(images) != len(labels):
            raise UserError(
                f"{path}: x_{part} is {images.dtype} {images.shape} with {len(labels)} labels; expected uint8 (N, H, W)"
            )
        if not ((labels >= 0) & (labels < len(self.classes))).all():
            raise UserError(f"{path}: y_{part} holds labels beyond 0 to {len(self.classes) - 1}")
        return images, labels


class CIFAR10(_TrainTest):
    """CIFAR-10: 60,000 colour images of 32×32, in torchvision's layout."""

    name = "cifar10"
    classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

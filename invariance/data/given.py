"""Images that a user gives: arrays, tensors, a Dataset, or a folder of files."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from PIL import Image

from invariance.data.archives import open_tree
from invariance.data.decode import COLOURS, BrokenImage, decode, large_images
from invariance.data.image_files import image_files
from invariance.data.left_out import LeftOut
from invariance.data.names import split_named
from invariance.data.reading import read_ahead
from invariance.data.sources.trees import Tree
from invariance.device import require
from invariance.errors import UserError, shown
from invariance.progress import bar
from invariance.seeds import generator
from invariance.settings.fields import LARGEST_SIZE, native

_THREADS = 4
_FORM = "(N, C, H, W) with 1 or 3 channels"


@dataclass(frozen=True)
class Images:
    """Images with what is known of them.

    Attributes:
        images: (N, C, H, W) in [0, 255]; uint8, or float32 where they hold fractions.
        labels: (N,) int64; None where there are none.
        classes: names of the classes by label; None where they are not known.
        name: what they are called.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64] | None = None
    classes: list[str] | None = None
    name: str = "images"

    def __len__(self) -> int:
        return len(self.images)


def load_images(
    images: object,
    labels: object = None,
    *,
    size: int | None = None,
    colour: str = "rgb",
    name: str | None = None,
    progress: bool = False,
) -> Images:
    """Images from wherever they are.

    Args:
        images: arrays or tensors (N, C, H, W), uint8 or floats in [0, 255]; a Dataset of images, or of images with
            labels; a folder or archive of images, or of one folder a class; or `Images`.
        labels: (N,) whole numbers, for arrays.
        size: side in pixels that files and pictures are warped to, antialiased, as everywhere in this package; None:
            arrays as they are.
        colour: "rgb" or "gray", for files and pictures.
        name: what they are called; None: the folder's name, or "images".
        progress: whether to show a bar.

    Raises:
        UserError: for no images, another shape or number of channels, floats that are not in [0, 255] (in [0, 1],
            negative, NaN), labels that do not fit, or a file that cannot be read.
    """
    if isinstance(images, Images):
        return images
    size = native(size)
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= LARGEST_SIZE):
        raise UserError(f"images: size={size!r}; give a side in pixels from 1 to {LARGEST_SIZE}")
    if colour not in COLOURS:
        raise UserError(f"images: colour={colour!r}; choose {' or '.join(COLOURS)}")
    if isinstance(images, str | Path):
        if labels is not None:
            raise UserError("images: labels of a folder are its class folders; leave labels= out")
        return _of_folder(Path(images).expanduser(), size, colour, name, progress)
    if isinstance(images, torch.Tensor | np.ndarray):
        pixels = _of_array(images, size, colour)
        return Images(pixels, _labels(labels, len(pixels)), None, name or "images")
    if hasattr(images, "__getitem__") and hasattr(images, "__len__"):
        if labels is not None:
            raise UserError("images: a Dataset gives its own labels; leave labels= out")
        return _of_dataset(images, size, colour, name or "images", progress)
    raise UserError(f"images: a {type(images).__name__} is none; give arrays {_FORM}, a Dataset or a folder")


def fit_and_report(
    images: Images, fit: object, fit_labels: object = None, *, seed: int = 0, size: int | None = None
) -> tuple[tuple[Images, NDArray[np.int64]] | None, tuple[Images, NDArray[np.int64]]]:
    """Which images maps are fitted on, if any, and which are reported on: images, and which of them.

    Args:
        images: those that are given.
        fit: images of their own, as `load_images` takes them; or a share of `images` to deal out, as 0.5; or None.
        fit_labels: labels of fit images of their own.
        seed: seed of the deal.
        size: as `load_images` takes it, for fit images.

    Raises:
        UserError: for a share that leaves a side without images, labels of no images, or fit images of another shape
            or that are those to report on.
    """
    everything = np.arange(len(images))
    if fit is None:
        if fit_labels is not None:
            raise UserError("fit_labels are of fit images: give fit=…")
        return None, (images, everything)
    if isinstance(fit, bool | int | float | np.number):
        count = round(float(fit) * len(images)) if 0 < float(fit) < 1 else 0
        if isinstance(fit, bool) or not 0 < count < len(images):
            raise UserError(f"fit={fit!r} of {len(images)} images: give images, or a share between 0 and 1 as 0.5")
        if fit_labels is not None:
            raise UserError("fit_labels: with fit= as a share, labels= are of all images; leave it out")
        turn = torch.randperm(len(images), generator=generator(seed, "fit images")).numpy()
        return (images, np.sort(turn[:count])), (images, np.sort(turn[count:]))
    try:
        own = load_images(fit, fit_labels, size=size)
    except UserError as error:
        raise UserError(f"fit: {error}") from error
    shapes = tuple(one.images.shape[1:] for one in (own, images))
    if shapes[0] != shapes[1]:
        raise UserError(f"fit images {shapes[0]} are not of the shape {shapes[1]} of the images")
    _refuse_common(own, images)
    return (own, np.arange(len(own))), (images, everything)


def _refuse_common(fit: Images, report: Images) -> None:
    """Refuse fit images that hold all that are reported on; of some, say how many.

    Raises:
        UserError: if all are there.
    """
    known = {xxhash.xxh3_128_digest(np.ascontiguousarray(one, np.float32).data) for one in fit.images}
    seen = [xxhash.xxh3_128_digest(np.ascontiguousarray(one, np.float32).data) in known for one in report.images]
    if all(seen):
        raise UserError("fit holds the images that are reported on; give others, or fit=0.5 to deal them")
    if any(seen):
        print(
            f"note: {sum(seen)} of {len(report)} reported images are among the fit images, so that maps know them",
            file=sys.stderr,
        )


def _of_array(given: torch.Tensor | NDArray[Any], size: int | None, colour: str) -> NDArray[Any]:
    """Arrays that are checked, all of them, and as uint8 where they hold whole numbers."""
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        given = (given.float() if given.dtype == torch.bfloat16 else given).numpy()
    if given.ndim != 4 or given.shape[1] not in COLOURS.values():
        turned = "; they seem to be (N, H, W, C): give images.transpose(0, 3, 1, 2)"
        hint = turned if given.ndim == 4 and given.shape[3] in COLOURS.values() else f"; give {_FORM}"
        raise UserError(f"images of shape {given.shape} are not images {_FORM}{hint}")
    if not given.size:
        raise UserError(f"images of shape {given.shape}: there are none; give at least one")
    pixels = _in_bytes(given)
    if size is None or pixels.shape[2:] == (size, size):
        return pixels
    if pixels.dtype != np.uint8:
        raise UserError(f"images of sides {pixels.shape[2:]} are to be resized to {size}: give uint8 images")
    return np.stack([_picture(one, size, colour if one.shape[0] == 3 else "gray") for one in pixels])


def _in_bytes(given: NDArray[Any]) -> NDArray[Any]:
    """Numbers in [0, 255] as uint8 if they are whole, else as float32.

    Raises:
        UserError: for other numbers.
    """
    if given.dtype == np.uint8:
        return np.ascontiguousarray(given)
    if given.dtype.kind not in "iuf":
        raise UserError(f"images of type {given.dtype}: give uint8, or floats in [0, 255]")
    low, high = float(given.min()), float(given.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise UserError("images hold numbers that are not finite (NaN); give uint8, or floats in [0, 255]")
    if low < 0:
        raise UserError(f"images hold {low:g}: they seem to be normalised; give them in [0, 255], as they were before")
    if high > 255:
        raise UserError(f"images hold {high:g}: give uint8, or floats in [0, 255]")
    if given.dtype.kind == "f" and high <= 1:
        raise UserError(
            f"images are floats of at most {high:g}: they seem to be in [0, 1]; multiply them by 255 (ToTensor divides)"
        )
    whole = given.dtype.kind in "iu" or bool((given == np.rint(given)).all())
    return np.ascontiguousarray(given, dtype=np.uint8 if whole else np.float32)


def _picture(pixels: NDArray[np.uint8], size: int, colour: str) -> NDArray[np.uint8]:
    """Pixels (C, H, W) warped to a square."""
    return decode(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)), size, colour)


def _labels(given: object, count: int) -> NDArray[np.int64] | None:
    if given is None:
        return None
    try:
        values = np.asarray(given.detach().cpu() if isinstance(given, torch.Tensor) else given)
    except ValueError as error:  # lists of lists of different lengths
        raise UserError(f"labels={shown(given)}: give one whole number from 0 an image") from error
    if values.shape != (count,) or values.dtype.kind not in "iu" or (count and values.min() < 0):
        raise UserError(
            f"labels of type {values.dtype} and shape {values.shape} for {count} images; give one whole number from 0 "
            "an image, the place of its class among the logits"
        )
    return values.astype(np.int64)


def _of_dataset(given: Any, size: int | None, colour: str, name: str, progress: bool) -> Images:  # noqa: ANN401
    """All of a Dataset: its items are images, or tuples that begin with an image and a label."""
    if not len(given):
        raise UserError("images: the Dataset is empty; give at least one image")
    pixels, labels = [], []
    with bar(progress) as display:
        for place in display.track(range(len(given)), description="images"):
            item = _item_of(given, place)
            picture, label = (*item, None)[:2] if isinstance(item, tuple | list) and item else (item, None)
            pixels.append(_item(picture, place, size, colour))
            labels.append(label)
    shapes = sorted({one.shape for one in pixels})
    if len(shapes) > 1:
        raise UserError(f"images: item 0 is of shape {pixels[0].shape}, others of {shapes[:3]}; give size=…")
    known = [_whole(one, place) for place, one in enumerate(labels) if one is not None]
    if known and len(known) < len(labels):
        raise UserError("images: some items of the Dataset have labels, and some have none")
    classes = getattr(given, "classes", None)
    return Images(
        _of_array(np.stack(pixels), None, colour),
        _labels(known, len(pixels)) if known else None,
        [str(one) for one in classes] if isinstance(classes, Sequence) and not isinstance(classes, str) else None,
        name,
    )


def _item_of(given: Any, place: int) -> Any:  # noqa: ANN401
    try:
        return given[place]
    except UserError:
        raise
    except Exception as error:  # whatever the user's Dataset does
        why = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"images: item {place} of a {type(given).__name__} fails with {type(error).__name__} ({why[:200]}); give a "
            f"Dataset, arrays {_FORM}, or a folder"
        ) from error


def _whole(label: object, place: int) -> int:
    """An item's label."""
    value = native(label)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"images: item {place} of the Dataset has the label {shown(label)}; give a whole number from 0")
    return value


def _item(picture: object, place: int, size: int | None, colour: str) -> NDArray[Any]:
    """An item's image (C, H, W)."""
    if isinstance(picture, Image.Image):
        pixels = np.asarray(picture.convert("L" if colour == "gray" else "RGB"))
        if size is not None:
            return decode(pixels, size, colour)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().cpu().numpy()
    if not isinstance(picture, np.ndarray) or picture.ndim != 3:
        got = f"an array {picture.shape}" if isinstance(picture, np.ndarray) else f"a {type(picture).__name__}"
        raise UserError(f"images: item {place} of the Dataset is {got}; give pictures, or arrays (C, H, W) in [0, 255]")
    if size is None or picture.dtype != np.uint8 or picture.shape[0] not in COLOURS.values():
        return picture
    return _picture(picture, size, colour if picture.shape[0] == 3 else "gray")


def _of_folder(path: Path, size: int | None, colour: str, name: str | None, progress: bool) -> Images:
    """All images of a folder: those in its class folders, or, where it has none, those in itself."""
    if not path.exists():
        raise UserError(f"images: {path} does not exist; give a folder of images, or of one folder a class")
    if size is None:
        raise UserError(
            f"images: {path} holds files of any size; give size=…, the side in pixels that the network takes"
        )
    tree = open_tree(path)
    tree.index(progress)
    if tree.sequential:
        raise UserError(f"images: {path} is a compressed archive, whose files cannot be picked; unpack it")
    left, classes = LeftOut(), tree.folders()
    if splits := [folder for folder in classes if split_named(folder)]:
        raise UserError(f"images: {path} holds splits ({', '.join(splits)}); name one, as {path / splits[0]}")
    inside = {folder: image_files(tree, folder, tree.inside(folder).files, left) for folder in classes or [""]}
    files = [
        (f"{folder}/{file}" if folder else file, label)
        for label, folder in enumerate(inside)
        for file in inside[folder]
    ]
    if empty := [folder for folder in classes if not inside[folder]]:
        raise UserError(f"images: {tree.where(empty[0])} holds no images; name a folder with one folder a class")
    if not files:
        raise UserError(f"images: {path} holds no images")
    require(
        len(files) * COLOURS[colour] * size * size, f"images: {len(files):,} at size {size}", "give fewer or smaller"
    )
    pixels = _decoded(tree, [file for file, _ in files], size, colour, progress)
    labels = np.array([label for _, label in files], np.int64) if classes else None
    return Images(pixels, labels, classes or None, name or path.resolve().name)


def _decoded(tree: Tree, files: list[str], size: int, colour: str, progress: bool) -> NDArray[np.uint8]:
    pixels = np.empty((len(files), COLOURS[colour], size, size), np.uint8)

    def read(place: int) -> NDArray[np.uint8]:
        """The pixels of an image."""
        try:
            return decode(tree.read(files[place]), size, colour)
        except BrokenImage as error:
            raise UserError(f"images: {tree.where(files[place])} {error}; mend or remove it") from error

    with large_images(), bar(progress) as display:
        for place, one in enumerate(
            display.track(read_ahead(read, len(files), _THREADS), len(files), description="images")
        ):
            pixels[place] = one
    return pixels

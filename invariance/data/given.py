"""Images that a user gives: arrays, tensors, a Dataset, or a folder of files."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from PIL import Image

from invariance.data.archives import open_tree
from invariance.data.decode import COLOURS, BrokenImage, decode, decode_as, large_images
from invariance.data.image_files import image_files
from invariance.data.left_out import LeftOut
from invariance.data.matching import Wanted, check_wanted, numbers_of
from invariance.data.names import split_named
from invariance.data.pixels import FORM, of_array, picture_of
from invariance.data.reading import read_ahead
from invariance.data.sources.trees import Tree
from invariance.device import require
from invariance.errors import UserError, shown
from invariance.models.model import Model
from invariance.models.recipe import KEPT, Resize
from invariance.progress import bar
from invariance.seeds import generator
from invariance.settings.fields import LARGEST_SIZE, native

NONE = "none"
"""The word for labels that are left out, and for files that are taken at their own size."""

_THREADS = 4


@dataclass(frozen=True)
class Images:
    """Images with what is known of them.

    Attributes:
        images: (N, C, H, W) in [0, 255]; uint8, or float32 where they hold fractions.
        labels: (N,) int64; None where there are none.
        classes: names of the classes by label; None where the labels are a network's own numbers, or there are none.
        name: what they are called.
        wanted: the network's class of each of `classes`, as the user gave it.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64] | None = None
    classes: list[str] | None = None
    name: str = "images"
    wanted: Wanted | None = None

    def __len__(self) -> int:
        return len(self.images)


def load_images(
    images: object,
    labels: object = None,
    *,
    size: int | None = None,
    resize: Resize | str | None = None,
    classes: object = None,
    colour: str = "rgb",
    name: str | None = None,
    progress: bool = False,
) -> Images:
    """Images from wherever they are.

    Args:
        images: arrays or tensors (N, C, H, W), uint8 or floats in [0, 255]; a Dataset of images, or of images with
            labels; a folder or archive of images, or of one folder a class; or `Images`.
        labels: (N,) whole numbers, for arrays; "none" leaves out those of a folder or Dataset.
        size: side in pixels that files and pictures are warped to, antialiased, as everywhere in this package; None:
            arrays as they are.
        resize: how files and pictures are resized and cropped instead, as `model.resize`; "none": they stay at their
            own size, which must be one. Arrays stay as they are.
        classes: the network's class of each class folder (or class of a Dataset), by its number or its name: a list in
            their order, or a mapping from their names. None: told from the names when a network is measured.
        colour: "rgb" or "gray", for files and pictures.
        name: what they are called; None: the folder's name, or "images".
        progress: whether to show a bar.

    Raises:
        UserError: for no images, another shape or number of channels, floats that are not in [0, 255] (in [0, 1],
            negative, NaN), labels or classes that do not fit, or a file that cannot be read.
    """
    left_out = isinstance(labels, str) and labels == NONE
    given = _load(images, None if left_out else labels, _way(size, resize), colour, name, progress)
    if left_out:
        given = replace(given, labels=None, classes=None, wanted=None)
    if classes is None:
        return given
    if given.classes is None:
        raise UserError(f"classes= are of class folders, or of a Dataset with classes, and {given.name} has none")
    return replace(given, wanted=check_wanted(classes, given.classes))


def for_network(images: Images, network: Model) -> Images:
    """Images whose labels are the numbers that a network gives its classes; labels that came as numbers are these.

    Args:
        images: with labels or without.
        network: whose classes they are to be.

    Raises:
        UserError: if it cannot be told which of the network's classes they are, or the network has none.
    """
    if images.labels is None or images.classes is None:
        return images
    count = network.class_count
    if count is None:
        channels, *sides = images.images.shape[1:]
        height, width = sides if network.size is None else (network.size, network.size)
        count = network.count_logits(torch.zeros(1, channels, height, width))
    if not count:
        raise UserError(f"labels: {network.name} has no classifier; give load_images(…, labels='none')")
    numbers = numbers_of(images.classes, images.wanted, network.classes, count)
    return replace(images, labels=np.array(numbers, np.int64)[images.labels], classes=None, wanted=None)


def _way(size: object, resize: object) -> int | Resize | None:
    """How files and pictures get their size: warped to a side, as a network says, or, with None, not at all."""
    size = native(size)
    if size is not None and resize is not None:
        raise UserError(f"images: size={size!r} and resize={resize!r}; give one of them")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= LARGEST_SIZE):
        raise UserError(f"images: size={size!r}; give a side in pixels from 1 to {LARGEST_SIZE}")
    if isinstance(resize, str) and resize == NONE:
        return KEPT
    if resize is not None and not isinstance(resize, Resize):
        raise UserError(f"images: resize={resize!r}; give model.resize, 'none', or size=… in its place")
    return size if resize is None else resize


def _load(
    images: object, labels: object, way: int | Resize | None, colour: str, name: str | None, progress: bool
) -> Images:
    """The images, with labels as they stand there."""
    if isinstance(images, Images):
        if labels is not None:
            raise UserError("images: what load_images gave has its own labels; leave labels= out")
        return images
    if colour not in COLOURS:
        raise UserError(f"images: colour={colour!r}; choose {' or '.join(COLOURS)}")
    if isinstance(images, str | Path):
        if labels is not None:
            raise UserError("images: labels of a folder are its class folders; leave labels= out")
        return _of_folder(Path(images).expanduser(), way, colour, name, progress)
    if isinstance(images, torch.Tensor | np.ndarray):
        pixels = of_array(images, way if isinstance(way, int) else None, colour)
        return Images(pixels, _labels(labels, len(pixels)), None, name or "images")
    if hasattr(images, "__getitem__") and hasattr(images, "__len__"):
        if labels is not None:
            raise UserError("images: a Dataset gives its own labels; leave labels= out")
        return _of_dataset(images, way, colour, name or "images", progress)
    raise UserError(f"images: a {type(images).__name__} is none; give arrays {FORM}, a Dataset or a folder")


def fit_and_report(
    images: Images,
    fit: object,
    fit_labels: object = None,
    *,
    seed: int = 0,
    load: Callable[[object, object], Images] = load_images,
) -> tuple[tuple[Images, NDArray[np.int64]] | None, tuple[Images, NDArray[np.int64]]]:
    """Which images maps are fitted on, if any, and which are reported on: images, and which of them.

    Args:
        images: those that are given.
        fit: images of their own, as `load_images` takes them; or a share of `images` to deal out, as 0.5; or None.
        fit_labels: labels of fit images of their own.
        seed: seed of the deal.
        load: makes images of their own, and their labels, `Images`.

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
        own = load(fit, fit_labels)
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


def _of_dataset(given: Any, way: int | Resize | None, colour: str, name: str, progress: bool) -> Images:  # noqa: ANN401
    """All of a Dataset: its items are images, or tuples that begin with an image and a label."""
    if not len(given):
        raise UserError("images: the Dataset is empty; give at least one image")
    pixels, labels = [], []
    with bar(progress) as display:
        for place in display.track(range(len(given)), description="images"):
            item = _item_of(given, place)
            picture, label = (*item, None)[:2] if isinstance(item, tuple | list) and item else (item, None)
            pixels.append(_item(picture, place, way, colour))
            labels.append(label)
    shapes = sorted({one.shape for one in pixels})
    if len(shapes) > 1:
        raise UserError(f"images: item 0 is of shape {pixels[0].shape}, others of {shapes[:3]}; give size=…")
    known = [_whole(one, place) for place, one in enumerate(labels) if one is not None]
    if known and len(known) < len(labels):
        raise UserError("images: some items of the Dataset have labels, and some have none")
    labelled = _labels([int(one) for one in known], len(pixels)) if known else None
    return Images(of_array(np.stack(pixels), None, colour), labelled, _classes(given, labelled), name)


def _classes(given: Any, labels: NDArray[np.int64] | None) -> list[str] | None:  # noqa: ANN401
    """The names of a Dataset's classes, if it has them for its labels."""
    classes = getattr(given, "classes", None)
    if labels is None or not isinstance(classes, Sequence) or isinstance(classes, str):
        return None
    return [str(one) for one in classes] if int(labels.max()) < len(classes) else None


def _item_of(given: Any, place: int) -> Any:  # noqa: ANN401
    try:
        return given[place]
    except UserError:
        raise
    except Exception as error:  # whatever the user's Dataset does
        why = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"images: item {place} of a {type(given).__name__} fails with {type(error).__name__} ({why[:200]}); give a "
            f"Dataset, arrays {FORM}, or a folder"
        ) from error


def _whole(label: object, place: int) -> int:
    """An item's label."""
    value = native(label)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"images: item {place} of the Dataset has the label {shown(label)}; give a whole number from 0")
    return value


def _item(picture: object, place: int, way: int | Resize | None, colour: str) -> NDArray[Any]:
    """An item's image (C, H, W)."""
    if isinstance(picture, Image.Image):
        pixels = np.asarray(picture.convert("L" if colour == "gray" else "RGB"))
        if way is not None:
            return _decode(pixels, way, colour)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().cpu().numpy()
    if not isinstance(picture, np.ndarray) or picture.ndim != 3:
        got = f"an array {picture.shape}" if isinstance(picture, np.ndarray) else f"a {type(picture).__name__}"
        raise UserError(f"images: item {place} of the Dataset is {got}; give pictures, or arrays (C, H, W) in [0, 255]")
    if not isinstance(way, int) or picture.dtype != np.uint8 or picture.shape[0] not in COLOURS.values():
        return picture
    return picture_of(picture, way, colour if picture.shape[0] == 3 else "gray")


def _of_folder(path: Path, way: int | Resize | None, colour: str, name: str | None, progress: bool) -> Images:
    """All images of a folder: those in its class folders, or, where it has none, those in itself."""
    if not path.exists():
        raise UserError(f"images: {path} does not exist; give a folder of images, or of one folder a class")
    if way is None:
        raise UserError(
            f"images: {path} holds files of any size; give resize=model.resize, or size=…, the side in pixels that the "
            "network takes"
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
    pixels = _decoded(tree, [file for file, _ in files], way, colour, progress)
    labels = np.array([label for _, label in files], np.int64) if classes else None
    return Images(pixels, labels, classes or None, name or path.resolve().name)


def _decode(data: bytes | NDArray[np.uint8], way: int | Resize, colour: str) -> NDArray[np.uint8]:
    return decode(data, way, colour) if isinstance(way, int) else decode_as(data, way, colour)


def _decoded(tree: Tree, files: list[str], way: int | Resize, colour: str, progress: bool) -> NDArray[np.uint8]:
    """The pixels of all files, which the first decides the size of."""

    def read(place: int) -> NDArray[np.uint8]:
        """The pixels of an image."""
        try:
            return _decode(tree.read(files[place]), way, colour)
        except BrokenImage as error:
            raise UserError(f"images: {tree.where(files[place])} {error}; mend or remove it") from error

    with large_images(), bar(progress) as display:
        shape = read(0).shape
        sides = f"{shape[1]} × {shape[2]}"
        require(len(files) * int(np.prod(shape)), f"images: {len(files):,} at {sides} pixels", "give fewer or smaller")
        pixels = np.empty((len(files), *shape), np.uint8)
        for place, one in enumerate(
            display.track(read_ahead(read, len(files), _THREADS), len(files), description="images")
        ):
            if one.shape != shape:
                raise UserError(
                    f"images: {tree.where(files[place])} is {one.shape[1]} × {one.shape[2]} pixels and "
                    f"{tree.where(files[0])} {sides}; give resize=model.resize or size=…"
                )
            pixels[place] = one
    return pixels

"""The gallery (Fig. 5, 6): what every g of a grid does to a few images."""

import base64
import io
import zlib
from dataclasses import dataclass
from zipfile import BadZipFile

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from invariance.errors import UserError
from invariance.reporting.curves import MeasuredFamily, words
from invariance.reporting.figure import rendered
from invariance.reporting.grids import GridFacts

EXAMPLES = "examples.npz"
_COLUMNS = 9
_EXACT_SIDE, _PAGE_SIDE = 64, 96
_SPACE, _LABEL = 0.05, 0.32


@dataclass(frozen=True)
class Gallery:
    """Example images under every g.

    Attributes:
        name: name of its files.
        title: its heading.
        caption: what is shown.
        labels: the labels of all g, in the order of the axis.
        images: uint8 (P, E, H, W) or (P, E, H, W, 3).
    """

    name: str
    title: str
    caption: str
    labels: tuple[str, ...]
    images: NDArray[np.uint8]

    @property
    def columns(self) -> list[tuple[list[str], str]]:
        """For a page: for every g its images as data URIs, and its label."""
        pairs = zip(self.images, self.labels, strict=True)
        return [([_data_uri(image) for image in stack], label) for stack, label in pairs]

    def files(self) -> dict[str, bytes]:
        """Its files, by path in the report."""
        return rendered(lambda: _draw(self), self.name, self.title)[1]


def gallery(family: MeasuredFamily, slug: str) -> Gallery | None:
    """The gallery of a family, or None where no examples were kept.

    Raises:
        UserError: if the file of examples is damaged.
    """
    for subject in family.compared:
        held = examples(subject.facts)
        if held is None:
            continue
        images = held[:, :, 0] if held.shape[2] == 1 else np.moveaxis(held[:, :, :3], 2, -1)
        caption = (
            f"What each g of {subject.facts.grid} does to {held.shape[1]} images of {family.data} at "
            f"{held.shape[4]} × {held.shape[3]} pixels: a row an image, under each column its g{_unit(subject.facts)}."
        )
        labels = tuple(point.label for point in subject.facts.points)
        return Gallery(f"{slug}-gallery", f"{family.title}, every g on example images", caption, labels, images)
    return None


def examples(facts: GridFacts) -> NDArray[np.uint8] | None:
    """Example images under every g of a grid, uint8 (P, E, C, H, W), or None where none were kept.

    Raises:
        UserError: if the file is damaged or belongs to another grid.
    """
    path = facts.folder / EXAMPLES
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as held:
            images = np.asarray(held["images"])
    except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); delete {facts.folder} and measure it again") from error
    if images.dtype != np.uint8 or images.ndim != 5 or len(images) != len(facts.points):
        raise UserError(
            f"{path} holds {images.dtype} {images.shape}, expected uint8 images under {len(facts.points)} g; "
            f"delete {facts.folder} and measure it again"
        )
    return images


def _unit(facts: GridFacts) -> str:
    return "" if facts.ordinal or not facts.unit else f" in {words(facts.unit)}"


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    """An image (H, W[, 3]): a small one exactly, a large one reduced and as JPEG."""
    image = Image.fromarray(pixels)
    large = max(image.size) > _EXACT_SIDE
    buffer = io.BytesIO()
    if large:
        image.thumbnail((_PAGE_SIDE, _PAGE_SIDE), Image.Resampling.LANCZOS)
        image.save(buffer, "JPEG", quality=90, subsampling=0)
    else:
        image.save(buffer, "PNG", optimize=True)
    kind = "jpeg" if large else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _draw(shown: Gallery) -> Figure:
    n, rows = shown.images.shape[:2]
    across = min(n, _COLUMNS)
    blocks = -(-n // across)
    shape = shown.images.shape[2] / shown.images.shape[3]
    step, block = 1 + _SPACE, rows * (shape + _SPACE) + _LABEL
    width, height = across * step - _SPACE, blocks * block + _LABEL
    figure = Figure(figsize=(0.95 * width, 0.95 * height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set_axis_off()
    for k, (stack, label) in enumerate(zip(shown.images, shown.labels, strict=True)):
        left, top = (k % across) * step, (k // across) * block + _LABEL
        for row, image in enumerate(stack):
            down = top + row * (shape + _SPACE)
            extent = (left, left + 1, down + shape, down)
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=extent)
        axes.text(left + 0.5, top + block - _LABEL + 0.02, label, ha="center", va="top", fontsize=8)
    axes.text(0, 0, shown.title, ha="left", va="top", fontsize=11, fontweight="bold")
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure

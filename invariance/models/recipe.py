"""What a network's own preprocessing is made of: how pictures are resized and cropped, and how numbers are scaled."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from PIL import Image
from torch import Tensor

from invariance.errors import UserError

FILTERS = {one.name.lower(): one for one in Image.Resampling}
"""Ways to resize by name, as Pillow has them: nearest, bilinear, bicubic, box, hamming, lanczos."""

How = Literal["shorter", "longer", "both", "none"]


@dataclass(frozen=True)
class Resize:
    """How a picture of any size becomes what a network takes: resized, once and antialiased, then cut at its centre.

    Attributes:
        how: which side becomes `side`: the "shorter" or the "longer" one, the aspect being kept; "both", which warps;
            "none" leaves the picture as it is.
        side: in pixels.
        crop: side in pixels of the square that is cut out at the centre; None: nothing is cut off.
        filter: one of `FILTERS`.
        down: where the pixels that are cut off are odd in number, whether the cut lies half a pixel up and left
            (Hugging Face) or at the even place (timm, torchvision).
        fill: what stands where the cut is larger than the picture: one number, or one a channel.

    Example:
        >>> resize = Resize("shorter", 256, 224, "bicubic")
        >>> resize(Image.new("RGB", (500, 375))).size, resize.told
        ((224, 224), 'shorter side to 256 (bicubic, antialiased), centre 224 × 224')
    """

    how: How = "none"
    side: int = 0
    crop: int | None = None
    filter: str = "bilinear"
    down: bool = False
    fill: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise UserError(f"resize: filter={self.filter!r} is none; there are {', '.join(FILTERS)}")

    @property
    def size(self) -> int | None:
        """Side in pixels of the squares that come out; None where pictures of several sizes do."""
        return self.crop or (self.side if self.how == "both" else None)

    @property
    def told(self) -> str:
        """The recipe as text."""
        way = self.filter if self.filter == "nearest" else f"{self.filter}, antialiased"
        side = {"both": f"{self.side} × {self.side}", "none": "not resized"}.get(
            self.how, f"{self.how} side to {self.side}"
        )
        resized = side if self.how == "none" else f"{side} ({way})"
        if self.crop is None:
            return resized
        outside = f" with {', '.join(map(str, self.fill))} outside" if any(self.fill) else ""
        return f"{resized}, centre {self.crop} × {self.crop}{outside}"

    def scaled(self, size: int) -> Self:
        """The same at another size in pixels: the same part of every picture.

        Raises:
            UserError: if pictures keep their own sizes.
        """
        if self.size is None:
            raise UserError(f"resize ({self.told}) gives no squares, so there is no such of {size} pixels")
        crop = None if self.crop is None else size
        return replace(self, side=round(self.side * size / self.size), crop=crop)

    def __call__(self, image: Image.Image) -> Image.Image:
        """A picture in mode L, RGB or F as the network takes it."""
        wanted = self._resized(*image.size)
        if wanted != image.size:
            image = image.resize(wanted, FILTERS[self.filter])
        return image if self.crop is None else self._cut(image, self.crop)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing; the other side is rounded as the libraries do."""
        if self.how == "none":
            return width, height
        if self.how == "both":
            return self.side, self.side
        if self.how == "longer":
            ratio = max(width / self.side, height / self.side)
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        other = int(self.side * max(width, height) / min(width, height))
        return (self.side, other) if width <= height else (other, self.side)

    def _cut(self, image: Image.Image, crop: int) -> Image.Image:
        """The square at the centre, the picture being laid on a ground where it is smaller."""
        width, height = image.size
        if width < crop or height < crop:
            fill = self.fill if image.mode == "RGB" and len(self.fill) == 3 else round(sum(self.fill) / len(self.fill))
            ground = Image.new(image.mode, (max(width, crop), max(height, crop)), fill)
            ground.paste(image, (max(0, crop - width) // 2, max(0, crop - height) // 2))
            image, (width, height) = ground, ground.size
        left, top = (int(cut / 2) if self.down else round(cut / 2) for cut in (width - crop, height - crop))
        return image.crop((left, top, left + crop, top + crop))


@dataclass(frozen=True)
class Normalise:
    """(x / scale + shift − mean) / std, for images x (B, C, H, W) in [0, 255]; mean and std one number a channel.

    Attributes:
        mean: of images as they are after scaling; empty: none is taken off.
        std: likewise; empty: nothing is divided.
        scale: what images are divided by.
        shift: what is added then.
        reversed: whether the channels come in the other order, as blue, green, red.
    """

    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    scale: float = 255.0
    shift: float = 0.0
    reversed: bool = False

    @property
    def told(self) -> str:
        """The formula as text."""
        x = "x" if self.scale == 1 else f"x / {self.scale:g}"
        if self.shift:
            x = f"{x} {'+' if self.shift > 0 else '−'} {abs(self.shift):g}"
        formula = f"({x} − {list(self.mean)}) / {list(self.std)}" if self.mean else x
        return f"channels reversed, {formula}" if self.reversed else formula

    def __call__(self, x: Tensor) -> Tensor:
        """Images as the network takes them.

        Raises:
            UserError: for images of another number of channels.
        """
        if len(self.mean) > 1 and x.shape[1] != len(self.mean):
            raise UserError(
                f"images have {x.shape[1]} channels, and the mean of the network has {len(self.mean)}; give images of "
                f"{len(self.mean)} channels"
            )
        y = x.flip(1) if self.reversed else x
        y = y / self.scale
        if self.shift:
            y = y + self.shift
        if not self.mean:
            return y
        mean, std = (torch.tensor(one, device=x.device).reshape(1, -1, 1, 1) for one in (self.mean, self.std))
        return (y - mean).div_(std)


KEPT = Resize()
"""Pictures at their own size."""

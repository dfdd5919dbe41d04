"""Our transformations against kornia's, and the rates of transformations of other libraries.

    python benchmarks/transforms.py [--images 16] [--size 227] [--rounds 7] [--json PATH]

First, for every operation that both have: the largest deviation of either from the formula in float64 (scipy and numpy,
written out here), of intensities in [0, 255], and the time of either for an image, in turn, as medians over rounds.
`least_time_over_kornia` is the lowest ratio kornia's time / ours among operations of which ours is used.

Then, for transformations of other libraries: images a second through `Foreign`, which draws by a seed and gives all
images the same g, against a loop that calls the library by itself on the same images, as it takes them and with no seed
at all. `foreign_share_of_direct` is the lowest ratio.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import kornia.augmentation as K
import numpy as np
import torch
from kornia.enhance import (
    adjust_brightness,
    adjust_contrast_with_mean_subtraction,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
    normalize,
)
from kornia.filters import gaussian_blur2d, get_gaussian_kernel1d, spatial_gradient
from kornia.geometry.transform import get_perspective_transform, hflip, remap, warp_perspective
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from torch import Tensor
from torchvision.transforms import v2

from invariance.runs.outputs import output_file
from invariance.transforms.foreign import Foreign
from invariance.transforms.perspective import UNIT_SQUARE
from invariance.transforms.smoothing import kernel, smooth
from invariance.transforms.warp import change_along, velocity, warp_displacement, warp_homography


@dataclass(frozen=True)
class Operation:
    """What both can do.

    Attributes:
        name: what it is.
        ours: ours.
        kornias: kornia's.
        exact: the formula in float64.
        used: "ours", "kornia", or "torch" where both come to one call of torch.
    """

    name: str
    ours: Callable[[], Tensor]
    kornias: Callable[[], Tensor]
    exact: Callable[[], np.ndarray]
    used: str


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def sampled(image: np.ndarray, right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Channels of an image (C, H, W) taken at places, bilinear, with 0 around."""
    return np.stack([ndimage.map_coordinates(one, [down, right], order=1, mode="grid-constant") for one in image])


def warped(x: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Images through a homography about the centre, from output to input."""
    height, width = x.shape[-2:]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    down, right = np.mgrid[:height, :width].astype(float)
    place = np.stack([right - centre[0], down - centre[1], np.ones_like(right)])
    u, v, w = np.einsum("ij,jhw->ihw", backward, place)
    ahead = w > 0
    right, down = (
        np.where(ahead, part / np.where(ahead, w, 1), -1e6) + middle
        for part, middle in ((u, centre[0]), (v, centre[1]))
    )
    return np.stack([sampled(image, right, down) for image in x])


def in_corners(backward: Tensor, height: int, width: int) -> Tensor:
    """A homography from output to input about the centre as kornia takes it: the inverse, about the corner."""
    to_corner = torch.tensor([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]], dtype=torch.float64)
    return to_corner @ torch.linalg.inv(backward) @ torch.linalg.inv(to_corner)


def in_closed_form(corners: Tensor) -> Tensor:
    """Homographies (n, 3, 3) from the unit square to quadrilaterals (n, 4, 2), corners in the order of `UNIT_SQUARE`.

    With the first corner at p₀, a point is (p₀ + a x + b y) / (1 + g x + h y), where the third corner fixes g and h.
    """
    p0, p1, p2, p3 = corners.unbind(dim=1)
    # the third corner: (p₁ − p₂) g + (p₃ − p₂) h = p₀ − p₁ + p₂ − p₃
    g, h = torch.linalg.solve(torch.stack([p1 - p2, p3 - p2], dim=2), p0 - p1 + p2 - p3).unbind(dim=1)
    a = p1 - p0 + g[:, None] * p1
    b = p3 - p0 + h[:, None] * p3
    top = torch.stack([a, b, p0], dim=2)
    bottom = torch.stack([g, h, torch.ones_like(g)], dim=1)
    return torch.cat([top, bottom[:, None]], dim=1)


def operations(x: Tensor) -> list[Operation]:
    """All, on images (B, 3, H, W) in [0, 255]."""
    exact, unit = x.double().numpy(), x / 255
    batch, _, height, width = x.shape
    generator = torch.Generator().manual_seed(1)
    found = []

    corners = UNIT_SQUARE + torch.randn(batch, 4, 2, generator=generator, dtype=torch.float64) * 0.02
    square = UNIT_SQUARE.expand(batch, -1, -1)

    def solved() -> np.ndarray:
        """Eight equations in eight unknowns for each quadrilateral."""
        matrices = []
        for target in corners.numpy():
            rows, right = [], []
            for (px, py), (qx, qy) in zip(UNIT_SQUARE.numpy(), target, strict=True):
                rows += [[px, py, 1, 0, 0, 0, -px * qx, -py * qx], [0, 0, 0, px, py, 1, -px * qy, -py * qy]]
                right += [qx, qy]
            matrices.append(np.append(np.linalg.solve(np.array(rows), np.array(right)), 1).reshape(3, 3))
        return np.stack(matrices)

    found.append(
        Operation(
            "four-point homography",
            lambda: in_closed_form(corners),
            lambda: get_perspective_transform(square, corners),
            solved,
            "kornia",
        )
    )
    turn = np.deg2rad(20)
    rotation = torch.tensor(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]], dtype=torch.float64
    )
    tilt = torch.tensor([[1.02, 0.05, 3], [-0.02, 0.97, -2], [4e-4, -3e-4, 1]], dtype=torch.float64)
    for name, matrix in (("rotation by 20°", rotation), ("perspective", tilt)):
        theirs = in_corners(matrix, height, width).float()[None].expand(batch, -1, -1)
        found.append(
            Operation(
                name,
                lambda matrix=matrix: warp_homography(x, matrix[None]),
                lambda theirs=theirs: warp_perspective(x, theirs, (height, width)),
                lambda matrix=matrix: warped(exact, matrix.numpy()),
                "ours",
            )
        )
    field = smooth(torch.randn(1, 2, height, width, generator=generator, dtype=torch.float64), torch.tensor([4.0])) * 40
    down, right = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    to_right, to_down = (right + field[:, 0]), (down + field[:, 1])
    single = field.float()
    maps = [one.float().expand(batch, -1, -1) for one in (to_right, to_down)]
    found.append(
        Operation(
            "displacement, pixel by pixel",
            lambda: warp_displacement(x, single),
            lambda: remap(x, *maps, align_corners=True),
            lambda: np.stack([sampled(image, to_right[0].numpy(), to_down[0].numpy()) for image in exact]),
            "ours",
        )
    )
    sigmas = torch.tensor([1.5, 3.0], dtype=torch.float64)
    found.append(
        Operation(
            "Gaussian kernels",
            lambda: kernel(sigmas[1:]),
            lambda: get_gaussian_kernel1d(25, sigmas[1:, None], dtype=torch.float64),
            lambda: (
                np.exp(-0.5 * (np.arange(-12, 13) / 3) ** 2)[None] / np.exp(-0.5 * (np.arange(-12, 13) / 3) ** 2).sum()
            ),
            "ours",
        )
    )
    for sigma in (1.0, 5.0):
        side = 2 * round(4 * sigma) + 1
        found.append(
            Operation(
                f"blur, σ = {sigma:g}",
                lambda sigma=sigma: smooth(x, torch.tensor([sigma], dtype=torch.float64), "reflect_101"),
                lambda sigma=sigma, side=side: gaussian_blur2d(x, (side, side), (sigma, sigma), "reflect"),
                lambda sigma=sigma: ndimage.gaussian_filter(exact, (0, 0, sigma, sigma), mode="mirror", truncate=4),
                "ours",
            )
        )
    rate = torch.tensor([[0, 0, 1], [0, 0, 0], [0, 0, 0]], dtype=torch.float64)
    found.append(
        Operation(
            "image gradient to the right",
            lambda: change_along(x, velocity(x, rate)),
            lambda: spatial_gradient(x, "diff")[:, :, 0],
            lambda: np.gradient(np.pad(exact, ((0, 0), (0, 0), (0, 0), (1, 1))), axis=3)[..., 1:-1],
            "ours",
        )
    )
    found.append(Operation("flip", lambda: x.flip(3), lambda: hflip(x), lambda: exact[..., ::-1], "torch"))
    found.append(
        Operation(
            "brightness",
            lambda: (x + 20).clamp_(0, 255),
            lambda: adjust_brightness(unit, 20 / 255) * 255,
            lambda: np.clip(exact + 20, 0, 255),
            "ours",
        )
    )
    mean = torch.tensor([123.0, 117.0, 104.0])
    found.append(
        Operation(
            "normalisation",
            lambda: (x - mean[:, None, None]).div_(255),
            lambda: normalize(x, mean, torch.full((3,), 255.0)),
            lambda: (exact - mean.double().numpy()[:, None, None]) / 255,
            "ours",
        )
    )
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    of_gray = weights.double().numpy()
    factor = torch.full((batch,), 1.5)

    def gray(image: Tensor) -> Tensor:
        """.299 R + .587 G + .114 B."""
        return (image * weights).sum(1, keepdim=True)

    def stretched(middle: Tensor) -> Tensor:
        """Half as far again from something."""
        return (middle + 1.5 * (x - middle)).clamp_(0, 255)

    def literal(middle: np.ndarray) -> np.ndarray:
        """The same in float64."""
        return np.clip(middle + 1.5 * (exact - middle), 0, 255)

    exact_gray = (exact * of_gray).sum(1, keepdims=True)
    found.append(
        Operation(
            "contrast",
            lambda: stretched(gray(x).mean((1, 2, 3), keepdim=True)),
            lambda: adjust_contrast_with_mean_subtraction(x / 255, factor).mul_(255),
            lambda: literal(exact_gray.mean((1, 2, 3), keepdims=True)),
            "kornia",
        )
    )
    found.append(
        Operation(
            "saturation",
            lambda: stretched(gray(x)),
            lambda: adjust_saturation_with_gray_subtraction(x / 255, factor).mul_(255),
            lambda: literal(exact_gray),
            "kornia",
        )
    )
    turned = torch.full((batch,), np.pi / 3)
    found.append(
        Operation(
            "hue by 60°",
            lambda: v2.functional.adjust_hue(x / 255, 1 / 6).mul_(255),
            lambda: adjust_hue(x / 255, turned).mul_(255),
            lambda: turned_hue(exact),
            "kornia",
        )
    )
    return found


def turned_hue(x: np.ndarray) -> np.ndarray:
    """Hues in HSV 60° further, which is a change of channels: of what was red, green is the largest in yellow."""
    most, least = x.max(1), x.min(1)
    red, green, blue = x.transpose(1, 0, 2, 3)
    spread = np.where(most > least, most - least, 1)
    hue = np.select(
        [most == red, most == green],
        [(green - blue) / spread % 6, (blue - red) / spread + 2],
        (red - green) / spread + 4,
    )
    hue = (hue + 1) % 6
    part = [most - (most - least) * np.clip(np.minimum((k + hue) % 6, 4 - (k + hue) % 6), 0, 1) for k in (5, 3, 1)]
    return np.stack(part, 1)


def compared(one: Operation, images: int, rounds: int) -> dict[str, Any]:
    """Deviations, and times of an image in milliseconds."""
    exact = one.exact()
    far = [float(np.abs(work().double().numpy() - exact).max()) for work in (one.ours, one.kornias)]
    times = [(seconds(one.ours), seconds(one.kornias)) for _ in range(rounds)]
    ours, theirs = (1e3 * statistics.median(part) / images for part in zip(*times, strict=True))
    ratio = statistics.median(other / own for own, other in times)
    return {"operation": one.name, "ours_off": far[0], "kornia_off": far[1], "ours_ms": ours, "kornia_ms": theirs} | {
        "kornia_over_ours": ratio,
        "used": one.used,
    }


def rates(x: Tensor, rounds: int) -> list[dict[str, Any]]:
    """Images a second of some transformations of other libraries, and of a loop that calls them."""
    pixels = [np.ascontiguousarray(image.permute(1, 2, 0).byte().numpy()) for image in x]
    unit = x / 255

    def of_arrays(own: Any) -> None:  # noqa: ANN401
        """Albumentations in a loop."""
        for image in pixels:
            own(image=image)

    def of_tensors(own: Any) -> None:  # noqa: ANN401
        """A torch module, image by image."""
        for image in unit:
            own(image[None])

    several = [
        (A.GridDistortion(p=1), of_arrays),
        (A.GaussNoise(p=1), of_arrays),
        (A.RandomFog(p=1), of_arrays),
        (A.ImageCompression(p=1), of_arrays),
        (K.RandomPlanckianJitter(p=1.0), of_tensors),
        (K.RandomSharpness(2.0, p=1.0), of_tensors),
        (K.RandomAffine(20.0, p=1.0), of_tensors),
        (v2.RandomAdjustSharpness(2, p=1), of_tensors),
        (v2.GaussianBlur(9, 2.0), of_tensors),
    ]
    found = []
    for own, direct in several:
        family = Foreign(own)
        params = family.grid()[1].params
        family.apply(x, params)
        times = []
        for _ in range(rounds):
            times.append((seconds(lambda: family.apply(x, params)), seconds(lambda: direct(own))))  # noqa: B023
        ours, theirs = (len(x) / statistics.median(part) for part in zip(*times, strict=True))
        share = statistics.median(other / mine for mine, other in times)
        name = f"{type(own).__module__.partition('.')[0]}: {type(own).__name__}"
        found.append({"transformation": name, "images_per_s": ours, "direct_images_per_s": theirs, "share": share})
    return found


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--size", type=int, default=227)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--json", help="where to write the numbers")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    seeded = torch.Generator().manual_seed(0)
    rough = torch.rand(given.images, 3, 40, 40, generator=seeded) * 255
    x = torch.nn.functional.interpolate(rough, (given.size, given.size + 9), mode="bilinear").round()
    console = Console(width=120)
    lines = [compared(one, given.images, given.rounds) for one in operations(x)]
    table = Table("operation", "ours off float64", "kornia off", "ours, ms", "kornia, ms", "kornia / ours", "used")
    for line in lines:
        table.add_row(
            line["operation"],
            *(f"{line[key]:.1e}" for key in ("ours_off", "kornia_off")),
            *(f"{line[key]:.3f}" for key in ("ours_ms", "kornia_ms")),
            f"{line['kornia_over_ours']:.2f}",
            line["used"],
        )
    console.print(table)
    foreign = rates(x, given.rounds)
    table = Table("transformation", "images a second", "of its library alone", "share")
    for line in foreign:
        table.add_row(
            line["transformation"],
            *(f"{line[key]:.0f}" for key in ("images_per_s", "direct_images_per_s")),
            f"{line['share']:.2f}",
        )
    console.print(table)
    held = {
        "operations": lines,
        "foreign": foreign,
        "least_time_over_kornia": min(one["kornia_over_ours"] for one in lines if one["used"] == "ours"),
        "foreign_share_of_direct": min(one["share"] for one in foreign),
    }
    console.print({key: value for key, value in held.items() if isinstance(value, float)})
    if given.json:
        output_file(given.json).write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""The figures and tables of docs/transformations.md.

python make.py gather RUNS     rows.csv.gz, from the runs of measure.sh
python make.py figures         ../images/transformations-*.svg, from these
python make.py tables          the tables of the page, in Markdown
python make.py resizing PHOTOS how far albumentations' resizing is from that of invariance-prepare
python make.py theirs          how far our families are from what other libraries have of the same name
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor

from invariance.reporting.style import BLUE, GRAY, GREEN, ORANGE, RED, canvas, style, svg
from invariance.runs.rows import read_rows

HERE = Path(__file__).parent
IMAGES, ROWS = HERE.parent / "images", HERE / "rows.csv.gz"
KEPT = [
    "network",
    "grid",
    "label",
    "value",
    "map",
    "metric",
    "score",
    "low",
    "high",
    "n_images",
    "status",
    "null_image",
]
TRAINED = {
    "baseline": ("untouched alone", GRAY),
    "impulse_noise_0.17": ("salt and pepper, up to 0.17", BLUE),
    "erasing_0.3": ("erasing, up to 0.3", GREEN),
    "posterize_6": ("two bits", ORANGE),
}
AXES = {
    "impulse_noise": ("salt and pepper", "share of pixels"),
    "erasing": ("erasing", "share of the picture"),
    "posterize": ("posterized", "bits less than 8"),
}
LITE = "networks_efficientnet_lite0"
GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "fog", "spatter", "brightness"),
    "digital": ("contrast", "elastic", "pixelate", "jpeg"),
}
INK = "#6b7280"


def gather(runs: str) -> None:
    """Write the rows of the reported images."""
    found = []
    for path in sorted(Path(runs).glob("measure/**/rows.csv")):
        rows = read_rows(path)
        wanted = "val" if LITE in path.parts else "test"
        found.append(rows[(rows["split"] == wanted) & rows["fit_classes"].fillna("").isin(["", "all"])])
    table = pd.concat(found, ignore_index=True)
    names = table["g"].str.partition(":")
    table = table.assign(grid=names[0], label=names[2])[KEPT]
    table.to_csv(ROWS, index=False, float_format="%.5g", compression={"method": "gzip", "mtime": 0})


def rows_of(metric: str, mapped: str = "identity") -> pd.DataFrame:
    """Rows of a metric through a map."""
    rows = pd.read_csv(ROWS, dtype={"label": str})
    return rows[(rows["metric"] == metric) & (rows["map"] == mapped)]


def figures() -> None:
    """Draw both."""
    for name, draw in {"trained": trained, "corruptions": corruptions}.items():
        with style(INK):
            (IMAGES / f"transformations-{name}.svg").write_text(svg(draw()))
        print(IMAGES / f"transformations-{name}.svg")


def trained() -> object:
    """Accuracy of the small networks over the three families, without a map, and of each trained one through a map."""
    plain, mapped = rows_of("error_rate"), rows_of("error_rate", "residual")
    figure = canvas((9.0, 3.3))
    for place, (grid, (title, unit)) in zip(figure.subplots(1, 3, sharey=True), AXES.items(), strict=True):
        for network, (told, colour) in TRAINED.items():
            for rows, line in ((plain, "-"), (mapped, "--")):
                here = rows[(rows["grid"] == grid) & (rows["network"] == network)].sort_values("value")
                if line == "--" and network != "baseline":
                    continue
                place.fill_between(
                    here["value"], 100 - 100 * here["low"], 100 - 100 * here["high"], color=colour, alpha=0.2, lw=0
                )
                label = told if line == "-" else "untouched alone, linear map"
                place.plot(here["value"], 100 - 100 * here["score"], line, color=colour, label=label, marker=".", ms=4)
        _tidy(place, title, unit)
    figure.axes[0].set_ylabel("accuracy (%)")
    figure.axes[0].legend(frameon=False, fontsize=7.5)
    return figure


def corruptions() -> object:
    """Accuracy of EfficientNet-Lite0 over severities: a panel a group."""
    rows = rows_of("error_rate")
    rows = rows[rows["network"] == LITE]
    figure = canvas((9.0, 3.3))
    colours = (BLUE, ORANGE, GREEN, RED)
    for place, (group, names) in zip(figure.subplots(1, 4, sharey=True), GROUPS.items(), strict=True):
        for name, colour in zip(names, colours, strict=False):
            here = rows[rows["grid"] == f"corruptions.{name}"].sort_values("value")
            place.fill_between(
                here["value"], 100 - 100 * here["low"], 100 - 100 * here["high"], color=colour, alpha=0.15, lw=0
            )
            label = name.replace("_", " ")
            place.plot(here["value"], 100 - 100 * here["score"], color=colour, label=label, marker=".", ms=4)
        _tidy(place, group, "severity")
        place.legend(frameon=False, fontsize=7.5, loc="lower left")
        place.set_ylim(0, 80)
    figure.axes[0].set_ylabel("accuracy (%)")
    return figure


def _tidy(place: Axes, title: str, unit: str) -> None:
    place.set_title(title, fontsize=9)
    place.set_xlabel(unit, fontsize=8)
    place.spines[["top", "right"]].set_visible(False)


def _print(table: pd.DataFrame) -> None:
    print("| " + " | ".join(map(str, table.columns)) + " |")
    print("|" + "---|" * len(table.columns))
    for row in table.itertuples(index=False):
        print("| " + " | ".join(f"{one:.1f}" if isinstance(one, float) else str(one) for one in row) + " |")
    print()


def tables() -> None:
    """Accuracy of EfficientNet-Lite0 under every corruption, with their means, and of the small networks."""
    rows = rows_of("error_rate")
    held = rows[rows["grid"].str.startswith("corruptions.")]
    order = [f"corruptions.{name}" for names in GROUPS.values() for name in names]
    for metric in ("error_rate", "agreement"):
        lite = rows_of(metric)
        lite = lite[lite["grid"].isin(order)].pivot_table(index="grid", columns="label", values="score").loc[order]
        lite = 100 * (1 - lite if metric == "error_rate" else lite)
        lite["mean"] = lite[[f"{k}" for k in range(1, 6)]].mean(axis=1)
        lite.loc["mean of all"] = lite.mean()
        for group, names in GROUPS.items():
            lite.loc[f"mean of {group}"] = lite.loc[[f"corruptions.{name}" for name in names]].mean()
        print(metric)
        _print(lite.reset_index())
    print(f"{int(held['n_images'].max())} images")
    for mapped in ("identity", "residual"):
        own = rows_of("error_rate", mapped)
        own = own[own["grid"].isin(list(AXES)) & own["network"].isin(list(TRAINED))]
        print(mapped)
        for grid, part in own.groupby("grid"):
            accuracy = 100 - 100 * part.pivot_table(index="network", columns="value", values="score")
            _print(accuracy.reset_index().rename(columns={"network": grid}))


def resizing(photos: str) -> None:
    """Deviations of albumentations' Resize from what preparing makes of every 25th photograph of `val`."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations
    from PIL import Image

    from invariance.data.decode import decode_sizes

    paths = sorted(Path(photos).glob("val/*/*"))[::25]
    ways = {"linear": 1, "cubic": 2, "area": 3}  # OpenCV's numbers
    print(f"| {len(paths)} photographs to | by | largest deviation | mean |\n|---|---|---|---|")
    for side in (96, 227):
        for way, number in ways.items():
            other = albumentations.Resize(side, side, interpolation=number)
            far = []
            for path in paths:
                ours = decode_sizes(path.read_bytes(), [side], "rgb")[0].astype(int)
                theirs = other(image=np.asarray(Image.open(path).convert("RGB")))["image"]
                far.append(np.abs((ours if ours.shape[2] == 3 else ours.transpose(1, 2, 0)) - theirs))
            print(f"| {side} | {way} | {max(one.max() for one in far)} | {np.mean([one.mean() for one in far]):.2f} |")


def theirs() -> None:
    """Largest and mean deviations, of intensities in [0, 255], from other libraries' transformations at the same g."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations
    import kornia.enhance
    import kornia.geometry.transform
    from torchvision.transforms.v2 import functional as v2

    from invariance.transforms.blur import Blur
    from invariance.transforms.color_jitter import ColorJitter
    from invariance.transforms.contrast import Contrast, Saturation
    from invariance.transforms.crop import Crop
    from invariance.transforms.hue import Hue
    from invariance.transforms.mirror import Mirror
    from invariance.transforms.perspective import Perspective
    from invariance.transforms.rotation import Rotation
    from invariance.transforms.scale import Scale
    from invariance.transforms.translation import Translation

    seeded = torch.Generator().manual_seed(0)
    x = torch.nn.functional.interpolate(
        torch.rand(2, 3, 30, 34, generator=seeded) * 255, (227, 257), mode="bilinear"
    ).round()

    def own(family: object, label: str, images: Tensor = x) -> Tensor:
        """Ours at a label of the grid."""
        point = next(one for one in family.grid() if one.label == label)  # type: ignore[attr-defined]
        return family.apply(images, point.params)  # type: ignore[attr-defined,no-any-return]

    def by_numpy(one: object) -> Tensor:
        """Albumentations, image by image."""
        made = [one(image=image.permute(1, 2, 0).byte().numpy())["image"] for image in x]  # type: ignore[operator]
        return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float()

    turn = {"interpolation": 1, "border_mode": 0, "p": 1}
    corners = torch.tensor([[3.0, -4], [-5, 2], [4, 6], [-3, -2]])
    height, width = x.shape[-2:]
    square = torch.tensor([[0.0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]])
    # ours moves the edges of the image's square, theirs the centres of its outermost pixels: move ours alike
    moved = _edges(square, corners, width, height)
    perspective = Perspective(moves=[(1e3 * moved / torch.tensor([width, height])).flatten().tolist()], square="image")
    mild = kornia.geometry.transform.get_perspective_transform(square[None], (square + corners)[None])
    lines: list[tuple[str, str, Callable[[], tuple[Tensor, Tensor]]]] = [
        (
            "rotation 20°",
            "albumentations",
            lambda: (own(Rotation(angles=[20]), "20"), by_numpy(albumentations.Rotate((20, 20), **turn))),
        ),
        (
            "rotation 20°",
            "kornia",
            lambda: (own(Rotation(angles=[20]), "20"), kornia.geometry.transform.rotate(x, torch.tensor(20.0))),
        ),
        (
            "rotation 20°",
            "torchvision",
            lambda: (own(Rotation(angles=[20]), "20"), v2.rotate(x, 20, v2.InterpolationMode.BILINEAR)),
        ),
        (
            "perspective",
            "kornia",
            lambda: (
                own(perspective, "move 1"),
                kornia.geometry.transform.warp_perspective(x, mild.expand(2, -1, -1), (height, width)),
            ),
        ),
        (
            "perspective",
            "torchvision",
            lambda: (
                own(perspective, "move 1"),
                v2.perspective(x, square.tolist(), (square + corners).tolist(), v2.InterpolationMode.BILINEAR),
            ),
        ),
        (
            "translation 8 px",
            "kornia",
            lambda: (
                own(Translation(right=[8], scale_lengths=False), "8"),
                kornia.geometry.transform.translate(x, torch.tensor([[8.0, 0], [8, 0]])),
            ),
        ),
        (
            "scale by 20 %",
            "torchvision",
            lambda: (
                own(Scale(percents=[20]), "20"),
                v2.affine(x, 0, [0, 0], 1.2, [0, 0], v2.InterpolationMode.BILINEAR),
            ),
        ),
        (
            "blur σ = 2",
            "albumentations",
            lambda: (
                own(Blur(sigmas=[2], scale_lengths=False), "2"),
                by_numpy(albumentations.GaussianBlur((17, 17), (2, 2), p=1)),
            ),
        ),
        (
            "blur σ = 2",
            "kornia",
            lambda: (
                own(Blur(sigmas=[2], scale_lengths=False), "2"),
                kornia.filters.gaussian_blur2d(x, (17, 17), (2.0, 2.0)),
            ),
        ),
        (
            "blur σ = 2",
            "torchvision",
            lambda: (own(Blur(sigmas=[2], scale_lengths=False), "2"), v2.gaussian_blur(x, [17, 17], [2.0, 2.0])),
        ),
        (
            "mirror",
            "albumentations",
            lambda: (own(Mirror(), "horizontal"), by_numpy(albumentations.HorizontalFlip(p=1))),
        ),
        ("mirror", "kornia", lambda: (own(Mirror(), "horizontal"), kornia.geometry.transform.hflip(x))),
        ("mirror", "torchvision", lambda: (own(Mirror(), "horizontal"), v2.horizontal_flip(x))),
        (
            "brightness +20",
            "albumentations",
            lambda: (
                own(ColorJitter(brightness=[20]), "20"),
                by_numpy(albumentations.RandomBrightnessContrast((20 / 255, 20 / 255), (0, 0), p=1)),
            ),
        ),
        (
            "brightness +20",
            "kornia",
            lambda: (
                own(ColorJitter(brightness=[20]), "20"),
                kornia.enhance.adjust_brightness(x / 255, 20 / 255) * 255,
            ),
        ),
        (
            "crop, top left",
            "torchvision",
            lambda: (own(Crop(range=256, corners=True), "upper left", x), v2.crop(x, 0, 0, *_cut(x))),
        ),
        (
            "contrast × 1.5",
            "torchvision",
            lambda: (own(Contrast(strengths=[0.5]), "0.5"), v2.adjust_contrast(x / 255, 1.5) * 255),
        ),
        (
            "saturation × 1.5",
            "torchvision",
            lambda: (own(Saturation(strengths=[0.5]), "0.5"), v2.adjust_saturation(x / 255, 1.5) * 255),
        ),
        ("hue by 60°", "torchvision", lambda: (own(Hue(angles=[60]), "60"), v2.adjust_hue(x / 255, 1 / 6) * 255)),
    ]
    print("| g | library | largest deviation | mean |\n|---|---|---|---|")
    for name, library, both in lines:
        ours, other = both()
        far = (ours - other).abs()
        print(f"| {name} | {library} | {float(far.max()):.2g} | {float(far.mean()):.2g} |")


def _edges(square: Tensor, corners: Tensor, width: int, height: int) -> Tensor:
    """How the corners of the image's outline move where its outermost pixels' centres move so."""
    from kornia.geometry.linalg import transform_points
    from kornia.geometry.transform import get_perspective_transform

    matrix = get_perspective_transform(square[None].double(), (square + corners)[None].double())
    outline = torch.tensor(
        [[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]]
    ).double()
    moved: Tensor = (transform_points(matrix, outline[None])[0] - outline).float()
    return moved


def _cut(x: Tensor) -> tuple[int, int]:
    """Height and width of Crop's windows at range 256."""
    from invariance.transforms.crop import Crop

    family = Crop(range=256, corners=True)
    height, width = family.apply(x, family.grid()[0].params).shape[-2:]
    return height, width


if __name__ == "__main__":
    {"gather": gather, "figures": figures, "tables": tables, "theirs": theirs, "resizing": resizing}[sys.argv[1]](
        *sys.argv[2:]
    )

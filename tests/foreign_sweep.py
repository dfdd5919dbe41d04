"""Every transformation of albumentations, kornia and torchvision tried as a family: which work, which are refused.

python -m tests.foreign_sweep     prints the table of docs/transformations/libraries.md
"""

import inspect
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from invariance import UserError
from invariance.settings.libraries import _BASE
from invariance.transforms.foreign import Foreign

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations
import kornia.augmentation as kornia

LIBRARIES = {
    "albumentations": (albumentations, albumentations.BasicTransform),
    "kornia": (kornia, nn.Module),
    "torchvision": (v2, v2.Transform),
}
SIZE = {"height": 20, "width": 20}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "albumentations:CenterCrop": SIZE,
    "albumentations:RandomCrop": SIZE,
    "albumentations:CropNonEmptyMaskIfExists": SIZE,
    "albumentations:Resize": SIZE,
    "albumentations:RandomSizedBBoxSafeCrop": SIZE,
    "albumentations:RandomSizedCrop": {"min_max_height": (10, 20), "size": (20, 20)},
    "albumentations:RandomResizedCrop": {"size": (20, 20)},
    "albumentations:Pad": {"padding": 4},
    "albumentations:CropAndPad": {"px": 4},
    "kornia:RandomAffine": {"degrees": 20.0},
    "kornia:RandomRotation": {"degrees": 20.0},
    "kornia:RandomShear": {"shear": 0.2},
    "kornia:RandomCrop": {"size": (20, 20)},
    "kornia:CenterCrop": {"size": 20},
    "kornia:RandomResizedCrop": {"size": (20, 20)},
    "kornia:Resize": {"size": (20, 20)},
    "kornia:LongestMaxSize": {"max_size": 20},
    "kornia:SmallestMaxSize": {"max_size": 20},
    "kornia:PadTo": {"size": (60, 60)},
    "kornia:RandomGaussianBlur": {"kernel_size": 5, "sigma": (1.0, 2.0)},
    "kornia:RandomMotionBlur": {"kernel_size": 5, "angle": 35.0, "direction": 0.5},
    "kornia:Normalize": {"mean": 0.5, "std": 0.5},
    "kornia:Denormalize": {"mean": 0.5, "std": 0.5},
    "torchvision:CenterCrop": {"size": 20},
    "torchvision:RandomCrop": {"size": 20},
    "torchvision:FiveCrop": {"size": 20},
    "torchvision:TenCrop": {"size": 20},
    "torchvision:RandomResizedCrop": {"size": 20},
    "torchvision:RandomResize": {"min_size": 20, "max_size": 30},
    "torchvision:Resize": {"size": 20},
    "torchvision:Pad": {"padding": 4},
    "torchvision:GaussianBlur": {"kernel_size": 5},
    "torchvision:JPEG": {"quality": (5, 60)},
    "torchvision:RandomAffine": {"degrees": 20},
    "torchvision:RandomRotation": {"degrees": 20},
    "torchvision:RandomPosterize": {"bits": 2},
    "torchvision:RandomSolarize": {"threshold": 0.5},
    "torchvision:RandomAdjustSharpness": {"sharpness_factor": 3},
    "torchvision:Normalize": {"mean": [0.5], "std": [0.5]},
    "torchvision:Grayscale": {"num_output_channels": 3},
}
"""What those must be given that cannot be made without."""


@dataclass(frozen=True)
class Tried:
    """What came of one: why it was refused, in a few words, or "" where it works."""

    name: str
    refused: str


def pictures(count: int = 4, channels: int = 3, height: int = 37, width: int = 50) -> Tensor:
    """Smooth images that are no squares."""
    seeded = torch.Generator().manual_seed(1)
    rough = torch.rand(count, channels, 6, 7, generator=seeded) * 255
    return nn.functional.interpolate(rough, (height, width), mode="bilinear").round()


def sweep(library: str) -> Iterator[tuple[str, object]]:
    """Every transformation of a library, by name, or why it cannot be made, as text."""
    module, base = LIBRARIES[library]
    for name, one in sorted(vars(module).items()):
        if not (inspect.isclass(one) and issubclass(one, base)) or inspect.isabstract(one) or name.startswith("_"):
            continue
        if _BASE.search(name):
            continue
        try:
            yield name, one(**ARGUMENTS.get(f"{library}:{name}", {}))
        except Exception:  # a chain, or what reads files of the user's
            needs = [key for key, of in inspect.signature(one).parameters.items() if of.default is of.empty]
            yield name, f"needs {', '.join(needs[:3]) or 'arguments'}: not tried"


def tried(library: str) -> list[Tried]:
    """All of a library, each applied to images, in another order, and drawn as training does.

    Raises:
        AssertionError: if one that is taken is not the same g for every image, or not fixed by a seed.
    """
    x, found = pictures(3), []
    for name, own in sweep(library):
        if isinstance(own, str):
            found.append(Tried(name, own))
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                family = Foreign(own)
                point = family.grid()[1].params
                drawn = family.sample(3, torch.Generator().manual_seed(3))
                changed, flipped = family.apply(x, point), family.apply(x.flip(0), point)
                trained = family.apply(x, drawn)
            except (UserError, NotImplementedError) as error:
                found.append(Tried(name, "takes squares alone" if _on_squares(own) else _why(str(error))))
                continue
            assert torch.equal(flipped.flip(0), changed), name
            last = family.apply(x[2:], {key: values[2:] for key, values in drawn.items()})
            assert torch.equal(trained[2:], last), name
        found.append(Tried(name, ""))
    return found


def _on_squares(own: object) -> bool:
    """Whether one that was refused takes images that are squares."""
    try:
        family = Foreign(own)
        family.apply(pictures(2, height=44, width=44), family.sample(2, torch.Generator().manual_seed(3)))
    except (UserError, NotImplementedError):
        return False
    return True


def _why(said: str) -> str:
    """The reason of a refusal, without the words that all have."""
    if "changes the size" in said:
        return "changes the size"
    for words in (
        "other numbers under the same seed",
        "mixes images",
        "is of none of",
        "not finite",
        "leave a normalisation out",
    ):
        if words in said:
            return {
                "is of none of": "is no transformation of one image",
                "not finite": "gives numbers that are not finite",
            }.get(words, words.replace("leave a normalisation out", "normalises"))
    if "and not uint8" in said:
        return "gives floats"
    return re.sub(r".* with (\w+) \((.*)\)$", r"fails: \2", said)[:110].replace("|", "/")


def versions() -> str:
    """Which libraries were tried."""
    return ", ".join(f"{name} {version(name)}" for name in LIBRARIES)


def table() -> str:
    """The table in Markdown."""
    lines = [f"Tried: {versions()}.", "", "| library | works | refused |", "|---|---|---|"]
    for library in LIBRARIES:
        found = tried(library)
        works = ", ".join(f"`{one.name}`" for one in found if not one.refused)
        reasons: dict[str, list[str]] = {}
        for one in found:
            if one.refused:
                reasons.setdefault(one.refused, []).append(f"`{one.name}`")
        refused = "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())
        count = sum(not one.refused for one in found)
        lines.append(f"| {library} | {count} of {len(found)}: {works} | {refused} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())

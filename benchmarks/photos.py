"""Photographs for the benchmarks: JPEG files of ILSVRC's typical form, and data prepared from them."""

import json
import shutil
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from PIL import Image
from sklearn.datasets import load_sample_images

from invariance.data.decode import SUFFIXES
from invariance.data.prepared import Prepared, prepare
from invariance.settings.files import conf_dir, family_config, family_sweep

CLASSES = 4
WIDTH, HEIGHT, QUALITY = 500, 375, 90


def folder_of(root: Path | None, images: int, where: Path) -> Path:
    """A folder `where`/train/<class>/* with so many images: of the folder `root`, or made from two photographs.

    The first of each class stands in for a validation split.
    """
    if root is None:
        _made(images, where)
    else:
        _copied(root, images, where)
    for path in sorted((where / "train").iterdir()):
        (where / "val" / path.name).mkdir(parents=True)
        first = min(path.iterdir())
        shutil.copyfile(first, where / "val" / path.name / first.name)
    return where


def _copied(root: Path, images: int, where: Path) -> None:
    """Images spread evenly over those of `root`/train/<class>/* or `root`/<class>/*."""
    top = root / "train" if (root / "train").is_dir() else root
    files = sorted(path for path in top.glob("*/*") if path.suffix.lower() in SUFFIXES)
    for path in (files[i] for i in np.linspace(0, len(files) - 1, min(images, len(files))).astype(int)):
        target = where / "train" / path.relative_to(top)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _made(images: int, where: Path) -> None:
    """Random parts of scikit-learn's two sample photographs, some of them mirrored."""
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    for number in range(images):
        photo = photos[number % len(photos)]
        width = rng.integers(photo.height * 2 // 3, photo.height * WIDTH // HEIGHT)
        height = width * HEIGHT // WIDTH
        left, top = rng.integers(0, photo.width - width + 1), rng.integers(0, photo.height - height + 1)
        part = photo.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        target = where / "train" / f"class{number % CLASSES}" / f"{number:05}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part).save(target, quality=QUALITY)


def prepared_at(size: int, folder: Path, where: Path) -> Prepared:
    """The folder's images prepared at one size, as the command does it."""
    config = OmegaConf.load(conf_dir() / "data" / "folder.yaml")
    plain = OmegaConf.to_container(OmegaConf.merge(config, {"root": str(folder)}))
    assert isinstance(plain, dict)
    return prepare({str(key): value for key, value in plain.items()}, size, where, progress=False)


def family_at_its_largest(family: str) -> dict[str, object]:
    """A family's configuration at the last of its own ranges (the largest; mirror: both)."""
    last = {key: json_or_text(values[-1]) for key, values in family_sweep(family).items()}
    config = OmegaConf.create({"range": last.get("range"), "transform": family_config(family)})
    for key, value in last.items():
        OmegaConf.update(config, key, value)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain["transform"].items()}


def json_or_text(text: str) -> object:
    """The number that a text is, or the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text

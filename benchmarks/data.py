"""The input side of training against the usual one: torchvision's ImageFolder, PIL transforms and worker processes.

    python benchmarks/data.py [--root FOLDER] [--images 512] [--workers 2] [--device cpu] [--json PATH]
    python benchmarks/data.py --images 64 --families rotation --batch 16
    python benchmarks/data.py --images 64 --families          reading alone

The files are the images of `--root` (<class>/* or train/<class>/*), else JPEGs of 500 × 375 pixels made from two
photographs. Ours: a pass over the prepared images in random order, as training does it (read, to the device, transform
each image, normalise). Theirs: a pass over the files with torchvision's own transforms, the family drawn for each image
from the same distribution, in `--workers` processes. Passes take turns and the ratio is the median over rounds of the
ratio within a round. Ours runs on as many threads as theirs has processes; on a GPU ours transforms there, and theirs
moves its finished batches there.

Reading by itself is of a file of `--cold-images` random images in the temporary folder (TMPDIR), batches of 256, by the
`workers` of conf/trainer/auto.yaml. Cold: the system is told to drop the file before each pass (POSIX_FADV_DONTNEED; a
virtual machine's host may still have it), checksums are compared, and the bytes are those that the disk read for this
process. Hot: the images are in memory and were verified once.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from disk import Pictures, cold, hot
from omegaconf import OmegaConf
from photos import family_at_its_largest, folder_of, prepared_at
from PIL import Image, ImageFilter
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from torchvision import transforms as tv
from torchvision.datasets import ImageFolder

from invariance.data.batches import PreparedData, StepSampler
from invariance.data.decode import decode
from invariance.data.prepared import Prepared
from invariance.device import keep_freed
from invariance.runs.outputs import output_file
from invariance.seeds import generator
from invariance.settings.files import conf_dir, families
from invariance.training.classifier import Classifier
from invariance.transforms import build

RECIPE = {"rate": 0.01, "momentum": 0.9, "weight_decay": 0.0, "step": 1}
MODEL = {"_target_": "invariance.models.caffenet.CaffeNet", "width": 0.02, "features": 4}


def blurred(image: Image.Image, most: float) -> Image.Image:
    """Pillow's blur (three box filters), σ ~ U(0, most)."""
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0, most)))


def deformed(image: Image.Image, most: float, sigma: float) -> Image.Image:
    """Torchvision's elastic deformation, α ~ U(0, most)."""
    return tv.ElasticTransform(random.uniform(0, most), float(sigma))(image)


def noisy(x: torch.Tensor, most: float) -> torch.Tensor:
    """Noise of σ ~ U(0, most) on a tensor in [0, 1]."""
    return (x + torch.randn_like(x) * (random.uniform(0, most) / 255)).clamp(0, 1)


def jittered(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Each channel brighter or darker by N(0, σ²), on a tensor in [0, 1]."""
    return (x + torch.randn(3, 1, 1) * (sigma / 255)).clamp(0, 1)


def usual(family: str, settings: dict[str, object], size: int, mean: list[float]) -> tv.Compose:
    """The family with torchvision and Pillow: resize, transform, to a tensor, normalise."""
    r, bilinear = settings["range"], tv.InterpolationMode.BILINEAR
    on_pil = {
        "rotation": lambda: [tv.RandomRotation(r, bilinear)],
        "shear": lambda: [
            tv.RandomChoice([tv.RandomAffine(0, shear=s, interpolation=bilinear) for s in ([-r, r], [0, 0, -r, r])])
        ],
        # corners of the image move about as far as range=4 moves them
        "perspective": lambda: [tv.RandomPerspective(0.06 * r, p=1, interpolation=bilinear)],
        "mirror": lambda: [tv.RandomHorizontalFlip(), tv.RandomVerticalFlip()],
        "crop": lambda: [tv.RandomCrop(size)],
        "blur": lambda: [partial(blurred, most=r)],
        "elastic": lambda: [partial(deformed, most=r, sigma=settings["sigma"])],
    }.get(family, list)()
    on_tensor = {"noise": lambda: [partial(noisy, most=r)], "color_jitter": lambda: [partial(jittered, sigma=r)]}.get(
        family, list
    )()
    side = build(settings).source_size(size)
    normalise = tv.Normalize([value / 255 for value in mean], [1.0] * len(mean))
    return tv.Compose([tv.Resize((side, side)), *on_pil, tv.ToTensor(), *on_tensor, normalise])


class Ours:
    """A pass over prepared data as training sees them."""

    def __init__(self, settings: dict[str, object], prepared: Prepared, given: argparse.Namespace) -> None:
        self.device, self.steps = torch.device(given.device), len(prepared.split("train")) // given.batch
        self.images = self.steps * given.batch
        self.data = PreparedData(prepared, given.batch, self.steps, self.steps, seed=0)
        self.classifier = Classifier(
            {**MODEL, "input_size": given.size}, settings, RECIPE, prepared.classes, prepared.channels, prepared.mean, 0
        ).to(self.device)

    def run(self) -> None:
        """The pass."""
        for step, (x, y) in enumerate(self.data.steps(0, self.steps)):
            x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
            params = self.classifier.transform.sample(len(x), generator(0, "transform", step))
            self.classifier.normalise(self.classifier.transform.apply(x.float(), params))


class Theirs:
    """A pass over the files as it is usually done."""

    def __init__(
        self, family: str, settings: dict[str, object], folder: Path, mean: list[float], given: argparse.Namespace
    ) -> None:
        self.device = torch.device(given.device)
        data = ImageFolder(folder / "train", usual(family, settings, given.size, mean))
        self.loader = DataLoader(
            data,
            given.batch,
            shuffle=True,
            drop_last=True,
            num_workers=given.workers,
            persistent_workers=given.workers > 0,
            pin_memory=self.device.type == "cuda",
        )
        self.images = len(self.loader) * given.batch

    def run(self) -> None:
        """The pass; its workers have nothing to do before and after it."""
        for x, y in self.loader:
            x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> list[tuple[float, float]]:
    """Seconds of both in every round, after two rounds of warming up."""
    # memory that starting the workers shared with them is copied when ours first writes to it again
    return [(seconds(ours), seconds(theirs)) for _ in range(rounds + 2)][2:]


def decoding(folder: Path, size: int) -> float:
    """Images a second of decoding and resizing the files on one core."""
    files = [path.read_bytes() for path in sorted(folder.glob("train/*/*"))[:128]]
    return len(files) / seconds(lambda: [decode(data, size, "rgb") for data in files])


def reading(prepared: Prepared, given: argparse.Namespace) -> tuple[float, float]:
    """Images a second of the loader in random order, and the median share of a bare gather from the memory map."""
    split, steps = prepared.split("train"), 64
    data = PreparedData(prepared, given.batch, steps, steps, seed=0)
    images = np.load(split.directory / "train.images.npy", mmap_mode="r")
    spans = [data.sampler.indices(step) for step in range(steps)]

    def loaded() -> None:
        for _ in data.steps(0, steps):
            pass

    def bare() -> None:
        for span in spans:
            held = images[span]  # until the next one is there, as a batch that is used
        del held

    pairs = in_turn(loaded, bare, 4 * given.rounds)
    rate = steps * given.batch / statistics.median(ours for ours, _ in pairs)
    return rate, statistics.median(bare / ours for ours, bare in pairs)


def verifying(prepared: Prepared, given: argparse.Namespace) -> float:
    """Median share of the time of reading in random order that comparing checksums takes, as measuring does it."""
    split, steps = prepared.split("train"), 64
    sampler = StepSampler(len(split), given.batch, seed=0)
    spans = [sampler.indices(step) for step in range(steps)]
    out = np.empty((given.batch, *split.images.shape[1:]), np.uint8)
    split.images[:]  # so that `once` has nothing left to compare
    pairs = in_turn(
        lambda: [split.images.read(span, out) for span in spans],
        lambda: [split.images.read(span, out, once=True) for span in spans],
        4 * given.rounds,
    )
    return statistics.median(1 - bare / verified for verified, bare in pairs)


def disk(where: Path, given: argparse.Namespace) -> dict[str, float]:
    """Reading of a large file of random images, cold and hot."""
    pictures = Pictures(where, given.cold_images, given.size)
    threads = int(OmegaConf.load(conf_dir() / "trainer" / "auto.yaml").workers)
    figures = cold(pictures, threads, given.rounds) | hot(pictures, threads, 2 * given.rounds)
    pictures.path.unlink()
    return figures


def compare(family: str, folder: Path, where: Path, given: argparse.Namespace) -> tuple[float, float, float]:
    """Images a second of ours and of theirs, and how many times as fast ours is."""
    settings = family_at_its_largest(family)
    prepared = prepared_at(build(settings).source_size(given.size), folder, where)
    ours, theirs = Ours(settings, prepared, given), Theirs(family, settings, folder, prepared.mean, given)
    pairs = in_turn(ours.run, theirs.run, given.rounds)
    a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
    scale = ours.images / theirs.images
    return ours.images / a, theirs.images / b, statistics.median(b / a for a, b in pairs) * scale


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--size", type=int, default=227)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cold-images", type=int, default=12000)
    parser.add_argument("--families", nargs="*", default=families(), choices=families())
    parser.add_argument("--json", type=output_file)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(folder_of(given.root, given.images, Path(temporary) / "photos"), Path(temporary), given)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(folder: Path, where: Path, given: argparse.Namespace) -> dict[str, float]:
    """Everything, printed as it comes; the figures."""
    cores = max(1, given.workers)
    keep_freed()
    torch.set_num_threads(1)
    decoded = decoding(folder, given.size)
    prepared = prepared_at(given.size, folder, where)
    (read, share), checks = reading(prepared, given), verifying(prepared, given)
    from_disk = disk(where, given)
    torch.set_num_threads(cores)
    figures = {"decoded_per_core": decoded, "read_per_core": read, "share_of_memmap": share, "checksums_share": checks}
    figures |= from_disk
    table = Table("family", "ours", "ImageFolder", "times", title=f"images/s a core at {given.size}, {given.device}")
    for family in given.families:
        ours, theirs, ratio = compare(family, folder, where, given)
        table.add_row(family, f"{ours / cores:,.0f}", f"{theirs / cores:,.0f}", f"{ratio:.2f}")
        figures[f"speedup_over_imagefolder_{family}"] = ratio
    if given.families:
        Console().print(table)
    print(f"decode and resize: {decoded:,.0f} images/s a core")
    print(f"prepared, random order: {read:,.0f} images/s a core, {share:.1%} of a bare gather from the memory map")
    print(f"verifying checksums takes {checks:.1%} of reading")
    ratio, size = from_disk["cold_images_per_s_over_memmap"], from_disk["bytes_per_image_over_record"]
    theirs = from_disk["memmap_bytes_per_image_over_record"]
    print(f"cold: {from_disk['cold_images_per_s']:,.0f} images/s with checksums, {ratio:.1f} times a memory map's")
    print(f"cold: the disk read {size:.2f} times the images' bytes, for the memory map {theirs:.1f} times")
    alone = from_disk["hot_share_of_take_without_threads"]
    print(f"hot: {from_disk['hot_images_per_s']:,.0f} images/s, {from_disk['hot_share_of_take']:.1%} of np.take's")
    print(f"hot: without threads {alone:.1%} of np.take's, which has one")
    print(f"batch {given.batch}, {cores} cores each, torch {torch.__version__}")
    return {name: round(value, 4) for name, value in figures.items()}


if __name__ == "__main__":
    main()

"""Preparing many small images from an archive of archives, killed halfway and started again.

    python benchmarks/prepare.py [--images 200000] [--classes 1000] [--size 32] [--json PATH]

Images are made in ILSVRC's official form: a training tar of a tar for each class, a validation tar in wnid folders.
One run is undisturbed; another one gets SIGKILL when half of the images are done and is started again. Printed are the
times of listing and preparing, the rate, and how many images were left to decode after the kill.
"""

import argparse
import io
import json
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from invariance.data.prepared import prepare
from invariance.data.sources.ilsvrc import ILSVRC
from invariance.runs.outputs import output_file

_VARIANTS = 500
_PREPARE = """
import sys
from pathlib import Path
from invariance.data.prepared import prepare
config = {"_target_": "invariance.data.sources.ilsvrc.ILSVRC", "root": sys.argv[1], "verify": False, "colour": "rgb"}
prepare(config, int(sys.argv[2]), Path(sys.argv[3]), progress=False)
"""


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """One member."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def make(root: Path, images: int, classes: int) -> None:
    """The archives: small JPEGs of a few hundred different contents."""
    rng = np.random.default_rng(0)
    variants = []
    for _ in range(_VARIANTS):
        buffer = io.BytesIO()
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        small.resize((40, 30)).save(buffer, "jpeg")
        variants.append(buffer.getvalue())
    wnids = [f"n{number:08d}" for number in range(classes)]
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid in wnids:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for i in range(images // classes):
                    add(archive, f"{wnid}_{i}.JPEG", variants[int(rng.integers(_VARIANTS))])
            add(outer, f"{wnid}.tar", inner.getvalue())
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as archive:
        for wnid in wnids:
            add(archive, f"{wnid}/ILSVRC2012_val_1.JPEG", variants[0])


def killed_at_half(root: Path, size: int, store: Path, total: int) -> int:
    """Prepare in a process that is killed halfway; how many images its journal names."""
    process = subprocess.Popen([sys.executable, "-c", _PREPARE, str(root), str(size), str(store)])
    while process.poll() is None:
        journals = list(store.glob("ilsvrc/.*.tmp/journal"))
        if journals and _lines(journals[0]) - 1 > total // 2:
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    journals = list(store.glob("ilsvrc/.*.tmp/journal"))
    if not journals:
        raise SystemExit("error: preparing ended before it could be killed; give more --images")
    return _lines(journals[0]) - 1


def _lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(1 for _ in file)


def main() -> None:
    """Make the archives, prepare them twice and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--json", type=output_file)
    arguments = parser.parse_args()
    table, figures = Table("", "seconds", "images a second"), {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "archives"
        root.mkdir()
        make(root, arguments.images, arguments.classes)
        total = arguments.images // arguments.classes * arguments.classes + arguments.classes
        settings = {
            "_target_": "invariance.data.sources.ilsvrc.ILSVRC",
            "root": str(root),
            "verify": False,
            "colour": "rgb",
        }

        start = time.perf_counter()
        ILSVRC(str(root), verify=False).splits()
        figures["list_seconds"] = time.perf_counter() - start
        start = time.perf_counter()
        whole = prepare(settings, arguments.size, Path(folder) / "a", progress=False)
        figures["prepare_seconds"] = time.perf_counter() - start
        start = time.perf_counter()
        prepare(settings, arguments.size, Path(folder) / "a", progress=False)
        figures["open_seconds"] = time.perf_counter() - start
        done = killed_at_half(root, arguments.size, Path(folder) / "b", total)
        start = time.perf_counter()
        again = prepare(settings, arguments.size, Path(folder) / "b", progress=False)
        figures["resume_seconds"] = time.perf_counter() - start
        if again.sha256 != whole.sha256:
            raise SystemExit("error: the resumed preparation differs from the undisturbed one")
        for key in ("list_seconds", "prepare_seconds", "open_seconds"):
            table.add_row(key.split("_")[0], f"{figures[key]:.2f}", f"{total / figures[key]:,.0f}")
        left = total - done
        table.add_row(
            f"resume, {left:,} left", f"{figures['resume_seconds']:.2f}", f"{left / figures['resume_seconds']:,.0f}"
        )
        figures |= {"images": total, "done_before_kill": done}
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

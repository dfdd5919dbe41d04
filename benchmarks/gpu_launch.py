"""Whether the local launcher puts as many jobs as wanted on each GPU, at once."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from gpu_rows import Check, Row, Scale

from invariance.runs.run import read_provenance
from invariance.runs.sweep import ATTEMPTS, SWEEPS

PER_GPU = 2


def launching(check: Check, at: Scale) -> Iterator[Row]:
    """Trainings by hydra/launcher=local, two at once on each of the first two GPUs, or on the only one."""
    gpus = min(2, torch.cuda.device_count())
    seeds = range(gpus * PER_GPU)
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "invariance.train", "-m", f"seed={','.join(map(str, seeds))}"]
        command += ["hydra/launcher=local", f"hydra.launcher.gpus={gpus}", f"hydra.launcher.per_gpu={PER_GPU}"]
        command += ["data=digits", "model=tiny", "recipe=smoke", "logger=csv", "progress=false"]
        command += ["trainer=gpu", "trainer.compile=false"]
        command += [f"runs={temporary}/runs", f"prepared={temporary}/prepared"]
        start = time.perf_counter()
        ended = subprocess.run(command, capture_output=True, text=True)
        taken = time.perf_counter() - start
        yield check.holds("status", ended.returncode == 0, " ".join(ended.stderr.split())[-300:])
        runs = [Path(temporary, "runs/train/digits/baseline", f"seed{seed}") for seed in seeds]
        on = [read_provenance(run)["device"] for run in runs]
        yield check.holds("devices", on == [torch.cuda.get_device_name()] * len(on), f"trained on {', '.join(on)}")
        most = at_once(Path(temporary, "runs"))
        yield check.holds("at_once", most == len(seeds), f"{most} of {len(seeds)} jobs ran at once")
        yield check.told("seconds", taken, f"s for {len(seeds)}")


def at_once(runs: Path) -> int:
    """The most jobs of the sweeps of a runs folder that ran at the same time, as their attempts tell."""
    changes = []
    for path in runs.glob(f"{SWEEPS}/*/*/{ATTEMPTS}/*.json"):
        begun = int(path.stem.rpartition(".")[2]) / 1e9  # on the clock of the machine
        changes += [(begun, 1), (begun + json.loads(path.read_text())["seconds"], -1)]
    most = running = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


LAUNCHER = (Check("launcher", "two jobs at once on each GPU by the local launcher", "= 1", launching, gpu=True),)

"""How long a training waits for its checkpoints: written at once, and written beside it.

    python benchmarks/saving.py [--classes 16] [--rounds 3] [--json PATH]

Of the full CaffeNet after one update: its best network, and its last state with the momentum. Both ways take turns,
into new folders of the current one. `waited` is until training may go on, `written` until both files are on the disk.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from invariance.models.caffenet import CaffeNet
from invariance.runs.outputs import output_file
from invariance.training.beside import BesideCheckpointIO
from invariance.training.module import sgd
from invariance.training.saving import AtomicCheckpointIO

RECIPE = {"rate": 1e-4, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}


def trained(classes: int) -> dict[str, dict[str, Any]]:
    """What is saved of a network after one update, by the file's name."""
    network = CaffeNet(classes, 1)
    optimizer = sgd(list(network.named_parameters()), RECIPE)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    best = {"state_dict": network.state_dict()}
    return {"best.ckpt": best, "last.ckpt": {**best, "optimizer_states": [optimizer.state_dict()]}}


def timed(io: AtomicCheckpointIO, states: dict[str, dict[str, Any]]) -> tuple[float, float, int]:
    """Seconds until training may go on, seconds until the files are there, and their bytes."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        start = time.perf_counter()
        for name, state in states.items():
            io.save_checkpoint(state, Path(folder, name))
        waited = time.perf_counter() - start
        if isinstance(io, BesideCheckpointIO):
            io.finish()
        written = time.perf_counter() - start
        return waited, written, sum(Path(folder, name).stat().st_size for name in states)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=output_file)
    given = parser.parse_args()
    states = trained(given.classes)
    ways = {"at_once": AtomicCheckpointIO, "beside": BesideCheckpointIO}
    taken: dict[str, list[tuple[float, float, int]]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, way in ways.items():
            taken[name].append(timed(way(), states))
    table = Table("", "waited, s", "written, s", title="medians")
    figures: dict[str, float] = {"bytes": taken["beside"][0][2]}
    for name, rounds in taken.items():
        waited, written = (statistics.median(one[k] for one in rounds) for k in (0, 1))
        table.add_row(name, f"{waited:.2f}", f"{written:.2f}")
        figures |= {f"seconds_waited_{name}": round(waited, 3), f"seconds_written_{name}": round(written, 3)}
    Console().print(table)
    print(f"{figures['bytes'] / 1e9:.2f} GB, {given.rounds} rounds, torch {torch.__version__}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

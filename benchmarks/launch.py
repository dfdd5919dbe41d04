"""What the jobs of a sweep cost to start: forked by hydra/launcher=local, beside the same commands started whole.

    python benchmarks/launch.py [--jobs 12] [--updates 20] [--json PATH]

Every job trains a tiny network on digits for a few updates. First each is a command of its own, one after another; then
all are one sweep, whose launcher and imports count as well. Printed are seconds of CPU, of all processes, and on
the clock; the figures of one run stand beside each other on any machine. Both leave the same rows, or it is an error.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from invariance.runs.outputs import output_file

_TRAIN = ["model=tiny", "recipe=smoke", "logger=csv", "trainer=cpu", "progress=false"]


def spent(commands: list[list[str]]) -> tuple[float, float]:
    """Run commands one after another.

    Returns:
        Seconds of CPU that they and all that they started took, and seconds on the clock.
    """
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ended - begun


def rows_of(runs: Path) -> dict[str, bytes]:
    """The rows of every run in a folder."""
    return {path.relative_to(runs).as_posix(): path.read_bytes() for path in sorted(runs.rglob("rows.csv"))}


def main() -> None:
    """Run the jobs in both ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--json", type=output_file)
    arguments = parser.parse_args()
    updates = [f"recipe.updates={arguments.updates}", f"recipe.val_every={arguments.updates}"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train = [*_TRAIN, *updates, f"recipe.step={arguments.updates}", f"prepared={folder / 'prepared'}"]
        python = [sys.executable, "-m"]
        subprocess.run(
            [*python, "invariance.prepare", f"prepared={folder / 'prepared'}", "size=32", "progress=false"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seeds = [str(seed) for seed in range(arguments.jobs)]
        whole_cpu, whole = spent(
            [[*python, "invariance.train", *train, f"runs={folder / 'whole'}", f"seed={seed}"] for seed in seeds]
        )
        sweep = [f"runs={folder / 'forked'}", f"seed={','.join(seeds)}"]
        local = ["hydra/launcher=local", "hydra.launcher.gpus=[]"]
        forked_cpu, forked = spent([[*python, "invariance.train", "-m", *train, *sweep, *local]])
        if rows_of(folder / "whole") != rows_of(folder / "forked"):
            raise SystemExit("error: jobs that were forked left other rows than commands that were started whole")
    figures = {
        "jobs": arguments.jobs,
        "fresh_cpu_seconds": whole_cpu,
        "forked_cpu_seconds": forked_cpu,
        "fresh_seconds": whole,
        "forked_seconds": forked,
        "cpu_over_fresh_starts": forked_cpu / whole_cpu,
    }
    table = Table(f"{arguments.jobs} jobs of {arguments.updates} updates", "CPU seconds", "a job", "seconds")
    for name, cpu, seconds in (("started whole", whole_cpu, whole), ("forked", forked_cpu, forked)):
        table.add_row(name, f"{cpu:.1f}", f"{cpu / arguments.jobs:.2f}", f"{seconds:.1f}")
    Console().print(table)
    print(f"CPU of forked jobs over that of whole starts: {forked_cpu / whole_cpu:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

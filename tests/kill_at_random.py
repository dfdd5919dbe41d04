"""Kill the small reproduction at random, again and again, and compare its rows with those of an undisturbed one.

    python tests/kill_at_random.py --kills 20 --undisturbed smoke --killed smoke_killed

runs `make smoke SMOKE=smoke_killed` and, after random times, kills one of: a job or the process that jobs are forked
from, a launcher, or everything at once as a power cut would. What was killed is started again by the same command.
After so many kills it is left to end, and then its report must hold the same rows as that of the undisturbed run, byte
for byte; where that is absent, it is made first. Killed itself, it goes on with what is there when it is repeated.
Needs Linux (/proc). Not a test of the suite: it takes as long as the reproduction twice and more.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def descendants(ancestor: int) -> dict[int, str]:
    """Process id → command line of everything below a process."""
    parents, commands = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            commands[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (OSError, ValueError):  # it ended meanwhile
            continue
    below, grown = {ancestor}, True
    while grown:
        new = {pid for pid, parent in parents.items() if parent in below} - below
        below, grown = below | new, bool(new)
    return {pid: commands[pid] for pid in below - {ancestor}}


def victims(top: int, rng: random.Random) -> tuple[str, list[int]]:
    """What to kill, and its processes."""
    found = descendants(top)
    jobs = [pid for pid, command in found.items() if " -m invariance." in command]
    launchers = [pid for pid, command in found.items() if "/invariance-" in command and not command.startswith("sh ")]
    kind = rng.choice(["job", "launcher", "everything"])
    if kind == "job" and jobs:
        return kind, [rng.choice(jobs)]
    if kind == "launcher" and launchers:
        return kind, launchers
    return "everything", [top, *found]


def kill_on_the_way(command: list[str], kills: int, seconds: float, rng: random.Random) -> None:
    """Run a command to its end through so many kills."""
    made, process, left_alone = 0, None, False
    while True:
        if process is None:
            left_alone = made >= kills
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            status = process.wait(rng.uniform(1, 2 * seconds) if made < kills else None)
        except subprocess.TimeoutExpired:
            kind, pids = victims(process.pid, rng)
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                    made += 1 if pid == pids[-1] else 0
                except ProcessLookupError:
                    continue
            print(f"kill {made}: {kind}", flush=True)
            if kind == "everything":
                process.wait()
                process = None
            continue
        process = None
        if status == 0 and made >= kills:
            return
        if left_alone:
            sys.exit(f"it ended with status {status} though nothing was killed")
        if status == 0:
            sys.exit(f"it ended well after {made} kills, before there were {kills}; give less --seconds")


def main() -> None:
    """Make both, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0, help="between two kills, on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--undisturbed", type=Path, default=Path("smoke"))
    parser.add_argument("--killed", type=Path, default=Path("smoke_killed"))
    parser.add_argument("make", nargs="*", help="more arguments of make")
    given = parser.parse_args()
    rows = [place / "report" / "rows.csv" for place in (given.undisturbed, given.killed)]
    if not (ROOT / rows[0]).exists():
        begun = time.monotonic()
        subprocess.run(["make", "smoke", f"SMOKE={given.undisturbed}", *given.make], cwd=ROOT, check=True)
        print(f"undisturbed: {time.monotonic() - begun:.0f} s", flush=True)
    begun = time.monotonic()
    command = ["make", "smoke", f"SMOKE={given.killed}", *given.make]
    kill_on_the_way(command, given.kills, given.seconds, random.Random(given.seed))
    print(f"killed: {time.monotonic() - begun:.0f} s", flush=True)
    there, here = ((ROOT / path).read_bytes() for path in rows)
    if there != here:
        ours, theirs = (set(text.splitlines()) for text in (here, there))
        example = next(iter(ours ^ theirs), b"their order alone").decode(errors="replace")
        sys.exit(f"{len(ours - theirs)} rows are other than undisturbed, {len(theirs - ours)} lack; one: {example}")
    print(f"the same {len(there.splitlines()) - 1} rows, byte for byte")


if __name__ == "__main__":
    main()

"""Finding run directories: those that are finished, by path or pattern."""

import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from invariance.errors import UserError, nearest
from invariance.runs.files import DONE
from invariance.runs.run import CONFIG
from invariance.runs.sweep import SWEEPS

_WANDB = ("run-", "offline-run-")


def all_runs(root: Path) -> list[Path]:
    """Every run directory below `root`, finished or not, sorted; what vanishes or cannot be looked into is left out.

    Runs lie below runs, as a finetuned network's measurements below it.
    """
    found = []
    for folder, folders, files in os.walk(root):
        if CONFIG in files:
            found.append(Path(folder))
        wandb = os.path.basename(folder) == "wandb"  # whose own folders hold configurations that are no run's
        folders[:] = [name for name in folders if name != SWEEPS and not (wandb and name.startswith(_WANDB))]
    return sorted(found)


def find_runs(root: Path, patterns: str | Sequence[str]) -> list[Path]:
    """The finished runs below `root` that a pattern names.

    A pattern is a path below `root`, a beginning or a part of one ("digits", "rotation_20", "digits/baseline/seed0"),
    or any of these with * and ?; or the path of a run directory itself.

    Raises:
        UserError: if a pattern names no run, or none that is finished.
    """
    runs = {path.relative_to(root).as_posix(): path for path in all_runs(root)}
    chosen: dict[str, Path] = {}
    for pattern in [patterns] if isinstance(patterns, str) else [str(pattern) for pattern in patterns]:
        text = pattern.rstrip("/")
        direct = Path(text)
        if (direct / CONFIG).is_file() and direct.resolve().is_relative_to(root.resolve()):
            text = direct.resolve().relative_to(root.resolve()).as_posix()
        forms = (text, f"{text}/*", f"*/{text}", f"*/{text}/*")
        named = {name: path for name, path in runs.items() if any(fnmatchcase(name, form) for form in forms)}
        if not named:
            parts = sorted({part for name in runs for part in name.split("/")})
            there = f"there are: {', '.join(runs)}" if runs else "there is none at all; run invariance-train first"
            raise UserError(f"no run below {root} is named {pattern!r}{nearest(text, parts)} ({there[:300]})")
        finished = {name: path for name, path in named.items() if (path / DONE).exists()}
        if not finished:
            raise UserError(f"{', '.join(named)} below {root} is not finished; repeat its command to finish it")
        for name in sorted(set(named) - set(finished)):
            print(f"left out, not finished: {root / name}", file=sys.stderr)
        chosen.update(finished)
    return [chosen[name] for name in sorted(chosen)]

"""What made a run: the commit, versions, the machine, the command, and what decides the last digits of a sum."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from invariance.runs.surroundings import rounding
from invariance.version import __version__

_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "kornia", "numpy")
_PATIENCE = 30.0  # seconds for git, on a file system that may be slow


@cache
def made_by() -> dict[str, Any]:
    """What does not change while a command runs; asking git takes longer than writing a small run.

    `commit` and `dirty` are None where git cannot tell: no checkout, no git, one of another user.
    """
    commit, dirty = checkout_here()
    torch = sys.modules.get("torch")
    return {
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "versions": {"invariance": __version__, **{name: version(name) for name in _PACKAGES}},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads() if torch is not None else None,
        "environment": rounding(),
        "command": _printable(" ".join(Path(part).name if i == 0 else part for i, part in enumerate(sys.argv))),
    }


@cache
def checkout_here() -> tuple[str | None, bool | None]:
    """What `checkout` says of this project's own when it is first asked."""
    return checkout(Path(__file__).parents[2])


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Versions of packages by their names, as a network's libraries; a module that was never installed has none.

    Args:
        packages: names that are imported, which timm, transformers and torchvision are installed by, too.
    """
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def checkout(root: Path) -> tuple[str | None, bool | None]:
    """The commit of a checkout, and whether files differ from it; None each where git cannot tell.

    Args:
        root: its folder.
    """
    if not (root / ".git").exists():
        return None, None
    commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    return (commit, bool(changes)) if commit and changes is not None else (commit or None, None)


def _git(root: Path, *arguments: str) -> str | None:
    """What git says of a checkout; None if it cannot be asked, or refuses."""
    # GIT_DIR and its like, as a hook sets them, name another checkout
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        asked = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=own,
            timeout=_PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.decode(errors="replace").strip() if asked.returncode == 0 else None


def _printable(text: str) -> str:
    """A text whose bytes that are no UTF-8 are written as escapes."""
    return text.encode(errors="backslashreplace").decode()

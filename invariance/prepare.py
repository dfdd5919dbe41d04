"""Decode a data set once (Sec. 5.5): `python -m invariance.prepare data=digits`."""

from pathlib import Path
from typing import Any

from invariance.cli import command, folder
from invariance.errors import UserError


def prepare_data(config: dict[str, Any]) -> None:
    """Prepare one data set at one size and say what came of it.

    Args:
        config: the configuration of `conf/prepare.yaml`, plain and resolved.

    Raises:
        UserError: for anything the user can mend.
    """
    from invariance.data.names import shown
    from invariance.data.prepared import prepare

    size = config["size"]
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 4096:
        raise UserError(f"size={size!r}: give a whole number of pixels from 1 to 4096")
    for key in ("renew", "plan", "verify"):
        if not isinstance(config[key], bool):
            raise UserError(f"{key}={config[key]!r}: give true or false")
    root = folder(config["prepared"], "prepared")
    if config["plan"]:
        print_plan(config, size, root)
        return
    prepared = prepare(
        config["data"], size, root, progress=config["progress"], renew=config["renew"], verify=config["verify"]
    )
    counts = ", ".join(f"{name} {len(prepared.split(name).labels):,}" for name in prepared.splits)
    print(f"{prepared.name}: {counts} images of {size}×{size}, {len(prepared.classes)} classes: {prepared.directory}")
    for remark in prepared.remarks:
        print(f"note: {remark}")
    for skipped in prepared.skipped:
        print(f"skipped {shown(skipped)}")
    for line in prepared.left_out:
        print(f"left out: {line}")


def print_plan(config: dict[str, Any], size: int, root: Path) -> None:
    """Say what preparing would take, and prepare nothing.

    Raises:
        UserError: if the disk has too little room.
    """
    from invariance.data.planning import plan

    made = plan(config["data"], size, root, progress=config["progress"])
    counts = ", ".join(f"{name} {count:,}" for name, count in made.images.items())
    print(f"{counts} images of {size}×{size} take {made.size_bytes / 1e9:.2f} GB below {root}")
    print(f"{made.free_bytes / 1e9:.2f} GB are free there")
    print(
        f"about {made.seconds / 60:.1f} minutes, at {made.rate:,.0f} images a second with {made.workers} threads "
        f"(measured on {made.sampled})"
    )
    for line in made.left_out:
        print(f"left out: {line}")
    if made.size_bytes > made.free_bytes:
        lacking = (made.size_bytes - made.free_bytes) / 1e9
        raise UserError(f"{root} lacks {lacking:.2f} GB; make room, or give prepared=…")


def main() -> None:
    """The command `invariance-prepare`."""
    command("prepare", prepare_data)


if __name__ == "__main__":
    main()

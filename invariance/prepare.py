"""Decode a data set once (Sec. 5.5): `python -m invariance.prepare data=digits`."""

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
    from invariance.data.prepared import prepare

    size = config["size"]
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 4096:
        raise UserError(f"size={size!r}: give a whole number of pixels from 1 to 4096")
    root = folder(config["prepared"], "prepared")
    prepared = prepare(config["data"], size, root, progress=config["progress"], renew=bool(config["renew"]))
    counts = ", ".join(f"{name} {len(prepared.split(name).labels):,}" for name in prepared.splits)
    print(f"{prepared.name}: {counts} images of {size}×{size}, {len(prepared.classes)} classes: {prepared.directory}")
    for skipped in prepared.skipped:
        print(f"skipped {skipped}")


def main() -> None:
    """The command `invariance-prepare`."""
    command("prepare", prepare_data)


if __name__ == "__main__":
    main()

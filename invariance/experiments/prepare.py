"""Decode a data set once (Sec. 5.5): `python -m invariance.prepare data=digits`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from invariance.cli.messages import say_error
from invariance.data.absent import was_given_back
from invariance.data.estimate import plan
from invariance.data.giving_back import give_back, places_of, room_of_others
from invariance.data.names import shown
from invariance.data.prepared import prepare_sizes
from invariance.data.sources.base import data_config
from invariance.errors import Busy, UserError
from invariance.settings.base import checked
from invariance.settings.pages import PreparePage
from invariance.settings.paths import folder


def prepare(config: dict[str, Any]) -> None:
    """Prepare one data set at one size or several, or give sizes back, and say what came of it.

    Args:
        config: the configuration of `conf/prepare.yaml`, plain and resolved.

    Raises:
        UserError: for anything the user can mend.
    """
    check(config)
    sizes = checked_sizes(config["size"])
    root = folder(config["prepared"], "prepared")
    if config["plan"]:
        print_plan(config, sizes, root)
        return
    if config.get("give_back", False):
        give_sizes_back(config["data"], sizes, root)
        return
    made = prepare_sizes(
        config["data"],
        sizes,
        root,
        progress=config["progress"],
        renew=config["renew"],
        verify=config["verify"],
        images=config.get("restore", True),
    )
    for size, prepared in zip(sizes, made, strict=True):
        counts = ", ".join(f"{name} {len(prepared.split(name).labels):,}" for name in prepared.splits)
        classes = f"{len(prepared.classes)} classes"
        gone = "" if prepared.whole else "; they were given back, and what needs them prepares them again"
        print(f"{prepared.name}: {counts} images of {size}×{size}, {classes}: {prepared.directory}{gone}")
    for remark in _once(prepared.remarks for prepared in made):
        print(f"note: {remark}")
    for skipped in _once(prepared.skipped for prepared in made):
        print(f"skipped {shown(skipped)}")
    for line in _once(prepared.left_out for prepared in made):
        print(f"left out: {line}")


def give_sizes_back(data: dict[str, Any], sizes: list[int], root: Path) -> None:
    """Give the images of some sizes back, and say what came of it.

    Raises:
        Busy: if a process reads some of them.
        UserError: if some cannot be given back; those that can are.
    """
    errors: list[UserError] = []
    for size in sizes:
        try:
            directory, room = give_back(data, size, root)
        except UserError as why:
            errors.append(why)
            continue
        if directory is None:
            print(f"{size}×{size}: nothing is prepared")
        elif room:
            print(
                f"{size}×{size}: {room / 1e9:.2f} GB given back, and what needs them prepares them again: {directory}"
            )
        else:
            print(f"{size}×{size}: given back before: {directory}")
    errors.sort(key=lambda one: not isinstance(one, Busy))  # what is busy may be tried again, and says less
    for error in errors[:-1]:
        say_error(str(error))
    if errors:
        raise errors[-1]


def _once(lines: Iterable[list[str]]) -> list[str]:
    """What several sizes say, each line once: what they share, and what a size made earlier says alone."""
    return list(dict.fromkeys(line for some in lines for line in some))


def checked_sizes(size: object) -> list[int]:
    """The sizes that `size=` names: one number or a list.

    Raises:
        UserError: for what is no size, an empty list, or a size that stands twice.
    """
    sizes = size if isinstance(size, list) else [size]
    for one in sizes:
        if isinstance(one, bool) or not isinstance(one, int) or not 1 <= one <= 4096:
            raise UserError(f"size={size!r}: give a whole number of pixels from 1 to 4096, or a list as size=[227,256]")
    if not sizes:
        raise UserError("size=[]: give at least one size, as size=[227,256]")
    if twice := next((one for one in sizes if sizes.count(one) > 1), None):
        raise UserError(f"size={size!r}: {twice} stands there twice; give each size once")
    return list(sizes)


def check(config: dict[str, Any]) -> None:
    """Refuse what can be refused before anything is read.

    Raises:
        UserError: for a value that makes no sense.
    """
    if "size" in config:
        checked_sizes(config["size"])
    checked(PreparePage, config)
    folder(config["prepared"], "prepared")
    data_config(config["data"])


def print_plan(config: dict[str, Any], sizes: list[int], root: Path) -> None:
    """Say what preparing would take, and prepare nothing.

    Raises:
        UserError: if the disk has too little room.
    """
    there = places_of(config["data"], sizes, root)
    back = {size for size, directory in there.items() if was_given_back(directory)}
    for size, directory in there.items():
        print(f"{size}×{size} {'were given back' if size in back else 'are prepared'}: {directory}")
    done = there.keys() - (back if config.get("restore", True) else set())
    if not (sizes := [size for size in sizes if size not in done]):
        return
    made = plan(config["data"], sizes, root, progress=config["progress"])
    counts = ", ".join(f"{name} {count:,}" for name, count in made.images.items())
    squares = ", ".join(f"{size}×{size}" for size in sizes)
    print(f"{counts} images of {squares} take {made.size_bytes / 1e9:.2f} GB below {root}")
    print(f"{made.free_bytes / 1e9:.2f} GB are free there")
    print(
        f"about {made.seconds / 60:.1f} minutes, at {made.rate:,.0f} images a second with {made.workers} threads "
        f"(measured on {made.sampled})"
    )
    for line in made.left_out:
        print(f"left out: {line}")
    if made.size_bytes > made.free_bytes:
        lacking = (made.size_bytes - made.free_bytes) / 1e9
        others = room_of_others(config["data"], root, but=there.values()) / 1e9
        if lacking > others:
            raise UserError(f"{root} lacks {lacking:.2f} GB; make room, or give prepared=…")
        print(f"{lacking:.2f} GB are lacking until others of its sizes are given back, which take {others:.2f} GB")

"""Which files of a folder are images, and why the others are left out."""

from collections.abc import Mapping

from invariance.data.left_out import ARCHIVE, EMPTY, HIDDEN, NO_IMAGE, LeftOut
from invariance.data.magic import is_image, looks_like_image
from invariance.data.sources.trees import Stamp, Tree

ARCHIVES = (".gz", ".bz2", ".xz", ".tgz", ".tar", ".zip")


def image_files(tree: Tree, folder: str, files: Mapping[str, Stamp], left: LeftOut) -> dict[str, Stamp]:
    """Those of a folder's files that are images, by their suffix or, where that is none of an image, by content.

    Files that are named as images are not opened here: one that is none is broken, and told of when it is decoded.

    Args:
        tree: where the folder is.
        folder: its path; the top is "".
        files: files in it, by name or, where they lie deeper, by path.
        left: where to count the others.
    """
    above, images = f"{folder}/" if folder else "", {}
    for name, stamp in files.items():
        last = name.rpartition("/")[2]
        if is_image(last):
            images[name] = stamp
        elif last.startswith("."):
            left.add(above + name, HIDDEN)
        elif not stamp[0]:
            left.add(above + name, EMPTY)
        elif looks_like_image(tree.start(above + name)):
            images[name] = stamp
        else:
            left.add(above + name, ARCHIVE if name.lower().endswith(ARCHIVES) else NO_IMAGE)
    return images


def leave_rest(tree: Tree, folder: str, why: str, left: LeftOut) -> None:
    """Count what lies beside the folders in a folder: its files, hidden folders, and what is neither."""
    above, inside = f"{folder}/" if folder else "", tree.inside(folder)
    for name in inside.files:
        left.add(above + name, HIDDEN if name.startswith(".") else why)
    for name, reason in inside.others.items():
        left.add(above + name, reason)
    for name in inside.folders:
        if name.startswith("."):
            tree.leave_out(above + name, HIDDEN, left)

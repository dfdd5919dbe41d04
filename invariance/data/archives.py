"""Folders and archives opened alike."""

from pathlib import Path

from invariance.data.sources.trees import FolderTree, Tree
from invariance.data.tar import COMPRESSED, CompressedTarTree, TarTree
from invariance.data.tar_headers import BLOCK, is_header
from invariance.data.zip import ZipTree
from invariance.errors import UserError


def open_tree(path: Path, nested: bool = False) -> Tree:
    """A folder, tar (compressed or not) or zip, told by its content.

    Args:
        path: the folder or archive.
        nested: whether tars inside a tar count as folders, as in ILSVRC's training archive.

    Raises:
        UserError: if it is none of these or cannot be read.
    """
    if path.is_dir():
        return FolderTree(path)
    try:
        with open(path, "rb") as file:
            start = file.read(BLOCK)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ZipTree(path)
    if any(start.startswith(magic) for magic in COMPRESSED):
        return CompressedTarTree(path)
    if start[257:262] == b"ustar" or is_header(start):
        return TarTree(path, nested)
    raise UserError(f"{path} is neither a folder nor a tar, tar.gz, tar.bz2, tar.xz or zip archive")

"""What archives have in common: a list of safe paths, made when it is first asked for."""

import lzma
import struct
import threading
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from invariance.data.names import shown
from invariance.data.sources.trees import Inside, Stamp, Tree
from invariance.data.tar_headers import LONGEST_NAME
from invariance.errors import UserError
from invariance.progress import bar

Advance = Callable[[int], None]
"""Told how many more bytes of an archive were read."""

MAX_MEMBERS = 50_000_000
# what readers of archives raise for those that are cut off or scrambled
DAMAGE = (
    EOFError,
    OSError,
    zlib.error,
    lzma.LZMAError,
    ValueError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
    RuntimeError,
    NotImplementedError,
)


class Archive(Tree):
    """An archive whose members are listed when they are first asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._folders: dict[str, Inside] = {}
        self._members: set[str] = set()
        self._lock = threading.Lock()

    @abstractmethod
    def _list(self, advance: Advance) -> None:
        """Call `_add` for every file, `_folder` for every folder."""

    def index(self, progress: bool = False) -> None:
        """See `Tree`."""
        with self._lock:
            if not self._folders:
                self._folders[""] = Inside()
                try:
                    with bar(progress, of_bytes=True) as task_bar:
                        task = task_bar.add_task(f"listing {self.path.name}", total=self.path.stat().st_size)
                        self._list(lambda count: task_bar.advance(task, count))
                        task_bar.update(task, completed=self.path.stat().st_size)
                except BaseException:
                    self._folders.clear()
                    self._members.clear()
                    raise
                for inside in self._folders.values():
                    inside.folders.sort()
                    inside.files = dict(sorted(inside.files.items()))

    def _add(self, name: str, size: int) -> str:
        """Take a member in under its checked path, which is returned.

        Raises:
            UserError: for a path that leads out of the archive, or one that was there before.
        """
        path = safe_path(self.path, name)
        if path in self._members or path in self._folders:
            raise UserError(f"{self.path} holds {path!r} twice; make the archive again")
        if len(self._members) >= MAX_MEMBERS:
            raise UserError(f"{self.path} holds more than {MAX_MEMBERS:,} files")
        self._members.add(path)
        folder, _, last = path.rpartition("/")
        self._folder(folder).files[last] = (size, 0)
        return path

    def _folder(self, path: str) -> Inside:
        inside = self._folders.get(path)
        if inside is None:
            inside = self._folders[path] = Inside()
            parent, _, last = path.rpartition("/")
            if path in self._members:
                raise UserError(f"{self.path} holds {path!r} as a file and as a folder; make the archive again")
            self._folder(parent).folders.append(last)
        return inside

    def inside(self, folder: str) -> Inside:
        """See `Tree`."""
        self.index()
        return self._folders.get(folder, Inside())

    def stamp(self, name: str) -> Stamp | None:
        """See `Tree`."""
        self.index()
        folder, _, last = name.rpartition("/")
        inside = self._folders.get(folder)
        return inside.files.get(last) if inside else None


def safe_path(archive: Path, name: str) -> str:
    """A member's path without "./" and doubled slashes.

    Raises:
        UserError: if it is absolute, leads upwards, is empty or longer than paths are: nothing such is read.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith(("/", "\\")) or ".." in parts or "\0" in name or not parts or len(name) > LONGEST_NAME:
        raise UserError(f"{archive} holds the unsafe path {name[:200]!r}; it is not read")
    return "/".join(parts)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Damage of an archive as one line."""
    try:
        yield
    except UserError:
        raise
    except DAMAGE as error:
        why = shown(" ".join(str(error).split())) or type(error).__name__
        raise UserError(f"{path} is damaged or cut off ({why}); download or copy it again") from error

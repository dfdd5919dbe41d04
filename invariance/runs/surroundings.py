"""What a shell, a scheduler or a container sets around a command, and must not change what it computes or prints."""

import errno
import io
import os
import pwd
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from typing import TextIO, cast

from invariance.errors import UserError

_RANKS = re.compile(
    r"(ROLE_|LOCAL_|GROUP_|NODE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|SLURM_(PROCID|LOCALID|NODEID)"
    r"|(OMPI_COMM_WORLD|MV2_COMM_WORLD|TORCHELASTIC)_\w+|PMIX?_(RANK|SIZE)|JSM_NAMESPACE_RANK|TORCHELASTIC_RUN_ID"
)
"""Variables by which launchers number the processes of one job: Lightning would take this one for a part of it."""

_SWITCHES = re.compile(
    r"PL_\w+|LT_\w+|NVIDIA_TF32_OVERRIDE|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE|(ONEDNN|DNNL)_DEFAULT_FPMATH_MODE"
    r"|TORCHDYNAMO_DISABLE|TORCH_COMPILE_DISABLE|PYTORCH_JIT|HYDRA_(MAIN_MODULE|DEPRECATION_\w+)|SELF_WARNING_AS_ERROR"
)
"""Variables that change numbers behind the configuration's back."""

ROUNDING = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_CBWR",
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_MAX_CPU_ISA",
    "CUBLAS_WORKSPACE_CONFIG",
)
"""Variables that may change the last digits of a sum: a run's provenance has those that are set."""


def settle(environment: MutableMapping[str, str] = os.environ) -> list[str]:
    """Take away the variables that would change what a command computes, before any library has read them.

    Args:
        environment: this process's.

    Returns:
        The names of those that would have changed numbers.
    """
    switches = sorted(name for name in environment if _SWITCHES.fullmatch(name))
    for name in [*switches, *(name for name in list(environment) if _RANKS.fullmatch(name))]:
        del environment[name]
    if not any(environment.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        try:
            pwd.getpwuid(os.getuid())
        except KeyError:  # a container's user whom nobody wrote down; libraries that ask for a name would fail
            environment["LOGNAME"] = f"uid{os.getuid()}"
    if any(action == "error" for action, *_ in warnings.filters):  # PYTHONWARNINGS=error: of others' code, too
        warnings.resetwarnings()
        warnings.simplefilter("ignore", DeprecationWarning)
    return switches


def rounding(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What is set in the environment that may change the last digits of a sum."""
    return {name: environment[name] for name in ROUNDING if name in environment}


def require_utf8_names() -> None:
    """Refuse to read and write where the names of files are not UTF-8: folders' names are classes, and rows hold them.

    Raises:
        UserError: saying what to set.
    """
    encoding = sys.getfilesystemencoding()
    if encoding.lower().replace("-", "") != "utf8":
        raise UserError(f"names of files are read as {encoding} here, not as UTF-8: set PYTHONUTF8=1, then repeat")


class _Lenient(io.FileIO):
    """An open file to print to, which takes what it can: when nobody reads it, or its disk is full, it goes nowhere."""

    lost: str | None = None

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]
        """Write, or keep in mind what went wrong."""
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF):
                    raise
                self.lost = "nobody reads it" if error.errno == errno.EPIPE else error.strerror or "it is closed"
        return len(data)


def lenient(number: int, encoding: str) -> tuple[_Lenient, TextIO]:
    """A stream over an open file to print to, which no letter and no refusal of the file turns into an error.

    Args:
        number: the file's descriptor, which is not closed with the stream.
        encoding: the stream's; a letter that it does not have is written as an escape.

    Returns:
        The file, whose `lost` says why nothing is written any more, and the stream.
    """
    raw = _Lenient(number, "wb", closefd=False)
    stream = io.TextIOWrapper(
        io.BufferedWriter(cast(io.RawIOBase, raw)),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=number == 2 or raw.isatty(),
    )
    return raw, stream


class Streams:
    """Standard output and error that no encoding, closed pipe or full disk turns into an error of the command.

    A letter that the encoding does not have is written as an escape. A context manager, which gives the streams back.
    Streams that somebody else has put in their place, as a test or a notebook, are left alone.

    Attributes:
        tell: whether to say it when nobody reads the standard output any more.
    """

    def __init__(self) -> None:
        self.tell, self._told = False, False
        self._raw: dict[str, _Lenient] = {}
        self._held: dict[str, TextIO | None] = {}

    def __enter__(self) -> "Streams":
        _open_standard()
        for number, name in ((1, "stdout"), (2, "stderr")):
            held: TextIO | None = getattr(sys, name)
            if held is not getattr(sys, f"__{name}__"):
                continue
            raw, stream = lenient(number, held.encoding if held is not None else "utf-8")
            if held is not None:
                with suppress(OSError):
                    held.flush()
            self._held[name], self._raw[name] = held, raw
            setattr(sys, name, stream)
        return self

    def look(self) -> None:
        """Say, once, that nobody reads the standard output any more."""
        raw = self._raw.get("stdout")
        if self.tell and not self._told and raw is not None and raw.lost:
            self._told = True
            print(f"note: what is printed is lost from here on ({raw.lost}); the command goes on", file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        for name in self._held:
            with suppress(OSError, ValueError):
                getattr(sys, name).flush()
        self.look()
        for name, held in self._held.items():
            with suppress(OSError, ValueError):
                getattr(sys, name).flush()
            if held is not None:
                setattr(sys, name, held)


def _open_standard() -> None:
    """Open what of the three standard files is closed: the next file that is opened would be printed into."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)


@contextmanager
def undisturbed() -> Iterator[tuple[Streams, list[str]]]:
    """A command's surroundings: streams that end nothing, and no variable that changes what it computes.

    Yields:
        The streams, and the names of the variables that were set and are not heeded.
    """
    with Streams() as streams:
        yield streams, settle()

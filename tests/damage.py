"""Damage every kind of stored file, give the same commands again, and count where numbers changed in silence.

    python tests/damage.py --cases 300 --json damage.json

makes a tiny study on the embedded digits: prepared data, networks, one of them interrupted, measurements, one of them
interrupted, distances with their features, a finetuning. Each case takes a copy, does one kind of damage to one of its
files (a bit flipped, a stretch of zeros, an end cut off or added, a digit changed, two files of one name exchanged, a
file deleted), and gives every command again, then a report. What may come of it:

- same: the report's numbers are those of the undisturbed study, whatever was done to get there;
- told: a line says what is wrong, and what numbers there still are are the undisturbed ones;
- silent: a number differs, or is gone, and nothing was said;
- wrong: a number differs though something was said;
- traceback: a command ended in one.

The last three are faults; the script then ends with status 1. `tests/test_damage.py` runs some of its cases.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from unittest import mock

QUICK = ["model=tiny", "recipe=smoke", "trainer=cpu"]
FITS = ["fit={images: 60}", "solver=ridge", "trainer=cpu"]
SHEAR = ["train", *QUICK, "transform=shear", "range=5"]
MIRROR = ["measure", *FITS, "networks=baseline", "grids=[mirror]"]
FEW = "transform.angles=[-20,10]"
MADE = [
    ["prepare", "data=digits", "size=32"],
    ["train", *QUICK],
    ["train", *QUICK, "transform=rotation", "range=20", FEW],
    ["measure", *FITS, "networks=rotation_20"],
    ["distance", *FITS, "networks=[baseline,rotation_20]"],
    [
        "finetune",
        *FITS,
        "recipe=finetune_smoke",
        "networks=rotation_20",
        "G={rotation: {angles: [-10]}}",
        "grids=[mirror]",
    ],
]
"""The commands of the study, which the case finds finished."""

BEGUN = [SHEAR, MIRROR]
"""Commands that are interrupted before their end."""

NEW = [
    ["measure", *FITS, "networks=rotation_20", "grids=[mirror]"],
    ["distance", *FITS, "networks=[baseline,rotation_20,shear_5]"],
    ["status"],
]
"""Commands that come only after the damage, and rest on what is stored."""

UNTOUCHED = (".lock", "curves")
"""Files that hold no number of anybody's: locks, and the curves of a training as they were logged."""


def give(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Give a command in this process; its status and what it printed."""
    page, *overrides = arguments
    places = {"prepare": ["prepared"], "report": ["runs", "out"], "status": ["runs"]}.get(page, ["runs", "prepared"])
    places = [*places, *(["features"] if page == "distance" else [])]
    overrides += [f"{place}={folder / place}" for place in places]
    overrides += [] if page in ("prepare", "status") else ["logger=csv"]
    overrides += ["progress=false"]
    out = io.StringIO()
    main = import_module(f"invariance.{page}").main
    with (
        mock.patch.object(sys, "argv", [f"invariance-{page}", *overrides]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:  # what a user would see
            traceback.print_exc(file=out)
            status = 1
    return status, out.getvalue()


def make_study(folder: Path) -> None:
    """The study, with two commands interrupted where they would be finished."""
    for arguments in MADE:
        status, said = give(arguments, folder)
        assert status == 0, said
    from invariance.runs.run import Run

    with mock.patch.object(Run, "finish", side_effect=KeyboardInterrupt):
        for arguments in BEGUN:
            status, said = give(arguments, folder)
            assert status == 130, said


def repeat(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Every command again, then the report: what each printed, and the numbers there are in the end.

    Returns:
        By command what it printed and its status; by file and line's beginning each line of the report's numbers.
    """
    said = {}
    for arguments in [*MADE, *BEGUN, *NEW, ["report"]]:
        status, printed = give(arguments, folder)
        said[" ".join(arguments)] = f"{printed}\nstatus {status}"
    return said, numbers(folder / "out")


def numbers(report: Path) -> dict[str, str]:
    """Each line of the report's rows, tables and figures, by the file's name and its place among equal beginnings."""
    lines = {}
    for path in sorted(report.rglob("*.csv")):
        for place, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            lines[f"{path.relative_to(report)}:{line if path.name == 'rows.csv' else place}"] = line
    return lines


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Reports without the drawing of figures, which says nothing of numbers and takes longest."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    def save(_figure: object, buffer: io.IOBase, *, format: str, **_: object) -> None:
        buffer.write('<svg width="1pt"> </svg>' if format == "svg" else b"")

    laid_out = mock.patch.object(ConstrainedLayoutEngine, "execute", lambda *_: None)
    with mock.patch.object(Figure, "savefig", save), laid_out:
        yield


# --- damages: each changes the file, or says False ---


def flip(path: Path, rng: random.Random, _: list[Path]) -> bool:
    """One bit."""
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    return bool(content)


def zero(path: Path, rng: random.Random, _: list[Path]) -> bool:
    """A stretch of zeros, 100 kB at most."""
    content = path.read_bytes()
    length = min(len(content), rng.choice([8, 512, 100_000]))
    start = rng.randrange(len(content) - length + 1)
    changed = content[:start] + bytes(length) + content[start + length :]
    path.write_bytes(changed)
    return changed != content


def cut(path: Path, rng: random.Random, _: list[Path]) -> bool:
    """The end cut off; of a text often at a line's end."""
    content = path.read_bytes()
    if len(content) < 2:
        return False
    end = rng.randrange(1, len(content))
    if rng.random() < 0.5 and b"\n" in content[:-1]:
        end = content.rindex(b"\n", 0, len(content) - 1) + 1
    path.write_bytes(content[:end])
    return True


def grow(path: Path, rng: random.Random, _: list[Path]) -> bool:
    """Something more at the end; of a text its last line once more."""
    content = path.read_bytes()
    last = content[content.rstrip(b"\n").rfind(b"\n") + 1 :]
    path.write_bytes(content + (last if rng.random() < 0.5 and last else rng.randbytes(100)))
    return True


def digit(path: Path, rng: random.Random, _: list[Path]) -> bool:
    """Another digit, in a text."""
    content = bytearray(path.read_bytes())
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    places = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    if not places:
        return False
    place = rng.choice(places)
    content[place] = ord(rng.choice([one for one in "0123456789" if ord(one) != content[place]]))
    path.write_bytes(content)
    return True


def delete(path: Path, _: random.Random, __: list[Path]) -> bool:
    """The file gone."""
    path.unlink()
    return True


def exchange(path: Path, rng: random.Random, files: list[Path]) -> bool:
    """Exchanged with another of its name, or of its kind in its folder."""
    kind = path.name.partition(".")[2]
    others = [
        other
        for other in files
        if other != path
        and (other.name == path.name or (other.parent == path.parent and other.name.endswith(kind)))
        and other.read_bytes() != path.read_bytes()
    ]
    if not others:
        return False
    other = rng.choice(others)
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)
    return True


DAMAGES: dict[str, Callable[[Path, random.Random, list[Path]], bool]] = {
    one.__name__: one for one in (flip, zero, cut, grow, digit, delete, exchange)
}


def stored(folder: Path) -> list[Path]:
    """Every file of a study that holds something."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    return sorted(path for path in files if not any(part.startswith(UNTOUCHED) for part in path.parts))


def cases(folder: Path, count: int, seed: int) -> list[tuple[str, str]]:
    """Files and damages, every kind of file as often as any other; fewer where there are not so many."""
    rng = random.Random(seed)
    by_kind: dict[str, list[Path]] = {}
    for path in stored(folder):
        parts = path.relative_to(folder).parts
        kind = f"{'/'.join(parts[:2] if parts[0] == 'runs' else parts[:1])}/…/{path.name}"
        by_kind.setdefault(kind, []).append(path)
    chosen: dict[tuple[str, str], None] = {}
    for _ in range(100 * count):
        if len(chosen) == count:
            break
        kind = rng.choice(sorted(by_kind))
        path = rng.choice(by_kind[kind])
        chosen[path.relative_to(folder).as_posix(), rng.choice(sorted(DAMAGES))] = None
    return list(chosen)


def judge(
    said: dict[str, str], found: dict[str, str], undisturbed: tuple[dict[str, str], dict[str, str]], place: str
) -> tuple[str, str]:
    """What came of a case, and the first new line that was said.

    Args:
        said: what the commands printed.
        found: the numbers there are.
        undisturbed: both, of the study that nothing was done to.
        place: the case's folder, whose name stands in messages.
    """
    usual = {line for text in undisturbed[0].values() for line in text.splitlines()}
    lines = [line.replace(place, "…") for text in said.values() for line in text.splitlines()]
    new = [line for line in lines if line not in usual]
    first = next((line for line in new if line.startswith("error: ")), next(iter(new), ""))
    if any("Traceback (most recent call last)" in text for text in said.values()):
        return "traceback", next(text for text in said.values() if "Traceback" in text)
    if found == undisturbed[1]:
        return "same", first
    rows = {line for key, line in found.items() if key.startswith("rows.csv:")}
    others = {line for key, line in undisturbed[1].items() if key.startswith("rows.csv:")}
    if not new:
        return "silent", "\n".join(sorted(rows ^ others)[:4])
    return ("wrong", "\n".join([first, *sorted(rows - others)[:3]])) if rows - others else ("told", first)


def run(count: int, seed: int, folder: Path, only: str = "") -> list[dict[str, str]]:
    """Make the study in `folder`, unless it is there, and run the cases.

    Args:
        count: how many.
        seed: which.
        folder: where the study is made, and copied to for every case.
        only: a part of the files' names.
    """
    results = []
    study = folder / "study"
    with undrawn():
        if not (folder / "made").exists():
            shutil.rmtree(study, ignore_errors=True)
            make_study(study)
            (folder / "made").touch()
        undisturbed = one_case(study, folder / "case", lambda _: True)
        assert undisturbed is not None
        for name, how in cases(study, 2 * count, seed):  # where a damage harms nothing, the next case takes its place
            if len(results) == count:
                break
            if only not in name:
                continue
            rng = random.Random(f"{seed} {name} {how}")
            outcome = one_case(
                study,
                folder / "case",
                lambda case: DAMAGES[how](case / name, rng, stored(case)),  # noqa: B023
            )
            if outcome is None:
                continue
            verdict, line = judge(*outcome, undisturbed, str(folder / "case"))
            results.append({"file": name, "damage": how, "verdict": verdict, "said": line})
            print(f"{verdict:9} {how:8} {name}: {line.splitlines()[0] if line else ''}", flush=True)
    return results


def one_case(study: Path, place: Path, harm: Callable[[Path], bool]) -> tuple[dict[str, str], dict[str, str]] | None:
    """A copy of the study, harmed, and what came of every command; None if there was nothing to harm."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(study, place, symlinks=True)
    if not harm(place):
        return None
    said, found = repeat(place)
    return {key: text.replace(str(place), "…") for key, text in said.items()}, found


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of the files' names")
    parser.add_argument("--folder", type=Path, help="where the study is kept; else a temporary one")
    parser.add_argument("--json", type=Path, help="file for every case and what came of it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results = run(given.cases, given.seed, folder, given.only)
    counts = Counter(one["verdict"] for one in results)
    print(f"{len(results)} cases: {', '.join(f'{count} {verdict}' for verdict, count in counts.most_common())}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.exit(any(counts[bad] for bad in ("silent", "wrong", "traceback")))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()

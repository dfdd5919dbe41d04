"""Gathering what the runs hold: all rows in one table, and the facts of every measured grid."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from invariance.engine.results import Results
from invariance.errors import UserError, nearest
from invariance.reporting.grids import (
    GRID,
    GivenKey,
    GridFacts,
    GridKey,
    grid_facts,
    grid_name,
    shortened,
    unfit,
    unprintable,
)
from invariance.reporting.kept import read_kept
from invariance.reporting.metrics import HALF_ERROR
from invariance.runs.files import DONE
from invariance.runs.find import Unseen, but_for, locked_file, walk
from invariance.runs.run import CONFIG, PROVENANCE, ROWS, read_config
from invariance.runs.seal import read_marker, rows_of
from invariance.settings.nested import load_json

KEY = ["stage", "data", "model", "network", "family", "range", "seed"]
KEY += ["layer", "readout", "g", "split", "map", "solver", "metric"]
"""Columns that say which number a row is: no two rows may agree in all of them, and in `fit_classes` where it is."""

SAME, UNSEEN = "same", "unseen"
"""Which classes the maps of the control were fitted on, of half of them at a time."""

_NAMES = ("data", "network", "family", "layer", "split", "map", "solver", "metric")
_NEEDED = ("data", "network", "family")
"""Columns of names that files of the report are called by, or the page's anchors; and those that are never empty, but
for the family of a network that was not trained here."""


@dataclass(frozen=True)
class RunFacts:
    """A finished run.

    Attributes:
        name: path below the runs folder.
        splits: the data splits its rows are over, in their order: the last is the one results are reported on.
        provenance: what made it.
        config: its configuration.
        verified: whether it is sealed, and so known to be as it was finished; a run of before seals is not.
        folder: where it is.
        results: what was measured from Python, where it is no run but kept results.
    """

    name: str
    splits: tuple[str, ...]
    provenance: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    verified: bool = True
    folder: Path = Path()
    results: Results | None = None


@dataclass(frozen=True)
class Collected:
    """Everything a report is made from.

    Attributes:
        rows: all rows of the finished runs, sorted by run, in the order of each run.
        runs: the finished runs, by name.
        unfinished: names of the runs that were begun and are not finished.
        grids: the measured grids.
        given: the grids that networks were measured over which were not trained here.
        damaged: the finished runs that are not what they were finished with, and why; they are in nothing else.
        unseen: what could not be looked into.
    """

    rows: pd.DataFrame
    runs: dict[str, RunFacts]
    unfinished: list[str]
    grids: dict[GridKey, GridFacts]
    damaged: dict[str, str] = field(default_factory=dict)
    unseen: list[Unseen] = field(default_factory=list)
    given: dict[GivenKey, GridFacts] = field(default_factory=dict)

    @property
    def unverified(self) -> list[str]:
        """Names of the runs that no seal says anything of."""
        return [name for name, run in self.runs.items() if not run.verified]

    def reported(self, stage: str, *, control: bool = False, given: bool = False) -> pd.DataFrame:
        """Rows of a stage over the split that results are reported on.

        Args:
            stage: the stage.
            control: those of the control over classes, instead of ordinary ones.
            given: those of networks that were not trained here, instead of those that were.
        """
        asked = (self.rows["stage"] == stage) & (of_control(self.rows) == control) & (of_given(self.rows) == given)
        rows = self.rows[asked]
        wanted = rows["run"].map({name: run.splits[-1] for name, run in self.runs.items()})
        return rows[rows["split"] == wanted]


def collect(root: Path, data: str | None = None) -> Collected:
    """Read every finished run below `root`.

    Args:
        root: the runs folder.
        data: keep the rows of one data set alone, with those of its networks on other data.

    Raises:
        UserError: if nothing is finished or all of it is damaged, two runs hold the same number, or there is no such
            data set.
    """
    below = walk(root)
    # wandb keeps files of the same name inside runs; only a run has its provenance beside its configuration
    found = {path.relative_to(root).as_posix(): path for path in below.runs if os.path.exists(path / PROVENANCE)}
    files = (CONFIG, PROVENANCE, DONE, ROWS)
    locked = {name: one for name, path in found.items() if (one := locked_file(path, files)) is not None}
    found = {name: path for name, path in found.items() if name not in locked}
    unseen = sorted([*below.unseen, *locked.values()], key=lambda one: one.path)
    finished = {name: path for name, path in found.items() if os.path.exists(path / DONE)}
    kept, begun = ({_kept_name(root, path): path for path in paths} for paths in (below.kept, below.begun))
    if not finished and not kept:
        count = len(found) + len(begun)
        told = f" ({count} begun: repeat their command to finish them)" if count else ""
        seen = " that can be read" if unseen else ""
        raise UserError(
            f"no finished run{seen} below {root}{told}; run invariance-train, then invariance-measure, or name a "
            f"folder that measure_model(keep=…) left{but_for(unseen)}"
        )
    read, damaged = _read_all(finished, kept)
    if not read:
        name, why = next(iter(damaged.items()))
        raise UserError(why if len(damaged) == 1 else f"all {len(damaged)} finished runs are damaged: {name}: {why}")
    read = {name: one for name, one in read.items() if len(one.rows)}
    if not read:
        raise UserError(f"no run below {root} holds a row; delete the empty ones and repeat their commands")
    rows = pd.concat([one.rows for one in read.values()], ignore_index=True)
    refuse_twice(rows)
    if data is not None:
        rows = _only(rows, data)
    named = set(rows["run"])
    shown = {name: one for name, one in read.items() if name in named}
    every = {key: facts for one in shown.values() for key, facts in one.grids.items()}
    of_data = [name for name in found if data is None or any(_is_of(one, data) for one in name.split("/")[1:2])]
    return Collected(
        rows,
        {name: one.facts for name, one in shown.items()},
        [*(name for name in of_data if name not in finished), *begun],
        {key: facts for key, facts in every.items() if isinstance(key, GridKey)},
        {name: why for name, why in damaged.items() if name in of_data or name in kept},
        unseen,
        {key: facts for key, facts in every.items() if isinstance(key, GivenKey)},
    )


class _Read(NamedTuple):
    """One run as it was read: its rows, its facts, and the grids that its rows are over."""

    rows: pd.DataFrame
    facts: RunFacts
    grids: dict[GridKey | GivenKey, GridFacts]


def _kept_name(root: Path, folder: Path) -> str:
    """What the report calls a folder of kept results: its path below the runs folder, or its own name."""
    name = folder.relative_to(root).as_posix()
    return name if name != "." else folder.resolve().name


def _read_all(finished: dict[str, Path], kept: dict[str, Path]) -> tuple[dict[str, _Read], dict[str, str]]:
    """Every finished run and all kept results that are whole; and of those that are not, why."""
    read: dict[str, _Read] = {}
    damaged: dict[str, str] = {}
    for name, path in finished.items():
        try:
            rows = _rows_of(path, name)
            _refuse_damaged(rows, path / ROWS)
            sealed = read_marker(path).get("seal") is not None
            made_by, config = _provenance(path / PROVENANCE), read_config(path)
            facts = RunFacts(name, _splits(rows), made_by, config, sealed, path)
            read[name] = _Read(rows, facts, _grids(path, rows))
        except UserError as error:
            damaged[name] = str(error)
    for name, path in kept.items():
        try:
            rows, results, grids = read_kept(path, name)
            _refuse_damaged(rows, path / ROWS)
            made_by = {"versions": results.attrs.get("versions") or {}}
            read[name] = _Read(rows, RunFacts(name, _splits(rows), made_by, {}, True, path, results), dict(grids))
        except UserError as error:
            damaged[name] = str(error)
    return read, damaged


def _splits(rows: pd.DataFrame) -> tuple[str, ...]:
    """The splits of rows: of a measurement the last row is of the one that results are reported on."""
    splits = dict.fromkeys(map(str, rows["split"]))
    if not splits:
        return ()
    reported = str(rows["split"].iloc[-1])
    return (*(split for split in splits if split != reported), reported)


def run_anchor(name: str) -> str:
    """Where the page lists a run: short, as numbers by the thousand lead there, and of the run's name alone."""
    return "r" + hashlib.blake2b(name.encode(), digest_size=6).hexdigest()


def fit_classes(rows: pd.DataFrame) -> pd.Series:
    """Which classes each row's map was fitted on; empty where rows do not say."""
    return rows["fit_classes"].fillna("") if "fit_classes" in rows else pd.Series("", index=rows.index)


def of_control(rows: pd.DataFrame) -> pd.Series:
    """Which rows are of the control over classes: they are extra rows of maps that have ordinary ones too."""
    return fit_classes(rows).isin((SAME, UNSEEN)) | (rows["metric"] == HALF_ERROR)


def of_given(rows: pd.DataFrame) -> pd.Series:
    """Which rows are of networks that were not trained here: they name their source."""
    return rows["model"].fillna("") != "" if "model" in rows else pd.Series(False, index=rows.index)


def _rows_of(path: Path, name: str) -> pd.DataFrame:
    if not (path / ROWS).exists():
        raise UserError(f"{path} is marked finished but has no {ROWS}; delete the folder and repeat the run")
    return rows_of(path).assign(run=name)  # the runs folder itself may lie anywhere, and be a part of another


def _refuse_damaged(rows: pd.DataFrame, path: Path) -> None:
    """Refuse names that cannot be files' and numbers that are infinite: no command writes them."""

    def refuse(said: str) -> None:
        raise UserError(f"{path} is damaged: {said}; delete its folder and repeat the run")

    trained = not of_given(rows).any()
    for column in _NAMES:
        needed = column in _NEEDED and (trained or column != "family")
        for name in rows[column].unique():
            # files' names have a layer's slashes as _; those of a network not trained here are called by its slug
            called = name.replace("/", "_") if column == "layer" else name
            why = unfit(called) if trained or column == "data" else unprintable(name)
            why = why or ("it is empty" if needed and not name else "")
            if why:
                refuse(f"{column} is {shortened(name)!r} ({why})")
    for column in ("value", "score", "low", "high"):
        if np.isinf(rows[column]).any():
            refuse(f"{column} is infinite")


def refuse_twice(rows: pd.DataFrame) -> None:
    """Refuse rows of which two agree in all that says which number a row is."""
    key = [name for name in (*KEY, "fit_classes") if name in rows]
    again = rows.duplicated(key, keep=False)
    if not again.any():
        return
    first = rows[again].iloc[0]
    both = rows[(rows[key] == first[key]).all(axis=1)]["run"].tolist()
    where = f"{both[0]} and {both[1]}" if both[0] != both[1] else f"{both[0]}, twice"
    telling = ("data", "network", "g", "split", "map", "solver", "metric")
    what = ", ".join(str(first[key]) for key in telling if first[key])
    raise UserError(f"the same number ({what}, seed {first['seed']}) is in {where}; delete one of them")


def _only(rows: pd.DataFrame, data: str) -> pd.DataFrame:
    there: Sequence[str] = sorted(rows["data"].unique())
    if data not in there:
        raise UserError(f"dataset={data}: no finished run on it{nearest(data, there)} (there are: {', '.join(there)})")
    return rows[[_is_of(name, data) for name in rows["data"]]].reset_index(drop=True)


def _is_of(name: str, data: str) -> bool:
    """Whether a data set is the one that is asked for, or another that its networks were measured on."""
    return name == data or name.startswith(f"{data}@")


def _grids(path: Path, rows: pd.DataFrame) -> dict[GridKey | GivenKey, GridFacts]:
    """The grids that a run's rows are over."""
    measured = rows[rows["stage"].isin(("measure", "finetune")) & (rows["g"] != "")]
    columns = ["stage", "data", "network", "seed", "model"]
    measured = measured.assign(grid=grid_name(measured["g"]))[[*columns, "grid"]].drop_duplicates()
    grids: dict[GridKey | GivenKey, GridFacts] = {}
    for stage, data, network, seed, model, grid in measured.itertuples(index=False, name=None):
        key = GivenKey(data, model, network, grid) if model else GridKey(stage, data, network, seed, grid)
        facts = grid_facts(path.parent.parent if model else path.parent)  # one grid for all layers
        if facts.grid != key.grid:
            where = facts.folder / GRID
            raise UserError(f"{where} is of {facts.grid}, but the rows of {path} are of {key.grid}; measure again")
        grids[key] = facts
    return grids


def _provenance(path: Path) -> dict[str, Any]:
    """What made a run, as far as its parts are what they should be."""
    remedy = "delete its folder and repeat the run"
    try:
        held = load_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); {remedy}") from error
    if not isinstance(held, dict):
        raise UserError(f"{path} holds no object; {remedy}")
    lists = [(key, list, "list") for key in ("remarks", "skipped", "left_out")]
    for key, kind, called in (("versions", dict, "object"), *lists):
        if held.get(key) is not None and not isinstance(held[key], kind):
            raise UserError(f"{path} is damaged: its {key} are no {called}; {remedy}")
    return held

"""What a measurement came to, as a table that plots itself, gives the scores of every image, and can be kept."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from invariance.engine.groups import Group, Measured
from invariance.engine.kept import ABOUT, BEGUN, NETWORKS, folder_of, place_of
from invariance.engine.scoring import digest_of
from invariance.errors import UserError, nearest
from invariance.measures import measure_named
from invariance.runs.checked import DamagedFile, digest, read_facts, write_facts
from invariance.runs.rows import COLUMNS, OF_CONTROL, WITH_SCORE, read_rows, rows_text, to_frame, write_rows
from invariance.runs.scores import read_arrays, write_arrays
from invariance.transforms.base import UNTOUCHED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = "rows.csv"
SCORES = "scores.npz"


@dataclass(frozen=True)
class GroupScores:
    """Scores of every image under some g.

    Attributes:
        about: network, layer, map, solver and grid.
        g: labels of the g.
        arrays: (g, n) by `<split>/<name>`, or `<split>/<fit_classes>/<name>` of the unseen-class control.
    """

    about: dict[str, str]
    g: list[str]
    arrays: dict[str, np.ndarray] = field(repr=False)


class Results(pd.DataFrame):  # type: ignore[misc]
    """Rows, a number each, with the columns that every table of this project has; filtered, it stays what it is.

    `attrs` holds what was measured: networks with the hashes of their weights and their preprocessing, hashes of the
    images, versions.
    """

    _metadata = ["kept"]

    kept: Sequence[GroupScores] = ()  # what pandas makes of several tables has none

    @property
    def _constructor(self) -> type["Results"]:
        return Results

    @classmethod
    def of(
        cls, network: str, groups: Iterable[Group], measured: Iterable[Measured], about: dict[str, Any]
    ) -> "Results":
        """The results of one network.

        Args:
            network: its name.
            groups: what was measured.
            measured: what each group came to.
            about: for `attrs`.
        """
        rows, kept = [], []
        for group, of_group in zip(groups, measured, strict=True):
            rows += of_group.rows
            told = {"network": network, "layer": group.layer, "grid": group.grid}
            told |= {"map": group.map.map, "solver": group.map.label}
            kept.append(GroupScores(told, list(group.g), of_group.scores))
        return cls.from_parts(to_frame(rows), kept, about)

    @classmethod
    def from_parts(cls, rows: pd.DataFrame, kept: list[GroupScores], about: dict[str, Any]) -> "Results":
        """Results from their rows, the scores of every image, and what `attrs` holds."""
        results = cls(rows)
        results.kept = kept
        results.attrs.update(about)
        return results

    def images(self, g: str, layer: str | None = None) -> pd.DataFrame:
        """The scores of every image under one g, a row an image, split, layer and map.

        Args:
            g: as the column `g` has it: "rotation:10".
            layer: one layer alone; None: all.

        Raises:
            UserError: for a g or layer that was not measured, or scores that are not those that the rows are means of.
        """
        if not self.kept:
            raise UserError(
                "this table has lost the scores of images, as pd.concat loses them; ask the results themselves"
            )
        grid, _, label = str(g).partition(":")
        frames = []
        for of_group in self.kept:
            if (
                of_group.about["grid"] != grid
                or label not in of_group.g
                or layer not in (None, of_group.about["layer"])
            ):
                continue
            j = of_group.g.index(label)
            for split in dict.fromkeys(name.split("/")[0] for name in of_group.arrays):
                scores = {
                    name.split("/")[1]: values[j]
                    for name, values in of_group.arrays.items()
                    if name.split("/")[0] == split and name.count("/") == 1
                }
                self._check(of_group, g, split, digest_of(scores))
                count = len(next(iter(scores.values())))
                frames.append(pd.DataFrame({**of_group.about, "g": g, "split": split, "image": range(count), **scores}))
        if not frames:
            known = sorted(set(self["g"]))
            raise UserError(
                f"g={g!r}, layer={layer!r} was not measured{'' if g in known else nearest(str(g), known)}; there are "
                f"{', '.join(known)} at {', '.join(dict.fromkeys(self['layer']))}"
            )
        return pd.concat(frames, ignore_index=True)

    def _check(self, of_group: GroupScores, g: str, split: str, wanted: str) -> None:
        """Refuse scores that are not those of the rows."""
        about = {key: value for key, value in of_group.about.items() if key != "grid"}
        here = (self[list(about)] == pd.Series(about)).all(axis=1) & (self["g"] == g) & (self["split"] == split)
        here &= self["fit_classes"].isin(["", "all"]) & ~self["metric"].isin(OF_CONTROL)
        if not set(self.loc[here, "scores"]) <= {wanted}:
            raise UserError(f"the scores of {g} are not those that its rows were made from; measure again")

    def plot(self, measure: str | None = None, *, split: str | None = None) -> "Figure":
        """Curves: the score over each grid's axis, a panel a grid and layer, a line a network and way.

        Bands are 95 % intervals over images; what cannot be trusted is left open.

        Args:
            measure: error_rate or l2_distance; None: the first that there is.
            split: the split; None: the one reported on.

        Raises:
            UserError: if nothing of the kind was measured.
        """
        import matplotlib.pyplot as plt  # takes seconds, as seaborn does, and a table need not be drawn
        import seaborn as sns

        rows = curves_of(self, measure, split)
        name = str(rows["metric"].iloc[0])
        hue = "network" if rows["network"].nunique() > 1 else "way"
        colours = dict(zip(rows[hue].unique(), sns.color_palette("colorblind"), strict=False))
        facets = ["layer", "grid"] if rows["layer"].nunique() > 1 else ["grid"]
        grid = sns.relplot(
            data=rows,
            kind="line",
            x="value",
            y="score",
            hue=hue,
            palette=colours,
            style="way",
            col="grid",
            row="layer" if len(facets) > 1 else None,
            markers=True,
            height=3.2,
            facet_kws={"sharex": "col"},
        )
        for key, here in rows.groupby(facets):
            axes = grid.axes_dict[key if len(facets) > 1 else key[0]]
            axes.set_xlabel(str(here["unit"].iloc[0]))
            for (value, _), line in here.groupby([hue, "way"] if hue != "way" else ["way", "network"]):
                ordered = line.sort_values("value")
                band = {"color": colours[value], "alpha": 0.15, "linewidth": 0}
                axes.fill_between(ordered["value"], ordered["low"], ordered["high"], **band)
        grid.set_ylabels(measure_named(name).label)
        figure: Figure = grid.figure
        plt.close(figure)  # a notebook shows what is returned, and not twice
        return figure

    def save(self, folder: str | Path) -> None:
        """Keep the rows, the scores of every image and what was measured in a folder, for `load`.

        Raises:
            UserError: if it cannot be written, or holds other results, or such files of something else.
        """
        place = folder_of(folder)
        if lacking := [name for name in COLUMNS if name not in self]:
            raise UserError(f"this table has no column {lacking[0]} any more; save the results themselves")
        rows = pd.DataFrame(self)[COLUMNS]
        rows = rows.assign(run=rows["run"].replace("", place.name or "results"))  # in a file they name where they are
        self._require_own(place, rows)
        write_rows(place / ROWS, rows)
        arrays = {
            f"{k}/{name}": values for k, of_group in enumerate(self.kept) for name, values in of_group.arrays.items()
        }
        write_arrays(place / SCORES, arrays)
        groups = [{"about": of_group.about, "g": of_group.g} for of_group in self.kept]
        files = {name: digest((place / name).read_bytes()) for name in (ROWS, SCORES)}
        write_facts(place / ABOUT, {"about": self.attrs, "groups": groups, "files": files})

    def _require_own(self, place: Path, rows: pd.DataFrame) -> None:
        """Refuse a folder of something else: what is there is not written over."""
        if not (place / ABOUT).exists():
            there = [name for name in (ROWS, SCORES) if (place / name).exists()]
            if there and not (place / BEGUN).exists():
                raise UserError(f"{place} holds {there[0]} of something else; choose another folder")
            return
        held = load(place)
        if held.attrs != self.attrs or rows_text(pd.DataFrame(held)) != rows_text(rows):
            raise UserError(f"{place} holds other results; choose another folder")


def curves_of(rows: pd.DataFrame, measure: str | None, split: str | None) -> pd.DataFrame:
    """The rows that curves are drawn from, with `grid` and `way` beside them.

    Raises:
        UserError: if there are none.
    """
    if lacking := {"fit_classes", "metric", "split", "status", "map", "solver", "g", "value", "score"} - set(rows):
        raise UserError(f"this table has no column {min(lacking)} any more; draw the results themselves")
    plain = rows[rows["fit_classes"].isin(["", "all"]) & ~rows["metric"].isin(OF_CONTROL)]
    measures = list(dict.fromkeys(plain["metric"]))
    name = measure or (measures[0] if measures else "")
    wanted = split or (plain["split"].iloc[-1] if len(plain) else "")
    chosen = plain[(plain["metric"] == name) & (plain["split"] == wanted) & plain["status"].isin(WITH_SCORE)]
    if chosen.empty:
        raise UserError(f"measure={name!r}, split={wanted!r}: no such rows; there are {', '.join(measures) or 'none'}")
    fitted = (chosen["map"] + ", ").where(chosen["map"] != "residual", "") + chosen["solver"]
    way = np.where(chosen["map"] == "identity", "invariance", "equivariance (" + fitted + ")")
    grids = chosen["g"].str.partition(":")
    places = chosen["value"].where(chosen["value"].notna() | (grids[2] != UNTOUCHED), 0.0)
    frame = pd.DataFrame(chosen).assign(grid=grids[0], way=way, value=places)
    return frame.reset_index(drop=True)


def load(folder: str | Path) -> Results:
    """Results that `Results.save` or `measure_model(keep=…)` left in a folder; of several networks, those of all.

    Raises:
        UserError: if there are none, or they are damaged.
    """
    place = folder_of(folder)
    try:
        if (place / NETWORKS).is_file():
            return joined([load(place_of(place, name)) for name in read_facts(place / NETWORKS)[0]["networks"]])
        facts, sealed = read_facts(place / ABOUT)
        _require_sealed(place, facts if sealed else {})
        rows = read_rows(place / ROWS)
        arrays = read_arrays(place / SCORES)
        kept = [
            GroupScores(
                dict(one["about"]),
                list(one["g"]),
                {name.partition("/")[2]: a for name, a in arrays.items() if name.partition("/")[0] == str(k)},
            )
            for k, one in enumerate(facts["groups"])
        ]
        return Results.from_parts(rows, kept, facts["about"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{place} holds no results; name the folder that they were saved in") from error
    except (DamagedFile, OSError, KeyError, TypeError) as error:
        raise UserError(f"{place} is damaged ({error}); delete it and measure again") from error


def _require_sealed(place: Path, facts: dict[str, Any]) -> None:
    """Refuse rows and scores that are not those of `results.json`."""
    if not isinstance(facts.get("files"), dict):
        raise DamagedFile(f"{ABOUT} is not as it was written")
    for name in (ROWS, SCORES):
        path = place / name
        if not path.is_file() or digest(path.read_bytes()) != facts["files"].get(name):
            raise DamagedFile(f"{name} is not as it was written")


def joined(results: Sequence[Results]) -> Results:
    """Results of several networks as one."""
    about = {"networks": [network for one in results for network in one.attrs["networks"]]}
    about = {**results[0].attrs, **about}
    rows = pd.concat([pd.DataFrame(one) for one in results], ignore_index=True)
    return Results.from_parts(rows, [of_group for one in results for of_group in one.kept], about)

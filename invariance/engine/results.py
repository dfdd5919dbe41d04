"""What a measurement came to, as a table that plots itself, gives the scores of every image, and can be kept."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from invariance.engine.groups import Group, Measured
from invariance.engine.kept import NETWORKS, folder_of, place_of
from invariance.engine.paired import Measurement, compared, told_apart
from invariance.engine.per_image import Arrays, GroupScores, Labels, PerImage, images_of
from invariance.engine.summaries import area, chosen, consistency, plain, worst
from invariance.errors import UserError
from invariance.runs.checked import DamagedFile, digest, read_facts, write_facts
from invariance.runs.files import BEGUN, RESULTS
from invariance.runs.rows import COLUMNS, read_rows, rows_text, to_frame, write_rows
from invariance.runs.scores import read_arrays, write_arrays
from invariance.settings.named import named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = "rows.csv"
SCORES = "scores.npz"
LABELS = "labels"
"""Where the labels stand among the arrays of `SCORES`, before the name of their split."""

PLOTS = {
    "curves": "invariance.reporting.profiles:curves",
    "depth": "invariance.reporting.profiles:depth",
    "heatmap": "invariance.reporting.profiles:heatmap",
}
"""What draws results, by the name that `Results.plot` takes; named, and not imported, as figures are a storey above."""


class Results(pd.DataFrame):  # type: ignore[misc]
    """Rows, a number each, with the columns that every table of this project has; filtered, it stays what it is.

    `attrs` holds what was measured: networks with the hashes of their weights and their preprocessing, hashes of the
    images, versions.
    """

    _metadata = ["kept", "labels"]

    kept: Sequence[GroupScores] = ()  # what pandas makes of several tables has none
    labels: Labels = {}  # noqa: RUF012 - likewise

    @property
    def _constructor(self) -> type["Results"]:
        return Results

    @classmethod
    def of(
        cls,
        network: str,
        groups: Iterable[Group],
        measured: Iterable[Measured],
        about: dict[str, Any],
        labels: Labels | None = None,
    ) -> "Results":
        """The results of one network: layer by layer, in whatever groups their g were taken together.

        Args:
            network: its name.
            groups: what was measured.
            measured: what each group came to.
            about: for `attrs`.
            labels: classes of the images by split, where there are any.
        """
        rows, kept = [], []
        for group, of_group in _in_order(list(zip(groups, measured, strict=True))):
            rows += of_group.rows
            told = {"network": network, "layer": group.layer, "grid": group.grid}
            told |= {"map": group.map.map, "solver": group.map.label}
            kept.append(GroupScores(told, list(group.g), of_group.scores))
        return cls.from_parts(to_frame(rows), kept, about, labels)

    @classmethod
    def from_parts(
        cls, rows: pd.DataFrame, kept: list[GroupScores], about: dict[str, Any], labels: Labels | None = None
    ) -> "Results":
        """Results from their rows, the scores of every image, what `attrs` holds, and the images' classes by split."""
        results = cls(rows)
        results.kept, results.labels = kept, dict(labels or {})
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
        return images_of(self, self.kept, g, layer)

    def plot(
        self,
        what: str | None = None,
        *,
        measure: str | None = None,
        transform: str | None = None,
        way: str | None = None,
        split: str | None = None,
    ) -> "Figure":
        """A figure of these results.

        `curves`: the score over each grid's axis, a panel a grid and layer, a line a network and way. `depth`: the area
        of each family's curve over the layers, as they were given, a line a family; of one `transform` a line a way; of
        one g, as `rotation:30`, its score; a panel a network, the nulls grey, layers that are passed by hollow.
        `heatmap`: layers × families, the areas in numbers, a panel a network.

        Bands are 95 % intervals over images; what cannot be trusted is left out, or a cross.

        Args:
            what: curves, depth or heatmap; or the measure whose curves to draw; None: curves.
            measure: which; None: the first that there is.
            transform: one family, or for `depth` one g.
            way: "identity", or a solver's name; None: for `heatmap`, and `depth` of several families, the identity.
            split: the split; None: the one reported on.

        Raises:
            UserError: if nothing of the kind was measured.
        """
        kind = what if what in PLOTS else "curves"
        if what not in PLOTS and what is not None:
            if measure is not None:
                raise UserError(f"plot({what!r}, measure={measure!r}): give curves, depth or heatmap, or one measure")
            measure = what
        draw = named(PLOTS[kind], "plot")
        figure: Figure = draw(self, measure=measure, transform=transform, way=way, split=split)
        return figure

    def area(self, *, split: str | None = None, intervals: bool = False) -> pd.DataFrame:
        """One number for every curve: a row a network, layer, map, grid and measure.

        The trapezoid of the curve over its axis divided by the axis' range, both signs, without the untouched; the mean
        where the axis only counts, as mirror's does. A curve that lacks a number has none.

        Args:
            split: the split; None: the one reported on.
            intervals: whether to give 95 % intervals over images.
        """
        rows = plain(self, split)
        return area(rows, self.attrs.get("ordinal"), self.per_image(rows) if intervals else None)

    def consistency(self, *, split: str | None = None) -> pd.DataFrame:
        """The share of images that keep their class at every g of a grid, with Wilson's interval.

        Raises:
            UserError: if no classes were named.
        """
        rows = plain(self, split)
        return consistency(rows, self.per_image(rows))

    def worst(
        self, n: int = 12, measure: str | None = None, *, transform: str | None = None, split: str | None = None
    ) -> pd.DataFrame:
        """The images that lose most under the g of a grid: n of every network, layer, map and grid, most first.

        `loss` is how much worse the measure is than untouched, mean over the g; of images that lose as much, those
        first of whose class the network was surer untouched. `image` counts the images reported on.

        Args:
            n: how many images.
            measure: of images; None: agreement, error_rate or l2_distance, the first that there is.
            transform: one family; None: all.
            split: the split; None: the one reported on.

        Raises:
            UserError: if nothing of the kind was measured.
        """
        rows = chosen(plain(self, split), "grid", transform, "transform")
        return worst(rows, self.per_image(rows), measure, n)

    def compare(
        self,
        a: str,
        b: str,
        *,
        other: "Results | None" = None,
        measure: str | None = None,
        layers: Mapping[str, str] | None = None,
        split: str | None = None,
    ) -> pd.DataFrame:
        """Is a more invariant than b? Paired differences for every layer, map, grid and g, with 95 % intervals.

        A row a g, and one of the curve's area (`g` ends in `:area`): the score of a, that of b, their difference, an
        interval that resamples images with what both networks made of them, and in `better` the network of the better
        numbers, empty where the interval holds 0.

        Args:
            a: name of a network.
            b: name of another.
            other: the results that hold b, as those after more training; None: these.
            measure: a measure over images; None: agreement where both have it, else the first that both have.
            layers: which layer of b to set beside which of a; None: those of one name.
            split: the split; None: the one reported on.

        Raises:
            UserError: if the two were not measured on the same images and g, or have nothing in common.
        """
        both = [self._measurement(a, split), (self if other is None else other)._measurement(b, split)]
        return compared(*told_apart(*both, together=other is None), measure, layers)

    def _measurement(self, network: str, split: str | None) -> Measurement:
        """One network of these results."""
        rows = chosen(plain(self, split), "network", network, "network")
        return Measurement(network, network, rows, self.per_image(rows), self.attrs)

    def per_image(self, rows: pd.DataFrame) -> PerImage:
        """The scores of every image of the split that some rows of `summaries.plain` are over."""
        kept, labels = (getattr(self, name, None) for name in self._metadata)  # a frame made anew has neither
        return PerImage(kept or [], labels or {}, str(rows["split"].iloc[0]))

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
        _require_own(self, place, rows)
        write_rows(place / ROWS, rows)
        write_arrays(place / SCORES, _arrays(self))
        groups = [{"about": of_group.about, "g": of_group.g} for of_group in self.kept]
        files = {name: digest((place / name).read_bytes()) for name in (ROWS, SCORES)}
        write_facts(place / RESULTS, {"about": self.attrs, "groups": groups, "files": files})


def _in_order(both: list[tuple[Group, Measured]]) -> list[tuple[Group, Measured]]:
    """Groups of one grid, layer and map behind one another, in the order in which each was begun."""
    begun: dict[tuple[str, bool, str, str], int] = {}

    def place(group: Group) -> int:
        """Of the first group of the same."""
        return begun.setdefault((group.grid, group.size > 0, group.layer, group.map.name), len(begun))

    # grids first, so that several passes over one grid stay together
    grids = list(dict.fromkeys((group.grid, group.size > 0) for group, _ in both))
    for group, _ in both:
        place(group)
    return sorted(both, key=lambda one: (grids.index((one[0].grid, one[0].size > 0)), place(one[0]), one[0].number))


def _require_own(results: Results, place: Path, rows: pd.DataFrame) -> None:
    """Refuse a folder of something else: what is there is not written over."""
    if not (place / RESULTS).exists():
        there = [name for name in (ROWS, SCORES) if (place / name).exists()]
        if there and not (place / BEGUN).exists():
            raise UserError(f"{place} holds {there[0]} of something else; choose another folder")
        return
    held = load(place)
    if held.attrs != results.attrs or rows_text(pd.DataFrame(held)) != rows_text(rows):
        raise UserError(f"{place} holds other results; choose another folder")


def _arrays(results: Results) -> Arrays:
    """The scores of every image by the number of their group, and the labels."""
    arrays = {f"{k}/{name}": a for k, of_group in enumerate(results.kept) for name, a in of_group.arrays.items()}
    return {**arrays, **{f"{LABELS}/{split}": values for split, values in results.labels.items()}}


def load(folder: str | Path) -> Results:
    """Results that `Results.save` or `measure_model(keep=…)` left in a folder; of several networks, those of all.

    Raises:
        UserError: if there are none, or they are damaged.
    """
    place = folder_of(folder)
    try:
        if (place / NETWORKS).is_file():
            return joined([load(place_of(place, name)) for name in read_facts(place / NETWORKS)[0]["networks"]])
        facts, sealed = read_facts(place / RESULTS)
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
        labels = {name.partition("/")[2]: a for name, a in arrays.items() if name.partition("/")[0] == LABELS}
        return Results.from_parts(rows, kept, facts["about"], labels)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{place} holds no results; name the folder that they were saved in") from error
    except (DamagedFile, OSError, KeyError, TypeError) as error:
        raise UserError(f"{place} is damaged ({error}); delete it and measure again") from error


def _require_sealed(place: Path, facts: dict[str, Any]) -> None:
    """Refuse rows and scores that are not those of `results.json`."""
    if not isinstance(facts.get("files"), dict):
        raise DamagedFile(f"{RESULTS} is not as it was written")
    for name in (ROWS, SCORES):
        path = place / name
        if not path.is_file() or digest(path.read_bytes()) != facts["files"].get(name):
            raise DamagedFile(f"{name} is not as it was written")


def joined(results: Sequence[Results]) -> Results:
    """Results of several networks as one."""
    about = dict(results[0].attrs)
    about["networks"] = [network for one in results for network in one.attrs["networks"]]
    about["versions"] = {name: number for one in results for name, number in one.attrs.get("versions", {}).items()}
    rows = pd.concat([pd.DataFrame(one) for one in results], ignore_index=True)
    kept = [of_group for one in results for of_group in one.kept]
    return Results.from_parts(rows, kept, about, results[0].labels)

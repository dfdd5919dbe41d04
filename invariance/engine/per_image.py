"""The scores of every image that results keep, and what measures say of each image by them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from invariance.engine.scoring import Scores, digest_of, mean_of
from invariance.errors import UserError, nearest
from invariance.measures import INDEX_NAMES
from invariance.runs.rows import OF_CONTROL
from invariance.transforms.base import UNTOUCHED

OF = ("network", "layer", "map", "solver", "grid")
"""What a curve is of."""

Of = tuple[str, ...]
"""Values of `OF`."""

Arrays = dict[str, NDArray[Any]]
Labels = Mapping[str, NDArray[np.int64]]
"""(n,) classes of images by split, −1 where there is none; a split without labels is not there."""


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


@dataclass(frozen=True)
class PerImage:
    """What was found of every image of a split.

    Attributes:
        kept: the scores, in groups of g.
        labels: the images' classes.
        split: the split.
    """

    kept: Sequence[GroupScores]
    labels: Labels
    split: str

    def g_of(self, of: Of) -> list[str]:
        """Labels of the g that a curve has scores at."""
        return [label for part in self._parts(of) for label in part.g]

    def holds(self, of: Of) -> bool:
        """Whether there are scores of a curve."""
        return tuple(of) in self._by_curve

    def counts(self, network: str) -> set[int]:
        """How many images a network's scores are of."""
        arrays = [part.arrays for part in self.kept if part.about["network"] == network]
        prefix = f"{self.split}/"
        return {one.shape[1] for of_part in arrays for name, one in of_part.items() if name.startswith(prefix)}

    def values(self, of: Of, g: Sequence[str], measure: str) -> NDArray[np.float64]:
        """What a measure says of every image, (g, n); NaN where an image is left out.

        Args:
            of: the curve, as `OF` has it.
            g: labels of the g.
            measure: a measure over images.

        Raises:
            UserError: if the scores that it takes were not kept.
        """
        untouched = self._untouched(of) if measure in ("agreement", "effective_invariance") else None
        labels = self.labels.get(self.split)
        if measure == "error_rate" and labels is None:
            raise UserError("error_rate of single images: these results keep no labels; measure again, with labels=")
        found = []
        for label in g:
            scores = self._scores(of, label)
            if measure not in scores and "predicted" not in scores:
                raise UserError(f"{measure} of single images at layer {of[1]}: no class was named there; measure it")
            one = next(iter(scores.values()))
            found.append(mean_of(scores, measure, np.full(len(one), -1) if labels is None else labels, untouched))
        return np.stack(found)

    def predicted(self, of: Of, g: Sequence[str]) -> tuple[NDArray[np.int64], Scores]:
        """The classes that are named under some g, (g, n), and the scores untouched, without a map.

        Raises:
            UserError: if they were not kept.
        """
        untouched = self._untouched(of)
        return np.stack([self._scores(of, label)["predicted"] for label in g]).astype(np.int64), untouched

    def named_among(self, of: Of, g: str) -> NDArray[np.int64]:
        """The class that is named under a g among those that the images have, (n,).

        Raises:
            UserError: if it was not kept.
        """
        scores = self._scores(of, g)
        if "among" not in scores:
            raise UserError(f"layer {of[1]}: no class was named there; measure agreement or error_rate")
        return scores["among"].astype(np.int64)

    def named(self, of: Of) -> bool:
        """Whether classes were named for a curve, and untouched without a map."""
        plain = self._without_map(of)
        return all(any(self._name("predicted") in part.arrays for part in self._parts(one)) for one in (of, plain))

    def _untouched(self, of: Of) -> Scores:
        plain = self._without_map(of)
        if UNTOUCHED not in self.g_of(plain) or not self.named(of):
            raise UserError(
                f"layer {of[1]}: the classes named for untouched images are not there; measure agreement, with "
                "identity among maps="
            )
        return self._scores(plain, UNTOUCHED)

    def _without_map(self, of: Of) -> Of:
        return (of[0], of[1], "identity", "", of[4])

    def _scores(self, of: Of, label: str) -> Scores:
        """Scores of every image at one g."""
        for part in self._parts(of):
            if label in part.g:
                j, prefix = part.g.index(label), f"{self.split}/"
                return {
                    name.removeprefix(prefix): values[j]
                    for name, values in part.arrays.items()
                    if name.startswith(prefix) and name.count("/") == 1
                }
        raise UserError(f"{of[4]}:{label} at layer {of[1]}: no scores of single images were kept; measure again")

    def _parts(self, of: Of) -> Iterator[GroupScores]:
        return iter(self._by_curve.get(of, ()))

    @cached_property
    def _by_curve(self) -> dict[Of, list[GroupScores]]:
        found: dict[Of, list[GroupScores]] = {}
        for part in self.kept:
            found.setdefault(tuple(part.about[name] for name in OF), []).append(part)
        return found

    def _name(self, name: str) -> str:
        return f"{self.split}/{name}"


def images_of(rows: pd.DataFrame, kept: Sequence[GroupScores], g: str, layer: str | None) -> pd.DataFrame:
    """The scores of every image under one g, a row an image, split, layer and map; NA where one was not wanted.

    Args:
        rows: the rows that are means of them.
        kept: the scores.
        g: as the column `g` has it.
        layer: one layer alone; None: all.

    Raises:
        UserError: for a g or layer that was not measured, or scores that are not those that the rows are means of.
    """
    if not kept:
        raise UserError("this table has lost the scores of images, as pd.concat loses them; ask the results themselves")
    grid, _, label = str(g).partition(":")
    frames = []
    for of_group in kept:
        if of_group.about["grid"] != grid or label not in of_group.g or layer not in (None, of_group.about["layer"]):
            continue
        j = of_group.g.index(label)
        for split in dict.fromkeys(name.split("/")[0] for name in of_group.arrays):
            scores = {
                name.split("/")[1]: values[j]
                for name, values in of_group.arrays.items()
                if name.split("/")[0] == split and name.count("/") == 1
            }
            _check(rows, of_group, g, split, digest_of(scores))
            count = len(next(iter(scores.values())))
            frames.append(pd.DataFrame({**of_group.about, "g": g, "split": split, "image": range(count), **scores}))
    if not frames:
        known = sorted(set(rows["g"]))
        raise UserError(
            f"g={g!r}, layer={layer!r} was not measured{'' if g in known else nearest(str(g), known)}; there are "
            f"{', '.join(known)} at {', '.join(dict.fromkeys(rows['layer']))}"
        )
    told = pd.concat(frames, ignore_index=True)
    for name in told.columns.intersection(["predicted", "among"]):  # of fit images there may be distances alone
        if told[name].isna().any():
            told[name] = told[name].astype("Int32")
    return told


def _check(rows: pd.DataFrame, of_group: GroupScores, g: str, split: str, wanted: str) -> None:
    """Refuse scores that are not those of the rows."""
    about = {key: value for key, value in of_group.about.items() if key != "grid"}
    here = (rows[list(about)] == pd.Series(about)).all(axis=1) & (rows["g"] == g) & (rows["split"] == split)
    here &= rows["fit_classes"].isin(["", "all"]) & ~rows["metric"].isin([*OF_CONTROL, *INDEX_NAMES])
    if not set(rows.loc[here, "scores"]) <= {wanted}:
        raise UserError(f"the scores of {g} are not those that its rows were made from; measure again")

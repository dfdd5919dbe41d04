"""From what was computed of pairs of networks or layers to their rows (Sec. 5.3; Eq. 4, 9)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from invariance.engine.comparing import INDICES, SIDES, Result
from invariance.maps.spec import MapSpec
from invariance.measures import Measure
from invariance.measures.bootstrap import Interval, bootstrap
from invariance.runs.rows import Row

FITS = "source,target,status,error,reference,strength\n"
"""Columns of `fits.csv`: mean squared error over the fit images, that of the targets' mean, and ridge's strength."""

Pair = tuple[str, str]
"""Labels of two sources, the earlier one first."""


@dataclass(frozen=True)
class RowNames:
    """How rows name one of what is compared.

    Attributes:
        network: name of the network.
        layer: where φ ends.
        g: how it is named as a target.
        data: name of the data set.
        family: the family of transformations that the network was trained with.
        range: the trained range as text.
        seed: seed of its training.
        model: its source and name, where it was not trained here.
        readout: how the layer becomes a vector, where that is told.
    """

    network: str
    layer: str
    g: str
    data: str = ""
    family: str = ""
    range: str = ""
    seed: int = 0
    model: str = ""
    readout: str = ""


class PairRows:
    """Makes the rows of pairs; of each pair what is named first comes first.

    Args:
        named: how rows name what is compared, by label, in order.
        splits: names of the images to fit on and of those to report on.
        counts: how many fit and report images there are.
        indices: the measures that need no fit.
        run: name of the run that a pair's rows of one kind (a fit's name, or `INDICES`) are in.
    """

    def __init__(
        self,
        named: Mapping[str, RowNames],
        splits: tuple[str, str],
        counts: tuple[int, int],
        indices: Sequence[Measure] = (),
        run: Callable[[Pair, str], str] = lambda _pair, _kind: "",
    ) -> None:
        self._named, self._indices, self._run = named, indices, run
        self._order = {label: place for place, label in enumerate(named)}
        self._splits = dict(zip(SIDES, splits, strict=True))
        self._counts = dict(zip(SIDES, counts, strict=True))

    def of_fit(self, fit: MapSpec, computed: dict[Pair, tuple[Result, Result]]) -> dict[Pair, list[Row]]:
        """One-way distances in both directions, their mean (Eq. 4) and their difference (Eq. 9), over both splits.

        Args:
            fit: the map and its solver.
            computed: of every pair (a, b) what came of a → b and of b → a. All are resampled together.
        """
        rows: dict[Pair, list[Row]] = {pair: [] for pair in computed}
        n = len(computed)
        # the rows of values are a → b and b → a of every pair in turn
        combine = np.concatenate([np.eye(2 * n), np.kron(np.eye(n), [[0.5, 0.5]]), np.kron(np.eye(n), [[1.0, -1.0]])])
        for side in SIDES:
            values = np.stack(
                [
                    np.where(one["status"] == "ok", one[side].astype(np.float64), math.nan)
                    for both in computed.values()
                    for one in both
                ]
            )
            ends = bootstrap(values, combine=combine.tolist())
            for p, (pair, both) in enumerate(computed.items()):
                there, back = (str(one["status"]) for one in both)
                worse = there if there != "ok" else back
                for k, metric, status, way in (
                    (2 * p, "l2_distance", there, pair),
                    (2 * p + 1, "l2_distance", back, pair[::-1]),
                    (2 * n + p, "l2_distance_mean", worse, pair),
                    (3 * n + p, "l2_distance_difference", worse, pair),
                ):
                    rows[pair].append(self._row(way, fit, side, metric, status, ends, k))
        return rows

    def of_indices(self, computed: dict[Pair, tuple[Result, Result]]) -> dict[Pair, list[Row]]:
        """The indices over the report split; they have no intervals.

        Args:
            computed: of every pair (a, b) what came of a → b and of b → a.
        """
        rows = {}
        for pair, (there, back) in computed.items():
            found = [(pair, one.name, float(there[one.name])) for one in self._indices]
            found += [(pair[::-1], one.name, float(back[one.name])) for one in self._indices if one.directed]
            rows[pair] = [
                self._row(way, None, "report", name, "ok" if math.isfinite(score) else "undefined", score)
                for way, name, score in found
            ]
        return rows

    def of_flawed(self, pair: Pair, fit: MapSpec | None, flaw: str) -> list[Row]:
        """The rows of a pair of which nothing can be said.

        Args:
            pair: the pair (a, b).
            fit: the map and its solver; None: the indices.
            flaw: why, the status of the rows.
        """
        ways = (pair, pair[::-1])
        named = [("l2_distance", ways), ("l2_distance_mean", ways[:1]), ("l2_distance_difference", ways[:1])]
        if fit is None:
            named = [(one.name, ways if one.directed else ways[:1]) for one in self._indices]
        return [
            self._row(way, fit, side, metric, flaw)
            for side in (SIDES[1:] if fit is None else SIDES)
            for metric, of in named
            for way in of
        ]

    def _row(
        self,
        way: Pair,
        fit: MapSpec | None,
        side: str,
        metric: str,
        status: str,
        found: Interval | float = math.nan,
        k: int = 0,
    ) -> Row:
        """One row; `found` is a number, or the means of which number k is its own."""
        source, target = (self._named[label] for label in way)
        used = self._counts[side]
        score, low, high = math.nan, math.nan, math.nan
        if status == "ok" and isinstance(found, Interval):
            score, low, high = float(found.mean[k]), float(found.low[k]), float(found.high[k])
            used = int(found.n_used[k])
        elif status == "ok" and not isinstance(found, Interval):
            score = found
        a, b = sorted(way, key=self._order.__getitem__)
        return Row(
            stage="distance",
            data=source.data,
            network=source.network,
            family=source.family,
            range=source.range,
            seed=source.seed,
            layer=source.layer,
            g=target.g,
            split=self._splits[side],
            map=fit.map if fit else "",
            solver=fit.label if fit else "",
            metric=metric,
            score=score,
            low=low,
            high=high,
            n_images=used,
            status=status,
            run=self._run((a, b), fit.name if fit else INDICES),
            model=source.model,
            readout=source.readout,
        )


def account(pair: Pair, both: tuple[Result, Result]) -> str:
    """How the fits of a pair ended, as `fits.csv` holds it."""
    lines = [FITS]
    for (source, target), one in zip((pair, pair[::-1]), both, strict=True):
        strength = "" if math.isnan(one["strength"]) else f"{one['strength']:g}"
        lines.append(f"{source},{target},{one['status']},{one['error']:.9g},{one['reference']:.9g},{strength}\n")
    return "".join(lines)

"""From what was computed of pairs of networks to their rows (Sec. 5.3; Eq. 4, 9)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from invariance.engine.store import Images
from invariance.maps.spec import Fit
from invariance.measures import INDEX_NAMES
from invariance.measures.bootstrap import Interval, bootstrap
from invariance.runs.rows import Row
from invariance.training.trained import Network

FITS = "source,target,status,error,reference,strength\n"
"""Columns of `fits.csv`: mean squared error over the fit images, that of the targets' mean, and ridge's strength."""

INDICES = "indices"
"""Name of the runs that hold the indices of a pair."""

Result = dict[str, Any]
"""What was computed from one source: arrays by name, one entry a target; or one target's part of it.

Of a fit: `fit` and `report`, L_L2 of every image; `status`, `error`, `reference`, `strength`. Of the indices: each by
its name.
"""

Pair = tuple[str, str]
"""Labels of two networks, the lesser first."""


@dataclass(frozen=True)
class Member:
    """A network of the set.

    Attributes:
        network: the trained network.
        images: which images its features are of.
    """

    network: Network
    images: Images

    @property
    def label(self) -> str:
        """Its name among the networks of its data set, as `rotation_20/seed0`."""
        return self.network.name.split("/", 1)[1]

    @property
    def slug(self) -> str:
        """The label as a part of a folder's name."""
        return self.label.replace("/", "-")


def run_name(a: Member, b: Member, kind: str) -> str:
    """Name of the run that holds a pair's rows of one kind: a fit's name, or `indices`."""
    data = a.network.name.split("/", 1)[0]
    return f"distance/{data}/{a.slug}+{b.slug}/{kind}"


class PairRows:
    """Makes the rows of pairs; of each pair the network of the lesser label comes first.

    Args:
        members: the networks by label.
        layer: where φ ends.
        counts: how many fit and report images there are.
    """

    def __init__(self, members: dict[str, Member], layer: str, counts: tuple[int, int]) -> None:
        self.members, self.layer = members, layer
        self.counts = dict(zip(("fit", "report"), counts, strict=True))

    def of_fit(self, fit: Fit, computed: dict[Pair, tuple[Result, Result]]) -> dict[Pair, list[Row]]:
        """One-way distances in both directions, their mean (Eq. 4) and their difference (Eq. 9), over both splits.

        Args:
            fit: the map and its solver.
            computed: of every pair (a, b) what came of a → b and of b → a. All are resampled together.
        """
        rows: dict[Pair, list[Row]] = {pair: [] for pair in computed}
        n = len(computed)
        # the rows of values are a → b and b → a of every pair in turn
        combine = np.concatenate([np.eye(2 * n), np.kron(np.eye(n), [[0.5, 0.5]]), np.kron(np.eye(n), [[1.0, -1.0]])])
        for side in ("fit", "report"):
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
            found = [(pair, name, float(there[name])) for name in INDEX_NAMES]
            found.append((pair[::-1], "r2", float(back["r2"])))
            rows[pair] = [
                self._row(way, None, "report", name, "ok" if math.isfinite(score) else "undefined", score)
                for way, name, score in found
            ]
        return rows

    def of_flawed(self, pair: Pair, fit: Fit | None, flaw: str) -> list[Row]:
        """The rows of a pair of which nothing can be said.

        Args:
            pair: the pair (a, b).
            fit: the map and its solver; None: the indices.
            flaw: why, the status of the rows.
        """
        ways = (pair, pair[::-1])
        named = [("l2_distance", ways), ("l2_distance_mean", ways[:1]), ("l2_distance_difference", ways[:1])]
        if fit is None:
            named = [(name, ways if name == "r2" else ways[:1]) for name in INDEX_NAMES]
        return [
            self._row(way, fit, side, metric, flaw)
            for side in (("report",) if fit is None else ("fit", "report"))
            for metric, of in named
            for way in of
        ]

    def _row(
        self,
        way: Pair,
        fit: Fit | None,
        side: str,
        metric: str,
        status: str,
        found: Interval | float = math.nan,
        k: int = 0,
    ) -> Row:
        """One row; `found` is a number, or the means of which number k is its own."""
        source, target = (self.members[label] for label in way)
        trained, used = source.network.config, self.counts[side]
        score, low, high = math.nan, math.nan, math.nan
        if status == "ok" and isinstance(found, Interval):
            score, low, high = float(found.mean[k]), float(found.low[k]), float(found.high[k])
            used = int(found.n_used[k])
        elif status == "ok" and not isinstance(found, Interval):
            score = found
        reach = trained["transform"].get("range")
        a, b = sorted(way)
        return Row(
            stage="distance",
            data=source.images.prepared.name,
            network=trained["name"],
            family=trained["transform"]["name"],
            range="" if reach is None else str(reach),
            seed=trained["seed"],
            layer=self.layer,
            g=f"network:{target.label}",
            split=source.images.fit_split if side == "fit" else source.images.report_split,
            map=fit.map if fit else "",
            solver=fit.label if fit else "",
            metric=metric,
            score=score,
            low=low,
            high=high,
            n_images=used,
            status=status,
            run=run_name(self.members[a], self.members[b], fit.name if fit else INDICES),
        )


def account(pair: Pair, both: tuple[Result, Result]) -> str:
    """How the fits of a pair ended, as `fits.csv` holds it."""
    lines = [FITS]
    for (source, target), one in zip((pair, pair[::-1]), both, strict=True):
        strength = "" if math.isnan(one["strength"]) else f"{one['strength']:g}"
        lines.append(f"{source},{target},{one['status']},{one['error']:.9g},{one['reference']:.9g},{strength}\n")
    return "".join(lines)

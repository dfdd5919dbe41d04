"""From rows to what finetuning did (Sec. 6.3, B.4): accuracies before and after, over G and over the family's grid."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from invariance.errors import UserError
from invariance.reporting.curves import Fit, fit_title, natural
from invariance.reporting.grids import GridFacts, GridKey, grid_label, grid_name, shortened, unfit
from invariance.reporting.rows import Collected
from invariance.reporting.table import GAP
from invariance.runs.run import PROVENANCE
from invariance.transforms.base import UNTOUCHED

NO_MAP: Fit = ("identity", "")
LEARNED: Fit = ("residual", "joint")

_PLACE = ["network", "seed", "grid", "map", "solver", "g"]
"""What a number is of."""


@dataclass(frozen=True)
class Finetuning:
    """One network that was finetuned.

    Attributes:
        network: its name before.
        finetuned: its name after.
        name: what the finetuning is called.
        family: the family of G.
        grid: name of G's grid.
        seed: the network's seed.
        lambda3: λ3.
        weights: λ1 and λ2.
        labels: G.
        setting: recipe and precision as text.
        run: its run.
    """

    network: str
    finetuned: str
    name: str
    family: str
    grid: str
    seed: int
    lambda3: float
    weights: tuple[float, float]
    labels: tuple[str, ...]
    setting: str
    run: str


class Spread(NamedTuple):
    """Mean and sample standard deviation of a number over seeds: NaN where a seed has none, or there is one alone."""

    mean: float
    sd: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Of one value a seed."""
        held = np.array(list(values), dtype=np.float64)
        return cls(float(held.mean()), float(held.std(ddof=1)) if len(held) > 1 else float("nan"))

    def told(self, *, signed: bool = False, digits: int = 2) -> str:
        """Mean ± standard deviation; a gap where there is no mean."""
        if np.isnan(self.mean):
            return GAP
        mean = f"{self.mean:+.{digits}f}" if signed else f"{self.mean:.{digits}f}"
        return mean if np.isnan(self.sd) else f"{mean} ± {self.sd:.{digits}f}"

    def columns(self, after: bool, fit: Fit) -> dict[str, object]:
        """The two columns of a table's numbers, as of before or after through a map."""
        key = f"{'finetuned' if after else 'original'}_{'_'.join(filter(None, fit))}"
        return {key: self.mean, f"{key}_sd": self.sd}


@dataclass(frozen=True)
class FinetunedNetworks:
    """Every network of a data set that was finetuned at one layer.

    Attributes:
        data: name of the data set.
        layer: where φ ends.
        images: how many images the numbers are over.
        split: of which split.
        all: the finetunings.
        fits: the maps that were measured through, no map first.
        grids: the measured grids.
        numbers: by network, seed, grid, map, solver and g: `accuracy` in percent, `half`, the half-width of its
            interval over images, `l2_distance`, and the `run`; NaN where there is none or it is not to be trusted.
    """

    data: str
    layer: str = ""
    images: int = 0
    split: str = ""
    all: tuple[Finetuning, ...] = ()
    fits: tuple[Fit, ...] = (NO_MAP,)
    grids: dict[GridKey, GridFacts] = field(default_factory=dict)
    numbers: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["accuracy", "l2_distance"]))

    def has(self, metric: str) -> bool:
        """Whether there is any number of `accuracy` or of `l2_distance`."""
        return bool(self.numbers[metric].notna().any())

    def groups(self) -> list[tuple[str, str, list[Finetuning]]]:
        """Finetunings of one name and one network, over its seeds: (name, network, those)."""

        def key(one: Finetuning) -> tuple[object, ...]:
            return natural(one.name), one.name, one.family, one.network

        held = [list(ones) for _, ones in groupby(sorted(self.all, key=key), key)]
        return [(ones[0].name, ones[0].network, ones) for ones in held]

    def sweeps(self) -> list[list[Finetuning]]:
        """Finetunings that differ in λ3 and the seed alone: of one network, one G, one recipe, one λ1 and λ2."""
        found: dict[tuple[object, ...], list[Finetuning]] = {}
        for one in self.all:
            found.setdefault((one.network, one.grid, one.setting, one.weights), []).append(one)
        return list(found.values())

    def at(self, one: Finetuning, after: bool, fit: Fit, labels: Sequence[str] = (), grid: str = "") -> pd.DataFrame:
        """The numbers of a network before or after through a map: a row for every g of G, or for others of a grid."""
        place = (one.finetuned if after else one.network, one.seed, grid or one.grid, *fit)
        none = pd.DataFrame(columns=self.numbers.columns, dtype=np.float64)
        return self._by_place.get(place, none).reindex(list(labels or one.labels))

    @cached_property
    def _by_place(self) -> dict[Any, pd.DataFrame]:
        """The numbers by all but their g, which are looked up by the thousand."""
        return {place: part.droplevel(_PLACE[:-1]) for place, part in self.numbers.groupby(_PLACE[:-1])}

    def over_g(self, one: Finetuning, after: bool, fit: Fit, of: str = "accuracy") -> float:
        """The mean of a number over G through a map; NaN where any g has none."""
        return float(self.at(one, after, fit)[of].to_numpy().mean())

    def untouched(self, one: Finetuning, after: bool) -> float:
        """Accuracy on untouched images, in percent."""
        return float(self.at(one, after, NO_MAP, (UNTOUCHED,))["accuracy"].iloc[0])

    def best_before(self, one: Finetuning) -> tuple[Fit, float]:
        """The fitted map (no map where none is) of the best mean accuracy over G that the network had, and that."""
        fits = [fit for fit in self.fits if fit != NO_MAP] or [NO_MAP]
        held = {fit: self.over_g(one, False, fit) for fit in fits}
        best = max(fits, key=lambda fit: np.nan_to_num(held[fit], nan=-np.inf))
        return best, held[best]

    def whole_grid(self, one: Finetuning) -> GridFacts | None:
        """The family's grid, if it was measured before and after."""
        own, networks = one.grid.rpartition("_G")[0], (one.network, one.finetuned)
        before, after = (self.grids.get(GridKey("finetune", self.data, name, one.seed, own)) for name in networks)
        return before if after else None

    def in_g(self, one: Finetuning) -> set[str]:
        """Hashes of the parameters of G, by which its g are known in other grids."""
        facts = self.grids.get(GridKey("finetune", self.data, one.finetuned, one.seed, one.grid))
        return {point.params for point in facts.points if point.label in one.labels} if facts else set()


def studies(collected: Collected) -> list[FinetunedNetworks]:
    """What was finetuned, one entry a data set and layer."""
    found = []
    for (data, layer), group in collected.reported("finetune").groupby(["data", "layer"], sort=True):
        trained = group[(group["g"] == "") & (group["metric"] == "error_rate")]
        everything = [
            _finetuning(str(network), int(seed), str(run), held)
            for network, seed, run in trained[["network", "seed", "run"]].itertuples(index=False, name=None)
            if isinstance(held := collected.runs[run].provenance.get("joint"), dict)
        ]
        over = group[group["g"] != ""]
        trusted = over[(over["status"] == "ok") & over["score"].notna()]
        if not everything or trusted.empty:
            continue
        shown = trusted[trusted["metric"].isin(("error_rate", "l2_distance"))]
        fits = set(shown[["map", "solver"]].itertuples(index=False, name=None))
        found.append(
            FinetunedNetworks(
                data=str(data),
                layer=str(layer),
                images=int(trusted["n_images"].max()),
                split=str(trusted["split"].iloc[0]),
                all=tuple(sorted(everything, key=lambda one: (one.family, natural(one.finetuned), one.seed))),
                fits=tuple(sorted(fits - {LEARNED}, key=lambda fit: (fit != NO_MAP, fit))),
                grids=collected.grids,
                numbers=_numbers(over),
            )
        )
    return found


def _numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows over g as `FinetunedNetworks.numbers` has them."""
    rows = rows.assign(grid=grid_name(rows["g"]), g=grid_label(rows["g"]))
    rows = rows.drop_duplicates([*_PLACE, "metric"], keep="last").set_index(_PLACE)
    trusted = rows[(rows["status"] == "ok") & rows["score"].notna()]
    errors, far = (trusted[trusted["metric"] == name] for name in ("error_rate", "l2_distance"))
    accuracy, half = 100 * (1 - errors["score"]), 50 * (errors["high"] - errors["low"])
    numbers = {"accuracy": accuracy, "half": half, "l2_distance": far["score"]}
    return pd.DataFrame({**numbers, "run": trusted.groupby(_PLACE)["run"].last()}, index=rows.index.unique())


def _finetuning(network: str, seed: int, run: str, held: dict[str, Any]) -> Finetuning:
    """A finetuning as its run's provenance describes it."""
    try:
        if why := unfit(str(held["name"])):
            raise ValueError(f"{shortened(str(held['name']))!r}: {why}")
        return Finetuning(
            str(held["network"]).split("/")[1],
            network,
            str(held["name"]),
            str(held["family"]),
            str(held["grid"]),
            seed,
            float(held["lambda3"]),
            (float(held["lambda1"]), float(held["lambda2"])),
            tuple(str(label) for label in held["g"]),
            str(held.get("setting", "")),
            run,
        )
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{run}/{PROVENANCE} does not describe a finetuning ({error}); delete its folder and repeat the run"
        ) from error


def of_every_weight(ones: list[Finetuning]) -> list[Finetuning]:
    """Those of a sweep whose seed has as many λ3 as any."""
    each = Counter(seed for seed, _ in {(one.seed, one.lambda3) for one in ones})
    return [one for one in ones if each[one.seed] == max(each.values())]


def way(fit: Fit) -> str:
    """Through what, for people."""
    return "learned M_g" if fit == LEARNED else fit_title(fit).replace("residual map, ", "M_g, ")

"""From rows to what finetuning did (Sec. 6.3, B.4): accuracies before and after, over G and over the family's grid."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

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


Place = tuple[str, int, str, str, Fit]
"""Network, seed, grid, g and map."""


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

    def place(self, after: bool, grid: str, label: str, fit: Fit) -> Place:
        """What a number before or after is of."""
        return (self.finetuned if after else self.network, self.seed, grid, label, fit)


@dataclass(frozen=True)
class Spread:
    """A number over seeds: NaN where a seed has none.

    Attributes:
        mean: the mean.
        sd: the sample standard deviation; NaN for a single seed.
        n: how many seeds.
    """

    mean: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Of one value a seed."""
        held = np.array(list(values), dtype=np.float64)
        sd = float(held.std(ddof=1)) if len(held) > 1 else float("nan")
        return cls(float(held.mean()) if len(held) else float("nan"), sd, len(held))

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
        grids: the grids, by data, network, seed and name.
        scores: accuracies in percent, by network, seed, grid, g and map.
        far: L_L2, by the same.
        asked: through which maps each finetuned network was to be measured, by network and seed, whatever came of it.
        runs: the run of each number, by the same.
        halves: half-widths of the accuracies' intervals over images, by the same.
    """

    data: str
    layer: str
    images: int
    split: str
    all: tuple[Finetuning, ...]
    fits: tuple[Fit, ...]
    grids: dict[GridKey, GridFacts]
    scores: dict[Place, float]
    far: dict[Place, float]
    asked: frozenset[tuple[str, int, Fit]]
    runs: dict[Place, str]
    halves: dict[Place, float] = field(default_factory=dict)

    def groups(self) -> list[tuple[str, str, list[Finetuning]]]:
        """Finetunings of one name and one network, over its seeds: (name, network, those)."""
        keys = sorted({(one.name, one.family, one.network) for one in self.all}, key=lambda k: (natural(k[0]), k[1:]))
        return [
            (name, network, [one for one in self.all if (one.name, one.family, one.network) == (name, family, network)])
            for name, family, network in keys
        ]

    def sweeps(self) -> list[list[Finetuning]]:
        """Finetunings that differ in λ3 and the seed alone: of one network, one G, one recipe, one λ1 and λ2."""
        found: dict[tuple[object, ...], list[Finetuning]] = {}
        for one in self.all:
            found.setdefault((one.network, one.grid, one.setting, one.weights), []).append(one)
        return list(found.values())

    def accuracy(self, one: Finetuning, after: bool, grid: str, label: str, fit: Fit) -> float:
        """Accuracy in percent of a network before or after; NaN where it is missing or not to be trusted."""
        return self.scores.get(one.place(after, grid, label, fit), float("nan"))

    def far_over_g(self, one: Finetuning, after: bool, fit: Fit) -> float:
        """Mean L_L2 over G; NaN where any g has none."""
        return _mean(self.far, one, after, fit)

    def has_number(self, one: Finetuning, after: bool, label: str, fit: Fit) -> bool:
        """Whether a g of G has its number: an accuracy, or where none was measured at all, an L_L2."""
        return one.place(after, one.grid, label, fit) in (self.scores or self.far)

    def was_asked(self, one: Finetuning, fit: Fit) -> bool:
        """Whether a finetuned network was to be measured through a map."""
        return (one.finetuned, one.seed, fit) in self.asked

    def run(self, one: Finetuning, after: bool, grid: str, label: str, fit: Fit) -> tuple[str, ...]:
        """The run of a number; empty where there is none."""
        run = self.runs.get(one.place(after, grid, label, fit))
        return (run,) if run else ()

    def untouched(self, one: Finetuning, after: bool) -> float:
        """Accuracy on untouched images, in percent."""
        return self.accuracy(one, after, one.grid, UNTOUCHED, NO_MAP)

    def over_g(self, one: Finetuning, after: bool, fit: Fit) -> float:
        """Mean accuracy over G through a map, in percent; NaN where any g has none."""
        return _mean(self.scores, one, after, fit)

    def best_fit_before(self, one: Finetuning) -> Fit:
        """The fitted map of the best mean accuracy over G that the network had before (no map where none is fitted)."""
        held = {fit: self.over_g(one, False, fit) for fit in self.fits if fit != NO_MAP}
        there = {fit: value for fit, value in held.items() if not np.isnan(value)}
        return max(there, key=lambda fit: there[fit]) if there else next(iter(held), NO_MAP)

    def best_before(self, one: Finetuning) -> float:
        """The best mean accuracy over G that the network had before, through any fitted map (no map where none is)."""
        return self.over_g(one, False, self.best_fit_before(one))

    def half_over_g(self, one: Finetuning, after: bool, fit: Fit) -> float:
        """Half-width of `over_g`'s interval over images, the g taken as wholly dependent; NaN where any g has none."""
        return _mean(self.halves, one, after, fit)

    def whole_grid(self, one: Finetuning) -> GridFacts | None:
        """The family's grid, if it was measured before and after."""
        own = one.grid.rpartition("_G")[0]
        if GridKey(self.data, one.finetuned, one.seed, own) not in self.grids:
            return None
        return self.grids.get(GridKey(self.data, one.network, one.seed, own))

    def in_g(self, one: Finetuning) -> set[str]:
        """Hashes of the parameters of G, by which its g are known in other grids."""
        facts = self.grids.get(GridKey(self.data, one.finetuned, one.seed, one.grid))
        return {point.params for point in facts.points if point.label in one.labels} if facts else set()


def _mean(numbers: Mapping[Place, float], one: Finetuning, after: bool, fit: Fit) -> float:
    """The mean of a number over G; NaN where any g has none."""
    return float(np.mean([numbers.get(one.place(after, one.grid, g, fit), float("nan")) for g in one.labels]))


def studies(collected: Collected) -> list[FinetunedNetworks]:
    """What was finetuned, one entry a data set and layer."""
    found = []
    for (data, layer), group in collected.reported("finetune").groupby(["data", "layer"], sort=True):
        trained = group[(group["g"] == "") & (group["metric"] == "error_rate")]
        over = group[group["g"] != ""]
        asked = over[["network", "seed", "map", "solver"]].drop_duplicates().itertuples(index=False, name=None)
        measured = over[(over["status"] == "ok") & over["score"].notna()]
        everything = [
            _finetuning(str(network), int(seed), str(run), held)
            for network, seed, run in trained[["network", "seed", "run"]].itertuples(index=False, name=None)
            if isinstance(held := collected.runs[run].provenance.get("joint"), dict)
        ]
        if not everything or measured.empty:
            continue
        errors, far = (measured[measured["metric"] == name] for name in ("error_rate", "l2_distance"))
        scores, distances = _by_place(errors, 100 * (1 - errors["score"])), _by_place(far, far["score"])
        fits = {fit for *_, fit in (*scores, *distances)}
        found.append(
            FinetunedNetworks(
                data=str(data),
                layer=str(layer),
                images=int(measured["n_images"].max()),
                split=str(measured["split"].iloc[0]),
                all=tuple(sorted(everything, key=lambda one: (one.family, natural(one.finetuned), one.seed))),
                fits=tuple(sorted(fits - {LEARNED}, key=lambda fit: (fit != NO_MAP, fit))),
                grids={key: facts for key, facts in collected.finetuned.items() if key.data == data},
                scores=scores,
                far=distances,
                asked=frozenset((str(n), int(seed), (str(kind), str(solver))) for n, seed, kind, solver in asked),
                runs=_by_place(measured, measured["run"]),
                halves=_by_place(errors, 50 * (errors["high"] - errors["low"])),
            )
        )
    return found


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


def nothing(data: str) -> FinetunedNetworks:
    """The study of a data set of which no network was finetuned."""
    return FinetunedNetworks(data, "", 0, "", (), (NO_MAP,), {}, {}, {}, frozenset(), {})


def _by_place(measured: pd.DataFrame, values: pd.Series) -> dict[Place, Any]:
    """A value of every row, by what the row is of; runs are of all metrics, as one run measures them together."""
    columns = [measured[name] for name in ("network", "seed", "map", "solver")]
    g = grid_name(measured["g"]), grid_label(measured["g"])
    return {
        (str(network), int(seed), str(grid), str(label), (str(kind), str(solver))): value
        for network, seed, kind, solver, grid, label, value in zip(*columns, *g, values.tolist(), strict=True)
    }


def way(fit: Fit) -> str:
    """Through what, for people."""
    return "learned M_g" if fit == LEARNED else fit_title(fit).replace("residual map, ", "M_g, ")

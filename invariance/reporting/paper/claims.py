"""What the paper claims, put to comparisons from rows alone (claims (a) to (h)); `verdicts` has what they come to.

There is a comparison for every family (or finetuned network, or way of measuring distances) that has the rows for it.
Each comes to a difference and a margin, and says yes, no, or open.

A difference of accuracies (or of −L_L2, where there is no accuracy) is a mean over the same g of the same images on
both sides. Its margin is √(h₁² + h₂²), h being the mean half-width of the intervals over images: as if the g
of a network were wholly dependent and the two sides independent, which on the same images overstates it. A g without a
number on either side is left out of both, and counted. Most of those are fits that ended worse than no map, so what is
left is the better part: a comparison over fewer than half of what it should be over is open, whatever it comes to.

What was measured at several layers is compared at each, and a way of measuring names its own.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr

from invariance.reporting.curves import (
    BASELINE,
    IDENTITY,
    Fit,
    Floats,
    MeasuredFamily,
    Subject,
    curve,
    fit_title,
    words,
)
from invariance.reporting.distances import Distances, group_rank, neighbours
from invariance.reporting.finetuned import LEARNED, FinetunedNetworks
from invariance.reporting.paper.printed import GROUPS

YES, NO, OPEN = "yes", "no", "open"
NOTHING = {"error_rate": 1.0, "l2_distance": 0.05}
"""Claim (c): a gain that is surely below this many percentage points, or this much L_L2, is nothing."""

NEAR = 0.05
"""Claims (e), (f): a p, or a place among all groups of families, that chance would give so seldom is near. As high a p
is far; a group of families in the farther half of all is not near."""


@dataclass(frozen=True)
class Evidence:
    """One comparison of a claim.

    Attributes:
        claim: its letter.
        way: the map and solver, or the way of comparing, that it was made through.
        what: what was compared.
        says: "yes", "no" or "open".
        difference: by how much, in percentage points of accuracy, or in −L_L2; NaN where that is not what counts.
        margin: how much of it images could explain.
        counted: over how many g (networks, pairs, seeds).
        of: of how many.
        each: what is counted.
        told: the evidence in words.
        data: the data set.
        anchor: where on the page its numbers are.
    """

    claim: str
    way: str
    what: str
    says: str
    difference: float
    margin: float
    counted: int
    of: int
    each: str
    told: str
    data: str = ""
    anchor: str = ""

    @property
    def some(self) -> str:
        """Of how many it is over how many, where that is not all; else empty."""
        return some(self.counted, self.of, self.each)


def some(counted: int, of: int, each: str) -> str:
    """`14 of 16 g`; empty where it is all of them."""
    return "" if counted == of else f"{counted} of {of} {each}"


def enough(counted: int, of: int) -> bool:
    """Whether what is counted is half of what there should be, or more: see the module's text."""
    return 2 * counted >= of


class _Difference(NamedTuple):
    """A mean difference over g (networks, pairs, seeds): see the module's text."""

    mean: float
    margin: float
    counted: int
    of: int
    each: str = "g"

    @property
    def says(self) -> str:
        """Whether it is above 0 beyond its margin, below, or neither, which it is too where too little was counted."""
        if not enough(self.counted, self.of):
            return OPEN
        return YES if self.mean > self.margin else NO if self.mean < -self.margin else OPEN

    def told(self, metric: str) -> str:
        unit = " points" if metric == "error_rate" else " of −L_L2"
        digits = 1 if metric == "error_rate" else 3
        mean = round(self.mean, digits) + 0.0  # no −0.0
        told = f"{mean:+.{digits}f} ± {self.margin:.{digits}f}{unit}"
        return ", ".join(filter(None, [told, some(self.counted, self.of, self.each)]))


def claims(
    measured: Sequence[tuple[MeasuredFamily, str]],
    apart: Sequence[tuple[Distances, str]],
    finetuned: Sequence[tuple[FinetunedNetworks, str]],
) -> list[Evidence]:
    """Every comparison that the rows allow.

    Args:
        measured: the families, each with its anchor on the page.
        apart: the sets of networks whose distances were measured, with theirs.
        finetuned: the studies of finetuning, with theirs.
    """
    found: list[tuple[str, Evidence]] = []
    layers: dict[str, set[str]] = {}
    compared: list[tuple[Iterator[Evidence], MeasuredFamily | Distances | FinetunedNetworks, str]]
    compared = [(_of_family(about), about, anchor) for about, anchor in measured]
    compared += [(_near(about), about, anchor) for about, anchor in apart]
    compared += [(_raised(about), about, anchor) for about, anchor in finetuned]
    for everything, about, anchor in compared:
        for one in everything:
            layers.setdefault(about.data, set()).add(about.layer)
            found.append((about.layer, replace(one, data=about.data, anchor=anchor)))
    return [replace(one, way=f"{one.way}, φ at {layer}") if len(layers[one.data]) > 1 else one for layer, one in found]


def _better(drawn: pd.DataFrame, metric: str) -> Floats:
    """A curve's numbers so that more is better."""
    y: Floats = drawn["y"].to_numpy()
    return y if metric == "error_rate" else -y


def _difference(
    one: pd.DataFrame | None, other: pd.DataFrame | None, mask: NDArray[np.bool_], metric: str
) -> _Difference | None:
    """The first curve less the second over some g; None where no g has both numbers."""
    if one is None or other is None or len(one) != len(other) or not mask.any():
        return None
    there = mask & one["y"].notna().to_numpy() & other["y"].notna().to_numpy()
    if not there.any():
        return None
    mean = float((_better(one, metric) - _better(other, metric))[there].mean())
    ours, theirs = (float(((drawn["high"] - drawn["low"]) / 2).to_numpy()[there].mean()) for drawn in (one, other))
    return _Difference(mean, math.hypot(ours, theirs), int(there.sum()), int(mask.sum()))


class _Asked(NamedTuple):
    """Two curves, each a network's through a map, that a claim compares over some g; (d) with the networks between."""

    claim: str
    way: str
    what: str
    one: tuple[Subject, Fit]
    other: tuple[Subject, Fit]
    over: NDArray[np.bool_]
    among: Sequence[Subject] = ()


def _asked(family: MeasuredFamily) -> Iterator[_Asked]:
    """The comparisons of a family that could be made, by claim.

    (a): the family's most extreme network against the baseline, without a map. (b): the baseline with maps against
    itself without. (c): the most extreme network inside its range, with maps against without. (h): ridge against online
    SGD, the same maps of the same networks. (d): the network of the largest range against that of the smallest, where
    the latter's training did not reach. Networks of one σ are compared where the family has several (Elastic). Left out
    are families whose ranges are no numbers (Mirror), and those whose networks have grids of their own (Crop).
    """
    name, baseline, trained = words(family.name), family.baseline, family.trained[-1] if family.trained else None
    if trained and baseline:
        for part in ("inside", "beyond"):
            ours, plain = (trained, IDENTITY), (baseline, IDENTITY)
            yield _Asked("a", "invariance", f"{name} {part}", ours, plain, trained.facts.parts[part])
    for claim, subject in (("b", baseline), ("c", trained)):
        if subject is None:
            continue
        for fit in family.fits:
            over = ~subject.facts.parts["untouched"] if claim == "b" else subject.facts.parts["inside"]
            yield _Asked(claim, fit_title(fit), name, (subject, fit), (subject, IDENTITY), over)
    for rest, subjects in _of_growing_range(family).items():
        least, most = subjects[0], subjects[-1]
        if least is not most and least.facts.grid == most.facts.grid:
            named, beyond = f"{name} {rest}" if rest else name, least.facts.parts["beyond"]
            yield _Asked("d", "invariance", named, (most, IDENTITY), (least, IDENTITY), beyond, subjects)
    for subject in family.compared:
        ridge, online = ((subject, ("residual", solver)) for solver in ("ridge", "online_sgd"))
        named = f"{name}, {'baseline' if subject.family == BASELINE else 'trained'}"
        yield _Asked("h", "residual map", named, ridge, online, ~subject.facts.parts["untouched"])


def _of_family(family: MeasuredFamily) -> Iterator[Evidence]:
    """(a) to (d), and (h)."""
    metrics = family.metrics()
    metric = "error_rate" if "error_rate" in metrics else "l2_distance"
    for asked in _asked(family) if metrics else ():
        one, other = (curve(family, *of, metric) for of in (asked.one, asked.other))
        d = _difference(one, other, asked.over, metric)
        if d is None:
            continue
        what, says = asked.what, d.says
        if asked.claim == "c":
            nothing = enough(d.counted, d.of) and d.mean + d.margin < NOTHING[metric]
            says = NO if says == YES else YES if nothing else OPEN
        elif asked.claim == "d":
            ranked, told = _ranked([curve(family, one, IDENTITY, metric) for one in asked.among], asked.over, metric)
            what, says = f"{what} ({told})", OPEN if says == YES and not ranked else says
        yield Evidence(asked.claim, asked.way, what, says, *d, f"{what} {d.told(metric)}")


def _of_growing_range(family: MeasuredFamily) -> dict[str, list[Subject]]:
    """A family's networks by growing range, apart by what their names say beside it, as `sigma2`."""
    found: dict[str, list[tuple[float, Subject]]] = {}
    for subject in family.trained:
        try:
            reach = float(subject.range)
        except ValueError:
            continue
        usual = f"{family.name}_{subject.range}"
        rest = subject.network.removeprefix(usual).strip("_") if subject.network.startswith(usual) else ""
        found.setdefault(rest, []).append((reach, subject))
    return {rest: [one for _, one in sorted(found[rest], key=lambda pair: pair[0])] for rest in sorted(found)}


def _ranked(drawn: list[pd.DataFrame | None], beyond: NDArray[np.bool_], metric: str) -> tuple[bool, str]:
    """(d): whether ranks by range and by mean agree (Spearman's ρ > 0) over the g that all networks have; in words."""
    there = [one for one in drawn if one is not None and len(one) == len(beyond)]
    shared = beyond & np.logical_and.reduce([one["y"].notna().to_numpy() for one in there])
    means = [float(np.mean(_better(one, metric)[shared])) if shared.any() else np.nan for one in there]
    rho = float(spearmanr(range(len(means)), means).statistic) if shared.any() else np.nan
    counted, of = int(shared.sum()), int(beyond.sum())
    told = ", ".join(filter(None, [f"ρ {rho:+.2f} over {len(there)} ranges", some(counted, of, "g")]))
    return rho > 0 and enough(counted, of), told


def _near(found: Distances) -> Iterator[Evidence]:
    """(e) and (f), through every way of comparing; open where too few distances have a number."""

    def evidence(claim: str, what: str, says: str, told: str, counted: int, of: int, each: str) -> Evidence:
        said = ", ".join(filter(None, [f"{way}: {told}", some(counted, of, each)]))
        return Evidence(
            claim, way, what, says if enough(counted, of) else OPEN, np.nan, np.nan, counted, of, each, said
        )

    names = [node.family for node in found.nodes]
    for way, matrix in found.matrices().items():
        near = neighbours(matrix, names)
        if near is not None:
            k = near.near
            says = YES if near.p < NEAR else NO if near.p > 1 - NEAR else OPEN
            told = (
                f"{near.share.mean():.1%} of same-family pairs within K neighbours, on average over all K, by chance "
                f"{near.chance.mean():.1%} (p {near.p:.2g}); at K = {k} {near.share[k - 1]:.0%}, by chance "
                f"{near.chance[k - 1]:.0%}"
            )
            yield evidence("e", way, says, told, near.networks, len(names), "networks")
        for group in GROUPS:
            rank = group_rank(matrix, names, group)
            if rank is not None:
                says = YES if rank.rank <= NEAR * rank.groups else NO if rank.rank > rank.groups / 2 else OPEN
                what = ", ".join(words(name) for name in group)
                told = f"{what} {rank.rank}. of {rank.groups} groups of three"
                yield evidence("f", what, says, told, *_pairs_with_numbers(matrix, names, group), "pairs")


def _pairs_with_numbers(matrix: Floats, names: list[str], group: tuple[str, ...]) -> tuple[int, int]:
    """Of the pairs of networks of different families of a group: how many have a distance, and how many there are."""
    member = [(k, name) for k, name in enumerate(names) if name in group]
    pairs = [(i, j) for i, one in member for j, other in member if i < j and one != other]
    return sum(bool(np.isfinite(matrix[pair])) for pair in pairs), len(pairs)


def _raised(study: FinetunedNetworks) -> Iterator[Evidence]:
    """(g): through the learned maps after, against the best fitted maps before.

    Yes if it rose for every seed, and on average by more than images could explain; no likewise. Finetunings of one
    name, which is of one λ3, have a verdict of their own. With λ3 = 0 there is no joint loss: that is the control, and
    says nothing of the claim.
    """
    for name, network, group in study.groups():
        asked = [one for one in group if one.lambda3 != 0]
        gains, margins = [], []
        for one in asked:
            fit, best = study.best_before(one)
            gain = study.over_g(one, True, LEARNED) - best
            if np.isfinite(gain):
                gains.append(gain)
                ends = ((True, LEARNED), (False, fit))
                margins.append(math.hypot(*(study.over_g(one, after, of, "half") for after, of in ends)))
        if not gains:
            continue
        up = sum(gain > 0 for gain in gains)
        d = _Difference(float(np.mean(gains)), float(np.mean(margins)), len(gains), len(asked), "seeds")
        says = d.says if up == len(gains) or all(gain < 0 for gain in gains) else OPEN
        told = f"{network} {d.told('error_rate')} ({up} of {len(gains)} seeds up, {name})"
        yield Evidence("g", f"learned maps, {name}", f"{network}, {name}", says, *d, told)

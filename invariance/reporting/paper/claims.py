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
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr

from invariance.reporting.curves import BASELINE, IDENTITY, Floats, MeasuredFamily, Subject, curve, fit_title, words
from invariance.reporting.distances import Distances, group_rank, neighbours
from invariance.reporting.finetuned import LEARNED, FinetunedNetworks
from invariance.reporting.paper.printed import GROUPS
from invariance.transforms.base import UNTOUCHED

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
        data: the data set.
        way: the map and solver, or the way of comparing, that it was made through.
        what: what was compared.
        says: "yes", "no" or "open".
        difference: by how much, in percentage points of accuracy, or in −L_L2; NaN where that is not what counts.
        margin: how much of it images could explain.
        counted: over how many g (networks, pairs, seeds).
        of: of how many.
        told: the evidence in words.
        anchor: where on the page its numbers are.
        each: what is counted.
    """

    claim: str
    data: str
    way: str
    what: str
    says: str
    difference: float
    margin: float
    counted: int
    of: int
    told: str
    anchor: str
    each: str = "g"

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


@dataclass(frozen=True)
class _Difference:
    """A mean difference over g: see the module's text."""

    mean: float
    margin: float
    counted: int
    of: int
    each: str = "g"

    @property
    def over(self) -> tuple[float, float, int, int]:
        """Mean and margin, and over how many of how many, as a comparison has them."""
        return self.mean, self.margin, self.counted, self.of

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
    for family, anchor in measured:
        if family.metrics():
            metric = "error_rate" if "error_rate" in family.metrics() else "l2_distance"
            for claim in (_more_invariant, _baseline_equivariant, _nothing_added, _wider, _closed_form):
                found += [(family.layer, one) for one in claim(family, metric, anchor)]
    for distances, anchor in apart:
        found += [(distances.layer, one) for one in _near(distances, anchor)]
    for study, anchor in finetuned:
        found += [(study.layer, one) for one in _raised(study, anchor)]
    return _layers_apart(found)


def _layers_apart(found: Sequence[tuple[str, Evidence]]) -> list[Evidence]:
    """Comparisons, each with its layer: where a data set has several, the way names it."""
    layers: dict[str, set[str]] = {}
    for layer, one in found:
        layers.setdefault(one.data, set()).add(layer)
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


def _masks(subject: Subject) -> dict[str, NDArray[np.bool_]]:
    """Which g of a network's grid its training covered, and which not; the untouched image is neither."""
    points = subject.facts.points
    touched = np.array([point.label != UNTOUCHED for point in points])
    covered = np.array([point.covered for point in points])
    return {"inside": touched & covered, "beyond": touched & ~covered}


def _of(
    family: MeasuredFamily, claim: str, anchor: str, way: str, what: str, metric: str, d: _Difference, says: str = ""
) -> Evidence:
    return Evidence(claim, family.data, way, what, says or d.says, *d.over, f"{what} {d.told(metric)}", anchor)


def _more_invariant(family: MeasuredFamily, metric: str, anchor: str) -> list[Evidence]:
    """(a): the family's most extreme network against the baseline, without a map."""
    if not family.trained or family.baseline is None:
        return []
    ours, plain = (curve(family, one, IDENTITY, metric) for one in (family.trained[-1], family.baseline))
    found = {part: _difference(ours, plain, mask, metric) for part, mask in _masks(family.trained[-1]).items()}
    named = {f"{words(family.name)} {part}": d for part, d in found.items() if d is not None}
    return [_of(family, "a", anchor, "invariance", what, metric, d) for what, d in named.items()]


def _baseline_equivariant(family: MeasuredFamily, metric: str, anchor: str) -> list[Evidence]:
    """(b): the baseline with maps against itself without."""
    if family.baseline is None:
        return []
    plain = curve(family, family.baseline, IDENTITY, metric)
    touched = np.array([point.label != UNTOUCHED for point in family.baseline.facts.points])
    drawn = {fit: curve(family, family.baseline, fit, metric) for fit in family.fits}
    found = {fit: _difference(one, plain, touched, metric) for fit, one in drawn.items()}
    what = words(family.name)
    return [_of(family, "b", anchor, fit_title(fit), what, metric, d) for fit, d in found.items() if d is not None]


def _nothing_added(family: MeasuredFamily, metric: str, anchor: str) -> list[Evidence]:
    """(c): the family's most extreme network inside its range, with maps against without."""
    if not family.trained:
        return []
    subject = family.trained[-1]
    plain, inside = curve(family, subject, IDENTITY, metric), _masks(subject)["inside"]
    made = []
    for fit in family.fits:
        d = _difference(curve(family, subject, fit, metric), plain, inside, metric)
        if d is not None:
            nothing = enough(d.counted, d.of) and d.mean + d.margin < NOTHING[metric]
            says = NO if d.says == YES else YES if nothing else OPEN
            made.append(_of(family, "c", anchor, fit_title(fit), words(family.name), metric, d, says))
    return made


def _wider(family: MeasuredFamily, metric: str, anchor: str) -> list[Evidence]:
    """(d): the network of the largest range against that of the smallest, where the latter's training did not reach.

    Networks of one σ are compared where the family has several (Elastic). Left out are families whose ranges are no
    numbers (Mirror), and those whose networks have grids of their own (Crop).
    """
    made = []
    for rest, subjects in _of_growing_range(family).items():
        if len(subjects) > 1 and subjects[0].facts.grid == subjects[-1].facts.grid:
            named = f"{words(family.name)} {rest}" if rest else words(family.name)
            made += _wider_of(family, subjects, named, metric, anchor)
    return made


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


def _wider_of(
    family: MeasuredFamily, subjects: Sequence[Subject], named: str, metric: str, anchor: str
) -> list[Evidence]:
    """Yes if the largest is better beyond the margin and ranks by range and by that mean agree (Spearman's ρ > 0).

    The ranks are over the g where all of the networks have a number.
    """
    beyond = _masks(subjects[0])["beyond"]
    drawn = [curve(family, subject, IDENTITY, metric) for subject in subjects]
    d = _difference(drawn[-1], drawn[0], beyond, metric)
    if d is None:
        return []
    there = [one for one in drawn if one is not None and len(one) == len(beyond)]
    shared = beyond & np.logical_and.reduce([one["y"].notna().to_numpy() for one in there])
    means = [float(np.mean(_better(one, metric)[shared])) if shared.any() else np.nan for one in there]
    rho = float(spearmanr(range(len(means)), means).statistic) if shared.any() else np.nan
    ranked = rho > 0 and enough(int(shared.sum()), d.of)
    says = OPEN if d.says == YES and not ranked else d.says
    over = ", ".join(filter(None, [f"ρ {rho:+.2f} over {len(there)} ranges", some(int(shared.sum()), d.of, "g")]))
    return [_of(family, "d", anchor, "invariance", f"{named} ({over})", metric, d, says)]


def _closed_form(family: MeasuredFamily, metric: str, anchor: str) -> list[Evidence]:
    """(h): ridge against online SGD, the same maps of the same networks."""
    ridge, online = (("residual", solver) for solver in ("ridge", "online_sgd"))
    made = []
    for subject in family.compared:
        touched = np.array([point.label != UNTOUCHED for point in subject.facts.points])
        one, other = (curve(family, subject, fit, metric) for fit in (ridge, online))
        d = _difference(one, other, touched, metric)
        if d is not None:
            what = words(family.name) + (", baseline" if subject.family == BASELINE else ", trained")
            made.append(_of(family, "h", anchor, "residual map", what, metric, d))
    return made


def _near(found: Distances, anchor: str) -> list[Evidence]:
    """(e) and (f), through every way of comparing."""
    made, names = [], [node.family for node in found.nodes]
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
            made.append(_apart("e", found, way, way, says, told, (near.networks, len(names), "networks"), anchor))
        for group in GROUPS:
            rank = group_rank(matrix, names, group)
            if rank is not None:
                says = YES if rank.rank <= NEAR * rank.groups else NO if rank.rank > rank.groups / 2 else OPEN
                what = ", ".join(words(name) for name in group)
                told = f"{what} {rank.rank}. of {rank.groups} groups of three"
                counted = (*_pairs_with_numbers(matrix, names, group), "pairs")
                made.append(_apart("f", found, way, what, says, told, counted, anchor))
    return made


def _apart(
    claim: str, found: Distances, way: str, what: str, says: str, told: str, counted: tuple[int, int, str], anchor: str
) -> Evidence:
    """A comparison of distances, open where too few of them have a number."""
    said = ", ".join(filter(None, [f"{way}: {told}", some(*counted)]))
    number, of, each = counted
    says = says if enough(number, of) else OPEN
    return Evidence(claim, found.data, way, what, says, np.nan, np.nan, number, of, said, anchor, each)


def _pairs_with_numbers(matrix: Floats, names: list[str], group: tuple[str, ...]) -> tuple[int, int]:
    """Of the pairs of networks of different families of a group: how many have a distance, and how many there are."""
    member = [(k, name) for k, name in enumerate(names) if name in group]
    pairs = [(i, j) for i, one in member for j, other in member if i < j and one != other]
    return sum(bool(np.isfinite(matrix[pair])) for pair in pairs), len(pairs)


def _raised(study: FinetunedNetworks, anchor: str) -> list[Evidence]:
    """(g): through the learned maps after, against the best fitted maps before.

    Yes if it rose for every seed, and on average by more than images could explain; no likewise. Finetunings of one
    name, which is of one λ3, have a verdict of their own. With λ3 = 0 there is no joint loss: that is the control, and
    says nothing of the claim.
    """
    made = []
    for name, network, group in study.groups():
        ones = [one for one in group if one.lambda3 != 0]
        changes = np.array([study.over_g(one, True, LEARNED) - study.best_before(one) for one in ones])
        there = changes[np.isfinite(changes)]
        if not len(there):
            continue
        margins = [
            math.hypot(study.half_over_g(one, True, LEARNED), study.half_over_g(one, False, study.best_fit_before(one)))
            for one, change in zip(ones, changes, strict=True)
            if np.isfinite(change)
        ]
        d = _Difference(float(there.mean()), float(np.mean(margins)), len(there), len(ones), "seeds")
        says = d.says if (there > 0).all() or (there < 0).all() else OPEN
        told = f"{network} {d.told('error_rate')} ({int((there > 0).sum())} of {len(there)} seeds up, {name})"
        way, what = f"learned maps, {name}", f"{network}, {name}"
        made.append(Evidence("g", study.data, way, what, says, *d.over, told, anchor, d.each))
    return made

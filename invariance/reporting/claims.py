"""What the paper claims, each with a verdict and the evidence for it, from rows alone (claims (a) to (h)).

A claim is put to comparisons: one for every family (or finetuned network, or way of measuring distances) that has the
rows for it. Each comparison comes to a difference and a margin, and says yes, no, or open. The verdict of a data set:

- "holds": every comparison says yes;
- "holds for most": more than half of them do;
- "contradicted": more than half say no;
- "not shown": neither;
- "not measured": there is none to say anything.

A difference of accuracies (or of −L_L2, where there is no accuracy) is a mean over the same g of the same images on
both sides. Its margin is √(h₁² + h₂²), h being the mean half-width of the bootstrap intervals over images: as if the g
of a network were wholly dependent and the two sides independent, which on the same images overstates it. A g without a
number on either side is left out of both, and counted.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr

from invariance.reporting.curves import BASELINE, IDENTITY, Curve, Family, Floats, Subject, curve, fit_title, words
from invariance.reporting.distances import GROUPS, Distances, group_rank, neighbours
from invariance.reporting.finetuned import LEARNED, Study
from invariance.reporting.tables import GAP, Table
from invariance.transforms.base import UNTOUCHED

YES, NO, OPEN = "yes", "no", "open"
NOTHING = {"error_rate": 1.0, "l2_distance": 0.05}
"""Claim (c): a gain that is surely below this many percentage points, or this much L_L2, is nothing."""

NEAR = 0.05
"""Claims (e), (f): a p, or a place among all groups of families, that chance would give so seldom is near."""

CLAIMS = {
    "a": "Training with a family makes φ more invariant to it than the baseline is, inside the range and beyond",
    "b": "The baseline's equivariance exceeds its invariance, for most families",
    "c": "Inside the trained range M_g adds nothing",
    "d": "Larger trained ranges give wider robustness",
    "e": "Networks of one family are nearer to each other than chance",
    "f": "Rotation, shear and perspective are mutually near, and so are baseline, color jitter and noise",
    "g": "The joint loss raises accuracy through M_g",
    "h": "Fitted in closed form, the same maps show more equivariance than online SGD found",
}
_LACKS = {
    "a": "a family's network and the baseline, measured over the family's grid",
    "b": "the baseline, measured with maps",
    "c": "a family's network, measured with maps", "d": "two ranges of a family, measured over its grid",
    "e": "distances between networks, two of them of one family",
    "f": "distances between networks of the families that it names", "g": "a network finetuned with the joint loss",
    "h": "maps fitted by online SGD and by ridge",
}  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """One comparison of a claim.

    Attributes:
        claim: its letter.
        data: the data set.
        way: the map and solver, or the way of comparing, that it was made through.
        what: what was compared.
        says: "yes", "no" or "open".
        difference: by how much, in percentage points of accuracy, or in −L_L2; NaN where that is not what counts.
        margin: how much of it images could explain.
        counted: over how many g (networks, seeds).
        of: of how many.
        told: the evidence in words.
        anchor: where on the page its numbers are.
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


@dataclass(frozen=True)
class _Difference:
    """A mean difference over g: see the module's text."""

    mean: float
    margin: float
    counted: int
    of: int
    each: str = "g"

    @property
    def says(self) -> str:
        """Whether it is above 0 beyond its margin, below, or neither."""
        return YES if self.mean > self.margin else NO if self.mean < -self.margin else OPEN

    def told(self, metric: str) -> str:
        unit = " points" if metric == "error_rate" else " of −L_L2"
        digits = 1 if metric == "error_rate" else 3
        some = "" if self.counted == self.of else f", {self.counted} of {self.of} {self.each}"
        mean = round(self.mean, digits) + 0.0  # no −0.0
        return f"{mean:+.{digits}f} ± {self.margin:.{digits}f}{unit}{some}"


def claims(
    measured: Sequence[tuple[Family, str]], apart: Sequence[tuple[Distances, str]],
    finetuned: Sequence[tuple[Study, str]],
) -> list[Comparison]:
    """Every comparison that the rows allow.

    Args:
        measured: the families, each with its anchor on the page.
        apart: the sets of networks whose distances were measured, with theirs.
        finetuned: the studies of finetuning, with theirs.
    """
    found: list[Comparison] = []
    for family, anchor in measured:
        if family.metrics():
            metric = "error_rate" if "error_rate" in family.metrics() else "l2_distance"
            for claim in (_more_invariant, _baseline_equivariant, _nothing_added, _wider, _closed_form):
                found += claim(family, metric, anchor)
    for distances, anchor in apart:
        found += _near(distances, anchor)
    for study, anchor in finetuned:
        found += _raised(study, anchor)
    return found


def _better(drawn: Curve, metric: str) -> Floats:
    """A curve's numbers so that more is better."""
    return drawn.y if metric == "error_rate" else -drawn.y


def _difference(one: Curve | None, other: Curve | None, mask: NDArray[np.bool_], metric: str) -> _Difference | None:
    """The first curve less the second over some g; None where no g has both numbers."""
    if one is None or other is None or len(one.y) != len(other.y) or not mask.any():
        return None
    there = mask & np.isfinite(one.y) & np.isfinite(other.y)
    if not there.any():
        return None
    mean = float((_better(one, metric) - _better(other, metric))[there].mean())
    ours, theirs = (float(((drawn.high - drawn.low) / 2)[there].mean()) for drawn in (one, other))
    return _Difference(mean, math.hypot(ours, theirs), int(there.sum()), int(mask.sum()))


def _masks(subject: Subject) -> dict[str, NDArray[np.bool_]]:
    """Which g of a network's grid its training covered, and which not; the untouched image is neither."""
    points = subject.facts.points
    touched = np.array([point.label != UNTOUCHED for point in points])
    covered = np.array([point.covered for point in points])
    return {"inside": touched & covered, "beyond": touched & ~covered}


def _of(
    family: Family, claim: str, anchor: str, way: str, what: str, metric: str, d: _Difference, says: str = ""
) -> Comparison:
    return Comparison(
        claim, family.data, way, what, says or d.says, d.mean, d.margin, d.counted, d.of,
        f"{what} {d.told(metric)}", anchor,
    )  # fmt: skip


def _more_invariant(family: Family, metric: str, anchor: str) -> list[Comparison]:
    """(a): the family's most extreme network against the baseline, without a map."""
    if not family.trained or family.baseline is None:
        return []
    ours, plain = (curve(family, one, IDENTITY, metric) for one in (family.trained[-1], family.baseline))
    found = {part: _difference(ours, plain, mask, metric) for part, mask in _masks(family.trained[-1]).items()}
    return [
        _of(family, "a", anchor, "invariance", f"{words(family.name)} {part}", metric, d)
        for part, d in found.items() if d is not None
    ]


def _baseline_equivariant(family: Family, metric: str, anchor: str) -> list[Comparison]:
    """(b): the baseline with maps against itself without."""
    if family.baseline is None:
        return []
    plain = curve(family, family.baseline, IDENTITY, metric)
    touched = np.array([point.label != UNTOUCHED for point in family.baseline.facts.points])
    drawn = {fit: curve(family, family.baseline, fit, metric) for fit in family.fits}
    found = {fit: _difference(one, plain, touched, metric) for fit, one in drawn.items()}
    return [
        _of(family, "b", anchor, fit_title(fit), words(family.name), metric, d)
        for fit, d in found.items() if d is not None
    ]


def _nothing_added(family: Family, metric: str, anchor: str) -> list[Comparison]:
    """(c): the family's most extreme network inside its range, with maps against without."""
    if not family.trained:
        return []
    subject = family.trained[-1]
    plain, inside = curve(family, subject, IDENTITY, metric), _masks(subject)["inside"]
    made = []
    for fit in family.fits:
        d = _difference(curve(family, subject, fit, metric), plain, inside, metric)
        if d is not None:
            says = NO if d.mean > d.margin else YES if d.mean + d.margin < NOTHING[metric] else OPEN
            made.append(_of(family, "c", anchor, fit_title(fit), words(family.name), metric, d, says))
    return made


def _wider(family: Family, metric: str, anchor: str) -> list[Comparison]:
    """(d): the network of the largest range against that of the smallest, where the latter's training did not reach.

    Yes if it is better beyond the margin and the networks' ranks by range and by that mean agree (Spearman's ρ > 0).
    The ranks are over the g where all of them have a number. Families without an order of ranges, whose grids only
    count, are left out.
    """
    subjects = family.trained
    if len(subjects) < 2 or subjects[0].facts.ordinal or subjects[0].facts.grid != subjects[-1].facts.grid:
        return []
    beyond = _masks(subjects[0])["beyond"]
    drawn = [curve(family, subject, IDENTITY, metric) for subject in subjects]
    d = _difference(drawn[-1], drawn[0], beyond, metric)
    if d is None:
        return []
    there = [one for one in drawn if one is not None and len(one.y) == len(beyond)]
    shared = beyond & np.logical_and.reduce([np.isfinite(one.y) for one in there])
    means = [float(np.mean(_better(one, metric)[shared])) if shared.any() else np.nan for one in there]
    rho = float(spearmanr(range(len(means)), means).statistic) if shared.any() else np.nan
    says = OPEN if d.says == YES and not rho > 0 else d.says
    what = f"{words(family.name)} (ρ {rho:+.2f} over {len(there)} ranges)"
    return [_of(family, "d", anchor, "invariance", what, metric, d, says)]


def _closed_form(family: Family, metric: str, anchor: str) -> list[Comparison]:
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


def _near(found: Distances, anchor: str) -> list[Comparison]:
    """(e) and (f), through every way of comparing."""
    made, names = [], [node.family for node in found.nodes]
    for way, matrix in found.matrices().items():
        near = neighbours(matrix, names)
        if near is not None:
            k = near.near
            above = near.share[k - 1] > near.chance[k - 1]
            says = YES if above and near.p < NEAR else OPEN if above else NO
            told = (
                f"{near.share[k - 1]:.0%} of same-family pairs within {k} neighbours, by chance "
                f"{near.chance[k - 1]:.0%} (over all K p {near.p:.2g})"
            )
            made.append(Comparison(
                "e", found.data, way, way, says, np.nan, np.nan, near.networks, len(names), f"{way}: {told}", anchor
            ))  # fmt: skip
        for group in GROUPS:
            rank = group_rank(matrix, names, group)
            if rank is not None:
                says = YES if rank.rank <= NEAR * rank.groups else NO if rank.rank > rank.groups / 2 else OPEN
                what = ", ".join(words(name) for name in group)
                told = f"{way}: {what} {rank.rank}. of {rank.groups} groups of three"
                made.append(Comparison(
                    "f", found.data, way, what, says, np.nan, np.nan, len(names), len(names), told, anchor
                ))  # fmt: skip
    return made


def _raised(study: Study, anchor: str) -> list[Comparison]:
    """(g): through the learned maps after, against the best fitted maps before.

    Yes if it rose for every seed, and on average by more than images could explain; no likewise.
    """
    made = []
    for name, network, ones in study.groups():
        changes = np.array([study.over_g(one, True, LEARNED) - study.best_before(one) for one in ones])
        there = changes[np.isfinite(changes)]
        if not len(there):
            continue
        margins = [
            math.hypot(study.half_over_g(one, True, LEARNED), study.half_over_g(one, False, study.best_fit_before(one)))
            for one, change in zip(ones, changes, strict=True) if np.isfinite(change)
        ]  # fmt: skip
        d = _Difference(float(there.mean()), float(np.mean(margins)), len(there), len(ones), "seeds")
        says = d.says if (there > 0).all() or (there < 0).all() else OPEN
        told = f"{network} {d.told('error_rate')} ({int((there > 0).sum())} of {len(there)} seeds up, {name})"
        made.append(Comparison(
            "g", study.data, "learned maps", f"{network}, {name}", says, d.mean, d.margin, d.counted, d.of, told, anchor
        ))  # fmt: skip
    return made


def verdict(says: Iterable[str]) -> str:
    """What comparisons come to: see the module's text."""
    said = list(says)
    if not said:
        return "not measured"
    yes, no = said.count(YES), said.count(NO)
    if yes == len(said):
        return "holds"
    return "holds for most" if yes > len(said) / 2 else "contradicted" if no > len(said) / 2 else "not shown"


def summary(found: Sequence[Comparison], data: Sequence[str]) -> Table:
    """A line for every claim, data set and way: its verdict, and what it rests on."""
    cells: list[list[str]] = []
    records: list[dict[str, object]] = []
    links: dict[tuple[int, int], str] = {}
    for letter, said in CLAIMS.items():
        for name in data:
            own = sorted((one for one in found if (one.claim, one.data) == (letter, name)), key=lambda one: one.way)
            if not own and "@" in name:  # networks of another data set: not every claim is of them
                continue
            for way, part in [(way, list(part)) for way, part in groupby(own, key=lambda one: one.way)] or [("", [])]:
                counts = {what: sum(one.says == what for one in part) for what in (YES, NO, OPEN)}
                told = _evidence(part) if part else f"lacks {_LACKS[letter]}"
                ended = verdict(one.says for one in part)
                links[len(cells), 2] = f"#{part[0].anchor}" if part else ""
                cells.append([f"({letter}) {said}", name, words(way) or GAP, ended, told])
                records.append({
                    "claim": letter, "data": name, "way": way, "verdict": ended, **counts, "comparisons": len(part),
                    "evidence": told,
                })  # fmt: skip
    caption = (
        "What the paper claims, (h) aside, which it could not see. Holds: every comparison says yes; for most: more "
        "than half; contradicted: more than half say no; not shown: neither. (a), (b), (d), (h): yes if the mean "
        "difference over g exceeds its margin, no if it is as clearly negative; (c): yes if the gain is surely below "
        f"{NOTHING['error_rate']:g} point; (e): p < {NEAR:g}; (f): among the nearest {NEAR:.0%} of all groups of "
        "three families; (g): through the learned maps after, against the best fitted maps before: yes if it rose for "
        "every seed, and on average by more than the margin. A margin is over images, not over trainings."
    )
    links = {place: link for place, link in links.items() if link}
    header = ["claim", "data", "through", "verdict", "evidence"]
    return Table("claims", caption, header, cells, pd.DataFrame(records), links)


def details(found: Sequence[Comparison]) -> Table | None:
    """Every comparison of every claim; None where there is none."""
    order = sorted(found, key=lambda one: (one.claim, one.data, one.way, one.what))
    if not order:
        return None
    cells = [[f"({one.claim})", one.data, words(one.way), one.what, one.says, one.told] for one in order]
    records = [{
        "claim": one.claim, "data": one.data, "way": one.way, "what": one.what, "says": one.says,
        "difference": one.difference, "margin": one.margin, "counted": one.counted, "of": one.of, "evidence": one.told,
    } for one in order]  # fmt: skip
    caption = (
        "Every comparison behind the verdicts. Differences are in percentage points of accuracy, or of −L_L2 where "
        "there is no accuracy, ± their margin over images."
    )
    header = ["claim", "data", "through", "compared", "says", "evidence"]
    return Table("claims-details", caption, header, cells, pd.DataFrame(records))


def _evidence(part: Sequence[Comparison]) -> str:
    """A verdict's evidence in a line: how many say what, the typical difference, and who does not say yes."""
    counts = ", ".join(f"{what} {n}" for what in (YES, OPEN, NO) if (n := sum(one.says == what for one in part)))
    differences = np.array([one.difference for one in part])
    if not np.isfinite(differences).any():
        return f"{counts}: " + "; ".join(one.told for one in part)
    middle = round(float(np.median(differences[np.isfinite(differences)])), 9) + 0.0
    others = [one.told for one in part if one.says != YES]
    rest = f"; other than yes: {'; '.join(others)}" if others else ""
    return f"{counts}; median difference {middle:+.3g}{rest}"

"""Verdicts on the paper's claims: what the comparisons behind each come to, as tables.

The verdict of a data set and a way of measuring:

- "holds": every comparison says yes;
- "holds for most": more than half of them do;
- "contradicted": more than half say no;
- "not shown": neither;
- "not measured": there is none to say anything.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
import pandas as pd

from invariance.reporting.paper.claims import NEAR, NO, NOTHING, OPEN, YES, Evidence
from invariance.reporting.table import GAP, Cell, Table

TITLE = "What the paper claims"
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
    "c": "a family's network, measured with maps",
    "d": "two ranges of a family, measured over its grid",
    "e": "distances between networks, two of them of one family",
    "f": "distances between networks of the families that it names",
    "g": "a network finetuned with the joint loss (λ3 above 0)",
    "h": "maps fitted by online SGD and by ridge",
}


def verdict(says: Iterable[str]) -> str:
    """What comparisons come to: see the module's text."""
    said = list(says)
    if not said:
        return "not measured"
    yes, no = said.count(YES), said.count(NO)
    if yes == len(said):
        return "holds"
    return "holds for most" if yes > len(said) / 2 else "contradicted" if no > len(said) / 2 else "not shown"


def summary(found: Sequence[Evidence], data: Sequence[str]) -> Table:
    """A line for every claim, data set and way: its verdict, and what it rests on."""
    lines: list[list[Cell]] = []
    links: dict[tuple[int, int], str] = {}
    for letter, said in CLAIMS.items():
        for name in data:
            own = sorted((one for one in found if (one.claim, one.data) == (letter, name)), key=lambda one: one.way)
            if not own and "@" in name:  # networks of another data set: not every claim is of them
                continue
            for way, part in [(way, list(part)) for way, part in groupby(own, key=lambda one: one.way)] or [("", [])]:
                if part:
                    links[len(lines), 2] = f"#{part[0].anchor}"
                ended = verdict(one.says for one in part)
                counts = {what: sum(one.says == what for one in part) for what in (YES, NO, OPEN)}
                told = _evidence(part) if part else f"lacks {_LACKS[letter]}"
                first = [Cell(f"({letter}) {said}", {"claim": letter}), Cell(name, {"data": name})]
                verdicts = Cell(ended, {"verdict": ended, **counts, "comparisons": len(part)})
                lines.append([*first, Cell(way or GAP, {"way": way}), verdicts, Cell(told, {"evidence": told})])
    caption = (
        "What the paper claims, (h) aside, which it could not see. Holds: every comparison says yes; for most: more "
        "than half; contradicted: more than half say no; not shown: neither. (a), (b), (d), (h): yes if the mean "
        "difference over g exceeds its margin, no if it is as clearly negative; (c): yes if the gain is surely below "
        f"{NOTHING['error_rate']:g} point; (e): p over all K < {NEAR:g}, no if > {1 - NEAR:g}; (f): among the nearest "
        f"{NEAR:.0%} of all groups of three families, no if in the farther half; (g): through the learned maps after, "
        "against the best fitted maps before: yes if it rose for every seed, and on average by more than the margin; "
        "λ3 = 0, the control, is not asked. A margin is over images, not over trainings. What is over fewer than half "
        "of the g (networks, pairs, seeds) that it should be "
        "over is open: fits that diverged are left out, and what is left is the better part."
    )
    header = ["claim", "data", "through", "verdict", "evidence"]
    return Table.of("claims", caption, header, lines, links=links, worded=(2, 4))


def details(found: Sequence[Evidence]) -> Table | None:
    """Every comparison of every claim; None where there is none."""
    order = sorted(found, key=lambda one: (one.claim, one.data, one.way, one.what))
    if not order:
        return None
    cells = [[f"({one.claim})", one.data, one.way, one.what, one.says, one.told] for one in order]
    columns = ("claim", "data", "way", "what", "says", "difference", "margin", "counted", "of")
    records = [{**{name: getattr(one, name) for name in columns}, "evidence": one.told} for one in order]
    caption = (
        "Every comparison behind the verdicts. Differences are in percentage points of accuracy, or of −L_L2 where "
        "there is no accuracy, ± their margin over images."
    )
    header = ["claim", "data", "through", "compared", "says", "evidence"]
    return Table("claims-details", caption, header, cells, pd.DataFrame(records), worded=(2, 3, 5))


def _evidence(part: Sequence[Evidence]) -> str:
    """A verdict's evidence in a line: how many say what, the typical difference, and who does not say yes."""
    counts = ", ".join(f"{what} {n}" for what in (YES, OPEN, NO) if (n := sum(one.says == what for one in part)))
    differences = np.array([one.difference for one in part])
    if not np.isfinite(differences).any():
        return f"{counts}: " + "; ".join(one.told for one in part)
    middle = round(float(np.median(differences[np.isfinite(differences)])), 9) + 0.0
    others = [one.told for one in part if one.says != YES]
    rest = f"; other than yes: {'; '.join(others)}" if others else ""
    short = [f"{one.what} {one.some}" for one in part if one.says == YES and one.some]
    rest = f"; not over all: {', '.join(short)}{rest}" if short else rest
    return f"{counts}; median difference {middle:+.3g}{rest}"

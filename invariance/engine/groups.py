"""What is measured at once, and what it comes to."""

from dataclasses import dataclass, field

from invariance.engine.scoring import Scores
from invariance.maps.spec import MapSpec
from invariance.runs.rows import Row


@dataclass(frozen=True)
class Group:
    """What is measured at once: some g of a grid at one layer, through one map.

    Attributes:
        grid: name of the grid.
        layer: where φ ends.
        map: the map and its solver.
        g: the labels of the g; `derivative` for how fast φ changes as g sets in.
        number: which group of the grid it is.
        size: g of a group, except for the last; 0 where it is of no g of the grid.
        readout: how the layer's activation becomes φ.
    """

    grid: str
    layer: str
    map: MapSpec
    g: tuple[str, ...]
    number: int
    size: int
    readout: str = "flatten"


@dataclass(frozen=True)
class Ended:
    """How the fit of one g ended.

    Attributes:
        g: its label.
        status: ok or diverged.
        error: mean squared error over the fit images.
        reference: the identity's.
        strength: the strength that ridge chose; NaN for others.
        relu: whether σ is the ReLU: φ(x) is never negative on the fit images.
    """

    g: str
    status: str
    error: float
    reference: float
    strength: float
    relu: bool


@dataclass(frozen=True)
class Measured:
    """What a group came to.

    Attributes:
        rows: its numbers; what a command knows beside (stage, data, family, …) is left empty.
        fits: how fits ended, none for the identity.
        scores: of every image, (g, n) by `<split>/<name>`, and by `<split>/<fit_classes>/<name>` of the unseen-class
            control.
    """

    rows: list[Row]
    fits: list[Ended] = field(default_factory=list)
    scores: Scores = field(default_factory=dict)

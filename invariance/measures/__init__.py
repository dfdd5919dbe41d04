"""Measures of representations and of predictions (Sec. 3.2, 5.2, 5.3), and the list of them.

`MEASURES` is the only list: a new measure is a module beside this one and an entry here. Its function is imported when
it is asked for, so that knowing the names costs nothing. One from outside the package is named as `module:function`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from invariance.errors import UserError, nearest
from invariance.settings.named import named

Need = Literal["fit", "labels", "logits", "features", "tangent"]


@dataclass(frozen=True)
class Measure:
    """A measure: how rows, tables and figures name it, what its numbers can be, and where its function is.

    Attributes:
        name: how rows name it.
        label: how tables and figures name it.
        better: which numbers are the better ones; "neither" for a signed difference.
        bounds: the least and the greatest number it can be.
        needs: what it is taken from: `fit` images, which give the scale and the maps; `labels`; `logits`; `features`;
            the `tangent` of a family.
        over: `image` for a number an image, whose mean over images has an interval; `images` for one number over all
            images of two representations X and Y.
        directed: whether X → Y and Y → X are two numbers.
        unit: what its numbers are in; empty for a share.
        rate: whether its numbers are of zeros and ones, so that the mean's interval is Wilson's.
        calibrated: whether it is set between a null and the best that there is, which is its number untouched.
        function: `module:function`, or the function itself; empty for what is made of another measure's numbers. Over
            an image: of L_L2 `(r_hat, r, scale)`, of L_err `(logits, labels)`, of agreement the classes named for gx
            and x, of derivatives `(d, r, scale)`, all → (N,). Over images: of a `moments.Pairing` → float.
    """

    name: str
    label: str
    better: Literal["lower", "higher", "neither"]
    bounds: tuple[float, float] = (-math.inf, math.inf)
    needs: frozenset[Need] = frozenset({"features"})
    over: Literal["image", "images"] = "images"
    directed: bool = False
    unit: str = ""
    rate: bool = False
    calibrated: bool = False
    function: str | Callable[..., Any] = ""

    @property
    def call(self) -> Callable[..., Any]:
        """The function.

        Raises:
            UserError: if it has none, or none is there.
        """
        if callable(self.function):
            return self.function
        if not self.function:
            raise UserError(f"{self.name} is made of another measure's numbers; ask for that one")
        there: Callable[..., Any] = named(self.function, "measure")
        return there

    @property
    def interval(self) -> Callable[..., Any]:
        """How its mean over images gets a 95 % interval: Wilson's for rates, else by resampling images."""
        how: Callable[..., Any] = named(
            f"invariance.measures.bootstrap:{'wilson' if self.rate else 'bootstrap'}", "interval"
        )
        return how


_FIT: frozenset[Need] = frozenset({"fit", "features"})

MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure(
            name="error_rate",
            label="error rate",
            better="lower",
            bounds=(0.0, 1.0),
            needs=frozenset({"labels"}),
            over="image",
            rate=True,
            calibrated=True,
            function="invariance.measures.error:errors_per_image",
        ),
        Measure(
            name="accuracy",
            label="accuracy",
            better="higher",
            bounds=(0.0, 1.0),
            needs=frozenset({"labels"}),
            over="image",
            rate=True,
        ),
        Measure(
            name="half_error_rate",
            label="error rate among half of the classes",
            better="lower",
            bounds=(0.0, 1.0),
            needs=frozenset({"labels", "fit"}),
            over="image",
        ),
        Measure(
            name="fit_images_per_dimension",
            label="fit images a dimension",
            better="higher",
            bounds=(0.0, math.inf),
            needs=_FIT,
            over="image",
        ),
        Measure(name="positions_outside", label="positions outside", better="lower", bounds=(0.0, 1.0), over="image"),
        Measure(
            name="l2_distance",
            label="L_L2",
            better="lower",
            bounds=(0.0, math.inf),
            needs=_FIT,
            over="image",
            directed=True,
            unit="‖r‖",
            calibrated=True,
            function="invariance.measures.distance:l2_distance_per_image",
        ),
        Measure(
            name="agreement",
            label="agreement",
            better="higher",
            bounds=(0.0, 1.0),
            needs=frozenset({"logits"}),
            over="image",
            rate=True,
            calibrated=True,
            function="invariance.measures.agreement:agreement_per_image",
        ),
        Measure(
            name="effective_invariance",
            label="effective invariance",
            better="higher",
            bounds=(0.0, 1.0),
            needs=frozenset({"logits"}),
            over="image",
            function="invariance.measures.agreement:effective_invariance_per_image",
        ),
        Measure(
            name="l2_distance_mean",  # Eq. 4
            label="L_L2, mean of both ways",
            better="lower",
            bounds=(0.0, math.inf),
            needs=_FIT,
            over="image",
            unit="‖r‖",
        ),
        Measure(
            name="l2_distance_difference",  # Eq. 9
            label="L_L2, one way less the other",
            better="neither",
            needs=_FIT,
            over="image",
            unit="‖r‖",
        ),
        Measure(
            name="derivative",
            label="‖dφ/dt‖ / ‖φ‖",
            better="lower",
            bounds=(0.0, math.inf),
            needs=frozenset({"fit", "features", "tangent"}),
            over="image",
            unit="‖r‖ a unit of g",
            function="invariance.measures.derivative:derivative_per_image",
        ),
        Measure(name="cka", label="CKA", better="higher", bounds=(-1.0, 1.0), function="invariance.measures.cka:cka"),
        Measure(
            name="procrustes",
            label="Procrustes",
            better="lower",
            bounds=(0.0, math.sqrt(2)),
            function="invariance.measures.procrustes:procrustes",
        ),
        Measure(
            name="r2",
            label="R²",
            better="higher",
            bounds=(-math.inf, 1.0),
            directed=True,
            function="invariance.measures.r2:r2",
        ),
    )
}
"""Every measure by the name that rows give it."""

INDEX_NAMES = tuple(name for name, measure in MEASURES.items() if measure.over == "images")
"""Names of the measures that are one number over all images of two representations, and need no fit."""

FROM_LOGITS = tuple(
    name
    for name, measure in MEASURES.items()
    if measure.over == "image" and measure.function and measure.needs & {"labels", "logits"}
)
"""Names of the measures of what the network says of an image, for which C behind the layer is run."""


def measure_named(name: str) -> Measure:
    """The measure of a name, or one from outside the package.

    Args:
        name: one of `MEASURES`, or `module:name` of a `Measure`, or of a function of two representations X (N, D_x)
            and Y (N, D_y) of the same images that gives one number, both ways.

    Raises:
        UserError: for a name that is not there (naming the nearest), and for what is no measure.
    """
    if isinstance(name, str) and name in MEASURES:
        return MEASURES[name]
    if not isinstance(name, str) or ":" not in name:
        raise UserError(
            f"measure {name!r}: there are {', '.join(MEASURES)}, or give module:function{nearest(str(name), MEASURES)}"
        )
    there = named(name, "measure")
    if isinstance(there, Measure):
        return there
    if not callable(there):
        raise UserError(f"measure {name!r} is a {type(there).__name__}: give a function of X and Y, or a Measure")

    def of_pairing(pairing: Any) -> float:  # noqa: ANN401
        """The measure of the two representations."""
        try:
            return float(there(pairing.x.values, pairing.y.values))
        except UserError:
            raise
        except Exception as error:  # whatever the user's function does
            why = next(iter(str(error).splitlines()), "")
            raise UserError(
                f"measure {name!r} failed with {type(error).__name__} ({why[:200]}); let it give a number for "
                "X (N, D_x) and Y (N, D_y)"
            ) from error

    return Measure(name=name, label=name.rsplit(":", 1)[1], better="neither", directed=True, function=of_pairing)

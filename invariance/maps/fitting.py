"""What every solver shares: the order of the images, what a fit in progress offers, and whether it went well."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from invariance.seeds import generator
from invariance.settings.base import Settings, checked
from invariance.settings.fields import native


def hold_checked(settings: object, schema: type[Settings]) -> None:
    """Check a solver's settings made in Python as those of a configuration are, and hold them as Python's own values.

    Args:
        settings: the dataclass, a list or array where it has a tuple included.
        schema: the one that its values must fit.

    Raises:
        UserError: for the first value that does not fit, in one line.
    """
    given = {name: native(getattr(settings, name)) for name in schema.model_fields}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    for name, value in checked(schema, plain, type(settings).__name__).model_dump().items():
        object.__setattr__(settings, name, tuple(value) if isinstance(value, list) else value)  # it is frozen


@dataclass(frozen=True)
class Wanted:
    """J fits of one kind of map that a solver is to begin.

    Attributes:
        kind: the map, as `MAPS` names it, with its rank if it has one.
        residual: whether it is a residual of its input, or another map that can be the identity.
        inputs: D_in.
        outputs: D_out, all stacked targets together.
        images: how many fit images an epoch has.
        problems: J, fits with inputs of their own.
        stacked: targets stacked along the outputs.
        relu: whether σ of each stacked target is the ReLU; empty where all are.
        device: where the fits run.
    """

    kind: str
    residual: bool
    inputs: int
    outputs: int
    images: int
    problems: int = 1
    stacked: int = 1
    relu: Sequence[bool] = ()
    device: torch.device | str = "cpu"


@runtime_checkable
class Solver(Protocol):
    """Settings of a solver, a frozen dataclass, and the fits that they begin.

    Attributes:
        fits: the maps that it fits, beside those that name it themselves; the first is the one it is taken for.
        schema: what its settings must fit.
        weight_bytes: memory that a fit takes for every weight of a map, at its peak.
        seed: seed of the order of the images.
        block: images taken in at once.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    fits: ClassVar[tuple[str, ...]]
    schema: ClassVar[type[Settings]]
    weight_bytes: ClassVar[int]

    @property
    def seed(self) -> int:
        """Seed of the order of the images."""

    @property
    def block(self) -> int:
        """Images taken in at once."""

    @property
    def label(self) -> str:
        """Name of the solver in rows."""

    def begin(self, wanted: Wanted) -> "FitState":
        """Fits with nothing taken in yet."""

    def least_bytes(self, wanted: Wanted) -> int:
        """Bytes that the states of the fits take at the least."""


class FitState(Protocol):
    """J fits in progress that take in the fit images a block at a time.

    Attributes:
        epochs: passes over the images.
        block: images in a block.
    """

    epochs: int
    block: int

    @property
    def strengths(self) -> Sequence[Sequence[float]]:
        """The strengths that `finish` chose, [j][stacked target]; empty where there is none to choose."""

    def step(self, r: Tensor, t: Tensor) -> None:
        """Take in a block: inputs r (J, B, D_in), targets t (J, B, D_out) or (1, B, D_out)."""

    def block_error(self) -> Tensor | None:
        """(J,) mean over the last block's images of ‖map(r) − t‖² as the fit stood then; None where it has no such."""

    def finish(self) -> dict[str, Tensor]:
        """The fitted maps' parameters by name, each (J, …), after the last epoch."""


def order(images: int, seed: int, epoch: int) -> Tensor:
    """The order (N,) in which an epoch visits the fit images: new each epoch, the same for every fit and machine."""
    return torch.randperm(images, generator=generator(seed, "order of the fit", epoch))


def never_negative(target: Tensor) -> bool:
    """Whether σ is the ReLU for maps to a target (N, D): no number of it, over the fit images, is below 0.

    Features after a ReLU never are, and a map then need not reach below 0 either. For others σ does nothing.
    """
    return bool(target.amin() >= 0)


def fit_status(error: Tensor, reference: Tensor, scale: Tensor) -> list[str]:
    """How each fit ended, "ok" or "diverged": diverged if its error is not finite or exceeds the reference.

    The reference of a map that starts as the identity is the identity's error; that of a plain map is the error of the
    targets' mean, the best that ignores the input. A millionth of the targets' own size is allowed for rounding, so
    that a map fitted where nothing has to change is not called diverged.

    Args:
        error: (J,) mean over the fit images of ‖map(r) − t‖².
        reference: (J,) the same of the reference.
        scale: (J,) mean over the fit images of ‖t‖².
    """
    fine = torch.isfinite(error) & (error <= reference + 1e-6 * scale)
    return ["ok" if one else "diverged" for one in fine.tolist()]

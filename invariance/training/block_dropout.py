"""Dropout by blocks of a batch: what a block drops depends on its own seed alone, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from invariance.seeds import own_states

_DROPOUTS: frozenset[Callable[..., Any]] = frozenset(
    {
        functional.dropout,
        functional.dropout1d,
        functional.dropout2d,
        functional.dropout3d,
        functional.alpha_dropout,
        functional.feature_alpha_dropout,
    }
)


class BlockDropout(TorchFunctionMode):
    """While entered, every dropout treats the blocks of its batch one by one, each with random numbers of its own.

    A batch is `present` blocks of equally many images, one after another. Block b drops what
    `torch.manual_seed(seeds[b])` and a forward pass of that block alone would drop, so a batch may be cut between
    blocks, and its parts run through the network one after another, without any change. Random layers that are no
    dropout (stochastic depth) draw from the global state as ever.

    Args:
        seeds: one seed a block.
        device: where the network runs.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.present: Sequence[int] = range(len(seeds))
        self._states = []
        with own_states(self.device):
            for seed in seeds:
                torch.manual_seed(seed)
                self._states.append(self._state())

    def mark(self) -> list[Tensor]:
        """How far the random numbers of every block are."""
        return list(self._states)

    def rewind(self, mark: Sequence[Tensor]) -> None:
        """Go back to a mark: the same layers drop the same again."""
        self._states = list(mark)

    @property
    def _devices(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []

    def _state(self) -> Tensor:
        return torch.cuda.get_rng_state(self.device) if self._devices else torch.get_rng_state()

    def _set_state(self, state: Tensor) -> None:
        if self._devices:
            torch.cuda.set_rng_state(state, self.device)
        else:
            torch.set_rng_state(state)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Treat a dropout by blocks, and leave everything else as it is."""
        given = dict(kwargs or {})
        if func not in _DROPOUTS:
            return func(*args, **given)
        names = ("input", "p", "training", "inplace")
        given.update(zip(names, args, strict=False))
        x = given.pop("input")
        if not given.get("training", True):
            return func(x, **given)
        given["inplace"] = False  # parts of one tensor cannot be changed in place and have gradients
        if len(x) % len(self.present):
            raise ValueError(f"a batch of {len(x)} cannot be cut into {len(self.present)} equal blocks")
        parts = x.split(len(x) // len(self.present))
        with own_states(self.device):
            each = zip(parts, self.present, strict=True)
            return torch.cat([self._drop(func, part, block, given) for part, block in each])

    def _drop(self, func: Callable[..., Any], part: Tensor, block: int, given: dict[str, Any]) -> Any:  # noqa: ANN401
        self._set_state(self._states[block])
        dropped = func(part, **given)
        self._states[block] = self._state()
        return dropped

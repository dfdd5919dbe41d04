"""The forward and backward passes of one update of the joint loss (Eq. 5–7)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from invariance.models.representation import Representation
from invariance.training.block_dropout import BlockDropout
from invariance.training.joint_loss import TERMS, JointTerms, JointWeights, joint_terms


@dataclass(frozen=True)
class JointPasses:
    """One batch of N images x and its J copies g x: their loss, whose gradient goes to the parameters.

    Images go through the network in blocks of N: block 0 is x, block k is g_k x. `plain`, `whole` and `in_parts` take
    labels y (N,), and give the loss's terms, without gradients.

    Attributes:
        network: the network.
        cut: φ and C of it.
        maps: M_g for every g.
        weights: λ1, λ2, λ3.
        images: gives the images of some blocks, one block after another, as the network takes them.
        dropout: dropout of its own for every block.
        backward: what takes a loss's gradient.
    """

    network: nn.Module
    cut: Representation
    maps: nn.ModuleList
    weights: JointWeights
    images: Callable[[range], Tensor]
    dropout: BlockDropout
    backward: Callable[[Tensor], None]

    def plain(self, y: Tensor) -> JointTerms:
        """The update where λ3 is 0: the terms beside L_d are not computed, and count nothing."""
        self.dropout.present = [0]
        loss = functional.cross_entropy(self.network(self.images(range(1))), y)
        self.backward(loss)
        none = torch.zeros_like(loss.detach())
        return JointTerms(loss.detach(), none, none, none)

    def whole(self, y: Tensor) -> JointTerms:
        """The images and all copies at once."""
        blocks = range(len(self.maps) + 1)
        mark, gx = self.dropout.mark(), self.images(blocks)
        r, moved = self._features(gx, len(y), blocks)
        back = self._back(moved, blocks[1:])
        logits = self._resumed(torch.cat([r, back.flatten(0, 1)]), gx, mark)
        terms = joint_terms(logits[: len(y)], r, logits[len(y) :].view(*back.shape[:2], -1), back, moved, y)
        self.backward(terms.loss(self.weights))
        return _detached(terms)

    def in_parts(self, y: Tensor, copies: int) -> JointTerms:
        """The images alone, then the copies in parts, whose gradients on φ(x) are gathered and taken back last."""
        j = len(self.maps)
        mark, gx = self.dropout.mark(), self.images(range(1))
        r, _ = self._features(gx, len(y), range(1))
        logits = self._resumed(r, gx, mark)
        shared = r.detach().requires_grad_()
        sums: JointTerms | None = None
        for start in range(1, j + 1, copies):
            blocks = range(start, min(start + copies, j + 1))
            mark, gx = self.dropout.mark(), self.images(blocks)
            _, moved = self._features(gx, len(y), blocks)
            back = self._back(moved, blocks)
            logits_back = self._resumed(back.flatten(0, 1), gx, mark).view(*back.shape[:2], -1)
            terms = joint_terms(logits.detach(), shared, logits_back, back, moved, y)
            share = len(blocks) / j
            self.backward(self.weights.equivariance * share * terms.equivariance(self.weights))
            sums = _added(sums, _detached(terms), share)
        assert shared.grad is not None and sums is not None
        loss = functional.cross_entropy(logits, y)
        self.backward(loss + (r * shared.grad).sum())
        return JointTerms(loss.detach(), sums.transformed, sums.recovery, sums.invariance)

    def _features(self, gx: Tensor, n: int, blocks: range) -> tuple[Tensor, Tensor]:
        """φ of the images (N, D), empty unless block 0 is among the blocks, and of their copies (J', N, D)."""
        self.dropout.present = blocks
        r = full(self.cut.reach(gx))
        own = n * (blocks.start == 0)
        return r[:own], r[own:].view(-1, n, r.shape[1])

    def _resumed(self, r: Tensor, gx: Tensor, mark: Sequence[Tensor]) -> Tensor:
        """Logits of representations; where something passes the layer by, of gx, which drops what it dropped before."""
        if not self.cut.alone:
            self.dropout.rewind(mark)
        return full(self.cut.resume(r, gx))

    def _back(self, moved: Tensor, blocks: range) -> Tensor:
        """x'_ij = M_gj φ(g_j x_i), (J', N, D)."""
        return full(torch.stack([self.maps[b - 1](r) for b, r in zip(blocks, moved, strict=True)]))


def full(values: Tensor) -> Tensor:
    """Values as the loss is summed: in float32 where the network ran in 16 bits."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _detached(terms: JointTerms) -> JointTerms:
    return JointTerms(**{name: getattr(terms, name).detach() for name in TERMS})


def _added(sums: JointTerms | None, terms: JointTerms, share: float) -> JointTerms:
    if sums is None:
        return JointTerms(**{name: share * getattr(terms, name) for name in TERMS})
    return JointTerms(**{name: getattr(sums, name) + share * getattr(terms, name) for name in TERMS})

"""Finetuning a network and its maps M_g with the joint loss (Eq. 5–7, Sec. 5.4)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from invariance.errors import UserError
from invariance.maps import ResidualMap
from invariance.models.representation import Representation
from invariance.seeds import derive, own_states
from invariance.training.block_dropout import BlockDropout
from invariance.training.joint_loss import TERMS, BrokenTerms, JointTerms, JointWeights
from invariance.training.joint_passes import JointPasses, full
from invariance.training.module import RecipeModule, all_finite
from invariance.transforms.base import UNTOUCHED, Params, Transform
from invariance.transforms.tabled import Fixed

_CHECK_EVERY = 50


class JointFinetune(RecipeModule):
    """A network and one map M_g for every g of a set G, trained together with L = L_d + λ3 L_e (Eq. 7).

    An update takes a batch of images x and its copies g x for all g of G through the network in one forward pass;
    `copies` bounds how many of the copies go through at once, and gradients stay the same. Everything random is keyed
    by (seed, update), and dropout by the copy, so that neither an interruption nor `copies` changes what is dropped.
    Layers that normalise by the batch keep the statistics they have.

    With λ3 = 0 an update is one of plain training on untouched images, and the maps stay the identity.

    Args:
        network: the trained network, from what `normalise` gives to logits (B, K).
        normalise: images (B, C, H, W) in [0, 255] to what the network takes.
        layer: where φ ends.
        transform: the family; G is every g of its grid but the untouched.
        weights: λ1, λ2, λ3; None for the released code's.
        recipe: rate, momentum, weight_decay, schedule and so on (Sec. 5.4; conf/recipe/finetune_*).
        seed: seed of dropout.
        image_shape: (C, H, W) of the images as they are read; for Crop, larger than what the network takes.
        copies: how many of the J copies of a batch go through the network at once; None for all.

    Attributes:
        dim: D.
        points: G, in the order of the maps.
        maps: M_g for each of them.

    Raises:
        UserError: if G is empty, or the layer gives no row an image.
    """

    def __init__(
        self,
        network: nn.Module,
        normalise: Callable[[Tensor], Tensor],
        *,
        layer: str,
        transform: Transform,
        recipe: Mapping[str, Any],
        seed: int,
        image_shape: Sequence[int],
        weights: JointWeights | None = None,
        copies: int | None = None,
    ) -> None:
        super().__init__(recipe, seed)
        self.automatic_optimization = False  # a batch that is cut takes several backward passes
        self.points = [point for point in transform.grid() if point.label != UNTOUCHED]
        if not self.points:
            raise UserError("G is empty: the joint loss needs at least one g that changes the images")
        self.network, self.normalise, self.transform = network, normalise, transform
        self.moved = Fixed(transform)
        self.untouched = next(point.params for point in transform.grid() if point.label == UNTOUCHED)
        self.copies = min(copies or len(self.points), len(self.points))
        self.cut = Representation(network, layer)
        device = next(network.parameters()).device
        blank = self.moved(torch.zeros(1, *image_shape, device=device), self.untouched)
        blank = normalise(blank)
        r = self.cut.phi(blank)
        self.cut.classify(r, blank)  # refuses a network that gives no logits
        self.dim = r.shape[1]
        self.weights = weights or JointWeights.of(self.dim)
        self.maps = nn.ModuleList(ResidualMap(self.dim) for _ in self.points)
        self.watch = BrokenTerms()
        self.save_hyperparameters(
            {
                "layer": layer,
                "seed": seed,
                "recipe": self.recipe,
                "g": [point.label for point in self.points],
                "weights": [self.weights.recovery, self.weights.invariance, self.weights.equivariance],
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 255]."""
        logits: Tensor = self.network(self._prepared(x.float()))
        return logits

    def _prepared(self, x: Tensor) -> Tensor:
        return self.normalise(x).contiguous(memory_format=self.memory_format)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One update from a batch (x uint8 (N, C, H, W), y (N,)) and its J copies."""
        x, y = batch
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.zero_grad()
        terms = self.accumulate(x.float(), y)
        self.watch.look(terms)
        if self.global_step % _CHECK_EVERY == 0:
            self._refuse(self.watch.broken)
        optimizer.step()
        schedule = self.lr_schedulers()
        assert not isinstance(schedule, list) and schedule is not None
        schedule.step()
        self.log("train/loss", terms.loss(self.weights), prog_bar=True)
        self.log_dict({f"train/{name}": getattr(terms, name) for name in TERMS})

    def accumulate(self, x: Tensor, y: Tensor) -> JointTerms:
        """Add the gradient of the joint loss of images x (N, C, H, W) in [0, 255] and labels y (N,) to the parameters'.

        Returns:
            The loss's terms, without gradients.
        """
        for module in self.network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        step, j = self.global_step, len(self.points)
        seeds = [derive(self.seed, "dropout", step), *(derive(self.seed, "dropout", step, k) for k in range(1, j + 1))]
        with BlockDropout(seeds, x.device) as dropout, own_states(x.device):
            torch.manual_seed(seeds[0])  # of layers that are random in another way than dropout
            passes = JointPasses(
                self.network, self.cut, self.maps, self.weights, self._blocks_of(x), dropout, self.manual_backward
            )
            if self.weights.equivariance == 0:
                return passes.plain(y)
            return passes.whole(y) if self.copies == j else passes.in_parts(y, self.copies)

    def _blocks_of(self, x: Tensor) -> Callable[[range], Tensor]:
        """What gives the images of some blocks, one after another, as the network takes them: 0 is x, k is g_k x."""
        params = [self.untouched, *(point.params for point in self.points)]
        return lambda blocks: self._prepared(torch.cat([self.moved(x, params[k]) for k in blocks]))

    def on_train_epoch_end(self) -> None:
        """Look once more before the span's checkpoint is written, at the weights, too."""
        self._refuse(self.watch.broken or ([] if bool(all_finite(self)) else ["a weight of the network or of a map"]))

    def _refuse(self, broken: Sequence[str]) -> None:
        if not broken:
            return
        raise UserError(
            f"finetuning diverged, no longer finite by update {self.global_step}: {', '.join(broken)}; lower "
            f"recipe.rate (it is {self.recipe['rate']}) or the joint loss's weights, and repeat with another name=… or "
            "after deleting the run directory if it holds checkpoints"
        )

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy untouched, and its mean over G as it is and through M_g."""
        x, y = batch
        x = x.float()
        right = self.cut.classify(*self._evaluated(x, self.untouched)).argmax(1) == y
        self.log("val/accuracy", right.float().mean(), batch_size=len(y), prog_bar=True)
        correct = torch.zeros(2, device=x.device)
        for point, module in zip(self.points, self.maps, strict=True):
            r, gx = self._evaluated(x, point.params)
            for k, one in enumerate((r, module(r))):
                correct[k] += (self.cut.classify(one, gx).argmax(1) == y).float().mean()
        for name, value in zip(("val/accuracy_g", "val/accuracy_Mg"), correct / len(self.points), strict=True):
            self.log(name, value, batch_size=len(y), prog_bar=True)

    def _evaluated(self, x: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        gx = self._prepared(self.moved(x, params))
        return full(self.cut.phi(gx)), gx

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters of the network and of the maps alike."""
        return [*self.network.named_parameters(), *self.maps.named_parameters()]

"""Training the full CaffeNet by the project's way against the same steps on one batch that lies ready in memory.

    python benchmarks/train.py [--batch 32] [--families baseline rotation] [--json PATH]
    python benchmarks/train.py --device cuda --batch 256 --updates 50 --precision bf16-mixed --channels-last --compile
    python benchmarks/train.py --batch 2 --size 67 --rounds 1

Ours: the trainer, classifier and data module of `invariance.train`, on prepared data. Bare: forward, loss, backward and
the optimizer's step in a plain loop on a normalised batch. After every `--updates` updates of ours, as many bare ones
are made within the same process; the share is the median over these rounds of the ratio within a round.
`share_of_bare` is the lowest share of all families.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from photos import family_at_its_largest, folder_of, prepared_at
from pytorch_lightning.loggers import CSVLogger
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from invariance.data.batches import PreparedData
from invariance.data.prepared import Prepared
from invariance.device import keep_freed
from invariance.runs.outputs import output_file
from invariance.settings.files import conf_dir, families
from invariance.training.classifier import Classifier
from invariance.training.trainer import arithmetic, build_trainer
from invariance.transforms import build

RECIPE = {
    "rate": 1e-4,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "step": 100_000,
    "warmup": 0,
    "label_smoothing": 0.0,
    "nesterov": False,
}


def now(device: torch.device) -> float:
    """The time in seconds when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Bare:
    """The same steps without the project: a copy of the network, its optimizer, one batch."""

    def __init__(self, classifier: Classifier, given: argparse.Namespace) -> None:
        self.device, self.precision = torch.device(given.device), given.precision
        self.classifier = copy.deepcopy(classifier).to(self.device).train()
        self.classifier.speed_up(given.channels_last, given.compile)
        self.optimizer = self.classifier.configure_optimizers()["optimizer"]
        self.x = torch.randn(given.batch, 3, given.size, given.size, device=self.device)
        if given.channels_last:
            self.x = self.x.to(memory_format=torch.channels_last)
        self.y = torch.randint(1000, (given.batch,), device=self.device)

    def step(self) -> None:
        """One update."""
        self.optimizer.zero_grad()
        kind = torch.bfloat16 if self.precision == "bf16-mixed" else torch.float16
        with torch.autocast(self.device.type, kind, enabled="mixed" in self.precision):
            loss = functional.cross_entropy(self.classifier.network(self.x), self.y)
        loss.backward()
        self.optimizer.step()


class Rounds(pl.Callback):
    """Times so many updates of the trainer and then as many bare ones, again and again.

    The clock starts one update after the bare ones, so that what was read ahead meanwhile is used up.
    """

    def __init__(self, bare: Bare, updates: int) -> None:
        self.bare, self.updates, self.started = bare, updates, 0.0
        self.pairs: list[tuple[float, float]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Read the clock."""
        place = batch_idx % (self.updates + 1)
        if place == 0:
            self.started = now(self.bare.device)
        if place == self.updates:
            between = now(self.bare.device)
            for _ in range(self.updates):
                self.bare.step()
            self.pairs.append((between - self.started, now(self.bare.device) - between))


def compare(family: str, prepared: Prepared, where: Path, given: argparse.Namespace) -> list[tuple[float, float]]:
    """Seconds of ours and of the bare steps for every round but the first, which warms up."""
    model = OmegaConf.to_container(OmegaConf.load(conf_dir() / "model" / "caffenet.yaml"))
    assert isinstance(model, dict)
    classifier = Classifier(
        {**model, "input_size": given.size},
        family_at_its_largest(family),
        RECIPE,
        [str(n) for n in range(1000)],
        prepared.channels,
        prepared.mean,
        seed=0,
    )
    classifier.speed_up(given.channels_last, given.compile)
    rounds = Rounds(Bare(classifier, given), given.updates)
    settings = OmegaConf.load(conf_dir() / "trainer" / ("gpu.yaml" if given.device == "cuda" else "cpu.yaml"))
    settings = OmegaConf.merge(settings, {"precision": given.precision})
    updates = (given.rounds + 1) * (given.updates + 1)
    trainer = build_trainer(
        settings,
        progress=False,
        max_epochs=1,
        logger=CSVLogger(where),
        callbacks=[rounds],
        enable_checkpointing=False,
        limit_val_batches=0,
        log_every_n_steps=min(50, updates),
        reload_dataloaders_every_n_epochs=1,
    )
    draw = classifier.draw(prepared.split("train").images.shape[1:])
    data = PreparedData(prepared, given.batch, updates, updates, seed=0, workers=settings.workers, draw=draw)
    with arithmetic(settings):
        trainer.fit(classifier, datamodule=data)
    return rounds.pairs[1:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--updates", type=int, default=2, help="updates of each way in a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--size", type=int, default=227)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--families", nargs="+", choices=[*families(), "all"], help="GPU: all of them")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("32-true", "tf32", "bf16-mixed"), default="32-true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--json", type=output_file)
    given = parser.parse_args()
    chosen = given.families or (["all"] if given.device == "cuda" else ["baseline", "rotation"])
    torch.set_num_threads(given.threads)
    keep_freed()
    table = Table("family", "images/s", "bare images/s", "share", title=f"CaffeNet at {given.size} on {given.device}")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(temporary)
        folder = folder_of(None, given.images, where / "photos")
        for family in families() if "all" in chosen else chosen:
            side = build(family_at_its_largest(family)).source_size(given.size)
            pairs = compare(family, prepared_at(side, folder, where), where, given)
            share = statistics.median(bare / ours for ours, bare in pairs)
            rates = [given.batch * given.updates / statistics.median(times) for times in zip(*pairs, strict=True)]
            table.add_row(family, *(f"{rate:,.1f}" for rate in rates), f"{share:.1%}")
            figures |= {f"share_of_bare_{family}": round(share, 4), f"images_per_second_{family}": round(rates[0], 1)}
    figures["share_of_bare"] = min(value for name, value in figures.items() if name.startswith("share"))
    Console().print(table)
    print(
        f"lowest share {figures['share_of_bare']:.1%}; batch {given.batch}, {given.precision}, "
        f"{given.threads} threads, torch {torch.__version__}"
    )
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

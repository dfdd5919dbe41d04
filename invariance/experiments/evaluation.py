"""The error of a trained network on untouched images (Table 3)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from invariance.data.prepared import Prepared
from invariance.device import choose_device
from invariance.engine.stream import extract
from invariance.errors import UserError
from invariance.measures.bootstrap import wilson
from invariance.measures.error import errors_per_image
from invariance.models.representation import Representation
from invariance.runs.files import sha256, write_text
from invariance.runs.rows import Row, to_frame
from invariance.runs.run import BEST, Run
from invariance.runs.wandb import Tracker
from invariance.training.classifier import load_classifier


def evaluate(
    about: Mapping[str, Any], prepared: Prepared, run: Run, tracker: Tracker, accelerator: str
) -> pd.DataFrame:
    """Error of a run's network on the validation and the report split, untouched (Table 3).

    Args:
        about: what the rows say of the network: stage, network, family, range and seed.
        prepared: the data.
        run: the run, whose `best.ckpt` is evaluated.
        tracker: where the results go, too.
        accelerator: where the network runs.

    Raises:
        UserError: if the network gives no finite number for any image.
    """
    classifier = load_classifier(run.directory / BEST)
    device = choose_device(accelerator)
    classifier.to(device)
    run.record({"weights_sha256": sha256(run.directory / BEST), "device": str(device)})
    everything = Representation(classifier.network, [name for name, _ in classifier.network.named_children()][-1])
    rows = []
    for name in dict.fromkeys(["val", prepared.report]):
        split = prepared.split(name)
        logits = extract(
            everything,
            classifier.normalise,
            split.images,
            np.arange(len(split.labels)),
            classifier.transform,
            classifier.untouched,
            device=device,
        )
        if not bool(logits.isfinite().all(1).any()):
            raise UserError(
                f"{run.directory / BEST} gives no finite number for any image of {name}: training diverged; delete "
                f"{run.directory} and repeat with a lower recipe.rate (it is {run.identity['recipe']['rate']})"
            )
        labels = torch.from_numpy(np.asarray(split.labels))
        row = row_of(about, prepared.name, name, run.name, logits, labels)
        rows.append(row)
        tracker.summarise({f"{name}/accuracy": 1 - row.score})
        keep_confusion(name, labels, logits.argmax(1), prepared.classes, run, tracker)
    return to_frame(rows)


def row_of(about: Mapping[str, Any], data: str, split: str, run: str, logits: Tensor, labels: Tensor) -> Row:
    """The error of logits (N, K) against labels (N,), with its interval."""
    interval = wilson(errors_per_image(logits, labels))
    error, low, high = (float(end[0]) for end in (interval.mean, interval.low, interval.high))
    return Row(
        **about,
        data=data,
        split=split,
        metric="error_rate",
        score=error,
        low=low,
        high=high,
        n_images=len(labels),
        run=run,
    )


def keep_confusion(
    split: str, labels: Tensor, predicted: Tensor, classes: list[str], run: Run, tracker: Tracker
) -> None:
    """Write how often each class (N,) was taken for each into the run, and show it."""
    tracker.confusion(f"{split}/confusion", labels.tolist(), predicted.tolist(), classes)
    k = range(len(classes))
    confusion = pd.crosstab(labels.numpy(), predicted.numpy()).reindex(index=k, columns=k, fill_value=0)
    run.require_here()
    write_text(run.directory / f"confusion_{split}.csv", confusion.to_csv())

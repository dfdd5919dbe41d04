"""The one long table: every number the project prints is one row of it."""

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from invariance.errors import UserError
from invariance.measures import MEASURES
from invariance.runs.files import write_text


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number and what it was measured on.

    Attributes:
        stage: the page that made it: train, measure, distance, finetune.
        data: name of the data set; `<a>@<b>` for a network trained on a and measured on b (Sec. B.2).
        network: name of the trained network, as `rotation_20` or `baseline`.
        family: the family of transformations the network was trained with.
        range: the trained range as text ("20", "both"), empty for a baseline.
        seed: seed of the network's training.
        layer: where φ ends.
        g: the transformation, `<grid>:<label>` as `rotation:-15`; `<grid>:untouched` is no transformation at all,
            `<grid>:derivative` how fast φ changes as g sets in.
        value: place of g on its grid's axis (degrees, pixels, …); NaN where it has none.
        unit: unit of `value`; of a derivative what it is per.
        split: split of the data the number is over.
        map: identity, residual, low_rank:8 (of a rank of 8), orthogonal, mlp, linear; on positions spatial, warp, floor
            and identity_inside.
        solver: how the map was fitted, empty where nothing was fitted.
        metric: error_rate, l2_distance, accuracy, …
        score: the number.
        low: lower end of its 95 % interval over images: Wilson's for rates, else by bootstrap.
        high: upper end.
        n_images: images the score is a mean over.
        status: "ok", or why the score cannot be trusted ("diverged"); such a row's score is NaN. "few_images" marks a
            score that stands on fewer than two fit images a dimension, "report_scale" an L_L2 whose dimensions are
            divided by their RMS over the report images, for there are no fit images.
        run: the run directory that holds config and provenance, relative to the runs folder.
        model: the network's source and name, where it was not trained here.
        readout: how the layer's activation becomes a vector: flatten, mean, cls, token:k or project:k; `positions` of
            maps on positions, which take the activation as it is.
        fit_classes: which classes the map was fitted on: all, or of the unseen-class control those of the half that the
            image's own is of (same) or of the other (unseen); empty where no map was fitted.
        null_image: the score between different images; nulls stand beside the report images' rows, where wanted.
        null_constant: the score of the mean of φ(x) over the fit images.
        null_shuffled: the score of a map fitted on shuffled pairs.
        calibrated: (null − score) / (null − best); NaN where null and best cannot be told apart.
        reference: the score with φ(x) put in the place of φ(gx), g undone at the layer exactly; of L_L2 the error rate.
        bypass: how much of the logits goes past the layer; 0 at a true cut.
        scores: hash of the scores of every image that this is the mean of.
    """

    stage: str = ""
    data: str = ""
    network: str
    family: str = ""
    range: str = ""
    seed: int = 0
    layer: str = ""
    g: str = ""
    value: float = math.nan
    unit: str = ""
    split: str
    map: str = ""
    solver: str = ""
    metric: str
    score: float
    low: float = math.nan
    high: float = math.nan
    n_images: int
    status: str = "ok"
    run: str = ""
    model: str = ""
    readout: str = ""
    fit_classes: str = ""
    null_image: float = math.nan
    null_constant: float = math.nan
    null_shuffled: float = math.nan
    calibrated: float = math.nan
    reference: float = math.nan
    bypass: float = math.nan
    scores: str = ""


STAGES = ("train", "measure", "distance", "finetune")
FEW_IMAGES = "few_images"
"""A score that stands on fewer than two fit images a dimension."""

REPORT_SCALE = "report_scale"
"""An L_L2 scaled over the report images themselves, where there are no fit images."""

WITH_SCORE = ("ok", FEW_IMAGES, REPORT_SCALE)
STATUSES = (*WITH_SCORE, "diverged", "not_finite", "constant", "undefined")
"""How a row's score can stand: any but these comes without a number."""

OUTSIDE = "positions_outside"
"""The share of a layer's positions whose source lies outside, so that they are left out."""

OF_CONTROL = ("half_error_rate", "fit_images_per_dimension", OUTSIDE)
"""Metrics that the unseen-class control, and maps on positions, add to those that were asked for."""

_ROUNDING = 1e-6
"""How far beyond its bounds a number may be by rounding, of 1 or of itself."""

COLUMNS = [field.name for field in fields(Row)]
FINITE = (
    "value",
    "score",
    "low",
    "high",
    "reference",
    "bypass",
    *(name for name in COLUMNS if name.startswith("null_")),
)
"""Columns of numbers that may be missing, and are never infinite."""

FIRST_COLUMNS = COLUMNS[: COLUMNS.index("run") + 1]
"""The columns of before, which files of rows may have alone."""

_TYPES: dict[str, Any] = {field.name: field.type for field in fields(Row)}


def to_frame(rows: Iterable[Row]) -> pd.DataFrame:
    """The rows as a table with the columns of `COLUMNS`, in that order."""
    return pd.DataFrame([asdict(row) for row in rows], columns=COLUMNS)


def write_rows(path: Path, table: pd.DataFrame) -> None:
    """Write a table of rows as CSV, atomically, every float so that it reads back to the bit."""
    write_text(path, rows_text(table))


def rows_text(table: pd.DataFrame) -> str:
    """A table of rows as the text of a `rows.csv`."""
    buffer = io.StringIO()
    table.to_csv(buffer, index=False, lineterminator="\n")
    return buffer.getvalue()


def read_rows(path: Path, content: bytes | None = None) -> pd.DataFrame:
    """Read a `rows.csv`.

    Args:
        path: the file.
        content: what it holds, where that was read already.

    Raises:
        UserError: if the file is not a table of rows, or its end is cut off: every writer ends it with a line's end.
    """
    try:
        content = path.read_bytes() if content is None else content
        if content and not content.endswith(b"\n"):
            raise ValueError("its last line is cut off")
        table = pd.read_csv(
            io.BytesIO(content),
            dtype=_TYPES,
            na_filter=True,
            keep_default_na=False,
            na_values={name: ["", "nan"] for name, kind in _TYPES.items() if kind is not str},
            float_precision="round_trip",
        )
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); see to it and repeat") from error
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path} is not a table of rows ({error}); delete its folder and repeat the run") from error
    if list(table.columns) == FIRST_COLUMNS:
        for name in COLUMNS[len(FIRST_COLUMNS) :]:
            table[name] = "" if _TYPES[name] is str else math.nan
    if list(table.columns) != COLUMNS:
        odd = sorted(set(COLUMNS) ^ set(table.columns)) or ["their order"]
        raise UserError(f"{path} is not a table of rows: columns differ in {', '.join(map(str, odd))}")
    if not isinstance(table.index, pd.RangeIndex) or table["run"].isin(["", math.nan]).any():
        raise UserError(f"{path} is not a table of rows: a row has too many or too few fields; repeat the run")
    return table


def check_values(path: Path, table: pd.DataFrame) -> None:
    """Refuse rows whose values no measurement gives.

    Args:
        path: the file that they are from, for the error.
        table: the rows.

    Raises:
        UserError: naming the first value that is out of its range.
    """
    for column, wanted, wrong in _wrong(table):
        if wrong.any():
            first = table[wrong].iloc[0]
            value = first[column]
            told = repr(value) if isinstance(value, str) else "infinite" if np.isinf(value) else f"{value:g}"
            raise UserError(
                f"{path} is damaged: {column} is {told} where {wanted} is expected ({first['metric']}, "
                f"{int(wrong.sum())} of {len(table)} rows); delete its folder and repeat the run"
            )


def _wrong(table: pd.DataFrame) -> Iterator[tuple[str, str, "pd.Series[bool]"]]:
    """Every rule for a column: its name, what is expected, and which rows break it."""
    score, low, high, ok = table["score"], table["low"], table["high"], table["status"].isin(WITH_SCORE)
    for column in FINITE:
        yield column, "a finite number", pd.Series(np.isinf(table[column].to_numpy(dtype=float)), table.index)
    yield "stage", f"one of {', '.join(STAGES)}", ~table["stage"].isin(STAGES)
    yield "status", f"one of {', '.join(STATUSES)}", ~table["status"].isin(STATUSES)
    yield "score", "a number, as its status says,", ok & score.isna()
    for column in ("score", "low", "high"):
        yield column, "none, for its status says so,", ~ok & table[column].notna()
    yield "n_images", "a number above 0", table["n_images"] < 1
    yield "seed", "a number from 0", table["seed"] < 0
    for measure in MEASURES.values():
        here, (least, most) = table["metric"] == measure.name, measure.bounds
        outside = (score < least - _ROUNDING) | (score > most + _ROUNDING)
        yield "score", f"a number in [{least:g}, {most:g}]", here & outside
    room = _ROUNDING * np.maximum(1.0, score.abs())
    yield "low", "no more than the score", low > score + room
    yield "high", "no less than the score", high < score - room
    yield "low", "an interval with both of its ends", low.isna() != high.isna()

"""Curves over depth and layer × family heat maps, for notebooks and for the page: tidy frames, and what draws them."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from invariance.engine.per_image import OF, PerImage
from invariance.engine.summaries import area, area_weights
from invariance.errors import UserError
from invariance.models.derivative import INPUT
from invariance.reporting.curves import IDENTITY, order_of, way, words
from invariance.reporting.lines import INVARIANCE, PASSED, Axis, Lines
from invariance.reporting.metrics import Metric
from invariance.reporting.style import INK, canvas
from invariance.runs.rows import FEW_IMAGES, WITH_SCORE
from invariance.transforms.base import UNTOUCHED

NULLS = "nulls"
"""What the legend calls the nulls."""

BYPASS = 1e-4
"""Share of the logits that goes past a layer by rounding."""

MOST_TOLD = 40
"""Layers that a heat map has lines for; of more, so many from the first to the last."""

NULL_COLUMNS = ["null_image", "null_constant", "null_shuffled"]
_LONGEST = 26
_BANDS = 4
"""Lines up to which each has the band of its interval: those of more hide each other."""

_WIDEST = 13.0
"""Inches of heat maps beside each other."""

_PASSED_BY = " ○"


@dataclass(frozen=True)
class Drawing:
    """A figure before it is drawn: a tidy frame, and what draws it."""

    frame: pd.DataFrame
    draw: Callable[[pd.DataFrame], Figure]


def short(text: str, most: int = _LONGEST) -> str:
    """A name that a figure has room for: long ones lose their middle, and what is no letter of any kind is a box."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff￾￿]", "□", text)
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most - most // 2) :]}"


def shortened(names: Iterable[str], most: int = _LONGEST) -> dict[str, str]:
    """`short` names that stay apart."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        told, k = short(name, most), 1
        while told in found.values():
            k += 1
            told = f"{short(name, most - 4)} ({k})"
        found[name] = told
    return found


def spread(layers: Sequence[str], most: int) -> list[str]:
    """At most so many of some layers, from the first to the last, as evenly as can be."""
    if len(layers) <= most:
        return list(layers)
    return [layers[round(k * (len(layers) - 1) / (most - 1))] for k in range(most)]


def areas_of(rows: pd.DataFrame, counted: Sequence[str] | None, per_image: PerImage | None) -> pd.DataFrame:
    """The area of every curve as a row with `score`, `low`, `high`, `status` and what its layer says of itself.

    Beside these stand `untouched`, the score without a map of the untouched image; means of the nulls over the g; and
    `few`, whether too few images decided it.

    Args:
        rows: as `summaries.plain` gives them.
        counted: the grids whose axis only counts.
        per_image: scores of every image, for intervals; None: without.

    Raises:
        UserError: if there is no g but the untouched.
    """
    found = area(rows, counted, per_image)
    if found.empty:
        raise UserError("there is no g but the untouched, and so no curve")
    of = [*OF, "metric"]
    moved = rows[rows["label"] != UNTOUCHED]
    about = moved.assign(few=moved["status"] == FEW_IMAGES).groupby(of, sort=False)
    beside = about[[*NULL_COLUMNS, "reference"]].mean()
    beside = beside.join(about[["unit", "bypass", "n_images"]].first()).join(about["few"].any())
    plain = rows[(rows["label"] == UNTOUCHED) & (rows["map"] == IDENTITY[0]) & rows["status"].isin(WITH_SCORE)]
    where = ["network", "layer", "grid", "metric"]
    untouched = plain.drop_duplicates(where).set_index(where)["score"].rename("untouched")
    table = found.rename(columns={"area": "score"}).merge(beside.reset_index(), on=of, how="left")
    table = table.merge(untouched.reset_index(), on=where, how="left")
    ends = np.where(table["few"], FEW_IMAGES, "ok")
    return table.assign(status=np.where(table["score"].notna(), ends, "withheld"))


def ways_of(rows: pd.DataFrame) -> "pd.Series[str]":
    """Through what every row was measured, as legends have it."""
    pairs = rows[["map", "solver"]].drop_duplicates().itertuples(index=False, name=None)
    kinds = {fit: way(fit) for fit in pairs}
    told = [kinds[fit] for fit in zip(rows["map"], rows["solver"], strict=True)]
    return pd.Series(told, index=rows.index, dtype=str)


def numbers(rows: pd.DataFrame, metric: Metric) -> dict[str, object]:
    """y, its interval and its status: a number at a layer that is passed by says so."""
    trusted = rows["status"].isin(WITH_SCORE)
    passed = trusted & (rows["bypass"] > BYPASS) & (rows["status"] != FEW_IMAGES)
    low, high = metric.ends(rows["low"].where(trusted), rows["high"].where(trusted))
    y = metric.shown(rows["score"].where(trusted))
    return {"y": y, "low": low, "high": high, "status": rows["status"].where(~passed, PASSED)}


def depth_curves(
    scores: pd.DataFrame, metric: Metric, panel: str, who: str, heading: str, label: str, colours: dict[str, str] | None
) -> Drawing:
    """Scores over the layers in their order: a line a `who`, a panel of `panel`.

    The nulls are grey: from the least to the largest of those that there are. The input stands before the layers, and
    is joined to none of them. A dotted line is the untouched score.

    Args:
        scores: rows of scores with what `areas_of` sets beside them, the layers in their order.
        metric: what they are of.
        panel: the column of panels.
        who: the column of lines.
        heading: what the legend calls the lines.
        label: the y axis.
        colours: of the lines; None: chosen here.
    """
    frames, axes, widest, longest = [], {}, 1, 0
    titles = shortened((str(name) for name in scores[panel].unique()), 44)
    for name, part in scores.groupby(panel, sort=False):
        layers = [layer for layer in dict.fromkeys(part["layer"]) if layer != INPUT]
        first = [INPUT] if (part["layer"] == INPUT).any() else []
        place = {**{layer: k for k, layer in enumerate(layers)}, INPUT: -1}
        about = {"row": "", "panel": titles[str(name)], "family": "", "way": INVARIANCE}
        lines = pd.DataFrame(
            {**about, "who": part[who], "x": part["layer"].map(place), **numbers(part, metric), "layer": part["layer"]}
        )
        frames += [_apart(lines) if first else lines]
        frames += [one.assign(**about) for one in _references(part, layers, metric)]
        told = shortened([*first, *layers])
        axes[titles[str(name)]] = Axis("layer", tuple(range(-len(first), len(layers))), tuple(told.values()))
        widest = max(widest, len(layers) + len(first))
        longest = max(longest, *map(len, told.values()))
    frame = pd.concat(frames, ignore_index=True)
    names = dict.fromkeys(frame["who"][~frame["who"].isin((NULLS, UNTOUCHED))])
    draw = Lines(
        colours or colours_of(names),
        axes,
        label,
        heading,
        bounds=metric.bounds,
        bands=len(names) <= _BANDS,
        size=(
            min(5.6, max(3.0, 1.2 + 0.16 * widest)),
            2.1 + 0.075 * longest,
        ),  # names of layers stand upright where they are many
        across=2 if widest > 16 else 3,
        references=(NULLS, UNTOUCHED),
    )
    return Drawing(frame, draw)


def _apart(lines: pd.DataFrame) -> pd.DataFrame:
    """Lines with a gap between the input and the first layer: no layer lies between."""
    gaps = lines[lines["x"] == -1].assign(x=-0.5, y=np.nan, low=np.nan, high=np.nan, status="ok", layer="")
    return pd.concat([lines, gaps]).sort_values("x", kind="stable")


def _references(part: pd.DataFrame, layers: list[str], metric: Metric) -> list[pd.DataFrame]:
    """The nulls of every layer as a band, or as a line where there is one null alone; and the untouched score."""
    part = part[part["layer"] != INPUT]
    band = pd.DataFrame({"who": NULLS, "x": range(len(layers)), "status": "ok"})
    found = []
    known = metric.shown(part.groupby("layer")[NULL_COLUMNS].mean().reindex(layers))
    if known.notna().any(axis=None):
        low, high = known.min(axis=1).to_numpy(), known.max(axis=1).to_numpy()
        alone = bool(np.nanmax(high - low) == 0)
        ends = {"y": low, "low": np.nan, "high": np.nan} if alone else {"y": np.nan, "low": low, "high": high}
        found.append(band.assign(**ends))
    untouched = metric.shown(part.groupby("layer")["untouched"].mean().reindex(layers))
    if metric.name == "error_rate" and untouched.notna().any():
        found.append(band.assign(who=UNTOUCHED, y=untouched.to_numpy(), low=np.nan, high=np.nan))
    return found


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for every name, in the order of the names."""
    known = list(dict.fromkeys(names))
    palette = sns.color_palette("colorblind" if len(known) <= 10 else "husl", len(known))
    return {name: to_hex(colour) for name, colour in zip(known, palette, strict=True)}


@dataclass(frozen=True)
class Heat:
    """How a frame with the columns `panel, line, column, y` is drawn: numbers in cells, dark being the better.

    Attributes:
        metric: what the numbers are of.
        label: of the bar of colours.
        titled: whether panels have titles.
        families: whether columns are families, whose names are set as words; if not, they are layers.
    """

    metric: Metric
    label: str
    titled: bool = True
    families: bool = True

    def __call__(self, frame: pd.DataFrame) -> Figure:
        """The drawing of a frame."""
        tables = {str(panel): self._table(part) for panel, part in frame.groupby("panel", sort=False)}
        names = {panel: shortened(str(line) for line in table.index) for panel, table in tables.items()}
        margin = 0.3 + 0.066 * max(len(name) for of in names.values() for name in of.values())
        wide = margin + max(0.52 * table.shape[1] for table in tables.values())
        across = max(1, min(len(tables), int(_WIDEST / wide)))
        down = -(-len(tables) // across)
        tall = 1.25 + 0.27 * max(len(table) for table in tables.values())
        size = (wide * across + 1.5, tall * down)
        figure = canvas(size)
        if isinstance(engine := figure.get_layout_engine(), ConstrainedLayoutEngine):
            left = 0.3 / size[0]  # long names of lines take more than the layout leaves them
            engine.set(rect=(left, 0, 1 - left, 1))
        # a column of its own for the bar: axes that a bar shrinks are laid out anew when the layout is let go
        spec = figure.add_gridspec(down, across + 1, width_ratios=[*[wide] * across, 0.13])
        grid = [figure.add_subplot(spec[divmod(k, across)]) for k in range(len(tables))]
        least, most, colours = self._scale(frame)
        for axes, (panel, table) in zip(grid, tables.items(), strict=True):
            mesh = axes.pcolormesh(table.to_numpy(dtype=float), vmin=least, vmax=most, cmap=colours)
            self._tell(axes, table, (least, most), colours)
            columns = shortened((words(str(name)) if self.families else str(name) for name in table.columns), 20)
            ticks = (np.arange(size) + 0.5 for size in table.shape)
            axes.set_yticks(next(ticks), names[panel].values())
            axes.set_xticks(next(ticks), columns.values(), rotation=45, ha="right", rotation_mode="anchor")
            axes.invert_yaxis()
            axes.tick_params(length=0, labelsize=7.5)
            axes.set_title(short(panel, 60) if self.titled else "", loc="left")
            sns.despine(ax=axes, left=True, bottom=True)
        bar = figure.colorbar(mesh, cax=figure.add_subplot(spec[0, -1]), label=self.label)
        bar.outline.set_visible(False)
        return figure

    def _tell(self, axes: Axes, table: pd.DataFrame, ends: tuple[float, float], colours: ListedColormap) -> None:
        """The numbers in the cells, light on dark cells and dark on light ones."""
        digits = min(2, self.metric.digits)
        for (line, column), value in np.ndenumerate(table.to_numpy(dtype=float)):
            dark = np.isfinite(value) and np.mean(colours((value - ends[0]) / (ends[1] - ends[0]))[:3]) < 0.5
            ink = INK if not np.isfinite(value) else "white" if dark else "#262626"
            told = f"{value:.{digits}f}" if np.isfinite(value) else "–"
            axes.text(column + 0.5, line + 0.5, told, ha="center", va="center", color=ink, fontsize=7.5)

    @staticmethod
    def _table(part: pd.DataFrame) -> pd.DataFrame:
        lines, columns = (list(dict.fromkeys(part[name])) for name in ("line", "column"))
        return part.pivot(index="line", columns="column", values="y").reindex(index=lines, columns=columns)

    def _scale(self, frame: pd.DataFrame) -> tuple[float, float, ListedColormap]:
        values = frame["y"].to_numpy(dtype=float)
        least, most = (float(end(values)) for end in (np.nanmin, np.nanmax)) if np.isfinite(values).any() else (0, 1)
        if least == most:
            least, most = least - 0.5, most + 0.5
        shades = np.linspace(0.2, 1, 256) if self.metric.better == "lower" else np.linspace(1, 0.2, 256)
        return least, most, ListedColormap(sns.color_palette("mako", as_cmap=True)(shades))


def heat_map(scores: pd.DataFrame, metric: Metric, panel: str, label: str, line: str = "layer") -> Drawing:
    """Layers × families, the scores told in numbers: a panel of `panel`, all on one scale; dark is the better.

    Args:
        scores: rows of scores, as of `depth_curves`.
        metric: what they are of.
        panel: the column of panels.
        label: of the bar of colours.
        line: the column of lines.
    """
    parts = []
    for _, part in scores.groupby(panel, sort=False):
        kept = spread(list(dict.fromkeys(part[line])), MOST_TOLD)
        parts.append(part[part[line].isin(kept)])
    shown = pd.concat(parts)
    shown = shown[shown.groupby([panel, line])["score"].transform(lambda score: score.notna().any())]
    passed = np.where(shown["bypass"] > BYPASS, _PASSED_BY, "") if line == "layer" else ""
    trusted = shown["status"].isin(WITH_SCORE)
    frame = pd.DataFrame(
        {
            "panel": shown[panel].astype(str),
            "line": shown[line] + passed,
            "column": shown["grid"],
            "y": metric.shown(shown["score"].where(trusted)),
            "status": shown["status"],
        }
    )
    return Drawing(frame.reset_index(drop=True), Heat(metric, label, titled=frame["panel"].ne("").any()))


def calibrated_areas(rows: pd.DataFrame, counted: Sequence[str] | None) -> "pd.Series[float]":
    """The area of `calibrated` of every curve; NaN where a g has none."""
    moved = rows[rows["label"] != UNTOUCHED]
    found = {}
    for of, part in moved[moved["calibrated"].notna()].groupby([*OF, "metric"], sort=False):
        weights = area_weights(part["value"].to_numpy(), str(part["grid"].iloc[0]), counted)
        found[of] = float(weights @ part["calibrated"].to_numpy())
    return pd.Series(found, dtype=float)


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows by their maps, from no map on."""
    fits = list(zip(rows["map"], rows["solver"], strict=True))
    rank = {fit: k for k, fit in enumerate(sorted(set(fits), key=order_of))}
    return rows.iloc[np.argsort([rank[fit] for fit in fits], kind="stable")]

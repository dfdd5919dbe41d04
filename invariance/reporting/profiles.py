"""Figures of a table of results, as notebooks draw them: curves over a grid, over depth, layer × family heat maps."""

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure

from invariance.engine.results import Results
from invariance.engine.summaries import chosen, plain
from invariance.errors import UserError, nearest
from invariance.measures import measure_named
from invariance.reporting.curves import words
from invariance.reporting.lines import INVARIANCE, PASSED, Axis, Lines
from invariance.reporting.style import GRAY, LIGHT, canvas, style
from invariance.runs.rows import FEW_IMAGES, WITH_SCORE
from invariance.transforms.base import UNTOUCHED

NULLS = "nulls"
"""What the legend calls the nulls."""

BYPASS = 1e-4
"""Share of the logits that goes past a layer by rounding."""

_IDENTITY = "identity"
_NULL_COLUMNS = ["null_image", "null_constant", "null_shuffled"]


@dataclass(frozen=True)
class _Asked:
    """What is to be drawn.

    Attributes:
        results: the results.
        rows: their rows of one measure over one split, with `grid`, `label` and `way`.
        measure: its name.
    """

    results: Results
    rows: pd.DataFrame
    measure: str

    @property
    def label(self) -> str:
        """The measure for people."""
        return measure_named(self.measure).label


def curves(
    results: Results,
    *,
    measure: str | None = None,
    transform: str | None = None,
    way: str | None = None,
    split: str | None = None,
) -> Figure:
    """The score over each grid's axis: a panel a grid and layer, a colour a network, a dash a way.

    Args:
        results: the results.
        measure: of which; None: the first that there is.
        transform: one family; None: all.
        way: "identity", or a solver's name; None: all.
        split: the split; None: the one reported on.

    Raises:
        UserError: if there are no such rows.
    """
    asked = _asked(results, measure, split, way)
    rows = chosen(asked.rows, "grid", transform, "transform")
    places = rows["value"].where(rows["value"].notna() | (rows["label"] != UNTOUCHED), 0.0)
    layers = rows["layer"].nunique() > 1
    frame = pd.DataFrame(
        {
            "row": rows["layer"] if layers else "",
            "panel": rows["grid"],
            "family": rows["grid"],
            "who": rows["network"],
            "way": rows["way"],
            "x": places,
            **_numbers(rows),
        }
    )
    counted, axes = results.attrs.get("ordinal") or [], {}
    for grid, part in rows.groupby("grid", sort=False):
        here = part.assign(x=places).drop_duplicates("x").sort_values("x")
        label = " ".join(filter(None, (words(str(grid)), f"({part['unit'].iloc[0]})" if part["unit"].iloc[0] else "")))
        names = tuple(here["label"]) if grid in counted else None
        axes[str(grid)] = Axis(label, tuple(here["x"]), names)
    return _drawn(lambda: Lines(_colours(frame["who"]), axes, asked.label, size=(3.3, 2.3))(frame))


def depth(
    results: Results,
    *,
    measure: str | None = None,
    transform: str | None = None,
    way: str | None = None,
    split: str | None = None,
) -> Figure:
    """The score over the layers in their order: a panel a network, a line a family, or a way of one family.

    A family's score is the area of its curve; that of one g, as `rotation:30`, is its own. The nulls are grey: from the
    least to the largest of those that there are. A layer that some of the logits go past is drawn hollow.

    Args:
        results: the results.
        measure: of which; None: the first that there is.
        transform: one family, or one g; None: all families.
        way: "identity", or a solver's name; None: the identity of all families, every way of one.
        split: the split; None: the one reported on.

    Raises:
        UserError: if there are no such rows.
    """
    asked = _asked(results, measure, split, _IDENTITY if transform is None and way is None else way)
    rows, at_g = asked.rows, transform is not None and ":" in transform
    rows = chosen(rows, "g", transform, "transform") if at_g else chosen(rows, "grid", transform, "transform")
    scores = rows if at_g else _areas(asked, rows, intervals=True)
    frames, axes = [], {}
    for network, of_network in scores.groupby("network", sort=False):
        layers = list(dict.fromkeys(of_network["layer"]))
        place = {"row": "", "panel": str(network), "family": "", "way": INVARIANCE}
        who = of_network["grid"].map(lambda name: words(str(name))) if transform is None else of_network["way"]
        x = of_network["layer"].map(layers.index)
        frames.append(pd.DataFrame({**place, "who": who, "x": x, **_numbers(of_network)}))
        frames.append(_null_band(rows[rows["network"] == network], layers).assign(**place))
        axes[str(network)] = Axis("layer", tuple(range(len(layers))), tuple(layers))
    frame = pd.concat(frames, ignore_index=True)
    colours = _colours(frame["who"][frame["who"] != NULLS]) | {NULLS: GRAY}
    heading = "way" if transform is not None else "family"
    about = asked.label if transform is None else f"{asked.label}, {transform}"
    return _drawn(lambda: _with_ends(Lines(colours, axes, about, heading)(frame), frame))


def _with_ends(figure: Figure, frame: pd.DataFrame) -> Figure:
    """A figure with lines at the ends of its bands of nulls, which would be faint among other bands."""
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    for panel, part in frame[frame["who"] == NULLS].groupby("panel", sort=False):
        for end in ("low", "high"):
            panels[str(panel)].plot(part["x"], part[end], linestyle=(0, (1, 1.5)), color=GRAY, linewidth=1.1, zorder=1)
    return figure


def heatmap(
    results: Results,
    *,
    measure: str | None = None,
    transform: str | None = None,
    way: str | None = None,
    split: str | None = None,
) -> Figure:
    """Layers × families, the areas of the curves told in numbers: a panel a network, on one scale; dark is the better.

    Args:
        results: the results.
        measure: of which; None: the first that there is.
        transform: one family; None: all.
        way: "identity", or a solver's name; None: the identity.
        split: the split; None: the one reported on.

    Raises:
        UserError: if there are no such rows.
    """
    asked = _asked(results, measure, split, way or _IDENTITY)
    areas = _areas(asked, chosen(asked.rows, "grid", transform, "transform"), intervals=False)
    tables = {
        str(network): part.pivot(index="layer", columns="grid", values="score").reindex(
            index=list(dict.fromkeys(part["layer"])), columns=list(dict.fromkeys(part["grid"]))
        )
        for network, part in areas.groupby("network", sort=False)
    }
    return _drawn(lambda: _heat(tables, asked))


def _heat(tables: dict[str, pd.DataFrame], asked: _Asked) -> Figure:
    values = np.concatenate([table.to_numpy(dtype=float).ravel() for table in tables.values()])
    least, most = (float(end(values)) for end in (np.nanmin, np.nanmax)) if np.isfinite(values).any() else (0.0, 1.0)
    shades = np.linspace(0.2, 1, 256) if measure_named(asked.measure).better == "lower" else np.linspace(1, 0.2, 256)
    colours = ListedColormap(sns.color_palette("mako", as_cmap=True)(shades))
    wide = sum(1.2 + 0.55 * table.shape[1] for table in tables.values())
    tall = 1.3 + 0.28 * max(len(table) for table in tables.values())
    figure = canvas((wide + 1.0, tall))
    grid = figure.subplots(1, len(tables), squeeze=False)[0]
    for k, (axes, (network, table)) in enumerate(zip(grid, tables.items(), strict=True)):
        look = {"vmin": least, "vmax": most, "cmap": colours, "annot": True, "fmt": ".2f", "linewidths": 0.5}
        last = k == len(tables) - 1
        bar = {"cbar": last, "cbar_kws": {"label": asked.label} if last else None}
        sns.heatmap(table, annot_kws={"fontsize": 7}, xticklabels=True, yticklabels=True, ax=axes, **look, **bar)
        axes.set_xticklabels([words(str(name)) for name in table.columns], rotation=45, ha="right")
        axes.tick_params(length=0, labelsize=7.5)
        axes.tick_params(axis="y", rotation=0)
        axes.set(title=network, xlabel="", ylabel="layer" if k == 0 else "")
    return figure


def _asked(results: Results, measure: str | None, split: str | None, way: str | None) -> _Asked:
    """The rows of one measure, and of one way where it is told.

    Raises:
        UserError: if there are none.
    """
    rows = plain(results, split)
    there = [str(name) for name in dict.fromkeys(rows["metric"])]
    name = there[0] if measure is None else measure
    if name not in there:
        raise UserError(f"measure={name!r}: no such rows{nearest(name, there)}; there are {', '.join(there)}")
    rows = rows[rows["metric"] == name]
    if not rows["status"].isin(WITH_SCORE).any():
        raise UserError(f"measure={name!r}: no number of it can be trusted; see the column status")
    if way is not None:
        ways = rows["solver"].where(rows["map"] != _IDENTITY, _IDENTITY)
        rows = chosen(rows.assign(fit=ways), "fit", way, "way")
    kinds = {
        (kind, solver): INVARIANCE if kind == _IDENTITY else f"equivariance ({_fit(str(kind), str(solver))})"
        for kind, solver in rows[["map", "solver"]].drop_duplicates().itertuples(index=False, name=None)
    }
    told = [kinds[kind, solver] for kind, solver in zip(rows["map"], rows["solver"], strict=True)]
    return _Asked(results, rows.assign(way=told), name)


def _fit(kind: str, solver: str) -> str:
    """A fitted map for people."""
    return ", ".join(filter(None, ("" if kind == "residual" else words(kind), words(solver))))


def _areas(asked: _Asked, rows: pd.DataFrame, *, intervals: bool) -> pd.DataFrame:
    """The areas of curves as rows of scores, with what layers say of themselves."""
    of = ["network", "layer", "map", "solver", "grid"]
    results = asked.results
    curves_of = Results.from_parts(rows, list(results.kept), dict(results.attrs), results.labels)
    areas = curves_of.area(split=str(rows["split"].iloc[0]), intervals=intervals)
    if areas.empty:
        raise UserError(f"measure={asked.measure!r}: there is no g but the untouched, and so no curve")
    about = rows.drop_duplicates(of)[[*of, "way", "bypass"]]
    scores = areas.rename(columns={"area": "score"}).merge(about, on=of, how="left")
    return scores.assign(status=np.where(scores["score"].notna(), "ok", "withheld"))


def _numbers(rows: pd.DataFrame) -> dict[str, object]:
    """y, its interval and its status: a number at a layer that is passed by says so."""
    trusted = rows["status"].isin(WITH_SCORE)
    passed = trusted & (rows["bypass"] > BYPASS) & (rows["status"] != FEW_IMAGES)
    numbers = {new: rows[old].where(trusted) for new, old in (("y", "score"), ("low", "low"), ("high", "high"))}
    return {**numbers, "status": rows["status"].where(~passed, PASSED)}


def _null_band(rows: pd.DataFrame, layers: list[str]) -> pd.DataFrame:
    """The nulls of every layer as a band without a line; a line where there is one null alone."""
    known = rows.groupby("layer")[_NULL_COLUMNS].mean().reindex(layers)
    low, high = known.min(axis=1), known.max(axis=1)
    band = pd.DataFrame({"who": NULLS, "x": range(len(layers)), "y": low.where(low == high).to_numpy()})
    band = band.assign(low=low.to_numpy(), high=high.to_numpy(), status="ok")
    return band if known.notna().any(axis=None) else band[:0]


def _colours(names: "pd.Series[str]") -> dict[str, str]:
    """A colour for every name, in the order of the names."""
    known = list(dict.fromkeys(names))
    palette = sns.color_palette("colorblind" if len(known) <= 10 else "husl", len(known))
    return {name: to_hex(colour) for name, colour in zip(known, palette, strict=True)}


def _drawn(draw: Callable[[], Figure]) -> Figure:
    """A figure in the style of all figures, dark on white, which a notebook shows once, where it is returned."""
    ink, paper = LIGHT
    plt.close(plt.figure())  # chooses the notebook's way of showing figures
    with style(ink):
        figure = draw()
    figure.set_facecolor(paper)
    return figure

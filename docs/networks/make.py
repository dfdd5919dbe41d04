"""The figures and tables of docs/networks.md from its rows.

python make.py gather RUNS GROWTH     rows.csv.gz and growth.csv, from the runs of measure.sh and of growth.py
python make.py figures                ../images/networks-*.svg, from these
python make.py tables                 the tables of the page, in Markdown, and the numbers of its text
python make.py paired RUNS            how many points of agreement a map costs at features.10, image by image
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from invariance.measures.bootstrap import bootstrap
from invariance.reporting.style import BLUE, GRAY, GREEN, ORANGE, RED, canvas, style, svg
from invariance.runs.rows import read_rows
from invariance.runs.scores import read_scores

HERE = Path(__file__).parent
IMAGES = HERE.parent / "images"
ROWS, GROWTH = HERE / "rows.csv.gz", HERE / "growth.csv"
PARTS = ("curves", "nulls", "unseen", "depth", "spatial", "through", "dihedral")
KEPT = ["part", "network", "layer", "readout", "grid", "label", "value", "map", "solver", "fit_classes", "metric"]
KEPT += ["score", "low", "high", "n_images", "status", "null_image", "null_shuffled", "reference", "bypass"]
NAMES = {
    "networks_mobilenet_v2": "MobileNetV2",
    "networks_efficientnet_lite0": "EfficientNet-Lite0",
    "networks_efficientnet_untrained": "EfficientNet-Lite0, random weights",
}
LAST = {"MobileNetV2": "classifier.0", "EfficientNet-Lite0": "global_pool"}
FAMILIES = {
    "rotation": "rotation 30°",
    "shear": "shear 30°",
    "perspective": "perspective",
    "crop_320": "crop 320",
    "elastic": "elastic α 15",
    "mirror_horizontal": "mirror left–right",
    "mirror_vertical": "mirror up–down",
    "mirror_both": "both mirrors (180°)",
    "blur": "blur σ 3",
    "noise": "noise σ 40",
    "color_jitter": "brightness 60",
}
COLOURS = dict(
    zip(
        FAMILIES,
        (BLUE, GREEN, RED, ORANGE, "#8557c7", "#c2569b", "#7a4a2b", "#3a3f99", "#5a6372", "#149d9d", "#a8a012"),
        strict=True,
    )
)
INK = "#6b7280"


def gather(runs: str, growth: str) -> None:
    """Write the rows of the reported images, with what the page needs of them.

    Rows of before stay where these runs have none of the same part, network and grid.
    """
    found = []
    for part in PARTS:
        for path in sorted((Path(runs) / part).glob("measure/**/rows.csv")):
            rows = read_rows(path)
            found.append(rows[rows["split"] == "val"].assign(part=part))
    table = pd.concat(found, ignore_index=True)
    names = table["g"].str.partition(":")
    # each flip is a question of its own
    flips = (names[0] == "mirror") & (names[2] != "untouched")
    grids = names[0].where(~flips, names[0] + "_" + names[2])
    table = table.assign(grid=grids, label=names[2], network=table["network"].map(NAMES))
    of = ["part", "network", "grid"]
    if ROWS.is_file():
        before = pd.read_csv(ROWS, keep_default_na=False, na_values=[""], dtype={"label": str})
        anew = set(table[of].itertuples(index=False, name=None))
        kept = [one not in anew for one in before[of].itertuples(index=False, name=None)]
        table = pd.concat([before[kept], table[KEPT]], ignore_index=True)
    table[KEPT].to_csv(ROWS, index=False, float_format="%.5g", compression={"method": "gzip", "mtime": 0})
    if Path(growth).is_file():
        pd.read_csv(growth).to_csv(GROWTH, index=False, float_format="%.5g")


def rows_of(part: str, **about: str) -> pd.DataFrame:
    """Rows of a part, without those of the control unless they are asked for."""
    rows = pd.read_csv(ROWS, keep_default_na=False, na_values=[""], dtype={"label": str})
    rows = rows[rows["part"] == part]
    texts = rows.select_dtypes(exclude="number").columns
    rows = rows.assign(**{name: rows[name].fillna("") for name in texts})
    if "fit_classes" not in about:
        rows = rows[rows["fit_classes"].isin(["", "all"])]
    for key, value in about.items():
        rows = rows[rows[key] == value]
    return rows


def at_g(rows: pd.DataFrame) -> pd.DataFrame:
    """The mean over the g of a grid but the untouched, which is one alone of most."""
    moved = rows[rows["label"] != "untouched"]
    keys = ["network", "layer", "grid", "map", "solver", "fit_classes", "metric"]
    return moved.groupby(keys, sort=False)[["score", "null_image", "reference"]].mean().reset_index()


def depths(rows: pd.DataFrame, network: str) -> list[str]:
    """Layers in the order in which they answer, as measure.sh and `layers=auto` have them."""
    there = set(rows.loc[rows["network"] == network, "layer"])
    return [layer for layer in ORDER[network] if layer in there]


def _mobilenet() -> list[str]:
    named = ["features.0"]
    for k in range(1, 18):
        named += [f"features.{k}.conv.0", f"features.{k}.conv.1", f"features.{k}"]
    return [*named, "features.18", "classifier.0", "classifier"]


def _efficientnet() -> list[str]:
    named = ["bn1"]
    for stage in range(7):
        for block in range(5):
            named += [f"blocks.{stage}.{block}.bn1", f"blocks.{stage}.{block}.bn2", f"blocks.{stage}.{block}"]
        named.append(f"blocks.{stage}")
    return [*named, "blocks", "bn2", "global_pool", "classifier"]


ORDER = {"MobileNetV2": _mobilenet(), "EfficientNet-Lite0": _efficientnet()}


def figures() -> None:
    """Draw all figures whose rows are there."""
    IMAGES.mkdir(exist_ok=True)
    for name, draw in {"curves": curves, "depth": depth, "maps": maps, "growth": growth_figure}.items():
        with style(INK):
            (IMAGES / f"networks-{name}.svg").write_text(svg(draw()))
        print(IMAGES / f"networks-{name}.svg")


def curves() -> object:
    """Accuracy along the axis of every family."""
    rows = rows_of("curves", metric="error_rate")
    axes = {"rotation": "degrees", "shear": "degrees", "color_jitter": "intensity", "blur": "σ (px)", "noise": "σ"}
    figure = canvas((9.0, 4.6))
    places = figure.subplots(2, 3, sharey=True).ravel()
    for place, (grid, unit) in zip(places, axes.items(), strict=False):
        for network, colour in zip(LAST, (BLUE, ORANGE), strict=True):
            here = rows[(rows["grid"] == grid) & (rows["network"] == network)].assign(
                value=lambda one: one["value"].fillna(0)
            )
            here = here.sort_values("value")
            place.fill_between(
                here["value"], 100 - 100 * here["low"], 100 - 100 * here["high"], color=colour, alpha=0.2, lw=0
            )
            place.plot(here["value"], 100 - 100 * here["score"], color=colour, label=network, marker=".", ms=4)
        _tidy(place, grid.replace("color_jitter", "brightness"), unit)
    others = ("mirror_horizontal", "mirror_vertical", "crop_320", "perspective", "elastic")
    place = places[5]
    for shift, (network, colour) in zip((-0.18, 0.18), zip(LAST, (BLUE, ORANGE), strict=True), strict=True):
        here = rows[(rows["network"] == network) & (rows["label"] != "untouched")]
        lost = [100 - 100 * here.loc[here["grid"] == grid, "score"] for grid in others]
        for k, values in enumerate(lost):
            place.plot(np.full(len(values), k + shift), values, "o", color=colour, ms=3.5, alpha=0.7, mew=0)
    place.set_xticks(range(len(others)), ["mirror\n↔", "mirror\n↕", "crop\n320", "persp.", "elastic"], fontsize=7)
    _tidy(place, "every g of", "")
    places[0].set_ylabel("accuracy (%)")
    places[3].set_ylabel("accuracy (%)")
    places[0].legend(frameon=False, fontsize=7.5)
    return figure


def depth() -> object:
    """L_L2 over that of another image, at the ends of blocks."""
    rows = at_g(rows_of("nulls", metric="l2_distance"))
    figure = canvas((9.0, 3.6))
    for place, network in zip(figure.subplots(1, 2, sharey=True), LAST, strict=True):
        layers = depths(rows, network)
        for grid, told in FAMILIES.items():
            here = rows[(rows["grid"] == grid) & (rows["network"] == network)].set_index("layer").reindex(layers)
            place.plot(
                range(len(layers)),
                here["score"] / here["null_image"],
                color=COLOURS[grid],
                label=told,
                marker=".",
                ms=4,
            )
        place.axhline(1, color=GRAY, lw=0.8, ls=":")
        place.set_xticks(range(len(layers)), layers, rotation=90, fontsize=6.5)
        _tidy(place, network, "")
        place.set_ylim(0, None)
    figure.axes[0].set_ylabel("L_L2 / that of another image")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def maps() -> object:
    """What of L_L2 is left through each map, at all layers of `layers=auto`."""
    rows = at_g(rows_of("depth", metric="l2_distance"))
    shown = [(network, grid) for network in LAST for grid in FAMILIES]
    there = set(zip(rows["network"], rows["grid"], strict=True))
    shown = [one for one in shown if one in there]
    figure = canvas((9.0, 3.4))
    kinds = {"residual": ("linear", BLUE), "low_rank:16": ("rank 16", GREEN), "orthogonal": ("orthogonal", RED)}
    places = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for place, (network, grid) in zip(places, shown, strict=True):
        layers = depths(rows, network)
        here = rows[(rows["grid"] == grid) & (rows["network"] == network)]
        plain = here[here["map"] == "identity"].set_index("layer")["score"].reindex(layers)
        for kind, (told, colour) in kinds.items():
            left = here[here["map"] == kind].set_index("layer")["score"].reindex(layers) / plain
            place.plot(range(len(layers)), left, color=colour, label=told, lw=1.3)
        place.axhline(1, color=GRAY, lw=0.8, ls=":")
        place.set_ylim(0, 1.2)
        place.set_xticks(range(0, len(layers), 2), layers[::2], rotation=90, fontsize=6)
        _tidy(place, f"{network}, {FAMILIES[grid]}", "")
    places[0].set_ylabel("L_L2 through the map / without")
    places[0].legend(frameon=False, fontsize=7)
    return figure


def growth_figure() -> object:
    """Errors through ridge's map over the number of fit images, and of their classes."""
    rows = pd.read_csv(GROWTH, keep_default_na=False, na_values=[""])
    rows = rows.assign(of=rows["of"].fillna(""))
    figure = canvas((9.0, 4.8))
    layers = list(dict.fromkeys(rows["layer"]))
    above, below = figure.subplots(2, len(layers), sharey="row")
    kinds = {("identity", ""): ("no map", GRAY), ("residual", "same"): ("map of the image's classes", BLUE)}
    kinds |= {("residual", "unseen"): ("map of other classes", ORANGE)}
    for place, layer in zip(above, layers, strict=True):
        here = rows[(rows["layer"] == layer) & (rows["classes"] == 10) & (rows["metric"] == "half_error_rate")]
        for (way, of), (told, colour) in kinds.items():
            curve = here[(here["map"] == way) & (here["of"] == of)].sort_values("images")
            place.plot(curve["images"], 100 * curve["score"], color=colour, marker=".", label=told)
        place.set_xscale("log")
        place.set_xticks([100, 200, 400, 800, 1500], ["100", "200", "400", "800", "1,500"])
        place.minorticks_off()
        _tidy(place, layer, "fit images")
    for place, layer in zip(below, layers, strict=True):
        here = rows[(rows["layer"] == layer) & (rows["classes"] < 10) & (rows["metric"] == "error_rate")]
        for of, colour in (("seen", BLUE), ("never", ORANGE)):
            for way, dash in (("residual", "-"), ("identity", ":")):
                curve = here[(here["map"] == way) & (here["of"] == of)].sort_values("classes")
                told = {"seen": "classes that were fitted", "never": "others"}[of] + {"-": ", map", ":": ", no map"}[
                    dash
                ]
                place.plot(curve["classes"], 100 * curve["score"], color=colour, ls=dash, marker=".", label=told)
        _tidy(place, "", "classes of 300 fit images")
    above[0].set_ylabel("error among 5 classes (%)")
    below[0].set_ylabel("error among 1,000 (%)")
    above[0].legend(frameon=False, fontsize=7)
    below[0].legend(frameon=False, fontsize=7)
    return figure


def _tidy(place: Axes, title: str, unit: str) -> None:
    place.set_title(title)
    place.set_xlabel(unit)
    place.spines[["top", "right"]].set_visible(False)


def tables() -> None:
    """Print the tables of the page."""
    for name, make in {
        "lost": lost,
        "unseen": unseen,
        "through": through,
        "spatial": spatial,
        "dihedral": dihedral,
        "nulls": nulls,
        "growth": grown,
        "agreement": agreement,
        "untouched": untouched,
    }.items():
        print(f"\n## {name}\n")
        table = make()
        print("| " + " | ".join(table.columns) + " |")
        print("|" + "---|" * len(table.columns))
        for row in table.itertuples(index=False):
            print("| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")


def lost() -> pd.DataFrame:
    """Accuracy at the output, from the curves: at the g of the other parts, of perspective and Crop the mean."""
    rows = rows_of("curves", metric="error_rate")
    at = {"rotation": "30", "shear": "30", "blur": "3", "noise": "40", "color_jitter": "60", "elastic": "α15 σ3"}
    found = []
    for grid, told in {"": "untouched", **FAMILIES}.items():
        label = at.get(grid)
        here = rows[(rows["grid"] == (grid or "rotation"))]
        here = here[here["label"] == "untouched"] if not grid else here[here["label"] != "untouched"]
        here = here if label is None else here[here["label"] == label]
        told += " (mean of ten)" if grid == "perspective" else " (mean of corners)" if grid == "crop_320" else ""
        accuracy = 100 - 100 * here.groupby("network")["score"].mean()
        found.append({"g": told, **{network: accuracy.get(network, np.nan) for network in LAST}})
    return pd.DataFrame(found)


def unseen() -> pd.DataFrame:
    """Errors (%) among half of the classes, through maps that saw an image's class and that did not."""
    rows = pd.read_csv(ROWS, keep_default_na=False, na_values=[""], dtype={"label": str})
    rows = rows[(rows["part"] == "unseen") & (rows["metric"] == "half_error_rate")]
    rows = at_g(rows.assign(**{name: rows[name].fillna("") for name in ("fit_classes", "solver", "map")}))
    rows = rows.assign(way=rows["fit_classes"].where(rows["map"] != "identity", "none"))
    found = []
    for (network, grid), part in rows.groupby(["network", "grid"], sort=False):
        row: dict[str, object] = {"network": network, "g": FAMILIES.get(grid, grid)}
        row["no map"] = f"{100 * part[part['way'] == 'none']['score'].iloc[0]:.1f}"
        for layer in (one for one in ORDER[network] if one in set(part["layer"])):
            scores = part[part["layer"] == layer].set_index("way")["score"]
            row[f"layer {len(row) - 2}"] = " · ".join(f"{100 * scores[way]:.1f}" for way in ("all", "same", "unseen"))
        found.append(row)
    return pd.DataFrame(found)


def through() -> pd.DataFrame:
    """L_L2 and agreement (%) without and through each map, and agreement with φ(x) itself."""
    rows = at_g(rows_of("through"))
    order = {"identity": "without", "residual": "residual", "low_rank:16": "rank 16", "orthogonal": "orthogonal"}
    found = []
    for (layer, grid), part in rows.groupby(["layer", "grid"], sort=False):
        row: dict[str, object] = {"layer": layer, "g": FAMILIES.get(grid, grid)}
        for metric, scale, digits in (("l2_distance", 1, 2), ("agreement", 100, 1)):
            scores = part[part["metric"] == metric].set_index("map")["score"]
            row[f"{metric}: {', '.join(order.values())}"] = " · ".join(f"{scale * scores[k]:.{digits}f}" for k in order)
        row["reference"] = f"{100 * part[part['metric'] == 'agreement']['reference'].iloc[0]:.1f}"
        found.append(row)
    return pd.DataFrame(found).sort_values("layer", kind="stable")


def spatial() -> pd.DataFrame:
    """L_L2 over positions, and agreement (%)."""
    rows = at_g(rows_of("spatial"))
    order = ("identity_inside", "warp", "spatial", "floor")
    found = []
    for (layer, grid), part in rows.groupby(["layer", "grid"], sort=False):
        distance = part[part["metric"] == "l2_distance"].set_index("map")["score"]
        agreement = part[part["metric"] == "agreement"].set_index("map")
        row: dict[str, object] = {"layer": layer, "g": FAMILIES.get(grid, grid)}
        row["L_L2: without, warp, spatial, floor"] = " · ".join(f"{distance[name]:.2f}" for name in order)
        row["agreement: without, warp, spatial"] = " · ".join(f"{100 * agreement['score'][n]:.1f}" for n in order[:3])
        row["reference"] = f"{100 * agreement['reference']['spatial']:.1f}"
        found.append(row)
    return pd.DataFrame(found)


def dihedral() -> pd.DataFrame:
    """L_L2 over that of another image, under exact turns and flips."""
    rows = at_g(rows_of("dihedral", metric="l2_distance").assign(grid=lambda rows: rows["label"]))
    rows = rows.assign(share=rows["score"] / rows["null_image"])
    wide = rows.pivot_table(index=["network", "layer"], columns="grid", values="share", sort=False)
    shown = ["left–right", "up–down", "180°", "90°", "diagonal"]
    order = {layer: k for layers in ORDER.values() for k, layer in enumerate(layers)}
    wide = wide[shown].reset_index()
    return wide.sort_values("layer", key=lambda names: names.map(order)).sort_values("network", kind="stable")


def nulls() -> pd.DataFrame:
    """L_L2 over that of another image, at the ends of blocks."""
    rows = at_g(rows_of("nulls", metric="l2_distance"))
    rows = rows.assign(share=rows["score"] / rows["null_image"])
    order = {layer: k for layers in ORDER.values() for k, layer in enumerate(layers)}
    wide = rows.pivot_table(index=["network", "layer"], columns="grid", values="share", sort=False).reset_index()
    return wide.sort_values("layer", key=lambda names: names.map(order)).sort_values("network", kind="stable")


def grown() -> pd.DataFrame:
    """Errors (%) by the number of fit images and of their classes."""
    rows = pd.read_csv(GROWTH, keep_default_na=False, na_values=[""])
    rows = rows.assign(of=rows["of"].fillna(""), score=100 * rows["score"])
    halves = (rows["metric"] == "half_error_rate") & (rows["classes"] == 10)
    rows = rows[halves | ((rows["metric"] == "error_rate") & (rows["classes"] < 10))]
    rows = rows.assign(fit=[f"{n} of {k}" for n, k in zip(rows["images"], rows["classes"], strict=True)])
    index = ["layer", "metric", "map", "of"]
    return rows.pivot_table(index=index, columns="fit", values="score", sort=False).reset_index()


def agreement() -> pd.DataFrame:
    """Agreement (%) at the output under the flips."""
    rows = rows_of("curves", metric="agreement")
    rows = rows[rows["grid"].str.startswith("mirror_")].assign(score=100 * rows["score"])
    return rows.pivot_table(index="grid", columns="network", values="score", sort=False).reset_index()


def untouched() -> pd.DataFrame:
    """The error (%) among five classes without g and map."""
    rows = rows_of("unseen", metric="half_error_rate", map="identity", label="untouched")
    return (100 * rows.groupby("network")["score"].first()).reset_index()


def paired(runs: str) -> None:
    """Print MobileNetV2's agreement at features.10 under rotation, with ridge's map less without, and its interval."""
    place = Path(runs) / "through/measure/imagenette224/function/networks_mobilenet_v2/rotation/features.10(mean)"
    named = {}
    for way in ("identity", "residual_ridge"):
        labels, scores, _ = read_scores(place / way)
        named[way] = dict(zip(labels, scores["val/predicted"], strict=True))
    with_map, without = (named[way]["30"] == named["identity"]["untouched"] for way in ("residual_ridge", "identity"))
    found = bootstrap((with_map.astype(float) - without)[None])
    print(f"{100 * found.mean[0]:.1f} points, {100 * found.low[0]:.1f} to {100 * found.high[0]:.1f}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["gather", runs, growth]:
            gather(runs, growth)
        case ["figures"]:
            figures()
        case ["tables"]:
            tables()
        case ["paired", runs]:
            paired(runs)
        case _:
            sys.exit(__doc__)

"""The sections of the page: what each shows of a family, of distances, of finetunings, and its files."""

from dataclasses import dataclass

from markupsafe import Markup

from invariance.reporting import (
    distance_figures,
    distance_tables,
    figures,
    finetuned_figures,
    finetuned_tables,
    gallery,
    overview_figures,
    tables,
)
from invariance.reporting.collect import Collected
from invariance.reporting.curves import BASELINE, IDENTITY, Family, counts, fit_title, gaps, words
from invariance.reporting.distances import Distances, complete
from invariance.reporting.drawing import Drawing
from invariance.reporting.finetuned import Study, nothing
from invariance.reporting.overview import Overview, cross, overviews
from invariance.reporting.paper_figures import Place, distances_command, finetuning_command
from invariance.reporting.plots import Plot, against_baseline, ranges_compared
from invariance.reporting.printed import finetuned_networks
from invariance.reporting.recipes import noted
from invariance.reporting.tables import Table


@dataclass(frozen=True)
class ShownPlot:
    """A figure as the page shows it: panels and legend as SVG elements."""

    plot: Plot
    panels: list[Markup]
    legend: list[tuple[Markup, str]]


@dataclass(frozen=True)
class ShownGallery:
    """A gallery as the page shows it: for every g its images, and its label."""

    name: str
    caption: str
    columns: list[tuple[list[str], str]]


@dataclass(frozen=True)
class Section:
    """One family on one data set."""

    anchor: str
    family: Family
    about: str
    plots: list[ShownPlot]
    gallery: ShownGallery | None
    summary: Table | None
    tables: list[Table]
    gaps: list[str]


@dataclass(frozen=True)
class ShownDrawing:
    """A drawing as the page shows it: its panels as SVG elements."""

    name: str
    title: str
    caption: str
    panels: list[Markup]
    telling: bool = False
    form: str = ""
    tight: bool = False


@dataclass(frozen=True)
class ShownOverview:
    """An overview as the page shows it: of every block its heading, its legend and its panels as SVG elements."""

    overview: Overview
    blocks: list[tuple[str, list[tuple[Markup, str]], list[Markup]]]


@dataclass(frozen=True)
class StudySection:
    """A study of several networks of one data set: how far apart they are, or what finetuning did to them.

    Its place is that of the paper's table which it is, or is the form of.
    """

    anchor: str
    data: str
    title: str
    about: str
    drawings: list[ShownDrawing]
    claims: Table | None
    tables: list[tuple[str, Table]]
    gaps: list[str]
    place: Place | None = None


def slugs_of(measured: list[Family]) -> list[str]:
    """A beginning of file names for every family; the layer is in it only where a data set was measured at several."""
    layers: dict[str, set[str]] = {}
    for family in measured:
        layers.setdefault(family.data, set()).add(family.layer)
    return [
        "-".join([f.data, *([f.layer.replace("/", "_")] if len(layers[f.data]) > 1 else []), f.name]) for f in measured
    ]


def overviews_of(measured: list[Family], slugs: list[str]) -> list[Overview]:
    """The figures of all families of a data set and layer."""
    groups: dict[tuple[str, str], tuple[str, list[Family]]] = {}
    for family, slug in zip(measured, slugs, strict=True):
        name = slug.removesuffix(f"-{family.name}")
        groups.setdefault((family.data, family.layer), (name, []))[1].append(family)
    found: list[Overview] = []
    for (data, layer), (name, held) in groups.items():
        trained_on, foreign, _ = data.partition("@")
        if foreign:
            one = cross(held, groups.get((trained_on, layer), ("", []))[1], name)
            found += [one] if one else []
        else:
            found += overviews(held, name)
    return found


def overview_section(one: Overview) -> tuple[ShownOverview, dict[str, bytes]]:
    """An overview as the page shows it, and its files."""
    blocks = [
        (block.title, [(Markup(key), label) for key, label in legend], [Markup(panel) for panel in panels])
        for block, legend, panels in overview_figures.inline(one)
    ]
    return ShownOverview(one, blocks), overview_figures.files(one)


def places(
    overviewed: list[ShownOverview], sections: list[Section], apart: list[StudySection], accuracy: Table | None
) -> list[Place]:
    """Where the page has what the paper's figures and tables show."""
    found = [Place("transformations", "every family", "transformations", "")]
    found += tables.accuracy_places(accuracy) if accuracy else []
    found += [
        Place(shown.overview.form, shown.overview.data, shown.overview.name, shown.overview.about)
        for shown in overviewed
        if not shown.overview.aside
    ]
    for section in sections:
        family = section.family
        for shown_plot in section.plots:
            if shown_plot.plot.name.endswith("-ranges-accuracy"):
                found.append(Place("ranges", family.data, shown_plot.plot.name, words(family.name)))
        if section.gallery:
            found.append(Place(family.name, family.data, section.gallery.name, ""))
    for study in apart:
        found += [study.place] if study.place else []
        found += [Place(one.form, study.data, one.name, one.title) for one in study.drawings if one.form]
    return found


def family_section(collected: Collected, family: Family, slug: str, note: str = "") -> tuple[Section, dict[str, bytes]]:
    """A family's part of the page, and its files; `note` is what captions say of the networks besides."""
    made: dict[str, bytes] = {}
    plots = []
    for metric in family.metrics():
        for form in (against_baseline, ranges_compared):
            plot = form(family, metric, slug)
            if plot is not None:
                plot = noted(plot, note)
                made.update(figures.files(plot))
                legend = [(Markup(key), label) for key, label in figures.swatches(plot)]
                plots.append(ShownPlot(plot, [Markup(panel) for panel in figures.inline(plot)], legend))
    shown = gallery.gallery(family, slug)
    if shown is not None:
        made.update(gallery.files(shown))
    whole = tables.summary(family, slug)
    summary = noted(whole, note) if whole else None
    numbers = [noted(tables.measurements(family, metric, slug), note) for metric in family.metrics()]
    for table in [*([summary] if summary else []), *numbers]:
        made.update(table.files())
    lacking = gaps(collected, family)
    if shown is None:
        lacking.append(f"no example images were kept of {words(family.name)}")
    section = Section(
        anchor=slug,
        family=family,
        about=_about(collected, family),
        plots=plots,
        gallery=ShownGallery(shown.name, shown.caption, gallery.columns(shown)) if shown else None,
        summary=summary,
        tables=numbers,
        gaps=lacking,
    )
    return section, made


def _about(collected: Collected, family: Family) -> str:
    """Which networks were measured, and how their maps were fitted, in a sentence or two."""
    names = [subject.network for subject in family.trained]
    said = [f"Trained with it: {', '.join(names)}." if names else "No network trained with it was measured."]
    if family.baseline:
        baseline = family.baseline.network
        said.append(f"Compared with {baseline}." if names else f"Shown: {baseline} alone.")
    else:
        said.append("No baseline was measured.")
    others = sorted(
        set(family.rows["network"]) - set(names) - set(family.rows.loc[family.rows["family"] == BASELINE, "network"])
    )
    if others:
        said.append(f"In the tables too: {', '.join(others)}.")
    said.append(f"φ ends at {family.layer}.")
    fits = "; ".join(fit_title(fit) for fit in family.fits)
    reported = family.rows["split"].unique()
    rows = collected.rows[collected.rows["run"].isin(family.rows["run"])]
    fitted = rows[(rows["map"] != IDENTITY[0]) & ~rows["split"].isin(reported) & (rows["n_images"] > 0)]
    if not fits:
        said.append("No map was fitted.")
    elif fitted.empty:
        said.append(f"M_g: {fits}.")
    else:
        splits = ", ".join(sorted(fitted["split"].unique()))
        said.append(f"M_g: {fits}; fitted on {counts(fitted['n_images'])} images of {splits}.")
    return " ".join(said)


def distance_section(found: Distances, note: str = "") -> tuple[StudySection, dict[str, bytes]]:
    """The part of the page on distances between networks, and its files; `note` ends its captions."""
    slug = f"{found.data}-{found.layer.replace('/', '_')}"
    made: dict[str, bytes] = {}
    shown = []
    for drawing in (noted(one, note) for one in distance_figures.drawings(found, slug)):
        made.update(drawing.files())
        shown.append(_drawn(drawing))
    for k, solver in enumerate(found.mean):
        drawing = noted(distance_figures.heat_map(found, solver, slug), note)
        made.update(drawing.files())
        telling = [Markup(distance_figures.telling_map(found, solver))]
        shown.insert(k, ShownDrawing(drawing.name, drawing.title, drawing.caption, telling, telling=True))
    numbers = [noted(table, note) for table in distance_tables.tables(found, slug)]
    for table in numbers:
        made.update(table.files())
    claims = next((table for table in numbers if table.name.endswith("-claims")), None)
    ways = [*(f"linear map, {words(solver)}" for solver in found.mean), *found.indices]
    pairs = len(found.nodes) * (len(found.nodes) - 1)  # ordered
    about = (
        f"{len(found.nodes)} networks, {pairs // 2} pairs; φ ends at {found.layer}. The distance of two networks is "
        "the mean of two one-way distances L_L2, each left by a map E fitted from the one's features to the other's "
        f"(Eq. 4). Compared through: {'; '.join(words(way) for way in ways)}."
    )
    lacking = (
        [f"of the paper’s networks not compared: {', '.join(found.absent)} ({distances_command(found.data)})"]
        if found.absent
        else []
    )
    lacking += [
        f"{words(way)}: {count} numbers withheld ({words(status)})"
        for way, reasons in found.statuses.items()
        for status, count in reasons.items()
    ]
    for solver, one_way in found.one_way.items():
        absent = pairs - int((one_way.score == one_way.score).sum()) - sum(found.statuses.get(solver, {}).values())
        if absent:
            lacking.append(f"{words(solver)}: {absent} one-way distances are not there yet")
        kept = complete(found.mean[solver].score)
        left = [node.label for k, node in enumerate(found.nodes) if k not in kept]
        if left:
            lacking.append(f"{words(solver)}: neighbours, t-SNE and dendrogram are without {', '.join(left)}")
    others = [
        ("Every pair" if table.name.endswith("-pairs") else f"Families, {words(table.name.rpartition('-')[2])}", table)
        for table in numbers
        if table is not claims
    ]
    title = f"{found.data}: distances between networks"
    return StudySection(f"{slug}-distances", found.data, title, about, shown, claims, others, lacking), made


def _drawn(drawing: Drawing) -> ShownDrawing:
    """A drawing as the page shows it; five small panels go into a row."""
    panels = [Markup(panel) for panel in drawing.inline()]
    tight = all(panel.size[0] < 3 for panel in drawing.panels)
    return ShownDrawing(drawing.name, drawing.title, drawing.caption, panels, form=drawing.form, tight=tight)


def finetuned_section(study: Study, note: str = "") -> tuple[StudySection, dict[str, bytes]]:
    """The part of the page on finetuning with the joint loss, and its files; `note` ends its captions."""
    slug = "-".join(filter(None, [study.data, study.layer.replace("/", "_"), "finetuned"]))
    made: dict[str, bytes] = {}
    shown = []
    for drawing in (noted(one, note) for one in finetuned_figures.drawings(study, slug)):
        made.update(drawing.files())
        shown.append(_drawn(drawing))
    (_, first), *others = [(title, noted(table, note)) for title, table in finetuned_tables.tables(study, slug)]
    for table in (first, *(table for _, table in others)):
        made.update(table.files())
    networks = list(dict.fromkeys(one.network for one in study.all))
    title, lacking = f"{study.data}: finetuned for equivariance", finetuned_tables.gaps(study)
    if not networks:
        about = f"No network of {study.data} was finetuned with the joint loss: {finetuning_command(study.data)}."
        return StudySection(slug, study.data, title, about, shown, first, others, lacking), made
    about = (
        f"{len(study.all)} finetunings of {', '.join(networks)} with the joint loss (Eq. 7), each network together "
        f"with one map M_g for every g of a set G; φ ends at {study.layer}. Measured before and after alike."
    )
    return StudySection(slug, study.data, title, about, shown, first, others, lacking, _table_2(study, slug)), made


def with_gaps(collected: Collected, found: list[Study]) -> list[Study]:
    """Studies of finetuning, and empty ones for the paper's data sets without: Tables 2 and 4 are gaps there."""
    lacking = set(collected.rows["data"]) - {study.data for study in found}
    return [*found, *(nothing(data) for data in sorted(lacking) if finetuned_networks(data))]


def _table_2(study: Study, slug: str) -> Place | None:
    """Where the page has Table 2 or 4, or its form; how much of it there is, where the data are the paper's."""
    if not study.scores:
        return None
    wanted, (_, lacking) = finetuned_networks(study.data), finetuned_tables.absent(study)
    there = f"{len(wanted) - len(lacking)} of its {len(wanted)} networks" if wanted else ""
    return Place("finetuned", study.data, slug, there, whole=not lacking)

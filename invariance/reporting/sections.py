"""The sections of the page: what each shows of a family, of distances, of finetunings, and its files."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from invariance.reporting import distance_figures, distance_tables, tables
from invariance.reporting.curves import BASELINE, IDENTITY, MeasuredFamily, counts, fit_title, gaps, words
from invariance.reporting.distances import Distances, complete
from invariance.reporting.figure import Figure, figures_of
from invariance.reporting.finetuned import FinetunedNetworks
from invariance.reporting.gallery import Gallery, gallery
from invariance.reporting.metrics import METRICS
from invariance.reporting.paper import distances, finetuned
from invariance.reporting.paper.figures import Place, command, gallery_in_paper
from invariance.reporting.paper.forms import cross, overviews
from invariance.reporting.paper.recipes import noted
from invariance.reporting.paper.tables import accuracy_places
from invariance.reporting.rows import Collected, of_control
from invariance.reporting.table import Table


@dataclass(frozen=True)
class Shown:
    """A figure as the page shows it: an SVG element, or a table that tells its numbers."""

    figure: Figure
    element: Markup
    telling: bool = False


@dataclass
class Making:
    """What a section is made with: files come together as its figures and tables are shown.

    Attributes:
        files: the files so far, by path in the report.
        note: what captions say of the networks besides.
    """

    files: dict[str, bytes]
    note: str = ""

    def figure(self, figure: Figure, telling: str = "") -> Shown:
        """A figure, or on the page in its place an element that tells its numbers."""
        figure = noted(figure, self.note)
        element, files = figure.drawn()
        self.files.update(files)
        return Shown(figure, Markup(telling) if telling else element, bool(telling))

    def table(self, table: Table) -> Table:
        """A table."""
        table = noted(table, self.note)
        self.files.update(table.files())
        return table


@dataclass(frozen=True)
class Section:
    """A part of the page: a family on one data set, how far apart its networks are, or what finetuning did to them.

    Attributes:
        anchor: where on the page it is.
        data: the data set.
        title: its heading.
        about: a paragraph.
        figures: its figures.
        first: the table that is not folded away.
        tables: the others, each with what it holds.
        gaps: what it lacks, in words.
        place: the paper's table which it is, or is the form of.
        family: the family, where it is of one.
        gallery: what the family does to example images.
        words: what was found, in plain words, an entry each.
        aside: figures to look up, which are folded away.
        unfolded: names of those of its tables that are not folded away.
    """

    anchor: str
    data: str
    title: str
    about: str
    figures: list[Shown]
    first: Table | None
    tables: list[tuple[str, Table]]
    gaps: list[str]
    place: Place | None = None
    family: MeasuredFamily | None = None
    gallery: Gallery | None = None
    words: list[str] = field(default_factory=list)
    aside: list[Shown] = field(default_factory=list)
    unfolded: tuple[str, ...] = ()


def beginnings(measured: list[MeasuredFamily]) -> dict[tuple[str, str], str]:
    """How files of a data set and layer are called; the layer is in it only where a data set has several."""
    measured_at = list(dict.fromkeys((family.data, family.layer) for family in measured))
    layers = Counter(data for data, _ in measured_at)
    return {
        (data, layer): f"{data}-{layer.replace('/', '_')}" if layers[data] > 1 else data for data, layer in measured_at
    }


def overviews_of(measured: list[MeasuredFamily]) -> list[Figure]:
    """The figures of all families of a data set and layer."""
    found: list[Figure] = []
    for (data, layer), name in beginnings(measured).items():
        trained_on, foreign, _ = data.partition("@")
        held, own = ([one for one in measured if (one.data, one.layer) == (of, layer)] for of in (data, trained_on))
        found += filter(None, [cross(held, own, name)]) if foreign else overviews(held, name)
    return found


def places(overviewed: list[Figure], sections: list[Section], accuracy: Table | None) -> list[Place]:
    """Where the page has what the paper's figures and tables show."""
    found = [Place("transformations", "every family", "transformations", "")]
    found += accuracy_places(accuracy) if accuracy else []
    found += [Place(one.form, one.data, one.name, one.about) for one in overviewed if not one.aside]
    for section in sections:
        found += [section.place] if section.place else []
        drawn, family = [shown.figure for shown in section.figures], section.family
        found += [Place(one.form, section.data, one.name, one.title) for one in drawn if one.form]
        if family is not None:
            ranges = (one for one in drawn if one.name.endswith("-ranges-accuracy"))
            found += [Place("ranges", family.data, one.name, words(family.name)) for one in ranges]
            found += [Place(family.name, family.data, section.gallery.name, "")] if section.gallery else []
    return found


def family_section(making: Making, collected: Collected, family: MeasuredFamily, slug: str) -> Section:
    """A family's part of the page."""
    drawn = [figure for metric in family.metrics() for figure in figures_of("family", family, metric, slug)]
    figures = [making.figure(figure) for figure in drawn]
    shown = gallery(family, slug)
    if shown is not None:
        shown = gallery_in_paper(shown, family.name, family.data)
        making.files.update(shown.files())
    whole, control = tables.summary(family, slug), tables.unseen(family, slug)
    summary = making.table(whole) if whole else None
    numbers = [("Unseen classes: does M_g undo g, or does it know the classes?", control)] if control else []
    for metric in family.metrics():
        numbers.append((f"All numbers: {METRICS[metric].short}", tables.measurements(family, metric, slug)))
    lacking = gaps(collected, family)
    if shown is None:
        lacking.append(f"no example images were kept of {words(family.name)}")
    return Section(
        anchor=slug,
        data=family.data,
        title=family.title,
        about=_about(collected, family),
        figures=figures,
        first=summary,
        tables=[(title, making.table(table)) for title, table in numbers],
        gaps=lacking,
        family=family,
        gallery=shown,
    )


def _about(collected: Collected, family: MeasuredFamily) -> str:
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
    rows = collected.rows[collected.rows["run"].isin(family.rows["run"]) & ~of_control(collected.rows)]
    fitted = rows[(rows["map"] != IDENTITY[0]) & ~rows["split"].isin(reported) & (rows["n_images"] > 0)]
    if not fits:
        said.append("No map was fitted.")
    elif fitted.empty:
        said.append(f"M_g: {fits}.")
    else:
        splits = ", ".join(sorted(fitted["split"].unique()))
        said.append(f"M_g: {fits}; fitted on {counts(fitted['n_images'])} images of {splits}.")
    return " ".join(said)


def distance_section(making: Making, found: Distances) -> Section:
    """The part of the page on distances between networks."""
    slug = f"{found.data}-{found.layer.replace('/', '_')}"
    maps = [(distance_figures.heat_map(found, s, slug), distance_figures.telling_map(found, s)) for s in found.solvers]
    shown = [making.figure(figure, telling) for figure, telling in maps]
    shown += [making.figure(one) for one in figures_of("distances", found, slug)]
    said = distances.claims(found, slug)
    ways = [*(f"linear map, {words(solver)}" for solver in found.solvers), *found.indices]
    pairs = len(found.nodes) * (len(found.nodes) - 1)  # ordered
    about = (
        f"{len(found.nodes)} networks, {pairs // 2} pairs; φ ends at {found.layer}. The distance of two networks is "
        "the mean of two one-way distances L_L2, each left by a map E fitted from the one's features to the other's "
        f"(Eq. 4). Compared through: {'; '.join(words(way) for way in ways)}."
    )
    withheld = found.withheld()
    lacking = [f"{words(way)}: {n} numbers withheld ({words(status)})" for (way, status), n in withheld.items()]
    for solver in found.solvers:
        there = int(np.isfinite(found.matrix("l2_distance", solver)).sum())
        gone = pairs - there - sum(n for (way, _), n in withheld.items() if way == solver)
        if gone:
            lacking.append(f"{words(solver)}: {gone} one-way distances are not there yet")
        kept = complete(found.matrix("l2_distance_mean", solver))
        left = [node.label for k, node in enumerate(found.nodes) if k not in kept]
        if left:
            lacking.append(f"{words(solver)}: neighbours, t-SNE and dendrogram are without {', '.join(left)}")
    return Section(
        anchor=f"{slug}-distances",
        data=found.data,
        title=f"{found.data}: distances between networks",
        about=about,
        figures=shown,
        first=making.table(said) if said else None,
        tables=[(title, making.table(table)) for title, table in distance_tables.tables(found, slug)],
        gaps=[*distances.gaps(found), *lacking],
    )


def finetuned_section(making: Making, study: FinetunedNetworks) -> Section:
    """The part of the page on finetuning with the joint loss."""
    slug = "-".join(filter(None, [study.data, study.layer.replace("/", "_"), "finetuned"]))
    shown = [making.figure(one) for one in figures_of("finetuning", study, slug)]
    (_, first), *others = [(title, making.table(table)) for title, table in finetuned.tables(study, slug)]
    networks = ", ".join(dict.fromkeys(one.network for one in study.all))
    about = (
        f"{len(study.all)} finetunings of {networks} with the joint loss (Eq. 7), each network together "
        f"with one map M_g for every g of a set G; φ ends at {study.layer}. Measured before and after alike."
    )
    if not networks:
        about = f"No network of {study.data} was finetuned with the joint loss: {command('finetuned', study.data)}."
    return Section(
        anchor=slug,
        data=study.data,
        title=f"{study.data}: finetuned for equivariance",
        about=about,
        figures=shown,
        first=first,
        tables=others,
        gaps=finetuned.gaps(study),
        place=finetuned.place_of(study, slug),
    )

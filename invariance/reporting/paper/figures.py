"""The paper's figures and tables by number: what each shows, which of ours are in its form, the index of the page."""

from dataclasses import dataclass, replace

from invariance.reporting.gallery import Gallery


@dataclass(frozen=True)
class PaperFigure:
    """A figure or a table of the paper.

    Attributes:
        number: its number.
        form: what it shows as this report names it; figures of one form differ in their data.
        shows: the same for people.
        data: the data sets it is of; none where the paper does not say.
        command: what makes its numbers, `{data}` being the data set.
        kind: Figure or Table.
    """

    number: str
    form: str
    shows: str
    data: tuple[str, ...]
    command: str
    kind: str = "Figure"

    @property
    def name(self) -> str:
        """`Figure 1`."""
        return f"{self.kind} {self.number}"


_MEASURE = "make paper-networks paper-measure DATA={data}"
_DISTANCE = "make paper-networks paper-distance DATA={data}"
_FINETUNE = "make paper-networks paper-finetune DATA={data}"
_BOTH = ("ilsvrc", "rvl_cdip")

FIGURES = (
    PaperFigure("1", "extremes", "extreme network of every family against the baseline, ILSVRC", ("ilsvrc",), _MEASURE),
    PaperFigure("2", "ranges", "ranges compared, for some families", (), _MEASURE),
    PaperFigure("3a", "neighbours", "networks of one family among the nearest", _BOTH, _DISTANCE),
    PaperFigure("3b", "families", "mean distances of families, ILSVRC", ("ilsvrc",), _DISTANCE),
    PaperFigure("3c", "families", "mean distances of families, RVL-CDIP", ("rvl_cdip",), _DISTANCE),
    PaperFigure("4", "pages", "examples of RVL-CDIP", ("rvl_cdip",), ""),
    PaperFigure("5", "elastic", "what elastic deformations do to images", (), _MEASURE),
    PaperFigure("6", "perspective", "what perspective transforms do to images", (), _MEASURE),
    PaperFigure(
        "7", "extremes", "extreme network of every family against the baseline, RVL-CDIP", ("rvl_cdip",), _MEASURE
    ),
    PaperFigure("8", "all-1", "all networks: blur, color jitter, crop, elastic, mirror", _BOTH, _MEASURE),
    PaperFigure("9", "all-2", "all networks: noise, perspective, rotation, shear", _BOTH, _MEASURE),
    PaperFigure(
        "10",
        "cross",
        "networks trained on RVL-CDIP, measured on historical documents",
        ("rvl_cdip@historical",),
        "make paper-cross HISTORICAL=/data/scans",
    ),
    PaperFigure("11", "tsne", "t-SNE of the distances", _BOTH, _DISTANCE),
    PaperFigure("12", "differences", "differences of the one-way distances", _BOTH, _DISTANCE),
)

TABLES = (
    PaperFigure("1", "transformations", "families of transformations and their ranges", (), "", "Table"),
    PaperFigure("2", "finetuned", "accuracy before and after finetuning, RVL-CDIP", ("rvl_cdip",), _FINETUNE, "Table"),
    PaperFigure("3", "accuracy", "accuracy of all networks", _BOTH, "make paper-networks DATA={data}", "Table"),
    PaperFigure("4", "finetuned", "accuracy before and after finetuning, ILSVRC", ("ilsvrc",), _FINETUNE, "Table"),
)

STAGES = {"train": "Table 3", "measure": "Figs. 1, 2, 7 to 9", "distance": "Fig. 3", "finetune": "Tables 2, 4"}
"""Where the paper shows the numbers of each stage."""

INDEX = {
    "title": "The paper’s figures and tables",
    "caption": "Where this report has the paper’s figures and tables, and the same form on other data.",
    "header": ("the paper’s", "shows", "where"),
}
"""What the page's index of them says of itself."""


def command(form: str, data: str) -> str:
    """What makes the numbers of a form, as `neighbours` or `finetuned`."""
    return next(one.command.format(data=data) for one in (*FIGURES, *TABLES) if one.form == form)


def _numbers(form: str, data: str) -> tuple[list[str], list[str]]:
    """The paper's figures of a form: all, and those of this data set."""
    found = [figure for figure in FIGURES if figure.form == form]
    return [figure.number for figure in found], [figure.number for figure in found if data in figure.data]


def number(form: str, data: str) -> str:
    """The paper's figure of a form: the one of this data set, otherwise the first; "" where there is none."""
    everything, same = _numbers(form, data)
    return [*same, *everything, ""][0]


def called(form: str, data: str) -> str:
    """What a figure of ours is in the paper: Figure 7, or Form of Figures 1 and 7; "" where it is nothing."""
    everything, same = _numbers(form, data)
    if same:
        return f"Figure {same[0]}"
    return f"Form of Figure{'s' if len(everything) > 1 else ''} {' and '.join(everything)}" if everything else ""


def gallery_in_paper(shown: Gallery, family: str, data: str) -> Gallery:
    """A gallery of a family by the number that the paper's has (Figs. 5 and 6); others as they are."""
    if not (paper := called(family, data)):
        return shown
    return replace(shown, name=f"fig{number(family, data)}-{shown.name}", caption=f"{paper}. {shown.caption}")


@dataclass(frozen=True)
class Place:
    """Where the page shows a figure or table of a form.

    Attributes:
        form: the form.
        data: the data set.
        anchor: where on the page.
        what: what sets it apart from its like, or how much of it there is.
        whole: whether all of it was measured.
    """

    form: str
    data: str
    anchor: str
    what: str
    whole: bool = True


@dataclass(frozen=True)
class Entry:
    """A line of the index.

    Attributes:
        name: the paper's name of it, as Figure 1.
        shows: what the figure or table shows.
        here: where this report has it.
        alike: where this report has its form on data that are not the paper's.
        lacking: the paper's data that this report does not have it of, or not all.
        command: what would make it on those; "" where nothing lacks, and for what is not made.
    """

    name: str
    shows: str
    here: list[Place]
    alike: list[Place]
    lacking: list[str]
    command: str


def index(places: list[Place]) -> list[Entry]:
    """The paper's figures in their order and its tables, with where this report has them."""
    entries = []
    for figure in (*FIGURES, *TABLES):
        alike = [place for place in places if place.form == figure.form]
        here = [place for place in alike if place.data in figure.data]
        lacking = [data for data in figure.data if data not in {place.data for place in here if place.whole}]
        wanted = lacking or ([] if figure.data or alike else ["ilsvrc"])
        data = f"'{' '.join(wanted)}'" if len(wanted) > 1 else "".join(wanted)
        command = figure.command.format(data=data) if wanted else ""
        others = [one for one in alike if one not in here]
        said = [f"the rest of {data}" if any(one.data == data for one in here) else data for data in lacking]
        entries.append(Entry(figure.name, figure.shows, here, others, said if command else [], command))
    return entries

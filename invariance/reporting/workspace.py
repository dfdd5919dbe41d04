"""The project's W&B workspace and W&B report, as wandb-workspaces builds them (the optional extra `dashboard`)."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from invariance.errors import UserError
from invariance.reporting.contents import Item
from invariance.reporting.paper.figures import STAGES
from invariance.runs.files import write_text
from invariance.runs.summary import PARTS, REPORTED

_MOST = 500  # runs, and bars, that a panel shows; the whole study of both data sets has some 300
_COLUMNS = 24  # of a panel grid in a W&B report
_SOLVERS = ("online_sgd", "ridge")
_WAYS = ("invariance", *(f"equivariance_{solver}" for solver in _SOLVERS))
_PART = {"untouched": "untouched", "inside": "g inside the trained range", "beyond": "g beyond it", "all": "all g"}
_TERMS = ("classification", "transformed", "recovery", "invariance")
_PINNED = (
    "run:jobType",
    "config:data.value",
    "config:network.value",
    "config:grid.value",
    f"summary:{REPORTED}",
    "summary:measure/invariance/all/accuracy",
    "summary:measure/equivariance_ridge/all/accuracy",
)


@dataclass(frozen=True)
class WorkspaceSection:
    """Live panels of one stage, shown in the workspace and in the report alike."""

    title: str
    stage: str
    panels: list[Any]


@dataclass(frozen=True)
class Board:
    """A workspace and a report, built and not sent."""

    workspace: Any
    report: Any

    def specs(self) -> dict[str, Any]:
        """Both as W&B's server would get them."""
        return {
            name: one._to_model().model_dump(by_alias=True, exclude_none=True, mode="json")
            for name, one in (("workspace", self.workspace), ("report", self.report))
        }

    def write(self, path: Path) -> None:
        """Write both specs as JSON."""
        write_text(path, json.dumps(self.specs(), indent=1, ensure_ascii=False) + "\n")


def require_library() -> None:
    """Refuse to go on without wandb-workspaces.

    Raises:
        UserError: saying how to install it.
    """
    try:
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError as error:
        remedy = "pip install 'invariance[dashboard]'"
        raise UserError(f"the dashboard needs wandb-workspaces ({error}): {remedy}") from error


def _wr() -> Any:  # noqa: ANN401
    """The library's reports."""
    import wandb_workspaces.reports.v2 as wr

    return wr


def build(
    contents: Sequence[Item],
    rows: pd.DataFrame,
    *,
    name: str,
    project: str,
    entity: str = "",
    dataset: str | None = None,
    run_id: str | None = None,
) -> Board:
    """The workspace of a project, and the report that shows the contents of a local one.

    Args:
        contents: what the local report shows, in its order.
        rows: the rows it was made from.
        name: of the workspace and of the report.
        project: the W&B project.
        entity: who owns the project; empty while nothing is sent.
        dataset: show the runs on one data set alone.
        run_id: the W&B run that holds the figures; None: any of job type `report`.
    """
    import wandb_workspaces.workspaces as ws

    wr = _wr()
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[ws.Section(name=one.title, panels=one.panels, is_open=True) for one in sections()],
        settings=ws.WorkspaceSettings(max_runs=_MOST),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Config("data") == dataset] if dataset else "",
            order=[ws.Ordering(ws.Metric("Name"), ascending=True)],
            pinned_columns=list(_PINNED),
        ),
    )
    known = rows[["data", "stage"]].drop_duplicates().sort_values(["data", "stage"])
    measured = [(data, stage) for data, stage in known.itertuples(index=False) if dataset in (None, data)]
    pictures = f"Metric('ID') == '{run_id}'" if run_id else "Metric('JobType') == 'report'"
    report = wr.Report(
        entity=entity,
        project=project,
        title=name,
        width="fixed",
        description="Tables and figures as invariance-report made them; the panels at the end are live.",
        blocks=[wr.TableOfContents(), *_shown(contents, pictures), *_live(measured)],
    )
    return Board(workspace, report)


def sections() -> list[WorkspaceSection]:
    """The live panels, stage by stage."""
    curves = {"Training loss": "train/loss", "Validation accuracy": "val/accuracy", "Validation loss": "val/loss"}
    accuracy = [
        _bars("Accuracy of every network", [REPORTED]),
        _points("Accuracy over the trained range", "range", REPORTED, config=True),
    ]
    shown = (
        ("Accuracy on untouched images", "train", accuracy),
        ("Invariance and equivariance", "measure", _measured()),
        ("Distances between networks", "distance", _distances()),
        ("Finetuning with the joint loss", "finetune", _finetuned()),
    )
    return [
        WorkspaceSection("Training curves by family", "train", [_lines(title, [key]) for title, key in curves.items()]),
        *(WorkspaceSection(f"{title} ({STAGES[stage]})", stage, panels) for title, stage, panels in shown),
    ]


def _lines(title: str, keys: list[str]) -> Any:  # noqa: ANN401
    """Curves over updates, the mean of every family's runs with their range."""
    grouped = {"groupby": _wr().Config("curve"), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    return _wr().LinePlot(title=title, x="trainer/global_step", y=keys, max_runs_to_show=_MOST, **grouped)


def _bars(title: str, keys: list[str]) -> Any:  # noqa: ANN401
    """A bar a run and key."""
    return _wr().BarPlot(title=title, metrics=keys, max_runs_to_show=_MOST, max_bars_to_show=_MOST * len(keys))


def _points(title: str, x: str, y: str, *, config: bool = False) -> Any:  # noqa: ANN401
    """A point a run: a summary value over another, or over a key of the configuration."""
    wr = _wr()
    return wr.ScatterPlot(title=title, x=wr.Config(x) if config else wr.SummaryMetric(x), y=wr.SummaryMetric(y))


def _measured() -> list[Any]:
    panels = [
        _bars(f"Mean accuracy, {_PART[part]}", [f"measure/{way}/{part}/accuracy" for way in _WAYS]) for part in PARTS
    ]
    panels += [
        _points(
            f"Equivariance ({solver}) over invariance: mean accuracy",
            "measure/invariance/all/accuracy",
            f"measure/equivariance_{solver}/all/accuracy",
        )
        for solver in _SOLVERS
    ]
    panels.append(_bars("Mean L_L2, all g", [f"measure/{way}/all/l2_distance" for way in _WAYS]))
    panels.append(_bars("Numbers withheld (diverged fits)", [f"measure/{way}/withheld" for way in _WAYS]))
    return panels


def _distances() -> list[Any]:
    names = {solver: f"L_L2 ({solver})" for solver in _SOLVERS}
    names |= {"cka": "CKA", "procrustes": "Procrustes", "r2": "R²"}
    parts = ("same_family", "other_families", "all")
    return [
        _bars(f"{title}, mean of pairs", [f"distance/{way}/{part}" for part in parts]) for way, title in names.items()
    ]


def _finetuned() -> list[Any]:
    both = [f"finetune/{{}}/{way}/all/accuracy" for way in _WAYS]
    joint = "finetune/after/equivariance_joint/all/accuracy"
    return [
        *(_lines(f"Joint loss: {term}", [f"train/{term}"]) for term in _TERMS),
        _lines("Validation accuracy over G: as it is, and through M_g", ["val/accuracy_g", "val/accuracy_Mg"]),
        _bars("Mean accuracy before", [key.format("before") for key in both]),
        _bars("Mean accuracy after", [*(key.format("after") for key in both), joint]),
        _points(
            "Through the same kind of map: after over before",
            "finetune/before/equivariance_ridge/all/accuracy",
            "finetune/after/equivariance_ridge/all/accuracy",
        ),
        _points("Untouched accuracy over λ3", "lambda3", REPORTED, config=True),
    ]


def _shown(contents: Sequence[Item], pictures: str) -> Iterator[Any]:
    """The contents of the local report as blocks; `pictures` says which W&B run holds the figures."""
    wr = _wr()
    for item in contents:
        if item.kind == "heading":
            yield {2: wr.H1, 3: wr.H2}.get(item.level, wr.H3)(item.text)
        elif item.kind == "paragraph":
            yield wr.P(item.text)
        elif item.kind == "table":
            yield wr.MarkdownBlock(item.text)
        elif item.kind == "figure":
            layout = wr.Layout(w=_COLUMNS, h=_height(item.path))
            panel = wr.MediaBrowser(title=item.name, media_keys=[item.key], num_columns=1, layout=layout)
            runs = wr.Runset(name="report", filters=pictures)
            yield wr.PanelGrid(runsets=[runs], panels=[panel], hide_run_sets=True)
            yield wr.P(item.text)


def _live(measured: Sequence[tuple[str, str]]) -> Iterator[Any]:
    """Live panels of every stage of every data set that has rows."""
    wr = _wr()
    yield wr.H1("Live panels")
    for data in dict.fromkeys(data for data, _ in measured):
        for section in sections():
            if (data, section.stage) in measured:
                yield wr.H2(f"{data}: {section.title}")
                filters = f"Config('data') == '{data}' and Metric('JobType') == '{section.stage}'"
                yield wr.PanelGrid(runsets=[wr.Runset(name=data, filters=filters)], panels=section.panels)


def _height(path: Path) -> int:
    """Rows of a panel grid that a picture takes at the grid's full width, with the panel's own frame."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); run invariance-report again") from error
    return max(6, min(40, round(_COLUMNS * height / width) + 3))


def send(board: Board, server: str) -> list[str]:
    """Save a workspace and a report; those of the same name are replaced.

    Args:
        board: both, with the entity that owns them.
        server: address of W&B's pages.

    Returns:
        Where they are.

    Raises:
        UserError: if W&B refuses.
    """
    import wandb
    import wandb_workspaces.workspaces as ws

    workspace, report = board.workspace, board.report
    slug = _slug(workspace.name)
    with refusals():
        try:
            held = ws.Workspace.from_url(f"{server}/{workspace.entity}/{workspace.project}?nw={slug}")
        except ValueError as error:
            if "not found in project" not in str(error):
                raise
        else:
            workspace._internal_id = held._internal_id
        workspace._internal_name = f"nw-{slug}-v"  # by which the library, and the address, know a workspace
        workspace.save()
        there = wandb.Api().reports(f"{report.entity}/{report.project}")
        report.id = next((one.id for one in there if one.display_name == report.title), "")
        report.save()
        return [workspace.url, report.url]


@contextmanager
def refusals() -> Iterator[None]:
    """Turn whatever W&B's server, or its library on the way there, raises into one line.

    Raises:
        UserError: with the first line of it.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # some of W&B's own errors derive from nothing narrower
        said = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"W&B refused ({type(error).__name__}: {said[:300]}); see to it and repeat") from error


def _slug(name: str) -> str:
    """A workspace's name in its address: eleven letters and digits that follow from its title."""
    return hashlib.sha256(name.encode()).hexdigest()[:11]

"""The project's workspace and report in Weights & Biases: `python -m invariance.dashboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from invariance.errors import UserError, nearest
from invariance.reporting.contents import Item, figures_of, read_contents
from invariance.reporting.workspace import build, refusals, require_library, send
from invariance.runs.outputs import require_writable
from invariance.runs.rows import read_rows
from invariance.runs.wandb import Tracker, check_logger, mode_of, offline_asked, read_link
from invariance.settings.base import checked
from invariance.settings.pages import DashboardPage
from invariance.settings.paths import folder


def dashboard(config: dict[str, Any]) -> None:
    """Build the workspace and the report from a local report, write their specs, and send them unless told not to.

    Args:
        config: the configuration of `conf/dashboard.yaml`, plain and resolved.

    Raises:
        UserError: for anything the user can mend.
    """
    check(config)
    require_library()
    report, save = folder(config["report"], "report"), folder(config["save"], "save")
    contents = read_contents(report)
    figures, tables = (sum(item.kind == kind for item in contents) for kind in ("figure", "table"))
    rows = read_rows(report / "rows.csv")
    check_dataset(config["dataset"], rows)
    options = {"name": config["name"], "project": config["logger"]["project"], "dataset": config["dataset"]}
    about = f"{figures} figures and {tables} tables of {report}"
    if config["dry_run"]:
        board = build(
            contents, rows, entity=config["logger"]["entity"] or "", run_id=read_link(report).get("id"), **options
        )
        board.write(save)
        print(f"nothing was sent; a workspace, and a report with {about}: {save}")
        return
    entity, server = account(config["logger"])
    board = build(contents, rows, entity=entity, run_id=upload(config, contents, rows, report), **options)
    board.write(save)
    for url in send(board, server):
        print(url)


def check(config: dict[str, Any]) -> None:
    """Refuse what can be refused before anything is read.

    Raises:
        UserError: for a value that makes no sense, or a logger that cannot serve.
    """
    checked(DashboardPage, config)
    check_logger(config["logger"])
    folder(config["report"], "report")
    require_writable(folder(config["save"], "save"), "save", is_file=True)


def check_dataset(dataset: object, rows: pd.DataFrame) -> None:
    """Refuse a data set that the report has no rows of.

    Raises:
        UserError: naming those there are.
    """
    there = sorted(rows["data"].unique())
    if dataset is not None and dataset not in there:
        hint = nearest(str(dataset), there)
        raise UserError(f"dataset={dataset}: the report has no row of it{hint} (there are: {', '.join(there)})")


def account(logger: dict[str, Any]) -> tuple[str, str]:
    """Who owns the project, and the address of W&B's pages.

    Raises:
        UserError: without a login, or if the project has no runs.
    """
    import wandb  # takes a second, and only sending needs it
    from wandb_workspaces._graphql import get_app_url  # of the extra `dashboard`

    look = "dry_run=true writes what would be sent to a file"
    with refusals():
        mode = mode_of(logger)
    if mode != "online":
        asked = f"W&B is {mode}, as asked: set logger.mode=online"
        raise UserError(f"{asked if offline_asked(logger) else 'no login: run wandb login'}; {look}")
    with refusals():
        if not wandb.login(prompt=False):
            raise UserError(f"no login: run wandb login; {look}")
        api = wandb.Api()
        entity = logger["entity"] or api.default_entity
        project = f"{entity}/{logger['project']}"
        if not entity:
            raise UserError("the login has no default entity: name a user or a team as logger.entity=…")
        if next(iter(api.runs(project, per_page=1)), None) is None:
            raise UserError(f"{project} has no runs: upload those there are with wandb sync, or train with a login")
        return str(entity), str(get_app_url(api)).rstrip("/")


def upload(config: dict[str, Any], contents: list[Item], rows: pd.DataFrame, report: Path) -> str:
    """Log the figures and rows of a report to its W&B run; its id."""
    settings = {**config["logger"], "mode": "online"}
    about = {"stage": "report", "data": config["dataset"] or "all"}
    with refusals(), Tracker(settings, report, name=report.name, about=about, identity={}, strict=True) as tracker:
        tracker.table("rows", rows)
        tracker.images(figures_of(contents))
        return str(tracker.run.id)

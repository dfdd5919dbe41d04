"""Gather all finished runs into tables, figures and one page: `python -m invariance.report`."""

from typing import Any

from invariance.errors import UserError
from invariance.reporting.contents import figures_of, read_contents
from invariance.reporting.figure import figure_named
from invariance.reporting.page import report_of
from invariance.runs.outputs import require_writable
from invariance.runs.rows import read_rows
from invariance.runs.wandb import Tracker, check_logger
from invariance.settings.base import checked
from invariance.settings.pages import ReportPage
from invariance.settings.paths import folder


def report(config: dict[str, Any]) -> None:
    """Make the report from rows alone, and log its tables and figures.

    Args:
        config: the configuration of `conf/report.yaml`, plain and resolved.

    Raises:
        UserError: for anything the user can mend; after the report is made, if damaged runs were left out.
    """
    check(config)
    out = folder(config["out"], "out")
    runs = folder(config["runs"], "runs")
    page, collected = report_of(
        runs,
        out,
        data=config["dataset"],
        progress=config["progress"],
        wandb=config["logger"]["kind"] == "wandb",
        figures=config["figures"],
    )
    about = {"stage": "report", "data": config["dataset"] or "all"}
    with Tracker(config["logger"], out, name=out.name, about=about, identity={}) as tracker:
        tracker.table("rows", read_rows(out / "rows.csv"))
        tracker.images(figures_of(read_contents(out)))
    print(page.resolve())
    if damaged := len(collected.damaged):
        raise UserError(
            f"{damaged} finished {'run is' if damaged == 1 else 'runs are'} damaged and left out of the report, for "
            f"the reasons above; it holds the other {len(collected.runs)}"
        )


def check(config: dict[str, Any]) -> None:
    """Refuse what can be refused before anything is read.

    Raises:
        UserError: for a value that makes no sense, or an unknown logger.
    """
    checked(ReportPage, config)
    check_logger(config["logger"])
    for name in config["figures"]:
        figure_named(name)
    folder(config["runs"], "runs")
    require_writable(folder(config["out"], "out"), "out")

"""The report: every table and figure as files, and one page that holds them all."""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.resources import files as package_files
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.progress import Progress

from invariance.errors import UserError
from invariance.progress import bar
from invariance.reporting.compared_layers import compared_layers, layers_section
from invariance.reporting.contents import CONTENTS, PAGE, Contents
from invariance.reporting.curves import counts, families, fit_title, order_of, words
from invariance.reporting.distances import distances
from invariance.reporting.figure import figures_of
from invariance.reporting.finetuned import studies
from invariance.reporting.given import GivenNetwork, given_networks, trained_data
from invariance.reporting.given_section import given_section
from invariance.reporting.models import models_section
from invariance.reporting.paper import claims, recipes, tables, verdicts
from invariance.reporting.paper.figures import INDEX, index
from invariance.reporting.paper.finetuned import with_gaps
from invariance.reporting.rows import Collected, RunFacts, collect, of_given, run_anchor
from invariance.reporting.sections import (
    Making,
    Section,
    beginnings,
    distance_section,
    family_section,
    finetuned_section,
    overviews_of,
    places,
)
from invariance.reporting.set_means import set_means
from invariance.runs.files import atomic_path, disk_errors, remove_temporaries, write_text
from invariance.runs.find import tell_unseen
from invariance.runs.locks import holder, lock
from invariance.runs.rows import COLUMNS, write_rows
from invariance.version import __version__

MANIFEST, LOCK = "files.txt", ".lock"
_WAIT = 0.2
"""Seconds between looks whether another process has made its report."""

_FOLDERS = (("figures",), ("tables",))

T = TypeVar("T")


def make_report(runs: Path, out: Path, *, data: str | None = None, progress: bool = False, wandb: bool = True) -> Path:
    """Make the report of all finished runs: `rows.csv`, `tables/`, `figures/`, `contents.json`, the page.

    Every file appears whole or not at all, the page last. Files of an earlier report that this one has no more are
    removed. The same runs give the same bytes.

    Args:
        runs: the runs folder.
        out: the report's folder; created if need be.
        data: report on one data set alone.
        progress: whether a bar shows how many parts of the page are drawn.
        wandb: whether the page leads from a run to its address in W&B, where it has one.

    Returns:
        The page, `index.html`.

    Raises:
        UserError: if no run is finished and whole, two hold the same number, or `out` cannot be written.
    """
    return report_of(runs, out, data=data, progress=progress, wandb=wandb)[0]


def report_of(
    runs: Path,
    out: Path,
    *,
    data: str | None = None,
    progress: bool = False,
    wandb: bool = True,
    figures: Sequence[str] = (),
) -> tuple[Path, Collected]:
    """As `make_report`, with what the report is made from; what is left out is named on standard error.

    `figures` are functions from outside the package, as `module:function`, that draw figures of all rows.
    """
    collected = collect(runs, data)
    with _alone(out) as waited:
        collected = collect(runs, data) if waited else collected  # runs may have ended since
        with bar(progress) as shown:
            parts, made = _made(collected, shown, figures)
        runs_made = [_made_by(run, _beside(runs, out), wandb=wandb) for run in collected.runs.values()]
        page, contents = _page(collected, {**parts, "provenance": runs_made})
        _write(out, collected.rows[COLUMNS], made, page, contents)
    tell_unseen(collected.unseen)
    for name, why in collected.damaged.items():
        print(f"left out, damaged: {name}: {why}", file=sys.stderr)
    return out / PAGE, collected


@contextmanager
def _alone(out: Path) -> Iterator[bool]:
    """Let one process at a time make a report, for of two launchers that share a study both come to it.

    Yields whether another one had to be waited for.
    """
    waited = False
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        while (held := lock(out / LOCK)) is None:
            if not waited:
                who = holder(out / LOCK) or "another process"
                print(f"waiting for {who}, which makes a report in {out}", file=sys.stderr, flush=True)
            waited = True
            time.sleep(_WAIT)
    try:
        yield waited
    finally:
        with suppress(OSError):
            os.ftruncate(held, 0)  # who made it is nothing of the report's
        os.close(held)


def _made(collected: Collected, progress: Progress, figures: Sequence[str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What the page shows, by its names in the template, and all files by their paths in the report."""
    measured, compared, finetuned = families(collected), distances(collected), with_gaps(collected, studies(collected))
    whole, data_sets = overviews_of(measured), trained_data(collected)
    notes = {data: recipes.note(collected, data) for data in sorted(set(collected.rows["data"]))}
    given, beside = given_networks(collected), compared_layers(collected)
    made: dict[str, bytes] = {}
    parts: tuple[Sized, ...] = (whole, measured, given, beside, compared, finetuned)
    task = progress.add_task("figures", total=sum(map(len, parts)))

    def done(shown: T) -> T:
        progress.advance(task)
        return shown

    def making(data: str) -> Making:
        return Making(made, notes.get(data, ""))

    overviewed = [done(making(one.data).figure(one)) for one in whole]
    slugs = [f"{beginnings(measured)[one.data, one.layer]}-{one.name}" for one in measured]
    named = zip(measured, slugs, strict=True)
    sections = [done(family_section(making(one.data), collected, one, slug)) for one, slug in named]
    looked_at = [done(given_section(Making(made), one)) for one in given]
    looked_at = [*beside_each_other(Making(made), given), *looked_at]
    looked_at += [done(layers_section(Making(made), one)) for one in beside]
    apart = [done(distance_section(making(one.data), one)) for one in compared]
    tuned = [done(finetuned_section(making(one.data), one)) for one in finetuned]
    said = claims.claims(
        [(one, section.anchor) for one, section in zip(measured, sections, strict=True)],
        [(one, section.anchor) for one, section in zip(compared, apart, strict=True)],
        [(one, section.anchor) for one, section in zip(finetuned, tuned, strict=True)],
    )
    own = "".join(f" {data}:{note}" for data, note in notes.items() if note and "@" not in data)
    accuracy = tables.accuracy(collected)
    shown_tables = {
        "accuracy": recipes.noted(accuracy, own) if accuracy else None,
        "transformations": tables.transformations(),
        "claims": verdicts.summary(said, data_sets),
        "claims_details": verdicts.details(said),
        "networks": recipes.networks(collected),
    }
    means = set_means(collected)
    for table in (*shown_tables.values(), *means):
        made.update(table.files() if table else {})
    for one in figures_of("rows", collected.rows, more=figures):
        further = Making({})
        overviewed.append(further.figure(replace(one, data="", aside=True)))
        if further.files.keys() & made.keys():
            raise UserError(f"figures: two figures are called {one.name}; give each another name")
        made.update(further.files)
    shown_parts = {"sections": sections, "apart": [*looked_at, *apart, *tuned], "overviewed": overviewed}
    return {**shown_parts, **shown_tables, "means": means}, made


def beside_each_other(making: Making, networks: Sequence[GivenNetwork]) -> list[Section]:
    """The sections that set networks of one data set beside each other which were not trained here."""
    by_data = groupby(networks, key=lambda one: one.data)
    return [section for data, of in by_data if (section := models_section(making, data, list(of))) is not None]


def _write(out: Path, rows: pd.DataFrame, made: dict[str, bytes], page: str, contents: str) -> None:
    """Write the report, the page last.

    The list of files names those that are yet to come, and those that are yet to go: a report that is killed on the way
    leaves nothing that the next one does not know.
    """
    for folder in (out, out / "figures", out / "figures" / "dark", out / "tables"):
        remove_temporaries(folder)
    before = _listed(out / MANIFEST)
    write_text(out / MANIFEST, _lines(before | made.keys()))
    write_rows(out / "rows.csv", rows)
    for name, content in made.items():
        with atomic_path(out / name) as temporary:
            temporary.write_bytes(content)
    for name in before - made.keys():
        (out / name).unlink(missing_ok=True)
    write_text(out / MANIFEST, _lines(made.keys()))
    write_text(out / CONTENTS, contents)
    write_text(out / PAGE, page)


def _listed(manifest: Path) -> set[str]:
    """The files that an earlier report named in its list: only in its own folders is anything ever removed."""
    names = manifest.read_text(encoding="utf-8", errors="replace").splitlines() if manifest.exists() else []
    parts = {name: PurePosixPath(name).parts for name in names}
    return {name for name in names if parts[name][:1] in _FOLDERS and ".." not in parts[name]}


def _lines(names: Iterable[str]) -> str:
    return "".join(f"{name}\n" for name in sorted(names))


def _page(collected: Collected, parts: dict[str, Any]) -> tuple[str, str]:
    """The page, and its contents as they are kept while it is written; `parts`: what it shows."""
    source = package_files("invariance.reporting").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["words"] = words
    contents, overviewed = Contents(), parts["overviewed"]
    entries = places([one.figure for one in overviewed], [*parts["sections"], *parts["apart"]], parts["accuracy"])
    page = environment.from_string(source).render(
        **parts,
        overview=overview(collected),
        paper=INDEX,
        entries=index(entries),
        claims_title=verdicts.TITLE,
        by_data={data: list(of) for data, of in groupby(parts["sections"], key=lambda section: section.data)},
        overview_of={
            data: [one for one in overviewed if one.figure.data == data]
            for data in dict.fromkeys(one.figure.data for one in overviewed)
        },
        notes=_notes(collected),
        trained=not of_given(collected.rows).all(),
        collected=collected,
        versions=_versions(collected),
        version=__version__,
        keep=contents,
        table=lambda table: Markup(table.html()),
    )
    return f"{page}\n", contents.text()


def overview(collected: Collected) -> list[tuple[str, str]]:
    """What was measured, as terms and their values, one group a data set."""
    facts: list[tuple[str, str]] = []
    for data, rows in collected.rows.groupby("data", sort=True):
        trained, measured = (rows[rows["stage"] == stage] for stage in ("train", "measure"))
        joint = rows[(rows["stage"] == "finetune") & (rows["g"] == "")]
        after = set(zip(joint["network"], joint["seed"], strict=True))
        networks = set(zip(rows["network"], rows["seed"], strict=True)) - after
        images = ", ".join(
            f"{counts(n for n in part['n_images'] if n > 0)} of {split}"
            for split, part in rows.groupby("split", sort=True)
            if (part["n_images"] > 0).any()
        )
        parts = [
            f"{len(networks)} networks ({len(trained['run'].unique())} with an accuracy, "
            f"{measured[['network', 'seed']].drop_duplicates().shape[0]} measured)",
            *([f"{len(after)} finetuned"] if after else []),
            f"images: {images}",
        ]
        if len(measured):
            fits = measured.loc[measured["map"] != "identity", ["map", "solver"]].drop_duplicates()
            said = "; ".join(fit_title(fit) for fit in sorted(fits.itertuples(index=False, name=None), key=order_of))
            parts.append(f"{measured['g'].nunique()} transformations g")
            parts.append(f"fitted maps: {said or 'none'}")
        facts.append((str(data), "; ".join(parts)))
    return facts


def _notes(collected: Collected) -> dict[str, dict[str, list[str]]]:
    """Remarks on a data set, images that could not be read and what is left out, as its runs recorded them."""
    found = {}
    for data, rows in collected.rows.groupby("data", sort=True):
        runs = [collected.runs[name].provenance for name in sorted(set(rows["run"]))]
        found[str(data)] = {
            key: list(dict.fromkeys(str(line) for run in runs for line in run.get(key) or ()))
            for key in ("remarks", "skipped", "left_out")
        }
    return found


def _beside(runs: Path, out: Path) -> str:
    """The runs folder as the report's page links to it: only where both lie in one folder, as they move together."""
    here, there = out.resolve(), runs.resolve()
    return f"../{quote(there.name)}" if here.parent == there.parent and here != there else ""


def _made_by(run: RunFacts, folder: str, *, wandb: bool) -> dict[str, str]:
    """A run's provenance in the words of the page; `folder` is where the page finds the runs, or empty."""
    held = run.provenance
    seen = held.get("wandb") if wandb else None
    url = str(seen.get("url") or "") if isinstance(seen, dict) else ""
    commit = str(held.get("commit") or "unknown")[:12]
    return {
        "run": run.name,
        "seal": "" if run.verified else "unverified",
        "anchor": run_anchor(run.name),
        "folder": f"{folder}/{quote(run.name)}/" if folder else "",
        "wandb": url if url.startswith(("https://", "http://")) else "",
        "commit": f"{commit}, with changes" if held.get("dirty") else commit,
        "started": str(held.get("started") or "unknown"),
        "device": str(held.get("device") or "unknown"),
    }


def _versions(collected: Collected) -> list[str]:
    """The versions that made the runs: one line for every combination there is."""
    lines = Counter(
        ", ".join(
            [
                f"Python {run.provenance.get('python', 'unknown')}",
                *(f"{name} {number}" for name, number in dict(run.provenance.get("versions") or {}).items()),
            ]
        )
        for run in collected.runs.values()
    )
    return [f"{line} ({n} {'run' if n == 1 else 'runs'})" for line, n in sorted(lines.items())]

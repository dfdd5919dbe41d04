"""The report: every table and figure as files, and one page that holds them all."""

from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from invariance import __version__
from invariance.reporting import claims, tables, verdicts
from invariance.reporting.collect import Collected, RunFacts, collect, run_anchor
from invariance.reporting.curves import counts, families, fit_title, words
from invariance.reporting.distances import distances
from invariance.reporting.finetuned import studies
from invariance.reporting.paper_figures import index
from invariance.reporting.sections import (
    Section,
    ShownOverview,
    StudySection,
    distance_section,
    family_section,
    finetuned_section,
    overview_sections,
    places,
    slugs_of,
    with_gaps,
)
from invariance.reporting.tables import Table
from invariance.runs.files import atomic_path, write_text
from invariance.runs.rows import COLUMNS, write_rows

PAGE, MANIFEST = "index.html", "files.txt"


def make_report(runs: Path, out: Path, *, data: str | None = None) -> Path:
    """Make the report of all finished runs: `rows.csv`, `tables/`, `figures/` and the page.

    Every file appears whole or not at all, the page last. Files of an earlier report that this one has no more are
    removed. The same runs give the same bytes.

    Args:
        runs: the runs folder.
        out: the report's folder; created if need be.
        data: report on one data set alone.

    Returns:
        The page, `index.html`.

    Raises:
        UserError: if no run is finished, two hold the same number, a file is damaged, or `out` cannot be written.
    """
    collected = collect(runs, data)
    accuracy = tables.accuracy(collected)
    made: dict[str, bytes] = accuracy.files() if accuracy else {}
    ranges = tables.transformations()
    made.update(ranges.files())
    sections = []
    measured = families(collected)
    slugs = slugs_of(measured)
    shown_overviews, files = overview_sections(measured, slugs)
    made.update(files)
    for family, slug in zip(measured, slugs, strict=True):
        section, files = family_section(collected, family, slug)
        sections.append(section)
        made.update(files)
    apart, compared, finetuned = [], [], []
    for found in distances(collected):
        shown, files = distance_section(found)
        apart.append(shown)
        compared.append((found, shown.anchor))
        made.update(files)
    for study in with_gaps(collected, studies(collected)):
        shown, files = finetuned_section(study)
        apart.append(shown)
        finetuned.append((study, shown.anchor))
        made.update(files)
    said = claims.claims([(section.family, section.anchor) for section in sections], compared, finetuned)
    told = verdicts.summary(said, sorted(set(collected.rows["data"])))
    details = verdicts.details(said)
    for table in (told, *([details] if details else [])):
        made.update(table.files())
    page = _page(collected, (accuracy, ranges, told, details), sections, apart, shown_overviews, _beside(runs, out))
    write_rows(out / "rows.csv", collected.rows[COLUMNS])
    for name, content in made.items():
        with atomic_path(out / name) as temporary:
            temporary.write_bytes(content)
    _remove_stale(out, set(made))
    write_text(out / PAGE, page)
    return out / PAGE


def _page(
    collected: Collected, whole: tuple[Table | None, Table, Table, Table | None], sections: list[Section],
    apart: list[StudySection], overviewed: list[ShownOverview], folder: str,
) -> str:
    accuracy, ranges, told, details = whole
    source = package_files("invariance.reporting").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["words"] = words
    overview_of: dict[str, list[ShownOverview]] = {}
    for shown in overviewed:
        overview_of.setdefault(shown.overview.section, []).append(shown)
    by_data: dict[str, list[Section]] = {}
    for section in sections:
        by_data.setdefault(section.family.data, []).append(section)
    return (
        environment.from_string(source).render(
            overview=_overview(collected),
            accuracy=accuracy,
            claims=told,
            claims_details=details,
            transformations=ranges,
            by_data=by_data,
            overview_of=overview_of,
            entries=index(places(overviewed, sections, apart, accuracy)),
            apart=apart,
            notes=_notes(collected),
            unfinished=collected.unfinished,
            provenance=[_made_by(run, folder) for run in collected.runs.values()],
            versions=_versions(collected),
            version=__version__,
            table=lambda table: Markup(table.html()),
        )
        + "\n"
    )


def _overview(collected: Collected) -> list[tuple[str, str]]:
    """What was measured, as terms and their values, one group a data set."""
    facts: list[tuple[str, str]] = []
    for data, rows in collected.rows.groupby("data", sort=True):
        trained, measured = (rows[rows["stage"] == stage] for stage in ("train", "measure"))
        networks = sorted(set(zip(rows["network"], rows["seed"], strict=True)))
        images = ", ".join(
            f"{counts(n for n in part['n_images'] if n > 0)} of {split}"
            for split, part in rows.groupby("split", sort=True)
            if (part["n_images"] > 0).any()
        )
        parts = [
            f"{len(networks)} networks ({len(trained['run'].unique())} with an accuracy, "
            f"{measured[['network', 'seed']].drop_duplicates().shape[0]} measured)",
            f"images: {images}",
        ]
        if len(measured):
            fits = measured.loc[measured["map"] != "identity", ["map", "solver"]].drop_duplicates()
            said = ", ".join(fit_title(fit) for fit in sorted(fits.itertuples(index=False, name=None)))
            parts.append(f"{measured['g'].nunique()} transformations g")
            parts.append(f"fitted maps: {said or 'none'}")
        facts.append((str(data), "; ".join(parts)))
    return facts


@dataclass(frozen=True)
class _Notes:
    """What is to be known of a data set beside its numbers: remarks, and the images that could not be read."""

    remarks: list[str]
    skipped: list[str]


def _notes(collected: Collected) -> dict[str, _Notes]:
    """The notes of every data set that has any, as its runs recorded them."""
    found: dict[str, _Notes] = {}
    for data, rows in collected.rows.groupby("data", sort=True):
        runs = [collected.runs[name].provenance for name in sorted(set(rows["run"]))]
        remarks, skipped = (
            list(dict.fromkeys(str(line) for run in runs for line in run.get(key) or ()))
            for key in ("remarks", "skipped")
        )
        if remarks or skipped:
            found[str(data)] = _Notes(remarks, skipped)
    return found


def _beside(runs: Path, out: Path) -> str:
    """The runs folder as the report's page links to it: only where both lie in one folder, as they move together."""
    here, there = out.resolve(), runs.resolve()
    return f"../{quote(there.name)}" if here.parent == there.parent and here != there else ""


def _made_by(run: RunFacts, folder: str) -> dict[str, str]:
    """A run's provenance in the words of the page; `folder` is where the page finds the runs, or empty."""
    held = run.provenance
    seen = held.get("wandb")
    url = str(seen.get("url") or "") if isinstance(seen, dict) else ""
    commit = str(held.get("commit") or "unknown")[:12]
    return {
        "run": run.name,
        "anchor": run_anchor(run.name),
        "folder": f"{folder}/{quote(run.name)}/" if folder else "",
        "wandb": url if url.startswith(("https://", "http://")) else "",
        "commit": f"{commit}, with changes" if held.get("dirty") else commit,
        "started": str(held.get("started") or "unknown"),
        "device": str(held.get("device") or "unknown"),
    }


def _versions(collected: Collected) -> list[str]:
    """The versions that made the runs: one line for every combination there is."""
    lines = pd.Series(
        [
            ", ".join(
                [
                    f"Python {run.provenance.get('python', 'unknown')}",
                    *(f"{name} {number}" for name, number in dict(run.provenance.get("versions") or {}).items()),
                ]
            )
            for run in collected.runs.values()
        ]
    )
    return [f"{line} ({n} {'run' if n == 1 else 'runs'})" for line, n in lines.groupby(lines, sort=True).size().items()]


def _remove_stale(out: Path, made: set[str]) -> None:
    """Remove what an earlier report wrote and this one did not; only what its own list names is ever removed."""
    manifest = out / MANIFEST
    before = manifest.read_text(encoding="utf-8").splitlines() if manifest.exists() else []
    for name in before:
        path = PurePosixPath(name)
        if name not in made and path.parts[:1] in (("figures",), ("tables",)) and ".." not in path.parts:
            (out / name).unlink(missing_ok=True)
    write_text(manifest, "".join(f"{name}\n" for name in sorted(made)))

"""The paper's Tables 2 and 4: accuracies before and after finetuning, with what is printed beside ours."""

import math
from collections.abc import Sequence

import pandas as pd

from invariance.reporting import finetuned_figures, finetuned_tables
from invariance.reporting.figure import Figure
from invariance.reporting.finetuned import LEARNED, FinetunedNetworks, Finetuning, Spread, way
from invariance.reporting.paper import printed
from invariance.reporting.paper.figures import Place, command
from invariance.reporting.paper.printed import PrintedAccuracy
from invariance.reporting.rows import Collected
from invariance.reporting.table import GAP, Cell, Table
from invariance.transforms.base import UNTOUCHED


def tables(study: FinetunedNetworks, slug: str) -> list[tuple[str, Table]]:
    """What there are numbers for, with their names: the change over G, the accuracies of every finetuning, L_L2.

    On the paper's data one table of accuracies, of its λ3, has all the networks of its Table 2 or 4.
    """
    names = list(dict.fromkeys(name for name, _, _ in study.groups())) if study.has("accuracy") else []
    papers, lacking = absent(study)
    made = [("Changes over G", finetuned_tables.changes(study, slug))] if study.has("accuracy") else []
    for name in names:
        table = accuracies(study, name, slug, lacking if name == papers else ())
        of = table.caption.partition(":")[0]
        made.append((f"{of}: accuracies before and after, {name}", table))
    if lacking and papers not in names:
        of = printed.finetuned_table(study.data)
        made.append((f"{of}: accuracies before and after, as printed", accuracies(study, papers, slug, lacking)))
    return made + (
        [("Distances L_L2 before and after", finetuned_tables.distances(study, slug))]
        if study.has("l2_distance")
        else []
    )


def drawings(study: FinetunedNetworks, slug: str) -> list[Figure]:
    """Every figure of finetunings, with the paper's λ3 along the grid; see `finetuned_figures.drawings`."""
    return finetuned_figures.drawings(study, slug, printed.LAMBDA_3, "the paper's")


def accuracies(study: FinetunedNetworks, name: str, slug: str, lacking: Sequence[str] = ()) -> Table:
    """Accuracy untouched and under every g of G, before and after, as in Tables 2 and 4, for one name of finetuning.

    Args:
        study: what was finetuned.
        name: the name; one that no finetuning has gives a table of `lacking` alone.
        slug: beginning of the file's name.
        lacking: networks of the paper's table that were not finetuned, which have its numbers beside gaps.
    """
    groups = [(network, ones) for of, network, ones in study.groups() if of == name]
    paper = bool(lacking) or any(printed.finetuned(study.data, network) for network, _ in groups)
    of = printed.finetuned_table(study.data)
    header = ["network and g", "seeds", *([f"{of}, original", f"{of}, finetuned"] if paper else [])]
    header += [f"{when}, {way(fit)}" for fit in study.fits for when in ("original", "finetuned")]
    header.append(f"finetuned, {way(LEARNED)}")
    lines = [line for network, ones in groups for line in _lines(study, network, ones, paper)]
    lines += [_unmeasured(network, one) for network in lacking for one in printed.finetuned(study.data, network)]
    same = paper and all(one.lambda3 == printed.LAMBDA_3 for _, ones in groups for one in ones)
    caption = f"{of if same else 'Form of Tables 2 and 4'}: {_caption(study, name if groups else '')}"
    return Table.of(f"{slug}-accuracies-{name}", caption, header, lines)


def _lines(study: FinetunedNetworks, network: str, ones: list[Finetuning], paper: bool) -> list[list[Cell]]:
    """The lines of a network: untouched, every g of G, and what the paper prints without its parameters."""
    printed_at = {one.label: one for one in printed.finetuned(study.data, network) if one.label}
    ways = [*((fit, after) for fit in study.fits for after in (False, True)), (LEARNED, True)]
    lines = []
    for label in (UNTOUCHED, *ones[0].labels):
        line = [
            Cell(f"{network}: {label}", {"network": network, "g": label, "seeds": len(ones)}),
            Cell(str(len(ones)), runs=tuple(one.run for one in ones)),
            *(_printed(printed_at.get(label)) if paper else ()),
        ]
        for fit, after in ways:
            numbers = pd.concat([study.at(one, after, fit, (label,)) for one in ones])
            accuracy = numbers["accuracy"]
            if label == UNTOUCHED and fit == LEARNED:  # there is no M_g of the untouched
                accuracy = accuracy * math.nan
            values = Spread.of(accuracy)
            line.append(Cell(values.told(), values.columns(after, fit), tuple(numbers["run"].dropna())))
        lines.append(line)
    return lines + [_unmeasured(network, one) for one in printed.finetuned(study.data, network) if not one.label]


def _unmeasured(network: str, one: PrintedAccuracy) -> list[Cell]:
    """A line of the paper's table that we have no number for."""
    g = one.label or one.what
    return [Cell(f"{network}: {g}", {"network": network, "g": g, "seeds": 0}), Cell(GAP), *_printed(one)]


def _printed(one: PrintedAccuracy | None) -> list[Cell]:
    """What the paper prints before and after."""
    values = (one.original, one.finetuned) if one else (math.nan, math.nan)
    named = zip(("paper_original", "paper_finetuned"), values, strict=True)
    return [Cell(GAP if math.isnan(value) else f"{value:.2f}", {key: value}) for key, value in named]


def _caption(study: FinetunedNetworks, name: str) -> str:
    if not name:
        return (
            f"accuracy in percent on {study.data} before and after finetuning with the joint loss, as it is printed. "
            f"{GAP}: not measured."
        )
    return (
        f"accuracy in percent on {study.images:,} images of {study.data} ({study.split}) before and after finetuning "
        f"({name}), φ at {study.layer}: mean ± standard deviation over seeds. M_g: fitted before and after alike; "
        f"learned M_g: the maps that were finetuned with the network. {GAP}: not measured, or diverged for a seed."
    )


def absent(study: FinetunedNetworks) -> tuple[str, list[str]]:
    """The finetuning that is the paper's Table 2 or 4 or nearest to it, and that table's networks that it lacks.

    It is the one of the paper's λ3 that has the most of its networks; `printed`, and all of them, where none has any.
    """
    wanted = printed.finetuned_networks(study.data)
    held: dict[str, set[str]] = {}
    for one in study.all if study.has("accuracy") else ():
        if one.lambda3 == printed.LAMBDA_3 and one.network in wanted:
            held.setdefault(one.name, set()).add(one.network)
    if not held:
        return "printed", wanted
    name = max(held, key=lambda name: len(held[name]))
    return name, [network for network in wanted if network not in held[name]]


def gaps(study: FinetunedNetworks) -> list[str]:
    """What the tables lack, in words."""
    of, (_, lacking) = printed.finetuned_table(study.data), absent(study)
    named = f"{of}: not finetuned: {', '.join(lacking)} ({command('finetuned', study.data)})"
    return [*([named] if lacking else []), *finetuned_tables.gaps(study)]


def with_gaps(collected: Collected, found: list[FinetunedNetworks]) -> list[FinetunedNetworks]:
    """Studies of finetuning, and empty ones for the paper's data sets without: Tables 2 and 4 are gaps there."""
    lacking = set(collected.rows["data"]) - {study.data for study in found}
    return [*found, *(FinetunedNetworks(data) for data in sorted(lacking) if printed.finetuned_networks(data))]


def place_of(study: FinetunedNetworks, slug: str) -> Place | None:
    """Where the page has Table 2 or 4, or its form; how much of it there is, where the data are the paper's."""
    if not study.has("accuracy"):
        return None
    wanted, (_, lacking) = printed.finetuned_networks(study.data), absent(study)
    there = f"{len(wanted) - len(lacking)} of its {len(wanted)} networks" if wanted else ""
    return Place("finetuned", study.data, slug, there, whole=not lacking)
